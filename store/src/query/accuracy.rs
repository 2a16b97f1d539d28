// SPDX-License-Identifier: GPL-2.0-or-later
//! How exact an answer is: the standard errors that sampling brings, and packets that lost even
//! their local address.
//!
//! A sum over whole epochs has the variances that their headers tell. Of a part of an epoch's
//! records no variance is known; there the error of the packets is estimated by the highest
//! rate that a packet in it can have met: a buffer that is taken at one in N counts N and has
//! the variance N * (N - 1), so packets * (N - 1) in sum.

use std::collections::HashMap;

use super::{Answer, Field, Filter, Query, Value};
use crate::snapshot::{Growth, Header, SampleClass, Volume};

/// What a number of epochs tell of how exact their figures are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Accuracy {
    /// What sampling did to each class, in the order of [`SampleClass::ALL`].
    pub classes: [ClassSum; SampleClass::ALL.len()],
    /// Epochs that sampled under a module that did not report how.
    pub unknown_epochs: u64,
    /// What had neither side in the local net, and so no record.
    pub outside: Volume,
    /// What sampling left out, for which other packets count.
    pub skipped: Volume,
    /// What is counted without its remote side for want of room.
    pub folded: Volume,
    /// The part of it that found no room even for its local address.
    pub unattributed: Volume,
    /// In how many epochs that happened.
    pub unattributed_epochs: u64,
}

/// What sampling did to a class of packets, over a number of epochs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ClassSum {
    /// Packets that were taken, before multiplication.
    pub packets: u64,
    /// The variance of the class's packets.
    pub packet_variance: f64,
    /// The variance of the class's bytes.
    pub byte_variance: f64,
    /// The largest N of one in N that a packet met; 0: none met one.
    pub highest_rate: u32,
}

/// How far figures probably are from what went over the wire: in 68 of 100 cases less.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StandardError {
    /// That of the packets, both ways together.
    pub packets: f64,
    /// That of the bytes; known of whole epochs only.
    pub bytes: Option<f64>,
}

/// The accuracy of the epochs that are equal in the query's fields that are of epochs, by
/// their values.
pub(crate) type Accuracies = HashMap<Vec<Value>, Accuracy>;

impl ClassSum {
    /// The standard errors of the class's packets and bytes.
    pub fn error(&self) -> StandardError {
        StandardError {
            packets: self.packet_variance.sqrt(),
            bytes: Some(self.byte_variance.sqrt()),
        }
    }

    fn add(&mut self, more: &Self) {
        self.packets = self.packets.saturating_add(more.packets);
        self.packet_variance += more.packet_variance;
        self.byte_variance += more.byte_variance;
        self.highest_rate = self.highest_rate.max(more.highest_rate);
    }
}

impl Accuracy {
    /// That of one epoch.
    pub fn of(header: &Header) -> Self {
        let of_totals = Self {
            outside: header.totals.outside,
            skipped: header.totals.skipped,
            folded: header.totals.folded,
            ..Self::default()
        };
        let Some(growth) = &header.growth else {
            return Self {
                unknown_epochs: (header.totals.extrapolated.packets > 0).into(),
                ..of_totals
            };
        };
        let Growth {
            unattributed,
            samples,
            ..
        } = *growth;
        Self {
            classes: samples.map(|sample| ClassSum {
                packets: sample.packets,
                packet_variance: sample.packet_variance as f64,
                byte_variance: sample.byte_variance as f64,
                highest_rate: sample.highest_rate,
            }),
            unknown_epochs: 0,
            unattributed,
            unattributed_epochs: (unattributed.packets > 0).into(),
            ..of_totals
        }
    }

    /// Adds that of other epochs.
    pub fn add(&mut self, more: &Self) {
        for (class, more) in self.classes.iter_mut().zip(&more.classes) {
            class.add(more);
        }
        self.unknown_epochs += more.unknown_epochs;
        for (sum, more) in [
            (&mut self.outside, &more.outside),
            (&mut self.skipped, &more.skipped),
            (&mut self.folded, &more.folded),
            (&mut self.unattributed, &more.unattributed),
        ] {
            sum.packets = sum.packets.saturating_add(more.packets);
            sum.bytes = sum.bytes.saturating_add(more.bytes);
        }
        self.unattributed_epochs += more.unattributed_epochs;
    }

    /// Whether any packet was counted for others.
    pub fn is_sampled(&self) -> bool {
        self.classes.iter().any(|class| class.highest_rate > 1)
    }

    /// The error of all that the epochs recorded; none where some do not tell.
    fn error_of_epochs(&self) -> Option<StandardError> {
        let mut all = ClassSum::default();
        self.classes.iter().for_each(|class| all.add(class));
        (self.unknown_epochs == 0).then(|| all.error())
    }

    /// The error of packets of some protocols, of all where none is named, which are a part of
    /// what the epochs recorded.
    fn error_of_part(&self, packets: u64, protocols: &[u8]) -> Option<StandardError> {
        let can_be =
            |class: &SampleClass| protocols.is_empty() || protocols.contains(&class.protocol());
        let classes = SampleClass::ALL.iter().zip(&self.classes);
        let rates = classes.filter(|(class, _)| can_be(class));
        let highest = rates.map(|(_, sum)| sum.highest_rate).max().unwrap_or(0);
        (self.unknown_epochs == 0).then(|| StandardError {
            packets: (packets as f64 * f64::from(highest.saturating_sub(1))).sqrt(),
            bytes: None,
        })
    }
}

/// Gives an answer its accuracy, and its groups and total their errors.
pub(crate) fn set_accuracy(answer: &mut Answer, query: &Query, of_epochs: &Accuracies) {
    let mut all = Accuracy::default();
    // In an order of their own, so that sums of the same numbers are the same.
    let mut keys: Vec<&Vec<Value>> = of_epochs.keys().collect();
    keys.sort_unstable();
    keys.iter().for_each(|&key| all.add(&of_epochs[key]));
    answer.accuracy = all;
    let protocols = &query.filter.protocols;
    let is_whole = !query.filter.is_of_records();
    answer.error = match is_whole {
        true => all.error_of_epochs(),
        false => all.error_of_part(answer.total.packets(), protocols),
    };
    let whole_groups = is_whole && query.by.iter().all(|field| field.is_of_epoch());
    for group in &mut answer.groups {
        let fields = query.by.iter().zip(&group.key);
        let of_epoch = fields.filter(|(field, _)| field.is_of_epoch());
        let key: Vec<Value> = of_epoch.map(|(_, value)| value.clone()).collect();
        let accuracy = of_epochs.get(&key).copied().unwrap_or_default();
        let protocol = group.key.iter().find_map(|value| match value {
            Value::Protocol(number) => Some([*number]),
            _ => None,
        });
        let packets = group.counters.packets();
        group.error = match whole_groups {
            true => accuracy.error_of_epochs(),
            false => accuracy.error_of_part(
                packets,
                protocol.as_ref().map_or(&protocols[..], |one| &one[..]),
            ),
        };
    }
}

impl Field {
    /// Whether all records of an epoch have one value in it.
    pub(crate) fn is_of_epoch(self) -> bool {
        matches!(
            self,
            Self::Account | Self::Host | Self::FiveMinutes | Self::Hour | Self::Day
        )
    }
}

impl Filter {
    /// Whether it may leave out some of an epoch's records.
    fn is_of_records(&self) -> bool {
        !(self.protocols.is_empty()
            && self.local.is_empty()
            && self.remote.is_empty()
            && self.local_ports.is_empty()
            && self.remote_ports.is_empty())
    }
}
