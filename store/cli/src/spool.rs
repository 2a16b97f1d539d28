// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store spool`: what waits for the database, and what it refuses.

use std::cmp::Reverse;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use trafstat_cli::output::{Format, Listing, to_stdout};
use trafstat_cli::store::StoreOptions;
use trafstat_cli::text::printable;
use trafstat_store::collect::{Spool, SpoolPlace, SpoolState, SpooledEpoch};
use trafstat_store::export::{export_snapshot, to_file};
use trafstat_store::protocol;
use trafstat_store::snapshot::{Figure, Header, Record};
use trafstat_store::store::StoreError;

use crate::collect::CollectOptions;
use crate::settings::say;

/// Records that `show` lists unless it is told another number.
const TOP: usize = 10;

/// Look into the spool, where epochs wait for the database, and settle those that it refuses.
///
/// Epochs wait while the database is away, and are stored when it is back. An epoch that the
/// database refuses again and again, such as one that is stored already with other totals, is set
/// aside: its state is "refused", and it stays until "retry" or "drop".
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat-store spool list              what waits, what is refused, and why
  trafstat-store spool show 7            an epoch's totals and its largest records
  trafstat-store spool export 7 --output epoch.csv
                                         save it, as \"restore\" takes it
  trafstat-store spool retry 7           offer it to the database again
  trafstat-store spool drop 7            delete it; what it counted is lost")]
pub struct SpoolOptions {
    #[command(subcommand)]
    command: SpoolCommand,
}

/// What to do with the spool.
#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List the epochs, in the order in which they came.
    List,
    /// Show an epoch's totals and its records of the most bytes.
    Show(ShowOptions),
    /// Write an epoch as CSV that "restore" takes.
    Export(ExportOptions),
    /// Have an epoch that is set aside offered to the database again.
    Retry(Id),
    /// Delete an epoch for ever; what it counted is lost unless it was exported.
    Drop(DropOptions),
}

/// Which epoch.
#[derive(Debug, Args)]
struct Id {
    /// Its id, as "list" has it.
    id: i64,
}

/// Which epoch, and how much of it.
#[derive(Debug, Args)]
struct ShowOptions {
    #[command(flatten)]
    epoch: Id,

    /// How many records to show.
    #[arg(long, value_name = "NUMBER", default_value_t = TOP)]
    top: usize,
}

/// Which epoch, and where to.
#[derive(Debug, Args)]
struct ExportOptions {
    #[command(flatten)]
    epoch: Id,

