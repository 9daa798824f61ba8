//! Private networks in memory: what records, tickets and revocations do to sessions.

use membership::{Admission, Approval, Invitation, InviteSeed, NetworkKey, Tags, Ticket};

use super::*;
use crate::{admin, forward::Topic, node::Via, signal::Signal};

const YEAR_2026: u64 = 1_770_000_000;
const DAY: u64 = 86_400;

/// A node outside of any network.
fn host(n: usize, configuration: &str, now: Instant) -> Host {
    let mut host = Host::new(n, configuration, now);
    host.node
        .handle_wall_clock(Duration::from_secs(YEAR_2026), now);
    host.drain(now);
    host
}

/// A node with a network of its own.
fn founder(n: usize, configuration: &str, now: Instant) -> Host {
    let mut host = host(n, configuration, now);
    let name = |text: &str| text.parse().unwrap();
    let key = NetworkKey::from_seed(&[7; 32]);
    host.node
        .create_network(key, name("home"), name("nas"), now)
        .unwrap();
    host.drain(now);
    host
}

fn invite(host: &mut Host, uses: u16, approval: Approval, now: Instant) -> Ticket {
    let invitation = Invitation {
        uses,
        expires: 0,
        approval,
        name: None,
        tags: Tags::default(),
    };
    let seed = InviteSeed::from_bytes([uses as u8; 16]);
    let (ticket, _) = host.node.invite(seed, invitation, DAY, now).unwrap();
    host.drain(now);
    ticket
}

fn join(host: &mut Host, name: &str, ticket: &Ticket, at: usize, now: Instant) {
    let via = Via::Session(identity(at).node(), place(at));
    host.node
        .join(ticket.clone(), name.parse().unwrap(), via, now)
        .unwrap();
    host.drain(now);
}

/// Hands everything over, signals too, until nobody has anything.
fn talk(hosts: &mut [&mut Host], now: Instant) {
    for _ in 0..200 {
        let out = settle(hosts, now);
        if out.is_empty() {
            return;
        }
        for (to, verdict, packet) in out {
            let source = packet::Ipv6Header::parse(&packet).unwrap().source;
            if !source.is_unicast_link_local() {
                assert_eq!(verdict, Verdict::Owned, "guests send no packets");
                continue;
            }
            let from = hosts
                .iter()
                .position(|other| other.node.identity.node().link_local() == source);
            let from = from.map(|at| {
                let other = &hosts[at];
                (other.node.identity.node().public_key(), other.address)
            });
            let (peer, remote) = from.unwrap();
            let host = hosts.iter_mut().find(|host| host.address == to).unwrap();
            let from = Underlay {
                remote,
                local: None,
                socket: 0,
            };
            let is_routing = packet[6] == packet::UDP && packet[40..42] != 6697_u16.to_be_bytes();
            let topic = if is_routing {
                Topic::Routing
            } else {
                Topic::Session
            };
            host.node
                .handle_packet(peer, from.into(), topic, &packet, now, now);
            host.drain(now);
        }
    }
    panic!("talk without end");
}

fn standing_of(host: &Host, n: usize) -> admin::MemberStanding {
    let shown = host.node.members_report().members;
    let shown = shown.iter().find(|shown| shown.address == address(n));
    shown.map_or(admin::MemberStanding::None, |shown| shown.standing)
}

#[test]
fn a_node_joins_in_a_session_and_both_are_members() {
    let now = Instant::now();
    let mut a = founder(1, "", now);
    let ticket = invite(&mut a, 1, Approval::NotNeeded, now);
    let mut b = host(2, "", now);
    join(&mut b, "laptop", &ticket, 1, now);
    talk(&mut [&mut a, &mut b], now);
    let joined = b.joined.pop().unwrap().unwrap();
    assert_eq!(
        (joined.admission, joined.by),
        (Admission::Member, identity(1).node())
    );
    assert_eq!(a.node.network(), b.node.network());
    for (host, other) in [(&a, 2), (&b, 1)] {
        assert!(host.session(address(other)).is_established());
        assert_eq!(standing_of(host, other), admin::MemberStanding::Member);
    }
    assert_eq!(a.node.find("laptop").unwrap(), (key(2), address(2)));
    // The ticket has been used: nobody else comes as much as to the door.
    let mut c = host(3, "", now);
    join(&mut c, "thief", &ticket, 1, now);
    talk(&mut [&mut a, &mut b, &mut c], now);
    assert!(c.joined.is_empty() && a.discards.count(Reason::Stranger) > 0);
    assert!(!a.node.peers.contains_key(&key(3)));
}

