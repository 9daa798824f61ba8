//! Nodes in one process: datagrams are handed over, time is a variable.

mod found;
mod members;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use wireguard::{Endpoint, Opened, PublicKey, Session, Underlay, Verdict};

mod inbound;
mod streams;

use super::{CommandError, Fresh, JoinFailure, Joined, Kept, Node, Output, Pong, Seen, derive};
use crate::{
    config::Source,
    discard::{Discards, Reason},
    fib::{Fib, Lookup},
    handshake::{self, Strangers, Whose},
    icmp, packet,
    testdata::identity,
};

/// A node with what it put out.
struct Host {
    node: Node,
    discards: Arc<Discards>,
    address: SocketAddr,
    fib: Option<Fib>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Sent in the only stream that there is.
    streamed: Vec<Vec<u8>>,
    delivered: Vec<Vec<u8>>,
    resolving: Vec<PublicKey>,
    streams: Vec<crate::stream::Command>,
    pongs: Vec<Pong>,
    lookups: Vec<[u8; 8]>,
    joined: Vec<Result<Joined, JoinFailure>>,
}

impl Host {
    /// The n-th node of the pool, at 192.0.2.n:51860, with this configuration.
    fn new(n: usize, configuration: &str, now: Instant) -> Self {
        Self::seen(n, configuration, BTreeMap::new(), now)
    }

    fn seen(n: usize, configuration: &str, seen: BTreeMap<PublicKey, Seen>, now: Instant) -> Self {
        let discards = Arc::new(Discards::default());
        let fresh = Fresh {
            identity: identity(n),
            added: Vec::new(),
            workloads: Vec::new(),
            seen,
            seed: n as u64,
            token: *b"test-tok",
            epoch: None,
            discards: Arc::clone(&discards),
            kept: Kept::default(),
        };
        let mut host = Self {
            node: Node::new(&settings(n, configuration), fresh, now),
            discards,
            address: place(n),
            fib: None,
            sent: Vec::new(),
            streamed: Vec::new(),
            delivered: Vec::new(),
            resolving: Vec::new(),
            streams: Vec::new(),
            pongs: Vec::new(),
            lookups: Vec::new(),
            joined: Vec::new(),
        };
        host.drain(now);
        host
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit { to, datagram } if to.is_stream() => self.streamed.push(datagram),
                Output::Transmit { to, datagram } => self.sent.push((to.remote, datagram)),
                Output::Deliver(packet) => self.delivered.push(packet),
                Output::Publish(fib) => self.fib = Some(fib),
                Output::Changed
                | Output::OpenSockets { .. }
                | Output::CloseSockets(_)
                | Output::Introduce { .. }
                | Output::DetachWorkload(_)
                | Output::RememberWorkloads => {}
                Output::Probe { to, datagram, .. } => self.sent.push((to.remote, datagram)),
                Output::Stream(command) => self.streams.push(command),
                Output::Resolve { peer, .. } => self.resolving.push(peer),
                Output::Verify { id, job } => {
                    let outcome = job.run(derive);
                    self.node.handle_outcome(id, outcome, now);
                }
                Output::Lookup { prefix } => self.lookups.push(prefix),
                Output::Remember { .. } => {}
                Output::Keep => {
                    let kept = self.node.to_be_kept();
                    let of = kept.map(|(network, _, revision)| (network, revision));
                    self.node.handle_kept(of, true, now);
                }
                Output::Knock(_) | Output::Ask { .. } | Output::Answer { .. } => {}
                Output::Joined(ended) => self.joined.push(ended),
                Output::Traced { .. } => {}
                Output::Pong(pong) => self.pongs.push(pong),
            }
        }
    }

    fn fib(&self) -> &Fib {
        self.fib.as_ref().unwrap()
    }

    fn session(&self, destination: Ipv6Addr) -> &Arc<Session> {
        let Lookup::Session(to) = self.fib().lookup(destination) else {
            panic!("no session with {destination}");
        };
        &to.session
    }

    /// What the outside thread does with a datagram; returns packets that came out, with their verdicts.
    fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Vec<(Verdict, Vec<u8>)> {
        let from = Underlay {
            remote: from,
            local: None,
            socket: 0,
        };
        self.receive_by(from, datagram, now)
    }

    fn receive_by(
        &mut self,
        from: Underlay,
        datagram: &[u8],
        now: Instant,
    ) -> Vec<(Verdict, Vec<u8>)> {
        let from = Endpoint::Underlay(from);
        let mut out = vec![0; datagram.len()];
        let mut packets = Vec::new();
        match wireguard::Message::of(datagram) {
            Some(wireguard::Message::Data { receiver, .. }) => {
                let Some(carrier) = self.fib().receiver(receiver) else {
                    self.discards.discard(Reason::UnknownReceiver, 1);
                    return Vec::new();
                };
                let session = Arc::clone(&carrier.session);
                let mut batch = session.lock(now);
                if let Opened::Packet { verdict, packet } =
                    batch.open(from, datagram, &mut out).unwrap()
                {
                    packets.push((verdict, packet.to_vec()));
                }
                if batch.finish().any() {
                    self.node.handle_signal(session.key(), now);
                }
            }
            Some(_) => self.shake(from, datagram, now),
            None => panic!("not WireGuard"),
        }
        self.drain(now);
        packets
    }

    /// What the handshake thread does with a message.
    fn shake(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        let (reader, fib) = (self.node.reader().clone(), self.fib());
        let read = handshake::read(&reader, fib, datagram, Strangers::Welcome, now);
        let (author, session) = match read {
            Ok((author, Whose::Peer(session))) => (author, Some(Arc::clone(session))),
            Ok((author, Whose::Stranger(key))) => (author, self.node.admit_caller(key, now)),
            Err(error) => return self.discards.discard(handshake::reason(error), 1),
        };
        let Some(session) = session else {
            return self.discards.discard(Reason::Stranger, 1);
        };
        let mut sent = VecDeque::new();
        let mut batch = session.lock(now);
        let result = batch.handle_handshake(author, from, datagram, &mut sent);
        if batch.finish().any() {
            self.node.handle_signal(session.key(), now);
        }
        for sent in sent {
            match sent.endpoint {
                Endpoint::Underlay(to) if to.is_stream() => self.streamed.push(sent.payload),
                to @ (Endpoint::Underlay(_) | Endpoint::Overlay(_)) => {
                    self.sent.push((to.remote().unwrap(), sent.payload))
                }
            }
        }
        if let Err(error) = result {
            self.discards.discard(handshake::reason(error), 1);
        }
    }
}

