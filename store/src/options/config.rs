// SPDX-License-Identifier: GPL-2.0-or-later
//! The configuration file, `/etc/trafstat/trafstat.toml`.
//!
//! Everything in it may be left out. What it says stands behind the command line and
//! the environment, and before the option files of MySQL's clients and the defaults.
//! `scripts/dist/trafstat.toml` has every key with an explanation.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor, value};
use thiserror::Error;

use super::Backend;
use super::mysql::{Host, MysqlOptions, MysqlUrl};
use super::quota::QuotaConfig;
use super::secret::Secret;
use crate::backend::TlsMode;
use crate::collect::SpoolPlace;
use crate::store::ArchiveForm;

/// Where the configuration is unless the user says otherwise.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/trafstat/trafstat.toml";

/// What the file says; what it does not say is none.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which database.
    pub store: StoreConfig,
    /// What the collector does.
    pub collect: CollectConfig,
    /// How long each level is kept.
    pub retention: RetentionConfig,
    /// How much traffic may go over.
    pub quota: QuotaConfig,
    /// Where reports are delivered to.
    pub report: ReportConfig,
    /// Names of hosts by their addresses.
    pub name: BTreeMap<IpAddr, String>,
}

/// Section `[store]`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreConfig {
    /// `sqlite` or `mysql`.
    #[serde(deserialize_with = "backend")]
    pub backend: Option<Backend>,
    /// SQLite database file.
    pub db: Option<PathBuf>,
    /// MySQL servers as URLs.
    #[serde(deserialize_with = "one_or_many")]
    pub url: Vec<MysqlUrl>,
    /// MySQL servers.
    #[serde(deserialize_with = "one_or_many")]
    pub hosts: Vec<Host>,
    /// Unix socket of a MySQL server on this host.
    pub socket: Option<PathBuf>,
    /// MySQL user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// MySQL database.
    pub database: Option<String>,
    /// The one option file of MySQL's clients to read.
    pub defaults_file: Option<PathBuf>,
    /// A further option file to read.
    pub defaults_extra_file: Option<PathBuf>,
    /// What TLS has to do.
    pub ssl_mode: Option<TlsMode>,
    /// Certificates of authorities.
    pub ssl_ca: Option<PathBuf>,
    /// This client's certificate.
    pub ssl_cert: Option<PathBuf>,
    /// The key of this client's certificate.
    pub ssl_key: Option<PathBuf>,
    /// How long to wait for one server.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
}

/// Section `[collect]`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CollectConfig {
    /// How often the service collects.
    #[serde(deserialize_with = "duration")]
    pub every: Option<Duration>,
    /// Named network namespaces, or `all`.
    #[serde(deserialize_with = "one_or_many")]
    pub netns: Vec<String>,
    /// File that keeps epochs while the database is away.
    pub spool: Option<PathBuf>,
    /// How large that file may become.
    #[serde(deserialize_with = "size")]
    pub spool_size: Option<ByteSize>,
}

/// Section `[report]`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReportConfig {
    /// Folder for reports in HTML.
    pub folder: Option<PathBuf>,
    /// Addresses that reports are mailed to.
    #[serde(deserialize_with = "addresses")]
    pub mail: Vec<String>,
    /// The program that sends mail, and its arguments.
    #[serde(deserialize_with = "one_or_many")]
    pub mail_command: Vec<String>,
}

/// Section `[retention]`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// How long records are kept.
    #[serde(deserialize_with = "span")]
    pub keep_records: Option<KeepFor>,
    /// How long sums of 15 minutes are kept.
    #[serde(deserialize_with = "span")]
    pub keep_quarterly: Option<KeepFor>,
    /// How long hourly sums are kept.
    #[serde(deserialize_with = "span")]
    pub keep_hourly: Option<KeepFor>,
    /// How long daily sums are kept.
    #[serde(deserialize_with = "span")]
    pub keep_daily: Option<KeepFor>,
    /// How long monthly sums are kept.
    #[serde(deserialize_with = "span")]
    pub keep_monthly: Option<KeepFor>,
    /// Folder for what is written out before it is deleted.
    pub archive: Option<PathBuf>,
    /// What the files in it are: `sqlite` or `csv`.
    pub archive_form: Option<ArchiveForm>,
}

/// A length of time back from now, such as `90d` or `2y`.
#[derive(Debug, Clone, Copy)]
pub struct KeepFor(pub Span);

