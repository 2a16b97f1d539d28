// SPDX-License-Identifier: GPL-2.0-or-later
//! A database and the user that stores into it, made and taken away by the server's
//! administrator.

use mysql::Conn;
use mysql::Value;
use mysql::prelude::Queryable;

use super::login::{MysqlLogin, Password, Purpose};
use crate::store::StoreError;

/// What the store's user may do, on its own database and nowhere else: read, store, delete
/// what is old, and keep the schema. FILE is not among it, nor any right on the server.
const RIGHTS: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, \
                      CREATE VIEW, SHOW VIEW";

/// What every user may read.
const ANYBODYS: &str = "information_schema";

impl MysqlLogin {
    /// Makes the database and the user of this login, for the host that the server sees this one
    /// as; what is there of them stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Denied`] where the administrator may not, and where the user is there with
    /// another password, in which case nothing is changed; the server's.
    pub fn create_user(&self, administrator: &Self) -> Result<(), StoreError> {
        let (mut connection, account) = self.administer(administrator)?;
        let is_there: Option<u64> = connection.exec_first(
            "SELECT COUNT(*) FROM mysql.user WHERE user = ? AND host = ?",
            (&account.user, &account.host),
        )?;
        if is_there == Some(0) {
            let password = self.password.as_ref().map_or("", Password::reveal);
            connection.query_drop(format!(
                "CREATE USER {account} IDENTIFIED BY {}",
                literal(password)
            ))?;
        } else {
            // Somebody else's user is not given rights.
            self.knows_the_password(&account)?;
        }
        connection.query_drop(format!(
            "CREATE DATABASE IF NOT EXISTS {}",
            identifier(&self.database)
        ))?;
        connection.query_drop(format!(
            "GRANT {RIGHTS} ON {}.* TO {account}",
            identifier(&pattern(&self.database))
        ))?;
        Ok(())
    }

    /// Takes the user of this login away; its database stays. Whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Denied`] where the administrator may not; the server's.
    pub fn drop_user(&self, administrator: &Self) -> Result<(), StoreError> {
        let (mut connection, account) = self.administer(administrator)?;
        Ok(connection.query_drop(format!("DROP USER IF EXISTS {account}"))?)
    }

    fn administer(&self, administrator: &Self) -> Result<(Conn, ServerUser), StoreError> {
        let mut connection = administrator.connect_for(Purpose::Write)?.connection;
        // Or texts would be quoted by other rules than `literal` does.
        connection.query_drop("SET SESSION sql_mode = ''")?;
        let host: Option<String> =
            connection.query_first("SELECT SUBSTRING_INDEX(USER(), '@', -1)")?;
        let account = ServerUser {
            user: self.user.clone(),
            host: host.unwrap_or_default(),
        };
        Ok((connection, account))
    }

    fn knows_the_password(&self, account: &ServerUser) -> Result<(), StoreError> {
        let login = Self {
            database: ANYBODYS.to_owned(),
            ..self.clone()
        };
        match login.connect_for(Purpose::Read) {
            Ok(_) => Ok(()),
            Err(StoreError::Denied(_) | StoreError::LoginDenied(_)) => {
                Err(StoreError::Denied(format!(
                    "the server has a user {account} already, with another password: name another \
                 user in the URL, or take that one away with \"DROP USER\""
                )))
            }
            Err(error) => Err(error),
        }
    }
}

/// A user, as the server knows it.
struct ServerUser {
    user: String,
    host: String,
}

impl std::fmt::Display for ServerUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", literal(&self.user), literal(&self.host))
    }
}

fn literal(text: &str) -> String {
    Value::from(text).as_sql(false)
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// GRANT takes a pattern for a database, in which these two stand for others.
fn pattern(database: &str) -> String {
    database.replace('_', "\\_").replace('%', "\\%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_signs_of_sql_stay_names() {
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(pattern("a_b%"), "a\\_b\\%");
        let account = ServerUser {
            user: "o'neill".to_owned(),
            host: "%".to_owned(),
        };
        assert_eq!(account.to_string(), "'o\\'neill'@'%'");
    }
}
