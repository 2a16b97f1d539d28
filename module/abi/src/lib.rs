// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT
//! The binary interface of xt_TRAFSTAT: rule info, snapshot header and record.
//!
//! Layouts, units and byte order are stated once, in `module/uapi/xt_TRAFSTAT.h`;
//! the types here are generated from it by `cargo xtask abi`, and a build in which
//! the two differ fails. Only the functions of a rule's bytes are written by hand (`rule.rs`).
#![no_std]
#![forbid(unsafe_code)]

#[rustfmt::skip]
#[allow(missing_docs, non_camel_case_types)]
mod generated;
mod rule;

pub use generated::*;
