//! `cargo +nightly fuzz run wire_roundtrip`
#![no_main]

mod wire_roundtrip;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire_roundtrip::pass_on(bytes));
