// SPDX-License-Identifier: GPL-2.0-or-later
//! The option files of the MySQL and MariaDB clients: `my.cnf` and its like.
//!
//! Read as the clients document it (MySQL Reference Manual, "Using Option Files"):
//! groups, `name`, `name=value`, quotes, `#` and `;` comments, escape sequences,
//! `!include` and `!includedir`. What comes later replaces what came before.
//!
//! Not read: the scrambled `~/.mylogin.cnf`.

mod line;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

use super::secret::Secret;
use line::{Line, parse_line};

/// The global files, read in this order.
const GLOBAL: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];

/// The groups that hold options for this program, beside those of the `mysql` client.
const GROUPS: [&str; 5] = [
    "client",
    "client-server",
    "client-mariadb",
    "mysql",
    "trafstat",
];

/// How deep files may include each other.
const MAX_DEPTH: usize = 10;

/// What the option files say about a connection, as far as a store needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `host`.
    pub host: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `socket`.
    pub socket: Option<PathBuf>,
    /// `user`.
    pub user: Option<String>,
    /// `password`.
    pub password: Option<Secret>,
    /// `database`.
    pub database: Option<String>,
    /// `connect-timeout`, in seconds.
    pub connect_timeout_secs: Option<u32>,
    /// `ssl-mode` of MySQL.
    pub ssl_mode: Option<String>,
    /// `ssl` and `skip-ssl` of MariaDB.
    pub ssl: Option<bool>,
    /// `ssl-verify-server-cert` of MariaDB.
    pub ssl_verify_server_cert: Option<bool>,
    /// `ssl-ca`.
    pub ssl_ca: Option<PathBuf>,
    /// `ssl-cert`.
    pub ssl_cert: Option<PathBuf>,
    /// `ssl-key`.
    pub ssl_key: Option<PathBuf>,
}

/// Which option files to read.
#[derive(Debug, Clone, Default)]
pub struct OptionFiles {
    /// Read this one and no other (`--defaults-file`).
    pub only: Option<PathBuf>,
    /// Read this one after the global ones and before the user's
    /// (`--defaults-extra-file`).
    pub extra: Option<PathBuf>,
}

/// Why an option file cannot be used. No text of a file is repeated: it could be a
/// password.
#[derive(Debug, Error)]
pub enum OptionFileError {
    /// A file that was asked for cannot be read.
    #[error("cannot read the option file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not text.
    #[error("the option file {} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// A line that is none.
    #[error("{}, line {line}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// A value that its option cannot have.
    #[error("{}, line {line}: {option} must be {expected}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The option's name.
        option: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
    /// Files that include each other.
    #[error("{}: option files include each other more than {MAX_DEPTH} deep", .0.display())]
    Depth(PathBuf),
}

impl ClientOptions {
    /// Reads the option files of this user.
    ///
    /// Files that do not exist or may not be read are passed over, as the clients do,
    /// unless they were asked for by name.
    ///
    /// # Errors
    /// Every way in which a file can be wrong.
    pub fn read(files: &OptionFiles) -> Result<Self, OptionFileError> {
        // Units of systemd have no HOME; the user database knows it.
        let home = std::env::home_dir();
        Self::read_from(files, &GLOBAL.map(PathBuf::from), home.as_deref())
    }

    fn read_from(
        files: &OptionFiles,
        global: &[PathBuf],
        home: Option<&Path>,
    ) -> Result<Self, OptionFileError> {
        let mut options = Self::default();
        if let Some(only) = &files.only {
            options.read_file(only, 0)?;
            return Ok(options);
        }
        for path in global {
            options.read_if_there(path)?;
        }
        if let Some(extra) = &files.extra {
            options.read_file(extra, 0)?;
        }
        if let Some(home) = home {
            options.read_if_there(&home.join(".my.cnf"))?;
        }
        Ok(options)
    }

