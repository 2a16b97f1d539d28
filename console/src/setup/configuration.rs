//! Setup's lines in the configuration: which server the store is on.

use std::path::Path;

use anyhow::{Result, bail};
use trafstat_store::options::config::{Config, DEFAULT_CONFIG_PATH, StoreConfig};

/// The option file with the password that setup made up.
pub const PASSWORD_PATH: &str = "/etc/trafstat/my.cnf";

const BEGIN: &str = "# trafstat setup wrote this, and trafstat setup --undo takes it away:";
const END: &str = "# so far.";
const SECTION: &str = "[store]";

/// The text with lines that name the server, or without any of setup's; all else stays.
pub fn edited(text: &str, url: Option<&str>) -> String {
    let others = without_ours(text);
    let Some(url) = url else {
        return others;
    };
    let keys = format!("backend = \"mysql\"\nurl = \"{url}\"\ndefaults-file = \"{PASSWORD_PATH}\"");
    let is_section = |line: &&str| line.trim_start().starts_with(SECTION);
    let Some(section) = others.lines().find(is_section) else {
        let newline = if others.is_empty() || others.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        return format!("{others}{newline}{BEGIN}\n{SECTION}\n{keys}\n{END}\n");
    };
    let block = format!("{section}\n{BEGIN}\n{keys}\n{END}");
    // The first is the section's own line, since it is the first that looks like it.
    others.replacen(section, &block, 1)
}

/// Refuses a configuration that says itself where the store is, or that setup cannot add to.
///
/// # Errors
/// What is in the way, and what to do.
pub fn check(text: &str, url: &str) -> Result<()> {
    let path = Path::new(DEFAULT_CONFIG_PATH);
    let store = Config::parse(&without_ours(text), path)?.store;
    if names_a_store(&store) {
        bail!(
            "{DEFAULT_CONFIG_PATH} says under {SECTION} which database to use: leave --backend \
             away to use that one (trafstat-store create-user makes it), or take its keys away"
        );
    }
    // Rather than a file that no program reads any more.
    Config::parse(&edited(text, Some(url)), path)?;
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

fn without_ours(text: &str) -> String {
    let mut others = String::with_capacity(text.len());
    let mut is_ours = false;
    for line in text.split_inclusive('\n') {
        is_ours |= line.trim_end() == BEGIN;
        if !is_ours {
            others.push_str(line);
        }
        is_ours &= line.trim_end() != END;
    }
    others
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
            let with = edited(before, Some(URL));
            assert_eq!(store(&with).url.len(), 1, "{with}");
            assert_eq!(
                store(&with).defaults_file.unwrap(),
                Path::new(PASSWORD_PATH)
            );
            assert_eq!(edited(&with, Some(URL)), with);
            assert_eq!(edited(&with, None), before);
            let other = edited(&with, Some("mysql://other@db/trafstat"));
            assert_eq!(store(&other).url.len(), 1, "{other}");
            assert_eq!(edited(&other, None), before);
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
        check(&edited(EXAMPLE, Some(URL)), URL).unwrap();
        // Two sections of one name are none.
        assert!(check("[ store ]\n", URL).is_err());
        assert!(check("[store\n", URL).is_err());
    }
}
