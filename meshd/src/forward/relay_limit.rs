//! How much is forwarded for others: a token bucket of bytes.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What the bucket holds, as time at the full rate: longer than a batch takes, short enough that the cap holds within a second.
const DEPTH: Duration = Duration::from_millis(100);

/// The bucket of all packet threads.
#[derive(Debug)]
pub struct RelayLimit {
    base: Instant,
    /// When the bucket would be full again (the generic cell rate algorithm, ITU-T I.371), in nanoseconds since `base`.
    full: AtomicU64,
}

impl RelayLimit {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            full: AtomicU64::new(0),
        }
    }

    /// Whether so many bytes may pass at so many megabits a second; none: always. Takes them out of the bucket then.
    pub(super) fn allows(&self, bytes: usize, mbit: Option<NonZeroU32>, now: Instant) -> bool {
        let Some(mbit) = mbit else { return true };
        let cost = bytes as u64 * 8000 / u64::from(mbit.get());
        let since = now.saturating_duration_since(self.base).as_nanos();
        let now = u64::try_from(since).unwrap_or(u64::MAX);
        let take = |full: u64| {
            let full = full.max(now);
            (full - now <= DEPTH.as_nanos() as u64).then(|| full.saturating_add(cost))
        };
        self.full.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_a_second_and_a_burst_passes() {
        let start = Instant::now();
        let limit = RelayLimit::new(start);
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
        let now = Instant::now();
        let limit = RelayLimit::new(now);
        assert!((0..100_000).all(|_| limit.allows(1500, None, now)));
    }
}
