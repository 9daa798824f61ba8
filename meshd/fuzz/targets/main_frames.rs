//! `cargo +nightly fuzz run frames`
#![no_main]

mod bytes;
mod frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| frames::read(bytes));
