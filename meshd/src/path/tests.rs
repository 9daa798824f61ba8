//! Agents against each other, in virtual time.

mod world;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use wireguard::PublicKey;
use world::{Gives, Lets, Router, World};

use super::{
    Agent, Arrival, Demand, Event, Local, Socket, Why,
    candidate::{Candidate, Kind},
    limit,
    nat::NatView,
    offer::{MAX_CANDIDATES, Message, OfferError, Terms},
    probe::{Probe, ProbeError, Token},
};
use crate::testdata::identity;

/// That of the n-th identity of the pool.
pub(super) fn key(n: usize) -> PublicKey {
    identity(n).node().public_key()
}

const FULL_CONE: (Gives, Lets) = (Gives::Own, Lets::Everybody);
const RESTRICTED: (Gives, Lets) = (Gives::Own, Lets::Address);
const PORT_RESTRICTED: (Gives, Lets) = (Gives::Own, Lets::Port);
const CHANGES_PORT: (Gives, Lets) = (Gives::Another, Lets::Port);
const PER_ADDRESS: (Gives, Lets) = (Gives::PerAddress, Lets::Port);
const SEQUENTIAL: (Gives, Lets) = (Gives::Next, Lets::Port);
const RANDOM: (Gives, Lets) = (Gives::Any, Lets::Port);

/// Two nodes, each behind a router of its own, that know how those behave.
fn pair(routers: [(Gives, Lets); 2], seed: u64) -> World {
    let mut world = World::new(seed);
    for (n, (gives, lets)) in routers.into_iter().enumerate() {
        let router = world.router(Router::new(gives, lets));
        let host = format!("192.168.{}.2", n + 1);
        world.node(&[&host], &[router]);
    }
    for n in 0..2 {
        world.reflect(n);
    }
    world
}

/// Reaches the second from the first, and says how long that took.
fn reach(world: &mut World, demand: Demand) -> Result<Duration, Vec<Why>> {
    world.reach(0, 1, demand);
    world.run(World::patience(), |world| {
        world.is_direct(0, 1) || world.nodes.iter().all(|node| !node.failed.is_empty())
    });
    if world.is_direct(0, 1) {
        Ok(world.elapsed())
    } else {
        Err(world
            .nodes
            .iter()
            .flat_map(|node| node.failed.iter().map(|(_, why)| *why))
            .collect())
    }
}

/// What the table of the design says of two routers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Straight, within 5 s.
    Direct,
    /// Straight after guessing ports, within 10 s.
    Guessed,
    /// None.
    Relayed,
}

#[test]
fn nodes_meet_wherever_the_table_says_so() {
    use Way::{Direct, Guessed, Relayed};
    let kinds = [
        ("full cone", FULL_CONE),
        ("restricted", RESTRICTED),
        ("port restricted", PORT_RESTRICTED),
        ("changes port", CHANGES_PORT),
        ("sequential", SEQUENTIAL),
        ("random", RANDOM),
    ];
    let table = [
        [Direct, Direct, Direct, Direct, Direct, Direct],
        [Direct, Direct, Direct, Direct, Direct, Direct],
        [Direct, Direct, Direct, Direct, Direct, Guessed],
        [Direct, Direct, Direct, Direct, Direct, Guessed],
        [Direct, Direct, Direct, Direct, Direct, Relayed],
        [Direct, Direct, Guessed, Guessed, Relayed, Relayed],
    ];
    for ((a, kind_a), row) in kinds.into_iter().zip(table) {
        for ((b, kind_b), way) in kinds.into_iter().zip(row) {
            for seed in 0..5 {
                let mut world = pair([kind_a, kind_b], seed);
                let found = reach(&mut world, Demand::Traffic);
                let sent: usize = world.nodes.iter().map(|node| node.sent).sum();
                let case = format!("{a} and {b}, seed {seed}: {found:?}, {sent} probes");
                match way {
                    Direct => {
                        assert!(
                            found.is_ok_and(|time| time < Duration::from_secs(5)),
                            "{case}"
                        );
                        assert!(sent < 120, "{case}");
                    }
                    Guessed => {
                        assert!(
                            found.is_ok_and(|time| time < Duration::from_secs(10)),
                            "{case}"
                        );
                        assert!(sent < 2000, "{case}");
                    }
                    Relayed => assert_eq!(found, Err(vec![Why::BothRandom; 2]), "{case}"),
                }
            }
        }
    }
}

