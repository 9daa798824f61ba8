//! When an initiation was made, by its initiator's clock: what tells a replay from a new one (white paper, section 5.1).

use std::time::{Duration, Instant};

/// A time as TAI64N writes it. Only the order counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp([u8; 12]);

/// The second of TAI64 in which 1970 began.
const EPOCH: u64 = (1 << 62) + 10;

/// Stamps tell the time no more exactly than this, in nanoseconds, a power of two: those who watch learn little of our clock. (The kernel
/// module does the same.)
const GRAIN: u32 = 1 << 24;

impl Stamp {
    pub(crate) const fn new(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// So long after 1970, or before it.
    fn at(unix: Duration) -> Self {
        let mut bytes = [0; 12];
        let nanos = unix.subsec_nanos() / GRAIN * GRAIN;
        bytes[..8].copy_from_slice(&EPOCH.saturating_add(unix.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    /// The least that is later.
    fn next(self) -> Self {
        let mut padded = [0; 16];
        padded[4..].copy_from_slice(&self.0);
        let next = u128::from_be_bytes(padded).saturating_add(1);
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&next.to_be_bytes()[4..]);
        Self(bytes)
    }
}

/// Stamps our initiations: by the time of day that it was told last and our own clock since, and each later than the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// What time of day it was, since 1970, and when by our own clock.
    set: Option<(Duration, Instant)>,
    last: Stamp,
}

impl Clock {
    /// It is so long after 1970.
    pub(crate) const fn set(&mut self, unix: Duration, now: Instant) {
        self.set = Some((unix, now));
    }

    /// Another stamp. Without a time of day they begin with 1970.
    pub(crate) fn stamp(&mut self, now: Instant) -> Stamp {
        let (unix, at) = *self.set.get_or_insert((Duration::ZERO, now));
        let stamp = Stamp::at(unix.saturating_add(now.saturating_duration_since(at)));
        self.last = stamp.max(self.last.next());
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant has to be the first"
        )]
        Instant::now()
    }

    #[test]
    fn the_beginning_of_1970_is_as_tai64n_has_it() {
        let unix = Stamp::at(Duration::ZERO);
        assert_eq!(unix.0, [0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
        let later = Stamp::at(Duration::new(0x0102_0304, GRAIN * 3 + 5));
        assert_eq!(later.0, [0x40, 0, 0, 0, 1, 2, 3, 14, 3, 0, 0, 0]);
    }

    #[test]
    fn stamps_never_stand_still_nor_go_back() {
        let (mut clock, start) = (Clock::default(), now());
        clock.set(Duration::from_secs(1_000_000), start);
        let mut last = clock.stamp(start);
        let mut check = |clock: &mut Clock, now| {
            let stamp = clock.stamp(now);
            assert!(stamp > last, "{stamp:?} after {last:?}");
            last = stamp;
        };
        check(&mut clock, start);
        check(&mut clock, start + Duration::from_millis(1));
        clock.set(Duration::from_secs(5), start);
        check(&mut clock, start + Duration::from_secs(1));
        clock.set(Duration::from_secs(2_000_000), start);
        check(&mut clock, start + Duration::from_secs(1));
        assert_eq!(last, Stamp::at(Duration::from_secs(2_000_001)));
    }

    #[test]
    fn the_least_that_is_later_carries() {
        let stamp = Stamp([0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(stamp.next().0, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }
}
