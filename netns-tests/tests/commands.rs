//! The command line against a running daemon: what it prints, and with what it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::process::Output;
use netns_tests::{Daemon, Lab, Settings, secs, wait_until};
use std::net::SocketAddr;

/// A node with a peer, and another peer that is nowhere.
struct Scene {
    node: Daemon,
    peer: Daemon,
    _lab: Lab,
}

impl Scene {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let (host, other) = (lab.host("node"), lab.host("peer"));
        let link = lab.link(&host, &other);
        let (id, id_peer, id_gone) = (lab.identity(), lab.identity(), lab.identity());
        let at = |address: [u8; 4]| Some(SocketAddr::from((address, 51860)));
        let peer = other.meshd(Settings::new(&id_peer).peer("node", &id, None));
        let settings = Settings::new(&id).peer("peer", &id_peer, at(link.b.v4.octets()));
        let node = host.meshd(settings.peer("gone", &id_gone, at([10, 77, 1, 250])));
        let connected = node.command("wait --peer peer --timeout 10").unwrap();
        assert_eq!(connected.status.code(), Some(0), "{}", connected.stderr);
        Self {
            node,
            peer,
            _lab: lab,
        }
    }

    fn run(&self, line: &str) -> Output {
        self.node.command(line).unwrap()
    }

    /// A command that ends with `code` and says what to do next.
    #[track_caller]
    fn refuses(&self, line: &str, code: i32) {
        let output = self.run(line);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}: {}",
            output.stderr
        );
        assert!(
            output.stderr.contains("next: "),
            "{line}: {}",
            output.stderr
        );
        assert!(output.stdout.is_empty(), "{line}: {}", output.stdout);
    }
}

#[test]
fn status_and_peers_show_who_is_there_and_who_is_not() {
    let scene = Scene::new("commands status");
    let status = scene.run("status").success().unwrap();
    assert!(status.contains("1/2 reachable"), "{status}");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("peer").contains("direct 10.77.1.2:51860"), "{status}");
    assert!(
        line("gone").contains("unreachable: no answer from 10.77.1.250:51860"),
        "{status}"
    );
    let peers = scene.node.json("peers");
    assert_eq!(peers["schema"], "meshd.peers/1");
    assert_eq!(peers["peers"].as_array().unwrap().len(), 2);
}

#[test]
fn everybody_connected_has_a_round_trip_time_soon() {
    let scene = Scene::new("commands rtt");
    for (daemon, name) in [(&scene.node, "peer"), (&scene.peer, "node")] {
        wait_until(secs(5), "the way is measured", || {
            daemon.peer(name).unwrap()["rtt_ms"]
                .as_f64()
                .is_some_and(|rtt| rtt < 1000.0)
        });
    }
}

#[test]
fn ping_names_the_path_by_name_and_by_address() {
    let scene = Scene::new("commands ping");
    for target in ["peer".to_owned(), scene.peer.address().to_string()] {
        let ping = scene.node.json(&format!("ping -c 2 {target}"));
        assert_eq!(
            (&ping["sent"], &ping["received"]),
            (&2.into(), &2.into()),
            "{ping}"
        );
        assert_eq!(ping["replies"][0]["path"]["kind"], "direct");
        assert_eq!(ping["replies"][0]["path"]["endpoint"], "10.77.1.2:51860");
    }
    let silent = scene.run("ping -c 1 gone");
    assert_eq!(silent.status.code(), Some(6), "{}", silent.stderr);
    scene.refuses("ping -c 1 nobody", 5);
}

#[test]
fn wait_ends_when_it_is_so_or_when_time_is_up() {
    let scene = Scene::new("commands wait");
    let ends = |line: String, code| {
        let output = scene.run(&line);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}: {}",
            output.stderr
        );
    };
    ends("wait".into(), 0);
    ends(
        format!("wait --route {}/64", scene.peer.identity().address_of(0)),
        0,
    );
    ends("wait --route 600::/64 --timeout 1".into(), 6);
    scene.refuses("wait --peer gone --timeout 1", 6);
    scene.refuses("wait --peer nobody --timeout 1", 5);
}

#[test]
fn devices_are_kept_over_restarts_and_names_are_not_given_twice() {
    let scene = Scene::new("commands wg");
    let text = scene
        .run("wg add phone --endpoint 192.0.2.1:51860")
        .success()
        .unwrap();
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("PrivateKey = "))
        .unwrap();
    for file in ["stock.json", "peers.json", "port.json"] {
        let kept =
            std::fs::read_to_string(scene.node.state_directory().join(file)).unwrap_or_default();
        assert!(!kept.contains(key), "{file} holds the device's private key");
    }
    scene.refuses("wg add phone", 1);
    scene.refuses("wg add peer", 1);
    scene.refuses("wg add Phone", 2);
    scene.node.restart();
    let list = scene.node.json("wg list");
    assert_eq!(list["devices"][0]["name"], "phone", "{list}");
    assert!(scene.run("wg remove phone").success().is_ok());
    scene.refuses("wg remove phone", 5);
    scene.refuses("wg remove peer", 5);
}

