// SPDX-License-Identifier: GPL-2.0-or-later
//! The option table, and how each option gets into the rule.

use std::ffi::CStr;

use trafstat_abi::{
    OLDEST_REVISION, POLICY_ACCEPT, POLICY_CONTINUE, POLICY_DROP, RULE_FAST_AGGREGATE, RuleInfo,
};

use crate::{
    decimal,
    local_net::{self, Family},
    name,
    ports::{self, List, PortOption, ServiceLookup},
};

/// An option of a rule: all that parser, renderer, help and the programs' options are made
/// from, and that the manual and README are checked against.
#[derive(Clone, Copy, Debug)]
pub struct RuleOption {
    /// The name without dashes.
    pub name: &'static CStr,
    /// The argument, and the field of the rule that it goes to.
    pub argument: Argument,
    /// The meaning in a few words; a line of its own may explain the argument.
    pub meaning: &'static str,
    /// What a rule without the option has.
    pub default: Option<DefaultValue>,
    /// Whether every rule needs the option.
    pub mandatory: bool,
    /// The first revision of the target that has the option.
    pub revision: u32,
    /// Whether it is of use without the kernel module, too, where no packet has a fate.
    pub counts_captures: bool,
}

/// The argument of an option.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// None; the option sets this bit of `flags`.
    Flag(u32),
    /// A net, of which a packet's local side is.
    LocalNet,
    /// Ports, for one of the four lists.
    Ports(List),
    /// A whole number.
    Number(Number),
    /// A word of [`POLICIES`].
    Policy,
    /// The account's name.
    Name,
}

/// A whole number: its limits, and its field. The field is 0 where the option is not given.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// The smallest one that is taken.
    pub least: u32,
    /// The largest one that is taken.
    pub most: u32,
    /// Reads the field.
    pub get: fn(&RuleInfo) -> u32,
    /// Writes the field.
    pub set: fn(&mut RuleInfo, u32),
}

/// The value that counts where an option is not given.
#[derive(Clone, Copy, Debug)]
pub struct DefaultValue {
    /// The value as a user would type it.
    pub value: &'static str,
    /// What to know of it; may be empty.
    pub remark: &'static str,
}

/// All options, in the order in which they are saved; an option's id is its index.
pub const OPTIONS: [RuleOption; 14] = [
    RuleOption {
        mandatory: true,
        ..RuleOption::new(
            c"local-net",
            Argument::LocalNet,
            "the side to account for; traffic from it is sent, to it received",
        )
    },
    RuleOption::ports(
        c"local-tcp-ports",
        List::LocalTcp,
        "local ports that records keep, for TCP, SCTP and DCCP",
    ),
    RuleOption::ports(
        c"local-udp-ports",
        List::LocalUdp,
        "the same for UDP and UDP-Lite",
    ),
    RuleOption::ports(
        c"remote-tcp-ports",
        List::RemoteTcp,
        "remote ports that records keep, for TCP, SCTP and DCCP",
    ),
    RuleOption::ports(
        c"remote-udp-ports",
        List::RemoteUdp,
        "the same for UDP and UDP-Lite\n\
         PORTS: all, none, or ports, services and ranges FIRST:LAST between commas; again to add \
         to a list",
    ),
    RuleOption {
        default: DefaultValue::new("1000", ""),
        ..RuleOption::new(
            c"max-entries",
            Argument::Number(Number {
                least: 1,
                most: 4_194_304,
                get: |info| info.max_entries,
                set: |info, thousands| info.max_entries = thousands,
            }),
            "thousands of records between two reads",
        )
    },
    RuleOption {
        default: DefaultValue::new("continue", ""),
        counts_captures: false,
        ..RuleOption::new(
            c"traf-policy",
            Argument::Policy,
            "what becomes of a counted packet",
        )
    },
    RuleOption {
        default: DefaultValue::new("0", "keep all"),
        ..RuleOption::new(
            c"min-pkt-spoof",
            Argument::Number(Number {
                least: 0,
                most: u32::MAX,
                get: |info| info.min_pkt_spoof,
                set: |info, packets| info.min_pkt_spoof = packets,
            }),
            "give up the remote side of records that received fewer packets",
        )
    },
    RuleOption::sample(
        c"sample-tcp-syn",
        |info| info.sample_tcp_syn,
        |info, one_in| info.sample_tcp_syn = one_in,
        "count one in N TCP SYN packets, N times",
    ),
    RuleOption::sample(
        c"sample-tcp-any",
        |info| info.sample_tcp_any,
        |info, one_in| info.sample_tcp_any = one_in,
        "the same for other TCP packets, and for SYN packets without an option of their own",
    ),
    RuleOption::sample(
        c"sample-udp-any",
        |info| info.sample_udp_any,
        |info, one_in| info.sample_udp_any = one_in,
        "the same for UDP packets",
    ),
    RuleOption {
        counts_captures: false,
        ..RuleOption::new(
            c"fast-aggregate",
            Argument::Flag(RULE_FAST_AGGREGATE),
            "accepted for old rules, without effect",
        )
    },
    RuleOption {
        counts_captures: false,
        ..RuleOption::new(
            c"dump-priority",
            Argument::Number(Number {
                least: 0,
                most: 100,
                get: |info| info.dump_priority as u32,
                // The largest one fits.
                set: |info, priority| info.dump_priority = priority as u8,
            }),
            "accepted for old rules, without effect",
        )
    },
    RuleOption {
        default: DefaultValue::new("ADDRESS_PREFIX", "mandatory where that is longer"),
        ..RuleOption::new(
            c"name",
            Argument::Name,
            "the account to count into, up to 31 characters A-Z a-z 0-9 _ . : -",
        )
    },
];

