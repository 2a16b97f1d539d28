// SPDX-License-Identifier: GPL-2.0-or-later
//! How to reach a MySQL server: from URLs, the configuration and option files.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::de::{self, Deserialize, Deserializer};
use thiserror::Error;

use super::option_file::ClientOptions;
use super::secret::Secret;
use crate::backend::{DEFAULT_PORT, MysqlHost, MysqlLogin, Password, TlsMode};

/// `mysql://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]/[DATABASE][?OPTION=VALUE&...]`.
///
/// Parts are percent-encoded; an IPv6 address stands in brackets. Options are those of
/// [`MysqlOptions`] with dashes: `ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key`, `socket`,
/// `connect-timeout` (seconds).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MysqlUrl(pub MysqlOptions);

/// What one place says about a MySQL server; what it does not say is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MysqlOptions {
    /// Servers to try in turn.
    pub hosts: Vec<Host>,
    /// Unix socket of a server on this host.
    pub socket: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The database.
    pub database: Option<String>,
    /// How long to wait for one server.
    pub connect_timeout: Option<Duration>,
    /// What TLS has to do.
    pub ssl_mode: Option<TlsMode>,
    /// Certificates of the authorities that a server's certificate must come from.
    pub ssl_ca: Option<PathBuf>,
    /// This client's certificate.
    pub ssl_cert: Option<PathBuf>,
    /// The key of this client's certificate.
    pub ssl_key: Option<PathBuf>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address, an IPv6 address without brackets.
    pub name: String,
    /// TCP port, if one is said.
    pub port: Option<u16>,
}

/// A text that is no URL of a MySQL server; the text is not repeated, since it may hold
/// a password.
#[derive(Debug, Error)]
#[error("not a MySQL URL: {0}; expected mysql://[USER@]HOST[:PORT][,HOST[:PORT]...]/DATABASE")]
pub struct MysqlUrlError(String);

/// A text that is no `ssl-mode`.
#[derive(Debug, Error)]
#[error("not an SSL mode: expected DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY")]
pub struct TlsModeError;

/// A text that is no host.
#[derive(Debug, Error)]
#[error("not a host: expected NAME, ADDRESS, [IPV6-ADDRESS], each with or without :PORT")]
pub struct HostError;

impl MysqlOptions {
    /// These options, and the others' where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // A place that names a server means that one, not another place's socket.
        let says_where = !self.hosts.is_empty() || self.socket.is_some();
        let (hosts, socket) = match says_where {
            true => (self.hosts, self.socket),
            false => (other.hosts, other.socket),
        };
        Self {
            hosts,
            socket,
            user: self.user.or(other.user),
            password: self.password.or(other.password),
            database: self.database.or(other.database),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            ssl_mode: self.ssl_mode.or(other.ssl_mode),
            ssl_ca: self.ssl_ca.or(other.ssl_ca),
            ssl_cert: self.ssl_cert.or(other.ssl_cert),
            ssl_key: self.ssl_key.or(other.ssl_key),
        }
    }

    /// What TLS has to do, as MySQL's clients take it: an authority is named to be
    /// checked, and otherwise TLS is used where there is any.
    pub fn tls_mode(&self) -> TlsMode {
        self.ssl_mode.unwrap_or(match self.ssl_ca {
            Some(_) => TlsMode::VerifyCa,
            None => TlsMode::Preferred,
        })
    }

    /// The whole of it, with the clients' defaults for what nothing was said about.
    pub fn login(&self) -> MysqlLogin {
        let socket = || {
            let path = self.socket.clone();
            MysqlHost::Unix(path.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)))
        };
        let mut hosts: Vec<MysqlHost> = self
            .hosts
            .iter()
            .map(|host| match (host.name.as_str(), host.port) {
                // As the clients do, "localhost" means the socket.
                ("localhost", None) => socket(),
                (name, port) => MysqlHost::Tcp {
                    host: name.to_owned(),
                    port: port.unwrap_or(DEFAULT_PORT),
                },
            })
            .collect();
        if hosts.is_empty() {
            hosts.push(socket());
        }
        MysqlLogin {
            hosts,
            user: self.user.clone().unwrap_or_else(this_user),
            password: self
                .password
                .as_ref()
                .map(|password| Password::from(password.reveal().to_owned())),
            database: self
                .database
                .clone()
                .unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            tls: self.tls_mode(),
            tls_ca: self.ssl_ca.clone(),
            tls_cert: self.ssl_cert.clone(),
            tls_key: self.ssl_key.clone(),
            connect_timeout: self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            answer_timeout: ANSWER_TIMEOUT,
        }
    }
}

