// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask licences`: the SPDX line of each file.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{command, paths};

const WORD: &str = "SPDX-License-Identifier: ";
const KERNEL: &str = "GPL-2.0-only";
const INTERFACE: &str = "(GPL-2.0-only WITH Linux-syscall-note) OR MIT";

/// The licences of what lies in no crate, by the beginnings of paths.
const BESIDE_CRATES: [(&str, &str); 4] = [
    ("module/glue/", KERNEL),
    ("module/uapi/", INTERFACE),
    ("module/Kbuild", KERNEL),
    ("module/dkms.conf", KERNEL),
];

/// Files that have no place for a comment, or none that outlives the program that writes them.
const WITHOUT: [&str; 3] = ["LICENSE", "LICENSES/", "fuzz/corpus/"];
const EXTENSIONS_WITHOUT: [&str; 3] = ["lock", "png", "json"];

/// Checks every file that git has or would take.
///
/// # Errors
///
/// Files are without the line or have one that does not fit; the error names them.
pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for file in files()? {
        let File {
            path,
            text,
            licence,
        } = &file;
        match named(text) {
            Some(found) if found == licence => {}
            Some(found) => wrong.push(format!("{path} is under {found}, not {licence}")),
            None => wrong.push(format!("{path} does not name its licence, {licence}")),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}\ncargo xtask licences --write names them",
        wrong.join("\n")
    );
    Ok(())
}

/// Writes the line wherever [`check`] would miss it.
///
/// # Errors
///
/// A kind of file has no known form of comments, or a file cannot be written.
pub fn write() -> Result<()> {
    for file in files()? {
        let File {
            path,
            text,
            licence,
        } = &file;
        if named(text) != Some(licence) {
            let new = with_line(path, text, licence)?;
            fs::write(paths::repository().join(path), new)?;
            println!("{path}");
        }
    }
    Ok(())
}

/// The line of a Rust file under `licence`.
pub fn line(licence: &str) -> String {
    format!("// {WORD}{licence}")
}

struct File {
    path: String,
    text: String,
    licence: String,
}

fn files() -> Result<Vec<File>> {
    let listed = command::read(Command::new("git").current_dir(paths::repository()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    for path in listed.lines() {
        let whole = paths::repository().join(path);
        let extension = whole.extension().unwrap_or_default().to_string_lossy();
        let has_none = WITHOUT.iter().any(|part| path.starts_with(part))
            || EXTENSIONS_WITHOUT.contains(&&*extension);
        // One that is removed and not committed is still listed.
        if !has_none && whole.is_file() {
            let text = fs::read_to_string(&whole).with_context(|| format!("cannot read {path}"))?;
            files.push(File {
                path: path.to_owned(),
                text,
                licence: of(path)?,
            });
        }
    }
    Ok(files)
}

/// The licence of a file by its place: its crate's, or the workspace's.
///
/// # Errors
///
/// No manifest above it has one.
pub fn of(path: &str) -> Result<String> {
    for (beginning, licence) in BESIDE_CRATES {
        if path.starts_with(beginning) {
            return Ok(licence.to_owned());
        }
    }
    let repository = paths::repository();
    let folders = Path::new(path).ancestors().skip(1);
    for folder in folders {
        let manifest = repository.join(folder).join("Cargo.toml");
        let Ok(manifest) = fs::read_to_string(manifest) else {
            continue;
        };
        let own = manifest
            .lines()
            .find_map(|line| line.strip_prefix("license = \"")?.strip_suffix('"'));
        if let Some(licence) = own {
            return Ok(licence.to_owned());
        }
    }
    bail!("no manifest gives {path} a licence")
}

/// The licence that the first line names, or the second of a script.
fn named(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    let mut first = lines.next()?;
    if first.starts_with("#!") {
        first = lines.next()?;
    }
    let (_, licence) = first.split_once(WORD)?;
    Some(
        licence
            .trim_end_matches("*/")
            .trim_end_matches("-->")
            .trim_end(),
    )
}

/// The text with the line, instead of another that it may have.
fn with_line(path: &str, text: &str, licence: &str) -> Result<String> {
    let comment = comment(path, text)?.replace("{}", &format!("{WORD}{licence}"));
    let (script, rest) = match text.strip_prefix("#!") {
        Some(_) => text.split_at(text.find('\n').map_or(text.len(), |end| end + 1)),
        None => ("", text),
    };
    let rest = match named(text) {
        Some(_) => rest.split_once('\n').map_or("", |(_, rest)| rest),
        None => rest,
    };
    Ok(format!("{script}{comment}\n{rest}"))
}

/// How a file of this name has comments.
fn comment(path: &str, text: &str) -> Result<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    Ok(match extension {
        "rs" | "c" => "// {}",
        "h" => "/* {} */",
        "sql" => "-- {}",
        "md" | "html" => "<!-- {} -->",
        "css" => "/* {} */",
        "js" => "// {}",
        "man" => ".\\\" {}",
        "toml" | "py" | "sh" | "yml" | "conf" | "config" | "service" | "templates" | "timer"
        | "cron" | "modprobe" | "init" | "allow" | "t" | "preinst" | "postinst" | "prerm"
        | "postrm" | "gitignore" | "editorconfig" | "clang-format" | "hbs" => "# {}",
        _ if text.starts_with("#!") || matches!(name, "Kbuild" | "figures" | "Makefile") => "# {}",
        _ => bail!("{path}: no form of comments is known for it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_read_as_it_is_written() {
        for (path, before) in [
            ("a.rs", "//! A crate.\n"),
            ("a.h", "/* SPDX-License-Identifier: MIT */\nint a;\n"),
            ("a.md", "# A page\n"),
            ("a.sql", ""),
            ("run", "#!/bin/sh\nset -e\n"),
            (
                "a.py",
                "#!/usr/bin/python3\n# SPDX-License-Identifier: MIT\nprint()\n",
            ),
        ] {
            let text = with_line(path, before, INTERFACE).unwrap();
            assert_eq!(named(&text), Some(INTERFACE), "{text}");
            let rest = |text: &str| {
                let lines = text.lines().filter(|line| !line.contains(WORD));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(rest(&text), rest(before));
            assert_eq!(text.matches(WORD).count(), 1, "{text}");
            assert_eq!(text.starts_with("#!"), before.starts_with("#!"), "{text}");
        }
    }

    #[test]
    fn licence_is_that_of_the_crate_or_of_the_kernels_part() {
        for (path, licence) in [
            ("module/abi/src/lib.rs", INTERFACE),
            ("module/uapi/xt_TRAFSTAT.h", INTERFACE),
            ("module/ffi/src/lib.rs", KERNEL),
            ("module/glue/main.c", KERNEL),
            ("module/core/src/lib.rs", "GPL-2.0-or-later"),
            ("README.md", "GPL-2.0-or-later"),
        ] {
            assert_eq!(of(path).unwrap(), licence, "{path}");
        }
    }
}
