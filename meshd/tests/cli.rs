//! The real binary from outside: what it prints, how it exits.
#![allow(clippy::unwrap_used, reason = "a test")]

mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use site::{Ran, Site, http, pool};

#[test]
fn init_makes_a_node_once() {
    let site = Site::new();
    let first = site.run(&["init", "--name", "nas"]).ok();
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!(lines[0], "node nas");
    assert!(
        lines[1].starts_with("address      6") && lines[1].contains("::1   (workloads: 6"),
        "{first}"
    );
    assert!(lines[2].starts_with("peer id      12D3KooW"), "{first}");
    assert!(
        lines[3].starts_with("public key   ") && lines[3].ends_with('='),
        "{first}"
    );
    assert_eq!(lines[4], "wrote DIR/meshd.toml and DIR/state/node.key");
    assert_eq!(
        lines[5],
        "next: sudo systemctl enable --now meshd     or: sudo meshd run"
    );
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("meshd.toml"), mode("state"), mode("state/node.key")),
        (0o644, 0o700, 0o600)
    );

    let (config, key) = (
        fs::read(site.path("meshd.toml")).unwrap(),
        fs::read(site.path("state/node.key")).unwrap(),
    );
    let second = site.run(&["init", "--name", "other"]).ok();
    assert_eq!(second.lines().take(4).collect::<Vec<_>>(), lines[..4]);
    assert!(
        second.contains("kept DIR/meshd.toml and DIR/state/node.key\n"),
        "{second}"
    );
    assert!(
        second.contains("note: the node keeps its name nas;"),
        "{second}"
    );
    assert_eq!(config, fs::read(site.path("meshd.toml")).unwrap());
    assert_eq!(key, fs::read(site.path("state/node.key")).unwrap());

    assert!(
        site.run(&["config", "check"])
            .ok()
            .ends_with("DIR/meshd.toml: ok (0 peers, 0 stock devices)\n")
    );
    assert!(site.run(&["--json", "init"]).ok().contains("\"wrote\": []"));
    // The paths given at init are the ones in the file: nobody has to repeat them.
    let shown = Command::new(env!("CARGO_BIN_EXE_meshd"))
        .args(["key", "show", "--config"])
        .arg(site.path("meshd.toml"))
        .env_remove("MESHD_STATE_DIR")
        .output()
        .unwrap();
    assert!(Ran::of(shown, &site).ok().contains(lines[3]));
}

