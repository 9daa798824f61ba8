//! The handshake half of a session: each step is done in one piece, under the session's lock.
//!
//! A step is taken by the device, when its timers want an initiation, or by whoever carries what others send
//! ([`Batch::handle_handshake`]): a thread of its own, so that no key agreement which others ask for holds up the node's loop.
//! A step leaves notes under the same lock, and the device looks at them before all else whenever it visits the session, as
//! [`crate::Signals::handshake`] asks it to: timers, attempts and events are its business. So an outcome that comes late is not
//! lost, and of a session that was removed or got another engine in between there is none left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::constants::{INITIATION_INTERVAL, MISSED_ANSWERS, OVERHEAD, REKEY_ATTEMPT_TIME};
use crate::cookie::Jar;
use crate::device::Transmit;
use crate::endpoint::Endpoint;
use crate::engine::Initiated;
use crate::index::Series;
use crate::key::{KeyError, PublicKey};
use crate::keypair::Role;
use crate::message::{Mac1, Message, index_at};
use crate::reader::Author;
use crate::session::Batch;
use crate::stamp::Stamp;

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
#[derive(Debug)]
struct Initiation {
    index: u32,
    initiated: Initiated,
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
    /// Several answers that went over the overlay were not taken up.
    pub(crate) missed: bool,
}

