// SPDX-License-Identifier: GPL-2.0-or-later
//! What is decoded of a snapshot, and what is refused.

mod common;

use std::net::Ipv6Addr;

use common::{SnapshotBuilder, record};
use proptest::prelude::*;
use trafstat_abi::{RecordIpv4, RecordIpv6, SAMPLE_TCP_ANY, Sample};
use trafstat_store::snapshot::{Header, Record, Snapshot, SnapshotError, Volume};
use zerocopy::IntoBytes;

fn lan() -> SnapshotBuilder {
    SnapshotBuilder::new(
        "lan",
        7,
        vec![record(1, 1, 6, 22, 10), record(2, 1, 17, 53, 20)],
    )
}

/// Everything that a snapshot holds, or why it was refused.
fn read(bytes: &[u8]) -> Result<Vec<Record>, SnapshotError> {
    let mut snapshot = Snapshot::open(bytes)?;
    let mut records = Vec::new();
    while let Some(batch) = snapshot.next_batch()? {
        records.extend_from_slice(batch);
    }
    Ok(records)
}

fn refusal(snapshot: &SnapshotBuilder) -> String {
    read(&snapshot.bytes()).unwrap_err().to_string()
}

#[test]
fn header_and_records_are_decoded() {
    let bytes = lan().bytes();
    let snapshot = Snapshot::open(&bytes[..]).unwrap();
    let header = snapshot.header();
    assert_eq!(header.account.to_string(), "lan (ipv4)");
    assert_eq!(header.epoch, 7);
    assert_eq!(header.local_net.to_string(), "192.0.2.1/24");
    assert_eq!(header.totals.recorded.packets, 90);
    assert_eq!(header.totals.outside.bytes, 180);

    let records = read(&bytes).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].protocol, 17);
    assert_eq!(records[1].local.ip.to_string(), "192.0.2.2");
    assert_eq!(records[1].remote.ip.to_string(), "198.51.100.1");
    assert_eq!(records[1].local.port, 53);
    assert_eq!(records[1].counters.received_bytes, 30_000);
}

#[test]
fn ipv6_records_have_their_own_size() {
    let mut snapshot = lan();
    snapshot.header.family = 10;
    snapshot.header.prefix_len = 48;
    snapshot.header.record_size = size_of::<RecordIpv6>() as u16;
    snapshot.header.local_addr = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let mut bytes = SnapshotBuilder {
        records: Vec::new(),
        ..snapshot
    }
    .bytes();
    for number in 1..=2 {
        let record = RecordIpv6 {
            local_ip: "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(),
            remote_ip: "2001:db8:1::2".parse::<Ipv6Addr>().unwrap().octets(),
            local_port: 443,
            protocol: 6,
            sent_packets: 45,
            sent_bytes: 24_000,
            syn_packets: number,
            ..RecordIpv6::default()
        };
        bytes.extend(record.as_bytes());
    }
    let header = Snapshot::open(&bytes[..]).unwrap().header().clone();
    assert_eq!(header.account.to_string(), "lan (ipv6)");
    assert_eq!(header.local_net.to_string(), "2001:db8::1/48");
    let records = read(&bytes).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].local.ip.to_string(), "2001:db8::1");
    assert_eq!(records[1].remote.ip.to_string(), "2001:db8:1::2");
    assert_eq!(records[1].local.port, 443);
    assert_eq!(records[1].counters.syn_packets, 2);
}

/// [`lan`] as a module counts it that samples and lacks room.
fn sampled() -> SnapshotBuilder {
    let mut snapshot = lan();
    let header = &mut snapshot.header;
    header.duration_ns = 300_000_000_000;
    header.unattributed_packets = 4;
    header.unattributed_bytes = 400;
    header.sample[SAMPLE_TCP_ANY as usize] = Sample {
        packets: 3,
        packet_variance: [270, 0],
        byte_variance: [7, 1],
        highest_rate: 10,
        reserved: 0,
    };
    snapshot
}

fn header(snapshot: &SnapshotBuilder) -> Header {
    Snapshot::open(&snapshot.bytes()[..])
        .unwrap()
        .header()
        .clone()
}

#[test]
fn later_fields_of_the_header_are_decoded() {
    let growth = header(&sampled()).growth.unwrap();
    assert_eq!(growth.duration_ns, 300_000_000_000);
    assert_eq!(
        growth.unattributed,
        Volume {
            packets: 4,
            bytes: 400
        }
    );
    let [syn, tcp, udp] = growth.samples;
    assert_eq!(tcp.packets, 3);
    assert_eq!((tcp.packet_variance, tcp.highest_rate), (270, 10));
    // The lower 64 bits come first.
    assert_eq!(tcp.byte_variance, (1 << 64) + 7);
    assert_eq!((syn, udp), Default::default());
}

