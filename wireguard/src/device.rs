//! The device: all sessions of one static key. Owned by the node's loop alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use thiserror::Error;

use crate::allowed_ips::AllowedIps;
use crate::constants::{MAX_PEERS, RESUME_BURST, RESUME_INTERVAL};
use crate::endpoint::Endpoint;
use crate::engine::Factory;
use crate::handshake::{HandshakeError, Handshakes};
use crate::index::{Indices, PLACES, Series};
use crate::key::{PrivateKey, PublicKey};
use crate::peer::{Entry, Now, Outputs, Peer};
#[cfg(feature = "_sim")]
use crate::reader::Suite;
use crate::reader::{Author, Reader};
use crate::rng::Rng;
use crate::session::{Session, millis};
use crate::stamp::Clock;

/// Why a peer was not added or changed. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddPeerError {
    /// It is our own key.
    #[error("the key is our own")]
    OwnKey,
    /// It is there already.
    #[error("the peer exists")]
    Exists,
    /// It is not there.
    #[error("no such peer")]
    Unknown,
    /// There are [`MAX_PEERS`] already.
    #[error("the table of peers is full")]
    Full,
    /// Another peer has one of its prefixes.
    #[error("{prefix} belongs to {}", owner.short())]
    PrefixTaken {
        /// Which one.
        prefix: Ipv6Network,
        /// Who has it.
        owner: PublicKey,
    },
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub endpoint: Endpoint,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What the node should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a keypair to send with, where there was none. Renewals of it are not reported.
    Established {
        /// With whom.
        peer: PublicKey,
        /// From our initiation to the response, if we initiated.
        rtt: Option<Duration>,
    },
    /// There is no keypair to send with any more.
    Closed {
        /// With whom.
        peer: PublicKey,
    },
    /// The peer was heard from another address.
    Roamed {
        /// Who.
        peer: PublicKey,
        /// Where it was.
        from: Option<Endpoint>,
        /// Where it is.
        endpoint: Endpoint,
    },
    /// Users' packets are sent to the peer: at intervals of [`Device::set_use_interval`] for as long as there are any.
    InUse {
        /// To whom.
        peer: PublicKey,
        /// For how long they wait for any sign of the peer, if they do.
        waiting: Option<Duration>,
    },
    /// Several handshakes with a peer over the overlay came to nothing: initiations of ours were not answered, or answers to the peer's
    /// not taken up. Somebody on the way may drop them.
    Missed {
        /// With whom.
        peer: PublicKey,
    },
    /// Initiations to a peer are not answered, or there is no address to send them to: time to resolve its names again. Comes
    /// about every 15 s for as long as that lasts.
    Unanswered {
        /// Who does not answer.
        peer: PublicKey,
    },
}

/// All sessions of one static key: handshakes, timers, peers.
///
/// A state machine without I/O: after every `&mut` call, drain [`Self::poll_transmit`] and [`Self::poll_event`], then wait
/// until [`Self::poll_timeout`]. `now` must not go backwards; if it does, time stands still.
#[derive(Debug)]
pub struct Device {
    reader: Reader,
    factory: Factory,
    indices: Indices,
    /// The first `now` we were given; times are kept in milliseconds since.
    base: Option<Instant>,
    /// By [`Session::index`].
    entries: BTreeMap<u32, Entry>,
    keys: BTreeMap<PublicKey, u32>,
    allowed: AllowedIps<u32>,
    deadlines: BTreeSet<(u64, u32)>,
    out: Outputs,
}

impl Device {
    /// A device without peers. `seed` gives jitter and, with the key, receiver indices: another for each run, so that they are others.
    /// Keys come from the system's randomness.
    pub fn new(key: PrivateKey, seed: u64) -> Self {
        let indices = Indices::new(&key, seed);
        let reader = Reader::new(key.clone());
        Self::with(reader, Factory::Noise { key }, indices, seed)
    }

    /// A device whose sessions use no cryptography and no randomness but `seed`, to simulate many nodes. It understands only
    /// its like.
    #[cfg(feature = "_sim")]
    pub fn simulated(key: PrivateKey, seed: u64) -> Self {
        let indices = Indices::new(&key, seed);
        let reader = Reader::with(key.clone(), Suite::Simulated);
        Self::with(reader, Factory::Simulated { key }, indices, seed)
    }

