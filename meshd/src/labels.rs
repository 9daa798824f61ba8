//! Labels: which neighbours may send us what under which name, and what we may send them. A pure state machine.
//!
//! A label stands for a pair of nodes, whose session's datagrams are handed on. The receiving end of a link gives it out when it is asked,
//! for a while; so a relay asks the next node for a label of its own as soon as it has given one. Who has none hands on in the nested
//! form (`relayed.rs`), which always works.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use routing::LinkId;

/// How long a label is good for.
pub const LIFETIME: Duration = Duration::from_secs(180);
/// So much earlier who has taken one stops using it.
const SLACK: Duration = Duration::from_secs(5);
/// One that is in use is asked for again when it has so long left.
const RENEW: Duration = Duration::from_secs(90);
/// Pause before an unanswered question is repeated; it doubles up to [`MAX_AGAIN`].
const AGAIN: Duration = Duration::from_secs(1);
/// See [`AGAIN`]. Neighbours of an earlier release never answer.
const MAX_AGAIN: Duration = Duration::from_secs(64);
/// Labels for one neighbour's link.
const MOST_OF_LINK: usize = 1_024;
/// Labels given, and labels taken, at most.
const MOST: usize = 8_192;
/// New labels for one link within a second: each costs a new snapshot.
const MOST_A_SECOND: u32 = 32;
/// How often what has run out is looked for, and whether datagrams come as well as go.
const TICK: Duration = Duration::from_millis(200);

/// Whose datagrams: from which node, to which, by their own addresses.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Pair {
    /// The node that has sealed them.
    pub source: Ipv6Addr,
    /// The node that can open them.
    pub destination: Ipv6Addr,
}

/// A pair, over one link.
type Name = (LinkId, Pair);

/// All labels.
#[derive(Debug, Default)]
pub struct Labels {
    given: BTreeMap<u32, Given>,
    names: BTreeMap<Name, u32>,
    taken: BTreeMap<Name, Taken>,
    /// How many were new of late, by link.
    fresh: BTreeMap<LinkId, (Instant, u32)>,
    tick: Option<Instant>,
}

/// A label that a neighbour may use.
#[derive(Clone, Copy, Debug)]
struct Given {
    name: Name,
    until: Instant,
}

/// A label that we may use, or want to.
#[derive(Clone, Copy, Debug)]
struct Taken {
    label: Option<(u32, Instant)>,
    /// Somebody wants it until then.
    wanted: Instant,
    /// When to ask next, if it is to be asked.
    ask: Instant,
    tries: u32,
}

/// What was given for a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// A label that is new.
    New(u32),
    /// The same as before, for longer.
    Longer(u32),
    /// None: there are too many.
    Refused,
}

impl Labels {
    /// A neighbour asks for a label. `random` gives a number.
    pub fn give(
        &mut self,
        link: LinkId,
        pair: Pair,
        mut random: impl FnMut() -> u32,
        now: Instant,
    ) -> Answer {
        let (name, until) = ((link, pair), now + LIFETIME);
        if let Some(label) = self.names.get(&name).copied()
            && let Some(given) = self.given.get_mut(&label)
        {
            given.until = until;
            return Answer::Longer(label);
        }
        let of_link = self.names.range((link, Pair::FIRST)..=(link, Pair::LAST));
        if of_link.count() >= MOST_OF_LINK || self.given.len() >= MOST || !self.allows(link, now) {
            return Answer::Refused;
        }
        let label = loop {
            let label = random();
            // None is called 0: that means a refusal.
            if label != 0 && !self.given.contains_key(&label) {
                break label;
            }
        };
        self.given.insert(label, Given { name, until });
        self.names.insert(name, label);
        self.tick.get_or_insert(now + TICK);
        Answer::New(label)
    }

    fn allows(&mut self, link: LinkId, now: Instant) -> bool {
        let (since, count) = self.fresh.entry(link).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MOST_A_SECOND
    }

    /// Somebody wants to hand on what is of this pair by this link. Whether the neighbour is to be asked for a label now.
    pub fn want(&mut self, link: LinkId, pair: Pair, now: Instant) -> bool {
        if self.taken.len() >= MOST && !self.taken.contains_key(&(link, pair)) {
            return false;
        }
        let taken = self.taken.entry((link, pair)).or_insert(Taken {
            label: None,
            wanted: now,
            ask: now,
            tries: 0,
        });
        taken.wanted = now + LIFETIME;
        self.tick.get_or_insert(now + TICK);
        taken.asks(now)
    }

    /// A neighbour has answered: a label, good for so long, or 0. Whether that changes anything. Who was not asked is not heard.
    pub fn take(
        &mut self,
        link: LinkId,
        pair: Pair,
        label: u32,
        lifetime: Duration,
        now: Instant,
    ) -> bool {
        let Some(taken) = self.taken.get_mut(&(link, pair)) else {
            return false;
        };
        let before = taken.label.map(|(label, _)| label);
        taken.label =
            (label != 0).then(|| (label, now + lifetime.min(LIFETIME).saturating_sub(SLACK)));
        if label != 0 {
            taken.tries = 0;
        }
        before != taken.label.map(|(label, _)| label)
    }

