// SPDX-License-Identifier: GPL-2.0-or-later
//! A program's manual pages and shell completions, made from its command line's definition.

use std::fs::{self, File};
use std::io::{self, Write};
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
    let after = command
        .get_after_long_help()
        .or_else(|| command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let page = clap_mangen::Man::new(command);
    let mut file = File::create(folder.join(format!("{name}.8")))?;
    // Its own title has no quotes around the date that is not there.
    writeln!(
        file,
        ".TH {} 8 \"\" \"{SOURCE}\" \"{MANUAL}\"",
        escaped(name)
    )?;
    page.render_name_section(&mut file)?;
    page.render_synopsis_section(&mut file)?;
    page.render_description_section(&mut file)?;
    page.render_options_section(&mut file)?;
    if has_subcommands {
        page.render_subcommands_section(&mut file)?;
    }
    file.write_all(sections(&after).as_bytes())?;
    let others: Vec<String> = [
        ("trafstat", 8),
        ("trafstat-store", 8),
        ("iptables-TRAFSTAT", 8),
        ("trafstat.toml", 5),
    ]
    .into_iter()
    .filter(|&(other, _)| other != name)
    .map(|(other, section)| format!("\\fB{}\\fR({section})", escaped(other)))
    .collect();
    writeln!(file, ".SH \"SEE ALSO\"\n{}", others.join(",\n"))
}

const SOURCE: &str = concat!("trafstat ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "System administration";

/// What stands after a command's help: examples as they are, the rest as paragraphs.
fn sections(after: &str) -> String {
    let mut page = String::new();
    let mut notes = String::new();
    for paragraph in after.split("\n\n").filter(|text| !text.trim().is_empty()) {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            page.push_str(&format!(
                ".SH EXAMPLES\n.nf\n\\f(CR{}\\fR\n.fi\n",
                escaped(examples)
            ));
        } else if let Some(status) = paragraph.strip_prefix("Exit status: ") {
            page.push_str(&format!(".SH \"EXIT STATUS\"\n{}\n", escaped(status)));
        } else {
            notes.push_str(&format!(".PP\n{}\n", escaped(paragraph)));
        }
    }
    match notes.is_empty() {
        true => page,
        false => format!(".SH NOTES\n{notes}{page}"),
    }
}

/// Text as it stands in a page: no character of it is a request or an escape.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let text = text.replace('\'', "\\(aq").replace('±', "\\(+-");
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with('.') {
            true => format!("\\&{line}"),
            false => line.to_owned(),
        })
        .collect();
    lines.join("\n")
}

/// The configuration file with an explanation of every key.
pub const CONFIGURATION: &str = include_str!("../../scripts/dist/trafstat.toml");

/// Writes `trafstat.toml.5` to `man5` below the folder.
///
/// # Errors
/// That a file cannot be written.
pub fn write_configuration_page(options: &ManualOptions) -> io::Result<()> {
    let folder = options.folder.join("man5");
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("trafstat.toml.5"),
        configuration_page(CONFIGURATION),
    )
}

/// The page that the configuration file's comments make: a block of text and the keys below it
/// is an entry, a block without keys a paragraph.
fn configuration_page(text: &str) -> String {
    let mut page = format!(
        ".TH TRAFSTAT.TOML 5 \"\" \"{SOURCE}\" \"{MANUAL}\"\n\
         .SH NAME\ntrafstat.toml \\- configuration of trafstat and trafstat\\-store\n\
         .SH SYNOPSIS\n\\fI/etc/trafstat/trafstat.toml\\fR\n.SH DESCRIPTION\n\
         TOML: sections in brackets, and keys with values. Everything may be left out; a key that \
         is not known is an error. Shown are examples and defaults.\n"
    );
    for block in text.split("\n\n") {
        let mut prose = Vec::new();
        let mut keys = Vec::new();
        for line in block.lines() {
            if let Some(section) = line.strip_prefix('[') {
                page.push_str(&format!(".SH \"[{}\"\n", escaped(section)));
            } else if let Some(words) = line.strip_prefix("# ") {
                prose.push(words);
            } else if let Some(key) = line.strip_prefix('#').filter(|key| !key.is_empty()) {
                keys.push(key);
            }
        }
        // The file's first block says where it is, and how to read it as a file.
        if page.ends_with("defaults.\n") && keys.is_empty() {
            prose.clear();
            page.push_str(
                ".PP\nThe command line and the environment (\\fBTRAFSTAT_BACKEND\\fR, \
                 \\fBTRAFSTAT_DB\\fR, \\fBTRAFSTAT_URL\\fR, ...) stand before this file; the \
                 option files of MySQL\\(aqs clients stand behind it. \\fBTRAFSTAT_CONFIG\\fR or \
                 \\fB\\-\\-config\\fR name another file.\n",
            );
        }
        for (index, key) in keys.iter().enumerate() {
            let request = if index == 0 { ".TP" } else { ".TQ" };
            page.push_str(&format!("{request}\n\\fB{}\\fR\n", escaped(key)));
        }
        if keys.is_empty() && !prose.is_empty() {
            page.push_str(".PP\n");
        }
        if !prose.is_empty() {
            page.push_str(&format!("{}\n", escaped(&prose.join("\n"))));
        }
    }
    page.push_str(
        ".SH FILES\n.TP\n\\fI/usr/share/doc/trafstat/examples/trafstat.toml\\fR\n\
         A file to copy and change.\n\
         .SH \"SEE ALSO\"\n\\fBtrafstat\\fR(8),\n\\fBtrafstat\\-store\\fR(8),\n\
         \\fBtrafstat\\-quota\\fR(8)\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_page_explains_every_key() {
        let page = configuration_page(CONFIGURATION);
        let keys = CONFIGURATION.lines().filter_map(|line| {
            let (key, _) = line.strip_prefix('#')?.split_once(" = ")?;
            (!key.contains(' ')).then_some(key)
        });
        let mut count = 0;
        for key in keys {
            let bold = format!("\\fB{} = ", escaped(key));
            assert!(page.contains(&bold), "{key}: {page}");
            count += 1;
        }
        assert!(count > 30, "{count}");
        for section in ["[store]", "[collect]", "[retention]", "[quota]"] {
            assert!(page.contains(&format!(".SH \"{section}\"")), "{section}");
        }
    }

    #[test]
    fn examples_stay_lines_and_the_exit_status_has_its_section() {
        let page = sections("Examples:\n  a --b  c\n  .d\n\nMore.\n\nExit status: 0 done.");
        assert_eq!(
            page,
            ".SH NOTES\n.PP\nMore.\n.SH EXAMPLES\n.nf\n\\f(CR  a \\-\\-b  c\n  .d\\fR\n.fi\n\
             .SH \"EXIT STATUS\"\n0 done.\n"
        );
    }

    #[test]
    fn text_is_no_request() {
        assert_eq!(escaped(".TH a\\b 'c"), "\\&.TH a\\eb \\(aqc");
    }
}
