// SPDX-License-Identifier: GPL-2.0-or-later
//! An account whose payer has little memory, and none, and some again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use trafstat_core::account::Limits;
use trafstat_core::hash::HashKey;
use trafstat_core::memory::{Allocation, Blank, Memory, Slot, StdMemory, StdSlot};
use trafstat_core::rule::Rule;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{self, Ipv4Account, account_on, flows, header, packet};

use crate::support::Snapshot;

/// Memory that ends when its payer has no more bytes left.
struct ScarceMemory;

#[derive(Debug, Default)]
struct ByteBudget {
    bytes_left: AtomicUsize,
    refusals: AtomicUsize,
}

#[derive(Debug)]
struct ScarceSlot<T> {
    slot: StdSlot<T>,
    payer: OnceLock<&'static ByteBudget>,
}

impl Memory for ScarceMemory {
    type Guard = ();
    type Payer = &'static ByteBudget;
    type Slot<T: Blank> = ScarceSlot<T>;
}

impl<T: Blank> Blank for ScarceSlot<T> {
    const BLANK: Self = Self {
        slot: StdSlot::BLANK,
        payer: OnceLock::new(),
    };

    fn blank(&self) {
        self.retire(None);
    }
}

impl<T: Blank> Slot<T, ScarceMemory> for ScarceSlot<T> {
    fn slice<'a>(&'a self, guard: &'a ()) -> &'a [T] {
        self.slot.slice(guard)
    }

    fn fill(&self, len: usize, how: Allocation, payer: &'static ByteBudget) -> bool {
        if !self.slot.slice(&()).is_empty() {
            return true;
        }
        let bytes = len * size_of::<T>();
        let taken = payer
            .bytes_left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        if taken.is_err() {
            payer.refusals.fetch_add(1, Relaxed);
            return false;
        }
        self.payer.get_or_init(|| payer);
        self.slot.fill(len, how, ())
    }

    fn retire(&self, _: Option<&'static ByteBudget>) {
        if let Some(payer) = self.payer.get() {
            let bytes = Slot::<T, StdMemory>::bytes(&self.slot);
            payer.bytes_left.fetch_add(bytes, Relaxed);
        }
        self.slot.retire(None);
    }

    fn bytes(&self) -> usize {
        self.slot.bytes()
    }
}

type ScarceAccount = Ipv4Account<ScarceMemory>;

fn account(payer: &'static ByteBudget) -> ScarceAccount {
    let limits = Limits {
        max_entries: 1_000_000,
        min_pkt_spoof: 0,
    };
    let key = HashKey([11, 22, 33, 44, 55, 66]);
    payer.bytes_left.store(1 << 30, Relaxed);
    account_on(limits, key, payer, 2, |_| true)
}

fn rule(payer: &'static ByteBudget) -> Rule<ScarceMemory> {
    synthetic::rule(Sampling::default(), payer).expect("memory")
}

/// Counts a packet of each flow, with the worker where it is asked for.
fn count(account: &ScarceAccount, rule: &Rule<ScarceMemory>, flows_from: u32, flows_to: u32) {
    for flow in flows(flows_to).skip(flows_from as usize) {
        let bytes = header(&flow, true, false);
        let cpu = u32::from(flow.local_port & 1);
        let asked = account.count(rule, cpu, packet(&bytes, 100), &());
        if asked.expect("enough bytes") {
            account.prepare(&());
        }
    }
}

fn purse() -> &'static ByteBudget {
    Box::leak(Box::default())
}

#[test]
fn without_memory_flows_are_folded_and_none_is_lost() {
    for bytes in [0, 4095, 4096, 8192, 10_000, 70_000, 300_000, 900_000] {
        let payer = purse();
        let account = account(payer);
        let rule = rule(payer);
        payer.bytes_left.store(bytes, Relaxed);
        for _ in 0..2 {
            count(&account, &rule, 0, 20_000);
        }
        let snapshot = Snapshot::close_and_read(&account);
        snapshot.assert_conserved();
        assert_eq!(snapshot.header.seen_packets, 40_000);
        assert!(snapshot.header.folded_packets > 0, "with {bytes} bytes");
        assert!(payer.refusals.load(Relaxed) > 0, "with {bytes} bytes");
        account.acknowledge(1, &()).expect("this epoch");
        assert_eq!(payer.bytes_left.load(Relaxed), bytes, "what was taken");
    }
}

#[test]
fn an_epoch_recovers_once_there_is_memory() {
    for bytes in [0, 4096, 100_000, 400_000] {
        let payer = purse();
        let account = account(payer);
        let rule = rule(payer);
        payer.bytes_left.store(bytes, Relaxed);
        count(&account, &rule, 0, 20_000);
        let folded = account.stats(&()).totals.folded.packets;
        assert!(folded > 0, "with {bytes} bytes");

        payer.bytes_left.store(1 << 30, Relaxed);
        // Packets that are folded ask for the worker.
        count(&account, &rule, 20_000, 20_300);
        let before = account.stats(&()).totals.folded.packets;
        count(&account, &rule, 20_300, 40_000);
        assert_eq!(
            account.stats(&()).totals.folded.packets,
            before,
            "with {bytes} bytes at first"
        );
        let snapshot = Snapshot::close_and_read(&account);
        snapshot.assert_conserved();
        assert_eq!(snapshot.header.seen_packets, 40_000);
    }
}
