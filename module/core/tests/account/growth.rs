//! An index whose next level is there late grows by packets that add no flow.

use trafstat_core::classify::{Direction, FlowKey};
use trafstat_core::flow_table::{Budgets, FlowTable, Observation};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::StdMemory;
use trafstat_core::wire::Volume;

const KEY: HashKey = HashKey([11, 22, 33, 44, 55, 66]);
const FOLDED: FlowKey<2> = FlowKey([1, 1]);

/// Flows that crowd the largest index which the packet path itself allocates.
const CROWD: u64 = 3_400;

type Table = FlowTable<StdMemory, 2>;

fn count(table: &Table, budgets: &Budgets<StdMemory>, flows: impl Iterator<Item = u64>) {
    for flow in flows {
        let key = FlowKey([flow, 2]);
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

/// Index entries that searching for all these flows looks at.
fn looked_at(table: &Table, flows: impl Iterator<Item = u64>) -> usize {
    flows
        .map(|flow| table.probe_len(KEY.hash(&FlowKey([flow, 2])), &()))
        .sum()
}

fn budgets(flows: u32) -> Budgets<StdMemory> {
    let budgets = Budgets::new(());
    budgets.flows.set(flows);
    budgets.folds.set(100);
    budgets
}

#[test]
fn packets_of_known_flows_let_the_index_grow() {
    let (table, budgets) = (Table::default(), budgets(10_000));
    count(&table, &budgets, 0..CROWD);
    let crowded = looked_at(&table, 0..CROWD);
    assert!(table.prepare(0, ()));
    count(&table, &budgets, 0..CROWD);
    let grown = looked_at(&table, 0..CROWD);
    assert!(grown * 2 < crowded, "{grown} entries, before {crowded}");
    assert!(table.prepare(0, ()), "the old level goes");
    count(&table, &budgets, 0..CROWD);
    assert_eq!(
        u64::from(table.len()),
        CROWD,
        "each flow was found where it went"
    );
    assert_eq!(looked_at(&table, 0..CROWD), grown);
}

#[test]
fn folded_packets_let_the_index_grow() {
    let (table, budgets) = (Table::default(), budgets(CROWD as u32));
    count(&table, &budgets, 0..CROWD);
    let crowded = looked_at(&table, 0..10_000);
    assert!(table.prepare(0, ()));
    count(&table, &budgets, 10_000..10_600);
    assert_eq!(table.totals.folded.load().packets, 600);
    let grown = looked_at(&table, 0..10_000);
    assert!(grown * 2 < crowded, "{grown} entries, before {crowded}");
    count(&table, &budgets, 0..CROWD);
    assert_eq!(
        u64::from(table.len()),
        CROWD + 1,
        "the flows and the folded one"
    );
}
