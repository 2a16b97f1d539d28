// SPDX-License-Identifier: GPL-2.0-or-later
//! Averages a second.

use jiff::SignedDuration;
use trafstat_store::query::Answer;
use trafstat_store::snapshot::Counters;

/// What went over in a second, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub sent_bits: f64,
    pub received_bits: f64,
    pub sent_packets: f64,
    pub received_packets: f64,
    pub syn_packets: f64,
}

impl Rates {
    /// The averages of what was counted in so many seconds.
    pub fn new(counters: &Counters, seconds: f64) -> Self {
        let average = |number: u64| number as f64 / seconds;
        Self {
            sent_bits: average(counters.sent_bytes) * 8.0,
            received_bits: average(counters.received_bytes) * 8.0,
            sent_packets: average(counters.sent_packets),
            received_packets: average(counters.received_packets),
            syn_packets: average(counters.syn_packets),
        }
    }

    /// Every rate with its name in CSV and JSON.
    pub fn columns(&self) -> [(&'static str, f64); 5] {
        [
            ("sent_packets_per_second", self.sent_packets),
            ("received_packets_per_second", self.received_packets),
            ("sent_bits_per_second", self.sent_bits),
            ("received_bits_per_second", self.received_bits),
            ("syn_packets_per_second", self.syn_packets),
        ]
    }
}

/// How long something was counted; none where nothing tells.
pub(super) fn seconds(counted: Option<SignedDuration>) -> Option<f64> {
    let seconds = counted.map(|counted| counted.as_secs_f64());
    seconds.filter(|&seconds| seconds > 0.0)
}

/// How long all of an answer was counted.
pub(super) fn seconds_of_all(answer: &Answer) -> Option<f64> {
    seconds(answer.counted.as_ref().map(|counted| counted.total))
}
