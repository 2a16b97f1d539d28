// SPDX-License-Identifier: GPL-2.0-or-later
//! What a rule reads as: the save form, the listing and the help text.

use std::mem;

use trafstat_abi::{POLICY_CONTINUE, RuleInfo};

use crate::{
    local_net::Family,
    name,
    options::{Argument, OPTIONS, POLICIES, RuleOption, UNKNOWN_OPTION},
    ports,
};

/// The longest parameter that iptables-restore takes, in bytes.
const MAX_PARAMETER_LEN: usize = 1023;

/// The column of the help text in which meanings begin, and the one in which they end.
const MEANING_COLUMNS: [usize; 2] = [28, 84];

const EXAMPLES: &str = "
Examples:
  iptables -I INPUT -j TRAFSTAT --local-net 192.0.2.1 --local-tcp-ports 22,80,443
  ip6tables -I INPUT -j TRAFSTAT --local-net 2001:db8::1 --local-tcp-ports 22,80,443
";

/// What `iptables -j TRAFSTAT -h` and `ip6tables -j TRAFSTAT -h` print.
pub fn help() -> String {
    let options: String = OPTIONS.iter().map(help_of).collect();
    format!("TRAFSTAT target options:\n{options}{EXAMPLES}")
}

/// The option with its argument, and its meaning beside or below it.
fn help_of(option: &RuleOption) -> String {
    let [begin, end] = MEANING_COLUMNS;
    let mut head = format!("  --{} {}", option.name(), option.argument.placeholder());
    let mut text = String::new();
    if head.len() >= begin {
        text = format!("{head}\n");
        head.clear();
    }
    for line in wrap(&option.help(), end - begin) {
        text.push_str(&format!("{head:begin$}{line}\n"));
        head.clear();
    }
    text
}

