//! `cargo fuzz run packets`
#![no_main]

mod packets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packets::judge(bytes));
