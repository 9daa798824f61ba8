//! Who may reach what: rules, replies, refusals and what their senders hear, reload and restart.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Instant;

use netns_tests::traffic::{self, Stream};
use netns_tests::wait::hold_for;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{Daemon, Host, Identity, Lab, Settings, secs, wait_until};

/// The exit code of what is denied by policy.
const DENIED: i32 = 10;
/// Longer than a test.
const ENDLESS: u64 = 1 << 32;

/// A guest, which trusts its host, and the host, which judges the guest by rules.
struct Pair {
    guest: Daemon,
    keeper: Daemon,
    /// What the keeper is configured with, but for its rules.
    settings: Settings,
    lab: Lab,
}

impl Pair {
    fn new(name: &str, inbound: &str) -> Self {
        let lab = Lab::new(name);
        let (guest, keeper) = (lab.host("guest"), lab.host("keeper"));
        let link = lab.link(&guest, &keeper);
        let (id, keepers) = (lab.identity(), lab.identity());
        let settings = Settings::new(&keepers).table(&judged("guest", &id));
        let keeper = keeper.meshd(settings.clone().inbound(inbound));
        let at = SocketAddr::new(link.b.v4.into(), 51860);
        let guest = guest.meshd(Settings::new(&id).peer("keeper", &keepers, Some(at)));
        guest.wait_for_answer(keeper.address(), secs(10));
        Self {
            guest,
            keeper,
            settings,
            lab,
        }
    }

    fn at_keeper(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.keeper.address().into(), port)
    }

    fn at_guest(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.guest.address().into(), port)
    }

    fn rule(&self, inbound: &str) {
        self.keeper
            .configure(&self.settings.clone().inbound(inbound));
        self.keeper.reload();
    }
}

/// A peer that meets the rules.
fn judged(name: &str, id: &Identity) -> String {
    format!(
        "[[peers]]\nname = \"{name}\"\npublic_key = \"{}\"\ninbound = \"rules\"\n",
        id.public_key
    )
}

fn denied(node: &Daemon) -> u64 {
    node.drops()
        .get("inbound-denied")
        .copied()
        .unwrap_or_default()
}

/// What a connection to nowhere ends with, quickly, because somebody said that it may not be.
fn is_forbidden(host: &Host, to: SocketAddr) -> bool {
    let said = traffic::tcp_send(host, to, 1, 1000).unwrap_err();
    said.contains("ermission denied") || said.contains("os error 13")
}

#[test]
fn rules_let_in_what_they_say_and_the_sender_hears_of_the_rest() {
    let pair = Pair::new(
        "inbound rules",
        "allow = [{ from = \"peer:guest\", ports = [\"tcp/7001\", \"udp/7003\"] }]",
    );
    let (guest, keeper) = (&pair.guest, &pair.keeper);
    let servers = [7001, 7002].map(|port| traffic::tcp_serve(keeper.host(), pair.at_keeper(port)));
    let _echo = traffic::udp_echo(keeper.host(), pair.at_keeper(7003));
    traffic::tcp_send(guest.host(), pair.at_keeper(7001), 2, 200_000).unwrap();
    // Beyond the MTU, too: fragments.
    traffic::udp_sizes(guest.host(), pair.at_keeper(7003), 1300..=1500).unwrap();
    assert_eq!(denied(keeper), 0, "{:?}", keeper.drops());
    assert!(is_forbidden(guest.host(), pair.at_keeper(7002)));
    assert!(denied(keeper) > 0);
    let why = guest.json("why keeper");
    assert_eq!(why["blocked"]["by"], "keeper", "{why}");
    assert_eq!(why["blocked"]["port"], "tcp/7002", "{why}");
    let said = guest.command("why keeper").unwrap().success().unwrap();
    assert!(said.contains("blocked by keeper: tcp/7002"), "{said}");

    // What the keeper begins is answered.
    let _server = traffic::tcp_serve(guest.host(), pair.at_guest(7001));
    let _echo = traffic::udp_echo(guest.host(), pair.at_guest(7002));
    traffic::tcp_send(keeper.host(), pair.at_guest(7001), 2, 200_000).unwrap();
    traffic::udp_sizes(keeper.host(), pair.at_guest(7002), 1300..=1500).unwrap();
    keeper.ping(guest.address()).unwrap();
    drop(servers);

    let explain = |line: &str| keeper.command(&format!("explain {line}")).unwrap();
    let allowed = explain("guest node tcp/7001").success().unwrap();
    assert!(allowed.contains("inbound.allow[0]"), "{allowed}");
    let refused = explain("guest keeper tcp/7002");
    assert_eq!(refused.status.code(), Some(DENIED), "{refused:?}");
    assert!(
        refused.stdout.contains("nearest: inbound.allow[0]"),
        "{refused:?}"
    );
    assert!(explain("guest node icmp").status.success());
    assert_eq!(explain("nobody node icmp").status.code(), Some(5));
    assert_eq!(explain("guest node 22").status.code(), Some(2));
    assert_eq!(explain("node guest tcp/22").status.code(), Some(2));
}

