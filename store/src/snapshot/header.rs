// SPDX-License-Identifier: GPL-2.0-or-later
//! A snapshot's header: all that it says besides its records.

use ipnet::IpNet;
use trafstat_abi::SnapshotHeader;

use super::error::{SnapshotError, Unit};
use crate::account::Account;

/// The longest epoch, a day, whose clock is believed: it was set meanwhile in a longer one.
const LONGEST_NS: u64 = 86_400_000_000_000;

/// Everything that a snapshot says besides its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The account that was counted into.
    pub account: Account,
    /// The account's 128 random bits; with `epoch` the snapshot's identity.
    pub account_id: [u8; 16],
    /// Which of the account's epochs this is, from 1.
    pub epoch: u64,
    /// The account's local net, host bits as typed.
    pub local_net: IpNet,
    /// How many records follow.
    pub records: u64,
    /// When the epoch opened, in nanoseconds of CLOCK_REALTIME.
    pub opened_ns: u64,
    /// When the epoch closed, in nanoseconds of CLOCK_REALTIME.
    pub closed_ns: u64,
    /// What the epoch counted, in sum.
    pub totals: Totals,
    /// The account's limit in records.
    pub max_entries: u64,
    /// Flows of fewer packets lost their remote side; 0: off.
    pub min_pkt_spoof: u32,
    /// What modules report since 0.2.0; unknown from an older one.
    pub growth: Option<Growth>,
}

/// The fields that headers of 408 bytes have and those of 240 have not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// How long the epoch was open, in nanoseconds of CLOCK_BOOTTIME, which cannot be set.
    pub duration_ns: u64,
    /// The part of `folded` that lost its local side too.
    pub unattributed: Volume,
    /// What sampling took of each class, in the order of [`SampleClass::ALL`].
    pub samples: [Sample; SampleClass::ALL.len()],
}

/// A kind of packets that is sampled at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleClass {
    /// TCP packets with SYN and without ACK, under `--sample-tcp-syn`.
    TcpSyn,
    /// Other TCP packets; SYN ones too without that option.
    TcpAny,
    /// UDP packets.
    UdpAny,
}

/// What sampling took of one class.
///
/// The variances are unbiased estimates of those of the class's packets and bytes, as the
/// records have them; their square roots are the standard errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets that were taken, before multiplication.
    pub packets: u64,
    /// The sum of N * (N - 1) * packets^2 over the buffers that were taken.
    pub packet_variance: u128,
    /// The sum of N * (N - 1) * bytes^2 over the buffers that were taken.
    pub byte_variance: u128,
    /// The largest N that a packet met; 0: none met one.
    pub highest_rate: u32,
}

/// The sums over an epoch: `seen + extrapolated = recorded + outside + skipped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the rules saw.
    pub seen: Volume,
    /// What sampling's multiplication added.
    pub extrapolated: Volume,
    /// What the records hold.
    pub recorded: Volume,
    /// What had neither side in the local net.
    pub outside: Volume,
    /// What sampling left out.
    pub skipped: Volume,
    /// Wire packets less socket buffers: `seen - gso_extra` is what rule counters say.
    pub gso_extra: Volume,
    /// The part of `recorded` that lost its remote side for want of room.
    pub folded: Volume,
}

/// An amount of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Wire packets.
    pub packets: u64,
    /// Layer-3 bytes.
    pub bytes: u64,
}

/// A number that every header has: what it is called, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name as a column of databases and of files of records.
    pub name: &'static str,
    /// Gives it.
    pub get: fn(&Header) -> u64,
    /// Sets it; false if it is more than the header can hold.
    pub set: fn(&mut Header, u64) -> bool,
    /// Gives that of a header as modules serve it.
    pub(super) served: fn(&SnapshotHeader) -> u64,
}

/// Lists figures: the name, which is that of the served header's field, and the field of
/// [`Header`].
macro_rules! figures {
    ($($name:ident: $($field:ident).+,)*) => {
        [$(Figure {
            name: stringify!($name),
            get: |header| u64::from(header.$($field).+),
            set: |header, value| {
                let value = value.try_into();
                value.map(|value| header.$($field).+ = value).is_ok()
            },
            served: |header| u64::from(header.$name),
        }),*]
    };
}

impl Header {
    /// Every figure, in the order of the databases' columns.
    pub const FIGURES: [Figure; 19] = figures![
        opened_ns: opened_ns,
        closed_ns: closed_ns,
        records: records,
        seen_packets: totals.seen.packets,
        seen_bytes: totals.seen.bytes,
        extrapolated_packets: totals.extrapolated.packets,
        extrapolated_bytes: totals.extrapolated.bytes,
        recorded_packets: totals.recorded.packets,
        recorded_bytes: totals.recorded.bytes,
        outside_packets: totals.outside.packets,
        outside_bytes: totals.outside.bytes,
        skipped_packets: totals.skipped.packets,
        skipped_bytes: totals.skipped.bytes,
        gso_extra_packets: totals.gso_extra.packets,
        gso_extra_bytes: totals.gso_extra.bytes,
        folded_packets: totals.folded.packets,
        folded_bytes: totals.folded.bytes,
        max_entries: max_entries,
        min_pkt_spoof: min_pkt_spoof,
    ];

