//! A node that knows another node and has a leaf, without any of its threads.
#![allow(dead_code, reason = "no target uses all of it")]

use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipnetwork::Ipv6Network;
use meshd::fib::Fib;
use meshd::icmp::EchoToken;
use meshd::identity::{Identity, NodeId};
use wireguard::{Device, Kind, Peer, PrivateKey, PublicKey, Session, Upkeep};

const POOL: &str = include_str!("../../testdata/identities.txt");

pub(crate) const TOKEN: EchoToken = *b"mesh-tok";

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) fib: Fib,
    pub(crate) own: NodeId,
    pub(crate) other: NodeId,
    pub(crate) leaf: Ipv6Addr,
    /// With the other node, and with the leaf.
    pub(crate) sessions: [Arc<Session>; 2],
    /// Two receiver indices that lead to each.
    pub(crate) receivers: [[u32; 2]; 2],
}

fn identity(n: usize) -> Identity {
    let mut lines = POOL.lines().filter(|line| !line.starts_with('#'));
    let line = lines.nth(n).expect("the pool is longer");
    Identity::from_hex(line.split(' ').next().unwrap_or_default()).expect("a seed of the pool")
}

/// The same for every run: it does not change.
pub(crate) fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let identity_own = identity(0);
        let (own, other) = (identity_own.node(), identity(1).node());
        let leaf = Ipv6Addr::from_bits(own.address().to_bits() + 0x54);
        let mut device = Device::new(identity_own.private_key().clone(), 7);
        let mut add = |key: PublicKey, kind, prefix: Ipv6Network| {
            let peer = Peer {
                key,
                preshared: None,
                kind,
                allowed: vec![prefix],
                endpoints: Vec::new(),
                persistent_keepalive: None,
                upkeep: Upkeep::OnDemand,
            };
            device
                .add_peer(peer, Instant::now())
                .expect("a fresh device")
        };
        let sessions = [
            add(other.public_key(), Kind::Mesh, other.prefix()),
            add(
                PrivateKey::from_bytes([9; 32]).public(),
                Kind::Stock,
                leaf.into(),
            ),
        ];
        let routes = [
            (Arc::clone(&sessions[0]), vec![other.prefix()]),
            (Arc::clone(&sessions[1]), vec![leaf.into()]),
        ];
        let fib = Fib::new(own.address(), own.prefix(), TOKEN, routes);
        let receivers = [0, 1].map(|at: usize| {
            let leads_there = |index: &u32| {
                fib.receiver(*index)
                    .is_some_and(|session| Arc::ptr_eq(session, &sessions[at]))
            };
            let mut found = (0..).filter(leads_there);
            [0; 2].map(|_| found.next().expect("one index in 32,768"))
        });
        Scene {
            fib,
            own,
            other,
            leaf,
            sessions,
            receivers,
        }
    })
}
