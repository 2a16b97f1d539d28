// SPDX-License-Identifier: GPL-2.0-only
//! What C calls: pointers become references, and core does the rest.
//!
//! Common to all functions here: C passes pointers that are aligned and valid for the
//! whole call. `account` and `rule` were initialised by the functions below and are
//! shared, never written by C. The contexts that `glue/ffi.h` states are what makes the
//! guards true.

use core::ffi::{c_int, c_void};
use core::mem::{align_of, offset_of, size_of};
use core::ptr::{self, NonNull};
use core::slice;

use trafstat_abi::RuleInfo;
use trafstat_core::account::{
    Account, Environment, FastPath, Identity, Keys, Limits, NeedMore, PackedPacket, Packet,
    SlowPathPacket, Stats, Timestamp,
};
use trafstat_core::classify::{Family, Ipv4, Ipv6};
use trafstat_core::csv::Csv;
use trafstat_core::flow_table::FlowTable;
use trafstat_core::hash::HashKey;
use trafstat_core::parse::HEADER_BYTES;
use trafstat_core::rule::{self, Refusal, Rule};
use trafstat_core::sampling::{Sampling, SamplingKey};
use trafstat_core::snapshot::{self, Binary, Cursor, Format, Yield};
use trafstat_core::wire::{Gso, Volume};

use crate::glue::{
    self, sk_buff, trafstat_count_skb, trafstat_cursor, trafstat_go_on, trafstat_gso,
    trafstat_has_cpu, trafstat_limits, trafstat_payer, trafstat_queue_prepare, trafstat_stats,
    trafstat_tables, trafstat_timestamp, trafstat_volume, trafstat_wait_for_writers,
};
use crate::memory::{Guard, KernelMemory, Payer};

// What core has by itself is the same as what C has.
const _: () = assert!(HEADER_BYTES == glue::HEADER_BYTES as usize);
const _: () = assert!(size_of::<Cursor>() == size_of::<trafstat_cursor>());
const _: () = assert!(align_of::<Cursor>() == align_of::<trafstat_cursor>());
const _: () = assert!(size_of::<Gso>() == size_of::<trafstat_gso>());
const _: () = assert!(offset_of!(Gso, size) == offset_of!(trafstat_gso, size));
const _: () = assert!(offset_of!(Gso, segs) == offset_of!(trafstat_gso, segs));
const _: () = assert!(size_of::<Tables<'_, Ipv4, 2>>() == size_of::<trafstat_tables>());
const _: () = assert!(size_of::<Tables<'_, Ipv6, 5>>() == size_of::<trafstat_tables>());
const _: () = assert!(offset_of!(Gso, header_len) == offset_of!(trafstat_gso, header_len));
const _: () = assert!(offset_of!(Gso, has_transport) == offset_of!(trafstat_gso, has_transport));

const ENOMEM: c_int = 12;
const EAGAIN: isize = 11;
const ESTALE: isize = 116;

/// `struct trafstat_account_core`: an account of either family.
pub enum AccountCore {
    Ipv4(Account<KernelMemory, Ipv4, 2>),
    Ipv6(Account<KernelMemory, Ipv6, 5>),
}

/// An account of one family.
type AccountOf<F, const W: usize> = Account<KernelMemory, F, W>;

impl AccountCore {
    fn ipv4(&self) -> Option<&AccountOf<Ipv4, 2>> {
        match self {
            Self::Ipv4(account) => Some(account),
            Self::Ipv6(_) => None,
        }
    }

    fn ipv6(&self) -> Option<&AccountOf<Ipv6, 5>> {
        match self {
            Self::Ipv4(_) => None,
            Self::Ipv6(account) => Some(account),
        }
    }
}

/// Does the same with an account of either family.
macro_rules! with_account {
    ($core:expr, $account:ident => $does:expr) => {
        match $core {
            AccountCore::Ipv4($account) => $does,
            AccountCore::Ipv6($account) => $does,
        }
    };
}

/// `struct trafstat_rule_core`: a rule and the account that it counts into.
pub struct RuleCore {
    account: &'static AccountCore,
    verdict: u32,
    rule: Rule<KernelMemory>,
}

/// `struct trafstat_tables`: where one CPU counts for an account, in even epochs and in odd
/// ones.
#[repr(C)]
pub struct Tables<'a, F: Family<W>, const W: usize> {
    account: &'a Account<KernelMemory, F, W>,
    tables: [&'a FlowTable<KernelMemory, W>; 2],
}

/// Bytes of `struct trafstat_account_core`.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_size() -> usize {
    size_of::<AccountCore>()
}

/// Bytes of `struct trafstat_rule_core`.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_rule_size() -> usize {
    size_of::<RuleCore>()
}

