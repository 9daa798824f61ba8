use std::collections::BTreeSet;

use filter::Fate;
use ipnetwork::Ipv6Network;

use super::*;
use crate::{identity::overlay, testdata};

fn source() -> Source {
    Source {
        path: "meshd.toml".into(),
        state_dir: None,
        socket: None,
    }
}

fn settings(text: &str) -> Settings {
    source()
        .check(text, Some(testdata::identity(0).node()))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn nodes_are_looked_for_on_the_lan_unless_mdns_is_off_with_libp2p_or_without() {
    assert!(settings("").control.mdns);
    assert!(settings("[control]\nenabled = false\n").control.mdns);
    let off = settings("[control]\nmdns = false\n");
    assert!(!off.control.mdns);
    let changes = settings("").changes(&off);
    assert_eq!(changes.restart, ["control.mdns"]);
    assert!(off.live(&settings("")).control.mdns);
}

/// What `meshd config check` says of a text.
fn faults(text: &str) -> String {
    source()
        .check(text, Some(testdata::identity(0).node()))
        .unwrap_err()
        .to_string()
}

fn key(n: usize) -> String {
    testdata::identity(n).node().public_key().to_string()
}

/// The template with the defaults (`#key`) or the examples (`#  key`) uncommented.
fn uncommented(is: impl Fn(&str) -> bool, mark: &str) -> String {
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(rest) if is(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    TEMPLATE.lines().map(|text| line(text) + "\n").collect()
}

fn defaults() -> String {
    uncommented(|rest| !rest.starts_with(' ') && rest.contains(" = "), "#")
}

fn examples() -> String {
    uncommented(|_| true, "#  ")
}

#[test]
fn the_template_shows_the_defaults() {
    assert_eq!(
        toml::from_str::<Config>(&defaults()).unwrap(),
        Config::default()
    );
    assert_eq!(
        toml::from_str::<Config>(TEMPLATE).unwrap(),
        Config::default()
    );
    assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
}

#[test]
fn the_examples_of_the_template_are_valid_but_for_the_node_they_are_for() {
    let settings = source()
        .check(&examples(), None)
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.peers[0].name, "vps1");
    assert_eq!(settings.stock[0].name, "phone");
}

/// The keys that the code knows, table by table, as the reader itself names them when it meets one that it does not.
#[test]
fn the_template_shows_every_key() {
    fn known(text: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(text).unwrap_err();
        let mut names = error
            .message()
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned);
        assert_eq!(names.next().as_deref(), Some("zz"), "{error}");
        names.collect()
    }
    let shown = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
    let (defaults, examples) = (shown(&defaults()), shown(&examples()));
    let keys = |value: Option<&toml::Value>| -> BTreeSet<String> {
        let table = value.and_then(|value| value.as_table().or_else(|| value.get(0)?.as_table()));
        table
            .into_iter()
            .flat_map(|table| table.keys().cloned())
            .collect()
    };
    let both = |path: &[&str]| {
        let find = |table: &toml::Table| {
            let (first, rest) = path.split_first().unwrap();
            rest.iter().fold(table.get(*first).cloned(), |value, key| {
                value?.get(key).cloned()
            })
        };
        &keys(find(&defaults).as_ref()) | &keys(find(&examples).as_ref())
    };
    let top = known("zz = 1");
    assert_eq!(top.len(), 11);
    for table in top {
        let text = match table.as_str() {
            "peers" | "workload" => format!("[[{table}]]\nzz = 1"),
            _ => format!("[{table}]\nzz = 1"),
        };
        let known: BTreeSet<String> = known(&text).into_iter().collect();
        assert_eq!(both(&[&table]), known, "[{table}]");
    }
    let stock: BTreeSet<String> = known("[[wireguard.stock]]\nzz = 1").into_iter().collect();
    assert_eq!(both(&["wireguard", "stock"]), stock);
    let rule: BTreeSet<String> = known("[inbound]\nallow = [{ zz = 1 }]")
        .into_iter()
        .collect();
    assert_eq!(both(&["inbound", "allow"]), rule);
}

