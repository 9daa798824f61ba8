//! A node under a flood of handshakes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::fmt;
use std::net::SocketAddr;

use netns_tests::lab::program;
use netns_tests::traffic::Stream;
use netns_tests::{Daemon, Host, Lab, Process, Settings, secs, traffic, wait_until};

/// Bytes that an interface has received and sent.
fn bytes(host: &Host, interface: &str) -> (u64, u64) {
    let text = host.run(&format!("ip -j -s link show dev {interface}"));
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |way: &str| told[0]["stats64"][way]["bytes"].as_u64().unwrap();
    (of("rx"), of("tx"))
}

/// Resident memory in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_configured_peer_connects_within_six_seconds_of_a_flood_from_65000_sources() {
    let lab = Lab::new("flood");
    let (a, b, stranger) = (lab.host("a"), lab.host("b"), lab.host("stranger"));
    let (link, way) = (lab.link(&a, &b), lab.link(&stranger, &b));
    stranger.run("ip route add local 10.200.0.0/16 dev lo");
    b.run(&format!("ip route add 10.200.0.0/16 via {}", way.a.v4));
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let key = id_b.public_key.clone();
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b.log_level("info")));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));

    let before = (bytes(b.host(), &way.b.interface), memory(b.id()));
    let target = SocketAddr::new(way.b.v4.into(), 51860);
    let mut flood = traffic::initiations(&stranger, target, &key, 400_000, 20_000);
    wait_until(secs(5), "b demands proofs of address", || {
        b.drops().contains_key("address-unproven")
    });
    a.restart();
    wait_until(secs(6), "a reaches b again", || a.ping(b.address()));
    wait_until(secs(5), "it has been a flood", || {
        let (received, _) = bytes(b.host(), &way.b.interface);
        (received - before.0.0 > 5_000_000).then_some(())
    });
    assert!(flood.is_running(), "the flood has ended before the test");
    let after = (bytes(b.host(), &way.b.interface), memory(b.id()));
    flood.kill();

    let (received, sent) = (after.0.0 - before.0.0, after.0.1 - before.0.1);
    assert!(sent <= received, "{sent} bytes out for {received} in");
    let grown = after.1.saturating_sub(before.1);
    assert!(grown <= 8 << 10, "memory grew by {grown} KiB");
}

/// Datagrams with a wrong first MAC, a second.
const FLOOD: u64 = 50_000;
/// Seconds of flood in a round. The stream is sent meanwhile, and is shorter.
const FLOODED: u64 = 7;
/// Seconds of stream in a round.
const STREAMED: u64 = 4;
/// How often it may be tried: a machine that is busy with other things loses packets of any stream now and then.
const ROUNDS: u32 = 8;

/// TCP segments that a host has sent again, for whatever reason.
fn sent_again(host: &Host) -> u64 {
    let text = host.run("nstat -asz TcpRetransSegs");
    let line = text.lines().find(|line| line.starts_with("TcpRetransSegs"));
    let count = line.and_then(|line| line.split_whitespace().nth(1));
    count.unwrap().parse().unwrap()
}

/// What one round of flood and stream came to.
struct Round {
    /// Bytes a second without flood and without pace.
    unpaced: u64,
    /// Of the stream's due time, what it took.
    pace: f64,
    /// Segments sent again under the flood.
    sent_again: u64,
    /// Datagrams of the flood a second.
    flood: f64,
    /// Datagrams of the flood that were sent and not counted.
    uncounted: i64,
    /// Whether the flood was still there when the stream ended.
    is_covered: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} Mbit/s without pace; at half of it {:.2} of the due time, {} segments sent again, flood {:.0}/s{}, {} of it not counted",
            self.unpaced / 125_000,
            self.pace,
            self.sent_again,
            self.flood,
            if self.is_covered {
                ""
            } else {
                " and too short"
            },
            self.uncounted
        )
    }
}

impl Round {
    /// Nothing was lost, neither of the stream nor of the flood, which came at its rate and slowed nobody down.
    fn is_good(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let full = FLOOD as f64 * 0.98;
        self.is_covered
            && self.pace < 1.1
            && self.sent_again == 0
            && self.flood >= full
            && self.uncounted == 0
    }
}

fn round(a: &Daemon, b: &Daemon, stranger: &Host, target: SocketAddr, at: SocketAddr) -> Round {
    const UNPACED: u64 = 128 << 20;
    let took = traffic::tcp_send(a.host(), at, 1, UNPACED).unwrap();
    let unpaced = UNPACED * 1000 / u64::try_from(took.as_millis()).unwrap();
    let half = unpaced / 2;

    let counted = || b.drops().get("bad-mac1").copied().unwrap_or(0);
    let (counted_before, again_before) = (counted(), sent_again(a.host()));
    let mut flood: Process = stranger.spawn(&format!(
        "{} abuse-mac1 {target} {FLOOD} {FLOODED}",
        program("netns-probe")
    ));
    wait_until(secs(5), "the flood arrives", || counted() > counted_before);
    let took = Stream::start(a.host(), at, half * STREAMED, half)
        .finish(secs(60))
        .unwrap();
    let sent_again = sent_again(a.host()) - again_before;
    let is_covered = flood.is_running();

    assert!(flood.wait(secs(60)).success(), "{}", flood.log());
    let report: serde_json::Value = serde_json::from_str(flood.log().trim()).unwrap();
    assert_eq!(report["answers"], 0, "a stranger got an answer: {report}");
    let sent = report["sent"].as_u64().unwrap();
    let lost = i64::try_from(sent + counted_before).unwrap() - i64::try_from(counted()).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "figures of a test")]
    Round {
        unpaced,
        pace: took.as_secs_f64() / STREAMED as f64,
        sent_again,
        flood: sent as f64 / report["seconds"].as_f64().unwrap(),
        uncounted: lost,
        is_covered,
    }
}

#[test]
fn fifty_thousand_bad_messages_a_second_take_nothing_from_a_stream_at_half_its_rate() {
    let lab = Lab::new("flood mac1");
    let (a, b, stranger) = (lab.host("a"), lab.host("b"), lab.host("stranger"));
    let (link, way) = (lab.link(&a, &b), lab.link(&stranger, &b));
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (
        a.meshd(for_a.log_level("info")),
        b.meshd(for_b.log_level("info")),
    );
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    let at = SocketAddr::new(b.address().into(), 7001);
    let _sink = traffic::tcp_serve(b.host(), at);
    let target = SocketAddr::new(way.b.v4.into(), 51860);
    let process = b.id();

    let mut rounds = Vec::new();
    let good = (0..ROUNDS).any(|_| {
        let round = round(&a, &b, &stranger, target, at);
        println!("{round}");
        rounds.push(round.to_string());
        round.is_good()
    });
    assert!(good, "something is lost in every round: {rounds:#?}");
    assert_eq!(b.id(), process);
}
