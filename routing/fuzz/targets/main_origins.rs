//! `cargo +nightly fuzz run origins`
#![no_main]

mod origins;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| origins::converse(bytes));
