//! `meshd bugreport`: what is in it, and what never is.
#![allow(clippy::unwrap_used, reason = "a test")]

mod site;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use meshd::admin::{self, Document, LogLine, LogLines, Path, PathKind, PeerKind, Schema};
use meshd::identity::Identity;
use meshd::state::{PeerSeen, Peers, StateDir, Stock, StockDevice};
use serde::Serialize;

use site::{Site, http, pool};

/// A configuration that says something private wherever a text can be written.
const CONFIG: &str = r#"
[node]
name = "canary-own"
allow_keys = ["KEY-4"]
[wireguard]
listen = ["203.0.113.1:51860", "[2001:db8::1]:51860", "10.0.0.1:7"]
[[wireguard.stock]]
name = "canary-device"
public_key = "KEY-2"
endpoint = "canary-device-host:7"
allowed = ["PREFIX:5555::/80"]
trust = "legacy"
legacy_allow = ["2001:db8:7::/48"]
[control]
listen = ["/ip4/203.0.113.2/tcp/7", "/dns4/canary-listen.example/tcp/7"]
[[peers]]
name = "canary-peer"
public_key = "KEY-1"
endpoint = ["canary-Host.example.org:51860", "203.0.113.3:51860", "[2001:db8::3]:51860"]
[[peers]]
address = "/dns4/canary-dns.example/tcp/7/p2p/ID-3"
[inbound]
allow = [{ from = "member:canary-member", ports = ["tcp/22"] }]
[[workload]]
name = "canary-workload"
netns = "/run/netns/canary-netns"
publish = ["tcp/80"]
[api]
group = "canary-group"
[dns]
domain = "canary-domain"
"#;