    fn with(reader: Reader, factory: Factory, indices: Indices, seed: u64) -> Self {
        Self {
            reader,
            factory,
            indices,
            base: None,
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            allowed: AllowedIps::default(),
            deadlines: BTreeSet::new(),
            out: Outputs {
                transmits: VecDeque::new(),
                events: VecDeque::new(),
                rng: Rng::new(seed),
                clock: Clock::default(),
            },
        }
    }

    /// What time of day it is, as time since 1970: initiations are stamped with it, and a peer refuses those that are not later than the
    /// last it has seen, perhaps before we were started. To be called at the start, and again when the clock is set. Stamps never go back.
    pub const fn handle_wall_clock(&mut self, unix: Duration, now: Instant) {
        self.out.clock.set(unix, now);
    }

    /// Our own key.
    pub const fn public_key(&self) -> &PublicKey {
        self.reader.public()
    }

    /// Reads handshake messages to our key before they come to [`crate::Batch::handle_handshake`].
    pub const fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Adds a peer; with [`crate::Upkeep::Always`] a handshake starts at once.
    ///
    /// # Errors
    /// See [`AddPeerError`].
    pub fn add_peer(&mut self, peer: Peer, now: Instant) -> Result<Arc<Session>, AddPeerError> {
        if peer.key == *self.public_key() {
            return Err(AddPeerError::OwnKey);
        }
        if self.keys.contains_key(&peer.key) {
            return Err(AddPeerError::Exists);
        }
        if self.entries.len() >= MAX_PEERS {
            return Err(AddPeerError::Full);
        }
        self.check_prefixes(&peer, None)?;
        let now = self.moment(now);
        let index = self.free_index();
        let start = self.out.rng.next() as u32;
        let handshakes = Handshakes::new(Series::new(self.indices, index, start), &peer.key);
        let seed = self.out.rng.next();
        let engine = self.factory.make(&peer.key, peer.preshared.as_ref(), seed);
        let base = self.base.unwrap_or(now.instant);
        let session = Session::new(
            peer.key,
            peer.kind,
            handshakes,
            base,
            engine,
            peer.allowed.clone(),
        );
        self.take_prefixes(&peer, index);
        self.keys.insert(peer.key, index);
        self.entries
            .insert(index, Entry::new(&peer, Arc::clone(&session)));
        self.visit(index, now);
        Ok(session)
    }

    /// Changes what is configured about a peer; its session goes on. Only another preshared key needs a new session.
    ///
    /// # Errors
    /// [`AddPeerError::Unknown`], [`AddPeerError::PrefixTaken`].
    pub fn update_peer(&mut self, peer: Peer, now: Instant) -> Result<(), AddPeerError> {
        let index = *self.keys.get(&peer.key).ok_or(AddPeerError::Unknown)?;
        self.check_prefixes(&peer, Some(index))?;
        let now = self.moment(now);
        let seed = self.out.rng.next();
        let Some(entry) = self.entries.get_mut(&index) else {
            return Err(AddPeerError::Unknown);
        };
        for prefix in &entry.allowed {
            self.allowed.remove(*prefix);
        }
        {
            let session = Arc::clone(&entry.session);
            let mut batch = session.lock(now.instant);
            batch.state.allowed.clone_from(&peer.allowed);
            if entry.preshared != peer.preshared {
                batch.state.engine = self.factory.make(&peer.key, peer.preshared.as_ref(), seed);
                entry.restart(&mut batch);
            }
        }
        entry.configure(&peer);
        self.take_prefixes(&peer, index);
        self.visit(index, now);
        Ok(())
    }

    /// Forgets a peer. Who still holds its session can neither seal nor open with it.
    pub fn remove_peer(&mut self, key: &PublicKey) {
        let Some(index) = self.keys.remove(key) else {
            return;
        };
        let Some(mut entry) = self.entries.remove(&index) else {
            return;
        };
        for prefix in &entry.allowed {
            self.allowed.remove(*prefix);
        }
        if let Some((due, _)) = entry.deadline {
            self.deadlines.remove(&(due, index));
        }
        if let Some(base) = self.base {
            let session = Arc::clone(&entry.session);
            let mut batch = session.lock(base);
            entry.restart(&mut batch);
            batch.state.handshakes.end();
        }
    }

