//! Replays the corpus of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs;
use std::path::Path;

#[path = "../fuzz/targets/origins.rs"]
mod origins;
#[path = "../fuzz/targets/router.rs"]
mod router;
#[path = "../fuzz/targets/wire_packet.rs"]
mod wire_packet;
#[path = "../fuzz/targets/wire_roundtrip.rs"]
mod wire_roundtrip;

/// Gives every entry of a target's corpus, and what is left of it after small changes, to the target.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        run(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            run(&bytes);
        }
    }
    assert!(files.len() >= 32, "{} entries of the corpus", files.len());
}

#[test]
fn conversations_about_origins_end_well() {
    replay("origins", origins::converse);
}

#[test]
fn a_router_lives_through_the_corpus() {
    replay("router", router::live);
}

#[test]
fn packets_of_the_corpus_do_no_harm() {
    replay("wire_packet", wire_packet::read);
}

#[test]
fn what_the_corpus_says_is_passed_on_unchanged() {
    replay("wire_roundtrip", wire_roundtrip::pass_on);
}
