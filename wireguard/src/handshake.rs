//! The handshake half of a session: what the engine and our account of it do in one piece, under the session's lock.
//!
//! A step is taken by the device, when its timers want an initiation, or by whoever carries what others send
//! ([`Batch::handle_handshake`]): a thread of its own, so that no key agreement which others ask for holds up the node's loop.
//! A step leaves notes under the same lock, and the device looks at them before all else whenever it visits the session, as
//! [`crate::Signals::handshake`] asks it to: timers, attempts and events are its business. So an outcome that comes late is not
//! lost, and of a session that was removed or got another engine in between there is none left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::constants::{INITIATION_INTERVAL, MISSED_ANSWERS};
use crate::cookie::Jar;
use crate::device::Transmit;
use crate::endpoint::Endpoint;
use crate::index::Series;
use crate::key::{KeyError, PublicKey};
use crate::keypair::Role;
use crate::message::{Mac1, Message, index_at, set_index};
use crate::reader::{Author, Stamp};
use crate::session::Batch;
use crate::tunnel::Advanced;

/// Why a handshake message led to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// It is not a handshake message.
    #[error("not a handshake message")]
    NotHandshake,
    /// The first MAC is wrong: the sender does not know our key.
    #[error("first MAC is wrong")]
    Mac1,
    /// The ephemeral key is not worth agreeing with.
    #[error("ephemeral key is refused")]
    Ephemeral(#[source] KeyError),
    /// The initiator's static key is not one.
    #[error("static key is refused")]
    Static(#[source] KeyError),
    /// The initiator has our own key.
    #[error("the key is our own")]
    OwnKey,
    /// The initiator is not a peer. It may not even have this key: that shows only in the session. Nothing was allocated;
    /// the caller may add it and pass the message in again.
    #[error("{} is not a peer", .0.short())]
    Stranger(PublicKey),
    /// Another initiation of this peer was accepted less than 20 ms ago.
    #[error("too soon after the last initiation")]
    TooSoon,
    /// No session has its receiver index.
    #[error("unknown receiver index")]
    UnknownIndex,
    /// Nothing was sent that it could answer.
    #[error("no initiation waits for it")]
    Unexpected,
    /// An initiation whose time stamp is not newer than the last.
    #[error("replayed")]
    Replayed,
    /// Authentication failed: another key, another preshared key, or changed on the way.
    #[error("authentication failed")]
    Forged,
    /// It came from an address of the overlay that is not the peer's.
    #[error("from an overlay address that is not the peer's")]
    Misplaced,
}

impl HandshakeError {
    /// A short name, for counters.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotHandshake => "handshake_not_one",
            Self::Mac1 => "handshake_mac1",
            Self::Ephemeral(_) => "handshake_ephemeral",
            Self::Static(_) => "handshake_static",
            Self::OwnKey => "handshake_own_key",
            Self::Stranger(_) => "handshake_stranger",
            Self::TooSoon => "handshake_too_soon",
            Self::UnknownIndex => "handshake_unknown_index",
            Self::Unexpected => "handshake_unexpected",
            Self::Replayed => "handshake_replayed",
            Self::Forged => "handshake_forged",
            Self::Misplaced => "handshake_misplaced",
        }
    }
}

/// One initiation of ours.
#[derive(Clone, Copy, Debug)]
struct Initiation {
    /// Its index on the wire.
    index: u32,
    /// What the engine calls it.
    engine: u32,
    sent: Instant,
    /// Where to, as soon as it was sent.
    to: Option<Endpoint>,
}

/// What the steps since the device last looked came to. Times are milliseconds since its base.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes {
    /// When an initiation of the peer was answered.
    pub(crate) answered: Option<u64>,
    /// A response gave a keypair, so long after its initiation.
    pub(crate) completed: Option<Duration>,
    /// The engine has sent an initiation of its own accord.
    pub(crate) asked: bool,
    /// Several answers that went over the overlay were not taken up.
    pub(crate) missed: bool,
}

