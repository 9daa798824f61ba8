//! Names: asked on a node, behind one, and where nobody answers.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    reason = "tests, one of which tells what it measured"
)]

mod resolved;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use netns_tests::leaf::Row;
use netns_tests::wireguard::WireGuard;
use netns_tests::{Daemon, Host, Lab, Settings, secs, wait_until};
use resolved::{Bus, Manner, Resolved, Told};

/// Where the node answers that has this address.
fn server(node: Ipv6Addr) -> SocketAddr {
    let prefix = node.to_bits() >> 64 << 64;
    SocketAddr::new(Ipv6Addr::from_bits(prefix | 0x53).into(), 53)
}

/// One question, and what comes back.
fn ask(host: &Host, server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Message> {
    host.inside(|| {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.set_read_timeout(Some(secs(2)))?;
        socket.connect(server)?;
        ask_by(&socket, 0x4d44, name, kind)
    })
}

fn ask_by(socket: &UdpSocket, id: u16, name: &str, kind: RecordType) -> io::Result<Message> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    socket.send(&message.to_vec().unwrap())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    let told = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(told.metadata.id, id);
    Ok(told)
}

/// The one thing that a name stands for.
fn told(host: &Host, server: SocketAddr, name: &str) -> String {
    let kind = if name.ends_with("arpa.") {
        RecordType::PTR
    } else {
        RecordType::AAAA
    };
    let told = ask(host, server, name, kind).unwrap();
    match told.answers.as_slice() {
        [record] => record.data.to_string(),
        _ => told.metadata.response_code.to_str().to_owned(),
    }
}

/// The phone, with the gateway as its name server.
fn add_phone(row: &Row) -> WireGuard {
    let line = format!("wg add phone --dns --endpoint {}", row.endpoint);
    let text = row.run(&line);
    let dns = format!("\nDNS = {}\n", server(row.gateway.address()).ip());
    assert!(text.contains(&dns), "{text}");
    let device = WireGuard::from_quick_configuration(&row.phone, &text);
    wait_until(secs(10), "the phone reaches its gateway", || {
        row.phone.ping(row.gateway.address())
    });
    device
}

#[test]
fn a_node_answers_its_host_and_what_is_behind_it() {
    let row = Row::new("names answered");
    let (host, at) = (row.gateway.host(), server(row.gateway.address()));
    let far = row.far.address();
    let device = add_phone(&row);
    let listed = row.gateway.command("wg list --json").unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.success().unwrap()).unwrap();
    let leaf = listed["devices"][0]["allowed"][0].as_str().unwrap();
    let leaf: Ipv6Addr = leaf.split('/').next().unwrap().parse().unwrap();

    let own = row.gateway.address().to_string();
    for asker in [host, &row.phone] {
        assert_eq!(told(asker, at, "far.mesh.internal."), far.to_string());
        assert_eq!(told(asker, at, "GateWay.mesh.Internal."), own);
        assert_eq!(
            told(asker, at, "phone.gateway.mesh.internal."),
            leaf.to_string()
        );
        let back = Name::from(leaf).to_ascii();
        assert_eq!(told(asker, at, &back), "phone.gateway.mesh.internal.");
        let workload = told(asker, at, "web.far.mesh.internal.");
        let workload: Ipv6Addr = workload.parse().unwrap();
        assert_eq!(workload.to_bits() >> 64, far.to_bits() >> 64);
        let nobody = ask(asker, at, "nobody.mesh.internal.", RecordType::AAAA).unwrap();
        assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
        for foreign in ["example.org.", "corp.internal.", "1.0.0.127.in-addr.arpa."] {
            let refused = ask(asker, at, foreign, RecordType::AAAA).unwrap();
            assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
        }
        let refused = asker.inside(|| TcpStream::connect_timeout(&at, secs(5)).unwrap_err());
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    row.gateway
        .command("wg remove phone")
        .unwrap()
        .success()
        .unwrap();
    let gone = ask(host, at, "phone.gateway.mesh.internal.", RecordType::AAAA).unwrap();
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    drop(device);
}

#[test]
fn a_node_answers_no_other_node() {
    let row = Row::new("names elsewhere");
    let (far, at) = (row.far.host(), server(row.gateway.address()));
    wait_until(secs(10), "the far node reaches the gateway", || {
        far.ping(row.gateway.address())
    });
    let before = row.gateway.drops().get("outside-destination").copied();
    let error = ask(far, at, "gateway.mesh.internal.", RecordType::AAAA).unwrap_err();
    assert!(
        [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()),
        "{error}"
    );
    let after = row.gateway.drops().get("outside-destination").copied();
    assert!(after > before, "{after:?} after {before:?}");
    // Its own host it does answer, and by the key of the other.
    let own = server(row.far.address());
    let address = row.gateway.address().to_string();
    assert_eq!(told(far, own, "gateway.mesh.internal."), address);
}