/// Reaches, and expects it within 5 s.
fn meet(world: &mut World, case: &str) {
    let found = reach(world, Demand::Traffic);
    assert!(
        found
            .as_ref()
            .is_ok_and(|time| *time < Duration::from_secs(5)),
        "{case}: {found:?}, tried {:?}",
        world.nodes[0].agent.why(world.nodes[1].key)
    );
}

#[test]
fn a_router_with_a_port_for_every_address_is_met_like_the_others() {
    for other in [FULL_CONE, RESTRICTED] {
        meet(&mut pair([PER_ADDRESS, other], 1), "per address");
        meet(&mut pair([other, PER_ADDRESS], 1), "per address");
    }
}

#[test]
fn two_routers_one_behind_the_other_are_passed() {
    for (inner, outer) in [
        (PORT_RESTRICTED, PORT_RESTRICTED),
        (PORT_RESTRICTED, CHANGES_PORT),
        (CHANGES_PORT, FULL_CONE),
        (FULL_CONE, PORT_RESTRICTED),
        (FULL_CONE, SEQUENTIAL),
    ] {
        let mut world = World::new(3);
        let home = world.router(Router::new(inner.0, inner.1));
        let carrier = world.router(Router::new(outer.0, outer.1));
        let other = world.router(Router::new(Gives::Own, Lets::Port));
        world.node(&["192.168.1.2"], &[home, carrier]);
        world.node(&["192.168.2.2"], &[other]);
        world.reflect(0);
        world.reflect(1);
        meet(&mut world, &format!("{inner:?} behind {outer:?}"));
    }
}

#[test]
fn two_nodes_behind_one_router_meet_with_and_without_hairpin() {
    for has_hairpin in [false, true] {
        for kind in [FULL_CONE, PORT_RESTRICTED, SEQUENTIAL, RANDOM] {
            let mut world = World::new(1);
            let mut router = Router::new(kind.0, kind.1);
            router.has_hairpin = has_hairpin;
            let router = world.router(router);
            world.node(&["192.168.1.2"], &[router]);
            world.node(&["192.168.1.3"], &[router]);
            world.reflect(0);
            world.reflect(1);
            meet(&mut world, &format!("{kind:?}, hairpin {has_hairpin}"));
            // The way inside the site, at once.
            let used = world.nodes[0]
                .proven
                .first()
                .map(|(_, address)| address.ip());
            assert_eq!(used, Some([192, 168, 1, 3].into()));
            assert!(world.elapsed() < Duration::from_millis(200));
        }
    }
}

#[test]
fn firewalls_for_ipv6_open_from_both_sides_and_ipv6_is_preferred() {
    for (lets, other) in [(Lets::Port, Lets::Port), (Lets::Everybody, Lets::Port)] {
        let mut world = World::new(1);
        let firewalls = [lets, other].map(|lets| world.router(Router::new(Gives::Nothing, lets)));
        world.node(&["2001:db8:1::2"], &firewalls[..1]);
        world.node(&["2001:db8:2::2"], &firewalls[1..]);
        world.reflect(0);
        world.reflect(1);
        meet(&mut world, "IPv6");
    }
    // Both families, of which only IPv4 is translated.
    let mut world = World::new(1);
    let routers = [0, 1].map(|_| world.router(Router::new(Gives::Own, Lets::Port)));
    world.node(&["192.168.1.2", "2001:db8:1::2"], &routers[..1]);
    world.node(&["192.168.2.2", "2001:db8:2::2"], &routers[1..]);
    world.reflect(0);
    world.reflect(1);
    meet(&mut world, "both families");
    assert!(world.nodes.iter().all(|node| node.proven[0].1.is_ipv6()));
}

#[test]
fn a_router_whose_outside_is_open_is_not_poisoned() {
    let open = [[true, true], [true, false], [false, true]];
    for (open, hops) in open.into_iter().flat_map(|open| [(open, 6), (open, 1)]) {
        for kinds in [
            [PORT_RESTRICTED; 2],
            [PORT_RESTRICTED, CHANGES_PORT],
            [SEQUENTIAL, PORT_RESTRICTED],
            [SEQUENTIAL; 2],
        ] {
            let mut world = pair(kinds, 1);
            for (router, is_open) in world.routers.iter_mut().zip(open) {
                router.is_open = is_open;
            }
            world.hops = hops;
            meet(&mut world, &format!("{kinds:?}, open {open:?}"));
        }
    }
}

