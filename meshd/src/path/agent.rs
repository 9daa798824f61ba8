//! The agent: tokens, offers and attempts of all peers.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use wireguard::{PublicKey, Underlay};

use super::{
    Arrival, Demand, Event, Kind, Local, Mapping, NatView, ProbeError, Reflexion, Socket, Transmit,
    Tried, Why,
    attempt::{self, Action, Attempt, Role},
    candidate::{Candidate, is_plausible},
    guess::{self, Guess, Guessed},
    limit::Limits,
    nat::{Filtering, Nat},
    offer::{MAX_CANDIDATES, Message, OfferError, Terms},
    probe::{self, Probe, Token, TokenId, Window},
    random::Random,
};
use crate::agenda::Agenda;

/// The most peers remembered. Of more, one that nothing is being tried for is forgotten.
const MAX_PAIRS: usize = 1024;
/// The most peers that are being tried at once.
const MAX_RUNNING: usize = 64;
/// Who finds no place among them tries again after this.
const CROWDED: Duration = Duration::from_secs(1);
/// When an offer is sent again that was not answered, after it was sent first; and when it has failed.
const OFFERED: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// After an attempt that failed, the pause before the next; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(10);
/// See [`BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// After one that succeeded.
const PAUSE: Duration = Duration::from_secs(1);
/// Traffic longer ago is no reason to try anything.
pub(super) const FRESH: Duration = Duration::from_secs(10);
/// After a change of the network, peers that there was traffic with so lately are looked for at once.
const ACTIVE: Duration = Duration::from_secs(45);
/// Neighbours answer at about the same time: what they see is offered again this long after the first of them says something new.
const SETTLES: Duration = Duration::from_millis(150);
/// How often that is done while one peer is being looked for.
const REPEATED: u8 = 3;
/// Tokens of one peer that are read.
const TOKENS: usize = 2;
/// Reflexive addresses offered.
const MAX_REFLEXIVE: usize = 3;

/// A token that a peer was given.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) token: Token,
    given: Instant,
    window: Window,
}

/// What a peer has said last.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) terms: Terms,
    /// When its token was received.
    at: Instant,
    /// The number of the next probe.
    number: u64,
}

/// An offer that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Offering {
    since: Instant,
    sent: usize,
}

#[derive(Debug, Default)]
pub(super) struct Pair {
    /// The latest last.
    pub(super) ours: Vec<Ours>,
    pub(super) theirs: Option<Theirs>,
    offering: Option<Offering>,
    pub(super) attempt: Option<Attempt>,
    /// When to offer again, since neighbours see something else than what was offered.
    again: Option<Instant>,
    /// How often that was done since the last attempt ended.
    repeated: u8,
    /// When to begin to guess ports, if nothing has answered by then.
    pub(super) guesses: Option<Instant>,
    failures: u32,
    /// Nothing new is begun before.
    rests: Option<Instant>,
    traffic: Option<Instant>,
    touched: Option<Instant>,
}

impl Pair {
    fn is_running(&self) -> bool {
        self.offering.is_some() || self.attempt.as_ref().is_some_and(Attempt::is_running)
    }

    /// Whether no address has answered yet.
    fn is_seeking(&self) -> bool {
        let attempt = self.attempt.as_ref().filter(|one| one.is_running());
        self.offering.is_some() || attempt.is_some_and(|one| !one.is_proven())
    }

    pub(super) fn had_traffic(&self, within: Duration, now: Instant) -> bool {
        self.traffic
            .is_some_and(|at| now.saturating_duration_since(at) < within)
    }

    /// Whether another attempt follows, when it may.
    fn retries(&self, now: Instant) -> bool {
        !self.is_running() && self.failures > 0 && self.had_traffic(FRESH, now)
    }

