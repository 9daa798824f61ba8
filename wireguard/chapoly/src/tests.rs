use proptest::prelude::*;

use super::*;

/// What RustCrypto makes of it, which shares no code with either suite.
fn reference(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    use chacha20poly1305::aead::AeadInPlace as _;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut sealed = text.to_vec();
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_in_place_detached(&nonce.into(), &[], &mut sealed)
        .unwrap();
    sealed.extend(tag);
    sealed
}

fn suites(key: [u8; 32]) -> [Key; 2] {
    [Key::new(key.into()), Key::by_ring(key.into())]
}

fn sealed(key: &Key, counter: u64, text: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0xaa; text.len() + TAG];
    key.seal(counter, text, &mut sealed);
    sealed
}

#[test]
fn every_length_up_to_a_jumbo_frame_is_sealed_as_the_reference_does() {
    let key = std::array::from_fn(|at| (at * 29 + 3) as u8);
    let text: Vec<u8> = (0..9_100_u32)
        .map(|at| ((at * at) >> 3 ^ at) as u8)
        .collect();
    for length in (0..2_200).chain((2_200..text.len()).step_by(97)) {
        let (text, counter) = (&text[..length], length as u64 * 0x1_0000_0001);
        let expected = reference(&key, counter, text);
        for key in suites(key) {
            assert!(sealed(&key, counter, text) == expected, "{length} bytes");
            let mut out = vec![0; length];
            assert!(key.open(counter, &expected, &mut out).unwrap() == text);
        }
    }
}

#[test]
fn no_bit_may_change() {
    for length in [0, 100, WORTHWHILE, 451, 977, 1_424, 1_600] {
        for key in suites([5; 32]) {
            let mut message = sealed(&key, 9, &vec![0x5a; length]);
            let mut out = vec![0; length];
            for bit in 0..message.len() * 8 {
                message[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.open(9, &message, &mut out), Err(Forged), "bit {bit}");
                message[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(key.open(8, &message, &mut out), Err(Forged));
            assert!(key.open(9, &message, &mut out).is_ok());
        }
    }
}

#[test]
fn nothing_is_opened_before_it_is_known_to_be_authentic() {
    for key in suites([5; 32]) {
        let text = [0x5a; 1_424];
        let mut message = sealed(&key, 9, &text);
        message[700] ^= 1;
        let mut out = [0; 1_424];
        assert_eq!(key.open(9, &message, &mut out), Err(Forged));
        let shown = out.iter().zip(&text).filter(|(out, text)| out == text);
        assert!(shown.count() < 100, "the text is in the output");
    }
}

#[test]
fn a_key_is_not_printed() {
    assert_eq!(format!("{:?}", Key::new([5; 32].into())), "Key(..)");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_processor_has_is_used() {
    assert_eq!(wide::Wide::trusted(), wide::Wide::detect());
}

/// Bytes at which sums carry and numbers come close to 2^130 - 5.
fn extreme() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0xff), 2 => Just(0), 1 => Just(0xfb), 1 => Just(0xfc), 1 => any::<u8>()]
}

proptest! {
    #[test]
    fn every_suite_seals_and_opens_as_the_reference_does(
        key: [u8; 32],
        counter: u64,
        text in proptest::collection::vec(any::<u8>(), 0..4_000),
        padding in 0_usize..32,
    ) {
        let mut padded = text.clone();
        padded.resize(text.len() + padding, 0);
        let expected = reference(&key, counter, &padded);
        for key in suites(key) {
            let mut sealed = vec![0xaa; padded.len() + TAG];
            key.seal(counter, &text, &mut sealed);
            prop_assert_eq!(&sealed, &expected);
            let mut out = vec![0; padded.len() + 3];
            prop_assert_eq!(key.open(counter, &sealed, &mut out), Ok(&mut *padded));
        }
    }

    /// One-time keys and texts that no cipher would come to.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tags_are_right_at_the_ends_of_the_field(
        key in proptest::array::uniform32(extreme()),
        is_small: bool,
        text in proptest::collection::vec(extreme(), 0..1_000),
    ) {
        use ::poly1305::Poly1305;
        use ::poly1305::universal_hash::{KeyInit as _, UniversalHash as _};
        let mut key = key;
        if is_small {
            // Sums of blocks alone, with nothing to hide a carry.
            key[..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut padded = text.clone();
        padded.resize(text.len().next_multiple_of(16), 0);
        padded.extend([0; 8]);
        padded.extend((text.len() as u64).to_le_bytes());
        let mut oracle = Poly1305::new(&key.into());
        oracle.update_padded(&padded);
        let expected: [u8; TAG] = oracle.finalize().into();
        if let Some(wide) = wide::Wide::detect() {
            prop_assert_eq!(wide.tag(&key, &text), expected);
        }
    }
}
