// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may read, and how often: one privileged reader at a time, and every epoch until it is acknowledged.

use std::io;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT, Reader, Snapshot};
use crate::topology::Topology;
use crate::traffic::{self, EchoServer};

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;
    EchoServer::bind(&topology, 5000)?.exchange(&topology, 10, 100)?;

    others_read_nothing(&topology)?;
    unacknowledged_epoch_is_served_again(&topology)?;
    topology.local.enter(one_reader_and_one_acknowledgement)?;
    namespaces_see_their_own_accounts(guest, &topology)
}

fn others_read_nothing(topology: &Topology) -> Result<()> {
    for file in [
        "accounts",
        "snapshot/ipv4/192.0.2.1_32",
        "csv/ipv4/192.0.2.1_32",
        "live/ipv4/192.0.2.1_32",
    ] {
        let path = format!("/proc/self/net/trafstat/{file}");
        for user in ["65534", "0"] {
            let mut cat = Command::new("setpriv");
            cat.args(["--reuid", user, "--regid", user, "--clear-groups"]);
            if user == "0" {
                // Root without the one capability that counts.
                cat.args(["--bounding-set", "-net_admin", "--inh-caps", "-all"]);
            }
            let ended = topology.local.end(cat.args(["cat", &path]))?;
            let refused = ended.code == Some(1)
                && ended.stdout.is_empty()
                && (ended.stderr.contains("Permission denied")
                    || ended.stderr.contains("Operation not permitted"));
            // The list of accounts is protected by its mode alone.
            ensure!(
                refused || (user == "0" && file == "accounts"),
                "user {user} reads {file}: {ended:?}"
            );
        }
    }
    Ok(())
}

fn unacknowledged_epoch_is_served_again(topology: &Topology) -> Result<()> {
    let first = Snapshot::peek(&topology.local, ACCOUNT)?;
    traffic::ping(topology, 2)?;
    let second = Snapshot::peek(&topology.local, ACCOUNT)?;
    ensure!(
        first.header.seen_packets > 0 && first.bytes == second.bytes,
        "epoch {} is served otherwise the second time",
        first.header.epoch
    );
    Ok(())
}

fn one_reader_and_one_acknowledgement() -> Result<()> {
    let mut reader = Reader::open(ACCOUNT)?;
    super::fails_with(Reader::open(ACCOUNT), Errno::BUSY, "a second reader")?;
    let epoch = reader.read()?.header.epoch;
    super::fails_with(
        reader.acknowledge(epoch + 1),
        Errno::STALE,
        "another epoch's acknowledgement",
    )?;
    ensure!(
        reader.remaining()? > 0,
        "a wrong acknowledgement frees the epoch"
    );
    reader.acknowledge(epoch)?;
    ensure!(
        reader.remaining()? == 0,
        "an acknowledged epoch is still served"
    );
    drop(reader);
    let next = Reader::open(ACCOUNT)?.read()?;
    ensure!(
        next.header.epoch == epoch + 1,
        "epoch {} after {epoch}",
        next.header.epoch
    );
    Ok(())
}

fn namespaces_see_their_own_accounts(guest: &Guest, topology: &Topology) -> Result<()> {
    let remote = Iptables::new(guest, &topology.remote, topology.family);
    remote.succeed("-A INPUT -j TRAFSTAT --local-net 192.0.2.2 --name far")?;
    let names = |netns| -> Result<Vec<_>> {
        Ok(proc::accounts(netns)?
            .iter()
            .filter_map(|account| account.get("name").cloned())
            .collect())
    };
    ensure!(
        names(&topology.local)? == [ACCOUNT.name],
        "{:?}",
        names(&topology.local)?
    );
    ensure!(
        names(&topology.remote)? == ["far"],
        "{:?}",
        names(&topology.remote)?
    );
    let elsewhere = topology
        .remote
        .enter(|| Ok(Reader::open(ACCOUNT).map(drop)))?;
    ensure!(
        elsewhere.is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
        "another namespace's account can be opened"
    );
    Ok(())
}
