//! `cargo +nightly fuzz run router`
#![no_main]

mod router;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| router::live(bytes));
