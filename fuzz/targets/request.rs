//! The decoder `request` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wink_decoders::run("request", bytes));
