// SPDX-License-Identifier: GPL-2.0-or-later
//! Which store a program uses: the options that all programs share, and what stands
//! behind them.
//!
//! Precedence: command line, environment, configuration file, option files of MySQL's
//! clients, defaults.

use std::path::{Path, PathBuf};

use clap::Args;
use thiserror::Error;
use trafstat_store::backend::{DEFAULT_PATH, MysqlLogin, TlsMode};
use trafstat_store::options::config::{Config, ConfigError, StoreConfig};
use trafstat_store::options::mysql::{self, MysqlOptions, MysqlUrl, MysqlUrlError, TlsModeError};
use trafstat_store::options::option_file::{ClientOptions, OptionFileError, OptionFiles};
use trafstat_store::options::secret::Secret;
use trafstat_store::options::{Backend, Location};
use trafstat_store::store::{Store, StoreError};

/// Which store a program uses.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreOptions {
    /// Configuration file [default: /etc/trafstat/trafstat.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "TRAFSTAT_CONFIG", global = true)]
    config: Option<PathBuf>,

    /// Kind of database: sqlite (the default) or mysql, which is MariaDB too.
    #[arg(long, value_name = "KIND", env = "TRAFSTAT_BACKEND", global = true)]
    backend: Option<Backend>,

    /// SQLite database file [default: /var/lib/trafstat/trafstat.db].
    #[arg(long, value_name = "FILE", env = "TRAFSTAT_DB", global = true)]
    db: Option<PathBuf>,

    /// MySQL server and database; several hosts are tried in turn.
    ///
    /// mysql://USER@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE].
    /// The password belongs into an option file such as ~/.my.cnf, never here.
    #[arg(
        long,
        value_name = "URL",
        env = "TRAFSTAT_URL",
        hide_env_values = true,
        // What a parser refuses is shown, with a password in it: parsed later.
        value_parser = |text: &str| Ok::<_, String>(Secret::new(text)),
        global = true
    )]
    url: Vec<Secret>,

    /// Read this option file of MySQL's clients and no other.
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAFSTAT_DEFAULTS_FILE",
        global = true
    )]
    defaults_file: Option<PathBuf>,

    /// Read this option file of MySQL's clients before ~/.my.cnf.
    #[arg(long, value_name = "FILE", global = true)]
    defaults_extra_file: Option<PathBuf>,

    /// What TLS has to do: DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY.
    #[arg(long, value_name = "MODE", value_parser = parse_ssl_mode, global = true)]
    ssl_mode: Option<TlsMode>,

    /// Certificates of the authorities that a MySQL server's certificate must come from.
    #[arg(long, value_name = "FILE", global = true)]
    ssl_ca: Option<PathBuf>,
}

/// Why options cannot be used.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An option file of MySQL's clients.
    #[error(transparent)]
    OptionFile(#[from] OptionFileError),
    /// The SSL mode of an option file.
    #[error("ssl-mode in an option file: {0}")]
    TlsMode(#[from] TlsModeError),
    /// The URL of the command line or the environment.
    #[error("{0}")]
    Url(#[from] MysqlUrlError),
    /// Other users see it.
    #[error(
        "the URL holds a password, which other users can see in the list of processes: leave \
         it out, and put \"password=...\" under \"[client]\" into ~/.my.cnf or into a file \
         that --defaults-file (for import, --from-defaults-file) names, with mode 600"
    )]
    PasswordShown,
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is not clear which.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The store's own.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreOptions {
    /// The configuration that these options name, or the default one.
    ///
    /// # Errors
    /// That it cannot be read or is wrong; only the default one may be missing.
    pub fn config(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(path) => Config::read(path),
            None => Config::read_default(),
        }
    }

    /// Where the store is.
    ///
    /// # Errors
    /// That an option, the configuration or an option file is wrong.
    pub fn location(&self, config: &StoreConfig) -> Result<Location, OptionsError> {
        let ours = self.mysql()?;
        let says_mysql =
            |options: &MysqlOptions| !options.hosts.is_empty() || options.socket.is_some();
        let theirs = config.mysql();
        let backend = self
            .backend
            .or_else(|| says_mysql(&ours).then_some(Backend::Mysql))
            .or_else(|| self.db.is_some().then_some(Backend::Sqlite))
            .or(config.backend)
            .or_else(|| says_mysql(&theirs).then_some(Backend::Mysql))
            .unwrap_or(Backend::Sqlite);
        match backend {
            Backend::Sqlite => Ok(Location::Sqlite(
                self.db
                    .clone()
                    .or_else(|| config.db.clone())
                    .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
            )),
            Backend::Mysql => {
                let files = OptionFiles {
                    only: self
                        .defaults_file
                        .clone()
                        .or_else(|| config.defaults_file.clone()),
                    extra: self
                        .defaults_extra_file
                        .clone()
                        .or_else(|| config.defaults_extra_file.clone()),
                };
                let from_files = MysqlOptions::try_from(ClientOptions::read(&files)?)?;
                Ok(Location::Mysql(ours.or(theirs).or(from_files)))
            }
        }
    }

    /// Opens the store for queries only.
    ///
    /// # Errors
    /// The options' or the store's.
    pub fn open_read_only(&self) -> Result<Box<dyn Store>, OpenError> {
        let config = self.config().map_err(OptionsError::from)?;
        Ok(self.location(&config.store)?.open_read_only()?)
    }

    fn mysql(&self) -> Result<MysqlOptions, OptionsError> {
        let urls = parse_urls(&self.url)?;
        let options = MysqlOptions {
            ssl_mode: self.ssl_mode,
            ssl_ca: self.ssl_ca.clone(),
            ..MysqlOptions::default()
        };
        Ok(options.or(mysql::joined(&urls)))
    }
}

/// How to log in where a URL of the command line says, with what option files add.
///
/// # Errors
/// That the URL or an option file is wrong.
pub fn login_at(url: &Secret, defaults_file: Option<&Path>) -> Result<MysqlLogin, OptionsError> {
    let files = OptionFiles {
        only: defaults_file.map(Path::to_path_buf),
        extra: None,
    };
    let from_files = MysqlOptions::try_from(ClientOptions::read(&files)?)?;
    let urls = parse_urls(std::slice::from_ref(url))?;
    Ok(mysql::joined(&urls).or(from_files).login())
}

/// How a server's administrator logs in where a store is, as option files say.
///
/// # Errors
/// That an option file is wrong.
pub fn administrator_of(
    store: &MysqlOptions,
    defaults_file: Option<&Path>,
) -> Result<MysqlLogin, OptionsError> {
    let files = OptionFiles {
        only: defaults_file.map(Path::to_path_buf),
        extra: None,
    };
    let from_files = MysqlOptions::try_from(ClientOptions::read(&files)?)?;
    let server = MysqlOptions {
        user: None,
        password: None,
        // Where servers keep their users.
        database: Some("mysql".to_owned()),
        ..store.clone()
    };
    Ok(server.or(from_files).login())
}

fn parse_urls(urls: &[Secret]) -> Result<Vec<MysqlUrl>, OptionsError> {
    let mut parsed = Vec::new();
    for url in urls {
        let url: MysqlUrl = url.reveal().parse()?;
        if url.0.password.is_some() {
            return Err(OptionsError::PasswordShown);
        }
        parsed.push(url);
    }
    Ok(parsed)
}

fn parse_ssl_mode(text: &str) -> Result<TlsMode, String> {
    text.parse()
        .map_err(|error: TlsModeError| error.to_string())
}
