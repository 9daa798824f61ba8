//! Remembering: which nodes outlive a restart, so that a mesh comes together again without those that once introduced its members.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use wireguard::PublicKey;

use super::{
    Node, Seen,
    found::{Found, Source},
    hygiene::region,
    peers::Origin,
};
use crate::identity::NodeId;

/// Nodes that nobody named and that are remembered over a restart.
const MAX_REMEMBERED: usize = 64;
/// Who was not heard of for so long is forgotten.
const FORGET: Duration = Duration::from_secs(30 * 24 * 3600);

impl Node {
    /// Calls nodes of the run before that the configuration does not name, if they may have a session: whoever introduced us then may be
    /// gone.
    pub(super) fn recall(&mut self, now: Instant) {
        let recent = self.seen.iter().filter(|(_, seen)| seen.age < FORGET);
        let mut seen: Vec<(PublicKey, Vec<SocketAddr>, Duration)> = recent
            .map(|(key, seen)| (*key, seen.endpoints.clone(), seen.age))
            .collect();
        seen.sort_by_key(|(.., age)| *age);
        for (key, endpoints, _) in seen.into_iter().take(MAX_REMEMBERED) {
            let Ok(node) = NodeId::from_public_key(&key) else {
                continue;
            };
            let is_dialled = self
                .peers
                .get(&key)
                .is_some_and(|entry| entry.origin == Origin::Peer);
            if !is_dialled && self.is_welcome(&key) {
                let source = Source::Remembered;
                self.handle_found(
                    Found {
                        node,
                        endpoints,
                        source,
                    },
                    now,
                );
            }
        }
    }

    /// Whom nobody named, and who is worth to be remembered over a restart: who was heard straight, the latest first, at most 64, and
    /// at most a quarter of them in one region.
    pub(super) fn worth_remembering(&self, now: Instant) -> Vec<(PublicKey, Seen)> {
        let is_named = |key: &PublicKey| {
            self.peers
                .get(key)
                .is_some_and(|entry| entry.origin.is_named())
        };
        let mut good = BTreeMap::new();
        for (key, seen) in &self.seen {
            let age = seen.age + now.saturating_duration_since(self.started);
            if age < FORGET && !seen.endpoints.is_empty() && !is_named(key) {
                good.insert(
                    *key,
                    Seen {
                        age,
                        ..seen.clone()
                    },
                );
            }
        }
        for (key, entry) in &self.peers {
            let Some(session) = self.device.session(key) else {
                continue;
            };
            let straight = session.endpoint().and_then(|endpoint| endpoint.remote());
            if matches!(entry.origin, Origin::Stranger | Origin::Member)
                && let Some(heard) = session.counters().last_received
                && let Some(endpoint) = straight
            {
                let age = now.saturating_duration_since(heard);
                let endpoints = vec![endpoint];
                good.insert(*key, Seen { endpoints, age });
            }
        }
        let mut good: Vec<_> = good.into_iter().collect();
        // Neighbours first: they are who keeps us connected.
        good.sort_by_key(|(key, seen)| (!self.has_link(key), seen.age));
        let mut regions: BTreeMap<(u8, u32), usize> = BTreeMap::new();
        good.retain(|(_, seen)| {
            let first = seen.endpoints.first().map(|endpoint| region(endpoint.ip()));
            let count = first.map(|region| regions.entry(region).or_default());
            count.is_some_and(|count| {
                *count += 1;
                *count <= MAX_REMEMBERED / 4
            })
        });
        good.truncate(MAX_REMEMBERED);
        good
    }
}
