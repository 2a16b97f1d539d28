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
