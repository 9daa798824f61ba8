//! A node that knows another node, which is its neighbour and leads to a third, and has a leaf, without any of its threads.
#![allow(dead_code, reason = "no target uses all of it")]

use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipnetwork::Ipv6Network;
use meshd::fib::{Carrier, Fib, Labelled, LinkStats, NextHop, Onward, Own, Relay, Role, Workload};
use meshd::icmp::EchoToken;
use meshd::identity::{Identity, NodeId, workload_address};
use meshd::labels::Pair;
use meshd::workload::WorkloadId;
use routing::LinkId;
use wireguard::{Device, Kind, Peer, PrivateKey, PublicKey, Underlay, Upkeep};

const POOL: &str = include_str!("../../testdata/identities.txt");

pub(crate) const TOKEN: EchoToken = *b"mesh-tok";
/// What the other node may call what the far node seals for us.
pub(crate) const LABEL: u32 = 0x0a0b_0c0d;

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) fib: Fib,
    pub(crate) own: NodeId,
    pub(crate) other: NodeId,
    /// Behind the other node.
    pub(crate) far: NodeId,
    pub(crate) leaf: Ipv6Addr,
    /// With the other node, with the leaf, and with the far node.
    pub(crate) carriers: [Carrier; 3],
    /// Two receiver indices that lead to the other node, and two to the leaf.
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
        let [own, other, far] = [0, 1, 2].map(|n| identity(n).node());
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
        let mut node = |node: NodeId| Carrier {
            session: add(node.public_key(), Kind::Mesh, node.prefix()),
            owns: vec![node.prefix()],
            role: Role::Node {
                address: node.address(),
                link_local: node.link_local(),
                relay: Relay::Yes,
            },
            stats: Arc::default(),
            inbound: None,
        };
        let (with_other, with_far) = (node(other), node(far));
        let key = PrivateKey::from_bytes([9; 32]).public();
        let with_leaf = Carrier {
            session: add(key, Kind::Stock, leaf.into()),
            owns: vec![leaf.into()],
            role: Role::Leaf,
            stats: Arc::default(),
            inbound: None,
        };
        let next_hop = Arc::new(NextHop {
            link: LinkId(1),
            session: Arc::clone(&with_other.session),
            endpoint: Underlay::unproven(([192, 0, 2, 1], 7).into()),
            mtu: 1420,
            stats: Arc::new(LinkStats::new(Instant::now())),
        });
        let carriers = [with_other, with_leaf, with_far];
        let copies = carriers.each_ref().map(|carrier| Carrier {
            session: Arc::clone(&carrier.session),
            owns: carrier.owns.clone(),
            role: carrier.role,
            stats: Arc::clone(&carrier.stats),
            inbound: carrier.inbound.clone(),
        });
        let routes = [other, far].map(|node| (node.prefix(), Some(Arc::clone(&next_hop))));
        let itself = Own {
            address: own.address(),
            prefix: own.prefix(),
            link_local: own.link_local(),
            token: TOKEN,
        };
        let labelled = Labelled {
            from: next_hop.endpoint.remote,
            class: wireguard::Class::Underlay,
            session: Arc::clone(&next_hop.session),
            stats: Arc::clone(&next_hop.stats),
            pair: Pair {
                source: far.address(),
                destination: own.address(),
            },
            onward: Onward::Here,
        };
        let fib = Fib::new(itself, copies, routes)
            .labelling([(LABEL, labelled)], [])
            .hosting([Workload {
                id: WorkloadId(0),
                name: "web".to_owned(),
                address: workload_address(own.prefix(), "web"),
                publish: Vec::new(),
                stats: Arc::default(),
                inbound: None,
            }]);
        let receivers = [0, 1].map(|at: usize| {
            let leads_there = |index: &u32| {
                fib.receiver(*index)
                    .is_some_and(|found| Arc::ptr_eq(&found.session, &carriers[at].session))
            };
            let mut found = (0..).filter(leads_there);
            [0; 2].map(|_| found.next().expect("one index in 32,768"))
        });
        Scene {
            fib,
            own,
            other,
            far,
            leaf,
            carriers,
            receivers,
        }
    })
}
