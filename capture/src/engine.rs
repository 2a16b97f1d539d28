// SPDX-License-Identifier: GPL-2.0-or-later
//! Counts frames into accounts, as the kernel module counts what its rules see.
//!
//! An engine has the accounts of one rule for each address family that it was given a
//! local net of. An epoch closes when a frame comes whose time is past its end, and at
//! the end of the capture; times are the frames' own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use trafstat_abi::RuleInfo;
pub use trafstat_core::account::Timestamp;
use trafstat_core::account::{
    self, Account, Environment, GaveUp, Identity, Keys, Limits, WrongEpoch,
};
use trafstat_core::classify::{Family, Ipv4, Ipv6};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::StdMemory;
use trafstat_core::rule::Rule;
use trafstat_core::sampling::{Sampling, SamplingKey};
use trafstat_core::snapshot::{self, Binary, Cursor};
use trafstat_core::wire::Gso;

use crate::Frame;
use crate::addresses::Addresses;
use crate::interface::{InterfaceId, Wanted};
use crate::link::{self, Network};
use crate::repeats::Repeats;

/// The accounts have one CPU, which is the caller.
const CPU: u32 = 0;

/// The rules to count by, one for each address family.
#[derive(Clone, Copy, Default)]
pub struct Rules<'a> {
    /// The rule for IPv4 packets; none leaves them out.
    pub ipv4: Option<&'a RuleInfo>,
    /// The rule for IPv6 packets; none leaves them out.
    pub ipv6: Option<&'a RuleInfo>,
}

/// What became of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub frames: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Counted as IPv4 packets.
    pub ipv4: u64,
    /// Counted as IPv6 packets.
    pub ipv6: u64,
    /// IPv4 packets without a local net of IPv4.
    pub ipv4_without_rule: u64,
    /// IPv6 packets without a local net of IPv6.
    pub ipv6_without_rule: u64,
    /// No IP: ARP and the like.
    pub other: u64,
    /// Of interfaces whose link type is not supported.
    pub unknown_link: u64,
    /// Of other interfaces than the one that is asked for.
    pub other_interface: u64,
    /// Packets that another interface saw within a millisecond before: counted again, or left
    /// out by [`Interfaces::once`].
    pub repeats: u64,
}

/// The interfaces of a capture that count, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// One interface; none counts all.
    pub only: Option<Wanted>,
    /// Each packet once, though several interfaces saw it.
    pub once: bool,
}

/// Counts frames.
pub struct Engine {
    ipv4: Option<Counter<Ipv4, 2>>,
    ipv6: Option<Counter<Ipv6, 5>>,
    /// Whether the accounts are to be made of the first frame.
    is_of_first: bool,
    interfaces: Interfaces,
    /// Some of the interfaces that were left out.
    left_out: BTreeSet<InterfaceId>,
    repeats: Repeats,
    addresses: Addresses,
    clock: Clock,
    tally: Tally,
}

/// The account of one family, made at the first frame.
struct Counter<F: Family<W>, const W: usize> {
    /// Without an id yet.
    identity: Identity,
    limits: Limits,
    rule: Rule<StdMemory>,
    account: Option<Arc<Account<StdMemory, F, W>>>,
    /// Whether the open epoch saw a packet.
    saw: bool,
    /// When the open epoch begins, if that is later than the last one's end and it saw none yet.
    begins: Option<Timestamp>,
}

/// An account that an engine counts into.
#[derive(Clone)]
pub struct EngineAccount(AnyAccount);

/// A closed epoch, served in the layout of `uapi/xt_TRAFSTAT.h`.
pub struct Served {
    account: AnyAccount,
    cursor: Cursor,
}

#[derive(Clone)]
enum AnyAccount {
    Ipv4(Arc<Account<StdMemory, Ipv4, 2>>),
    Ipv6(Arc<Account<StdMemory, Ipv6, 5>>),
}

/// The most interfaces that the error names when the one that is asked for is missing.
const MAX_LEFT_OUT: usize = 16;

/// The caller counts and closes, one after the other.
struct SingleThread;

impl Environment for SingleThread {
    fn wait_for_writers(&self) {}
    fn go_on(&self) -> bool {
        true
    }
}

