//! Private networks: whoever has a ticket is in, whoever is revoked is out, and nobody else gets anything.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, some of which print figures"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use netns_tests::daemon::program;
use netns_tests::settings::{LIBP2P_PORT, PORT};
use netns_tests::view::PathKind;
use netns_tests::wait::hold_for;
use netns_tests::{
    Daemon, Host, Identity, Lab, Nat, Port, Router, Settings, millis, secs, wait_until,
};
use serde_json::Value;

/// From the end of `join` to the first answer.
const USABLE: Duration = secs(5);
/// From a revocation to everybody having closed the door.
const OUT: Duration = secs(3);
/// From the end of a partition to the same.
const HEALED: Duration = secs(10);

/// A ticket of this node's network.
#[track_caller]
fn invite(node: &Daemon, options: &str) -> String {
    let ticket = node.json(&format!("invite {options}"))["ticket"].clone();
    let ticket = ticket.as_str().unwrap().to_owned();
    assert!(ticket.len() <= 110, "{} characters", ticket.len());
    ticket
}

/// What `meshd join -` says, given the ticket on standard input; with its exit code.
fn join(node: &Daemon, ticket: &str, options: &str) -> (i32, Value) {
    let program = program();
    let socket = node.socket().display().to_string();
    let mut argv = vec![program.as_str(), "--socket", &socket, "join", "-", "--json"];
    argv.extend(options.split_whitespace());
    let output = node.host().output_of(&argv, ticket, secs(40)).unwrap();
    let code = output.status.code().unwrap();
    let said = serde_json::from_str(&output.stdout);
    (code, said.unwrap_or(Value::String(output.stderr)))
}

/// Waits until a node knows of a ticket that is good.
#[track_caller]
fn wait_for_invite(on: &Daemon) {
    wait_until(secs(5), "it knows of the invite", || {
        let network = on.json("network show");
        match network["invites"].as_array() {
            Some(invites) if !invites.is_empty() => Ok(()),
            _ => Err(network.to_string()),
        }
    });
}

/// Joins, which has to work; how long it took from the command to the first answer of that node.
#[track_caller]
fn join_and_ping(node: &Daemon, ticket: &str, options: &str, first: &Daemon) -> Duration {
    let begun = Instant::now();
    let (code, said) = join(node, ticket, options);
    assert_eq!(code, 0, "{said}");
    let joined = begun.elapsed();
    wait_until(USABLE, "the first answer", || {
        node.host().ping_within(first.address(), millis(200))
    });
    let took = begun.elapsed();
    println!(
        "{}: joined after {joined:.0?}, first answer after {took:.0?}",
        node.host().name()
    );
    took
}

/// What `members` says of a node on another.
fn standing(on: &Daemon, of: &Daemon) -> Result<String, String> {
    let said = on.command("members --json")?.success()?;
    let said: Value = serde_json::from_str(&said).map_err(|err| err.to_string())?;
    let members = said["members"].as_array().cloned().unwrap_or_default();
    let address = of.address().to_string();
    let found = members.iter().find(|member| member["address"] == address);
    let standing = found.and_then(|member| member["standing"].as_str());
    Ok(standing.unwrap_or("none").to_owned())
}