#[test]
fn a_guest_can_do_nothing_but_ask() {
    let now = Instant::now();
    let mut a = founder(1, "", now);
    invite(&mut a, 1, Approval::NotNeeded, now);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut b], now);
    let entry = a.node.peers.get(&key(2)).unwrap();
    assert!(entry.is_guest() && entry.allowed.is_empty());
    assert!(matches!(a.fib().lookup(address(2)), Lookup::Unknown));
    assert!(a.node.status(now).peers.is_empty());
    // It says something else.
    let own = identity(2).node().link_local();
    let probe = Signal::Probe(crate::signal::Probe {
        id: 1,
        way: crate::signal::Way::Direct,
    });
    let packet = probe.packet(own, identity(1).node().link_local(), 0);
    let from = Endpoint::from(Underlay {
        remote: place(2),
        local: None,
        socket: 0,
    });
    a.node
        .handle_packet(key(2), from, Topic::Session, &packet, now, now);
    assert_eq!(a.discards.count(Reason::NoMember), 1);
    // And does not stay.
    let later = now + Duration::from_secs(31);
    a.node.handle_timeout(later);
    a.drain(later);
    assert!(!a.node.peers.contains_key(&key(2)));
}

#[test]
fn whoever_is_revoked_loses_its_session_at_once_and_everywhere() {
    let now = Instant::now();
    // The configuration names it, which helps it nothing.
    let mut a = founder(1, &peer(2, "192.0.2.2:51860"), now);
    let ticket = invite(&mut a, 3, Approval::NotNeeded, now);
    let mut b = host(2, &peer(1, "192.0.2.1:51860"), now);
    let mut c = host(3, &peer(2, "192.0.2.2:51860"), now);
    for (host, name) in [(&mut b, "laptop"), (&mut c, "pi")] {
        join(host, name, &ticket, 1, now);
        talk(&mut [&mut a, host], now);
        assert!(host.joined.pop().unwrap().is_ok());
    }
    // Before it was a member, b did not answer c.
    let now = now + Duration::from_secs(6);
    for host in [&mut a, &mut b, &mut c] {
        host.node.handle_timeout(now);
        host.drain(now);
    }
    talk(&mut [&mut a, &mut b, &mut c], now);
    assert!(c.session(address(2)).is_established());
    a.node.revoke("laptop", now).unwrap();
    a.drain(now);
    assert!(!a.node.peers.contains_key(&key(2)));
    talk(&mut [&mut a, &mut b, &mut c], now);
    assert_eq!(standing_of(&c, 2), admin::MemberStanding::Revoked);
    assert!(!c.node.peers.contains_key(&key(2)), "c has heard of it");
    // It calls again, in vain.
    let strangers = a.discards.count(Reason::Stranger);
    b.node
        .device
        .initiate(&key(1), now + Duration::from_secs(10));
    b.node.handle_timeout(now + Duration::from_secs(10));
    b.drain(now);
    talk(&mut [&mut a, &mut b], now + Duration::from_secs(10));
    assert!(!a.node.peers.contains_key(&key(2)) && a.discards.count(Reason::Stranger) >= strangers);
    // A reload does not bring it back.
    let settings = settings(1, &peer(2, "192.0.2.2:51860"));
    a.node.handle_settings(&settings, now);
    assert!(!a.node.peers.contains_key(&key(2)));
}

