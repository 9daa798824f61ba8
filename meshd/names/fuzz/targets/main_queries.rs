//! `cargo fuzz run queries`
#![no_main]

mod queries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| queries::ask(bytes));