/// Checks a rule of any revision; returns one of the constants of `ffi.h` for it.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_rule_check(info: &RuleInfo, revision: u8, family: u8) -> u32 {
    match rule::check(info, revision, family) {
        Ok(()) => glue::RULE_VALID,
        Err(Refusal::OutOfRange) => glue::RULE_OUT_OF_RANGE,
        Err(Refusal::UnknownOption) => glue::RULE_UNKNOWN_OPTION,
    }
}

/// Makes an account in C's memory.
///
/// # Safety
/// `account` is aligned memory of [`trafstat_account_size`] bytes that nobody else uses.
/// `payer` stays as long as the account.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_account_init(
    account: *mut AccountCore,
    info: &RuleInfo,
    family: u8,
    payer: NonNull<trafstat_payer>,
    random: &[u8; glue::RANDOM_BYTES as usize],
    now: &trafstat_timestamp,
    cpu_ids: u32,
) -> c_int {
    let (id, keys) = random.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let mut words = keys.chunks_exact(8).map(|word| {
        let word = word.first_chunk::<8>();
        u64::from_ne_bytes(*word.unwrap_or(&[0; 8]))
    });
    let mut word = |_| words.next().unwrap_or_default();
    let keys = Keys {
        hash: HashKey(core::array::from_fn(&mut word)),
        sampling: SamplingKey(core::array::from_fn(&mut word)),
    };
    let identity = Identity::of_rule(info, *id);
    let limits = Limits::of_rule(info);
    let now = timestamp(now);
    // SAFETY: the caller says so.
    let payer = unsafe { Payer::new(payer) };
    let made = if family == Ipv6::NUMBER {
        AccountCore::Ipv6(Account::new(identity, keys, limits, payer, now))
    } else {
        AccountCore::Ipv4(Account::new(identity, keys, limits, payer, now))
    };
    // SAFETY: the caller gives this memory for the account.
    unsafe { account.write(made) };
    // SAFETY: written above, and no other reference to it exists yet.
    let account = unsafe { &*account };
    // SAFETY: nobody retires the slots of an account that is not shared yet.
    let guard = unsafe { Guard::new() };
    // SAFETY: any CPU id may be asked about.
    let has_cpu = |cpu| unsafe { trafstat_has_cpu(cpu) };
    let allocated = with_account!(account, account => account.allocate(cpu_ids, has_cpu, &guard));
    if allocated { 0 } else { -ENOMEM }
}

fn timestamp(&trafstat_timestamp { wall_ns, boot_ns }: &trafstat_timestamp) -> Timestamp {
    Timestamp { wall_ns, boot_ns }
}

/// Makes a rule in C's memory; the account outlives it.
///
/// # Safety
/// `rule` is aligned memory of [`trafstat_rule_size`] bytes that nobody else uses. `payer`
/// stays as long as the rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_rule_init(
    rule: *mut RuleCore,
    account: &'static AccountCore,
    info: &RuleInfo,
    payer: NonNull<trafstat_payer>,
    verdict: u32,
) -> c_int {
    let sampling = Sampling::of_rule(info);
    // SAFETY: the port sets are being built and nobody else knows them.
    let guard = unsafe { Guard::new() };
    // SAFETY: the caller says so.
    let payer = unsafe { Payer::new(payer) };
    let Some(made) = Rule::new(&info.lists, &info.ranges, sampling, payer, &guard) else {
        return -ENOMEM;
    };
    // SAFETY: the caller gives this memory for the rule.
    unsafe {
        rule.write(RuleCore {
            account,
            verdict,
            rule: made,
        })
    };
    0
}

