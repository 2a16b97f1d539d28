// SPDX-License-Identifier: GPL-2.0-or-later
//! The four port lists of a rule and the pool of ranges that they share.

use std::slice::SliceIndex;

use trafstat_abi::{
    LOCAL_TCP, LOCAL_UDP, MAX_RANGES, PORTS_ALL, PORTS_LISTED, PORTS_NONE, PortList, PortRange,
    REMOTE_TCP, REMOTE_UDP, RuleInfo,
};

use crate::decimal;

/// One of a rule's port lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `--local-tcp-ports`.
    LocalTcp = LOCAL_TCP as isize,
    /// `--local-udp-ports`.
    LocalUdp = LOCAL_UDP as isize,
    /// `--remote-tcp-ports`.
    RemoteTcp = REMOTE_TCP as isize,
    /// `--remote-udp-ports`.
    RemoteUdp = REMOTE_UDP as isize,
}

/// The protocol that a service's port is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, and for SCTP and DCCP too.
    Tcp,
    /// UDP, and for UDP-Lite too.
    Udp,
}

/// Finds the port of a named service, as `getservbyname(3)`.
pub type ServiceLookup = fn(&str, Transport) -> Option<u16>;

/// The value of one port option.
#[derive(Clone, Debug)]
pub enum PortOption {
    /// No port keeps its number.
    None,
    /// Every port does.
    All,
    /// Ports in these ranges do, as typed.
    Listed(Vec<PortRange>),
}

impl List {
    fn transport(self) -> Transport {
        match self {
            Self::LocalTcp | Self::RemoteTcp => Transport::Tcp,
            Self::LocalUdp | Self::RemoteUdp => Transport::Udp,
        }
    }
}

/// Reads `all`, `none`, or ports, services and ranges `FIRST:LAST` between commas.
///
/// # Errors
/// One line that says what is wrong with which element.
pub fn parse(list: List, text: &str, lookup: ServiceLookup) -> Result<PortOption, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(PortOption::None);
    }
    if text.eq_ignore_ascii_case("all") {
        return Ok(PortOption::All);
    }
    if text.is_empty() {
        return Err("is empty; give ports, all or none".to_owned());
    }
    let range = |element| parse_range(element, list.transport(), lookup);
    text.split(',')
        .map(range)
        .collect::<Result<_, _>>()
        .map(PortOption::Listed)
}

/// Whether the list has ports of its own, rather than all or none.
pub fn is_listed(info: &RuleInfo, list: List) -> bool {
    u32::from(info.lists[list as usize].mode) == PORTS_LISTED
}

/// Puts what an option says into the rule; a list that is there already grows.
///
/// The pool keeps the lists in the order of their indexes, whatever the order of the
/// options, so that equal rules are equal in every byte and `iptables -D` finds them.
///
/// # Errors
/// One line: the pool is full.
pub fn insert(info: &mut RuleInfo, list: List, ports: &PortOption) -> Result<(), String> {
    let index = list as usize;
    let (mode, ranges) = match ports {
        PortOption::None => (PORTS_NONE, &[][..]),
        PortOption::All => (PORTS_ALL, &[][..]),
        PortOption::Listed(ranges) => (PORTS_LISTED, &ranges[..]),
    };
    let used = count(info, ..);
    if used + ranges.len() > MAX_RANGES as usize {
        return Err(format!(
            "{} more ports and ranges make {}, but all port lists of a rule together hold \
             {MAX_RANGES}; write neighbouring ports as a range, such as 1000:1999",
            ranges.len(),
            used + ranges.len(),
        ));
    }
    let end = count(info, ..=index);
    info.ranges.copy_within(end..used, end + ranges.len());
    info.ranges[end..end + ranges.len()].copy_from_slice(ranges);
    info.lists[index].mode = mode as u16;
    info.lists[index].count += ranges.len() as u16;
    let mut start = 0;
    for list in info.lists.iter_mut().filter(|list| list.count > 0) {
        list.start = start;
        start += list.count;
    }
    Ok(())
}