    /// When something is due next.
    fn due(&self, now: Instant) -> Option<Instant> {
        let offer = self
            .offering
            .map(|offering| offering.since + OFFERED[offering.sent - 1]);
        let attempt = self.attempt.as_ref().and_then(Attempt::due);
        let retry = self.rests.filter(|_| self.retries(now));
        let expiry = self.ours.first().map(|ours| ours.given + Token::LIFE);
        [offer, attempt, retry, expiry, self.guesses, self.again]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Finds straight ways to peers, and proves them.
#[derive(Debug)]
pub struct Agent {
    own: PublicKey,
    pub(super) random: Random,
    pub(super) local: Local,
    nat: Nat,
    pub(super) pairs: BTreeMap<PublicKey, Pair>,
    tokens: BTreeMap<TokenId, PublicKey>,
    limits: Limits,
    pub(super) guess: Option<Guess>,
    pub(super) guessed: Guessed,
    agenda: Agenda<PublicKey>,
    transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
}

impl Agent {
    /// The agent of the node with this key. `seed` is secret, and another one in each run: tokens follow from it.
    pub fn new(own: PublicKey, seed: &[u8; 32]) -> Self {
        Self {
            own,
            random: Random::new(seed),
            local: Local::default(),
            nat: Nat::default(),
            pairs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            limits: Limits::default(),
            guess: None,
            guessed: Guessed::default(),
            agenda: Agenda::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The addresses of this node, whenever they may have changed. See [`Self::handle_network_change`] for what has to be done then.
    pub fn set_local(&mut self, local: Local, _now: Instant) {
        self.local = local;
    }

    /// A neighbour has said what it sees. Ask at least two, again after a change of the network and every few minutes.
    pub fn handle_reflexion(&mut self, reflexion: Reflexion, now: Instant) {
        if !is_plausible(&reflexion.seen) || !self.nat.handle(reflexion, now) {
            return;
        }
        let mut changed = Vec::new();
        for (peer, pair) in &mut self.pairs {
            if pair.is_seeking() && pair.again.is_none() && pair.repeated < REPEATED {
                pair.again = Some(now + SETTLES);
                changed.push(*peer);
            }
        }
        for peer in changed {
            self.schedule(peer, now);
        }
    }

    /// How the router before this node behaves.
    pub fn nat(&self) -> NatView {
        self.nat.view(&self.local)
    }

    /// Looks for a straight way to a peer. To be called again while there is traffic and no straight way: it begins something only
    /// where nothing is being tried and the last attempt is long enough ago.
    pub fn reach(&mut self, peer: PublicKey, demand: Demand, now: Instant) {
        if peer == self.own || !self.make_room(peer, now) {
            return;
        }
        let pair = self.pairs.entry(peer).or_default();
        pair.touched = Some(now);
        if demand == Demand::Traffic {
            pair.traffic = Some(now);
        }
        if !pair.is_running() && pair.rests.is_none_or(|rests| rests <= now) {
            self.begin(peer, now);
        }
        self.schedule(peer, now);
    }

    /// The tokens that were given away: probes under others need not be read.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.tokens.keys().copied()
    }

    /// Drops everything about a peer.
    pub fn forget(&mut self, peer: PublicKey) {
        self.stop_guessing(peer);
        if let Some(pair) = self.pairs.remove(&peer) {
            for ours in &pair.ours {
                self.tokens.remove(&ours.token.id);
            }
        }
        self.agenda.set(peer, None);
    }

    /// What was tried last to reach a peer.
    pub fn why(&self, peer: PublicKey) -> Vec<Tried> {
        let attempt = self.pairs.get(&peer).and_then(|pair| pair.attempt.as_ref());
        let checks = attempt.into_iter().flat_map(|attempt| &attempt.checks);
        checks.map(attempt::Check::tried).collect()
    }

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

    /// Takes a datagram in that [`probe::is_probe`] says is one.
    ///
    /// # Errors
    /// It is not answered, and nothing has changed.
    pub fn handle_probe(
        &mut self,
        from: impl Into<Arrival>,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), ProbeError> {
        let from = from.into();
        let id = probe::token_of(datagram)?;
        let peer = *self.tokens.get(&id).ok_or(ProbeError::UnknownToken)?;
        let pair = self.pairs.get_mut(&peer).ok_or(ProbeError::UnknownToken)?;
        let is_named = |ours: &&mut Ours| {
            ours.token.id == id && now.saturating_duration_since(ours.given) < Token::LIFE
        };
        let ours = pair
            .ours
            .iter_mut()
            .find(is_named)
            .ok_or(ProbeError::UnknownToken)?;
        let (number, probe) = ours.token.open(datagram)?;
        if !ours.window.take(number) {
            return Err(ProbeError::Repeated);
        }
        match probe {
            Probe::Ping { is_chosen } => self.on_ping(peer, from, number, is_chosen, now),
            Probe::Pong { of, seen: _ } => self.on_pong(peer, from, of, now)?,
        }
        self.drive(peer, now);
        Ok(())
    }

    fn on_ping(
        &mut self,
        peer: PublicKey,
        from: Arrival,
        number: u64,
        is_chosen: bool,
        now: Instant,
    ) {
        let pong = Probe::Pong {
            of: number,
            seen: from.remote,
        };
        self.send(peer, from.socket, from.local, from.remote, &pong, None, now);
        let pair = self.pairs.get_mut(&peer).expect("it has given the token");
        let Some(attempt) = &mut pair.attempt else {
            return;
        };
        let known = attempt.checks.len();
        let action = attempt.handle_ping(from, is_chosen, &self.local, now);
        if attempt.checks.len() > known && from.remote.is_ipv4() {
            self.on_let_in(from.remote);
        }
        if let Some(Action::Use(check)) = action {
            self.take(peer, check, now);
        }
    }

    /// A peer's probe came from where none was sent to.
    fn on_let_in(&mut self, from: SocketAddr) {
        if !self.local.is_near(from.ip()) {
            let filtering = if self.limits.has_sent_to_host(from.ip()) {
                Filtering::AddressDependent
            } else {
                Filtering::EndpointIndependent
            };
            self.nat.handle_let_in(filtering);
        }
    }

    fn on_pong(
        &mut self,
        peer: PublicKey,
        from: Arrival,
        of: u64,
        now: Instant,
    ) -> Result<(), ProbeError> {
        let attempt = self.pair(peer).attempt.as_mut();
        let attempt = attempt.ok_or(ProbeError::Unasked)?;
        let check = attempt
            .handle_pong(from, of, now)
            .ok_or(ProbeError::Unasked)?;
        let follows = if attempt.checks[check].is_chosen {
            attempt.follow(check)
        } else {
            None
        };
        self.limits.handle_answer(from.remote);
        if follows.is_some() {
            self.take(peer, check, now);
        }
        Ok(())
    }

    /// The network of this node has changed: it may be somewhere else, behind another router, at other addresses.
    /// [`Self::set_local`] first. Peers that there is traffic with are looked for at once; neighbours should be asked what they see.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.nat.forget();
        if let Some(guess) = self.guess {
            self.stop_guessing(guess.peer);
        }
        let active: Vec<_> = self
            .pairs
            .iter()
            .filter(|(_, pair)| pair.had_traffic(ACTIVE, now))
            .map(|(peer, _)| *peer)
            .collect();
        for pair in self.pairs.values_mut() {
            (pair.failures, pair.rests) = (0, None);
        }
        for peer in active {
            self.begin(peer, now);
            self.schedule(peer, now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(peer) = self.agenda.take(now) {
            self.drive(peer, now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next()
    }

    /// The next probe to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What is wanted next, or was found.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How much it remembers: peers, tokens, and what it was about to send and say.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        let queues = [self.transmits.len(), self.events.len()];
        [self.pairs.len(), self.tokens.len(), queues[0], queues[1]]
    }

    pub(super) fn pair(&mut self, peer: PublicKey) -> &mut Pair {
        self.pairs.entry(peer).or_default()
    }

    /// Whether there is a place for a peer, perhaps that of another.
    fn make_room(&mut self, peer: PublicKey, now: Instant) -> bool {
        if self.pairs.contains_key(&peer) || self.pairs.len() < MAX_PAIRS {
            return true;
        }
        let idle = self
            .pairs
            .iter()
            .filter(|(_, pair)| !pair.is_running() && !pair.had_traffic(FRESH, now));
        let oldest = idle.min_by_key(|(_, pair)| pair.touched);
        let oldest = oldest.map(|(peer, _)| *peer);
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
        oldest.is_some()
    }

    /// Offers the peer to look for each other.
    fn begin(&mut self, peer: PublicKey, now: Instant) {
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

    /// Begins to probe what a peer has named.
    fn probe(&mut self, peer: PublicKey, terms: Terms, wait: Duration, now: Instant) {
        let ours = self.nat.view(&self.local);
        let at_same_site = |candidate: &Candidate| {
            candidate.kind != Kind::Host && self.nat.is_ours(candidate.address.ip())
        };
        let is_same_site = terms.candidates.iter().any(at_same_site);
        let (checks, lockstep) = attempt::checks_of(&terms, &ours, &self.local, is_same_site, now);
        let role = if self.own < peer {
            Role::Chooses
        } else {
            Role::Follows
        };
        // Far below the end of the numbers, so that they do not run out.
        let mut number = self.random.word() >> 1;
        let theirs = terms.nat.mapping;
        let pair = self.pairs.entry(peer).or_default();
        if let Some(known) = &pair.theirs
            && known.terms.token.id == terms.token.id
        {
            number = known.number;
        }
        pair.theirs = Some(Theirs {
            terms,
            at: now,
            number,
        });
        pair.attempt = Some(Attempt::new(role, checks, lockstep, wait, now));
        pair.guesses = (ours.mapping == Mapping::Random && theirs.is_endpoint_independent())
            .then_some(now + guess::AFTER);
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
            self.nat.reflexive()
        } else {
            let v6 = self.nat.reflexive().into_iter().filter(SocketAddr::is_ipv6);
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

    /// Does what is due for a peer.
    pub(super) fn drive(&mut self, peer: PublicKey, now: Instant) {
        self.expire(peer, now);
        self.offer_again(peer, now);
        self.offer_anew(peer, now);
        self.guess_if_due(peer, now);
        while let Some(action) = self
            .pairs
            .get_mut(&peer)
            .and_then(|pair| pair.attempt.as_mut()?.next(now))
        {
            match action {
                Action::Probe {
                    check,
                    hop_limit,
                    is_chosen,
                } => self.ask(peer, check, hop_limit, is_chosen, now),
                Action::Use(check) => self.take(peer, check, now),
                Action::End => self.end(peer, now),
            }
        }
        let retries = self
            .pairs
            .get(&peer)
            .is_some_and(|pair| pair.retries(now) && pair.rests.is_some_and(|rests| rests <= now));
        if retries {
            self.begin(peer, now);
        }
        self.schedule(peer, now);
    }

    fn expire(&mut self, peer: PublicKey, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&peer) else {
            return;
        };
        let is_old = |at| now.saturating_duration_since(at) >= Token::LIFE;
        while let Some(first) = pair.ours.first()
            && is_old(first.given)
        {
            self.tokens.remove(&first.token.id);
            pair.ours.remove(0);
        }
    }

    fn offer_again(&mut self, peer: PublicKey, now: Instant) {
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

    /// Offers what neighbours see by now.
    fn offer_anew(&mut self, peer: PublicKey, now: Instant) {
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

    fn schedule(&mut self, peer: PublicKey, now: Instant) {
        let due = self.pairs.get(&peer).and_then(|pair| pair.due(now));
        let guess = self.guess.as_ref().filter(|guess| guess.peer == peer);
        let guess = guess.and_then(Guess::due);
        let due = [due, guess].into_iter().flatten().min();
        self.agenda.set(peer, due);
    }

    /// Probes one address.
    fn ask(
        &mut self,
        peer: PublicKey,
        check: usize,
        hop_limit: Option<u8>,
        is_chosen: bool,
        now: Instant,
    ) {
        let attempt = self.pairs.get(&peer).and_then(|pair| pair.attempt.as_ref());
        let Some(of) = attempt.and_then(|attempt| attempt.checks.get(check)) else {
            return;
        };
        let (socket, local, to) = (of.socket, of.local, of.candidate.address);
        let is_first = to.is_ipv4()
            && of.rtt.is_none()
            && !self.local.is_near(to.ip())
            && !self.limits.has_sent_to(to);
        let may = of.rtt.is_some() || self.limits.take(peer, to, now);
        if is_first && may {
            self.nat.handle_opened();
        }
        let ping = Probe::Ping { is_chosen };
        let number = if may {
            self.send(peer, socket, local, to, &ping, hop_limit, now)
        } else {
            None
        };
        if let Some(attempt) = &mut self.pair(peer).attempt {
            attempt.handle_sent(check, number, now);
        }
    }

    /// Sends a probe under the peer's token, if there is one; the probe's number.
    pub(super) fn send(
        &mut self,
        peer: PublicKey,
        socket: Socket,
        from: Option<std::net::IpAddr>,
        to: SocketAddr,
        probe: &Probe,
        hop_limit: Option<u8>,
        now: Instant,
    ) -> Option<u64> {
        let theirs = self.pairs.get_mut(&peer)?.theirs.as_mut()?;
        if now.saturating_duration_since(theirs.at) >= Token::LIFE {
            return None;
        }
        let number = theirs.number;
        theirs.number += 1;
        self.transmits.push_back(Transmit {
            socket,
            from,
            to,
            datagram: theirs.terms.token.seal(number, probe),
            hop_limit,
        });
        Some(number)
    }

    /// An address is to be used.
    fn take(&mut self, peer: PublicKey, check: usize, now: Instant) {
        let pair = self.pairs.entry(peer).or_default();
        let attempt = pair.attempt.as_ref();
        let Some(of) = attempt.and_then(|attempt| attempt.checks.get(check)) else {
            return;
        };
        let (remote, local, rtt) = (of.candidate.address, of.local, of.rtt.unwrap_or_default());
        (pair.failures, pair.repeated) = (0, 0);
        (pair.rests, pair.guesses) = (Some(now + PAUSE), None);
        self.events.push_back(match of.socket {
            Socket::Own(socket) => Event::Proven {
                peer,
                endpoint: Underlay {
                    remote,
                    local,
                    socket,
                },
                rtt,
            },
            Socket::Extra(socket) => Event::Adopt {
                peer,
                socket,
                remote,
                local,
                rtt,
            },
        });
        if self.own < peer {
            self.ask(peer, check, None, true, now);
        }
    }

    fn end(&mut self, peer: PublicKey, now: Instant) {
        self.stop_guessing(peer);
        let ours = self.nat.view(&self.local).mapping;
        let Some(pair) = self.pairs.get(&peer) else {
            return;
        };
        let Some(attempt) = pair.attempt.as_ref().filter(|one| !one.is_proven()) else {
            return;
        };
        let theirs = pair.theirs.as_ref().map(|theirs| theirs.terms.nat.mapping);
        let why = match (ours, theirs) {
            _ if attempt.is_empty() => Why::NoCandidates,
            (
                Mapping::Random | Mapping::Sequential { .. },
                Some(Mapping::Random | Mapping::Sequential { .. }),
            ) => Why::BothRandom,
            (Mapping::Random, _) | (_, Some(Mapping::Random)) if self.guessed.has(peer) => {
                Why::NotMet
            }
            (Mapping::Random, _) | (_, Some(Mapping::Random)) => Why::Unpredictable,
            _ => Why::Silent,
        };
        self.fail(peer, why, now);
    }

    fn fail(&mut self, peer: PublicKey, why: Why, now: Instant) {
        let pair = self.pair(peer);
        let pause = BACKOFF * 2_u32.saturating_pow(pair.failures.min(10));
        pair.failures += 1;
        pair.repeated = 0;
        pair.rests = Some(now + pause.min(MAX_BACKOFF));
        self.events.push_back(Event::Failed { peer, why });
    }
}
