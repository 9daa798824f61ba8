//! `meshd doctor` finds what is put in the way, and what it says to do helps.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::UdpSocket;

use netns_tests::{Daemon, Lab, Settings};
use serde_json::Value;

/// Those of these states, by code, with the fix.
fn found(node: &Daemon, state: &str) -> Vec<(String, String)> {
    let ran = node.command("doctor --json").unwrap();
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let is_wrong = checks.iter().any(|check| check["state"] == "wrong");
    assert_eq!(said["ok"], !is_wrong, "{said}");
    assert_eq!(ran.success().is_ok(), !is_wrong, "{said}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wanted = checks.iter().filter(|check| check["state"] == state);
    wanted
        .map(|check| (text(&check["code"]), text(&check["fix"])))
        .collect()
}

fn codes(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(code, _)| code.as_str()).collect()
}

/// The command of a fix: what is behind it is for people.
fn command(fix: &str) -> String {
    let command = fix.strip_prefix("sudo ").unwrap();
    command.split("     ").next().unwrap().to_owned()
}

#[test]
fn what_is_in_the_way_is_found_and_what_it_says_to_do_helps() {
    let lab = Lab::new("doctor");
    let host = lab.host("node");
    let _link = lab.link(&host, &lab.host("other"));
    let settings = Settings::new(&lab.identity()).table("[dns]\nmode = \"off\"\n");
    let node = host.meshd(settings);
    // What this machine's kernel lacks is no finding of this test.
    let given = found(&node, "wrong");
    let news = |state: &str| {
        let found = found(&node, state);
        found
            .into_iter()
            .filter(|finding| !given.contains(finding))
            .collect::<Vec<_>>()
    };
    assert!(
        given.iter().all(|(code, _)| code.starts_with("NO-")),
        "{given:?}"
    );
    assert_eq!(codes(&news("note")), ["NAMES-ELSEWHERE"]);

    host.run("nft add table inet filter");
    host.run(
        "nft add chain inet filter input { type filter hook input priority 0 ; policy drop ; }",
    );
    host.run("nft add rule inet filter input ct state established,related accept");
    host.run("ip -6 route add 664:1::/32 dev lo");
    let wrong = news("wrong");
    assert_eq!(codes(&wrong), ["FIREWALL"]);
    let notes = news("note");
    assert_eq!(
        codes(&notes),
        ["FIREWALL-OVERLAY", "OVERLAY-ROUTE", "NAMES-ELSEWHERE"]
    );
    host.run(&command(&wrong[0].1));
    host.run(&command(&notes[0].1));
    assert_eq!(news("wrong"), []);
    assert_eq!(codes(&news("note")), ["OVERLAY-ROUTE", "NAMES-ELSEWHERE"]);
    // A rule of somebody's that is looked at before ours.
    host.run("ip -6 rule add pref 1000 lookup main");
    assert_eq!(codes(&news("wrong")), ["OVERLAY-ROUTE"]);
    let text = node.command("doctor").unwrap();
    assert!(
        text.stdout
            .contains("WRONG  routes         OVERLAY-ROUTE: 664:1::/32 leads to lo in table main"),
        "{}",
        text.stdout
    );

    node.stop();
    let _taken = host.inside(|| UdpSocket::bind("0.0.0.0:51860").unwrap());
    let wrong = found(&node, "wrong");
    assert_eq!(codes(&wrong), ["DAEMON", "PORT-IN-USE", "OVERLAY-ROUTE"]);
}
