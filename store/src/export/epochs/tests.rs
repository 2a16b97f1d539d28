// SPDX-License-Identifier: GPL-2.0-or-later
//! What is written is read back, and what is damaged is refused.

use std::net::IpAddr;
use std::path::Path;

use proptest::prelude::*;

use super::columns::columns;
use super::{EpochReader, EpochWriter};
use crate::account::Account;
use crate::origin::Origin;
use crate::snapshot::{Counters, Endpoint, Growth, Header, Record, Sample, Totals, Volume};
use crate::store::{Epochs, StoreError};

fn any_header() -> impl Strategy<Value = Header> {
    let numbers = prop::array::uniform4(0..=i64::MAX as u64);
    let volumes = prop::array::uniform7(any::<[u32; 2]>());
    (
        prop::sample::select(vec!["192.0.2.1/24", "2001:db8::5/32", "0.0.0.0/0"]),
        "[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,30}",
        any::<[u8; 16]>(),
        numbers,
        volumes,
        any::<u32>(),
        prop::option::of(any_growth()),
    )
        .prop_map(
            |(net, name, account_id, numbers, volumes, min_pkt_spoof, growth)| {
                let local_net: ipnet::IpNet = net.parse().unwrap();
                let [
                    recorded,
                    outside,
                    skipped,
                    extrapolated,
                    _,
                    gso_extra,
                    folded,
                ] = volumes.map(|[packets, bytes]| Volume {
                    packets: packets.into(),
                    bytes: bytes.into(),
                });
                // What the header must hold.
                let skipped = Volume {
                    packets: skipped.packets + extrapolated.packets,
                    bytes: skipped.bytes + extrapolated.bytes,
                };
                let seen = |of: fn(&Volume) -> u64| {
                    of(&recorded) + of(&outside) + of(&skipped) - of(&extrapolated)
                };
                Header {
                    account: Account {
                        family: match local_net {
                            ipnet::IpNet::V4(_) => crate::account::Family::Ipv4,
                            ipnet::IpNet::V6(_) => crate::account::Family::Ipv6,
                        },
                        name: name.parse().unwrap(),
                    },
                    account_id,
                    epoch: numbers[0].max(1),
                    local_net,
                    records: 0,
                    opened_ns: numbers[1],
                    closed_ns: numbers[2],
                    totals: Totals {
                        seen: Volume {
                            packets: seen(|volume| volume.packets),
                            bytes: seen(|volume| volume.bytes),
                        },
                        extrapolated,
                        recorded,
                        outside,
                        skipped,
                        gso_extra,
                        folded,
                    },
                    max_entries: numbers[3],
                    min_pkt_spoof,
                    growth,
                }
            },
        )
}

fn any_growth() -> impl Strategy<Value = Growth> {
    let sample = (any::<u64>(), any::<u128>(), any::<u128>(), any::<u32>()).prop_map(
        |(packets, packet_variance, byte_variance, highest_rate)| Sample {
            packets,
            packet_variance,
            byte_variance,
            highest_rate,
        },
    );
    (any::<[u64; 3]>(), prop::array::uniform3(sample)).prop_map(
        |([duration_ns, packets, bytes], samples)| Growth {
            duration_ns,
            unattributed: Volume { packets, bytes },
            samples,
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let side = || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port });
    (any::<u8>(), side(), side(), any::<u8>(), any::<[u64; 5]>()).prop_map(
        |(protocol, local, remote, flags, counters)| Record {
            protocol,
            local,
            remote,
            flags,
            counters: Counters {
                sent_packets: counters[0],
                received_packets: counters[1],
                sent_bytes: counters[2],
                received_bytes: counters[3],
                syn_packets: counters[4],
            },
        },
    )
}

