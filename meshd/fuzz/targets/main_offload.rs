//! `cargo +nightly fuzz run offload`
#![no_main]

mod bytes;
mod offload;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offload::pass(bytes));
