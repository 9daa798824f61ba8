//! Networks that let no UDP through: nodes are reached over TCP instead, and over UDP again as soon as that passes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests, whose figures are wanted"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use netns_tests::abuse::Dice;
use netns_tests::impair::Impairment;
use netns_tests::nat::{Nat, NatBox, Router, Udp};
use netns_tests::traffic::{Iperf, Pings, Stream, tcp_send, tcp_serve, udp_echo};
use netns_tests::usage::Usage;
use netns_tests::view::PathKind;
use netns_tests::{
    Daemon, Flow, Host, Identity, Lab, Moment, Port, Settings, millis, secs, wait_until,
};

/// Where servers are found.
const PORT: u16 = 51860;

/// A node at home behind a router, which knows an anchor on the internet; and another node online, which knows the anchor too.
struct Site {
    home: Daemon,
    anchor: Daemon,
    far: Daemon,
    router: Router,
    online: Port,
    /// Last, so that it outlives the rest.
    _lab: Lab,
}

impl Site {
    fn new(name: &str, nat: impl Into<NatBox>) -> Self {
        Self::with(name, nat, |anchor| anchor)
    }

    fn with(name: &str, nat: impl Into<NatBox>, change: impl FnOnce(Settings) -> Settings) -> Self {
        let lab = Lab::new(name);
        let router = lab.router("router").online().nat(nat);
        let (home, anchor, far) = (lab.host("home"), lab.host("anchor"), lab.host("far"));
        router.attach(&home);
        let online = lab.internet().connect(&anchor);
        lab.internet().connect(&far);
        let (id_home, id_anchor, id_far) = (lab.identity(), lab.identity(), lab.identity());
        let at = Some(SocketAddr::new(online.v4.into(), PORT));
        let for_anchor = Settings::new(&id_anchor)
            .peer("home", &id_home, None)
            .peer("far", &id_far, None);
        Self {
            anchor: anchor.meshd(change(for_anchor)),
            far: far.meshd(leaf(&id_far, &id_anchor, at).peer("home", &id_home, None)),
            home: home.meshd(leaf(&id_home, &id_anchor, at).peer("far", &id_far, None)),
            router,
            online,
            _lab: lab,
        }
    }

    fn carries(&self) {
        let at = SocketAddr::new(self.far.address().into(), 7001);
        let _server = tcp_serve(self.far.host(), at);
        tcp_send(self.home.host(), at, 2, 2_000_000).unwrap();
    }
}

/// A node that nobody calls.
fn leaf(own: &Identity, anchor: &Identity, at: Option<SocketAddr>) -> Settings {
    Settings::new(own)
        .listen(&["[::]:0", "0.0.0.0:0"])
        .peer("anchor", anchor, at)
}

