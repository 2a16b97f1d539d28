// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat show`: from options to a query, from its answer to the screen.

mod epoch;
mod rates;
mod table;

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value as Json, json};
use tracing::info;
use trafstat_cli::capture::{CaptureOptions, SourceName, remarks};
use trafstat_cli::output::{Format, to_stdout};
use trafstat_cli::store::StoreOptions;
use trafstat_cli::text::csv_cell;
use trafstat_cli::{time, values};
use trafstat_store::account::Name;
use trafstat_store::collect::sum_up;
use trafstat_store::origin::Origin;
use trafstat_store::protocol;
use trafstat_store::query::{Accumulator, Answer, Field, Filter, Order, Query, Value};
use trafstat_store::services::Services;
use trafstat_store::snapshot::Counters;

use crate::accuracy;
use crate::inexact;
use crate::names::Names;
use rates::Rates;

/// What to show, and how.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat show                                    who used which service most
  trafstat show --by remote-ip --since 24h         the busiest remote hosts of a day
  trafstat show --by local-ip --local-ip 10.0.0.0/24 --top 0
                                                   every host of a net
  trafstat show --by remote-ip,remote-port --protocol tcp --sort syn-packets
                                                   where connections go
  trafstat show --since 2026-01-01 --until 2026-02-01 --format csv
  trafstat show --by day,local-ip --since 2026-01-01
                                                   every day of every local address
  trafstat show --by hour --since 1d --rates       how fast it was, hour by hour
  trafstat show --local-port https,8000-8099 --remote-ip 2001:db8::/32
                                                   services, by name or as a range
  trafstat show --source pcap:day.pcap --local-net 192.0.2.0/24 --local-tcp-ports all
                                                   what is in a capture, without a store

Times are \"2026-01-31 12:00\" in the local time zone, \"2026-01-31T12:00:00Z\", or so long
ago: 30m, 2h, 7d, 4w. What was counted together, from one collection to the next, belongs to the
middle of that time. Days are those of the local time zone; TZ=UTC shows all in UTC. Where records
and finer sums were deleted, an hour or a day belongs to the time that has its middle, and the
answer says so.

Where rules sampled, figures are estimates, and ± is one standard error: 68 times of 100 the
true number is not further away. That of whole accounts is known, in packets and bytes; that of
other lines is estimated from their packets and the highest rate in force.

On a terminal, bars compare the lines by what they are sorted by, where there is room; one
that is too narrow for all columns goes without ±, SYN and packets, which CSV and JSON have.

Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct ShowOptions {
    /// Fields to sum up by, separated by commas.
    #[arg(
        long,
        value_name = "FIELDS",
        value_parser = values::field(),
        value_delimiter = ',',
        default_value = "local-ip,protocol,local-port"
    )]
    by: Vec<Field>,

    /// What to sort by, largest first, or by the fields [default: bytes; by the fields if one
    /// is a time].
    #[arg(long, value_name = "COUNTER", value_parser = values::order())]
    sort: Option<Order>,

    /// How many lines to show; 0 shows all [default: 20; all if sorted by the fields].
    #[arg(long, value_name = "N")]
    top: Option<u64>,

    /// Averages a second instead of sums, over the time in which the hosts and accounts asked for
    /// counted, of a line with a time, host or account that one's.
    #[arg(long)]
    rates: bool,

    /// Protocols, ports and hosts without their names.
    #[arg(long, short)]
    numeric: bool,

    /// How to write them.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    filter: FilterOptions,

    #[command(flatten)]
    store: StoreOptions,

    /// Of a capture, count a packet once that several interfaces saw, such as a bridge's port, the
    /// bridge and the uplink. A packet is the same as one that another interface saw at most a
    /// millisecond before if both have the same length and the same first 256 bytes from the IP
    /// header on, but for traffic class, flow label, time to live and checksums.
    #[arg(long, requires = "source")]
    once: bool,

    #[command(flatten)]
    capture: CaptureOptions,
}

/// Which records count; where several values stand, one must fit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Filters (several values are separated by commas)")]
struct FilterOptions {
    /// Only these protocols, by name or number.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_parser = parse_protocol)]
    protocol: Vec<u8>,

    /// Only local addresses in these nets.
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_delimiter = ',', value_parser = parse_net)]
    local_ip: Vec<IpNet>,

    /// Only remote addresses in these nets.
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_delimiter = ',', value_parser = parse_net)]
    remote_ip: Vec<IpNet>,

    /// Only these local ports, by number, name or range such as 8000-8099.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = parse_ports)]
    local_port: Vec<RangeInclusive<u16>>,

    /// Only these remote ports.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = parse_ports)]
    remote_port: Vec<RangeInclusive<u16>>,

    /// Only these accounts.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    account: Vec<Name>,

    /// Only what these hosts counted, by name or machine id.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    host: Vec<String>,

    /// Only what was counted at this time or later.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,

    /// Only what was counted before this time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<Timestamp>,
}

