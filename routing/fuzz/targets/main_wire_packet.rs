//! `cargo +nightly fuzz run wire_packet`
#![no_main]

mod wire_packet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire_packet::read(bytes));
