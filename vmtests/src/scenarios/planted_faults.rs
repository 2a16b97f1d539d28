// SPDX-License-Identifier: GPL-2.0-or-later
//! The checkers see both halves of the module: an access out of bounds in either is reported.
//!
//! The last scenario: after such a report a kernel no longer trusts its own lockdep.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::checkers::Checkers;
use crate::guest::{Guest, Skipped};
use crate::kernel_log::KernelLog;
use crate::module;

const FAULT: &str = "/sys/module/xt_TRAFSTAT/parameters/planted_fault";

/// What is written to commit a fault, and the function that reads where it must not: one of the
/// glue, and core's `parse::ipv6::walk`, whose mangled name has this in it.
const FAULTS: [(&str, &str); 2] = [
    ("glue", "trafstat_read_past_end"),
    ("core", "13trafstat_core5parse4ipv64walk"),
];

pub fn run(guest: &Guest) -> Result<()> {
    if Checkers::find()?.is_none() {
        return Err(Skipped("this kernel has no KASAN").into());
    }
    module::load_with_tests(guest, &[])?;
    for (fault, function) in FAULTS {
        let log = KernelLog::from_now()?;
        fs::write(FAULT, fault).with_context(|| format!("cannot commit the fault in {fault}"))?;
        let said = log.lines()?;
        ensure!(
            said.iter().any(|line| {
                line.contains("BUG: KASAN: slab-out-of-bounds in ") && line.contains(function)
            }),
            "no report of the fault in {fault} by {function}:\n{}",
            said.join("\n")
        );
    }
    Ok(())
}