impl PartialEq for KeepFor {
    fn eq(&self, other: &Self) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

/// Why the configuration cannot be used. No value is repeated: it could be a password.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file says something wrong.
    #[error("{}, line {line}, {place}: {reason}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key, or what of it could be made out.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Everybody may read a password.
    #[error(
        "{} holds a password and everybody may read it: \"chmod o-r\" it, or keep the \
         password in an option file and name that with defaults-file",
        .0.display()
    )]
    Exposed(PathBuf),
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// That it cannot be read, or is wrong; a password in a file that others may read
    /// is.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        };
        let text = fs::read_to_string(path).map_err(read_error)?;
        let config = Self::parse(&text, path)?;
        if config.store.has_password() {
            let mode = fs::metadata(path).map_err(read_error)?.permissions().mode();
            if mode & 0o004 != 0 {
                return Err(ConfigError::Exposed(path.to_path_buf()));
            }
        }
        Ok(config)
    }

    /// Reads the default configuration, an empty one if there is none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_default() -> Result<Self, ConfigError> {
        match Self::read(Path::new(DEFAULT_CONFIG_PATH)) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            read => read,
        }
    }

    /// Takes what a file at `path` says.
    ///
    /// # Errors
    /// That it is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let (line, place) = place(text, error.span());
            ConfigError::Wrong {
                path: path.to_path_buf(),
                line,
                place,
                // Not the error's own text, which repeats the line.
                reason: in_one_line(error.message()),
            }
        })
    }
}

impl CollectConfig {
    /// Where the spool is, and how large it may become.
    pub fn spool_place(&self) -> SpoolPlace {
        let default = SpoolPlace::default();
        SpoolPlace {
            path: self.spool.clone().unwrap_or(default.path),
            limit: self.spool_size.unwrap_or(default.limit),
        }
    }
}

impl StoreConfig {
    /// What it says about a MySQL server: its keys, and its URLs where they say nothing.
    pub fn mysql(&self) -> MysqlOptions {
        let keys = MysqlOptions {
            hosts: self.hosts.clone(),
            socket: self.socket.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database.clone(),
            connect_timeout: self.connect_timeout,
            ssl_mode: self.ssl_mode,
            ssl_ca: self.ssl_ca.clone(),
            ssl_cert: self.ssl_cert.clone(),
            ssl_key: self.ssl_key.clone(),
        };
        keys.or(super::mysql::joined(&self.url))
    }

    fn has_password(&self) -> bool {
        self.mysql().password.is_some()
    }
}

/// Mail addresses, none of which adds anything else to a message's header.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let addresses: Vec<String> = one_or_many(deserializer)?;
    let is_wrong = |address: &String| {
        address.is_empty()
            || address.contains([',', ' ', ';'])
            || address.contains(char::is_control)
    };
    match addresses.iter().any(is_wrong) {
        true => Err(de::Error::custom(
            "expected mail addresses, such as \"root\"",
        )),
        false => Ok(addresses),
    }
}

/// A message that may quote what a value has in it: a line feed, or what a terminal obeys.
fn in_one_line(message: &str) -> String {
    message
        .chars()
        .map(|c| match c.is_control() {
            true => c.escape_debug().to_string(),
            false => c.to_string(),
        })
        .collect()
}

/// The line of a span, and the key that stands there.
fn place(text: &str, span: Option<Range<usize>>) -> (usize, String) {
    let at = span.map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..at];
    let number = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let key: String = line
        .chars()
        .take_while(|&c| c.is_ascii_alphanumeric() || "-_.[]".contains(c))
        .collect();
    let is_key = line[key.len()..].trim_start().starts_with('=') || key.starts_with('[');
    match is_key {
        true => (number, format!("key {key}")),
        false => (number, "not a line of KEY = VALUE".to_owned()),
    }
}

fn backend<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Backend>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let size = text.parse();
    size.map(Some)
        .map_err(|_| de::Error::custom("expected a size such as \"1 GiB\" or \"500 MB\""))
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeepFor>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_keep_for(&text).map(Some).map_err(de::Error::custom)
}

/// Parses a length of time such as `30s`, `5m` or `1h 30m`.
///
/// # Errors
/// One line that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a length of time such as 30s, 5m or 1h".to_owned())
}

/// Parses how long something is kept, such as `90d`, `2y` or `6 months`.
///
/// # Errors
/// One line that says what would be right.
pub fn parse_keep_for(text: &str) -> Result<KeepFor, String> {
    text.parse::<Span>()
        .ok()
        .filter(Span::is_positive)
        .map(KeepFor)
        .ok_or_else(|| "expected a length of time such as 90d, 12mo or 2y".to_owned())
}

