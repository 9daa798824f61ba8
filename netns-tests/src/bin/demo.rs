//! A small mesh of real daemons in network namespaces: status, ping, a fetch, throughput, a way through another node. It leaves nothing
//! behind.
//!
//! Run it by `sudo ./netns-tests/demo`, which builds what it needs.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::net::SocketAddr;

use netns_tests::traffic::{self, Iperf, Pings};
use netns_tests::{Canary, Daemon, Lab, Settings, millis, secs, wait_until};

/// Who takes part.
const NAMES: [&str; 3] = ["nas", "laptop", "pi"];
/// What is fetched, in bytes.
const PAGE: u64 = 5_000_000;

fn main() {
    let lab = Lab::new("demo");
    let switch = lab.switch("lan");
    let hosts = NAMES.map(|name| lab.host(name));
    let ports = hosts.each_ref().map(|host| switch.plug(host));
    let identities = NAMES.map(|_| lab.identity());
    let (barn, far) = (lab.host("barn"), lab.identity());
    let cable = lab.link(&hosts[2], &barn);

    title("three machines on one network, each with its own meshd");
    let mut daemons: Vec<Daemon> = Vec::new();
    for (own, host) in hosts.iter().enumerate() {
        let mut settings = Settings::new(&identities[own]);
        for other in (0..NAMES.len()).filter(|other| *other != own) {
            let endpoint = SocketAddr::new(ports[other].v4.into(), netns_tests::settings::PORT);
            settings = settings.peer(NAMES[other], &identities[other], Some(endpoint));
        }
        settings = match NAMES[own] {
            "pi" => settings.peer("barn", &far, None),
            _ => settings.allow([&far]),
        };
        let daemon = host.meshd(settings);
        println!(
            "{:8} underlay {:12} overlay {}",
            host.name(),
            ports[own].v4,
            daemon.address()
        );
        daemons.push(daemon);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        wait_until(secs(10), "everybody reaches everybody", || {
            daemons[from].ping(daemons[to].address())
        });
    }
    let (nas, laptop) = (&daemons[0], &daemons[1]);

    title("meshd status on the laptop");
    print!("{}", said(laptop, "status"));

    title("meshd ping nas, from the laptop");
    print!("{}", said(laptop, "ping -c 3 nas"));
    let pings = Pings::send(laptop.host(), nas.address().into(), 100, millis(5))
        .unwrap_or_else(|err| panic!("ping: {err}"));
    println!(
        "plain ping: {} of {} answered, median {:.3} ms",
        pings.rtt_ms.len(),
        pings.sent,
        pings.quantile(0.5)
    );

    title("a fetch over HTTP, laptop from nas");
    let web = SocketAddr::new(nas.address().into(), 80);
    let server = traffic::http_serve(nas.host(), web, PAGE);
    let bytes = traffic::http_get(laptop.host(), web).unwrap_or_else(|err| panic!("fetch: {err}"));
    println!("http://{web}/: {bytes} bytes, every one as it was sent");
    drop(server);

    title(
        "a fourth machine, the barn, which has a cable to pi and nothing else; meshd trace from the laptop",
    );
    let endpoint = SocketAddr::new(cable.a.v6.into(), netns_tests::settings::PORT);
    let settings = Settings::new(&far)
        .peer("pi", &identities[2], Some(endpoint))
        .allow([&identities[1]]);
    let barn = barn.meshd(settings);
    wait_until(secs(10), "the laptop reaches the barn", || {
        laptop.ping(barn.address())
    });
    print!("{}", said(laptop, &format!("trace {}", barn.address())));
    let tap = hosts[2].capture("any");
    let canary = Canary::new();
    let at = SocketAddr::new(barn.address().into(), 7000);
    let echo = traffic::udp_echo(barn.host(), at);
    canary.send(laptop.host(), at, 10);
    let crossed = wait_until(secs(5), "they have crossed pi", || {
        match hosts[2].captured(&tap, "udp port 51860") {
            few @ 0..20 => Err(format!("{few} datagrams")),
            all => Ok(all),
        }
    });
    assert!(!canary.is_in(&tap), "pi has read what it carried");
    println!(
        "10 packets there and back: {crossed} datagrams seen on pi, what is in the packets in none of them"
    );
    drop(echo);

    title("throughput, laptop to nas, iperf3 over one TCP stream");
    let server = Iperf::serve(nas.host());
    let report = Iperf::tcp(laptop.host(), nas.address().into(), 1, 3)
        .unwrap_or_else(|err| panic!("iperf3: {err}"));
    println!(
        "{:.0} Mbit/s (encrypted, both ends and iperf3 on this machine)",
        report.bits_per_second / 1e6
    );
    drop(server);

    title("stopped");
    for daemon in daemons.iter().chain([&barn]) {
        let ended = daemon.stop();
        let left = daemon.host().try_run("ip link show mesh0").is_ok();
        println!(
            "{:8} {}",
            daemon.host().name(),
            match (ended, left) {
                (Some(status), false) if status.success() => "ended well, nothing left".to_owned(),
                (ended, left) => panic!("ended with {ended:?}, interface still there: {left}"),
            }
        );
    }
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn said(daemon: &Daemon, line: &str) -> String {
    let output = daemon
        .command(line)
        .and_then(netns_tests::process::Output::success);
    output.unwrap_or_else(|err| panic!("meshd {line}: {err}"))
}
