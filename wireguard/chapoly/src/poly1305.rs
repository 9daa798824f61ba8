//! Poly1305 (RFC 8439, section 2.5), eight blocks side by side.
//!
//! A number is three limbs of 44, 44 and 42 bits, which multiply by the instructions for 52 bits with room to spare. With eight lanes,
//! each lane takes every eighth block and multiplies by the eighth power of `r`; in the end lane `i` of them is multiplied by the
//! power that its last block needs, and the lanes are added (Goll and Gueron, "Vectorization of Poly1305 message authentication
//! code", 2015). The blocks stand at the end of what is a multiple of eight, so that the powers are always the same: zeros in front
//! of a message, without the bit that ends a block, count for nothing.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_broadcastq_epi64, _mm512_castsi512_si128,
    _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_blend_epi64, _mm512_or_si512,
    _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use zerocopy::transmute;

const BLOCK: usize = 16;
const LANES: usize = 8;
/// Bytes that are taken at once.
const STRIDE: usize = BLOCK * LANES;

/// Which block of a stride is in which lane, as interleaving its halves gives it.
const ORDER: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The bit beyond each block, 2^128, in the third limb.
const END: u64 = 1 << 40;

const MASK44: u64 = (1 << 44) - 1;
const MASK42: u64 = (1 << 42) - 1;

/// A number modulo 2^130 - 5, not reduced: limbs may have a few bits more than they should.
type Limbs = [u64; 3];

/// Eight of them.
type Lanes = [__m512i; 3];

/// The limbs of 128 bits.
const fn limbs(low: u64, high: u64) -> Limbs {
    [low & MASK44, (low >> 44 | high << 20) & MASK44, high >> 24]
}

/// A factor of lanes: it, and twenty times its upper limbs.
#[derive(Clone, Copy)]
struct Factor {
    limbs: Lanes,
    twenty: [__m512i; 2],
}

impl Factor {
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn new(limbs: Lanes) -> Self {
        let zero = _mm512_setzero_si512();
        let [_, b1, b2] = limbs;
        let twenty = [b1, b2].map(|limb| _mm512_madd52lo_epu64(zero, limb, _mm512_set1_epi64(20)));
        Self { limbs, twenty }
    }
}

/// A sum of products, not carried: lower and upper halves, the upper ones 2^52 as heavy.
#[derive(Clone, Copy)]
struct Products {
    low: Lanes,
    high: Lanes,
}

impl Products {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn none() -> Self {
        let zero = [_mm512_setzero_si512(); 3];
        Self {
            low: zero,
            high: zero,
        }
    }

    /// Adds the product. Up to a dozen of them have room.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn add(self, a: Lanes, factor: &Factor) -> Self {
        let ([a0, a1, a2], [b0, b1, b2], [c1, c2]) = (a, factor.limbs, factor.twenty);
        macro_rules! sums {
            ($sums:expr, $multiply:ident) => {{
                let [s0, s1, s2] = $sums;
                let (s0, s1, s2) = (
                    $multiply(s0, a1, c2),
                    $multiply(s1, a1, b0),
                    $multiply(s2, a1, b1),
                );
                let (s0, s1, s2) = (
                    $multiply(s0, a2, c1),
                    $multiply(s1, a2, c2),
                    $multiply(s2, a2, b0),
                );
                [
                    $multiply(s0, a0, b0),
                    $multiply(s1, a0, b1),
                    $multiply(s2, a0, b2),
                ]
            }};
        }
        Self {
            low: sums!(self.low, _mm512_madd52lo_epu64),
            high: sums!(self.high, _mm512_madd52hi_epu64),
        }
    }

    /// The sum as limbs. Upper halves weigh eight bits more than the next limb; what is beyond the third comes back fivefold.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn carry(self) -> Lanes {
        let ([low0, low1, low2], [high0, high1, high2]) = (self.low, self.high);
        let (mask44, mask42) = (
            _mm512_set1_epi64(MASK44.cast_signed()),
            _mm512_set1_epi64(MASK42.cast_signed()),
        );
        let d1 = _mm512_add_epi64(low1, _mm512_slli_epi64::<8>(high0));
        let d2 = _mm512_add_epi64(low2, _mm512_slli_epi64::<8>(high1));
        let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(low0));
        let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
        let over = _mm512_add_epi64(_mm512_srli_epi64::<42>(d2), _mm512_slli_epi64::<10>(high2));
        let five = _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over));
        let d0 = _mm512_add_epi64(_mm512_and_si512(low0, mask44), five);
        [
            _mm512_and_si512(d0, mask44),
            _mm512_add_epi64(_mm512_and_si512(d1, mask44), _mm512_srli_epi64::<44>(d0)),
            _mm512_and_si512(d2, mask42),
        ]
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn product(a: Lanes, factor: &Factor) -> Lanes {
    Products::none().add(a, factor).carry()
}

#[target_feature(enable = "avx512f")]
#[inline]
fn sum(a: Lanes, b: Lanes) -> Lanes {
    let ([a0, a1, a2], [b0, b1, b2]) = (a, b);
    [
        _mm512_add_epi64(a0, b0),
        _mm512_add_epi64(a1, b1),
        _mm512_add_epi64(a2, b2),
    ]
}

/// The powers of `r` that are needed.
struct Powers {
    eighth: Factor,
    sixteenth: Factor,
    /// In each lane that of its last block.
    last: Factor,
}

