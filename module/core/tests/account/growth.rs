// SPDX-License-Identifier: GPL-2.0-or-later
//! An index whose next level is there late grows by packets that add no flow.

use std::ops::Range;

use trafstat_core::classify::{Direction, FlowKey};
use trafstat_core::flow_table::{Budgets, FlowTable, Observation};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::{Blank, StdMemory};
use trafstat_core::wire::Volume;

const KEY: HashKey = HashKey([11, 22, 33, 44, 55, 66]);
const FOLDED: FlowKey<2> = FlowKey([1, 1]);

/// Flows that crowd the largest index which the packet path itself allocates.
const CROWD: u64 = 3_900;
/// Flows that are not among them.
const OTHERS: Range<u64> = 10_000..20_000;

type Table = FlowTable<StdMemory, 2>;

/// Numbers that are no sequence, which the hash would spread more evenly than chance.
fn key(flow: u64) -> FlowKey<2> {
    FlowKey([flow * flow, 2])
}

fn count(table: &Table, budgets: &Budgets<StdMemory>, flows: impl Iterator<Item = u64>) {
    for flow in flows {
        let key = key(flow);
        let seen = Observation {
            key,
            hash: KEY.hash(&key),
            direction: Direction::Received,
            volume: Volume {
                packets: 1,
                bytes: 60,
            },
            syn: false,
        };
        table.count(&seen, budgets, &(), |_| (FOLDED, || KEY.hash(&FOLDED)));
    }
}

/// How many of these flows are searched for past their home's two entries.
fn crowded_out(table: &Table, flows: Range<u64>) -> usize {
    let probe_lens = flows.map(|flow| table.probe_len(KEY.hash(&key(flow)), &()));
    probe_lens.filter(|&len| len > 2).count()
}

fn budgets(flows: u32) -> Budgets<StdMemory> {
    let budgets = Budgets::new(());
    budgets.flows.set(flows);
    budgets.folds.set(100);
    budgets
}

#[test]
fn packets_of_known_flows_let_the_index_grow() {
    let (table, budgets) = (Table::BLANK, budgets(10_000));
    count(&table, &budgets, 0..CROWD);
    let crowded = crowded_out(&table, OTHERS);
    assert!(table.prepare(0, ()));
    count(&table, &budgets, 0..CROWD);
    let grown = crowded_out(&table, OTHERS);
    assert!(grown * 2 < crowded, "{grown} flows, before {crowded}");
    assert!(table.prepare(0, ()), "the old level goes");
    count(&table, &budgets, 0..CROWD);
    assert_eq!(
        u64::from(table.len()),
        CROWD,
        "each flow was found where it went"
    );
    assert_eq!(crowded_out(&table, OTHERS), grown);
}

#[test]
fn folded_packets_let_the_index_grow() {
    let (table, budgets) = (Table::BLANK, budgets(CROWD as u32));
    count(&table, &budgets, 0..CROWD);
    let crowded = crowded_out(&table, OTHERS);
    assert!(table.prepare(0, ()));
    count(&table, &budgets, 10_000..10_600);
    assert_eq!(table.totals.folded.load().packets, 600);
    let grown = crowded_out(&table, OTHERS);
    assert!(grown * 2 < crowded, "{grown} flows, before {crowded}");
    count(&table, &budgets, 0..CROWD);
    assert_eq!(
        u64::from(table.len()),
        CROWD + 1,
        "the flows and the folded one"
    );
}