#[test]
fn an_added_device_that_the_configuration_gets_as_well_is_named_until_one_of_them_goes() {
    let scene = Scene::new("commands twice");
    let codes = || {
        let status = scene.node.status();
        let warnings = status["warnings"].as_array().unwrap().iter();
        warnings
            .map(|warning| warning["code"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let devices = || {
        let list = scene.node.json("wg list");
        let devices = list["devices"].as_array().unwrap().iter();
        devices
            .map(|device| (device["name"].clone(), device["origin"].clone()))
            .collect::<Vec<_>>()
    };
    let added = scene.node.json("wg add phone --endpoint 192.0.2.1:51860");
    let same_key = added["public_key"].as_str().unwrap();
    let other_key = "dnLWfRiWU4Q3j/WPzwFMgy6dqkNi7ByvldsDBvRZxRI=";
    let path = scene.node.configuration();
    let good = std::fs::read_to_string(path).unwrap();
    for (name, key) in [("phone", other_key), ("tablet", same_key)] {
        let entry =
            format!("{good}\n[[wireguard.stock]]\nname = \"{name}\"\npublic_key = \"{key}\"\n");
        std::fs::write(path, entry).unwrap();
        let checked = scene.run(&format!(
            "--state-dir {} config check",
            scene.node.state_directory().display()
        ));
        let checked = checked.success().unwrap();
        assert!(checked.contains("! DEVICE-TWICE `phone`"), "{checked}");
        let refused = scene.run("reload");
        assert_eq!(refused.status.code(), Some(8), "{}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("next: sudo meshd wg remove phone && sudo meshd reload"),
            "{}",
            refused.stderr
        );
        assert!(codes().is_empty());
        assert_eq!(devices(), [("phone".into(), "added".into())]);

        scene.node.restart();
        assert_eq!(codes(), ["DEVICE-TWICE"]);
        scene.run("wg remove phone").success().unwrap();
        assert!(codes().is_empty());
        assert_eq!(devices(), [(name.into(), "config".into())]);
        scene.node.reload();

        std::fs::write(path, &good).unwrap();
        scene.node.reload();
        assert!(devices().is_empty());
        let again = format!("wg add phone --public-key {same_key}");
        scene.run(&again).success().unwrap();
    }
}

#[test]
fn a_reload_of_a_broken_file_changes_nothing_and_says_where_it_is_broken() {
    let scene = Scene::new("commands reload");
    let path = scene.node.configuration();
    let good = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{good}\n[nodes]\n")).unwrap();
    let broken = scene.run("reload");
    assert_eq!(broken.status.code(), Some(8));
    let line = good.lines().count() + 2;
    assert!(
        broken.stderr.contains(&format!("meshd.toml:{line}")),
        "{}",
        broken.stderr
    );
    assert_eq!(scene.node.status()["peers"].as_array().unwrap().len(), 2);
    std::fs::write(path, good).unwrap();
    scene.node.reload();
}

#[test]
fn nobody_but_root_may_talk_to_the_daemon() {
    let scene = Scene::new("commands permission");
    let line = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {} --socket {} status",
        netns_tests::daemon::program(),
        scene.node.socket().display()
    );
    let output = scene.node.host().output(&line, secs(10)).unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", output.stderr);
}

#[test]
fn a_report_tells_what_the_daemon_did_to_the_kernel_and_not_who_it_talks_to() {
    let scene = Scene::new("commands bugreport");
    let report = scene.run("bugreport -o -").success().unwrap();
    for part in [
        "Peer reachable peer=peer-2",
        "Seccomp: 2",
        "network namespace: the same as ours",
        "mesh0: <POINTOPOINT",
        "inet6 self::1/128",
        "5271:    from all to 600::/8 lookup 5277",
        "unreachable 600::/8",
        "table ip6 meshd {",
        "left in the kernel: Some(Journal",
        "\"endpoint\": \"10.77.1.2:51860\"",
    ] {
        assert!(report.contains(part), "no {part} in\n{report}");
    }
    let seed = std::fs::read_to_string(scene.node.state_directory().join("node.key")).unwrap();
    for private in [
        seed.trim(),
        &scene.node.identity().public_key,
        &scene.peer.identity().public_key,
        &scene.peer.address().to_string(),
    ] {
        assert!(!report.contains(private), "{private} is in\n{report}");
    }
    let full = scene.run("bugreport --full -o -").success().unwrap();
    assert!(full.contains(&scene.peer.identity().public_key) && !full.contains(seed.trim()));
}

#[test]
fn somebody_without_rights_gets_a_report_of_what_everybody_may_see() {
    let scene = Scene::new("commands bugreport user");
    let bugreport = |output: &str| {
        let line = format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups {} --socket {} --state-dir {} --config {} bugreport -o {output}",
            netns_tests::daemon::program(),
            scene.node.socket().display(),
            scene.node.state_directory().display(),
            scene.node.configuration().display(),
        );
        scene.node.host().output(&line, secs(10)).unwrap()
    };
    let report = bugreport("-").success().unwrap();
    let missing: Vec<_> = report
        .lines()
        .filter(|line| line.starts_with("! not all of it: "))
        .collect();
    assert_eq!(missing.len(), 2, "the daemon and the state: {missing:?}");
    assert!(
        report.contains("no permission to talk to the daemon"),
        "{report}"
    );
    assert!(report.contains("inet6 node-1::1/128"), "{report}");
    let refused = bugreport("/nobody-may-write-here.txt");
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(refused.stderr.contains("next: "), "{refused:?}");
}

#[test]
fn without_a_daemon_the_command_says_how_to_start_it() {
    let scene = Scene::new("commands stopped");
    scene.node.stop();
    for line in ["status", "peers", "ping peer", "reload", "wg list"] {
        scene.refuses(line, 3);
    }
}
