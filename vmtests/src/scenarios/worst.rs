// SPDX-License-Identifier: GPL-2.0-or-later
//! No packet costs much more than others: not while an account grows to a million flows, nor while
//! an epoch of so many closes and is read; and reading a record is cheaper than printing it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::checkers::Checkers;
use crate::guest::{Guest, Skipped};
use crate::module;

const PARAMETER: &str = "/sys/module/xt_TRAFSTAT/parameters/worst";
const FLOWS: u64 = 1_000_000;

/// Two epochs of them fit, however little memory the guest has.
const MAX_MEMORY: &str = "max_memory=500000000";

/// The most instructions of a packet that finds its flow, and of one that may have to ask for memory
/// and empty it, as docs/PERFORMANCE.md says.
const KNOWN: u64 = 2_000;
const NEW: u64 = 100_000;

/// In which ways packets are counted.
const WAYS: [(&str, u64); 6] = [
    ("growing", NEW),
    ("alone", NEW),
    ("known", KNOWN),
    ("closed", NEW),
    ("while read", KNOWN),
    ("acknowledged", KNOWN),
];

/// Of a flow, with its part of the index and of what is prepared ahead, at a million flows.
const BYTES_PER_FLOW: u64 = 96;
/// How many times the instructions of a record in a snapshot its text takes at least.
const PRINTED: u64 = 5;

/// Needs a clock that counts instructions.
pub fn run(guest: &Guest) -> Result<()> {
    if Checkers::find()?.is_some() {
        return Err(Skipped("what checkers take is counted with it").into());
    }
    module::load_with_tests(guest, &[MAX_MEMORY])?;
    fs::write(PARAMETER, FLOWS.to_string()).context("the module refuses to count")?;
    let shown = fs::read_to_string(PARAMETER)?;
    print!("{shown}");
    let lines: BTreeMap<&str, Vec<u64>> = shown
        .lines()
        .map(|line| {
            let (name, numbers) = line.split_once(": ")?;
            let numbers: Result<_, _> = numbers.split(' ').map(str::parse).collect();
            Some((name, numbers.ok()?))
        })
        .collect::<Option<_>>()
        .with_context(|| format!("the module says {shown}"))?;
    let of = |name: &str| {
        lines
            .get(name)
            .with_context(|| format!("no {name}: {shown}"))
    };
    for (way, bound) in WAYS {
        let [packets, mean, most] = of(way)?[..] else {
            bail!("not three numbers: {shown}");
        };
        ensure!(packets > 0 && mean > 0, "{way}: nothing was measured");
        ensure!(
            most <= bound,
            "{way}: a packet took {most} instructions, more than {bound}"
        );
    }
    let (read, printed) = (of("read")?[0], of("printed")?[0]);
    ensure!(
        read > 0 && printed >= PRINTED * read,
        "a record takes {read} instructions, printed {printed}"
    );
    let [full, _, given_up] = of("memory")?[..] else {
        bail!("not three numbers: {shown}");
    };
    for bytes in [full, given_up] {
        ensure!(
            bytes > 0 && bytes <= BYTES_PER_FLOW * FLOWS,
            "{FLOWS} flows take {bytes} bytes"
        );
    }
    Ok(())
}
