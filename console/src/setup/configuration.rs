// SPDX-License-Identifier: GPL-2.0-or-later
//! Setup's lines in the configuration: which server the store is on.

use std::mem;
use std::path::Path;

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item, Table, value};
use trafstat_store::options::config::{Config, DEFAULT_CONFIG_PATH, StoreConfig};

/// The option file with the password that setup made up.
pub const PASSWORD_PATH: &str = "/etc/trafstat/my.cnf";

const BEGIN: &str = "# trafstat setup wrote this, and trafstat setup --undo takes it away:";
const END: &str = "# so far.";
const SECTION: &str = "store";
/// The keys between the two comments.
const KEYS: [&str; 3] = ["backend", "url", "defaults-file"];

/// The text with keys that name the server, at the end of `[store]`; all else stays.
///
/// # Errors
/// The text is no TOML, or has its `store` in braces, where no comment can stand.
pub fn with_server(text: &str, url: &str) -> Result<String> {
    let mut document: DocumentMut = without_server(text).parse()?;
    let mut begin = format!("{BEGIN}\n");
    if !document.contains_key(SECTION) {
        // What the file ends with stays with the section before.
        let end = document.trailing().as_str().unwrap_or_default();
        let newline = match end.is_empty() || end.ends_with('\n') {
            true => "",
            false => "\n",
        };
        begin = format!("{end}{newline}{begin}");
        document.set_trailing("");
        let mut section = Table::new();
        section.decor_mut().set_prefix(mem::take(&mut begin));
        document.insert(SECTION, Item::Table(section));
    }
    let section = document[SECTION]
        .as_table_mut()
        .with_context(|| format!("write {SECTION} as a section, [{SECTION}], not in braces"))?;
    for (key, text) in KEYS.into_iter().zip(["mysql", url, PASSWORD_PATH]) {
        section.insert(key, value(text));
    }
    let [first, .., last] = KEYS;
    if let Some(mut key) = section.key_mut(first) {
        key.leaf_decor_mut().set_prefix(begin);
    }
    if let Some(last) = section.get_mut(last).and_then(Item::as_value_mut) {
        last.decor_mut().set_suffix(format!("\n{END}"));
    }
    Ok(document.to_string())
}

/// The text without the lines of [`with_server`]; what others put between them stays.
pub fn without_server(text: &str) -> String {
    let is_key = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        let key = key
            .strip_prefix(SECTION)
            .and_then(|key| key.strip_prefix('.'))
            .unwrap_or(key);
        KEYS.contains(&key)
    };
    // Keys that others put into setup's section would become those of the section before.
    let keeps_section = has_other_keys(text);
    let is_section = |line: &str| line.trim() == format!("[{SECTION}]");
    let mut others = String::with_capacity(text.len());
    let mut is_between = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_end();
        let (begins, ends) = (trimmed == BEGIN, is_between && trimmed == END);
        let is_ours = is_key(line) || is_section(line) && !keeps_section;
        if !(begins || ends || is_between && is_ours) {
            others.push_str(line);
        }
        is_between = begins || is_between && !ends;
    }
    others
}

/// Whether `[store]` has keys that are not setup's; in a file that is no TOML it may.
fn has_other_keys(text: &str) -> bool {
    text.parse().map_or(true, |document: DocumentMut| {
        let section = document.get(SECTION).and_then(Item::as_table_like);
        section.is_some_and(|section| section.iter().any(|(key, _)| !KEYS.contains(&key)))
    })
}

/// Refuses a configuration that says itself where the store is, or that setup cannot add to.
///
/// # Errors
/// What is in the way, and what to do.
pub fn check(text: &str, url: &str) -> Result<()> {
    let path = Path::new(DEFAULT_CONFIG_PATH);
    let store = Config::parse(&without_server(text), path)?.store;
    if names_a_store(&store) {
        bail!(
            "{DEFAULT_CONFIG_PATH} says under [{SECTION}] which database to use: leave --backend \
             away to use that one (trafstat-store create-user makes it), or take its keys away"
        );
    }
    // Rather than a file that no program reads any more.
    let edited =
        with_server(text, url).with_context(|| format!("cannot edit {DEFAULT_CONFIG_PATH}"))?;
    Config::parse(&edited, path)?;
    Ok(())
}