/// The list's text in pieces of at most `max_len` bytes, none where it has no ports.
///
/// A list that does not lie in the pool, which neither this plugin nor the kernel lets
/// through, reads as a word that no option takes.
pub fn texts(info: &RuleInfo, list: List, max_len: usize) -> Vec<String> {
    let list = &info.lists[list as usize];
    match u32::from(list.mode) {
        PORTS_NONE => return Vec::new(),
        PORTS_ALL => return vec!["all".to_owned()],
        _ => {}
    }
    let start = usize::from(list.start);
    let Some(ranges) = info.ranges.get(start..start + usize::from(list.count)) else {
        return vec!["malformed".to_owned()];
    };
    let mut pieces: Vec<String> = Vec::new();
    for range in ranges {
        let element = format_range(range);
        match pieces.last_mut() {
            Some(piece) if piece.len() + 1 + element.len() <= max_len => {
                piece.push(',');
                piece.push_str(&element);
            }
            _ => pieces.push(element),
        }
    }
    pieces
}

fn count<I>(info: &RuleInfo, lists: I) -> usize
where
    I: SliceIndex<[PortList], Output = [PortList]>,
{
    let counts = info.lists[lists].iter().map(|list| usize::from(list.count));
    counts.sum()
}

fn parse_range(
    element: &str,
    transport: Transport,
    lookup: ServiceLookup,
) -> Result<PortRange, String> {
    let Some((first, last)) = element.split_once(':') else {
        let port = parse_port(element, transport, lookup)?;
        return Ok(PortRange {
            first: port,
            last: port,
        });
    };
    let range = PortRange {
        first: parse_port(first, transport, lookup)?,
        last: parse_port(last, transport, lookup)?,
    };
    if range.first > range.last {
        return Err(format!(
            "range '{}' goes backwards; write the lower port first",
            element.escape_debug()
        ));
    }
    Ok(range)
}

