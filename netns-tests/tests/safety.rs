//! What a daemon gives up, survives and says: the walls around it, pauses, and a state directory that fails.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use netns_tests::{Daemon, Lab, Settings, secs, wait_until};

struct Pair {
    a: Daemon,
    b: Daemon,
    lab: Lab,
}

fn pair(name: &str) -> Pair {
    let lab = Lab::new(name);
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    Pair { a, b, lab }
}

/// The codes of the warnings in `status`.
fn codes(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let warnings = status["warnings"].as_array().unwrap();
    warnings
        .iter()
        .map(|warning| warning["code"].as_str().unwrap().to_owned())
        .collect()
}

fn state(daemon: &Daemon) -> PathBuf {
    daemon.host().directory().join("state")
}

#[test]
fn the_daemon_is_confined_and_reloads_and_resolves_names_all_the_same() {
    let pair = pair("confined");
    let process = format!("/proc/{}", pair.a.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:")),
        ("1".to_owned(), "2".to_owned())
    );
    for task in fs::read_dir(format!("{process}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"]
    );

    // A peer by name, which only the resolver can find.
    let (id_a, id_b) = (pair.a.identity(), pair.b.identity());
    let by_name = Settings::new(id_a).table(&format!(
        "[[peers]]\nname = \"b\"\npublic_key = \"{}\"\nendpoint = \"localhost:9\"\n",
        id_b.public_key
    ));
    pair.a.configure(&by_name);
    pair.a.reload();
    pair.a.restart();
    wait_until(secs(10), "the name is resolved", || {
        let reason = pair.a.peer("b").unwrap()["path"]["endpoint"].to_string()
            + &pair.a.peer("b").unwrap()["reason"].to_string();
        if reason.contains("does not resolve") {
            Err(reason)
        } else {
            Ok(())
        }
    });
    wait_until(secs(20), "b calls a", || pair.a.ping(pair.b.address()));
    let denied = pair.a.log();
    assert!(
        !denied.contains("ermission denied") && !denied.contains("not permitted"),
        "{denied}"
    );
    assert!(pair.a.stop().unwrap().success());
}

#[test]
fn traffic_flows_within_five_seconds_after_a_pause_of_one_or_both() {
    let pair = pair("pause");
    for paused in [vec![&pair.a], vec![&pair.a, &pair.b]] {
        for daemon in &paused {
            daemon.signal("STOP");
        }
        let stopped = Instant::now();
        wait_until(secs(20), "nine seconds have passed", || {
            if stopped.elapsed() > secs(9) {
                Ok(())
            } else {
                Err("not yet")
            }
        });
        for daemon in &paused {
            daemon.signal("CONT");
        }
        wait_until(secs(5), "a reaches b", || pair.a.ping(pair.b.address()));
        for daemon in &paused {
            wait_until(secs(5), "the pause is noticed", || {
                if daemon.log().contains("Resumed after a pause") {
                    Ok(())
                } else {
                    Err("no")
                }
            });
        }
    }
}

#[test]
fn a_full_or_read_only_disk_is_said_and_survived() {
    let pair = pair("disk");
    let (directory, settings) = (state(&pair.a), "size=64k,mode=0700");
    let key = fs::read(directory.join("node.key")).unwrap();
    pair.a.stop().unwrap();
    // Mounted in the host's own mount namespace it would be invisible to us.
    mount(
        &pair.lab,
        &["-t", "tmpfs", "-o", settings, "tmpfs"],
        &directory,
    );
    let _mounted = Mounted(directory.clone());
    fs::write(directory.join("node.key"), key).unwrap();
    set_mode(&directory.join("node.key"), 0o600);
    pair.a.start_again();
    wait_until(secs(10), "a reaches b", || pair.a.ping(pair.b.address()));

    let ballast = directory.join("ballast");
    let mut size = 64 << 10;
    while size > 0 && fs::write(&ballast, vec![0; size]).is_err() {
        size -= 1024;
    }
    let refused = pair
        .a
        .command("wg add phone --endpoint 192.0.2.1:51860")
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("next: "), "{refused:?}");
    assert_eq!(
        pair.a.json("wg list")["devices"].as_array().unwrap().len(),
        0
    );
    assert_eq!(codes(&pair.a), ["STATE-READONLY"]);
    pair.a.ping(pair.b.address()).unwrap();
    pair.a.restart();
    wait_until(secs(10), "a reaches b from a full disk", || {
        pair.a.ping(pair.b.address())
    });

    fs::remove_file(ballast).unwrap();
    let added = pair
        .a
        .command("wg add phone --endpoint 192.0.2.1:51860")
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    assert!(codes(&pair.a).is_empty());

    pair.a.stop().unwrap();
    mount(&pair.lab, &["-o", "remount,ro"], &directory);
    pair.a.start_again();
    wait_until(secs(10), "a reaches b from a read-only disk", || {
        pair.a.ping(pair.b.address())
    });
    assert_eq!(pair.a.json("wg list")["devices"][0]["name"], "phone");
    let refused = pair.a.command("wg remove phone").unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(codes(&pair.a), ["STATE-READONLY"]);
    pair.a.stop().unwrap();
}

