// SPDX-License-Identifier: GPL-2.0-or-later
//! Where a MySQL server is, and who asks.

use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mysql::{ClientIdentity, Conn, DriverError, Error, LocalInfileHandler, OptsBuilder, SslOpts};
use tracing::warn;

use super::server::Server;
use crate::store::StoreError;

/// The port that IANA gave MySQL.
pub const DEFAULT_PORT: u16 = 3306;

/// How a host that is gone is told from one that is busy: it acknowledges nothing that is sent to
/// it, probes of an idle connection included. The timeout is what ends the connection.
const KEEPALIVE_MS: u32 = 30_000;
const KEEPALIVE_PROBE_SECONDS: u32 = 10;
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// The largest packet that is read. The server's own limit is about what it reads, and may have
/// been higher when a row was written.
const LARGEST_READ: usize = 1 << 30;

/// Everything that it takes to log in to a MySQL or MariaDB server.
#[derive(Debug, Clone)]
pub struct MysqlLogin {
    /// The servers of one database, tried in this order.
    pub hosts: Vec<MysqlHost>,
    /// The user.
    pub user: String,
    /// The user's password, if it has one.
    pub password: Option<Password>,
    /// The database; its tables are trafstat's own.
    pub database: String,
    /// Whether the way to the server is encrypted, and the server checked.
    pub tls: TlsMode,
    /// Certificates in PEM of the authorities that may have signed the server's, beside
    /// the public ones.
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate in PEM, if the server wants one; needs `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// The key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// How long to wait for one server, login included, before the next is tried.
    pub connect_timeout: Duration,
    /// How long a server may take to answer a statement of an append before it counts as gone;
    /// longer than it waits for a lock.
    pub answer_timeout: Duration,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading, for as long as it takes.
    Read,
    /// Reading what another program has, on a server of any age.
    Import,
    /// Changing what is stored, for as long as it takes.
    Write,
    /// Appending epochs, which can wait elsewhere when the server does not answer.
    Append,
}

/// A connection to the server that was chosen.
pub(super) struct LoggedIn {
    pub(super) connection: Conn,
    pub(super) server: Server,
    pub(super) host: MysqlHost,
}

/// One place at which a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MysqlHost {
    /// A host name or address, and a port.
    Tcp {
        /// A name that resolves, or an address without brackets.
        host: String,
        /// Usually [`DEFAULT_PORT`].
        port: u16,
    },
    /// A socket on this host.
    Unix(PathBuf),
}

/// A password, which never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// How the way to the server is encrypted; a Unix socket never is.
///
/// The modes are those of the client's option `--ssl-mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disabled,
    /// Encrypted if the server can; nothing is checked.
    #[default]
    Preferred,
    /// Encrypted or refused; the certificate is not checked.
    Required,
    /// The certificate must come from a known authority.
    VerifyCa,
    /// The certificate must also be the host's that was asked for.
    VerifyIdentity,
}

impl MysqlLogin {
    /// Connects to the first server that answers, whatever its kind, to read what another program
    /// has there.
    ///
    /// # Errors
    /// As of every connection.
    pub(crate) fn connect(&self) -> Result<(Conn, MysqlHost), StoreError> {
        let logged_in = self.connect_for(Purpose::Import)?;
        Ok((logged_in.connection, logged_in.host))
    }

    /// Connects to the first server that can be used for this; the log names those that were passed over.
    ///
    /// # Errors
    /// With one server, its own; else [`StoreError::Unreachable`] with the reason of each, or, if
    /// it is the same kind for all, that kind.
    pub(super) fn connect_for(&self, purpose: Purpose) -> Result<LoggedIn, StoreError> {
        self.check_tls_files()?;
        let mut failures = Vec::new();
        for host in &self.hosts {
            match self.log_in_within_time(host, purpose) {
                Ok(logged_in) => {
                    for (host, error) in &failures {
                        warn!("database server {host} is passed over: {}", plain(error));
                    }
                    return Ok(logged_in);
                }
                Err(error) => failures.push((host, error)),
            }
        }
        Err(of_all(failures))
    }

