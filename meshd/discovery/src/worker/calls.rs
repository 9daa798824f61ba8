//! Whom to dial, and when.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tracing::debug;

use super::Worker;
use crate::{Contact, NodeKey, contact::split};

/// A configured node that does not answer is dialled again after this, and then more and more seldom.
const AGAIN: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(300);
/// Dials to nodes found on the LAN, a second; and those that wait, the oldest of which is forgotten.
const LAN_DIALS: usize = 5;
const MAX_WAITING: usize = 64;
/// While fewer nodes than this are connected, remembered ones are dialled, so many at a time.
const ENOUGH: usize = 4;
const AT_ONCE: usize = 4;
/// And so often.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Whom to dial.
#[derive(Debug)]
pub(super) struct Calls {
    /// Nodes to stay connected with.
    wanted: BTreeMap<NodeKey, Wanted>,
    /// Nodes of the last run, to be tried in turn.
    remembered: VecDeque<Contact>,
    remembered_at: Instant,
    /// Nodes that were found on the LAN.
    waiting: VecDeque<(PeerId, Multiaddr)>,
}

/// The TCP port that a dial comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Port {
    /// The one that we listen on, so that the other sees it.
    Own,
    /// Another one: where a port is shared with a worker that hangs, it decides which of the two is called.
    New,
}

#[derive(Debug)]
struct Wanted {
    addresses: Vec<Multiaddr>,
    at: Instant,
    wait: Duration,
}

impl Calls {
    pub(super) fn new(remembered: Vec<Contact>) -> Self {
        Self {
            wanted: BTreeMap::new(),
            remembered: remembered.into(),
            remembered_at: Instant::now(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn want(
        &mut self,
        wanted: impl IntoIterator<Item = (NodeKey, Vec<Multiaddr>)>,
        now: Instant,
    ) {
        let old = std::mem::take(&mut self.wanted);
        for (key, addresses) in wanted {
            let same = old.get(&key).filter(|old| old.addresses == addresses);
            let (at, wait) = same.map_or((now, AGAIN), |old| (old.at, old.wait));
            self.wanted.insert(
                key,
                Wanted {
                    addresses,
                    at,
                    wait,
                },
            );
        }
    }

    /// The world has changed: nobody is waited for.
    pub(super) fn try_again(&mut self, now: Instant) {
        for wanted in self.wanted.values_mut() {
            (wanted.at, wanted.wait) = (now, AGAIN);
        }
        self.remembered_at = now;
    }

    /// A connection was opened or lost: if it is lost again, it is dialled at once.
    pub(super) fn on_connection(&mut self, key: &NodeKey, now: Instant) {
        if let Some(wanted) = self.wanted.get_mut(key) {
            (wanted.at, wanted.wait) = (now + AGAIN / 2, AGAIN);
        }
    }

    /// A node of the LAN.
    pub(super) fn wait(&mut self, peer: PeerId, address: Multiaddr) {
        if self.waiting.iter().any(|(other, _)| *other == peer) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((peer, address));
    }
}

impl Worker<'_> {
    /// Dials who is due, once it is settled where we listen.
    pub(super) fn call(&mut self, now: Instant) {
        if self.awaited.is_some() {
            return;
        }
        let mut dials = Vec::new();
        for (key, wanted) in &mut self.calls.wanted {
            let Some(peer) = key.peer() else {
                continue;
            };
            if wanted.at > now || self.swarm.behaviour().fence.is_connected(&peer) {
                continue;
            }
            let jitter = wanted.wait.mul_f64(fastrand::f64() / 4.0);
            wanted.at = now + wanted.wait + jitter;
            let is_first = wanted.wait == AGAIN;
            wanted.wait = (wanted.wait * 2).min(SELDOM);
            dials.push((peer, wanted.addresses.clone(), is_first));
        }
        for _ in 0..LAN_DIALS {
            let Some((peer, address)) = self.calls.waiting.pop_front() else {
                break;
            };
            dials.push((peer, vec![address], true));
        }
        if self.identified.len() < ENOUGH && self.calls.remembered_at <= now {
            self.calls.remembered_at = now + REMEMBERED;
            let remembered = self.calls.remembered.len().min(AT_ONCE);
            for _ in 0..remembered {
                self.calls.remembered.rotate_left(1);
                let contact = self.calls.remembered.back();
                if let Some(contact) = contact
                    && let Some(peer) = contact.key.peer()
                {
                    // It was good when we dialled it last; if it is private, it was our network's.
                    dials.push((peer, vec![contact.address()], true));
                }
            }
        }
        for (peer, addresses, is_first) in dials {
            let port = if is_first { Port::Own } else { Port::New };
            self.dial(peer, addresses, port);
        }
    }

    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, port: Port) {
        if addresses.is_empty() {
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses);
        let options = match port {
            Port::Own => options.build(),
            Port::New => options.allocate_new_port().build(),
        };
        if let Err(error) = self.swarm.dial(options) {
            debug!(%peer, error = %super::causes(&error), "Not dialled");
        }
    }

    /// Nodes that announced themselves on the LAN: those of them that are on it, and may be connected, are dialled in turn.
    pub(super) fn on_lan(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in found {
            let Some((at, _)) = split(&address) else {
                continue;
            };
            let is_near = self.rules.read(|rules| rules.is_shared(at.ip()));
            if !is_near || self.is_connected(&peer) {
                continue;
            }
            if self.swarm.behaviour().fence.admission.check(&peer).is_ok() {
                self.calls.wait(peer, address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_announcements_is_a_short_queue() {
        let mut calls = Calls::new(Vec::new());
        for _ in 0..1000 {
            let address = "/ip4/192.168.1.2/tcp/9000".parse().unwrap();
            calls.wait(PeerId::random(), address);
        }
        assert_eq!(calls.waiting.len(), MAX_WAITING);
    }
}
