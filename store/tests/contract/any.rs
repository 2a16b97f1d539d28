// SPDX-License-Identifier: GPL-2.0-or-later
//! Epochs and queries as property tests make them up.

use ipnet::IpNet;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::snapshot::{Counters, Endpoint, Growth, Record, Sample, Volume};

use crate::common::NOON_NS;
use crate::model::Epoch;
use crate::support::{MINUTE_NS, time};

pub fn any_epochs() -> impl Strategy<Value = Vec<Epoch>> {
    let minutes = (0_u64..4 * 1440).prop_map(|minutes| minutes / 30 * 30);
    let records = prop::collection::vec(any_record(), 0..30);
    let growth = prop::option::weighted(0.9, any_growth());
    let epoch = (records, minutes, 0_u64..2, growth).prop_map(
        |(records, minutes, extrapolated, growth)| Epoch {
            records,
            minutes,
            extrapolated,
            growth,
        },
    );
    prop::collection::vec(epoch, 0..6)
}

/// Numbers whose sums a double holds.
pub fn any_growth() -> impl Strategy<Value = Growth> {
    let sample = (any::<[u16; 3]>(), 0_u32..40).prop_map(|(numbers, highest_rate)| Sample {
        packets: numbers[0].into(),
        packet_variance: numbers[1].into(),
        byte_variance: numbers[2].into(),
        highest_rate,
    });
    (any::<u32>(), 0_u64..3, prop::array::uniform3(sample)).prop_map(
        |(duration, packets, samples)| Growth {
            // Now and then it is not known.
            duration_ns: u64::from(duration / 3) * 2_000,
            unattributed: Volume {
                packets,
                bytes: packets * 40,
            },
            samples,
        },
    )
}

/// Few values each, so that groups meet and ties come up.
pub fn any_record() -> impl Strategy<Value = Record> {
    (
        prop::sample::select(vec![1_u8, 6, 17]),
        any_endpoint(),
        any_endpoint(),
        0_u8..2,
        any::<[u8; 5]>(),
    )
        .prop_map(|(protocol, local, remote, flags, counters)| {
            let [
                sent_packets,
                received_packets,
                sent_bytes,
                received_bytes,
                syn_packets,
            ] = counters.map(|counter| u64::from(counter % 8));
            Record {
                protocol,
                local,
                remote,
                flags,
                counters: Counters {
                    sent_packets,
                    received_packets,
                    sent_bytes,
                    received_bytes,
                    syn_packets,
                },
            }
        })
}

pub fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ips = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "192.0.2.1",
        "a00::1",
        "2001:db8::1",
    ];
    (
        prop::sample::select(ips.map(|ip| ip.parse().unwrap()).to_vec()),
        prop::sample::select(vec![0_u16, 22, 443, 65535]),
    )
        .prop_map(|(ip, port)| Endpoint { ip, port })
}

pub fn any_query() -> impl Strategy<Value = Query> {
    let fields = vec![
        Field::Protocol,
        Field::LocalIp,
        Field::RemoteIp,
        Field::LocalPort,
        Field::RemotePort,
        Field::Account,
        Field::Host,
        Field::FiveMinutes,
        Field::Hour,
        Field::Day,
    ];
    let zones = vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];
    let orders = vec![
        Order::Bytes,
        Order::Packets,
        Order::SentBytes,
        Order::ReceivedBytes,
        Order::SentPackets,
        Order::ReceivedPackets,
        Order::SynPackets,
        Order::Fields,
    ];
    (
        prop::sample::subsequence(fields, 0..=4).prop_shuffle(),
        any_filter(),
        prop::sample::select(orders),
        prop::option::of(1_u64..10),
        prop::sample::select(zones),
    )
        .prop_map(|(by, filter, order, limit, zone)| Query {
            by,
            filter,
            order,
            limit,
            zone: TimeZone::get(zone).unwrap(),
            ..Query::default()
        })
}

pub fn any_filter() -> impl Strategy<Value = Filter> {
    let nets = [
        "0.0.0.0/0",
        "10.0.0.0/24",
        "10.0.0.1/32",
        "10.0.0.0/23",
        "::/0",
        "2001:db8::/32",
    ];
    let nets: Vec<IpNet> = nets.map(|net| net.parse().unwrap()).to_vec();
    // Now and then within an hour, more often at its full, at midnight or at the month's.
    let hours = prop::option::of(
        prop_oneof![
            (0..8_u64).prop_map(|half| half * 30),
            (0..100_u64).prop_map(|hour| hour * 60),
            prop::sample::select(vec![720, 720 + 1440, 720 + 2880]),
        ]
        .prop_map(|minutes| time(NOON_NS + minutes * MINUTE_NS)),
    );
    (
        prop::sample::subsequence(vec![1_u8, 6, 17, 99], 0..2),
        prop::sample::subsequence(nets.clone(), 0..3),
        prop::sample::subsequence(nets, 0..3),
        prop::sample::subsequence(vec![0..=0_u16, 22..=22, 20..=443], 0..3),
        prop::sample::subsequence(vec![0..=0_u16, 22..=22, 20..=443], 0..3),
        prop::sample::subsequence(vec!["gateway".to_owned(), "other".to_owned()], 0..2),
        hours.clone(),
        hours,
    )
        .prop_map(
            |(protocols, local, remote, local_ports, remote_ports, hosts, since, until)| Filter {
                protocols,
                local,
                remote,
                local_ports,
                remote_ports,
                accounts: Vec::new(),
                hosts,
                since,
                until,
            },
        )
}
