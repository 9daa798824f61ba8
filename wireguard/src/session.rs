//! The data half of a session: sealing, opening, roaming. Packet threads share it with the device.
//!
//! There is one lock, taken by [`Session::lock`] for a batch of packets and never while another session's is held. Under it,
//! packet threads only note what happened and when; what follows from that (keepalives, renewal) is the device's business,
//! which learns of it through [`Signals`] when, and only when, it has to do something it does not expect yet. Steps of a handshake
//! (`handshake.rs`) take the same lock: a packet of that session waits for one, 0.15 ms at most, and no packet of another does.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;

use crate::constants::{
    OVERHEAD, PADDING, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE,
};
use crate::endpoint::{Endpoint, Underlay};
use crate::engine::Engine;
use crate::handshake::{HandshakeError, Handshakes, Notes};
use crate::index::Indices;
use crate::key::PublicKey;
use crate::keypair::{Keypairs, Role, Use};
use crate::loss::{Loss, Tally};
use crate::message::{HEADER_LEN, Message, data_header};

/// What the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A node of the mesh, which owns the sources of what it sends.
    Mesh,
    /// A stock WireGuard device, a leaf behind us.
    Stock,
}

/// How a datagram of the session crosses a way that is too narrow for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carriage {
    /// It does not have to.
    Whole,
    /// In fragments.
    Cut,
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// There is no keypair to send with: a handshake has to come first.
    #[error("no keypair to send with")]
    NotEstablished,
    /// The keypair has sealed as many messages as it ever may.
    #[error("keypair is used up")]
    Exhausted,
    /// The output is too small for the padded packet and 32 bytes.
    #[error("buffer is too small")]
    Buffer,
}

impl SealError {
    /// A short name, for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotEstablished => "seal_not_established",
            Self::Exhausted => "seal_exhausted",
            Self::Buffer => "seal_buffer",
        }
    }
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It is not a data message.
    #[error("not a data message")]
    NotData,
    /// Its counter is beyond what a keypair may ever reach.
    #[error("counter is beyond the limit")]
    Counter,
    /// No keypair of this session has its receiver index.
    #[error("unknown receiver index")]
    UnknownIndex,
    /// Its keypair is too old.
    #[error("keypair is too old")]
    Expired,
    /// Its counter was seen, or is too far behind to tell.
    #[error("replayed, or too late to tell")]
    Replayed,
    /// It was not sealed with the peer's key, or was changed on the way.
    #[error("authentication failed")]
    Forged,
    /// It is authentic, but what is inside is not an IP packet.
    #[error("not an IP packet inside")]
    Malformed,
    /// The output is too small for what is inside.
    #[error("buffer is too small")]
    Buffer,
}

impl OpenError {
    /// A short name, for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotData => "open_not_data",
            Self::Counter => "open_counter",
            Self::UnknownIndex => "open_unknown_index",
            Self::Expired => "open_expired",
            Self::Replayed => "open_replayed",
            Self::Forged => "open_forged",
            Self::Malformed => "open_malformed",
            Self::Buffer => "open_buffer",
        }
    }
}

/// Whose packet came out of a session, judged by its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A node's own: the source is inside the peer's allowed prefixes.
    Owned,
    /// A stock device's own.
    Leaf,
    /// Somebody else's, or not IPv6.
    Foreign,
}

/// What a data message contained.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Nothing: it only shows that the peer is there.
    Keepalive,
    /// An IP packet, without its padding.
    Packet {
        /// Whether the peer may send from its source address.
        verdict: Verdict,
        /// The packet, at the beginning of the output.
        packet: &'a mut [u8],
    },
}

/// What the node's loop has to hear about after a batch: then it calls [`crate::Device::handle_signal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the device waits for `handle_signal` if any is set"]
pub struct Signals {
    /// The peer confirmed a new keypair: we may send.
    pub confirmed: bool,
    /// The peer was heard from another endpoint.
    pub roamed: bool,
    /// The session has a deadline that the device does not know of.
    pub woke: bool,
    /// A step of a handshake was taken.
    pub handshake: bool,
}

