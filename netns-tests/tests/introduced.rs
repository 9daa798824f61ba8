//! Nodes behind routers that have nothing in common but a server of the DHT: libp2p carries their first words, and no packet.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{net::SocketAddr, time::Instant};

use netns_tests::{
    Daemon, Identity, Lab, Nat, Port, Settings, process::Output, secs, settings::PORT,
    view::PathKind, wait_until,
};

fn open(identity: &Identity) -> Settings {
    Settings::new(identity).node("open = true").inbound("")
}

/// What `status` says of the control plane.
fn control(daemon: &Daemon, field: &str) -> Result<u64, String> {
    let control = daemon.try_status()?["control"].clone();
    control[field].as_u64().ok_or_else(|| control.to_string())
}

#[test]
fn two_behind_routers_without_session_or_route_meet_through_the_dht() {
    let lab = Lab::new("introduced");
    let internet = lab.internet();
    let ids: Vec<Identity> = (0..5).map(|_| lab.identity()).collect();
    let hosts = ["server", "m0", "m1"].map(|name| lab.host(name));
    let ports: [Port; 3] = [0, 1, 2].map(|n| internet.connect(&hosts[n]));
    // With the server nobody can have a session.
    let rules = format!(
        "table inet wall {{\nchain inward {{ type filter hook input priority 0; udp dport {PORT} drop; }}\n}}\n"
    );
    let ruled = hosts[0].output_of(&["nft", "-f", "-"], &rules, secs(5));
    ruled.and_then(Output::success).unwrap();
    let server = hosts[0].meshd(open(&ids[0]).libp2p("mdns = false\ndht = \"server\""));
    // Each node has a member that shows it its address, and the members do not know each other.
    for n in [1, 2] {
        hosts[n].meshd(open(&ids[n]));
    }
    let start = |n: usize| {
        let router = lab
            .router(&format!("r{n}"))
            .online()
            .nat(Nat::PortRestricted);
        let host = lab.host(&format!("n{n}"));
        router.attach(&host);
        let member = SocketAddr::new(ports[n + 1].v4.into(), PORT);
        let settings = open(&ids[n + 3])
            .listen(&["0.0.0.0:51860"])
            .libp2p_without_port("mdns = false")
            .peer(&format!("m{n}"), &ids[n + 1], Some(member))
            .peer_by_libp2p("server", &ids[0], ports[0].v4);
        (host.launch_meshd(settings), router)
    };
    let nodes = [start(0), start(1)];
    wait_until(secs(60), "the server keeps the records of both", || {
        let kept = control(&server, "records")?;
        (kept == 2).then_some(()).ok_or_else(|| format!("{kept}"))
    });
    let ([(a, _), (b, _)], member) = (&nodes, |n: usize| ids[n].address);
    for (node, n) in [(a, 1), (b, 2)] {
        node.wait_for_route(member(n), secs(10));
    }
    for (from, to) in [(a, b), (b, a)] {
        from.route_to(to.address()).unwrap_err();
        assert!(from.peer(&to.address().to_string()).is_none());
    }

    let start = Instant::now();
    let traffic = a
        .host()
        .spawn(&format!("ping -n -q -i 0.2 {}", b.address()));
    wait_until(secs(5), "they have met", || a.ping(b.address()));
    let took = start.elapsed();
    drop(traffic);
    for (from, to) in [(a, b), (b, a)] {
        let path = from.wait_for_path(to.address(), PathKind::Direct, secs(5));
        assert!(path.endpoint.is_some(), "{path:?}");
    }
    println!(
        "introduced through libp2p, both behind port-restricted routers: {took:?} to the first answer"
    );
}