fn parse_port(text: &str, transport: Transport, lookup: ServiceLookup) -> Result<u16, String> {
    if text.is_empty() {
        return Err("a port is missing before or after a comma or colon".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match decimal::parse(text, 1, u16::MAX.into()) {
            Ok(port) => Ok(port as u16),
            Err(reason) => Err(format!("port {reason}")),
        };
    }
    let known = lookup(text, transport).filter(|&port| port != 0);
    known.ok_or_else(|| {
        let service = match transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        format!(
            "'{}' is neither a port from 1 to 65535 nor a {service} service of /etc/services",
            text.escape_debug()
        )
    })
}

fn format_range(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}:{}", range.first, range.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{empty, tests::services};

    fn listed(text: &str) -> Vec<(u16, u16)> {
        match parse(List::LocalTcp, text, services) {
            Ok(PortOption::Listed(ranges)) => ranges.iter().map(|r| (r.first, r.last)).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        parse(List::LocalTcp, text, services).unwrap_err()
    }

    fn insert_text(info: &mut RuleInfo, list: List, text: &str) -> Result<(), String> {
        insert(info, list, &parse(list, text, services)?)
    }

    #[test]
    fn all_and_none_are_read_in_any_case() {
        for text in ["all", "ALL", "All"] {
            assert!(matches!(
                parse(List::LocalTcp, text, services),
                Ok(PortOption::All)
            ));
        }
        for text in ["none", "NONE", "None"] {
            assert!(matches!(
                parse(List::LocalTcp, text, services),
                Ok(PortOption::None)
            ));
        }
    }

    #[test]
    fn order_overlap_and_duplicates_stay_as_typed() {
        assert_eq!(
            listed("80,22,80,1:65535,79:81"),
            [(80, 80), (22, 22), (80, 80), (1, 65535), (79, 81)]
        );
    }

    #[test]
    fn service_is_looked_up_for_the_lists_transport() {
        assert_eq!(listed("ssh,ssh:https"), [(22, 22), (22, 443)]);
        assert!(parse(List::LocalUdp, "domain", services).is_ok());
        let error = parse(List::RemoteUdp, "https", services).unwrap_err();
        assert!(error.contains("UDP service"), "{error}");
    }

    #[test]
    fn port_zero_and_ports_past_65535_are_refused() {
        for text in ["0", "65536", "0:5", "5:65536", "99999999999", "22,0"] {
            assert!(refusal(text).contains("from 1 to 65535"), "{text}");
        }
    }

    #[test]
    fn empty_elements_and_open_ranges_are_refused() {
        for text in [",", "22,", ",22", "22,,80", ":", ":22", "22:"] {
            assert!(refusal(text).contains("a port is missing"), "{text}");
        }
        assert!(refusal("").contains("is empty"));
    }

    #[test]
    fn backward_range_is_refused_and_one_port_range_is_that_port() {
        assert!(refusal("23:22").contains("goes backwards"));
        assert_eq!(listed("22:22"), [(22, 22)]);
    }

    #[test]
    fn unknown_words_are_refused() {
        for text in [
            "nosuch", "22,all", "none,22", "22-23", "1:2:3", " 22", "+22", "-1",
        ] {
            assert!(
                refusal(text).contains("is neither"),
                "{text}: {}",
                refusal(text)
            );
        }
    }

    #[test]
    fn pool_is_the_same_for_every_order_of_options() {
        let options = [
            (List::LocalTcp, "22,80"),
            (List::LocalUdp, "53"),
            (List::RemoteTcp, "1:9,443"),
            (List::RemoteUdp, "123"),
        ];
        let insert_all = |order: &[usize]| {
            let mut info = empty();
            for &index in order {
                let (list, text) = options[index];
                insert_text(&mut info, list, text).unwrap();
            }
            format!("{info:?}")
        };
        let straight = insert_all(&[0, 1, 2, 3]);
        assert_eq!(insert_all(&[3, 2, 1, 0]), straight);
        assert_eq!(insert_all(&[2, 0, 3, 1]), straight);
    }

    #[test]
    fn list_grows_without_disturbing_the_others() {
        let mut info = empty();
        insert_text(&mut info, List::LocalTcp, "22").unwrap();
        insert_text(&mut info, List::RemoteUdp, "53").unwrap();
        insert_text(&mut info, List::LocalTcp, "80,443").unwrap();
        assert_eq!(texts(&info, List::LocalTcp, usize::MAX), ["22,80,443"]);
        assert_eq!(texts(&info, List::RemoteUdp, usize::MAX), ["53"]);
    }

    #[test]
    fn pool_takes_480_ranges_and_says_how_many_are_too_many() {
        let mut info = empty();
        let ports = |count: u32| {
            (1..=count)
                .map(|p| p.to_string())
                .collect::<Vec<_>>()
                .join(",")
        };
        insert_text(&mut info, List::LocalUdp, &ports(400)).unwrap();
        let error = insert_text(&mut info, List::LocalTcp, &ports(81)).unwrap_err();
        assert!(
            error.starts_with("81 more ports and ranges make 481,"),
            "{error}"
        );
        insert_text(&mut info, List::LocalTcp, &ports(80)).unwrap();
        assert_eq!(info.lists[1].start, 80);
        assert_eq!(info.ranges[479].first, 400);
    }

    #[test]
    fn long_list_is_written_in_pieces_between_elements() {
        let mut info = empty();
        insert_text(&mut info, List::LocalTcp, "22,80:90,443").unwrap();
        assert_eq!(texts(&info, List::LocalTcp, 8), ["22,80:90", "443"]);
        assert_eq!(texts(&info, List::LocalTcp, 1), ["22", "80:90", "443"]);
    }

    #[test]
    fn list_outside_the_pool_reads_as_malformed() {
        let mut info = empty();
        info.lists[0] = PortList {
            mode: PORTS_LISTED as u16,
            start: 479,
            count: 2,
            reserved: 0,
        };
        assert_eq!(texts(&info, List::LocalTcp, usize::MAX), ["malformed"]);
    }
}