impl Signals {
    /// Whether there is anything to tell.
    pub const fn any(self) -> bool {
        self.confirmed || self.roamed || self.woke || self.handshake
    }

    const fn add(&mut self, other: Self) {
        self.confirmed |= other.confirmed;
        self.roamed |= other.roamed;
        self.woke |= other.woke;
        self.handshake |= other.handshake;
    }
}

/// Totals since the session was added. Bytes are those of the UDP payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Authentic bytes received, handshakes included.
    pub rx_bytes: u64,
    /// Bytes sealed or written, handshakes included.
    pub tx_bytes: u64,
    /// Authentic messages received.
    pub rx_packets: u64,
    /// Messages written.
    pub tx_packets: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// When the last of them was.
    pub last_handshake: Option<Instant>,
    /// When something authentic was last received.
    pub last_received: Option<Instant>,
    /// Share of the peer's messages that did not arrive, 0 to 1, as an average over the last few hundred; none before 64.
    pub loss: Option<f64>,
}

#[derive(Debug, Default)]
struct Totals {
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_packets: AtomicU64,
    handshakes: AtomicU64,
    /// Lost messages in a million, plus one; zero: unknown.
    loss: AtomicU64,
    /// Milliseconds plus one; zero: never.
    handshake: AtomicU64,
    received: AtomicU64,
}

