//! Replays the corpus of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test, which may fail by panic"
)]

#[path = "../fuzz/targets/packets.rs"]
mod packets;

#[test]
fn packets_are_judged_again() {
    let corpus = format!("{}/fuzz/corpus/packets", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(corpus).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 16, "{} entries of the corpus", files.len());
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        packets::judge(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            packets::judge(&bytes);
        }
    }
}
