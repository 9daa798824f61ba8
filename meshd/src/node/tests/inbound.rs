//! Who is judged, by which rules, and what is heard of others' refusals.

use filter::Judgement;

use super::*;
use crate::{
    admin::Fate,
    fib::Carrier,
    icmp::{Unreachable, error},
    packet::udp_between,
};

const STOCK: &str = "dnLWfRiWU4Q3j/WPzwFMgy6dqkNi7ByvldsDBvRZxRI=";

/// A trusted peer (2), one that meets the rules (3), an allowed key (4) and a leaf, with these lines of `[inbound]`.
fn keeper(inbound: &str) -> String {
    format!(
        "allow_keys = [\"{}\"]\n{}{}inbound = \"rules\"\n[[wireguard.stock]]\nname = \"phone\"\npublic_key = \"{STOCK}\"\n[inbound]\n{inbound}\n",
        key(4),
        peer(2, ""),
        peer(3, ""),
    )
}

fn leaf() -> Ipv6Addr {
    crate::identity::leaf_address(identity(1).node().prefix(), &STOCK.parse().unwrap())
}

fn carrier(host: &Host, address: Ipv6Addr) -> &Carrier {
    let Lookup::Session(carrier) = host.fib().lookup(address) else {
        panic!("no session with {address}");
    };
    carrier
}

/// What the filter says of a UDP packet of a peer for the node itself.
fn judge(host: &Host, from: Ipv6Addr, port: u16, now: Instant) -> Judgement {
    let packet = udp_between(from, address(1), port, b"x");
    let inbound = carrier(host, from).inbound.as_ref().unwrap();
    inbound.watch().judge(&[], &packet, now)
}

fn fate(host: &Host, from: &str, to: &str, port: &str) -> (Fate, String) {
    let explained = host.node.explain(from, to, port).unwrap();
    let nearest = explained.nearest.unwrap_or_default();
    (explained.fate, format!("{} {nearest}", explained.reason))
}

#[test]
fn all_but_trusted_peers_are_judged_and_nobody_where_everything_is_let_in() {
    let now = Instant::now();
    let host = Host::new(1, &keeper(""), now);
    let is_judged = |host: &Host, address| carrier(host, address).inbound.is_some();
    assert!(!is_judged(&host, address(2)));
    for judged in [address(3), address(4), leaf()] {
        assert!(is_judged(&host, judged), "{judged}");
    }
    let open = Host::new(1, &keeper("default = \"allow\""), now);
    for trusted in [address(2), address(3), address(4), leaf()] {
        assert!(!is_judged(&open, trusted), "{trusted}");
    }
    let particular = Host::new(1, &keeper("default = \"allow\"\nicmp_echo = false"), now);
    assert!(is_judged(&particular, address(3)));
}

#[test]
fn a_stranger_is_judged_and_hears_nothing() {
    let now = Instant::now();
    let mut host = Host::new(1, "open = true", now);
    host.node.admit(key(2), now).unwrap();
    host.drain(now);
    let inbound = carrier(&host, address(2)).inbound.as_ref().unwrap();
    assert!(!inbound.tells());
    let listed = Host::new(1, &keeper(""), now);
    assert!(
        carrier(&listed, address(4))
            .inbound
            .as_ref()
            .unwrap()
            .tells()
    );
}

#[test]
fn a_reload_changes_rules_and_forgets_nothing_that_goes_on() {
    let now = Instant::now();
    let mut host = Host::new(1, &keeper(""), now);
    let inbound = carrier(&host, address(3)).inbound.clone().unwrap();
    inbound.note(&udp_between(address(1), address(3), 7, b"x"), now);
    assert_ne!(judge(&host, address(3), 9, now), Judgement::Pass);
    let rules = "allow = [{ from = \"peer:n3\", ports = [\"udp/9\"] }]";
    host.node.handle_settings(&settings(1, &keeper(rules)), now);
    host.drain(now);
    for port in [7, 9] {
        assert_eq!(judge(&host, address(3), port, now), Judgement::Pass);
    }
    assert_ne!(judge(&host, address(4), 9, now), Judgement::Pass);
}

