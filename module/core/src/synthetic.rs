// SPDX-License-Identifier: GPL-2.0-or-later
//! Packets and accounts in user space, for tests and benches.

use std::vec::Vec;

use trafstat_abi::PortList;

use crate::account::{Account, Environment, Identity, Keys, Limits, Packet, Timestamp};
use crate::classify::Ipv4;
use crate::hash::HashKey;
use crate::memory::{Memory, StdMemory};
use crate::rule::Rule;
use crate::sampling::{Sampling, SamplingKey};

/// An IPv4 account.
pub type Ipv4Account<M = StdMemory> = Account<M, Ipv4, 2>;

/// Nobody else runs while an epoch is closed.
#[derive(Debug)]
pub struct SingleThread;

impl Environment for SingleThread {
    fn wait_for_writers(&self) {}
    fn go_on(&self) -> bool {
        true
    }
}

/// Closes the open epoch, and returns the one to be read.
pub fn close_alone<M: Memory<Guard = ()>>(account: &Ipv4Account<M>) -> u64 {
    let closed = account.close(Timestamp::of_one_clock(2), &SingleThread, &());
    closed.unwrap_or_default()
}

/// A flow by its two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// IANA protocol number.
    pub protocol: u8,
    /// Local address.
    pub local: [u8; 4],
    /// Remote address.
    pub remote: [u8; 4],
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
}

/// An account of 10.0.0.0/8 on CPUs 0 to `cpus` - 1.
pub fn account(limits: Limits, cpus: u32) -> Ipv4Account {
    let key = HashKey([0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 3, 4, 5, 6]);
    account_on(limits, key, (), cpus, |_| true)
}

/// The hash key matters; packets are sampled by one and the same key.
impl From<HashKey> for Keys {
    fn from(hash: HashKey) -> Self {
        let sampling = SamplingKey([1, 2]);
        Self { hash, sampling }
    }
}

/// The same with these keys and this payer, on those CPUs for which `has_cpu` says so.
pub fn account_on<M: Memory<Guard = ()>>(
    limits: Limits,
    keys: impl Into<Keys>,
    payer: M::Payer,
    cpus: u32,
    has_cpu: impl Fn(u32) -> bool,
) -> Ipv4Account<M> {
    let mut local_addr = [0; 16];
    local_addr[0] = 10;
    let identity = Identity {
        id: [7; 16],
        name: [b'a'; 32],
        local_addr,
        prefix_len: 8,
    };
    let account = Account::new(
        identity,
        keys.into(),
        limits,
        payer,
        Timestamp::of_one_clock(1),
    );
    account.allocate(cpus, has_cpu, &());
    account
}

/// A rule that tells all ports apart.
pub fn rule<M: Memory<Guard = ()>>(sampling: Sampling, payer: M::Payer) -> Option<Rule<M>> {
    let all = PortList {
        mode: trafstat_abi::PORTS_ALL as u16,
        ..Default::default()
    };
    Rule::new(&[all; 4], &[], sampling, payer, &())
}

/// `n` different flows of 10.0.0.0/8, a third of them UDP, the others TCP.
pub fn flows(n: u32) -> impl Iterator<Item = Flow> {
    (0..n).map(|i| {
        let [a, b, c, d] = i.wrapping_mul(0x9e37_79b1).to_be_bytes();
        Flow {
            protocol: if i % 3 == 0 { 17 } else { 6 },
            local: [10, a, b, 1],
            remote: [192, c, d, 2],
            local_port: i as u16,
            remote_port: (i >> 8) as u16,
        }
    })
}

/// The first 40 bytes of a flow's TCP or UDP packet.
pub fn header(flow: &Flow, sent: bool, syn: bool) -> [u8; 40] {
    let local = (flow.local, flow.local_port);
    let remote = (flow.remote, flow.remote_port);
    let ((src, src_port), (dst, dst_port)) = if sent {
        (local, remote)
    } else {
        (remote, local)
    };
    let mut bytes = Vec::from([0x45, 0, 0, 40, 0, 0, 0, 0, 64, flow.protocol, 0, 0]);
    bytes.extend(src.into_iter().chain(dst));
    bytes.extend(
        src_port
            .to_be_bytes()
            .into_iter()
            .chain(dst_port.to_be_bytes()),
    );
    bytes.extend([0; 9]);
    bytes.push(if syn { 0x02 } else { 0x10 });
    bytes.resize(40, 0);
    bytes.try_into().unwrap_or([0; 40])
}

/// Counts a packet as the kernel does; returns whether the worker should run.
///
/// # Panics
/// Where the account has no such CPU, or a packet is cut off before its ports.
pub fn count<M: Memory<Guard = ()>>(
    account: &Ipv4Account<M>,
    rule: &Rule<M>,
    cpu: u32,
    bytes: &[u8],
    len: u32,
) -> bool {
    let tables = account.tables(cpu, &()).expect("the CPU's tables");
    account
        .count_if_eligible(rule, &tables, bytes, len, &())
        .unwrap_or_else(|| {
            let counted = account.count(rule, cpu, packet(bytes, len), &());
            counted.expect("enough bytes")
        })
}

/// A packet that is not segmented.
pub fn packet(bytes: &[u8], len: u32) -> Packet<'_> {
    Packet {
        bytes,
        len,
        gso: None,
    }
}