/// Frees what an account owns.
///
/// # Safety
/// Initialised, even if that ran out of memory, and no longer used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_account_drop(account: *mut AccountCore) {
    // SAFETY: the caller says that this is an account of nobody else's.
    unsafe { account.drop_in_place() };
}

/// Frees what a rule owns.
///
/// # Safety
/// Initialised with success and no longer used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_rule_drop(rule: *mut RuleCore) {
    // SAFETY: the caller says that this is a rule of nobody else's.
    unsafe { rule.drop_in_place() };
}

/// Whether the account has the rule's name for it.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_has_name(account: &AccountCore, info: &RuleInfo) -> bool {
    let identity = with_account!(account, account => account.identity());
    identity
        .name
        .iter()
        .zip(&info.name)
        .all(|(a, b)| *a == *b as u8)
}

/// Whether the account's local net is the one of the rule.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_has_net(account: &AccountCore, info: &RuleInfo) -> bool {
    let Identity {
        local_addr,
        prefix_len,
        ..
    } = with_account!(account, account => account.identity());
    *prefix_len == info.prefix_len && *local_addr == info.local_addr
}

/// Sets the limits of the next epoch.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_set_limits(account: &AccountCore, limits: &trafstat_limits) {
    let limits = Limits::of_options(limits.max_entries, limits.min_pkt_spoof);
    with_account!(account, account => account.set_limits(limits));
}

/// Whether the account has nothing that was seen and not acknowledged.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_is_empty(account: &AccountCore) -> bool {
    with_account!(account, account => account.is_empty(&reading()))
}

/// Whether the account is empty and has no closed epoch either.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_is_idle(account: &AccountCore) -> bool {
    with_account!(account, account => account.is_idle(&reading()))
}

/// What monitoring shows of an account.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_account_stats(account: &AccountCore, out: &mut trafstat_stats) {
    let Stats {
        epoch,
        unread,
        totals,
        records,
        max_entries,
        memory_bytes,
    } = with_account!(account, account => account.stats(&reading()));
    let volume = |Volume { packets, bytes }| trafstat_volume { packets, bytes };
    *out = trafstat_stats {
        epoch,
        unread,
        seen: volume(totals.seen),
        extrapolated: volume(totals.extrapolated),
        recorded: volume(totals.recorded),
        outside: volume(totals.outside),
        skipped: volume(totals.skipped),
        gso_extra: volume(totals.gso_extra),
        folded: volume(totals.folded),
        unattributed: volume(totals.unattributed),
        records,
        max_entries,
        memory_bytes,
    };
}

/// Counts a packet.
///
/// # Safety
/// `header` has `header_len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_count(
    rule: &RuleCore,
    cpu: u32,
    header: *const u8,
    header_len: u32,
    len: u32,
    gso: Option<&Gso>,
) -> u32 {
    // SAFETY: the caller says so.
    let bytes = unsafe { slice::from_raw_parts(header, header_len as usize) };
    // SAFETY: the packet path is an RCU read-side section.
    let guard = unsafe { Guard::new() };
    let packet = Packet {
        bytes,
        len,
        gso: gso.copied(),
    };
    match with_account!(rule.account, account => account.count(&rule.rule, cpu, packet, &guard)) {
        Ok(false) => glue::COUNTED,
        Ok(true) => glue::COUNTED_PREPARE,
        Err(NeedMore) => glue::NEED_MORE,
    }
}