fn place(n: usize) -> SocketAddr {
    format!("192.0.2.{n}:51860").parse().unwrap()
}

fn address(n: usize) -> Ipv6Addr {
    identity(n).node().address()
}

fn key(n: usize) -> PublicKey {
    identity(n).node().public_key()
}

fn settings(n: usize, configuration: &str) -> crate::config::Settings {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meshd.toml");
    std::fs::write(&path, format!("[node]\nname = \"n{n}\"\n{configuration}")).unwrap();
    let source = Source {
        path,
        state_dir: None,
        socket: None,
    };
    source.load_for(identity(n).node()).unwrap()
}

/// An entry for the n-th node.
fn peer(n: usize, endpoint: &str) -> String {
    let key = key(n);
    let endpoint = if endpoint.is_empty() {
        String::new()
    } else {
        format!("endpoint = \"{endpoint}\"")
    };
    format!("[[peers]]\nname = \"n{n}\"\npublic_key = \"{key}\"\n{endpoint}\n")
}

/// Hands datagrams over until nobody has any; returns what came out, by receiver's address.
fn settle(hosts: &mut [&mut Host], now: Instant) -> Vec<(SocketAddr, Verdict, Vec<u8>)> {
    let mut out = Vec::new();
    for _ in 0..20 {
        let mut mail = Vec::new();
        for host in &mut *hosts {
            let from = host.address;
            mail.extend(
                host.sent
                    .drain(..)
                    .map(|(to, datagram)| (from, to, datagram)),
            );
        }
        if mail.is_empty() {
            return out;
        }
        for (from, to, datagram) in mail {
            if let Some(host) = hosts.iter_mut().find(|host| host.address == to) {
                let packets = host.receive(from, &datagram, now);
                out.extend(
                    packets
                        .into_iter()
                        .map(|(verdict, packet)| (to, verdict, packet)),
                );
            }
        }
    }
    panic!("datagrams without end");
}

