// SPDX-License-Identifier: GPL-2.0-or-later
//! The project's own commands: `cargo xtask build`, `demo`, `test`, `vmtest`, `vmbench`, `ci`, `abi`,
//! `package`, `release`, `install`, `uninstall`.

#![forbid(unsafe_code)]

mod abi;
mod apt_repository;
mod budget;
mod build;
mod changelog;
mod check;
mod ci;
mod command;
mod debug_kernel;
mod demo;
mod deny;
mod files;
mod fuzz;
mod hosttest;
mod install;
mod kbuild;
mod kernel_object;
mod kernel_source;
mod lanes;
mod licences;
mod linked;
mod object_checks;
mod package;
mod packages;
mod paths;
mod platform;
mod progress;
mod release;
mod rootfs;
mod tally;
mod test;
mod tools;
mod vm;
mod vmbench;
mod vmtest;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use crate::apt_repository::Key;
use crate::build::Parts;
use crate::platform::{PLATFORMS, Platform};

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
    Build {
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Count real traffic from rule to report, and prove that all counters agree.
    Demo {
        /// On this host, in network namespaces of its own, instead of in a virtual machine.
        #[arg(long, conflicts_with = "name")]
        host: bool,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Run every test: cargo's, then the scenarios in virtual machines.
    Test {
        /// The store's tests on MySQL's own server, too; 0.6 GB from Debian's archive, once.
        #[arg(long)]
        all: bool,
    },
    /// Check format, lints and the unit tests that changes since the last check can have broken.
    Check,
    /// Run every check that a change must pass.
    Ci,
    /// Build the module's Rust object with the oldest compiler that it is for.
    Oldest,
    /// Check that the first line of each file names a licence that fits where it is.
    Licences {
        /// Write the line where it is missing or another.
        #[arg(long)]
        write: bool,
    },
    /// Check all libraries for advisories, licences and duplicates.
    Deny,
    /// Run the scenarios in a virtual machine; with FILTER only those whose name contains it.
    Vmtest {
        /// Part of the scenarios' names.
        filter: Option<String>,
        /// The kernel to run on.
        #[arg(long, value_name = "KERNEL", default_value = PLATFORMS[0].kernel, value_parser = kernels_or_all())]
        kernel: String,
    },
    /// Count the instructions that a packet costs in the kernel, under different rules.
    Vmbench {
        /// Part of the rows' names.
        filter: Option<String>,
        /// The kernel to measure on.
        #[arg(long, value_name = "KERNEL", default_value = PLATFORMS[0].kernel, value_parser = kernels_or_all())]
        kernel: String,
        /// How to print the table.
        #[arg(long, value_enum, default_value_t = vmbench::Format::Md)]
        format: vmbench::Format,
    },
    /// Count the instructions that the kernel's object takes for a packet, and compare them with
    /// those committed.
    Budget {
        /// Write them down instead of comparing.
        #[arg(long)]
        write: bool,
    },
    /// Run the fuzz targets, or one, under AddressSanitizer.
    Fuzz {
        /// One target's name.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 1)]
        minutes: u64,
        /// So many inputs instead.
        #[arg(long, value_name = "N", conflicts_with = "minutes")]
        inputs: Option<u64>,
    },
    /// Boot a virtual machine and run one shell command in it, with everything built in /trafstat.
    Vm {
        /// The command, as `sh` reads it; words are joined by spaces.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
        /// One CPU, whose clock advances by 1 ns an instruction.
        #[arg(long)]
        counting: bool,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Run the host tests: install the packages in virtual machines, set up, reboot, upgrade and
    /// purge; with FILTER only the tests whose names contain it.
    Hosttest {
        /// Part of the tests' names.
        filter: Option<String>,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Make Debian packages of programs and module under target/packages.
    Package {
        /// The packages' revision, counted up for another build of one version.
        #[arg(long, default_value_t = 1)]
        revision: u32,
    },
    /// Set a version, or make the packages and the signed apt repository of the one that is set,
    /// under target/release-repo.
    Release {
        /// Set this version everywhere and date its changes in the changelog, no more.
        #[arg(required_unless_present_any = ["key", "test_key"])]
        version: Option<String>,
        /// Sign with this key of gpg's.
        #[arg(long, value_name = "KEY", conflicts_with = "version")]
        key: Option<String>,
        /// Sign with a key that is made on the spot: a trial, whatever the state of the tree.
        #[arg(long, conflicts_with_all = ["version", "key"])]
        test_key: bool,
        /// The packages' revision, counted up for another build of one version.
        #[arg(long, default_value_t = 1)]
        revision: u32,
        /// Have Debian 12 and 13 install the packages from the repository, in folders.
        #[arg(long, conflicts_with = "version")]
        verify: bool,
    },
    /// Install everything on this host, the module for the kernel that runs.
    Install {
        /// Below this folder instead, and without telling the system.
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
    },
    /// Take away what `install` put on this host; what was counted stays.
    Uninstall {
        /// Below this folder instead.
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
        /// Delete the database and the configuration, too.
        #[arg(long)]
        purge: bool,
    },
    /// Write module/abi/src/generated.rs from module/uapi/xt_TRAFSTAT.h.
    Abi {
        /// Only compare; exit 1 when they differ.
        #[arg(long)]
        check: bool,
    },
}

/// One kernel.
#[derive(Args)]
struct Kernel {
    /// The kernel to build for and to boot.
    #[arg(long = "kernel", value_name = "KERNEL", default_value = PLATFORMS[0].kernel, value_parser = kernels())]
    name: String,
}

impl Kernel {
    fn platform(&self) -> &'static Platform {
        // The parser lets no other name through.
        &Platform::select(&self.name)[0]
    }
}

fn kernels() -> PossibleValuesParser {
    PossibleValuesParser::new(PLATFORMS.iter().map(|platform| platform.kernel))
}

fn kernels_or_all() -> PossibleValuesParser {
    PossibleValuesParser::new(
        PLATFORMS
            .iter()
            .map(|platform| platform.kernel)
            .chain(["all"]),
    )
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
        Task::Build { kernel } => Parts::build()?.stage_for(kernel.platform()).map(drop),
        Task::Demo { host: true, .. } => demo::on_host(),
        Task::Demo { kernel, .. } => demo::in_guest(kernel.platform()),
        Task::Test { all } => test::run(all),
        Task::Check => check::run(),
        Task::Ci => ci::run(),
        Task::Oldest => kernel_object::build_with_oldest(),
        Task::Licences { write: false } => licences::check(),
        Task::Licences { write: true } => licences::write(),
        Task::Deny => {
            let tally = deny::run()?;
            println!("{tally}");
            Ok(())
        }
        Task::Vmtest { filter, kernel } => {
            let tally = vmtest::run(Platform::select(&kernel), filter.as_deref())?;
            println!("{tally}");
            ensure!(tally.is_clean(), "scenarios failed");
            Ok(())
        }
        Task::Vmbench {
            filter,
            kernel,
            format,
        } => vmbench::run(Platform::select(&kernel), filter.as_deref(), format),
        Task::Budget { write } => budget::run(write),
        Task::Fuzz {
            target,
            minutes,
            inputs,
        } => {
            let length = inputs.map_or(fuzz::Length::Minutes(minutes), fuzz::Length::Inputs);
            fuzz::run(target.as_deref(), length)
        }
        Task::Vm {
            command,
            counting,
            kernel,
        } => vmtest::run_command(kernel.platform(), &command.join(" "), counting),
        Task::Hosttest { filter, kernel } => hosttest::run(kernel.platform(), filter.as_deref()),
        Task::Package { revision } => package::run(revision, "").map(drop),
        Task::Release {
            version: Some(version),
            ..
        } => release::prepare(&version),
        Task::Release {
            key,
            revision,
            verify,
            ..
        } => {
            let key = key.map_or(Key::ForTests, Key::Given);
            release::make(&key, revision, verify)
        }
        Task::Install { root } => install::install(root.as_deref()),
        Task::Uninstall { root, purge } => install::uninstall(root.as_deref(), purge),
        Task::Abi { check: false } => abi::generate(),
        Task::Abi { check: true } => abi::check(),
    }
}
