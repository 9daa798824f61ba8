//! Workloads: containers and processes with addresses of their own, by their network namespaces.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};

use netns_tests::traffic::{Stream, http_get, http_serve, tcp_send, tcp_serve, udp_echo};
use netns_tests::view::PathKind;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Canary, Daemon, Flow, Graph, Host, Lab, Mesh, Moment, Settings, millis, secs, wait_until,
};

/// Two nodes on one cable, each a peer of the other.
fn pair(lab: &Lab) -> (Daemon, Daemon) {
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    (a, b)
}

fn netns(host: &Host) -> String {
    format!("netns:{}", host.namespace())
}

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// What is left of a workload's interface and its routes in a namespace.
fn left_in(host: &Host) -> String {
    host.run("ip -o link show") + &host.run("ip -6 route show table all") + &host.run("ip -6 rule")
}

fn is_detached(host: &Host) -> Result<(), String> {
    let left = left_in(host);
    if left.contains("mesh0") || left.contains("600::/8") {
        return Err(left);
    }
    Ok(())
}

#[test]
fn a_workload_reaches_one_two_relays_away_and_those_between_see_ciphertext_only() {
    let lab = Lab::new("workload relays");
    let mesh = Mesh::start(&lab, Graph::line(4));
    let (near, far) = (lab.host("near"), lab.host("far"));
    let at_near = mesh.nodes[0].attach(&netns(&near), "near").address;
    let at_far = mesh.nodes[3].attach(&netns(&far), "far").address;
    mesh.wait_for_routes(secs(20));
    wait_until(secs(15), "the workloads reach each other", || {
        near.ping(at_far)
    });
    let path = mesh.nodes[0].wait_for_path(mesh.nodes[3].address(), PathKind::Relay, secs(5));
    assert_eq!(path.hops, Some(3), "{path:?}");

    let relay = &mesh.topology.hosts[1];
    let captures = [
        relay.capture(&mesh.topology.port(1, 0).interface),
        relay.capture(&mesh.topology.port(1, 2).interface),
        relay.capture("mesh0"),
    ];
    let arrived = far.capture("mesh0");
    let canary = Canary::new();
    let _echo = udp_echo(&far, at(at_far, 7000));
    canary.send(&near, at(at_far, 7000), 20);
    wait_until(secs(5), "the canary has arrived", || canary.is_in(&arrived));
    let _server = tcp_serve(&far, at(at_far, 7001));
    tcp_send(&near, at(at_far, 7001), 4, 1_000_000).unwrap();
    let _back = tcp_serve(&near, at(at_near, 7001));
    tcp_send(&far, at(at_near, 7001), 1, 1_000_000).unwrap();
    for capture in &captures {
        assert!(!canary.is_in(capture), "{}", capture.display());
    }
    // The hosts of both ends, too.
    for (node, workload) in [(0, at_far), (3, at_near)] {
        let host = &mesh.topology.hosts[node];
        wait_until(secs(5), "a node reaches the workload", || {
            host.ping(workload)
        });
    }
}

#[test]
fn what_stays_on_a_node_is_switched_there_and_named_by_its_own_addresses() {
    let lab = Lab::new("workload switch");
    let (a, _) = pair(&lab);
    let (web, client) = (lab.host("web"), lab.host("client"));
    let at_web = a.attach(&netns(&web), "web").address;
    let at_client = a.attach(&netns(&client), "client").address;
    assert_ne!(at_web, at_client);
    let page = 300_000;
    let _server = http_serve(&web, at(at_web, 80), page);
    for from in [&client, a.host()] {
        wait_until(secs(5), "the server answers", || {
            http_get(from, at(at_web, 80))
        });
        assert_eq!(http_get(from, at(at_web, 80)), Ok(page));
    }
    let _server = tcp_serve(a.host(), at(a.address(), 7001));
    tcp_send(&client, at(a.address(), 7001), 2, 1_000_000).unwrap();
    // What nobody has is refused at once.
    let unused = Ipv6Addr::from_bits(at_web.to_bits() ^ 1);
    let said = client
        .output(&format!("ping -n -c 1 -W 5 {unused}"), secs(10))
        .unwrap();
    assert!(said.stdout.contains("unreachable"), "{said:?}");
    let shown = a.json("workloads");
    assert!(
        shown["workloads"][1]["tx_bytes"].as_u64() > Some(2 * page),
        "{shown}"
    );
}