impl Powers {
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn new(r: Limbs) -> Self {
        // The lanes of `b` where there is a bit, else those of `a`.
        macro_rules! blend {
            ($bits:literal, $a:expr, $b:expr) => {{
                let ([a0, a1, a2], [b0, b1, b2]) = ($a, $b);
                [
                    _mm512_mask_blend_epi64($bits, a0, b0),
                    _mm512_mask_blend_epi64($bits, a1, b1),
                    _mm512_mask_blend_epi64($bits, a2, b2),
                ]
            }};
        }
        macro_rules! first {
            ($lanes:expr) => {
                $lanes.map(|limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb)))
            };
        }
        let r1 = r.map(|limb| _mm512_set1_epi64(limb.cast_signed()));
        let r2 = product(r1, &Factor::new(r1));
        // Lanes from the first on: 2 2 1 1 2 2 1 1, then 4 4 3 3 4 4 3 3, then 4 4 3 3 2 2 1 1, then 8 8 7 7 6 6 5 5, then as ORDER has it.
        let two = blend!(0b0011_0011, r1, r2);
        let four = product(two, &Factor::new(r2));
        let all = blend!(0b0000_1111, two, four);
        let eight = product(all, &Factor::new(first!(four)));
        let last = blend!(0b0101_0101, all, eight);
        let r8 = first!(eight);
        let r8 = Factor::new(r8);
        let r16 = product(r8.limbs, &r8);
        Self {
            eighth: r8,
            sixteenth: Factor::new(r16),
            last: Factor::new(last),
        }
    }
}

/// The limbs of eight blocks, one in each lane, with `end` beyond them.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(stride: &[u8; STRIDE], end: __m512i) -> Lanes {
    let [first, second]: [__m512i; 2] = transmute!(*stride);
    let low = _mm512_unpacklo_epi64(first, second);
    let high = _mm512_unpackhi_epi64(first, second);
    let mask44 = _mm512_set1_epi64(MASK44.cast_signed());
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, mask44),
        _mm512_and_si512(middle, mask44),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), end),
    ]
}

/// A one-time key.
pub(crate) struct Once {
    powers: Powers,
    /// What is added in the end.
    s: [u64; 2],
}

impl Once {
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let [r_low, r_high, s_low, s_high]: [u64; 4] = transmute!(*key);
        let r = limbs(
            r_low & 0x0fff_fffc_0fff_ffff,
            r_high & 0x0fff_fffc_0fff_fffc,
        );
        Self {
            powers: Powers::new(r),
            s: [s_low, s_high],
        }
    }

    /// The tag of a ciphertext with nothing besides authenticated (section 2.8).
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(crate) fn tag(&self, text: &[u8]) -> [u8; 16] {
        finish(self.sum(text), self.s)
    }

    /// All blocks of a text, each with its power.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn sum(&self, text: &[u8]) -> Limbs {
        let Powers {
            eighth,
            sixteenth,
            last,
        } = &self.powers;
        // The last block.
        let lengths: [u8; BLOCK] = transmute!([0, text.len() as u64]);
        let blocks = text.len().div_ceil(BLOCK) + 1;
        // The first stride has as many blocks as are left over, the last seven of the text and the lengths.
        let first = (blocks - 1) % LANES + 1;
        let skipped = LANES - first;
        let (front, rest) = text.split_at(text.len().min(first * BLOCK));
        let mut stride = [0; STRIDE];
        stride[skipped * BLOCK..][..front.len()].copy_from_slice(front);
        if blocks == first {
            stride[STRIDE - BLOCK..].copy_from_slice(&lengths);
        }
        let ends: [u64; LANES] = ORDER.map(|block| if block < skipped { 0 } else { END });
        let mut lanes = load(&stride, transmute!(ends));
        if blocks > first {
            let end = _mm512_set1_epi64(END.cast_signed());
            let (whole, rest) = rest.as_chunks();
            let mut stride = [0; STRIDE];
            stride[..rest.len()].copy_from_slice(rest);
            stride[STRIDE - BLOCK..].copy_from_slice(&lengths);
            let mut strides = whole.iter().chain([&stride]);
            if whole.len() % 2 == 0
                && let Some(one) = strides.next()
            {
                lanes = sum(product(lanes, eighth), load(one, end));
            }
            // Two at a time: the first of them does not wait for what came before, and both are carried at once.
            while let (Some(one), Some(other)) = (strides.next(), strides.next()) {
                let products = Products::none().add(load(one, end), eighth);
                let carried = products.add(lanes, sixteenth).carry();
                lanes = sum(carried, load(other, end));
            }
        }
        product(lanes, last).map(|lanes| _mm512_reduce_add_epi64(lanes).cast_unsigned())
    }
}

/// Reduces modulo 2^130 - 5 and adds the second half of the key modulo 2^128.
fn finish(sum: Limbs, [s_low, s_high]: [u64; 2]) -> [u8; 16] {
    let carry = |[d0, d1, d2]: Limbs| {
        let d1 = d1 + (d0 >> 44);
        let d2 = d2 + (d1 >> 44);
        [(d0 & MASK44) + 5 * (d2 >> 42), d1 & MASK44, d2 & MASK42]
    };
    // After the first time, limbs are whole but for the lowest, which is little above; after the second it is, too: what comes round
    // to it then comes from its own carry, which left it small.
    let [h0, h1, h2] = carry(carry(sum));
    // The number less the modulus, or rather plus 5 without what is beyond 2^130; it is the smaller one if there is something.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = h2 + (g1 >> 44);
    let is_more = 0_u64.wrapping_sub(g2 >> 42);
    let pick = |h: u64, g: u64| h & !is_more | g & is_more;
    let (h0, h1, h2) = (
        pick(h0, g0 & MASK44),
        pick(h1, g1 & MASK44),
        pick(h2, g2 & MASK42),
    );
    let low = h0 | h1 << 44;
    let high = h1 >> 20 | h2 << 24;
    let (low, carried) = low.overflowing_add(s_low);
    let high = high.wrapping_add(s_high).wrapping_add(carried.into());
    transmute!([low, high])
}
