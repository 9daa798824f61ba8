//! `cargo +nightly fuzz run datagrams`
#![no_main]

mod bytes;
mod datagrams;
mod scene;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| datagrams::sort(bytes));
