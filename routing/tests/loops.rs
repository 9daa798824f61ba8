//! Whatever happens, packets never go in a circle, and when it is over, all is well soon.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use routing::sim::{Kept, Net, millis, secs};

/// A small generator, seeded by the test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn misfortune(net: &mut Net, dice: &mut Dice) {
    let (wires, nodes) = (net.wires(), net.nodes().len());
    let (wire, node) = (dice.below(wires), dice.below(nodes));
    match dice.below(11) {
        0..3 => net.cut(wire),
        3..6 => net.heal(wire),
        6 => {
            let end = net.wire(wire).ends[dice.below(2)];
            net.cut_from(wire, end);
        }
        7 => net.kill(node),
        8 => net.restart(node, Kept::State),
        9 => net.restart(node, Kept::Nothing),
        _ => {
            let latency = millis(1 + dice.below(40) as u64);
            net.wire_mut(wire).set_latency(latency);
            net.wire_mut(wire).loss = dice.below(200) as u32;
            net.wire_mut(wire).jitter = millis(dice.below(5) as u64);
        }
    }
}

/// Thirty misfortunes on a small network, then none.
fn survives(seed: u64) {
    let mut dice = Dice(seed);
    let nodes = 5 + dice.below(10);
    let mut net = Net::random(nodes, 3, seed);
    for wire in 0..net.wires() {
        let latency = millis(1 + dice.below(30) as u64);
        net.wire_mut(wire).set_latency(latency);
    }
    net.run_for(secs(3));
    for _ in 0..30 {
        misfortune(&mut net, &mut dice);
        net.run_for(millis(dice.below(2_500) as u64));
        net.check();
        assert_eq!(net.violations(), [""; 0], "seed {seed}");
    }
    for wire in 0..net.wires() {
        net.heal(wire);
        net.wire_mut(wire).loss = 0;
    }
    for node in 0..nodes {
        if !net.node(node).is_alive {
            net.restart(node, Kept::State);
        }
    }
    // An origin that has lost its state takes up to seven steps to the seqnos that others remember.
    let is_well = net.run_until(secs(10), |net| {
        net.run_for(millis(45));
        net.is_connected()
    });
    assert!(is_well, "seed {seed}: {:?}", net.unreached());
    // A third longer: what hysteresis allows.
    let is_good = net.run_until(secs(15), |net| {
        net.run_for(millis(495));
        net.is_optimal_within(34)
    });
    assert!(is_good, "seed {seed}: {:?}", net.detours(34));
    net.check();
    assert_eq!(net.violations(), [""; 0], "seed {seed}");
    assert_eq!((net.loops(), net.gaps()), (0, 0), "seed {seed}");
}

/// A quarter of the seeds: 200 in all, or as many as the variable says (`SIM_SEEDS=10000` for a night).
fn quarter(number: u64) {
    let seeds = std::env::var("SIM_SEEDS").map_or(200, |text| text.parse().unwrap());
    (0..seeds)
        .filter(|seed| seed % 4 == number)
        .for_each(survives);
}

// In four parts, so that they run side by side.

#[test]
fn no_misfortune_makes_a_loop_and_all_is_well_soon_after_the_last_1() {
    quarter(0);
}

#[test]
fn no_misfortune_makes_a_loop_and_all_is_well_soon_after_the_last_2() {
    quarter(1);
}

#[test]
fn no_misfortune_makes_a_loop_and_all_is_well_soon_after_the_last_3() {
    quarter(2);
}

#[test]
fn no_misfortune_makes_a_loop_and_all_is_well_soon_after_the_last_4() {
    quarter(3);
}

/// The longest time that any two nodes were out of reach of each other.
fn longest_outage(net: &mut Net, span: Duration) -> Duration {
    let end = net.now() + span;
    let mut since: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    while net.now() < end {
        net.run_for(millis(100));
        let unreached = net.unreached();
        since.retain(|pair, _| unreached.contains(pair));
        for pair in unreached {
            let now = net.now();
            longest = longest.max(now - *since.entry(pair).or_insert(now));
        }
    }
    longest
}

#[test]
fn nobody_starves_on_links_that_lose_a_fifth() {
    for seed in 0..4 {
        let mut net = Net::random(14, 3, seed);
        for wire in 0..net.wires() {
            let wire = net.wire_mut(wire);
            wire.set_latency(millis(10));
            wire.loss = 200;
        }
        net.run_for(secs(10));
        let longest = longest_outage(&mut net, secs(300));
        assert!(longest <= secs(10), "seed {seed}: {longest:?}");
        assert_eq!((net.loops(), net.gaps()), (0, 0));
    }
}

#[test]
fn a_partition_of_any_length_heals_without_counting_to_infinity() {
    for minutes in [1, 30] {
        let mut net = Net::grid(4, 4, minutes);
        net.run_for(secs(30));
        let across = [(1, 2), (5, 6), (9, 10), (13, 14)].map(|(a, b)| net.wire_between(a, b));
        across.iter().for_each(|&wire| net.cut(wire));
        net.run_for(secs(10));
        assert!(net.is_connected(), "each half for itself");
        let before = net.traffic();
        net.run_for(secs(60) * minutes as u32);
        let rate = net.traffic().since(before).packets / (60 * minutes) / (2 * net.wires() as u64);
        assert!(rate <= 3, "{rate} packets a second on each link");
        across.iter().for_each(|&wire| net.heal(wire));
        assert!(
            net.run_until(secs(5), Net::is_optimal),
            "{:?}",
            net.detours(0)
        );
        assert_eq!((net.loops(), net.gaps()), (0, 0));
    }
}

#[test]
fn nodes_that_come_and_go_are_missed_by_nobody_else() {
    let mut net = Net::random(60, 5, 4);
    net.run_for(secs(5));
    let mut dice = Dice(4);
    let mut last = secs(0);
    for _ in 0..60 {
        let node = dice.below(60);
        if net.node(node).is_alive {
            net.kill(node);
        } else {
            net.restart(node, Kept::State);
        }
        last = last.max(longest_outage(&mut net, secs(4)));
    }
    assert!(last <= secs(3), "{last:?}");
    net.check();
    assert_eq!(net.violations(), [""; 0]);
}