impl Engine {
    /// An engine for a capture, which closes epochs every so often, at multiples of the time,
    /// or never by itself.
    ///
    /// Its accounts have their ids from the first frame with its time, and from what names
    /// the account. So a capture that is counted again, grown, or compressed meanwhile has
    /// the same epochs of the same accounts, and a store does not take them twice.
    pub fn new(rules: Rules<'_>, epoch: Option<Duration>) -> Self {
        Self {
            ipv4: rules.ipv4.map(Counter::new),
            ipv6: rules.ipv6.map(Counter::new),
            is_of_first: true,
            interfaces: Interfaces::default(),
            left_out: BTreeSet::new(),
            repeats: Repeats::default(),
            addresses: Addresses::default(),
            clock: Clock::new(epoch),
            tally: Tally::default(),
        }
    }

    /// Counts no more than `interfaces` says.
    pub fn with_interfaces(self, interfaces: Interfaces) -> Self {
        Self { interfaces, ..self }
    }

    /// An engine whose accounts begin at `now`, before the first frame; their owner closes their
    /// epochs. Their ids are drawn at random, as in the kernel: no other engine sees these frames.
    pub fn started(rules: Rules<'_>, now: Timestamp) -> Self {
        let mut engine = Self::new(rules, None);
        engine.is_of_first = false;
        engine.begin(None, now);
        engine
    }

    /// The accounts, of which there are none before the first frame, but of an engine that
    /// was started.
    pub fn accounts(&self) -> impl Iterator<Item = EngineAccount> + '_ {
        let ipv4 = self
            .ipv4
            .as_ref()
            .and_then(|counter| counter.account.clone());
        let ipv6 = self
            .ipv6
            .as_ref()
            .and_then(|counter| counter.account.clone());
        let accounts = [ipv4.map(AnyAccount::Ipv4), ipv6.map(AnyAccount::Ipv6)];
        accounts.into_iter().flatten().map(EngineAccount)
    }

    /// Whether the frame belongs to a later epoch: [`Engine::close`] is to come first.
    #[inline]
    pub fn is_past_epoch(&self, frame: &Frame<'_>) -> bool {
        frame.time_ns.is_some_and(|time| time >= self.clock.end_ns)
    }

    /// Counts a frame in the open epoch.
    #[inline]
    pub fn count(&mut self, frame: &Frame<'_>) {
        self.tally.frames += 1;
        self.tally.bytes += u64::from(frame.wire_len);
        if let Some(only) = &self.interfaces.only
            && !frame.interface.is_some_and(|interface| only.is(interface))
        {
            self.leave_out(frame.interface);
            return;
        }
        if self.is_of_first {
            self.is_of_first = false;
            let first_ns = frame.time_ns.unwrap_or_default();
            self.begin(Some(frame), Timestamp::of_one_clock(first_ns));
        }
        self.clock.see(frame.time_ns);
        let Some(link) = frame.link else {
            self.tally.unknown_link += 1;
            return;
        };
        let network = link::network(link, frame.bytes, frame.wire_len);
        if let (Some(interface), Some(time_ns)) = (frame.interface, frame.time_ns)
            && self.repeats.is_repeat(&network, time_ns, interface)
        {
            self.tally.repeats += 1;
            if self.interfaces.once {
                return;
            }
        }
        self.addresses.see(&network);
        let tally = &mut self.tally;
        match (network, &mut self.ipv4, &mut self.ipv6) {
            (Network::Ipv4(packet), Some(counter), _) => {
                tally.ipv4 += 1;
                counter.count(packet, frame);
            }
            (Network::Ipv6(packet), _, Some(counter)) => {
                tally.ipv6 += 1;
                counter.count(packet, frame);
            }
            (Network::Ipv4(_), None, _) => tally.ipv4_without_rule += 1,
            (Network::Ipv6(_), _, None) => tally.ipv6_without_rule += 1,
            (Network::Other, ..) => tally.other += 1,
        }
    }

    /// Closes the open epoch, whose time is over, and opens that of `next_ns`.
    pub fn close(&mut self, next_ns: u64) {
        let closed_ns = self.clock.end_ns;
        self.clock.begin(next_ns);
        self.close_at(closed_ns, self.clock.begin_ns());
    }

    /// Closes the open epoch at the last time that a frame had.
    pub fn close_last(&mut self) {
        self.close_at(self.clock.last_ns, None);
    }

    fn close_at(&mut self, now_ns: u64, next_ns: Option<u64>) {
        let now = Timestamp::of_one_clock(now_ns);
        let next = next_ns.map(Timestamp::of_one_clock);
        if let Some(counter) = &mut self.ipv4 {
            counter.close(now, next);
        }
        if let Some(counter) = &mut self.ipv6 {
            counter.close(now, next);
        }
    }

    /// The closed epochs, at most one for each family, each until it is acknowledged.
    pub fn closed(&self) -> impl Iterator<Item = Served> + '_ {
        self.accounts().filter_map(|account| account.closed())
    }

    /// The interfaces whose frames were left out, some of them where there are many.
    pub fn left_out(&self) -> impl Iterator<Item = InterfaceId> + '_ {
        self.left_out.iter().copied()
    }

    /// The local nets that the first packets' addresses suggest, one for each family at most.
    pub fn likely_local_nets(&self) -> Vec<String> {
        self.addresses.likely_local_nets()
    }

    /// What became of the frames so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    #[cold]
    fn leave_out(&mut self, interface: Option<InterfaceId>) {
        self.tally.other_interface += 1;
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.extend(interface);
        }
    }

    #[cold]
    fn begin(&mut self, first: Option<&Frame<'_>>, now: Timestamp) {
        self.clock.begin(now.wall_ns);
        if let Some(counter) = &mut self.ipv4 {
            counter.begin(first, now);
        }
        if let Some(counter) = &mut self.ipv6 {
            counter.begin(first, now);
        }
    }
}