/// Where the CPU with this id counts for the account; returns whether there is such a CPU.
///
/// # Safety
/// `out` is aligned memory of `struct trafstat_tables` that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_account_tables(
    account: &AccountCore,
    cpu: u32,
    out: *mut trafstat_tables,
) -> bool {
    let guard = reading();
    with_account!(account, account => {
        let Some(tables) = account.tables(cpu, &guard) else {
            return false;
        };
        let tables = Tables { account, tables };
        // SAFETY: the caller gives this memory for the tables.
        unsafe { ptr::write(out.cast(), tables) };
    });
    true
}

/// Counts a packet of IPv4; returns the rule's verdict.
///
/// # Safety
/// `header` has `header_len` readable bytes of `skb`, and `tables` are those of this CPU and
/// of the rule's account, which is one of IPv4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_count_ipv4(
    rule: &RuleCore,
    tables: &Tables<'_, Ipv4, 2>,
    header: *const u8,
    header_len: u32,
    len: u64,
    skb: *mut sk_buff,
) -> u32 {
    // SAFETY: the caller says so.
    let bytes = unsafe { slice::from_raw_parts(header, header_len as usize) };
    count_fast(rule, tables, bytes, len, skb, AccountCore::ipv4)
}

/// Counts a packet of IPv6; returns the rule's verdict.
///
/// # Safety
/// As for [`trafstat_count_ipv4`], with an account of IPv6.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_count_ipv6(
    rule: &RuleCore,
    tables: &Tables<'_, Ipv6, 5>,
    header: *const u8,
    header_len: u32,
    len: u64,
    skb: *mut sk_buff,
) -> u32 {
    // SAFETY: the caller says so.
    let bytes = unsafe { slice::from_raw_parts(header, header_len as usize) };
    count_fast(rule, tables, bytes, len, skb, AccountCore::ipv6)
}

#[inline(always)]
fn count_fast<F: Family<W>, const W: usize>(
    rule: &RuleCore,
    tables: &Tables<'_, F, W>,
    bytes: &[u8],
    len: u64,
    skb: *mut sk_buff,
    account: impl Fn(&AccountCore) -> Option<&AccountOf<F, W>>,
) -> u32 {
    // SAFETY: the packet path is an RCU read-side section.
    let guard = unsafe { Guard::new() };
    match tables
        .account
        .count_fast(&rule.rule, &tables.tables, bytes, len, &guard)
    {
        FastPath::Counted => rule.verdict,
        FastPath::SlowPath(SlowPathPacket { table, packed }) => {
            count_slow(rule, table, packed, account)
        }
        // SAFETY: rule and buffer are those that C has in hand.
        FastPath::NotEligible => unsafe { trafstat_count_skb(ptr::from_ref(rule).cast(), skb) },
    }
}

/// Counts a packet that the fast path left. `account` gives the rule's account, which is of the
/// table's family, as its own type: passing the account itself would keep a register in use on the
/// fast path.
#[inline(never)]
fn count_slow<F: Family<W>, const W: usize>(
    rule: &RuleCore,
    table: &FlowTable<KernelMemory, W>,
    packed: PackedPacket,
    account: impl Fn(&AccountCore) -> Option<&AccountOf<F, W>>,
) -> u32 {
    // SAFETY: the packet path is an RCU read-side section.
    let guard = unsafe { Guard::new() };
    let account = account(rule.account);
    if account.is_some_and(|account| account.count_slow(SlowPathPacket { table, packed }, &guard)) {
        // SAFETY: the rule is the one that C has in hand.
        unsafe { trafstat_queue_prepare(ptr::from_ref(rule).cast()) };
    }
    rule.verdict
}

/// Prepares memory for the flows to come; says whether there was any.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_prepare(account: &AccountCore) -> bool {
    // SAFETY: slots of the open epoch are retired by the worker alone, which this is.
    let guard = unsafe { Guard::new() };
    with_account!(account, account => account.prepare(&guard))
}

/// Closes the open epoch and returns the one to be read; 0 where that was given up.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_close(
    account: &AccountCore,
    now: &trafstat_timestamp,
    context: *mut c_void,
) -> u64 {
    let kernel = Kernel { context };
    let now = timestamp(now);
    let closed = with_account!(account, account => account.close(now, &kernel, &reading()));
    closed.unwrap_or(0)
}