#[test]
fn a_question_costs_little() {
    let row = Row::new("names latency");
    let at = server(row.gateway.address());
    let mut times: Vec<Duration> = row.gateway.host().inside(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(secs(2))).unwrap();
        socket.connect(at).unwrap();
        let ask = |id| {
            let start = Instant::now();
            ask_by(&socket, id, "far.mesh.internal.", RecordType::AAAA).unwrap();
            start.elapsed()
        };
        (0..500).map(ask).collect()
    });
    times.sort();
    let quantile = |share: usize| times[times.len() * share / 100];
    println!(
        "500 questions of the host: p50 {:?}, p99 {:?}, longest {:?}",
        quantile(50),
        quantile(99),
        times[499]
    );
    assert_eq!(row.gateway.drops().get("query-queue-full"), None);
}

#[test]
fn a_workload_asks_its_node_and_has_a_name_while_it_is_attached() {
    let row = Row::new("names workload");
    let (host, at) = (row.gateway.host(), server(row.gateway.address()));
    let web = row.lab.host("web");
    let target = format!("netns:{}", web.namespace());
    let address = row.gateway.attach(&target, "web").address;
    for asker in [host, &web] {
        assert_eq!(
            told(asker, at, "web.gateway.mesh.internal."),
            address.to_string()
        );
        let back = Name::from(address).to_ascii();
        assert_eq!(told(asker, at, &back), "web.gateway.mesh.internal.");
        assert_eq!(
            told(asker, at, "far.mesh.internal."),
            row.far.address().to_string()
        );
    }
    // Others compute the same address, without having been told.
    let (far, at_far) = (row.far.host(), server(row.far.address()));
    assert_eq!(
        told(far, at_far, "web.gateway.mesh.internal."),
        address.to_string()
    );
    let refused = web.inside(|| TcpStream::connect_timeout(&at, secs(5)).unwrap_err());
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    row.gateway.detach("web").unwrap();
    let gone = ask(host, at, "web.gateway.mesh.internal.", RecordType::AAAA).unwrap();
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

/// The warnings of `meshd status`, by code.
fn warnings(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let warnings = status["warnings"].as_array().unwrap();
    let codes = warnings
        .iter()
        .map(|warning| warning["code"].as_str().unwrap().to_owned());
    codes.collect()
}

#[test]
fn systemd_resolved_is_told_again_when_it_restarts_and_forgets_when_the_daemon_stops() {
    let lab = Lab::new("names resolved");
    let host = lab.host("node");
    let bus = Bus::start(&host);
    let resolved = Resolved::start(&bus, Manner::Willing);
    let id = lab.identity();
    let node = host.meshd(Settings::new(&id).started_by(&bus.wrapper()));
    let link = host.run("ip -j link show dev mesh0");
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    let index = i32::try_from(link[0]["ifindex"].as_i64().unwrap()).unwrap();
    let std::net::IpAddr::V6(server) = server(id.address).ip() else {
        unreachable!("the overlay is IPv6")
    };
    let expected = Some(Told::expected(server));
    let is_told = |resolved: &Resolved| {
        wait_until(secs(10), "resolved knows whom to ask", || {
            let told = resolved.told(index);
            if told == expected {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        });
    };
    is_told(&resolved);
    let calls = resolved.calls();
    assert_eq!(calls.last().unwrap(), "SetLinkDNS", "{calls:?}");

    resolved.stop();
    let resolved = Resolved::start(&bus, Manner::Willing);
    is_told(&resolved);
    assert!(!warnings(&node).contains(&"NO-RESOLVED".to_owned()));
    node.stop();
    assert_eq!(resolved.told(index), None);
    assert_eq!(resolved.calls().last().unwrap(), "RevertLink");
    resolved.stop();
}

#[test]
fn whoever_wants_resolved_hears_that_it_is_not_there_or_refuses() {
    let lab = Lab::new("names refused");
    let (lonely, refused) = (lab.host("lonely"), lab.host("refused"));
    let bus = Bus::start(&refused);
    let resolved = Resolved::start(&bus, Manner::Refusing);
    let wants = "[dns]\nmode = \"resolved\"\n";
    let nowhere = "env DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent/bus";
    let lonely = lonely.meshd(
        Settings::new(&lab.identity())
            .table(wants)
            .started_by(nowhere),
    );
    let refused = refused.meshd(Settings::new(&lab.identity()).started_by(&bus.wrapper()));
    for daemon in [&lonely, &refused] {
        wait_until(secs(10), "status says so", || {
            let codes = warnings(daemon);
            if codes.contains(&"NO-RESOLVED".to_owned()) {
                Ok(())
            } else {
                Err(format!("{codes:?}"))
            }
        });
    }
    resolved.stop();
}