    /// The other end of a link may have begun anew, and know none of the labels that it has given. Whether there were any.
    pub fn lose_all(&mut self, link: LinkId, now: Instant) -> bool {
        let of_link = self
            .taken
            .range_mut((link, Pair::FIRST)..=(link, Pair::LAST));
        let mut has_changed = false;
        for (_, taken) in of_link {
            has_changed |= taken.lose(now);
        }
        self.hurry(has_changed, now);
        has_changed
    }

    /// The other end of a link does not know a label that we use. Whether it was one of its.
    pub fn lose(&mut self, link: LinkId, label: u32, now: Instant) -> bool {
        let mut of_link = self
            .taken
            .range_mut((link, Pair::FIRST)..=(link, Pair::LAST));
        let has_it = |taken: &Taken| taken.label.is_some_and(|(its, _)| its == label);
        let found = of_link.find(|(_, taken)| has_it(taken));
        let has_changed = found.is_some_and(|(_, taken)| taken.lose(now));
        self.hurry(has_changed, now);
        has_changed
    }

    /// What was lost is asked for again at once.
    fn hurry(&mut self, has_changed: bool, now: Instant) {
        if has_changed {
            self.tick = Some(now);
        }
    }

    /// The label to hand on with, if there is one.
    pub fn of(&self, link: LinkId, pair: Pair) -> Option<u32> {
        let (label, _) = self.taken.get(&(link, pair))?.label?;
        Some(label)
    }

    /// The labels that neighbours may use, and for what.
    pub fn given(&self) -> impl Iterator<Item = (u32, LinkId, Pair)> {
        self.given.iter().map(|(label, given)| {
            let (link, pair) = given.name;
            (*label, link, pair)
        })
    }

    /// A link is no more. Whether any label was of it.
    pub fn forget(&mut self, link: LinkId) -> bool {
        let before = self.given.len() + self.taken.len();
        self.given.retain(|_, given| given.name.0 != link);
        self.names.retain(|name, _| name.0 != link);
        self.taken.retain(|name, _| name.0 != link);
        self.fresh.remove(&link);
        before != self.given.len() + self.taken.len()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tick
    }

    /// Forgets what has run out. Returns whether a label was among that, and what to ask for again.
    pub fn handle_timeout(&mut self, now: Instant) -> (bool, Vec<(LinkId, Pair)>) {
        let mut has_changed = false;
        self.given.retain(|_, given| {
            let is_good = now < given.until;
            if !is_good {
                self.names.remove(&given.name);
                has_changed = true;
            }
            is_good
        });
        self.taken.retain(|_, taken| {
            if taken.label.is_some_and(|(_, until)| until <= now) {
                taken.label = None;
                has_changed = true;
            }
            now < taken.wanted || taken.label.is_some()
        });
        let mut to_ask = Vec::new();
        for (name, taken) in &mut self.taken {
            if now < taken.wanted && taken.asks(now) {
                to_ask.push(*name);
            }
        }
        let is_empty = self.given.is_empty() && self.taken.is_empty();
        self.tick = (!is_empty).then(|| now + TICK);
        (has_changed, to_ask)
    }
}

impl Pair {
    const FIRST: Self = Self {
        source: Ipv6Addr::UNSPECIFIED,
        destination: Ipv6Addr::UNSPECIFIED,
    };
    const LAST: Self = Self {
        source: Ipv6Addr::from_bits(u128::MAX),
        destination: Ipv6Addr::from_bits(u128::MAX),
    };
}

impl Taken {
    fn lose(&mut self, now: Instant) -> bool {
        (self.ask, self.tries) = (now, 0);
        self.label.take().is_some()
    }

