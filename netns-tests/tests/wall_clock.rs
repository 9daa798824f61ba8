//! The promise: whoever sets the wall clock, and however far, tunnels go on, and `status` says what happened.
#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::wait::hold_for;
use netns_tests::wall_clock::WallClock;
use netns_tests::{Daemon, Lab, Settings, secs, wait_until};

/// What `status` says about the clock.
fn said(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let warnings = status["warnings"].as_array().unwrap().iter();
    warnings
        .filter(|warning| warning["code"] == "CLOCK-JUMP")
        .map(|warning| warning["text"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn says(daemon: &Daemon, text: &str) {
    wait_until(secs(10), &format!("status says {text:?}"), || {
        let said = said(daemon);
        if said.iter().any(|said| said.contains(text)) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
}

/// A node whose clock is set, and another that keeps time.
struct Scene {
    clock: WallClock,
    node: Daemon,
    other: Daemon,
    _lab: Lab,
}

impl Scene {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let (node, other) = (lab.host("node"), lab.host("other"));
        let link = lab.link(&node, &other);
        let (id, id_other) = (lab.identity(), lab.identity());
        let (for_node, for_other) =
            Settings::pair((&id, link.a.v4.into()), (&id_other, link.b.v4.into()));
        let clock = WallClock::new(&node);
        let node = node.meshd(for_node.started_by(&clock.wrapper()));
        let other = other.meshd(for_other);
        let scene = Self {
            clock,
            node,
            other,
            _lab: lab,
        };
        scene.connects(10, "at first");
        scene
    }

    /// Both have something to send until they reach each other.
    #[track_caller]
    fn connects(&self, seconds: u64, when: &str) {
        wait_until(
            secs(seconds),
            &format!("{when} both reach each other"),
            || {
                let [there, back] = [
                    self.node.ping(self.other.address()),
                    self.other.ping(self.node.address()),
                ];
                there.and(back)
            },
        );
    }
}

#[test]
fn a_clock_that_is_set_a_week_ahead_and_back_costs_no_packet_and_is_told() {
    let scene = Scene::new("wall clock set");
    let process = scene.node.id();
    assert!(said(&scene.node).is_empty());
    for (offset, text) in [
        ("+7d", "set ahead by 7 days"),
        ("+0", "set back by 7 days"),
        ("-7d", "set back by 7 days"),
        ("+7d", "set ahead by 14 days"),
    ] {
        scene.clock.set(offset);
        says(&scene.node, text);
        hold_for(secs(3), &format!("at {offset} the session"), || {
            scene.node.ping(scene.other.address())
        });
        // New handshakes in both directions, with the clock as it is now.
        scene.other.restart();
        scene.connects(10, &format!("after a new handshake at {offset}"));
    }
    assert_eq!(scene.node.id(), process);
    let log = scene.node.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(said(&scene.other).is_empty());
    assert!(scene.node.stop().unwrap().success());
}

#[test]
fn after_a_restart_a_week_earlier_who_sends_to_the_node_reaches_it_within_half_a_minute() {
    let scene = Scene::new("wall clock restart");
    // A node that starts calls: now the other has seen the time in its handshake.
    scene.node.restart();
    scene.connects(10, "after a restart in the present");
    scene.clock.set("-7d");
    says(&scene.node, "set back by 7 days");
    scene.node.restart();
    says(&scene.node, "behind the time when a peer was last seen");
    // The other refuses the node's handshakes, which are older than those it has seen. Its own packets go unanswered until it calls.
    scene.connects(30, "after a restart in the past");

    // And when the clock is put right.
    scene.clock.set("+0");
    says(&scene.node, "set ahead by 7 days");
    scene.node.restart();
    scene.connects(10, "after a restart in the present");
    assert!(said(&scene.node).is_empty());
}
