//! The forwarding snapshot that packet threads read: destination prefix to session, receiver index to session, key to session.
//!
//! The node loop builds a new [`Fib`] whenever a peer comes or goes and swaps it in; a packet thread loads it once per batch and
//! never waits. The only lock a packet thread takes is that of one session, for one batch, never two at once.

use std::{collections::HashMap, fmt, net::Ipv6Addr, sync::Arc};

use ipnetwork::Ipv6Network;
use wireguard::{Indices, PublicKey, Session};

use crate::{config::Admission, icmp::EchoToken, identity::overlay};

/// Where a packet goes, as an immutable snapshot.
pub struct Fib {
    own: Ipv6Addr,
    own_prefix: Ipv6Network,
    token: EchoToken,
    by_prefix: Table,
    by_index: HashMap<u32, Arc<Session>>,
    /// Those of the device that all sessions are of; none while there is no session.
    indices: Option<Indices>,
    by_key: HashMap<PublicKey, Arc<Session>>,
    admission: Admission,
}

/// What the FIB says about a destination.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// This node itself.
    Host,
    /// Through this session: another node, or a leaf of ours.
    Session(&'a Arc<Session>),
    /// Inside the overlay, but nobody we know.
    Unknown,
    /// Not an overlay unicast address.
    NotOverlay,
}

impl Fib {
    /// A snapshot with the routes of these sessions of one device, each reached at the prefixes it owns.
    pub fn new(
        own: Ipv6Addr,
        own_prefix: Ipv6Network,
        token: EchoToken,
        sessions: impl IntoIterator<Item = (Arc<Session>, Vec<Ipv6Network>)>,
    ) -> Self {
        let mut fib = Self {
            own,
            own_prefix,
            token,
            by_prefix: Table::default(),
            by_index: HashMap::new(),
            indices: None,
            by_key: HashMap::new(),
            admission: Admission::Listed,
        };
        for (session, prefixes) in sessions {
            for prefix in prefixes {
                fib.by_prefix.insert(prefix, &session);
            }
            fib.by_key.insert(*session.key(), Arc::clone(&session));
            fib.indices = Some(session.indices());
            fib.by_index.insert(session.index(), session);
        }
        fib
    }

    /// The same, where those who have no session may ask for one as `admission` says.
    pub fn admitting(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// The session with the holder of this key, open or not.
    pub fn session(&self, key: &PublicKey) -> Option<&Arc<Session>> {
        self.by_key.get(key)
    }

    /// Whether those without a session may ask for one.
    pub fn admits_strangers(&self) -> bool {
        self.admission == Admission::Open
    }

    /// FIB 1: the way to a destination that a user's packet names.
    pub fn lookup(&self, destination: Ipv6Addr) -> Lookup<'_> {
        if destination == self.own {
            return Lookup::Host;
        }
        if !overlay().contains(destination) {
            return Lookup::NotOverlay;
        }
        match self.by_prefix.lookup(destination) {
            Some(session) => Lookup::Session(session),
            None => Lookup::Unknown,
        }
    }

    /// The session that gave out this receiver index.
    pub fn receiver(&self, receiver: u32) -> Option<&Arc<Session>> {
        self.by_index.get(&self.indices?.session(receiver))
    }

    /// This node's own address.
    pub fn own(&self) -> Ipv6Addr {
        self.own
    }

    /// The secret that marks our own echo requests.
    pub fn token(&self) -> EchoToken {
        self.token
    }

    /// Whether an address lies in this node's own /64.
    pub fn is_ours(&self, address: Ipv6Addr) -> bool {
        self.own_prefix.contains(address)
    }
}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fib")
            .field("own", &self.own)
            .field("sessions", &self.by_index.len())
            .finish_non_exhaustive()
    }
}

/// Longest prefix match: one hash table for each prefix length in use, longest first. An overlay has few lengths (/64 for nodes,
/// /128 for leaves), so a look-up is one or two hashes.
#[derive(Default)]
struct Table(Vec<(u8, HashMap<u128, Arc<Session>>)>);

impl Table {
    fn insert(&mut self, prefix: Ipv6Network, session: &Arc<Session>) {
        let length = prefix.prefix();
        let at = match self.0.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (length, HashMap::new()));
                at
            }
        };
        self.0[at]
            .1
            .insert(masked(prefix.ip(), length), Arc::clone(session));
    }

    fn lookup(&self, address: Ipv6Addr) -> Option<&Arc<Session>> {
        self.0
            .iter()
            .find_map(|(length, sessions)| sessions.get(&masked(address, *length)))
    }
}

fn masked(address: Ipv6Addr, length: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    address.to_bits() & mask
}