    /// Whether it is to be asked for now; notes that it is.
    fn asks(&mut self, now: Instant) -> bool {
        let lasts = self.label.is_some_and(|(_, until)| now + RENEW < until);
        if lasts || now < self.ask {
            return false;
        }
        let pause = AGAIN * 2_u32.saturating_pow(self.tries).min(1 << 10);
        self.ask = now + pause.min(MAX_AGAIN);
        self.tries = self.tries.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkId = LinkId(1);
    const OTHER: LinkId = LinkId(2);

    fn pair(number: u16) -> Pair {
        Pair {
            source: Ipv6Addr::new(0x600, 0, 0, number, 0, 0, 0, 1),
            destination: Ipv6Addr::new(0x6ff, 0, 0, 0, 0, 0, 0, 1),
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Gives numbers from 1.
    fn counting() -> impl FnMut() -> u32 {
        let mut last = 0;
        move || {
            last += 1;
            last
        }
    }

    #[test]
    fn a_label_is_given_once_and_for_longer_each_time_it_is_asked_for() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        let numbers = [0, 7, 7, 8];
        let mut numbers = numbers.into_iter();
        let mut random = || numbers.next().unwrap();
        assert_eq!(
            labels.give(LINK, pair(1), &mut random, start),
            Answer::New(7)
        );
        let later = start + secs(100);
        let answer = labels.give(LINK, pair(1), &mut random, later);
        assert_eq!(answer, Answer::Longer(7));
        let answer = labels.give(OTHER, pair(1), &mut random, later);
        assert_eq!(answer, Answer::New(8), "no number twice");
        assert!(!labels.handle_timeout(start + secs(279)).0);
        assert!(labels.handle_timeout(start + secs(280)).0);
        assert_eq!((labels.given().count(), labels.poll_timeout()), (0, None));
    }

    #[test]
    fn there_are_only_so_many_for_a_link_and_in_a_second() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        let mut random = counting();
        let mut given = 0;
        for second in 0..200 {
            for number in 0..50 {
                let pair = pair(second * 50 + number);
                let now = start + secs(second.into()) / 4;
                given += usize::from(labels.give(LINK, pair, &mut random, now) != Answer::Refused);
            }
            assert!(given <= (usize::from(second) / 4 + 1) * MOST_A_SECOND as usize);
        }
        let now = start + secs(60);
        assert_eq!(given, MOST_OF_LINK);
        assert!(matches!(
            labels.give(OTHER, pair(1), &mut random, now),
            Answer::New(_)
        ));
        for number in 10_000..12_000 {
            let now = now + secs(number.into()) / 16;
            let _ = labels.give(LINK, pair(number), &mut random, now);
            labels.handle_timeout(now);
            assert!(labels.given().count() <= MOST_OF_LINK + 1);
        }
    }

    #[test]
    fn a_wanted_label_is_asked_for_until_it_comes_and_renewed_while_it_is_wanted() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        assert!(labels.want(LINK, pair(1), start));
        assert!(!labels.want(LINK, pair(1), start), "once");
        let mut asked = Vec::new();
        for second in 1..=20 {
            let (_, to_ask) = labels.handle_timeout(start + secs(second));
            asked.extend(to_ask.iter().map(|_| second));
        }
        assert_eq!(asked, [1, 3, 7, 15]);
        assert!(labels.take(LINK, pair(1), 9, LIFETIME, start + secs(20)));
        assert!(!labels.take(LINK, pair(1), 9, LIFETIME, start + secs(20)));
        assert_eq!(labels.of(LINK, pair(1)), Some(9));
        assert_eq!(labels.of(OTHER, pair(1)), None);
        assert!(!labels.want(LINK, pair(1), start + secs(100)), "it lasts");
        assert!(labels.want(LINK, pair(1), start + secs(110)));
        // It is not answered, and nobody wants it any more.
        assert!(labels.handle_timeout(start + secs(195)).0);
        assert_eq!(labels.of(LINK, pair(1)), None);
        labels.handle_timeout(start + secs(300));
        assert_eq!(labels.poll_timeout(), None);
    }

    #[test]
    fn who_was_not_asked_is_not_heard_and_who_refuses_is_asked_less_and_less() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        assert!(!labels.take(LINK, pair(1), 9, LIFETIME, start));
        assert!(labels.want(LINK, pair(1), start));
        assert!(!labels.take(LINK, pair(1), 0, LIFETIME, start));
        let mut asked = Vec::new();
        for second in 1..=300 {
            if labels.want(LINK, pair(1), start + secs(second)) {
                asked.push(second);
                labels.take(LINK, pair(1), 0, LIFETIME, start + secs(second));
            }
        }
        assert_eq!(asked, [1, 3, 7, 15, 31, 63, 127, 191, 255]);
    }

    #[test]
    fn what_is_lost_is_asked_for_again_at_once() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        for number in 1..=2 {
            labels.want(LINK, pair(number), start);
            labels.take(LINK, pair(number), number.into(), LIFETIME, start);
        }
        assert!(!labels.lose(LINK, 3, start) && !labels.lose(OTHER, 1, start));
        let later = start + secs(10);
        assert!(labels.lose(LINK, 1, later));
        assert_eq!([1, 2].map(|it| labels.of(LINK, pair(it))), [None, Some(2)]);
        assert_eq!(labels.poll_timeout(), Some(later));
        assert_eq!(labels.handle_timeout(later), (false, vec![(LINK, pair(1))]));
        assert!(labels.lose_all(LINK, later) && !labels.lose_all(LINK, later));
        assert_eq!(
            labels.handle_timeout(later).1,
            [(LINK, pair(1)), (LINK, pair(2))]
        );
    }

    #[test]
    fn a_link_takes_its_labels_with_it() {
        let (mut labels, start) = (Labels::default(), Instant::now());
        let mut random = counting();
        labels.give(LINK, pair(1), &mut random, start);
        labels.give(OTHER, pair(1), &mut random, start);
        labels.want(LINK, pair(2), start);
        assert!(labels.forget(LINK));
        assert!(!labels.forget(LINK));
        assert_eq!(labels.given().count(), 1);
        assert_eq!(labels.taken.len(), 0);
    }
}
