//! Links and nodes fail, and traffic finds another way.

use meshd::sim::{Plan, secs};

#[test]
fn a_relay_is_killed_under_a_flow() {
    let mut net = Plan::ring(4).start();
    net.run_for(secs(10));
    let flow = net.flow("a", "c");
    net.run_for(secs(5));
    let path = net.path("a", "c");
    let relay = path.split(' ').nth(1).unwrap().to_owned();
    net.mark(flow);
    net.kill(&relay);
    net.run_for(secs(20));
    assert!(net.gap(flow) <= secs(1), "{:?}", net.gap(flow));
    net.assert_sound();
}

#[test]
fn a_far_link_fails_silently_under_a_flow() {
    let mut net = Plan::ring(6).start();
    net.run_for(secs(10));
    let flow = net.flow("a", "d");
    net.run_for(secs(5));
    let path = net.path("a", "d");
    let nodes: Vec<String> = path.split(' ').map(Into::into).collect();
    net.mark(flow);
    net.cut(&nodes[1], &nodes[2]);
    net.run_for(secs(20));
    assert!(net.gap(flow) <= secs(2), "{:?}", net.gap(flow));
    net.assert_sound();
}

#[test]
fn a_partition_of_30_s_heals() {
    let mut net = Plan::ring(6).start();
    net.run_for(secs(10));
    let flow = net.flow("a", "d");
    net.run_for(secs(5));
    net.cut("a", "b");
    net.cut("a", "f");
    net.run_for(secs(30));
    net.heal("a", "b");
    net.heal("a", "f");
    assert!(net.run_until(|net| net.is_all_routed(), secs(5)));
    net.mark(flow);
    net.run_for(secs(10));
    assert!(net.gap(flow) < secs(1), "{:?}", net.gap(flow));
    net.assert_sound();
}