// A bit of libxtables' flags tells of each option whether it was given.
const _: () = assert!(OPTIONS.len() <= u32::BITS as usize);

/// The words of `--traf-policy`.
pub const POLICIES: [(&str, u32); 3] = [
    ("accept", POLICY_ACCEPT),
    ("continue", POLICY_CONTINUE),
    ("drop", POLICY_DROP),
];

/// What a rule reads as that has an option of a later version. No option has this name.
pub const UNKNOWN_OPTION: &str = "option-of-newer-version";

impl RuleOption {
    const fn new(name: &'static CStr, argument: Argument, meaning: &'static str) -> Self {
        Self {
            name,
            argument,
            meaning,
            default: None,
            mandatory: false,
            revision: OLDEST_REVISION,
            counts_captures: true,
        }
    }

    const fn ports(name: &'static CStr, list: List, meaning: &'static str) -> Self {
        Self {
            default: DefaultValue::new("none", ""),
            ..Self::new(name, Argument::Ports(list), meaning)
        }
    }

    const fn sample(
        name: &'static CStr,
        get: fn(&RuleInfo) -> u32,
        set: fn(&mut RuleInfo, u32),
        meaning: &'static str,
    ) -> Self {
        let one_in = Number {
            least: 0,
            most: u32::MAX,
            get,
            set,
        };
        Self {
            default: DefaultValue::new("0", "all"),
            ..Self::new(name, Argument::Number(one_in), meaning)
        }
    }

    /// The option of this name, which is given without dashes.
    pub fn find(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.name() == name)
    }

    /// The option's name as text.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// Whether an argument follows the option.
    pub fn takes_value(&self) -> bool {
        !matches!(self.argument, Argument::Flag(_))
    }

    /// Whether the option may be given again, each time adding to what is there.
    pub fn is_repeatable(&self) -> bool {
        // iptables-restore takes no parameter of more than 1,023 bytes, so a longer list is
        // saved as several options.
        matches!(self.argument, Argument::Ports(_))
    }

    /// The meaning with limits and default.
    pub fn help(&self) -> String {
        let limits = match self.argument {
            Argument::Number(number) => number.limits(),
            _ => None,
        };
        let limits = limits.map_or_else(String::new, |limits| format!("; {limits}"));
        let default = match self.default {
            _ if self.mandatory => " (mandatory)".to_owned(),
            None => String::new(),
            Some(DefaultValue { value, remark: "" }) => format!(" (default {value})"),
            Some(DefaultValue { value, remark }) => format!(" (default {value}: {remark})"),
        };
        format!("{}{limits}{default}", self.meaning)
    }
}

impl Argument {
    /// The argument as help names it; empty where there is none.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Flag(_) => "",
            Self::LocalNet => "ADDRESS[/PREFIX|/MASK]",
            Self::Ports(_) => "PORTS",
            Self::Number(_) => "N",
            Self::Policy => "accept|continue|drop",
            Self::Name => "NAME",
        }
    }
}

impl Number {
    /// The limits in words, where they are not those of the field.
    pub fn limits(self) -> Option<String> {
        (self.most < u32::MAX).then(|| format!("{} to {}", self.least, self.most))
    }
}

impl DefaultValue {
    const fn new(value: &'static str, remark: &'static str) -> Option<Self> {
        Some(Self { value, remark })
    }
}

/// A rule before its first option.
pub fn empty() -> RuleInfo {
    RuleInfo::EMPTY
}