    /// One deadline for the name server, TCP, TLS and login together.
    fn log_in_within_time(
        &self,
        host: &MysqlHost,
        purpose: Purpose,
    ) -> Result<LoggedIn, StoreError> {
        let (sender, receiver) = mpsc::channel();
        let (login, to) = (self.clone(), host.clone());
        // A thread that is late ends by itself, and its connection with it.
        thread::Builder::new()
            .name("database-login".to_owned())
            .spawn(move || {
                let _ = sender.send(login.log_in(to, purpose));
            })
            .map_err(|error| StoreError::ConnectionLost(error.to_string()))?;
        let late = || {
            StoreError::ConnectionLost(format!(
                "no answer within {} seconds: is the host up, does its server answer others, and \
                 does a firewall let its port through?",
                self.connect_timeout.as_secs()
            ))
        };
        receiver
            .recv_timeout(self.connect_timeout)
            .unwrap_or_else(|_| Err(late()))
    }

    fn log_in(&self, host: MysqlHost, purpose: Purpose) -> Result<LoggedIn, StoreError> {
        let mut connection = self.connect_to(&host, purpose)?;
        let server = Server::of(&mut connection)?;
        if purpose != Purpose::Import {
            server.check(purpose)?;
            server.set_up(&mut connection)?;
        }
        Ok(LoggedIn {
            connection,
            server,
            host,
        })
    }

    /// The driver would not say which file is missing.
    fn check_tls_files(&self) -> Result<(), StoreError> {
        if self.tls == TlsMode::Disabled {
            return Ok(());
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let reason = "ssl-cert and ssl-key are this client's certificate and the key of it: \
                          name both or none";
            return Err(StoreError::Tls(reason.to_owned()));
        }
        for (option, path) in [
            ("ssl-ca", &self.tls_ca),
            ("ssl-cert", &self.tls_cert),
            ("ssl-key", &self.tls_key),
        ] {
            if let Some(path) = path {
                File::open(path).map_err(|error| {
                    StoreError::Tls(format!("{option} {}: {error}", path.display()))
                })?;
            }
        }
        Ok(())
    }

    fn connect_to(&self, host: &MysqlHost, purpose: Purpose) -> mysql::Result<Conn> {
        let MysqlHost::Tcp { host: name, port } = host else {
            return Conn::new(self.options(host, purpose));
        };
        let connected = self.connect_by_tcp(self.options(host, purpose));
        if was_reached(&connected) {
            return connected;
        }
        for own in own_addresses(name, *port) {
            let options = self.options(host, purpose).bind_address(Some((own, 0)));
            let connected = self.connect_by_tcp(options);
            if was_reached(&connected) {
                return connected;
            }
        }
        connected
    }

    fn connect_by_tcp(&self, options: OptsBuilder) -> mysql::Result<Conn> {
        let Some(tls) = self.tls_options() else {
            return Conn::new(options);
        };
        match Conn::new(options.clone().ssl_opts(tls)) {
            Err(Error::DriverError(DriverError::TlsNotSupported))
                if self.tls == TlsMode::Preferred =>
            {
                Conn::new(options)
            }
            connected => connected,
        }
    }

    fn options(&self, host: &MysqlHost, purpose: Purpose) -> OptsBuilder {
        let answer_timeout = (purpose == Purpose::Append).then_some(self.answer_timeout);
        let options = OptsBuilder::new()
            .user(Some(&self.user))
            .pass(self.password.as_ref().map(|password| &password.0))
            .db_name(Some(&self.database))
            .tcp_connect_timeout(Some(self.connect_timeout))
            .read_timeout(answer_timeout)
            .write_timeout(answer_timeout)
            .tcp_keepalive_time_ms(Some(KEEPALIVE_MS))
            .tcp_keepalive_probe_interval_secs(Some(KEEPALIVE_PROBE_SECONDS))
            .tcp_user_timeout_ms(Some(UNACKNOWLEDGED_MS))
            .max_allowed_packet(Some(LARGEST_READ))
            // The socket that a server names need not be reachable from here.
            .prefer_socket(false)
            // A server may ask for any file: none is given unless a statement offers it.
            .local_infile_handler(None::<LocalInfileHandler>);
        match host {
            MysqlHost::Tcp { host, port } => options.ip_or_hostname(Some(host)).tcp_port(*port),
            MysqlHost::Unix(path) => options.socket(Some(path.to_string_lossy())),
        }
    }

