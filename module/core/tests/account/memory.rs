// SPDX-License-Identifier: GPL-2.0-or-later
//! What memory flows take that several CPUs see.

use trafstat_core::account::Limits;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{account, count, flows, header, rule};

const FLOWS: u32 = 1_000_000;
const CPUS: u32 = 4;
/// Of each flow on each CPU that sees it, index and what is prepared ahead included.
const BYTES: u64 = 96;

#[test]
#[cfg_attr(miri, ignore = "a million flows")]
fn flows_take_as_much_again_on_each_cpu_that_sees_them() {
    let limits = Limits {
        max_entries: (CPUS + 1) * FLOWS,
        min_pkt_spoof: 0,
    };
    let account = account(limits, CPUS);
    let rule = rule(Sampling::default(), ()).expect("memory");
    for flow in flows(FLOWS) {
        let bytes = header(&flow, false, false);
        for cpu in 0..CPUS {
            if count(&account, &rule, cpu, &bytes, 40) {
                account.prepare(&());
            }
        }
    }
    let taken = account.stats(&()).memory_bytes;
    let per_flow = taken as f64 / f64::from(FLOWS);
    println!("{per_flow:.1} bytes a flow on {CPUS} CPUs");
    assert!(
        taken <= BYTES * u64::from(CPUS) * u64::from(FLOWS),
        "{per_flow:.1} bytes a flow"
    );
}
