// SPDX-License-Identifier: GPL-2.0-or-later
//! The libraries of others that the programs and the plugin contain, with their licences as
//! cargo-about finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::progress::Step;
use crate::{command, package, paths, tools};

const CARGO_ABOUT: &str = "0.9.3";

/// The programs and the plugin, by the names of their cargo targets.
const LINKED: [&str; 3] = ["trafstat", "trafstat-store", "xt_TRAFSTAT"];

/// One text of a licence, and what is under it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Licensed {
    crates: BTreeSet<String>,
    holders: BTreeSet<String>,
}

/// The paragraphs of a package's copyright file for all libraries.
///
/// # Errors
///
/// cargo-about does not build, or a library has no licence that `about.toml` accepts.
pub fn copyright() -> Result<String> {
    let program = tools::build("cargo-about", CARGO_ABOUT, &["cli"])?;
    let step = Step::begin("Collecting the licences of all libraries");
    let mut licensed = BTreeMap::new();
    for manifest in manifests()? {
        let path = paths::target().join("about.json");
        command::run(
            Command::new(&program)
                .current_dir(paths::repository())
                .args(["generate", "--locked", "--fail", "--format", "json"])
                .args(["--config", "about.toml", "--manifest-path", &manifest])
                .arg("--output-file")
                .arg(&path),
            &step,
        )?;
        add(&serde_json::from_slice(&fs::read(path)?)?, &mut licensed)?;
    }
    step.done();
    Ok(paragraphs(&licensed))
}

/// The manifests of the programs and of the plugin.
fn manifests() -> Result<Vec<String>> {
    let json = command::read(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args(["metadata", "--format-version=1", "--no-deps"]),
    )?;
    let metadata: Value = serde_json::from_str(&json)?;
    let packages = metadata["packages"].as_array();
    LINKED
        .iter()
        .map(|name| {
            let is_linked = |target: &Value| {
                let is_of_kind = |kind: &Value| kind == "bin" || kind == "cdylib";
                target["name"] == *name
                    && target["kind"]
                        .as_array()
                        .is_some_and(|kinds| kinds.iter().any(is_of_kind))
            };
            packages
                .into_iter()
                .flatten()
                .find(|package| {
                    package["targets"]
                        .as_array()
                        .is_some_and(|targets| targets.iter().any(is_linked))
                })
                .and_then(|package| package["manifest_path"].as_str())
                .map(str::to_owned)
                .with_context(|| format!("no package makes {name}"))
        })
        .collect()
}

/// Adds what cargo-about found; the key is a licence's name and text.
fn add(found: &Value, licensed: &mut BTreeMap<(String, String), Licensed>) -> Result<()> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for license in list(&found["licenses"]) {
        let text = |name: &str| license[name].as_str().context("a licence without a text");
        let (id, text) = (text("id")?, text("text")?);
        // Debian has it, and it names nobody.
        let kept = if id == "Apache-2.0" { "" } else { text };
        let entry = licensed
            .entry((id.to_owned(), kept.trim().to_owned()))
            .or_default();
        for user in list(&license["used_by"]) {
            let of_crate = |name: &str| user["crate"][name].as_str().unwrap_or_default();
            let (name, version) = (of_crate("name"), of_crate("version"));
            entry.crates.insert(format!("crates/{name}-{version}/*"));
            for author in list(&user["crate"]["authors"]) {
                let author = author.as_str().unwrap_or_default().to_owned();
                entry.holders.insert(author);
            }
        }
        let named = kept
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Copyright "));
        entry.holders.extend(
            named
                .filter(|holder| !holder.contains(['[', '<', '{']) || holder.contains('@'))
                .map(str::to_owned),
        );
    }
    Ok(())
}

fn paragraphs(licensed: &BTreeMap<(String, String), Licensed>) -> String {
    let mut paragraphs = String::new();
    // A field of the first paragraph: the format has none that is a comment alone.
    let mut comment = "Comment: What is under crates/ are libraries that the programs contain. The source\n \
                       of each is at https://crates.io under its name and version.\n";
    for ((id, text), Licensed { crates, holders }) in licensed {
        let lines = |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>();
        let holders = match holders.is_empty() {
            true => vec!["the authors of these libraries".to_owned()],
            false => lines(holders),
        };
        let id = if id == "MIT" { "Expat" } else { id };
        let text = match text.is_empty() {
            true => " The text is in /usr/share/common-licenses/Apache-2.0.\n".to_owned(),
            false => package::paragraphs(text),
        };
        paragraphs += &format!(
            "Files: {}\nCopyright: {}\n{comment}License: {id}\n{text}\n",
            lines(crates).join("\n "),
            holders.join("\n ")
        );
        comment = "";
    }
    paragraphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_one_text_share_a_paragraph() {
        let of = |name: &str, authors: &[&str]| serde_json::json!({"crate": {"name": name, "version": "1.0.0", "authors": authors}});
        let found = serde_json::json!({"licenses": [
            {
                "id": "MIT",
                "text": "Copyright 2020 An Author\n\nPermission is granted.\n",
                "used_by": [of("first", &[]), of("second", &["Another"])],
            },
            {"id": "Apache-2.0", "text": "Apache License", "used_by": [of("third", &[])]},
        ]});
        let mut licensed = BTreeMap::new();
        // As for the second program that contains them.
        add(&found, &mut licensed).unwrap();
        add(&found, &mut licensed).unwrap();
        let paragraphs = paragraphs(&licensed);
        let expat = "Files: crates/first-1.0.0/*\n crates/second-1.0.0/*\n\
                     Copyright: 2020 An Author\n Another\nLicense: Expat\n \
                     Copyright 2020 An Author\n .\n Permission is granted.\n\n";
        assert!(paragraphs.contains(expat), "{paragraphs}");
        let apache = "Files: crates/third-1.0.0/*\n\
                      Copyright: the authors of these libraries\n\
                      Comment: What is under crates/ are libraries that the programs contain. \
                      The source\n of each is at https://crates.io under its name and version.\n\
                      License: Apache-2.0\n \
                      The text is in /usr/share/common-licenses/Apache-2.0.\n\n";
        assert!(paragraphs.starts_with(apache), "{paragraphs}");
    }
}