impl<F: Family<W>, const W: usize> Counter<F, W> {
    fn new(info: &RuleInfo) -> Self {
        let rule = Rule::new(&info.lists, &info.ranges, Sampling::of_rule(info), (), &());
        Self {
            identity: Identity::of_rule(info, [0; 16]),
            limits: Limits::of_rule(info),
            // The standard library's memory does not fail to be there.
            rule: rule.unwrap_or_else(|| unreachable!("memory of the standard library")),
            account: None,
            saw: false,
            begins: None,
        }
    }

    fn begin(&mut self, first: Option<&Frame<'_>>, now: Timestamp) {
        let id = first.map_or_else(random, |frame| self.id_of(frame));
        let identity = Identity {
            id,
            ..self.identity.clone()
        };
        let keys = Keys {
            hash: HashKey(std::array::from_fn(|_| u64::from_ne_bytes(random()))),
            sampling: SamplingKey::of_account(&id),
        };
        let account = Account::new(identity, keys, self.limits, (), now);
        account.allocate(1, |_| true, &());
        self.account = Some(Arc::new(account));
    }

    /// 128 bits of a hash over the frame and what names the account. Ports, limits and
    /// sampling are no part of it: the same frames must not count twice in one account,
    /// however they were told apart.
    fn id_of(&self, frame: &Frame<'_>) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(b"trafstat capture 1\0");
        hash.update([F::NUMBER, self.identity.prefix_len]);
        hash.update(self.identity.local_addr);
        hash.update(self.identity.name);
        hash.update(frame.time_ns.unwrap_or_default().to_be_bytes());
        hash.update(frame.wire_len.to_be_bytes());
        hash.update(frame.bytes);
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().copied().unwrap_or_default()
    }

    #[inline]
    fn count(&mut self, packet: link::Packet<'_>, frame: &Frame<'_>) {
        let Some(account) = &self.account else {
            return;
        };
        if !self.saw {
            self.saw = true;
            // It would begin where the last one ended, however long ago, and count in the middle.
            if let Some(begins) = self.begins.take() {
                account.begin_at(begins);
            }
        }
        let link::Packet { bytes, len, .. } = packet;
        let wants_worker = match (frame.segments, account.tables(CPU, &())) {
            (None, Some(tables)) => account.count_if_eligible(&self.rule, &tables, bytes, len, &()),
            _ => None,
        };
        let wants_worker = wants_worker.unwrap_or_else(|| {
            // What was captured of the packet is all that there is to parse.
            let tuple = F::parse(bytes, bytes.len()).ok();
            let gso = frame.segments.map(|segments| Gso {
                size: segments.size,
                segs: 0,
                header_len: segments.header_len.saturating_sub(packet.offset as u16),
                has_transport: 1,
            });
            let packet = account::Packet { bytes, len, gso };
            account.count_tuple(&self.rule, CPU, tuple, packet, &())
        });
        if wants_worker {
            account.prepare(&());
        }
    }

    /// Closes the epoch if it saw a packet; the next one begins at `next`, if that is known.
    fn close(&mut self, now: Timestamp, next: Option<Timestamp>) {
        if let (Some(account), true) = (&self.account, self.saw) {
            // One that goes on to its end does not give up.
            let _ = account.close(now, &SingleThread, &());
            self.saw = false;
            self.begins = next.filter(|next| next.wall_ns > now.wall_ns);
        } else {
            self.begins = next.or(self.begins);
        }
    }
}

impl EngineAccount {
    /// The account's name, without its padding.
    pub fn name(&self) -> &[u8] {
        self.0.name()
    }

