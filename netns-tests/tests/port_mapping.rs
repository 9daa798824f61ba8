//! A node behind a home router asks it for the WireGuard port. The router's part is played by miniupnpd, which many routers have.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::SocketAddr;

use netns_tests::nat::{Nat, Router};
use netns_tests::process::Process;
use netns_tests::settings::PORT;
use netns_tests::{Lab, Settings, secs, wait_until};

/// What the router says that its address is: it takes those of documentation, which the lab has, for no way to the Internet.
const PUBLIC: &str = "11.22.33.44";

/// What a router speaks.
#[derive(Clone, Copy)]
enum Speaks {
    PcpAndNatPmp,
    Upnp,
}

/// Starts miniupnpd on a router, with chains of its own beside the router's.
fn start(router: &Router, speaks: Speaks) -> Process {
    let host = router.host();
    let (pcp, upnp) = match speaks {
        Speaks::PcpAndNatPmp => ("yes", "no"),
        Speaks::Upnp => ("no", "yes"),
    };
    let rules = host.directory().join("mapper.nft");
    let text = "table inet mapper {\nchain forward {\n}\nchain to_wan {\n}\nchain to_lan {\n}\n\
                chain inward {\ntype nat hook prerouting priority -110;\njump to_lan\n}\n}\n";
    fs::write(&rules, text).unwrap();
    host.run(&format!("nft -f {}", rules.display()));
    let configuration = host.directory().join("miniupnpd.conf");
    let text = format!(
        "ext_ifname=wan\next_ip={PUBLIC}\nlistening_ip=lan\nenable_natpmp={pcp}\nenable_upnp={upnp}\n\
         secure_mode=yes\nsystem_uptime=yes\nuuid=00000000-0000-0000-0000-000000000001\n\
         upnp_table_name=mapper\nupnp_nat_table_name=mapper\nupnp_forward_chain=forward\nupnp_nat_chain=to_lan\n\
         upnp_nat_postrouting_chain=to_wan\nallow 1024-65535 0.0.0.0/0 1024-65535\n"
    );
    fs::write(&configuration, text).unwrap();
    let pid = host.directory().join("miniupnpd.pid");
    host.spawn(&format!(
        "miniupnpd -d -f {} -P {}",
        configuration.display(),
        pid.display()
    ))
}

#[track_caller]
fn is_reached_by_its_mapped_port(speaks: Speaks, protocols: &[&str]) {
    let lab = Lab::new("port mapping");
    let internet = lab.internet();
    let router = lab.router("home").online().nat(Nat::PortRestricted);
    let (inside, outside) = (lab.host("a"), lab.host("b"));
    router.attach(&inside);
    internet.connect(&outside);
    let _mapper = start(&router, speaks);
    let (a, b) = (lab.identity(), lab.identity());
    // It never calls: only who calls it gets a session.
    let daemon = inside.meshd(Settings::new(&a).peer("b", &b, None));
    let mapped = || router.host().run("nft list chain inet mapper to_lan");
    wait_until(secs(20), "the port is mapped", || {
        mapped().contains("dnat").then_some(())
    });
    let external = SocketAddr::new(router.external().into(), PORT);
    let caller = outside.meshd(Settings::new(&b).peer("a", &a, Some(external)));
    wait_until(secs(15), "the caller reaches it", || {
        caller.ping(daemon.address()).ok()
    });
    let told = format!("external={PUBLIC}:{PORT}");
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("Router lets the WireGuard port in"))
        .unwrap_or_else(|| panic!("not told: {log}"));
    assert!(line.contains(&told), "{line}");
    assert!(
        protocols.iter().any(|protocol| line.contains(protocol)),
        "{line}"
    );
    let netcheck = wait_until(secs(10), "it knows that UDP works", || {
        Some(daemon.json("netcheck")).filter(|netcheck| netcheck["udp"] == "works")
    });
    let external = format!("{PUBLIC}:{PORT}");
    assert_eq!(netcheck["port_mapping"]["external"], external, "{netcheck}");
    assert_eq!(netcheck["role"], "reachable", "{netcheck}");
    daemon.stop();
    assert!(!mapped().contains("dnat"), "{}", mapped());
}

#[test]
fn a_router_is_asked_by_pcp() {
    is_reached_by_its_mapped_port(Speaks::PcpAndNatPmp, &["PCP", "NAT-PMP"]);
}

#[test]
fn a_router_that_speaks_upnp_alone_is_asked_by_that() {
    is_reached_by_its_mapped_port(Speaks::Upnp, &["UPnP"]);
}

#[test]
fn no_router_is_asked_where_it_is_not_wanted() {
    let lab = Lab::new("no port mapping");
    let internet = lab.internet();
    let router = lab.router("home").online().nat(Nat::PortRestricted);
    let (inside, outside) = (lab.host("a"), lab.host("b"));
    router.attach(&inside);
    internet.connect(&outside);
    let capture = router.host().capture_all("lan");
    let (a, b) = (lab.identity(), lab.identity());
    let peer = SocketAddr::new(internet.connect(&lab.host("c")).v4.into(), PORT);
    let settings = Settings::new(&a).peer("b", &b, Some(peer));
    let daemon = inside.meshd(settings.wireguard("port_mapping = false"));
    // It calls its peer by then, which nobody answers.
    wait_until(secs(10), "it calls", || {
        (router.host().captured(&capture, "udp dst port 51860") > 0).then_some(())
    });
    daemon.stop();
    let asked = router
        .host()
        .captured(&capture, "udp port 5351 or udp port 1900");
    assert_eq!(asked, 0);
}
