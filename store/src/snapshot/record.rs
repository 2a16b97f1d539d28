// SPDX-License-Identifier: GPL-2.0-or-later
//! A record: what was counted for one flow.

use std::net::IpAddr;

/// What was counted for one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// IANA protocol number.
    pub protocol: u8,
    /// The side in the local net.
    pub local: Endpoint,
    /// The other side.
    pub remote: Endpoint,
    /// `RECORD_FOLDED` and flags still to come.
    pub flags: u8,
    /// What was counted.
    pub counters: Counters,
}

/// One side of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; 0 where the rule keeps none or the protocol has none.
    pub port: u16,
}

/// What a record counts, from the local side's point of view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counters {
    /// Packets that the local side sent.
    pub sent_packets: u64,
    /// Packets that the local side received.
    pub received_packets: u64,
    /// Layer-3 bytes that the local side sent.
    pub sent_bytes: u64,
    /// Layer-3 bytes that the local side received.
    pub received_bytes: u64,
    /// TCP packets with SYN and without ACK, both directions.
    pub syn_packets: u64,
}

impl Counters {
    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.sent_packets.saturating_add(self.received_packets)
    }

    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    /// Every counter with its name in CSV and JSON.
    pub fn columns(&self) -> [(&'static str, u64); 5] {
        [
            ("sent_packets", self.sent_packets),
            ("received_packets", self.received_packets),
            ("sent_bytes", self.sent_bytes),
            ("received_bytes", self.received_bytes),
            ("syn_packets", self.syn_packets),
        ]
    }
}

/// Stays at what 64 bits hold.
impl std::ops::AddAssign<&Self> for Counters {
    fn add_assign(&mut self, more: &Self) {
        self.sent_packets = self.sent_packets.saturating_add(more.sent_packets);
        self.received_packets = self.received_packets.saturating_add(more.received_packets);
        self.sent_bytes = self.sent_bytes.saturating_add(more.sent_bytes);
        self.received_bytes = self.received_bytes.saturating_add(more.received_bytes);
        self.syn_packets = self.syn_packets.saturating_add(more.syn_packets);
    }
}