#[test]
fn header_of_an_old_module_leaves_the_later_fields_unknown() {
    let old = sampled().with_header_size(240);
    assert_eq!(old.bytes().len(), 240 + 2 * size_of::<RecordIpv4>());
    assert_eq!(read(&old.bytes()).unwrap(), read(&lan().bytes()).unwrap());
    let expected = Header {
        growth: None,
        ..header(&sampled())
    };
    assert_eq!(header(&old), expected);
    // A size that no release has: a part of the fields is none.
    let between = sampled().with_header_size(264);
    assert_eq!(read(&between.bytes()).unwrap().len(), 2);
    assert_eq!(header(&between), expected);
}

#[test]
fn what_a_newer_module_appends_is_skipped() {
    let grown = SnapshotBuilder {
        header_growth: vec![0xff; 24],
        record_growth: vec![0xff; 8],
        ..sampled()
    };
    assert_eq!(read(&grown.bytes()).unwrap(), read(&lan().bytes()).unwrap());
    assert_eq!(header(&grown), header(&sampled()));
}

#[test]
fn reader_that_knows_240_bytes_finds_the_same_records() {
    let bytes = sampled().bytes();
    // As trafstat-store 0.1.0 reads: what it knows, then on to header_size.
    let header_size = usize::from(u16::from_ne_bytes([bytes[10], bytes[11]]));
    assert_eq!(header_size, 408);
    let mut seen_by_it = bytes[..240].to_vec();
    seen_by_it[10..12].copy_from_slice(&240_u16.to_ne_bytes());
    seen_by_it.extend(&bytes[header_size..]);
    assert_eq!(seen_by_it, sampled().with_header_size(240).bytes());
    assert_eq!(read(&seen_by_it).unwrap(), read(&bytes).unwrap());
}

#[test]
fn header_that_ends_early_says_how_much_was_there() {
    let bytes = lan().bytes();
    for (end, expected) in [(0, 240), (239, 240), (240, 408), (407, 408)] {
        let error = read(&bytes[..end]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the snapshot ends inside its header, after {end} of {expected} bytes")
        );
    }
}

#[test]
fn more_records_than_a_batch_all_arrive() {
    let records: Vec<RecordIpv4> = (0..20_000)
        .map(|number| record(1, 1, 6, number, 1 + u64::from(number)))
        .collect();
    let bytes = SnapshotBuilder::new("lan", 1, records).bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let mut ports = Vec::new();
    let mut batches = 0;
    while let Some(batch) = snapshot.next_batch().unwrap() {
        ports.extend(batch.iter().map(|record| record.local.port));
        batches += 1;
    }
    assert!(batches > 1);
    assert_eq!(ports, (0..20_000).collect::<Vec<u16>>());
}

#[test]
fn source_that_reads_a_byte_at_a_time_is_read_whole() {
    struct Trickle<'a>(&'a [u8]);
    impl std::io::Read for Trickle<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            let count = bytes.len().min(1);
            std::io::Read::read(&mut self.0, &mut bytes[..count])
        }
    }
    let bytes = lan().bytes();
    let mut snapshot = Snapshot::open(Trickle(&bytes)).unwrap();
    assert_eq!(snapshot.next_batch().unwrap().unwrap().len(), 2);
    assert!(snapshot.next_batch().unwrap().is_none());
}

#[test]
fn header_that_does_not_add_up_names_both_figures() {
    let mut snapshot = lan();
    snapshot.header.seen_packets += 1;
    assert_eq!(
        refusal(&snapshot),
        "packets do not add up: seen 95 + extrapolated 1 = 96, \
         but recorded 90 + outside 3 + skipped 2 = 95"
    );
    let mut snapshot = lan();
    snapshot.header.skipped_bytes -= 1;
    assert!(refusal(&snapshot).starts_with("bytes do not add up: seen"));
}

#[test]
fn records_that_do_not_add_up_name_both_figures() {
    let mut snapshot = lan();
    snapshot.records[0].received_packets += 1;
    assert_eq!(
        refusal(&snapshot),
        "packets do not add up: the header says recorded 90, the records hold 91"
    );
    let mut snapshot = lan();
    snapshot.records[1].sent_bytes -= 1;
    assert!(refusal(&snapshot).starts_with("bytes do not add up: the header says"));
}

#[test]
fn totals_past_64_bits_do_not_wrap_around() {
    let mut snapshot = lan();
    snapshot.header.seen_packets = u64::MAX;
    snapshot.header.extrapolated_packets = 96;
    assert!(refusal(&snapshot).starts_with("packets do not add up"));
}

