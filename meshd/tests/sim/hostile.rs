//! Relays that drop what they should carry, or carry it elsewhere.

use meshd::{
    discard::Reason,
    sim::{Crime, Deed, Net, Plan, dropping, millis, relaying, secs},
};

/// A diamond in which a's packets for d take the way by b, which is the shortest one.
fn diamond() -> Net {
    let plan = Plan::nodes(5)
        .wire("a", "b")
        .wire("b", "d")
        .wire("a", "c")
        .wire("c", "d")
        .wire("d", "e")
        .with("a", "c", |wire| wire.latency = millis(15))
        .with("c", "d", |wire| wire.latency = millis(15));
    let mut net = plan.start();
    net.run_for(secs(15));
    assert!(net.ping("a", "d").is_some());
    assert_eq!(net.path("a", "d"), "a b d");
    net
}

/// That b is left within 15 s once it does this, and not tried again soon.
fn leaves(crime: Crime, size: usize) {
    let mut net = diamond();
    let flow = net.flow_of("a", "d", millis(10), size);
    net.run_for(secs(5));
    net.corrupt("b", crime);
    assert!(
        net.run_until(|net| net.path("a", "d") == "a c d", secs(15)),
        "{}",
        net.path("a", "d")
    );
    net.mark(flow);
    let deserted = net.run_until(|net| net.path("a", "d") != "a c d", secs(120));
    assert!(!deserted, "back after {:?}", net.now());
    net.assert_sound();
}

#[test]
fn a_relay_that_drops_everything_is_left() {
    leaves(dropping(|_| true), 1200);
}

#[test]
fn a_relay_that_drops_long_packets_is_left() {
    leaves(dropping(|length| length > 1000), 1200);
}

#[test]
fn a_relay_that_drops_a_third_is_left() {
    let mut count = 0_u32;
    leaves(
        dropping(move |_| {
            count += 1;
            count.is_multiple_of(3)
        }),
        1200,
    );
}

#[test]
fn a_destination_that_answers_nobody_does_not_cost_its_relays_their_standing() {
    let mut net = diamond();
    assert!(net.ping("a", "e").is_some());
    net.flow("a", "d");
    net.flow("a", "e");
    net.run_for(secs(5));
    // The daemon of d is there and routes, but answers nothing that reaches it by a relay.
    net.corrupt("d", relaying(Deed::Drop));
    net.run_for(secs(120));
    for name in ["a", "b", "c", "d", "e"] {
        let status = net.with_node(name, |node, now| node.status(now));
        assert!(
            status.warnings.iter().all(|w| w.code != "RELAY-DROPS"),
            "{name}: {:?}",
            status.warnings
        );
    }
    net.assert_sound();
}

#[test]
fn a_relay_that_drops_handshakes_is_left() {
    let mut net = Plan::nodes(4)
        .wire("a", "b")
        .wire("b", "d")
        .wire("a", "c")
        .wire("c", "d")
        .with("a", "c", |wire| wire.latency = millis(15))
        .with("c", "d", |wire| wire.latency = millis(15))
        .start();
    net.run_for(secs(15));
    net.corrupt("b", dropping(|_| true));
    net.flow("a", "d");
    assert!(
        net.run_until(|net| net.path("a", "d") == "a c d", secs(15)),
        "{:?}",
        net.path("a", "d")
    );
    net.assert_sound();
}

#[test]
fn a_relay_that_posts_what_it_should_carry_is_left() {
    leaves(relaying(Deed::Post), 1200);
    leaves(relaying(Deed::SendAndPost), 1200);
}

/// That neither of two nodes believes in a direct way to the other.
fn no_direct_path(net: &mut Net, a: &str, b: &str) {
    for (name, peer) in [(a, b), (b, a)] {
        let path = net.peer(name, peer).map(|peer| peer.path);
        let endpoint = path.and_then(|path| path.endpoint);
        assert_eq!(endpoint, None, "{name} to {peer} at {:?}", net.now());
    }
}

#[test]
fn what_a_relay_posts_on_the_underlay_makes_no_direct_path() {
    for deed in [Deed::Post, Deed::SendAndPost] {
        // The relay has a wire to both, and they have none.
        let mut net = Plan::line(3).start();
        net.run_for(secs(5));
        assert!(net.ping("a", "c").is_some());
        net.corrupt("b", relaying(deed));
        let flow = net.flow("a", "c");
        for _ in 0..200 {
            net.run_for(secs(1));
            no_direct_path(&mut net, "a", "c");
        }
        assert!(net.count("a", Reason::SignalAstray) > 0);
        assert_eq!(net.flowed(flow).duplicates, 0);
        assert_eq!([net.links("a").len(), net.links("c").len()], [1, 1]);
        net.reform("b");
        assert!(net.run_until(|net| net.path("a", "c") == "a b c", secs(20)));
        net.mark(flow);
        net.run_for(secs(20));
        assert!(net.gap(flow) < secs(5), "{:?}", net.gap(flow));
        net.assert_sound();
    }
}

#[test]
fn a_handshake_that_a_relay_posts_on_the_underlay_makes_no_direct_path() {
    for deed in [Deed::Post, Deed::SendAndPost] {
        let mut net = Plan::line(3).start();
        net.run_for(secs(5));
        net.corrupt("b", relaying(deed));
        net.flow("a", "c");
        for _ in 0..60 {
            net.run_for(secs(1));
            no_direct_path(&mut net, "a", "c");
        }
        assert_eq!([net.links("a").len(), net.links("c").len()], [1, 1]);
        net.reform("b");
        assert!(net.run_until(|net| net.path("a", "c") == "a b c", secs(20)));
        assert!(net.run_until(|net| net.path("c", "a") == "c b a", secs(1)));
        net.assert_sound();
    }
}
