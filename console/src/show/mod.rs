//! `trafstat show`: from options to a query, from its answer to the screen.

mod table;

use std::io::{self, Write};
use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;
use trafstat_store::account::Name;
use trafstat_store::backend::{Sqlite, Store};
use trafstat_store::options::StoreOptions;
use trafstat_store::origin::Origin;
use trafstat_store::output::{Format, to_stdout};
use trafstat_store::query::{Answer, Field, Filter, GroupRecord, Order, Query};
use trafstat_store::source::capture::{Capture, CaptureName, CaptureOptions};
use trafstat_store::{protocol, time};

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
  trafstat show --source pcap:day.pcap --local-net 192.0.2.0/24 --local-tcp-ports all
                                                   what is in a capture, without a store

Times are \"2026-01-31 12:00\" in the local time zone, \"2026-01-31T12:00:00Z\", or so long
ago: 30m, 2h, 7d, 4w. What was counted belongs to the time at which it was collected.")]
pub struct ShowOptions {
    /// Fields to sum up by, separated by commas.
    #[arg(
        long,
        value_name = "FIELDS",
        value_enum,
        value_delimiter = ',',
        default_value = "local-ip,protocol,local-port"
    )]
    by: Vec<Field>,

    /// What to sort by, largest first.
    #[arg(long, value_name = "COUNTER", value_enum, default_value_t = Order::Bytes)]
    sort: Order,

    /// How many lines to show; 0 shows all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: u64,

    /// How to write them.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    filter: FilterOptions,

    #[command(flatten)]
    store: StoreOptions,

    #[command(flatten)]
    capture: CaptureOptions,
}

/// Which records count; where several values stand, one must fit.
#[derive(Debug, Args)]
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

    /// Only these local ports.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    local_port: Vec<u16>,

    /// Only these remote ports.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    remote_port: Vec<u16>,

    /// Only these accounts.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    account: Vec<Name>,

    /// Only what was collected at this time or later.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,

    /// Only what was collected before this time.
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
        if self.capture.source.is_some() {
            self.capture.rules()?;
        }
        match (self.filter.since, self.filter.until) {
            (Some(since), Some(until)) if since >= until => {
                Err("--since must be before --until".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Asks the store and writes what it answers.
    ///
    /// # Errors
    /// The store's, or that standard output cannot be written.
    pub fn run(self) -> Result<()> {
        match self.capture.source.clone() {
            Some(name) => self.run_on_capture(&name),
            None => {
                let mut store = self.store.open_read_only()?;
                self.show(store.as_mut())
            }
        }
    }

    /// Counts a capture into a store that lasts as long as the question.
    fn run_on_capture(self, name: &CaptureName) -> Result<()> {
        let rules = self.capture.rules().map_err(anyhow::Error::msg)?;
        let mut capture = Capture::open(name, &rules, &self.capture)?;
        let folder = tempfile::tempdir().context("cannot make a folder for the records")?;
        let mut store = Sqlite::open(&folder.path().join("capture.db"))?;
        store.migrate()?;
        for outcome in capture.collect(&mut store, &Origin::of_this_process()?) {
            outcome.result?;
        }
        self.show(&mut store)?;
        for remark in capture.remarks() {
            eprintln!("trafstat: {remark}");
        }
        Ok(capture.finish()?)
    }

    fn show(self, store: &mut dyn Store) -> Result<()> {
        let query = Query {
            by: self.by,
            filter: self.filter.into(),
            order: self.sort,
            limit: (self.top > 0).then_some(self.top),
        };
        let answer = store.query(&query).context("cannot query the database")?;
        if answer.groups.is_empty() {
            eprintln!("trafstat: {}", nothing(answer.epochs));
        }
        to_stdout(|writer| write(&answer, self.format, writer))
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

#[derive(Serialize)]
struct Records<'a> {
    records: Vec<GroupRecord<'a>>,
}

fn write(answer: &Answer, format: Format, mut writer: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Table if answer.groups.is_empty() => Ok(()),
        Format::Table => table::write(answer, writer),
        Format::Csv => write_csv(answer, writer),
        Format::Json => {
            let records = answer.records().collect();
            serde_json::to_writer(&mut writer, &Records { records })?;
            writeln!(writer)
        }
    }
}

fn write_csv(answer: &Answer, writer: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    let counters = answer.total.columns().map(|(column, _)| column);
    csv.write_record(answer.by.iter().map(|field| field.column()).chain(counters))?;
    for group in &answer.groups {
        let counters = group.counters.columns();
        csv.write_record(
            group
                .key
                .iter()
                .map(ToString::to_string)
                .chain(counters.map(|(_, counter)| counter.to_string())),
        )?;
    }
    csv.flush()
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