/// What a session knows of its handshakes, besides the keypairs that came of them.
#[derive(Debug)]
pub(crate) struct Handshakes {
    series: Series,
    /// For what the peer is sent.
    theirs: Mac1,
    jar: Jar,
    /// The last two initiations we made, the last one first: either may be answered, once.
    initiations: [Option<Initiation>; 2],
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
    /// None so far.
    pub(crate) fn new(series: Series, peer: &PublicKey) -> Self {
        Self {
            series,
            theirs: Mac1::new(peer),
            jar: Jar::new(*peer),
            initiations: [None, None],
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

    /// Gives a message its MACs.
    fn address(&mut self, message: &mut [u8], now: u64) {
        self.theirs.write(message);
        self.jar.write(message, now);
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

    /// No answer to what was sent is waited for any more.
    pub(crate) fn give_up(&mut self) {
        self.initiations = [None, None];
    }

    /// The engine was replaced: nothing that was under way can be completed, and the new one knows no stamp.
    pub(crate) fn restart(&mut self) {
        self.give_up();
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
    /// Locks the session for two or three key agreements, unless the message is refused before it comes to that.
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
        if stamp <= handshakes.stamp {
            return Err(HandshakeError::Replayed);
        }
        let (state, now) = (&mut *self.state, self.now);
        let index = state.handshakes.series.next();
        let (mut response, keys) = state.engine.respond(initiation, index)?;
        state.handshakes.address(&mut response, now);
        state.keypairs.insert(index, Role::Responder, keys, now);
        // After a restart of ours there is no stamp to compare with: this may be a replay. So it is answered where it came from and says
        // where to try while there is no session, but it does not move one that works: the first message on the new keypair does.
        if !self.session.is_established() {
            self.settle(from);
        }
        self.note_received(initiation.len(), from);
        self.note_sent(response.len());
        let handshakes = &mut self.state.handshakes;
        handshakes.heard = Some(now);
        handshakes.stamp = stamp;
        handshakes.notes.answered = Some(now);
        handshakes.note_answer(from);
        self.signals.handshake = true;
        out.push_back(Transmit {
            endpoint: from,
            payload: response,
        });
        Ok(())
    }

    /// A response to an initiation of ours.
    fn complete(
        &mut self,
        from: Endpoint,
        response: &[u8],
        out: &mut VecDeque<Transmit>,
    ) -> Result<(), HandshakeError> {
        let index = index_at(response, 8);
        let (state, now) = (&mut *self.state, self.now);
        let [last, before] = &mut state.handshakes.initiations;
        let is_answered = |initiation: &&Initiation| initiation.index == index;
        // Who answers the last one has no use for an answer to the one before.
        let is_last = last.as_ref().is_some_and(|last| is_answered(&last));
        let slot = if is_last { last } else { before };
        // An answer that was held back for long is to keys that the peer has forgotten.
        let is_late = |initiation: &&Initiation| {
            self.instant.saturating_duration_since(initiation.sent) >= REKEY_ATTEMPT_TIME
        };
        let initiation = slot
            .as_ref()
            .filter(|initiation| is_answered(initiation) && !is_late(initiation))
            .ok_or(HandshakeError::Unexpected)?;
        let keys = state.engine.complete(&initiation.initiated, response)?;
        let (called, sent) = (initiation.to, initiation.sent);
        *slot = None;
        if is_last {
            state.handshakes.give_up();
        }
        state.keypairs.insert(index, Role::Initiator, keys, now);
        let was_established = self.session.is_established();
        self.fresh();
        // The peer may answer from another address than it was called at. But where the call went by one class of ways and the answer
        // comes by another, somebody in between carried it across.
        let at = match called {
            Some(called) if called.class() != from.class() => called,
            Some(_) | None => from,
        };
        if was_established {
            self.roam(at);
        } else {
            self.settle(at);
        }
        self.note_received(response.len(), at);
        self.state.handshakes.notes.completed = Some(self.instant.saturating_duration_since(sent));
        self.signals.handshake = true;
        // The responder may send as soon as it has heard something on the new keypair.
        let mut keepalive = vec![0; OVERHEAD];
        if self.seal_own(&[], 0, &mut keepalive).is_ok() {
            out.push_back(Transmit {
                endpoint: at,
                payload: keepalive,
            });
        }
        Ok(())
    }

    /// The next initiation, to be sent.
    pub(crate) fn initiate(&mut self, stamp: Stamp) -> Vec<u8> {
        let state = &mut *self.state;
        let index = state.handshakes.series.next();
        let (mut message, initiated) = state.engine.initiate(index, stamp);
        state.handshakes.address(&mut message, self.now);
        let [last, before] = &mut state.handshakes.initiations;
        let made = Initiation {
            index,
            initiated,
            sent: self.instant,
            to: None,
        };
        *before = last.replace(made);
        message
    }

    /// The last initiation was sent to `endpoint`.
    pub(crate) fn note_called(&mut self, endpoint: Endpoint) {
        if let Some(last) = &mut self.state.handshakes.initiations[0] {
            last.to = Some(endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Factory;
    use crate::index::Indices;
    use crate::key::PrivateKey;
    use crate::reader::Reader;
    use crate::session::{Kind, Session};
    use crate::stamp::Clock;

    #[test]
    fn a_replay_does_not_reach_the_engine() {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant has to be the first"
        )]
        let base = Instant::now();
        let [ours, theirs] = [1, 2].map(|byte| PrivateKey::from_bytes([byte << 3; 32]));
        let key = theirs.public();
        let engine = Factory::Noise { key: ours.clone() }.make(&key, None, 1);
        let series = Series::new(Indices::new(&ours, 1), 5, 0);
        let handshakes = Handshakes::new(series, &key);
        let session = Session::new(key, Kind::Mesh, handshakes, base, engine, Vec::new());
        let mut peer = Factory::Noise { key: theirs }.make(&ours.public(), None, 1);
        let (mut initiation, _) = peer.initiate(1, Clock::default().stamp(base));
        Mac1::new(&ours.public()).write(&mut initiation);
        let author = Reader::new(ours).read(&initiation, |_| Ok(())).unwrap();
        let from = Endpoint::unproven("192.0.2.1:1".parse().unwrap());
        let take = |after| {
            let mut batch = session.lock(base + Duration::from_secs(after));
            batch.handle_handshake(author, from, &initiation, &mut VecDeque::new())
        };
        assert_eq!(take(0), Ok(()));
        assert_eq!(take(1), Err(HandshakeError::Replayed));
        session.lock(base).state.handshakes.restart();
        assert_eq!(take(2), Ok(()));
    }
}
