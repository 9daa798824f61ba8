//! The promise: whatever is sent to the admin socket, packets flow, memory is bounded, and an honest client is answered.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::time::Instant;

use netns_tests::lab::program;
use netns_tests::traffic::Pings;
use netns_tests::wait::millis;
use netns_tests::{Daemon, Lab, Process, Settings, secs, wait_until};

/// The most that clients may add to the resident memory of a daemon: all places with the largest head and the largest body.
const MEMORY: u64 = 16 << 20;

fn pair(lab: &Lab) -> (Daemon, Daemon) {
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (
        a.meshd(for_a.log_level("info")),
        b.meshd(for_b.log_level("info")),
    );
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    (a, b)
}

/// Pings while the load runs; none may be lost.
#[track_caller]
fn pings_survive(a: &Daemon, b: &Daemon, load: &mut Process) {
    while load.is_running() {
        let pings = Pings::send(a.host(), b.address().into(), 20, millis(20)).unwrap();
        assert_eq!(pings.rtt_ms.len(), 20, "pings were lost");
    }
    assert!(load.wait(secs(1)).success(), "{}", load.log());
}

#[test]
fn a_hundred_thousand_bad_requests_harm_nothing() {
    let lab = Lab::new("hostile admin frames");
    let (a, b) = pair(&lab);
    let (process, before) = (a.id(), memory(a.id()));
    let lines = a.log().lines().count();
    let mut load = a.host().spawn(&format!(
        "{} abuse-admin-frames {} 100000",
        program("netns-probe"),
        a.socket().display()
    ));
    pings_survive(&a, &b, &mut load);
    println!("{} {before} {}", load.log(), memory(a.id()));
    let start = Instant::now();
    a.status();
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    assert_eq!(a.id(), process);
    assert!(memory(a.id()) <= before + MEMORY);
    assert!(
        a.log().lines().count() < lines + 100,
        "the log is full of it"
    );
    assert!(a.json("wg list")["devices"].as_array().unwrap().is_empty());
}

#[test]
fn a_thousand_clients_that_hold_on_give_way_to_one_that_asks() {
    let lab = Lab::new("hostile admin holders");
    let (a, b) = pair(&lab);
    let before = memory(a.id());
    let mut load = a.host().spawn(&format!(
        "{} abuse-admin-hold {} 1000 12",
        program("netns-probe"),
        a.socket().display()
    ));
    wait_until(secs(10), "all are connected", || {
        load.log().contains("ready")
    });
    // Among them: behind all that came before.
    let start = Instant::now();
    a.json("status");
    let among = start.elapsed();
    assert!(load.is_running());
    assert!(among < secs(10), "{among:?}");
    pings_survive(&a, &b, &mut load);
    let after = memory(a.id());
    println!("{} answered after {among:?}, {before} {after}", load.log());
    let start = Instant::now();
    a.status();
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    assert!(after <= before + MEMORY, "{before} {after}");
}

#[test]
fn other_users_are_refused() {
    let lab = Lab::new("hostile admin users");
    let id = lab.identity();
    let node = lab.host("a").meshd(Settings::new(&id));
    let refused = |verb: &str| {
        let line = format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups {} --socket {} {verb}",
            netns_tests::daemon::program(),
            node.socket().display()
        );
        let output = node.host().output(&line, secs(10)).unwrap();
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(output.stderr.contains("next: "), "{output:?}");
    };
    for verb in ["status", "peers", "wg list", "reload"] {
        refused(verb);
    }
    // The same where the file would let them in: the daemon asks who they are.
    node.host()
        .run(&format!("chmod 666 {}", node.socket().display()));
    for verb in ["status", "peers", "wg list", "reload"] {
        refused(verb);
    }
}

/// Resident memory of a process, in bytes.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.unwrap().parse::<u64>().unwrap() << 10
}
