// SPDX-License-Identifier: GPL-2.0-or-later
//! Text as a configuration: what is wrong is said in one line that names the file.

use std::path::Path;

use trafstat_store::options::config::Config;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("/etc/trafstat/trafstat.toml");
    match Config::parse(text, path) {
        Ok(config) => assert_eq!(config, Config::parse(text, path).expect("the same again")),
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.starts_with("/etc/trafstat/trafstat.toml, line "),
                "{error:?}"
            );
            assert!(!error.contains('\n'), "{error:?}");
        }
    }
}
