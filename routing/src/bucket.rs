//! Limits on how often something may happen.

use std::time::{Duration, Instant};

/// How often: once per `interval`, and `burst` at once after a time of rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The mean distance in the long run.
    pub interval: Duration,
    /// How many at once; at least 1.
    pub burst: u32,
}

impl Rate {
    /// So many per second, and `burst` at once.
    pub const fn per_second(rate: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_nanos(1_000_000_000 / rate as u64),
            burst,
        }
    }
}

/// What is left of a [`Rate`] (the generic cell rate algorithm, ITU-T I.371). A new bucket is full.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// When it would be full again.
    full: Option<Instant>,
}

impl Bucket {
    /// Takes one out, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let is_allowed = self.next(rate, now) <= now;
        if is_allowed {
            self.full = Some(self.full.map_or(now, |full| full.max(now)) + rate.interval);
        }
        is_allowed
    }

    /// When there will be one to take out: now or later.
    pub(crate) fn next(&self, rate: Rate, now: Instant) -> Instant {
        let slack = rate.interval * rate.burst.saturating_sub(1);
        self.full
            .and_then(|full| full.checked_sub(slack))
            .map_or(now, |next| next.max(now))
    }

    /// Whether it is full again, so that it need not be kept.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full.is_none_or(|full| full <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    #[test]
    fn a_burst_at_once_then_one_per_interval() {
        let (start, rate) = (start(), Rate::per_second(10, 5));
        let mut bucket = Bucket::default();
        let mut taken = |millis| {
            let now = start + Duration::from_millis(millis);
            (0..20).filter(|_| bucket.take(rate, now)).count()
        };
        assert_eq!(taken(0), 5);
        assert_eq!(taken(99), 0);
        assert_eq!(taken(100), 1);
        assert_eq!(taken(350), 2);
        assert_eq!(taken(10_000), 5);
    }

    #[test]
    fn it_says_when_the_next_one_is_there() {
        let (now, rate) = (start(), Rate::per_second(1, 1));
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(now) && bucket.take(rate, now) && !bucket.take(rate, now));
        let next = bucket.next(rate, now);
        assert_eq!(next, now + Duration::from_secs(1));
        assert!(bucket.take(rate, next));
    }
}
