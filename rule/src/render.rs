//! What a rule reads as: the save form, the listing and the help text.

use trafstat_abi::{POLICY_CONTINUE, RULE_FAST_AGGREGATE, RuleInfo};

use crate::{
    local_net::Family,
    name,
    options::{ENTRIES, POLICIES, TargetOption},
    ports,
};

/// The longest parameter that iptables-restore takes, in bytes.
const MAX_PARAMETER_LEN: usize = 1023;

/// What `iptables -j TRAFSTAT -h` and `ip6tables -j TRAFSTAT -h` say.
pub const HELP: &str = "\
TRAFSTAT target options:
  --local-net ADDRESS[/PREFIX|/MASK]
                            the side to account for (mandatory); traffic from it is
                            sent, to it received
  --local-tcp-ports PORTS   local ports that records keep, for TCP, SCTP and DCCP
  --local-udp-ports PORTS   the same for UDP and UDP-Lite
  --remote-tcp-ports PORTS  remote ports that records keep, for TCP, SCTP and DCCP
  --remote-udp-ports PORTS  the same for UDP and UDP-Lite
                            PORTS: all, none (default), or ports, services and ranges
                            FIRST:LAST between commas; again to add to a list
  --max-entries N           thousands of records between two reads (default 1000)
  --traf-policy accept|continue|drop
                            what becomes of a counted packet (default continue)
  --min-pkt-spoof N         give up the remote side of records that received fewer
                            packets (default 0: keep all)
  --sample-tcp-syn N        count one in N TCP SYN packets, N times (default 0: all)
  --sample-tcp-any N        the same for other TCP packets, and for SYN packets
                            without an option of their own (default 0: all)
  --sample-udp-any N        the same for UDP packets (default 0: all)
  --fast-aggregate          accepted for old rules, no effect
  --dump-priority N         accepted for old rules (0 to 100), no effect
  --name NAME               the account to count into, up to 31 characters
                            A-Z a-z 0-9 _ . : - (default ADDRESS_PREFIX;
                            mandatory where that is longer)

Examples:
  iptables -I INPUT -j TRAFSTAT --local-net 192.0.2.1 --local-tcp-ports 22,80,443
  ip6tables -I INPUT -j TRAFSTAT --local-net 2001:db8::1 --local-tcp-ports 22,80,443
";

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

/// The options that differ from their defaults, in the table's order.
fn words<F: Family>(info: &RuleInfo, max_value_len: usize) -> impl Iterator<Item = String> {
    ENTRIES.iter().flat_map(move |entry| {
        values::<F>(info, entry.option, max_value_len)
            .into_iter()
            .map(|value| {
                if entry.takes_value {
                    format!("{} {value}", entry.name())
                } else {
                    entry.name().to_owned()
                }
            })
    })
}

/// The option's values, one for each time that it has to be written.
fn values<F: Family>(info: &RuleInfo, option: TargetOption, max_len: usize) -> Vec<String> {
    let given = |number: u32| (number != 0).then(|| number.to_string());
    let value = match option {
        TargetOption::Ports(list) => return ports::texts(info, list, max_len),
        TargetOption::LocalNet => {
            let addr = F::from_field(&info.local_addr);
            // A host stands by itself, as the original module's rules were saved.
            match info.prefix_len {
                host if host == F::ADDR_BITS => Some(addr.to_string()),
                prefix_len => Some(format!("{addr}/{prefix_len}")),
            }
        }
        TargetOption::MaxEntries => given(info.max_entries),
        TargetOption::TrafPolicy => policy(info.policy.into()),
        TargetOption::MinPktSpoof => given(info.min_pkt_spoof),
        TargetOption::SampleTcpSyn => given(info.sample_tcp_syn),
        TargetOption::SampleTcpAny => given(info.sample_tcp_any),
        TargetOption::SampleUdpAny => given(info.sample_udp_any),
        TargetOption::FastAggregate => {
            (u32::from(info.flags) & RULE_FAST_AGGREGATE != 0).then(String::new)
        }
        TargetOption::DumpPriority => given(info.dump_priority.into()),
        TargetOption::Name => {
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
    fn help_and_manual_name_every_option() {
        let manual = include_str!("../../xt-plugin/libxt_TRAFSTAT.man").replace("\\-", "-");
        for entry in &ENTRIES {
            let option = format!("--{}", entry.name());
            assert!(HELP.contains(&option), "help lacks {option}");
            assert!(manual.contains(&option), "manual lacks {option}");
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
            for entry in &ENTRIES {
                let uses = |text: &str| {
                    text.split(' ')
                        .any(|word| word.strip_prefix("--") == Some(entry.name()))
                };
                assert!(
                    cases.iter().any(|case| case.saved.is_some_and(uses)),
                    "{entry:?}"
                );
                assert!(
                    cases
                        .iter()
                        .any(|case| case.saved.is_none() && uses(case.rule)),
                    "{entry:?}"
                );
            }
        }
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

    fn value<F: Family + 'static>(option: TargetOption) -> BoxedStrategy<String> {
        match option {
            TargetOption::LocalNet => local_net::<F>().boxed(),
            TargetOption::Ports(_) => port_list().boxed(),
            TargetOption::MaxEntries => (1..=4_194_304_u32).prop_map(|n| n.to_string()).boxed(),
            TargetOption::TrafPolicy => prop_oneof!["ACCEPT", "continue", "Drop"].boxed(),
            TargetOption::MinPktSpoof
            | TargetOption::SampleTcpSyn
            | TargetOption::SampleTcpAny
            | TargetOption::SampleUdpAny => any::<u32>().prop_map(|n| n.to_string()).boxed(),
            TargetOption::FastAggregate => Just(String::new()).boxed(),
            TargetOption::DumpPriority => (0..=100_u32).prop_map(|n| n.to_string()).boxed(),
            TargetOption::Name => "[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,30}".boxed(),
        }
    }

    /// Words of a command line with any of the options, in any order.
    fn command_line<F: Family + 'static>() -> impl Strategy<Value = Vec<String>> {
        let options: Vec<_> = ENTRIES
            .iter()
            .map(|entry| (Just(entry), value::<F>(entry.option), any::<bool>()))
            .collect();
        options.prop_shuffle().prop_map(|options| {
            options
                .into_iter()
                .filter(|(entry, _, given)| entry.mandatory || *given)
                .flat_map(|(entry, value, _)| {
                    let value = entry.takes_value.then_some(value);
                    [Some(format!("--{}", entry.name())), value]
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
