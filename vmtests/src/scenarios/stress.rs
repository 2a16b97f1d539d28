// SPDX-License-Identifier: GPL-2.0-or-later
//! Everything at once: packets, epochs, rules, namespaces, CPUs and the module come and go.
//!
//! On a kernel with checkers this goes on for ten minutes, and some of the module's allocations
//! fail. Whatever does not come about then is tried again; nothing that was counted is lost. Rules
//! that stay for a whole round prove it: their counters are what their account saw.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::io::Errno;

use crate::checkers::{Checkers, Faults};
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables, RuleCounters};
use crate::module;
use crate::proc::{self, AccountKey, Snapshot};
use crate::topology::{Netns, Topology};
use crate::traffic::{self, EchoServer, HttpServer};

/// How long it all goes on, without and with checkers.
const DURATION: Duration = Duration::from_secs(30);
const CHECKED_DURATION: Duration = Duration::from_secs(600);

/// From one load of the module to the next.
const ROUND: Duration = Duration::from_secs(5);
const CHECKED_ROUND: Duration = Duration::from_secs(40);

/// Of the allocations that the module is on the stack of.
const FAILING_PERCENT: u32 = 5;

/// What fails so often in a row does not fail for want of memory.
const ATTEMPTS: usize = 200;

/// How a failed allocation shows, the second where the kernel finds no page for the buffer of who
/// reads: that is below the module on the stack, too.
const FAILED_ALLOCATION: [Errno; 2] = [Errno::NOMEM, Errno::FAULT];

/// How many different rules come and go.
const RELOADED_RULES: [&str; 4] = [
    "--local-tcp-ports all --local-udp-ports 5000:5010 --max-entries 1",
    "--local-tcp-ports 80,443 --remote-udp-ports all --sample-udp-any 3",
    "--remote-tcp-ports all --sample-tcp-syn 2 --sample-tcp-any 5 --min-pkt-spoof 2",
    "--local-udp-ports all --remote-udp-ports all --max-entries 2",
];

pub fn run(guest: &Guest) -> Result<()> {
    let checkers = Checkers::find()?;
    let (duration, round) = match checkers {
        Some(_) => (CHECKED_DURATION, CHECKED_ROUND),
        None => (DURATION, ROUND),
    };
    if let Some(checkers) = &checkers {
        checkers.lockdep_is_on()?;
        checkers.forget_leaks()?;
    }
    let injected = {
        let stress = Stress {
            guest,
            topology: &Topology::new(Family::Ipv4)?,
            backends: Backend::all()?,
            checkers: checkers.as_ref(),
            gate: RwLock::default(),
        };
        stress.run(Instant::now() + duration, round)?
    };
    let Some(checkers) = checkers else {
        return Ok(());
    };
    println!(
        "allocations that failed: {} of slabs, {} of pages",
        injected[0], injected[1]
    );
    ensure!(
        injected.iter().all(|count| *count > 0),
        "no allocation failed"
    );

    // The namespaces are gone, and with them everything but the module itself.
    module::wait_until_unused()?;
    nothing_is_lost(&checkers).context("before the module is unloaded")?;
    module::unload()?;
    nothing_is_lost(&checkers).context("after the module was unloaded")?;
    checkers.lockdep_is_on()
}

fn nothing_is_lost(checkers: &Checkers) -> Result<()> {
    let leaks = checkers.leaks()?;
    ensure!(leaks.is_empty(), "memory is lost:\n{leaks}");
    Ok(())
}

struct Stress<'a> {
    guest: &'a Guest,
    topology: &'a Topology,
    backends: &'static [Backend],
    checkers: Option<&'a Checkers>,
    /// Who makes traffic holds it shared; who holds it alone has silence.
    gate: RwLock<()>,
}

/// A thread that does something over and over until it is told to stop.
type Loop<'scope> = ScopedJoinHandle<'scope, Result<()>>;