/// Puts one option into the rule, which was all zeros before the first option.
///
/// `repeated` says that the option stood on this command line before.
///
/// # Errors
/// One line that names the option and what would be right.
pub fn parse<F: Family>(
    info: &mut RuleInfo,
    option: &RuleOption,
    value: &str,
    repeated: bool,
    lookup: ServiceLookup,
) -> Result<(), String> {
    apply::<F>(info, option.argument, value, repeated, lookup)
        .map_err(|reason| format!("--{}: {reason}", option.name()))
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
    argument: Argument,
    value: &str,
    repeated: bool,
    lookup: ServiceLookup,
) -> Result<(), String> {
    match argument {
        Argument::Flag(bit) => info.flags |= bit as u8,
        Argument::LocalNet => {
            let net = local_net::parse::<F>(value)?;
            info.local_addr = net.addr;
            info.prefix_len = net.prefix_len;
        }
        Argument::Ports(list) => {
            let ports = ports::parse(list, value, lookup)?;
            if repeated && !(matches!(ports, PortOption::Listed(_)) && ports::is_listed(info, list))
            {
                return Err("can be repeated only to add ports to a list of ports".to_owned());
            }
            ports::insert(info, list, &ports)?;
        }
        Argument::Number(number) => {
            (number.set)(info, decimal::parse(value, number.least, number.most)?);
        }
        Argument::Policy => info.policy = parse_policy(value)?,
        Argument::Name => info.name = name::parse(value)?,
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
        let mut given = [false; OPTIONS.len()];
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let id = OPTIONS
                .iter()
                .position(|option| word.strip_prefix("--") == Some(option.name()))
                .ok_or_else(|| format!("unknown option {word}"))?;
            let option = &OPTIONS[id];
            if given[id] && !option.is_repeatable() {
                return Err(format!("{word} can only be used once"));
            }
            let value = match option.takes_value() {
                true => words
                    .next()
                    .ok_or_else(|| format!("{word} needs a value"))?,
                false => "",
            };
            parse::<F>(&mut info, option, value, given[id], services)?;
            given[id] = true;
        }
        for (option, given) in OPTIONS.iter().zip(given) {
            if option.mandatory && !given {
                return Err(format!("--{} must be given", option.name()));
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
    fn limits_of_the_table_are_taken_and_the_numbers_beyond_are_not() {
        for option in &OPTIONS {
            let Argument::Number(number) = option.argument else {
                continue;
            };
            let parse = |value: u64| {
                let mut info = empty();
                parse::<Ipv4>(&mut info, option, &value.to_string(), false, services)
                    .map(|()| (number.get)(&info))
            };
            let (least, most) = (u64::from(number.least), u64::from(number.most));
            assert_eq!(parse(least), Ok(number.least), "{option:?}");
            assert_eq!(parse(most), Ok(number.most), "{option:?}");
            assert!(parse(most + 1).is_err(), "{option:?}");
            assert!(least == 0 || parse(least - 1).is_err(), "{option:?}");
        }
    }

    #[test]
    fn defaults_of_the_table_are_those_of_the_rule() {
        let without = rule("--local-net 10.0.0.1");
        for option in &OPTIONS {
            let Some(DefaultValue { value, .. }) = option.default else {
                continue;
            };
            if matches!(option.argument, Argument::Name) {
                continue;
            }
            let with = rule(&format!("--local-net 10.0.0.1 --{} {value}", option.name()));
            if option.name() == "max-entries" {
                // It is kept as typed. The kernel has the default.
                let records = with.max_entries * 1000;
                assert_eq!(records, trafstat_abi::DEFAULT_MAX_ENTRIES);
            } else {
                assert_eq!(format!("{with:?}"), format!("{without:?}"), "{option:?}");
            }
        }
    }

    #[test]
    fn every_option_is_of_a_revision_that_the_plugin_has() {
        for option in &OPTIONS {
            let revisions = OLDEST_REVISION..=trafstat_abi::REVISION;
            assert!(revisions.contains(&option.revision), "{option:?}");
            assert!(RuleOption::find(option.name()).is_some(), "{option:?}");
        }
        assert!(RuleOption::find(UNKNOWN_OPTION).is_none());
    }

    #[test]
    fn words_of_the_policies_are_those_that_help_names() {
        let words = POLICIES.map(|(word, _)| word).join("|");
        assert_eq!(Argument::Policy.placeholder(), words);
    }

    #[test]
    fn rule_of_known_options_has_nothing_in_its_room() {
        for rule in [
            rule("--local-net 10.0.0.1"),
            rule(
                "--local-net 10.0.0.1 --local-tcp-ports 22,80 --remote-udp-ports ntp \
                 --local-udp-ports all --max-entries 2000 --traf-policy drop --min-pkt-spoof 3 \
                 --sample-tcp-syn 10 --sample-tcp-any 20 --sample-udp-any 30 --fast-aggregate \
                 --dump-priority 5 --name web",
            ),
        ] {
            assert!(rule.has_known_options_alone());
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
