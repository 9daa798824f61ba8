//! `cargo +nightly fuzz run conversation`
#![no_main]

mod conversation;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conversation::converse(bytes));
