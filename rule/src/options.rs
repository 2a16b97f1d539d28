//! The option table and the way of each option into the rule.

use std::ffi::CStr;

use trafstat_abi::{
    ADDR_LEN, LISTS, MAX_RANGES, NAME_LEN, POLICY_ACCEPT, POLICY_CONTINUE, POLICY_DROP, PortList,
    PortRange, RULE_FAST_AGGREGATE, RuleInfo,
};

use crate::{
    decimal,
    local_net::{self, Family},
    name,
    ports::{self, List, PortOption, ServiceLookup},
};

/// An option of the target, without its dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetOption {
    /// `--local-net`.
    LocalNet,
    /// `--local-tcp-ports` and its three sisters.
    Ports(List),
    /// `--max-entries`.
    MaxEntries,
    /// `--traf-policy`.
    TrafPolicy,
    /// `--min-pkt-spoof`.
    MinPktSpoof,
    /// `--sample-tcp-syn`.
    SampleTcpSyn,
    /// `--sample-tcp-any`.
    SampleTcpAny,
    /// `--sample-udp-any`.
    SampleUdpAny,
    /// `--fast-aggregate`.
    FastAggregate,
    /// `--dump-priority`.
    DumpPriority,
    /// `--name`.
    Name,
}

/// One line of the option table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it sets.
    pub option: TargetOption,
    /// Its name, without dashes.
    pub name: &'static CStr,
    /// Whether a value follows it.
    pub takes_value: bool,
    /// Whether no rule goes without it.
    pub mandatory: bool,
    /// May be given again, each time adding to what is there.
    pub repeatable: bool,
}

/// All options, in the order in which they are saved; an option's id is its index.
pub const ENTRIES: [Entry; 14] = [
    Entry {
        mandatory: true,
        ..Entry::new(TargetOption::LocalNet, c"local-net")
    },
    Entry::port_list(List::LocalTcp, c"local-tcp-ports"),
    Entry::port_list(List::LocalUdp, c"local-udp-ports"),
    Entry::port_list(List::RemoteTcp, c"remote-tcp-ports"),
    Entry::port_list(List::RemoteUdp, c"remote-udp-ports"),
    Entry::new(TargetOption::MaxEntries, c"max-entries"),
    Entry::new(TargetOption::TrafPolicy, c"traf-policy"),
    Entry::new(TargetOption::MinPktSpoof, c"min-pkt-spoof"),
    Entry::new(TargetOption::SampleTcpSyn, c"sample-tcp-syn"),
    Entry::new(TargetOption::SampleTcpAny, c"sample-tcp-any"),
    Entry::new(TargetOption::SampleUdpAny, c"sample-udp-any"),
    Entry {
        takes_value: false,
        ..Entry::new(TargetOption::FastAggregate, c"fast-aggregate")
    },
    Entry::new(TargetOption::DumpPriority, c"dump-priority"),
    Entry::new(TargetOption::Name, c"name"),
];

/// The words of `--traf-policy`.
pub const POLICIES: [(&str, u32); 3] = [
    ("accept", POLICY_ACCEPT),
    ("continue", POLICY_CONTINUE),
    ("drop", POLICY_DROP),
];

/// In thousands of records.
const MAX_MAX_ENTRIES: u32 = 4_194_304;
const MAX_DUMP_PRIORITY: u32 = 100;

impl Entry {
    const fn new(option: TargetOption, name: &'static CStr) -> Self {
        Self {
            option,
            name,
            takes_value: true,
            mandatory: false,
            repeatable: false,
        }
    }

    const fn port_list(list: List, name: &'static CStr) -> Self {
        // iptables-restore takes no parameter of more than 1,023 bytes, so a longer
        // list is saved as several options.
        Self {
            repeatable: true,
            ..Self::new(TargetOption::Ports(list), name)
        }
    }

