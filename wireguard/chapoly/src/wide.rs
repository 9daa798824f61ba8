//! Sealing and opening by the widest registers there are.

use std::sync::OnceLock;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::chacha20::{self, Block, State};
use crate::poly1305::Once;
use crate::{Forged, Key, Suite, TAG};

/// Shows that the processor has what these functions need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide(());

impl Wide {
    /// If the processor has what it takes.
    pub(crate) fn detect() -> Option<Self> {
        let has_it = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma");
        has_it.then_some(Self(()))
    }

    /// If, besides, it computes what `ring` does, which is tried once.
    pub(crate) fn trusted() -> Option<Self> {
        static TRUSTED: OnceLock<Option<Wide>> = OnceLock::new();
        *TRUSTED.get_or_init(|| Self::detect().filter(|wide| wide.is_right()))
    }

    /// Messages of all the lengths at which another way is taken, sealed by both and opened by the other.
    fn is_right(self) -> bool {
        let [ours, ring] = [Suite::Wide(self), Suite::Ring].map(|suite| Key {
            bytes: Zeroizing::new(std::array::from_fn(|at| (at * 37 + 11) as u8)),
            suite,
        });
        let text: [u8; 2048] = std::array::from_fn(|at| (at * at + at / 7) as u8);
        [
            256, 257, 272, 300, 447, 448, 449, 512, 959, 960, 961, 1_420, 1_424, 1_600, 2_048,
        ]
        .into_iter()
        .zip(u64::from(u32::MAX) - 3..)
        .all(|(length, counter)| {
            let text = &text[..length];
            let mut sealed = [0; 2048 + TAG];
            let mut theirs = [0; 2048 + TAG];
            let (sealed, theirs) = (&mut sealed[..length + TAG], &mut theirs[..length + TAG]);
            ours.seal(counter, text, sealed);
            ring.seal(counter, text, theirs);
            let mut out = [0; 2048];
            let opens = ours
                .open(counter, theirs, &mut out)
                .is_ok_and(|out| *out == *text);
            theirs[length / 2] ^= 1;
            let refuses = ours.open(counter, theirs, &mut out).is_err();
            theirs[length / 2] ^= 1;
            opens && refuses && sealed == theirs
        })
    }
}

#[expect(
    unsafe_code,
    reason = "what needs features of a processor is called here only"
)]
impl Wide {
    #[cfg(test)]
    pub(crate) fn tag(self, once: &[u8; 32], text: &[u8]) -> [u8; TAG] {
        // SAFETY: there is no `Wide` on a processor without these features.
        unsafe { Once::new(once).tag(text) }
    }

    pub(crate) fn seal(
        self,
        key: &[u8; 32],
        counter: u64,
        packet: &[u8],
        text: &mut [u8],
    ) -> [u8; TAG] {
        // SAFETY: there is no `Wide` on a processor without these features.
        unsafe { seal(key, counter, packet, text) }
    }

    pub(crate) fn open(
        self,
        key: &[u8; 32],
        counter: u64,
        text: &[u8],
        tag: &[u8; TAG],
        out: &mut [u8],
    ) -> Result<(), Forged> {
        // SAFETY: there is no `Wide` on a processor without these features.
        unsafe { open(key, counter, text, tag, out) }
    }
}

/// The bytes of `text`, or zeros where there are none left, with the keystream added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn add(text: &[u8], keystream: &[u8], out: &mut [u8]) {
    let both = text.len().min(out.len());
    let (head, zeros) = out.split_at_mut(both);
    let (head_stream, zeros_stream) = keystream.split_at(both);
    for ((out, text), key) in head.iter_mut().zip(text).zip(head_stream) {
        *out = text ^ key;
    }
    zeros.copy_from_slice(&zeros_stream[..zeros.len()]);
}

/// A text on its way through the cipher.
struct Text<'a> {
    rest: &'a [u8],
    out: &'a mut [u8],
}

impl Text<'_> {
    /// Adds some of the keystream to as much of the text.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn add(&mut self, keystream: &[u8]) {
        let out = std::mem::take(&mut self.out);
        let length = keystream.len().min(out.len());
        let (now, later) = out.split_at_mut(length);
        add(self.rest, &keystream[..length], now);
        self.out = later;
        self.rest = self.rest.get(length..).unwrap_or_default();
    }
}

/// What the beginning of a message is sealed with, of as many blocks as it takes if they are not too many.
enum Beginning {
    Short([Block; 8]),
    Middle([Block; 16]),
    Full([Block; 16], [Block; 8]),
}

impl Beginning {
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn new(state: &State, length: usize) -> Self {
        match length / 64 {
            0..7 => Self::Short(chacha20::eight(state, 0)),
            7..15 => Self::Middle(chacha20::sixteen(state, 0)),
            _ => {
                let (first, then) = chacha20::twenty_four(state, 0);
                Self::Full(first, then)
            }
        }
    }

    /// The key of the tag, from the first block, which adds to no text.
    fn once(&self) -> &[u8; 32] {
        let (Self::Short([first, ..]) | Self::Middle([first, ..]) | Self::Full([first, ..], _)) =
            self;
        first.first_chunk().expect("a block is longer")
    }

    /// Adds this and all that follows on it to a text.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn cipher(&self, state: &State, rest: &[u8], out: &mut [u8]) {
        let mut text = Text { rest, out };
        match self {
            Self::Short([_, blocks @ ..]) => text.add(blocks.as_flattened()),
            Self::Middle([_, blocks @ ..]) => text.add(blocks.as_flattened()),
            Self::Full([_, first @ ..], then) => {
                text.add(first.as_flattened());
                text.add(then.as_flattened());
                let mut from = 24;
                while !text.out.is_empty() {
                    text.add(chacha20::sixteen(state, from).as_flattened());
                    from += 16;
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn seal(key: &[u8; 32], counter: u64, packet: &[u8], text: &mut [u8]) -> [u8; TAG] {
    let state = State::new(key, counter);
    let beginning = Beginning::new(&state, text.len());
    let once = Once::new(beginning.once());
    beginning.cipher(&state, packet, text);
    once.tag(text)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn open(
    key: &[u8; 32],
    counter: u64,
    text: &[u8],
    tag: &[u8; TAG],
    out: &mut [u8],
) -> Result<(), Forged> {
    let state = State::new(key, counter);
    let beginning = Beginning::new(&state, text.len());
    let once = Once::new(beginning.once());
    if bool::from(once.tag(text).ct_eq(tag)) {
        beginning.cipher(&state, text, out);
        Ok(())
    } else {
        Err(Forged)
    }
}
