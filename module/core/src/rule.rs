// SPDX-License-Identifier: GPL-2.0-or-later
//! A rule: which ports keep their number, and at which rates packets are sampled.

use trafstat_abi::{NAME_LEN, OLDEST_REVISION, POLICY_DROP, PortList, PortRange, RuleInfo};

use crate::classify::{Family, Ipv4, Ipv6};
use crate::memory::{Allocation, Blank, Memory, Slot};
use crate::parse::transport::{PortClass, TCP, UDP, port_class};
use crate::sampling::Sampling;
use crate::sync::{AtomicU64, Ordering};

/// Words of a bitmap over all ports.
const BITMAP_WORDS: usize = 65536 / 64;

const MODE_ALL: u16 = trafstat_abi::PORTS_ALL as u16;
const MODE_LISTED: u16 = trafstat_abi::PORTS_LISTED as u16;

/// The two sides of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Within the local net.
    Local,
    /// The other one.
    Remote,
}

/// A decision for each port whether it keeps its number.
pub trait PortFilter {
    /// `port`, or 0 where the rule does not tell this port apart.
    fn keep(&self, side: Side, protocol: u8, port: u16) -> u16;
}

/// A set of ports: none, all, or a bitmap.
pub struct PortSet<M: Memory> {
    mode: u16,
    bitmap: M::Slot<AtomicU64>,
}

impl<M: Memory> PortSet<M> {
    /// The set that a list of a rule describes, or `None` without memory. `pool` is the
    /// rule's pool of ranges; what a list names beyond its end is ignored.
    pub fn new(
        list: &PortList,
        pool: &[PortRange],
        payer: M::Payer,
        guard: &M::Guard,
    ) -> Option<Self> {
        let set = Self {
            mode: list.mode,
            bitmap: Blank::BLANK,
        };
        if list.mode == MODE_LISTED {
            let how = Allocation::Sleeping { cpu: 0 };
            if !set.bitmap.fill(BITMAP_WORDS, how, payer) {
                return None;
            }
            let words = set.bitmap.get(guard)?;
            let ranges = pool
                .iter()
                .skip(usize::from(list.start))
                .take(usize::from(list.count));
            ranges.for_each(|range| add_range(words, range));
        }
        Some(set)
    }

    #[inline]
    fn keep(&self, port: u16, guard: &M::Guard) -> u16 {
        if self.mode == MODE_ALL || self.lists(port, guard) {
            port
        } else {
            0
        }
    }

    /// Whether the bitmap, if there is one, has this port.
    #[inline]
    fn lists(&self, port: u16, guard: &M::Guard) -> bool {
        let word = self.bitmap.slice(guard).get(usize::from(port / 64));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (port % 64) & 1 != 0)
    }
}

/// Adds the ports of a range to a bitmap that nobody else uses yet; none where it is reversed.
///
/// A word at a time: the ranges of one rule may have 126 million ports together.
fn add_range(bitmap: &[AtomicU64], range: &PortRange) {
    let PortRange { first, last } = *range;
    let (first_word, last_word) = (first / 64, last / 64);
    for number in first_word..=last_word {
        let from = if number == first_word { first % 64 } else { 0 };
        let to = if number == last_word { last % 64 } else { 63 };
        let ports = u64::MAX << from & u64::MAX >> (63 - to);
        if let Some(word) = bitmap.get(usize::from(number)) {
            word.store(word.load(Ordering::Relaxed) | ports, Ordering::Relaxed);
        }
    }
}

/// What a rule does with the ports of TCP or of UDP, and of what goes by their lists.
struct ClassPorts<M: Memory> {
    /// The bits that stay of both ports, the local one below the remote one, lists aside.
    mask: u32,
    /// Whether it takes more than the mask: a list, or sampling.
    is_partial: bool,
    is_sampled: bool,
    local: PortSet<M>,
    remote: PortSet<M>,
    /// Makes it 64 bytes, so that which of the two it is takes a shift.
    _stride: u64,
}

/// One rule that counts into an account.
pub struct Rule<M: Memory> {
    /// Of TCP and of UDP, by the lowest bit of their numbers.
    classes: [ClassPorts<M>; 2],
    /// The rates at which packets are sampled.
    pub sampling: Sampling,
}

