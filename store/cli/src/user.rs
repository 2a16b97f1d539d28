// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store create-user` and `trafstat-store drop-user`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use trafstat_cli::store::administrator_of;
use trafstat_store::backend::MysqlLogin;
use trafstat_store::options::Location;

use crate::settings::{Settings, say};

/// Who may create users.
#[derive(Debug, Args)]
pub struct Administrator {
    /// Read the administrator's login from this option file, not from ~/.my.cnf.
    #[arg(long, value_name = "FILE")]
    admin_defaults_file: Option<PathBuf>,
}

/// Create the MySQL database, its schema and the user that stores into it.
///
/// Database, user and password are those that the configuration and the options name. The user
/// gets rights on that database alone, and may log in from this host. What is there already stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  trafstat-store create-user --url mysql://trafstat@localhost/trafstat \\
      --defaults-file /etc/trafstat/my.cnf

/etc/trafstat/my.cnf has \"password=...\" below \"[client]\". The administrator is whom ~/.my.cnf
names; without one, the user that runs this, which a server on the same host lets in as root.")]
pub struct CreateUserOptions {
    #[command(flatten)]
    administrator: Administrator,
}

/// Take the MySQL user that stores away; what was stored stays.
#[derive(Debug, Args)]
pub struct DropUserOptions {
    #[command(flatten)]
    administrator: Administrator,
}

pub fn create(options: &CreateUserOptions, settings: &Settings) -> Result<ExitCode> {
    let (login, administrator) = options.administrator.logins(settings)?;
    if login.password.is_none() {
        bail!(
            "the user {} needs a password: put \"password=...\" under \"[client]\" into a file \
             with mode 600, and name it with --defaults-file",
            login.user
        );
    }
    login.create_user(&administrator)?;
    settings.location.open()?;
    say(&format!("{} is ready", settings.location))
}

pub fn drop(options: &DropUserOptions, settings: &Settings) -> Result<ExitCode> {
    let (login, administrator) = options.administrator.logins(settings)?;
    login.drop_user(&administrator)?;
    say(&format!(
        "user {} is gone; database {} stays",
        login.user, login.database
    ))
}

impl Administrator {
    /// The store's login, and this one's to the same server.
    fn logins(&self, settings: &Settings) -> Result<(MysqlLogin, MysqlLogin)> {
        let Location::Mysql(options) = &settings.location else {
            bail!(
                "the store is the file {}: users are a MySQL server's, which --url names",
                settings.location
            );
        };
        let administrator = administrator_of(options, self.admin_defaults_file.as_deref())?;
        let login = options.login();
        if login.user == administrator.user {
            bail!(
                "{} is the administrator: name a user of the store's own in the URL, such as \
                 mysql://trafstat@localhost/trafstat",
                login.user
            );
        }
        Ok((login, administrator))
    }
}
