//! The options of counting without the kernel module: a rule's, and when epochs close.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use trafstat_abi::RuleInfo;
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, ENTRIES};
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

    /// The local network; one of IPv4, one of IPv6, or both.
    #[arg(long, value_name = "ADDR[/PREFIX]", requires = "source", global = true)]
    local_net: Vec<String>,

    /// Local TCP ports that keep their number: all, none, or such as 22,80,8000:8080,ssh.
    #[arg(long, value_name = "PORTS", requires = "source", global = true)]
    local_tcp_ports: Vec<String>,

    /// Local UDP ports that keep their number.
    #[arg(long, value_name = "PORTS", requires = "source", global = true)]
    local_udp_ports: Vec<String>,

    /// Remote TCP ports that keep their number.
    #[arg(long, value_name = "PORTS", requires = "source", global = true)]
    remote_tcp_ports: Vec<String>,

    /// Remote UDP ports that keep their number.
    #[arg(long, value_name = "PORTS", requires = "source", global = true)]
    remote_udp_ports: Vec<String>,

    /// Thousands of records in an epoch [default: 1000]; what finds no room is folded.
    #[arg(long, value_name = "N", requires = "source", global = true)]
    max_entries: Option<String>,

    /// Flows that received fewer packets lose their remote side.
    #[arg(long, value_name = "N", requires = "source", global = true)]
    min_pkt_spoof: Option<String>,

    /// Count one TCP SYN packet in N, N times.
    #[arg(long, value_name = "N", requires = "source", global = true)]
    sample_tcp_syn: Option<String>,

    /// Count one TCP packet in N, N times.
    #[arg(long, value_name = "N", requires = "source", global = true)]
    sample_tcp_any: Option<String>,

    /// Count one UDP packet in N, N times.
    #[arg(long, value_name = "N", requires = "source", global = true)]
    sample_udp_any: Option<String>,

    /// The account's name [default: ADDR_PREFIX].
    #[arg(long, value_name = "NAME", requires = "source", global = true)]
    name: Option<String>,

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
        let (ipv6, ipv4): (Vec<&str>, Vec<&str>) = self
            .local_net
            .iter()
            .map(String::as_str)
            .partition(|net| net.split('/').any(|part| part.contains(':')));
        if self.local_net.is_empty() {
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
            ipv4: self.rule::<Ipv4>(&ipv4)?,
            ipv6: self.rule::<Ipv6>(&ipv6)?,
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

    fn rule<F: Family>(&self, nets: &[&str]) -> Result<Option<Box<RuleInfo>>, String> {
        let net = match nets {
            [] => return Ok(None),
            [net] => *net,
            _ => {
                return Err(format!(
                    "--local-net: {} {} nets are given, an account has one; count the others \
                     in runs of their own",
                    nets.len(),
                    F::NAME
                ));
            }
        };
        let mut info = Box::new(options::empty());
        let of_list = |name, values: &[String]| {
            let values = values.iter().cloned();
            values.map(move |value| (name, value)).collect::<Vec<_>>()
        };
        let of_one = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let given = [("local-net", net.to_owned())]
            .into_iter()
            .chain(of_list("local-tcp-ports", &self.local_tcp_ports))
            .chain(of_list("local-udp-ports", &self.local_udp_ports))
            .chain(of_list("remote-tcp-ports", &self.remote_tcp_ports))
            .chain(of_list("remote-udp-ports", &self.remote_udp_ports))
            .chain(of_one("max-entries", &self.max_entries))
            .chain(of_one("min-pkt-spoof", &self.min_pkt_spoof))
            .chain(of_one("sample-tcp-syn", &self.sample_tcp_syn))
            .chain(of_one("sample-tcp-any", &self.sample_tcp_any))
            .chain(of_one("sample-udp-any", &self.sample_udp_any))
            .chain(of_one("name", &self.name));
        let mut last = "";
        for (name, value) in given {
            let entry = ENTRIES.iter().find(|entry| entry.name() == name);
            let entry = entry.ok_or_else(|| format!("--{name}: no option of a rule"))?;
            options::parse::<F>(&mut info, entry, &value, name == last, services::port)?;
            last = name;
        }
        options::complete::<F>(&mut info)?;
        Ok(Some(info))
    }
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
    } else if outside > 0 {
        remarks.push(format!(
            "{label}: {outside} packets have no address of --local-net and are not counted"
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
    use clap::Parser;

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
