// SPDX-License-Identifier: GPL-2.0-or-later
//! An account: what rules of one name count into, epoch by epoch.
//!
//! An account has two banks, each with a flow table for every CPU. Epochs use them in turn, and
//! packets count in the open epoch's. Closing an epoch opens the other bank first, then waits for
//! all packets that may have seen the old one; from then on the closed bank belongs to the reader
//! alone. Equal flows of several CPUs are merged in place, and the epoch is served, always the
//! same, until it is acknowledged. Its bank is then empty and can be opened again.
//!
//! | who | may call | meanwhile |
//! | --- | --- | --- |
//! | packets, one at a time on a CPU | `count` | anything |
//! | the worker, one | `prepare` | anything but a second worker |
//! | the reader, one | `close`, `closed`, `acknowledge` | packets; `wait_for_writers` ends the worker's run |
//! | anyone | `stats`, `set_limits` | anything |

mod bank;
mod epoch;
mod fast_path;
mod merge;

use trafstat_abi::RuleInfo;

use crate::classify::{Direction, Family, FlowKey, classify, rest_of_ports};
use crate::flow_table::totals::{Totals, TotalsCounter, VolumeCounter};
use crate::flow_table::{FlowTable, Observation};
use crate::hash::HashKey;
use crate::memory::{Allocation, Memory, Slot};
use crate::parse::{FastPathHeader, HEADER_BYTES, ParseError, Tuple, transport};
use crate::rule::Rule;
use crate::sampling::{PacketNumber, SamplingKey};
use crate::sync::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::wire::{Gso, Volume, jumbo_header_len};

use bank::Bank;
pub use bank::{Next, RecordPosition};
pub use epoch::Epoch;
pub use fast_path::{FastPath, PackedPacket, SlowPathPacket};
pub use merge::GaveUp;
use merge::Scratch;

/// Fold records are a sixteenth of the flows', or enough for the four protocols that an
/// address has mostly (TCP, UDP, ICMP and one more), whichever is more.
const FOLD_SHARE: u32 = 16;
const FOLDS_PER_ADDRESS: u32 = 4;

/// What an account is, from its creation on.
#[derive(Clone, Debug)]
pub struct Identity {
    /// 128 random bits.
    pub id: [u8; 16],
    /// Padded with NUL.
    pub name: [u8; trafstat_abi::NAME_LEN as usize],
    /// As typed, host bits included, padded with 0.
    pub local_addr: [u8; 16],
    /// Bits of the local net.
    pub prefix_len: u8,
}

/// Limits of an account, in force from the next epoch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records of one epoch, over all CPUs.
    pub max_entries: u32,
    /// Flows that received fewer packets lose their remote side; 0 keeps all.
    pub min_pkt_spoof: u32,
}

impl Identity {
    /// The account that a rule names, known by `id`.
    pub fn of_rule(info: &RuleInfo, id: [u8; 16]) -> Self {
        Self {
            id,
            name: info.name.map(|byte| byte as u8),
            local_addr: info.local_addr,
            prefix_len: info.prefix_len,
        }
    }
}

impl Limits {
    /// The limits that a rule gives, or the defaults.
    pub fn of_rule(info: &RuleInfo) -> Self {
        Self::of_options(info.max_entries, info.min_pkt_spoof)
    }

    /// The same with the values of the options: thousands of records, 0 for the default, and
    /// packets.
    pub fn of_options(max_entries: u32, min_pkt_spoof: u32) -> Self {
        let max_entries = match max_entries {
            0 => trafstat_abi::DEFAULT_MAX_ENTRIES,
            thousands => thousands.saturating_mul(1000),
        };
        Self {
            max_entries,
            min_pkt_spoof,
        }
    }
}

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Nanoseconds since 1970, by a clock that may be set.
    pub wall_ns: u64,
    /// Nanoseconds by a clock that nobody sets and that goes on while the host sleeps.
    pub boot_ns: u64,
}

impl Timestamp {
    /// A moment of which one clock knows.
    pub fn of_one_clock(ns: u64) -> Self {
        Self {
            wall_ns: ns,
            boot_ns: ns,
        }
    }
}

/// The random keys of an account.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Of its flows' hashes.
    pub hash: HashKey,
    /// Of its sampling.
    pub sampling: SamplingKey,
}

/// The services that closing an epoch needs from the place it runs in.
pub trait Environment {
    /// Returns once no packet and no worker is under way that began before the call.
    fn wait_for_writers(&self);

    /// Lets others run during long work; false where the work should be given up.
    fn go_on(&self) -> bool;
}

