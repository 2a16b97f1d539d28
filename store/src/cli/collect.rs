//! `trafstat-store collect`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use trafstat_store::collect::{Outcome, Report, collect};
use trafstat_store::origin::Origin;
use trafstat_store::output::{Format, to_stdout};
use trafstat_store::source::{PROC_ROOT, Proc, Source};

use super::Settings;

#[derive(Debug, Args)]
pub(super) struct CollectOptions {
    /// How to report what became of each account.
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,

    /// Where the kernel module shows its accounts.
    #[arg(long, value_name = "PATH", default_value = PROC_ROOT, hide = true, global = true)]
    proc_root: PathBuf,
}

pub(super) fn run(options: &CollectOptions, settings: &Settings) -> Result<ExitCode> {
    let mut source = Proc::new(&options.proc_root);
    // Without the module there is nothing to make a database for.
    if source.accounts()?.is_empty() {
        eprintln!(
            "trafstat-store: there is no account yet: a rule makes one, such as \
             \"iptables -A INPUT -j TRAFSTAT --local-net 192.0.2.0/24\""
        );
    }
    let origin = Origin::of_this_process()?;
    let mut store = settings.location.open()?;
    let outcomes = collect(&mut source, store.as_mut(), &origin)?;
    for Outcome {
        account,
        header,
        result,
    } in &outcomes
    {
        if let Err(error) = result {
            let epoch = header
                .as_ref()
                .map(|header| format!(", epoch {}", header.epoch))
                .unwrap_or_default();
            eprintln!("trafstat-store: account {account}{epoch}: {error}");
        }
    }
    if !outcomes.is_empty() || options.format != Format::Table {
        let report = Report::new(&outcomes);
        to_stdout(|writer| report.write(options.format, writer))
            .context("cannot write the report")?;
    }
    Ok(
        match outcomes.iter().all(|outcome| outcome.result.is_ok()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
    )
}
