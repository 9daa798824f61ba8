//! Jitter and indices from a seed, so that a run can be repeated. Nothing secret comes from here.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, every value once.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Evenly in `0..=most`, to the millisecond.
    pub(crate) fn jitter(&mut self, most: Duration) -> u64 {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
        self.next() % (most + 1)
    }
}

/// Spreads the bits of `z` over all of the result, one to one.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_bounds_and_reaches_both() {
        let mut rng = Rng::new(7);
        let drawn: Vec<u64> = (0..10_000)
            .map(|_| rng.jitter(Duration::from_millis(3)))
            .collect();
        for value in 0..=3 {
            assert!(drawn.contains(&value), "{value} never came");
        }
        assert!(drawn.iter().all(|&value| value <= 3));
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let (mut a, mut b) = (Rng::new(1), Rng::new(1));
        assert!((0..100).all(|_| a.next() == b.next()));
        assert_ne!(Rng::new(1).next(), Rng::new(2).next());
    }
}