#[test]
fn what_arrives_too_early_does_poison_such_a_router() {
    // So the test above can fail: nothing lies between these two routers where an opener could die.
    for (is_open, meets) in [(true, false), (false, true)] {
        let mut world = pair([PORT_RESTRICTED; 2], 1);
        for router in &mut world.routers {
            router.is_open = is_open;
        }
        world.hops = 0;
        assert_eq!(reach(&mut world, Demand::Traffic).is_ok(), meets);
    }
}

#[test]
fn a_router_that_forgets_soon_does_not_hinder() {
    for kinds in [[PORT_RESTRICTED; 2], [SEQUENTIAL, PORT_RESTRICTED]] {
        let mut world = pair(kinds, 1);
        for router in &mut world.routers {
            router.forgets = Duration::from_secs(2);
        }
        meet(&mut world, "forgets after 2 s");
    }
}

#[test]
fn both_may_begin_at_once_and_still_agree() {
    for kinds in [
        [PORT_RESTRICTED; 2],
        [SEQUENTIAL; 2],
        [SEQUENTIAL, PORT_RESTRICTED],
    ] {
        for lag in [0, 1, 25, 30, 40, 200] {
            let mut world = pair(kinds, 1);
            world.reach(0, 1, Demand::Traffic);
            world.run(Duration::from_millis(lag), |_| false);
            world.reach(1, 0, Demand::Traffic);
            world.run(World::patience(), |_| false);
            let case = format!("{kinds:?}, {lag} ms");
            assert!(world.is_direct(0, 1), "{case}");
            assert!(
                world.nodes.iter().all(|node| node.failed.is_empty()),
                "{case}"
            );
            // Each was told once where the other is: nobody moves to and fro.
            assert!(
                world.nodes.iter().all(|node| node.proven.len() == 1),
                "{case}"
            );
        }
    }
}

#[test]
fn both_may_move_at_once_and_find_each_other_again() {
    let mut world = pair([PORT_RESTRICTED, CHANGES_PORT], 1);
    meet(&mut world, "before");
    world.run(Duration::from_secs(3), |_| false);
    let now = world.now;
    for n in 0..2 {
        world.routers[n].restart();
        world.routers[n].gives = Gives::Another;
        world.nodes[n].proven.clear();
        world.reach(n, 1 - n, Demand::Traffic);
        let (key, agent) = (world.nodes[1 - n].key, &mut world.nodes[n].agent);
        agent.reach(key, Demand::Traffic, now);
        agent.handle_network_change(now);
        world.drain(n);
        world.reflect(n);
    }
    world.run(Duration::from_secs(5), |world| world.is_direct(0, 1));
    assert!(
        world.is_direct(0, 1),
        "{:?}",
        world.nodes[0].agent.why(key(1))
    );
}

#[test]
fn a_tenth_of_all_datagrams_may_be_lost() {
    for seed in 0..20 {
        for kinds in [
            [PORT_RESTRICTED; 2],
            [SEQUENTIAL; 2],
            [SEQUENTIAL, PORT_RESTRICTED],
        ] {
            let mut world = pair(kinds, seed);
            world.loss = 100;
            meet(&mut world, &format!("{kinds:?}, seed {seed}"));
        }
    }
}

#[test]
fn any_one_message_may_be_lost() {
    for lost in 0..5 {
        for kinds in [
            [PORT_RESTRICTED; 2],
            [SEQUENTIAL; 2],
            [SEQUENTIAL, PORT_RESTRICTED],
        ] {
            let mut world = pair(kinds, 1);
            world.lost_message = Some(lost);
            meet(&mut world, &format!("{kinds:?}, without message {lost}"));
        }
        let mut world = pair([RANDOM, PORT_RESTRICTED], 1);
        world.lost_message = Some(lost);
        let found = reach(&mut world, Demand::Traffic);
        let is_soon = found.is_ok_and(|time| time < Duration::from_secs(10));
        assert!(is_soon, "guessing, without message {lost}");
    }
}

