//! Routes come into being, as short as they can be, and stay as they are.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail by panic, and looks at what it wants to see"
)]

use std::time::Duration;

use routing::origin::Origins;
use routing::sim::{Kept, Net, Verification, millis, secs};
use routing::{Event, LinkId, Metric, Transit};

/// Fails with what the simulation has found.
#[track_caller]
fn assert_sound(net: &mut Net) {
    net.check();
    assert_eq!(net.violations(), [""; 0]);
    assert_eq!((net.loops(), net.gaps()), (0, 0));
}

#[test]
fn a_grid_of_49_is_connected_within_a_second_and_a_half_and_optimal_within_three() {
    for seed in 0..8 {
        let mut net = Net::grid(7, 7, seed);
        let unreached = |net: &Net| net.unreached();
        assert!(
            net.run_until(millis(1_500), Net::is_connected),
            "{:?}",
            unreached(&net)
        );
        assert!(net.run_until(secs(3) - net.now(), Net::is_optimal));
        assert_sound(&mut net);
    }
}

#[test]
fn links_as_long_as_the_internet_converge_as_well() {
    for seed in 0..8 {
        let mut net = Net::random(60, 4, seed);
        for wire in 0..net.wires() {
            let latency = millis(2 + (wire as u64 * 13 + seed) % 50);
            let wire = net.wire_mut(wire);
            wire.set_latency(latency);
            wire.jitter = millis(2);
        }
        assert!(
            net.run_until(secs(3), Net::is_connected),
            "{:?}",
            net.unreached()
        );
        net.run_for(secs(20));
        assert_eq!(
            net.detours(34),
            [],
            "nothing is longer by more than hysteresis allows"
        );
        assert_sound(&mut net);
    }
}

#[test]
fn links_that_come_up_one_after_the_other_are_used_one_after_the_other() {
    let mut net = Net::of(12, &[], 1);
    for node in 1..12 {
        net.connect(node - 1, node);
        assert!(net.run_until(secs(2), Net::is_connected), "{node}");
    }
    net.connect(0, 11);
    assert!(
        net.run_until(secs(5), Net::is_optimal),
        "{:?}",
        net.detours(0)
    );
    assert_sound(&mut net);
}

#[test]
fn nodes_of_all_tempers_work_together() {
    let mut net = Net::new(3);
    let hellos = [100, 400, 1_000, 4_000, 20_000];
    for _ in 0..10 {
        net.add_node();
    }
    for node in 0..10_usize {
        for other in [(node + 1) % 10, (node + 3) % 10] {
            net.connect_as(node, other, |here, config| {
                config.hello = millis(hellos[here % hellos.len()]);
                config.update = config.hello * 4;
            });
        }
    }
    assert!(
        net.run_until(secs(5), Net::is_connected),
        "{:?}",
        net.unreached()
    );
    net.run_for(secs(300));
    assert!(net.is_optimal());
    let wire = net.wire_between(0, 1);
    net.cut(wire);
    assert!(net.run_until(secs(30), Net::is_connected));
    assert_sound(&mut net);
}

#[test]
fn seqnos_that_come_round_are_newer_all_the_same() {
    // 8,192 epochs of 8 seqnos are all there are.
    let last = 8_189;
    let mut net = Net::line(2, 1);
    for node in 0..2 {
        net.node_mut(node).keep_epoch(last);
        net.restart(node, Kept::State);
    }
    net.connect(0, 1);
    assert!(net.run_until(secs(3), Net::is_connected));
    let seqno = |net: &Net| Origins::own(net.node(0).router.origins()).seqno().0;
    assert!(seqno(&net) >= 65_520);
    // Each time the only neighbour forgets all, it is asked for a newer one.
    for _ in 0..30 {
        net.restart(0, Kept::State);
        assert!(net.run_until(secs(20), Net::is_connected));
        net.run_for(secs(12));
    }
    assert!(seqno(&net) < 1_000, "{}", seqno(&net));
    assert_sound(&mut net);
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let mut net = Net::random(20, 3, seed);
        for wire in 0..net.wires() {
            net.wire_mut(wire).loss = 50;
        }
        net.run_for(secs(10));
        net.cut(3);
        net.run_for(secs(10));
        (net.trace(), net.traffic(), net.fib_changes())
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7).0, history(8).0);
}