/// A packet as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its first bytes, from the network header on; at least [`HEADER_BYTES`] of them, or
    /// the whole packet, after [`NeedMore`].
    pub bytes: &'a [u8],
    /// Its length in layer-3 bytes.
    pub len: u32,
    /// Where it stands for several.
    pub gso: Option<Gso>,
}

/// The packet was not counted: give more of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedMore;

/// The epoch to acknowledge is not the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongEpoch;

/// An account as monitoring sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// The open epoch.
    pub epoch: u64,
    /// The closed epoch that is not acknowledged, 0 for none.
    pub unread: u64,
    /// Since the account was created; `recorded` only of closed epochs.
    pub totals: Totals,
    /// Records of the open epoch, flows seen on several CPUs counted on each.
    pub records: u64,
    /// The limit of the open epoch.
    pub max_entries: u64,
    /// Bytes of memory for the flow tables of both banks.
    pub memory_bytes: u64,
}

/// An account of one address family.
pub struct Account<M: Memory, F: Family<W>, const W: usize> {
    net: F::Net,
    keys: Keys,
    /// The open epoch, from 1; its lowest bit selects the bank.
    epoch: AtomicU64,
    banks: [Bank<M, W>; 2],
    /// The epoch that is closed but not ready to be read; 0 for none.
    closing: AtomicU64,
    /// The closed epoch that is ready and not acknowledged; 0 for none.
    unread: AtomicU64,
    scratch: Scratch<M>,
    max_entries: AtomicU32,
    min_pkt_spoof: AtomicU32,
    acknowledged: AcknowledgedTotals,
    identity: Identity,
}

/// The totals of all acknowledged epochs.
#[derive(Default)]
struct AcknowledgedTotals {
    totals: TotalsCounter,
    recorded: VolumeCounter,
    unattributed: VolumeCounter,
}

impl<M: Memory, F: Family<W>, const W: usize> Account<M, F, W> {
    /// An account whose first epoch opened at `now`. It counts once
    /// [`Account::allocate`] has succeeded. `payer` pays for all its memory.
    pub fn new(
        identity: Identity,
        keys: Keys,
        limits: Limits,
        payer: M::Payer,
        now: Timestamp,
    ) -> Self {
        let account = Self {
            net: F::net(&identity.local_addr, identity.prefix_len),
            keys,
            epoch: AtomicU64::new(1),
            banks: [Bank::new(payer), Bank::new(payer)],
            closing: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            scratch: Scratch::new(),
            max_entries: AtomicU32::new(limits.max_entries),
            min_pkt_spoof: AtomicU32::new(limits.min_pkt_spoof),
            acknowledged: AcknowledgedTotals::default(),
            identity,
        };
        account.open(1, limits, now);
        account
    }

    /// Allocates the flow tables of CPUs 0 to `cpus` - 1, empty, where `has_cpu` says that
    /// there is such a CPU. Returns whether there was memory.
    pub fn allocate(&self, cpus: u32, has_cpu: impl Fn(u32) -> bool, guard: &M::Guard) -> bool {
        if !self.scratch.allocate(cpus, self.payer()) {
            return false;
        }
        self.banks.iter().zip(0..).all(|(bank, parity)| {
            let payer = bank.budgets.payer;
            let how = Allocation::Sleeping { cpu: 0 };
            if !bank.tables.fill(cpus as usize, how, payer) {
                return false;
            }
            let slots = bank.tables.slice(guard).iter();
            let allocated = slots.zip(0..).all(|(table, cpu)| {
                !has_cpu(cpu) || table.fill(1, Allocation::Sleeping { cpu }, payer)
            });
            bank.tables(guard)
                .for_each(|table| table.set_parity(parity));
            allocated
        })
    }

    /// Who pays for its memory.
    pub fn payer(&self) -> M::Payer {
        let [bank, _] = &self.banks;
        bank.budgets.payer
    }

    /// What the account is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The limits of the next epoch.
    pub fn set_limits(&self, limits: Limits) {
        self.max_entries.store(limits.max_entries, Relaxed);
        self.min_pkt_spoof.store(limits.min_pkt_spoof, Relaxed);
    }

    /// Counts a packet on the CPU with id `cpu`, by one of the account's rules.
    ///
    /// Returns whether the worker should run.
    ///
    /// # Errors
    /// [`NeedMore`] where the bytes given do not reach the ports; the packet is then not
    /// counted yet.
    #[inline]
    pub fn count(
        &self,
        rule: &Rule<M>,
        cpu: u32,
        packet: Packet<'_>,
        guard: &M::Guard,
    ) -> Result<bool, NeedMore> {
        let tuple = match F::parse(packet.bytes, packet.len as usize) {
            Err(ParseError::NeedMore) if packet.bytes.len() < HEADER_BYTES => return Err(NeedMore),
            tuple => tuple.ok(),
        };
        Ok(self.count_tuple(rule, cpu, tuple, packet, guard))
    }