#[test]
fn in_lockstep_each_side_sends_to_one_new_address_in_a_round() {
    let mut world = pair([SEQUENTIAL; 2], 1);
    meet(&mut world, "lockstep");
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.new_destinations.len() == 1)
    );
    // Others behind one of the routers have taken ports since the neighbours were asked.
    for others in 1..=2_u16 {
        for n in 0..2 {
            let mut world = pair([SEQUENTIAL; 2], 1);
            world.routers[n].take_ports(others);
            meet(&mut world, &format!("{others} others behind router {n}"));
            let rounds = 1 + world.elapsed().as_millis() / 700;
            let new = world.nodes.iter().map(|node| node.new_destinations.len());
            assert!(new.max().is_some_and(|most| most as u128 <= rounds));
        }
    }
}

#[test]
fn ports_are_guessed_only_where_there_is_traffic_and_seldom() {
    let mut world = pair([PORT_RESTRICTED, RANDOM], 1);
    let found = reach(&mut world, Demand::Background);
    assert_eq!(found, Err(vec![Why::Unpredictable; 2]));
    assert!(world.nodes.iter().all(|node| node.sent < 40));

    let mut world = pair([PORT_RESTRICTED, RANDOM], 1);
    assert!(reach(&mut world, Demand::Traffic).is_ok());
    let extra = world.nodes[1].adopted.clone();
    assert_eq!(extra.len(), 1, "the hard side's socket is kept");
    world.run(Duration::from_secs(20), |_| false);
    let sent: usize = world.nodes.iter().map(|node| node.sent).sum();
    // It is lost again: within ten minutes nobody guesses anew.
    for node in &mut world.nodes {
        node.proven.clear();
    }
    for _ in 0..30 {
        world.reach(0, 1, Demand::Traffic);
        world.run(Duration::from_secs(1), |_| false);
    }
    assert!(!world.is_direct(0, 1));
    let again: usize = world.nodes.iter().map(|node| node.sent).sum();
    assert!(again - sent < 120, "{} probes", again - sent);
    assert!(
        world.nodes[0]
            .failed
            .iter()
            .all(|(_, why)| *why == Why::NotMet)
    );
}

#[test]
fn who_is_not_heard_is_tried_ever_less_often_while_there_is_traffic_and_then_not_at_all() {
    let mut world = pair([PORT_RESTRICTED; 2], 1);
    world.is_blocked = true;
    for _ in 0..600 {
        world.reach(0, 1, Demand::Traffic);
        world.run(Duration::from_secs(1), |_| false);
    }
    let tries = world.nodes[0].failed.len();
    assert!((5..=8).contains(&tries), "{tries} in ten minutes");
    assert!(
        world.nodes[0]
            .failed
            .iter()
            .all(|(_, why)| *why == Why::Silent)
    );
    let sent: Vec<_> = world.nodes.iter().map(|node| node.sent).collect();
    world.run(Duration::from_secs(3600), |_| false);
    assert_eq!(
        sent,
        world.nodes.iter().map(|node| node.sent).collect::<Vec<_>>()
    );
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.agent.poll_timeout().is_none())
    );
}

#[test]
fn an_offer_that_nobody_answers_fails_after_three() {
    let mut world = pair([PORT_RESTRICTED; 2], 1);
    world.nodes[1].has_signals = false;
    world.reach(0, 1, Demand::Background);
    world.run(Duration::from_secs(60), |_| false);
    let [(at, why)] = world.nodes[0].failed[..] else {
        panic!("{:?}", world.nodes[0].failed);
    };
    assert_eq!(
        (at - world.start, why),
        (Duration::from_secs(5), Why::NoAnswer)
    );
    assert_eq!(world.nodes[0].sent, 0);
}

/// An agent at a public address, and what it would have to be told to probe these.
fn hostile(addresses: impl Iterator<Item = SocketAddr>, token: u8) -> Message {
    let of = |address| Candidate {
        kind: Kind::Host,
        address,
    };
    Message::Offer(Terms {
        token: Token {
            id: [token; 8],
            key: [token; 32],
        },
        nat: NatView::default(),
        has_traffic: true,
        candidates: addresses.take(MAX_CANDIDATES).map(of).collect(),
    })
}

fn public() -> (Agent, Instant) {
    let now = Instant::now();
    let mut agent = Agent::new(key(0), &[7; 32]);
    let hosts = vec!["192.0.2.9:7000".parse().unwrap()];
    let local = Local {
        hosts,
        ..Local::default()
    };
    agent.set_local(local, now);
    (agent, now)
}

