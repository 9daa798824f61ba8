//! The agent's part in telling and being told: offers, answers, and what this node says about itself.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use wireguard::PublicKey;

use super::{
    Agent, Event, Kind, Mapping, NatView, Why, attempt,
    candidate::{Candidate, is_plausible},
    offer::{MAX_CANDIDATES, Message, OfferError, Terms},
    pair::{FRESH, Offering, Ours},
    probe::{Token, TokenId, Window},
};

/// The most peers that are being tried at once.
const MAX_RUNNING: usize = 64;
/// Who finds no place among them tries again after this.
const CROWDED: Duration = Duration::from_secs(1);
/// When an offer is sent again that was not answered, after it was sent first; and when it has failed.
pub(super) const OFFERED: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// When the word that this side has begun is sent again.
const GO_AGAIN: Duration = Duration::from_millis(250);
/// Tokens of one peer that are read.
const TOKENS: usize = 2;
/// Reflexive addresses offered.
const MAX_REFLEXIVE: usize = 3;

impl Agent {
    /// A peer's message, carried here because of its [`Event::Offer`]. The caller vouches for `peer` being who has sent it.
    ///
    /// # Errors
    /// It is no message that is understood, or one too many; nothing has changed then.
    pub fn handle_offer(
        &mut self,
        peer: PublicKey,
        message: &[u8],
        now: Instant,
    ) -> Result<(), OfferError> {
        let message = Message::parse(message)?;
        if peer == self.own {
            return Err(OfferError::Own);
        }
        if !self.limits.take_offer(peer, now) || !self.make_room(peer, now) {
            return Err(OfferError::TooMany);
        }
        self.pairs.entry(peer).or_default().touched = Some(now);
        let result = match message {
            Message::Offer(terms) => {
                self.on_offer(peer, terms, now);
                Ok(())
            }
            Message::Answer { about, terms } => self.on_answer(peer, about, terms, now),
            Message::Go { about } => self.on_go(peer, about, now),
            Message::Guess { about } => self.on_guess(peer, about, now),
        };
        self.drive(peer, now);
        result
    }

    fn on_offer(&mut self, peer: PublicKey, terms: Terms, now: Instant) {
        let about = terms.token.id;
        let pair = self.pair(peer);
        let begins = !pair.is_running();
        // Both have begun at once: each has now heard the other's terms, and answers, but neither has to begin anew.
        pair.offering = None;
        let is_known = pair
            .theirs
            .as_ref()
            .is_some_and(|theirs| theirs.terms.token.id == about);
        if !is_known {
            self.probe(peer, terms, attempt::NO_WORD, now);
        }
        if begins {
            self.renew(peer, now);
        }
        let terms = self.terms(peer, now);
        self.say(peer, &Message::Answer { about, terms });
    }

    fn on_answer(
        &mut self,
        peer: PublicKey,
        about: TokenId,
        terms: Terms,
        now: Instant,
    ) -> Result<(), OfferError> {
        let pair = self.pair(peer);
        if !pair.ours.iter().any(|ours| ours.token.id == about) {
            return Err(OfferError::Unasked);
        }
        let token = terms.token.id;
        let is_known = pair
            .theirs
            .as_ref()
            .is_some_and(|theirs| theirs.terms.token.id == token);
        // It may also be known from an attempt before this offer.
        let since = pair.offering.take().map(|offering| offering.since);
        let attempt = pair.attempt.as_mut().filter(|_| is_known);
        if let Some(attempt) = attempt.filter(|one| since.is_none_or(|at| one.begun() >= at)) {
            attempt.handle_go(now);
        } else {
            self.probe(peer, terms, attempt::OPENING, now);
            if let Some(attempt) = &mut self.pair(peer).attempt {
                attempt.handle_go(now);
            }
            self.pair(peer).go_again = Some((now + GO_AGAIN, token));
        }
        self.say(peer, &Message::Go { about: token });
        Ok(())
    }

    fn on_go(&mut self, peer: PublicKey, about: TokenId, now: Instant) -> Result<(), OfferError> {
        let pair = self.pair(peer);
        let is_ours = pair.ours.iter().any(|ours| ours.token.id == about);
        let Some(attempt) = pair.attempt.as_mut().filter(|_| is_ours) else {
            return Err(OfferError::Unasked);
        };
        attempt.handle_go(now);
        Ok(())
    }

