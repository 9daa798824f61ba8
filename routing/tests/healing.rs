//! Links and nodes come and go, and traffic follows: the goals of the project, in virtual time.

use std::time::Duration;

use routing::Hint;
use routing::sim::{Kept, Net, millis, secs};

/// A grid of 49 at rest.
fn grid(seed: u64) -> Net {
    let mut net = Net::grid(7, 7, seed);
    assert!(net.run_until(secs(3), Net::is_optimal));
    net.run_for(secs(20));
    net
}

#[track_caller]
fn assert_sound(net: &mut Net) {
    net.check();
    assert_eq!(net.violations(), [""; 0]);
    assert_eq!((net.loops(), net.gaps()), (0, 0));
}

/// Everybody takes a shortest way within that time.
#[track_caller]
fn heals(net: &mut Net, within: Duration) {
    assert!(
        net.run_until(within, Net::is_optimal),
        "{:?}",
        net.detours(0)
    );
}

fn median(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() / 2]
}

#[test]
fn a_link_that_breaks_silently_is_left_within_a_second_by_half_and_within_two_by_all() {
    let mut outages = Vec::new();
    for seed in 0..16_u64 {
        let mut net = grid(seed);
        net.run_for(millis(seed * 57));
        let wire = (seed as usize * 7 + 3) % net.wires();
        net.cut(wire);
        outages.extend(net.outages(secs(10)));
        net.run_for(secs(10));
        net.heal(wire);
        heals(&mut net, secs(5));
        assert_sound(&mut net);
    }
    outages.sort_unstable();
    let (half, all) = (median(&outages), *outages.last().expect("outages"));
    assert!(half <= secs(1), "{half:?}");
    assert!(all <= secs(2), "{all:?}");
}

#[test]
fn a_link_that_breaks_one_way_is_left_as_fast() {
    for seed in 0..6 {
        let mut net = grid(seed);
        let wire = (seed as usize * 11 + 5) % net.wires();
        let end = net.wire(wire).ends[seed as usize % 2];
        net.cut_from(wire, end);
        let outages = net.outages(secs(10));
        assert!(outages.last() <= Some(&millis(2_500)), "{outages:?}");
        assert_sound(&mut net);
    }
}

#[test]
fn a_link_that_data_shows_to_be_dead_is_left_within_half_a_second() {
    let mut net = grid(1);
    let wire = net.wire_between(24, 25);
    net.cut(wire);
    net.run_for(millis(20));
    for end in [24, 25] {
        net.hint(end, wire, Hint::Silent);
    }
    let outages = net.outages(secs(10));
    assert!(outages.last() <= Some(&millis(550)), "{:?}", outages.last());
    assert_sound(&mut net);
}

#[test]
fn a_link_that_is_known_to_be_cut_is_left_at_once() {
    let mut net = grid(1);
    let wire = net.wire_between(24, 25);
    net.cut(wire);
    for end in [24, 25] {
        net.hint(end, wire, Hint::CarrierLost);
    }
    let outages = net.outages(secs(10));
    assert!(outages.last() <= Some(&millis(150)), "{:?}", outages.last());
    net.heal(wire);
    net.run_for(secs(20));
    assert!(
        !net.cost(24, wire).is_finite(),
        "until it is said to be there again"
    );
    for end in [24, 25] {
        net.hint(end, wire, Hint::CarrierBack);
    }
    assert!(net.run_until(secs(2), Net::is_optimal));
    assert_sound(&mut net);
}

#[test]
fn a_suspicion_that_is_wrong_moves_no_traffic() {
    let mut net = grid(1);
    let before = net.fib_changes();
    for wire in 0..net.wires() {
        let [a, b] = net.wire(wire).ends;
        net.hint(a, wire, Hint::Silent);
        net.hint(b, wire, Hint::Silent);
    }
    net.run_for(secs(5));
    assert_eq!(net.fib_changes(), before);
}

#[test]
fn a_node_that_dies_is_left_within_two_seconds_and_missed_by_nobody_else() {
    let mut net = grid(3);
    net.kill(24);
    let outages = net.outages(secs(10));
    assert!(outages.last() <= Some(&secs(2)), "{:?}", outages.last());
    net.run_for(secs(5));
    net.restart(24, Kept::State);
    heals(&mut net, secs(3));
    assert_sound(&mut net);
}

#[test]
fn a_node_that_has_lost_its_state_is_back_within_seconds() {
    let mut net = grid(3);
    for _ in 0..3 {
        net.restart(24, Kept::State);
        net.run_for(secs(10));
    }
    net.restart(24, Kept::Nothing);
    heals(&mut net, secs(5));
    assert_sound(&mut net);
}

#[test]
fn a_ring_of_50_turns_within_five_seconds() {
    let mut net = Net::ring(50, 1);
    assert!(net.run_until(secs(3), Net::is_connected));
    net.run_for(secs(20));
    net.cut(0);
    let outages = net.outages(secs(20));
    assert!(outages.last() <= Some(&secs(5)), "{:?}", outages.last());
    net.heal(0);
    heals(&mut net, secs(5));
    assert_sound(&mut net);
}

#[test]
fn no_single_failure_of_any_link_leaves_anybody_out_for_ten_seconds() {
    let mut net = Net::random(16, 3, 9);
    net.run_for(secs(10));
    for wire in 0..net.wires() {
        net.cut(wire);
        assert!(
            net.run_until(secs(3), Net::is_connected),
            "{wire}: {:?}",
            net.unreached()
        );
        net.run_for(secs(2));
        net.heal(wire);
        assert!(
            net.run_until(secs(8), Net::is_optimal),
            "{wire}: {:?}",
            net.detours(0)
        );
    }
    assert_sound(&mut net);
}
