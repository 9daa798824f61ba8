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
    offer::Terms,
    pair::{FRESH, Ours, Pair, Theirs},
    probe::{self, Probe, Token, TokenId},
    random::Random,
};
use crate::agenda::Agenda;

/// The most peers remembered. Of more, one that nothing is being tried for is forgotten.
const MAX_PAIRS: usize = 1024;
/// After an attempt that failed, the pause before the next; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(10);
/// See [`BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// After one that succeeded.
const PAUSE: Duration = Duration::from_secs(1);
/// After a change of the network, peers that there was traffic with so lately are looked for at once.
const ACTIVE: Duration = Duration::from_secs(45);
/// Neighbours answer at about the same time: what they see is offered again this long after the first of them says something new.
const SETTLES: Duration = Duration::from_millis(150);
/// How often that is done while one peer is being looked for.
const REPEATED: u8 = 3;

/// Finds straight ways to peers, and proves them.
#[derive(Debug)]
pub struct Agent {
    pub(super) own: PublicKey,
    pub(super) random: Random,
    pub(super) local: Local,
    pub(super) nat: Nat,
    pub(super) pairs: BTreeMap<PublicKey, Pair>,
    pub(super) tokens: BTreeMap<TokenId, PublicKey>,
    pub(super) limits: Limits,
    pub(super) guess: Option<Guess>,
    pub(super) guessed: Guessed,
    pub(super) agenda: Agenda<PublicKey>,
    pub(super) transmits: VecDeque<Transmit>,
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
    pub(super) fn make_room(&mut self, peer: PublicKey, now: Instant) -> bool {
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

    /// Begins to probe what a peer has named.
    pub(super) fn probe(&mut self, peer: PublicKey, terms: Terms, wait: Duration, now: Instant) {
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

    /// Does what is due for a peer.
    pub(super) fn drive(&mut self, peer: PublicKey, now: Instant) {
        self.expire(peer, now);
        self.offer_again(peer, now);
        self.go_again(peer, now);
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

    pub(super) fn fail(&mut self, peer: PublicKey, why: Why, now: Instant) {
        let pair = self.pair(peer);
        let pause = BACKOFF * 2_u32.saturating_pow(pair.failures.min(10));
        pair.failures += 1;
        pair.repeated = 0;
        pair.rests = Some(now + pause.min(MAX_BACKOFF));
        self.events.push_back(Event::Failed { peer, why });
    }
}