#[test]
fn clocks_that_are_fast_or_slow_or_leap_do_no_harm() {
    let mut net = Net::ring(6, 1);
    for (node, drift) in [(0, 300), (1, -300), (2, 100), (3, -1)] {
        net.node_mut(node).clock.drift = drift;
    }
    for wire in 0..6 {
        net.wire_mut(wire).set_latency(millis(20));
    }
    net.run_for(secs(60));
    for node in 0..6 {
        for link in net.node(node).router.links() {
            let rtt = link.rtt.unwrap();
            assert!((38_000..44_000).contains(&rtt), "{rtt}");
        }
    }
    for day in 1..4 {
        net.node_mut(2).clock.ahead = secs(86_400 * day);
        net.with_router(2, |router, now| router.handle_timeout(now));
        assert!(net.run_until(secs(5), Net::is_connected));
        net.run_for(secs(20));
        assert_eq!(net.cost(1, 1), net.cost(3, 3));
    }
    assert_sound(&mut net);
}

#[test]
fn what_one_failure_costs_grows_with_the_network_and_not_faster() {
    let mut per_wire_and_node = Vec::new();
    for side in [5, 7, 10] {
        let mut net = Net::grid(side, side, 1);
        net.run_for(secs(30));
        let wire = net.wire_between(side, side + 1);
        let rest = |net: &mut Net| {
            let before = net.traffic();
            net.run_for(secs(5));
            net.traffic().since(before).packets
        };
        let at_rest = rest(&mut net);
        net.cut(wire);
        let packets = rest(&mut net).saturating_sub(at_rest);
        assert!(net.is_connected());
        per_wire_and_node.push(packets as f64 / net.wires() as f64);
    }
    let most = per_wire_and_node.iter().copied().fold(0.0, f64::max);
    assert!(most < 40.0, "packets for each link: {per_wire_and_node:?}");
}

/// At rest, incl. 14 bytes of Ethernet: what the design allows, and what the sizes of the messages say it must be.
#[test]
fn at_rest_a_link_carries_at_most_150_bytes_a_second_each_way() {
    let mut net = Net::grid(7, 7, 5);
    net.run_for(secs(30));
    let before = net.traffic();
    net.run_for(secs(1_200));
    let traffic = net.traffic().since(before);
    let directions = net.wires() as f64 * 2.0;
    let rate = traffic.bytes as f64 / 1_200.0 / directions;
    assert!(rate <= 150.0, "{rate} B/s");
    let (framing, babel) = (14.0 + 40.0 + 8.0, 4.0);
    let hello = framing + babel + 8.0;
    let with_ihu = hello + 6.0 + 8.0 + 10.0;
    let hellos = (2.0 * hello + with_ihu) / 3.0 / (0.67 * 0.92);
    let questions = (8.0 + framing + babel + 4.0) / 30.0;
    let updates = 49.0 * 32.0 / (300.0 * 0.95);
    let computed = hellos + questions + updates;
    assert!(
        (rate - computed).abs() < 5.0,
        "{rate} B/s, computed {computed}"
    );
}

/// A node with many neighbours and they go by its pace; what is left of them is as quick as before.
#[test]
fn a_node_with_fifty_neighbours_hears_few_hellos_until_most_are_gone() {
    const LEAVES: usize = 50;
    let mut net = Net::new(3);
    let hub = net.add_node();
    for _ in 0..LEAVES {
        let leaf = net.add_node();
        net.connect(hub, leaf);
    }
    assert!(net.run_until(secs(5), Net::is_connected));
    let rate = |net: &mut Net| {
        let before = net.traffic();
        net.run_for(secs(60));
        net.traffic().since(before).packets as f64 / 60.0
    };
    net.run_for(secs(60));
    let changes = net.fib_changes();
    let at_rest = rate(&mut net) / LEAVES as f64;
    assert_eq!(net.fib_changes(), changes);
    assert!(
        at_rest < 0.75,
        "{at_rest} packets a second and leaf, both ways"
    );
    for leaf in 3..=LEAVES {
        net.kill(leaf);
    }
    net.run_for(secs(60));
    let few = rate(&mut net);
    // The hub still says Hello to those that are gone, whom it takes for being out of reach.
    let pace = 1.0 / (0.67 * 0.94);
    let lonely = (LEAVES - 2) as f64 * pace;
    assert!((few - lonely) / 4.0 > pace * 0.9, "{few} packets a second");
    assert!(net.is_connected());
}

