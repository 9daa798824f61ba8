//! Whole control planes in one process, over loopback, through their doors alone.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the one event that they wait for"
)]

mod plane;
mod poisoned;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use discovery::{Admitted, AtDoor, Command, Dht, Event, MAX_JOIN, Settings, Whereabouts};

use self::plane::Plane;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(port: u16) -> String {
    format!("/ip4/127.0.0.1/tcp/{port}")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
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
    let port = free_port();
    let written = |settings: &mut Settings| settings.listen = vec![tcp(port)];
    let mut a = Plane::start(1, written).listening().await;
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

#[tokio::test]
async fn a_port_that_somebody_else_has_got_is_replaced() {
    let (listener, socket) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    let taken = [
        tcp(listener.local_addr().unwrap().port()),
        format!(
            "/ip4/127.0.0.1/udp/{}/quic-v1",
            socket.local_addr().unwrap().port()
        ),
    ];
    for listen in taken {
        let change = |settings: &mut Settings| settings.listen = vec![listen.clone()];
        let mut a = Plane::start(1, change).listening().await;
        assert_ne!(a.status.listening, [listen]);
        a.whereabouts(7001);
        let mut b = Plane::start(2, |_| {}).listening().await;
        b.connect(&a);
        b.found("b hears of a", a.key).await;
        a.until_status("a is connected", |status| status.peers == 1)
            .await;
    }
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
