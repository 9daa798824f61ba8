//! ChaCha20 (RFC 8439, section 2.3), sixteen or eight blocks side by side: one register holds the same word of each of them.
//!
//! Adding, rotating and exclusive-or are all it does, in an order that depends on nothing, so its time tells nothing of the key.

use core::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_permute2x128_si256, _mm256_rol_epi32,
    _mm256_set1_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use zerocopy::transmute;

/// What is added to 64 bytes of a text.
pub(crate) type Block = [u8; 64];

/// "expand 32-byte k", the first four words of the state.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The state before the first block: constants, key, block number, nonce.
#[derive(Clone, Copy)]
pub(crate) struct State([u32; 16]);

impl State {
    /// For a nonce as WireGuard has it: four bytes of zero, then the counter of the message.
    pub(crate) fn new(key: &[u8; 32], counter: u64) -> Self {
        let (words, _) = key.as_chunks::<4>();
        let mut state = [0; 16];
        state[..4].copy_from_slice(&CONSTANTS);
        for (word, bytes) in state[4..12].iter_mut().zip(words) {
            *word = u32::from_le_bytes(*bytes);
        }
        state[14] = counter as u32;
        state[15] = (counter >> 32) as u32;
        Self(state)
    }

    /// The same for sixteen blocks from number `from` on.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn wide(&self, from: u32) -> [__m512i; 16] {
        let order: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut words = self.0.map(|word| _mm512_set1_epi32(word.cast_signed()));
        words[12] = _mm512_add_epi32(_mm512_set1_epi32(from.cast_signed()), transmute!(order));
        words
    }

    /// For eight blocks.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn narrow(&self, from: u32) -> [__m256i; 16] {
        let order: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
        let mut words = self.0.map(|word| _mm256_set1_epi32(word.cast_signed()));
        words[12] = _mm256_add_epi32(_mm256_set1_epi32(from.cast_signed()), transmute!(order));
        words
    }
}

/// A quarter of a quarter round, by four of them together: the processor always has four steps that do not wait for each other.
macro_rules! step {
    ($v:ident $add:ident $xor:ident $rotate:ident $n:literal, $([$to:literal $from:literal $turned:literal])*) => {
        $($v[$to] = $add($v[$to], $v[$from]);)*
        $($v[$turned] = $xor($v[$turned], $v[$to]);)*
        $($v[$turned] = $rotate::<$n>($v[$turned]);)*
    };
}

/// A double round, each step of it by one kind of registers and then by the other, if there are two.
macro_rules! double_round {
    ($($v:ident $add:ident $xor:ident $rotate:ident),*) => {
        $(step!($v $add $xor $rotate 16, [0 4 12] [1 5 13] [2 6 14] [3 7 15]);)*
        $(step!($v $add $xor $rotate 12, [8 12 4] [9 13 5] [10 14 6] [11 15 7]);)*
        $(step!($v $add $xor $rotate 8, [0 4 12] [1 5 13] [2 6 14] [3 7 15]);)*
        $(step!($v $add $xor $rotate 7, [8 12 4] [9 13 5] [10 14 6] [11 15 7]);)*
        $(step!($v $add $xor $rotate 16, [0 5 15] [1 6 12] [2 7 13] [3 4 14]);)*
        $(step!($v $add $xor $rotate 12, [10 15 5] [11 12 6] [8 13 7] [9 14 4]);)*
        $(step!($v $add $xor $rotate 8, [0 5 15] [1 6 12] [2 7 13] [3 4 14]);)*
        $(step!($v $add $xor $rotate 7, [10 15 5] [11 12 6] [8 13 7] [9 14 4]);)*
    };
}

/// Of each four registers of words: four of whole quarters of blocks, the first of them of blocks 0, 4, 8 and 12.
macro_rules! quarters {
    ($v:ident, $low32:ident, $high32:ident, $low64:ident, $high64:ident) => {
        [0, 4, 8, 12].map(|at| {
            let (a, b, c, d) = ($v[at], $v[at + 1], $v[at + 2], $v[at + 3]);
            let (ab, cd) = ($low32(a, b), $low32(c, d));
            let (ab_high, cd_high) = ($high32(a, b), $high32(c, d));
            [
                $low64(ab, cd),
                $high64(ab, cd),
                $low64(ab_high, cd_high),
                $high64(ab_high, cd_high),
            ]
        })
    };
}

/// Eight blocks, from block number `from` on.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(crate) fn eight(state: &State, from: u32) -> [Block; 8] {
    let start = state.narrow(from);
    let mut v = start;
    for _ in 0..10 {
        double_round!(v _mm256_add_epi32 _mm256_xor_si256 _mm256_rol_epi32);
    }
    narrow(start, v)
}

/// Sixteen blocks.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn sixteen(state: &State, from: u32) -> [Block; 16] {
    let start = state.wide(from);
    let mut v = start;
    for _ in 0..10 {
        double_round!(v _mm512_add_epi32 _mm512_xor_si512 _mm512_rol_epi32);
    }
    wide(start, v)
}

/// Twenty-four blocks: what a packet of full size takes. Eight alone would leave the processor waiting.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(crate) fn twenty_four(state: &State, from: u32) -> ([Block; 16], [Block; 8]) {
    let (wide_start, narrow_start) = (state.wide(from), state.narrow(from + 16));
    let (mut v, mut w) = (wide_start, narrow_start);
    for _ in 0..10 {
        double_round!(
            v _mm512_add_epi32 _mm512_xor_si512 _mm512_rol_epi32,
            w _mm256_add_epi32 _mm256_xor_si256 _mm256_rol_epi32
        );
    }
    (wide(wide_start, v), narrow(narrow_start, w))
}

/// Adds the first state and turns words of sixteen blocks into blocks of sixteen words.
#[target_feature(enable = "avx512f")]
#[inline]
fn wide(start: [__m512i; 16], mut v: [__m512i; 16]) -> [Block; 16] {
    for (word, first) in v.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, first);
    }
    let parts = quarters!(
        v,
        _mm512_unpacklo_epi32,
        _mm512_unpackhi_epi32,
        _mm512_unpacklo_epi64,
        _mm512_unpackhi_epi64
    );
    let mut out = [v[0]; 16];
    for j in 0..4 {
        let [a, b, c, d] = parts.map(|part| part[j]);
        let (ab, ab_odd) = (
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        );
        let (cd, cd_odd) = (
            _mm512_shuffle_i32x4::<0x88>(c, d),
            _mm512_shuffle_i32x4::<0xdd>(c, d),
        );
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        out[j + 4] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[j + 8] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        out[j + 12] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    transmute!(out)
}

/// The same of eight blocks.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn narrow(start: [__m256i; 16], mut v: [__m256i; 16]) -> [Block; 8] {
    for (word, first) in v.iter_mut().zip(start) {
        *word = _mm256_add_epi32(*word, first);
    }
    let parts = quarters!(
        v,
        _mm256_unpacklo_epi32,
        _mm256_unpackhi_epi32,
        _mm256_unpacklo_epi64,
        _mm256_unpackhi_epi64
    );
    let mut out = [[v[0]; 2]; 8];
    for j in 0..4 {
        let [a, b, c, d] = parts.map(|part| part[j]);
        out[j] = [
            _mm256_permute2x128_si256::<0x20>(a, b),
            _mm256_permute2x128_si256::<0x20>(c, d),
        ];
        out[j + 4] = [
            _mm256_permute2x128_si256::<0x31>(a, b),
            _mm256_permute2x128_si256::<0x31>(c, d),
        ];
    }
    transmute!(out)
}