    /// `NFPROTO_*`.
    pub fn family(&self) -> u8 {
        self.0.family()
    }

    /// Closes the open epoch at `now`, unless one waits to be acknowledged. Called by one
    /// reader at a time.
    ///
    /// # Errors
    /// [`GaveUp`] where the environment says so.
    pub fn close(&self, now: Timestamp, environment: &impl Environment) -> Result<u64, GaveUp> {
        match &self.0 {
            AnyAccount::Ipv4(account) => account.close(now, environment, &()),
            AnyAccount::Ipv6(account) => account.close(now, environment, &()),
        }
    }

    /// The closed epoch that waits to be acknowledged.
    pub fn closed(&self) -> Option<Served> {
        let is_closed = match &self.0 {
            AnyAccount::Ipv4(account) => account.closed(&()).is_some(),
            AnyAccount::Ipv6(account) => account.closed(&()).is_some(),
        };
        is_closed.then(|| Served {
            account: self.0.clone(),
            cursor: Cursor::default(),
        })
    }

    /// Whether nothing waits to be read and nothing was seen since.
    pub fn is_idle(&self) -> bool {
        match &self.0 {
            AnyAccount::Ipv4(account) => account.is_idle(&()),
            AnyAccount::Ipv6(account) => account.is_idle(&()),
        }
    }
}

impl AnyAccount {
    fn name(&self) -> &[u8] {
        let name = match self {
            Self::Ipv4(account) => &account.identity().name,
            Self::Ipv6(account) => &account.identity().name,
        };
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn family(&self) -> u8 {
        match self {
            Self::Ipv4(_) => Ipv4::NUMBER,
            Self::Ipv6(_) => Ipv6::NUMBER,
        }
    }
}

impl Served {
    /// The account's name as it stands in the snapshot, without its padding.
    pub fn name(&self) -> &[u8] {
        self.account.name()
    }

    /// `NFPROTO_*`.
    pub fn family(&self) -> u8 {
        self.account.family()
    }

    /// Frees the epoch: its records are safe elsewhere.
    ///
    /// # Errors
    /// That it is not this epoch that waits.
    pub fn acknowledge(&self, epoch: u64) -> Result<(), WrongEpoch> {
        match &self.account {
            AnyAccount::Ipv4(account) => account.acknowledge(epoch, &()),
            AnyAccount::Ipv6(account) => account.acknowledge(epoch, &()),
        }
    }

    fn serve<F: Family<W>, const W: usize>(
        account: &Account<StdMemory, F, W>,
        cursor: &mut Cursor,
        out: &mut [u8],
    ) -> usize {
        account.closed(&()).map_or(0, |epoch| {
            let offset = cursor.offset();
            loop {
                if let Ok(len) = snapshot::read(&epoch, &Binary, cursor, offset, out) {
                    break len;
                }
            }
        })
    }
}

impl std::io::Read for Served {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        Ok(match &self.account {
            AnyAccount::Ipv4(account) => Self::serve(account, &mut self.cursor, out),
            AnyAccount::Ipv6(account) => Self::serve(account, &mut self.cursor, out),
        })
    }
}

/// Says when an epoch is over.
struct Clock {
    interval_ns: Option<u64>,
    /// When the open epoch ends.
    end_ns: u64,
    /// The latest time of a frame.
    last_ns: u64,
}

impl Clock {
    fn new(epoch: Option<Duration>) -> Self {
        let nanoseconds = |epoch: Duration| u64::try_from(epoch.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interval_ns: epoch.map(nanoseconds).filter(|interval| *interval > 0),
            end_ns: u64::MAX,
            last_ns: 0,
        }
    }

    #[inline]
    fn see(&mut self, time_ns: Option<u64>) {
        self.last_ns = self.last_ns.max(time_ns.unwrap_or_default());
    }

    /// The epoch that has `now_ns` in it ends at the next multiple of the interval.
    fn begin(&mut self, now_ns: u64) {
        self.end_ns = self.interval_ns.map_or(u64::MAX, |interval| {
            (now_ns / interval + 1).saturating_mul(interval)
        });
    }

    /// When the open epoch begins, unless the capture is one.
    fn begin_ns(&self) -> Option<u64> {
        let interval = self.interval_ns?;
        self.end_ns.checked_sub(interval)
    }
}

fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let mut filled = 0;
    while filled < LEN {
        let rest = &mut bytes[filled..];
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Linux has had the call since 3.17, and it takes any buffer.
            Err(error) => unreachable!("getrandom: {error}"),
        }
    }
    bytes
}
