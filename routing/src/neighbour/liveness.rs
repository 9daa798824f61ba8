//! Whether a neighbour still answers: found out by asking as soon as there is doubt, not by waiting for three Hellos.

use std::time::{Duration, Instant};

/// How soon a neighbour is doubted, and how long it is asked before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How much later than promised a Hello may be.
    pub grace: Duration,
    /// From one question to the next, at least; twice the round-trip time is added.
    pub spacing: Duration,
    /// How many questions may stay unanswered. On a link that loses Hellos they are more, up to twice as many and two.
    pub probes: u32,
}

impl Patience {
    /// For neighbours that run this program, and answer at once.
    pub const MESHD: Self = Self {
        grace: Duration::from_millis(60),
        spacing: Duration::from_millis(120),
        probes: 3,
    };
    /// For others: babeld takes 270 ms to answer within 500.
    pub const STOCK: Self = Self {
        grace: Duration::from_millis(2_000),
        spacing: Duration::from_millis(1_000),
        probes: 3,
    };
}

/// What is thought of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was heard, and nothing is overdue until then.
    Heard { until: Option<Instant> },
    /// It is being asked.
    Suspect {
        why: Doubt,
        asked: u32,
        /// How often it is asked at most; none: that is not known yet.
        most: Option<u32>,
        next: Instant,
    },
    /// It did not answer.
    Silent,
}

/// Why a neighbour is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Its Hello is late: any packet from it removes the doubt.
    Late,
    /// Something that we sent was not answered: only an answer removes the doubt.
    Unanswered,
}

/// What is to be done about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is to be asked (again).
    Ask,
    /// It has just been given up.
    GivenUp,
}

/// Whether a neighbour still answers.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    patience: Patience,
    state: State,
    /// Whether it has ever answered: if not, silence says nothing.
    answers: bool,
}

impl Liveness {
    /// A neighbour of which the first Hello just came.
    pub(crate) const fn new(patience: Patience) -> Self {
        Self {
            patience,
            state: State::Heard { until: None },
            answers: false,
        }
    }

