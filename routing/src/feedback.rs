//! What becomes of packets that we sent ourselves, by destination and next hop (`link/standing.rs` has it by neighbour).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::clock::Deadline;
use crate::route::Slot;

/// What a next hop that a destination does not answer through costs more, at first: a quarter of all metrics.
const PENALTY: u16 = 0x4000;
/// Half of it, after so long.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// So little is nothing.
const LEAST: u16 = 96;
/// So many pairs of destination and next hop are remembered.
const MOST: usize = 4_096;
/// An answer through one next hop tells something about a failure through another for so long.
const ALIBI: Duration = Duration::from_secs(30);

/// Whether a destination answered end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something authentic came from it, that was caused by what went through this next hop.
    Answered,
    /// Nothing came, though it was asked several times.
    Failed,
}

/// What is remembered of destinations and next hops.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feedback {
    pairs: BTreeMap<(Ipv6Network, Slot), Pair>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    answered: Option<Instant>,
    failed: Option<Instant>,
}

impl Pair {
    fn latest(&self) -> Option<Instant> {
        self.answered.max(self.failed)
    }

    /// Whether its last failure was so recently, and not followed by an answer.
    fn has_failed(&self, within: Duration, now: Instant) -> bool {
        self.failed > self.answered && is_recent(self.failed, within, now)
    }
}

fn is_recent(at: Option<Instant>, within: Duration, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) <= within)
}

impl Feedback {
    /// Notes one verdict. Returns what it says about neighbours: who has failed, or has not.
    pub(crate) fn note(
        &mut self,
        destination: Ipv6Network,
        slot: Slot,
        verdict: Verdict,
        now: Instant,
    ) -> Vec<(Slot, Verdict)> {
        if self.pairs.len() >= MOST && !self.pairs.contains_key(&(destination, slot)) {
            let oldest = self.pairs.iter().min_by_key(|(_, pair)| pair.latest());
            if let Some((&oldest, _)) = oldest {
                self.pairs.remove(&oldest);
            }
        }
        let pair = self.pairs.entry((destination, slot)).or_default();
        match verdict {
            Verdict::Answered => pair.answered = Some(now),
            Verdict::Failed => pair.failed = Some(now),
        }
        let others = self.of(destination).filter(|&(other, _)| other != slot);
        match verdict {
            Verdict::Answered => {
                let failed = others.filter(|(_, pair)| pair.has_failed(ALIBI, now));
                let mut said: Vec<_> = failed.map(|(slot, _)| (slot, Verdict::Failed)).collect();
                said.push((slot, Verdict::Answered));
                said
            }
            Verdict::Failed => {
                let mut others = others;
                if others.any(|(_, pair)| is_recent(pair.answered, ALIBI, now)) {
                    vec![(slot, Verdict::Failed)]
                } else {
                    Vec::new()
                }
            }
        }
    }

    /// What a route costs more than its metric.
    pub(crate) fn penalty(&self, destination: Ipv6Network, slot: Slot, now: Instant) -> u16 {
        let pair = self.pairs.get(&(destination, slot));
        pair.map_or(0, |pair| penalty(pair, now))
    }

    /// The pairs whose penalty falls, or ends, at or before `now`, since the last call at `before`.
    pub(crate) fn eased(&mut self, before: Instant, now: Instant) -> Vec<(Ipv6Network, Slot)> {
        let eased = self
            .pairs
            .iter()
            .filter(|(_, pair)| penalty(pair, before) != penalty(pair, now))
            .map(|(&key, _)| key)
            .collect();
        self.pairs
            .retain(|_, pair| penalty(pair, now) > 0 || is_recent(pair.latest(), ALIBI, now));
        eased
    }

