// SPDX-License-Identifier: GPL-2.0-or-later
//! The options of a rule: from words to `RuleInfo`, and from there back to words.
//!
//! ```text
//! words ─▶ options ─▶ { local_net, ports, name } ─▶ RuleInfo ─▶ render ─▶ words
//! ```
//!
//! The iptables extension takes rules by this grammar, and so does whatever counts
//! without the kernel module. What is wrong comes back as one line of text.
#![forbid(unsafe_code)]

pub mod command_line;
mod decimal;
#[cfg(test)]
mod documents;
pub mod local_net;
pub mod name;
pub mod options;
pub mod ports;
pub mod render;
#[cfg(test)]
mod t_file;
