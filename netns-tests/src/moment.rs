//! One clock for everything a lab measures.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// An instant of the machine's boot-time clock in microseconds: the same in all namespaces, and what meshd stamps its events with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// This instant.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has a boot-time clock");
        let micros = Duration::from(time).as_micros();
        Self(u64::try_from(micros).expect("a machine runs for less than half a million years"))
    }

    /// How long after `earlier` this is; nothing if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_moments_is_never_negative() {
        assert!(Moment::now() <= Moment::now());
        assert_eq!(Moment(1500).since(Moment(500)), Duration::from_millis(1));
        assert_eq!(Moment(500).since(Moment(1500)), Duration::ZERO);
    }
}