/// What a session knows of its handshakes, besides the keypairs that came of them.
#[derive(Debug)]
pub(crate) struct Handshakes {
    series: Series,
    /// For what the engine is given.
    ours: Mac1,
    /// For what the peer is sent.
    theirs: Mac1,
    jar: Jar,
    /// The last two initiations we made, the last one first: either may be answered, once.
    initiations: [Option<Initiation>; 2],
    /// Whether the engine waits for the answer to the last of them.
    is_waiting: bool,
    /// When we last accepted an initiation, and what it was stamped with.
    heard: Option<u64>,
    stamp: Stamp,
    /// Answers that went over the overlay, and were not taken up.
    untaken: u32,
    /// The session was removed.
    is_over: bool,
    notes: Notes,
}

impl Handshakes {
    /// None so far; the MAC is that of messages to us.
    pub(crate) fn new(series: Series, ours: Mac1, peer: &PublicKey) -> Self {
        Self {
            series,
            ours,
            theirs: Mac1::new(peer),
            jar: Jar::new(*peer),
            initiations: [None, None],
            is_waiting: false,
            heard: None,
            stamp: Stamp::default(),
            untaken: 0,
            is_over: false,
            notes: Notes::default(),
        }
    }

    /// The receiver indices that the session gives out.
    pub(crate) const fn series(&self) -> &Series {
        &self.series
    }

    /// Gives a message of the engine its index on the wire and, since they cover it, its MACs. Returns that index, and what the
    /// engine called it.
    fn address(&mut self, message: &mut [u8], now: u64) -> (u32, u32) {
        let (index, engine) = (self.series.next(), index_at(message, 4));
        set_index(message, 4, index);
        self.theirs.write(message);
        self.jar.write(message, now);
        (index, engine)
    }

    /// Whether an initiation of `peer` may be worked for at `now`.
    pub(crate) fn admit(&self, peer: &PublicKey, now: u64) -> Result<(), HandshakeError> {
        let interval = INITIATION_INTERVAL.as_millis() as u64;
        if self.is_over {
            return Err(HandshakeError::Stranger(*peer));
        }
        if self
            .heard
            .is_some_and(|heard| now.saturating_sub(heard) < interval)
        {
            return Err(HandshakeError::TooSoon);
        }
        Ok(())
    }

    /// Whether the engine waits for the answer to our last initiation.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// There is a new keypair that both ends use.
    pub(crate) fn note_success(&mut self) {
        self.untaken = 0;
    }

    /// An answer goes there.
    fn note_answer(&mut self, to: Endpoint) {
        self.untaken += u32::from(matches!(to, Endpoint::Overlay(_)));
        if self.untaken == MISSED_ANSWERS {
            self.untaken = 0;
            self.notes.missed = true;
        }
    }

    pub(crate) fn take_notes(&mut self) -> Notes {
        std::mem::take(&mut self.notes)
    }

    /// The engine was replaced: nothing that was under way can be completed, and the new one knows no stamp.
    pub(crate) fn restart(&mut self) {
        self.initiations = [None, None];
        self.is_waiting = false;
        self.stamp = Stamp::default();
        self.notes = Notes::default();
    }

    /// The session was removed: whoever still holds it takes no step any more.
    pub(crate) fn end(&mut self) {
        self.restart();
        self.is_over = true;
    }
}

