//! `cargo +nightly fuzz run admin`
#![no_main]

mod admin;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| admin::ask(bytes));