#[test]
fn a_ping_that_is_refused_says_by_whom() {
    let pair = Pair::new("inbound ping", "");
    let (guest, keeper) = (&pair.guest, &pair.keeper);
    guest
        .command("ping -c 1 keeper")
        .unwrap()
        .success()
        .unwrap();
    pair.rule("icmp_echo = false");
    let said = guest.command("ping -c 1 keeper").unwrap();
    assert_eq!(said.status.code(), Some(DENIED), "{said:?}");
    assert!(said.stdout.contains("blocked by keeper"), "{said:?}");
    guest.ping(keeper.address()).unwrap_err();
    // The keeper's own pings are answered.
    keeper.ping(guest.address()).unwrap();
    keeper
        .command("ping -c 1 guest")
        .unwrap()
        .success()
        .unwrap();
    pair.rule("icmp_echo = false\nallow = [{ from = \"any\", ports = [\"icmp\"] }]");
    guest.ping(keeper.address()).unwrap();
}

#[test]
fn a_reload_ends_what_the_rules_let_in_no_more_and_nothing_else() {
    let pair = Pair::new(
        "inbound reload",
        "allow = [{ from = \"peer:guest\", ports = [\"tcp/7001\"] }]",
    );
    let (guest, keeper) = (&pair.guest, &pair.keeper);
    let _servers = [(keeper, pair.at_keeper(7001)), (guest, pair.at_guest(7001))]
        .map(|(node, at)| traffic::tcp_serve(node.host(), at));
    let theirs = Stream::start(guest.host(), pair.at_keeper(7001), ENDLESS, 2_000_000);
    let ours = Stream::start(keeper.host(), pair.at_guest(7001), ENDLESS, 2_000_000);
    for stream in [&theirs, &ours] {
        wait_until(secs(10), "the stream runs", || stream.progress() > 500_000);
    }
    pair.rule("");
    wait_until(secs(5), "packets are refused", || denied(keeper) > 0);
    // What the kernel had taken before the reload may still be counted, up to a buffer of some megabytes.
    let before = ours.progress();
    wait_until(secs(10), "what the keeper began goes on", || {
        ours.progress() > before + 4_000_000
    });
    let mut last = (0, Instant::now());
    let stands = wait_until(secs(10), "what the guest began stands for a second", || {
        let progress = theirs.progress();
        if progress != last.0 {
            last = (progress, Instant::now());
        }
        (last.1.elapsed() > secs(1)).then_some(progress)
    });
    pair.rule("allow = [{ from = \"peer:guest\", ports = [\"tcp/7001\"] }]");
    wait_until(secs(20), "and goes on when it may again", || {
        theirs.progress() > stands
    });
}

