//! The Internet checksum (RFC 1071), many bytes at a time.

/// Words that are added side by side.
const LANES: usize = 16;

/// Shorter than this, in bytes, nothing is gained by asking the processor what it has.
const SHORT: usize = 8 * LANES;

/// Adds the 16-bit words of `bytes`, in native byte order, to `initial`. An odd last byte counts as if a zero followed.
///
/// The sum stays unfolded: one's-complement addition is associative, so parts of even length may be added in any order.
/// Overflow would need 16 GB.
pub(crate) fn sum(bytes: &[u8], initial: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= SHORT && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { sum_avx2(bytes, initial) };
    }
    add(bytes, initial)
}

/// The same in registers twice as wide as every x86-64 has: half the time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8], initial: u64) -> u64 {
    add(bytes, initial)
}

#[inline(always)]
fn add(bytes: &[u8], initial: u64) -> u64 {
    // Independent lanes of 32-bit words, without carries to chase or overflow to look for: the compiler makes vector code of it.
    let mut lanes = [0u64; LANES];
    let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u32::from_ne_bytes(*word).into());
        }
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    let words = pairs
        .iter()
        .map(|pair| u64::from(u16::from_ne_bytes(*pair)));
    let last = odd
        .first()
        .map(|last| u64::from(u16::from_ne_bytes([*last, 0])));
    initial + lanes.iter().sum::<u64>() + words.chain(last).sum::<u64>()
}

/// Folds a sum to 16 bits with end-around carry. 0xffff over a whole packet means that its checksum is right.
pub(crate) fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum field's bytes for a sum. Never zero, which in UDP would mean "no checksum" (RFC 8200 §8.1) and which
/// 0xffff equals everywhere else.
pub(crate) fn finish(sum: u64) -> [u8; 2] {
    let checksum = !fold(sum);
    if checksum == 0 {
        [0xff; 2]
    } else {
        checksum.to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_gives_its_sum() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)).to_ne_bytes(), [0xdd, 0xf2]);
        assert_eq!(finish(sum(&bytes, 0)), [0x22, 0x0d]);
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        assert_eq!(finish(sum(&[0xff, 0xff], 0)), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn the_fast_sum_equals_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(fold(sum(&bytes, 0)).to_ne_bytes(), naive(&bytes).to_be_bytes());
            // Whatever processor this is.
            prop_assert_eq!(sum(&bytes, 7), add(&bytes, 7));
        }

        #[test]
        fn parts_may_be_summed_one_after_the_other(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(tail, sum(head, 0))), fold(sum(&bytes, 0)));
        }
    }
}