impl TryFrom<ClientOptions> for MysqlOptions {
    type Error = TlsModeError;

    fn try_from(options: ClientOptions) -> Result<Self, TlsModeError> {
        let ssl_mode = match options.ssl_mode {
            Some(mode) => Some(mode.parse()?),
            None => match (options.ssl, options.ssl_verify_server_cert) {
                (Some(false), _) => Some(TlsMode::Disabled),
                (_, Some(true)) => Some(TlsMode::VerifyIdentity),
                (Some(true), Some(false)) => Some(TlsMode::Required),
                (Some(true), None) if options.ssl_ca.is_none() => Some(TlsMode::Required),
                (None, Some(false)) if options.ssl_ca.is_some() => Some(TlsMode::Required),
                _ => None,
            },
        };
        // As the clients do, "localhost" means the socket.
        let (hosts, socket) = match options.host {
            Some(name) if name != "localhost" => (
                vec![Host {
                    name,
                    port: options.port,
                }],
                None,
            ),
            _ => (Vec::new(), options.socket),
        };
        Ok(Self {
            hosts,
            socket,
            user: options.user,
            password: options.password,
            database: options.database,
            connect_timeout: options
                .connect_timeout_secs
                .map(|seconds| Duration::from_secs(seconds.into())),
            ssl_mode,
            ssl_ca: options.ssl_ca,
            ssl_cert: options.ssl_cert,
            ssl_key: options.ssl_key,
        })
    }
}

impl FromStr for MysqlUrl {
    type Err = MysqlUrlError;

    fn from_str(text: &str) -> Result<Self, MysqlUrlError> {
        let wrong = |reason: &str| MysqlUrlError(reason.to_owned());
        let rest = text
            .strip_prefix("mysql://")
            .ok_or_else(|| wrong("it does not begin with \"mysql://\""))?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, database) = match rest.split_once('/') {
            Some((authority, database)) => (authority, database),
            None => (rest, ""),
        };
        let mut options = MysqlOptions::default();
        let hosts = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                let (user, password) = match login.split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (login, None),
                };
                options.user = Some(decoded(user).ok_or_else(|| wrong("the user"))?);
                options.password = password
                    .map(|password| decoded(password).ok_or_else(|| wrong("the password")))
                    .transpose()?
                    .map(Secret::new);
                hosts
            }
            None => authority,
        };
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            let host = host
                .parse()
                .map_err(|error: HostError| wrong(&error.to_string()))?;
            options.hosts.push(host);
        }
        if !database.is_empty() {
            options.database = Some(decoded(database).ok_or_else(|| wrong("the database"))?);
        }
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| wrong("an option's value"))?;
            match name {
                "ssl-mode" => {
                    let mode = value.parse();
                    options.ssl_mode =
                        Some(mode.map_err(|error: TlsModeError| wrong(&error.to_string()))?);
                }
                "ssl-ca" => options.ssl_ca = Some(value.into()),
                "ssl-cert" => options.ssl_cert = Some(value.into()),
                "ssl-key" => options.ssl_key = Some(value.into()),
                "socket" => options.socket = Some(value.into()),
                "connect-timeout" => {
                    let seconds = value
                        .parse()
                        .map_err(|_| wrong("connect-timeout is no number of seconds"))?;
                    options.connect_timeout = Some(Duration::from_secs(seconds));
                }
                _ => {
                    return Err(wrong(
                        "an option after \"?\" is none of ssl-mode, ssl-ca, ssl-cert, ssl-key, \
                         socket and connect-timeout",
                    ));
                }
            }
        }
        if options.hosts.is_empty() && options.socket.is_none() {
            return Err(wrong("it names no host"));
        }
        Ok(Self(options))
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(HostError)?;
                address
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| HostError)?;
                let port = match rest.is_empty() {
                    true => None,
                    false => Some(rest.strip_prefix(':').ok_or(HostError)?),
                };
                (address, port)
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte);
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(HostError);
        }
        let port = port
            .map(|port| port.parse::<u16>().ok().filter(|&port| port != 0))
            .map(|port| port.ok_or(HostError))
            .transpose()?;
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