/// Adds to a total that is only written under the session's lock, so that no locked instruction is needed.
fn add(total: &AtomicU64, amount: u64) {
    total.store(total.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// A session with one peer, as packet threads see it.
#[derive(Debug)]
pub struct Session {
    key: PublicKey,
    index: u32,
    indices: Indices,
    base: Instant,
    kind: AtomicU8,
    established: AtomicBool,
    mtu: AtomicU32,
    cut: AtomicBool,
    totals: Totals,
    state: Mutex<State>,
}

/// What the lock protects. Times are milliseconds since the device's base.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) keypairs: Keypairs,
    pub(crate) handshakes: Handshakes,
    /// Where the peer was last heard, or where somebody who knows said it is.
    pub(crate) endpoint: Option<Endpoint>,
    /// Where it was before it was last heard elsewhere, until the device has looked.
    pub(crate) left: Option<Endpoint>,
    /// Further ways over the underlay that are known to lead to the peer: being heard there does not move it.
    paths: Vec<Underlay>,
    pub(crate) allowed: Vec<Ipv6Network>,
    /// Since when data that was sent waits for any sign of the peer.
    pub(crate) unanswered: Option<u64>,
    /// Since when a user's packet that was sent waits for a sign of the peer the way that packets take.
    pub(crate) waiting: Option<u64>,
    /// When the last user's packet was sent.
    pub(crate) used: Option<u64>,
    /// The device wants to hear when users' packets are sent, and does not yet look for itself.
    pub(crate) tells_use: bool,
    /// Since when data that was received waits for anything to be sent.
    pub(crate) owed: Option<u64>,
    pub(crate) data_received: Option<u64>,
    pub(crate) received: Option<u64>,
    pub(crate) sent: Option<u64>,
    /// Traffic asked for a new keypair.
    pub(crate) renewal: bool,
    /// The device will look at this session no later than its first deadline.
    pub(crate) watched: bool,
    /// What the device has not looked at yet.
    pub(crate) pending: Signals,
    loss: Loss,
}

impl Session {
    pub(crate) fn new(
        key: PublicKey,
        kind: Kind,
        handshakes: Handshakes,
        base: Instant,
        engine: Engine,
        allowed: Vec<Ipv6Network>,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            index: handshakes.series().place(),
            indices: handshakes.series().indices(),
            base,
            kind: AtomicU8::new(kind as u8),
            established: AtomicBool::new(false),
            mtu: AtomicU32::new(u32::MAX),
            cut: AtomicBool::new(false),
            totals: Totals::default(),
            state: Mutex::new(State {
                engine,
                keypairs: Keypairs::default(),
                handshakes,
                endpoint: None,
                left: None,
                paths: Vec::new(),
                allowed,
                unanswered: None,
                waiting: None,
                used: None,
                tells_use: false,
                owed: None,
                data_received: None,
                received: None,
                sent: None,
                renewal: false,
                watched: false,
                pending: Signals::default(),
                loss: Loss::default(),
            }),
        })
    }

    /// Whom the session is with.
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// What the peer is.
    pub fn kind(&self) -> Kind {
        if self.kind.load(Relaxed) == Kind::Stock as u8 {
            Kind::Stock
        } else {
            Kind::Mesh
        }
    }

    pub(crate) fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Relaxed);
    }

    /// Names the session among those of its device for as long as it lives: [`Indices::session`] of each receiver index that it
    /// gives out.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The receiver indices of the session's device: which session's they are.
    pub const fn indices(&self) -> Indices {
        self.indices
    }

    /// Whether there is a keypair to send with that is not too old. Read without the lock: a hint that can be late by as much
    /// as the device is with its deadlines; [`Batch::seal`] has the last word.
    pub fn is_established(&self) -> bool {
        self.established.load(Relaxed)
    }

    /// The longest packet that should be sealed, in bytes; without limit until somebody has said.
    pub fn mtu(&self) -> usize {
        self.mtu.load(Relaxed) as usize
    }

    /// Says how long packets may be.
    pub fn set_mtu(&self, mtu: usize) {
        self.mtu
            .store(u32::try_from(mtu).unwrap_or(u32::MAX), Relaxed);
    }

    /// How datagrams cross a way too narrow for them.
    pub fn carriage(&self) -> Carriage {
        if self.cut.load(Relaxed) {
            Carriage::Cut
        } else {
            Carriage::Whole
        }
    }

    /// Says how datagrams cross a way too narrow for them.
    pub fn set_carriage(&self, carriage: Carriage) {
        self.cut.store(carriage == Carriage::Cut, Relaxed);
    }

    /// Messages of the peer so far; takes the lock for a moment.
    pub fn tally(&self) -> Tally {
        self.state.lock().loss.total()
    }

    /// Where the peer is; takes the lock for a moment.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.state.lock().endpoint
    }

    /// Whether an initiation of this peer is worth reading: the rule of 20 ms, and that the session was not removed. Takes the lock
    /// for a moment.
    ///
    /// # Errors
    /// [`HandshakeError::TooSoon`], [`HandshakeError::Stranger`].
    pub fn admit(&self, now: Instant) -> Result<(), HandshakeError> {
        let now = self.millis(now);
        self.state.lock().handshakes.admit(&self.key, now)
    }

    /// Takes the lock. `now` may be the time at which the batch was read.
    pub fn lock(&self, now: Instant) -> Batch<'_> {
        Batch {
            session: self,
            state: self.state.lock(),
            instant: now,
            now: self.millis(now),
            signals: Signals::default(),
        }
    }

    /// Totals, read without the lock.
    pub fn counters(&self) -> Counters {
        let time = |stamp: &AtomicU64| {
            stamp
                .load(Relaxed)
                .checked_sub(1)
                .map(|millis| self.base + Duration::from_millis(millis))
        };
        Counters {
            rx_bytes: self.totals.rx_bytes.load(Relaxed),
            tx_bytes: self.totals.tx_bytes.load(Relaxed),
            rx_packets: self.totals.rx_packets.load(Relaxed),
            tx_packets: self.totals.tx_packets.load(Relaxed),
            handshakes: self.totals.handshakes.load(Relaxed),
            last_handshake: time(&self.totals.handshake),
            last_received: time(&self.totals.received),
            loss: self
                .totals
                .loss
                .load(Relaxed)
                .checked_sub(1)
                .map(|millionth| millionth as f64 / 1e6),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(self.base, now)
    }
}

/// Milliseconds from `base` to `now`, zero if `now` is earlier.
pub(crate) fn millis(base: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(base).as_millis()).unwrap_or(u64::MAX)
}

const fn as_millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// A session, locked for a batch of packets.
#[derive(Debug)]
pub struct Batch<'a> {
    pub(crate) session: &'a Session,
    pub(crate) state: MutexGuard<'a, State>,
    /// The time of the batch, as it was given and in milliseconds since the device's base.
    pub(crate) instant: Instant,
    pub(crate) now: u64,
    pub(crate) signals: Signals,
}

