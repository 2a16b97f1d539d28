#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trafstat_fuzz_targets::rule_blob::run(bytes));
