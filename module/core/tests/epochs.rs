// SPDX-License-Identifier: GPL-2.0-or-later
//! A model of an account's epochs, checked by loom in every order of the CPUs' steps that
//! the memory model allows and that interrupts no more than two of them.
//!
//! What the kernel gives is modelled thus: a packet has its CPU to itself, and a reader of
//! the open epoch is in a section that a grace period waits for, so each holds a lock; a
//! grace period takes every lock once. A slot is a pointer to memory that is never used
//! again. Chunks and indices are smaller under `cfg(loom)`, so that few flows make them grow.
//!
//! `cargo xtask test` runs this with `--cfg loom`.
#![cfg(loom)]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::sync::{Arc, Mutex};
use loom::thread;
use trafstat_core::account::{Environment, Epoch, Limits, Timestamp};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::{Allocation, Blank, Memory, Slot};
use trafstat_core::rule::Rule;
use trafstat_core::sampling::Sampling;
use trafstat_core::sync::{AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use trafstat_core::synthetic::{
    self, Flow, Ipv4Account, SingleThread, account_on, flows, header, rule,
};

/// Memory behind loom's pointers.
struct LoomMemory;

impl Memory for LoomMemory {
    type Guard = ();
    type Payer = ();
    type Slot<T: Blank> = LoomSlot<T>;
}

/// Every slice that the slot ever had, and which of them it has.
struct LoomSlot<T> {
    slices: [OnceLock<Box<[T]>>; 4],
    /// The loom runs one thread at a time, so this is no part of the model.
    filled: AtomicUsize,
    /// The slice's number, from 1; 0 for none.
    current: AtomicU32,
}

impl<T: Blank> Blank for LoomSlot<T> {
    const BLANK: Self = Self {
        slices: [const { OnceLock::new() }; 4],
        filled: AtomicUsize::new(0),
        current: AtomicU32::new(0),
    };

    fn blank(&self) {
        self.retire(None);
    }
}

impl<T: Blank> Slot<T, LoomMemory> for LoomSlot<T> {
    fn slice<'a>(&'a self, (): &'a ()) -> &'a [T] {
        match self.current.load(Acquire) {
            0 => &[],
            number => self.slices[number as usize - 1].get().expect("a slice"),
        }
    }

    fn fill(&self, len: usize, _: Allocation, (): ()) -> bool {
        if self.current.load(Acquire) != 0 {
            return true;
        }
        let number = self.filled.fetch_add(1, Relaxed);
        let slice: Box<[T]> = (0..len).map(|_| T::BLANK).collect();
        // Loom's atomics come to be here, and not where two threads first meet them.
        slice.iter().for_each(Blank::blank);
        assert!(self.slices[number].set(slice).is_ok());
        // Another may have filled it meanwhile.
        let _ = self
            .current
            .compare_exchange(0, number as u32 + 1, AcqRel, Acquire);
        true
    }

    fn retire(&self, _: Option<()>) {
        self.current.store(0, Release);
    }

    fn bytes(&self) -> usize {
        size_of_val(self.slice(&()))
    }
}

/// An account, its rule, and who is at it.
struct Host {
    account: Ipv4Account<LoomMemory>,
    rule: Rule<LoomMemory>,
    sections: Sections,
    flows: Vec<Flow>,
}

/// What a grace period waits for.
struct Sections {
    cpus: Vec<Mutex<()>>,
    live_reader: Mutex<()>,
    worker: Mutex<()>,
}

impl Environment for Sections {
    fn wait_for_writers(&self) {
        for section in self.cpus.iter().chain([&self.live_reader, &self.worker]) {
            drop(section.lock().unwrap());
        }
    }

    fn go_on(&self) -> bool {
        true
    }
}

impl Host {
    fn new(cpus: u32) -> Arc<Self> {
        let limits = Limits {
            max_entries: 1000,
            min_pkt_spoof: 0,
        };
        let sampling = Sampling {
            tcp_syn: 0,
            tcp_any: 0,
            udp_any: 0,
        };
        let host = Self {
            account: account_on(limits, HashKey([1, 2, 3, 4, 5, 6]), (), cpus, |_| true),
            rule: rule(sampling, ()).expect("memory"),
            sections: Sections {
                cpus: (0..cpus).map(|_| Mutex::new(())).collect(),
                live_reader: Mutex::new(()),
                worker: Mutex::new(()),
            },
            flows: flows(16).collect(),
        };
        // For the account's own atomics and those of its two banks.
        (0..2).for_each(|_| drop(host.take_epoch(&SingleThread)));
        Arc::new(host)
    }

    /// Counts one packet of a flow, as the kernel does.
    fn count(&self, cpu: u32, flow: usize) {
        let _section = self.sections.cpus[cpu as usize].lock().unwrap();
        let bytes = header(&self.flows[flow], true, false);
        synthetic::count(&self.account, &self.rule, cpu, &bytes, 40);
    }

    fn prepare(&self) {
        let _worker = self.sections.worker.lock().unwrap();
        assert!(self.account.prepare(&()));
    }

    fn close(&self, environment: &impl Environment) -> u64 {
        let now = Timestamp::of_one_clock(2);
        let closed = self.account.close(now, environment, &());
        closed.expect("nobody gives up")
    }

    /// Closes an epoch, checks that it adds up, and frees it; gives its packets by flow.
    fn take_epoch(&self, environment: &impl Environment) -> BTreeMap<usize, u64> {
        let number = self.close(environment);
        let closed = self.account.closed(&()).expect("a closed epoch");
        let packets = self.packets(&closed);
        let totals = closed.totals();
        assert!(totals.is_conserved(), "{totals:?}");
        assert_eq!(totals.recorded.packets, packets.values().sum::<u64>());
        assert_eq!(totals.folded.packets, 0);
        assert_eq!(closed.records(), packets.len() as u64);
        assert_eq!(self.account.acknowledge(number, &()), Ok(()));
        packets
    }

    /// Packets of each flow, which has one record.
    fn packets(&self, epoch: &Epoch<'_, LoomMemory, 2>) -> BTreeMap<usize, u64> {
        let mut packets = BTreeMap::new();
        for record in epoch.iter() {
            let flow = self.flow_of(record.key().0);
            let before = packets.insert(flow, record.counters().volume().packets);
            assert_eq!(before, None, "flow {flow} has two records");
        }
        packets
    }

    /// The flow with this key, whose words are compared as they lie in memory.
    fn flow_of(&self, key: [u64; 2]) -> usize {
        let [first, _] = key;
        let is_of = |flow: &Flow| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&flow.local);
            bytes[4..].copy_from_slice(&flow.remote);
            first == u64::from_ne_bytes(bytes)
        };
        let found = self.flows.iter().position(is_of);
        found.unwrap_or_else(|| panic!("no flow has key {key:x?}"))
    }
}