fn pair(now: Instant) -> (Host, Host) {
    let mut a = Host::new(1, &peer(2, "192.0.2.2:51860"), now);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut b], now);
    (a, b)
}

#[test]
fn configured_nodes_are_connected_at_once() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    assert!(a.session(address(2)).is_established());
    assert!(b.session(address(1)).is_established());
    assert!(a.node.is_open("n2").unwrap() && a.node.has_route(identity(2).node().prefix()));
    let status = a.node.status(now);
    assert_eq!(status.peers[0].name, "n2");
    assert_eq!(status.peers[0].path.endpoint, Some(place(2)));
    assert_eq!(status.peers[0].reason, None);
}

#[test]
fn a_packet_waits_for_its_session_and_then_leaves_first() {
    let now = Instant::now();
    let mut a = Host::new(1, &peer(2, ""), now);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    b.sent.clear();
    let packet = packet::ipv6(address(2), address(1), 59, b"first");
    b.node.handle_unsent(key(1), packet.clone(), now);
    b.drain(now);
    let later = now + Duration::from_secs(6);
    b.node.handle_timeout(later);
    b.drain(now);
    let out = settle(&mut [&mut a, &mut b], later);
    assert_eq!(out[0], (place(1), Verdict::Owned, packet));
}

#[test]
fn packets_for_a_peer_that_never_answers_come_back_as_unreachable() {
    let start = Instant::now();
    let mut a = Host::new(1, &peer(2, "192.0.2.2:51860"), start);
    let packet = packet::ipv6(address(1), address(2), 59, b"hello");
    a.node.handle_unsent(key(2), packet.clone(), start);
    let mut now = start;
    while a.discards.count(Reason::Unreachable) == 0 {
        now = a
            .node
            .poll_timeout()
            .expect("a configured peer is tried for ever")
            .0
            .max(now);
        assert!(
            now < start + Duration::from_secs(120),
            "the packet was held for ever"
        );
        a.node.handle_timeout(now);
        a.drain(start);
    }
    let error = icmp::error(icmp::Unreachable::Address, address(1), &packet).unwrap();
    assert_eq!(a.delivered, [error]);
    assert_eq!(
        a.node.status(now).peers[0].reason.as_deref(),
        Some("no answer from 192.0.2.2:51860")
    );
}

#[test]
fn a_key_that_nobody_named_gets_no_session() {
    let now = Instant::now();
    let mut a = Host::new(1, "", now);
    let mut stranger = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut stranger], now);
    assert_eq!(a.discards.count(Reason::Stranger), 1);
    assert!(a.sent.is_empty() && a.node.status(now).peers.is_empty());
    assert!(!stranger.node.is_open("n1").unwrap());
}

#[test]
fn an_allowed_key_may_open_a_session_and_shows_once_it_has() {
    let now = Instant::now();
    let mut a = Host::new(1, &format!("allow_keys = [\"{}\"]", key(2)), now);
    assert!(a.node.status(now).peers.is_empty());
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut b], now);
    assert_eq!(a.node.status(now).peers[0].address, address(2));
    assert!(b.node.is_open("n1").unwrap());
}

#[test]
fn an_open_node_admits_any_valid_key_up_to_a_bound() {
    let now = Instant::now();
    let mut a = Host::new(1, "open = true\n[inbound]\ndefault = \"allow\"", now);
    for n in 2..6 {
        let mut stranger = Host::new(n, &peer(1, "192.0.2.1:51860"), now);
        settle(&mut [&mut a, &mut stranger], now);
        assert!(stranger.node.is_open("n1").unwrap(), "stranger {n}");
    }
    assert_eq!(a.node.status(now).peers.len(), 4);
    // Closing the node again sends them away.
    a.node.handle_settings(&settings(1, ""), now);
    a.drain(now);
    assert!(a.node.status(now).peers.is_empty());
    assert!(matches!(a.fib().lookup(address(2)), Lookup::Unknown));
}

