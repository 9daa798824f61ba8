//! Streams: TCP in place of UDP, to one or two of the peers whose addresses the configuration gives, where no datagram gets through.
//!
//! A stream begins with a handshake. As soon as there is a session, a probe inside it asks whether the peer is really at the other end;
//! with the answer the stream becomes a link like others, only dearer. The endpoints of the peer are probed by UDP all the while, as those
//! of any peer without a link (`links.rs`), and once such a link works, it is better, and the stream is closed a little later.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use routing::NeighbourState;
use tracing::{debug, info};
use wireguard::{PublicKey, Underlay};

use super::{Node, Output, Task, is_overlay, paths::Path, peers::Origin};
use crate::{
    admin::WarningCode,
    signal::{Probe, Signal, Way},
    stream::{Command, Event, MAX_ADDRESSES, PORT},
};

/// Streams that we ask for at a time. One can fail; more would carry the same once more.
const MAX_STREAMS: usize = 2;
/// A peer that was never reached by UDP is given so long: a datagram may be lost.
const DOUBT: Duration = Duration::from_secs(2);
/// UDP has to work for so long before the stream is closed.
const LINGER: Duration = Duration::from_secs(10);
/// A peer that takes no stream is asked again after this; it doubles up to [`MAX_REDIAL`].
const REDIAL: Duration = Duration::from_secs(2);
/// Who has had one that worked is asked again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// See [`REDIAL`].
const MAX_REDIAL: Duration = Duration::from_secs(60);
/// Pause between probes inside a session, until one is answered.
const ASK: Duration = Duration::from_millis(500);
/// Pause between initiations, while there is no session: as the protocol has it.
const CALL: Duration = Duration::from_secs(5);
/// A stream that is not there by then, or whose other end does not answer, is given up.
const PATIENCE: Duration = Duration::from_secs(14);
/// What is mended within this time is not worth a warning.
const WORRY: Duration = Duration::from_secs(3);

/// The streams that we ask for.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<PublicKey, Anchor>);

/// A peer that may be reached by a stream.
#[derive(Debug)]
struct Anchor {
    /// Since when no datagram gets through.
    doubted: Option<Instant>,
    /// Since when some do.
    well: Option<Instant>,
    stage: Stage,
    failures: u32,
    /// When it may be called again.
    due: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Idle,
    /// Waits for [`Event::Opened`] or [`Event::Failed`].
    Connecting {
        since: Instant,
    },
    /// Waits for an answer of the peer by it.
    Asking {
        stream: Underlay,
        since: Instant,
        /// When the last initiation was sent by it.
        called: Instant,
        probe: Option<u32>,
        next: Instant,
    },
    /// It is a link.
    Linked {
        stream: Underlay,
        /// Routing has been heard by it.
        was_up: bool,
    },
}

impl Stage {
    fn stream(self) -> Option<Underlay> {
        match self {
            Self::Idle | Self::Connecting { .. } => None,
            Self::Asking { stream, .. } | Self::Linked { stream, .. } => Some(stream),
        }
    }
}

impl Anchor {
    fn new(now: Instant) -> Self {
        Self {
            doubted: None,
            well: None,
            stage: Stage::Idle,
            failures: 0,
            due: now,
        }
    }

    fn fail(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        let pause = REDIAL * 2_u32.saturating_pow(self.failures).min(1 << 10);
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause.min(MAX_REDIAL);
    }

    /// Its stream has worked, and does not any more.
    fn lose(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        self.failures = 0;
        self.due = now + AGAIN;
    }

    /// Whether a datagram gets through has been looked at. One that got through before is missed at once.
    fn note_udp(&mut self, works: bool, now: Instant) {
        if works {
            self.doubted = None;
            self.well.get_or_insert(now);
        } else if self.doubted.is_none() {
            let was_well = self.well.take().is_some();
            self.doubted = Some(now);
            self.due = now + if was_well { Duration::ZERO } else { DOUBT };
        }
    }
}

impl Node {
    /// Something has changed that streams may depend on.
    pub(super) fn look_at_streams(&mut self, now: Instant) {
        self.agenda.set(Task::Streams, Some(now));
    }

    /// Where we are has changed: who took no stream before may take one now.
    pub(super) fn hurry_streams(&mut self, now: Instant) {
        for anchor in self.streams.0.values_mut() {
            anchor.failures = 0;
            anchor.due = anchor.due.min(now);
        }
        self.look_at_streams(now);
    }