#[test]
fn a_connection_of_a_member_outlives_a_killed_daemon() {
    let pair = Pair::new("inbound restart", "");
    let _server = traffic::tcp_serve(pair.guest.host(), pair.at_guest(7001));
    let stream = Stream::start(
        pair.keeper.host(),
        pair.at_guest(7001),
        12_000_000,
        2_000_000,
    );
    wait_until(secs(10), "the stream runs", || stream.progress() > 500_000);
    pair.keeper.kill();
    pair.keeper.start_again();
    stream.finish(secs(40)).unwrap();
    // What begins anew is refused as before.
    let _server = traffic::tcp_serve(pair.keeper.host(), pair.at_keeper(7001));
    assert!(is_forbidden(pair.guest.host(), pair.at_keeper(7001)));
}

#[test]
fn a_stranger_on_an_open_node_pings_and_gets_nothing_else_not_even_a_refusal() {
    let lab = Lab::new("inbound stranger");
    let (stranger, open) = (lab.host("stranger"), lab.host("open"));
    let link = lab.link(&stranger, &open);
    let (id, opens) = (lab.identity(), lab.identity());
    let open = open.meshd(Settings::new(&opens).node("open = true").inbound(""));
    let at = SocketAddr::new(link.b.v4.into(), 51860);
    let stranger = stranger.meshd(Settings::new(&id).peer("open", &opens, Some(at)));
    stranger.wait_for_answer(open.address(), secs(10));
    let sink = SocketAddr::new(open.address().into(), 7001);
    traffic::udp_source(stranger.host(), sink, 20, 100, 64);
    wait_until(secs(5), "they are refused", || denied(&open) >= 20);
    hold_for(secs(1), "the stranger hears nothing", || {
        let why = stranger.json("why open");
        let heard = why["blocked"].is_null();
        heard.then_some(()).ok_or_else(|| why.to_string())
    });
    // But what the open node begins with it is answered.
    let server = SocketAddr::new(stranger.address().into(), 7002);
    let _server = traffic::tcp_serve(stranger.host(), server);
    traffic::tcp_send(open.host(), server, 1, 100_000).unwrap();
    let key = &id.public_key;
    let refused = open.command(&format!("explain {key} node tcp/22")).unwrap();
    assert_eq!(refused.status.code(), Some(DENIED), "{refused:?}");
}

#[test]
fn a_leaf_meets_the_rules_of_its_gateway_and_so_do_others_that_call_it() {
    let lab = Lab::new("inbound leaf");
    let (gateway, phone, other) = (lab.host("gateway"), lab.host("phone"), lab.host("other"));
    let (cable, link) = (lab.link(&gateway, &phone), lab.link(&gateway, &other));
    let (id, others) = (lab.identity(), lab.identity());
    let (key, leaf) = (Key::generate(&phone), id.address_of(0x5555));
    let settings = Settings::new(&id)
        .stock("phone", &key.public, leaf, None)
        .table(&judged("other", &others));
    let gateway = gateway.meshd(settings.clone().inbound(""));
    let wg = WireGuard::start(&phone, &key, leaf);
    let at = SocketAddr::new(cable.a.v6.into(), 51860);
    wg.peer(&id.public_key, "0600::/8", Some(at));
    let at = SocketAddr::new(link.a.v4.into(), 51860);
    let other = other.meshd(Settings::new(&others).peer("gateway", &id, Some(at)));
    other.wait_for_answer(gateway.address(), secs(10));
    wait_until(secs(10), "the phone reaches its gateway", || {
        phone.ping(gateway.address())
    });
    let (at_leaf, at_gateway) = (
        SocketAddr::new(leaf.into(), 7001),
        SocketAddr::new(gateway.address().into(), 7001),
    );
    let at_other = SocketAddr::new(other.address().into(), 7001);
    let _servers = [
        traffic::tcp_serve(&phone, at_leaf),
        traffic::tcp_serve(gateway.host(), at_gateway),
        traffic::tcp_serve(other.host(), at_other),
    ];
    // The gateway reaches its leaf, and the leaf everybody who lets it.
    traffic::tcp_send(gateway.host(), at_leaf, 1, 100_000).unwrap();
    traffic::tcp_send(&phone, at_other, 1, 100_000).unwrap();
    assert!(is_forbidden(&phone, at_gateway));
    assert!(is_forbidden(other.host(), at_leaf));
    other.ping(leaf).unwrap();
    gateway.configure(&settings.inbound(
        "allow = [{ from = \"leaf:phone\", ports = [\"tcp/7001\"] }, { from = \"peer:other\", to = \"leaf:phone\", ports = [\"tcp/7001\"] }]",
    ));
    gateway.reload();
    traffic::tcp_send(&phone, at_gateway, 1, 100_000).unwrap();
    traffic::tcp_send(other.host(), at_leaf, 1, 100_000).unwrap();
    assert!(is_forbidden(other.host(), at_gateway));
    let explained = gateway.command("explain other phone tcp/7001").unwrap();
    explained.success().unwrap();
}

