//! `cargo +nightly fuzz run sealing`
#![no_main]

mod sealing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sealing::seal(bytes));