fn names_a_store(store: &StoreConfig) -> bool {
    let server = store.mysql();
    store.backend.is_some()
        || store.db.is_some()
        || store.defaults_file.is_some()
        || !server.hosts.is_empty()
        || server.socket.is_some()
        || server.user.is_some()
        || server.password.is_some()
        || server.database.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "mysql://trafstat@localhost/trafstat";
    const EXAMPLE: &str = include_str!("../../../scripts/dist/trafstat.toml");

    fn store(text: &str) -> StoreConfig {
        Config::parse(text, Path::new("x")).unwrap().store
    }

    #[test]
    fn lines_are_added_once_and_taken_away_whole() {
        let lean = "[quota]\nwarn-at = [90]\n";
        for before in ["", EXAMPLE, lean, "[store] # where\nssl-ca = \"/ca.pem\"\n"] {
            let with = with_server(before, URL).unwrap();
            assert_eq!(store(&with).url.len(), 1, "{with}");
            assert_eq!(
                store(&with).defaults_file.unwrap(),
                Path::new(PASSWORD_PATH)
            );
            assert_eq!(with_server(&with, URL).unwrap(), with);
            assert_eq!(without_server(&with), before);
            let other = with_server(&with, "mysql://other@db/trafstat").unwrap();
            assert_eq!(store(&other).url.len(), 1, "{other}");
            assert_eq!(without_server(&other), before);
        }
    }

    #[test]
    fn section_is_found_by_what_it_is_and_not_by_how_it_looks() {
        let comment = "# Keys of [store]:\n[store]\nssl-ca = \"/ca.pem\"\n";
        let text = "[quota]\ncommand = [\"/bin/true\", \"\"\"\n[store]\n\"\"\"]\n\n[store]\n";
        let spaced = "[ store ]\nssl-ca = \"/ca.pem\"\n[quota]\n";
        let dotted = "store.ssl-ca = \"/ca.pem\"\n";
        for before in [comment, text, spaced, dotted] {
            check(before, URL).unwrap_or_else(|error| panic!("{before}: {error}"));
            let with = with_server(before, URL).unwrap();
            assert_eq!(store(&with).url.len(), 1, "{with}");
            assert_eq!(without_server(&with), before);
        }
    }

    #[test]
    fn last_line_may_have_no_end() {
        for before in ["[quota]\nwarn-at = [90]", "[quota]\n# The end."] {
            let with = with_server(before, URL).unwrap();
            assert_eq!(store(&with).url.len(), 1, "{with}");
            assert_eq!(without_server(&with), format!("{before}\n"));
        }
    }

    #[test]
    fn keys_that_others_added_stay_in_their_section() {
        let key = "ssl-ca = \"/ca.pem\"\n";
        let quota = "[quota]\nwarn-at = [90]\n# The end.\n";
        for (before, after) in [
            ("[store]\n", format!("[store]\n{key}")),
            (quota, format!("{quota}[store]\n{key}")),
        ] {
            let with = with_server(before, URL).unwrap();
            let between = with.replace("defaults-file", &format!("{key}defaults-file"));
            for changed in [between, format!("{with}{key}")] {
                assert_eq!(without_server(&changed), after);
                let again = with_server(&changed, URL).unwrap();
                assert_eq!(store(&again).url.len(), 1, "{again}");
                assert_eq!(without_server(&again), after);
            }
        }
    }

    #[test]
    fn configuration_that_names_a_store_is_refused() {
        for key in [
            "backend = \"mysql\"",
            "db = \"/srv/trafstat.db\"",
            "hosts = [\"db\"]",
            "url = \"mysql://u@db/d\"",
            "user = \"u\"",
        ] {
            let error = check(&format!("[store]\n{key}\n"), URL).unwrap_err();
            assert!(
                error.to_string().contains("leave --backend away"),
                "{error}"
            );
        }
        check(EXAMPLE, URL).unwrap();
        check(&with_server(EXAMPLE, URL).unwrap(), URL).unwrap();
        assert!(check("[store\n", URL).is_err());
        // Two sections of one name are none.
        assert!(check("[store]\n[ store ]\n", URL).is_err());
        let error = check("store = { ssl-ca = \"/ca.pem\" }\n", URL).unwrap_err();
        assert!(format!("{error:#}").contains("as a section"), "{error:#}");
    }
}