/// The epoch that waits to be acknowledged, 0 for none.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_unread(account: &AccountCore) -> u64 {
    with_account!(account, account => account.closed(&reading()).map_or(0, |closed| closed.number()))
}

/// Frees the closed epoch if it is this one.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_acknowledge(account: &AccountCore, epoch: u64) -> bool {
    with_account!(account, account => account.acknowledge(epoch, &reading()).is_ok())
}

/// Reads the closed epoch as header and records.
///
/// # Safety
/// `out` has `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_read_snapshot(
    account: &AccountCore,
    cursor: &mut Cursor,
    offset: u64,
    out: *mut u8,
    len: usize,
) -> isize {
    // SAFETY: the caller says so.
    let out = unsafe { slice::from_raw_parts_mut(out, len) };
    with_account!(account, account => read(account, &Binary, cursor, offset, out))
}

/// Reads the closed epoch as the original's CSV.
///
/// # Safety
/// `out` has `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_read_csv(
    account: &AccountCore,
    cursor: &mut Cursor,
    offset: u64,
    out: *mut u8,
    len: usize,
) -> isize {
    // SAFETY: the caller says so.
    let out = unsafe { slice::from_raw_parts_mut(out, len) };
    with_account!(account, account => read(account, &Csv, cursor, offset, out))
}

fn read<F: Family<W>, const W: usize>(
    account: &Account<KernelMemory, F, W>,
    format: &impl Format<W>,
    cursor: &mut Cursor,
    offset: u64,
    out: &mut [u8],
) -> isize {
    let guard = reading();
    let closed = account.closed(&guard);
    closed.map_or(0, |closed| {
        read_len(snapshot::read(&closed, format, cursor, offset, out))
    })
}

/// What C has for the outcome of a read.
fn read_len(read: Result<usize, Yield>) -> isize {
    read.map_or(-EAGAIN, |len| len as isize)
}

/// Reads the open epoch as header and records; -`ESTALE` where it is no longer `epoch`, and
/// as with the closed one.
///
/// # Safety
/// `out` has `len` writable bytes. The caller is in an RCU read-side section.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trafstat_read_live(
    account: &AccountCore,
    cursor: &mut Cursor,
    epoch: u64,
    offset: u64,
    out: *mut u8,
    len: usize,
) -> isize {
    // SAFETY: the caller says so.
    let out = unsafe { slice::from_raw_parts_mut(out, len) };
    // SAFETY: the caller is in an RCU read-side section, which began before the epoch was
    // found to be open, so what a later acknowledgement retires is freed after it.
    let guard = unsafe { Guard::new() };
    with_account!(account, account => {
        let open = account.open_epoch(&guard);
        if open.number() == epoch {
            read_len(snapshot::read(&open, &Binary, cursor, offset, out))
        } else {
            -ESTALE
        }
    })
}

/// The open epoch.
#[unsafe(no_mangle)]
pub extern "C" fn trafstat_open_epoch(account: &AccountCore) -> u64 {
    with_account!(account, account => account.open_epoch(&reading()).number())
}

/// A guard for readers of an account.
fn reading() -> Guard {
    // SAFETY: the closed bank has no writer and no worker, and only the reader retires
    // its slots. Elsewhere readers look at sizes and counters, which are in the tables
    // themselves and live as long as the account.
    unsafe { Guard::new() }
}

struct Kernel {
    context: *mut c_void,
}

impl Environment for Kernel {
    fn wait_for_writers(&self) {
        // SAFETY: the context is what C gave for this call.
        unsafe { trafstat_wait_for_writers(self.context) };
    }

    fn go_on(&self) -> bool {
        // SAFETY: readers are in process context and hold no spinlock, and the context is what C
        // gave for this call.
        unsafe { trafstat_go_on(self.context) }
    }
}
