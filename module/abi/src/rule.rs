// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT
//! A rule without options, and the room of a rule: what no option has taken yet, as
//! `uapi/xt_TRAFSTAT.h` defines it.

use core::ptr;

use crate::{
    ADDR_LEN, LISTS, MAX_RANGES, NAME_LEN, PortList, PortRange, RULE_FAST_AGGREGATE, RuleInfo,
};

impl RuleInfo {
    /// A rule before its first option.
    pub const EMPTY: Self = Self {
        name: [0; NAME_LEN as usize],
        local_addr: [0; ADDR_LEN as usize],
        prefix_len: 0,
        policy: 0,
        flags: 0,
        dump_priority: 0,
        max_entries: 0,
        min_pkt_spoof: 0,
        sample_tcp_syn: 0,
        sample_tcp_any: 0,
        sample_udp_any: 0,
        lists: [PortList {
            mode: 0,
            start: 0,
            count: 0,
            reserved: 0,
        }; LISTS as usize],
        ranges: [PortRange { first: 0, last: 0 }; MAX_RANGES as usize],
        rule: ptr::null_mut(),
    };

    /// Whether the rule has nothing but options known here, as revision 2 demands.
    pub fn has_known_options_alone(&self) -> bool {
        let lists_have_room = self
            .lists
            .iter()
            .all(|list| list.reserved == 0 && (list.count > 0 || list.start == 0));
        self.has_known_flags_alone()
            && lists_have_room
            && self
                .ranges
                .iter()
                .skip(self.listed_ranges())
                .all(|range| range.first == 0 && range.last == 0)
    }

    /// Whether every bit of `flags` is known here, as each revision demands.
    pub fn has_known_flags_alone(&self) -> bool {
        u32::from(self.flags) & !RULE_FAST_AGGREGATE == 0
    }

    /// Empties the room but for `flags`: what lies there in revision 1 has no meaning.
    pub fn clear_room(&mut self) {
        let listed = self.listed_ranges();
        for list in &mut self.lists {
            list.reserved = 0;
            if list.count == 0 {
                list.start = 0;
            }
        }
        for range in self.ranges.iter_mut().skip(listed) {
            *range = PortRange::default();
        }
    }

    /// Ranges up to the last one that a list has.
    fn listed_ranges(&self) -> usize {
        let lists = self.lists.iter().filter(|list| list.count > 0);
        lists
            .map(|list| usize::from(list.start) + usize::from(list.count))
            .max()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PORTS_LISTED;

    fn listed(start: u16, count: u16) -> PortList {
        PortList {
            mode: PORTS_LISTED as u16,
            start,
            count,
            reserved: 0,
        }
    }

    /// A rule whose UDP lists have the ranges 0 to 2 and 3 to 4.
    fn rule() -> RuleInfo {
        let none = PortList::default();
        let mut info = RuleInfo {
            name: [1; 32],
            dump_priority: 1,
            flags: RULE_FAST_AGGREGATE as u8,
            sample_udp_any: u32::MAX,
            lists: [none, listed(0, 3), none, listed(3, 2)],
            ..RuleInfo::EMPTY
        };
        info.ranges[..5].fill(PortRange { first: 1, last: 2 });
        info
    }

    #[test]
    fn options_that_are_known_leave_the_room_empty() {
        let mut info = rule();
        assert!(info.has_known_options_alone());
        info.clear_room();
        assert_eq!(info.ranges[4].last, 2);
        assert_eq!(info.lists[3].start, 3);
    }

    #[test]
    fn every_part_of_the_room_is_seen_and_cleared() {
        let parts: [fn(&mut RuleInfo); 6] = [
            |info| info.lists[0].reserved = 1,
            |info| info.lists[3].reserved = 1 << 15,
            |info| info.lists[2].start = 1,
            |info| info.ranges[5].first = 1,
            |info| info.ranges[5].last = 1,
            |info| info.ranges[479].last = 1 << 15,
        ];
        for (number, put_into) in parts.iter().enumerate() {
            let mut info = rule();
            put_into(&mut info);
            assert!(!info.has_known_options_alone(), "part {number}");
            info.clear_room();
            assert!(info.has_known_options_alone(), "part {number}");
        }
    }

    #[test]
    fn flags_without_a_name_are_seen_and_stay() {
        for bit in 1..8 {
            let mut info = rule();
            info.flags |= 1 << bit;
            info.clear_room();
            assert!(!info.has_known_flags_alone());
            assert!(!info.has_known_options_alone());
        }
    }

    #[test]
    fn rule_with_all_ranges_has_no_room_among_them() {
        let mut info = rule();
        info.lists[0] = listed(5, 475);
        info.ranges.fill(PortRange { first: 1, last: 1 });
        assert!(info.has_known_options_alone());
    }
}
