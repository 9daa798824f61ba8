//! Looking for nodes that nobody here knows, when somebody sends to one: little is asked, little is held, and nothing is left behind.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tracing::debug;

use super::{Found, Node, Output, Source, Task};
use crate::{
    discard::Reason,
    icmp::Unreachable,
    identity::{NodeId, overlay},
};

/// Packets held for all nodes that are looked for.
const MAX_HELD: usize = 64;
/// Look-ups at a time.
const MAX_SOUGHT: usize = 16;
/// Look-ups begun at once, and a second.
const BURST: f64 = 16.0;
const PER_SECOND: f64 = 4.0;
/// Who was not found is not looked for again in this time.
const NOBODY: Duration = Duration::from_secs(10);
/// Prefixes that were not found, kept at most; what is forgotten early is looked for again.
const MAX_NOBODY: usize = 1024;
/// A look-up that has not been answered by then has failed.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The first eight bytes of a node's addresses.
type Prefix = [u8; 8];

/// Whether there is anybody who looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Search {
    /// Nobody: the control plane is off.
    #[default]
    Off,
    /// [`Output::Lookup`] is answered.
    On,
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Seeking {
    search: Search,
    sought: BTreeMap<Prefix, Sought>,
    /// When it is looked for again.
    nobody: BTreeMap<Prefix, Instant>,
    held: usize,
    left: f64,
    since: Instant,
}

#[derive(Debug)]
struct Sought {
    until: Instant,
    packets: Vec<Vec<u8>>,
}

/// What becomes of a packet.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    /// It is held.
    Held,
    /// There is no room for it.
    NoRoom,
    /// Its node is not looked for.
    Refused,
}

impl Seeking {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            search: Search::Off,
            sought: BTreeMap::new(),
            nobody: BTreeMap::new(),
            held: 0,
            left: BURST,
            since: now,
        }
    }

    /// Begins to look for a node, if there is leave to. `true`: it is being looked for, or has been since before.
    fn begin(&mut self, prefix: Prefix, now: Instant) -> bool {
        self.nobody.retain(|_, until| *until > now);
        if self.search == Search::Off || self.nobody.contains_key(&prefix) {
            return false;
        }
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND;
        self.left = (self.left + gained).min(BURST);
        self.since = now;
        if self.sought.len() >= MAX_SOUGHT || self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        let sought = Sought {
            until: now + GIVE_UP,
            packets: Vec::new(),
        };
        self.sought.insert(prefix, sought);
        true
    }

    fn hold(&mut self, prefix: &Prefix, packet: Vec<u8>) -> Fate {
        let Some(sought) = self.sought.get_mut(prefix) else {
            return Fate::Refused;
        };
        if self.held >= MAX_HELD {
            return Fate::NoRoom;
        }
        self.held += 1;
        sought.packets.push(packet);
        Fate::Held
    }

    fn end(&mut self, prefix: &Prefix) -> Option<Vec<Vec<u8>>> {
        let sought = self.sought.remove(prefix)?;
        self.held -= sought.packets.len();
        Some(sought.packets)
    }

    fn note_nobody(&mut self, prefix: Prefix, now: Instant) {
        if self.nobody.len() >= MAX_NOBODY
            && let Some(oldest) = self.nobody.iter().min_by_key(|(_, until)| **until)
        {
            let oldest = *oldest.0;
            self.nobody.remove(&oldest);
        }
        self.nobody.insert(prefix, now + NOBODY);
    }

    fn next(&self) -> Option<Instant> {
        self.sought.values().map(|sought| sought.until).min()
    }
}

fn prefix_of(address: Ipv6Addr) -> Option<Prefix> {
    let bytes = address.octets();
    overlay()
        .contains(address)
        .then(|| bytes.first_chunk().copied())?
}

impl Node {
    /// Says whether there is anybody who answers [`Output::Lookup`].
    pub fn set_search(&mut self, search: Search) {
        self.seeking.search = search;
    }

    /// A packet for a node that there is no session with and no route to: held while the node is looked for, or refused.
    pub(super) fn seek(&mut self, destination: Ipv6Addr, packet: Vec<u8>, now: Instant) {
        let Some(prefix) = prefix_of(destination) else {
            return self.refuse(Reason::NoRoute, Unreachable::NoRoute, &packet, now);
        };
        self.look_for(prefix, now);
        if !self.seeking.sought.contains_key(&prefix) {
            return self.refuse(Reason::NoRoute, Unreachable::NoRoute, &packet, now);
        }
        match self.seeking.hold(&prefix, packet) {
            Fate::Held => {}
            Fate::NoRoom | Fate::Refused => self.discards.discard(Reason::HeldFull, 1),
        }
    }

    /// Looks for a node, unless it is being looked for already, or was lately and in vain.
    fn look_for(&mut self, prefix: Prefix, now: Instant) {
        if self.seeking.sought.contains_key(&prefix) || !self.seeking.begin(prefix, now) {
            return;
        }
        self.outputs.push_back(Output::Lookup { prefix });
        self.agenda.set(Task::Seek, self.seeking.next());
    }