#[test]
fn workloads_are_reached_by_what_they_publish_and_by_their_own_node() {
    let pair = Pair::new("inbound workloads", "");
    let (guest, keeper) = (&pair.guest, &pair.keeper);
    let [web, db] = ["web", "db"].map(|name| pair.lab.host(name));
    let attach = |host: &Host, publish: &str| {
        let line = format!(
            "attach netns:{} --name {}{publish}",
            host.namespace(),
            host.name()
        );
        let attached = keeper.json(&line);
        let address = attached["address"].as_str().map(str::parse);
        address.unwrap().unwrap()
    };
    let at_web: std::net::Ipv6Addr = attach(&web, " --publish tcp/7001");
    let at_db: std::net::Ipv6Addr = attach(&db, "");
    let at = |address: std::net::Ipv6Addr, port| SocketAddr::new(address.into(), port);
    let _servers = [
        (&web, at(at_web, 7001)),
        (&web, at(at_web, 7002)),
        (&db, at(at_db, 7001)),
        (keeper.host(), pair.at_keeper(7001)),
        (guest.host(), pair.at_guest(7001)),
    ]
    .map(|(host, address)| traffic::tcp_serve(host, address));
    let send = |host: &Host, to| traffic::tcp_send(host, to, 1, 100_000).unwrap();
    let is_refused = |host, to| assert!(is_forbidden(host, to), "{to}");

    // What is published is for all who get here, the rest for the node itself.
    send(guest.host(), at(at_web, 7001));
    is_refused(guest.host(), at(at_web, 7002));
    is_refused(guest.host(), at(at_db, 7001));
    send(keeper.host(), at(at_web, 7002));
    send(keeper.host(), at(at_db, 7001));
    // Workloads are others to their node and to each other, and may go out.
    send(&db, at(at_web, 7001));
    is_refused(&db, at(at_web, 7002));
    is_refused(&web, at(at_db, 7001));
    is_refused(&web, pair.at_keeper(7001));
    send(&web, pair.at_guest(7001));
    web.ping(keeper.address()).unwrap();
    web.ping(at_db).unwrap();

    let explain = |line: &str| {
        let said = keeper.command(&format!("explain {line}")).unwrap();
        (said.status.code(), said.stdout)
    };
    let (code, said) = explain("guest web tcp/7001");
    assert!(
        code == Some(0) && said.contains("published there"),
        "{said}"
    );
    assert_eq!(explain("guest web tcp/7002").0, Some(DENIED));
    assert_eq!(explain("db web tcp/7002").0, Some(DENIED));
    assert_eq!(explain("keeper web tcp/7002").0, Some(0));
    pair.rule(
        "allow = [{ from = \"workload:web\", ports = [\"tcp/7001\"] }, { from = \"workload:*\", to = \"workload:db\", ports = [\"tcp/7001\"] }]",
    );
    send(&web, pair.at_keeper(7001));
    send(&web, at(at_db, 7001));
    is_refused(&db, pair.at_keeper(7001));
}