impl Batch<'_> {
    /// Where to send what is sealed; `None` until the peer was heard from or [`Self::set_endpoint`] was called.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.state.endpoint
    }

    /// Says where the peer is, by better knowledge than its packets give.
    pub fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.state.endpoint = Some(endpoint);
    }

    /// The stream is no more: a session that went there is nowhere until it is heard from again.
    pub fn forget_stream(&mut self, stream: &Underlay) {
        let goes_there = |endpoint: Endpoint| {
            let underlay = endpoint.underlay();
            underlay.is_some_and(|underlay| underlay.is_same_way(stream))
        };
        if stream.is_stream() && self.state.endpoint.is_some_and(goes_there) {
            self.state.endpoint = None;
        }
    }

    /// Says which further ways over the underlay lead to the peer: an authentic packet that comes one of them does not move the session.
    pub fn set_paths(&mut self, paths: Vec<Underlay>) {
        self.state.paths = paths;
    }

    /// Stops asking for the source address that was last used, because the kernel says it is not ours any more.
    pub fn forget_source(&mut self) {
        if let Some(Endpoint::Underlay(underlay)) = &mut self.state.endpoint {
            underlay.local = None;
        }
    }

    /// Seals a user's `packet` (empty: a keepalive) into a whole datagram in `out` and returns its length. The packet is padded to a
    /// multiple of 16 bytes, but never beyond `mtu`, so that the datagram is never longer than `mtu + 32` unless the packet
    /// is longer than `mtu` itself.
    ///
    /// # Errors
    /// See [`SealError`]; nothing was used up then.
    pub fn seal(&mut self, packet: &[u8], mtu: usize, out: &mut [u8]) -> Result<usize, SealError> {
        let length = self.seal_own(packet, mtu, out)?;
        if !packet.is_empty() {
            self.state.used = Some(self.now);
            if self.state.waiting.is_none() {
                self.state.waiting = Some(self.now);
            }
            if self.state.tells_use {
                self.state.tells_use = false;
                self.signals.woke = true;
            }
        }
        Ok(length)
    }

    /// The same for a packet of the node itself, such as its routing: no user waits for an answer.
    ///
    /// # Errors
    /// See [`SealError`]; nothing was used up then.
    pub fn seal_own(
        &mut self,
        packet: &[u8],
        mtu: usize,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let now = self.now;
        let current = self.state.keypairs.current_mut();
        let Some(keypair) = current.filter(|keypair| keypair.is_alive(now)) else {
            self.lapse();
            return Err(SealError::NotEstablished);
        };
        if keypair.sent >= REJECT_AFTER_MESSAGES {
            self.lapse();
            return Err(SealError::Exhausted);
        }
        let padded = packet
            .len()
            .next_multiple_of(PADDING)
            .min(mtu)
            .max(packet.len());
        let length = padded + OVERHEAD;
        let Some((header, sealed)) = out
            .get_mut(..length)
            .and_then(<[u8]>::split_first_chunk_mut)
        else {
            return Err(SealError::Buffer);
        };
        *header = data_header(keypair.keys.remote, keypair.sent);
        keypair.keys.seal(keypair.sent, packet, sealed);
        keypair.sent += 1;
        let stale =
            keypair.role == Role::Initiator && keypair.age(now) >= as_millis(REKEY_AFTER_TIME);
        if stale || keypair.sent >= REKEY_AFTER_MESSAGES {
            self.want_renewal();
        }
        self.note_sent(length);
        if !packet.is_empty() && self.state.unanswered.is_none() {
            self.state.unanswered = Some(self.now);
            self.wake();
        }
        Ok(length)
    }

    /// Opens a data message that came from `from` into `out`, which needs room for the datagram less 16 bytes. An authentic one
    /// moves the session's endpoint to `from`, unless it is a packet of a node itself (from its link-local address).
    ///
    /// # Errors
    /// See [`OpenError`]. Apart from [`OpenError::Malformed`], nothing has changed then.
    pub fn open<'a>(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        out: &'a mut [u8],
    ) -> Result<Opened<'a>, OpenError> {
        let Some(Message::Data { receiver, counter }) = Message::of(datagram) else {
            return Err(OpenError::NotData);
        };
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::Counter);
        }
        let state = &mut *self.state;
        let keypair = state
            .keypairs
            .find(receiver)
            .ok_or(OpenError::UnknownIndex)?;
        if !keypair.is_alive(self.now) {
            return Err(OpenError::Expired);
        }
        if out.len() < datagram.len() - 16 {
            return Err(OpenError::Buffer);
        }
        if !keypair.window.is_new(counter) {
            return Err(OpenError::Replayed);
        }
        let text = keypair
            .keys
            .open(counter, &datagram[HEADER_LEN..], out)
            .map_err(|chapoly::Forged| OpenError::Forged)?;
        keypair.window.note(counter);
        let opened = packet_length(text).ok_or(OpenError::Malformed);
        if state.keypairs.used(receiver) == Use::Confirmed {
            self.fresh();
            self.signals.confirmed = true;
        }
        let is_own = matches!(opened, Ok(length) if self.is_own(&out[..length]));
        if !is_own || self.state.endpoint.is_none() {
            self.roam(from);
        }
        self.note_received(datagram.len(), from);
        if let Some(share) = self.state.loss.note(receiver, counter) {
            let millionths = (share * 1e6) as u64 + 1;
            self.session.totals.loss.store(millionths, Relaxed);
        }
        let late = |state: &State, now| {
            let initiated = state
                .keypairs
                .current()
                .filter(|keypair| keypair.role == Role::Initiator);
            initiated.is_some_and(|keypair| keypair.age(now) >= as_millis(REKEY_ON_RECEIVE))
        };
        if late(&self.state, self.now) {
            self.want_renewal();
        }
        let packet = &mut out[..opened?];
        if packet.is_empty() {
            return Ok(Opened::Keepalive);
        }
        self.state.data_received = Some(self.now);
        if self.state.owed.is_none() {
            self.state.owed = Some(self.now);
            self.wake();
        }
        let verdict = match (source(packet), self.session.kind()) {
            (Some(source), kind)
                if self
                    .state
                    .allowed
                    .iter()
                    .any(|prefix| prefix.contains(source)) =>
            {
                match kind {
                    Kind::Mesh => Verdict::Owned,
                    Kind::Stock => Verdict::Leaf,
                }
            }
            _ => Verdict::Foreign,
        };
        Ok(Opened::Packet { verdict, packet })
    }

    /// Gives the lock back and says what the node's loop must hear about.
    pub fn finish(self) -> Signals {
        self.signals
    }

    /// All that was noted since the device last looked.
    pub(crate) fn take_pending(&mut self) -> (Signals, Notes) {
        let mut pending = std::mem::take(&mut self.state.pending);
        pending.add(std::mem::take(&mut self.signals));
        (pending, self.state.handshakes.take_notes())
    }

    /// A handshake gave a keypair to send with: what was asked for has happened.
    pub(crate) fn fresh(&mut self) {
        let totals = &self.session.totals;
        self.session.established.store(true, Relaxed);
        totals.handshake.store(self.now + 1, Relaxed);
        add(&totals.handshakes, 1);
        self.state.renewal = false;
        self.state.handshakes.note_success();
    }

    /// There is nothing to send with any more; the device is told once.
    pub(crate) fn lapse(&mut self) {
        self.state.renewal = false;
        if self.session.established.swap(false, Relaxed) {
            self.signals.woke = true;
        }
    }

    /// Whether this is a packet of the peer itself, such as its routing, and not of its users: it says which way it is about, and may try
    /// one that the peer is not to be reached by.
    fn is_own(&self, packet: &[u8]) -> bool {
        let is_link_local = source(packet).is_some_and(|source| source.is_unicast_link_local());
        is_link_local && self.session.kind() == Kind::Mesh
    }

    /// The peer was heard at `from`, which moves it unless one of these is so: `from` is another way that is known to lead to it; or
    /// the two are ways of different classes. Whoever stands between them can carry a packet from the one to the other, so it proves
    /// nothing.
    pub(crate) fn roam(&mut self, from: Endpoint) {
        let stays = match (self.state.endpoint, from) {
            (Some(way), from) if way.class() != from.class() => true,
            (Some(_), Endpoint::Underlay(from)) => {
                self.state.paths.iter().any(|path| path.is_same_way(&from))
            }
            (Some(_), Endpoint::Overlay(_)) | (None, _) => false,
        };
        if !stays {
            self.settle(from);
        }
    }

    /// The peer is at `from`, whatever was known before. An address of the overlay has to be its own.
    pub(crate) fn settle(&mut self, from: Endpoint) {
        if self.state.endpoint == Some(from) || !self.owns(from) {
            return;
        }
        let place = |endpoint: Endpoint| (endpoint.class(), endpoint.remote());
        if self.state.endpoint.map(place) != Some(place(from)) {
            self.signals.roamed = true;
            self.state.left = self.state.left.or(self.state.endpoint);
        }
        self.state.endpoint = Some(from);
    }

    /// Whether the peer can be at `from`: anywhere on the underlay, and on the overlay where it owns the address.
    pub(crate) fn owns(&self, from: Endpoint) -> bool {
        match from {
            Endpoint::Underlay(_) => true,
            Endpoint::Overlay(address) => self
                .state
                .allowed
                .iter()
                .any(|prefix| prefix.contains(address)),
        }
    }

    /// Something authenticated of `length` bytes was written.
    pub(crate) fn note_sent(&mut self, length: usize) {
        add(&self.session.totals.tx_bytes, length as u64);
        add(&self.session.totals.tx_packets, 1);
        self.state.sent = Some(self.now);
        self.state.owed = None;
    }

    /// Something authentic of `length` bytes was received from there. A sign of the peer that comes another way than packets take says
    /// nothing about the way that they take.
    pub(crate) fn note_received(&mut self, length: usize, from: Endpoint) {
        let totals = &self.session.totals;
        add(&totals.rx_bytes, length as u64);
        add(&totals.rx_packets, 1);
        totals.received.store(self.now + 1, Relaxed);
        self.state.received = Some(self.now);
        self.state.unanswered = None;
        let is_the_way = match (self.state.endpoint, from) {
            (Some(way), from) if way.class() != from.class() => false,
            (Some(Endpoint::Underlay(way)), Endpoint::Underlay(from)) => {
                self.state.paths.is_empty() || way.is_same_way(&from)
            }
            (Some(_) | None, _) => true,
        };
        if is_the_way {
            self.state.waiting = None;
        }
    }

    fn want_renewal(&mut self) {
        if !self.state.renewal {
            self.state.renewal = true;
            self.signals.woke = true;
        }
    }

    /// A deadline was set: the device must hear of it, unless it is going to look before that anyway.
    fn wake(&mut self) {
        if !self.state.watched {
            self.state.watched = true;
            self.signals.woke = true;
        }
    }
}