impl ShowOptions {
    /// Refuses options that each are right, but not together.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let twice = |(index, field): (usize, &Field)| self.by[..index].contains(field);
        if self.by.iter().enumerate().any(twice) {
            return Err("--by names a field twice".to_owned());
        }
        match self.capture.source {
            Some(SourceName::Capture(_)) => drop(self.capture.rules()?),
            Some(SourceName::Live(_)) => {
                return Err(
                    "--source live: an interface is counted until it is stopped; collect it \
                     with trafstat-store and show what that stored"
                        .to_owned(),
                );
            }
            None => {}
        }
        match (self.filter.since, self.filter.until) {
            (Some(since), Some(until)) if since >= until => {
                Err("--since must be before --until".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Asks the store or a capture and writes what it answers.
    ///
    /// # Errors
    /// The store's or the capture's, or that standard output cannot be written.
    pub fn run(mut self) -> Result<()> {
        let query = self.query();
        if let Some(SourceName::Capture(_)) = &self.capture.source {
            self.refine_epochs(&query);
        }
        let Some(SourceName::Capture(name)) = &self.capture.source else {
            let mut store = self.store.open_read_only()?;
            let answer = store.query(&query).context("cannot query the database")?;
            return self.write(&query, &answer);
        };
        let rules = self.capture.rules().map_err(anyhow::Error::msg)?;
        let mut capture = self.capture.open(name, &rules, self.once)?;
        let mut sums = Accumulator::new(&query);
        sum_up(&mut capture, &Origin::of_this_process()?, &mut sums)?;
        self.write(&query, &sums.answer())?;
        for remark in remarks(&capture, self.once) {
            info!("{remark}");
        }
        Ok(capture.finish()?)
    }

    /// Has a capture counted in epochs that end where the answer's periods do.
    ///
    /// An epoch given by the user stays, with a hint where it is too long.
    fn refine_epochs(&mut self, query: &Query) {
        let Some(needed) = epoch::needed(query) else {
            return;
        };
        match self.capture.epoch {
            None => self.capture.epoch = Some(needed),
            Some(given) if !epoch::divides(given, needed) => info!(
                "epochs of {:#} do not end where the periods that are asked for do: --epoch {:#} \
                 answers exactly",
                SignedDuration::try_from(given).unwrap_or_default(),
                SignedDuration::try_from(needed).unwrap_or_default()
            ),
            Some(_) => {}
        }
    }

    fn query(&self) -> Query {
        let order =
            self.sort
                .unwrap_or_else(|| match self.by.iter().any(|field| field.is_time()) {
                    true => Order::Fields,
                    false => Order::Bytes,
                });
        let top = self.top.unwrap_or(match order {
            Order::Fields => 0,
            _ => 20,
        });
        Query {
            by: self.by.clone(),
            filter: self.filter.clone().into(),
            order,
            limit: (top > 0).then_some(top),
            zone: TimeZone::system(),
            // A table ends with averages.
            counted: self.rates || self.format == Format::Table,
        }
    }

    fn write(&self, query: &Query, answer: &Answer) -> Result<()> {
        let style = table::Style {
            rates: self.rates,
            order: query.order,
            names: Names::new(query.zone.clone(), self.numeric).with_hosts(&self.store),
        };
        if answer.groups.is_empty() {
            info!("{}", nothing(answer.epochs));
        }
        // A table that is not empty has it below.
        let mut sentences = Vec::new();
        if self.format == Format::Csv || answer.groups.is_empty() {
            sentences = inexact::sentences(answer.inexact.as_ref(), &style.names);
        }
        sentences.extend(match self.format {
            Format::Table if answer.groups.is_empty() => accuracy::left_out(&answer.accuracy),
            Format::Csv => accuracy::remarks(&answer.accuracy),
            _ => Vec::new(),
        });
        for sentence in sentences {
            info!("{sentence}");
        }
        to_stdout(|writer| write(answer, self.format, &style, writer))
            .context("cannot write to standard output")
    }
}

impl From<FilterOptions> for Filter {
    fn from(options: FilterOptions) -> Self {
        Self {
            protocols: options.protocol,
            local: options.local_ip,
            remote: options.remote_ip,
            local_ports: options.local_port,
            remote_ports: options.remote_port,
            accounts: options.account,
            hosts: options.host,
            since: options.since,
            until: options.until,
        }
    }
}

fn nothing(epochs: u64) -> String {
    match epochs {
        0 => "nothing was collected in this time; trafstat-store collects".to_owned(),
        1 => "no record fits; 1 epoch was collected in this time".to_owned(),
        _ => format!("no record fits; {epochs} epochs were collected in this time"),
    }
}

fn write(
    answer: &Answer,
    format: Format,
    style: &table::Style,
    writer: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Table if answer.groups.is_empty() => Ok(()),
        Format::Table => table::write(answer, style, writer),
        Format::Csv => write_csv(answer, style.rates, writer),
        Format::Json => write_json(answer, style, writer),
    }
}

/// The rates of a group, or of all; none where they were not asked for.
fn rates_of(wanted: bool, counters: &Counters, seconds: Option<f64>) -> Option<Rates> {
    seconds
        .filter(|_| wanted)
        .map(|seconds| Rates::new(counters, seconds))
}

fn write_csv(answer: &Answer, rates: bool, writer: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    let columns = answer.total.columns().map(|(column, _)| column);
    let rate_columns = Rates::new(&answer.total, 1.0).columns();
    let shown = if rates { &rate_columns[..] } else { &[] };
    let error_columns = match answer.accuracy.is_sampled() {
        true => &accuracy::COLUMNS[..],
        false => &[],
    };
    csv.write_record(
        (answer.by.iter().map(|field| field.column()))
            .chain(columns)
            .chain(shown.iter().map(|(column, _)| *column))
            .chain(error_columns.iter().copied()),
    )?;
    for group in &answer.groups {
        let mut line: Vec<String> = Vec::new();
        for value in &group.key {
            line.push(csv_cell(&value.to_string()).into_owned());
        }
        let counters = group.counters.columns();
        line.extend(counters.map(|(_, counter)| counter.to_string()));
        let rates = rates_of(rates, &group.counters, rates::seconds(group.counted));
        line.extend(shown.iter().enumerate().map(|(index, _)| {
            rates.map_or_else(String::new, |rates| rates.columns()[index].1.to_string())
        }));
        let errors = accuracy::columns(group.error).into_iter();
        line.extend(
            errors
                .take(error_columns.len())
                .map(|error| error.map_or_else(String::new, |error| error.to_string())),
        );
        csv.write_record(line)?;
    }
    csv.flush()
}

fn write_json(answer: &Answer, style: &table::Style, writer: &mut dyn Write) -> io::Result<()> {
    let rates = style.rates;
    let with_rates = |mut object: Map<String, Json>, rates: Option<Rates>, error| {
        for (column, rate) in rates.iter().flat_map(Rates::columns) {
            object.insert(column.to_owned(), rate.into());
        }
        if answer.accuracy.is_sampled() {
            accuracy::add_error(&mut object, error);
        }
        Json::Object(object)
    };
    let records: Vec<Json> = answer
        .groups
        .iter()
        .map(|group| {
            let mut record = Map::new();
            for (field, value) in answer.by.iter().zip(&group.key) {
                record.insert(field.column().to_owned(), json!(value));
                if let Some(name) = name_of(value, &style.names) {
                    record.insert(format!("{}_name", field.column()), name.into());
                }
            }
            record.extend(counters(&group.counters));
            let rates = rates_of(rates, &group.counters, rates::seconds(group.counted));
            with_rates(record, rates, group.error)
        })
        .collect();
    let covered = answer.covered;
    let all = rates_of(rates, &answer.total, rates::seconds_of_all(answer));
    let mut object = json!({
        "records": records,
        "total": with_rates(counters(&answer.total).collect(), all, answer.error),
        "groups": answer.group_count,
        "epochs": answer.epochs,
        "opened": covered.map(|covered| covered.opened.to_string()),
        "closed": covered.map(|covered| covered.closed.to_string()),
    });
    inexact::add(&mut object, answer.inexact.as_ref());
    accuracy::add_accuracy(&mut object, &answer.accuracy);
    writeln!(writer, "{object}")
}

/// The name of a host, where its address is the value.
fn name_of<'a>(value: &Value, names: &'a Names) -> Option<&'a str> {
    match value {
        Value::Ip(ip) => names.host(*ip),
        _ => None,
    }
}

fn counters(counters: &Counters) -> impl Iterator<Item = (String, Json)> {
    let columns = counters.columns().into_iter();
    columns.map(|(column, counter)| (column.to_owned(), counter.into()))
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    protocol::parse(text)
        .ok_or_else(|| "expected a protocol's name or number, such as tcp or 6".to_owned())
}

/// An address alone is the net of just it; host bits do not matter.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected an address or a net, such as 192.0.2.7 or 192.0.2.0/24".to_owned())
}

/// A port, a range of them, or the name that `/etc/services` has for one.
pub fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    if let Some(port) = Services::read().port(text) {
        return Ok(port..=port);
    }
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(
            "expected a port from 0 to 65535, a range such as 8000-8099, or a name of \
             /etc/services such as https"
                .to_owned(),
        ),
    }
}
