//! The promise: after `kill -9` at any moment a node comes back as itself and finds nothing of its former life in its way.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::time::{Duration, Instant};

use netns_tests::abuse::Dice;
use netns_tests::wait::{millis, pace, poll_until};
use netns_tests::{Daemon, Lab, Settings, secs, wait_until};

/// How often it is killed.
const KILLS: usize = 100;
/// How soon it must answer after that.
const START: Duration = secs(2);

#[test]
fn a_hundred_kills_at_random_moments_leave_nothing_behind() {
    let lab = Lab::new("crash kills");
    let id = lab.identity();
    let settings = Settings::new(&id)
        .listen(&["[::]:0", "0.0.0.0:0"])
        .log_level("info");
    let node = lab.host("a").meshd(settings);
    let host = node.host().clone();
    let (key, port) = (node.json("key show"), port_of(&node));
    let fresh = network(&node);
    let mut dice = Dice::new(5);
    let mut longest = Duration::ZERO;
    let line = format!(
        "{} run --config {}",
        netns_tests::daemon::program(),
        node.configuration().display()
    );
    for kill in 0..KILLS {
        node.kill();
        // Then one that does not live long enough to say anything.
        let brief = host.spawn(&line);
        pace(Instant::now() + Duration::from_micros(dice.roll() % 60_000));
        drop(brief);
        let start = Instant::now();
        node.start_again();
        longest = longest.max(start.elapsed());
        assert!(
            start.elapsed() < START,
            "start {kill} took {:?}",
            start.elapsed()
        );
        assert_eq!(
            node.json("key show"),
            key,
            "kill {kill} changed the identity"
        );
        assert_eq!(port_of(&node), port, "kill {kill} changed the port");
        let settled = poll_until(millis(500), || {
            let now = network(&node);
            if now == fresh { Ok(()) } else { Err(now) }
        });
        settled.unwrap_or_else(|late| panic!("after kill {kill}:\n{}\nfresh:\n{fresh}", late.last));
    }
    println!("the longest start took {longest:?}");
    assert!(node.stop().unwrap().success());
    assert!(!node.socket().exists());
    let left = host.run("ip -6 rule") + &host.run("ip -6 route show table all");
    assert!(
        !left.contains("5277") && !left.contains("mesh0"),
        "{left} stayed behind"
    );
    let files = std::fs::read_dir(node.state_directory()).unwrap();
    let temporary: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.') && name.contains(".json."))
        .collect();
    assert!(temporary.is_empty(), "{temporary:?}");
}

/// Everything of a node that the kernel shows, without numbers that differ from start to start.
fn network(node: &Daemon) -> String {
    let host = node.host();
    let links = host.run("ip -o link");
    let names: Vec<_> = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    [
        names.join(" "),
        host.run("ip -6 rule"),
        host.run("ip -6 route show table 5277"),
        host.run("ip -6 -o addr show dev mesh0 scope global")
            .split_once("mesh0")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default(),
    ]
    .join("\n")
}

/// The UDP ports that are open on its host.
fn port_of(node: &Daemon) -> String {
    let sockets = node.host().run("ss -Huln");
    let mut ports: Vec<_> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .map(str::to_owned)
        .collect();
    ports.sort();
    ports.join(" ")
}

#[test]
fn a_second_daemon_on_one_state_directory_names_the_first() {
    let lab = Lab::new("crash two daemons");
    let id = lab.identity();
    let node = lab.host("a").meshd(Settings::new(&id));
    let line = format!(
        "{} run --config {}",
        netns_tests::daemon::program(),
        node.configuration().display()
    );
    let output = node.host().output(&line, secs(10)).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        output.stderr.contains(&node.id().to_string()),
        "the first is {}: {output:?}",
        node.id()
    );
    assert!(output.stderr.contains("next: "), "{output:?}");
    wait_until(secs(5), "the first still answers", || node.try_status());
}

/// A daemon that cannot start in its surroundings: what it says, and what is left.
#[track_caller]
fn refuses(node: &Daemon, wrapped: &str, code: i32, says: &[&str]) {
    let line = format!(
        "{} run --config {}",
        netns_tests::daemon::program(),
        node.configuration().display()
    );
    let line = wrapped.replace("MESHD", &line);
    let output = node
        .host()
        .output_of(&["sh", "-c", &line], "", secs(10))
        .unwrap();
    assert_eq!(output.status.code(), Some(code), "{wrapped}: {output:?}");
    for word in says {
        assert!(
            output.stderr.contains(word),
            "{wrapped}: {word:?} in {output:?}"
        );
    }
    assert!(output.stderr.contains("next: "), "{wrapped}: {output:?}");
    assert!(!output.stderr.contains("panicked"), "{wrapped}: {output:?}");
    let left = node.host().run("ip -6 rule") + &node.host().run("ip -6 route show table all");
    assert!(!left.contains("5277"), "{wrapped} left {left}");
    assert!(!node.socket().exists(), "{wrapped} left its socket");
}

#[test]
fn wrong_surroundings_are_named_with_the_next_command() {
    let lab = Lab::new("crash wrong surroundings");
    let id = lab.identity();
    let node = lab.host("a").meshd(Settings::new(&id));
    assert!(node.stop().unwrap().success());
    let key = node.state_directory().join("node.key");
    let key = key.display();
    let probe = netns_tests::lab::program("netns-probe");

    refuses(
        &node,
        &format!(
            "{probe} udp-echo 0.0.0.0:51860 >/dev/null & sleep 0.3; MESHD; code=$?; kill $!; exit $code"
        ),
        1,
        &["in use", "51860", "ss -ulpn"],
    );
    refuses(
        &node,
        "ip link add mesh0 type bridge; MESHD; code=$?; ip link del mesh0; exit $code",
        1,
        &["mesh0", "ip link show"],
    );
    refuses(
        &node,
        "unshare -m sh -c 'mkdir -p /tmp/meshd-no-tun && mount --bind /tmp/meshd-no-tun /dev/net && MESHD'; code=$?; rmdir /tmp/meshd-no-tun; exit $code",
        1,
        &["/dev/net/tun", "modprobe tun"],
    );
    refuses(
        &node,
        "setpriv --bounding-set -net_admin --inh-caps -net_admin MESHD",
        4,
        &["CAP_NET_ADMIN", "sudo meshd run"],
    );
    refuses(
        &node,
        &format!("chmod 644 {key}; MESHD; code=$?; chmod 600 {key}; exit $code"),
        4,
        &["node.key", "chmod go-rwx"],
    );
    refuses(
        &node,
        &format!(
            "mv {key} {key}.kept; ln -s {key}.kept {key}; MESHD; code=$?; mv {key}.kept {key}; exit $code"
        ),
        1,
        &["node.key", "ls -l"],
    );
    refuses(
        &node,
        &format!(
            "mv {key} {key}.kept; : > {key}; chmod 600 {key}; MESHD; code=$?; mv {key}.kept {key}; exit $code"
        ),
        1,
        &["node.key", "backup"],
    );
    refuses(
        &node,
        &format!(
            "cp -p {key} {key}.kept; truncate -s 40 {key}; MESHD; code=$?; mv {key}.kept {key}; exit $code"
        ),
        1,
        &["node.key", "backup"],
    );
    let path = node.state_directory().join("stock.json");
    let path = path.display();
    refuses(
        &node,
        &format!("echo '{{' > {path}; MESHD; code=$?; rm {path}; exit $code"),
        1,
        &["stock.json", "backup"],
    );
    node.start_again();
    assert_eq!(node.json("key show")["address"], id.address.to_string());
}
