//! For whom a node relays, and how much.

use meshd::{
    discard::Reason,
    sim::{Plan, millis, secs},
};

#[test]
fn who_does_not_relay_is_no_way() {
    let mut net = Plan::ring(4).node("b", "relay = \"off\"").start();
    net.run_for(secs(5));
    assert!(net.ping("a", "c").is_some_and(|rtt| rtt < millis(100)));
    assert_eq!(net.path("a", "c"), "a d c");
    assert!(net.ping("a", "b").is_some() && net.ping("b", "d").is_some());
    assert_eq!(net.count("b", Reason::RelayRefused), 0);
    net.assert_sound();
}

#[test]
fn who_relays_for_members_carries_nothing_of_strangers() {
    let mut net = Plan::line(3).open().start();
    net.run_for(secs(5));
    assert!(net.ping("a", "c").is_some(), "peers of b");
    // From here on b knows a no more.
    net.reconfigure("b", |text| {
        let at = text.find("[[peers]]\nname = \"a\"").unwrap();
        let end = text[at + 1..]
            .find("[[peers]]")
            .map_or(text.len(), |next| at + 1 + next);
        text.replace_range(at..end, "");
    });
    net.run_for(secs(15));
    assert!(
        net.ping("a", "b").is_some(),
        "a stranger may have a session"
    );
    assert_eq!(net.ping("a", "c"), None);
    assert!(!net.is_routed("a", "c"), "and hears of no routes in vain");
    net.reconfigure("b", |text| {
        *text = text.replace("[node]", "[node]\nrelay = \"open\"")
    });
    net.run_for(secs(5));
    assert!(net.ping("a", "c").is_some());
    net.assert_sound();
}

#[test]
fn what_is_relayed_is_capped() {
    let mut net = Plan::line(3).node("b", "relay_mbit = 1").start();
    net.run_for(secs(5));
    assert!(net.ping("a", "c").is_some());
    // 4.8 Mbit/s of packets.
    let flow = net.flow_of("a", "c", millis(2), 1200);
    net.run_for(secs(10));
    let mbit = net.flowed(flow).arrived() * 1280 * 8 / 10;
    assert!((800_000..1_100_000).contains(&mbit), "{mbit} bit/s");
    assert!(
        net.ping("a", "b").is_some_and(|rtt| rtt < millis(20)),
        "what is b's own is not capped"
    );
    net.assert_sound();
}
