//! The time that the caller tells, and two short forms of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A point in time to a tenth of a second, for tables where eight bytes would be too many. It lasts for 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(pub(crate) u32);

/// The length of a [`Tick`].
const TICK: Duration = Duration::from_millis(100);

impl Tick {
    /// Never.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// So much later, rounded up: what is kept for a while is never kept too short.
    pub(crate) fn after(self, span: Duration) -> Self {
        let ticks = span.as_millis().div_ceil(TICK.as_millis());
        Self(self.0.saturating_add(ticks.try_into().unwrap_or(u32::MAX)))
    }

    /// How long ago `earlier` was; nothing if it is yet to come.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0) as u64 * 100)
    }
}

/// What time it is. It never goes back: if the caller's does, it stands still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    now: Instant,
}

impl Clock {
    pub(crate) const fn new(start: Instant) -> Self {
        Self { start, now: start }
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn tick(&self) -> Tick {
        self.tick_at(self.now)
    }

    pub(crate) fn tick_at(&self, instant: Instant) -> Tick {
        let ticks = instant.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        Tick(ticks.try_into().unwrap_or(u32::MAX))
    }

    /// When a tick begins; none if it never does.
    pub(crate) fn instant(&self, tick: Tick) -> Option<Instant> {
        (tick != Tick::NEVER).then(|| self.start + TICK * tick.0)
    }

    /// In microseconds modulo 2^32, as RFC 9616 writes time.
    pub(crate) fn micros(&self, instant: Instant) -> u32 {
        instant.saturating_duration_since(self.start).as_micros() as u32
    }
}

/// The earliest of several deadlines, and what it is for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline(Option<(Instant, &'static str)>);

impl Deadline {
    pub(crate) fn at(&mut self, instant: impl Into<Option<Instant>>, why: &'static str) {
        if let Some(instant) = instant.into()
            && self.0.is_none_or(|(earliest, _)| instant < earliest)
        {
            self.0 = Some((instant, why));
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        if let Some((instant, why)) = other.0 {
            self.at(instant, why);
        }
    }

    pub(crate) const fn earliest(self) -> Option<(Instant, &'static str)> {
        self.0
    }
}

/// What is to be looked at, each at its time.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<K> {
    times: BTreeMap<K, Instant>,
    /// When the first of them is due, or earlier.
    soonest: Option<Instant>,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self {
            times: BTreeMap::new(),
            soonest: None,
        }
    }
}

impl<K: Copy + Ord> Agenda<K> {
    pub(crate) fn insert(&mut self, key: K, at: Instant) {
        self.times.insert(key, at);
        self.soonest = Some(self.soonest.map_or(at, |soonest| soonest.min(at)));
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if !self.times.is_empty() {
            self.times.remove(key);
        }
    }

    /// Takes out what is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<K> {
        if self.soonest.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let due = self.times.extract_if(.., |_, at| *at <= now);
        let due = due.map(|(key, _)| key).collect();
        self.soonest = self.times.values().min().copied();
        due
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.soonest
    }
}

/// An arbitrary point in time, where tests begin.
#[cfg(test)]
pub(crate) fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any beginning will do")]
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_goes_back_stands_still() {
        let start = start();
        let mut clock = Clock::new(start);
        clock.advance(start + Duration::from_secs(5));
        clock.advance(start + Duration::from_secs(1));
        assert_eq!(clock.now(), start + Duration::from_secs(5));
        assert_eq!(clock.tick(), Tick(50));
    }

    #[test]
    fn what_is_due_is_taken_out_and_the_rest_waits() {
        let start = start();
        let at = |secs| start + Duration::from_secs(secs);
        let mut agenda = Agenda::default();
        for (key, secs) in [(1, 5), (2, 3), (3, 9), (4, 1)] {
            agenda.insert(key, at(secs));
        }
        agenda.remove(&4);
        assert_eq!(agenda.take_due(at(2)), [0; 0]);
        assert_eq!(agenda.deadline(), Some(at(3)));
        assert_eq!(agenda.take_due(at(5)), [1, 2]);
        assert_eq!(agenda.take_due(at(9)), [3]);
        assert_eq!(agenda.deadline(), None);
    }

    #[test]
    fn a_tick_never_comes_early() {
        let clock = Clock::new(start());
        for millis in [1, 99, 100, 101, 56_000] {
            let span = Duration::from_millis(millis);
            let due = clock.instant(clock.tick().after(span)).unwrap();
            assert!(due >= clock.now() + span && due < clock.now() + span + TICK);
        }
        assert_eq!(clock.instant(Tick::NEVER), None);
    }
}
