//! Replays the corpus of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

#[path = "../fuzz/targets/conversation.rs"]
mod conversation;
#[path = "../fuzz/targets/sealing.rs"]
mod sealing;

/// Runs all entries of a corpus, and ten variants of each.
fn replay(corpus: &str, run: fn(&[u8])) {
    let corpus = format!("{}/fuzz/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        run(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            run(&bytes);
        }
        count += 1;
    }
    assert!(count >= 16, "{count} entries of the corpus");
}

#[test]
fn conversations_of_the_corpus_end_well() {
    replay("conversation", conversation::converse);
}

#[test]
fn both_suites_agree_on_the_corpus() {
    replay("sealing", sealing::seal);
}