#[test]
fn what_was_attached_comes_back_after_a_kill_and_its_flows_go_on() {
    let lab = Lab::new("workload kill");
    let (a, b) = pair(&lab);
    let web = lab.host("web");
    let before = b
        .try_attach(&netns(&web), "web", "--publish tcp/80,udp/7000")
        .unwrap();
    let process = b.namespace_of_a_process();
    wait_until(secs(5), "the process is in its namespace", || {
        b.try_attach(&format!("pid:{}", process.id()), "process", "")
    });
    let index = |host: &Host| host.run("cat /sys/class/net/mesh0/ifindex");
    let number = index(&web);
    wait_until(secs(5), "a reaches the workload", || a.ping(before.address));
    let _echo = udp_echo(&web, at(before.address, 7000));
    let flow = Flow::start(a.host(), at(before.address, 7000), millis(50));
    flow.wait_for_answers(secs(5));
    let _server = tcp_serve(&web, at(before.address, 7001));
    let stream = Stream::start(a.host(), at(before.address, 7001), 4_000_000, 500_000);

    b.kill();
    // Nothing leaves by another way meanwhile: the interface waits, with address and route.
    assert!(left_in(&web).contains("600::/8 dev mesh0"));
    b.start_again();
    assert_eq!(b.workload("web").unwrap().state, "waiting");
    let restored = b.json("attach --restore");
    assert_eq!(
        restored["attached"].as_array().unwrap().len(),
        2,
        "{restored}"
    );
    assert_eq!(b.workload("web").unwrap(), before);
    assert_eq!(index(&web), number);
    let shown = b.json("workloads");
    assert_eq!(shown["workloads"][1]["publish"][0], "tcp/80", "{shown}");
    assert!(left_in(&web).contains("600::/8 dev mesh0"));
    assert!(!left_in(&web).contains("unreachable 600::/8"));
    let since = Moment::now();
    wait_until(secs(20), "the flow goes on", || match flow.answers(since) {
        0 => Err("no answer"),
        _ => Ok(()),
    });
    stream.finish(secs(60)).unwrap();
    // Once more, politely.
    b.restart();
    b.json("attach --restore");
    assert_eq!(b.workload("web").unwrap(), before);
    wait_until(secs(10), "a reaches the workload again", || {
        a.ping(before.address)
    });
    // And a namespace that dies now is noticed as before.
    drop(process);
    wait_until(secs(5), "the process is forgotten", || {
        b.workload("process").is_none()
    });
}

#[test]
fn a_workload_is_withdrawn_when_its_namespace_dies() {
    let lab = Lab::new("workload death");
    let (a, b) = pair(&lab);
    let process = b.namespace_of_a_process();
    let target = format!("pid:{}", process.id());
    let workload = wait_until(secs(5), "the process is attached", || {
        b.try_attach(&target, "process", "")
    });
    wait_until(secs(5), "a reaches it", || a.ping(workload.address));
    drop(process);
    wait_until(secs(5), "it is forgotten", || {
        b.workload("process").is_none()
    });
    let remembered = fs::read_to_string(b.state().join("workloads.json")).unwrap();
    wait_until(secs(5), "it is forgotten for good", || {
        let remembered = fs::read_to_string(b.state().join("workloads.json")).unwrap();
        !remembered.contains("process")
    });
    assert!(a.ping(workload.address).is_err(), "{remembered}");

    // The number of a process that died while the daemon was down means nothing: another may have it.
    let process = b.namespace_of_a_process();
    let target = format!("pid:{}", process.id());
    wait_until(secs(5), "the next process is attached", || {
        b.try_attach(&target, "process", "")
    });
    b.kill();
    drop(process);
    b.start_again();
    let restored = b.json("attach --restore");
    assert_eq!(restored["forgotten"][0], "process", "{restored}");
    assert!(b.workload("process").is_none());
}

