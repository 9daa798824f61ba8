//! Replays the corpora of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[path = "../fuzz/targets/admin.rs"]
mod admin;
#[path = "../fuzz/targets/beacon.rs"]
mod beacon;
#[path = "../fuzz/targets/bytes.rs"]
mod bytes;
#[path = "../fuzz/targets/config.rs"]
mod config;
#[path = "../fuzz/targets/datagrams.rs"]
mod datagrams;
#[path = "../fuzz/targets/frames.rs"]
mod frames;
#[path = "../fuzz/targets/offload.rs"]
mod offload;
#[path = "../fuzz/targets/packets.rs"]
mod packets;
#[path = "../fuzz/targets/paths.rs"]
mod paths;
#[path = "../fuzz/targets/scene.rs"]
mod scene;

/// Gives every entry of a corpus to `target`, and then with ever more bytes changed.
fn replay(name: &str, target: impl Fn(&[u8])) {
    let corpus = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 16, "{} entries of the corpus", files.len());
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        target(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            target(&bytes);
        }
    }
}

#[test]
fn what_clients_wrote_is_asked_again() {
    replay("admin", admin::ask);
}

#[test]
fn beacons_are_heard_again() {
    replay("beacon", beacon::hear);
}

#[test]
fn configurations_are_read_again() {
    replay("config", config::read);
}

#[test]
fn datagrams_are_sorted_again() {
    replay("datagrams", datagrams::sort);
}

#[test]
fn streams_are_read_again() {
    replay("frames", frames::read);
}

#[test]
fn frames_are_split_and_coalesced_again() {
    replay("offload", offload::pass);
}

#[test]
fn packets_are_carried_again() {
    replay("packets", packets::carry);
}

#[test]
fn paths_are_sought_again() {
    replay("paths", paths::seek);
}