/// A list, or a value that stands for a list of one.
fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct OneOrMany<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text in quotes, or a list of them in brackets")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(value::StrDeserializer::new(text)).map(|value| vec![value])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/trafstat/trafstat.toml"))
    }

    #[test]
    fn every_section_may_be_missing() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(parse("[collect]\n").unwrap(), Config::default());
    }

    #[test]
    fn list_may_be_one_text() {
        for text in ["netns = \"all\"", "netns = [\"all\"]"] {
            let config = parse(&format!("[collect]\n{text}\n")).unwrap();
            assert_eq!(config.collect.netns, ["all"]);
        }
        let config = parse("[store]\nhosts = [\"a\", \"b:3307\"]\n").unwrap();
        assert_eq!(config.store.hosts[1].port, Some(3307));
    }

    #[test]
    fn lengths_of_time_and_sizes_have_units() {
        let config = parse(
            "[collect]\nevery = \"5m\"\nspool-size = \"1 GiB\"\n\
             [retention]\nkeep-records = \"90d\"\nkeep-hourly = \"2y\"\n",
        )
        .unwrap();
        assert_eq!(config.collect.every, Some(Duration::from_secs(300)));
        assert_eq!(config.collect.spool_size, Some(ByteSize::gib(1)));
        assert_eq!(
            config.retention.keep_records,
            Some(KeepFor(Span::new().days(90)))
        );
        assert_eq!(
            config.retention.keep_hourly,
            Some(KeepFor(Span::new().years(2)))
        );
    }

    #[test]
    fn error_names_line_and_key_and_what_would_be_right() {
        for (text, expected) in [
            (
                "[store]\nbackend = \"oracle\"\n",
                "line 2, key backend: expected sqlite",
            ),
            (
                "[store]\n\nbakend = \"sqlite\"\n",
                "line 3, key bakend: unknown field",
            ),
            ("[stor]\n", "line 1, key [stor]: unknown field"),
            (
                "[collect]\nevery = \"soon\"\n",
                "line 2, key every: expected a length of time",
            ),
            ("[collect]\nevery = 5\n", "line 2, key every: "),
            (
                "[collect]\nspool-size = \"big\"\n",
                "line 2, key spool-size: expected a size",
            ),
            (
                "[retention]\nkeep-hourly = \"-2y\"\n",
                "line 2, key keep-hourly: expected a length",
            ),
            (
                "[store]\nssl-mode = \"MAYBE\"\n",
                "line 2, key ssl-mode: not an SSL mode",
            ),
            (
                "[store]\nurl = \"db1\"\n",
                "line 2, key url: not a MySQL URL",
            ),
            (
                "[[quota.limit]]\ncount = \"\\n\\u001b\"\n",
                "line 2, key count: unknown variant `\\n\\u{1b}`",
            ),
            ("what is this\n", "line 1, not a line of KEY = VALUE"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("/etc/trafstat/trafstat.toml, "),
                "{error}"
            );
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn no_error_repeats_a_password() {
        for text in [
            "[store]\npassword = s3cret\n",
            "[store]\npassword = \"s3cret\n",
            "[store]\npassword = \"s3cret\" s3cret\n",
            "[store]\npassword = [\"s3cret\"]\n",
            "[store]\npassword = { s3cret = \"s3cret\" }\n",
            "[store]\npassword = \"s3cret\"\npassword = \"s3cret\"\n",
            "[store]\npassword = 's3cret\n",
            "[store]\nurl = \"mysql://u:s3cret@/t\"\n",
            "[store]\nurl = [\"mysql://u:s3cret@\"]\n",
            "[store]\nurl = \"mysql://u:s3cret@db/t\nuser = 5",
        ] {
            let error = parse(text).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("s3cret"), "{text}: {shown}");
            }
        }
        let number = parse("[store]\npassword = 715517\n")
            .unwrap_err()
            .to_string();
        assert!(!number.contains("715517"), "{number}");
        assert!(number.contains("a text in quotes"), "{number}");
        let config = parse("[store]\npassword = \"s3cret\"\nurl = \"mysql://u:s3cret@db/t\"\n");
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn password_that_everybody_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trafstat.toml");
        for text in [
            "[store]\npassword = \"s3cret\"\n",
            "[store]\nurl = \"mysql://u:s3cret@db/t\"\n",
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let error = Config::read(&path).unwrap_err();
            assert!(matches!(error, ConfigError::Exposed(_)), "{error}");
            assert!(error.to_string().contains("chmod o-r"), "{error}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let config = Config::read(&path).unwrap();
            assert_eq!(config.store.mysql().password.unwrap().reveal(), "s3cret");
        }
        fs::write(&path, "[store]\nuser = \"collector\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Config::read(&path).unwrap();
    }

    #[test]
    fn example_file_says_what_the_defaults_are() {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../scripts/dist/trafstat.toml"
        ));
        let text = fs::read_to_string(path).unwrap();
        Config::parse(&text, path).unwrap();
        // With every key switched on, it names each one that there is.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key)
                    if !key.starts_with(' ') && (key.contains('=') || key.starts_with("[[")) =>
                {
                    key
                }
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut config = Config::parse(&all, path).unwrap();
        // These have parts that may be missing.
        let hosts = std::mem::take(&mut config.store.hosts).len();
        let urls = std::mem::take(&mut config.store.url).len();
        assert_eq!((hosts, urls), (2, 1));
        let shown = format!("{config:?}").replace("url: [], hosts: []", "");
        assert!(!shown.contains("None") && !shown.contains("[]"), "{shown}");
    }
}
