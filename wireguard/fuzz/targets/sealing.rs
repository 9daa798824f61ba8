//! A message sealed and opened by both suites of `chapoly`: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use chapoly::{Key, TAG};

/// Key, counter, bytes of padding and which bit is changed; the rest is the packet.
pub(crate) fn seal(bytes: &[u8]) {
    let Some((key, rest)) = bytes.split_first_chunk::<32>() else {
        return;
    };
    let Some((counter, rest)) = rest.split_first_chunk() else {
        return;
    };
    let Some(([padding, change @ ..], packet)) = rest.split_first_chunk::<3>() else {
        return;
    };
    let counter = u64::from_le_bytes(*counter);
    let length = packet.len() + usize::from(padding % 32);
    let keys = [Key::new((*key).into()), Key::by_ring((*key).into())];
    let [mut best, ring] = keys.each_ref().map(|key| {
        let mut sealed = vec![0; length + TAG];
        key.seal(counter, packet, &mut sealed);
        sealed
    });
    assert_eq!(best, ring);
    let mut out = vec![0; length];
    for key in &keys {
        let opened = key.open(counter, &best, &mut out).map(|text| text.to_vec());
        let opened = opened.expect("what was sealed opens");
        assert!(opened.starts_with(packet) && opened[packet.len()..].iter().all(|byte| *byte == 0));
    }
    let bit = usize::from(u16::from_le_bytes(*change)) % (best.len() * 8);
    best[bit / 8] ^= 1 << (bit % 8);
    for key in &keys {
        assert!(key.open(counter, &best, &mut out).is_err(), "bit {bit}");
    }
}
