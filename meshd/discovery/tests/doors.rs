//! Whole control planes in one process, over loopback, through their doors alone.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the one event that they wait for"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use discovery::{
    Admitted, AtDoor, Command, Dht, Door, Event, MAX_JOIN, Memory, NodeKey, Settings, Status,
    Whereabouts, hygiene::Loopback,
};
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc::Receiver;
use zeroize::Zeroizing;

/// How long anything may take that happens at once.
const SOON: Duration = Duration::from_secs(25);

struct Plane {
    key: NodeKey,
    door: Door,
    events: Receiver<Event>,
    status: Status,
}

impl Plane {
    fn start(n: u16, change: impl FnOnce(&mut Settings)) -> Self {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let key = NodeKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        let mut settings = Settings {
            seed: Zeroizing::new(seed),
            network: "open".to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
            dht: Dht::Client,
            derive: |key| key.0.first_chunk().copied(),
            memory: Memory::default(),
            refused: vec!["600::/8".parse().unwrap()],
            loopback: Loopback::Allowed,
        };
        change(&mut settings);
        let (door, events) = discovery::start(settings, || {}).unwrap();
        let plane = Self {
            key,
            door,
            events,
            status: Status::default(),
        };
        plane.tell(Command::Admit(Admitted {
            listed: BTreeSet::new(),
            open: true,
            guests: false,
        }));
        plane
    }

    fn tell(&self, command: Command) {
        self.door.send(command).unwrap();
    }

    fn connect(&self, other: &Self) {
        let addresses = other.status.listening.clone();
        assert!(!addresses.is_empty());
        self.tell(Command::Connect(BTreeMap::from([(other.key, addresses)])));
    }

    fn whereabouts(&self, port: u16) {
        self.tell(Command::Whereabouts(Whereabouts {
            port,
            endpoints: vec![SocketAddr::new("203.0.113.9".parse().unwrap(), port)],
        }));
    }