    /// Counts a packet that was parsed already; without a tuple it is outside. The rest is
    /// as with [`Account::count`].
    #[inline]
    pub fn count_tuple(
        &self,
        rule: &Rule<M>,
        cpu: u32,
        tuple: Option<Tuple<F::Address>>,
        packet: Packet<'_>,
        guard: &M::Guard,
    ) -> bool {
        let epoch = self.epoch.load(Acquire);
        let bank = self.bank(epoch);
        let Some(table) = bank.table(cpu, guard) else {
            return false;
        };
        let mut volume = Volume {
            packets: 1,
            bytes: u64::from(packet.len),
        };
        if let Some(gso) = packet.gso {
            let gso = gso.with_headers_of(packet.bytes, tuple.as_ref());
            let extra = gso.extra(packet.len, jumbo_header_len(packet.bytes));
            table.totals.gso_extra.add(extra);
            volume = volume.plus(extra);
        }
        table.totals.seen.add(volume);
        let flow = tuple.and_then(|tuple| {
            let (key, direction) = classify::<F, W>(&self.net, &rule.ports(guard), &tuple)?;
            Some((tuple, key, direction))
        });
        let Some((tuple, key, direction)) = flow else {
            table.totals.outside.add(volume);
            return false;
        };
        if let Some((rate, class)) = rule.sampling.rate(tuple.protocol, tuple.syn) {
            let number = PacketNumber {
                epoch,
                cpu,
                packet: table.totals.seen.load().packets,
            };
            let is_taken = self.keys.sampling.takes(number, rate);
            table.samples.add(class, rate, volume, is_taken);
            if !is_taken {
                table.totals.skipped.add(volume);
                return false;
            }
            table.totals.extrapolated.add(volume.times(rate - 1));
            volume = volume.times(rate);
        }
        let hash = self.keys.hash.hash(&key);
        let seen = Observation {
            key,
            hash,
            direction,
            volume,
            syn: tuple.syn,
        };
        table.count(&seen, &bank.budgets, guard, |key| self.folded(key))
    }

