// SPDX-License-Identifier: GPL-2.0-or-later
//! From a snapshot's bytes to header and records.

use std::net::IpAddr;

use ipnet::IpNet;
use trafstat_abi::{RecordIpv4, RecordIpv6, SnapshotHeader};
use zerocopy::FromBytes;

use super::error::SnapshotError;
use super::header::{Growth, Header, Sample, Volume};
use super::record::{Counters, Endpoint, Record};
use crate::account::{Account, Family};

/// The size of the header that every module has had.
pub(super) const LEAST_HEADER: usize = trafstat_abi::SNAPSHOT_HEADER_MIN as usize;

/// Refuses what is no snapshot, or one of an unknown layout.
pub(super) fn check_format(raw: &SnapshotHeader) -> Result<(), SnapshotError> {
    // The generated constant has a NUL that the field has not.
    if raw.magic[..] != trafstat_abi::SNAPSHOT_MAGIC[..raw.magic.len()] {
        return Err(SnapshotError::Magic);
    }
    if u32::from(raw.version) != trafstat_abi::SNAPSHOT_VERSION {
        return Err(SnapshotError::Version {
            found: raw.version,
            known: trafstat_abi::SNAPSHOT_VERSION,
        });
    }
    let family = family(raw)?;
    check_size("header", raw.header_size, LEAST_HEADER)?;
    check_size("record", raw.record_size, record_size(family))
}

fn family(raw: &SnapshotHeader) -> Result<Family, SnapshotError> {
    match u32::from(raw.family) {
        trafstat_abi::FAMILY_IPV4 => Ok(Family::Ipv4),
        trafstat_abi::FAMILY_IPV6 => Ok(Family::Ipv6),
        _ => Err(SnapshotError::Family(raw.family)),
    }
}

pub(super) fn decode_header(raw: &SnapshotHeader) -> Result<Header, SnapshotError> {
    let family = family(raw)?;
    if raw.epoch == 0 {
        return Err(SnapshotError::Epoch);
    }
    let local_addr = match family {
        Family::Ipv4 => {
            let [a, b, c, d, ..] = raw.local_addr;
            IpAddr::from([a, b, c, d])
        }
        Family::Ipv6 => IpAddr::from(raw.local_addr),
    };
    let local_net = IpNet::new(local_addr, raw.prefix_len)
        .map_err(|_| SnapshotError::PrefixLength(raw.prefix_len))?;
    let name = raw.name.map(|character| character.to_ne_bytes()[0]);
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let account = Account {
        family,
        name: String::from_utf8_lossy(name).parse()?,
    };
    let mut header = Header::new(account, raw.account_id, raw.epoch, local_net);
    for figure in &Header::FIGURES {
        // It comes from a field of the same size.
        (figure.set)(&mut header, (figure.served)(raw));
    }
    header.growth = decode_growth(raw);
    Ok(header)
}

/// The later fields, where the header has all of them.
fn decode_growth(raw: &SnapshotHeader) -> Option<Growth> {
    let wide = |[low, high]: [u64; 2]| u128::from(high) << 64 | u128::from(low);
    (usize::from(raw.header_size) >= size_of::<SnapshotHeader>()).then(|| Growth {
        duration_ns: raw.duration_ns,
        unattributed: Volume {
            packets: raw.unattributed_packets,
            bytes: raw.unattributed_bytes,
        },
        samples: raw.sample.map(|sample| Sample {
            packets: sample.packets,
            packet_variance: wide(sample.packet_variance),
            byte_variance: wide(sample.byte_variance),
            highest_rate: sample.highest_rate,
        }),
    })
}

fn record_size(family: Family) -> usize {
    match family {
        Family::Ipv4 => size_of::<RecordIpv4>(),
        Family::Ipv6 => size_of::<RecordIpv6>(),
    }
}

/// Decodes a record; what a later version appended to it is passed over.
pub(super) fn decode_record(family: Family, bytes: &[u8]) -> Result<Record, SnapshotError> {
    // The families differ in nothing but the addresses.
    macro_rules! decode {
        ($raw:ty) => {
            <$raw>::read_from_prefix(bytes)
                .map(|(raw, _growth)| Record {
                    protocol: raw.protocol,
                    local: endpoint(raw.local_ip, raw.local_port),
                    remote: endpoint(raw.remote_ip, raw.remote_port),
                    flags: raw.flags,
                    counters: Counters {
                        sent_packets: raw.sent_packets,
                        received_packets: raw.received_packets,
                        sent_bytes: raw.sent_bytes,
                        received_bytes: raw.received_bytes,
                        syn_packets: raw.syn_packets,
                    },
                })
                .ok()
        };
    }
    match family {
        Family::Ipv4 => decode!(RecordIpv4),
        Family::Ipv6 => decode!(RecordIpv6),
    }
    .ok_or(SnapshotError::Size {
        what: "record",
        found: bytes.len(),
        least: record_size(family),
    })
}

fn endpoint(ip: impl Into<IpAddr>, port: u16) -> Endpoint {
    Endpoint {
        ip: ip.into(),
        port,
    }
}

fn check_size(what: &'static str, found: u16, least: usize) -> Result<(), SnapshotError> {
    let found = usize::from(found);
    if found < least {
        return Err(SnapshotError::Size { what, found, least });
    }
    Ok(())
}
