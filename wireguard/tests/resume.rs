//! Time that went by without us: the machine slept, or the process was stopped.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::time::Duration;

use common::*;
use wireguard::Upkeep;
use wireguard::constants::{RESUME_BURST, RESUME_INTERVAL};

/// Lets time pass unnoticed by the nodes, which then all notice at once.
fn sleep(lab: &mut Lab, duration: Duration) {
    lab.now += duration;
    for node in 0..lab.nodes.len() {
        lab.nodes[node].device.handle_resume(lab.now);
        lab.drain(node);
    }
}

both_engines! {
    fn sessions_that_expired_meanwhile_are_renewed_from_both_ends_at_once(engine: Engine) {
        let mut lab = Lab::connected(engine);
        sleep(&mut lab, secs(600));
        assert!(!lab.session(0, 1).is_established());
        lab.run(secs(1));
        assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
        lab.send(0, 1).unwrap();
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!((lab.nodes[0].inbox.len(), lab.nodes[1].inbox.len()), (1, 1));
    }

    fn a_session_that_still_works_is_renewed_and_works_meanwhile(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let before = lab.times(0, 1).len() + lab.times(1, 1).len();
        sleep(&mut lab, secs(20));
        lab.send(0, 1).unwrap();
        lab.run(secs(1));
        assert!(lab.times(0, 1).len() + lab.times(1, 1).len() > before);
        assert_eq!(lab.nodes[1].inbox.len(), 1);
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.nodes[0].inbox.len(), 1);
    }

    fn who_never_had_a_session_is_not_called(engine: Engine) {
        let mut lab = Lab::pair(engine);
        sleep(&mut lab, secs(600));
        lab.run(secs(30));
        assert!(lab.sent.is_empty());
    }

    fn many_sessions_are_renewed_in_bounded_bursts(engine: Engine) {
        let mut lab = Lab::new(engine, 1);
        let peers = 3 * usize::try_from(RESUME_BURST).unwrap() - 50;
        for other in 1..=peers {
            let mut peer = peer(other);
            peer.upkeep = Upkeep::Always;
            lab.add(0, peer);
        }
        lab.run(secs(1));
        lab.sent.clear();
        sleep(&mut lab, secs(600));
        let woken = lab.now - lab.start;
        lab.run(secs(2));
        let mut bursts = [0; 8];
        for (at, ..) in &lab.sent {
            bursts[usize::try_from((*at - woken).as_millis() / RESUME_INTERVAL.as_millis()).unwrap()] += 1;
        }
        assert_eq!(bursts.iter().sum::<u64>(), peers as u64);
        assert!(bursts.iter().all(|&burst| burst <= RESUME_BURST), "{bursts:?}");
    }
}