#[test]
fn damaged_files_are_set_aside_or_refused_and_the_identity_stays() {
    let pair = pair("damaged");
    let directory = state(&pair.a);
    for text in ["", "{\"version\":1,\"pee", "\0\0\0\0"] {
        pair.a.stop().unwrap();
        for name in ["peers.json", "port.json"] {
            fs::write(directory.join(name), text).unwrap();
        }
        pair.a.start_again();
        assert_eq!(codes(&pair.a), ["STATE-DAMAGED"]);
        assert_eq!(
            fs::read_to_string(directory.join("peers.json.damaged")).unwrap(),
            text
        );
        assert_eq!(
            fs::read_to_string(directory.join("port.json.damaged")).unwrap(),
            text
        );
        wait_until(secs(10), "a reaches b", || pair.a.ping(pair.b.address()));
    }
    pair.a.stop().unwrap();
    for name in ["stock.json", "node.key"] {
        let good = fs::read(directory.join(name)).ok();
        for text in ["", "torn"] {
            fs::write(directory.join(name), text).unwrap();
            set_mode(&directory.join(name), 0o600);
            let refused = pair.a.command("run").unwrap();
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(
                refused.stderr.contains(name) && refused.stderr.contains("next: restore"),
                "{refused:?}"
            );
            assert_eq!(
                fs::read_to_string(directory.join(name)).unwrap(),
                text,
                "left as it was"
            );
        }
        match good {
            Some(good) => fs::write(directory.join(name), good).unwrap(),
            None => fs::remove_file(directory.join(name)).unwrap(),
        }
    }
    pair.a.start_again();
    assert_eq!(
        pair.a.status()["node"]["public_key"],
        pair.a.identity().public_key
    );
}

#[test]
fn metrics_are_for_this_machine_and_the_log_level_changes_while_it_runs() {
    let lab = Lab::new("metrics");
    let host = lab.host("a");
    let identity = lab.identity();
    let settings = Settings::new(&identity)
        .log_level("info")
        .table("[metrics]\nlisten = \"127.0.0.1:9586\"\n");
    let daemon = host.meshd(settings);
    let ask = |options: &str| {
        host.run(&format!(
            "curl -s -w %{{http_code}} {options} http://127.0.0.1:9586/metrics"
        ))
    };
    let answer = ask("");
    assert!(
        answer.contains("meshd_build_info{version=") && answer.ends_with("200"),
        "{answer}"
    );
    assert!(
        answer.contains("# TYPE meshd_uptime_seconds gauge"),
        "{answer}"
    );
    assert!(
        answer.contains("meshd_routes{state=\"selected\"} 1"),
        "its own: {answer}"
    );
    assert_eq!(ask("-H Origin:http://evil.example"), "403");
    assert_eq!(ask("-H Host:evil.example"), "403");
    assert_eq!(ask("-X POST"), "405");
    let printed = daemon
        .command("metrics")
        .and_then(netns_tests::process::Output::success);
    assert!(printed.unwrap().contains("meshd_build_info{version="));
    assert_eq!(daemon.json("metrics")["schema"], "meshd.metrics/1");

    assert_eq!(daemon.json("log error")["level"], "error");
    let before = daemon.log().len();
    daemon.reload();
    wait_until(secs(5), "a reload takes the level of the file", || {
        assert_eq!(daemon.json("log info")["level"], "info");
        if daemon.log().len() > before {
            Ok(())
        } else {
            Err("nothing logged")
        }
    });
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mount(lab: &Lab, options: &[&str], at: &std::path::Path) {
    let at = at.to_str().unwrap();
    let argv = [&["mount"], options, &[at]].concat();
    let mut mount = netns_tests::lab::spawn_outside(&argv, &lab.directory().join("mount.log"));
    assert!(mount.wait(secs(5)).success(), "{}", mount.log());
}

/// Unmounts when the test ends, however it does.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let ended = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