    /// Offers the peer to look for each other.
    pub(super) fn begin(&mut self, peer: PublicKey, now: Instant) {
        let running = self.pairs.values().filter(|pair| pair.is_running()).count();
        let pair = self.pair(peer);
        if running >= MAX_RUNNING && !pair.is_running() {
            pair.rests = Some(now + CROWDED);
            pair.failures = pair.failures.max(1);
            return;
        }
        pair.rests = None;
        pair.offering = Some(Offering {
            since: now,
            sent: 1,
        });
        self.renew(peer, now);
        let terms = self.terms(peer, now);
        self.say(peer, &Message::Offer(terms));
    }

    /// Makes a token for a peer. Probes under the one before are still read.
    fn renew(&mut self, peer: PublicKey, now: Instant) {
        let token = Token {
            id: self.random.word().to_be_bytes(),
            key: self.random.block(),
        };
        self.tokens.insert(token.id, peer);
        let ours = &mut self.pairs.entry(peer).or_default().ours;
        if ours.len() >= TOKENS {
            self.tokens.remove(&ours.remove(0).token.id);
        }
        ours.push(Ours {
            token,
            given: now,
            window: Window::default(),
        });
    }

    /// What this node has to say about itself.
    fn terms(&mut self, peer: PublicKey, now: Instant) -> Terms {
        let nat = self.nat.view(&self.local);
        let candidates = self.candidates(&nat);
        if self.pair(peer).ours.is_empty() {
            self.renew(peer, now);
        }
        let pair = self.pair(peer);
        let ours = pair.ours.last().expect("it was made above");
        let token = ours.token.clone();
        Terms {
            token,
            nat,
            has_traffic: pair.had_traffic(FRESH, now),
            candidates,
        }
    }

    /// Where this node might be reached, likely addresses first.
    fn candidates(&self, nat: &NatView) -> Vec<Candidate> {
        let of = |kind| move |address| Candidate { kind, address };
        let hosts = &self.local.hosts;
        let reflexive: Vec<_> = if nat.mapping.is_endpoint_independent() || nat.witnesses < 2 {
            self.nat.reflexive(&self.local)
        } else {
            let v6 = self
                .nat
                .reflexive(&self.local)
                .into_iter()
                .filter(SocketAddr::is_ipv6);
            nat.last.map(SocketAddr::V4).into_iter().chain(v6).collect()
        };
        let port = hosts
            .iter()
            .find(|host| host.is_ipv4())
            .map(SocketAddr::port);
        let guessed = match (nat.mapping, nat.last, port) {
            (Mapping::EndpointIndependent { keeps_port: false }, Some(last), Some(port)) => {
                Some(SocketAddr::new((*last.ip()).into(), port))
            }
            _ => None,
        };
        let mut candidates: Vec<_> = hosts.iter().copied().map(of(Kind::Host)).collect();
        candidates.sort_by_key(Candidate::order);
        let seen = reflexive.into_iter().take(MAX_REFLEXIVE);
        candidates.extend(seen.map(of(Kind::Reflexive)));
        candidates.extend(self.local.mapped.iter().copied().map(of(Kind::Mapped)));
        candidates.extend(guessed.map(of(Kind::Guessed)));
        let mut offered: Vec<Candidate> = Vec::new();
        for candidate in candidates {
            let is_known = offered.iter().any(|one| one.address == candidate.address);
            if !is_known && is_plausible(&candidate.address) && offered.len() < MAX_CANDIDATES {
                offered.push(candidate);
            }
        }
        offered
    }

    pub(super) fn say(&mut self, peer: PublicKey, message: &Message) {
        let message = message.bytes();
        self.events.push_back(Event::Offer { peer, message });
    }

    pub(super) fn offer_again(&mut self, peer: PublicKey, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&peer) else {
            return;
        };
        let Some(offering) = &mut pair.offering else {
            return;
        };
        if now < offering.since + OFFERED[offering.sent - 1] {
            return;
        }
        offering.sent += 1;
        if offering.sent > OFFERED.len() {
            pair.offering = None;
            self.fail(peer, Why::NoAnswer, now);
        } else {
            let terms = self.terms(peer, now);
            self.say(peer, &Message::Offer(terms));
        }
    }

    /// Says once more that this side has begun: the first word may have been lost.
    pub(super) fn go_again(&mut self, peer: PublicKey, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&peer) else {
            return;
        };
        if let Some((at, about)) = pair.go_again
            && at <= now
        {
            pair.go_again = None;
            self.say(peer, &Message::Go { about });
        }
    }

    /// Offers what neighbours see by now.
    pub(super) fn offer_anew(&mut self, peer: PublicKey, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&peer) else {
            return;
        };
        if pair.again.is_none_or(|again| again > now) {
            return;
        }
        pair.again = None;
        if pair.is_seeking() {
            pair.repeated += 1;
            self.begin(peer, now);
        }
    }
}