#[test]
fn at_rest_nothing_changes() {
    let mut net = Net::random(30, 4, 2);
    for wire in 0..net.wires() {
        let wire = net.wire_mut(wire);
        wire.set_latency(millis(15));
        wire.jitter = millis(10);
        wire.loss = 5;
    }
    net.run_for(secs(60));
    let before = net.fib_changes();
    net.run_for(secs(900));
    assert!(
        net.fib_changes() - before <= 60,
        "{}",
        net.fib_changes() - before
    );
    assert_sound(&mut net);
}

/// Two ways of the same length; the one that traffic goes by is slow because of it.
#[test]
fn traffic_that_loads_a_link_does_not_swing() {
    let mut net = Net::of(4, &[(0, 1), (1, 3), (0, 2), (2, 3)], 1);
    for wire in 0..4 {
        net.wire_mut(wire).set_latency(millis(10));
        net.wire_mut(wire).load = millis(90);
    }
    assert!(net.run_until(secs(3), Net::is_connected));
    net.add_flow(0, 3, secs(1));
    let begin = net.now();
    let (mut way, mut moves) = (net.path(0, 3).1, Vec::new());
    while net.now() < begin + secs(3_600) {
        net.run_for(secs(1));
        let now = net.path(0, 3).1;
        if now != way {
            moves.push(net.now());
            way = now;
        }
    }
    let late = moves.iter().filter(|&&at| at > begin + secs(1_800)).count();
    assert!(moves.len() <= 14 && late <= 4, "{moves:?}");
}

#[test]
fn a_long_way_round_is_taken_for_a_link_that_loses_half() {
    let mut net = Net::of(3, &[(0, 2), (0, 1), (1, 2)], 1);
    net.wire_mut(0).loss = 500;
    net.run_for(secs(60));
    assert_eq!(net.path(0, 2).1.len(), 2, "{:?}", net.cost(0, 0));
    assert!(net.cost(0, 1) == Metric(96));
}

#[test]
fn slow_verification_delays_routes_at_each_node_by_that_of_a_record_and_of_a_proof() {
    let connected_after = |delay| {
        let mut net = Net::line(6, 1);
        net.verification = Verification::Real(delay);
        assert!(net.run_until(secs(5), Net::is_connected));
        net.now()
    };
    let (quick, slow) = (connected_after(Duration::ZERO), connected_after(millis(50)));
    assert!(
        slow <= quick + millis(2 * 50 * 5 + 100),
        "{quick:?} {slow:?}"
    );
}

#[test]
fn what_happens_to_neighbours_and_routes_is_reported() {
    let mut net = Net::line(3, 1);
    net.run_for(secs(3));
    net.cut(1);
    net.run_for(secs(3));
    let events = net.node(1).events();
    let states: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Neighbour { link, state, .. } if link.0 == 1 => Some(state.name()),
            _ => None,
        })
        .collect();
    assert_eq!(states, ["up", "suspect", "down"]);
    let lost = events.iter().filter(
        |event| matches!(event, Event::Route { to: None, why, .. } if why.name() == "lost"),
    );
    assert_eq!(lost.count(), 1);
}

#[test]
fn a_neighbour_that_is_not_carried_for_is_told_of_nobody_else() {
    let mut net = Net::line(4, 1);
    let wire = net.wire_between(1, 2);
    assert!(net.run_until(secs(3), Net::is_connected));
    for (transit, is_told) in [(Transit::No, false), (Transit::Yes, true)] {
        net.with_router(1, |router, now| {
            router.set_transit(LinkId(wire as u32), transit, now);
        });
        net.run_for(secs(5));
        assert!(net.reaches(2, 1) && net.reaches(0, 3), "{transit:?}");
        assert_eq!(net.reaches(2, 0), is_told, "{transit:?}");
        assert_eq!(net.reaches(3, 0), is_told, "{transit:?}");
    }
    assert_sound(&mut net);
}