    /// Looks for a node that we know by name, but not where it is.
    pub(super) fn look_for_peer(&mut self, peer: &wireguard::PublicKey, now: Instant) {
        let Some(entry) = self.peers.get(peer).filter(|entry| entry.node.is_some()) else {
            return;
        };
        let has_endpoints = !entry.endpoints.is_empty() || !entry.found.is_empty();
        let address = entry.address;
        if !has_endpoints
            && !self.is_routed(address)
            && let Some(prefix) = prefix_of(address)
        {
            self.look_for(prefix, now);
        }
    }

    /// The answer to [`Output::Lookup`]: the node that owns the prefix, by its own word, and where it says that it is.
    pub fn handle_looked(
        &mut self,
        prefix: [u8; 8],
        found: Option<(NodeId, Vec<SocketAddr>)>,
        now: Instant,
    ) {
        let Some(packets) = self.seeking.end(&prefix) else {
            return;
        };
        self.agenda.set(Task::Seek, self.seeking.next());
        let found = found.filter(|(node, _)| prefix_of(node.address()) == Some(prefix));
        let key = found.map(|(node, endpoints)| {
            debug!(address = %node.address(), endpoints = endpoints.len(), "A node was looked up");
            let source = Source::Record;
            let key = node.public_key();
            // Behind a router it has none, and is introduced; it has a session to be introduced for.
            if endpoints.is_empty() {
                self.admit(key, now);
                return key;
            }
            self.handle_found(
                Found {
                    node,
                    endpoints,
                    source,
                },
                now,
            );
            key
        });
        match key.filter(|key| self.device.session(key).is_some()) {
            Some(key) => {
                for packet in packets {
                    self.handle_unsent(key, packet, now);
                }
            }
            None => self.refuse_sought(prefix, &packets, now),
        }
        self.drain(now);
    }

    fn refuse_sought(&mut self, prefix: Prefix, packets: &[Vec<u8>], now: Instant) {
        self.seeking.note_nobody(prefix, now);
        for packet in packets {
            self.refuse(Reason::Unreachable, Unreachable::Address, packet, now);
        }
    }

    /// Gives up what was not answered.
    pub(super) fn review_seeking(&mut self, now: Instant) {
        let due = self.seeking.sought.iter();
        let due = due.filter(|(_, sought)| sought.until <= now);
        for prefix in due.map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
            let packets = self.seeking.end(&prefix).unwrap_or_default();
            self.refuse_sought(prefix, &packets, now);
        }
        self.agenda.set(Task::Seek, self.seeking.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u16) -> Prefix {
        let [high, low] = n.to_be_bytes();
        [6, 0, 0, 0, 0, 0, high, low]
    }

    fn seeking(now: Instant) -> Seeking {
        Seeking {
            search: Search::On,
            ..Seeking::new(now)
        }
    }

    #[test]
    fn five_thousand_destinations_are_a_few_look_ups() {
        let start = Instant::now();
        let mut seeking = seeking(start);
        let (mut begun, mut held) = (0, 0);
        // One a millisecond, each look-up answered after a second.
        for n in 0..5000u16 {
            let now = start + Duration::from_millis(n.into());
            let over = seeking.sought.iter();
            let over =
                over.filter(|(_, sought)| sought.until <= now + GIVE_UP - Duration::from_secs(1));
            for prefix in over.map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
                seeking.end(&prefix).unwrap();
                seeking.note_nobody(prefix, now);
            }
            begun += usize::from(seeking.begin(prefix(n), now));
            held += usize::from(seeking.hold(&prefix(n), vec![0; 100]) == Fate::Held);
            assert!(seeking.held <= MAX_HELD && seeking.sought.len() <= MAX_SOUGHT);
            assert!(seeking.nobody.len() <= MAX_NOBODY);
        }
        assert!((20..=36).contains(&begun), "{begun} look-ups");
        assert_eq!(held, begun);
    }

    #[test]
    fn at_most_64_packets_are_held_in_all() {
        let now = Instant::now();
        let mut seeking = seeking(now);
        for n in 0..4 {
            assert!(seeking.begin(prefix(n), now));
        }
        let fates = (0..200).map(|n| seeking.hold(&prefix(n % 4), vec![0; 1400]));
        assert_eq!(fates.filter(|fate| *fate == Fate::Held).count(), MAX_HELD);
        assert_eq!(seeking.hold(&prefix(9), Vec::new()), Fate::Refused);
        let held: usize = (0..4).map(|n| seeking.end(&prefix(n)).unwrap().len()).sum();
        assert_eq!((held, seeking.held), (MAX_HELD, 0));
    }

    #[test]
    fn who_was_not_found_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut seeking = seeking(now);
        assert!(seeking.begin(prefix(1), now));
        seeking.end(&prefix(1)).unwrap();
        seeking.note_nobody(prefix(1), now);
        assert!(!seeking.begin(prefix(1), now + NOBODY / 2));
        assert!(seeking.begin(prefix(1), now + NOBODY));
    }

    #[test]
    fn without_a_control_plane_nobody_is_looked_for() {
        let now = Instant::now();
        assert!(!Seeking::new(now).begin(prefix(1), now));
    }
}
