// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store import`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::Serialize;
use trafstat_cli::output::{Format, Listing, to_stdout};
use trafstat_cli::store::login_at;
use trafstat_cli::time;
use trafstat_store::account::Name;
use trafstat_store::import::OriginalTables;
use trafstat_store::import::{
    ClosedAt, ImportError, Imported, OriginalAccount, import, original_account, rows_of_file,
};
use trafstat_store::options::secret::Secret;
use trafstat_store::origin::Origin;

use crate::settings::Settings;
use trafstat_cli::progress::Progress;

/// Take over what the original xt_TRAFSTAT has: its CSV, what its rotation wrote, and its
/// tables in MySQL.
///
/// The same rows are stored once, however often they are imported and wherever they are
/// found; tables are read only. Files may be compressed
/// with gzip, zstd or xz. Times in files are local; the environment variable TZ says of which zone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat-store import /var/trafstat/trafstat_192_0_2_0_24_*.gz
  trafstat-store import --from-url mysql://trafstat@localhost/trafstat
  trafstat-store import --local-net 192.0.2.0/24 --closed \"2024-01-31 12:00\" dump.csv")]
pub struct ImportOptions {
    /// Files as they come from /proc/trafstat, or from SELECT * INTO OUTFILE.
    #[arg(required_unless_present = "from_url", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The original's MySQL server and database; what is not said comes from ~/.my.cnf.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "files",
        // What a parser refuses is shown, with a password in it: parsed later.
        value_parser = |text: &str| Ok::<_, String>(Secret::new(text))
    )]
    from_url: Option<Secret>,

    /// Read this option file for the original's server, not ~/.my.cnf.
    #[arg(long, value_name = "FILE", requires = "from_url")]
    from_defaults_file: Option<PathBuf>,

    /// Only this table; may be given several times [default: all that are named after an
    /// account].
    #[arg(long, value_name = "NAME", requires = "from_url")]
    table: Vec<String>,

    /// The account [default: the one that the file or table is named after].
    #[arg(long, value_name = "NAME")]
    account: Option<Name>,

    /// The account's local net [default: the one that the file or table is named after].
    // In place of the one that all subcommands have for captures.
    #[arg(long, id = "local-net", value_name = "ADDRESS/PREFIX")]
    local_net: Option<String>,

    /// When rows without a time were read from the kernel [default: the file's own time].
    ///
    /// Without it, two files of the same rows are one.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    closed: Option<Timestamp>,

    /// Machine id of the host that counted, if it is another one than this.
    #[arg(long, value_name = "ID", requires = "hostname")]
    machine_id: Option<String>,

    /// Name of the host that counted.
    #[arg(long, value_name = "NAME", requires = "machine_id")]
    hostname: Option<String>,
}