    /// The session with a peer.
    pub fn session(&self, key: &PublicKey) -> Option<&Arc<Session>> {
        self.keys
            .get(key)
            .and_then(|index| self.entries.get(index))
            .map(|entry| &entry.session)
    }

    /// The session with the peer that owns the longest prefix around `address`.
    pub fn owner(&self, address: Ipv6Addr) -> Option<&Arc<Session>> {
        self.allowed
            .lookup(address)
            .and_then(|index| self.entries.get(&index))
            .map(|entry| &entry.session)
    }

    /// The session that gave out this receiver index, if any did.
    pub fn receiver(&self, receiver: u32) -> Option<&Arc<Session>> {
        self.entries
            .get(&self.indices.session(receiver))
            .map(|entry| &entry.session)
    }

    /// All sessions, by [`Session::index`].
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.entries.values().map(|entry| &entry.session)
    }

    /// Takes a handshake message (types 1, 2 and 3), all in one go: [`Reader::read`], [`crate::Batch::handle_handshake`] and
    /// [`Self::handle_signal`], which a program with threads divides among them.
    ///
    /// # Errors
    /// See [`HandshakeError`]. A message that is refused moves no endpoint and makes no keypair.
    pub fn handle_datagram(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), HandshakeError> {
        let author = self.reader.read(datagram, |key| match self.session(key) {
            Some(session) => session.admit(now),
            None => Err(HandshakeError::Stranger(*key)),
        })?;
        let now = self.moment(now);
        let index = match author {
            Author::Initiator { key, .. } => {
                *self.keys.get(&key).ok_or(HandshakeError::Stranger(key))?
            }
            Author::Answerer { receiver } => self.indices.session(receiver),
        };
        self.with_entry(index, |entry, out| {
            entry.handle_handshake(author, from, datagram, now, out)
        })
    }

    /// Another thread's signals for this peer were not empty: looks at what it noted.
    pub fn handle_signal(&mut self, key: &PublicKey, now: Instant) {
        let now = self.moment(now);
        if let Some(&index) = self.keys.get(key) {
            self.visit(index, now);
        }
    }

    /// A packet waits for a session: starts a handshake, unless one is under way or there is a session.
    pub fn initiate(&mut self, key: &PublicKey, now: Instant) {
        self.touch(key, now, Entry::initiate);
    }

    /// There is a new way to a peer, which begins with a handshake: sends an initiation there at once, also while a session is open. The
    /// session moves there only if it has no other way.
    pub fn call(&mut self, key: &PublicKey, endpoint: Endpoint, now: Instant) {
        self.touch(key, now, |entry, now, out| entry.call(endpoint, now, out));
    }

    /// Says where a peer may be found. A session that works stays where it is; an attempt that had no address goes on at once.
    pub fn set_endpoints(&mut self, key: &PublicKey, endpoints: Vec<Endpoint>, now: Instant) {
        self.touch(key, now, |entry, now, out| {
            entry.set_endpoints(endpoints, now, out)
        });
    }

    /// Asks for [`Event::InUse`] of this peer, so often; or for none.
    pub fn set_use_interval(&mut self, key: &PublicKey, interval: Option<Duration>, now: Instant) {
        self.touch(key, now, |entry, now, out| {
            entry.set_use_interval(interval, now, out)
        });
    }

    /// The peer should have been heard and was not, as somebody found out who watches it more closely: asks for a new session, which
    /// the peer needs if it has lost this one.
    pub fn handle_loss(&mut self, key: &PublicKey, now: Instant) {
        self.touch(key, now, Entry::handle_loss);
    }

    /// What is sent to the peer takes another way from here on: what was asked before may not have arrived, and is asked again soon.
    pub fn handle_new_way(&mut self, key: &PublicKey, now: Instant) {
        self.touch(key, now, Entry::handle_new_way);
    }

    /// Our local addresses changed: forgets which were used as sources, shows every peer that we have a session with where we
    /// are, and tries handshakes again that are under way or wanted always.
    pub fn handle_network_change(&mut self, now: Instant) {
        let keys: Vec<PublicKey> = self.keys.keys().copied().collect();
        for key in keys {
            self.touch(&key, now, Entry::handle_network_change);
        }
    }

    /// Time went by without us, because the machine slept or the process was stopped: renews every session, since its peer may have
    /// given it up, and tries again what was under way. Initiations leave at random moments, at most [`RESUME_BURST`] of them in each
    /// [`RESUME_INTERVAL`]. To be called before [`Self::handle_timeout`], which would send all that is overdue at once.
    pub fn handle_resume(&mut self, now: Instant) {
        let keys: Vec<PublicKey> = self.keys.keys().copied().collect();
        let interval = RESUME_INTERVAL.as_millis() as u64;
        let within = RESUME_INTERVAL - Duration::from_millis(1);
        let mut renewed = 0;
        for key in keys {
            self.touch(&key, now, |entry, now, out| {
                let wait = renewed / RESUME_BURST * interval + out.rng.jitter(within);
                if entry.handle_resume(wait, now, out) {
                    renewed += 1;
                }
            });
        }
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.moment(now);
        let due: Vec<u32> = self
            .deadlines
            .range(..=(now.millis, u32::MAX))
            .map(|&(_, index)| index)
            .collect();
        for index in due {
            self.visit(index, now);
        }
    }

    /// When, and why, [`Self::handle_timeout`] wants to be called next. Nothing while every session is idle and nothing is to be
    /// kept up.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let &(due, index) = self.deadlines.first()?;
        let (_, reason) = self.entries.get(&index)?.deadline?;
        Some((self.base? + Duration::from_millis(due), reason))
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    fn moment(&mut self, instant: Instant) -> Now {
        let base = *self.base.get_or_insert(instant);
        Now {
            instant,
            millis: millis(base, instant),
        }
    }

    fn touch(
        &mut self,
        key: &PublicKey,
        now: Instant,
        act: impl FnOnce(&mut Entry, Now, &mut Outputs),
    ) {
        let now = self.moment(now);
        if let Some(&index) = self.keys.get(key) {
            let known = self.with_entry(index, |entry, out| {
                act(entry, now, out);
                Ok(())
            });
            debug_assert!(known.is_ok(), "every key has an entry");
        }
    }

    fn visit(&mut self, index: u32, now: Now) {
        if let Some(entry) = self.entries.get_mut(&index) {
            let before = entry.deadline;
            entry.visit(now, &mut self.out);
            let after = entry.deadline;
            self.reschedule(index, before, after);
        }
    }

    fn with_entry<R>(
        &mut self,
        index: u32,
        act: impl FnOnce(&mut Entry, &mut Outputs) -> Result<R, HandshakeError>,
    ) -> Result<R, HandshakeError> {
        let entry = self
            .entries
            .get_mut(&index)
            .ok_or(HandshakeError::UnknownIndex)?;
        let before = entry.deadline;
        let result = act(entry, &mut self.out);
        let after = entry.deadline;
        self.reschedule(index, before, after);
        result
    }

    fn reschedule(&mut self, index: u32, before: Option<(u64, &str)>, after: Option<(u64, &str)>) {
        if let Some((due, _)) = before {
            self.deadlines.remove(&(due, index));
        }
        if let Some((due, _)) = after {
            self.deadlines.insert((due, index));
        }
    }

    fn check_prefixes(&self, peer: &Peer, own: Option<u32>) -> Result<(), AddPeerError> {
        for &prefix in &peer.allowed {
            let taken = self
                .allowed
                .owner(prefix)
                .filter(|&index| Some(index) != own);
            if let Some(entry) = taken.and_then(|index| self.entries.get(&index)) {
                return Err(AddPeerError::PrefixTaken {
                    prefix,
                    owner: *entry.session.key(),
                });
            }
        }
        Ok(())
    }

    fn take_prefixes(&mut self, peer: &Peer, index: u32) {
        for &prefix in &peer.allowed {
            let taken = self.allowed.insert(prefix, index);
            debug_assert!(taken.is_ok(), "prefixes were checked");
        }
    }

    /// Random, so that a place which was given up is not the next to be taken.
    fn free_index(&mut self) -> u32 {
        loop {
            let index = (self.out.rng.next() >> 32) as u32 % PLACES;
            if !self.entries.contains_key(&index) {
                return index;
            }
        }
    }
}
