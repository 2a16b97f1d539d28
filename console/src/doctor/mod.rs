// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat doctor` and `trafstat status`: whether all is counted and collected.

mod facts;
mod findings;
mod module;
mod rule;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use trafstat_cli::output::{Format, to_stdout};
use trafstat_cli::store::StoreOptions;

use crate::quota::Usage;
use crate::system::ThisHost;
use facts::{COLLECTED_WITHIN_MINUTES, Facts};
use findings::{Finding, examine};

/// How to look.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat doctor                   what makes figures wrong or missing, and what to do
  trafstat doctor --format json     the same for a program

Exit status: 0 nothing found, 1 something is wrong or could not be looked at, 2 wrong usage.")]
pub struct DoctorOptions {
    /// How to write it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    store: StoreOptions,
}

/// How to look.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat status                   module, rules, accounts and collector in one look
  trafstat status >/dev/null || mail -s 'trafstat' root

Status changes nothing; a module that is not loaded stays so.

Exit status: 0 all is well or may be, 1 figures are wrong or missing, 2 wrong usage.")]
pub struct StatusOptions {
    #[command(flatten)]
    doctor: DoctorOptions,
}

impl DoctorOptions {
    /// Looks for all that makes figures wrong or missing.
    ///
    /// # Errors
    /// Not root, or something cannot be looked at.
    pub fn run(self) -> Result<ExitCode> {
        let findings = examine(&gather(&self.store, true)?);
        to_stdout(|writer| match self.format {
            Format::Table if findings.is_empty() => {
                writeln!(writer, "All is counted and collected.")
            }
            Format::Table => write_findings(&findings, writer),
            Format::Csv => write_csv(&findings, writer),
            Format::Json => writeln!(writer, "{}", json!({ "findings": findings })),
        })
        .context("cannot write to standard output")?;
        Ok(match findings.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

impl StatusOptions {
    /// Tells in one look how it is.
    ///
    /// # Errors
    /// Not root, or something cannot be looked at.
    pub fn run(self) -> Result<ExitCode> {
        let facts = gather(&self.doctor.store, false)?;
        let findings = examine(&facts);
        to_stdout(|writer| match self.doctor.format {
            Format::Table => write_status(&facts, &findings, writer),
            Format::Csv => write_csv(&findings, writer),
            Format::Json => writeln!(
                writer,
                "{}",
                json!({
                    "kernel": facts.kernel,
                    "loaded": facts.load_failure.is_none(),
                    "module_version": facts
                        .loaded_module
                        .as_ref()
                        .and_then(|build| build.version.as_ref()),
                    "kernels_without_module": facts.kernels_without_module,
                    "accounts": facts.accounts,
                    "recent_epochs": facts.recent_epochs.as_ref().ok(),
                    "spool": facts.spool.as_ref().ok(),
                    "units": facts.units,
                    "quotas": facts
                        .quotas
                        .as_ref()
                        .ok()
                        .map(|usages| usages.iter().map(Usage::json).collect::<Vec<_>>()),
                    "findings": findings,
                })
            ),
        })
        .context("cannot write to standard output")?;
        Ok(match findings.iter().any(|finding| finding.is_error) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

fn gather(store: &StoreOptions, tries_module: bool) -> Result<Facts> {
    if !rustix::process::geteuid().is_root() {
        bail!("rules and accounts are root's to look at: run this with sudo");
    }
    Facts::of(&ThisHost, store, tries_module)
}

fn write_findings(findings: &[Finding], writer: &mut dyn Write) -> std::io::Result<()> {
    for finding in findings {
        let severity = if finding.is_error { "error" } else { "warning" };
        writeln!(writer, "{severity}: {} [{}]", finding.what, finding.kind)?;
        writeln!(writer, "    {}", finding.remedy)?;
    }
    Ok(())
}

fn write_csv(findings: &[Finding], writer: &mut dyn Write) -> std::io::Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    csv.write_record(["kind", "is_error", "what", "remedy"])?;
    for finding in findings {
        csv.write_record([
            finding.kind,
            &finding.is_error.to_string(),
            &finding.what,
            &finding.remedy,
        ])?;
    }
    csv.flush()
}

fn write_status(
    facts: &Facts,
    findings: &[Finding],
    writer: &mut dyn Write,
) -> std::io::Result<()> {
    let module = match facts.load_failure {
        None => "loaded",
        Some(_) => "not loaded",
    };
    let version = match &facts.loaded_module {
        Some(build) => format!(", version {}", build.version_name()),
        None => String::new(),
    };
    writeln!(
        writer,
        "module     {module}, kernel {}{version}",
        facts.kernel
    )?;
    for (program, saved) in &facts.saved_rules {
        let rules = saved.matches("-j TRAFSTAT").count();
        writeln!(writer, "rules      {rules} of {program}")?;
    }
    for account in &facts.accounts {
        writeln!(
            writer,
            "account    {} ({}): {} packets, epoch {}, {} of {} records{}{}",
            account.name,
            account.family,
            account.seen_packets,
            account.epoch,
            account.records,
            account.max_entries,
            match account.unread {
                0 => String::new(),
                epoch => format!(", epoch {epoch} waits for the collector"),
            },
            match account.unattributed_packets {
                None | Some(0) => String::new(),
                Some(packets) => format!(", {packets} packets without their local address"),
            }
        )?;
    }
    match &facts.recent_epochs {
        Ok(epochs) => writeln!(
            writer,
            "store      {epochs} epochs in the last {COLLECTED_WITHIN_MINUTES} minutes"
        )?,
        Err(reason) => writeln!(writer, "store      {reason}")?,
    }
    if let Ok(counts) = &facts.spool
        && counts.waiting + counts.refused > 0
    {
        writeln!(
            writer,
            "spool      {} epochs wait, {} are set aside",
            counts.waiting, counts.refused
        )?;
    }
    for usage in facts.quotas.iter().flatten() {
        writeln!(writer, "quota      {}", usage.sentence())?;
    }
    if let Some(units) = &facts.units {
        let listed = match units.is_empty() {
            true => "none".to_owned(),
            false => units.join(", "),
        };
        writeln!(writer, "units      {listed}")?;
    }
    write_findings(findings, writer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use anyhow::Result;

    use crate::system::{ProgramOutput, System};

    /// A fake host: a folder for its files, and the output of its programs.
    pub struct FakeHost {
        root: tempfile::TempDir,
        printed: BTreeMap<String, String>,
    }

    impl FakeHost {
        pub fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
                printed: BTreeMap::new(),
            }
        }

        /// Makes a file, and the folders around it.
        pub fn file(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Has a command print a text from now on; others fail.
        pub fn says(&mut self, command: &str, text: &str) {
            self.printed.insert(command.to_owned(), text.to_owned());
        }
    }

    impl System for FakeHost {
        fn run(&self, words: &[&str], _input: &str) -> Result<ProgramOutput> {
            let printed = self.printed.get(&words.join(" "));
            Ok(ProgramOutput {
                code: Some(i32::from(printed.is_none())),
                stdout: printed.cloned().unwrap_or_default(),
                stderr: String::new(),
            })
        }

        fn root(&self) -> &Path {
            self.root.path()
        }
    }
}
