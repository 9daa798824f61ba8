//! The table of pending seqno requests (RFC 8966 §3.2.7): those we have made, and those that we have passed on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::route::Slot;
use crate::types::{RouterId, Seqno};

/// How many more nodes may pass on a request of ours.
pub(crate) const HOP_COUNT: u8 = 64;
/// A request of ours is made again after so long; in between, each hop sees to it that it is not lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often; then it takes twice as long each time,
const STEPS: u32 = 8;
/// and so on up to here, for as long as there is somebody to ask.
const MOST_PATIENCE: Duration = Duration::from_secs(16);
/// A selected route that is in doubt is given up after so many.
const MOST_DOUBTS: u32 = 3;
/// The same request is not passed on again so soon.
const REDUNDANT: Duration = Duration::from_millis(500);
/// What was passed on is remembered for so long, so that the answer finds its way back.
const MEMORY: Duration = Duration::from_secs(10);
/// So many requests are remembered of each kind.
const MOST: usize = 4_096;
/// So many neighbours get the answer to one.
const MOST_ASKERS: usize = 8;

/// An origin's route: what is requested.
pub(crate) type Key = (Ipv6Network, RouterId);

/// Why a newer seqno is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There are routes, but none is feasible.
    Starving,
    /// The selected route, by this link, was announced again, worse, and that is not feasible.
    Doubt(Slot),
    /// A route that is not feasible would be much better.
    Better,
}

impl Why {
    /// How long to wait after the request that follows so many.
    fn patience(self, tries: u32) -> Duration {
        let doubled = |doublings: u32| PATIENCE * (1 << doublings.min(8));
        match self {
            // An origin that has lost its state takes one step for each request.
            Self::Starving => doubled(tries.saturating_sub(STEPS)).min(MOST_PATIENCE),
            Self::Doubt(_) | Self::Better => doubled(tries),
        }
    }
}

#[derive(Clone, Debug)]
struct Wanted {
    seqno: Seqno,
    why: Why,
    tries: u32,
    next: Instant,
    asked: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Passed {
    seqno: Seqno,
    at: Instant,
    to: Slot,
    askers: Vec<Slot>,
    is_answered: bool,
}

/// What to do about a request of ours whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Ask again whoever may know.
    Again,
    /// Ask this one again.
    AgainFrom(Slot),
    /// Give up the route by this link, which was in doubt.
    GiveUp(Slot),
}

/// What to do with somebody else's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Pass it on; rather not to the one that it was passed on to before.
    On {
        /// To whom it was passed on before.
        before: Option<Slot>,
    },
    /// It has been passed on already.
    Redundant,
}

/// The table of pending seqno requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    wanted: BTreeMap<Key, Wanted>,
    passed: BTreeMap<Key, Passed>,
}

impl Requests {
    /// A newer seqno is wanted, and this neighbour may get it. Says whether it is to be asked.
    pub(crate) fn want(
        &mut self,
        key: Key,
        seqno: Seqno,
        why: Why,
        slot: Slot,
        now: Instant,
    ) -> bool {
        if self.wanted.len() >= MOST && !self.wanted.contains_key(&key) {
            return false;
        }
        let new = || Wanted {
            seqno,
            why,
            tries: 0,
            next: now + PATIENCE,
            asked: Vec::new(),
        };
        let wanted = self.wanted.entry(key).or_insert_with(new);
        if seqno.is_newer_than(wanted.seqno) {
            *wanted = new();
        } else if why != Why::Better {
            wanted.why = why;
        }
        let is_new = !wanted.asked.contains(&slot);
        if is_new {
            wanted.asked.push(slot);
        }
        is_new
    }

    /// Nothing newer is wanted of any origin of a prefix, since a route is selected; unless that one, by link `doubted`, is in doubt.
    pub(crate) fn content(&mut self, prefix: Ipv6Network, doubted: Option<Slot>) {
        let keys: Vec<Key> = self
            .wanted
            .range(bounds(prefix))
            .filter(|(_, wanted)| match wanted.why {
                Why::Starving => true,
                Why::Doubt(slot) => doubted != Some(slot),
                Why::Better => false,
            })
            .map(|(&key, _)| key)
            .collect();
        for key in keys {
            self.wanted.remove(&key);
        }
    }

    /// A route is in doubt no longer: it was announced again.
    pub(crate) fn resolve(&mut self, prefix: Ipv6Network, slot: Slot) {
        if !self.wanted.is_empty() {
            let doubt = Why::Doubt(slot);
            self.wanted
                .retain(|&(other, _), wanted| other != prefix || wanted.why != doubt);
        }
    }