    /// File to write, which must not exist yet; compressed if it ends in .gz or .zst.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Which epoch, and whether to ask.
#[derive(Debug, Args)]
struct DropOptions {
    #[command(flatten)]
    epoch: Id,

    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Looks into the spool, or settles an epoch of it.
pub fn run(
    spool: &SpoolOptions,
    options: &CollectOptions,
    store: &StoreOptions,
) -> Result<ExitCode> {
    let place = options.spool_place(&store.config()?.collect);
    let format = options.format();
    match &spool.command {
        SpoolCommand::List => list(format, &place),
        SpoolCommand::Show(options) => show(options, format, &opened(&place)?),
        SpoolCommand::Export(options) => export(options, &opened(&place)?),
        SpoolCommand::Retry(Id { id }) => {
            opened(&place)?.retry(*id)?;
            say(&format!("epoch {id} waits for the next collection"))
        }
        SpoolCommand::Drop(options) => drop_epoch(options, &mut opened(&place)?),
    }
}

fn opened(place: &SpoolPlace) -> Result<Spool> {
    match Spool::open_existing(place)? {
        Some(spool) => Ok(spool),
        None => bail!("no epoch waits: there is no spool {}", place.path.display()),
    }
}

fn list(format: Format, place: &SpoolPlace) -> Result<ExitCode> {
    let epochs = match Spool::open_existing(place)? {
        Some(spool) => spool.list()?,
        None => Vec::new(),
    };
    let json: Vec<Value> = epochs.iter().map(json_of).collect();
    let listing = Listing {
        columns: COLUMNS,
        numbers: 0..1,
        rows: epochs.iter().map(cells).collect(),
        json: &json!({ "epochs": json }),
    };
    to_stdout(|writer| listing.write(format, writer)).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 11] = [
    "id", "host", "netns", "account", "family", "epoch", "closed", "bytes", "state", "tries",
    "reason",
];

fn cells(epoch: &SpooledEpoch) -> [String; 11] {
    let of_header = |text: fn(&Header) -> String| epoch.header.as_ref().map(text);
    [
        epoch.id.to_string(),
        epoch.origin.hostname.clone(),
        epoch.origin.netns.clone(),
        of_header(|header| header.account.name.to_string()).unwrap_or_default(),
        of_header(|header| header.account.family.to_string()).unwrap_or_default(),
        of_header(|header| header.epoch.to_string()).unwrap_or_default(),
        of_header(|header| time(header.closed_ns)).unwrap_or_default(),
        epoch.bytes.to_string(),
        epoch.state.name().to_owned(),
        epoch.tries.to_string(),
        epoch.reason.clone().unwrap_or_default(),
    ]
}

fn json_of(epoch: &SpooledEpoch) -> Value {
    let header = epoch.header.as_ref();
    json!({
        "id": epoch.id,
        "host": epoch.origin.hostname,
        "machine_id": epoch.origin.machine_id,
        "netns": epoch.origin.netns,
        "account": header.map(|header| header.account.name.as_str()),
        "family": header.map(|header| header.account.family.to_string()),
        "epoch": header.map(|header| header.epoch),
        "opened": header.map(|header| time(header.opened_ns)),
        "closed": header.map(|header| time(header.closed_ns)),
        "spooled": epoch.spooled.strftime("%FT%TZ").to_string(),
        "bytes": epoch.bytes,
        "state": epoch.state,
        "tries": epoch.tries,
        "reason": epoch.reason,
    })
}

fn show(options: &ShowOptions, format: Format, spool: &Spool) -> Result<ExitCode> {
    let epoch = spool.get(options.epoch.id)?;
    let mut snapshot = spool.snapshot(epoch.id)?;
    let header = snapshot.header().clone();
    let mut records: Vec<Record> = Vec::new();
    while let Some(batch) = snapshot.next_batch()? {
        records.extend(batch);
        records.sort_by_key(|record| Reverse(record.counters.bytes()));
        records.truncate(options.top);
    }
    let figures: Map<String, Value> = Header::FIGURES
        .iter()
        .map(|figure| (figure.name.to_owned(), (figure.get)(&header).into()))
        .collect();
    let lines: Vec<Value> = records.iter().map(record_json).collect();
    let listing = Listing {
        columns: RECORD_COLUMNS,
        numbers: 5..8,
        rows: records.iter().map(record_cells).collect(),
        json: &json!({ "epoch": json_of(&epoch), "totals": figures, "records": lines }),
    };
    to_stdout(|writer| {
        if format == Format::Table {
            for (name, cell) in COLUMNS.iter().zip(cells(&epoch)) {
                writeln!(writer, "{name:<22} {}", printable(&cell))?;
            }
            // Its times are above, as people read them.
            let is_time = |figure: &&Figure| figure.name.ends_with("_ns");
            for figure in Header::FIGURES.iter().filter(|figure| !is_time(figure)) {
                writeln!(writer, "{:<22} {}", figure.name, (figure.get)(&header))?;
            }
            writeln!(writer)?;
        }
        listing.write(format, writer)
    })
    .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

const RECORD_COLUMNS: [&str; 8] = [
    "protocol",
    "local_ip",
    "local_port",
    "remote_ip",
    "remote_port",
    "sent_bytes",
    "received_bytes",
    "packets",
];

fn record_cells(record: &Record) -> [String; 8] {
    [
        protocol_name(record),
        record.local.ip.to_string(),
        record.local.port.to_string(),
        record.remote.ip.to_string(),
        record.remote.port.to_string(),
        record.counters.sent_bytes.to_string(),
        record.counters.received_bytes.to_string(),
        record.counters.packets().to_string(),
    ]
}

fn protocol_name(record: &Record) -> String {
    protocol::name(record.protocol).map_or_else(|| record.protocol.to_string(), ToOwned::to_owned)
}

fn record_json(record: &Record) -> Value {
    json!({
        "protocol": protocol_name(record),
        "local_ip": record.local.ip,
        "local_port": record.local.port,
        "remote_ip": record.remote.ip,
        "remote_port": record.remote.port,
        "sent_packets": record.counters.sent_packets,
        "received_packets": record.counters.received_packets,
        "sent_bytes": record.counters.sent_bytes,
        "received_bytes": record.counters.received_bytes,
    })
}

fn export(options: &ExportOptions, spool: &Spool) -> Result<ExitCode> {
    let epoch = spool.get(options.epoch.id)?;
    let write = |out: &mut dyn Write| -> Result<(), StoreError> {
        let unreadable = |error| StoreError::Write(io::Error::other(error));
        let mut snapshot = spool.snapshot(epoch.id).map_err(unreadable)?;
        export_snapshot(&epoch.origin, &mut snapshot, out)
    };
    match &options.output {
        Some(path) => to_file(path, write)?,
        None => {
            let mut failed = None;
            to_stdout(|out| match write(out) {
                Err(StoreError::Write(error)) => Err(error),
                Err(error) => {
                    failed = Some(error);
                    Ok(())
                }
                Ok(()) => Ok(()),
            })
            .context("cannot write to standard output")?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn drop_epoch(options: &DropOptions, spool: &mut Spool) -> Result<ExitCode> {
    let epoch = spool.get(options.epoch.id)?;
    let lost = lost(&epoch);
    if !options.yes && io::stdin().is_terminal() {
        let mut error = io::stderr();
        write!(error, "{lost}. Delete it for ever? [y/N] ")
            .and_then(|()| error.flush())
            .context("cannot write to standard error")?;
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .context("cannot read the answer")?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return say("nothing is deleted");
        }
    }
    spool.discard(epoch.id)?;
    say(&format!("deleted: {lost}"))
}

/// What an epoch has that is nowhere else.
fn lost(epoch: &SpooledEpoch) -> String {
    let id = epoch.id;
    let Some(header) = &epoch.header else {
        return format!("epoch {id} of the spool, of which no more can be read");
    };
    let recorded = header.totals.recorded;
    let stored = match epoch.state {
        SpoolState::Waiting => "which the database does not have yet",
        SpoolState::Refused => "which the database refuses",
    };
    format!(
        "epoch {} of account {} of {}, {} to {}: {} packets of {} bytes in {} records, {stored}",
        header.epoch,
        header.account,
        printable(&epoch.origin.hostname),
        time(header.opened_ns),
        time(header.closed_ns),
        recorded.packets,
        recorded.bytes,
        header.records,
    )
}

fn time(nanoseconds: u64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into())
        .map(|time| time.strftime("%FT%TZ").to_string())
        .unwrap_or_default()
}
