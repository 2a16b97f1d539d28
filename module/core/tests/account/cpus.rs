// SPDX-License-Identifier: GPL-2.0-or-later
//! CPUs whose ids have holes between them.

use trafstat_core::account::Limits;
use trafstat_core::hash::HashKey;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{Ipv4Account, account_on, flows, header, packet, rule};

use crate::support::Snapshot;

#[test]
fn cpu_ids_with_holes_are_served_like_others() {
    const PRESENT: [u32; 4] = [1, 4, 5, 9];
    let limits = Limits {
        max_entries: 1000,
        min_pkt_spoof: 2,
    };
    let account: Ipv4Account = account_on(limits, HashKey([7, 8, 9, 10, 11, 12]), (), 12, |cpu| {
        PRESENT.contains(&cpu)
    });
    let rule = rule(Sampling::default(), ()).expect("memory");
    for epoch in 1..4_u64 {
        for (cpu, received) in PRESENT.iter().zip(1_u32..) {
            for flow in flows(50 * received) {
                let bytes = header(&flow, false, false);
                let asked = account.count(&rule, *cpu, packet(&bytes, 100), &());
                if asked.expect("enough bytes") {
                    assert!(account.prepare(&()));
                }
            }
        }
        let snapshot = Snapshot::close_and_read(&account);
        snapshot.assert_conserved();
        assert_eq!(snapshot.header.seen_packets, 50 + 100 + 150 + 200);
        assert_eq!(snapshot.header.folded_packets, 0);
        // Flows of the last 50 came on one CPU, once: they lose their remote side.
        let whole = snapshot.records.iter().filter(|r| r.remote_ip != [0; 4]);
        assert_eq!(whole.count(), 150);
        account.acknowledge(epoch, &()).expect("this epoch");
    }
}
