// SPDX-License-Identifier: GPL-2.0-or-later
//! A server's kind, limits and state, as a new connection finds them.

use std::collections::HashMap;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::login::Purpose;
use crate::store::StoreError;

/// The oldest servers that are supported, by major and minor version.
const OLDEST_MARIADB: (u32, u32) = (10, 5);
const OLDEST_MYSQL: (u32, u32) = (8, 0);

/// The least `max_allowed_packet` that is supported: a statement that inserts one row of any table,
/// and one that defines any view, are smaller.
const LEAST_PACKET: usize = 32 << 10;

/// Of a packet, what the text and the head of a statement of many rows may take.
const STATEMENT_HEAD: usize = 4 << 10;

/// A session's settings, independent of the server's defaults. The server may wait for a result's
/// reader as long as for a session that has nothing to do.
const SESSION: [&str; 6] = [
    "SET NAMES utf8mb4",
    "SET SESSION autocommit = 1",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION innodb_lock_wait_timeout = 30",
    "SET SESSION wait_timeout = 28800, net_write_timeout = 28800",
];

/// What a connection is told of its server.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    variables: HashMap<String, String>,
}

impl Server {
    /// Asks the server.
    pub(super) fn of(connection: &mut Conn) -> Result<Self, StoreError> {
        let found: Vec<(String, String)> = connection.query(
            "SHOW VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'read_only',
                 'super_read_only', 'innodb_read_only', 'max_allowed_packet', 'local_infile',
                 'wsrep_on')",
        )?;
        let named = found.into_iter();
        Ok(Self {
            variables: named
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect(),
        })
    }

    /// Refuses a server that cannot be used for this.
    pub(super) fn check(&self, purpose: Purpose) -> Result<(), StoreError> {
        let version = self.text("version");
        let (name, oldest) = match self.is_mariadb() {
            true => ("MariaDB", OLDEST_MARIADB),
            false => ("MySQL", OLDEST_MYSQL),
        };
        if release(version).is_some_and(|release| release < oldest) {
            return Err(StoreError::Unsupported(format!(
                "it is {name} {version}, and trafstat needs {name} {}.{} or newer: upgrade the \
                 server",
                oldest.0, oldest.1
            )));
        }
        let packet = self.largest_packet();
        if packet < LEAST_PACKET {
            return Err(StoreError::Unsupported(format!(
                "its max_allowed_packet is {packet}, and trafstat needs {LEAST_PACKET} or more: \
                 raise it on the server, for example to 16M"
            )));
        }
        let is_read_only = ["read_only", "super_read_only", "innodb_read_only"]
            .iter()
            .any(|name| self.is_on(name));
        match is_read_only && purpose != Purpose::Read {
            true => Err(StoreError::ReadOnly),
            false => Ok(()),
        }
    }

    /// Makes a new session what ours are.
    pub(super) fn set_up(&self, connection: &mut Conn) -> Result<(), StoreError> {
        for statement in SESSION {
            connection.query_drop(statement)?;
        }
        // A node of a Galera cluster applies what another one committed a little later; reads are
        // to wait for that, such as whether the schema or an epoch is there.
        if self.is_on("wsrep_on") {
            connection.query_drop("SET SESSION wsrep_sync_wait = 1")?;
        }
        Ok(())
    }

    /// Whether it takes `LOAD DATA LOCAL`.
    pub(super) fn takes_files(&self) -> bool {
        self.is_on("local_infile")
    }

    /// The most bytes that a statement and its values may have together.
    pub(super) fn largest_statement(&self) -> usize {
        self.largest_packet() - STATEMENT_HEAD
    }

    fn largest_packet(&self) -> usize {
        let said = self.text("max_allowed_packet").parse().ok();
        // A server that does not say takes what the smallest one does.
        said.unwrap_or(LEAST_PACKET)
    }

    fn is_mariadb(&self) -> bool {
        ["version", "version_comment"]
            .iter()
            .any(|name| self.text(name).to_lowercase().contains("mariadb"))
    }

    fn is_on(&self, name: &str) -> bool {
        !matches!(self.text(name), "" | "0" | "OFF")
    }

    fn text(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }
}

/// Major and minor version; none of a text that begins with none.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(variables: &[(&str, &str)]) -> Server {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let packet = ("max_allowed_packet".to_owned(), "16777216".to_owned());
        Server {
            variables: std::iter::once(packet)
                .chain(variables.iter().map(owned))
                .collect(),
        }
    }

    #[test]
    fn servers_that_are_too_old_are_refused() {
        let check = |version: &str, comment: &str| {
            server(&[("version", version), ("version_comment", comment)]).check(Purpose::Append)
        };
        for (version, comment) in [
            ("5.7.44-log", "MySQL Community Server (GPL)"),
            ("10.4.34-MariaDB-1:10.4.34+maria~deb10", ""),
            ("10.4.34", "mariadb.org binary distribution"),
            ("5.5.68-MariaDB", ""),
        ] {
            let error = check(version, comment).unwrap_err();
            assert!(matches!(error, StoreError::Unsupported(_)), "{error}");
            assert!(error.to_string().contains(version), "{error}");
        }
        for (version, comment) in [
            ("8.0.36", "MySQL Community Server - GPL"),
            ("8.0.35-27", "Percona Server (GPL)"),
            ("9.1.0", ""),
            ("10.5.23-MariaDB-0+deb11u1", "Debian 11"),
            ("11.8.2-MariaDB", ""),
            ("unknown", ""),
        ] {
            check(version, comment).unwrap();
        }
    }

    #[test]
    fn read_only_server_serves_readers_alone() {
        for variable in ["read_only", "super_read_only", "innodb_read_only"] {
            let server = server(&[("version", "8.4.0"), (variable, "ON")]);
            for purpose in [Purpose::Append, Purpose::Write] {
                let error = server.check(purpose).unwrap_err();
                assert!(matches!(error, StoreError::ReadOnly), "{error}");
            }
            server.check(Purpose::Read).unwrap();
        }
    }

    #[test]
    fn server_of_tiny_packets_is_refused() {
        let mut server = server(&[("version", "8.4.0")]);
        server
            .variables
            .insert("max_allowed_packet".to_owned(), "1024".to_owned());
        let error = server.check(Purpose::Append).unwrap_err();
        assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    }
}