    fn tls_options(&self) -> Option<SslOpts> {
        let (any_certificate, any_name) = match self.tls {
            TlsMode::Disabled => return None,
            TlsMode::Preferred | TlsMode::Required => (true, true),
            TlsMode::VerifyCa => (false, true),
            TlsMode::VerifyIdentity => (false, false),
        };
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(ClientIdentity::new(certificate.clone(), key.clone()))
            }
            _ => None,
        };
        Some(
            SslOpts::default()
                .with_root_cert_path(self.tls_ca.clone())
                .with_client_identity(identity)
                .with_danger_accept_invalid_certs(any_certificate)
                .with_danger_skip_domain_validation(any_name),
        )
    }
}

/// The error of a connection that no server gave; `failures` has one for each server.
fn of_all(mut failures: Vec<(&MysqlHost, StoreError)>) -> StoreError {
    let reasons: Vec<String> = failures
        .iter()
        .map(|(host, error)| format!("{host}: {}", plain(error)))
        .collect();
    let reasons = reasons.join("; ");
    let count = failures.len();
    match failures.pop() {
        None => StoreError::Unreachable("no host is named".to_owned()),
        Some((_, last)) => {
            let is_of_last = |(_, error): &(&MysqlHost, StoreError)| {
                std::mem::discriminant(error) == std::mem::discriminant(&last)
            };
            match last {
                _ if !failures.iter().all(is_of_last) => StoreError::Unreachable(reasons),
                StoreError::LoginDenied(_) => StoreError::LoginDenied(reasons),
                StoreError::Denied(_) => StoreError::Denied(reasons),
                StoreError::Unsupported(_) => StoreError::Unsupported(reasons),
                StoreError::TooManyConnections => StoreError::TooManyConnections,
                StoreError::ReadOnly if count == 1 => StoreError::ReadOnly,
                _ => StoreError::Unreachable(reasons),
            }
        }
    }
}

/// The reason alone, where the error only wraps one.
fn plain(error: &StoreError) -> String {
    match error {
        StoreError::ConnectionLost(reason)
        | StoreError::LoginDenied(reason)
        | StoreError::Denied(reason)
        | StoreError::Unsupported(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn was_reached(connected: &mysql::Result<Conn>) -> bool {
    !matches!(
        connected,
        Err(Error::DriverError(
            DriverError::CouldNotConnect(_) | DriverError::ConnectTimeout
        ))
    )
}

/// Addresses to connect from to a name that has several, one of each family that it has.
///
/// The driver tries the first address of a name alone, but all of the family of the address
/// that it is to connect from.
fn own_addresses(name: &str, port: u16) -> impl Iterator<Item = IpAddr> {
    let found = (name, port).to_socket_addrs();
    let addresses: Vec<_> = found.into_iter().flatten().collect();
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    any.into_iter().filter(move |own| {
        let mut family = addresses.iter().filter(|to| to.is_ipv4() == own.is_ipv4());
        addresses.len() > 1 && family.next().is_some()
    })
}

impl fmt::Display for MysqlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Password {
    /// The text, for the server alone.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> MysqlLogin {
        MysqlLogin {
            hosts: Vec::new(),
            user: "trafstat".to_owned(),
            password: Some(Password::from("swordfish".to_owned())),
            database: "trafstat".to_owned(),
            tls: TlsMode::default(),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn password_never_prints() {
        assert!(!format!("{:?}", login()).contains("swordfish"));
    }

    #[test]
    fn every_server_that_was_tried_is_named() {
        let mut login = login();
        // Nothing listens at port 1 of the loopback address, nor at a path in a file.
        login.hosts = vec![
            MysqlHost::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 1,
            },
            MysqlHost::Unix(PathBuf::from("/dev/null/mysqld.sock")),
        ];
        let Err(error) = login.connect_for(Purpose::Read) else {
            panic!("nothing listens");
        };
        assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
        assert!(error.is_transient());
        let text = error.to_string();
        for host in ["127.0.0.1:1", "/dev/null/mysqld.sock"] {
            assert!(text.contains(host), "{text}");
        }
        assert!(!text.contains("swordfish"), "{text}");
    }
}
