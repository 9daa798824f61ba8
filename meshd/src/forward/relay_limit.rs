//! How much is forwarded for others: a token bucket of bytes.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// What the bucket holds, as time at the full rate: longer than a batch takes, short enough that the cap holds within a second.
const DEPTH: Duration = Duration::from_millis(100);

/// The bucket of one packet thread.
#[derive(Debug, Default)]
pub(super) struct RelayLimit {
    /// When the bucket would be full again (the generic cell rate algorithm, ITU-T I.371); none: it is.
    full: Option<Instant>,
}

impl RelayLimit {
    /// Whether so many bytes may pass at so many megabits a second; none: always. Takes them out of the bucket then.
    pub(super) fn allows(&mut self, bytes: usize, mbit: Option<NonZeroU32>, now: Instant) -> bool {
        let Some(mbit) = mbit else { return true };
        let cost = Duration::from_nanos(bytes as u64 * 8000 / u64::from(mbit.get()));
        let full = self.full.map_or(now, |full| full.max(now));
        let is_allowed = full.saturating_duration_since(now) <= DEPTH;
        if is_allowed {
            self.full = Some(full + cost);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_a_second_and_a_burst_passes() {
        let mut limit = RelayLimit::default();
        let start = Instant::now();
        let mbit = NonZeroU32::new(80);
        let passed: usize = (0..10_000_u64)
            .map(|i| start + Duration::from_micros(100 * i))
            .filter(|now| limit.allows(10_000, mbit, *now))
            .count();
        // 80 Mbit/s are 1,000 packets of 10,000 bytes a second, and the bucket holds another 100.
        assert!((1090..=1110).contains(&passed), "{passed}");
    }

    #[test]
    fn without_a_cap_everything_passes() {
        let mut limit = RelayLimit::default();
        let now = Instant::now();
        assert!((0..100_000).all(|_| limit.allows(1500, None, now)));
    }
}
