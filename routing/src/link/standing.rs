//! What the ends of sessions say about a neighbour: whether packets arrive that it was given.
//!
//! A relay that announces routes and drops packets can only be found out by the ends. But whoever wants to frame an honest neighbour
//! needs only to be silent itself: so a failure counts against a neighbour only if the same destination answered over another one
//! soon before or after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::clock::Deadline;

/// So many destinations are looked at: the latest.
const MOST_VERDICTS: usize = 64;
/// A verdict is forgotten after so long.
const MEMORY: Duration = Duration::from_secs(600);
/// With fewer destinations nothing is concluded.
const ENOUGH: usize = 8;
/// Of so many in ten destinations that fail, the link costs more.
const BAD: usize = 3;
/// By so much.
const SURCHARGE: u16 = 384;
/// Of so many, it is not used at all.
const WORSE: usize = 7;
/// For so long; twice as long each time.
const QUARANTINE: Duration = Duration::from_secs(600);
/// Doubled so often at most.
const MOST_DOUBLINGS: u32 = 6;

/// What the ends of sessions say about a neighbour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    verdicts: BTreeMap<Ipv6Network, Verdict>,
    quarantines: u32,
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    has_failed: bool,
    at: Instant,
}

impl Standing {
    /// Whether a destination is reached through the neighbour, or is not while others reach it. Says until when the neighbour is in
    /// quarantine, if that has just begun.
    pub(crate) fn note(
        &mut self,
        destination: Ipv6Network,
        has_failed: bool,
        now: Instant,
    ) -> Option<Instant> {
        if self.verdicts.len() == MOST_VERDICTS && !self.verdicts.contains_key(&destination) {
            let oldest = self.verdicts.iter().min_by_key(|(_, verdict)| verdict.at);
            if let Some((&oldest, _)) = oldest {
                self.verdicts.remove(&oldest);
            }
        }
        let verdict = Verdict {
            has_failed,
            at: now,
        };
        self.verdicts.insert(destination, verdict);
        self.verdicts
            .retain(|_, verdict| now.saturating_duration_since(verdict.at) < MEMORY);
        if !self.is_at_least(WORSE) || self.is_quarantined(now) {
            return None;
        }
        let until = now + QUARANTINE * (1 << self.quarantines.min(MOST_DOUBLINGS));
        self.quarantines += 1;
        self.verdicts.clear();
        self.until = Some(until);
        Some(until)
    }

    /// What the link costs more than its cost.
    pub(crate) fn surcharge(&self) -> u16 {
        if self.is_at_least(BAD) { SURCHARGE } else { 0 }
    }

    /// Whether the neighbour is not to be used.
    pub(crate) fn is_quarantined(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Lets pass what has run out. Says whether the quarantine has ended.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        self.verdicts
            .retain(|_, verdict| now.saturating_duration_since(verdict.at) < MEMORY);
        let has_ended = self.until.is_some_and(|until| until <= now);
        if has_ended {
            self.until = None;
        }
        has_ended
    }

    pub(crate) fn deadline(&self) -> Deadline {
        let mut deadline = Deadline::default();
        deadline.at(self.until, "quarantine ends");
        let oldest = self.verdicts.values().map(|verdict| verdict.at).min();
        deadline.at(oldest.map(|at| at + MEMORY), "verdict ends");
        deadline
    }

    fn is_at_least(&self, tenths: usize) -> bool {
        let failed = self.verdicts.values().filter(|it| it.has_failed).count();
        self.verdicts.len() >= ENOUGH && failed * 10 > self.verdicts.len() * tenths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    fn prefix(number: usize) -> Ipv6Network {
        format!("600:{number:x}::/64").parse().unwrap()
    }

    /// Notes verdicts about so many destinations, of which so many fail.
    fn note(standing: &mut Standing, all: usize, failed: usize, now: Instant) -> Option<Instant> {
        (0..all)
            .filter_map(|number| standing.note(prefix(number), number < failed, now))
            .last()
    }

    #[test]
    fn few_destinations_conclude_nothing() {
        let mut standing = Standing::default();
        assert_eq!(note(&mut standing, 7, 7, start()), None);
        assert_eq!(standing.surcharge(), 0);
    }

    #[test]
    fn more_than_a_third_of_failures_cost_and_more_than_two_thirds_end_it() {
        let now = start();
        let mut standing = Standing::default();
        assert_eq!(note(&mut standing, 10, 3, now), None);
        assert_eq!(standing.surcharge(), 0);
        assert_eq!(standing.note(prefix(4), true, now), None);
        assert_eq!(standing.surcharge(), SURCHARGE);
        assert_eq!(note(&mut standing, 10, 9, now), Some(now + QUARANTINE));
        assert!(standing.is_quarantined(now + QUARANTINE / 2));
        assert!(standing.expire(now + QUARANTINE));
        assert!(!standing.is_quarantined(now + QUARANTINE));
    }

    #[test]
    fn the_second_quarantine_is_longer() {
        let (start, mut standing) = (start(), Standing::default());
        note(&mut standing, 10, 10, start);
        let again = start + QUARANTINE;
        standing.expire(again);
        assert_eq!(
            note(&mut standing, 10, 10, again),
            Some(again + QUARANTINE * 2)
        );
    }

    #[test]
    fn a_destination_that_answers_again_is_a_failure_no_more() {
        let (now, mut standing) = (start(), Standing::default());
        note(&mut standing, 10, 5, now);
        note(&mut standing, 10, 0, now);
        assert_eq!(standing.surcharge(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (now, mut standing) = (start(), Standing::default());
        note(&mut standing, 10_000, 0, now);
        assert_eq!(standing.verdicts.len(), MOST_VERDICTS);
        standing.expire(now + MEMORY);
        assert!(standing.verdicts.is_empty());
    }
}