impl FromStr for TlsMode {
    type Err = TlsModeError;

    fn from_str(text: &str) -> Result<Self, TlsModeError> {
        match text.to_ascii_uppercase().as_str() {
            "DISABLED" => Ok(Self::Disabled),
            "PREFERRED" => Ok(Self::Preferred),
            "REQUIRED" => Ok(Self::Required),
            "VERIFY_CA" => Ok(Self::VerifyCa),
            "VERIFY_IDENTITY" => Ok(Self::VerifyIdentity),
            _ => Err(TlsModeError),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]", self.name)?,
            false => f.write_str(&self.name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// The database, unless something else is said.
pub const DEFAULT_DATABASE: &str = "trafstat";

/// Where Debian's servers listen on their own host.
const DEFAULT_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// How long to wait for one server before the next is tried.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Twice as long as a statement waits for a lock.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The user that runs this program, as the clients take it.
fn this_user() -> String {
    ["LOGNAME", "USER"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "root".to_owned())
}

/// What several URLs say together: all their hosts, the rest from the first that says it.
pub fn joined(urls: &[MysqlUrl]) -> MysqlOptions {
    let mut hosts = Vec::new();
    let mut options = MysqlOptions::default();
    for MysqlUrl(url) in urls {
        hosts.extend(url.hosts.iter().cloned());
        options = options.or(url.clone());
    }
    options.hosts = hosts;
    options
}

macro_rules! deserialize_from_str {
    ($($type:ty),*) => {
        $(impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // The text may hold a password, so no message repeats it.
                Secret::deserialize(deserializer)?
                    .reveal()
                    .parse()
                    .map_err(de::Error::custom)
            }
        })*
    };
}

deserialize_from_str!(MysqlUrl, Host, TlsMode);

/// The text behind a percent-encoding; none if it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> MysqlOptions {
        text.parse::<MysqlUrl>().unwrap().0
    }

    fn host(name: &str, port: Option<u16>) -> Host {
        Host {
            name: name.to_owned(),
            port,
        }
    }

    #[test]
    fn url_names_user_hosts_and_database() {
        let options = url("mysql://collector@db1.example.org:3307,db2,[2001:db8::1]:3308/trafstat");
        assert_eq!(options.user.as_deref(), Some("collector"));
        assert_eq!(options.password, None);
        assert_eq!(options.database.as_deref(), Some("trafstat"));
        assert_eq!(
            options.hosts,
            [
                host("db1.example.org", Some(3307)),
                host("db2", None),
                host("2001:db8::1", Some(3308)),
            ]
        );
        let shown: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["db1.example.org:3307", "db2", "[2001:db8::1]:3308"]);
    }

    #[test]
    fn url_has_options_after_the_question_mark() {
        let options =
            url("mysql://db/t?ssl-mode=verify_identity&ssl-ca=/etc/a%20b.pem&connect-timeout=3");
        assert_eq!(options.ssl_mode, Some(TlsMode::VerifyIdentity));
        assert_eq!(options.ssl_ca, Some("/etc/a b.pem".into()));
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(
            url("mysql:///t?socket=/run/mysqld/mysqld.sock").socket,
            Some("/run/mysqld/mysqld.sock".into())
        );
    }

    #[test]
    fn wrong_url_is_refused_without_its_text() {
        for text in [
            "postgres://u:s3cret@db/t",
            "mysql://u:s3cret@/t",
            "mysql://u:s3cret@db:port/t",
            "mysql://u:s3cret@db:0/t",
            "mysql://u:s3cret@d b/t",
            "mysql://u:s3cret@[::1/t",
            "mysql://u:s3cret%ff@db/t",
            "mysql://u:s3cret@db/t?ssl-mode=s3cret",
            "mysql://u:s3cret@db/t?password=s3cret",
            "s3cret",
        ] {
            let error = text.parse::<MysqlUrl>().unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("s3cret"), "{shown}");
            }
        }
    }

    #[test]
    fn authority_that_is_named_is_checked() {
        let mut options = MysqlOptions::default();
        assert_eq!(options.tls_mode(), TlsMode::Preferred);
        options.ssl_ca = Some("/etc/ca.pem".into());
        assert_eq!(options.tls_mode(), TlsMode::VerifyCa);
        options.ssl_mode = Some(TlsMode::Disabled);
        assert_eq!(options.tls_mode(), TlsMode::Disabled);
    }

    #[test]
    fn place_that_names_a_server_excludes_another_places_socket() {
        let socket = MysqlOptions {
            socket: Some("/run/s".into()),
            user: Some("u".into()),
            ..MysqlOptions::default()
        };
        let merged = url("mysql://db/t").or(socket.clone());
        assert_eq!((merged.socket, merged.user.as_deref()), (None, Some("u")));
        let merged = MysqlOptions::default().or(socket.clone());
        assert_eq!(merged.socket, socket.socket);
    }

    #[test]
    fn mariadbs_switches_mean_modes() {
        let mode = |ssl, verify, ca: Option<&str>| {
            let options = ClientOptions {
                ssl,
                ssl_verify_server_cert: verify,
                ssl_ca: ca.map(Into::into),
                ..ClientOptions::default()
            };
            MysqlOptions::try_from(options).unwrap().tls_mode()
        };
        assert_eq!(mode(None, None, None), TlsMode::Preferred);
        assert_eq!(mode(Some(true), None, None), TlsMode::Required);
        assert_eq!(mode(Some(false), Some(true), None), TlsMode::Disabled);
        assert_eq!(mode(Some(true), None, Some("ca")), TlsMode::VerifyCa);
        assert_eq!(mode(None, Some(true), Some("ca")), TlsMode::VerifyIdentity);
        assert_eq!(mode(None, Some(false), Some("ca")), TlsMode::Required);
        assert_eq!(mode(Some(true), Some(false), Some("ca")), TlsMode::Required);
        assert_eq!(mode(None, Some(false), None), TlsMode::Preferred);
    }

    #[test]
    fn what_is_not_said_is_as_the_clients_have_it() {
        let login = MysqlOptions::default().login();
        assert_eq!(login.hosts, [MysqlHost::Unix(DEFAULT_SOCKET.into())]);
        assert_eq!(login.database, "trafstat");
        assert_eq!(login.tls, TlsMode::Preferred);
        let login = url("mysql://u@localhost,localhost:3307,db/t").login();
        let tcp = |host: &str, port| MysqlHost::Tcp {
            host: host.to_owned(),
            port,
        };
        assert_eq!(
            login.hosts,
            [
                MysqlHost::Unix(DEFAULT_SOCKET.into()),
                tcp("localhost", 3307),
                tcp("db", 3306),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_user_password_and_database_is_read_back(
            user in ".*", password in ".*", database in ".+",
        ) {
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let text = format!(
                "mysql://{}:{}@db/{}",
                encoded(&user), encoded(&password), encoded(&database)
            );
            let options = url(&text);
            prop_assert_eq!(options.user.unwrap(), user);
            let read = options.password.unwrap();
            prop_assert_eq!(read.reveal(), password);
            prop_assert_eq!(options.database.unwrap(), database);
        }

        #[test]
        fn any_text_is_a_url_or_refused(text in "mysql://[a-z:@/?&=,%0-9\\[\\]]*") {
            let _ = text.parse::<MysqlUrl>();
        }
    }
}