fn codes(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let warnings = status["warnings"].as_array().unwrap().iter();
    warnings
        .map(|warning| warning["code"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn wait_for_code(daemon: &Daemon, is_there: bool, within: Duration) {
    let what = format!("UDP-BLOCKED is shown: {is_there}");
    wait_until(within, &what, || {
        let codes = codes(daemon);
        if codes.iter().any(|code| code == "UDP-BLOCKED") == is_there {
            Ok(())
        } else {
            Err(format!("{codes:?}"))
        }
    });
}

fn drops_of(daemon: &Daemon, reason: &str) -> u64 {
    daemon.drops().get(reason).copied().unwrap_or(0)
}

#[test]
fn a_node_whose_network_blocks_udp_reaches_everybody_through_an_anchor() {
    let start = Moment::now();
    let site = Site::new("stream one side", NatBox::udp_blocked());
    site.home.wait_for_answer(site.anchor.address(), secs(10));
    let first = Moment::now().since(start);
    site.home.wait_for_answer(site.far.address(), secs(10));
    eprintln!(
        "anchor answers {first:?} after the lab began, a node behind it {:?}",
        Moment::now().since(start)
    );
    let path = site
        .home
        .wait_for_path(site.anchor.address(), PathKind::Stream, secs(5));
    assert_eq!(
        path.endpoint,
        Some(SocketAddr::new(site.online.v4.into(), PORT))
    );
    site.anchor
        .wait_for_path(site.home.address(), PathKind::Stream, secs(5));
    site.home
        .wait_for_path(site.far.address(), PathKind::Relay, secs(5));
    wait_for_code(&site.home, true, secs(10));
    assert!(!codes(&site.anchor).contains(&"UDP-BLOCKED".to_owned()));
    let links = site.home.links().unwrap();
    let explained = site.home.command("help UDP-BLOCKED").unwrap().success();
    assert!(explained.unwrap().contains("TCP"), "{links:?}");
    let route = site.home.wait_for_route(site.anchor.address(), secs(5));
    assert!(
        route.metric.is_some_and(|metric| metric >= 608),
        "a stream is dear: {route:?}"
    );
    site.far.wait_for_answer(site.home.address(), secs(5));
    site.carries();

    let restarted = Moment::now();
    site.anchor.restart();
    site.home.wait_for_answer(site.far.address(), secs(15));
    eprintln!(
        "after a restart of the anchor: {:?}",
        Moment::now().since(restarted)
    );
}

#[test]
fn where_only_port_443_gets_out_the_stream_takes_that() {
    let nat = NatBox {
        udp: Udp::BlockedAndTcp443Only,
        ..Nat::PortRestricted.into()
    };
    let site = Site::with("stream 443", nat, |anchor| {
        anchor.stream_listen(&["auto", "0.0.0.0:443"])
    });
    site.home.wait_for_answer(site.far.address(), secs(15));
    let path = site
        .home
        .wait_for_path(site.anchor.address(), PathKind::Stream, secs(5));
    assert_eq!(
        path.endpoint,
        Some(SocketAddr::new(site.online.v4.into(), 443))
    );
    site.carries();
}

#[test]
fn two_nodes_whose_networks_both_block_udp_meet_at_an_anchor() {
    let lab = Lab::new("stream both sides");
    let homes = ["left", "right"].map(|name| {
        let router = lab
            .router(&format!("{name}-router"))
            .online()
            .nat(NatBox::udp_blocked());
        let host = lab.host(name);
        router.attach(&host);
        (host, lab.identity())
    });
    let (anchor, id) = (lab.host("anchor"), lab.identity());
    let online = lab.internet().connect(&anchor);
    let at = Some(SocketAddr::new(online.v4.into(), PORT));
    let [(left, id_left), (right, id_right)] = &homes;
    let _anchor = anchor.meshd(
        Settings::new(&id)
            .peer("left", id_left, None)
            .peer("right", id_right, None),
    );
    let left = left.meshd(leaf(id_left, &id, at).peer("right", id_right, None));
    let right = right.meshd(leaf(id_right, &id, at).peer("left", id_left, None));
    left.wait_for_answer(right.address(), secs(15));
    right.wait_for_answer(left.address(), secs(5));
    left.wait_for_path(right.address(), PathKind::Relay, secs(5));
    let at = SocketAddr::new(right.address().into(), 7001);
    let _server = tcp_serve(right.host(), at);
    tcp_send(left.host(), at, 2, 2_000_000).unwrap();
}

#[test]
fn a_session_moves_back_as_soon_as_udp_passes_and_nothing_breaks() {
    let site = Site::new("stream and back", Nat::PortRestricted);
    site.home
        .wait_for_path(site.anchor.address(), PathKind::Direct, secs(10));
    site.home.wait_for_answer(site.far.address(), secs(10));
    let at = SocketAddr::new(site.far.address().into(), 7002);
    let _echo = udp_echo(site.far.host(), at);
    let _server = tcp_serve(site.far.host(), SocketAddr::new(at.ip(), 7001));
    let flow = Flow::start(site.home.host(), at, millis(20));
    flow.wait_for_answers(secs(5));
    let stream = Stream::start(
        site.home.host(),
        SocketAddr::new(at.ip(), 7001),
        20_000_000,
        500_000,
    );
    wait_until(secs(10), "the TCP flow moves", || stream.progress() > 0);

    let blocked = Moment::now();
    site.router.block_udp();
    site.home
        .wait_for_path(site.anchor.address(), PathKind::Stream, secs(15));
    flow.wait_for_answers(secs(10));
    let gap = flow.longest_gap(blocked);
    eprintln!("UDP blocked in mid-flow: no answer for {gap:?}");
    assert!(gap < secs(6), "{gap:?}");
    wait_for_code(&site.home, true, secs(15));

    let before = stream.progress();
    wait_until(secs(20), "the TCP flow goes on", || {
        stream.progress() > before
    });
    let unblocked = Moment::now();
    site.router.unblock_udp();
    site.home
        .wait_for_path(site.anchor.address(), PathKind::Direct, secs(60));
    eprintln!(
        "UDP unblocked: direct after {:?}, longest gap {:?}",
        Moment::now().since(unblocked),
        flow.longest_gap(unblocked)
    );
    wait_for_code(&site.home, false, secs(5));
    // The stream goes when UDP has worked for a while.
    wait_until(secs(30), "the stream is closed", || {
        let sockets = site.anchor.host().run("ss -Htn state established");
        if sockets.contains(&format!(":{PORT} ")) {
            Err(sockets)
        } else {
            Ok(())
        }
    });
    stream.finish(secs(60)).unwrap();
}

/// A connection from a host of the lab.
fn connect(host: &Host, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = host.inside(|| TcpStream::connect_timeout(&to, secs(5)))?;
    stream.set_read_timeout(Some(millis(10)))?;
    Ok(stream)
}

/// What the other end has said by now; nothing if it has closed the connection.
fn heard(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut buffer = [0; 512];
    match stream.read(&mut buffer) {
        Ok(0) => None,
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Some(Vec::new())
        }
        Err(_) => None,
    }
}

#[test]
fn strangers_hear_nothing_and_take_nobodys_place() {
    let site = Site::new("stream strangers", NatBox::udp_blocked());
    site.home
        .wait_for_path(site.anchor.address(), PathKind::Stream, secs(15));
    let target = SocketAddr::new(site.online.v4.into(), PORT);
    let stranger = site.far.host();
    let descriptors = || {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", site.anchor.id())).unwrap();
        listed.count()
    };
    let (before, memory) = (descriptors(), Usage::of(&[site.anchor.id()]).resident_kib);

    // Silent ones, all at the same time.
    let mut silent: Vec<TcpStream> = (0..2_000)
        .map(|_| connect(stranger, target).unwrap())
        .collect();
    let held = descriptors() - before.min(descriptors());
    assert!(held <= 64, "{held} descriptors are held");
    let mut said = 0;
    wait_until(secs(20), "silent connections are closed", || {
        silent.retain_mut(|stream| match heard(stream) {
            None => false,
            Some(bytes) => {
                said += bytes.len();
                true
            }
        });
        if silent.is_empty() {
            Ok(())
        } else {
            Err(format!("{} are open", silent.len()))
        }
    });
    assert_eq!(said, 0, "bytes were said to silent ones");

    // And those that say what is not meant for a node.
    let mut dice = Dice::new(7);
    let mut noise = vec![0; 4096];
    dice.fill(&mut noise);
    let mut forged = vec![0, 148, 1, 0, 0, 0];
    forged.extend_from_slice(&noise[..144]);
    let words: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &noise,
        &forged,
        &[0, 0],
        &[0xff, 0xff, 1],
    ];
    for word in words.into_iter().cycle().take(300) {
        let mut stream = connect(stranger, target).unwrap();
        // It may be closed while we speak.
        let _ = stream.write_all(word);
        wait_until(
            secs(8),
            "who says something else is cut off",
            || match heard(&mut stream) {
                None => Ok(()),
                Some(bytes) if bytes.is_empty() => Err("it is open".to_owned()),
                Some(bytes) => panic!("{} bytes were said", bytes.len()),
            },
        );
    }
    // One byte at a time: until the deadline, and not longer.
    let mut slow = connect(stranger, target).unwrap();
    let began = Moment::now();
    wait_until(secs(10), "a slow writer is cut off", || {
        let _ = slow.write_all(&[0]);
        match heard(&mut slow) {
            None => Ok(()),
            Some(_) => Err(format!("open after {:?}", Moment::now().since(began))),
        }
    });

    assert!(drops_of(&site.anchor, "stream-stranger") >= 2_300);
    let grown = Usage::of(&[site.anchor.id()])
        .resident_kib
        .saturating_sub(memory);
    eprintln!("2,301 strangers: {held} descriptors at most, {grown} KiB more resident");
    assert!(grown < 4_096, "{grown} KiB more");
    assert!(descriptors() <= before + 2, "descriptors stay");
    // The stream that was there is still, and a new one comes up beside a flood.
    site.home.ping(site.far.address()).unwrap();
    let flood: Vec<TcpStream> = (0..500)
        .map(|_| connect(stranger, target).unwrap())
        .collect();
    let begun = Moment::now();
    site.home.restart();
    site.home.wait_for_answer(site.far.address(), secs(15));
    eprintln!(
        "a node is back {:?} after its restart",
        Moment::now().since(begun)
    );
    drop(flood);
}

#[test]
fn a_stream_over_a_full_line_drops_and_does_not_queue() {
    let lab = Lab::new("stream full line");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let line = Impairment {
        rate_kbit: Some(5_000),
        delay: millis(10),
        queue: millis(60),
        ..Impairment::default()
    };
    let (link, _wire) = lab.wire(&a, &b, line);
    for port in [&link.a, &link.b] {
        port.lose("meta l4proto udp");
    }
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b));
    a.wait_for_path(b.address(), PathKind::Stream, secs(15));
    a.wait_for_answer(b.address(), secs(5));
    let target = IpAddr::from(b.address());
    let idle = Pings::send(a.host(), target, 20, millis(50)).unwrap();
    let _server = Iperf::serve(b.host());
    let (rate, pings) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| Iperf::tcp(a.host(), target, 1, 12));
        // Not before it is at full speed.
        let pings = Pings::send(a.host(), target, 100, millis(100)).unwrap();
        (sender.join().unwrap().unwrap(), pings)
    });
    let dropped = drops_of(&a, "stream-full");
    eprintln!(
        "5 Mbit/s, 20 ms, line's own queue 60 ms: {:.2} Mbit/s, idle p50 {:.1} ms, loaded p50 {:.1} p90 {:.1} p99 {:.1} ms, {} of {} answered, {dropped} dropped",
        rate.bits_per_second / 1e6,
        idle.quantile(0.5),
        pings.quantile(0.5),
        pings.quantile(0.9),
        pings.quantile(0.99),
        pings.rtt_ms.len(),
        pings.sent,
    );
    assert!(rate.bits_per_second > 2.0e6, "{rate:?}");
    assert!(dropped > 0);
    // The way there and back, the line's queue, ours, and what a lost segment of the stream holds up.
    assert!(pings.quantile(0.9) < 250.0, "{pings:?}");
    assert!(pings.rtt_ms.len() >= 50, "{pings:?}");
}

#[test]
fn a_node_on_a_random_port_takes_no_streams() {
    let lab = Lab::new("stream listens");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (
        a.meshd(for_a.listen(&["[::]:0", "0.0.0.0:0"])),
        b.meshd(for_b),
    );
    a.wait_for_answer(b.address(), secs(10));
    assert_eq!(a.host().run("ss -Hltn").trim(), "");
    let listens = b.host().run("ss -Hltn");
    assert_eq!(
        listens.matches(&format!(":{PORT} ")).count(),
        2,
        "{listens}"
    );
    assert_eq!(a.path_to(b.address()).unwrap().kind, PathKind::Direct);
}
