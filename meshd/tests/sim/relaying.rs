//! For whom a node relays, and how much.

use std::{cell::Cell, rc::Rc};

use meshd::{
    discard::Reason,
    labelled::Head,
    sim::{Carried, Crime, Deed, Kept, Net, Plan, carried, millis, secs},
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

/// Of what a machine hands on between others from now on, whether anything is nested, and whether anything is labelled.
fn forms(net: &mut Net, relay: &str) -> (bool, bool) {
    let seen = Rc::new(Cell::new((false, false)));
    let noted = Rc::clone(&seen);
    let crime: Crime = Box::new(move |datagram| {
        if matches!(carried(datagram), Carried::Relayed { .. }) {
            let (nested, labelled) = noted.get();
            let is_labelled = Head::of(datagram).is_some();
            noted.set((nested || !is_labelled, labelled || is_labelled));
        }
        Deed::Send
    });
    net.corrupt(relay, crime);
    net.run_for(secs(2));
    net.reform(relay);
    seen.get()
}

#[test]
fn a_flow_through_others_goes_under_labels_soon_and_stays_there() {
    let mut net = Plan::line(5).start();
    net.run_for(secs(5));
    assert!(net.ping("a", "e").is_some());
    let flow = net.flow("a", "e");
    net.run_for(secs(3));
    // Labels are renewed, and so are the keys of the session.
    for _ in 0..4 {
        for relay in ["b", "c", "d"] {
            assert_eq!(forms(&mut net, relay), (false, true), "{relay}");
        }
        net.run_for(secs(60));
    }
    assert!(net.gap(flow) < millis(100), "{:?}", net.gap(flow));
    assert_eq!(net.path("a", "e"), "a b c d e");
    for name in net.names() {
        assert_eq!(net.count(&name, Reason::UnknownLabel), 0, "{name}");
        assert_eq!(net.count(&name, Reason::LabelForeign), 0, "{name}");
    }
    net.assert_sound();
}

#[test]
fn a_relay_without_a_label_of_the_next_hands_on_in_the_nested_form() {
    let mut net = Plan::ring(6).start();
    net.run_for(secs(5));
    assert!(net.ping("a", "c").is_some());
    let flow = net.flow("a", "c");
    net.run_for(secs(3));
    let path = net.path("a", "c");
    net.mark(flow);
    // The other way round, where nobody has given a label yet.
    net.cut("b", "c");
    net.run_for(secs(5));
    assert_ne!(net.path("a", "c"), path);
    assert!(net.gap(flow) < secs(2), "{:?}", net.gap(flow));
    net.run_for(secs(5));
    assert_eq!(forms(&mut net, "e"), (false, true));
    net.assert_sound();
}

#[test]
fn a_relay_that_has_forgotten_its_labels_gives_new_ones() {
    let mut net = Plan::line(4).start();
    net.run_for(secs(5));
    let flow = net.flow("a", "d");
    net.run_for(secs(5));
    net.kill("b");
    net.run_for(secs(2));
    net.restart("b", Kept::State);
    net.run_for(secs(10));
    net.mark(flow);
    for relay in ["b", "c"] {
        assert_eq!(forms(&mut net, relay), (false, true), "{relay}");
    }
    assert!(net.gap(flow) < millis(100), "{:?}", net.gap(flow));
    net.assert_sound();
}

#[test]
fn datagrams_under_a_label_that_come_from_elsewhere_go_nowhere() {
    let mut net = Plan::line(3).start();
    net.run_for(secs(5));
    let flow = net.flow("a", "c");
    net.run_for(secs(3));
    assert_eq!(forms(&mut net, "b"), (false, true));
    assert_eq!(net.count("c", Reason::LabelForeign), 0);
    net.mark(flow);
    // c hears b at another address from here on, and takes nothing under the label of the old one until b has shown that it has moved.
    net.rebind("b", 1);
    net.run_for(secs(5));
    assert!(net.count("c", Reason::LabelForeign) > 0);
    assert!(net.gap(flow) < secs(2), "{:?}", net.gap(flow));
    assert_eq!(forms(&mut net, "b"), (false, true));
    net.assert_sound();
}

/// The share of a flow's packets from now on that arrive with a mark, in percent.
fn marked(net: &mut Net, flow: usize) -> u64 {
    let (arrived, marked) = (net.flowed(flow).arrived(), net.flowed(flow).marked);
    net.run_for(secs(2));
    let it = net.flowed(flow);
    assert!(it.arrived() - arrived > 50, "it flows");
    (it.marked - marked) * 100 / (it.arrived() - arrived)
}

#[test]
fn a_mark_on_any_hop_is_one_on_the_packet_in_whatever_form_it_goes() {
    // Under labels; and from b on nested and in fragments, since the link in the middle is too narrow for labelled ones.
    for (size, mtu, is_nested) in [(500, 1500, false), (1280, 1340, true)] {
        for hop in 0..3 {
            let mut net = Plan::line(4).with("b", "c", |wire| wire.mtu = mtu).start();
            net.run_for(secs(10));
            assert!(net.ping("a", "d").is_some());
            let flow = net.flow_of("a", "d", millis(20), size);
            net.run_for(secs(5));
            assert_eq!(forms(&mut net, "b"), (is_nested, true), "{size} bytes");
            assert_eq!(marked(&mut net, flow), 0, "hop {hop}, {size} bytes");
            net.wire_mut(hop).is_congested = true;
            net.run_for(secs(1));
            assert_eq!(marked(&mut net, flow), 100, "hop {hop}, {size} bytes");
            net.wire_mut(hop).is_congested = false;
            net.run_for(secs(1));
            assert_eq!(marked(&mut net, flow), 0, "hop {hop}, {size} bytes");
            net.assert_sound();
        }
    }
}