    /// Asks for streams, and gives them up, as links come and go.
    pub(super) fn tend_streams(&mut self, now: Instant) {
        self.forget_anchors();
        let keys: Vec<PublicKey> = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.origin == Origin::Peer && !entry.dials.is_empty())
            .map(|(key, _)| *key)
            .collect();
        let reached = self.reached_by_udp();
        for key in &keys {
            self.tend_anchor(key, reached.contains(key), now);
        }
        let mut wanted: Vec<PublicKey> = keys
            .into_iter()
            .filter(|key| self.wants_stream(key, now))
            .collect();
        wanted.sort_by_key(|key| self.streams.0.get(key).map_or(0, |anchor| anchor.failures));
        let is_taken = |anchor: &Anchor| !matches!(anchor.stage, Stage::Idle);
        let taken = self.streams.0.values().filter(|anchor| is_taken(anchor));
        let free = MAX_STREAMS.saturating_sub(taken.count());
        for key in wanted.into_iter().take(free) {
            self.dial_stream(&key, now);
        }
        self.worry(&reached, now);
        self.agenda.set(Task::Streams, self.next_look(now));
    }

    /// Closes the streams of those who are no peers any more.
    fn forget_anchors(&mut self) {
        let is_peer = |key: &PublicKey| {
            let entry = self.peers.get(key);
            entry.is_some_and(|entry| entry.origin == Origin::Peer && !entry.dials.is_empty())
        };
        let gone: Vec<PublicKey> = self
            .streams
            .0
            .keys()
            .filter(|key| !is_peer(key))
            .copied()
            .collect();
        for peer in gone {
            if let Some(anchor) = self.streams.0.remove(&peer) {
                self.hang_up(peer, &anchor.stage);
            }
        }
    }

    /// Has the stream of this stage closed.
    fn hang_up(&mut self, peer: PublicKey, stage: &Stage) {
        let stream = match *stage {
            Stage::Idle => return,
            Stage::Connecting { .. } => None,
            Stage::Asking { stream, .. } | Stage::Linked { stream, .. } => Some(stream),
        };
        let close = Command::Close { peer, stream };
        self.outputs.push_back(Output::Stream(close));
    }

    /// Who has a link by UDP that works.
    fn reached_by_udp(&self) -> BTreeSet<PublicKey> {
        let links = self.links.iter().map(|(_, link)| link);
        links
            .filter(|link| !link.endpoint.is_stream() && link.state != NeighbourState::Down)
            .map(|link| link.peer)
            .collect()
    }

    /// What becomes of a peer's stream; `works`: a datagram gets through.
    fn tend_anchor(&mut self, key: &PublicKey, works: bool, now: Instant) {
        let link_state = |stream: &Underlay| {
            let mut links = self.links.of(key);
            let found = links.find(|(_, link)| link.endpoint.is_same_way(stream));
            found.map(|(_, link)| link.state)
        };
        let is_needless = works || self.is_relayed_by_udp(key);
        let anchor = self
            .streams
            .0
            .entry(*key)
            .or_insert_with(|| Anchor::new(now));
        anchor.note_udp(works, now);
        let is_well = anchor
            .well
            .is_some_and(|well| now.saturating_duration_since(well) >= LINGER);
        let stage = anchor.stage;
        match stage {
            Stage::Idle => {}
            // Datagrams have found a way before it: as a link it would only stand in their way when that fails.
            Stage::Connecting { .. } | Stage::Asking { .. } if is_needless => {
                anchor.stage = Stage::Idle;
                self.hang_up(*key, &stage);
                if let Some(stream) = stage.stream() {
                    self.leave_stream(key, &stream, now);
                }
            }
            Stage::Linked { stream, .. } if is_well => {
                anchor.stage = Stage::Idle;
                anchor.failures = 0;
                self.hang_up(*key, &stage);
                info!(peer = %self.label(key), "UDP passes again, stream closed");
                self.leave_stream(key, &stream, now);
            }
            Stage::Connecting { since } => {
                if now.saturating_duration_since(since) >= PATIENCE {
                    anchor.fail(now);
                    self.hang_up(*key, &stage);
                }
            }
            Stage::Linked { stream, was_up } => match link_state(&stream) {
                // Where we are may have changed, or where the peer is: another stream may work where this one does not any more.
                None | Some(NeighbourState::Down) if was_up => {
                    anchor.lose(now);
                    self.hang_up(*key, &stage);
                    self.leave_stream(key, &stream, now);
                }
                None => {
                    anchor.fail(now);
                    self.hang_up(*key, &stage);
                    self.leave_stream(key, &stream, now);
                }
                Some(NeighbourState::Down) => {}
                Some(NeighbourState::Up | NeighbourState::Suspect) => {
                    let was_up = true;
                    anchor.stage = Stage::Linked { stream, was_up };
                }
            },
            Stage::Asking { stream, since, .. } => {
                if now.saturating_duration_since(since) >= PATIENCE {
                    debug!(peer = %self.label(key), "Nobody answers by the stream");
                    if let Some(anchor) = self.streams.0.get_mut(key) {
                        anchor.fail(now);
                    }
                    self.hang_up(*key, &stage);
                    self.leave_stream(key, &stream, now);
                } else {
                    self.ask_by_stream(key, now);
                }
            }
        }
    }

    /// Whether no datagram leads to a peer, nor through somebody else whom datagrams lead to.
    fn wants_stream(&self, key: &PublicKey, now: Instant) -> bool {
        let is_due = self.streams.0.get(key).is_some_and(|anchor| {
            matches!(anchor.stage, Stage::Idle) && anchor.doubted.is_some() && anchor.due <= now
        });
        is_due && !self.is_relayed_by_udp(key)
    }

    /// Whether datagrams to a peer go through somebody whom datagrams lead to.
    fn is_relayed_by_udp(&self, key: &PublicKey) -> bool {
        match self.peers.get(key).map(|entry| entry.path) {
            Some(Path::Relayed(link)) => {
                let link = self.links.get(link);
                link.is_some_and(|link| !link.endpoint.is_stream())
            }
            Some(Path::None | Path::Direct | Path::Link(_)) | None => false,
        }
    }

    fn dial_stream(&mut self, key: &PublicKey, now: Instant) {
        let (Some(entry), Some(anchor)) = (self.peers.get(key), self.streams.0.get_mut(key)) else {
            return;
        };
        let mut addresses = Vec::new();
        for address in entry.dials.iter().flat_map(|dial| &dial.addresses) {
            let mut other = *address;
            other.set_port(PORT);
            for address in [*address, other] {
                if !addresses.contains(&address) && !is_overlay(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            // Its names are not resolved yet.
            anchor.due = now + REDIAL;
            return;
        }
        anchor.stage = Stage::Connecting { since: now };
        debug!(peer = %entry.name, "Stream wanted");
        let peer = *key;
        let dial = Command::Dial { peer, addresses };
        self.outputs.push_back(Output::Stream(dial));
    }

    /// What the thread for streams has to say.
    pub fn handle_stream(&mut self, event: Event, now: Instant) {
        match event {
            Event::Opened { peer, stream } => match self.streams.0.get_mut(&peer) {
                Some(anchor) if matches!(anchor.stage, Stage::Connecting { .. }) => {
                    anchor.stage = Stage::Asking {
                        stream,
                        since: now,
                        called: now,
                        probe: None,
                        next: now,
                    };
                    debug!(peer = %self.label(&peer), address = %stream.remote, "Stream open");
                    self.device.call(&peer, stream.into(), now);
                    // Nobody takes anything else for the first message.
                    self.drain(now);
                    self.look_at_streams(now);
                }
                Some(_) | None => {
                    let stream = Some(stream);
                    let close = Command::Close { peer, stream };
                    self.outputs.push_back(Output::Stream(close));
                }
            },
            Event::Failed { peer } => {
                if let Some(anchor) = self.streams.0.get_mut(&peer)
                    && matches!(anchor.stage, Stage::Connecting { .. })
                {
                    anchor.fail(now);
                }
                self.look_at_streams(now);
            }
            Event::Closed { peer, stream } => {
                if let Some(anchor) = self.streams.0.get_mut(&peer)
                    && anchor
                        .stage
                        .stream()
                        .is_some_and(|own| own.is_same_way(&stream))
                {
                    match anchor.stage {
                        Stage::Linked { was_up: true, .. } => anchor.lose(now),
                        Stage::Idle
                        | Stage::Connecting { .. }
                        | Stage::Asking { .. }
                        | Stage::Linked { .. } => anchor.fail(now),
                    }
                }
                debug!(peer = %self.label(&peer), address = %stream.remote, "Stream closed");
                self.leave_stream(&peer, &stream, now);
                self.look_at_streams(now);
            }
        }
        self.drain(now);
    }

    /// A stream is no more: neither is its link, and a session that went that way takes another.
    fn leave_stream(&mut self, peer: &PublicKey, stream: &Underlay, now: Instant) {
        let lost: Vec<_> = self
            .links
            .of(peer)
            .filter(|(_, link)| link.endpoint.is_same_way(stream))
            .map(|(id, _)| id)
            .collect();
        for id in lost {
            self.close_link(id, now);
        }
        if let Some(session) = self.device.session(peer) {
            session.lock(now).forget_stream(stream);
        }
        self.choose_path(peer, now);
    }

    /// Asks by a stream whether the peer is at its other end.
    fn ask_by_stream(&mut self, key: &PublicKey, now: Instant) {
        let id = self.rng.u32(..);
        let is_open = self.is_open_with(key);
        let Some(anchor) = self.streams.0.get_mut(key) else {
            return;
        };
        let Stage::Asking {
            stream,
            called,
            probe,
            next,
            ..
        } = &mut anchor.stage
        else {
            return;
        };
        let stream = *stream;
        if is_open && *next <= now {
            *probe = Some(id);
            *next = now + ASK;
            let way = Way::Stream;
            let ask = Signal::Probe(Probe { id, way });
            self.signal(key, &ask, 0, stream.into(), now);
        } else if !is_open && now.saturating_duration_since(*called) >= CALL {
            *called = now;
            self.device.call(key, stream.into(), now);
        }
    }

    /// Whether an echo answers the probe of a stream; it becomes a link then.
    pub(super) fn is_streamed(
        &mut self,
        peer: &PublicKey,
        id: u32,
        from: Underlay,
        now: Instant,
    ) -> bool {
        let Some(anchor) = self.streams.0.get_mut(peer) else {
            return false;
        };
        match anchor.stage {
            Stage::Asking { stream, probe, .. }
                if probe == Some(id) && stream.is_same_way(&from) =>
            {
                let was_up = false;
                anchor.stage = Stage::Linked { stream, was_up };
                anchor.failures = 0;
            }
            Stage::Idle
            | Stage::Connecting { .. }
            | Stage::Asking { .. }
            | Stage::Linked { .. } => {
                return false;
            }
        }
        let tag = self.rng.u32(..);
        self.open_link(*peer, from, None, Some(tag), now);
        self.look_at_streams(now);
        true
    }

    /// Says in `status` who is reached by a stream because UDP does not pass.
    fn worry(&mut self, reached: &BTreeSet<PublicKey>, now: Instant) {
        let is_worse = |(key, anchor): &(&PublicKey, &Anchor)| {
            let is_linked = matches!(anchor.stage, Stage::Linked { .. });
            let is_long = anchor
                .doubted
                .is_some_and(|since| now.saturating_duration_since(since) >= WORRY);
            is_linked && is_long && !reached.contains(key)
        };
        let streamed = self.streams.0.iter().filter(is_worse);
        let names: Vec<String> = streamed.map(|(key, _)| self.label(key)).collect();
        if names.is_empty() {
            self.alarms.remove(&WarningCode::UdpBlocked);
            return;
        }
        let text = format!(
            "UDP does not pass to {}: packets go over TCP, which is slower",
            names.join(", ")
        );
        self.alarm(WarningCode::UdpBlocked, text, now);
    }

    /// When something is due.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let due = |anchor: &Anchor| {
            let of_stage = match anchor.stage {
                Stage::Idle => anchor.doubted.map(|_| anchor.due),
                Stage::Connecting { since } => Some(since + PATIENCE),
                Stage::Asking { since, next, .. } => {
                    Some(next.max(now + ASK).min(since + PATIENCE))
                }
                Stage::Linked { .. } => anchor.doubted.map(|since| since + WORRY),
            };
            let of_udp = match anchor.stage {
                Stage::Idle => None,
                Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Linked { .. } => {
                    anchor.well.map(|well| well + LINGER)
                }
            };
            let dues = [of_stage, of_udp].into_iter().flatten();
            dues.filter(|due| *due > now).min()
        };
        self.streams.0.values().filter_map(due).min()
    }
}