    /// The header of an epoch of which nothing else is known yet: all figures are 0.
    pub fn new(account: Account, account_id: [u8; 16], epoch: u64, local_net: IpNet) -> Self {
        Self {
            account,
            account_id,
            epoch,
            local_net,
            records: 0,
            opened_ns: 0,
            closed_ns: 0,
            totals: Totals::default(),
            max_entries: 0,
            min_pkt_spoof: 0,
            growth: None,
        }
    }

    /// The time at which all of the epoch counts: the middle of the time that it was open.
    ///
    /// That is within the period in which most of it was counted, whenever it was collected. An
    /// epoch counts when it closed where nothing tells how long it was open: its module is older
    /// than 0.2.0, and its clock was set meanwhile.
    pub fn counted_ns(&self) -> u64 {
        let duration_ns = self.growth.map_or(0, |growth| growth.duration_ns);
        counted_ns(self.opened_ns, self.closed_ns, duration_ns)
    }
}

impl Header {
    /// As [`open_ns`] of its figures.
    pub(crate) fn open_ns(&self) -> u64 {
        let duration_ns = self.growth.map_or(0, |growth| growth.duration_ns);
        open_ns(self.opened_ns, self.closed_ns, duration_ns)
    }
}

/// As [`Header::counted_ns`]; a duration of 0 is not known.
pub(crate) fn counted_ns(opened_ns: u64, closed_ns: u64, duration_ns: u64) -> u64 {
    closed_ns.saturating_sub(open_ns(opened_ns, closed_ns, duration_ns) / 2)
}

/// How long an epoch was open, by a clock that cannot be set where its module tells; 0 where
/// nothing tells.
pub(crate) fn open_ns(opened_ns: u64, closed_ns: u64, duration_ns: u64) -> u64 {
    if duration_ns > 0 {
        return duration_ns;
    }
    let shown = closed_ns.checked_sub(opened_ns);
    shown.filter(|&shown| shown <= LONGEST_NS).unwrap_or(0)
}

impl Totals {
    /// Checks that packets and bytes add up.
    ///
    /// # Errors
    /// [`SnapshotError::Conservation`].
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        for (unit, of) in [
            (
                Unit::Packets,
                (|volume| volume.packets) as fn(Volume) -> u64,
            ),
            (Unit::Bytes, |volume| volume.bytes),
        ] {
            let [seen, extrapolated, recorded, outside, skipped] = [
                self.seen,
                self.extrapolated,
                self.recorded,
                self.outside,
                self.skipped,
            ]
            .map(of);
            let counted = u128::from(seen) + u128::from(extrapolated);
            if counted != u128::from(recorded) + u128::from(outside) + u128::from(skipped) {
                return Err(SnapshotError::Conservation {
                    unit,
                    seen,
                    extrapolated,
                    recorded,
                    outside,
                    skipped,
                });
            }
        }
        Ok(())
    }
}

impl SampleClass {
    /// The classes in the header's order.
    pub const ALL: [Self; trafstat_abi::SAMPLE_CLASSES as usize] =
        [Self::TcpSyn, Self::TcpAny, Self::UdpAny];

    /// The class's name in CSV and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpSyn => "tcp_syn",
            Self::TcpAny => "tcp_any",
            Self::UdpAny => "udp_any",
        }
    }

    /// The IANA number of its packets' protocol.
    pub fn protocol(self) -> u8 {
        match self {
            Self::TcpSyn | Self::TcpAny => 6,
            Self::UdpAny => 17,
        }
    }
}

const _: () = {
    assert!(SampleClass::TcpSyn as u32 == trafstat_abi::SAMPLE_TCP_SYN);
    assert!(SampleClass::TcpAny as u32 == trafstat_abi::SAMPLE_TCP_ANY);
    assert!(SampleClass::UdpAny as u32 == trafstat_abi::SAMPLE_UDP_ANY);
};

impl Growth {
    /// The names of its figures in the database and in files of records.
    pub const COLUMNS: [&'static str; 15] = [
        "duration_ns",
        "unattributed_packets",
        "unattributed_bytes",
        "tcp_syn_sampled_packets",
        "tcp_syn_packet_variance",
        "tcp_syn_byte_variance",
        "tcp_syn_highest_rate",
        "tcp_any_sampled_packets",
        "tcp_any_packet_variance",
        "tcp_any_byte_variance",
        "tcp_any_highest_rate",
        "udp_any_sampled_packets",
        "udp_any_packet_variance",
        "udp_any_byte_variance",
        "udp_any_highest_rate",
    ];
}
