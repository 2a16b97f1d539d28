// SPDX-License-Identifier: GPL-2.0-or-later
//! What a server's or the network's error means for the store, in a sentence.

use std::error::Error as StdError;
use std::io;

use mysql::{DriverError, Error, MySqlError};
use rustls::CertificateError;

use crate::store::StoreError;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match &error {
            Error::MySqlError(server) => of_server(server),
            Error::IoError(_)
            | Error::CodecError(_)
            | Error::TlsError(_)
            | Error::DriverError(
                DriverError::ConnectTimeout
                | DriverError::CouldNotConnect(_)
                | DriverError::TlsNotSupported
                | DriverError::Timeout,
            ) => Self::ConnectionLost(reason(&error)),
            _ => Self::Database(reason(&error).into()),
        }
    }
}

fn of_server(server: &MySqlError) -> StoreError {
    let message = &server.message;
    match server.code {
        // Lock wait timeout, deadlock (Galera's certification failure too).
        1205 | 1213 => StoreError::Locked,
        // Too many connections, of all users or of this one.
        1040 | 1203 | 1226 => StoreError::TooManyConnections,
        // Galera: not part of the cluster's majority; server in shutdown; connection killed, or
        // idle for too long.
        1047 | 1053 | 1927 | 3169 | 4031 => StoreError::ConnectionLost(message.clone()),
        // A packet, a text or a result beyond max_allowed_packet.
        1153 | 1162 | 1301 => StoreError::PacketTooLarge(message.clone()),
        // --read-only, table read-only, transaction read-only.
        1036 | 1290 | 1792 | 1836 => StoreError::ReadOnly,
        // Disk full, table full.
        1021 | 1114 => StoreError::Full,
        // User or password wrong.
        1045 | 1698 => StoreError::LoginDenied(message.clone()),
        // Not from this host.
        1130 => StoreError::Denied(format!(
            "{message}: create the user for this host, with \"CREATE USER\""
        )),
        // Database, table, column or routine refused.
        1044 | 1142 | 1143 | 1227 | 1370 => StoreError::Denied(format!(
            "{message}: grant the user all rights on the database, with \"GRANT ALL ON\""
        )),
        // Password expired, account locked.
        1820 | 1862 | 3118 | 4151 => StoreError::Denied(message.clone()),
        1049 => StoreError::Denied(format!(
            "{message}: create it with \"CREATE DATABASE\" and grant the user all rights on it"
        )),
        // A number past its type.
        1690 => StoreError::SumTooLarge,
        // Table crashed, index corrupt.
        126 | 127 | 144 | 145 | 1034 | 1035 | 1194 | 1195 | 1712 => {
            StoreError::Corrupt(message.clone())
        }
        code => StoreError::Database(format!("{message} (error {code})").into()),
    }
}

/// The reason alone, without the names of the driver's types, and what to do about it.
fn reason(error: &Error) -> String {
    match error {
        Error::MySqlError(server) => server.message.clone(),
        Error::IoError(error) => io_reason(error),
        Error::CodecError(codec) => match codec.source().and_then(|source| source.downcast_ref()) {
            Some(error) => io_reason(error),
            None => codec.to_string(),
        },
        Error::TlsError(error) => {
            format!("{error}: are the files of ssl-ca, ssl-cert and ssl-key in PEM?")
        }
        Error::DriverError(DriverError::TlsNotSupported) => {
            "the server has no TLS, and the ssl-mode demands it: give the server a certificate \
             (its options ssl-cert and ssl-key), or choose another ssl-mode if the network is yours"
                .to_owned()
        }
        Error::DriverError(DriverError::ConnectTimeout) => {
            "no answer: is the host up, and does a firewall let its port through?".to_owned()
        }
        Error::DriverError(DriverError::CouldNotConnect(Some((_, said, kind)))) => match kind {
            io::ErrorKind::ConnectionRefused => {
                "connection refused: does the server run, and does it listen there (its options \
                 bind-address, port and socket)?"
                    .to_owned()
            }
            io::ErrorKind::NotFound => {
                "there is no such socket: does the server run, and is this its socket?".to_owned()
            }
            _ if said.contains("lookup") => {
                format!("{said}: is the host's name right, and does its name server answer?")
            }
            _ => said.clone(),
        },
        Error::DriverError(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn io_reason(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .map(|inner| inner as &(dyn StdError + 'static));
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref()) {
        return tls_reason(tls);
    }
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return format!("TLS failed: {error}");
    };
    match wrong {
        // The latter: an authority of the same name signed it.
        Certificate::UnknownIssuer | Certificate::BadSignature => {
            "the server's certificate is of an unknown authority: ssl-ca must name the \
             certificate of the one that signed it"
                .to_owned()
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            "the server's certificate is not for this host name: connect by a name that is in it \
             (subjectAltName), or use ssl-mode VERIFY_CA if any server of the authority will do"
                .to_owned()
        }
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it".to_owned()
        }
        other => format!("the server's certificate is not valid: {other}"),
    }
}
