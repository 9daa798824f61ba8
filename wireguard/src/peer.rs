//! One peer of the device: handshakes and timers.
//!
//! The timers are those of the protocol as the kernel module has them (white paper, section 6): nothing ticks. Packet threads
//! note times in the session; a visit reads them, does what is due, and says when the next visit is due at the latest. That may
//! be early, since a time can move on meanwhile, but never late: while a session is *watched*, it is visited every ten
//! seconds, and a session that is not watched says so ([`crate::Signals::woke`]) as soon as it has a new deadline.
//!
//! Steps of a handshake are in `handshake.rs`. Those that others ask for may have been taken on another thread; every visit
//! begins with what they came to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::constants::{
    JITTER, KEEPALIVE_TIMEOUT, KEY_LIFETIME, MISSED_TRIES, OVERHEAD, PATIENT_RETRY, QUICK_RETRY,
    QUICK_TIME, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT,
    RENEW_AS_RESPONDER, SILENCE_TIMEOUT, TRIES_AT_PROVEN, TRIES_PER_UNANSWERED,
};
use crate::device::{Event, Transmit};
use crate::endpoint::Endpoint;
use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PublicKey};
use crate::keypair::Role;
use crate::reader::Author;
use crate::rng::Rng;
use crate::session::{Batch, Kind, Session, State};
use crate::stamp::Clock;

/// Whether a session is kept when nobody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upkeep {
    /// A handshake at once, renewed also when idle, tried for ever.
    Always,
    /// A handshake when there is something to send, given up after 90 s.
    OnDemand,
}

/// What is configured about a peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub key: PublicKey,
    /// The secret shared besides the keys, if any.
    pub preshared: Option<PresharedKey>,
    /// What it is.
    pub kind: Kind,
    /// The prefixes it owns: sources it may send from, destinations that lead to it.
    pub allowed: Vec<Ipv6Network>,
    /// Where it may be found; tried in turn until it is heard from.
    pub endpoints: Vec<Endpoint>,
    /// Send something at least this often, for the sake of NAT on the way.
    pub persistent_keepalive: Option<Duration>,
    /// Whether its session is kept when idle.
    pub upkeep: Upkeep,
}

/// One moment, as the caller's clock has it and in milliseconds since the device's base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) millis: u64,
}

/// What all peers write to.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) rng: Rng,
    pub(crate) clock: Clock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Initiations are sent until one is answered.
    Asking,
    /// No address is known to send one to.
    Homeless,
}

/// A handshake that we want.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    phase: Phase,
    started: u64,
    tries: u32,
    /// Initiations sent, whichever way.
    asked: u32,
    /// Initiations over the overlay by the same way that were not answered.
    missed: u32,
    /// Until when initiations of a session that goes over the overlay follow each other quickly.
    quick: u64,
    /// When the next initiation is due.
    next: u64,
}

/// A peer and all that only the device knows of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) session: Arc<Session>,
    pub(crate) preshared: Option<PresharedKey>,
    pub(crate) allowed: Vec<Ipv6Network>,
    endpoints: Vec<Endpoint>,
    persistent_keepalive: Option<u64>,
    upkeep: Upkeep,
    /// How often to tell of users' packets while they are sent, in milliseconds.
    tells_use: Option<u64>,
    /// When to tell of them next.
    use_due: Option<u64>,
    /// Whose turn it is among the endpoints.
    turn: usize,
    attempt: Option<Attempt>,
    /// When we last sent a handshake message.
    shaken: Option<u64>,
    /// When the last one was that answered the peer's.
    answered: Option<u64>,
    /// Whether the last event said that there is a session.
    up: bool,
    jitter: u64,
    /// When, and why, the next visit is due.
    pub(crate) deadline: Option<(u64, &'static str)>,
}

const fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Entry {
    pub(crate) fn new(peer: &Peer, session: Arc<Session>) -> Self {
        let mut entry = Self {
            session,
            preshared: None,
            allowed: Vec::new(),
            endpoints: Vec::new(),
            persistent_keepalive: None,
            upkeep: peer.upkeep,
            tells_use: None,
            use_due: None,
            turn: 0,
            attempt: None,
            shaken: None,
            answered: None,
            up: false,
            jitter: 0,
            deadline: None,
        };
        entry.configure(peer);
        entry
    }

    /// Takes over what may change without a new session.
    pub(crate) fn configure(&mut self, peer: &Peer) {
        self.preshared.clone_from(&peer.preshared);
        self.allowed.clone_from(&peer.allowed);
        self.endpoints.clone_from(&peer.endpoints);
        self.persistent_keepalive = peer
            .persistent_keepalive
            .map(|interval| millis(interval).max(1));
        self.upkeep = peer.upkeep;
        self.session.set_kind(peer.kind);
    }

    /// The engine was replaced: nothing that was under way can be completed.
    pub(crate) fn restart(&mut self, batch: &mut Batch<'_>) {
        batch.state.keypairs.clear();
        batch.state.handshakes.restart();
        batch.state.renewal = false;
        batch.lapse();
        self.attempt = None;
        self.shaken = None;
    }

    pub(crate) fn set_endpoints(&mut self, endpoints: Vec<Endpoint>, now: Now, out: &mut Outputs) {
        let is_relay = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Overlay(_));
        let has_relay = endpoints.iter().any(|endpoint| is_relay(&endpoint));
        let is_new = has_relay && !self.endpoints.iter().any(|endpoint| is_relay(&endpoint));
        self.endpoints = endpoints;
        self.turn = 0;
        // The peer found us by a way of which we did not know yet, and our answer had none: nothing keeps us from asking.
        if is_new && !self.session.is_established() && self.has_just_answered() {
            self.shaken = None;
        }
        match &mut self.attempt {
            Some(attempt) if attempt.phase == Phase::Homeless => attempt.next = now.millis,
            // There is a way now, and where we asked before, nobody has answered.
            Some(_) if is_new => {
                self.hurry(now);
            }
            Some(_) | None => {}
        }
        self.visit(now, out);
    }

    pub(crate) fn handle_new_way(&mut self, now: Now, out: &mut Outputs) {
        if let Some(attempt) = self.hurry(now) {
            attempt.missed = 0;
            attempt.quick = now.millis + millis(QUICK_TIME);
        }
        self.visit(now, out);
    }

    /// The next initiation of an attempt that waits for an answer is due as soon as one may follow the last.
    fn hurry(&mut self, now: Now) -> Option<&mut Attempt> {
        let soonest = self.shaken.map_or(0, |sent| sent + millis(QUICK_RETRY));
        let attempt = self.attempt.as_mut()?;
        if attempt.phase != Phase::Asking {
            return None;
        }
        attempt.next = attempt.next.min(soonest.max(now.millis));
        Some(attempt)
    }

    /// Does what is due.
    pub(crate) fn visit(&mut self, now: Now, out: &mut Outputs) {
        let session = Arc::clone(&self.session);
        self.visit_locked(&mut session.lock(now.instant), now, out);
    }

    fn visit_locked(&mut self, batch: &mut Batch<'_>, now: Now, out: &mut Outputs) {
        self.heed(batch, out);
        self.drop_old_keys(batch, now);
        self.report(None, out);
        if self
            .attempt
            .is_some_and(|attempt| attempt.next <= now.millis)
        {
            self.retry(batch, now, out);
        }
        if self.wants_handshake(&batch.state, now) {
            self.begin(batch, now, out);
        }
        if batch
            .state
            .owed
            .is_some_and(|since| since + millis(KEEPALIVE_TIMEOUT) <= now.millis)
        {
            // Data that came after the first that is owed an answer is owed one of its own.
            let more = batch.state.data_received > batch.state.owed;
            self.send_keepalive(batch, now, out);
            batch.state.owed = more.then_some(now.millis);
        }
        if self
            .persistent_deadline(&batch.state)
            .is_some_and(|due| due <= now.millis)
        {
            self.send_keepalive(batch, now, out);
        }
        batch.state.watched = batch.state.unanswered.is_some() || batch.state.owed.is_some();
        self.tell_use(batch, now, out);
        self.heed(batch, out);
        self.report(None, out);
        self.deadline = self.next_deadline(&batch.state, now);
    }

    /// Tells of users' packets at intervals for as long as there are any, and lets the session tell when there are again.
    fn tell_use(&mut self, batch: &mut Batch<'_>, now: Now, out: &mut Outputs) {
        let Some(interval) = self.tells_use else {
            return;
        };
        let state = &mut *batch.state;
        let is_used = state.used.is_some_and(|used| {
            let memory = if state.waiting.is_some() {
                interval.max(millis(SILENCE_TIMEOUT))
            } else {
                interval
            };
            used + memory >= now.millis
        });
        match self.use_due {
            None if is_used => self.use_due = Some(now.millis + interval),
            None => state.tells_use = true,
            Some(due) if due <= now.millis => {
                out.events.push_back(Event::InUse {
                    peer: *self.session.key(),
                    waiting: state
                        .waiting
                        .map(|since| Duration::from_millis(now.millis.saturating_sub(since))),
                });
                // What waits by now is told of as soon as it has waited for an interval, and not up to two.
                let since = state.waiting.filter(|since| since + interval > now.millis);
                self.use_due = is_used.then_some(since.unwrap_or(now.millis) + interval);
                state.tells_use = !is_used;
            }
            Some(_) => {}
        }
    }

    pub(crate) fn set_use_interval(
        &mut self,
        interval: Option<Duration>,
        now: Now,
        out: &mut Outputs,
    ) {
        self.tells_use = interval.map(|interval| millis(interval).max(1));
        self.use_due = None;
        self.session.lock(now.instant).state.tells_use = interval.is_some();
        self.visit(now, out);
    }

    /// Nothing was heard of the peer that should have been: asks for a new session, as after a long silence.
    pub(crate) fn handle_loss(&mut self, now: Now, out: &mut Outputs) {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        self.heed(&mut batch, out);
        self.begin(&mut batch, now, out);
        self.visit_locked(&mut batch, now, out);
    }

    /// A packet waits for a session.
    pub(crate) fn initiate(&mut self, now: Now, out: &mut Outputs) {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        self.heed(&mut batch, out);
        if !session.is_established() {
            self.begin(&mut batch, now, out);
        }
        self.visit_locked(&mut batch, now, out);
    }

    /// There is a new way, which the peer does not know yet: asks for a new session by it, whichever way the present one goes.
    pub(crate) fn call(&mut self, endpoint: Endpoint, now: Now, out: &mut Outputs) {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        self.heed(&mut batch, out);
        let attempt = Attempt::due(now.millis);
        self.attempt.get_or_insert(attempt);
        let initiation = batch.initiate(out.clock.stamp(now.instant));
        self.send_initiation(&mut batch, initiation, endpoint, now, out);
        self.visit_locked(&mut batch, now, out);
    }

    /// Our addresses changed: lets the peer see the new ones.
    pub(crate) fn handle_network_change(&mut self, now: Now, out: &mut Outputs) {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        self.heed(&mut batch, out);
        batch.forget_source();
        self.drop_old_keys(&mut batch, now);
        if session.is_established() {
            self.send_keepalive(&mut batch, now, out);
        }
        if self.attempt.is_some() || (self.upkeep == Upkeep::Always && !session.is_established()) {
            self.attempt = Some(Attempt::due(now.millis));
        }
        self.visit_locked(&mut batch, now, out);
    }

    /// Time went by without us: whatever session there was, a new one is asked for `wait` milliseconds from now. Returns whether there
    /// is anything to renew.
    pub(crate) fn handle_resume(&mut self, wait: u64, now: Now, out: &mut Outputs) -> bool {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        self.heed(&mut batch, out);
        batch.forget_source();
        let is_wanted = self.upkeep == Upkeep::Always
            || self.attempt.is_some()
            || batch.state.keypairs.newest().is_some();
        if is_wanted {
            let due = now.millis + wait;
            batch.state.unanswered = None;
            batch.state.renewal = false;
            self.attempt = Some(Attempt::due(due));
        }
        self.visit_locked(&mut batch, now, out);
        is_wanted
    }

    /// A handshake message of this peer, or one that claims to answer ours.
    pub(crate) fn handle_handshake(
        &mut self,
        author: Author,
        from: Endpoint,
        datagram: &[u8],
        now: Now,
        out: &mut Outputs,
    ) -> Result<(), HandshakeError> {
        let session = Arc::clone(&self.session);
        let mut batch = session.lock(now.instant);
        let result = batch.handle_handshake(author, from, datagram, &mut out.transmits);
        if batch.signals.any() {
            self.visit_locked(&mut batch, now, out);
        }
        result
    }

    /// Looks at what was noted since the last visit.
    fn heed(&mut self, batch: &mut Batch<'_>, out: &mut Outputs) {
        let (signals, notes) = batch.take_pending();
        if let Some(at) = notes.answered {
            self.shaken = self.shaken.max(Some(at));
            self.answered = Some(at);
            if let Some(attempt) = &mut self.attempt {
                attempt.next = attempt.next.max(at + millis(REKEY_TIMEOUT));
            }
        }
        if notes.missed {
            let peer = *self.session.key();
            out.events.push_back(Event::Missed { peer });
        }
        // There is a new keypair: no initiation is wanted any more.
        if notes.completed.is_some() || signals.confirmed {
            self.attempt = None;
        }
        if notes.completed.is_some() {
            self.report(notes.completed, out);
        }
        if signals.roamed
            && let Some(endpoint) = batch.endpoint()
        {
            out.events.push_back(Event::Roamed {
                peer: *self.session.key(),
                from: batch.state.left.take(),
                endpoint,
            });
        }
    }

    fn drop_old_keys(&self, batch: &mut Batch<'_>, now: Now) {
        if !batch
            .state
            .keypairs
            .current()
            .is_some_and(|keypair| keypair.is_alive(now.millis))
        {
            batch.lapse();
        }
        if batch
            .state
            .keypairs
            .newest()
            .is_some_and(|born| born + millis(KEY_LIFETIME) <= now.millis)
        {
            batch.state.keypairs.clear();
        }
    }

    fn report(&mut self, rtt: Option<Duration>, out: &mut Outputs) {
        let established = self.session.is_established();
        if established != self.up {
            self.up = established;
            let peer = *self.session.key();
            out.events.push_back(if established {
                Event::Established { peer, rtt }
            } else {
                Event::Closed { peer }
            });
        }
    }

    /// Whether there is a reason for a handshake, besides an attempt that goes on.
    fn wants_handshake(&self, state: &State, now: Now) -> bool {
        let silent = self
            .silence_deadline(state)
            .is_some_and(|due| due <= now.millis);
        let absent = self.upkeep == Upkeep::Always
            && !self.session.is_established()
            && self.attempt.is_none();
        silent
            || absent
            || state.renewal
            || self
                .renewal_deadline(state)
                .is_some_and(|due| due <= now.millis)
    }

    /// Whether the last handshake message was an answer to the peer: it is the peer's turn, unless the answer was lost.
    fn has_just_answered(&self) -> bool {
        self.shaken.is_some() && self.shaken == self.answered
    }

    fn begin(&mut self, batch: &mut Batch<'_>, now: Now, out: &mut Outputs) {
        batch.state.unanswered = None;
        let is_relayed = matches!(batch.endpoint(), Some(Endpoint::Overlay(_)));
        let pause = if is_relayed && self.has_just_answered() {
            QUICK_RETRY
        } else {
            REKEY_TIMEOUT
        };
        let next = self
            .shaken
            .map_or(now.millis, |sent| now.millis.max(sent + millis(pause)));
        match &mut self.attempt {
            None => self.attempt = Some(Attempt::due(next)),
            Some(attempt) => {
                attempt.next = attempt.next.min(if attempt.is_patient(now.millis) {
                    next
                } else {
                    u64::MAX
                })
            }
        }
        if self
            .attempt
            .is_some_and(|attempt| attempt.next <= now.millis)
        {
            self.retry(batch, now, out);
        }
    }

    /// The next initiation of an attempt is due.
    fn retry(&mut self, batch: &mut Batch<'_>, now: Now, out: &mut Outputs) {
        let Some(attempt) = self.attempt else { return };
        let peer = *self.session.key();
        let patient = attempt.is_patient(now.millis);
        if attempt.tries > 0 && (patient || attempt.tries.is_multiple_of(TRIES_PER_UNANSWERED)) {
            out.events.push_back(Event::Unanswered { peer });
        }
        if attempt.missed > 0 && attempt.missed.is_multiple_of(MISSED_TRIES) {
            out.events.push_back(Event::Missed { peer });
        }
        if patient && self.upkeep == Upkeep::OnDemand {
            self.attempt = None;
            batch.state.handshakes.give_up();
            batch.state.renewal = false;
            batch.state.unanswered = None;
            batch.state.owed = None;
            return;
        }
        if attempt.tries > 0 {
            batch.forget_source();
        }
        let Some(endpoint) = self.candidate(batch.endpoint(), &attempt) else {
            out.events.push_back(Event::Unanswered { peer });
            let next = now.millis + millis(PATIENT_RETRY) + out.rng.jitter(JITTER);
            self.attempt = Some(Attempt {
                phase: Phase::Homeless,
                next,
                ..attempt
            });
            return;
        };
        let initiation = batch.initiate(out.clock.stamp(now.instant));
        self.send_initiation(batch, initiation, endpoint, now, out);
    }

    fn send_initiation(
        &mut self,
        batch: &mut Batch<'_>,
        initiation: Vec<u8>,
        endpoint: Endpoint,
        now: Now,
        out: &mut Outputs,
    ) {
        let way = batch.endpoint();
        batch.note_sent(initiation.len());
        batch.note_called(endpoint);
        out.transmits.push_back(Transmit {
            endpoint,
            payload: initiation,
        });
        self.shaken = Some(now.millis);
        self.jitter = out.rng.jitter(JITTER);
        if let Some(attempt) = &mut self.attempt {
            let is_relayed = |endpoint| matches!(endpoint, Endpoint::Overlay(_));
            let is_quick =
                (way.is_some_and(is_relayed) || is_relayed(endpoint)) && now.millis < attempt.quick;
            let pause = if attempt.is_patient(now.millis) {
                PATIENT_RETRY
            } else if is_quick {
                QUICK_RETRY
            } else {
                REKEY_TIMEOUT
            };
            attempt.phase = Phase::Asking;
            attempt.asked = attempt.asked.saturating_add(1);
            attempt.missed += u32::from(is_relayed(endpoint));
            if !is_quick {
                attempt.tries = attempt.tries.saturating_add(1);
            }
            attempt.next = now.millis + millis(pause) + self.jitter;
        }
    }

    /// Where the next initiation goes: to the endpoint that worked last, then in turn to every one that is known. Whoever is to be
    /// reached through others is asked where it may be itself as well, every second time, since those others may drop what they should
    /// carry.
    fn candidate(&mut self, proven: Option<Endpoint>, attempt: &Attempt) -> Option<Endpoint> {
        let is_relayed = matches!(proven, Some(Endpoint::Overlay(_)));
        if is_relayed && attempt.asked % 2 == 1 {
            let straight = |at: &usize| matches!(self.endpoints[*at], Endpoint::Underlay(_));
            let count = self.endpoints.len();
            let turns = (self.turn..self.turn + count).map(|turn| turn % count.max(1));
            if let Some(turn) = turns.into_iter().find(straight) {
                self.turn = turn + 1;
                return Some(self.endpoints[turn]);
            }
        }
        if let Some(endpoint) = proven
            && (attempt.tries < TRIES_AT_PROVEN || self.endpoints.is_empty())
        {
            return Some(endpoint);
        }
        let turn = self
            .turn
            .checked_rem(self.endpoints.len() + usize::from(proven.is_some()))?;
        self.turn = turn + 1;
        match self.endpoints.get(turn) {
            Some(endpoint) => Some(*endpoint),
            None => proven,
        }
    }

    /// Sends an empty packet, or asks for a session to send one with.
    fn send_keepalive(&mut self, batch: &mut Batch<'_>, now: Now, out: &mut Outputs) {
        let mut payload = vec![0; OVERHEAD];
        match (batch.endpoint(), batch.seal(&[], 0, &mut payload)) {
            (Some(endpoint), Ok(_)) => out.transmits.push_back(Transmit { endpoint, payload }),
            (None, Ok(_)) | (_, Err(_)) => self.begin(batch, now, out),
        }
    }

    fn silence_deadline(&self, state: &State) -> Option<u64> {
        state
            .unanswered
            .map(|since| since + millis(SILENCE_TIMEOUT) + self.jitter)
    }

    fn persistent_deadline(&self, state: &State) -> Option<u64> {
        let interval = self.persistent_keepalive?;
        if !self.session.is_established() && self.attempt.is_some() {
            return None;
        }
        Some(
            state
                .sent
                .max(state.received)
                .map_or(0, |last| last + interval),
        )
    }

    /// When an idle session that is wanted always is renewed.
    fn renewal_deadline(&self, state: &State) -> Option<u64> {
        if self.upkeep == Upkeep::OnDemand || self.attempt.is_some() {
            return None;
        }
        state.keypairs.current().map(|keypair| {
            keypair.born
                + millis(match keypair.role {
                    Role::Initiator => REKEY_AFTER_TIME,
                    Role::Responder => RENEW_AS_RESPONDER,
                })
        })
    }

    fn next_deadline(&self, state: &State, now: Now) -> Option<(u64, &'static str)> {
        let expiry = state
            .keypairs
            .current()
            .filter(|_| self.session.is_established());
        [
            (self.attempt.map(|attempt| attempt.next), "handshake retry"),
            (
                state
                    .watched
                    .then_some(now.millis + millis(KEEPALIVE_TIMEOUT)),
                "session in use",
            ),
            (self.silence_deadline(state), "peer is silent"),
            (self.use_due, "session is used"),
            (
                state.owed.map(|since| since + millis(KEEPALIVE_TIMEOUT)),
                "keepalive owed",
            ),
            (self.persistent_deadline(state), "persistent keepalive"),
            (self.renewal_deadline(state), "session renewal"),
            (
                expiry.map(|keypair| keypair.born + millis(REJECT_AFTER_TIME)),
                "session expiry",
            ),
            (
                state
                    .keypairs
                    .newest()
                    .map(|born| born + millis(KEY_LIFETIME)),
                "keys to forget",
            ),
        ]
        .into_iter()
        .filter_map(|(due, reason)| Some((due?, reason)))
        .min_by_key(|deadline| deadline.0)
    }
}

impl Attempt {
    /// An attempt whose first initiation is due at `start`.
    const fn due(start: u64) -> Self {
        Self {
            phase: Phase::Asking,
            started: start,
            tries: 0,
            asked: 0,
            missed: 0,
            quick: start + millis(QUICK_TIME),
            next: start,
        }
    }

    /// Whether nothing came for so long that the protocol gives up.
    const fn is_patient(&self, now: u64) -> bool {
        now.saturating_sub(self.started) >= millis(REKEY_ATTEMPT_TIME)
    }
}
