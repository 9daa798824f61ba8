//! A session goes straight or through other nodes, and moves from one to the other.

use meshd::sim::{Plan, millis, secs};

#[test]
fn a_relayed_session_moves_to_a_link_that_appears_and_back_without_a_handshake() {
    let mut net = Plan::line(3).wire("a", "c").cut("a", "c").start();
    assert!(net.run_until(|net| net.is_all_routed(), secs(2)));
    assert!(net.ping("a", "c").is_some());
    assert_eq!(net.path("a", "c"), "a b c");
    let before = [net.handshakes("a", "c"), net.handshakes("c", "a")];
    let flow = net.flow("a", "c");
    net.run_for(secs(5));
    net.heal("a", "c");
    assert!(net.run_until(|net| net.path("a", "c") == "a c", secs(40)));
    assert!(net.run_until(|net| net.path("c", "a") == "c a", secs(40)));
    net.run_for(secs(2));
    assert_eq!(net.flowed(flow).duplicates, 0);
    // What is on its way just now.
    assert!(net.flowed(flow).lost() <= 1);
    net.mark(flow);
    net.cut("a", "c");
    assert!(net.run_until(|net| net.path("a", "c") == "a b c", secs(2)));
    net.run_for(secs(5));
    assert!(net.gap(flow) < secs(1), "{:?}", net.gap(flow));
    assert_eq!([net.handshakes("a", "c"), net.handshakes("c", "a")], before);
    net.assert_sound();
}

#[test]
fn a_link_that_vanishes_while_nobody_sends_is_left_within_two_seconds() {
    let mut net = Plan::line(3).wire("a", "c").start();
    net.run_for(secs(10));
    assert!(net.ping("a", "c").is_some());
    net.run_for(secs(20));
    assert_eq!(net.path("a", "c"), "a c");
    net.cut("a", "c");
    assert!(
        net.run_until(|net| net.path("a", "c") == "a b c", secs(2)),
        "{}",
        net.path("a", "c")
    );
    assert!(net.run_until(|net| net.path("c", "a") == "c b a", millis(1000)));
    net.assert_sound();
}