#[test]
fn a_configuration_survives_being_shown() {
    for text in [TEMPLATE.to_owned(), defaults(), examples()] {
        let config: Config = toml::from_str(&text).unwrap();
        let shown = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), config, "{shown}");
    }
}

#[test]
fn a_typing_error_is_answered_with_the_line_and_the_nearest_name() {
    let cases = [
        (
            "[node]\nnmae = 'a'",
            "meshd.toml:2: unknown key `nmae`, did you mean `name`?",
        ),
        (
            "\n[intreface]\nmtu = 1",
            "meshd.toml:2: unknown key `intreface`, did you mean `interface`?",
        ),
        (
            "[log]\nlevel = 'inof'",
            "meshd.toml:2: unknown value `inof`, did you mean `info`?",
        ),
        (
            "[dns]\ncolour = 1",
            "meshd.toml:2: unknown key `colour`, known are mode, domain",
        ),
        (
            "[interface]\nmtu = 'x'",
            "meshd.toml:2: invalid type: string \"x\", expected u16",
        ),
        (
            "[interface]\nmtu = 70000",
            "meshd.toml:2: invalid value: integer `70000`, expected u16",
        ),
        (
            "[[peers]]\nendpoint = 5",
            "meshd.toml:2: invalid type: integer `5`, expected \"host:port\" or a list of them",
        ),
        (
            "[[wireguard.stock]]\npublic_key = 'x'",
            "meshd.toml:1: missing field `name`",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(text), expected);
    }
}

