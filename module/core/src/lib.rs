// SPDX-License-Identifier: GPL-2.0-or-later
//! Traffic accounting from packet to snapshot.
//!
//! The same code runs in the kernel module, under criterion and proptest, and on
//! recorded traffic. It decides everything and owns nothing: memory, grace periods,
//! clocks and random numbers come from outside.
//!
//! ```text
//! bytes ─ parse ─▶ Tuple ─ classify ─▶ FlowKey, Direction ─ flow_table ─▶ FlowCounters
//!                                                               │ account closes an epoch
//!                                              csv ◀─ snapshot ◀┘
//! ```
//!
//! No function here panics when it is compiled for the kernel: the module's link
//! fails on any panic path.
//!
//! # Example
//!
//! A packet of UDP is counted into an account of 192.0.2.0/24, on the one CPU that there is. Then
//! the epoch is closed, read and acknowledged:
//!
//! ```
//! use trafstat_core::account::{Account, Identity, Keys, Limits, Packet, Timestamp};
//! use trafstat_core::classify::Ipv4;
//! use trafstat_core::hash::HashKey;
//! use trafstat_core::memory::StdMemory;
//! use trafstat_core::rule::Rule;
//! use trafstat_core::sampling::{Sampling, SamplingKey};
//! use trafstat_core::snapshot::{self, Binary, Cursor};
//! use trafstat_core::synthetic::SingleThread;
//! use zerocopy::FromBytes;
//!
//! let identity = Identity {
//!     id: [1; 16],
//!     name: [0; 32],
//!     local_addr: [192, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
//!     prefix_len: 24,
//! };
//! let keys = Keys { hash: HashKey([1, 2, 3, 4, 5, 6]), sampling: SamplingKey([7, 8]) };
//! let limits = Limits::of_options(0, 0);
//! let (memory, payer, now) = ((), (), Timestamp::of_one_clock(1_000));
//! let account = Account::<StdMemory, Ipv4, 2>::new(identity, keys, limits, payer, now);
//! assert!(account.allocate(1, |_| true, &memory));
//!
//! // Of UDP, all ports of the remote side keep their number.
//! let mut ports = [trafstat_abi::PortList::default(); 4];
//! ports[3].mode = trafstat_abi::PORTS_ALL as u16;
//! let rule = Rule::new(&ports, &[], Sampling::default(), payer, &memory).unwrap();
//!
//! let bytes = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, // IPv4, 28 bytes, UDP
//!     192, 0, 2, 1, 198, 51, 100, 7, // from the local net
//!     0x9c, 0x40, 0, 53, 0, 8, 0, 0, // to port 53
//! ];
//! let packet = Packet { bytes: &bytes, len: 28, gso: None };
//! account.count(&rule, 0, packet, &memory).unwrap();
//!
//! let epoch = account.close(Timestamp::of_one_clock(2_000), &SingleThread, &memory).unwrap();
//! let closed = account.closed(&memory).unwrap();
//! let mut served = [0; 1024];
//! let len = snapshot::read(&closed, &Binary, &mut Cursor::default(), 0, &mut served).unwrap();
//! let (header, rest) = trafstat_abi::SnapshotHeader::read_from_prefix(&served[..len]).unwrap();
//! assert_eq!((header.seen_packets, header.seen_bytes, header.records), (1, 28, 1));
//! let (record, _) = trafstat_abi::RecordIpv4::read_from_prefix(rest).unwrap();
//! assert_eq!((record.local_ip, record.local_port), ([192, 0, 2, 1], 0));
//! assert_eq!((record.remote_ip, record.remote_port), ([198, 51, 100, 7], 53));
//! assert_eq!((record.sent_packets, record.sent_bytes), (1, 28));
//!
//! account.acknowledge(epoch, &memory).unwrap();
//! assert!(account.closed(&memory).is_none());
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "std", loom))]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("records are laid out as the ABI has them on little-endian machines only");

pub mod account;
pub mod classify;
pub mod csv;
pub mod flow_table;
pub mod hash;
pub mod memory;
pub mod parse;
pub mod rule;
pub mod sampling;
pub mod snapshot;
pub mod sync;
#[cfg(any(test, feature = "std"))]
pub mod synthetic;
pub mod wire;
