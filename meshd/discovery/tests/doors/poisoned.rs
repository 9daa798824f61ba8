//! An attacker with a stock libp2p: what it puts into the DHT, and what it answers.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use discovery::{
    Command, Dht, Event, NodeKey, Settings,
    record::{Record, TTL, place},
};
use ed25519_dalek::SigningKey;
use futures_util::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, identity, kad,
    kad::store::{MemoryStore, MemoryStoreConfig, RecordStore},
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::time::timeout;

use super::{at, plane::Plane};

const SOON: Duration = Duration::from_secs(25);

#[derive(NetworkBehaviour)]
struct Stock {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

struct Attacker {
    swarm: Swarm<Stock>,
    key: NodeKey,
    address: Multiaddr,
}

fn seed(n: u16) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    seed
}

fn key(n: u16) -> NodeKey {
    NodeKey(SigningKey::from_bytes(&seed(n)).verifying_key().to_bytes())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// What node n says of itself when nothing is wrong with it.
fn record(n: u16) -> Record {
    Record {
        network: "open".to_owned(),
        key: key(n),
        sequence: now() * 1000,
        signed: now(),
        anchors: Vec::new(),
        endpoints: vec![at("198.51.100.66:6666")],
    }
}

fn placed(n: u16, value: Vec<u8>) -> kad::Record {
    let prefix = key(n).0.first_chunk().copied().unwrap();
    kad::Record::new(kad::RecordKey::new(&place("open", &prefix)), value)
}

/// Records of node n, or in its place, that nobody is to believe.
fn poison(n: u16) -> Vec<kad::Record> {
    let signed = |record: &Record| record.sign(&seed(n)).unwrap();
    let good = signed(&record(n));
    let long_ago = now() - TTL.as_secs() - 60;
    let mut forged = good.clone();
    // The last byte before the signature is of the endpoint's port.
    let port = forged.len() - 65;
    forged[port] ^= 1;
    let mut longer = good.clone();
    longer.resize(2000, 0);
    let foreign = Record {
        network: "other".to_owned(),
        ..record(n)
    };
    let stale = Record {
        signed: long_ago,
        ..record(n)
    };
    let early = Record {
        signed: now() + 3600,
        ..record(n)
    };
    let another = record(n + 100).sign(&seed(n + 100)).unwrap();
    [
        forged,
        longer,
        signed(&foreign),
        signed(&stale),
        signed(&early),
        another,
        good[..40].to_vec(),
        Vec::new(),
    ]
    .map(|value| placed(n, value))
    .into()
}

impl Attacker {
    async fn start(n: u16) -> Self {
        let keys = identity::Keypair::ed25519_from_bytes(seed(n)).unwrap();
        let mut swarm = SwarmBuilder::with_existing_identity(keys)
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|keys| {
                let own = keys.public().to_peer_id();
                let identify = identify::Config::new("/meshd/open/1".to_owned(), keys.public());
                let store = MemoryStoreConfig {
                    max_value_bytes: 4096,
                    ..MemoryStoreConfig::default()
                };
                let config = kad::Config::new(StreamProtocol::new("/meshd/open/kad/1"));
                let store = MemoryStore::with_config(own, store);
                let mut kad = kad::Behaviour::with_config(own, store, config);
                kad.set_mode(Some(kad::Mode::Server));
                Stock {
                    identify: identify::Behaviour::new(identify),
                    kad,
                }
            })
            .unwrap()
            .build();
        swarm
            .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        Self {
            swarm,
            key: key(n),
            address,
        }
    }

    /// Puts these at a node, and waits until it has answered for each.
    async fn put(&mut self, at: &Plane, records: Vec<kad::Record>) {
        let peer = peer(&at.key);
        let address: Multiaddr = at.status.listening[0].parse().unwrap();
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.add_address(&peer, address);
        let mut open: BTreeSet<_> = records
            .into_iter()
            .map(|record| kad.put_record_to(record, std::iter::once(peer), kad::Quorum::One))
            .map(|id| id.to_string())
            .collect();
        let answered = async {
            while !open.is_empty() {
                if let SwarmEvent::Behaviour(StockEvent::Kad(
                    kad::Event::OutboundQueryProgressed {
                        id,
                        result: kad::QueryResult::PutRecord(_),
                        ..
                    },
                )) = self.swarm.select_next_some().await
                {
                    open.remove(&id.to_string());
                }
            }
        };
        timeout(SOON, answered).await.unwrap();
    }

    /// Goes on answering what it is asked.
    fn run(mut self) {
        tokio::spawn(async move {
            loop {
                self.swarm.select_next_some().await;
            }
        });
    }
}

fn peer(key: &NodeKey) -> PeerId {
    let key = identity::ed25519::PublicKey::try_from_bytes(&key.0).unwrap();
    identity::PublicKey::from(key).to_peer_id()
}

fn server(settings: &mut Settings) {
    settings.dht = Dht::Server;
}

#[tokio::test]
async fn no_poisoned_record_is_kept() {
    let mut hub = Plane::start(1, server).listening().await;
    let mut attacker = Attacker::start(50).await;
    let mut bad = poison(2);
    bad.extend(poison(50));
    attacker.put(&hub, bad).await;
    // What is right with it is taken all the same, and shows that the others were not.
    let own = record(50).sign(&seed(50)).unwrap();
    attacker.put(&hub, vec![placed(50, own)]).await;
    attacker.run();
    hub.until_status("the hub keeps one record", |status| status.records > 0)
        .await;
    assert_eq!(hub.status.records, 1);
}

#[tokio::test]
async fn no_poisoned_answer_is_believed() {
    let hub = Plane::start(1, server).listening().await;
    let mut victim = Plane::start(2, |_| {}).listening().await;
    let mut asker = Plane::start(3, |_| {}).listening().await;
    let mut attackers = Vec::new();
    // As many of them as there are kinds of poison, for the victim and for one who has published nothing.
    for (n, (of_victim, of_other)) in (50..).zip(poison(2).into_iter().zip(poison(9))) {
        let mut attacker = Attacker::start(n).await;
        let store = attacker.swarm.behaviour_mut().kad.store_mut();
        store.put(of_victim).unwrap();
        store.put(of_other).unwrap();
        attackers.push((attacker.key, attacker.address.to_string()));
        attacker.run();
    }
    victim.whereabouts(7001);
    victim.connect(&hub);
    let mut hub = hub;
    hub.until_status("the hub keeps the victim's record", |status| {
        status.records == 1
    })
    .await;
    let mut known: std::collections::BTreeMap<_, _> = attackers
        .iter()
        .map(|(key, address)| (*key, vec![address.clone()]))
        .collect();
    known.insert(hub.key, hub.status.listening.clone());
    asker.tell(Command::Connect(known));
    let all = attackers.len() + 1;
    asker
        .until_status("the asker knows everybody", |status| status.table >= all)
        .await;
    let mut look = async |n: u16| {
        let prefix = key(n).0.first_chunk().copied().unwrap();
        asker.tell(Command::Lookup(prefix));
        asker
            .until("the look-up ends", |event| match event {
                Event::Looked { found, .. } => Some(found.clone()),
                _ => None,
            })
            .await
    };
    let found = look(2).await.unwrap();
    assert_eq!(found.endpoints, [at("203.0.113.9:7001")]);
    assert_eq!(look(9).await, None);
    victim.tell(Command::Whereabouts(discovery::Whereabouts::default()));
    victim
        .until_status("the victim goes on", |status| status.peers == 1)
        .await;
}
