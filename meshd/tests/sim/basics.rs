//! Sessions open on demand, over whatever way there is, and the simulation itself can be repeated.

use meshd::{
    discard::Reason,
    sim::{Kept, Net, Plan, millis, secs},
};

#[test]
fn neighbours_have_sessions_and_far_nodes_have_none_until_somebody_wants_them() {
    let mut net = Plan::line(5).start();
    assert!(net.run_until(|net| net.is_all_routed(), secs(2)));
    assert!(net.is_open("a", "b") && !net.is_open("a", "e"));
    assert!(net.ping("a", "e").is_some_and(|rtt| rtt < millis(100)));
    assert_eq!(net.path("a", "e"), "a b c d e");
    assert_eq!(net.path("e", "a"), "e d c b a");
    net.assert_sound();
}

#[test]
fn strangers_of_an_open_mesh_meet_by_the_records_of_their_routes() {
    let mut net = Plan::line(5).open().start();
    assert!(net.run_until(|net| net.is_all_routed(), secs(2)));
    assert!(net.ping("a", "e").is_some());
    assert_eq!(net.path("a", "e"), "a b c d e");
    assert_eq!(net.path("e", "a"), "e d c b a");
    net.assert_sound();
}

#[test]
fn a_stranger_of_a_closed_mesh_is_answered_that_there_is_no_route() {
    let mut net = Plan::line(3).open().start();
    net.reconfigure("a", |text| *text = text.replace("open = true", ""));
    assert!(net.run_until(|net| net.is_routed("a", "c"), secs(2)));
    assert_eq!(net.echo("a", "c", 100), meshd::sim::Fate::Unreachable(1, 0));
    assert!(!net.is_open("a", "c"));
    net.assert_sound();
}

fn eventful(seed: u64) -> Net {
    let mut net = Plan::random(7, 3, seed).start();
    let flow = net.flow("a", "g");
    net.run_for(secs(3));
    net.cut("a", "b");
    net.run_for(secs(5));
    net.restart("c", Kept::Nothing);
    net.heal("a", "b");
    net.run_for(secs(5));
    net.end(flow);
    net
}

#[test]
fn one_seed_gives_one_trace() {
    let [first, again, other] = [5, 5, 6].map(eventful);
    assert_eq!(first.trace(), again.trace());
    assert_ne!(first.trace(), other.trace());
    first.assert_sound();
}

#[test]
fn a_mesh_at_rest_says_little_and_discards_nothing() {
    let mut net = Plan::ring(4).start();
    net.run_for(secs(10));
    let before = *net.wire(0);
    let count = |net: &Net| {
        let reasons = [Reason::RelayNoRoute, Reason::NoPath, Reason::HopLimit];
        let names = net.names();
        let counts = names
            .iter()
            .map(|name| reasons.map(|reason| net.count(name, reason)));
        counts.flatten().sum::<u64>()
    };
    net.run_for(secs(60));
    let bytes = net.wire(0).traffic[0].bytes - before.traffic[0].bytes;
    assert_eq!(count(&net), 0);
    assert!(bytes / 60 < 250, "{} B/s", bytes / 60);
    net.assert_sound();
}