impl Stress<'_> {
    /// Returns how many allocations failed, by kind.
    fn run(&self, deadline: Instant, round: Duration) -> Result<[u64; 2]> {
        let stop = AtomicBool::new(false);
        let http = HttpServer::listen(self.topology, 80)?;
        let echo = EchoServer::bind(self.topology, 5000)?;
        let port = AtomicU64::new(0);
        let traffic: [&(dyn Fn() -> Result<()> + Sync); 5] = [
            &|| http.download(self.topology, 300_000).map(drop),
            &|| echo.exchange(self.topology, 20, 200).map(drop),
            &|| traffic::ping(self.topology, 5).map(drop),
            &|| traffic::refused_connection(self.topology, 81),
            // Flows that were never there before: the tables grow.
            &|| {
                let first = 10_000 + port.fetch_add(1, Relaxed) % 100 * 500;
                traffic::scan(self.topology, first as u16, 500)
            },
        ];
        thread::scope(|scope| {
            let mut loops: Vec<_> = traffic
                .into_iter()
                .map(|kind| {
                    repeat(scope, &stop, move || {
                        let _pass = self.gate.read();
                        kind()
                    })
                })
                .collect();
            loops.push(repeat(scope, &stop, cpu_goes_and_comes));
            loops.push(repeat(scope, &stop, || {
                self.namespace("trafstat-empty").map(drop)
            }));
            let rounds = self.rounds(deadline, round);
            stop_all(&stop, loops).and(rounds)
        })
    }

    fn rounds(&self, deadline: Instant, round: Duration) -> Result<[u64; 2]> {
        let mut injected = [0; 2];
        loop {
            module::load(self.guest)?;
            let faults = self
                .checkers
                .map(|checkers| checkers.fail_allocations(FAILING_PERCENT))
                .transpose()?;
            self.round(round)?;
            for (sum, count) in injected.iter_mut().zip(failed(faults)?) {
                *sum += count;
            }
            if Instant::now() >= deadline {
                return Ok(injected);
            }
            module::unload()?;
        }
    }

    /// From the first rule to the last one's end.
    fn round(&self, duration: Duration) -> Result<()> {
        let stop = AtomicBool::new(false);
        let steady: Vec<_> = self
            .backends
            .iter()
            .map(|backend| Steady::new(self, *backend))
            .collect::<Result<_>>()?;
        thread::scope(|scope| {
            let stop = &stop;
            let mut loops = Vec::new();
            for steady in &steady {
                loops.push(repeat(scope, stop, || steady.collect()));
                loops.push(repeat(scope, stop, || steady.look()));
                loops.push(repeat(scope, stop, || self.reload(steady.backend)));
                loops.push(repeat(scope, stop, || self.read_reloaded(steady.backend)));
            }
            loops.push(repeat(scope, stop, || {
                self.unless(proc::accounts(&self.topology.local), &[])
            }));
            loops.push(repeat(scope, stop, || self.namespace_goes_and_comes()));
            let ended = Instant::now() + duration;
            while Instant::now() < ended && !loops.iter().any(|l| l.is_finished()) {
                thread::sleep(Duration::from_millis(100));
            }
            stop_all(stop, loops)
        })?;
        {
            let _silence = self.gate.write();
            for steady in &steady {
                steady.agrees()?;
            }
        }
        for backend in self.backends {
            let rules = self.rules(*backend);
            for table in ["filter", "mangle"] {
                self.insist(&rules, &format!("-t {table} -F"))?;
            }
        }
        Ok(())
    }

    /// Passes unless `result` is an error other than `expected`, or than that an allocation failed.
    ///
    /// Busy is expected always: a program that another thread starts has a copy of the open file
    /// until its exec(2).
    fn unless<T>(&self, result: Result<T>, expected: &[Errno]) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        let is_expected = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .filter_map(Errno::from_io_error)
            .any(|errno| {
                expected.contains(&errno)
                    || errno == Errno::BUSY
                    || self.checkers.is_some() && FAILED_ALLOCATION.contains(&errno)
            });
        if is_expected { Ok(()) } else { Err(error) }
    }

    /// Runs iptables until it exits with 0; more than once only where allocations fail.
    fn insist(&self, rules: &Iptables<'_>, arguments: &str) -> Result<()> {
        let attempts = self.checkers.map_or(1, |_| ATTEMPTS);
        let mut ended = rules.end(arguments)?;
        for _ in 1..attempts {
            if ended.code == Some(0) {
                return Ok(());
            }
            ended = rules.end(arguments)?;
        }
        ensure!(ended.code == Some(0), "{arguments}: {ended:?}");
        Ok(())
    }

    fn rules(&self, backend: Backend) -> Iptables<'_> {
        Iptables::new(self.guest, &self.topology.local, Family::Ipv4).through(backend)
    }

    /// Puts other rules in the place of those that are there.
    fn reload(&self, backend: Backend) -> Result<()> {
        let local = Family::Ipv4.local();
        let name = reloaded_name(backend);
        let mut rules = "*filter\n".to_owned();
        for end in ["INPUT -d", "OUTPUT -s"] {
            let options = RELOADED_RULES[fastrand::usize(..RELOADED_RULES.len())];
            rules += &format!(
                "-A {end} {local} -j TRAFSTAT --local-net {local} {options} --name {name}\n"
            );
        }
        rules += "COMMIT\n";
        // Where it fails, the old rules stay.
        let ended = self.rules(backend).end_restore(&rules)?;
        ensure!(
            ended.code == Some(0) || self.checkers.is_some(),
            "replacing rules: {ended:?}"
        );
        Ok(())
    }

    /// Reads an account whose rules come and go, in whichever form.
    fn read_reloaded(&self, backend: Backend) -> Result<()> {
        let name = reloaded_name(backend);
        let account = AccountKey {
            family: Family::Ipv4,
            name: &name,
        };
        let read = if fastrand::bool() {
            Snapshot::collect(&self.topology.local, account).map(drop)
        } else {
            self.topology.local.enter(|| {
                fs::read_to_string(proc::path("csv", account))?;
                Ok(())
            })
        };
        // An account without rules goes when it was read to its end.
        self.unless(read, &[Errno::NOENT, Errno::NXIO, Errno::IO])
    }

    /// A namespace; none where the module's part of it finds no memory.
    fn namespace(&self, name: &'static str) -> Result<Option<Netns>> {
        match Netns::new(name) {
            Err(_) if self.checkers.is_some() => Ok(None),
            made => made.map(Some),
        }
    }

    /// Makes a namespace with rules and traffic of its own, and deletes it as it is.
    fn namespace_goes_and_comes(&self) -> Result<()> {
        let Some(netns) = self.namespace("trafstat-coming")? else {
            return Ok(());
        };
        for family in [Family::Ipv4, Family::Ipv6] {
            let (local, program) = match family {
                Family::Ipv4 => ("127.0.0.1", "-4"),
                Family::Ipv6 => ("::1", "-6"),
            };
            for backend in self.backends {
                let rules = Iptables::new(self.guest, &netns, family).through(*backend);
                rules.end(&format!(
                    "-A OUTPUT -j TRAFSTAT --local-net {local} {ALL_PORTS}"
                ))?;
            }
            let mut ping = Command::new("ping");
            netns.end(ping.args([program, "-q", "-c", "3", "-i", "0.02", "-w", "10", local]))?;
        }
        let account = AccountKey {
            family: Family::Ipv4,
            name: "127.0.0.1_32",
        };
        // The reader's file outlives the namespace's name.
        let reader = netns.enter(|| Ok(fs::File::open(proc::path("snapshot", account))));
        drop(netns);
        drop(reader);
        Ok(())
    }
}

