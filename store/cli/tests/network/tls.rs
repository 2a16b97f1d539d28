// SPDX-License-Identifier: GPL-2.0-or-later
//! What TLS has to check of a server.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::mariadb_server::NetworkServer;
use crate::program::{code, stderr};
use crate::{Client, small_server};

/// A certificate authority, and what it signed.
struct Certificates {
    authority: String,
    certificate: String,
    key: String,
}

impl Certificates {
    /// For one name or address.
    fn new(name: &str) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "trafstat's tests");
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        Self {
            authority,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A server with a certificate for 127.0.0.1, and the file of the authority that signed it.
pub fn tls_server() -> (&'static NetworkServer, PathBuf) {
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        NetworkServer::start("tls", |folder| {
            let certificates = Certificates::new("127.0.0.1");
            fs::write(folder.join("ca.pem"), certificates.authority).unwrap();
            ["cert", "key"]
                .into_iter()
                .zip([certificates.certificate, certificates.key])
                .map(|(name, content)| {
                    let path = folder.join(name);
                    fs::write(&path, content).unwrap();
                    format!("--ssl-{name}={}", path.display())
                })
                .collect()
        })
    });
    (server, server.folder.join("ca.pem"))
}

#[test]
fn certificate_of_the_named_authority_is_accepted_and_another_refused() {
    let (server, authority) = tls_server();
    let mut client = Client::new(server);
    // So that nothing below is right without TLS.
    client.sql(&format!("ALTER USER {} REQUIRE SSL", client.user));
    let other = client.host.folder.path().join("other.pem");
    fs::write(&other, Certificates::new("127.0.0.1").authority).unwrap();
    let (authority, other) = (authority.display(), other.display());

    let here = client.here();
    let output = client.collect(1, &here, &format!("ssl-ca = {other}"));
    client.assert_waits(1, &output, &[&here, "unknown authority", "ssl-ca"]);
    // None is named, and no public one has signed it.
    let output = client.collect(2, &here, "ssl-mode = VERIFY_CA");
    client.assert_waits(2, &output, &["unknown authority"]);
    let output = client.collect(3, &here, "ssl-ca = /no/such.pem");
    client.assert_waits(3, &output, &["TLS cannot be used", "ssl-ca /no/such.pem"]);
    let output = client.collect(4, &here, "skip-ssl");
    client.assert_waits(4, &output, &["Access denied"]);

    let spellings = [
        format!("ssl-ca = {authority}\nssl-mode = VERIFY_IDENTITY"),
        format!("ssl_ca = {authority}\nssl_mode = verify_ca"),
        format!("ssl-ca = {authority}"),
        format!("loose-ssl-ca = {authority}\nloose-ssl-mode = VERIFY_IDENTITY"),
        format!("ssl-ca = {authority}\nssl-verify-server-cert"),
        format!("ssl-ca = \"{authority}\"\nssl-verify-server-cert = 1"),
        format!("ssl-ca = {other}\nskip-ssl-verify-server-cert"),
        "ssl".to_owned(),
        "ssl-mode = REQUIRED".to_owned(),
        "ssl-mode = PREFERRED".to_owned(),
        String::new(),
    ];
    let mut epoch = 4;
    for options in spellings {
        epoch += 1;
        let output = client.collect(epoch, &here, &options);
        assert_eq!(code(&output), Some(0), "{options}: {}", stderr(&output));
    }
    client.assert_each_epoch_once(epoch);
}

#[test]
fn certificate_of_another_host_is_refused_where_the_name_is_checked() {
    let (server, authority) = tls_server();
    let mut client = Client::new(server);
    client.sql(&format!("ALTER USER {} REQUIRE SSL", client.user));
    // The same server, by an address that its certificate does not have.
    let elsewhere = format!("127.0.0.2:{}", server.port);
    let authority = format!("ssl-ca = {}", authority.display());
    for (options, epoch) in ["ssl-mode = VERIFY_IDENTITY", "ssl-verify-server-cert"]
        .into_iter()
        .zip(1..)
    {
        let output = client.collect(epoch, &elsewhere, &format!("{authority}\n{options}"));
        client.assert_waits(
            epoch,
            &output,
            &[&elsewhere, "not for this host name", "VERIFY_CA"],
        );
    }
    let output = client.collect(3, &elsewhere, &format!("{authority}\nssl-mode = VERIFY_CA"));
    client.assert_stored(&output);
    client.assert_each_epoch_once(3);
}

#[test]
fn server_without_tls_is_refused_where_tls_is_demanded() {
    let mut client = Client::new(small_server());
    let here = client.here();
    let demands = ["ssl-mode = REQUIRED", "ssl", "ssl-verify-server-cert"];
    for (options, epoch) in demands.into_iter().zip(1..) {
        let output = client.collect(epoch, &here, options);
        client.assert_waits(
            epoch,
            &output,
            &[&here, "the server has no TLS", "ssl-mode"],
        );
    }
    let output = client.collect(4, &here, "ssl-mode = PREFERRED");
    client.assert_stored(&output);
    client.assert_each_epoch_once(4);
}
