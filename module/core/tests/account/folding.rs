// SPDX-License-Identifier: GPL-2.0-or-later
//! Flows without room keep their local addresses, as long as there is room for those.

use std::collections::BTreeMap;

use trafstat_abi::RECORD_FOLDED;
use trafstat_core::account::{Account, Identity, Limits, Timestamp};
use trafstat_core::hash::HashKey;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{Flow, Ipv4Account, count, header, rule};

use crate::support::Snapshot;

/// An account of 10.0.0.0 with this prefix.
fn account_of(prefix_len: u8, max_entries: u32) -> Ipv4Account {
    account_of_net([10, 0, 0, 0], prefix_len, max_entries)
}

fn account_of_net(net: [u8; 4], prefix_len: u8, max_entries: u32) -> Ipv4Account {
    let mut local_addr = [0; 16];
    local_addr[..4].copy_from_slice(&net);
    let identity = Identity {
        id: [7; 16],
        name: [b'a'; 32],
        local_addr,
        prefix_len,
    };
    let limits = Limits {
        max_entries,
        min_pkt_spoof: 0,
    };
    let keys = HashKey([1, 2, 3, 4, 5, 6]).into();
    let account = Account::new(identity, keys, limits, (), Timestamp::of_one_clock(1));
    assert!(account.allocate(1, |_| true, &()));
    account
}

/// A packet of each of four protocols and many ports for each address of 10.0.0.0/22.
fn fill(account: &Ipv4Account) -> u64 {
    let rule = rule(Sampling::default(), ()).expect("memory");
    let mut packets = 0;
    for host in 0..1024_u16 {
        let [high, low] = host.to_be_bytes();
        for (protocol, port) in [(6, 1), (6, 2), (6, 3), (17, 1), (17, 2), (1, 0), (47, 0)] {
            let flow = Flow {
                protocol,
                local: [10, 0, high, low],
                remote: [192, 0, 2, 1],
                local_port: port,
                remote_port: 9,
            };
            let bytes = header(&flow, true, false);
            if count(account, &rule, 0, &bytes, 100) {
                assert!(account.prepare(&()));
            }
            packets += 1;
        }
    }
    packets
}

/// Packets by local address.
fn by_local(snapshot: &Snapshot) -> BTreeMap<[u8; 4], u64> {
    let mut sums = BTreeMap::new();
    for record in &snapshot.records {
        *sums.entry(record.local_ip).or_default() += record.sent_packets;
    }
    sums
}

#[test]
fn every_local_address_of_a_small_net_is_kept() {
    let account = account_of(22, 4096);
    let packets = fill(&account);
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    assert!(snapshot.header.folded_packets > 0, "there was room for all");
    assert_eq!(snapshot.header.unattributed_packets, 0);
    let sums = by_local(&snapshot);
    assert_eq!(sums.len(), 1024);
    assert!(sums.values().all(|sum| *sum == 7), "{packets} packets");
}

#[test]
fn what_has_no_room_for_its_local_address_either_is_told() {
    // Room for 16 flows and, by the limit, as many folds: most addresses have none.
    let account = account_of(8, 16);
    let packets = fill(&account);
    let stats = account.stats(&());
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    let header = &snapshot.header;
    let last = snapshot
        .records
        .iter()
        .find(|record| record.local_ip == [0; 4] && u32::from(record.flags) & RECORD_FOLDED != 0);
    let last = last.expect("a record without addresses");
    assert_eq!(header.unattributed_packets, last.sent_packets);
    assert_eq!(header.unattributed_bytes, last.sent_bytes);
    assert_eq!(
        header.unattributed_packets,
        packets - 32 - (header.folded_packets - header.unattributed_packets - 16)
    );
    assert_eq!(stats.totals.unattributed.packets, last.sent_packets);
    account.acknowledge(1, &()).expect("this epoch");
    assert_eq!(
        account.stats(&()).totals.unattributed.packets,
        last.sent_packets
    );
}

#[test]
fn fold_of_no_address_and_protocol_0_is_the_last_record() {
    let account = account_of_net([0; 4], 0, 1);
    let rule = rule(Sampling::default(), ()).expect("memory");
    // The first has a record. There is room for one fold, which the third takes.
    for (protocol, host) in [(6, 1), (0, 0), (1, 1), (47, 1)] {
        let flow = Flow {
            protocol,
            local: [0, 0, 0, host],
            remote: [192, 0, 2, 1],
            local_port: 0,
            remote_port: 0,
        };
        count(&account, &rule, 0, &header(&flow, true, false), 100);
    }
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    // Each key once.
    assert_eq!(snapshot.by_flow().len(), 3);
    assert_eq!(snapshot.header.unattributed_packets, 2);
}