fn failed(faults: Option<Faults>) -> Result<[u64; 2]> {
    faults.map_or(Ok([0; 2]), |faults| faults.injected())
}

/// Rules that stay for a round, and what their account had to say.
struct Steady<'a> {
    stress: &'a Stress<'a>,
    backend: Backend,
    name: String,
    seen: Mutex<RuleCounters>,
}

impl<'a> Steady<'a> {
    fn new(stress: &'a Stress<'a>, backend: Backend) -> Result<Self> {
        let name = format!("steady-{backend:?}").to_lowercase();
        let local = Family::Ipv4.local();
        let rules = stress.rules(backend);
        for end in ["INPUT -d", "OUTPUT -s"] {
            // Apart from the rules that are replaced by the whole table.
            let rule = format!(
                "-A {end} {local} -j TRAFSTAT --local-net {local} {ALL_PORTS} --name {name}"
            );
            stress.insist(&rules, &format!("-t mangle {rule}"))?;
        }
        Ok(Self {
            stress,
            backend,
            name,
            seen: Mutex::default(),
        })
    }

    fn account(&self) -> AccountKey<'_> {
        AccountKey {
            family: Family::Ipv4,
            name: &self.name,
        }
    }

    /// Closes an epoch; whether there was memory for that is not said.
    fn collect(&self) -> Result<()> {
        let local = &self.stress.topology.local;
        if fastrand::u8(..8) == 0 {
            // A reader that does not acknowledge.
            return self
                .stress
                .unless(Snapshot::peek(local, self.account()), &[]);
        }
        let collected = Snapshot::collect(local, self.account())
            .map(|snapshot| self.seen().add(snapshot.as_rules_count()));
        self.stress.unless(collected, &[])
    }

    /// Reads the open epoch.
    fn look(&self) -> Result<()> {
        let local = &self.stress.topology.local;
        let live = local.enter(|| Snapshot::live(self.account()));
        self.stress.unless(live, &[Errno::STALE])
    }

    /// That the account saw what the rules counted; no packet is under way.
    fn agrees(&self) -> Result<()> {
        let rules = self.stress.rules(self.backend);
        let counters = || {
            let by_name = rules.counters_by_name()?;
            by_name
                .get(&self.name)
                .copied()
                .with_context(|| format!("no rule of {}", self.name))
        };
        let counted = super::collect_all(counters, || {
            let local = &self.stress.topology.local;
            for _ in 0..ATTEMPTS {
                match Snapshot::collect(local, self.account()) {
                    Ok(snapshot) => {
                        self.seen().add(snapshot.as_rules_count());
                        // One that a reader had left unacknowledged hides what came after it.
                        if snapshot.header.seen_packets == 0 {
                            return Ok(());
                        }
                    }
                    Err(error) => self.stress.unless(Err::<(), _>(error), &[])?,
                }
            }
            bail!("{} never comes to its end", self.name)
        })?;
        let seen = *self.seen();
        ensure!(
            seen == counted,
            "the epochs of {} saw {seen:?}, the rules {counted:?}",
            self.name
        );
        ensure!(counted.packets > 0, "{} saw nothing", self.name);
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, RuleCounters> {
        self.seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn reloaded_name(backend: Backend) -> String {
    format!("reloaded-{backend:?}").to_lowercase()
}

/// The last CPU goes and comes back.
fn cpu_goes_and_comes() -> Result<()> {
    let last = thread::available_parallelism()?.get() - 1;
    let online = PathBuf::from(format!("/sys/devices/system/cpu/cpu{last}/online"));
    let set = |path: &Path, state: &str| {
        fs::write(path, state)
            .with_context(|| format!("cannot write {state} to {}", path.display()))
    };
    set(&online, "0")?;
    thread::sleep(Duration::from_millis(fastrand::u64(50..500)));
    set(&online, "1")?;
    thread::sleep(Duration::from_millis(fastrand::u64(50..1500)));
    Ok(())
}

fn repeat<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    act: impl Fn() -> Result<()> + Send + 'scope,
) -> Loop<'scope> {
    scope.spawn(move || {
        while !stop.load(Relaxed) {
            act()?;
        }
        Ok(())
    })
}

fn stop_all(stop: &AtomicBool, loops: Vec<Loop<'_>>) -> Result<()> {
    stop.store(true, Relaxed);
    let mut result = Ok(());
    for each in loops {
        let ended = each.join().map_err(|_| anyhow!("a thread panicked"));
        result = result.and(ended.and_then(|ended| ended));
    }
    result
}
