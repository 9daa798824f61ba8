//! `cargo +nightly fuzz run paths`
#![no_main]

mod bytes;
mod paths;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paths::seek(bytes));
