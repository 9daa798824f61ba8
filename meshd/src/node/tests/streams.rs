//! Nodes that UDP does not join, and streams that do.

use std::time::{Duration, Instant};

use wireguard::Underlay;

use super::{Host, key, peer, place};
use crate::{
    admin::{LinkState, PathKind},
    forward::Topic,
    stream::{Command, Event},
};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);

/// Whether datagrams pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Udp {
    Passes,
    Blocked,
}

/// The first calls the second, by UDP or in a stream.
struct Pair {
    a: Host,
    b: Host,
    now: Instant,
    udp: Udp,
    /// What each end calls the stream, while there is one.
    stream: Option<[Underlay; 2]>,
    /// Who was asked for.
    dials: usize,
}

impl Pair {
    fn new(udp: Udp) -> Self {
        let now = Instant::now();
        Self {
            a: Host::new(1, &peer(2, "192.0.2.2:51860"), now),
            b: Host::new(2, &peer(1, ""), now),
            now,
            udp,
            stream: None,
            dials: 0,
        }
    }

    /// Hands over what there is, and lets a moment go by.
    fn step(&mut self) {
        self.leap(STEP);
    }

    fn leap(&mut self, length: Duration) {
        let mut turns = 0..20;
        while turns.next().is_some() && self.has_mail() {
            self.pass();
        }
        self.now += length;
        for host in [&mut self.a, &mut self.b] {
            host.node.handle_timeout(self.now);
            host.drain(self.now);
        }
        for command in std::mem::take(&mut self.a.streams) {
            self.obey(command);
        }
        assert!(self.b.streams.is_empty(), "who is called asks for nothing");
    }

    fn has_mail(&self) -> bool {
        let hosts = [&self.a, &self.b];
        hosts
            .iter()
            .any(|host| !host.sent.is_empty() || !host.streamed.is_empty())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addresses } => {
                assert_eq!(peer, key(2));
                let ports: Vec<u16> = addresses.iter().map(|address| address.port()).collect();
                assert_eq!(ports, [51860, 443]);
                self.dials += 1;
            }
            Command::Close { .. } => self.close(),
        }
    }

    /// The stream that was asked for is there.
    fn open(&mut self) {
        let at_a = Underlay::stream(place(2), None);
        let at_b = Underlay::stream("192.0.2.1:40000".parse().unwrap(), None);
        self.stream = Some([at_a, at_b]);
        let opened = Event::Opened {
            peer: key(2),
            stream: at_a,
        };
        self.a.node.handle_stream(opened, self.now);
        self.a.drain(self.now);
        let first = wireguard::Message::of(&self.a.streamed[0]);
        assert_eq!(first, Some(wireguard::Message::Initiation));
    }

    /// It is no more, as both ends hear.
    fn close(&mut self) {
        let Some([at_a, at_b]) = self.stream.take() else {
            return;
        };
        for (host, peer, stream) in [(&mut self.a, key(2), at_a), (&mut self.b, key(1), at_b)] {
            host.streamed.clear();
            host.node
                .handle_stream(Event::Closed { peer, stream }, self.now);
            host.drain(self.now);
        }
    }

    fn pass(&mut self) {
        let ways = self.stream;
        let udp = self.udp;
        let now = self.now;
        let hand = |from: &mut Host, to: &mut Host, stream: Option<Underlay>, peer| {
            let by_udp = Underlay {
                socket: 0,
                ..Underlay::unproven(from.address)
            };
            let datagrams = from.sent.drain(..).map(|(_, datagram)| (by_udp, datagram));
            let mut mail: Vec<_> = datagrams.filter(|_| udp == Udp::Passes).collect();
            let streamed = from.streamed.drain(..);
            mail.extend(streamed.filter_map(|datagram| Some((stream?, datagram))));
            for (way, datagram) in mail {
                for (_, packet) in to.receive_by(way, &datagram, now) {
                    let topic = match packet.get(42..44) {
                        Some([0x1a, 0x28]) => Topic::Routing,
                        Some([0x1a, 0x29]) => Topic::Session,
                        _ => continue,
                    };
                    to.node
                        .handle_packet(peer, way.into(), topic, &packet, now, now);
                    to.drain(now);
                }
            }
        };
        hand(&mut self.a, &mut self.b, ways.map(|[_, at_b]| at_b), key(1));
        hand(&mut self.b, &mut self.a, ways.map(|[at_a, _]| at_a), key(2));
    }

    #[track_caller]
    fn run_until(&mut self, within: Duration, mut is_so: impl FnMut(&mut Self) -> bool) {
        let until = self.now + within;
        while !is_so(self) {
            assert!(self.now < until, "not within {within:?}");
            self.step();
        }
    }

    fn run(&mut self, length: Duration) {
        let until = self.now + length;
        while self.now < until {
            self.step();
        }
    }

    fn kinds(&self) -> [PathKind; 2] {
        [
            self.a.node.path(&key(2)).kind,
            self.b.node.path(&key(1)).kind,
        ]
    }

    fn warns(&mut self) -> bool {
        let warnings = self.a.node.status(self.now).warnings;
        warnings.iter().any(|warning| warning.code == "UDP-BLOCKED")
    }

    /// Two nodes that a stream joins.
    fn streamed() -> Self {
        let mut pair = Self::new(Udp::Blocked);
        pair.run_until(SECOND * 4, |pair| pair.dials == 1);
        pair.open();
        pair.run_until(SECOND * 3, |pair| pair.kinds() == [PathKind::Stream; 2]);
        pair
    }
}