    /// What is due at `now`.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<(Key, Seqno, Turn)> {
        let mut due = Vec::new();
        self.wanted.retain(|&key, wanted| {
            if now < wanted.next {
                return true;
            }
            wanted.tries += 1;
            wanted.next = now + wanted.why.patience(wanted.tries);
            wanted.asked.clear();
            match wanted.why {
                Why::Starving | Why::Better => due.push((key, wanted.seqno, Turn::Again)),
                Why::Doubt(slot) if wanted.tries < MOST_DOUBTS => {
                    due.push((key, wanted.seqno, Turn::AgainFrom(slot)));
                }
                Why::Doubt(slot) => {
                    due.push((key, wanted.seqno, Turn::GiveUp(slot)));
                    return false;
                }
            }
            true
        });
        self.passed
            .retain(|_, passed| now.saturating_duration_since(passed.at) < MEMORY);
        due
    }

    /// There is nobody to ask any more.
    pub(crate) fn abandon(&mut self, key: Key) {
        self.wanted.remove(&key);
    }

    /// Somebody asks for what we do not have.
    pub(crate) fn pass(&mut self, key: Key, seqno: Seqno, asker: Slot, now: Instant) -> Pass {
        let Some(passed) = self.passed.get_mut(&key) else {
            return if self.passed.len() < MOST {
                Pass::On { before: None }
            } else {
                Pass::Redundant
            };
        };
        if passed.is_answered && seqno.is_newer_than(passed.seqno) {
            return Pass::On { before: None };
        }
        if !passed.askers.contains(&asker) && passed.askers.len() < MOST_ASKERS {
            passed.askers.push(asker);
        }
        if now.saturating_duration_since(passed.at) < REDUNDANT {
            return Pass::Redundant;
        }
        Pass::On {
            before: Some(passed.to),
        }
    }

    /// It was passed on to that neighbour.
    pub(crate) fn passed(&mut self, key: Key, seqno: Seqno, asker: Slot, to: Slot, now: Instant) {
        let mut askers = match self.passed.remove(&key) {
            Some(passed) if !passed.is_answered => passed.askers,
            Some(_) | None => Vec::new(),
        };
        if !askers.contains(&asker) && askers.len() < MOST_ASKERS {
            askers.push(asker);
        }
        let passed = Passed {
            seqno,
            at: now,
            to,
            askers,
            is_answered: false,
        };
        self.passed.insert(key, passed);
    }

    /// The selected route has this seqno: whoever waits for it is to hear of it.
    pub(crate) fn answer(&mut self, key: Key, seqno: Seqno) -> Vec<Slot> {
        match self.passed.get_mut(&key) {
            Some(passed) if !passed.is_answered && !passed.seqno.is_newer_than(seqno) => {
                passed.is_answered = true;
                std::mem::take(&mut passed.askers)
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// There is something to say to all who wait for a newer seqno of an origin, even if it is not new enough.
    pub(crate) fn answer_all(&mut self, key: Key) -> Vec<Slot> {
        self.passed.get_mut(&key).map_or_else(Vec::new, |passed| {
            passed.is_answered = true;
            std::mem::take(&mut passed.askers)
        })
    }

    /// The origin of the selected route is another: whoever waits for the old one is to hear of it.
    pub(crate) fn answer_others(&mut self, prefix: Ipv6Network, router_id: RouterId) -> Vec<Slot> {
        let mut askers = Vec::new();
        for (&(_, other), passed) in self.passed.range_mut(bounds(prefix)) {
            if other != router_id && !passed.is_answered {
                passed.is_answered = true;
                askers.append(&mut passed.askers);
            }
        }
        askers
    }

    /// Forgets a link.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.passed.retain(|_, passed| passed.to != slot);
        for passed in self.passed.values_mut() {
            passed.askers.retain(|&asker| asker != slot);
        }
        for wanted in self.wanted.values_mut() {
            wanted.asked.retain(|&asked| asked != slot);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.wanted.values().map(|wanted| wanted.next).min()
    }

    /// How many there are: ours, and those of others.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.wanted.len(), self.passed.len())
    }
}

/// All keys of a prefix.
const fn bounds(prefix: Ipv6Network) -> std::ops::RangeInclusive<Key> {
    (prefix, RouterId([0; 8]))..=(prefix, RouterId([0xff; 8]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    fn slot(index: usize) -> Slot {
        Slot::at(index).unwrap()
    }

    fn key() -> Key {
        ("600::/64".parse().unwrap(), RouterId([1; 8]))
    }

    #[test]
    fn each_neighbour_is_asked_once_and_again_when_the_time_has_come() {
        let (now, mut requests) = (start(), Requests::default());
        let want = |requests: &mut Requests, index| {
            requests.want(key(), Seqno(2), Why::Starving, slot(index), now)
        };
        assert!(want(&mut requests, 0) && want(&mut requests, 1));
        assert!(!want(&mut requests, 0));
        let next = requests.deadline().unwrap();
        assert_eq!(next, now + PATIENCE);
        assert_eq!(requests.poll(next), [(key(), Seqno(2), Turn::Again)]);
        assert!(want(&mut requests, 0));
    }

    #[test]
    fn a_newer_seqno_is_asked_for_at_once() {
        let (now, mut requests) = (start(), Requests::default());
        assert!(requests.want(key(), Seqno(2), Why::Starving, slot(0), now));
        assert!(requests.want(key(), Seqno(3), Why::Starving, slot(0), now));
        assert!(!requests.want(key(), Seqno(2), Why::Starving, slot(0), now));
    }

    #[test]
    fn a_route_in_doubt_is_given_up_after_three_requests() {
        let (start, mut requests) = (start(), Requests::default());
        requests.want(key(), Seqno(2), Why::Doubt(slot(0)), slot(0), start);
        let (mut turns, mut end) = (Vec::new(), start);
        while let Some(now) = requests.deadline() {
            turns.extend(requests.poll(now).into_iter().map(|(_, _, turn)| turn));
            end = now;
        }
        let again = Turn::AgainFrom(slot(0));
        assert_eq!(turns, [again, again, Turn::GiveUp(slot(0))]);
        assert_eq!(end, start + Duration::from_secs(7));
    }

    #[test]
    fn what_two_ask_for_is_passed_on_once_and_both_hear_the_answer() {
        let (now, mut requests) = (start(), Requests::default());
        assert_eq!(
            requests.pass(key(), Seqno(2), slot(0), now),
            Pass::On { before: None }
        );
        requests.passed(key(), Seqno(2), slot(0), slot(9), now);
        assert_eq!(
            requests.pass(key(), Seqno(2), slot(1), now),
            Pass::Redundant
        );
        assert_eq!(requests.answer(key(), Seqno(1)), []);
        assert_eq!(requests.answer(key(), Seqno(2)), [slot(0), slot(1)]);
        assert_eq!(requests.answer(key(), Seqno(2)), []);
    }

    #[test]
    fn a_request_that_comes_again_later_may_go_another_way() {
        let (start, mut requests) = (start(), Requests::default());
        requests.passed(key(), Seqno(2), slot(0), slot(9), start);
        assert_eq!(
            requests.pass(key(), Seqno(2), slot(0), start + REDUNDANT),
            Pass::On {
                before: Some(slot(9))
            }
        );
    }

    #[test]
    fn only_after_the_answer_a_newer_seqno_is_passed_on() {
        let (now, mut requests) = (start(), Requests::default());
        requests.passed(key(), Seqno(2), slot(0), slot(9), now);
        assert_eq!(
            requests.pass(key(), Seqno(3), slot(0), now),
            Pass::Redundant
        );
        requests.answer(key(), Seqno(2));
        assert_eq!(
            requests.pass(key(), Seqno(3), slot(0), now),
            Pass::On { before: None }
        );
    }

    #[test]
    fn a_change_of_origin_is_an_answer_to_all_who_asked_for_another() {
        let (now, mut requests) = (start(), Requests::default());
        requests.passed(key(), Seqno(2), slot(0), slot(9), now);
        assert_eq!(requests.answer_others(key().0, RouterId([1; 8])), []);
        assert_eq!(requests.answer_others(key().0, RouterId([2; 8])), [slot(0)]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_ends() {
        let (start, mut requests) = (start(), Requests::default());
        for number in 0..6_000_u64 {
            let key = (key().0, RouterId(number.to_be_bytes()));
            requests.want(key, Seqno(1), Why::Starving, slot(0), start);
            if requests.pass(key, Seqno(1), slot(0), start) != Pass::Redundant {
                requests.passed(key, Seqno(1), slot(0), slot(1), start);
            }
        }
        assert_eq!(requests.len(), (MOST, MOST));
        requests.poll(start + MEMORY);
        assert_eq!(requests.len().1, 0);
    }
}
