// SPDX-License-Identifier: GPL-2.0-or-later
//! Guests side by side, as many at a time as this host has processors and memory for.

use std::fs;
use std::sync::Mutex;
use std::thread;

/// The most that a guest takes, in KiB.
const GUEST_KIB: u64 = 2 << 20;

/// Does `job` with each item of `work`, the first ones first; returns what came of them, in the
/// order of `work`.
pub fn run<T: Send, R: Send>(work: Vec<T>, job: impl Fn(T) -> R + Sync) -> Vec<R> {
    let lanes = count().min(work.len());
    let waiting = Mutex::new(work.into_iter().enumerate());
    // Unlocked again before the job begins.
    let next = || waiting.lock().ok()?.next();
    let lane = || {
        let mut done = Vec::new();
        while let Some((at, item)) = next() {
            done.push((at, job(item)));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes
            .into_iter()
            .flat_map(|lane| match lane.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn count() -> usize {
    let processors = thread::available_parallelism().map_or(1, Into::into);
    let available = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_kib(&text))
        .unwrap_or(0);
    let room = usize::try_from(available / GUEST_KIB).unwrap_or(usize::MAX);
    processors.min(room).max(1)
}

/// Of the lines of `/proc/meminfo`: `MemAvailable:   23880712 kB`.
fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_work() {
        let squares = run((0..100).collect(), |number: u32| number * number);
        assert_eq!(
            squares,
            (0..100).map(|number| number * number).collect::<Vec<_>>()
        );
        assert!(run(Vec::new(), |(): ()| ()).is_empty());
    }

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       24000000 kB\nMemAvailable:   23880712 kB\n";
        assert_eq!(available_kib(meminfo), Some(23_880_712));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
