// SPDX-License-Identifier: GPL-2.0-or-later
//! What finds a flow by its key of two words and counts a packet in it.

use std::cell::Cell;
use std::collections::HashMap;

use intrusive_collections::{KeyAdapter, RBTree, RBTreeLink, intrusive_adapter};
use trafstat_bench::HASH_KEY;
use trafstat_core::classify::{Direction, FlowKey};
use trafstat_core::flow_table::record::Record;
use trafstat_core::flow_table::{Budgets, FlowTable, Observation};
use trafstat_core::memory::{Blank, Memory, StdMemory};
use trafstat_core::wire::Volume;

const VOLUME: Volume = Volume {
    packets: 1,
    bytes: 100,
};

/// Finds flows and counts.
pub trait Contender {
    const NAME: &'static str;

    /// An empty one; where `flows` is not 0, as many are to be found.
    fn new(flows: u32) -> Self;

    /// Counts a packet of 100 bytes that was sent. Gives a word of what was found, so that the
    /// caller can wait for it.
    fn count(&mut self, key: &FlowKey<2>) -> u64;
}

/// The module's flow table; its worker runs as soon as it is asked for.
pub struct Trafstat<M: Memory> {
    table: FlowTable<M, 2>,
    budgets: Budgets<M>,
}

impl<M: Memory<Guard = (), Payer = ()>> Contender for Trafstat<M> {
    const NAME: &'static str = "trafstat";

    fn new(_: u32) -> Self {
        let budgets = Budgets::new(());
        budgets.flows.set(u32::MAX);
        Self {
            table: FlowTable::BLANK,
            budgets,
        }
    }

    fn count(&mut self, key: &FlowKey<2>) -> u64 {
        let hash = HASH_KEY.hash(key);
        match self.table.find_first(key, hash, &()) {
            Some(record) => count_in(record),
            None => {
                self.count_slow(key, hash);
                0
            }
        }
    }
}

fn count_in(record: &Record<2>) -> u64 {
    record.count(Direction::Sent, VOLUME, false);
    record.key().0[0]
}

impl<M: Memory<Guard = (), Payer = ()>> Trafstat<M> {
    /// As the packet path does where the first look was not enough.
    #[inline(never)]
    fn count_slow(&self, key: &FlowKey<2>, hash: u64) {
        let seen = Observation {
            key: *key,
            hash,
            direction: Direction::Sent,
            volume: VOLUME,
            syn: false,
        };
        let fold = |key| (key, || hash);
        let wants_worker = self.table.count(&seen, &self.budgets, &(), fold);
        if wants_worker {
            self.table.prepare(0, ());
        }
    }
}

/// What a map keeps for a flow: the counters that a record has.
type Counters = [u64; 5];

fn count(counters: &mut Counters) -> u64 {
    let [sent_packets, _, sent_bytes, ..] = counters;
    *sent_packets += VOLUME.packets;
    *sent_bytes += VOLUME.bytes;
    *sent_packets
}

/// hashbrown with foldhash.
pub struct HashBrown(hashbrown::HashMap<[u64; 2], Counters, foldhash::fast::RandomState>);

impl Contender for HashBrown {
    const NAME: &'static str = "hashbrown_foldhash";

    fn new(_: u32) -> Self {
        Self(hashbrown::HashMap::default())
    }

    fn count(&mut self, key: &FlowKey<2>) -> u64 {
        count(self.0.entry(key.0).or_default())
    }
}

/// The standard library's map with its own hash, SipHash 1-3.
pub struct StdHashMap(HashMap<[u64; 2], Counters>);

impl Contender for StdHashMap {
    const NAME: &'static str = "std_hash_map";

    fn new(_: u32) -> Self {
        Self(HashMap::new())
    }

    fn count(&mut self, key: &FlowKey<2>) -> u64 {
        count(self.0.entry(key.0).or_default())
    }
}

/// A node of the tree.
struct Flow {
    link: RBTreeLink,
    key: [u64; 2],
    counters: [Cell<u64>; 5],
}

intrusive_adapter!(FlowAdapter = Box<Flow>: Flow { link => RBTreeLink });

impl<'a> KeyAdapter<'a> for FlowAdapter {
    type Key = [u64; 2];

    fn get_key(&self, flow: &'a Flow) -> [u64; 2] {
        flow.key
    }
}

/// A red-black tree of single allocations, ordered by the key, as the kernel's rbtree would
/// hold it.
pub struct RedBlackTree(RBTree<FlowAdapter>);

impl Contender for RedBlackTree {
    const NAME: &'static str = "red_black_tree";

    fn new(_: u32) -> Self {
        Self(RBTree::new(FlowAdapter::new()))
    }

    fn count(&mut self, key: &FlowKey<2>) -> u64 {
        let entry = self.0.entry(&key.0);
        let flow = entry.or_insert_with(|| {
            Box::new(Flow {
                link: RBTreeLink::new(),
                key: key.0,
                counters: Default::default(),
            })
        });
        let Some(flow) = flow.get() else { return 0 };
        let [sent_packets, _, sent_bytes, ..] = &flow.counters;
        sent_packets.set(sent_packets.get() + VOLUME.packets);
        sent_bytes.set(sent_bytes.get() + VOLUME.bytes);
        sent_packets.get()
    }
}

/// No table can do less: the key's hash, one read of an index as large as the module's,
/// and the record that it names.
pub struct Floor {
    index: Vec<u64>,
    records: Vec<Record<2>>,
}

impl Contender for Floor {
    const NAME: &'static str = "floor";

    fn new(flows: u32) -> Self {
        let mut module = Trafstat::<StdMemory>::new(flows);
        for flow in 0..flows {
            module.count(&FlowKey([flow.into(), 0]));
        }
        let records = flows.max(1) as usize;
        let index = (module.table.bytes() - records * size_of::<Record<2>>()) / size_of::<u64>();
        let spread = |at: usize| (at as u64).wrapping_mul(HASH_KEY.0[0]) >> 32;
        Self {
            index: (0..index)
                .map(|at| (spread(at) * records as u64) >> 32)
                .collect(),
            records: (0..records).map(|_| Record::BLANK).collect(),
        }
    }

    fn count(&mut self, key: &FlowKey<2>) -> u64 {
        let home = ((HASH_KEY.hash(key) >> 32) * self.index.len() as u64) >> 32;
        let record = self.index[home as usize];
        count_in(&self.records[record as usize])
    }
}
