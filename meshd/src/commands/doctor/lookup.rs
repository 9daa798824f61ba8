//! Whether names of the mesh are found: by the node itself, and by this machine.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use super::{State, Visit};
use crate::admin::Status;
use crate::config::{DnsMode, NETWORK_LABEL, Settings};
use crate::identity::resolver_address;

/// The node has this long to answer.
const NODE: Duration = Duration::from_secs(1);
/// The machine's resolver has this long.
const MACHINE: Duration = Duration::from_secs(6);
/// There while systemd-resolved runs.
const RESOLVED: &str = "/run/systemd/resolve/stub-resolv.conf";

pub(super) fn examine(visit: &mut Visit, status: &Status, settings: Option<&Settings>) {
    let Some(settings) = settings else { return };
    let node = &status.node;
    let network = status.network.as_ref();
    let network = network.and_then(|network| network.name.as_deref());
    let zone = format!(
        "{}.{}",
        network.unwrap_or(NETWORK_LABEL),
        settings.dns.domain
    );
    // By its key, which no network gives another name.
    let name = format!(
        "{}.id.{}",
        names::key_label(node.public_key.as_bytes()),
        settings.dns.domain.trim_end_matches('.')
    );
    let server = resolver_address(node.prefix);
    if let Err(error) = ask(server, &name, node.address) {
        let text = format!("this node does not answer for {name} at {server}: {error}");
        return visit.note(
            "names",
            State::Wrong,
            "NAMES-SILENT",
            text,
            "sudo systemctl restart meshd; meshd bugreport",
        );
    }
    let mode = settings.dns.mode;
    match find(&name) {
        Ok(found) if found.contains(&IpAddr::V6(node.address)) => {
            visit.ok("names", format!("{name} is found"));
        }
        found => {
            let runs = Path::new(RESOLVED).exists();
            let why = match found {
                Ok(_) => "somebody else has it".to_owned(),
                Err(error) => error.to_string(),
            };
            let (state, fix) = match (mode, runs) {
                (DnsMode::Off, _) => (State::Note, "[dns] mode = \"off\" wants it so".to_owned()),
                (DnsMode::Auto | DnsMode::Resolved, true) => (
                    State::Wrong,
                    format!(
                        "resolvectl status     (does it know {server}?); sudo ln -sf ..{RESOLVED} /etc/resolv.conf     (do programs ask it?)"
                    ),
                ),
                (DnsMode::Auto, false) => (
                    State::Note,
                    format!(
                        "sudo systemctl enable --now systemd-resolved     or have your own name server ask {server} for {zone}"
                    ),
                ),
                (DnsMode::Resolved, false) => (
                    State::Wrong,
                    "sudo systemctl enable --now systemd-resolved".to_owned(),
                ),
            };
            let text =
                format!("{name} is answered by this node, and programs do not find it: {why}");
            visit.note("names", state, "NAMES-ELSEWHERE", text, fix);
        }
    }
}

/// Asks a name server for a name's address, which has to be this one.
fn ask(server: Ipv6Addr, name: &str, address: Ipv6Addr) -> io::Result<()> {
    let socket = UdpSocket::bind("[::]:0")?;
    socket.set_read_timeout(Some(NODE))?;
    socket.connect(SocketAddr::new(server.into(), 53))?;
    let query = names::question(name).ok_or(io::ErrorKind::InvalidInput)?;
    socket.send(&query)?;
    let mut buffer = [0; names::MAX_ANSWER];
    let length = socket.recv(&mut buffer)?;
    match names::address_in(&buffer[..length]) {
        Some(found) if found == address => Ok(()),
        Some(found) => Err(io::Error::other(format!("it says {found}"))),
        None => Err(io::Error::other("it knows no address")),
    }
}

/// What this machine's resolver says, which may take its time.
fn find(name: &str) -> io::Result<Vec<IpAddr>> {
    let (tell, told) = sync_channel(1);
    let name = name.to_owned();
    // Left behind if it takes too long: the process ends soon.
    thread::spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        // Nobody waits any more if it took too long.
        let _ = tell.send(found.map(|found| found.map(|address| address.ip()).collect()));
    });
    told.recv_timeout(MACHINE)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