fn add(sum: &mut BTreeMap<usize, u64>, epoch: BTreeMap<usize, u64>) {
    for (flow, packets) in epoch {
        *sum.entry(flow).or_default() += packets;
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound.get_or_insert(2);
    loom.max_branches = 100_000;
    loom.check(model);
}

/// Two CPUs count while an epoch closes.
fn flip(has_grace_period: bool) {
    check(move || {
        let host = Host::new(2);
        let writers = [0, 1].map(|cpu| {
            let host = Arc::clone(&host);
            thread::spawn(move || host.count(cpu, 0))
        });
        let mut sum = match has_grace_period {
            true => host.take_epoch(&host.sections),
            false => host.take_epoch(&SingleThread),
        };
        for writer in writers {
            writer.join().unwrap();
        }
        add(&mut sum, host.take_epoch(&host.sections));
        assert_eq!(sum, [(0, 2)].into());
    });
}

#[test]
fn packets_of_two_cpus_are_in_one_epoch_each() {
    flip(true);
}

#[test]
#[should_panic]
fn without_a_grace_period_packets_are_lost() {
    flip(false);
}

#[test]
fn side_of_an_acknowledged_epoch_counts_again() {
    check(|| {
        let host = Host::new(1);
        let writer = {
            let host = Arc::clone(&host);
            thread::spawn(move || (0..2).for_each(|_| host.count(0, 0)))
        };
        let mut sum = BTreeMap::new();
        for _ in 0..2 {
            add(&mut sum, host.take_epoch(&host.sections));
        }
        writer.join().unwrap();
        add(&mut sum, host.take_epoch(&host.sections));
        assert_eq!(sum, [(0, 2)].into());
    });
}

#[test]
fn account_whose_epoch_is_being_closed_is_not_idle() {
    check(|| {
        let host = Host::new(1);
        host.count(0, 0);
        let reaper = {
            let host = Arc::clone(&host);
            thread::spawn(move || {
                assert!(!host.account.is_idle(&()), "a packet was not acknowledged");
            })
        };
        let number = host.close(&host.sections);
        reaper.join().unwrap();
        assert_eq!(host.account.acknowledge(number, &()), Ok(()));
        assert!(host.account.is_idle(&()));
    });
}

#[test]
fn live_reader_sees_whole_records_or_a_later_epoch() {
    check(|| {
        let host = Host::new(1);
        let writer = {
            let host = Arc::clone(&host);
            thread::spawn(move || [0, 1].into_iter().for_each(|flow| host.count(0, flow)))
        };
        let live_reader = {
            let host = Arc::clone(&host);
            thread::spawn(move || {
                let _section = host.sections.live_reader.lock().unwrap();
                let live = host.account.open_epoch(&());
                // Asks for the flow of every key that it sees.
                let packets = host.packets(&live);
                assert!(packets.values().all(|packets| *packets <= 1));
            })
        };
        let mut sum = host.take_epoch(&host.sections);
        writer.join().unwrap();
        live_reader.join().unwrap();
        add(&mut sum, host.take_epoch(&host.sections));
        assert_eq!(sum, [(0, 1), (1, 1)].into());
    });
}

#[test]
fn flows_have_one_record_each_while_the_worker_makes_room() {
    check(|| {
        let host = Host::new(1);
        // As many as make the index want its next level.
        (0..9).for_each(|flow| host.count(0, flow));
        let worker = {
            let host = Arc::clone(&host);
            thread::spawn(move || host.prepare())
        };
        for flow in [0, 9, 10, 1] {
            host.count(0, flow);
        }
        worker.join().unwrap();
        for flow in [2, 11, 9] {
            host.count(0, flow);
        }
        let twice = [0, 1, 2, 9];
        let expected = (0..12).map(|flow| (flow, 1 + u64::from(twice.contains(&flow))));
        assert_eq!(host.take_epoch(&host.sections), expected.collect());
    });
}