#[test]
fn nobody_makes_it_send_more_than_ten_probes_to_an_address_and_sixty_a_minute() {
    let (mut agent, start) = public();
    let victim = |n: u16| SocketAddr::from(([198, 51, 100, 7], 1000 + n));
    let (mut sent, mut refused) = (Vec::new(), 0);
    for n in 0..60_000_u64 {
        let now = start + Duration::from_millis(n);
        if n % 10 == 0 {
            // A hundred a second, of one member, each under another token.
            let message = hostile((0..12).map(victim), (n / 10 % 251) as u8);
            let result = agent.handle_offer(key(1), &message.bytes(), now);
            refused += usize::from(result == Err(OfferError::TooMany));
        }
        agent.handle_timeout(now);
        while let Some(transmit) = agent.poll_transmit() {
            sent.push(transmit.to);
        }
        while agent.poll_event().is_some() {}
    }
    assert!(sent.len() <= limit::PER_PEER, "{} probes", sent.len());
    assert_eq!(refused, 6000 - limit::OFFERS_PER_PEER);

    let (mut agent, start) = public();
    let message = hostile([victim(1)].into_iter(), 1);
    agent.handle_offer(key(1), &message.bytes(), start).unwrap();
    let mut sent = 0;
    while let Some(at) = agent
        .poll_timeout()
        .filter(|at| *at < start + Duration::from_secs(50))
    {
        agent.handle_timeout(at);
        while agent.poll_transmit().is_some() {
            sent += 1;
        }
    }
    assert_eq!(sent, 10);
}

#[test]
fn what_peers_and_strangers_send_does_not_make_it_grow() {
    let (mut agent, start) = public();
    let victim = |n: u16| SocketAddr::from(([198, 51, 100, 7], 1000 + n));
    for n in 0..128_u64 {
        let now = start + Duration::from_millis(n);
        for token in 0..30 {
            let message = hostile((0..12).map(victim), token);
            let _ = agent.handle_offer(key(n as usize), &message.bytes(), now);
        }
        while agent.poll_event().is_some() || agent.poll_transmit().is_some() {}
    }
    assert!(
        agent.sizes().iter().all(|size| *size <= 256),
        "{:?}",
        agent.sizes()
    );
    let later = start + Duration::from_secs(61);
    agent.handle_timeout(later);
    assert_eq!(agent.sizes()[1], 0, "tokens live a minute");
}

#[test]
fn strangers_hear_nothing() {
    let (mut agent, now) = public();
    let from = Arrival {
        remote: "198.51.100.7:99".parse().unwrap(),
        local: None,
        socket: Socket::Own(0),
    };
    let message = hostile([from.remote].into_iter(), 1);
    agent.handle_offer(key(1), &message.bytes(), now).unwrap();
    let Some(Event::Offer { message, .. }) = agent.poll_event() else {
        panic!("no answer");
    };
    let Ok(Message::Answer { terms, .. }) = Message::parse(&message) else {
        panic!("no answer");
    };
    while agent.poll_transmit().is_some() {}
    let ping = Probe::Ping { is_chosen: false };
    let right = terms.token.seal(5, &ping);
    let stranger = Token {
        id: [9; 8],
        key: [9; 32],
    };
    let forger = Token {
        id: terms.token.id,
        key: [9; 32],
    };
    for (datagram, error) in [
        (stranger.seal(1, &ping), ProbeError::UnknownToken),
        (forger.seal(1, &ping), ProbeError::Forged),
        (b"hello".to_vec(), ProbeError::Other),
        (right[..60].to_vec(), ProbeError::Other),
    ] {
        assert_eq!(agent.handle_probe(from, &datagram, now), Err(error));
        assert_eq!(agent.poll_transmit(), None);
    }
    assert_eq!(agent.handle_probe(from, &right, now), Ok(()));
    assert!(
        agent
            .poll_transmit()
            .is_some_and(|pong| pong.to == from.remote)
    );
    while agent.poll_transmit().is_some() {}
    assert_eq!(
        agent.handle_probe(from, &right, now),
        Err(ProbeError::Repeated)
    );
    let late = now + Token::LIFE;
    let next = terms.token.seal(6, &ping);
    assert_eq!(
        agent.handle_probe(from, &next, late),
        Err(ProbeError::UnknownToken)
    );
    assert_eq!(agent.poll_transmit(), None);
}