#[track_caller]
fn wait_for_standing(on: &Daemon, of: &Daemon, expected: &str, within: Duration) {
    let what = format!("{} is {expected} on {}", of.host().name(), on.host().name());
    wait_until(within, &what, || match standing(on, of) {
        Ok(is) if is == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Waits until there is no session with that node any more, and none comes.
#[track_caller]
fn wait_until_out(on: &Daemon, of: &Daemon, within: Duration) {
    let what = format!(
        "{} has no session with {}",
        on.host().name(),
        of.host().name()
    );
    wait_until(within, &what, || has_no_session(on, of));
}

fn has_no_session(on: &Daemon, of: &Daemon) -> Result<(), String> {
    let status = on.try_status()?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    let address = of.address().to_string();
    match peers.iter().find(|peer| peer["address"] == address) {
        Some(peer) if peer["path"]["kind"] != "none" => Err(peer.to_string()),
        Some(_) | None => Ok(()),
    }
}

/// `join --peer` for this node.
fn door(id: &Identity, at: Ipv4Addr) -> String {
    format!(
        "--peer {}@{}",
        id.public_key,
        SocketAddr::new(at.into(), PORT)
    )
}

/// Lets a port of the router's outside through to a host.
fn forward_port(router: &Router, protocol: &str, port: u16, to: &Port) {
    let rule = format!("iifname wan {protocol} dport {port} dnat to {}", to.v4);
    router
        .host()
        .run(&format!("nft add rule ip nat inward {rule}"));
}

/// Nodes with libp2p and nobody in their configuration.
fn loner(id: &Identity) -> Settings {
    Settings::new(id).libp2p("mdns = false").log_level("debug")
}

#[test]
fn a_laptop_joins_two_sites_behind_routers_and_is_out_when_it_is_revoked() {
    let lab = Lab::new("membership sites");
    let home = |name: &str| lab.router(name).online().nat(Nat::PortRestricted);
    let (left, right, cafe) = (home("left"), home("right"), home("cafe"));
    let at = |router: &Router, name: &str| {
        let (host, id) = (lab.host(name), lab.identity());
        let port = router.attach(&host);
        (host.meshd(loner(&id)), port, id)
    };
    let (nas, nas_port, nas_id) = at(&left, "nas");
    let (pi, ..) = at(&left, "pi");
    let (db, ..) = at(&right, "db");
    let (laptop, ..) = at(&cafe, "laptop");
    // One port of each kind is open at one of the sites, as people do who run a server at home.
    forward_port(&left, "udp", PORT, &nas_port);
    forward_port(&left, "tcp", LIBP2P_PORT, &nas_port);
    let created = nas.json("network create home");
    assert_eq!(created["standing"], "member");
    assert_eq!(
        (&created["admin"], &created["members"]),
        (&true.into(), &1.into())
    );
    let outside = format!("--endpoint {}:{LIBP2P_PORT}", left.external());
    // pi is on the same LAN, where the router does not turn packets round.
    let near = format!("--endpoint {}:{LIBP2P_PORT}", nas_port.v4);
    let took = join_and_ping(&pi, &invite(&nas, &near), "", &nas);
    println!("LAN: join to first answer {took:.0?}");
    let took = join_and_ping(&db, &invite(&nas, &outside), "", &nas);
    println!("NAT: join to first answer {took:.0?}");
    let ticket = invite(&nas, &format!("{outside} --name laptop --tags admin"));
    join_and_ping(&laptop, &ticket, "", &nas);
    for far in [&db, &pi] {
        wait_until(secs(10), "the laptop reaches everybody", || {
            laptop.ping(far.address())
        });
    }
    let members = laptop.json("members");
    let names: Vec<&str> = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|member| member["name"].as_str())
        .collect();
    assert_eq!(names, ["db", "laptop", "nas", "pi"]);
    let pinged = db.json("ping -c 1 laptop");
    assert_eq!(pinged["received"], 1, "{pinged}");
    let whois = db.json(&format!("whois {}", laptop.address()));
    assert_eq!(
        (&whois["name"], &whois["kind"], &whois["tags"][0]),
        (&"laptop".into(), &"member".into(), &"admin".into())
    );

    // A stranger knows everything but a ticket: keys, addresses, and one that has been used.
    let (host, id) = (lab.host("stranger"), lab.identity());
    lab.internet().connect(&host);
    let outside_udp = SocketAddr::new(left.external().into(), PORT);
    let settings = loner(&id)
        .peer("nas", &nas_id, Some(outside_udp))
        .node("open = true");
    let stranger = host.meshd(settings);
    let (code, said) = join(&stranger, &ticket, "");
    assert!(matches!(code, 6 | 7), "{said}");
    hold_for(secs(3), "the stranger gets nothing", || {
        for target in [&nas, &db, &laptop] {
            if stranger.ping(target.address()).is_ok() {
                return Err(format!("{} answers", target.host().name()));
            }
            has_no_session(target, &stranger)?;
        }
        Ok(())
    });
    assert!(nas.drops().get("stranger").is_some_and(|count| *count > 0));
    let listed = nas.status()["control"]["peers"].as_u64().unwrap();
    assert!(listed <= 3, "{listed} nodes of libp2p");

    // The laptop is lost.
    let begun = Instant::now();
    let revoked = nas.json("revoke laptop");
    assert_eq!(revoked["standing"], "revoked");
    for node in [&nas, &db, &pi] {
        wait_for_standing(node, &laptop, "revoked", OUT);
        wait_until_out(node, &laptop, OUT);
    }
    println!("revoked: out everywhere after {:.0?}", begun.elapsed());
    hold_for(secs(4), "the laptop stays out", || {
        for target in [&nas, &db, &pi] {
            if laptop.ping(target.address()).is_ok() {
                return Err(format!("{} answers", target.host().name()));
            }
        }
        Ok(())
    });
    let (code, said) = join(&laptop, &invite(&nas, &outside), "");
    assert_ne!(code, 0, "a revoked key comes back: {said}");

    // Its owner has another, under the same name.
    let (new, ..) = at(&cafe, "replacement");
    let ticket = invite(&nas, &format!("{outside} --name laptop"));
    join_and_ping(&new, &ticket, "", &nas);
    wait_until(secs(10), "db finds the new laptop by its name", || {
        let said = db.command("ping -c 1 --json laptop")?.success()?;
        let said: Value = serde_json::from_str(&said).map_err(|err| err.to_string())?;
        if said["target"] == new.address().to_string() && said["received"] == 1 {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
}

#[test]
fn a_network_outlives_restarts_and_asks_for_approval() {
    let lab = Lab::new("membership restarts");
    let switch = lab.switch("switch");
    let node = |name: &str| {
        let (host, id) = (lab.host(name), lab.identity());
        let port = switch.plug(&host);
        (host.meshd(Settings::new(&id).libp2p("mdns = true")), port)
    };
    let ((nas, _), (pi, pi_port), (tv, _)) = (node("nas"), node("pi"), node("tv"));
    nas.json("network create home");
    let key = fs::read_dir(nas.state())
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| {
            entry.file_name().to_string_lossy().ends_with(".key") && entry.file_name() != "node.key"
        })
        .unwrap();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let took = join_and_ping(&pi, &invite(&nas, ""), "", &nas);
    println!("LAN: join to first answer {took:.0?}");

    // One that has to be approved waits, and asks again by itself.
    let (code, said) = join(&tv, &invite(&nas, "--approve --name tv"), "");
    assert_eq!((code, &said["standing"]), (7, &"pending".into()), "{said}");
    wait_for_standing(&nas, &tv, "pending", secs(2));
    assert!(nas.ping(tv.address()).is_err(), "pending is not in");
    assert_eq!(nas.json("approve tv")["standing"], "member");
    wait_until(secs(30), "the approved node reaches the others", || {
        tv.ping(pi.address())
    });

    // Whoever admitted it is not needed.
    nas.stop();
    let begun = Instant::now();
    pi.kill();
    pi.start_again();
    wait_until(secs(10), "pi is back", || tv.ping(pi.address()));
    println!("kill -9 to first answer {:.0?}", begun.elapsed());
    wait_for_standing(&pi, &tv, "member", secs(1));
    // Any member lets in whoever has a ticket, which another has made.
    nas.start_again();
    let at = SocketAddr::new(pi_port.v4.into(), LIBP2P_PORT);
    let ticket = invite(&nas, &format!("--endpoint {at}"));
    wait_for_invite(&pi);
    nas.stop();
    let (radio, _) = node("radio");
    join_and_ping(&radio, &ticket, "", &pi);
    nas.start_again();
    wait_for_standing(&nas, &radio, "member", secs(10));

    // And one goes by itself.
    assert_eq!(radio.json("leave")["schema"], "meshd.leave/1");
    assert!(radio.status()["network"].is_null());
    for node in [&nas, &pi, &tv] {
        wait_for_standing(node, &radio, "left", secs(5));
        wait_until_out(node, &radio, secs(5));
    }
    let said = radio.command("members").unwrap();
    assert_eq!(said.status.code(), Some(7), "{}", said.stderr);
}

/// Hosts in a row, each joined to the next.
struct Row {
    hosts: Vec<Host>,
    ids: Vec<Identity>,
    links: Vec<netns_tests::Link>,
}

impl Row {
    fn new(lab: &Lab, names: &[&str]) -> Self {
        let hosts: Vec<Host> = names.iter().map(|name| lab.host(name)).collect();
        let ids = names.iter().map(|_| lab.identity()).collect();
        let pairs = hosts.iter().zip(&hosts[1..]);
        let links = pairs.map(|(a, b)| lab.link(a, b)).collect();
        Self { hosts, ids, links }
    }

    /// Starts a node without libp2p: who is there is heard on the links.
    fn start(&self, at: usize) -> Daemon {
        let settings = Settings::new(&self.ids[at]);
        self.hosts[at].launch_meshd(settings)
    }
}

#[test]
fn who_is_revoked_in_one_part_is_out_in_the_other_when_they_meet() {
    let lab = Lab::new("membership partition");
    let row = Row::new(&lab, &["nas", "pi", "laptop"]);
    let [nas, pi, laptop] = [0, 1, 2].map(|at| row.start(at));
    nas.wait_for_answers();
    nas.json("network create home");
    // Without libp2p: in a session with a member.
    join_and_ping(
        &pi,
        &invite(&nas, ""),
        &door(&row.ids[0], row.links[0].a.v4),
        &nas,
    );
    let ticket = invite(&nas, "");
    wait_for_invite(&pi);
    join_and_ping(&laptop, &ticket, &door(&row.ids[1], row.links[1].a.v4), &pi);
    wait_until(secs(10), "the laptop reaches nas through pi", || {
        laptop.ping(nas.address())
    });
    wait_for_standing(&nas, &laptop, "member", secs(2));

    row.links[0].silence();
    nas.json("revoke laptop");
    hold_for(secs(2), "pi has not heard of it", || {
        laptop.ping(pi.address())
    });
    row.links[0].restore();
    let begun = Instant::now();
    wait_for_standing(&pi, &laptop, "revoked", HEALED);
    wait_until_out(&pi, &laptop, OUT);
    println!("partition healed to out: {:.0?}", begun.elapsed());
    hold_for(secs(3), "the laptop stays out", || {
        if laptop.ping(pi.address()).is_ok() || laptop.ping(nas.address()).is_ok() {
            return Err("somebody answers".to_owned());
        }
        has_no_session(&pi, &laptop)
    });
    // Also after a restart of whoever has heard of it second hand.
    pi.restart();
    hold_for(secs(3), "the laptop stays out", || {
        has_no_session(&pi, &laptop)
    });
    wait_until(secs(10), "pi and nas are together", || {
        pi.ping(nas.address())
    });
}

#[test]
fn a_ticket_for_one_that_two_have_used_lets_in_nobody_until_an_admin_says_whom() {
    let lab = Lab::new("membership reused");
    let row = Row::new(&lab, &["one", "nas", "pi", "two"]);
    let [one, nas, pi, two] = [0, 1, 2, 3].map(|at| row.start(at));
    for node in [&one, &nas, &pi, &two] {
        node.wait_for_answers();
    }
    nas.json("network create home");
    join_and_ping(
        &pi,
        &invite(&nas, ""),
        &door(&row.ids[1], row.links[1].a.v4),
        &nas,
    );
    let ticket = invite(&nas, "");
    wait_for_invite(&pi);
    row.links[1].silence();
    join_and_ping(&one, &ticket, &door(&row.ids[1], row.links[0].b.v4), &nas);
    join_and_ping(&two, &ticket, &door(&row.ids[2], row.links[2].a.v4), &pi);
    row.links[1].restore();
    for node in [&nas, &pi] {
        for new in [&one, &two] {
            wait_for_standing(node, new, "suspended", HEALED);
        }
        wait_until_out(node, &one, OUT);
        wait_until_out(node, &two, OUT);
        let warnings = node.status()["warnings"].to_string();
        assert!(warnings.contains("INVITE-REUSED"), "{warnings}");
    }
    // Their owner says which of the two it was.
    nas.json(&format!("approve {}", one.address()));
    wait_for_standing(&pi, &one, "member", secs(5));
    wait_until(secs(20), "the one that is approved is in again", || {
        one.ping(nas.address())
    });
    wait_until(secs(20), "also with those far away", || {
        one.ping(pi.address())
    });
    hold_for(secs(2), "the other stays out", || {
        has_no_session(&pi, &two)?;
        match standing(&nas, &two) {
            Ok(is) if is == "suspended" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let path = one.path_to(nas.address()).unwrap();
    assert_eq!(path.kind, PathKind::Direct);
}