#[test]
fn a_workload_sends_nothing_but_from_its_address_and_nothing_of_a_link() {
    let lab = Lab::new("workload source");
    let (a, b) = pair(&lab);
    let (web, db) = (lab.host("web"), lab.host("db"));
    a.attach(&netns(&web), "web");
    let at_db = a.attach(&netns(&db), "db").address;
    // Another workload's, the node's, another node's, and one of no node's.
    for foreign in [at_db, a.address(), b.address(), "600::77".parse().unwrap()] {
        web.set_address("mesh0", &format!("{foreign}/128"));
        let target = if foreign == b.address() {
            at_db
        } else {
            b.address()
        };
        let ping = format!("ping -n -c 1 -W 5 -I {foreign} {target}");
        let said = web.output(&ping, secs(10)).unwrap();
        assert!(
            said.stdout.contains("code 5") || said.stdout.contains("policy"),
            "{said:?}"
        );
        web.run(&format!("ip addr del {foreign}/128 dev mesh0"));
    }
    assert!(a.drops()["inside-source"] >= 4, "{:?}", a.drops());

    let (at_web, at_b) = (
        a.workload("web").unwrap().address,
        b.host().capture("mesh0"),
    );
    let (in_db, on_a) = (db.capture("mesh0"), a.host().capture("mesh0"));
    let before = a.drops().get("link-scope").copied().unwrap_or(0);
    // Router advertisement, neighbour advertisement and redirect, as a neighbour would send them.
    for kind in [134, 136, 137] {
        for to in [at_db, a.address(), b.address()] {
            web.send_icmpv6(at_web, to, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    wait_until(secs(5), "they are counted", || {
        let now = a.drops().get("link-scope").copied().unwrap_or(0);
        if now >= before + 9 { Ok(()) } else { Err(now) }
    });
    web.run(&format!("ping -n -c 1 -W 5 {at_db}"));
    let filter = "icmp6 and ip6[40] >= 133 and ip6[40] <= 137";
    for (host, file) in [(b.host(), &at_b), (&db, &in_db), (a.host(), &on_a)] {
        assert_eq!(host.captured(file, filter), 0, "{}", host.name());
    }
    // The workload hears of no router: its namespace has one route, ours.
    let routes = web.run("ip -6 route");
    assert!(
        !routes.contains("fe80") && !routes.contains("default"),
        "{routes}"
    );
}

/// Pings from that source until the node has dropped three for this reason; none may be answered.
#[track_caller]
fn pings_in_vain(from: &Host, source: Ipv6Addr, target: Ipv6Addr, node: &Daemon, reason: &str) {
    let count = || node.drops().get(reason).copied().unwrap_or(0);
    let before = count();
    wait_until(secs(15), "the packets are dropped", || {
        let line = format!("ping -n -c 1 -W 0.3 -I {source} {target}");
        let said = from.output(&line, secs(5))?;
        assert!(!said.status.success(), "{target}: {said:?}");
        if count() >= before + 3 {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
}

#[test]
fn a_member_that_sends_to_the_lan_behind_a_node_gets_nothing() {
    let lab = Lab::new("workload lan");
    let (node, member, printer) = (lab.host("node"), lab.host("member"), lab.host("printer"));
    let (outside, inside) = (lab.link(&node, &member), lab.link(&node, &printer));
    let (id, id_member) = (lab.identity(), lab.identity());
    let node = node.meshd(
        Settings::new(&id)
            .listen(&["[::]:51860"])
            .peer("member", &id_member, None),
    );
    // A node that forwards, and a machine behind it that would answer.
    node.host().forward();
    printer.run(&format!("ip -6 route add 600::/8 via {}", inside.a.v6));
    let web = lab.host("web");
    let at_web = node.attach(&netns(&web), "web").address;
    // A member that does as it likes: its session takes every packet.
    let tunnel = WireGuard::start(&member, &Key::of(&id_member), id_member.address);
    let endpoint = SocketAddr::new(outside.a.v6.into(), 51860);
    tunnel.peer(&id.public_key, "::/0", Some(endpoint));
    let interface = tunnel.interface();
    for to in [
        inside.b.v6.to_string(),
        "600::/8".to_owned(),
        "2001:db8:99::1".to_owned(),
    ] {
        member.run(&format!("ip -6 route add {to} dev {interface} metric 1"));
    }
    wait_until(secs(10), "the member reaches the workload", || {
        member.ping(at_web)
    });
    let captured = printer.capture(&inside.b.interface);
    let (own, foreign): (_, Ipv6Addr) = (id_member.address, "600::99".parse().unwrap());
    member.set_address("lo", &format!("{own}/128"));
    for target in [inside.b.v6, "2001:db8:99::1".parse().unwrap()] {
        pings_in_vain(&member, own, target, &node, "outside-destination");
    }
    // With a source that is not its own, neither the node nor the workload hears of it.
    member.set_address("lo", &format!("{foreign}/128"));
    wait_until(secs(5), "the address is there", || {
        member.try_run(&format!("ping -n -c 1 -W 1 {foreign}"))
    });
    for target in [at_web, node.address()] {
        pings_in_vain(&member, foreign, target, &node, "outside-source");
    }
    assert_eq!(printer.captured(&captured, "icmp6 and ip6[40] == 128"), 0);
}

#[test]
fn fifty_workloads_of_one_node_reach_each_other() {
    const COUNT: usize = 50;
    let lab = Lab::new("workload fifty");
    let (a, b) = pair(&lab);
    let processes: Vec<_> = (0..COUNT).map(|_| a.namespace_of_a_process()).collect();
    let workloads: Vec<_> = processes
        .iter()
        .enumerate()
        .map(|(n, process)| {
            let target = format!("pid:{}", process.id());
            let name = format!("w{n}");
            wait_until(secs(5), "it is attached", || {
                a.try_attach(&target, &name, "")
            })
        })
        .collect();
    let shown = a.status();
    let attached = shown["workloads"].as_array().unwrap().iter();
    let attached = attached.filter(|workload| workload["state"] == "attached");
    assert_eq!(attached.count(), COUNT);
    for (n, process) in processes.iter().enumerate() {
        let next = workloads[(n + 1) % COUNT].address;
        a.host().run(&format!(
            "nsenter -t {} -n ping -n -c 1 -W 5 {next}",
            process.id()
        ));
    }
    for workload in [&workloads[0], &workloads[COUNT - 1]] {
        wait_until(secs(5), "b reaches it", || b.ping(workload.address));
    }
    drop(processes);
    wait_until(secs(20), "all are forgotten", || {
        match a.json("workloads")["workloads"].as_array().unwrap().len() {
            0 => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn attached_and_detached_two_hundred_times_a_workload_leaves_nothing_behind() {
    let lab = Lab::new("workload churn");
    let a = lab.host("a").meshd(Settings::new(&lab.identity()));
    let web = lab.host("web");
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", a.id()))
            .unwrap()
            .count()
    };
    let cycle = || {
        let workload = a.attach(&netns(&web), "web");
        a.detach("web").unwrap();
        is_detached(&web).unwrap();
        workload.address
    };
    let (address, before) = (cycle(), left_in(&web));
    let descriptors_before = descriptors();
    for _ in 1..200 {
        assert_eq!(cycle(), address);
    }
    assert_eq!(left_in(&web), before);
    wait_until(secs(5), "no descriptor is left", || {
        let now = descriptors();
        if now <= descriptors_before {
            Ok(())
        } else {
            Err(now)
        }
    });
    assert_eq!(
        a.json("workloads")["workloads"].as_array().unwrap().len(),
        0
    );
    assert!(
        a.drops().keys().all(|reason| reason == "link-scope"),
        "{:?}",
        a.drops()
    );
}

#[test]
fn the_configuration_lists_workloads_and_a_reload_takes_changes_over() {
    let lab = Lab::new("workload configuration");
    let (web, id) = (lab.host("web"), lab.identity());
    let table = |name: &str, publish: &str| {
        let netns = web.namespace();
        format!("[[workload]]\nname = \"{name}\"\nnetns = \"{netns}\"\npublish = [\"{publish}\"]\n")
    };
    let settings = |tables: &str| Settings::new(&id).table(tables);
    let missing = "[[workload]]\nname = \"missing\"\nnetns = \"no-such-namespace\"\n";
    let a = lab
        .host("a")
        .meshd(settings(&(table("web", "tcp/80") + missing)));
    assert_eq!(a.workload("web").unwrap().state, "waiting");
    let restored = a.json("attach --restore");
    assert_eq!(restored["waiting"][0], "missing", "{restored}");
    assert_eq!(a.workload("web").unwrap().state, "attached");
    // Again, there is nothing to do.
    assert_eq!(
        a.json("attach --restore")["attached"]
            .as_array()
            .unwrap()
            .len(),
        0
    );

    let said = |daemon: &Daemon| daemon.json("reload")["applied"].to_string();
    a.configure(&settings(&table("web", "tcp/443")));
    assert!(said(&a).contains("workload web changed"));
    let shown = a.json("workloads");
    assert_eq!(shown["workloads"][0]["publish"][0], "tcp/443", "{shown}");
    assert_eq!(shown["workloads"][0]["state"], "attached", "{shown}");
    a.configure(&settings(""));
    assert!(said(&a).contains("workload web removed"));
    wait_until(secs(5), "its interface is gone", || is_detached(&web));
    assert!(a.workload("web").is_none());
}

#[test]
fn what_cannot_be_attached_is_refused_with_the_reason_and_changes_nothing() {
    let lab = Lab::new("workload refused");
    let a = lab.host("a").meshd(Settings::new(&lab.identity()));
    let (web, db) = (lab.host("web"), lab.host("db"));
    a.attach(&netns(&web), "web");
    let exit = |line: &str| {
        let output = a.command(line).unwrap();
        (output.status.code().unwrap(), output.stderr)
    };
    let own = format!("attach pid:{} --name own", a.id());
    let (taken, bad) = (
        format!("attach {} --name web", netns(&db)),
        format!("attach {} --name Web", netns(&db)),
    );
    let ports = format!("attach {} --publish 80", netns(&db));
    for (line, code, says) in [
        (taken.as_str(), 1, "is attached already"),
        (bad.as_str(), 2, "cannot be a workload's name"),
        (ports.as_str(), 2, "tcp/80"),
        (
            "attach netns:no-such-namespace",
            5,
            "there is no network namespace",
        ),
        (own.as_str(), 2, "this machine's own"),
        ("attach container:web", 2, "netns:NAME"),
        ("attach pid:1", 2, "has no name"),
        ("attach", 2, "required"),
        ("detach db", 5, "there is no workload"),
    ] {
        let (exit, said) = exit(line);
        assert_eq!(exit, code, "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
    }
    is_detached(&db).unwrap();
    // An interface of that name, which is somebody else's.
    db.run("ip link add mesh0 type veth peer name other");
    let (code, said) = exit(&format!("attach {} --name db", netns(&db)));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--interface"), "{said}");
    let other = a
        .try_attach(&netns(&db), "db", "--interface mesh1")
        .unwrap();
    wait_until(secs(5), "they reach each other", || web.ping(other.address));
    // Detached while the daemon had not got it back.
    a.restart();
    a.detach("db").unwrap();
    assert!(!db.run("ip -o link show").contains("mesh1"));
}

#[test]
fn the_owner_of_a_user_namespace_attaches_without_root() {
    const USER: &str = "setpriv --reuid 65534 --regid 100 --clear-groups";
    let lab = Lab::new("workload rootless");
    let settings = Settings::new(&lab.identity()).api_group("users");
    let a = lab.host("a").meshd(settings);
    let process = a.host().spawn(&format!(
        "{USER} unshare --user --map-root-user --net sleep 1000"
    ));
    // Where udev rules the devices, everybody may open this one; here, for once, in the mount namespace that `ip netns exec` makes.
    let tun = a.host().directory().join("tun");
    let attach = |target: u32, name: &str| {
        let (program, socket) = (netns_tests::daemon::program(), a.socket().display());
        let line = format!(
            "mknod -m 666 {tun} c 10 200; mount --bind {tun} /dev/net/tun; \
             exec {USER} {program} --socket {socket} attach pid:{target} --name {name}",
            tun = tun.display(),
        );
        a.host()
            .output_of(&["sh", "-c", &line], "", secs(10))
            .unwrap()
    };
    wait_until(secs(10), "it is attached", || {
        attach(process.id(), "rootless").success()
    });
    let workload = a.workload("rootless").unwrap();
    wait_until(secs(5), "its node reaches it", || a.ping(workload.address));
    // Another's process he may not attach.
    let web = a.namespace_of_a_process();
    let refused = attach(web.id(), "other");
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    // After a restart, root brings it back.
    a.restart();
    let restored = a.json("attach --restore");
    assert_eq!(restored["attached"][0]["name"], "rootless", "{restored}");
    wait_until(secs(5), "its node reaches it again", || {
        a.ping(workload.address)
    });
    drop(process);
    wait_until(secs(5), "it is forgotten", || {
        a.workload("rootless").is_none()
    });
}