#[test]
fn a_node_that_is_to_be_approved_waits_and_then_is_in() {
    let now = Instant::now();
    let mut a = founder(1, "", now);
    let ticket = invite(&mut a, 1, Approval::Needed, now);
    let mut b = host(2, "", now);
    join(&mut b, "laptop", &ticket, 1, now);
    talk(&mut [&mut a, &mut b], now);
    let pending = b.joined.pop().unwrap().unwrap();
    assert_eq!(pending.admission, Admission::Pending);
    assert!(!b.node.network().is_private());
    assert_eq!(standing_of(&a, 2), admin::MemberStanding::Pending);
    assert!(
        a.node
            .peers
            .get(&key(2))
            .is_none_or(|entry| entry.is_guest())
    );
    a.node.approve("laptop", None, now).unwrap();
    a.drain(now);
    let later = now + Duration::from_secs(21);
    for host in [&mut a, &mut b] {
        host.node.handle_timeout(later);
        host.drain(later);
    }
    talk(&mut [&mut a, &mut b], later);
    let joined = b.joined.pop().unwrap().unwrap();
    assert_eq!(joined.admission, Admission::Member);
    assert!(a.session(address(2)).is_established());
}

#[test]
fn whoever_leaves_is_told_of_and_is_open_again() {
    let now = Instant::now();
    let mut a = founder(1, "", now);
    let ticket = invite(&mut a, 1, Approval::NotNeeded, now);
    let mut b = host(2, "", now);
    join(&mut b, "laptop", &ticket, 1, now);
    talk(&mut [&mut a, &mut b], now);
    b.node.say_goodbye(now).unwrap();
    b.drain(now);
    b.node.leave_network(now);
    b.drain(now);
    assert!(!b.node.network().is_private() && b.node.peers.is_empty());
    talk(&mut [&mut a, &mut b], now);
    assert_eq!(standing_of(&a, 2), admin::MemberStanding::Left);
    assert!(!a.node.peers.contains_key(&key(2)));
}

#[test]
fn strangers_of_an_open_node_go_when_it_founds_a_network() {
    let now = Instant::now();
    const OPEN: &str = "open = true\n[inbound]\ndefault = \"allow\"\n";
    let mut a = host(1, OPEN, now);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), now);
    settle(&mut [&mut a, &mut b], now);
    assert!(a.session(address(2)).is_established());
    let name = |text: &str| text.parse().unwrap();
    let network = NetworkKey::from_seed(&[7; 32]);
    a.node
        .create_network(network, name("home"), name("nas"), now)
        .unwrap();
    a.drain(now);
    assert!(a.node.peers.is_empty() && !a.fib().admits_any());
    assert!(a.node.admitted(now).network.is_private());
}

#[test]
fn the_network_comes_back_from_what_is_kept() {
    let now = Instant::now();
    let mut a = founder(1, "", now);
    let ticket = invite(&mut a, 1, Approval::NotNeeded, now);
    let mut b = host(2, "", now);
    join(&mut b, "laptop", &ticket, 1, now);
    talk(&mut [&mut a, &mut b], now);
    let (network, records, _) = b.node.to_be_kept().unwrap();
    assert!(b.node.is_kept());
    let (records, damaged) = membership::Records::from_bytes(network, &records).unwrap();
    assert_eq!(damaged, 0);
    let kept = Kept {
        records: Some(records),
        key: None,
        unix: Duration::from_secs(YEAR_2026),
    };
    let fresh = Fresh {
        identity: identity(2),
        added: Vec::new(),
        workloads: Vec::new(),
        seen: BTreeMap::new(),
        seed: 2,
        token: *b"test-tok",
        epoch: Some(7),
        discards: Arc::default(),
        kept,
    };
    let again = Node::new(&settings(2, ""), fresh, now);
    assert_eq!(again.network(), a.node.network());
    assert_eq!(again.member(&key(1)).unwrap().name, "nas");
    assert!(matches!(again.snapshot(), fib if fib.admits(&key(1)) && !fib.admits(&key(3))));
}
