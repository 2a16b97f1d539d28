// SPDX-License-Identifier: GPL-2.0-or-later
//! The options of counting without the kernel module: a rule's, and when epochs close.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use jiff::SignedDuration;
use trafstat_abi::RuleInfo;
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, Argument, OPTIONS, RuleOption};
use trafstat_store::services;
use trafstat_store::source::capture::{
    Capture, CaptureFailure, CaptureName, CaptureRequest, OwnedRules,
};

use crate::progress::CaptureProgress;

/// What to count instead of the kernel module's accounts, and by which rule.
///
/// The rule's options read as they do for iptables and mean the same.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Counting without the kernel module")]
pub struct CaptureOptions {
    /// What to count: "pcap:FILE", a pcap or pcapng file, compressed or not, "pcap:-" for
    /// standard input, or "live:INTERFACE" for a network interface, until SIGTERM or SIGINT.
    #[arg(long, value_name = "SOURCE", value_parser = parse_source, global = true)]
    pub source: Option<SourceName>,

    #[command(flatten)]
    rule: RuleArguments,

    /// Close an epoch every so often by the capture's clock, such as 5m or 1h, at whole
    /// multiples of it; without it the capture is one epoch. A live interface's epochs close
    /// by the wall clock [default: as --every says, or 5m].
    #[arg(long, value_name = "TIME", value_parser = parse_epoch, requires = "source", global = true)]
    pub epoch: Option<Duration>,

    /// Count one interface of a capture of several: by its name in pcapng, by its index in Linux
    /// cooked captures, version 2.
    #[arg(long, value_name = "NAME", requires = "source", global = true)]
    interface: Option<String>,
}

/// Where frames come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceName {
    /// A capture.
    Capture(CaptureName),
    /// A network interface.
    Live(String),
}

impl CaptureOptions {
    /// The rules that the options make.
    ///
    /// # Errors
    /// One line that names the option and what would be right.
    pub fn rules(&self) -> Result<OwnedRules, String> {
        let (nets, others): (Vec<_>, Vec<_>) = self
            .rule
            .given
            .iter()
            .partition(|(option, _)| matches!(option.argument, Argument::LocalNet));
        let (ipv6, ipv4): (Vec<_>, Vec<_>) = nets
            .into_iter()
            .partition(|(_, net)| net.split('/').any(|part| part.contains(':')));
        if ipv4.is_empty() && ipv6.is_empty() {
            return Err(
                "--local-net must be given: it says which side of a packet is the local one, \
                 such as --local-net 192.0.2.0/24"
                    .to_owned(),
            );
        }
        if self.interface.is_some() && matches!(self.source, Some(SourceName::Live(_))) {
            return Err(
                "--interface is for captures; live:INTERFACE names the one to count".to_owned(),
            );
        }
        Ok(OwnedRules {
            ipv4: rule::<Ipv4>(&ipv4, &others)?,
            ipv6: rule::<Ipv6>(&ipv6, &others)?,
        })
    }

    /// Opens a capture to be counted by these rules; a terminal shows how far it is. With `once`, a
    /// packet that several interfaces saw counts once.
    ///
    /// # Errors
    /// That it cannot be opened or is no capture.
    pub fn open(
        &self,
        name: &CaptureName,
        rules: &OwnedRules,
        once: bool,
    ) -> Result<Capture, CaptureFailure> {
        let request = CaptureRequest {
            rules: rules.as_rules(),
            epoch: self.epoch,
            interface: self.interface.as_deref(),
            once,
        };
        Capture::open(name, &request, Box::new(CaptureProgress::new()))
    }
}

/// An option as it was given.
type Given = (&'static RuleOption, String);

/// The options of a rule, as far as they are of use for captures, in the order of their table.
#[derive(Debug, Clone, Default)]
struct RuleArguments {
    given: Vec<Given>,
}

impl RuleArguments {
    fn options() -> impl Iterator<Item = &'static RuleOption> {
        OPTIONS.iter().filter(|option| option.counts_captures)
    }
}

