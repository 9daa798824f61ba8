//! `cargo +nightly fuzz run packets`
#![no_main]

mod bytes;
mod packets;
mod scene;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packets::carry(bytes));
