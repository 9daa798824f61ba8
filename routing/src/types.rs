//! The quantities of RFC 8966, each with the arithmetic that the RFC gives it and no other.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A link: one way to one neighbour, a Babel interface in the words of RFC 8966. The caller numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// A sequence number, compared modulo 2^16 (RFC 8966 §3.2.1). There is no order on all of them, hence no `Ord`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seqno(pub u16);

impl Seqno {
    /// Whether this one was made after `other`: by 1 to 32,767 steps.
    pub const fn is_newer_than(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i16) > 0
    }

    /// The one that comes `steps` later.
    #[must_use]
    pub const fn plus(self, steps: u16) -> Self {
        Self(self.0.wrapping_add(steps))
    }

    /// How many steps later this one is than `other`; negative if it is earlier.
    pub const fn since(self, other: Self) -> i16 {
        self.0.wrapping_sub(other.0) as i16
    }
}

/// How far it is to a destination, or over one link (a cost); smaller is better. Sums stop at [`Self::INFINITY`] (RFC 8966
/// §3.5.2 and Appendix A.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(pub u16);

impl Metric {
    /// No metric at all: what is announced about oneself.
    pub const ZERO: Self = Self(0);
    /// Not reachable: a retraction, or a link that is down.
    pub const INFINITY: Self = Self(u16::MAX);

    /// Whether anything can be reached at this metric.
    pub const fn is_finite(self) -> bool {
        self.0 != u16::MAX
    }
}

impl Add for Metric {
    type Output = Self;

    fn add(self, cost: Self) -> Self {
        Self(self.0.saturating_add(cost.0))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_finite() {
            self.0.fmt(f)
        } else {
            f.pad("infinite")
        }
    }
}

/// Who originates routes (RFC 8966 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub [u8; 8]);

impl RouterId {
    /// Whether RFC 8966 §4.1.3 forbids it: all zeros or all ones.
    pub const fn is_reserved(self) -> bool {
        matches!(u64::from_be_bytes(self.0), 0 | u64::MAX)
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouterId({self})")
    }
}

/// A span of time as Babel writes it: in hundredths of a second, at most 655.35 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub u16);

impl Interval {
    /// The nearest interval that is not shorter, at least one hundredth, at most the longest.
    pub fn from_duration(duration: Duration) -> Self {
        let hundredths = duration.as_millis().div_ceil(10).clamp(1, 0xffff);
        Self(hundredths as u16)
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn of_two_seqnos_at_most_one_is_newer(a: u16, b: u16) {
            let (a, b) = (Seqno(a), Seqno(b));
            prop_assert!(!(a.is_newer_than(b) && b.is_newer_than(a)));
            prop_assert!(!a.is_newer_than(a));
            prop_assert_eq!(a.is_newer_than(b), a.since(b) > 0);
        }

        #[test]
        fn the_next_seqno_is_newer_also_where_it_wraps(a: u16, steps in 1_u16..0x8000) {
            prop_assert!(Seqno(a).plus(steps).is_newer_than(Seqno(a)));
        }

        #[test]
        fn metrics_never_shrink_when_added(a: u16, b: u16) {
            let sum = Metric(a) + Metric(b);
            prop_assert!(sum >= Metric(a) && sum >= Metric(b));
            prop_assert_eq!(Metric::INFINITY + Metric(b), Metric::INFINITY);
        }

        #[test]
        fn an_interval_is_never_shorter_than_what_it_stands_for(millis in 0_u64..655_350) {
            let duration = Duration::from_millis(millis);
            let interval = Interval::from_duration(duration);
            prop_assert!(interval.duration() >= duration && interval.0 > 0);
        }
    }
}