#[test]
fn a_stranger_that_was_just_let_in_is_not_the_first_to_go() {
    let now = Instant::now();
    let mut a = Host::new(1, "open = true\n[inbound]\ndefault = \"allow\"", now);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut b], now);
    let later = now + Duration::from_secs(1);
    let session = a.node.admit(key(3), later).unwrap();
    assert_eq!(a.node.oldest_stranger(), Some(key(2)));
    let again = a.node.admit(key(3), later).unwrap();
    assert!(Arc::ptr_eq(&session, &again), "once is enough");
}

#[test]
fn a_reload_keeps_the_sessions_of_those_who_stay() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let index = a.session(address(2)).index();
    let more = format!(
        "{}{}",
        peer(2, "192.0.2.2:51860"),
        peer(3, "192.0.2.3:51860")
    );
    a.node.handle_settings(&settings(1, &more), now);
    a.drain(now);
    assert_eq!(a.session(address(2)).index(), index);
    assert!(a.session(address(2)).is_established());
    a.node.handle_settings(&settings(1, ""), now);
    a.drain(now);
    assert!(matches!(a.fib().lookup(address(2)), Lookup::Unknown));
    // Who was removed cannot come back.
    let mut rebuilt = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut rebuilt], now);
    assert!(!rebuilt.node.is_open("n1").unwrap());
    b.node.handle_settings(&settings(2, ""), now);
    b.drain(now);
    assert!(b.node.find("n1").is_err());
}

#[test]
fn a_ping_measures_and_its_reply_is_not_mistaken() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let sent = a.node.ping("n2", now).unwrap();
    a.drain(now);
    assert_eq!(sent.address, address(2));
    let out = settle(&mut [&mut a, &mut b], now);
    let [(_, Verdict::Owned, request)] = out.as_slice() else {
        panic!("{out:?}")
    };
    let number = {
        let mut reply = request.clone();
        reply[40] = 129;
        icmp::echo_reply(&reply, *b"test-tok").unwrap()
    };
    a.node
        .handle_echo_reply(number, now + Duration::from_millis(5));
    a.node
        .handle_echo_reply(number, now + Duration::from_millis(9));
    a.drain(now);
    assert_eq!(a.pongs.len(), 1, "a reply counts once");
    assert_eq!(
        (a.pongs[0].number, a.pongs[0].rtt),
        (sent.number, Duration::from_millis(5))
    );
    assert_eq!(a.node.status(now).peers[0].rtt_ms, Some(5.0));
    assert!(matches!(
        a.node.ping("nobody", now),
        Err(CommandError::NoSuchName(_))
    ));
}

#[test]
fn names_are_resolved_at_start_and_again_while_nobody_answers() {
    let start = Instant::now();
    let mut a = Host::new(1, &peer(2, "two.example:51860"), start);
    assert_eq!(a.resolving, [key(2)]);
    assert!(a.sent.is_empty());
    let overlay = SocketAddr::new(address(3).into(), 51860);
    a.node.handle_resolved(&key(2), vec![vec![overlay]], start);
    a.drain(start);
    assert!(a.sent.is_empty(), "a tunnel must not run in itself");
    a.node.handle_resolved(&key(2), vec![vec![place(2)]], start);
    a.drain(start);
    assert_eq!(a.sent[0].0, place(2));
    let mut now = start;
    while a.resolving.len() < 2 {
        now = a.node.poll_timeout().unwrap().0.max(now);
        assert!(
            now < start + Duration::from_secs(120),
            "names were not resolved again"
        );
        a.node.handle_timeout(now);
        a.drain(start);
    }
}

