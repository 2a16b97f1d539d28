//! Collects what xt_TRAFSTAT counted into a database.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
