// SPDX-License-Identifier: GPL-2.0-or-later
//! Names of hosts by their addresses, from files of this host: nothing is asked of the network.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

/// hosts(5).
const HOSTS: &str = "etc/hosts";
/// Leases of dnsmasq (dnsmasq(8), --dhcp-leasefile), as Debian and OpenWrt have them.
const DNSMASQ_LEASES: [&str; 2] = ["var/lib/misc/dnsmasq.leases", "tmp/dhcp.leases"];
/// Leases of Kea, the file being cleaned up before the one being written.
const KEA_LEASES: [&str; 4] = [
    "var/lib/kea/kea-leases4.csv.2",
    "var/lib/kea/kea-leases4.csv",
    "var/lib/kea/kea-leases6.csv.2",
    "var/lib/kea/kea-leases6.csv",
];

/// A name for each known address.
#[derive(Debug, Default)]
pub struct HostNames(HashMap<IpAddr, String>);

impl HostNames {
    /// Reads the names: the given ones before those of leases, and these before those of
    /// `/etc/hosts`. A file that is not there or may not be read has none.
    pub fn read(root: &Path, given: &BTreeMap<IpAddr, String>) -> Self {
        let mut names = HashMap::new();
        let text = |path: &&str| fs::read_to_string(root.join(path)).ok();
        for text in [HOSTS].iter().filter_map(text) {
            names.extend(text.lines().filter_map(host));
        }
        for text in DNSMASQ_LEASES.iter().filter_map(text) {
            names.extend(text.lines().filter_map(dnsmasq_lease));
        }
        for text in KEA_LEASES.iter().filter_map(text) {
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let leases = reader.deserialize::<KeaLease>();
            // Later lines of one address are newer.
            names.extend(leases.filter_map(|lease| lease.ok()?.named()));
        }
        names.extend(given.iter().map(|(ip, name)| (*ip, name.clone())));
        Self(names)
    }

    /// The name of an address.
    pub fn get(&self, ip: IpAddr) -> Option<&str> {
        self.0.get(&ip).map(String::as_str)
    }
}

/// A lease in Kea's file, as far as it matters.
#[derive(Deserialize)]
struct KeaLease {
    address: IpAddr,
    hostname: String,
}

impl KeaLease {
    fn named(self) -> Option<(IpAddr, String)> {
        // A full name ends with a dot.
        let name = self.hostname.trim_end_matches('.');
        (!name.is_empty()).then(|| (self.address, name.to_owned()))
    }
}

/// `ADDRESS NAME [ALIAS...] [# comment]`
fn host(line: &str) -> Option<(IpAddr, String)> {
    let mut words = line.split('#').next()?.split_whitespace();
    let ip = words.next()?.parse().ok()?;
    Some((ip, words.next()?.to_owned()))
}

/// `EXPIRY MAC ADDRESS NAME CLIENT-ID`; of DHCPv6 an interface's number stands for the MAC. A name
/// that is not known is `*`.
fn dnsmasq_lease(line: &str) -> Option<(IpAddr, String)> {
    let mut words = line.split_whitespace().skip(2);
    let ip = words.next()?.parse().ok()?;
    let name = words.next().filter(|&name| name != "*")?;
    Some((ip, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[(&str, &str)], given: &[(&str, &str)]) -> HostNames {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let given = given.iter();
        let given = given.map(|(ip, name)| (ip.parse().unwrap(), (*name).to_owned()));
        HostNames::read(root.path(), &given.collect())
    }

    fn get<'a>(names: &'a HostNames, ip: &str) -> Option<&'a str> {
        names.get(ip.parse().unwrap())
    }

    #[test]
    fn names_of_every_file_are_found() {
        let names = names(
            &[
                (
                    HOSTS,
                    "# local\n192.0.2.1 gate gate.example # the gate\n::1 localhost\n",
                ),
                (
                    DNSMASQ_LEASES[0],
                    "1780000000 02:00:00:00:00:02 192.0.2.2 laptop 01:02:00:00:00:00:02\n\
                     1780000000 02:00:00:00:00:03 192.0.2.3 * *\nduid 00:01\n\
                     1780000000 17 2001:db8::2 laptop 00:01\n",
                ),
                (
                    KEA_LEASES[1],
                    "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,\
                     hostname,state\n192.0.2.4,02:00,,1,1,1,0,0,old,0\n192.0.2.4,02:00,,1,1,1,0,0,\
                     printer.example.,0\n192.0.2.5,02:00,,1,1,1,0,0,,0\n",
                ),
            ],
            &[],
        );
        assert_eq!(get(&names, "192.0.2.1"), Some("gate"));
        assert_eq!(get(&names, "192.0.2.2"), Some("laptop"));
        assert_eq!(get(&names, "192.0.2.3"), None);
        assert_eq!(get(&names, "2001:db8::2"), Some("laptop"));
        assert_eq!(get(&names, "192.0.2.4"), Some("printer.example"));
        assert_eq!(get(&names, "192.0.2.5"), None);
    }

    #[test]
    fn name_that_is_given_comes_first_and_a_lease_before_the_hosts_file() {
        let files = [
            (HOSTS, "192.0.2.1 static\n192.0.2.2 static\n"),
            (
                DNSMASQ_LEASES[0],
                "1 02:00 192.0.2.1 leased *\n1 02:00 192.0.2.2 leased *\n",
            ),
        ];
        let names = names(&files, &[("192.0.2.1", "given")]);
        assert_eq!(get(&names, "192.0.2.1"), Some("given"));
        assert_eq!(get(&names, "192.0.2.2"), Some("leased"));
    }

    #[test]
    fn nothing_to_read_is_no_error() {
        assert_eq!(
            get(
                &names(&[(KEA_LEASES[1], "no,leases\n1,2\n")], &[]),
                "192.0.2.1"
            ),
            None
        );
    }
}