/// Answers every request on the socket by its first line, for as long as the test runs.
fn serve(site: &Site, answers: BTreeMap<&'static str, String>) {
    let listener = UnixListener::bind(site.path("meshd.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            // Who only asks which process listens says nothing.
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = answers.get(path).cloned();
            let answer = answer.unwrap_or_else(|| http("404 Not Found", "1", "{}"));
            // It may have gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

fn document<T: Schema + Serialize>(body: T) -> String {
    http(
        "200 OK",
        "1",
        &serde_json::to_string(&Document::new(body)).unwrap(),
    )
}

fn identity(n: usize) -> Identity {
    Identity::from_hex(pool(n)[0]).unwrap()
}

/// A site whose every corner holds something private, and what that is: secrets, and what only a full report may tell.
struct Canaries {
    site: Site,
    secrets: Vec<String>,
    private: Vec<String>,
}

impl Canaries {
    fn new() -> Self {
        let site = Site::with_key(0);
        let ids: Vec<_> = (0..7).map(identity).collect();
        let node = |n: usize| ids[n].node();
        let mut config = CONFIG.replace("ID-3", &node(3).peer_id());
        let prefix = node(0).prefix().to_string();
        config = config.replace("PREFIX", prefix.trim_end_matches("::/64"));
        for n in [1, 2, 4] {
            config = config.replace(&format!("KEY-{n}"), &node(n).public_key().to_string());
        }
        fs::write(site.path("meshd.toml"), config).unwrap();

        let state = StateDir::open(site.path("state")).unwrap();
        let added = StockDevice {
            name: "canary-added".into(),
            public_key: node(5).public_key(),
            address: "6cc:1:2:3:8000::5".parse().unwrap(),
        };
        let seen = PeerSeen {
            public_key: node(1).public_key(),
            endpoints: vec!["203.0.113.4:7".parse().unwrap()],
            seen: 1,
        };
        let devices = vec![added];
        state.write(&Stock { devices }).unwrap();
        state.write(&Peers { peers: vec![seen] }).unwrap();

        let (seed, private) = (ids[0].to_hex(), ids[6].private_key().to_base64());
        let (seed, private_key) = (seed.as_str().to_owned(), private.as_str().to_owned());
        let lines = [
            "2026-11-24T08:15:30.661833Z  INFO meshd::node: Peer reachable peer=canary-peer".into(),
            "Peer roamed peer=canary-former endpoint.remote=203.0.113.5:51860".into(),
            format!("Resolver is busy peer={}", node(6).public_key().short()),
            "Name does not resolve name=\"canary-name.example.net:7\" error=canary-dns2.example.net".into(),
            format!("who would log this? {seed} {private_key}"),
            "Configuration not reloaded error=\"/home/canary-user/meshd.toml:3: `canary-typed` is no name\"".into(),
        ];
        let lines = lines.map(|text: String| LogLine { age_ms: 1500, text });
        let lines = lines.into();
        serve(
            &site,
            BTreeMap::from([
                ("/v1/status", document(status(&ids))),
                ("/v1/wg", document(devices_of(&ids))),
                ("/v1/log", document(LogLines { lines })),
            ]),
        );

        let mut told = vec![
            "2001:db8".to_owned(),
            "203.0.113".to_owned(),
            "canary".to_owned(),
        ];
        for id in &ids {
            let node = id.node();
            let prefix = node.prefix().to_string();
            told.extend([
                node.public_key().to_string(),
                node.public_key().short(),
                node.peer_id(),
                prefix.trim_end_matches("::/64").to_owned(),
            ]);
        }
        Self {
            site,
            secrets: vec![seed, private_key],
            private: told,
        }
    }

    fn written(&self) -> (PathBuf, String) {
        let files = fs::read_dir(self.site.path("here")).unwrap();
        let path = files.map(|file| file.unwrap().path()).next().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    }
}

fn status(ids: &[Identity]) -> admin::Status {
    let own = ids[0].node();
    let peer = |n: usize, name: &str, path: Path, reason: &str| admin::Peer {
        name: name.into(),
        address: ids[n].node().address(),
        public_key: ids[n].node().public_key(),
        kind: PeerKind::Mesh,
        path,
        rtt_ms: Some(27.5),
        loss: None,
        rx_bytes: 5,
        tx_bytes: 6,
        last_handshake_s: None,
        seen_s: None,
        reason: Some(reason.into()),
    };
    let direct = Path::direct("[2001:db8::9]:51860".parse().unwrap());
    let relay = Path {
        kind: PathKind::Relay,
        endpoint: None,
        via: vec!["canary-peer".into(), "canary-via.example.org".into()],
        hops: Some(2),
    };
    admin::Status {
        node: admin::Node {
            name: "canary-running".into(),
            address: own.address(),
            prefix: own.prefix(),
            peer_id: own.peer_id(),
            public_key: own.public_key(),
            version: "0.1.0".into(),
            uptime_s: 7,
        },
        interface: admin::Interface {
            name: "mesh7".into(),
            mtu: 1420,
        },
        peers: vec![
            peer(1, "canary-peer", direct, "no answer from canary-bare:51860"),
            peer(6, &ids[6].node().address().to_string(), relay, "none"),
        ],
        drops: BTreeMap::from([("hop-limit".into(), 3)]),
        network: None,
        control: None,
        workloads: Vec::new(),
        warnings: vec![admin::Warning {
            code: "NO-ENDPOINT".into(),
            text: "peer canary-peer is at canary-warned.example.org".into(),
        }],
    }
}

fn devices_of(ids: &[Identity]) -> admin::Devices {
    let device = admin::Device {
        name: "canary-added".into(),
        public_key: ids[5].node().public_key(),
        allowed: vec!["6cc:1:2:3:8000::5/128".parse().unwrap()],
        origin: admin::DeviceOrigin::Added,
        endpoint: Some("203.0.113.6:7".parse().unwrap()),
        last_handshake_s: None,
    };
    admin::Devices {
        devices: vec![device],
    }
}

#[test]
fn nothing_private_is_in_a_report() {
    let canaries = Canaries::new();
    let site = &canaries.site;
    fs::create_dir(site.path("here")).unwrap();
    let mut command = site.command();
    let output = command
        .current_dir(site.path("here"))
        .args(["bugreport", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let (path, text) = canaries.written();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["schema"], "meshd.bugreport/1");
    assert_eq!(json["missing"], serde_json::json!([]), "{text}");
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let printed = json["sections"].to_string();
    for text in [&text, &printed] {
        for canary in canaries.secrets.iter().chain(&canaries.private) {
            assert!(!text.contains(canary.as_str()), "{canary} is in\n{text}");
        }
    }
    // And it is of use: the same stand-ins in every part, and what is nobody's.
    for part in [
        "\"name\": \"peer-1\"",
        "\"endpoint\": \"[ipv6-1]:51860\"",
        "\"hop-limit\": 3",
        "peer peer-1 is at host-",
        "1.5 s ago  2026-11-24T08:15:30.661833Z  INFO meshd::node: Peer reachable peer=peer-1",
        "name = \"peer-1\"",
        "public_key = \"key-of-peer-1\"",
        "\"10.0.0.1:7\"",
        "\"name\": \"device-1\"",
        "allowed = [\"self::",
        "0600 user",
        "net.core.rmem_max = ",
        "ip addr show dev mesh7",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[test]
fn a_full_report_has_names_and_addresses_but_no_secrets() {
    let canaries = Canaries::new();
    let text = canaries.site.run(&["bugreport", "--full", "-o", "-"]).ok();
    for secret in &canaries.secrets {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
    for told in [
        "canary-peer",
        "203.0.113.5:51860",
        "canary-name.example.net:7",
        pool(1)[1],
        pool(6)[2],
    ] {
        assert!(text.contains(told), "no {told} in\n{text}");
    }
}

#[test]
fn without_a_daemon_it_says_so_and_tells_the_rest() {
    let site = Site::with_key(0);
    fs::write(site.path("meshd.toml"), "[interface]\nmtu = 1400\n").unwrap();
    let report = site.path("report.txt").display().to_string();
    let said = site.run(&["bugreport", "-o", &report]).ok();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("wrote DIR/report.txt ("), "{said}");
    assert_eq!(
        lines[1..],
        [
            "! not all of it: the daemon does not run: nobody listens at DIR/meshd.sock",
            "nothing was sent; names, keys and public addresses are replaced by stand-ins; --full keeps them",
            "next: less DIR/report.txt"
        ]
    );
    let text = fs::read_to_string(report).unwrap();
    for part in [
        "the daemon does not run",
        "mtu = 1400",
        "node.key",
        "kernel",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(!text.contains(pool(0)[0]));
}

#[test]
fn a_broken_configuration_is_told_by_line_without_what_it_says() {
    let site = Site::with_key(0);
    for (text, told) in [
        ("[node]\nhunter2 = 1\n", "! line 2: : unknown key `…`"),
        (
            "[interface]\nmtu = \"hunter2\"\n",
            "! line 2: : invalid type: string \"…\"",
        ),
        (
            "[node]\nname = \"Hunter2\"\n",
            "! line 2: node.name: `self` is no name",
        ),
        ("[node]\nname = hunter2", "! line 2: "),
    ] {
        fs::write(site.path("meshd.toml"), text).unwrap();
        let report = site.run(&["bugreport", "-o", "-"]).ok();
        assert!(report.contains(told), "{report}");
        assert!(!report.to_lowercase().contains("hunter2"), "{report}");
    }
    fs::remove_file(site.path("meshd.toml")).unwrap();
    let report = site.run(&["bugreport", "-o", "-"]).ok();
    assert!(report.contains("reading DIR/meshd.toml"), "{report}");
}

#[test]
fn no_file_is_written_over_or_through_a_link() {
    let site = Site::new();
    let (there, link) = (site.path("there"), site.path("link"));
    fs::write(&there, "mine").unwrap();
    symlink(site.path("elsewhere"), &link).unwrap();
    for path in [&there, &link] {
        let error = site
            .run(&["bugreport", "-o", path.to_str().unwrap()])
            .fails(1);
        assert!(
            error.contains("exists, and is not written over\nnext: "),
            "{error}"
        );
    }
    assert_eq!(fs::read_to_string(there).unwrap(), "mine");
    assert!(!site.path("elsewhere").exists());
    let nowhere = site.path("no/such/directory");
    let error = site
        .run(&["bugreport", "-o", nowhere.to_str().unwrap()])
        .fails(1);
    assert!(error.contains("\nnext: "), "{error}");
}
