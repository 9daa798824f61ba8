//! Packets of every size arrive, or their senders hear that they are too long.

use meshd::sim::{Fate, LEAST_ECHO, Net, Plan, millis, secs};

/// Sends a packet of every size from one node to another; each has to be answered or refused, and those that IPv6 promises answered.
fn all_sizes(net: &mut Net, from: &str, to: &str) {
    let fates = net.echoes(from, to, LEAST_ECHO..=1420);
    let lost: Vec<usize> = fates
        .iter()
        .filter(|(_, fate)| !matches!(fate, Fate::Answered(_) | Fate::TooBig(1280..)))
        .map(|(size, _)| *size)
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {from} to {to} lost: {:?}..{:?} {}",
        lost.len(),
        lost.first(),
        lost.last(),
        net.path(from, to)
    );
    let refused = fates
        .iter()
        .find(|(_, fate)| matches!(fate, Fate::TooBig(_)));
    assert!(refused.is_none_or(|(size, _)| *size > 1280), "{refused:?}");
}

#[test]
fn over_wide_wires() {
    for nodes in 2..=4 {
        let mut net = Plan::line(nodes).start();
        let last = net.names().pop().unwrap();
        net.run_for(secs(5));
        assert!(net.ping("a", &last).is_some());
        net.run_for(secs(5));
        all_sizes(&mut net, "a", &last);
        net.assert_sound();
    }
}

#[test]
fn over_an_underlay_of_1400() {
    for nodes in 2..=4 {
        let mut net = Plan::line(nodes).with_all(|wire| wire.mtu = 1400).start();
        let last = net.names().pop().unwrap();
        net.run_for(secs(10));
        assert!(net.ping("a", &last).is_some());
        net.run_for(secs(5));
        all_sizes(&mut net, "a", &last);
        net.assert_sound();
    }
}

#[test]
fn over_a_narrow_link_in_the_middle() {
    // A link of 1280 bytes has 60 bytes of headers on the underlay.
    let mut net = Plan::line(4).with("b", "c", |wire| wire.mtu = 1340).start();
    net.run_for(secs(10));
    assert!(net.ping("a", "d").is_some());
    net.run_for(secs(10));
    all_sizes(&mut net, "a", "d");
    all_sizes(&mut net, "d", "a");
    net.assert_sound();
}

#[test]
fn over_a_link_that_becomes_narrow_while_it_is_used() {
    let mut net = Plan::line(3).start();
    net.run_for(secs(10));
    net.flow_of("a", "c", millis(20), 1280);
    net.run_for(secs(5));
    net.wire_mut(1).mtu = 1360;
    net.run_for(secs(15));
    all_sizes(&mut net, "a", "c");
    net.run_for(secs(120));
    // Whatever makes the node choose the way again does not undo what was learned of it.
    net.reconfigure("a", |_| {});
    all_sizes(&mut net, "a", "c");
    net.wire_mut(1).mtu = 1500;
    // The link in the middle is looked at again, and the way over it after that.
    net.run_for(secs(1250));
    all_sizes(&mut net, "a", "c");
    assert_eq!(net.mtu("a", "c"), 1340);
    net.assert_sound();
}

#[test]
fn routing_crosses_a_narrow_link_whatever_it_has_to_say() {
    let leaves = 20;
    let mut plan = Plan::nodes(2 + 2 * leaves)
        .wire("a", "b")
        .with("a", "b", |wire| wire.mtu = 1340);
    let names = plan.names();
    for (n, name) in names.iter().enumerate().skip(2) {
        plan = plan.wire(["a", "b"][n % 2], name);
    }
    let mut net = plan.open().start();
    assert!(net.run_until(|net| net.is_all_routed(), secs(5)));
    net.restart("a", meshd::sim::Kept::State);
    assert!(net.run_until(|net| net.is_all_routed(), secs(5)));
    net.assert_sound();
}