#[test]
fn init_keeps_a_key_it_cannot_use() {
    let site = Site::with_key(0);
    fs::set_permissions(
        site.path("state/node.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let error = site.run(&["init"]).fails(4);
    assert!(
        error.contains("node.key has mode 644")
            && error.contains("\nnext: sudo chmod go-rwx 'DIR/state/node.key'"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(site.path("state/node.key")).unwrap(),
        format!("{}\n", pool(0)[0])
    );
}

#[test]
fn init_refuses_a_bad_name_before_it_writes() {
    let site = Site::new();
    let error = site.run(&["init", "--name", "Bad Name"]).fails(2);
    assert!(
        error.contains("`Bad Name` cannot be a node's name"),
        "{error}"
    );
    assert!(!site.path("meshd.toml").exists() && !site.path("state").exists());
}

#[test]
fn relative_flags_are_written_down_as_absolute_paths() {
    let site = Site::with_key(0);
    let mut command = site.command();
    command.current_dir(site.root.path()).args([
        "init",
        "--name",
        "nas",
        "--config",
        "here.toml",
        "--state-dir",
        "state",
    ]);
    let ran = Ran::of(command.output().unwrap(), &site).ok();
    assert!(
        ran.contains("wrote DIR/here.toml\nkept DIR/state/node.key\n"),
        "{ran}"
    );
    let state = format!("state_dir = \"{}\"", site.path("state").display());
    assert!(
        fs::read_to_string(site.path("here.toml"))
            .unwrap()
            .contains(&state)
    );
}

#[test]
fn key_show_tells_who_the_node_is() {
    let site = Site::with_key(3);
    let [_, key, address] = pool(3);
    let text = site.run(&["key", "show"]).ok();
    assert!(text.contains(key) && text.contains(address), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&site.run(&["key", "--json", "show"]).ok()).unwrap();
    assert_eq!(json["schema"], "meshd.key/1");
    assert_eq!(json["address"], address);
    assert_eq!(json["public_key"], key);
    assert_eq!(
        json["prefix"],
        format!("{}/64", address.strip_suffix('1').unwrap())
    );
    assert!(
        site.run(&["key", "show", "--json"])
            .ok()
            .starts_with("{\n  \"schema\": \"meshd.key/1\",\n")
    );
}

#[test]
fn without_a_key_the_next_command_is_init() {
    let site = Site::new();
    let error = site.run(&["run"]).fails(8);
    assert!(
        error.contains("reading DIR/meshd.toml") && error.ends_with("next: sudo meshd init\n"),
        "{error}"
    );
    fs::write(site.path("meshd.toml"), "").unwrap();
    for verb in [&["key", "show"][..], &["run"]] {
        assert!(
            site.run(verb).fails(1).ends_with("next: sudo meshd init\n"),
            "{verb:?}"
        );
    }
}

#[test]
fn key_pub_gives_what_wg_pubkey_gives() {
    let site = Site::new();
    let [seed, key, _] = pool(5);
    assert_eq!(
        site.feed(&["key", "pub"], &format!("{seed}\n")).ok(),
        format!("{key}\n")
    );
    // RFC 7748 §6.1, Alice.
    let secret = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n";
    let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n";
    assert_eq!(site.feed(&["key", "pub"], secret).ok(), public);
    let error = site.feed(&["key", "pub"], "not a secret\n").fails(1);
    assert!(
        error.contains("holds no secret") && !error.contains("not a secret"),
        "{error}"
    );
}

#[test]
fn config_check_points_at_the_line() {
    let site = Site::with_key(0);
    fs::write(site.path("meshd.toml"), "[node]\nnmae = \"nas\"\n").unwrap();
    assert_eq!(
        site.run(&["config", "check"]).fails(8),
        "meshd: DIR/meshd.toml:2: unknown key `nmae`, did you mean `name`?\nnext: correct the file, then: meshd config check\n"
    );
    fs::write(
        site.path("meshd.toml"),
        format!("[[peers]]\npublic_key = \"{}\"\n", pool(0)[1]),
    )
    .unwrap();
    let error = site.run(&["config", "check"]).fails(8);
    assert!(
        error.contains("meshd.toml:2: peers[0].public_key: this is the node's own key"),
        "{error}"
    );
    let ran = site.run(&["config", "check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &json["ok"], &json["errors"][0]["line"]),
        (8, &false.into(), &2.into())
    );
}

#[test]
fn config_check_warns_of_what_will_not_work() {
    let site = Site::with_key(0);
    let peer = Site::with_key(1).run(&["key", "show", "--json"]).ok();
    let peer: serde_json::Value = serde_json::from_str(&peer).unwrap();
    let address = format!(
        "/ip4/203.0.113.7/tcp/51861/p2p/{}",
        peer["peer_id"].as_str().unwrap()
    );
    let text =
        format!("[control]\nenabled = false\n[[peers]]\nname = \"pi\"\naddress = \"{address}\"\n");
    fs::write(site.path("meshd.toml"), text).unwrap();
    let checked = site.run(&["config", "check"]).ok();
    let (warning, rest) = checked.split_once('\n').unwrap();
    assert!(warning.starts_with("! NO-ENDPOINT "), "{checked}");
    assert_eq!(rest, "DIR/meshd.toml: ok (1 peers, 0 stock devices)\n");
    assert!(site.run(&["help", "no-nft"]).ok().starts_with("NO-NFT\n"));
}

#[test]
fn config_show_prints_what_would_run() {
    let site = Site::new();
    fs::write(site.path("meshd.toml"), "[interface]\nmtu = 1400\n").unwrap();
    let shown = site.run(&["config", "show"]).ok();
    assert!(
        shown.contains("mtu = 1400\n") && shown.contains("socket = \"DIR/meshd.sock\"\n"),
        "{shown}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&site.run(&["config", "show", "--json"]).ok()).unwrap();
    assert_eq!(
        (&json["schema"], &json["interface"]["mtu"]),
        (&"meshd.config/1".into(), &1400.into())
    );
}

#[test]
fn without_a_daemon_every_client_says_how_to_start_it() {
    let site = Site::new();
    let verbs: [&[&str]; 8] = [
        &["status"],
        &["peers"],
        &["ping", "x"],
        &["reload"],
        &["wait", "--timeout", "0"],
        &["wg", "list"],
        &["wg", "add", "phone"],
        &["wg", "remove", "phone"],
    ];
    let expected = "meshd: the daemon does not run: nobody listens at DIR/meshd.sock\n\
                    next: sudo systemctl start meshd     or: sudo meshd run\n";
    for verb in verbs {
        assert_eq!(site.run(verb).fails(3), expected, "{verb:?}");
    }
    // A socket that a killed daemon left.
    drop(UnixListener::bind(site.path("meshd.sock")).unwrap());
    assert_eq!(site.run(&["status"]).fails(3), expected);
}

#[test]
fn a_daemon_of_another_version_is_not_talked_to() {
    for version in ["2", ""] {
        let site = Site::new();
        let daemon = site.daemon(http("200 OK", version, "{}"));
        let error = site.run(&["status"]).fails(9);
        assert!(
            error.contains("speaks version 1 of the admin API"),
            "{error}"
        );
        assert!(daemon.join().unwrap().contains("meshd-api: 1\r\n"));
    }
}

#[test]
fn a_refusal_is_printed_once_with_its_code() {
    let codes = [
        ("failed", 1),
        ("usage", 2),
        ("permission", 4),
        ("no_such_name", 5),
        ("exists", 1),
        ("unreachable", 6),
        ("not_member", 7),
        ("config", 8),
        ("version", 9),
        ("denied", 10),
        ("something newer", 1),
    ];
    for (code, exit) in codes {
        let site = Site::new();
        let body = format!("{{\"error\":\"no x\",\"hint\":\"meshd peers\",\"code\":\"{code}\"}}");
        let daemon = site.daemon(http("404 Not Found", "1", &body));
        assert_eq!(
            site.run(&["wg", "remove", "a b"]).fails(exit),
            "meshd: no x\nnext: meshd peers\n"
        );
        assert!(
            daemon
                .join()
                .unwrap()
                .starts_with("DELETE /v1/wg/a%20b HTTP/1.1\r\n")
        );
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error() {
    for body in ["", "{", "{}", "{\"schema\":\"meshd.status/2\"}", "[]"] {
        let site = Site::new();
        let daemon = site.daemon(http("200 OK", "1", body));
        assert!(site.run(&["status"]).fails(1).contains("makes no sense"));
        daemon.join().unwrap();
    }
    let site = Site::new();
    let daemon = site.daemon("SSH-2.0-OpenSSH\r\n".into());
    assert!(
        site.run(&["status"])
            .fails(1)
            .contains("talking to the daemon")
    );
    daemon.join().unwrap();
}

#[test]
fn ping_prints_paths_and_fails_without_a_reply() {
    let reply = |rtt: &str| {
        format!(
            "{{\"schema\":\"meshd.ping-reply/1\",\"target\":\"600::1\",\"seq\":1,\"rtt_ms\":{rtt},\"path\":{{\"kind\":\
             \"direct\",\"endpoint\":\"192.0.2.1:7\",\"via\":[],\"hops\":1}}}}"
        )
    };
    let site = Site::new();
    let daemon = site.daemon(http("200 OK", "1", &reply("19.44")));
    assert_eq!(
        site.run(&["ping", "pi"]).ok(),
        "1  direct 192.0.2.1:7          19.4 ms\n"
    );
    assert!(
        daemon
            .join()
            .unwrap()
            .ends_with("{\"target\":\"pi\",\"seq\":1,\"timeout_ms\":2000}")
    );
    let site = Site::new();
    let daemon = site.daemon(http("200 OK", "1", &reply("null")));
    let ran = site.run(&["ping", "-c", "1", "pi", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &json["schema"], &json["loss"]),
        (6, &"meshd.ping/1".into(), &1.0.into())
    );
    assert_eq!(ran.err, "meshd: pi does not answer\nnext: meshd status\n");
    daemon.join().unwrap();
}

#[test]
fn wg_add_keeps_the_private_key_from_the_daemon() {
    let site = Site::new();
    let answer = format!(
        "{{\"schema\":\"meshd.wg-added/1\",\"name\":\"phone\",\"address\":\"600::8000:0:0:1\",\"gateway_public_key\":\"{}\",\
         \"listen_port\":51860,\"mtu\":1420,\"endpoint\":null}}",
        pool(0)[1]
    );
    let daemon = site.daemon(http("200 OK", "1", &answer));
    let text = site
        .run(&["wg", "add", "phone", "--endpoint", "vps1.example.org:51860"])
        .ok();
    let secret = text
        .lines()
        .find_map(|line| line.strip_prefix("PrivateKey = "))
        .unwrap()
        .to_owned();
    assert!(
        text.contains("\nEndpoint = vps1.example.org:51860\n"),
        "{text}"
    );
    let request = daemon.join().unwrap();
    assert!(!request.contains(&secret));
    let public = site.feed(&["key", "pub"], &secret).ok();
    assert!(
        request.contains(public.trim()),
        "the key sent is the public half of the one shown"
    );
}

#[test]
fn wg_add_leaves_no_code_without_what_the_device_needs() {
    let site = Site::new();
    let answer = format!(
        "{{\"schema\":\"meshd.wg-added/1\",\"name\":\"phone\",\"address\":\"600::8000:0:0:1\",\"gateway_public_key\":\"{}\",\
         \"listen_port\":51860,\"mtu\":1280,\"endpoint\":null}}",
        pool(0)[1]
    );
    let image = site.path("phone.png");
    let arguments = ["wg", "add", "phone", "--png", image.to_str().unwrap()];
    let failed = site.run(&arguments).fails(3);
    assert!(!fs::exists(&image).unwrap(), "{failed}");

    let endpoint = ["--qr", "--endpoint", "vps1.example.org:51860"];
    let daemon = site.daemon(http("200 OK", "1", &answer));
    let text = site.run(&[&arguments[..], &endpoint].concat()).ok();
    daemon.join().unwrap();
    assert!(text.contains("\nPersistentKeepalive = 25\n\n█"), "{text}");
    assert!(fs::read(&image).unwrap().starts_with(b"\x89PNG"));

    let failed = site.run(&arguments).fails(1);
    assert!(failed.contains("phone.png: File exists"), "{failed}");
    let key = ["wg", "add", "phone", "--qr", "--public-key", pool(0)[1]];
    site.run(&key).fails(2);
}

#[test]
fn a_made_up_command_line_is_a_usage_error() {
    let site = Site::new();
    let cases: [&[&str]; 8] = [
        &["statsu"],
        &["status", "--nope"],
        &["ping"],
        &["ping", "-c", "0", "x"],
        &["wait", "--route", "x"],
        &["wg", "add", "phone", "--public-key", "x"],
        &["wg", "add", "Phone"],
        &["help", "nonsense"],
    ];
    for args in cases {
        site.run(args).fails(2);
    }
    assert_eq!(site.run(&[]).code, 2);
}

#[test]
fn help_explains_verbs() {
    let site = Site::new();
    assert!(site.run(&["help"]).ok().contains("Usage: meshd"));
    assert!(
        site.run(&["help", "wg", "add"])
            .ok()
            .contains("--public-key")
    );
    assert_eq!(
        site.run(&["--version"]).ok(),
        format!("meshd {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_and_manual_pages_are_made() {
    let site = Site::new();
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef meshd"),
        ("fish", "complete -c meshd"),
    ] {
        assert!(
            site.run(&["completions", shell]).ok().contains(mark),
            "{shell}"
        );
    }
    let dir = site.path("man");
    site.run(&["man", dir.to_str().unwrap()]).ok();
    for page in ["meshd.1", "meshd-init.1", "meshd-wg-add.1"] {
        assert!(
            fs::read_to_string(dir.join(page))
                .unwrap()
                .contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    let site = Site::new();
    let mut child = site
        .command()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_client_asks_a_broken_configuration_nothing_when_told_the_socket() {
    let site = Site::new();
    fs::write(site.path("meshd.toml"), "nonsense").unwrap();
    site.run(&["status"]).fails(3);
}
