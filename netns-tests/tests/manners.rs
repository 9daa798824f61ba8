//! What the daemon does to the kernel it runs on, while it runs and afterwards.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::Ipv6Addr;

use netns_tests::{Daemon, Host, Lab, Link, Settings, secs, wait_until};

/// An overlay address that nobody has.
const NOBODY: &str = "6ff:1:2:3::1";

fn pair(lab: &Lab) -> (Daemon, Daemon, Link) {
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    (a, b, link)
}

/// How many packets the daemon's rule has dropped.
fn guarded(host: &Host) -> u64 {
    let table = host.run("nft list table ip6 meshd");
    let after = table.split_once("counter packets ").unwrap().1;
    after.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn overlay_packets_that_arrive_on_another_interface_are_dropped() {
    let lab = Lab::new("manners guard");
    let (a, lan) = (lab.host("a"), lab.host("lan"));
    let link = lab.link(&a, &lan);
    a.forward();
    // A neighbour that knows where the node is, and speaks in the name of another.
    lan.run(&format!("ip -6 route add 600::/8 via {}", link.a.v6));
    lan.run("ip -6 addr add 6aa:1:2:3::1/128 dev lo");
    a.run(&format!(
        "ip -6 route add 6aa:1:2:3::1/128 via {}",
        link.b.v6
    ));
    let identity = lab.identity();
    let address = identity.address;
    let ping = |to: &dyn std::fmt::Display| {
        lan.try_run(&format!("ping -n -c 1 -W 1 -I 6aa:1:2:3::1 {to}"))
    };

    // Without the daemon nothing keeps such packets out.
    a.run(&format!("ip -6 addr add {address}/128 dev lo nodad"));
    wait_until(secs(5), "the neighbour reaches the bare address", || {
        ping(&address)
    });
    a.run(&format!("ip -6 addr del {address}/128 dev lo"));

    let daemon = a.meshd(Settings::new(&identity));
    assert_eq!(daemon.status()["warnings"], serde_json::json!([]));
    assert!(ping(&address).is_err());
    assert_eq!(guarded(&a), 1, "a packet for the node itself");
    assert!(ping(&NOBODY).is_err());
    assert_eq!(guarded(&a), 2, "a packet to be forwarded");
    daemon.ping(address).unwrap();
    assert_eq!(guarded(&a), 2, "the node may speak to itself");

    // A firewall that starts over does not take the rule away.
    a.run("nft flush ruleset");
    assert!(ping(&address).is_err());
    assert_eq!(guarded(&a), 3);

    daemon.kill();
    wait_until(secs(5), "the kernel has removed the table", || {
        a.run("nft list tables").is_empty()
    });
}

#[test]
fn a_more_specific_route_of_the_lan_steals_nothing() {
    let lab = Lab::new("manners route");
    let (a, b, link) = pair(&lab);
    let capture = link.a.host.capture(&link.a.interface);
    // As a router advertisement would, and as precise as a route can be.
    a.host().run(&format!(
        "ip -6 route add {}/128 via {}",
        b.address(),
        link.b.v6
    ));
    let way = a.host().run(&format!("ip -6 route get {}", b.address()));
    assert!(way.contains("dev mesh0"), "{way}");
    a.ping(b.address()).unwrap();
    a.ping(link.b.v6).unwrap();
    wait_until(
        secs(5),
        "the capture has the packet beside the tunnel",
        || {
            a.host()
                .captured(&capture, &format!("dst host {}", link.b.v6))
                > 0
        },
    );
    assert_eq!(a.host().captured(&capture, "dst net 600::/8"), 0);
}

#[test]
fn a_killed_daemon_leaks_nothing_and_the_next_start_puts_everything_back() {
    let lab = Lab::new("manners kill");
    let (a, b, link) = pair(&lab);
    let host = a.host().clone();
    let journal = a.state().join("kernel.json");
    let journaled = || fs::read_to_string(&journal).unwrap();
    assert!(journaled().contains("5271"), "{}", journaled());
    host.route_by(link.b.v6);
    let capture = host.capture(&link.a.interface);
    let outside: Ipv6Addr = "2001:db8::7".parse().unwrap();

    a.kill();
    assert!(journaled().contains("5271"), "{}", journaled());
    let refused = a.ping(b.address()).unwrap_err();
    assert!(refused.contains("No route to host"), "{refused}");
    assert!(a.ping(NOBODY.parse::<Ipv6Addr>().unwrap()).is_err());
    assert!(a.ping(outside).is_err(), "nobody is there");
    wait_until(secs(5), "other packets take the default route", || {
        host.captured(&capture, &format!("dst host {outside}")) > 0
    });
    assert_eq!(host.captured(&capture, "dst net 600::/8"), 0);

    // What another version may have left, besides what this one does.
    host.run("ip -6 rule add pref 5000 to 600::/8 lookup 5278");
    host.run("ip -6 route add unreachable 600::/8 table 5278");
    let with_others = journaled()
        .replace("5271", "5271,5000")
        .replace("5277", "5277,5278");
    fs::write(&journal, with_others).unwrap();
    a.start_again();
    wait_until(secs(5), "a reaches b again", || a.ping(b.address()));
    assert!(a.log().contains("The last run did not end by itself"));
    assert!(!host.run("ip -6 rule").contains("5000"));
    assert_eq!(host.run("ip -6 rule").matches("5271").count(), 1);

    assert!(a.stop().is_some_and(|status| status.success()));
    assert!(!journaled().contains("5271"), "{}", journaled());
    let rules = host.run("ip -6 rule");
    assert!(!rules.contains("600::/8"), "{rules}");
    let routes = host.run("ip -6 route show table all");
    assert!(!routes.contains("527"), "{routes}");
}

#[test]
fn what_people_do_to_the_interface_by_hand_is_said_and_put_right() {
    let lab = Lab::new("manners by hand");
    let (a, b, link) = pair(&lab);
    let host = a.host().clone();
    host.route_by(link.b.v6);
    let codes = || {
        let status = a.status();
        let warnings = status["warnings"].as_array().unwrap().iter();
        warnings
            .map(|warning| warning["code"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let capture = host.capture(&link.a.interface);
    host.link_down("mesh0");
    wait_until(secs(5), "status says so", || {
        let codes = codes();
        if codes == ["INTERFACE-DOWN"] {
            Ok(())
        } else {
            Err(format!("{codes:?}"))
        }
    });
    let refused = a.ping(b.address()).unwrap_err();
    assert!(refused.contains("No route to host"), "{refused}");
    a.ping(link.b.v6).unwrap();
    assert_eq!(host.captured(&capture, "dst net 600::/8"), 0);

    for line in [
        "ip link set mesh0 up",
        "ip -6 addr flush dev mesh0",
        "ip -6 route flush table 5277",
        "ip -6 rule del pref 5271",
        "ip -6 rule del pref 5270",
    ] {
        host.run(line);
        let whole = || {
            let rules = host.run("ip -6 rule");
            let routes = host.run("ip -6 route show table 5277");
            let address = host.run("ip -6 -o addr show dev mesh0");
            let is_whole = ["5270:", "5271:"].iter().all(|rule| rules.contains(rule))
                && routes.lines().count() == 2
                && address.contains(&a.address().to_string());
            if is_whole {
                Ok(())
            } else {
                Err(rules + &routes + &address)
            }
        };
        wait_until(secs(5), &format!("after {line} all is there"), whole);
        wait_until(secs(5), &format!("after {line} a reaches b"), || {
            a.ping(b.address())
        });
        wait_until(secs(5), &format!("after {line} b reaches a"), || {
            b.ping(a.address())
        });
    }
    assert!(codes().is_empty());
    assert!(a.stop().is_some_and(|status| status.success()));
    assert!(!host.run("ip -6 rule").contains("600::/8"));
}

#[test]
fn cleanup_removes_what_a_killed_daemon_left_but_disturbs_no_running_one() {
    let lab = Lab::new("manners cleanup");
    let host = lab.host("a");
    let rules = || host.run("ip -6 rule");
    let before = rules();
    let daemon = host.meshd(Settings::new(&lab.identity()));
    let running = rules();
    let refused = daemon.command("cleanup").unwrap().success().unwrap_err();
    assert!(refused.contains("another meshd"), "{refused}");
    assert_eq!(rules(), running);

    daemon.kill();
    assert_eq!(rules(), running);
    daemon.command("cleanup").unwrap().success().unwrap();
    assert_eq!(rules(), before);
    let routes = host.run("ip -6 route show table all");
    assert!(!routes.contains("600::/8"), "{routes}");
    let journal = fs::read_to_string(daemon.state().join("kernel.json")).unwrap();
    assert!(!journal.contains("5271"), "{journal}");
    // There is nothing to do any more, and that is no failure.
    daemon.command("cleanup").unwrap().success().unwrap();
}