    /// The two flow tables that the CPU with id `cpu` counts into in turn; `None` where there
    /// is no such CPU.
    pub fn tables<'a>(&'a self, cpu: u32, guard: &'a M::Guard) -> Option<[&'a FlowTable<M, W>; 2]> {
        let [even, odd] = &self.banks;
        Some([even.table(cpu, guard)?, odd.table(cpu, guard)?])
    }

    /// The fast path: counts an eligible packet of a known flow.
    ///
    /// Eligible is TCP or UDP without IP options or extension headers, from or to the local net,
    /// under a rule that does not sample it. [`Account::count`] takes any packet and counts it the
    /// same.
    ///
    /// `tables` are this CPU's, from [`Account::tables`]. `len`, in layer-3 bytes, is below 2^32;
    /// it is as wide as the counters that it is added to, which saves an instruction.
    #[inline]
    pub fn count_fast<'a>(
        &self,
        rule: &Rule<M>,
        tables: &[&'a FlowTable<M, W>; 2],
        bytes: &[u8],
        len: u64,
        guard: &M::Guard,
    ) -> FastPath<'a, M, W> {
        let Some(header) = F::parse_fast(bytes) else {
            return FastPath::NotEligible;
        };
        // Compiled once for each protocol and direction, which then take no register.
        match header.protocol {
            transport::UDP => {
                let kind = (transport::UDP, false);
                self.count_of_kind(rule, tables, &header, kind, len, guard)
            }
            transport::TCP => {
                let kind = (transport::TCP, transport::is_syn(header.transport));
                self.count_of_kind(rule, tables, &header, kind, len, guard)
            }
            _ => FastPath::NotEligible,
        }
    }

    #[inline(always)]
    fn count_of_kind<'a>(
        &self,
        rule: &Rule<M>,
        tables: &[&'a FlowTable<M, W>; 2],
        header: &FastPathHeader<'_, F::Addresses>,
        kind: (u8, bool),
        len: u64,
        guard: &M::Guard,
    ) -> FastPath<'a, M, W> {
        let ports = transport::packed_ports(header.transport);
        let (src_is_local, dst_is_local) = F::contains(&self.net, header.addresses);
        if src_is_local {
            let way = (Direction::Sent, header.addresses, ports.rotate_left(16));
            self.count_oriented(rule, tables, kind, way, len, guard)
        } else if dst_is_local {
            let way = (Direction::Received, header.addresses, ports);
            self.count_oriented(rule, tables, kind, way, len, guard)
        } else {
            FastPath::NotEligible
        }
    }

    #[inline(always)]
    fn count_oriented<'a>(
        &self,
        rule: &Rule<M>,
        tables: &[&'a FlowTable<M, W>; 2],
        (protocol, syn): (u8, bool),
        (direction, addresses, ports): (Direction, F::Addresses, u32),
        len: u64,
        guard: &M::Guard,
    ) -> FastPath<'a, M, W> {
        let Some(ports) = rule.keep_packed(protocol, ports, guard) else {
            return FastPath::NotEligible;
        };
        let key = F::key(addresses, direction, rest_of_ports(ports, protocol));
        let hash = self.keys.hash.hash(&key);
        let [even, odd] = tables;
        let table = if self.epoch.load(Acquire) & 1 == 0 {
            even
        } else {
            odd
        };
        let volume = Volume {
            packets: 1,
            bytes: len,
        };
        table.totals.seen.add(volume);
        if let Some(record) = table.find_first(&key, hash, guard) {
            record.count(direction, volume, syn);
            return FastPath::Counted;
        }
        table.set_pending_key(&key);
        FastPath::SlowPath(SlowPathPacket {
            table,
            packed: PackedPacket::new(len as u32, direction, syn),
        })
    }

    /// Counts a packet on the fast path or on the slow path.
    ///
    /// Returns whether the worker should run; `None` for a packet that is not eligible, which is
    /// not counted.
    #[inline]
    pub fn count_if_eligible(
        &self,
        rule: &Rule<M>,
        tables: &[&FlowTable<M, W>; 2],
        bytes: &[u8],
        len: u32,
        guard: &M::Guard,
    ) -> Option<bool> {
        match self.count_fast(rule, tables, bytes, len.into(), guard) {
            FastPath::Counted => Some(false),
            FastPath::SlowPath(packet) => Some(self.count_slow(packet, guard)),
            FastPath::NotEligible => None,
        }
    }

    /// The slow path: counts a packet that [`Account::count_fast`] left.
    ///
    /// Returns whether the worker should run.
    pub fn count_slow(&self, packet: SlowPathPacket<'_, M, W>, guard: &M::Guard) -> bool {
        let SlowPathPacket { table, packed } = packet;
        let key = table.pending_key();
        let seen = Observation {
            key,
            hash: self.keys.hash.hash(&key),
            direction: packed.direction(),
            volume: Volume {
                packets: 1,
                bytes: packed.len().into(),
            },
            syn: packed.syn(),
        };
        // Not the open epoch's: that may be another one by now.
        let budgets = &self.bank(u64::from(table.parity())).budgets;
        table.count(&seen, budgets, guard, |key| self.folded(key))
    }

    /// The key that a flow is folded into, and what hashes it.
    fn folded(&self, key: FlowKey<W>) -> (FlowKey<W>, impl FnOnce() -> u64 + '_) {
        let folded = F::folded(key);
        (folded, move || self.keys.hash.hash(&folded))
    }

    /// Allocates ahead what the open epoch's flow tables will need; says whether there was
    /// memory. Without it [`Account::count`] goes on asking for the worker.
    pub fn prepare(&self, guard: &M::Guard) -> bool {
        let mut had_memory = true;
        let bank = self.bank(self.epoch.load(Acquire));
        for (table, cpu) in bank.tables.get(guard).unwrap_or_default().iter().zip(0..) {
            if let Some([table]) = table.get(guard) {
                had_memory &= table.prepare(cpu, bank.budgets.payer);
            }
        }
        had_memory
    }

    /// Closes the open epoch at `now` and merges what its CPUs counted, unless an earlier
    /// one still waits to be acknowledged. Returns the epoch to be read.
    ///
    /// # Errors
    /// [`GaveUp`] where the environment says so. The epoch is closed then, and the next
    /// call makes it ready.
    pub fn close(
        &self,
        now: Timestamp,
        environment: &impl Environment,
        guard: &M::Guard,
    ) -> Result<u64, GaveUp> {
        let unread = self.unread.load(Acquire);
        if unread != 0 {
            return Ok(unread);
        }
        let mut closing = self.closing.load(Relaxed);
        if closing == 0 {
            closing = self.epoch.load(Relaxed);
            let next = closing.wrapping_add(1);
            self.open(next, self.limits(), now);
            self.epoch.store(next, Release);
            environment.wait_for_writers();
            self.bank(closing).end(now);
            self.closing.store(closing, Relaxed);
        }
        let Self { keys, scratch, .. } = self;
        self.bank(closing)
            .make_ready::<F>(&keys.hash, scratch, environment, guard)?;
        self.closing.store(0, Relaxed);
        self.unread.store(closing, Release);
        Ok(closing)
    }

    /// Makes the bank of an epoch ready to count.
    fn open(&self, epoch: u64, limits: Limits, now: Timestamp) {
        let host_bits = F::ADDRESS_BITS.saturating_sub(self.identity.prefix_len);
        let addresses = 1_u32.checked_shl(host_bits.into()).unwrap_or(u32::MAX);
        let folds = addresses
            .saturating_mul(FOLDS_PER_ADDRESS)
            .min(limits.max_entries)
            .max(limits.max_entries / FOLD_SHARE);
        self.bank(epoch).open(limits, folds, now);
    }

    /// The closed epoch that waits to be acknowledged.
    pub fn closed<'a>(&'a self, guard: &'a M::Guard) -> Option<Epoch<'a, M, W>> {
        match self.unread.load(Acquire) {
            0 => None,
            number => Some(self.epoch(number, false, guard)),
        }
    }

    /// Has the open epoch begin at `now`. It counted nothing yet, and no other reader closes it.
    pub fn begin_at(&self, now: Timestamp) {
        self.bank(self.epoch.load(Acquire)).begin_at(now);
    }

    /// The open epoch. What is read of it is worth nothing once [`Account::stats`] or
    /// another call says that a later one is open.
    pub fn open_epoch<'a>(&'a self, guard: &'a M::Guard) -> Epoch<'a, M, W> {
        self.epoch(self.epoch.load(Acquire), true, guard)
    }

    fn epoch<'a>(&'a self, number: u64, is_open: bool, guard: &'a M::Guard) -> Epoch<'a, M, W> {
        Epoch {
            identity: &self.identity,
            bank: self.bank(number),
            family: F::NUMBER,
            number,
            is_open,
            guard,
        }
    }

    /// Frees the closed epoch, which was read and is safely stored.
    ///
    /// # Errors
    /// [`WrongEpoch`] where `epoch` is not the one that waits.
    pub fn acknowledge(&self, epoch: u64, guard: &M::Guard) -> Result<(), WrongEpoch> {
        let closed = self
            .closed(guard)
            .filter(|closed| closed.number == epoch)
            .ok_or(WrongEpoch)?;
        let sum = closed.totals();
        self.acknowledged.totals.add(&sum);
        self.acknowledged.recorded.add(sum.recorded);
        self.acknowledged.unattributed.add(sum.unattributed);
        closed.bank.clear(guard);
        self.unread.store(0, Release);
        Ok(())
    }

    /// Whether nothing waits to be read and nothing was seen since.
    pub fn is_idle(&self, guard: &M::Guard) -> bool {
        self.unread.load(Acquire) == 0 && self.is_empty(guard)
    }

    /// Whether nothing was seen that was not acknowledged.
    pub fn is_empty(&self, guard: &M::Guard) -> bool {
        // An epoch that is being closed is neither open nor waiting; one that is acknowledged
        // is empty.
        let mut banks = self.banks.iter();
        banks.all(|bank| bank.totals(guard).seen.packets == 0)
    }

    /// What monitoring shows.
    pub fn stats(&self, guard: &M::Guard) -> Stats {
        let epoch = self.epoch.load(Acquire);
        let open = self.bank(epoch);
        let mut totals = Totals::default();
        totals.add(&self.acknowledged.totals);
        totals.recorded = self.acknowledged.recorded.load();
        totals.unattributed = self.acknowledged.unattributed.load();
        for bank in &self.banks {
            totals.merge(&bank.totals(guard));
        }
        let records = open.tables(guard).map(|table| u64::from(table.len()));
        let tables = self.banks.iter().flat_map(|bank| bank.tables(guard));
        Stats {
            epoch,
            unread: self.unread.load(Acquire),
            totals,
            records: records.fold(0, u64::wrapping_add),
            max_entries: u64::from(open.limits().max_entries),
            memory_bytes: tables
                .map(|table| table.bytes() as u64)
                .fold(0, u64::wrapping_add),
        }
    }

    #[inline]
    fn bank(&self, epoch: u64) -> &Bank<M, W> {
        let [even, odd] = &self.banks;
        if epoch & 1 == 0 { even } else { odd }
    }

    fn limits(&self) -> Limits {
        Limits {
            max_entries: self.max_entries.load(Relaxed),
            min_pkt_spoof: self.min_pkt_spoof.load(Relaxed),
        }
    }
}