impl Drop for Batch<'_> {
    /// The signals stay for the device to look at, even if the batch was not finished.
    fn drop(&mut self) {
        let signals = self.signals;
        self.state.pending.add(signals);
    }
}

/// How long the IP packet is that a text begins with, without what it was padded with; zero if there is nothing at all.
fn packet_length(text: &[u8]) -> Option<usize> {
    let at = |offset: usize| {
        let bytes: &[u8; 2] = text.get(offset..)?.first_chunk()?;
        Some(usize::from(u16::from_be_bytes(*bytes)))
    };
    let (header, length) = match text.first().map(|first| first >> 4) {
        None => return Some(0),
        Some(4) => (20, at(2)?),
        Some(6) => (40, 40 + at(4)?),
        Some(_) => return None,
    };
    (header..=text.len()).contains(&length).then_some(length)
}

fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    let source: &[u8; 16] = packet.get(8..24)?.first_chunk()?;
    (packet.len() >= 40 && packet[0] >> 4 == 6).then(|| Ipv6Addr::from(*source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Factory;
    use crate::index::Series;
    use crate::key::PrivateKey;
    use crate::stamp::Clock;

    const MTU: usize = 1420;

    /// Two sessions that agreed on a keypair, without a device.
    fn agreed(base: Instant) -> (Arc<Session>, Arc<Session>) {
        let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte << 3; 32]));
        let [a, b] = [(0, 1), (1, 0)].map(|(own, other): (usize, usize)| {
            let key = keys[own].clone();
            let peer = keys[other].public();
            let series = Series::new(Indices::new(&key, 1), 5, 0);
            let engine = Factory::Noise { key }.make(&peer, None, 1);
            let handshakes = Handshakes::new(series, &peer);
            Session::new(peer, Kind::Mesh, handshakes, base, engine, Vec::new())
        });
        {
            let (mut a, mut b) = (a.lock(base), b.lock(base));
            let (ours, theirs) = (7, 8);
            let stamp = Clock::default().stamp(base);
            let (initiation, initiated) = a.state.engine.initiate(ours, stamp);
            let (response, keys) = b.state.engine.respond(&initiation, theirs).unwrap();
            b.state.keypairs.insert(theirs, Role::Responder, keys, 0);
            let keys = a.state.engine.complete(&initiated, &response).unwrap();
            a.state.keypairs.insert(ours, Role::Initiator, keys, 0);
            a.fresh();
        }
        (a, b)
    }

    fn base() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant has to be the first"
        )]
        Instant::now()
    }

    #[test]
    fn a_keypair_is_renewed_after_2_to_the_60_messages_and_refused_at_its_limit() {
        let now = base();
        let (session, _) = agreed(now);
        let mut out = [0; 64];
        let mut seal_after = |sent| {
            let mut batch = session.lock(now);
            batch.state.keypairs.current_mut().unwrap().sent = sent;
            let sealed = batch.seal(&[], MTU, &mut out);
            (sealed, batch.finish().woke)
        };
        assert_eq!(seal_after(REKEY_AFTER_MESSAGES - 2), (Ok(32), false));
        assert_eq!(seal_after(REKEY_AFTER_MESSAGES - 1), (Ok(32), true));
        assert_eq!(
            seal_after(REJECT_AFTER_MESSAGES - 1),
            (Ok(32), false),
            "asked for already"
        );
        assert_eq!(
            seal_after(REJECT_AFTER_MESSAGES),
            (Err(SealError::Exhausted), true)
        );
        assert!(!session.is_established());
    }

    #[test]
    fn signals_of_a_batch_that_was_not_finished_are_kept() {
        let now = base();
        let (a, b) = agreed(now);
        let mut out = [0; 64];
        assert_eq!(a.lock(now).seal(&[], MTU, &mut out), Ok(32));
        let from = Endpoint::unproven("192.0.2.1:1".parse().unwrap());
        let mut opened = [0; 64];
        assert_eq!(
            b.lock(now).open(from, &out[..32], &mut opened),
            Ok(Opened::Keepalive)
        );
        let (pending, _) = b.lock(now).take_pending();
        assert!(pending.confirmed && pending.roamed);
        assert!(!b.lock(now).take_pending().0.any());
    }

    #[test]
    fn time_before_the_base_is_the_base() {
        let now = base();
        assert_eq!(millis(now + Duration::from_secs(1), now), 0);
        assert_eq!(millis(now, now + Duration::from_millis(1500)), 1500);
    }

    #[test]
    fn what_is_inside_is_as_long_as_its_header_says_or_nothing() {
        let six = |length: u8| [&[0x60, 0, 0, 0, 0, length][..], &[0; 40]].concat();
        let four = |length: u8| [&[0x45, 0, 0, length][..], &[0; 40]].concat();
        assert_eq!(packet_length(&[]), Some(0));
        assert_eq!(packet_length(&six(0)), Some(40));
        assert_eq!(packet_length(&six(6)), Some(46));
        assert_eq!(packet_length(&six(7)), None, "longer than the text");
        assert_eq!(packet_length(&six(0)[..39]), None);
        assert_eq!(packet_length(&four(44)), Some(44));
        assert_eq!(packet_length(&four(45)), None);
        assert_eq!(packet_length(&four(19)), None, "shorter than its header");
        assert_eq!(packet_length(&[0x45]), None);
        assert_eq!(packet_length(&[0; 64]), None);
    }
}