    pub(crate) const fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent)
    }

    /// Whether it has ever answered what we sent.
    pub(crate) const fn answers(&self) -> bool {
        self.answers
    }

    pub(crate) const fn is_suspect(&self) -> bool {
        matches!(self.state, State::Suspect { .. })
    }

    /// A Hello came; the next one comes within `promise`.
    pub(crate) fn hello(&mut self, promise: Option<Duration>, now: Instant) {
        match self.state {
            State::Heard { .. }
            | State::Suspect {
                why: Doubt::Late, ..
            } => self.trust(promise, now),
            State::Suspect {
                why: Doubt::Unanswered,
                ..
            }
            | State::Silent => {}
        }
    }

    /// Anything else came. It makes up for a Hello that is late, but not for the next one.
    pub(crate) fn heard(&mut self, promise: Option<Duration>, now: Instant) {
        if let State::Suspect {
            why: Doubt::Late, ..
        } = self.state
        {
            self.trust(promise, now);
        }
    }

    /// It answered what we sent.
    pub(crate) fn answered(&mut self, promise: Option<Duration>, now: Instant) {
        self.answers = true;
        self.trust(promise, now);
    }

    /// Whether a neighbour that is silent, and of which a Hello came, comes back without being asked: it never answers, and its
    /// Hellos are steady again.
    pub(crate) fn returns(&mut self, is_steady: bool, promise: Option<Duration>, now: Instant) {
        if self.is_silent() && !self.answers && is_steady {
            self.trust(promise, now);
        }
    }

    /// Begins to ask at once, unless it is being asked already or was given up.
    pub(crate) fn doubt(&mut self, why: Doubt, now: Instant) {
        match &mut self.state {
            State::Heard { .. } => {
                self.state = State::Suspect {
                    why,
                    asked: 0,
                    most: None,
                    next: now,
                }
            }
            State::Suspect { why: earlier, .. } if why == Doubt::Unanswered => *earlier = why,
            State::Suspect { .. } | State::Silent => {}
        }
    }

    /// Gives it up: it is known to be out of reach.
    pub(crate) const fn give_up(&mut self) {
        self.state = State::Silent;
    }

    /// What is due at `now`. `rtt` is its round-trip time, `missed` how many of its last sixteen Hellos did not come.
    pub(crate) fn poll(&mut self, rtt: Duration, missed: u32, now: Instant) -> Option<Turn> {
        if let State::Heard { until: Some(until) } = self.state
            && until <= now
        {
            self.doubt(Doubt::Late, now);
        }
        let State::Suspect {
            asked,
            most,
            next,
            why,
        } = self.state
        else {
            return None;
        };
        if now < next {
            return None;
        }
        // What is missed while it is being asked does not count.
        let few = self.patience.probes;
        let most = most.unwrap_or_else(|| few + missed.min(few + 2));
        if asked < most {
            self.state = State::Suspect {
                why,
                asked: asked + 1,
                most: Some(most),
                next: now + self.patience.spacing + rtt * 2,
            };
            return Some(Turn::Ask);
        }
        if !self.answers {
            // Hellos and IHUs alone tell then.
            self.state = State::Heard { until: None };
            return None;
        }
        self.state = State::Silent;
        Some(Turn::GivenUp)
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Heard { until } => until,
            State::Suspect { next, .. } => Some(next),
            State::Silent => None,
        }
    }

    fn trust(&mut self, promise: Option<Duration>, now: Instant) {
        let until = promise.map(|promise| now + promise + self.patience.grace);
        self.state = State::Heard { until };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    const PROMISE: Option<Duration> = Some(Duration::from_millis(700));
    const NEAR: Duration = Duration::from_millis(2);

    /// When it asked and whether it gave up, in milliseconds, if nothing comes.
    fn silence(liveness: &mut Liveness, missed: u32) -> (Vec<u128>, Option<u128>) {
        let start = start();
        let (mut asked, mut end) = (Vec::new(), None);
        liveness.answered(PROMISE, start);
        while let Some(now) = liveness.deadline() {
            let millis = (now - start).as_millis();
            match liveness.poll(NEAR, missed, now) {
                Some(Turn::Ask) => asked.push(millis),
                Some(Turn::GivenUp) => end = Some(millis),
                None => {}
            }
        }
        (asked, end)
    }

    #[test]
    fn a_late_hello_is_asked_for_three_times_within_half_a_second() {
        let mut liveness = Liveness::new(Patience::MESHD);
        assert_eq!(
            silence(&mut liveness, 0),
            (vec![760, 884, 1_008], Some(1_132))
        );
        assert!(liveness.is_silent());
    }

    #[test]
    fn a_link_that_loses_hellos_is_asked_more_often() {
        let (asked, _) = silence(&mut Liveness::new(Patience::MESHD), 4);
        assert_eq!(asked.len(), 7);
        let (asked, _) = silence(&mut Liveness::new(Patience::MESHD), 16);
        assert_eq!(asked.len(), 8);
    }

    #[test]
    fn a_neighbour_that_never_answers_is_not_given_up() {
        let now = start();
        let mut liveness = Liveness::new(Patience::STOCK);
        liveness.hello(PROMISE, now);
        let mut asked = 0;
        while let Some(at) = liveness.deadline() {
            asked += u32::from(liveness.poll(NEAR, 0, at) == Some(Turn::Ask));
        }
        assert_eq!(asked, 3);
        assert!(!liveness.is_silent() && !liveness.is_suspect());
    }

    #[test]
    fn a_packet_removes_the_doubt_about_a_late_hello_but_not_about_an_unanswered_packet() {
        let now = start();
        let mut liveness = Liveness::new(Patience::MESHD);
        for (why, is_suspect) in [(Doubt::Late, false), (Doubt::Unanswered, true)] {
            liveness.doubt(why, now);
            assert_eq!(liveness.poll(NEAR, 0, now), Some(Turn::Ask));
            liveness.heard(PROMISE, now);
            assert_eq!(liveness.is_suspect(), is_suspect);
        }
        liveness.answered(PROMISE, now);
        assert!(!liveness.is_suspect());
    }

    #[test]
    fn a_silent_neighbour_comes_back_with_its_first_answer() {
        let now = start();
        let mut liveness = Liveness::new(Patience::MESHD);
        liveness.answered(PROMISE, now);
        liveness.give_up();
        liveness.heard(PROMISE, now);
        liveness.returns(true, PROMISE, now);
        assert!(liveness.is_silent());
        liveness.answered(PROMISE, now);
        assert!(!liveness.is_silent());
    }

    #[test]
    fn one_that_never_answers_comes_back_with_steady_hellos() {
        let now = start();
        let mut liveness = Liveness::new(Patience::STOCK);
        liveness.give_up();
        liveness.returns(false, PROMISE, now);
        assert!(liveness.is_silent());
        liveness.returns(true, PROMISE, now);
        assert!(!liveness.is_silent());
    }
}