#[test]
fn missing_and_excess_records_are_counted() {
    let mut snapshot = lan();
    snapshot.header.records = 3;
    assert_eq!(
        refusal(&snapshot),
        "the header says 3 records, but the snapshot ends after 2"
    );
    snapshot.header.records = 1;
    assert_eq!(
        refusal(&snapshot),
        "the header says 1 records, but the snapshot goes on after them"
    );
}

#[test]
fn half_a_record_is_missing() {
    let bytes = lan().bytes();
    let error = read(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(
        matches!(
            error,
            SnapshotError::RecordsMissing {
                expected: 2,
                found: 1
            }
        ),
        "{error}"
    );
}

#[test]
fn nothing_is_no_snapshot() {
    assert!(matches!(
        read(&[]).unwrap_err(),
        SnapshotError::HeaderTruncated { found: 0, .. }
    ));
}

/// A header field set to what it must not be, and what the refusal says then.
type WrongHeader = (fn(&mut SnapshotBuilder), &'static str);

#[test]
fn wrong_header_fields_are_refused() {
    let wrong: [WrongHeader; 8] = [
        (|s| s.header.magic[0] = b't', "does not begin with"),
        (|s| s.header.version = 2, "format version 2"),
        (|s| s.header.family = 3, "address family 3"),
        (|s| s.header.header_size = 239, "header has 239 bytes"),
        (|s| s.header.record_size -= 1, "record has 55 bytes"),
        (|s| s.header.prefix_len = 33, "prefix length 33"),
        (|s| s.header.epoch = 0, "epoch 0"),
        (|s| s.header.name[0] = b'/' as _, "account name"),
    ];
    for (spoil, expected) in wrong {
        let mut snapshot = lan();
        spoil(&mut snapshot);
        let error = refusal(&snapshot);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn name_without_its_nul_is_refused() {
    let mut snapshot = lan();
    snapshot.header.name = [b'a' as _; 32];
    assert!(refusal(&snapshot).contains("account name"));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_change_of_a_snapshot_is_decoded_or_refused(
        at in 0_usize..520,
        value in any::<u8>(),
        end in 0_usize..=520,
    ) {
        let mut bytes = lan().bytes();
        prop_assert_eq!(bytes.len(), 520);
        bytes[at] = value;
        let whole = bytes.len();
        if let Ok(records) = read(&bytes[..end]) {
            // Whatever was changed, nothing is missing.
            prop_assert_eq!((end, records.len()), (whole, 2));
        }
    }

    #[test]
    fn records_come_out_as_they_went_in(
        fields in prop::collection::vec((any::<[u8; 8]>(), any::<[u16; 2]>(), any::<[u8; 2]>(), any::<[u32; 5]>()), 0..50),
    ) {
        let records: Vec<RecordIpv4> = fields
            .iter()
            .map(|&(ips, [local_port, remote_port], [protocol, flags], counters)| {
                let [sent_packets, received_packets, sent_bytes, received_bytes, syn_packets] =
                    counters.map(u64::from);
                RecordIpv4 {
                    local_ip: [ips[0], ips[1], ips[2], ips[3]],
                    remote_ip: [ips[4], ips[5], ips[6], ips[7]],
                    local_port, remote_port, protocol, flags, reserved: 0,
                    sent_packets, received_packets, sent_bytes, received_bytes, syn_packets,
                }
            })
            .collect();
        let decoded = read(&SnapshotBuilder::new("lan", 1, records.clone()).bytes()).unwrap();
        prop_assert_eq!(decoded.len(), records.len());
        for (decoded, raw) in decoded.iter().zip(&records) {
            prop_assert_eq!(decoded.local.ip, std::net::IpAddr::from(raw.local_ip));
            prop_assert_eq!(decoded.remote.ip, std::net::IpAddr::from(raw.remote_ip));
            prop_assert_eq!(decoded.local.port, raw.local_port);
            prop_assert_eq!(decoded.remote.port, raw.remote_port);
            prop_assert_eq!(decoded.protocol, raw.protocol);
            prop_assert_eq!(decoded.flags, raw.flags);
            prop_assert_eq!(decoded.counters.sent_packets, raw.sent_packets);
            prop_assert_eq!(decoded.counters.received_packets, raw.received_packets);
            prop_assert_eq!(decoded.counters.sent_bytes, raw.sent_bytes);
            prop_assert_eq!(decoded.counters.received_bytes, raw.received_bytes);
            prop_assert_eq!(decoded.counters.syn_packets, raw.syn_packets);
        }
    }
}