/// The text in lines of at most `width` characters, unless a word has more.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut words = paragraph.split(' ');
        let mut line = words.next().unwrap_or_default().to_owned();
        for word in words {
            if line.len() + 1 + word.len() > width {
                lines.push(mem::take(&mut line));
            } else {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// The rule's options as iptables-save prints them, each with a space before it.
///
/// iptables-restore makes the same rule of it, byte for byte.
pub fn save<F: Family>(info: &RuleInfo) -> String {
    words::<F>(info, MAX_PARAMETER_LEN)
        .map(|word| format!(" --{word}"))
        .collect()
}

/// The rule's options as `iptables -L` lists them, after the target's name.
pub fn list<F: Family>(info: &RuleInfo) -> String {
    let words = words::<F>(info, usize::MAX).map(|word| format!(" {word}"));
    format!(" TRAFSTAT{}", words.collect::<String>())
}

/// The options that differ from their defaults, in the table's order, and a word for those of
/// a later version.
fn words<F: Family>(info: &RuleInfo, max_value_len: usize) -> impl Iterator<Item = String> {
    let known = OPTIONS.iter().flat_map(move |option| {
        values::<F>(info, option.argument, max_value_len)
            .into_iter()
            .map(|value| {
                if option.takes_value() {
                    format!("{} {value}", option.name())
                } else {
                    option.name().to_owned()
                }
            })
    });
    let unknown = (!info.has_known_options_alone()).then(|| UNKNOWN_OPTION.to_owned());
    known.chain(unknown)
}

/// The argument's values, one for each time that the option has to be written.
fn values<F: Family>(info: &RuleInfo, argument: Argument, max_len: usize) -> Vec<String> {
    let value = match argument {
        Argument::Ports(list) => return ports::texts(info, list, max_len),
        Argument::Flag(bit) => (u32::from(info.flags) & bit != 0).then(String::new),
        Argument::LocalNet => {
            let addr = F::from_field(&info.local_addr);
            // A host stands by itself, as the original module's rules were saved.
            match info.prefix_len {
                host if host == F::ADDR_BITS => Some(addr.to_string()),
                prefix_len => Some(format!("{addr}/{prefix_len}")),
            }
        }
        Argument::Number(number) => match (number.get)(info) {
            0 => None,
            given => Some(given.to_string()),
        },
        Argument::Policy => policy(info.policy.into()),
        Argument::Name => {
            (name::default_for::<F>(info) != Ok(info.name)).then(|| name::text(&info.name))
        }
    };
    value.into_iter().collect()
}

fn policy(policy: u32) -> Option<String> {
    if policy == POLICY_CONTINUE {
        return None;
    }
    let known = POLICIES.iter().find(|&&(_, number)| number == policy);
    // The kernel lets no other policy through; as a number, no option takes it.
    Some(known.map_or_else(|| policy.to_string(), |&(word, _)| word.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::{array, collection::vec, prelude::*, test_runner::TestCaseError};

    use super::*;
    use crate::local_net::{AddrField, Ipv4, Ipv6};
    use crate::options::{empty, tests::parse_words};
    use crate::t_file;

    /// The rule tests of iptables and those of ip6tables.
    const T_FILES: [&str; 2] = [
        include_str!("../../xt-plugin/libxt_TRAFSTAT.t"),
        include_str!("../../xt-plugin/libxt_TRAFSTAT.ip6.t"),
    ];

    fn saved<F: Family>(rule: &str) -> String {
        let words: Vec<&str> = rule.split(' ').collect();
        save::<F>(&parse_words::<F>(&words).unwrap())
    }

    #[test]
    fn defaults_are_not_saved() {
        assert_eq!(
            saved::<Ipv4>(
                "--local-net 10.0.0.1 --local-tcp-ports none --traf-policy continue \
                 --min-pkt-spoof 0 --sample-tcp-syn 0 --dump-priority 0 --name 10.0.0.1_32"
            ),
            " --local-net 10.0.0.1"
        );
    }

    #[test]
    fn ipv6_name_is_saved_unless_it_is_the_default() {
        assert_eq!(
            saved::<Ipv6>("--local-net 2001:DB8:0::1 --name 2001:db8::1_128"),
            " --local-net 2001:db8::1"
        );
        assert_eq!(
            saved::<Ipv6>("--local-net 2001:db8::1 --name 2001:db8:0::1_128"),
            " --local-net 2001:db8::1 --name 2001:db8:0::1_128"
        );
        assert_eq!(
            saved::<Ipv6>("--local-net 2001:db8:1111:2222:3333:4444:5555:6666 --name web"),
            " --local-net 2001:db8:1111:2222:3333:4444:5555:6666 --name web"
        );
    }

    #[test]
    fn options_are_saved_in_the_tables_order() {
        assert_eq!(
            saved::<Ipv4>(
                "--name web --dump-priority 5 --fast-aggregate --sample-udp-any 30 \
                 --sample-tcp-any 20 --sample-tcp-syn 10 --min-pkt-spoof 3 --traf-policy ACCEPT \
                 --max-entries 2000 --remote-udp-ports ntp --remote-tcp-ports 1:9 \
                 --local-udp-ports ALL --local-tcp-ports 22,80 --local-net 10.0.0.1/255.0.0.0"
            ),
            " --local-net 10.0.0.1/8 --local-tcp-ports 22,80 --local-udp-ports all \
             --remote-tcp-ports 1:9 --remote-udp-ports 123 --max-entries 2000 \
             --traf-policy accept --min-pkt-spoof 3 --sample-tcp-syn 10 --sample-tcp-any 20 \
             --sample-udp-any 30 --fast-aggregate --dump-priority 5 --name web"
        );
    }

    #[test]
    fn listing_uses_the_options_words_without_dashes() {
        let words = ["--local-net", "192.0.2.1", "--local-tcp-ports", "22,80"];
        assert_eq!(
            list::<Ipv4>(&parse_words::<Ipv4>(&words).unwrap()),
            " TRAFSTAT local-net 192.0.2.1 local-tcp-ports 22,80"
        );
    }

    #[test]
    fn long_list_is_saved_as_parameters_that_restore_takes_and_listed_as_one() {
        let ports: Vec<String> = (10_000..10_480).map(|port| port.to_string()).collect();
        let (first, second) = (ports[..150].join(","), ports[150..].join(","));
        let words = [
            "--local-net",
            "10.0.0.1",
            "--remote-tcp-ports",
            &first,
            "--remote-tcp-ports",
            &second,
        ];
        let info = parse_words::<Ipv4>(&words).unwrap();
        let saved = save::<Ipv4>(&info);
        assert_eq!(saved.matches("--remote-tcp-ports").count(), 3);
        assert_eq!(saved.split(' ').map(str::len).max(), Some(1019));
        assert!(list::<Ipv4>(&info).contains(&ports.join(",")));
    }

    #[test]
    fn value_that_no_option_takes_does_not_restore() {
        let mut info = empty();
        info.policy = 9;
        info.lists[0].mode = 7;
        info.lists[0].count = 481;
        let saved = save::<Ipv4>(&info);
        assert!(saved.contains("--traf-policy 9"), "{saved}");
        assert!(saved.contains("--local-tcp-ports malformed"), "{saved}");
        assert!(parse_words::<Ipv4>(&saved.split_whitespace().collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn option_of_a_later_version_is_told_and_does_not_restore() {
        let later: [fn(&mut RuleInfo); 4] = [
            |info| info.flags = 0x80,
            |info| info.lists[3].reserved = 1,
            |info| info.lists[0].start = 1,
            |info| info.ranges[479].last = 1,
        ];
        for change in later {
            let mut info = parse_words::<Ipv4>(&["--local-net", "10.0.0.1"]).unwrap();
            change(&mut info);
            let saved = save::<Ipv4>(&info);
            assert_eq!(saved, " --local-net 10.0.0.1 --option-of-newer-version");
            let words: Vec<&str> = saved.split_whitespace().collect();
            let error = parse_words::<Ipv4>(&words).unwrap_err();
            assert!(error.contains("unknown option"), "{error}");
        }
    }

    #[test]
    fn help_has_every_option_with_argument_meaning_limits_and_default() {
        let help = help();
        let (options, _) = help.split_once("\n\n").unwrap();
        let words: Vec<&str> = options.split_whitespace().collect();
        let words = words.join(" ");
        for option in &OPTIONS {
            let head = format!("--{} {}", option.name(), option.argument.placeholder());
            let text = format!("{} {}", head.trim_end(), option.help());
            assert!(
                words.contains(&text.replace('\n', " ")),
                "help lacks {text}"
            );
        }
        assert!(options.lines().all(|line| line.len() <= MEANING_COLUMNS[1]));
    }

    #[test]
    fn help_puts_meanings_beside_options_and_below_long_ones() {
        let help = help();
        for lines in [
            "  --max-entries N           thousands of records between two reads; 1 to 4194304\n\
             \x20                           (default 1000)\n",
            "  --traf-policy accept|continue|drop\n\
             \x20                           what becomes of a counted packet (default continue)\n",
            "  --fast-aggregate          accepted for old rules, without effect\n",
        ] {
            assert!(help.contains(lines), "{help}");
        }
    }

    fn t_file_tells_the_truth<F: Family>(t_file: &str) {
        for case in t_file::parse(t_file).unwrap() {
            let options = case.rule.strip_prefix("-j TRAFSTAT").unwrap();
            let rule = parse_words::<F>(&options.split_whitespace().collect::<Vec<_>>());
            let saved = rule.map(|rule| format!("-j TRAFSTAT{}", save::<F>(&rule)));
            assert_eq!(
                saved.as_deref().ok(),
                case.saved,
                "{}, line {}: {saved:?}",
                F::PROGRAM,
                case.line
            );
        }
    }

    #[test]
    fn t_files_tell_what_is_saved_and_what_is_refused() {
        let [ipv4, ipv6] = T_FILES;
        t_file_tells_the_truth::<Ipv4>(ipv4);
        t_file_tells_the_truth::<Ipv6>(ipv6);
    }

    #[test]
    fn t_files_have_a_saved_and_a_refused_rule_for_every_option() {
        for cases in T_FILES.map(|t_file| t_file::parse(t_file).unwrap()) {
            for option in &OPTIONS {
                let uses = |text: &str| {
                    text.split(' ')
                        .any(|word| word.strip_prefix("--") == Some(option.name()))
                };
                assert!(
                    cases.iter().any(|case| case.saved.is_some_and(uses)),
                    "{option:?}"
                );
                assert!(
                    cases
                        .iter()
                        .any(|case| case.saved.is_none() && uses(case.rule)),
                    "{option:?}"
                );
            }
        }
    }

    #[test]
    fn ipv6_rules_whose_options_have_no_address_are_those_of_ipv4() {
        let [ipv4, ipv6] = T_FILES.map(|t_file| t_file::parse(t_file).unwrap());
        let mut compared = 0;
        for case in ipv6 {
            let Some((_, options)) = case.rule.split_once("--local-net 2001:db8::1 --") else {
                continue;
            };
            if options.starts_with("name ") || options.starts_with("local-net ") {
                continue;
            }
            let of_ipv4 = |text: &str| text.replace("2001:db8::1", "10.0.0.1");
            let (rule, saved) = (of_ipv4(case.rule), case.saved.map(of_ipv4));
            assert!(
                ipv4.iter()
                    .any(|case| case.rule == rule && case.saved == saved.as_deref()),
                "libxt_TRAFSTAT.t lacks what line {} has of ip6tables: {rule}",
                case.line
            );
            compared += 1;
        }
        assert!(compared > OPTIONS.len());
    }

    #[test]
    fn t_file_line_of_another_form_is_refused_by_number() {
        for line in [
            "-j TRAFSTAT",
            "-j TRAFSTAT;=;FAIL",
            "-j TRAFSTAT;;OK;x",
            "-j TRAFSTAT;=;ok",
        ] {
            let error = t_file::parse(&format!(":INPUT\n\n{line}")).err().unwrap();
            assert!(error.starts_with("line 3 "), "{error}");
        }
    }

    fn port_list() -> impl Strategy<Value = String> {
        let port = prop_oneof![
            (1..=u16::MAX).prop_map(|port| port.to_string()),
            (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| format!("{}:{}", a.min(b), a.max(b))),
            Just("domain".to_owned()),
        ];
        prop_oneof![
            Just("all".to_owned()),
            Just("None".to_owned()),
            vec(port, 1..=120).prop_map(|ports| ports.join(",")),
        ]
    }

    /// A net of the family; zeros are frequent, as they shape IPv6's text.
    fn local_net<F: Family>() -> impl Strategy<Value = String> {
        let byte_pair = prop_oneof![Just([0, 0]), any::<[u8; 2]>()];
        (array::uniform8(byte_pair), 0..=F::ADDR_BITS).prop_map(|(byte_pairs, prefix_len)| {
            let mut field = AddrField::default();
            field.copy_from_slice(byte_pairs.as_flattened());
            format!("{}/{prefix_len}", F::from_field(&field))
        })
    }

    fn value<F: Family + 'static>(argument: Argument) -> BoxedStrategy<String> {
        match argument {
            Argument::Flag(_) => Just(String::new()).boxed(),
            Argument::LocalNet => local_net::<F>().boxed(),
            Argument::Ports(_) => port_list().boxed(),
            Argument::Number(number) => (number.least..=number.most)
                .prop_map(|n| n.to_string())
                .boxed(),
            Argument::Policy => prop_oneof!["ACCEPT", "continue", "Drop"].boxed(),
            Argument::Name => "[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,30}".boxed(),
        }
    }

    /// Words of a command line with any of the options, in any order.
    fn command_line<F: Family + 'static>() -> impl Strategy<Value = Vec<String>> {
        let options: Vec<_> = OPTIONS
            .iter()
            .map(|option| (Just(option), value::<F>(option.argument), any::<bool>()))
            .collect();
        options.prop_shuffle().prop_map(|options| {
            options
                .into_iter()
                .filter(|(option, _, given)| option.mandatory || *given)
                .flat_map(|(option, value, _)| {
                    let value = option.takes_value().then_some(value);
                    [Some(format!("--{}", option.name())), value]
                })
                .flatten()
                .collect()
        })
    }

    fn restores_to_the_same_bytes<F: Family>(words: &[&str]) -> Result<(), TestCaseError> {
        let rule = parse_words::<F>(words).map_err(TestCaseError::fail)?;
        let saved = save::<F>(&rule);
        let saved_words: Vec<&str> = saved.split_whitespace().collect();
        let restored = parse_words::<F>(&saved_words).map_err(TestCaseError::fail)?;
        prop_assert_eq!(format!("{rule:?}"), format!("{restored:?}"));
        prop_assert_eq!(&save::<F>(&restored), &saved);
        prop_assert!(rule.has_known_options_alone());
        prop_assert!(
            saved_words
                .iter()
                .all(|word| word.len() <= MAX_PARAMETER_LEN)
        );
        Ok(())
    }

    proptest! {
        #[test]
        fn saved_ipv4_rule_restores_to_the_same_bytes(words in command_line::<Ipv4>()) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            restores_to_the_same_bytes::<Ipv4>(&words)?;
        }

        #[test]
        fn saved_ipv6_rule_restores_to_the_same_bytes(words in command_line::<Ipv6>()) {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            // Only where the default is too long; given twice it would be refused.
            if parse_words::<Ipv6>(&words).is_err() {
                words.extend(["--name", "web"]);
            }
            restores_to_the_same_bytes::<Ipv6>(&words)?;
        }
    }
}
