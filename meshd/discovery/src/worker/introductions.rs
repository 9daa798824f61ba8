//! Messages of the path agent to nodes that there is no session with: handed to a connected node, or through a relay.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tracing::debug;

use super::{Worker, anchors::circuit, calls::Port, protocols};
use crate::{
    Contact, Event, NodeKey, exchange::MAX_MESSAGE, record::MAX_ANCHORS, supervisor::tell,
};

/// Messages that wait for a connection, at most this many for this long.
const MAX_WAITING: usize = 32;
const WAIT: Duration = Duration::from_secs(10);
/// Introductions taken of one node: ten at once, and one a second.
const BURST: f64 = 10.0;
const A_SECOND: f64 = 1.0;
/// Nodes whose introductions are counted.
const MAX_COUNTED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Introductions {
    waiting: VecDeque<Waiting>,
    taken: BTreeMap<NodeKey, Bucket>,
}

#[derive(Debug)]
struct Waiting {
    to: PeerId,
    message: Vec<u8>,
    until: Instant,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    since: Instant,
}

impl Introductions {
    pub(super) fn forget(&mut self, now: Instant) {
        self.waiting.retain(|waiting| waiting.until > now);
        self.taken.retain(|_, bucket| bucket.left(now) < BURST);
    }

    fn wait(&mut self, to: PeerId, message: Vec<u8>, now: Instant) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting {
            to,
            message,
            until: now + WAIT,
        });
    }

    fn take(&mut self, to: &PeerId) -> Vec<Vec<u8>> {
        let (ready, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.to == *to);
        self.waiting = rest;
        let ready: VecDeque<Waiting> = ready;
        ready.into_iter().map(|waiting| waiting.message).collect()
    }

    /// Whether another introduction of this node is taken.
    fn allows(&mut self, from: NodeKey, now: Instant) -> bool {
        if self.taken.len() >= MAX_COUNTED && !self.taken.contains_key(&from) {
            return false;
        }
        let bucket = self.taken.entry(from).or_insert(Bucket {
            left: BURST,
            since: now,
        });
        let left = bucket.left(now);
        let is_allowed = left >= 1.0;
        *bucket = Bucket {
            left: if is_allowed { left - 1.0 } else { left },
            since: now,
        };
        is_allowed
    }
}

impl Bucket {
    fn left(&self, now: Instant) -> f64 {
        let time = now.saturating_duration_since(self.since).as_secs_f64();
        (self.left + time * A_SECOND).min(BURST)
    }
}

impl Worker<'_> {
    /// Carries a message to a node: over its connection, or over one that is made for it, through a relay of its or ours.
    pub(super) fn introduce(&mut self, to: NodeKey, anchors: &[Contact], message: Vec<u8>) {
        let Some(peer) = to.peer() else {
            return;
        };
        if message.is_empty() || message.len() > MAX_MESSAGE {
            debug!(length = message.len(), "No introduction");
            return;
        }
        if self.is_connected(&peer) {
            let introductions = &mut protocols(&mut self.swarm).introductions;
            introductions.send_request(&peer, message);
            return;
        }
        let relays = anchors.iter().take(MAX_ANCHORS);
        let relays = relays.chain(self.anchors.relays().take(MAX_ANCHORS));
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for relay in relays.filter(|relay| relay.key != self.key && relay.key != to) {
            if let Some(address) = circuit(relay) {
                let address = address.with(Protocol::P2p(peer));
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        if addresses.is_empty() {
            debug!(?to, "Nobody can introduce us");
            return;
        }
        self.introductions.wait(peer, message, Instant::now());
        self.dial(peer, addresses, Port::Own);
    }

    /// Sends what waited for this connection.
    pub(super) fn send_introductions(&mut self, to: &PeerId) {
        for message in self.introductions.take(to) {
            let introductions = &mut protocols(&mut self.swarm).introductions;
            introductions.send_request(to, message);
        }
    }

    /// An introduction has come.
    pub(super) fn on_introduction(&mut self, from: &PeerId, message: Vec<u8>) {
        let Some(key) = NodeKey::of_peer(from) else {
            return;
        };
        if message.is_empty() || !self.introductions.allows(key, Instant::now()) {
            debug!(%from, "An introduction is not taken");
            return;
        }
        tell(self.events, Event::Introduction { from: key, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_heard_ten_times_and_then_once_a_second() {
        let (mut introductions, start) = (Introductions::default(), Instant::now());
        let key = NodeKey([1; 32]);
        let taken = (0..100).filter(|_| introductions.allows(key, start));
        assert_eq!(taken.count(), 10);
        let later = start + Duration::from_secs(60);
        let taken = (0..60u64)
            .filter(|n| introductions.allows(key, later + Duration::from_millis(n * 100)));
        assert_eq!(taken.count(), 15);
        introductions.forget(later + Duration::from_secs(60));
        assert!(introductions.taken.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_not_forever() {
        let (mut introductions, start) = (Introductions::default(), Instant::now());
        let peer = PeerId::random();
        for n in 0..100 {
            introductions.wait(peer, vec![n], start);
        }
        assert_eq!(introductions.waiting.len(), MAX_WAITING);
        introductions.forget(start + WAIT);
        assert!(introductions.take(&peer).is_empty());
    }
}
