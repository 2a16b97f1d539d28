// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat report`: what a day or a month came to, compared with the one before.

mod delivery;
mod figures;
mod html;
mod machine;
mod period;
mod samples;
mod text;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use jiff::ZonedDateTime;
use tracing::info;
use trafstat_cli::output::to_stdout;
use trafstat_cli::store::StoreOptions;
use trafstat_store::account::Name;
use trafstat_store::query::Filter;

use crate::accuracy;
use crate::names::Names;
use crate::system::write_in_place_of;
use figures::{Figures, Question};
use period::{Length, Period, Which};
use samples::SampleInterval;

/// The mode of a new file.
const FILE_MODE: u32 = 0o644;

/// Which report, and how.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat report day                         yesterday, compared with the day before
  trafstat report month current               this month until now, compared with as much of
                                              the last one
  trafstat report month 2026-01 --format html --output january.html
                                              one file with charts, for a browser
  trafstat report month --deliver             last month, to a folder and by mail
  trafstat report month --sample 5m --format csv
                                              95th percentiles of five minutes, as is billed

A percentile is of samples: the averages over each hour, or five minutes, in which these hosts
and accounts counted. Times in which none of them counted are gaps, not zeros. Samples of 5m need
records that are kept, and a collector that runs so often: what was counted in a longer time is
spread evenly over it, and the report says so. docs/PERCENTILE.md has the method. Days and
months are those of the local time zone; where finer sums were deleted, the report says what is
not exact.

Where rules sampled, figures are estimates, and ± is one standard error of packets: 68 times of
100 the true number is not further away.

Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct ReportOptions {
    /// How long a time it is about.
    #[arg(value_enum)]
    length: Length,

    /// Which day or month: such as 2026-01-31, 2026-01, last or current.
    #[arg(value_name = "WHICH", default_value = "last")]
    which: Which,

    /// How to write it.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,

    /// File to write it to [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Deliver it to the folder and the addresses that section `report` of the configuration names.
    #[arg(long, conflicts_with_all = ["format", "output"])]
    deliver: bool,

    /// How many local addresses and services to tell of; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: u64,

    /// What 95th percentiles are taken of.
    #[arg(long, value_enum, default_value_t = SampleInterval::Hour)]
    sample: SampleInterval,

    /// Only these accounts.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    account: Vec<Name>,

    /// Only what these hosts counted, by name or machine id.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    host: Vec<String>,

    /// Protocols and ports without their names.
    #[arg(long, short)]
    numeric: bool,

    #[command(flatten)]
    store: StoreOptions,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people.
    Text,
    /// Comma-separated values with a line of column names.
    Csv,
    /// One JSON object.
    Json,
    /// One file with charts that needs no other.
    Html,
}

impl ReportOptions {
    /// Asks the store and writes the report.
    ///
    /// # Errors
    /// The store's, or that the report cannot be written.
    pub fn run(self) -> Result<()> {
        let now = ZonedDateTime::now();
        let question = Question {
            period: Period::new(self.length, self.which, &now)?,
            filter: Filter {
                accounts: self.account.clone(),
                hosts: self.host.clone(),
                ..Filter::default()
            },
            sample: self.sample,
            limit: (self.top > 0).then_some(self.top),
            now: now.timestamp(),
        };
        let mut store = self.store.open_read_only()?;
        let figures = Figures::ask(store.as_mut(), &question)?;
        let names = Names::new(now.time_zone().clone(), self.numeric).with_hosts(&self.store);
        if figures.epochs == 0 {
            info!("nothing was collected in {}", figures.period.name());
        }
        if self.format == ReportFormat::Csv {
            let inexact = text::inexact(&figures, &names).into_iter();
            for remark in inexact.chain(accuracy::remarks(&figures.accuracy)) {
                info!("{remark}");
            }
        }
        if self.deliver {
            let hostname = rustix::system::uname();
            let hostname = hostname.nodename().to_string_lossy();
            let config = self.store.config()?.report;
            return delivery::deliver(&config, &hostname, &figures, &names);
        }
        let write = |writer: &mut dyn Write| match self.format {
            ReportFormat::Text => text::write(&figures, &names, writer),
            ReportFormat::Csv => machine::write_csv(&figures, writer),
            ReportFormat::Json => machine::write_json(&figures, writer),
            ReportFormat::Html => html::write(&figures, &names, writer),
        };
        match &self.output {
            None => to_stdout(write).context("cannot write to standard output"),
            Some(path) => {
                let mut bytes = Vec::new();
                write(&mut bytes)?;
                let text = String::from_utf8(bytes).context("a report is no UTF-8")?;
                write_in_place_of(path, &text, FILE_MODE)
                    .with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}
