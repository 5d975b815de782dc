//! The decoder `config_json` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wink_decoders::run("config_json", bytes));