/// Two epochs without records, a line each, between the names and the end.
fn two_epochs(header: &Header) -> String {
    let mut text = Vec::new();
    let mut writer = EpochWriter::new(&mut text).unwrap();
    for machine_id in ["a", "b"] {
        let origin = Origin {
            machine_id: machine_id.to_owned(),
            hostname: String::new(),
            netns: String::new(),
        };
        writer.begin(&origin, header).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    String::from_utf8(text).unwrap()
}

/// Reads all epochs; the error's text.
fn read_all(text: &str) -> Result<(), String> {
    let read = || {
        let mut reader = EpochReader::new(Path::new("text"), text.as_bytes())?;
        while reader.next_epoch()?.is_some() {}
        Ok::<_, StoreError>(())
    };
    read().map_err(|error| error.to_string())
}

proptest! {
    #[test]
    fn file_that_lacks_a_line_is_refused(header in any_header()) {
        let text = two_epochs(&header);
        prop_assert_eq!(read_all(&text), Ok(()));
        let lines: Vec<_> = text.lines().collect();
        for left in 1..lines.len() {
            let error = read_all(&lines[..left].join("\n")).unwrap_err();
            prop_assert!(error.contains("cut off"), "{}", error);
        }
        let without_one = [lines[0], lines[2], lines[3]].join("\n");
        prop_assert!(read_all(&without_one).unwrap_err().contains("2 epochs where 1"));
        let goes_on = [lines[0], lines[1], lines[2], lines[3], lines[1]].join("\n");
        prop_assert!(read_all(&goes_on).unwrap_err().contains("goes on"));
    }

    #[test]
    fn whatever_was_written_is_read_back(
        epochs in prop::collection::vec(
            (".{1,40}", any::<String>(), any::<String>(), any_header(),
             prop::collection::vec(any_record(), 0..20)),
            0..4,
        )
    ) {
        let mut text = Vec::new();
        let mut writer = EpochWriter::new(&mut text).unwrap();
        for (machine_id, hostname, netns, header, records) in &epochs {
            let origin = Origin {
                machine_id: machine_id.clone(),
                hostname: hostname.clone(),
                netns: netns.clone(),
            };
            writer.begin(&origin, header).unwrap();
            for some in records.chunks(7) {
                writer.add(some).unwrap();
            }
        }
        writer.finish().unwrap();
        drop(writer);
        let mut reader = EpochReader::new(Path::new("text"), &text[..]).unwrap();
        for (machine_id, hostname, netns, header, records) in &epochs {
            let (origin, read) = reader.next_epoch().unwrap().unwrap();
            prop_assert_eq!(&read, header);
            prop_assert_eq!(
                (&origin.machine_id, &origin.hostname, &origin.netns),
                (machine_id, hostname, netns)
            );
            // Now and then nobody asks for the records.
            if records.len() % 3 != 0 {
                let mut found = Vec::new();
                reader.records(|some| {
                    found.extend_from_slice(some);
                    Ok(())
                }).unwrap();
                prop_assert_eq!(&found, records);
            }
        }
        prop_assert!(reader.next_epoch().unwrap().is_none());
    }

    #[test]
    fn file_from_before_0_2_is_read_with_the_later_fields_unknown(header in any_header()) {
        let old = Header { growth: None, ..header };
        let text = two_epochs(&old);
        // Their columns are the last, and empty.
        let later = Growth::COLUMNS.map(|column| format!(",{column}")).concat();
        let empty = ",".repeat(Growth::COLUMNS.len());
        let lines: Vec<_> = text
            .replacen(&later, "", 1)
            .lines()
            .map(|line| line.strip_suffix(&empty).unwrap_or(line).to_owned())
            .collect();
        let text = lines.join("\n");
        prop_assert!(!text.contains("duration_ns"));
        let mut reader = EpochReader::new(Path::new("text"), text.as_bytes()).unwrap();
        for _ in 0..2 {
            prop_assert_eq!(&reader.next_epoch().unwrap().unwrap().1, &old);
        }
        prop_assert!(reader.next_epoch().unwrap().is_none());
    }

    #[test]
    fn any_text_is_an_error_or_an_epoch(garbage in any::<Vec<u8>>()) {
        let mut text = columns().collect::<Vec<_>>().join(",").into_bytes();
        text.push(b'\n');
        text.extend(&garbage);
        let mut reader = EpochReader::new(Path::new("text"), &text[..]);
        while let Ok(Ok(Some(_))) = reader.as_mut().map(EpochReader::next_epoch) {}
    }
}
