//! Shows what used the network.

mod show;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use show::ShowOptions;

/// Shows what used the network, from what trafstat-store collected.
#[derive(Debug, Parser)]
#[command(
    name = "trafstat",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sum up the traffic by addresses, ports and protocol, largest first.
    Show(ShowOptions),
}

fn main() -> ExitCode {
    let Command::Show(options) = Cli::parse().command;
    if let Err(reason) = options.check() {
        let mut command = Cli::command();
        command
            .error(clap::error::ErrorKind::ArgumentConflict, reason)
            .exit();
    }
    match options.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trafstat: {error:#}");
            ExitCode::FAILURE
        }
    }
}
