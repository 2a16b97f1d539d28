// SPDX-License-Identifier: GPL-2.0-or-later
//! Sampling: a rule may count one packet in N, N times.
//!
//! Each packet is taken or not by an independent decision of probability 1/N (RFC 5475,
//! section 5.2.2.2), so nothing that traffic does can be in step with it, and rules of
//! different rates in one account do not disturb each other. The randomness is a keyed
//! hash of the epoch, the CPU and the packet's number. In the kernel the key is secret and
//! random; for a capture it is made from the account's id, so that a capture that is
//! collected again gives the same figures.

use trafstat_abi::RuleInfo;

use crate::hash::fold;
use crate::parse::transport::{TCP, UDP};

/// Odd constants of wyhash: half of each one's bits are set.
const STEP: u64 = 0xa076_1d64_78bd_642f;
const SPREAD: u64 = 0xe703_7ed1_a0b4_28db;

/// The rates of a rule: one in that many packets; 0 and 1 count every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// TCP packets with SYN and without ACK.
    pub tcp_syn: u32,
    /// All TCP packets, SYN ones only where `tcp_syn` is 0.
    pub tcp_any: u32,
    /// UDP packets.
    pub udp_any: u32,
}

/// The packets that are sampled at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleClass {
    /// TCP with SYN and without ACK, under a `tcp_syn` of its own.
    TcpSyn = trafstat_abi::SAMPLE_TCP_SYN as isize,
    /// Other TCP.
    TcpAny = trafstat_abi::SAMPLE_TCP_ANY as isize,
    /// UDP.
    UdpAny = trafstat_abi::SAMPLE_UDP_ANY as isize,
}

impl SampleClass {
    /// The number of classes.
    pub const COUNT: usize = trafstat_abi::SAMPLE_CLASSES as usize;
}

impl Sampling {
    /// The sampling that a rule asks for.
    pub fn of_rule(info: &RuleInfo) -> Self {
        Self {
            tcp_syn: info.sample_tcp_syn,
            tcp_any: info.sample_tcp_any,
            udp_any: info.sample_udp_any,
        }
    }

    /// The rate of a packet and its class; `None` where every packet counts.
    #[inline]
    pub fn rate(&self, protocol: u8, syn: bool) -> Option<(u32, SampleClass)> {
        let (rate, class) = match protocol {
            TCP if syn && self.tcp_syn != 0 => (self.tcp_syn, SampleClass::TcpSyn),
            TCP => (self.tcp_any, SampleClass::TcpAny),
            UDP => (self.udp_any, SampleClass::UdpAny),
            _ => return None,
        };
        (rate > 1).then_some((rate, class))
    }
}

/// The key of an account's random decisions.
#[derive(Clone, Copy, Debug)]
pub struct SamplingKey(pub [u64; 2]);

/// Where a packet stands in an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketNumber {
    /// The epoch that it counts in.
    pub epoch: u64,
    /// The CPU that counts it.
    pub cpu: u32,
    /// The number of packets that the CPU has seen in the epoch.
    pub packet: u64,
}

impl SamplingKey {
    /// The key of a capture's account, which is the same whenever the capture is read.
    pub fn of_account(id: &[u8; 16]) -> Self {
        let id = u128::from_le_bytes(*id);
        Self([id as u64, (id >> 64) as u64])
    }

    /// Whether the packet is taken, which it is with probability 1/`rate`.
    #[inline]
    pub fn takes(&self, number: PacketNumber, rate: u32) -> bool {
        // The uppermost bits of the product are the draw scaled to 0..rate.
        (u128::from(self.draw(number)) * u128::from(rate)) >> 64 == 0
    }

    /// 64 random bits for one packet.
    #[inline]
    fn draw(&self, PacketNumber { epoch, cpu, packet }: PacketNumber) -> u64 {
        let Self([first, second]) = *self;
        let stream = fold(
            epoch.wrapping_mul(STEP) ^ first ^ SPREAD,
            u64::from(cpu).wrapping_mul(SPREAD) ^ second ^ STEP,
        );
        let state = stream.wrapping_add(packet.wrapping_mul(STEP));
        let mixed = fold(state ^ first, state ^ second ^ SPREAD);
        fold(mixed ^ STEP, stream ^ SPREAD)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn keys(n: u64) -> impl Iterator<Item = SamplingKey> {
        (0..n).map(|seed| SamplingKey([seed, seed.wrapping_mul(STEP) ^ 0x5555]))
    }

    fn number(packet: u64) -> PacketNumber {
        PacketNumber {
            epoch: 1,
            cpu: 0,
            packet,
        }
    }

    /// How far a binomial count is from its mean, in standard deviations.
    fn deviation(count: u64, trials: u64, probability: f64) -> f64 {
        let trials = trials as f64;
        (count as f64 - trials * probability) / (trials * probability * (1.0 - probability)).sqrt()
    }

    #[test]
    fn one_packet_in_n_is_taken_on_average() {
        for rate in [2, 3, 10, 100, 1000] {
            let trials = 100 * u64::from(rate);
            let mut squares = 0.0;
            for key in keys(200) {
                let taken = (0..trials).filter(|packet| key.takes(number(*packet), rate));
                let off = deviation(taken.count() as u64, trials, 1.0 / f64::from(rate));
                assert!(off.abs() < 5.0, "one in {rate}: {off} standard deviations");
                squares += off * off;
            }
            // Of 200 independent counts: neither more regular nor more irregular than chance.
            let variance = squares / 200.0;
            assert!((0.6..1.5).contains(&variance), "one in {rate}: {variance}");
        }
    }

    #[test]
    fn decisions_are_independent_at_any_distance() {
        const TRIALS: u64 = 200_000;
        for key in keys(20) {
            let taken: Vec<_> = (0..TRIALS).map(|n| key.takes(number(n), 4)).collect();
            for distance in [1, 2, 3, 4, 7, 8, 16, 100, 256, 1000, 1024] {
                let both = taken.iter().zip(&taken[distance..]);
                let both = both.filter(|(a, b)| **a && **b).count() as u64;
                let off = deviation(both, TRIALS - distance as u64, 1.0 / 16.0);
                assert!(off.abs() < 5.0, "distance {distance}: {off}");
            }
        }
    }

    #[test]
    fn cpus_and_epochs_decide_differently() {
        const TRIALS: u64 = 100_000;
        for key in keys(20) {
            for (epoch, cpu) in [(2, 0), (1, 1), (1, 2), (3, 0), (1 << 40, 0), (1, 4095)] {
                let both = (0..TRIALS).filter(|packet| {
                    let other = PacketNumber {
                        epoch,
                        cpu,
                        packet: *packet,
                    };
                    key.takes(number(*packet), 4) && key.takes(other, 4)
                });
                let off = deviation(both.count() as u64, TRIALS, 1.0 / 16.0);
                assert!(off.abs() < 5.0, "epoch {epoch} on CPU {cpu}: {off}");
            }
        }
    }

    #[test]
    fn rate_of_syn_is_its_own_only_where_it_is_given() {
        let sampling = Sampling {
            tcp_syn: 0,
            tcp_any: 10,
            udp_any: 1,
        };
        assert_eq!(sampling.rate(TCP, true), Some((10, SampleClass::TcpAny)));
        assert_eq!(sampling.rate(UDP, false), None);
        let sampling = Sampling {
            tcp_syn: 5,
            ..sampling
        };
        assert_eq!(sampling.rate(TCP, true), Some((5, SampleClass::TcpSyn)));
        assert_eq!(sampling.rate(TCP, false), Some((10, SampleClass::TcpAny)));
        assert_eq!(sampling.rate(1, false), None);
    }
}
