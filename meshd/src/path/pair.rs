//! What the agent knows about one peer.

use std::time::{Duration, Instant};

use super::{
    attempt::Attempt,
    exchange::OFFERED,
    offer::Terms,
    probe::{Token, TokenId, Window},
};

/// Traffic longer ago is no reason to try anything.
pub(super) const FRESH: Duration = Duration::from_secs(10);

/// A token that a peer was given.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) token: Token,
    pub(super) given: Instant,
    pub(super) window: Window,
}

/// What a peer has said last.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) terms: Terms,
    /// When its token was received.
    pub(super) at: Instant,
    /// The number of the next probe.
    pub(super) number: u64,
}

/// An offer that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offering {
    pub(super) since: Instant,
    pub(super) sent: usize,
}

#[derive(Debug, Default)]
pub(super) struct Pair {
    /// The latest last.
    pub(super) ours: Vec<Ours>,
    pub(super) theirs: Option<Theirs>,
    pub(super) offering: Option<Offering>,
    pub(super) attempt: Option<Attempt>,
    /// When to say again that this side has begun, and under which token of the peer's.
    pub(super) go_again: Option<(Instant, TokenId)>,
    /// When to offer again, since neighbours see something else than what was offered.
    pub(super) again: Option<Instant>,
    /// How often that was done since the last attempt ended.
    pub(super) repeated: u8,
    /// When to begin to guess ports, if nothing has answered by then.
    pub(super) guesses: Option<Instant>,
    pub(super) failures: u32,
    /// Nothing new is begun before.
    pub(super) rests: Option<Instant>,
    pub(super) traffic: Option<Instant>,
    pub(super) touched: Option<Instant>,
}

impl Pair {
    pub(super) fn is_running(&self) -> bool {
        self.offering.is_some() || self.attempt.as_ref().is_some_and(Attempt::is_running)
    }

    /// Whether no address has answered yet.
    pub(super) fn is_seeking(&self) -> bool {
        let attempt = self.attempt.as_ref().filter(|one| one.is_running());
        self.offering.is_some() || attempt.is_some_and(|one| !one.is_proven())
    }

    pub(super) fn had_traffic(&self, within: Duration, now: Instant) -> bool {
        self.traffic
            .is_some_and(|at| now.saturating_duration_since(at) < within)
    }

    /// Whether another attempt follows, when it may.
    pub(super) fn retries(&self, now: Instant) -> bool {
        !self.is_running() && self.failures > 0 && self.had_traffic(FRESH, now)
    }

    /// When something is due next.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let offer = self
            .offering
            .map(|offering| offering.since + OFFERED[offering.sent - 1]);
        let attempt = self.attempt.as_ref().and_then(Attempt::due);
        let retry = self.rests.filter(|_| self.retries(now));
        let expiry = self.ours.first().map(|ours| ours.given + Token::LIFE);
        let go = self.go_again.map(|(at, _)| at);
        [offer, go, attempt, retry, expiry, self.guesses, self.again]
            .into_iter()
            .flatten()
            .min()
    }
}
