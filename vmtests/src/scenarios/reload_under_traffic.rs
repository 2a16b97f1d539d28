//! Rules and module come and go while packets pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT};
use crate::topology::Topology;
use crate::traffic::{EchoServer, HttpServer};

const RELOADS: usize = 10;

/// Traffic that is not seen for so long is not there.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(guest: &Guest) -> Result<()> {
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let http = HttpServer::listen(&topology, 80)?;
    let echo = EchoServer::bind(&topology, 5000)?;
    let stop = AtomicBool::new(false);
    let rounds: [&(dyn Fn() -> Result<()> + Sync); 2] =
        [&|| http.download(&topology, 500_000).map(drop), &|| {
            echo.exchange(&topology, 50, 200).map(drop)
        }];
    thread::scope(|scope| {
        let stop = &stop;
        let traffic = rounds.map(|round| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    round()?;
                }
                anyhow::Ok(())
            })
        });
        let reloaded = (0..RELOADS).try_for_each(|_| {
            module::load(guest)?;
            iptables.count_local(ALL_PORTS)?;
            wait_for_packets(&topology)?;
            iptables.flush()?;
            module::unload()
        });
        stop.store(true, Ordering::Relaxed);
        for kind in traffic {
            kind.join()
                .map_err(|_| anyhow!("a traffic thread panicked"))??;
        }
        reloaded
    })
}

fn wait_for_packets(topology: &Topology) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let account = proc::account(&topology.local, ACCOUNT)?.context("no account")?;
        if proc::number(&account, "seen_packets")? > 100 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no packet is counted: {account:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}
