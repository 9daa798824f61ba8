//! Several links between two nodes.

use meshd::{
    admin::LinkState,
    sim::{Net, Plan, millis, secs},
};

/// How many links of a node are up.
fn up(net: &mut Net, name: &str) -> usize {
    let links = net.links(name);
    links
        .iter()
        .filter(|link| link.state == LinkState::Up)
        .count()
}

#[test]
fn two_uplinks_are_two_links_however_many_ends_dial_them() {
    let both = Plan::line(2).wire("a", "b");
    let one = Plan::line(2)
        .only_dials("a", "b")
        .wire("a", "b")
        .only_dials("a", "b");
    let crosswise = Plan::line(2)
        .only_dials("a", "b")
        .wire("a", "b")
        .only_dials("b", "a");
    for plan in [both, one, crosswise] {
        let mut net = plan.start();
        net.run_for(secs(5));
        assert_eq!([up(&mut net, "a"), up(&mut net, "b")], [2, 2]);
        assert_eq!([net.links("a").len(), net.links("b").len()], [2, 2]);
        net.assert_sound();
    }
}

#[test]
fn both_ends_send_by_the_same_of_two_links() {
    for seed in 0..8 {
        let mut net = Plan::line(2).wire("a", "b").seed(seed).start();
        net.run_for(secs(10));
        assert_eq!(net.used_wire("a", "b"), net.used_wire("b", "a"));
    }
}

#[test]
fn when_the_used_one_of_two_links_is_cut_traffic_goes_on_over_the_other() {
    let mut net = Plan::line(2).wire("a", "b").start();
    net.run_for(secs(10));
    let flow = net.flow("a", "b");
    for _ in 0..3 {
        net.run_for(secs(3));
        net.mark(flow);
        let used = net.used_wire("a", "b").unwrap();
        net.wire_mut(used).is_open = [false; 2];
        net.run_for(secs(15));
        assert!(net.gap(flow) <= millis(500), "{:?}", net.gap(flow));
        net.wire_mut(used).is_open = [true; 2];
        assert!(net.run_until(|net| up(net, "a") == 2 && up(net, "b") == 2, secs(5)));
    }
    assert_eq!(net.flowed(flow).duplicates, 0);
    net.assert_sound();
}

#[test]
fn the_address_of_one_of_two_links_changes() {
    let mut net = Plan::line(2).wire("a", "b").start();
    net.run_for(secs(10));
    let flow = net.flow("a", "b");
    for (name, wire) in [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 0), ("b", 0)] {
        net.run_for(secs(2));
        net.mark(flow);
        net.rebind(name, wire);
        net.run_for(secs(10));
        assert!(
            net.gap(flow) <= secs(1),
            "{name} {wire}: {:?}",
            net.gap(flow)
        );
        assert_eq!(
            [up(&mut net, "a"), up(&mut net, "b")],
            [2, 2],
            "{name} {wire}"
        );
        assert_eq!([net.links("a").len(), net.links("b").len()], [2, 2]);
    }
    net.assert_sound();
}

#[test]
fn a_node_that_moves_is_found_again_by_its_only_link() {
    let mut net = Plan::line(2).only_dials("a", "b").start();
    net.run_for(secs(10));
    for moves in 0..4 {
        net.run_for(secs(2));
        let flow = net.flow("a", "b");
        net.renumber("a", 0);
        net.run_for(secs(5));
        assert!(net.gap(flow) <= millis(100), "{moves}: {:?}", net.gap(flow));
        net.end(flow);
        net.run_for(secs(5));
        net.rebind("a", 0);
        net.run_for(secs(5));
        assert!(
            net.ping("b", "a").is_some(),
            "idle, and called by the other end"
        );
        assert_eq!([up(&mut net, "a"), up(&mut net, "b")], [1, 1]);
    }
    net.assert_sound();
}