pub fn run(options: &ImportOptions, format: Format, settings: &Settings) -> Result<ExitCode> {
    let mut origin = Origin::of_this_process()?;
    if let (Some(machine_id), Some(hostname)) = (&options.machine_id, &options.hostname) {
        origin = Origin {
            machine_id: machine_id.clone(),
            hostname: hostname.clone(),
            netns: "init".to_owned(),
        };
    }
    let progress = Progress::new("importing");
    let lines = match &options.from_url {
        Some(url) => options.import_tables(url, &origin, settings, &progress)?,
        None => options.import_files(&origin, settings, &progress)?,
    };
    progress.finish();
    let listing = Listing {
        columns: COLUMNS,
        numbers: 2..COLUMNS.len(),
        rows: lines.iter().map(Line::cells).collect(),
        json: &Report { sources: &lines },
    };
    to_stdout(|writer| listing.write(format, writer)).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

impl ImportOptions {
    fn import_files(
        &self,
        origin: &Origin,
        settings: &Settings,
        progress: &Progress,
    ) -> Result<Vec<Line>> {
        // Before anything is stored: what is wrong with one of the names is said at once.
        let accounts: Vec<OriginalAccount> = self
            .files
            .iter()
            .map(|file| self.account_of(&file.file_name().unwrap_or_default().to_string_lossy()))
            .collect::<Result<_>>()?;
        let mut store = settings.location.open()?;
        let mut lines = Vec::new();
        for (file, account) in self.files.iter().zip(&accounts) {
            let closed = match self.closed {
                Some(time) => ClosedAt::Said(time),
                None => ClosedAt::Guessed(file_time(file)?),
            };
            let rows = rows_of_file(file)?;
            let imported = import(store.as_mut(), origin, account, rows, closed, progress)
                .with_context(|| format!("{} is not imported to its end", file.display()))?;
            lines.push(Line {
                source: file.display().to_string(),
                account: account.name.as_str().to_owned(),
                imported,
            });
        }
        Ok(lines)
    }

    fn import_tables(
        &self,
        url: &Secret,
        origin: &Origin,
        settings: &Settings,
        progress: &Progress,
    ) -> Result<Vec<Line>> {
        let login = login_at(url, self.from_defaults_file.as_deref())?;
        let mut originals = OriginalTables::open(&login)?;
        let mut tables = self.table.clone();
        if tables.is_empty() {
            tables = originals.names()?;
            tables.retain(|table| original_account(table).is_some());
            if tables.is_empty() {
                bail!(
                    "database {} has no table that is named after an account, such as \
                     trafstat_192_0_2_0_24: name one with --table, and its local net with \
                     --local-net",
                    login.database
                );
            }
        }
        let accounts: Vec<OriginalAccount> = tables
            .iter()
            .map(|table| self.account_of(table))
            .collect::<Result<_>>()?;
        let mut store = settings.location.open()?;
        let mut lines = Vec::new();
        for (table, account) in tables.into_iter().zip(&accounts) {
            let closed = match self.closed {
                Some(time) => ClosedAt::Said(time),
                None => ClosedAt::Guessed(Timestamp::now()),
            };
            let imported = originals
                .rows(&table)
                .map_err(ImportError::Rows)
                .and_then(|rows| import(store.as_mut(), origin, account, rows, closed, progress))
                .with_context(|| format!("table {table} is not imported to its end"))?;
            lines.push(Line {
                source: table,
                account: account.name.as_str().to_owned(),
                imported,
            });
        }
        Ok(lines)
    }

    /// The account of a file or table of this name.
    fn account_of(&self, name: &str) -> Result<OriginalAccount> {
        let named = original_account(name);
        let said: Option<Ipv4Net> = self
            .local_net
            .as_ref()
            .map(|net| net.parse().with_context(|| format!("--local-net {net:?}")))
            .transpose()?;
        let local_net = said.or(named.as_ref().map(|account| account.local_net));
        let Some(local_net) = local_net else {
            bail!(
                "{name} is not named after an account, such as trafstat_192_0_2_0_24: name the \
                 local net with --local-net"
            );
        };
        let name = match &self.account {
            Some(said) => said.clone(),
            None => format!("{}_{}", local_net.addr(), local_net.prefix_len()).parse()?,
        };
        Ok(OriginalAccount { name, local_net })
    }
}

fn file_time(file: &Path) -> Result<Timestamp> {
    let time = std::fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .with_context(|| file.display().to_string())?;
    Ok(Timestamp::try_from(time)?)
}

const COLUMNS: [&str; 8] = [
    "source",
    "account",
    "epochs",
    "known_epochs",
    "rows",
    "records",
    "packets",
    "bytes",
];

#[derive(Serialize)]
struct Report<'a> {
    sources: &'a [Line],
}

/// What came of one file or table.
#[derive(Serialize)]
struct Line {
    source: String,
    account: String,
    #[serde(flatten)]
    imported: Imported,
}

impl Line {
    fn cells(&self) -> [String; 8] {
        let Imported {
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
        } = self.imported;
        let figures = [epochs, known_epochs, rows, records, packets, bytes];
        let [epochs, known_epochs, rows, records, packets, bytes] =
            figures.map(|figure| figure.to_string());
        [
            self.source.clone(),
            self.account.clone(),
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
        ]
    }
}
