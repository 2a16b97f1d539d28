// SPDX-License-Identifier: GPL-2.0-or-later
//! Epochs of a realistic shape.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use trafstat_bench::{random, zipf};
use trafstat_store::account::{Account, Family};
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::{Counters, Endpoint, Growth, Header, Record, Totals, Volume};

/// 2026-01-01T00:00:00Z in nanoseconds since 1970.
pub const JANUARY_NS: u64 = 1_767_225_600_000_000_000;

/// Services of local hosts: the kept ports, and 0 for all others.
const SERVICES: [(u8, u16); 12] = [
    (6, 443),
    (6, 0),
    (17, 0),
    (17, 53),
    (6, 80),
    (17, 443),
    (6, 22),
    (6, 25),
    (1, 0),
    (6, 993),
    (17, 123),
    (6, 3306),
];

const LOCAL_HOSTS: f64 = 250.0;

const REMOTE_HOSTS: f64 = 1_000_000.0;

/// What is counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    protocol: u8,
    local: Ipv4Addr,
    local_port: u16,
    remote: Ipv4Addr,
}

/// Traffic that goes on from epoch to epoch.
pub struct Traffic {
    random: Rng,
    keys: Vec<Key>,
    keys_per_epoch: usize,
    epoch: u64,
    interval_ns: u64,
    family: Family,
}

impl Traffic {
    pub fn new(keys_per_epoch: usize, interval_secs: u64) -> Self {
        Self {
            random: random(),
            keys: Vec::new(),
            keys_per_epoch,
            epoch: 0,
            interval_ns: interval_secs * 1_000_000_000,
            family: Family::Ipv4,
        }
    }

    /// The same traffic between addresses of IPv6.
    pub fn ipv6(mut self) -> Self {
        self.family = Family::Ipv6;
        self
    }

    /// The next epoch: four of five keys stay.
    pub fn next_epoch(&mut self) -> (Header, Vec<Record>) {
        let mut seen = HashSet::with_capacity(self.keys_per_epoch);
        for key in std::mem::take(&mut self.keys) {
            if self.random.u8(0..5) > 0 {
                seen.insert(key);
                self.keys.push(key);
            }
        }
        while self.keys.len() < self.keys_per_epoch {
            let key = self.new_key();
            if seen.insert(key) {
                self.keys.push(key);
            }
        }
        self.epoch += 1;
        let keys = std::mem::take(&mut self.keys);
        let records: Vec<Record> = keys.iter().map(|key| self.record(key)).collect();
        self.keys = keys;
        (self.header(&records), records)
    }

    fn new_key(&mut self) -> Key {
        let remote = zipf(&mut self.random, REMOTE_HOSTS).wrapping_mul(0x9e37_79b1);
        let service = zipf(&mut self.random, SERVICES.len() as f64) as usize - 1;
        let (protocol, local_port) = SERVICES[service];
        Key {
            protocol,
            local: Ipv4Addr::from(0x0a00_0000 + zipf(&mut self.random, LOCAL_HOSTS)),
            local_port,
            remote: Ipv4Addr::from(remote ^ remote >> 15),
        }
    }

    fn record(&mut self, key: &Key) -> Record {
        let sent_packets = u64::from(zipf(&mut self.random, 1000.0));
        let received_packets = u64::from(zipf(&mut self.random, 2000.0));
        Record {
            protocol: key.protocol,
            local: Endpoint {
                ip: self.address(key.local),
                port: key.local_port,
            },
            remote: Endpoint {
                ip: self.address(key.remote),
                port: 0,
            },
            flags: 0,
            counters: Counters {
                sent_packets,
                received_packets,
                sent_bytes: sent_packets * self.random.u64(40..400),
                received_bytes: received_packets * self.random.u64(40..1500),
                syn_packets: u64::from(key.protocol == 6) * u64::from(zipf(&mut self.random, 4.0)),
            },
        }
    }

    fn address(&self, ip: Ipv4Addr) -> IpAddr {
        match self.family {
            Family::Ipv4 => IpAddr::V4(ip),
            Family::Ipv6 => {
                let site = 0x2001_0db8_u128 << 96;
                IpAddr::V6(Ipv6Addr::from_bits(site | u128::from(ip.to_bits())))
            }
        }
    }

    fn header(&self, records: &[Record]) -> Header {
        let sum = |of: fn(&Counters) -> u64| records.iter().map(|r| of(&r.counters)).sum();
        let recorded = Volume {
            packets: sum(|counters| counters.sent_packets + counters.received_packets),
            bytes: sum(|counters| counters.sent_bytes + counters.received_bytes),
        };
        let closed_ns = JANUARY_NS + self.epoch * self.interval_ns - 1;
        Header {
            account: Account {
                family: self.family,
                name: "lan".parse().expect("a name"),
            },
            account_id: [7; 16],
            epoch: self.epoch,
            local_net: match self.family {
                Family::Ipv4 => "10.0.0.0/24",
                Family::Ipv6 => "2001:db8::/64",
            }
            .parse()
            .expect("a net"),
            records: records.len() as u64,
            opened_ns: closed_ns - self.interval_ns,
            closed_ns,
            totals: Totals {
                seen: recorded,
                recorded,
                ..Totals::default()
            },
            max_entries: 1_000_000,
            min_pkt_spoof: 0,
            growth: Some(Growth {
                duration_ns: self.interval_ns,
                ..Growth::default()
            }),
        }
    }
}

/// The host of the bench.
pub fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}
