//! Machines that sleep, clocks that leap, daemons that are started again.

use meshd::sim::{Kept, Plan, secs};

#[test]
fn a_machine_that_wakes_up_is_back_within_five_seconds() {
    for asleep in [secs(3), secs(20), secs(170), secs(600), secs(7200)] {
        let mut net = Plan::ring(5).start();
        net.run_for(secs(10));
        let flow = net.flow("a", "c");
        net.run_for(secs(5));
        net.suspend("c");
        net.run_for(asleep);
        net.resume("c");
        assert!(
            net.run_until(|net| net.is_all_routed(), secs(5)),
            "{asleep:?}"
        );
        net.mark(flow);
        net.run_for(secs(10));
        assert!(net.gap(flow) < secs(5), "{asleep:?}: {:?}", net.gap(flow));
        net.assert_sound();
    }
}

#[test]
fn a_relay_that_sleeps_is_gone_and_comes_back() {
    let mut net = Plan::ring(5).start();
    net.run_for(secs(10));
    let flow = net.flow("a", "c");
    net.run_for(secs(5));
    net.mark(flow);
    net.suspend("b");
    net.run_for(secs(30));
    assert!(net.gap(flow) <= secs(1), "{:?}", net.gap(flow));
    net.resume("b");
    net.run_for(secs(60));
    assert!(net.gap(flow) <= secs(1), "{:?}", net.gap(flow));
    assert!(net.is_routed("b", "d"));
    net.assert_sound();
}

#[test]
fn a_clock_that_leaps_or_is_set_back_costs_little() {
    let mut net = Plan::ring(5).start();
    net.run_for(secs(10));
    let flow = net.flow("a", "c");
    for name in ["a", "b", "c"] {
        net.run_for(secs(5));
        net.mark(flow);
        net.leap(name, secs(4));
        net.run_for(secs(20));
        net.mark(flow);
        net.leap(name, secs(4000));
        net.run_for(secs(20));
        assert!(net.gap(flow) < secs(5));
        net.mark(flow);
        net.set_back(name, secs(3));
        net.run_for(secs(20));
    }
    assert!(net.is_all_routed());
    net.assert_sound();
}

#[test]
fn a_daemon_that_is_started_again_is_back_soon() {
    for kept in [Kept::State, Kept::Nothing] {
        for name in ["a", "b", "c"] {
            let mut net = Plan::line(4).start();
            net.run_for(secs(10));
            let flow = net.flow("a", "c");
            for _ in 0..3 {
                net.run_for(secs(10));
                net.mark(flow);
                net.restart(name, kept);
                net.run_for(secs(20));
                assert!(net.gap(flow) < secs(5), "{:?}", net.gap(flow));
            }
            assert!(net.is_all_routed());
            net.assert_sound();
        }
    }
}
