//! Replays the corpus of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

#[path = "../fuzz/targets/conversation.rs"]
mod conversation;

#[test]
fn conversations_of_the_corpus_end_well() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/conversation");
    let mut count = 0;
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        conversation::converse(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            conversation::converse(&bytes);
        }
        count += 1;
    }
    assert!(count >= 16, "{count} entries of the corpus");
}