#[test]
fn it_is_explained_who_may_reach_what() {
    let now = Instant::now();
    let rules = format!(
        "allow = [{{ from = \"peer:n3\", ports = [\"tcp/22\"] }}, {{ from = \"key:{}\", to = \"leaf:phone\", ports = [\"any\"] }}]",
        key(4)
    );
    let host = Host::new(1, &keeper(&rules), now);
    let leaf = leaf().to_string();
    let (n4, elsewhere) = (key(4).to_string(), address(9).to_string());
    let cases = [
        ("n2", "node", "tcp/1", Fate::Allowed, "one of [[peers]]"),
        ("n1", "phone", "tcp/1", Fate::Allowed, "is not judged"),
        ("n3", "n1", "tcp/22", Fate::Allowed, "inbound.allow[0]"),
        ("n3", "node", "icmp", Fate::Allowed, "icmp_echo"),
        (
            "n3",
            "node",
            "tcp/23",
            Fate::Denied,
            "inbound.allow[0], from peer:n3: tcp/22: it opens other ports",
        ),
        ("n3", "phone", "tcp/22", Fate::Denied, "opens another place"),
        (&n4, "phone", "tcp/5", Fate::Allowed, "inbound.allow[1]"),
        (&n4, &leaf, "udp/5", Fate::Allowed, "inbound.allow[1]"),
        (&n4, "node", "tcp/22", Fate::Denied, "opens another place"),
        ("phone", "node", "tcp/22", Fate::Denied, "is for others"),
        (
            &elsewhere,
            "node",
            "tcp/22",
            Fate::Denied,
            "may not open a session",
        ),
    ];
    for (from, to, port, expected, reason) in cases {
        let (fate, said) = fate(&host, from, to, port);
        assert_eq!(fate, expected, "{from} {to} {port}: {said}");
        assert!(said.contains(reason), "{from} {to} {port}: {said}");
    }
    let error = |from, to, port| host.node.explain(from, to, port).unwrap_err();
    assert!(matches!(
        error("x", "node", "icmp"),
        CommandError::NoSuchName(_)
    ));
    assert!(matches!(
        error("n3", "n2", "icmp"),
        CommandError::NotHere(_)
    ));
    assert!(matches!(error("n3", "node", "22"), CommandError::Ports(_)));
    assert!(matches!(
        error("n3", "node", "tcp/*"),
        CommandError::ManyPorts(_)
    ));
}

#[test]
fn a_refusal_is_remembered_if_it_is_about_who_sends_it() {
    let now = Instant::now();
    let mut host = Host::new(1, &peer(2, "192.0.2.2:51860"), now);
    let sent = |to| udp_between(address(1), to, 53, b"x");
    let refused = |to| error(Unreachable::Prohibited, address(2), &sent(to)).unwrap();
    host.node.on_prohibited(key(2), &refused(address(3)), now);
    assert_eq!(host.node.blocked(&key(2), now), None);
    for _ in 0..2 {
        host.node.on_prohibited(key(2), &refused(address(2)), now);
    }
    let blocked = host.node.blocked(&key(2), now).unwrap();
    assert_eq!(
        (&*blocked.by, &*blocked.port, blocked.count),
        ("n2", "udp/53", 2)
    );
    let later = now + Duration::from_secs(3600);
    assert_eq!(host.node.blocked(&key(2), later), None);
}

#[test]
fn a_ping_that_is_refused_is_answered_with_by_whom() {
    let now = Instant::now();
    let mut host = Host::new(1, &peer(2, "192.0.2.2:51860"), now);
    let sent = host.node.ping("n2", now).unwrap();
    let request = icmp::echo_request(address(1), address(2), *b"test-tok", sent.number);
    let refusal = error(Unreachable::Prohibited, address(2), &request).unwrap();
    host.node.on_prohibited(key(2), &refusal, now);
    host.drain(now);
    let pong = host.pongs.pop().unwrap();
    assert_eq!(
        (pong.number, pong.blocked_by.as_deref()),
        (sent.number, Some("n2"))
    );
    assert_eq!(icmp::quoted_request(&refusal, *b"otherone"), None);
}
