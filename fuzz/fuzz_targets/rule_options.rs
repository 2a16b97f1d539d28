#![no_main]
// SPDX-License-Identifier: GPL-2.0-or-later

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trafstat_fuzz_targets::rule_options::run(bytes));
