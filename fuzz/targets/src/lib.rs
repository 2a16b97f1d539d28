// SPDX-License-Identifier: GPL-2.0-or-later
//! What the fuzz targets do with an input, without a fuzzer.
//!
//! `cargo xtask fuzz` drives them by libFuzzer, under AddressSanitizer; `tests/inputs.rs` by
//! the committed inputs and some that are made of them.

pub mod capture;
pub mod config;
pub mod extension_headers;
pub mod flow_table;
pub mod import;
pub mod parse;
pub mod rule_blob;
pub mod rule_options;
pub mod snapshot;