    fn read_if_there(&mut self, path: &Path) -> Result<(), OptionFileError> {
        match fs::metadata(path) {
            // Anybody could have written into it; the clients ignore it too.
            Ok(metadata) if metadata.permissions().mode() & 0o002 != 0 => {
                warn!(
                    "{} is ignored, since everybody may write to it; \
                     \"chmod o-w\" it",
                    path.display()
                );
                Ok(())
            }
            Ok(_) => match self.read_file(path, 0) {
                Err(OptionFileError::Read { source, path: of })
                    if of == path && source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Ok(())
                }
                read => read,
            },
            Err(_) => Ok(()),
        }
    }

    fn read_file(&mut self, path: &Path, depth: usize) -> Result<(), OptionFileError> {
        if depth > MAX_DEPTH {
            return Err(OptionFileError::Depth(path.to_path_buf()));
        }
        let read_error = |path: &Path, source| OptionFileError::Read {
            path: path.to_path_buf(),
            source,
        };
        let bytes = fs::read(path).map_err(|source| read_error(path, source))?;
        let text =
            String::from_utf8(bytes).map_err(|_| OptionFileError::NotText(path.to_path_buf()))?;
        let mut ours = false;
        for (line, number) in text.lines().zip(1..) {
            let syntax = |reason| OptionFileError::Syntax {
                path: path.to_path_buf(),
                line: number,
                reason,
            };
            match parse_line(line).map_err(syntax)? {
                Line::Empty => {}
                Line::Group(name) => ours = is_ours(name),
                Line::Include(file) => self.read_file(&beside(path, file), depth + 1)?,
                Line::IncludeFolder(folder) => {
                    let folder = beside(path, folder);
                    for file in
                        option_files_in(&folder).map_err(|source| read_error(&folder, source))?
                    {
                        self.read_file(&file, depth + 1)?;
                    }
                }
                Line::Option(name, value) if ours => {
                    self.set(&name, value).map_err(|(option, expected)| {
                        OptionFileError::Value {
                            path: path.to_path_buf(),
                            line: number,
                            option,
                            expected,
                        }
                    })?;
                }
                Line::Option(..) => {}
            }
        }
        Ok(())
    }

    /// Takes an option that a store needs; the others belong to the client.
    ///
    /// An error is the option's name and what its value must be.
    fn set(
        &mut self,
        name: &str,
        value: Option<String>,
    ) -> Result<(), (&'static str, &'static str)> {
        let text = |option, expected| value.clone().ok_or((option, expected));
        match name {
            "host" => self.host = Some(text("host", "a host name")?),
            "port" => self.port = Some(number(value, "port", "a number up to 65535")?),
            "socket" => self.socket = Some(text("socket", "a path")?.into()),
            "user" => self.user = Some(text("user", "a user name")?),
            "password" => {
                let expected = "given with a value, since none is asked for on a terminal";
                self.password = Some(Secret::new(text("password", expected)?));
            }
            "skip-password" => self.password = None,
            "database" => self.database = Some(text("database", "a database name")?),
            "connect-timeout" => {
                let seconds = number(value, "connect-timeout", "a number of seconds")?;
                self.connect_timeout_secs = Some(seconds);
            }
            "ssl-mode" => self.ssl_mode = Some(text("ssl-mode", "a mode such as REQUIRED")?),
            "ssl" | "enable-ssl" => self.ssl = Some(switch(value, "ssl")?),
            "skip-ssl" | "disable-ssl" => self.ssl = Some(!switch(value, "skip-ssl")?),
            "ssl-verify-server-cert" => {
                self.ssl_verify_server_cert = Some(switch(value, "ssl-verify-server-cert")?);
            }
            "skip-ssl-verify-server-cert" | "disable-ssl-verify-server-cert" => {
                let off = switch(value, "skip-ssl-verify-server-cert")?;
                self.ssl_verify_server_cert = Some(!off);
            }
            "ssl-ca" => self.ssl_ca = Some(text("ssl-ca", "a path")?.into()),
            // Passed over, it would leave the server unchecked.
            "ssl-capath" if value.as_deref().is_some_and(|path| !path.is_empty()) => {
                let expected = "left to other programs' groups here, and ssl-ca given instead: \
                                one file with the authorities' certificates";
                return Err(("ssl-capath", expected));
            }
            "ssl-cert" => self.ssl_cert = Some(text("ssl-cert", "a path")?.into()),
            "ssl-key" => self.ssl_key = Some(text("ssl-key", "a path")?.into()),
            _ => {}
        }
        Ok(())
    }
}

fn is_ours(group: &str) -> bool {
    GROUPS.iter().any(|ours| group.eq_ignore_ascii_case(ours))
}

/// A path in a file, which starts from the file's own folder if it is relative.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// The files of a folder whose names end in `.cnf`, by name.
fn option_files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cnf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn number<N: std::str::FromStr>(
    value: Option<String>,
    option: &'static str,
    expected: &'static str,
) -> Result<N, (&'static str, &'static str)> {
    value
        .and_then(|text| text.parse().ok())
        .ok_or((option, expected))
}

fn switch(
    value: Option<String>,
    option: &'static str,
) -> Result<bool, (&'static str, &'static str)> {
    match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("1" | "on" | "true") => Ok(true),
        Some("0" | "off" | "false") => Ok(false),
        _ => Err((option, "ON or OFF")),
    }
}
