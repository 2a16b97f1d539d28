//! A program's manual pages and shell completions, made from its command line's definition.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

/// Where to write them.
#[derive(Debug, Args)]
pub struct ManualOptions {
    /// Folder to write them to; it is made.
    folder: PathBuf,
}

impl ManualOptions {
    /// Writes `PROGRAM.8` and a page for each subcommand to `man8`, and completions for bash, zsh
    /// and fish to `bash`, `zsh` and `fish`, all below the folder.
    ///
    /// # Errors
    /// That a file cannot be written.
    pub fn write(&self, command: Command) -> io::Result<()> {
        let name = command.get_name().to_owned();
        for (shell, folder) in [
            (Shell::Bash, "bash"),
            (Shell::Zsh, "zsh"),
            (Shell::Fish, "fish"),
        ] {
            let folder = self.folder.join(folder);
            fs::create_dir_all(&folder)?;
            clap_complete::generate_to(shell, &mut command.clone(), &name, folder)?;
        }
        let folder = self.folder.join("man8");
        fs::create_dir_all(&folder)?;
        write_pages(command.disable_help_subcommand(true), &folder)
    }
}

fn write_pages(mut command: Command, folder: &Path) -> io::Result<()> {
    command.build();
    for subcommand in command.get_subcommands() {
        if !subcommand.is_hide_set() {
            let name = subcommand.get_display_name().unwrap_or_default().to_owned();
            write_page(subcommand.clone(), &name, folder)?;
        }
    }
    let name = command.get_name().to_owned();
    write_page(command, &name, folder)
}

fn write_page(command: Command, name: &str, folder: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command)
        .section("8")
        .source(concat!("trafstat ", env!("CARGO_PKG_VERSION")))
        .manual("System administration");
    page.render(&mut File::create(folder.join(format!("{name}.8")))?)
}