impl<M: Memory> Rule<M> {
    /// The rule with these four lists, in the order of `uapi/xt_TRAFSTAT.h`, over one
    /// pool of ranges; `None` without memory.
    pub fn new(
        lists: &[PortList; trafstat_abi::LISTS as usize],
        pool: &[PortRange],
        sampling: Sampling,
        payer: M::Payer,
        guard: &M::Guard,
    ) -> Option<Self> {
        let [local_tcp, local_udp, remote_tcp, remote_udp] = lists;
        let set = |list| PortSet::new(list, pool, payer, guard);
        let one_in_tcp = sampling.tcp_syn.max(sampling.tcp_any);
        Some(Self {
            classes: [
                ClassPorts::new(set(local_tcp)?, set(remote_tcp)?, one_in_tcp),
                ClassPorts::new(set(local_udp)?, set(remote_udp)?, sampling.udp_any),
            ],
            sampling,
        })
    }

    /// What is kept of the ports of a TCP or UDP packet, both given with the local one below
    /// the remote one; `None` where the rule samples such packets.
    #[inline]
    pub fn keep_packed(&self, protocol: u8, ports: u32, guard: &M::Guard) -> Option<u32> {
        const { assert!(TCP & 1 == 0 && UDP & 1 == 1) };
        let [tcp, udp] = &self.classes;
        let class = if protocol & 1 == 0 { tcp } else { udp };
        let mut mask = class.mask;
        if class.is_partial {
            if class.is_sampled {
                return None;
            }
            if class.local.lists(ports as u16, guard) {
                mask |= 0xffff;
            }
            if class.remote.lists((ports >> 16) as u16, guard) {
                mask |= 0xffff << 16;
            }
        }
        Some(ports & mask)
    }

    /// The rule's ports, as long as the guard lives.
    #[inline]
    pub fn ports<'a>(&'a self, guard: &'a M::Guard) -> impl PortFilter + 'a {
        GuardedPorts {
            classes: &self.classes,
            guard,
        }
    }
}

impl<M: Memory> ClassPorts<M> {
    fn new(local: PortSet<M>, remote: PortSet<M>, one_in: u32) -> Self {
        let bits = |set: &PortSet<M>| u32::from(if set.mode == MODE_ALL { u16::MAX } else { 0 });
        let is_listed = [&local, &remote].iter().any(|set| set.mode == MODE_LISTED);
        Self {
            mask: bits(&local) | bits(&remote) << 16,
            is_partial: is_listed || one_in > 1,
            is_sampled: one_in > 1,
            local,
            remote,
            _stride: 0,
        }
    }
}

struct GuardedPorts<'a, M: Memory> {
    classes: &'a [ClassPorts<M>; 2],
    guard: &'a M::Guard,
}

impl<M: Memory> PortFilter for GuardedPorts<'_, M> {
    #[inline]
    fn keep(&self, side: Side, protocol: u8, port: u16) -> u16 {
        let [tcp, udp] = self.classes;
        let class = match port_class(protocol) {
            PortClass::Tcp => tcp,
            PortClass::Udp => udp,
            PortClass::None => return 0,
        };
        let set = match side {
            Side::Local => &class.local,
            Side::Remote => &class.remote,
        };
        set.keep(port, self.guard)
    }
}

/// The reason for which the kernel refuses a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A value is out of range.
    OutOfRange,
    /// The rule has an option of a later version.
    UnknownOption,
}

/// Checks a rule, whoever made it. `revision` is the one that it was made in, `family` the
/// `NFPROTO_*` of the table that it is in.
///
/// # Errors
/// The rule is to be refused.
pub fn check(info: &RuleInfo, revision: u8, family: u8) -> Result<(), Refusal> {
    if !values_are_valid(info, family) {
        return Err(Refusal::OutOfRange);
    }
    let is_known = match u32::from(revision) {
        OLDEST_REVISION => info.has_known_flags_alone(),
        _ => info.has_known_options_alone(),
    };
    if is_known {
        Ok(())
    } else {
        Err(Refusal::UnknownOption)
    }
}

/// Whether the values of the known options are in range, which is the same in every revision.
fn values_are_valid(info: &RuleInfo, family: u8) -> bool {
    let address_bits = match family {
        Ipv4::NUMBER => Ipv4::ADDRESS_BITS,
        Ipv6::NUMBER => Ipv6::ADDRESS_BITS,
        _ => return false,
    };
    name_is_valid(info)
        && info.prefix_len <= address_bits
        && u32::from(info.policy) <= POLICY_DROP
        && info
            .local_addr
            .iter()
            .skip(usize::from(address_bits / 8))
            .all(|byte| *byte == 0)
        && lists_are_valid(&info.lists, &info.ranges)
}

