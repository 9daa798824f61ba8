//! `cargo +nightly fuzz run beacon`
#![no_main]

mod beacon;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| beacon::hear(bytes));
