// SPDX-License-Identifier: GPL-2.0-or-later
//! Sets up what counts traffic, and shows what used the network.

mod accuracy;
mod doctor;
mod host_names;
mod inexact;
mod kernel_accounts;
mod kernel_module;
mod names;
mod quota;
mod report;
mod setup;
mod show;
mod system;
mod top;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use doctor::{DoctorOptions, StatusOptions};
use quota::QuotaOptions;
use report::ReportOptions;
use setup::SetupOptions;
use show::ShowOptions;
use top::TopOptions;
use tracing::error;
use trafstat_cli::log;
use trafstat_cli::manual::ManualOptions;
use trafstat_cli::output::with_causes;

/// Sets up what counts traffic, and shows what used the network, from what trafstat-store collected.
#[derive(Debug, Parser)]
#[command(
    name = "trafstat",
    version,
    after_help = "Examples:
  trafstat setup --dry-run         say what counting this host's traffic would change
  trafstat setup                   count, collect and keep it from now on
  trafstat status                  module, rules, accounts and collector in one look
  trafstat show --since 1d         who used which service most
  trafstat report month            what the last month came to
  trafstat top                     what uses the network now

\"trafstat COMMAND --help\" explains a command. All read /etc/trafstat/trafstat.toml, which
trafstat.toml(5) explains.

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count, collect and keep this host's traffic from now on; or no longer.
    Setup(SetupOptions),
    /// Tell in one look whether all is counted and collected.
    Status(StatusOptions),
    /// Find what makes figures wrong or missing, and say what to do.
    Doctor(DoctorOptions),
    /// Sum up the traffic by addresses, ports and protocol, largest first.
    Show(Box<ShowOptions>),
    /// Tell what a day or a month came to, compared with the one before.
    Report(Box<ReportOptions>),
    /// Tell how much of each quota is used, or warn about it.
    Quota(QuotaOptions),
    /// Show what uses the network now, full-screen.
    Top(TopOptions),
    /// Write the manual pages and shell completions.
    #[command(hide = true)]
    Manual(ManualOptions),
}

fn main() -> ExitCode {
    log::init("trafstat");
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            error!("{}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Show(options) => {
            if let Err(reason) = options.check() {
                wrong_usage(&reason);
            }
            options.run()?;
        }
        Command::Report(options) => options.run()?,
        Command::Quota(options) => options.run()?,
        Command::Top(options) => options.run()?,
        Command::Setup(options) => options.run()?,
        Command::Status(options) => return options.run(),
        Command::Doctor(options) => return options.run(),
        Command::Manual(options) => options
            .write(Cli::command())
            .context("cannot write the manual")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the program as clap does for options that contradict each other.
fn wrong_usage(reason: &str) -> ! {
    Cli::command()
        .error(clap::error::ErrorKind::ArgumentConflict, reason)
        .exit()
}