#[test]
fn no_stream_is_asked_for_where_udp_passes() {
    let mut pair = Pair::new(Udp::Passes);
    pair.run(SECOND * 30);
    assert_eq!(pair.kinds(), [PathKind::Direct; 2]);
    assert_eq!(pair.dials, 0);
}

#[test]
fn a_stream_becomes_a_dear_link_and_is_shown_and_left_when_udp_passes() {
    let mut pair = Pair::streamed();
    pair.run(SECOND * 10);
    assert_eq!(pair.kinds(), [PathKind::Stream; 2]);
    assert!(pair.warns());
    let now = pair.now;
    assert!(
        pair.b.node.status(now).warnings.is_empty(),
        "nothing is wrong there"
    );
    for host in [&pair.a, &pair.b] {
        let links = host.node.links(now);
        assert!(links.len() == 1 && links[0].rxcost.is_some(), "{links:?}");
        let metrics: Vec<_> = host
            .node
            .routes()
            .iter()
            .map(|route| route.metric)
            .collect();
        assert!(
            metrics.iter().flatten().any(|metric| *metric >= 608),
            "{metrics:?}"
        );
    }
    pair.udp = Udp::Passes;
    pair.run_until(SECOND * 6, |pair| pair.kinds() == [PathKind::Direct; 2]);
    assert!(!pair.warns());
    assert!(pair.stream.is_some(), "not at once");
    pair.run_until(SECOND * 12, |pair| pair.stream.is_none());
    pair.run(SECOND * 20);
    assert_eq!(pair.kinds(), [PathKind::Direct; 2]);
    assert_eq!(pair.dials, 1);
}

#[test]
fn udp_that_stops_in_mid_flow_is_missed_at_once() {
    let mut pair = Pair::new(Udp::Passes);
    pair.run(SECOND * 5);
    pair.udp = Udp::Blocked;
    pair.run_until(SECOND * 4, |pair| pair.dials == 1);
    pair.open();
    pair.run_until(SECOND * 2, |pair| pair.kinds() == [PathKind::Stream; 2]);
}

/// As a link it would only be held on to when UDP fails the next time, though it takes the same way.
#[test]
fn a_stream_that_comes_after_udp_is_back_is_not_taken() {
    let mut pair = Pair::new(Udp::Passes);
    pair.run(SECOND * 5);
    pair.udp = Udp::Blocked;
    pair.run_until(SECOND * 4, |pair| pair.dials == 1);
    pair.udp = Udp::Passes;
    pair.run_until(SECOND * 6, |pair| {
        let links = pair.a.node.links(pair.now);
        links.iter().any(|link| link.state == LinkState::Up)
    });
    pair.step();
    let stream = Underlay::stream(place(2), None);
    let peer = key(2);
    let late = Event::Opened { peer, stream };
    pair.a.node.handle_stream(late, pair.now);
    pair.a.drain(pair.now);
    let closes = |command: &Command| {
        matches!(
            command,
            Command::Close {
                stream: Some(_),
                ..
            }
        )
    };
    assert!(pair.a.streams.iter().any(closes), "{:?}", pair.a.streams);
    assert!(pair.a.streamed.is_empty());
    assert_eq!(pair.a.node.links(pair.now).len(), 1);
}

#[test]
fn a_stream_that_breaks_is_asked_for_again() {
    let mut pair = Pair::streamed();
    pair.close();
    assert_eq!(pair.kinds(), [PathKind::None; 2], "nothing leads there");
    pair.run_until(SECOND * 4, |pair| pair.dials == 2);
    pair.open();
    pair.run_until(SECOND * 3, |pair| pair.kinds() == [PathKind::Stream; 2]);
}

#[test]
fn who_takes_no_stream_is_asked_less_and_less_until_the_network_changes() {
    let mut pair = Pair::new(Udp::Blocked);
    let mut asked = Vec::new();
    let start = pair.now;
    while pair.now < start + SECOND * 600 {
        pair.leap(SECOND / 2);
        if pair.dials > asked.len() {
            asked.push(pair.now);
            pair.a
                .node
                .handle_stream(Event::Failed { peer: key(2) }, pair.now);
        }
    }
    assert!((12..=16).contains(&asked.len()), "{}", asked.len());
    pair.a.node.handle_network_change(pair.now);
    pair.a.drain(pair.now);
    let before = pair.dials;
    pair.run_until(SECOND, |pair| pair.dials > before);
}

#[test]
fn a_stream_to_somebody_else_is_given_up() {
    let mut pair = Pair::new(Udp::Blocked);
    pair.run_until(SECOND * 4, |pair| pair.dials == 1);
    pair.open();
    // Whoever is there says nothing that is the peer's.
    let there = pair.stream;
    pair.run_until(SECOND * 16, |pair| {
        pair.a.streamed.clear();
        pair.stream.is_none()
    });
    assert!(there.is_some());
    assert_eq!(pair.kinds(), [PathKind::None; 2]);
}
