// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store import`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tracing::warn;
use trafstat_cli::output::{Format, Listing, to_stdout};
use trafstat_cli::store::login_at;
use trafstat_cli::time;
use trafstat_store::account::Name;
use trafstat_store::import::OriginalTables;
use trafstat_store::import::{
    ClosedAt, ImportError, Imported, OriginalAccount, Times, import, original_account, rows_of_file,
};
use trafstat_store::options::secret::Secret;
use trafstat_store::origin::Origin;
use trafstat_store::store::Store;

use crate::settings::Settings;
use trafstat_cli::progress::Progress;

/// Take over what the original xt_TRAFSTAT has: its CSV, what its rotation wrote, and its
/// tables in MySQL.
///
/// The same rows are stored once, however often they are imported and wherever they are
/// found: a row is known by the host that counted it, its account, its time and what it says, and
/// of equal rows of one time as many are stored as the file or table has that has most of them.
/// Tables are read only. Files may be compressed with gzip, zstd or xz. Times in files are local;
/// the environment variable TZ says of which zone. Of the hour that comes twice when summer time
/// ends, the order of the rows tells which one is meant.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat-store import /var/trafstat/trafstat_192_0_2_0_24_*.gz
  trafstat-store import --from-url mysql://trafstat@localhost/trafstat
  trafstat-store import --origin old-gateway trafstat_192_0_2_0_24_*.gz
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

    /// The host that counted, by its machine id or its name [default: this host].
    ///
    /// Where rows of the account were imported as another host's, it must be given: the same
    /// rows of two hosts would count twice.
    #[arg(
        long,
        alias = "machine-id",
        value_name = "HOST",
        value_parser = NonEmptyStringValueParser::new()
    )]
    origin: Option<String>,

    /// A name for the host that counted, if it is known by its machine id only.
    #[arg(long, value_name = "NAME", requires = "origin")]
    hostname: Option<String>,

    /// Take the last reading of a file or table, too, though it is younger than 10 minutes and
    /// may still get rows.
    #[arg(long)]
    whole: bool,
}

/// A reading that is older gets no more rows: the original stores all of one within seconds.
const WHOLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

pub fn run(options: &ImportOptions, format: Format, settings: &Settings) -> Result<ExitCode> {
    let progress = Progress::new("importing");
    let lines = match &options.from_url {
        Some(url) => options.import_tables(url, settings, &progress)?,
        None => options.import_files(settings, &progress)?,
    };
    progress.finish();
    for line in lines.iter().filter(|line| line.imported.held_back > 0) {
        warn!(
            "{}: its last {} rows are younger than 10 minutes and may not be all of their \
             reading; the next import takes them, or this one with --whole",
            line.source, line.imported.held_back
        );
    }
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
    fn import_files(&self, settings: &Settings, progress: &Progress) -> Result<Vec<Line>> {
        // Before anything is stored: what is wrong with one of the names is said at once.
        let accounts: Vec<OriginalAccount> = self
            .files
            .iter()
            .map(|file| self.account_of(&file.file_name().unwrap_or_default().to_string_lossy()))
            .collect::<Result<_>>()?;
        let mut store = settings.location.open()?;
        let origins = self.origins(store.as_mut(), &accounts)?;
        let mut lines = Vec::new();
        for ((file, account), origin) in self.files.iter().zip(&accounts).zip(&origins) {
            let times = self.times(file_time(file)?);
            let rows = rows_of_file(file)?;
            let imported = import(store.as_mut(), origin, account, rows, times, progress)
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
        let origins = self.origins(store.as_mut(), &accounts)?;
        let mut lines = Vec::new();
        for ((table, account), origin) in tables.into_iter().zip(&accounts).zip(&origins) {
            let times = self.times(Timestamp::now());
            let imported = originals
                .rows(&table)
                .map_err(ImportError::Rows)
                .and_then(|rows| import(store.as_mut(), origin, account, rows, times, progress))
                .with_context(|| format!("table {table} is not imported to its end"))?;
            lines.push(Line {
                source: table,
                account: account.name.as_str().to_owned(),
                imported,
            });
        }
        Ok(lines)
    }

    fn times(&self, guess: Timestamp) -> Times {
        Times {
            closed: self.closed.map_or(ClosedAt::Guessed(guess), ClosedAt::Said),
            whole_until: (!self.whole).then(|| Timestamp::now() - WHOLE_AFTER),
        }
    }

    /// The host that counted into each of the accounts.
    fn origins(&self, store: &mut dyn Store, accounts: &[OriginalAccount]) -> Result<Vec<Origin>> {
        let own = Origin::of_this_process()?;
        if let Some(said) = &self.origin {
            let origin = self.origin_called(said, store, own)?;
            return Ok(vec![origin; accounts.len()]);
        }
        for OriginalAccount { name, .. } in accounts {
            let known = store.imported_origins(name)?;
            if known
                .iter()
                .any(|origin| origin.machine_id != own.machine_id)
            {
                let hosts: Vec<_> = known.iter().map(|origin| &*origin.hostname).collect();
                bail!(
                    "account {}: rows were imported before as counted by {}. If the same host \
                     counted these, name it with --origin {}; if this host did, with --origin {}",
                    name.as_str(),
                    hosts.join(", "),
                    known[0].machine_id,
                    own.machine_id
                );
            }
        }
        Ok(vec![own; accounts.len()])
    }

    /// The host of this machine id or name: one that the store knows, this one or a new one.
    fn origin_called(&self, said: &str, store: &mut dyn Store, own: Origin) -> Result<Origin> {
        let mut hosts: Vec<Origin> = Vec::new();
        let known = store.hosts()?.into_iter().map(|host| Origin {
            machine_id: host.machine_id,
            hostname: host.hostname,
            netns: "init".to_owned(),
        });
        for host in [own].into_iter().chain(known) {
            if hosts
                .iter()
                .all(|other| other.machine_id != host.machine_id)
            {
                hosts.push(host);
            }
        }
        if let Some(by_id) = hosts.iter().position(|host| host.machine_id == said) {
            hosts = vec![hosts.swap_remove(by_id)];
        } else {
            hosts.retain(|host| host.hostname == said);
        }
        let mut origin = match &hosts[..] {
            [] => Origin {
                machine_id: said.to_owned(),
                hostname: said.to_owned(),
                netns: "init".to_owned(),
            },
            [host] => host.clone(),
            hosts => {
                let ids: Vec<_> = hosts.iter().map(|host| &*host.machine_id).collect();
                bail!(
                    "--origin {said}: several hosts have this name; give the machine id, one of {}",
                    ids.join(", ")
                );
            }
        };
        if let Some(hostname) = &self.hostname {
            origin.hostname.clone_from(hostname);
        }
        Ok(origin)
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

const COLUMNS: [&str; 9] = [
    "source",
    "account",
    "epochs",
    "known_epochs",
    "rows",
    "records",
    "packets",
    "bytes",
    "held_back",
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
    fn cells(&self) -> [String; 9] {
        let Imported {
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
            held_back,
        } = self.imported;
        let figures = [
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
            held_back,
        ];
        let [
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
            held_back,
        ] = figures.map(|figure| figure.to_string());
        [
            self.source.clone(),
            self.account.clone(),
            epochs,
            known_epochs,
            rows,
            records,
            packets,
            bytes,
            held_back,
        ]
    }
}
