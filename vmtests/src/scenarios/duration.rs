// SPDX-License-Identifier: GPL-2.0-or-later
//! An epoch's duration is that of a clock which nobody sets, whatever becomes of the wall clock.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::module;
use crate::proc::{ACCOUNT, Snapshot};
use crate::process;
use crate::topology::Topology;
use crate::traffic;

const STEP: Duration = Duration::from_secs(3600);

/// What the two clocks of an epoch may differ by where none is set, and what `date` takes.
const SLACK: Duration = Duration::from_secs(5);

/// The clock that counts from boot, sleep included, before and after a moment.
type Moment = [Duration; 2];

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, Family::Ipv4);
    let (opened, ()) = moment_of(|| iptables.count_local(""))?;
    traffic::ping(&topology, 3)?;
    let opened = lasts(&topology, opened, 0.0)?;
    let ahead = Ahead::new()?;
    let opened = lasts(&topology, opened, STEP.as_secs_f64())?;
    drop(ahead);
    let opened = lasts(&topology, opened, -STEP.as_secs_f64())?;
    lasts(&topology, opened, 0.0).map(drop)
}

/// Closes the epoch that was opened at `opened`, since when the wall clock was set by `step`
/// seconds; returns when the next one was opened.
fn lasts(topology: &Topology, opened: Moment, step: f64) -> Result<Moment> {
    let (closed, snapshot) = moment_of(|| Snapshot::collect(&topology.local, ACCOUNT))?;
    let h = snapshot.header;
    let (least, most) = (closed[0] - opened[1], closed[1] - opened[0]);
    let found = Duration::from_nanos(h.duration_ns);
    ensure!(
        (least..=most).contains(&found),
        "an epoch of {least:?} to {most:?} says that it took {found:?}; the clock was set by {step} s"
    );
    let by_wall_clock = (h.closed_ns as f64 - h.opened_ns as f64) / 1e9;
    let expected = found.as_secs_f64() + step;
    ensure!(
        (by_wall_clock - expected).abs() < SLACK.as_secs_f64(),
        "by the wall clock it took {by_wall_clock} s, not {expected} s"
    );
    Ok(closed)
}

fn moment_of<T>(act: impl FnOnce() -> Result<T>) -> Result<(Moment, T)> {
    let before = since_boot()?;
    let result = act()?;
    Ok(([before, since_boot()?], result))
}

fn since_boot() -> Result<Duration> {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).context("before boot")?;
    Ok(Duration::new(seconds, u32::try_from(now.tv_nsec)?))
}

/// The wall clock is ahead, for as long as this lives.
struct Ahead;

impl Ahead {
    fn new() -> Result<Self> {
        set_wall_clock(since_epoch()? + STEP)?;
        Ok(Self)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let back = since_epoch().and_then(|now| set_wall_clock(now - STEP));
        if let Err(error) = back {
            eprintln!("the wall clock stays ahead: {error:#}");
        }
    }
}

fn since_epoch() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn set_wall_clock(then: Duration) -> Result<()> {
    let mut date = Command::new("date");
    date.args(["--set", &format!("@{:.3}", then.as_secs_f64())]);
    process::succeed(&mut date).map(drop)
}