impl Batch<'_> {
    /// Takes a handshake message of this session that [`crate::Reader`] has read; what it makes us send goes to the end of `out`.
    /// Locks the session for one or two key agreements, unless the message is refused before it comes to that.
    ///
    /// # Errors
    /// See [`HandshakeError`]. A message that is refused moves no endpoint and makes no keypair.
    pub fn handle_handshake(
        &mut self,
        author: Author,
        from: Endpoint,
        datagram: &[u8],
        out: &mut VecDeque<Transmit>,
    ) -> Result<(), HandshakeError> {
        if !self.owns(from) {
            return Err(HandshakeError::Misplaced);
        }
        match (author, Message::of(datagram)) {
            (Author::Initiator { key, .. }, _) if key != *self.session.key() => {
                Err(HandshakeError::Stranger(key))
            }
            (Author::Initiator { stamp, .. }, Some(Message::Initiation)) => {
                self.answer(stamp, from, datagram, out)
            }
            (Author::Answerer { .. }, Some(Message::Response)) => {
                self.complete(from, datagram, out)
            }
            // It proves nothing about where the peer is, so nothing roams.
            (Author::Answerer { .. }, Some(Message::Cookie { .. })) => {
                self.state.handshakes.jar.take(datagram, self.now)
            }
            (Author::Initiator { .. } | Author::Answerer { .. }, _) => {
                Err(HandshakeError::NotHandshake)
            }
        }
    }

    /// An initiation of the peer.
    fn answer(
        &mut self,
        stamp: Stamp,
        from: Endpoint,
        initiation: &[u8],
        out: &mut VecDeque<Transmit>,
    ) -> Result<(), HandshakeError> {
        let handshakes = &self.state.handshakes;
        handshakes.admit(self.session.key(), self.now)?;
        // The engine would refuse it too, after it has agreed on a key for it.
        if stamp <= handshakes.stamp {
            return Err(HandshakeError::Replayed);
        }
        let own = self.advance(out);
        match self.state.tunnel.handle(initiation) {
            Ok(mut response) => {
                // The engine accepts only time stamps newer than the last it saw, but after a restart of ours it saw none:
                // this may be a replay. So it is answered where it came from and says where to try while there is no session,
                // but it does not move one that works: the first message on the new keypair does. What the engine wanted to
                // send itself is void.
                if !self.session.is_established() {
                    self.settle(from);
                }
                let (state, now) = (&mut *self.state, self.now);
                let (index, engine) = state.handshakes.address(&mut response, now);
                state.keypairs.insert(index, engine, Role::Responder, now);
                self.note_received(initiation.len(), from);
                self.note_sent(response.len());
                let handshakes = &mut self.state.handshakes;
                handshakes.heard = Some(now);
                handshakes.stamp = stamp;
                handshakes.is_waiting = false;
                handshakes.notes.answered = Some(now);
                handshakes.note_answer(from);
                self.signals.handshake = true;
                out.push_back(Transmit {
                    endpoint: from,
                    payload: response,
                });
                Ok(())
            }
            Err(error) => {
                if let Some(payload) = own
                    && let Some(endpoint) = self.endpoint()
                {
                    self.note_sent(payload.len());
                    self.note_called(endpoint);
                    self.state.handshakes.notes.asked = true;
                    self.signals.handshake = true;
                    out.push_back(Transmit { endpoint, payload });
                }
                Err(error)
            }
        }
    }

    /// A response to an initiation of ours.
    fn complete(
        &mut self,
        from: Endpoint,
        response: &[u8],
        out: &mut VecDeque<Transmit>,
    ) -> Result<(), HandshakeError> {
        let index = index_at(response, 8);
        let sent = self.state.handshakes.initiations;
        let (place, initiation) = (0..)
            .zip(sent)
            .find_map(|(place, sent)| Some((place, sent.filter(|sent| sent.index == index)?)))
            .ok_or(HandshakeError::Unexpected)?;
        let was_established = self.session.is_established();
        let (state, now) = (&mut *self.state, self.now);
        let engine = initiation.engine;
        let mut translated = response.to_vec();
        set_index(&mut translated, 8, engine);
        state.handshakes.ours.write(&mut translated);
        let keepalive = state.tunnel.handle(&translated)?;
        state.keypairs.insert(index, engine, Role::Initiator, now);
        if let Some(keypair) = state.keypairs.current_mut() {
            keypair.sent = 1;
        }
        self.fresh();
        // The peer may answer from another address than it was called at. But where the call went by one class of ways and the answer
        // comes by another, somebody in between carried it across.
        let at = match initiation.to {
            Some(called) if called.class() != from.class() => called,
            Some(_) | None => from,
        };
        if was_established {
            self.roam(at);
        } else {
            self.settle(at);
        }
        self.note_received(response.len(), at);
        self.note_sent(keepalive.len());
        let rtt = self.instant.saturating_duration_since(initiation.sent);
        let handshakes = &mut self.state.handshakes;
        handshakes.initiations[place] = None;
        handshakes.is_waiting &= place != 0;
        handshakes.notes.completed = Some(rtt);
        self.signals.handshake = true;
        out.push_back(Transmit {
            endpoint: at,
            payload: keepalive,
        });
        Ok(())
    }

    /// The next initiation, which the engine makes itself as its clock catches up, or because we ask it to. To be sent.
    pub(crate) fn initiate(&mut self, out: &mut VecDeque<Transmit>) -> Vec<u8> {
        if let Some(initiation) = self.advance(out) {
            return initiation;
        }
        let mut initiation = self.state.tunnel.initiate(self.instant);
        self.note_initiation(&mut initiation);
        initiation
    }

    /// Lets the engine's clock catch up; returns an initiation if the engine made one of its own accord.
    pub(crate) fn advance(&mut self, out: &mut VecDeque<Transmit>) -> Option<Vec<u8>> {
        let state = &mut *self.state;
        let advanced = state.tunnel.advance();
        state.keypairs.advance();
        if matches!(advanced, Advanced::Wiped) {
            state.keypairs.clear();
            state.handshakes.initiations = [None, None];
            state.handshakes.is_waiting = false;
            self.lapse();
        } else if state.keypairs.current().is_some() && !state.tunnel.has_current() {
            state.keypairs.forget_current();
            self.lapse();
        }
        match advanced {
            Advanced::Message(mut message) if message.first() == Some(&1) => {
                self.note_initiation(&mut message);
                Some(message)
            }
            Advanced::Message(payload) => {
                if let Some(endpoint) = self.endpoint() {
                    self.note_sent(payload.len());
                    out.push_back(Transmit { endpoint, payload });
                }
                None
            }
            Advanced::Nothing | Advanced::Wiped => None,
        }
    }

    /// The last initiation was sent to `endpoint`.
    pub(crate) fn note_called(&mut self, endpoint: Endpoint) {
        if let Some(last) = &mut self.state.handshakes.initiations[0] {
            last.to = Some(endpoint);
        }
    }

    fn note_initiation(&mut self, initiation: &mut [u8]) {
        let handshakes = &mut self.state.handshakes;
        let (index, engine) = handshakes.address(initiation, self.now);
        let made = Initiation {
            index,
            engine,
            sent: self.instant,
            to: None,
        };
        handshakes.initiations = [Some(made), handshakes.initiations[0]];
        handshakes.is_waiting = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Indices;
    use crate::key::PrivateKey;
    use crate::reader::Reader;
    use crate::session::{Kind, Session};
    use crate::tunnel::Factory;

    #[test]
    fn a_replay_does_not_reach_the_engine() {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant has to be the first"
        )]
        let base = Instant::now();
        let [ours, theirs] = [1, 2].map(|byte| PrivateKey::from_bytes([byte << 3; 32]));
        let (key, factory) = (theirs.public(), Factory::boringtun(ours.clone()));
        let fresh = || factory.make(&key, None, 1);
        let series = Series::new(Indices::new(&ours, 1), 5, 0);
        let handshakes = Handshakes::new(series, Mac1::new(&ours.public()), &key);
        let session = Session::new(key, Kind::Mesh, handshakes, base, fresh(), Vec::new());
        let mut peer = Factory::boringtun(theirs).make(&ours.public(), None, 1);
        let initiation = peer.initiate(base);
        let author = Reader::new(ours).read(&initiation, |_| Ok(())).unwrap();
        let from = Endpoint::unproven("192.0.2.1:1".parse().unwrap());
        let take = |after| {
            let mut batch = session.lock(base + Duration::from_secs(after));
            batch.handle_handshake(author, from, &initiation, &mut VecDeque::new())
        };
        assert_eq!(take(0), Ok(()));
        // This one has seen nothing, and would answer.
        session.lock(base).state.tunnel = fresh();
        assert_eq!(take(1), Err(HandshakeError::Replayed));
        session.lock(base).state.handshakes.restart();
        assert_eq!(take(2), Ok(()));
    }
}
