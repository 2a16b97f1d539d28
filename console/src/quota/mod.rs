// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat quota`: how much of each quota is used, and warnings about it.

mod usage;
mod warnings;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use jiff::ZonedDateTime;
use serde_json::json;
use trafstat_cli::output::{Format, to_stdout};
use trafstat_cli::store::StoreOptions;
use trafstat_store::options::config::Config;

use crate::inexact;
use crate::names::Names;
use tracing::info;
use trafstat_cli::units;
pub use usage::Usage;

/// What to do about quotas.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat quota                    how much of each quota is used
  trafstat quota --format json      the same for a program
  trafstat quota --warn             run the command of the configuration where it is due

Section [quota] of /etc/trafstat/trafstat.toml says what is limited, at which percentages to
warn, and the command that does; trafstat.toml(5) explains it. A command runs once for each
percentage and period; one that fails runs again the next time. Without [quota] there is
nothing to do, and nothing is said by --warn.

Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct QuotaOptions {
    /// Give the warnings that are due, and write nothing else.
    #[arg(long, conflicts_with = "format")]
    warn: bool,

    /// Run the commands of warnings in units of their own.
    #[arg(long, hide = true, requires = "warn")]
    by_unit: bool,

    /// Run the command for this percentage of this quota.
    #[arg(long, hide = true, conflicts_with_all = ["warn", "format"], value_name = "PERCENT:QUOTA",
        value_parser = warnings::parse_instance)]
    act: Option<(u32, String)>,

    /// How to write it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    store: StoreOptions,
}

impl QuotaOptions {
    /// Shows quotas, or gives warnings.
    ///
    /// # Errors
    /// The configuration's or the store's, or that a warning could not be given.
    pub fn run(self) -> Result<()> {
        let config = self.store.config()?;
        let now = ZonedDateTime::now();
        if config.quota.limit.is_empty() {
            if !self.warn && self.act.is_none() {
                info!("the configuration limits nothing under [quota]");
            }
            if self.warn || self.format == Format::Table {
                return Ok(());
            }
        }
        let usages = used(&config, &self.store, &now)?;
        if let Some((percent, name)) = &self.act {
            let usage = usages.iter().find(|usage| usage.name == *name);
            let usage = usage.with_context(|| format!("there is no quota {name:?}"))?;
            return warnings::run(&config.quota.command, usage, *percent);
        }
        if self.warn {
            let state = match &config.quota.state {
                Some(path) => path.clone(),
                None => PathBuf::from(warnings::DEFAULT_STATE),
            };
            let act = |usage: &Usage, percent| match self.by_unit {
                true => warnings::run_by_unit(usage, percent),
                false => warnings::run(&config.quota.command, usage, percent),
            };
            return warnings::give(&usages, &config.quota.warn_at, Path::new(&state), &act);
        }
        let names = Names::new(now.time_zone().clone(), false);
        for usage in usages.iter().filter(|_| self.format == Format::Csv) {
            for remark in usage.remarks(&names) {
                info!("{remark}");
            }
        }
        to_stdout(|writer| match self.format {
            Format::Table => write_table(&usages, &names, writer),
            Format::Csv => write_csv(&usages, writer),
            Format::Json => {
                let quotas: Vec<_> = usages.iter().map(Usage::json).collect();
                writeln!(writer, "{}", json!({ "quotas": quotas }))
            }
        })
        .context("cannot write to standard output")
    }
}

/// How much of each quota is used now; nothing is asked where nothing is limited.
///
/// # Errors
/// The store's.
pub fn used(config: &Config, store: &StoreOptions, now: &ZonedDateTime) -> Result<Vec<Usage>> {
    if config.quota.limit.is_empty() {
        return Ok(Vec::new());
    }
    let mut store = store.open_read_only()?;
    Usage::of(&config.quota.limit, store.as_mut(), now)
}

impl Usage {
    /// In a line.
    pub fn sentence(&self) -> String {
        format!(
            "{}: {} of {}, {} %",
            self.name,
            units::bytes(self.used_bytes),
            units::bytes(self.limit_bytes),
            self.percent()
        )
    }

    /// Sentences about the parts of its usage that are not exact, with its name.
    fn remarks(&self, names: &Names) -> Vec<String> {
        let sentences = inexact::sentences(self.inexact.as_ref(), names);
        let named = |sentence| format!("{}: {sentence}", self.name);
        sentences.into_iter().map(named).collect()
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let mut object = json!({
            "name": self.name,
            "begin": self.begin.to_string(),
            "end": self.end.to_string(),
            "used_bytes": self.used_bytes,
            "limit_bytes": self.limit_bytes,
            "percent": self.percent(),
        });
        inexact::add(&mut object, self.inexact.as_ref());
        object
    }
}

fn write_table(usages: &[Usage], names: &Names, writer: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["QUOTA", "SINCE", "UNTIL", "USED", "OF", "PERCENT", ""]);
    for usage in usages {
        table.add_row([
            usage.name.clone(),
            names.time(usage.begin),
            names.time(usage.end),
            units::bytes(usage.used_bytes),
            units::bytes(usage.limit_bytes),
            usage.percent().to_string(),
            units::bar(usage.percent() as f64 / 100.0, 20),
        ]);
    }
    for index in [3, 4, 5] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(writer, "{}", table.trim_fmt())?;
    for remark in usages.iter().flat_map(|usage| usage.remarks(names)) {
        writeln!(writer, "{remark}")?;
    }
    Ok(())
}

fn write_csv(usages: &[Usage], writer: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    csv.write_record([
        "name",
        "begin",
        "end",
        "used_bytes",
        "limit_bytes",
        "percent",
    ])?;
    for usage in usages {
        csv.write_record([
            &usage.name,
            &usage.begin.to_string(),
            &usage.end.to_string(),
            &usage.used_bytes.to_string(),
            &usage.limit_bytes.to_string(),
            &usage.percent().to_string(),
        ])?;
    }
    csv.flush()
}
