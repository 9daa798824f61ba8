//! What all of it is for: a network of one's own over two sites, a page on it, a laptop and a phone that fetch the page by its name, a
//! stranger who does not, and a laptop that is lost.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, which prints its figures"
)]

use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use netns_tests::daemon::program;
use netns_tests::settings::{LIBP2P_PORT, PORT};
use netns_tests::traffic::{http_get, http_serve};
use netns_tests::wait::hold_for;
use netns_tests::wireguard::WireGuard;
use netns_tests::{Daemon, Host, Lab, Nat, Port, Router, Settings, secs, wait_until};

/// Its size, in bytes.
const PAGE: u64 = 30_000;
const NAME: &str = "web.db.home.internal.";

/// Default-deny, with nobody in the configuration, and with random ports for libp2p unless others dial it.
fn fresh(lab: &Lab, router: &Router, name: &str) -> (Daemon, Port) {
    let (host, id) = (lab.host(name), lab.identity());
    let port = router.attach(&host);
    let settings = Settings::new(&id).inbound("default = \"deny\"");
    let settings = if name == "nas" {
        settings.libp2p("mdns = false")
    } else {
        settings.libp2p_at_random_port("mdns = false")
    };
    (host.meshd(settings), port)
}

/// The name server of a node.
fn server(node: &Daemon) -> SocketAddr {
    let prefix = node.address().to_bits() >> 64 << 64;
    SocketAddr::new(Ipv6Addr::from_bits(prefix | 0x53).into(), 53)
}

/// What a name server says that a name stands for.
fn resolve(from: &Host, server: SocketAddr, name: &str) -> Result<Ipv6Addr, String> {
    let said = from.inside(|| {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.set_read_timeout(Some(secs(1)))?;
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(
            Name::from_ascii(name).unwrap(),
            RecordType::AAAA,
        ));
        socket.send_to(&message.to_vec().unwrap(), server)?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        Ok::<_, std::io::Error>(buffer[..length].to_vec())
    });
    let said = said.map_err(|error| error.to_string())?;
    let said = Message::from_vec(&said).map_err(|error| error.to_string())?;
    match said.answers.first().map(|record| &record.data) {
        Some(RData::AAAA(address)) => Ok(address.0),
        _ => Err(said.metadata.response_code.to_str().to_owned()),
    }
}

/// Fetches the page by its name.
fn fetch(from: &Host, server: SocketAddr) -> Result<(), String> {
    let address = resolve(from, server, NAME)?;
    match http_get(from, SocketAddr::new(address.into(), 80)) {
        Ok(PAGE) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Nobody answers there.
fn no_page(from: &Host, at: SocketAddr) -> Result<(), String> {
    match from.inside(|| TcpStream::connect_timeout(&at, secs(1))) {
        Ok(_) => Err("it is let in".to_owned()),
        Err(_) => Ok(()),
    }
}

fn ticket(node: &Daemon, options: &str) -> String {
    let said = node.json(&format!("invite {options}"));
    said["ticket"].as_str().unwrap().to_owned()
}

#[track_caller]
fn join(node: &Daemon, ticket: &str) {
    let (program, socket) = (program(), node.socket().display().to_string());
    let argv = [program.as_str(), "--socket", &socket, "join", "-"];
    let said = node.host().output_of(&argv, ticket, secs(40)).unwrap();
    said.success().unwrap();
}

#[test]
fn a_page_is_there_for_members_and_their_phones_and_for_nobody_else() {
    let lab = Lab::new("demo");
    let home = |name: &str| lab.router(name).online().nat(Nat::PortRestricted);
    let (left, right, cafe) = (home("left"), home("right"), home("cafe"));
    let (nas, nas_port) = fresh(&lab, &left, "nas");
    let (pi, _) = fresh(&lab, &left, "pi");
    let (db, _) = fresh(&lab, &right, "db");
    let (laptop, _) = fresh(&lab, &cafe, "laptop");
    for (protocol, port) in [("udp", PORT), ("tcp", LIBP2P_PORT)] {
        let rule = format!(
            "iifname wan {protocol} dport {port} dnat to {}",
            nas_port.v4
        );
        let router = left.host();
        router.run(&format!("nft add rule ip nat inward {rule}"));
    }
    nas.json("network create home");
    let outside = format!("--endpoint {}:{LIBP2P_PORT}", left.external());
    let near = format!("--endpoint {}:{LIBP2P_PORT}", nas_port.v4);
    join(&pi, &ticket(&nas, &near));
    join(&db, &ticket(&nas, &outside));

    // The page.
    let web = lab.host("web");
    let target = format!("netns:{}", web.namespace());
    let attached = db.try_attach(&target, "web", "--publish tcp/80").unwrap();
    let at_web = SocketAddr::new(attached.address.into(), 80);
    let _server = http_serve(&web, at_web, PAGE);

    // The laptop.
    let begun = Instant::now();
    join(&laptop, &ticket(&nas, &format!("{outside} --name laptop")));
    wait_until(secs(10), "the laptop has the page", || {
        fetch(laptop.host(), server(&laptop))
    });
    println!("ticket to page: {:.0?}", begun.elapsed());
    for node in [&nas, &pi] {
        wait_until(secs(10), "every node has the page", || {
            fetch(node.host(), server(node))
        });
    }
    assert_eq!(resolve(&web, server(&db), NAME), Ok(attached.address));
    // What is not published is not there, and the sender hears why.
    no_page(laptop.host(), SocketAddr::new(attached.address.into(), 81)).unwrap();
    let why = laptop.json("why db").to_string();
    assert!(why.contains("tcp/81"), "{why}");

    // The phone, with the stock app.
    let phone = lab.host("phone");
    lab.internet().connect(&phone);
    let line = format!("wg add phone --dns --endpoint {}:{PORT}", left.external());
    let text = nas.command(&line).unwrap().success().unwrap();
    let device = WireGuard::from_quick_configuration(&phone, &text);
    wait_until(secs(10), "the phone has the page", || {
        fetch(&phone, server(&nas))
    });
    assert!(device.last_handshake() > 0);

    // A stranger who knows where everything is.
    let (stranger, _) = fresh(&lab, &cafe, "stranger");
    hold_for(secs(2), "the stranger gets nothing", || {
        no_page(stranger.host(), at_web)
    });

    // The laptop is lost.
    let begun = Instant::now();
    nas.json("revoke laptop");
    wait_until(secs(5), "the laptop is out", || {
        no_page(laptop.host(), at_web)
    });
    println!("revoked: no page after {:.0?}", begun.elapsed());
    hold_for(secs(3), "and stays out", || no_page(laptop.host(), at_web));
    wait_until(secs(5), "the phone still has the page", || {
        fetch(&phone, server(&nas))
    });
}
