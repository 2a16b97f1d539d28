//! The iptables extension `TRAFSTAT`, loaded by libxtables as `libxt_TRAFSTAT.so`.
//!
//! ```text
//! command line ─▶ sys ─▶ options ─▶ { local_net, ports, name } ─▶ RuleInfo ─▶ kernel
//! iptables -L, iptables-save ◀─ sys ◀─ render ◀───────────────── RuleInfo ◀─┘
//! ```
//!
//! `sys` alone speaks to libxtables and has all unsafe code; every other module is
//! safe Rust over `trafstat_abi::RuleInfo` and returns what is wrong as text.

// The library's name is the file name that libxtables looks for.
#![allow(non_snake_case)]

mod decimal;
mod local_net;
mod name;
mod options;
mod ports;
mod render;
// Registers itself when it is loaded, and a test program is no iptables.
#[cfg(not(test))]
mod sys;
#[cfg(test)]
mod t_file;
