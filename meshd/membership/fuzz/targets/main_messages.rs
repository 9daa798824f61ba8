//! `cargo fuzz run messages`
#![no_main]

mod messages;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| messages::hear(bytes));
