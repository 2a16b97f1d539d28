// SPDX-License-Identifier: GPL-2.0-or-later
//! The iptables extension `TRAFSTAT`, loaded by libxtables as `libxt_TRAFSTAT.so`.
//!
//! ```text
//! command line ─▶ sys ─▶ trafstat-rule ─▶ RuleInfo ─▶ kernel
//! iptables -L, iptables-save ◀─ sys ◀─ trafstat-rule ◀─ RuleInfo ◀─┘
//! ```
//!
//! `sys` alone speaks to libxtables and has all unsafe code; the options themselves are
//! the crate `trafstat-rule`, safe Rust over `trafstat_abi::RuleInfo`.

// The library's name is the file name that libxtables looks for.
#![allow(non_snake_case)]

// Registers itself when it is loaded, and a test program is no iptables.
#[cfg(not(test))]
mod sys;