#[test]
fn every_fault_is_named_with_its_line() {
    let text = format!(
        "[node]
name = 'Nas'
open = true
[interface]
mtu = 1000
name = 'a/b'
[wireguard]
listen = ['[::]:0', '[::]:0', 'here']
[[peers]]
name = 'vps1'
public_key = '{peer}'
endpoint = ['vps1.example.org', '[600::1]:1', '192.0.2.1:0', '2001:db8::1:5', '[::]:9', 'a b:9']
inbound = 'rules'
[[peers]]
name = 'vps1'
public_key = '{peer}'
[[peers]]
name = 'nobody'
[[peers]]
public_key = '{own}'
[[peers]]
public_key = 'dnLWfRiWU4Q3j/WPzwFMgy6dqkNi7ByvldsDBvRZxRI='
",
        peer = key(1),
        own = key(0),
    );
    insta::assert_snapshot!(faults(&text), @r#"
    meshd.toml:2: node.name: `Nas` is no name: 1 to 63 lower-case letters, digits and hyphens
    meshd.toml:5: interface.mtu: 1000 is not from 1280 (the least of IPv6) to 65475
    meshd.toml:6: interface.name: `a/b` is no name of an interface: 1 to 15 characters, no space, / or :
    meshd.toml:8: wireguard.listen[1]: [::]:0 is there twice
    meshd.toml:8: wireguard.listen[2]: `here` is not an address and port such as [::]:51860 or 0.0.0.0:51860
    meshd.toml:12: peers[0].endpoint: `vps1.example.org`: has no port: write host:port, [IPv6]:port
    meshd.toml:12: peers[0].endpoint: `[600::1]:1`: an endpoint inside the overlay (0600::/8) would carry the mesh over itself: write the underlay address
    meshd.toml:12: peers[0].endpoint: `192.0.2.1:0`: the port is not a number from 1 to 65535
    meshd.toml:12: peers[0].endpoint: `2001:db8::1:5`: an IPv6 address needs brackets: [2001:db8::1]:51860
    meshd.toml:12: peers[0].endpoint: `[::]:9`: nobody can be reached at an unspecified, multicast or broadcast address
    meshd.toml:12: peers[0].endpoint: `a b:9`: the host is neither an address nor a DNS name
    meshd.toml:15: peers[1].name: `vps1` is the name of peers[0].name already
    meshd.toml:16: peers[1].public_key: the same key as peers[0].public_key
    meshd.toml:17: peers[2]: a peer needs `public_key`, or an `address` that ends in its PeerId
    meshd.toml:20: peers[3].public_key: this is the node's own key
    meshd.toml:22: peers[4].public_key: the key was not mined for an address (its hash lacks the 16 leading zero bits); a stock WireGuard device belongs into [[wireguard.stock]]
    "#);
}

#[test]
fn a_peer_may_be_known_by_its_peer_id() {
    let node = testdata::identity(1).node();
    let text =
        format!("[[peers]]\nname = 'vps1'\naddress = '/ip4/203.0.113.7/tcp/51861/p2p/{node}'\n");
    let peers = settings(&text);
    assert_eq!(peers.peers[0].node, node);
    assert_eq!(peers.peers[0].endpoints, []);
    assert_eq!(peers.warnings, []);
    let off = "[control]\nenabled = false\n";
    let unreached = settings(&(off.to_owned() + &text)).warnings;
    assert_eq!(unreached.len(), 1);
    assert_eq!(unreached[0].code, "NO-ENDPOINT");
    let with_endpoint = text.clone() + "endpoint = 'vps1.example.org:51860'\n";
    let reached = settings(&(off.to_owned() + &with_endpoint));
    assert_eq!(reached.warnings, []);
    assert_eq!(
        reached.peers[0].endpoints[0].to_string(),
        "vps1.example.org:51860"
    );
    let other = faults(&(text + &format!("public_key = '{}'\n", key(2))));
    assert_eq!(
        other,
        "meshd.toml:4: peers[0].public_key: is not the key of the PeerId in `address`: drop one of the two"
    );
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let node = testdata::identity(1).node();
    let other = testdata::identity(2).node();
    let good = [
        format!("/dns4/vps1.example.org/tcp/51861/p2p/{node}"),
        format!("/ip6/2001:db8::7/udp/51861/quic-v1/p2p/{node}"),
        format!("/ip4/203.0.113.7/tcp/1/p2p/{other}/p2p-circuit/p2p/{node}"),
    ];
    for text in good {
        assert_eq!(
            text.parse::<PeerAddress>().map(|address| address.node),
            Ok(node),
            "{text}"
        );
    }
    let bad = [
        String::new(),
        "/".into(),
        format!("/p2p/{node}"),
        "/ip4/203.0.113.7/tcp/51861".into(),
        format!("/ip4/203.0.113.7/tcp/0/p2p/{node}"),
        format!("/ip6/600::1/tcp/1/p2p/{node}"),
        format!("/ip4/0.0.0.0/tcp/1/p2p/{node}"),
        format!("/ip4/203.0.113.7/ws/p2p/{node}"),
        format!("/ip4/203.0.113.7/tcp/1/p2p/{node}/p2p-circuit"),
        format!("/ip4/203.0.113.7/tcp/1/p2p/{node}/tcp/2"),
        "/ip4/203.0.113.7/tcp/1/p2p/12D3KooW".into(),
    ];
    for text in bad {
        assert!(text.parse::<PeerAddress>().is_err(), "{text}");
    }
}

#[test]
fn endpoints_keep_their_spelling() {
    let texts = [
        "192.0.2.1:51860",
        "[2001:db8::1]:51860",
        "[fe80::1%3]:1",
        "vps1.example.org:51860",
    ];
    for text in texts {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    assert_eq!(
        "VPS1.Example.org.:1"
            .parse::<HostPort>()
            .unwrap()
            .to_string(),
        "vps1.example.org:1"
    );
    for text in [
        "",
        ":1",
        "host",
        "host:0",
        "host:65536",
        "1.2.3:4",
        "[vps1]:1",
        "-a.b:1",
        "a..b:1",
        "[::ffff:0.0.0.0]:1",
    ] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
}

#[test]
fn strangers_may_open_a_session_and_reach_nothing_unless_that_is_said_too() {
    let open = settings("[node]\nopen = true");
    assert_eq!(open.admission, Admission::Open);
    assert_eq!(open.inbound.default, Fate::Deny);
    let allowing = settings("[node]\nopen = true\n[inbound]\ndefault = 'allow'");
    assert_eq!(allowing.inbound.default, Fate::Allow);
    assert_eq!(settings("").admission, Admission::Listed);
}

#[test]
fn rules_are_read_and_every_fault_in_them_is_named() {
    let peer = format!("[[peers]]\nname = 'nas'\npublic_key = '{}'\n", key(1));
    let text = format!(
        "{peer}[inbound]
icmp_echo = false
allow = [
    {{ from = 'peer:nas', ports = ['tcp/22', 'udp/*'] }},
    {{ from = 'member:laptop/web', to = 'leaf:phone', ports = ['any'] }},
]"
    );
    let inbound = settings(&text).inbound;
    assert_eq!(
        (inbound.default, inbound.icmp_echo),
        (Fate::Deny, Fate::Deny)
    );
    let rules: Vec<String> = inbound.allow.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "from peer:nas: tcp/22, udp/*",
            "from member:laptop/web to leaf:phone: any"
        ]
    );
    let wrong = format!(
        "{peer}[inbound]
allow = [
    {{ from = 'peer:nsa', ports = ['tcp/22'] }},
    {{ from = 'laptop', ports = ['tcp/22'] }},
    {{ from = 'any' }},
    {{ from = 'any', to = 'web', ports = ['22', 'tcp/0'] }},
]"
    );
    insta::assert_snapshot!(faults(&wrong), @r#"
    meshd.toml:6: inbound.allow[0].from: no [[peers]] entry is called `nsa`
    meshd.toml:7: inbound.allow[1].from: `laptop` is none of any, member:NAME, tag:TAG, peer:NAME, leaf:NAME, workload:NAME and key:BASE64
    meshd.toml:8: inbound.allow[2].ports: opens nothing: say which ports, or ["any"]
    meshd.toml:9: inbound.allow[3].to: `web` is none of node, workload:NAME, leaf:NAME and any
    meshd.toml:9: inbound.allow[3].ports: `22` names no protocol: write tcp/22 or udp/22
    meshd.toml:9: inbound.allow[3].ports: `0` is not a port from 1 to 65535, a range such as 8000-8010, or *
    "#);
}

#[test]
fn devices_get_addresses_of_this_node_only() {
    let node = testdata::identity(0).node();
    let prefix = node.prefix().network().to_string();
    let prefix = prefix.trim_end_matches("::");
    let device = |n: usize, allowed: &str| {
        format!(
            "[[wireguard.stock]]\nname = 'd{n}'\npublic_key = '{}'\nallowed = ['{allowed}']\n",
            key(n)
        )
    };
    let good =
        settings(&(device(1, &format!("{prefix}:1::/80")) + &device(2, &format!("{prefix}::2"))));
    assert_eq!(good.stock.len(), 2);
    let text = [
        device(1, "6ff::5"),
        device(2, &format!("{prefix}::1")),
        device(3, "2001:db8::/80"),
        device(4, &format!("{prefix}:2::7/80")),
        device(5, &format!("{prefix}:1::/80")),
        device(6, &format!("{prefix}:1::9")),
    ];
    insta::assert_snapshot!(faults(&text.concat()), @r"
    meshd.toml:4: wireguard.stock[0].allowed: 6ff::5/128 is not inside this node's 664:6008:a954:afec::/64
    meshd.toml:8: wireguard.stock[1].allowed: 664:6008:a954:afec::1/128 contains the node's own address 664:6008:a954:afec::1
    meshd.toml:12: wireguard.stock[2].allowed: 2001:db8::/80 is not inside a node's /64
    meshd.toml:16: wireguard.stock[3].allowed: `664:6008:a954:afec:2::7/80` has bits set behind its prefix: write 664:6008:a954:afec:2::/80
    meshd.toml:24: wireguard.stock[5].allowed: 664:6008:a954:afec:1::9/128 overlaps with 664:6008:a954:afec:1::/80 of wireguard.stock[4].allowed
    ");
}

#[test]
fn a_stock_router_is_trusted_with_what_the_file_says_and_no_more() {
    let device = |lines: &str| {
        let head = "[[wireguard.stock]]\nname = 'd'\npublic_key = '";
        format!("{head}{}'\n{lines}", key(1))
    };
    let routing = |lines: &str| settings(&device(lines)).stock[0].routing.clone();
    let part: Ipv6Network = "6aa::/16".parse().unwrap();
    assert_eq!(routing(""), StockRouting::None);
    assert_eq!(routing("babel = true"), StockRouting::Stub);
    assert_eq!(
        routing("babel = true\ntrust = 'legacy'"),
        StockRouting::Legacy(vec![overlay()])
    );
    assert_eq!(
        routing("babel = true\ntrust = 'legacy'\nlegacy_allow = ['6aa::/16']"),
        StockRouting::Legacy(vec![part])
    );
    let wrong = [
        "trust = 'legacy'",
        "babel = true\nlegacy_allow = ['6aa::/16']",
        "babel = true\ntrust = 'legacy'\nlegacy_allow = ['::/0', 'fd00::/8', '6aa::1/16', 'x']",
    ];
    insta::assert_snapshot!(wrong.map(|lines| faults(&device(lines))).join("\n"), @r#"
    meshd.toml:4: wireguard.stock[0].trust: "legacy" needs babel = true
    meshd.toml:5: wireguard.stock[0].legacy_allow: needs trust = "legacy"
    meshd.toml:6: wireguard.stock[0].legacy_allow: ::/0 is not inside the overlay, 600::/8
    meshd.toml:6: wireguard.stock[0].legacy_allow: fd00::/8 is not inside the overlay, 600::/8
    meshd.toml:6: wireguard.stock[0].legacy_allow: `6aa::1/16` has bits set behind its prefix: write 6aa::/16
    meshd.toml:6: wireguard.stock[0].legacy_allow: `x` is not an IPv6 prefix
    "#);
}

#[test]
fn names_end_with_a_name() {
    let dns = settings("[dns]\nmode = 'off'\ndomain = 'mesh.example.org'").dns;
    assert_eq!(
        (dns.mode, dns.domain.as_str()),
        (DnsMode::Off, "mesh.example.org")
    );
    for wrong in ["", "Internal", "a..b", "-"] {
        let text = format!("[dns]\ndomain = '{wrong}'");
        assert!(faults(&text).contains(": dns.domain: "), "{wrong}");
    }
    let device = format!(
        "[[wireguard.stock]]\nname = 'a'\npublic_key = '{}'\nallowed = ['664:6008:a954:afec::53']",
        key(1)
    );
    assert!(faults(&device).contains("::53, where the node answers names"));
    let changes = settings("").changes(&settings("[dns]\nmode = 'off'\ndomain = 'home'"));
    assert_eq!(changes.restart, ["dns.mode", "dns.domain"]);
}

#[test]
fn the_control_plane_listens_on_addresses_that_it_can_have() {
    let good =
        "[control]\nlisten = ['/ip6/::/tcp/51861', '/ip4/0.0.0.0/udp/0/quic-v1']\ndht = 'server'";
    let control = settings(good).control;
    let listen: Vec<String> = control.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listen,
        ["/ip6/::/tcp/51861", "/ip4/0.0.0.0/udp/0/quic-v1"],
        "written as they were read"
    );
    assert_eq!(
        (control.dht, control.mdns, control.enabled),
        (Dht::Server, true, true)
    );
    let wrong = [
        "/ip4/::/tcp/1",
        "/ip6/::/tcp/65536",
        "/ip6/::/udp/1",
        "/dns/x/tcp/1",
        "/ip6/::/tcp/1/p2p/x",
        "/ip6/600::1/tcp/1",
    ];
    for text in wrong {
        let faults = faults(&format!("[control]\nlisten = ['{text}']"));
        assert!(
            faults.contains("meshd.toml:2: control.listen[0]: "),
            "{faults}"
        );
    }
    let twice = "[control]\nlisten = ['/ip6/::/tcp/1', '/ip6/::/tcp/1']";
    assert!(faults(twice).contains("is there twice"));
}

#[test]
fn a_reload_says_what_changes_now_and_what_later() {
    let peer = |n: usize, endpoint: &str| {
        format!(
            "[[peers]]\nname = 'p{n}'\npublic_key = '{}'\nendpoint = '{endpoint}'\n",
            key(n)
        )
    };
    let old = settings(&[peer(1, "a:1"), peer(2, "b:1"), peer(3, "c:1")].concat());
    let head = format!(
        "[log]\nlevel = 'debug'\n[interface]\nmtu = 1400\n[node]\nallow_keys = ['{}']\n",
        key(5)
    );
    let new = settings(&[head, peer(1, "a:1"), peer(2, "b:2"), peer(4, "d:1")].concat());
    let changes = old.changes(&new);
    let allowed = format!(
        "allowed key of {} added",
        testdata::identity(5).node().address()
    );
    assert_eq!(
        changes.applied,
        [
            "peer p2 changed",
            "peer p4 added",
            "peer p3 removed",
            &allowed,
            "log.level"
        ]
    );
    assert_eq!(changes.restart, ["interface.mtu"]);
    let live = new.clone().live(&old);
    assert_eq!(old.changes(&live).restart, Vec::<String>::new());
    assert_eq!(
        live.changes(&new),
        Changes {
            applied: vec![],
            restart: vec!["interface.mtu".into()]
        }
    );
    assert_eq!(old.changes(&old), Changes::default());
}

#[test]
fn flags_replace_what_the_file_says() {
    let source = Source {
        state_dir: Some("/s".into()),
        socket: Some("/x".into()),
        ..source()
    };
    let settings = source.check("[api]\nsocket = '/other'", None).unwrap();
    assert_eq!(
        (settings.state_dir, settings.api.socket),
        ("/s".into(), "/x".into())
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in "\\PC{0,80}", line in 0_usize..100, cut in 0_usize..60) {
        let _ = source().check(&text, None);
        // A valid file with one line replaced, and one cut off somewhere.
        let examples = examples();
        let mut lines: Vec<&str> = examples.lines().collect();
        let at = line % lines.len();
        lines[at] = &text;
        let _ = source().check(&lines.join("\n"), None);
        lines[at] = &examples[..cut];
        let _ = source().check(&lines.join("\n"), None);
        let _ = text.parse::<HostPort>();
        let _ = text.parse::<PeerAddress>();
    }
}

#[test]
fn metrics_are_served_on_loopback_only() {
    let listen = |address: &str| format!("[metrics]\nlisten = \"{address}\"\n");
    for address in ["[::1]:9586", "127.0.0.1:9586"] {
        assert_eq!(
            settings(&listen(address)).metrics,
            Some(address.parse().unwrap())
        );
    }
    for address in [
        "0.0.0.0:9586",
        "[::]:9586",
        "192.0.2.1:9586",
        "[::1]:0",
        "localhost",
    ] {
        assert!(
            faults(&listen(address)).contains("metrics.listen"),
            "{address}"
        );
    }
}

#[test]
fn streams_are_taken_where_a_port_is_written() {
    let addresses = |wireguard: &str| -> Vec<String> {
        let settings = settings(&format!("[wireguard]\n{wireguard}\n"));
        let addresses = settings.stream_addresses();
        let told = addresses.iter().map(|(address, listen)| match listen {
            StreamListen::Auto => format!("{address}?"),
            StreamListen::At(_) => address.to_string(),
        });
        told.collect()
    };
    assert!(addresses("").is_empty());
    let server = "listen = ['[::]:51860', '0.0.0.0:0']\n";
    assert_eq!(addresses(server), ["[::]:51860?"]);
    let also = format!("{server}stream_listen = ['auto', '[::]:443']");
    assert_eq!(addresses(&also), ["[::]:443", "[::]:51860?"]);
    let asked = format!("{server}stream_listen = ['[::]:51860', 'auto']");
    assert_eq!(addresses(&asked), ["[::]:51860"]);
    assert!(addresses(&format!("{server}stream_listen = []")).is_empty());
    for bad in ["here", "[::]:0", "[600::1]:443", "auto', 'auto"] {
        let text = format!("[wireguard]\nstream_listen = ['{bad}']\n");
        assert!(faults(&text).contains("wireguard.stream_listen"), "{bad}");
    }
}

#[test]
fn queues_are_counted_or_left_to_the_machine() {
    let queues = |count: &str| {
        let text = format!("[interface]\nqueues = {count}\n");
        let settings = source().check(&text, None);
        settings.map(|settings| settings.interface.queues.map(|queues| queues.get()))
    };
    assert_eq!(queues("0").unwrap(), None);
    assert_eq!(queues("8").unwrap(), Some(8));
    assert!(faults("[interface]\nqueues = 9\n").contains("interface.queues: 9 is more than 8"));
}
