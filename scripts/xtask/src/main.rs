//! The project's own commands: `cargo xtask build`, `demo`, `test`, `vmtest`, `ci`, `abi`.

#![forbid(unsafe_code)]

mod abi;
mod build;
mod ci;
mod command;
mod demo;
mod kbuild;
mod kernel_object;
mod packages;
mod paths;
mod progress;
mod rootfs;
mod tally;
mod test;
mod vm;
mod vmtest;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the programs, the iptables plugin and the kernel module.
    Build,
    /// Count real traffic from rule to report, and prove that all counters agree.
    Demo {
        /// On this host, in network namespaces of its own, instead of in a virtual machine.
        #[arg(long)]
        host: bool,
    },
    /// Run every test: cargo's, then the scenarios in a virtual machine.
    Test,
    /// Run every check that a change must pass.
    Ci,
    /// Run the scenarios in a virtual machine; with FILTER only those whose name contains it.
    Vmtest {
        /// Part of the scenarios' names.
        filter: Option<String>,
    },
    /// Boot a virtual machine and run one shell command in it, with everything built in /trafstat.
    Vm {
        /// The command, as `sh` reads it; words are joined by spaces.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Write module/abi/src/generated.rs from module/uapi/xt_TRAFSTAT.h.
    Abi {
        /// Only compare; exit 1 when they differ.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Build => build::build().map(drop),
        Task::Demo { host: false } => demo::in_guest(),
        Task::Demo { host: true } => demo::on_host(),
        Task::Test => test::run(),
        Task::Ci => ci::run(),
        Task::Vmtest { filter } => {
            let (tally, ran) = vmtest::run(filter.as_deref())?;
            println!("{tally}");
            ran
        }
        Task::Vm { command } => vmtest::run_command(&command.join(" ")),
        Task::Abi { check: false } => abi::generate(),
        Task::Abi { check: true } => abi::check(),
    }
}
