// SPDX-License-Identifier: GPL-2.0-or-later
//! The login of a MySQL user that was there before setup.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A user's password and how its connections are secured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The file that has the password and no more.
    pub password_file: PathBuf,
    /// How TLS is used.
    pub ssl_mode: Option<SslMode>,
    /// The certificates that the server's is checked by.
    pub ssl_ca: Option<PathBuf>,
}

/// A mode of TLS, as the `mysql` client has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SslMode {
    /// No TLS.
    Disabled,
    /// TLS, whatever the server's certificate is.
    Required,
    /// TLS with a certificate by a known authority.
    #[value(name = "verify_ca")]
    VerifyCa,
    /// TLS with a certificate by a known authority for the server's name.
    #[value(name = "verify_identity")]
    VerifyIdentity,
}

impl Login {
    /// The option file of the login; none if there is no file with the password any more.
    ///
    /// # Errors
    /// The file cannot be read, or holds no password.
    pub fn option_file(&self) -> Result<Option<String>> {
        let path = &self.password_file;
        let Ok(true) = path.try_exists() else {
            return Ok(None);
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines();
        let password = lines.next().unwrap_or_default();
        if password.is_empty() || lines.any(|line| !line.is_empty()) {
            bail!("{} must have one line, the password", path.display());
        }
        let mut file = format!("[client]\npassword={}\n", quoted(password));
        if let Some(mode) = self.ssl_mode {
            file += &format!("ssl-mode={}\n", mode.name());
        }
        if let Some(ca) = &self.ssl_ca {
            let ca = ca.to_str().context("the path of --ssl-ca is not UTF-8")?;
            file += &format!("ssl-ca={}\n", quoted(ca));
        }
        Ok(Some(file))
    }
}

impl SslMode {
    fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Required => "REQUIRED",
            Self::VerifyCa => "VERIFY_CA",
            Self::VerifyIdentity => "VERIFY_IDENTITY",
        }
    }
}

/// An absolute path to an existing file, whatever folder the next setup is run in.
pub fn parse_file(text: &str) -> Result<PathBuf, String> {
    fs::canonicalize(Path::new(text)).map_err(|error| format!("{text}: {error}"))
}

/// A value as option files quote it.
fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use trafstat_store::options::option_file::{ClientOptions, OptionFiles};

    use super::*;

    #[test]
    fn password_is_read_as_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        for password in ["plain", "with # and ; in it", " a\"b\\n'c\\", "пароль"] {
            let login = Login {
                password_file: folder.path().join("password"),
                ssl_mode: Some(SslMode::VerifyIdentity),
                ssl_ca: Some("/etc/ssl/our ca.pem".into()),
            };
            assert_eq!(login.option_file().unwrap(), None);
            fs::write(&login.password_file, format!("{password}\n")).unwrap();
            let written = folder.path().join("my.cnf");
            fs::write(&written, login.option_file().unwrap().unwrap()).unwrap();
            let read = ClientOptions::read(&OptionFiles {
                only: Some(written),
                extra: None,
            })
            .unwrap();
            assert_eq!(read.password.unwrap().reveal(), password);
            assert_eq!(read.ssl_mode.unwrap(), "VERIFY_IDENTITY");
            assert_eq!(read.ssl_ca.unwrap(), Path::new("/etc/ssl/our ca.pem"));
            fs::remove_file(&login.password_file).unwrap();
        }
    }

    #[test]
    fn file_of_several_lines_is_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let login = Login {
            password_file: folder.path().join("password"),
            ssl_mode: None,
            ssl_ca: None,
        };
        for text in ["", "one\ntwo\n"] {
            fs::write(&login.password_file, text).unwrap();
            let error = login.option_file().unwrap_err().to_string();
            assert!(error.contains("one line"), "{error}");
        }
    }
}