#[test]
fn a_peer_without_endpoint_is_dialled_where_it_was_seen() {
    let now = Instant::now();
    let seen = Seen {
        endpoints: vec![place(2)],
        age: Duration::from_secs(100),
    };
    let mut a = Host::seen(1, &peer(2, ""), BTreeMap::from([(key(2), seen)]), now);
    assert_eq!(a.sent[0].0, place(2));
    assert_eq!(a.node.status(now).peers[0].seen_s, Some(100));
    let mut b = Host::new(2, &peer(1, ""), now);
    settle(&mut [&mut a, &mut b], now);
    assert!(b.node.is_open("n1").unwrap());
    assert_eq!(a.node.seen(now)[&key(2)].endpoints, [place(2)]);
}

#[test]
fn who_was_heard_of_just_before_a_restart_is_greeted() {
    let now = Instant::now();
    let allowed = format!("allow_keys = [\"{}\", \"{}\"]", key(2), key(3));
    let seen = |n, age| {
        let endpoints = vec![place(n)];
        (
            key(n),
            Seen {
                endpoints,
                age: Duration::from_secs(age),
            },
        )
    };
    // The third was heard of so long ago that it is no candidate for a link either.
    let seen = BTreeMap::from([seen(2, 60), seen(3, 40 * 24 * 3600)]);
    let a = Host::seen(1, &allowed, seen, now);
    let greeted: Vec<SocketAddr> = a.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(greeted, [place(2)]);
}

#[test]
fn devices_come_and_go_by_name() {
    let now = Instant::now();
    let mut a = Host::new(1, &peer(2, ""), now);
    let device = wireguard::PrivateKey::from_bytes([7; 32]).public();
    let address = a.node.add_device("phone", device, now).unwrap();
    a.drain(now);
    assert!(a.fib().is_ours(address));
    assert_eq!(a.session(address).key(), &device);
    assert_eq!(a.node.added_devices().len(), 1);
    assert!(matches!(
        a.node.add_device("n2", device, now),
        Err(CommandError::NameTaken(_))
    ));
    assert!(matches!(
        a.node.add_device("other", device, now),
        Err(CommandError::Peer(_))
    ));
    assert!(matches!(
        a.node.add_device("own", key(1), now),
        Err(CommandError::Peer(_))
    ));
    assert!(
        matches!(
            a.node.remove_device("n2", now),
            Err(CommandError::NoSuchName(_))
        ),
        "a node is no device"
    );
    // A reload of the file does not take away what the file does not know.
    a.node.handle_settings(&settings(1, &peer(2, "")), now);
    assert_eq!(a.node.added_devices().len(), 1);
    a.node.remove_device("phone", now).unwrap();
    a.drain(now);
    assert!(matches!(a.fib().lookup(address), Lookup::Unknown));
}

#[test]
fn ten_minutes_asleep_cost_less_than_five_seconds() {
    let start = Instant::now();
    let (mut a, mut b) = pair(start);
    let woken = start + Duration::from_secs(600);
    assert!(a.node.has_slept(woken) && !a.node.has_slept(start));
    let mut now = woken;
    for host in [&mut a, &mut b] {
        host.node.handle_resume(now);
        host.node.handle_timeout(now);
        host.drain(now);
        assert!(!host.node.has_slept(now), "one pause is noticed once");
    }
    while !(a.session(address(2)).is_established() && b.session(address(1)).is_established()) {
        let due = [&a, &b].map(|host| host.node.poll_timeout().expect("peers are kept up").0);
        now = due.into_iter().min().expect("two").max(now);
        assert!(now < woken + Duration::from_secs(5), "no session in time");
        for host in [&mut a, &mut b] {
            host.node.handle_timeout(now);
            host.drain(now);
        }
        settle(&mut [&mut a, &mut b], now);
    }
}

#[test]
fn names_are_resolved_again_after_a_pause() {
    let start = Instant::now();
    let mut a = Host::new(1, &peer(2, "two.example:51860"), start);
    a.node.handle_resolved(&key(2), vec![vec![place(2)]], start);
    a.drain(start);
    a.resolving.clear();
    let woken = start + Duration::from_secs(600);
    a.node.handle_resume(woken);
    a.node.handle_resume(woken + Duration::from_secs(1));
    a.drain(start);
    assert_eq!(a.resolving, [key(2)]);
}
