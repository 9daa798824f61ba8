//! `cargo +nightly fuzz run config`
#![no_main]

mod config;
mod scene;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| config::read(bytes));