impl Args for RuleArguments {
    fn augment_args(command: Command) -> Command {
        command.args(Self::options().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::options().flat_map(|option| {
            let values = matches.get_many::<String>(option.name());
            let values = values.into_iter().flatten();
            values.map(move |value| (option, value.clone()))
        });
        Ok(Self {
            given: given.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The option of a rule as an argument of the program. Its value is checked with the whole rule.
fn argument(option: &'static RuleOption) -> Arg {
    let is_net = matches!(option.argument, Argument::LocalNet);
    let help = option.help();
    let (first, rest) = help.split_at(1);
    let mut help = format!("{}{}.", first.to_uppercase(), rest.replace('\n', ". "));
    if is_net {
        help.push_str(" One of IPv4, one of IPv6, or both.");
    }
    let action = match is_net || option.is_repeatable() {
        true => ArgAction::Append,
        false => ArgAction::Set,
    };
    Arg::new(option.name())
        .long(option.name())
        .value_name(option.argument.placeholder())
        .help(help)
        .action(action)
        .requires("source")
        .global(true)
}

/// The rule of one family.
fn rule<F: Family>(nets: &[&Given], others: &[&Given]) -> Result<Option<Box<RuleInfo>>, String> {
    if nets.is_empty() {
        return Ok(None);
    }
    if nets.len() > 1 {
        return Err(format!(
            "--local-net: {} {} nets are given, an account has one; count the others in runs of \
             their own",
            nets.len(),
            F::NAME
        ));
    }
    let mut info = Box::new(options::empty());
    let mut last = "";
    for (option, value) in nets.iter().chain(others) {
        let repeated = option.name() == last;
        options::parse::<F>(&mut info, option, value, repeated, services::port)?;
        last = option.name();
    }
    options::complete::<F>(&mut info)?;
    Ok(Some(info))
}

/// What the user should know of frames that no account has; empty where there is nothing.
pub fn remarks(capture: &Capture, once: bool) -> Vec<String> {
    let tally = capture.tally();
    let label = capture.label();
    let mut remarks = Vec::new();
    if tally.frames == 0 && !capture.is_broken() {
        remarks.push(format!("{label}: there are no packets in it"));
    }
    for (count, family) in [
        (tally.ipv4_without_rule, "IPv4"),
        (tally.ipv6_without_rule, "IPv6"),
    ] {
        if count > 0 {
            remarks.push(format!(
                "{label}: {count} {family} packets are not counted; --local-net has no {family} net"
            ));
        }
    }
    let counted = tally.ipv4 + tally.ipv6;
    let outside = capture.outside();
    if outside > 0 && outside == counted {
        let nets = capture.likely_local_nets();
        let options: Vec<_> = nets
            .iter()
            .map(|net| format!("--local-net {net}"))
            .collect();
        let options = match options.is_empty() {
            true => String::new(),
            false => format!("; their addresses suggest {}", options.join(" ")),
        };
        remarks.push(format!(
            "{label}: none of its {counted} IP packets has an address of --local-net{options}"
        ));
    }
    if capture.astray() > 0 {
        remarks.push(format!(
            "{label}: {} packets have a time far from their neighbours' and are counted at theirs",
            capture.astray()
        ));
    }
    if tally.repeats > 0 {
        remarks.push(match once {
            true => format!(
                "{label}: {} packets that another interface had seen are not counted again",
                tally.repeats
            ),
            false => format!(
                "{label}: {} packets are counted more than once, since several interfaces saw \
                 them; --interface NAME counts one interface, --once each packet once",
                tally.repeats
            ),
        });
    }
    if tally.other > 0 {
        remarks.push(format!(
            "{label}: {} packets are not IP and not counted",
            tally.other
        ));
    }
    remarks
}

fn parse_source(text: &str) -> Result<SourceName, String> {
    let capture = |name| Ok(SourceName::Capture(name));
    match text.split_once(':') {
        Some(("pcap", "-")) => capture(CaptureName::Stdin),
        Some(("pcap", path)) if !path.is_empty() => capture(CaptureName::File(path.into())),
        Some(("live", interface)) if !interface.is_empty() => {
            Ok(SourceName::Live(interface.to_owned()))
        }
        _ => Err(
            "expected \"pcap:FILE\", \"pcap:-\" for standard input, or \"live:INTERFACE\""
                .to_owned(),
        ),
    }
}

fn parse_epoch(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a length of time such as 30s, 5m or 1h".to_owned();
    let span: SignedDuration = text.trim().parse().map_err(|_| wrong())?;
    let epoch = Duration::try_from(span).map_err(|_| wrong())?;
    if epoch < Duration::from_secs(1) {
        return Err("an epoch has a second or more".to_owned());
    }
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        capture: CaptureOptions,
    }

    fn rules(arguments: &str) -> Result<OwnedRules, String> {
        let words = ["program"].into_iter().chain(arguments.split(' '));
        let program = Program::try_parse_from(words).map_err(|error| error.to_string())?;
        program.capture.rules()
    }

    #[test]
    fn one_net_of_each_family_makes_two_rules() {
        let rules =
            rules("--source pcap:- --local-net 10.0.0.0/8 --local-net 2001:db8::/32").unwrap();
        assert_eq!(rules.ipv4.unwrap().prefix_len, 8);
        assert_eq!(rules.ipv6.unwrap().prefix_len, 32);
    }

    #[test]
    fn lists_add_up_as_they_do_for_iptables() {
        let rules = rules(
            "--source pcap:- --local-net 10.0.0.1 --local-tcp-ports 22 --local-tcp-ports \
             80,8000:8080 --local-udp-ports all",
        )
        .unwrap();
        let info = rules.ipv4.unwrap();
        assert_eq!(info.lists.map(|list| list.count), [3, 0, 0, 0]);
        assert_eq!(info.lists.map(|list| list.mode), [2, 1, 0, 0]);
    }

    #[test]
    fn rule_options_need_a_source_and_a_source_a_local_net() {
        assert!(
            rules("--local-net 10.0.0.1")
                .unwrap_err()
                .contains("--source")
        );
        let error = rules("--source pcap:a.pcap").unwrap_err();
        assert!(error.starts_with("--local-net must be given"), "{error}");
    }

    #[test]
    fn every_option_that_counts_is_taken_and_no_other() {
        let command = Program::command();
        for option in &OPTIONS {
            let arguments = command.get_arguments();
            let mut arguments = arguments.filter(|arg| arg.get_long() == Some(option.name()));
            let argument = arguments.next();
            assert_eq!(argument.is_some(), option.counts_captures, "{option:?}");
            let Some(argument) = argument else { continue };
            assert!(argument.is_global_set());
            let names = argument.get_value_names().unwrap_or_default();
            assert_eq!(names.len(), 1);
            assert_eq!(names[0].as_str(), option.argument.placeholder());
            let help = argument.get_help().unwrap().to_string();
            let default = option.default.map_or("", |default| default.value);
            assert!(help.contains(default), "{help}");
        }
    }

    #[test]
    fn options_reach_the_rule_of_each_family() {
        let rules = rules(
            "--source pcap:- --name web --sample-tcp-any 5 --max-entries 7 --min-pkt-spoof 2 \
             --local-net 10.0.0.0/8 --local-net 2001:db8::/32",
        )
        .unwrap();
        for info in [rules.ipv4.unwrap(), rules.ipv6.unwrap()] {
            assert_eq!(info.sample_tcp_any, 5);
            assert_eq!(info.max_entries, 7);
            assert_eq!(info.min_pkt_spoof, 2);
            assert_eq!(trafstat_rule::name::text(&info.name), "web");
        }
    }

    #[test]
    fn second_net_of_a_family_is_refused() {
        let error =
            rules("--source pcap:- --local-net 10.0.0.0/8 --local-net 192.0.2.0/24").unwrap_err();
        assert!(error.contains("2 IPv4 nets"), "{error}");
    }

    #[test]
    fn wrong_value_names_its_option() {
        let error = rules("--source pcap:- --local-net 10.0.0.1 --sample-udp-any x").unwrap_err();
        assert!(error.starts_with("--sample-udp-any: "), "{error}");
    }

    #[test]
    fn source_is_a_kind_and_a_name() {
        let capture = |name| Ok(SourceName::Capture(name));
        assert_eq!(parse_source("pcap:-"), capture(CaptureName::Stdin));
        assert_eq!(
            parse_source("pcap:a:b.pcap"),
            capture(CaptureName::File("a:b.pcap".into()))
        );
        assert_eq!(
            parse_source("live:eth0.5:1"),
            Ok(SourceName::Live("eth0.5:1".to_owned()))
        );
        for text in ["live:", "pcap:", "a.pcap", "", "pcapng:a", "-"] {
            assert!(parse_source(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn epoch_is_a_length_of_time_of_a_second_or_more() {
        assert_eq!(parse_epoch("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_epoch("1h 30m"), Ok(Duration::from_secs(5400)));
        for text in ["", "5", "-5m", "0s", "500ms", "1d later"] {
            assert!(parse_epoch(text).is_err(), "{text:?}");
        }
    }
}