/// `[A-Za-z0-9_.:-]{1,31}` without a leading dot, padded with NUL: it becomes a file name.
fn name_is_valid(info: &RuleInfo) -> bool {
    let bytes: [u8; NAME_LEN as usize] = info.name.map(|byte| byte as u8);
    let len = bytes.iter().take_while(|byte| **byte != 0).count();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(byte);
    (1..bytes.len()).contains(&len)
        && bytes.first() != Some(&b'.')
        && bytes.iter().take(len).all(allowed)
        && bytes.iter().skip(len).all(|byte| *byte == 0)
}

/// Whether a rule's port lists are well formed: known modes, ranges within the pool and
/// not reversed, no port 0.
pub fn lists_are_valid(
    lists: &[PortList; trafstat_abi::LISTS as usize],
    pool: &[PortRange],
) -> bool {
    lists.iter().all(|list| {
        let ranges = pool
            .iter()
            .skip(usize::from(list.start))
            .take(usize::from(list.count));
        let in_pool = usize::from(list.start) + usize::from(list.count) <= pool.len();
        match list.mode {
            MODE_LISTED => {
                list.count > 0
                    && in_pool
                    && ranges
                        .clone()
                        .all(|range| range.first > 0 && range.first <= range.last)
            }
            mode => mode <= MODE_ALL && list.count == 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::StdMemory;

    fn listed(start: u16, count: u16) -> PortList {
        PortList {
            mode: MODE_LISTED,
            start,
            count,
            reserved: 0,
        }
    }

    #[test]
    fn sctp_goes_by_the_tcp_lists_and_udp_lite_by_the_udp_ones() {
        let pool = [
            PortRange {
                first: 22,
                last: 22,
            },
            PortRange {
                first: 53,
                last: 60,
            },
        ];
        let lists = [
            listed(0, 1),
            listed(1, 1),
            PortList::default(),
            PortList::default(),
        ];
        let rule = Rule::<StdMemory>::new(&lists, &pool, Sampling::default(), (), &()).unwrap();
        let ports = rule.ports(&());
        assert_eq!(ports.keep(Side::Local, 132, 22), 22);
        assert_eq!(ports.keep(Side::Local, 136, 55), 55);
        assert_eq!(ports.keep(Side::Local, 6, 53), 0);
        assert_eq!(ports.keep(Side::Remote, 6, 22), 0);
        assert_eq!(ports.keep(Side::Local, 1, 22), 0);
    }

    proptest! {
        #[test]
        fn a_listed_port_is_one_within_a_range(
            ranges in proptest::collection::vec((1_u16.., 1_u16..), 1..20),
            ports in proptest::collection::vec(any::<u16>(), 50),
        ) {
            let pool: std::vec::Vec<_> = ranges
                .iter()
                .map(|&(a, b)| PortRange { first: a.min(b), last: a.max(b) })
                .collect();
            let list = listed(0, pool.len() as u16);
            let set = PortSet::<StdMemory>::new(&list, &pool, (), &()).unwrap();
            for port in ports.into_iter().chain(pool.iter().flat_map(|r| [r.first, r.last])) {
                let listed = pool.iter().any(|r| (r.first..=r.last).contains(&port));
                prop_assert_eq!(set.keep(port, &()), if listed { port } else { 0 });
            }
        }
    }

    proptest! {
        #[test]
        fn packed_ports_are_kept_as_single_ones_are(
            modes in proptest::array::uniform4(0_u16..3),
            local: u16, remote: u16, tcp: bool, one_in in 0_u32..3,
        ) {
            let pool = [PortRange { first: 1000, last: 40_000 }];
            let list = |mode| PortList {
                mode,
                start: 0,
                count: u16::from(mode == MODE_LISTED),
                reserved: 0,
            };
            let sampling = Sampling { tcp_any: one_in, ..Default::default() };
            let rule = Rule::<StdMemory>::new(&modes.map(list), &pool, sampling, (), &()).unwrap();
            let protocol = if tcp { TCP } else { UDP };
            let ports = rule.ports(&());
            let local_kept = u32::from(ports.keep(Side::Local, protocol, local));
            let remote_kept = u32::from(ports.keep(Side::Remote, protocol, remote));
            let kept = rule.keep_packed(protocol, u32::from(local) | u32::from(remote) << 16, &());
            let is_sampled = tcp && one_in > 1;
            prop_assert_eq!(kept, (!is_sampled).then_some(local_kept | remote_kept << 16));
        }
    }

    #[test]
    fn reversed_range_has_no_port() {
        for (first, last) in [(5, 3), (64, 63), (1000, 1), (65535, 0)] {
            let set =
                PortSet::<StdMemory>::new(&listed(0, 1), &[PortRange { first, last }], (), &())
                    .unwrap();
            let mut ports = 0..=u16::MAX;
            assert!(
                ports.all(|port| set.keep(port, &()) == 0),
                "{first} to {last}"
            );
        }
    }

    /// A rule that every revision takes, with a port in each TCP list.
    fn valid() -> RuleInfo {
        let none = PortList::default();
        let mut info = RuleInfo {
            prefix_len: 32,
            lists: [listed(0, 1), none, listed(1, 1), none],
            ..RuleInfo::EMPTY
        };
        info.name[0] = b'a' as _;
        info.ranges[..2].fill(PortRange { first: 1, last: 9 });
        info
    }

    const REVISIONS: core::ops::RangeInclusive<u8> =
        OLDEST_REVISION as u8..=trafstat_abi::REVISION as u8;

    #[test]
    fn rule_of_known_options_is_valid_in_every_revision() {
        for revision in REVISIONS {
            assert_eq!(check(&valid(), revision, Ipv4::NUMBER), Ok(()));
            assert_eq!(check(&valid(), revision, Ipv6::NUMBER), Ok(()));
        }
    }

    #[test]
    fn values_out_of_range_are_refused_in_every_revision() {
        let changes: [fn(&mut RuleInfo); 5] = [
            |info| info.name[0] = b'.' as _,
            |info| info.prefix_len = 33,
            |info| info.policy = 3,
            |info| info.lists[0].mode = 3,
            |info| info.ranges[1].first = 10,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut info = valid();
            change(&mut info);
            // An option that is unknown, too, does not hide it.
            info.lists[1].reserved = 1;
            for revision in REVISIONS {
                let checked = check(&info, revision, Ipv4::NUMBER);
                assert_eq!(checked, Err(Refusal::OutOfRange), "change {number}");
            }
        }
        assert_eq!(check(&valid(), 2, 7), Err(Refusal::OutOfRange));
    }

    #[test]
    fn unknown_option_is_refused_from_the_second_revision_on() {
        let changes: [fn(&mut RuleInfo); 4] = [
            |info| info.lists[1].reserved = 1,
            |info| info.lists[1].start = 1,
            |info| info.ranges[2].last = 1,
            |info| info.ranges[479].first = 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut info = valid();
            change(&mut info);
            let [first, second] = [1, 2].map(|revision| check(&info, revision, Ipv4::NUMBER));
            assert_eq!(first, Ok(()), "change {number}");
            assert_eq!(second, Err(Refusal::UnknownOption), "change {number}");
        }
    }

    #[test]
    fn unknown_flag_is_refused_in_every_revision() {
        for revision in REVISIONS {
            let mut info = valid();
            info.flags = 2;
            let checked = check(&info, revision, Ipv4::NUMBER);
            assert_eq!(checked, Err(Refusal::UnknownOption));
        }
    }

    #[test]
    fn reversed_ranges_and_lists_beyond_the_pool_are_invalid() {
        let pool = [PortRange { first: 2, last: 1 }];
        let none = PortList::default();
        assert!(!lists_are_valid(&[listed(0, 1), none, none, none], &pool));
        assert!(!lists_are_valid(&[listed(1, 1), none, none, none], &pool));
        assert!(!lists_are_valid(&[listed(0, 0), none, none, none], &pool));
        assert!(!lists_are_valid(
            &[PortList { mode: 3, ..none }, none, none, none],
            &pool
        ));
        assert!(lists_are_valid(&[none; 4], &pool));
    }

    #[test]
    fn address_longer_than_ipv4_is_out_of_range() {
        let mut info = valid();
        info.local_addr[4] = 1;
        for revision in REVISIONS {
            let checked = check(&info, revision, Ipv4::NUMBER);
            assert_eq!(checked, Err(Refusal::OutOfRange));
            assert_eq!(check(&info, revision, Ipv6::NUMBER), Ok(()));
        }
    }
}