    /// Forgets a link.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.pairs.retain(|&(_, other), _| other != slot);
    }

    pub(crate) fn deadline(&self, now: Instant) -> Deadline {
        let mut deadline = Deadline::default();
        for pair in self.pairs.values() {
            if penalty(pair, now) > 0
                && let Some(failed) = pair.failed
            {
                let halvings = halvings(failed, now);
                deadline.at(failed + HALF_LIFE * (halvings + 1), "penalty eases");
            } else {
                deadline.at(pair.latest().map(|at| at + ALIBI * 2), "verdict ends");
            }
        }
        deadline
    }

    fn of(&self, destination: Ipv6Network) -> impl Iterator<Item = (Slot, &Pair)> {
        let all = (destination, Slot::FIRST)..=(destination, Slot::LAST);
        self.pairs.range(all).map(|(&(_, slot), pair)| (slot, pair))
    }
}

fn penalty(pair: &Pair, now: Instant) -> u16 {
    match pair.failed {
        Some(failed) if pair.failed > pair.answered => {
            let left = PENALTY.checked_shr(halvings(failed, now)).unwrap_or(0);
            if left < LEAST { 0 } else { left }
        }
        Some(_) | None => 0,
    }
}

fn halvings(failed: Instant, now: Instant) -> u32 {
    let span = now.saturating_duration_since(failed).as_secs() / HALF_LIFE.as_secs();
    span.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    fn slot(number: u16) -> Slot {
        Slot::at(number.into()).unwrap()
    }

    fn destination() -> Ipv6Network {
        "600::/64".parse().unwrap()
    }

    #[test]
    fn a_failure_costs_a_quarter_of_all_metrics_and_half_of_that_five_minutes_later() {
        let (start, mut feedback) = (start(), Feedback::default());
        feedback.note(destination(), slot(0), Verdict::Failed, start);
        let at = |secs| feedback.penalty(destination(), slot(0), start + Duration::from_secs(secs));
        assert_eq!(
            [at(0), at(299), at(300), at(900)],
            [16_384, 16_384, 8_192, 2_048]
        );
        assert_eq!(at(7 * 300), 128);
        assert_eq!(at(8 * 300), 0);
    }

    #[test]
    fn an_answer_ends_the_penalty() {
        let (start, mut feedback) = (start(), Feedback::default());
        feedback.note(destination(), slot(0), Verdict::Failed, start);
        let later = start + Duration::from_secs(1);
        feedback.note(destination(), slot(0), Verdict::Answered, later);
        assert_eq!(feedback.penalty(destination(), slot(0), later), 0);
    }

    #[test]
    fn a_silent_destination_does_not_frame_anybody() {
        let (now, mut feedback) = (start(), Feedback::default());
        for number in 0..5 {
            let said = feedback.note(destination(), slot(number), Verdict::Failed, now);
            assert_eq!(said, []);
        }
    }

    #[test]
    fn a_failure_counts_if_the_destination_answers_another_way_within_30_s() {
        for (after, counts) in [(30, true), (31, false)] {
            let (start, mut feedback) = (start(), Feedback::default());
            let later = start + Duration::from_secs(after);
            feedback.note(destination(), slot(0), Verdict::Failed, start);
            let said = feedback.note(destination(), slot(1), Verdict::Answered, later);
            assert_eq!(said.contains(&(slot(0), Verdict::Failed)), counts);
            assert!(said.contains(&(slot(1), Verdict::Answered)));
            let mut feedback = Feedback::default();
            feedback.note(destination(), slot(1), Verdict::Answered, start);
            let said = feedback.note(destination(), slot(0), Verdict::Failed, later);
            assert_eq!(!said.is_empty(), counts);
        }
    }

    #[test]
    fn what_is_over_is_forgotten_and_said() {
        let (start, mut feedback) = (start(), Feedback::default());
        feedback.note(destination(), slot(0), Verdict::Failed, start);
        let (mut before, mut eased) = (start, 0);
        while let Some((now, _)) = feedback.deadline(before).earliest() {
            eased += feedback.eased(before, now).len();
            before = now;
        }
        assert_eq!(eased, 8);
        assert!(feedback.pairs.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (now, mut feedback) = (start(), Feedback::default());
        for number in 0..6_000_u32 {
            let destination = format!("600:{:x}:{:x}::/64", number / 1_000, number % 1_000);
            feedback.note(destination.parse().unwrap(), slot(0), Verdict::Failed, now);
        }
        assert_eq!(feedback.pairs.len(), MOST);
    }
}
