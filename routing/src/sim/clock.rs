//! Clocks that begin anywhere and run at their own speed.

use std::time::{Duration, Instant};

/// The clock of a node.
#[derive(Clone, Copy, Debug)]
pub struct LocalClock {
    base: Instant,
    /// How many parts in a million it is fast, or slow.
    pub drift: i64,
    /// By how much it has leapt ahead.
    pub ahead: Duration,
}

impl LocalClock {
    pub(super) fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "any beginning will do")]
        let base = Instant::now();
        Self {
            base,
            drift: 0,
            ahead: Duration::ZERO,
        }
    }

    /// What it shows.
    pub(super) fn local(&self, global: Duration) -> Instant {
        self.base + scale(global, 1_000_000 + self.drift, 1_000_000) + self.ahead
    }

    /// When it shows that, rounded up.
    pub(super) fn global(&self, local: Instant) -> Duration {
        let span = local
            .saturating_duration_since(self.base)
            .saturating_sub(self.ahead);
        scale(span, 1_000_000, 1_000_000 + self.drift)
            + Duration::from_nanos(u64::from(self.drift != 0))
    }
}

fn scale(span: Duration, by: i64, of: i64) -> Duration {
    let nanos = span.as_nanos() * by as u128 / of as u128;
    Duration::from_nanos(nanos as u64)
}