    /// Takes events until one of them is what is waited for.
    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = tokio::time::timeout(left, self.events.recv()).await;
            let event = event
                .unwrap_or_else(|_| panic!("{what}: nothing in time; {:?}", self.status))
                .unwrap();
            if let Event::Status(status) = &event {
                self.status = status.clone();
            }
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    }

    async fn until_status(&mut self, what: &str, is_so: impl Fn(&Status) -> bool) {
        self.until(what, |event| match event {
            Event::Status(status) => is_so(status).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn listening(mut self) -> Self {
        self.until_status("listens", |status| !status.listening.is_empty())
            .await;
        self
    }

    async fn found(&mut self, what: &str, other: NodeKey) -> Vec<SocketAddr> {
        self.until(what, |event| match event {
            Event::Found(found) if found.key == other => Some(found.endpoints.clone()),
            _ => None,
        })
        .await
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn two_nodes_tell_each_other_where_they_are() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let change = |settings: &mut Settings| settings.listen = vec![listen.to_owned()];
        let mut a = Plane::start(1, change).listening().await;
        let mut b = Plane::start(2, change).listening().await;
        a.whereabouts(7001);
        b.whereabouts(7002);
        a.connect(&b);
        let of_b = a.found("a hears of b", b.key).await;
        assert_eq!(of_b, [at("127.0.0.1:7002"), at("203.0.113.9:7002")]);
        let of_a = b.found("b hears of a", a.key).await;
        assert_eq!(of_a, [at("127.0.0.1:7001"), at("203.0.113.9:7001")]);
        // What changes is told again.
        b.whereabouts(7003);
        let of_b = loop {
            let endpoints = a.found("a hears of the change", b.key).await;
            if endpoints[0].port() == 7003 {
                break endpoints;
            }
        };
        assert_eq!(of_b[1], at("203.0.113.9:7003"));
    }
}

#[tokio::test]
async fn who_is_not_listed_gets_nothing() {
    let mut a = Plane::start(1, |_| {}).listening().await;
    let b = Plane::start(2, |_| {}).listening().await;
    let mut c = Plane::start(3, |_| {}).listening().await;
    a.tell(Command::Admit(Admitted {
        listed: BTreeSet::from([c.key]),
        open: false,
        guests: false,
    }));
    a.whereabouts(7001);
    b.connect(&a);
    c.connect(&a);
    let endpoints = c.found("c hears of a", a.key).await;
    assert_eq!(endpoints[0], at("127.0.0.1:7001"));
    // By then b has tried as well, since it began before.
    a.until("a knows c and nobody else", |event| match event {
        Event::Found(found) => {
            assert_eq!(found.key, c.key);
            Some(())
        }
        _ => None,
    })
    .await;
    c.until_status("c is connected", |status| status.peers == 1)
        .await;
    // Who is no longer listed is disconnected.
    a.tell(Command::Admit(Admitted::default()));
    c.until_status("c is cut off", |status| status.peers == 0)
        .await;
}

#[tokio::test]
async fn nodes_of_another_network_part_at_once() {
    let mut a = Plane::start(1, |_| {}).listening().await;
    let other = |settings: &mut Settings| settings.network = "other".to_owned();
    let b = Plane::start(2, other).listening().await;
    let mut c = Plane::start(3, |_| {}).listening().await;
    b.connect(&a);
    c.connect(&a);
    c.until_status("c is connected", |status| status.peers == 1)
        .await;
    a.until_status("a has one peer", |status| status.peers == 1)
        .await;
}

#[tokio::test]
async fn a_node_that_goes_to_another_network_is_found_there() {
    let mut a = Plane::start(1, |_| {}).listening().await;
    let other = |settings: &mut Settings| settings.network = "other".to_owned();
    let mut b = Plane::start(2, other).listening().await;
    a.whereabouts(7001);
    let before = a.status.listening.clone();
    a.tell(Command::Network("other".to_owned()));
    a.until_status("a listens again", |status| !status.listening.is_empty())
        .await;
    assert_eq!(a.status.listening, before, "where it did before");
    assert_eq!(a.status.restarts, 0);
    b.connect(&a);
    b.found("b hears of a", a.key).await;
}

/// What is news at a door.
async fn at_door(plane: &mut Plane, what: &str) -> AtDoor {
    plane
        .until(what, |event| match event {
            Event::Door { what, .. } => Some(what.clone()),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_guest_may_ask_and_nothing_else() {
    let mut a = Plane::start(1, |_| {}).listening().await;
    let mut b = Plane::start(2, |_| {}).listening().await;
    let only_guests = Admitted {
        guests: true,
        ..Admitted::default()
    };
    a.tell(Command::Admit(only_guests));
    a.whereabouts(7001);
    let door = a.status.doors[0];
    b.tell(Command::Knock(door));
    assert_eq!(at_door(&mut b, "a answers").await, AtDoor::Open(a.key));
    b.tell(Command::Ask {
        at: door,
        message: vec![7; MAX_JOIN],
    });
    let number = a
        .until("a is asked", |event| match event {
            Event::Asked {
                number,
                from,
                message,
            } => {
                assert_eq!((*from, message.len()), (b.key, MAX_JOIN));
                Some(*number)
            }
            Event::Found(_) => panic!("a guest has no endpoints"),
            _ => None,
        })
        .await;
    a.tell(Command::Answer {
        number,
        message: Some(b"welcome".to_vec()),
    });
    let AtDoor::Answer { message, endpoints } = at_door(&mut b, "b is answered").await else {
        panic!("no answer");
    };
    assert_eq!(message, b"welcome");
    assert_eq!(endpoints[0], at("127.0.0.1:7001"));
    assert_eq!(a.status.peers, 0, "a guest is no peer");
    // Without guests there is no door.
    a.tell(Command::Admit(Admitted::default()));
    a.tell(Command::Whereabouts(Whereabouts::default()));
    let mut c = Plane::start(3, |_| {}).listening().await;
    c.tell(Command::Knock(door));
    let closed = loop {
        match at_door(&mut c, "c hears of a").await {
            AtDoor::Closed(why) => break why,
            AtDoor::Open(_) => {}
            AtDoor::Answer { .. } => panic!("an answer to no question"),
        }
    };
    assert!(!closed.is_empty());
}

#[tokio::test]
async fn a_record_is_found_by_who_has_never_heard_of_its_node() {
    let server = |settings: &mut Settings| settings.dht = Dht::Server;
    let hub = Plane::start(1, server).listening().await;
    let mut a = Plane::start(2, |_| {}).listening().await;
    let mut b = Plane::start(3, |_| {}).listening().await;
    a.whereabouts(7001);
    for plane in [&a, &b] {
        plane.connect(&hub);
    }
    let mut hub = hub;
    hub.until_status("the hub keeps a's record", |status| status.records == 1)
        .await;
    b.until_status("b knows the hub", |status| status.table == 1)
        .await;
    let prefix = *a.key.0.first_chunk().unwrap();
    b.tell(Command::Lookup(prefix));
    let found = b
        .until("b looks for a", |event| match event {
            Event::Looked { found, .. } => Some(found.clone()),
            _ => None,
        })
        .await
        .unwrap();
    assert_eq!(
        (found.key, found.endpoints),
        (a.key, vec![at("203.0.113.9:7001")])
    );
    // Nobody has this prefix.
    b.tell(Command::Lookup([9; 8]));
    let nobody = b
        .until("b looks for nobody", |event| match event {
            Event::Looked {
                prefix: [9, ..],
                found,
            } => Some(found.clone()),
            _ => None,
        })
        .await;
    assert_eq!(nobody, None);
    a.tell(Command::Admit(Admitted::default()));
    a.until_status("a is alone", |status| status.peers == 0)
        .await;
}

#[tokio::test]
async fn an_introduction_reaches_a_node_through_a_relay() {
    let server = |settings: &mut Settings| settings.dht = Dht::Server;
    let hidden = |settings: &mut Settings| settings.listen = Vec::new();
    let mut relay = Plane::start(1, server).listening().await;
    let a = Plane::start(2, hidden);
    let mut b = Plane::start(3, hidden);
    for plane in [&a, &b] {
        plane.connect(&relay);
    }
    relay
        .until_status("both are there", |status| status.peers == 2)
        .await;
    b.until_status("b has a place at the relay", |status| {
        status.listening.iter().any(|at| at.contains("p2p-circuit"))
    })
    .await;
    let message = vec![7; 512];
    a.tell(Command::Introduce {
        to: b.key,
        anchors: Vec::new(),
        message: message.clone(),
    });
    let (from, heard) = b
        .until("b hears a", |event| match event {
            Event::Introduction { from, message } => Some((*from, message.clone())),
            _ => None,
        })
        .await;
    assert_eq!((from, heard), (a.key, message));
}

#[cfg(feature = "_fault")]
mod faults {
    use discovery::Fault;

    use super::*;

    async fn comes_back(fault: Fault) {
        let mut a = Plane::start(1, |_| {}).listening().await;
        let b = Plane::start(2, |_| {}).listening().await;
        b.whereabouts(7002);
        a.connect(&b);
        a.found("a hears of b", b.key).await;
        a.tell(Command::Fault(fault));
        a.until("a has been started again", |event| match event {
            Event::Status(status) if status.restarts == 1 && status.is_running => Some(()),
            _ => None,
        })
        .await;
        // It knows what it was told before.
        a.found("a hears of b again", b.key).await;
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_started_again() {
        comes_back(Fault::Panic).await;
    }

    #[tokio::test]
    async fn a_worker_that_hangs_is_replaced() {
        comes_back(Fault::Stall(Duration::from_secs(60))).await;
    }
}
