//! The store in a database of a MySQL or MariaDB server.

mod login;

use mysql::{Conn, DriverError, Error};

use super::StoreError;

pub use login::{DEFAULT_PORT, MysqlHost, MysqlLogin, Password, TlsMode};

/// A database of a MySQL or MariaDB server.
#[derive(Debug)]
pub struct Mysql {
    /// The server and database, for messages.
    location: String,
    connection: Conn,
}

impl Mysql {
    /// Logs in to the first server that answers.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], or [`StoreError::Denied`].
    pub fn open(login: &MysqlLogin) -> Result<Self, StoreError> {
        let (connection, host) = login.connect()?;
        Ok(Self {
            location: format!("database {} at {host}", login.database),
            connection,
        })
    }

    /// The server and database, for messages.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Asks the server whether it is still there.
    ///
    /// # Errors
    /// [`StoreError::ConnectionLost`].
    pub fn ping(&mut self) -> Result<(), StoreError> {
        Ok(self.connection.ping()?)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match &error {
            Error::IoError(_) | Error::CodecError(_) => Self::ConnectionLost(Box::new(error)),
            Error::DriverError(DriverError::ConnectTimeout | DriverError::CouldNotConnect(_)) => {
                Self::ConnectionLost(Box::new(error))
            }
            Error::MySqlError(server) => match server.code {
                // Lock wait timeout, deadlock (Galera's certification failure too).
                1205 | 1213 => Self::Locked,
                // Too many connections, of all users or of this one.
                1040 | 1203 | 1226 => Self::TooManyConnections,
                // Galera: not part of the cluster's majority; server in shutdown;
                // connection killed.
                1047 | 1053 | 1927 | 3169 => Self::ConnectionLost(Box::new(error)),
                // --read-only, table read-only, transaction read-only.
                1036 | 1290 | 1792 | 1836 => Self::ReadOnly,
                // Disk full, table full.
                1021 | 1114 => Self::Full,
                // User, database or table refused, password expired, account locked.
                1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 | 1820 | 3118 | 4151 => {
                    Self::Denied(server.message.clone())
                }
                1049 => Self::Denied(format!(
                    "{}: create it with \"CREATE DATABASE\" and grant the user all rights on it",
                    server.message
                )),
                // Table crashed, index corrupt.
                126 | 127 | 144 | 145 | 1034 | 1035 | 1194 | 1195 | 1712 => {
                    Self::Corrupt(server.message.clone())
                }
                _ => Self::Database(Box::new(error)),
            },
            _ => Self::Database(Box::new(error)),
        }
    }
}