    /// The option's name as text.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}

/// A rule before its first option.
pub fn empty() -> RuleInfo {
    RuleInfo {
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
        lists: [PortList::default(); LISTS as usize],
        ranges: [PortRange::default(); MAX_RANGES as usize],
        rule: std::ptr::null_mut(),
    }
}

/// Puts one option into the rule, which was all zeros before the first option.
///
/// `repeated` says that the option stood on this command line before.
///
/// # Errors
/// One line that names the option and what would be right.
pub fn parse<F: Family>(
    info: &mut RuleInfo,
    entry: &Entry,
    value: &str,
    repeated: bool,
    lookup: ServiceLookup,
) -> Result<(), String> {
    apply::<F>(info, entry.option, value, repeated, lookup)
        .map_err(|reason| format!("--{}: {reason}", entry.name()))
}

/// Completes the rule after its last option: the name that was not given.
///
/// # Errors
/// One line, for a local net that is too long to make a name of.
pub fn complete<F: Family>(info: &mut RuleInfo) -> Result<(), String> {
    if info.name[0] == 0 {
        info.name = name::default_for::<F>(info)
            .map_err(|reason| format!("--name must be given: {reason}"))?;
    }
    Ok(())
}

fn apply<F: Family>(
    info: &mut RuleInfo,
    option: TargetOption,
    value: &str,
    repeated: bool,
    lookup: ServiceLookup,
) -> Result<(), String> {
    match option {
        TargetOption::LocalNet => {
            let net = local_net::parse::<F>(value)?;
            info.local_addr = net.addr;
            info.prefix_len = net.prefix_len;
        }
        TargetOption::Ports(list) => {
            let ports = ports::parse(list, value, lookup)?;
            if repeated && !(matches!(ports, PortOption::Listed(_)) && ports::is_listed(info, list))
            {
                return Err("can be repeated only to add ports to a list of ports".to_owned());
            }
            ports::insert(info, list, &ports)?;
        }
        TargetOption::MaxEntries => info.max_entries = decimal::parse(value, 1, MAX_MAX_ENTRIES)?,
        TargetOption::TrafPolicy => info.policy = parse_policy(value)?,
        TargetOption::MinPktSpoof => info.min_pkt_spoof = decimal::parse(value, 0, u32::MAX)?,
        TargetOption::SampleTcpSyn => info.sample_tcp_syn = decimal::parse(value, 0, u32::MAX)?,
        TargetOption::SampleTcpAny => info.sample_tcp_any = decimal::parse(value, 0, u32::MAX)?,
        TargetOption::SampleUdpAny => info.sample_udp_any = decimal::parse(value, 0, u32::MAX)?,
        TargetOption::FastAggregate => info.flags |= RULE_FAST_AGGREGATE as u8,
        TargetOption::DumpPriority => {
            info.dump_priority = decimal::parse(value, 0, MAX_DUMP_PRIORITY)? as u8;
        }
        TargetOption::Name => info.name = name::parse(value)?,
    }
    Ok(())
}

fn parse_policy(text: &str) -> Result<u8, String> {
    POLICIES
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))
        .map(|&(_, policy)| policy as u8)
        .ok_or_else(|| {
            format!(
                "'{}' is no policy; give accept, continue or drop",
                text.escape_debug()
            )
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::local_net::{Ipv4, Ipv6};
    use crate::ports::Transport;

    /// A small `/etc/services`.
    pub fn services(name: &str, transport: Transport) -> Option<u16> {
        match (name, transport) {
            ("ssh", Transport::Tcp) => Some(22),
            ("domain", _) => Some(53),
            ("https", Transport::Tcp) => Some(443),
            ("ntp", Transport::Udp) => Some(123),
            _ => None,
        }
    }

    /// Reads the options of a command line by the table's rules, as libxtables does.
    pub fn parse_words<F: Family>(words: &[&str]) -> Result<RuleInfo, String> {
        let mut info = empty();
        let mut given = [false; ENTRIES.len()];
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let id = ENTRIES
                .iter()
                .position(|entry| word.strip_prefix("--") == Some(entry.name()))
                .ok_or_else(|| format!("unknown option {word}"))?;
            let entry = &ENTRIES[id];
            if given[id] && !entry.repeatable {
                return Err(format!("{word} can only be used once"));
            }
            let value = match entry.takes_value {
                true => words
                    .next()
                    .ok_or_else(|| format!("{word} needs a value"))?,
                false => "",
            };
            parse::<F>(&mut info, entry, value, given[id], services)?;
            given[id] = true;
        }
        for (entry, given) in ENTRIES.iter().zip(given) {
            if entry.mandatory && !given {
                return Err(format!("--{} must be given", entry.name()));
            }
        }
        complete::<F>(&mut info)?;
        Ok(info)
    }

    fn refusal(text: &str) -> String {
        let words: Vec<&str> = text.split(' ').collect();
        let error = parse_words::<Ipv4>(&words).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    fn rule(text: &str) -> RuleInfo {
        parse_words::<Ipv4>(&text.split(' ').collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn local_net_alone_names_the_account_after_it() {
        assert_eq!(
            name::text(&rule("--local-net 10.1.2.3/8").name),
            "10.1.2.3_8"
        );
        assert_eq!(
            name::text(&rule("--local-net 192.0.2.1").name),
            "192.0.2.1_32"
        );
    }

    #[test]
    fn local_net_that_makes_no_name_needs_one() {
        let local_net = ["--local-net", "2001:db8:1111:2222:3333:4444:5555:6666"];
        let error = parse_words::<Ipv6>(&local_net).unwrap_err();
        assert_eq!(
            error,
            "--name must be given: the default '2001:db8:1111:2222:3333:4444:5555:6666_128' \
             has 42 characters and a name has at most 31; choose a shorter one"
        );
        let named = [&local_net[..], &["--name", "web"]].concat();
        assert_eq!(
            name::text(&parse_words::<Ipv6>(&named).unwrap().name),
            "web"
        );
    }

    #[test]
    fn given_name_stays_wherever_it_stands() {
        let first = rule("--name web --local-net 10.0.0.0/8");
        let last = rule("--local-net 10.0.0.0/8 --name web");
        assert_eq!(name::text(&first.name), "web");
        assert_eq!(format!("{first:?}"), format!("{last:?}"));
    }

    #[test]
    fn every_option_reaches_its_field() {
        let info = rule(
            "--local-net 10.0.0.1 --local-tcp-ports 22,80 --local-udp-ports all \
             --remote-tcp-ports none --remote-udp-ports ntp --max-entries 2000 \
             --traf-policy drop --min-pkt-spoof 3 --sample-tcp-syn 10 --sample-tcp-any 20 \
             --sample-udp-any 30 --fast-aggregate --dump-priority 5",
        );
        let modes = info.lists.map(|list| list.mode);
        assert_eq!(modes, [2, 1, 0, 2]);
        assert_eq!((info.lists[3].start, info.lists[3].count), (2, 1));
        assert_eq!(info.ranges[2].first, 123);
        assert_eq!(info.max_entries, 2000);
        assert_eq!(info.policy, 2);
        assert_eq!(info.min_pkt_spoof, 3);
        assert_eq!(info.sample_tcp_syn, 10);
        assert_eq!(info.sample_tcp_any, 20);
        assert_eq!(info.sample_udp_any, 30);
        assert_eq!(info.flags, 1);
        assert_eq!(info.dump_priority, 5);
    }

    #[test]
    fn policy_is_read_in_any_case() {
        for (text, policy) in [("ACCEPT", 1), ("Drop", 2), ("conTinue", 0)] {
            let info = rule(&format!("--local-net 10.0.0.1 --traf-policy {text}"));
            assert_eq!(info.policy, policy);
        }
        assert!(refusal("--traf-policy reject").contains("accept, continue or drop"));
    }

    #[test]
    fn numbers_outside_their_bounds_are_refused() {
        for text in [
            "--max-entries 0",
            "--max-entries 4194305",
            "--min-pkt-spoof 4294967296",
            "--sample-tcp-syn -1",
            "--sample-tcp-any x",
            "--sample-udp-any ",
            "--dump-priority 101",
        ] {
            let option = text.split(' ').next().unwrap();
            let error = refusal(text);
            assert!(error.starts_with(&format!("{option}: ")), "{error}");
            assert!(error.contains("is not a whole number"), "{error}");
        }
    }

    #[test]
    fn only_a_list_of_ports_can_be_continued() {
        let once = rule("--local-net 10.0.0.1 --local-tcp-ports 22,80,443");
        let twice = rule("--local-net 10.0.0.1 --local-tcp-ports 22 --local-tcp-ports 80,443");
        assert_eq!(format!("{once:?}"), format!("{twice:?}"));
        for (first, second) in [
            ("22", "all"),
            ("22", "none"),
            ("all", "22"),
            ("none", "22"),
            ("all", "all"),
        ] {
            let error = refusal(&format!(
                "--local-tcp-ports {first} --local-tcp-ports {second}"
            ));
            assert!(error.contains("can be repeated only to add"), "{error}");
        }
    }
}
