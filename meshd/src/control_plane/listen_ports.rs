//! libp2p's ports, taken while the daemon still may.
//!
//! Landlock names the TCP ports that the control plane may bind, and it binds the one that it listens on again for every connection that
//! it opens from there. So a random port is drawn before, one number for all addresses whose port is 0, and the TCP port is held from then
//! on: no other program gets it before libp2p listens, or while one worker makes room for another. A UDP port cannot be held, since whoever
//! holds it gets its datagrams. Binding it needs no right, and where it is gone all the same, `discovery` takes another.

use std::{collections::BTreeSet, io, net::SocketAddr};

use tracing::{debug, warn};

use crate::{
    config::{ListenAddress, Transport},
    control::chain,
    io::{
        tcp::{self, Reservation},
        udp::{self, UdpSocket},
    },
};

/// How many random ports are tried at start.
const RANDOM_PORTS: usize = 8;

/// Where libp2p listens, and the hold on it.
#[derive(Debug, Default)]
pub(crate) struct ListenPorts {
    addresses: Vec<ListenAddress>,
    random: Option<u16>,
    /// Kept for as long as the daemon runs.
    _held: Vec<Reservation>,
}

/// Why a port is not ours to draw.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error(transparent)]
    Tcp(#[from] tcp::BindError),
    #[error(transparent)]
    Udp(#[from] udp::BindError),
}

impl HoldError {
    fn is_taken(&self) -> bool {
        let source = match self {
            Self::Tcp(error) => &error.source,
            Self::Udp(error) => &error.source,
        };
        source.kind() == io::ErrorKind::AddrInUse
    }
}

impl ListenPorts {
    /// Finds a port for the addresses that have none: the remembered one, or another if that is in use.
    pub(crate) fn take(configured: &[ListenAddress], remembered: Option<u16>) -> Self {
        let portless = configured.iter().filter(|address| address.at.port() == 0);
        let mut portless: Vec<ListenAddress> = portless.copied().collect();
        // What the system draws for TCP is more often free for UDP than the other way round: connections take ports of TCP.
        portless.sort_by_key(|address| address.transport);
        let (random, held) = find(&portless, remembered);
        let addresses = configured.iter().map(|address| match random {
            Some(port) if address.at.port() == 0 => with_port(*address, port),
            _ => *address,
        });
        Self {
            addresses: addresses.collect(),
            random,
            _held: held,
        }
    }

    /// The port of the addresses that had none; nothing: all had one, or none could be found.
    pub(crate) fn random(&self) -> Option<u16> {
        self.random
    }

    /// Multiaddresses to listen on.
    pub(super) fn multiaddresses(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// The TCP ports in them.
    pub(super) fn tcp(&self) -> BTreeSet<u16> {
        let tcp = |address: &&ListenAddress| address.transport == Transport::Tcp;
        let addresses = self.addresses.iter().filter(tcp);
        addresses.map(|address| address.at.port()).collect()
    }
}

fn with_port(address: ListenAddress, port: u16) -> ListenAddress {
    ListenAddress {
        at: SocketAddr::new(address.at.ip(), port),
        ..address
    }
}

/// One port that is free at all these addresses, TCP first.
fn find(portless: &[ListenAddress], remembered: Option<u16>) -> (Option<u16>, Vec<Reservation>) {
    if portless.is_empty() {
        return (None, Vec::new());
    }
    if let Some(port) = remembered {
        match hold(portless, Some(port)) {
            Ok(found) => return found,
            Err(error) => {
                let error = chain(&error);
                warn!(
                    port,
                    error, "The remembered libp2p port is in use, taking another"
                );
            }
        }
    }
    // A port that is free at one address may be taken at another: try a few.
    let mut tries = (0..RANDOM_PORTS).map(|_| hold(portless, None).ok());
    if let Some(found) = tries.find_map(|found| found) {
        return found;
    }
    // Connections are opened from the TCP port; that QUIC has the same one is a convenience.
    let tcp = portless.partition_point(|address| address.transport == Transport::Tcp);
    match hold(&portless[..tcp], None) {
        Ok(found) => found,
        Err(error) => {
            let error = chain(&error);
            warn!(error, "No port for libp2p, the system chooses one");
            (None, Vec::new())
        }
    }
}

/// Takes the same port at all these addresses: this one, or what the system gives for the first. An address that this machine does not have,
/// or not yet, is left out: libp2p tries it again.
fn hold(
    addresses: &[ListenAddress],
    mut port: Option<u16>,
) -> Result<(Option<u16>, Vec<Reservation>), HoldError> {
    let mut held = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(address.at.ip(), port.unwrap_or(0));
        let bound = match address.transport {
            Transport::Tcp => Reservation::bind(at)
                .map(|reservation| {
                    let local = reservation.local_addr();
                    held.push(reservation);
                    local
                })
                .map_err(HoldError::from),
            Transport::Quic => UdpSocket::bind(at, 0)
                .map(|socket| socket.local_addr())
                .map_err(HoldError::from),
        };
        match bound {
            Ok(local) => port = Some(local.port()),
            Err(error) if error.is_taken() => return Err(error),
            Err(error) => debug!(%address, error = chain(&error), "No port is held here"),
        }
    }
    Ok((port, held))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    const ALL: [&str; 4] = [
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip6/::1/tcp/0",
        "/ip4/127.0.0.1/tcp/0",
        "/ip6/::1/udp/0/quic-v1",
    ];

    fn parse(texts: &[&str]) -> Vec<ListenAddress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_without_port_share_one_that_is_held() {
        let ports = ListenPorts::take(&parse(&ALL), None);
        let port = ports.random().unwrap();
        let expected = ALL.map(|text| text.replace("/0", &format!("/{port}")));
        assert_eq!(ports.multiaddresses(), expected);
        assert_eq!(ports.tcp(), BTreeSet::from([port]));
        for at in ["127.0.0.1", "::1"] {
            let error = TcpListener::bind((at, port)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{at}");
        }
        // QUIC's is left to libp2p.
        UdpSocket::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn the_remembered_port_is_taken_again() {
        let first = ListenPorts::take(&parse(&ALL), None).random();
        let second = ListenPorts::take(&parse(&ALL), first).random();
        assert_eq!(second, first);
    }

    #[test]
    fn a_remembered_port_that_is_in_use_gives_way_to_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        for taken in [listener.local_addr().unwrap(), socket.local_addr().unwrap()] {
            let ports = ListenPorts::take(&parse(&ALL), Some(taken.port()));
            let other = ports.random().unwrap();
            assert_ne!(other, taken.port());
            assert_eq!(ports.tcp(), BTreeSet::from([other]));
        }
    }

    #[test]
    fn ports_that_are_written_stay_as_they_are() {
        let texts = [
            "/ip4/127.0.0.1/tcp/51861",
            "/ip4/127.0.0.1/udp/51861/quic-v1",
        ];
        let ports = ListenPorts::take(&parse(&texts), Some(4711));
        assert_eq!(ports.multiaddresses(), texts);
        assert_eq!(ports.random(), None);
        let mixed = ["/ip4/127.0.0.1/tcp/51861", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let ports = ListenPorts::take(&parse(&mixed), None);
        let port = ports.random().unwrap();
        assert_eq!(ports.tcp(), BTreeSet::from([51861]));
        let quic = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
        assert_eq!(ports.multiaddresses()[1], quic);
    }

    #[test]
    fn an_address_that_is_not_here_yet_gets_the_port_of_the_others() {
        let absent = "/ip4/192.0.2.1/tcp/0";
        let ports = ListenPorts::take(&parse(&[absent, "/ip4/127.0.0.1/tcp/0"]), None);
        let port = ports.random().unwrap();
        assert_eq!(
            ports.multiaddresses()[0],
            format!("/ip4/192.0.2.1/tcp/{port}")
        );
        TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        // Alone it keeps what is remembered, or waits for what the system gives.
        for remembered in [Some(4711), None] {
            let ports = ListenPorts::take(&parse(&[absent]), remembered);
            assert_eq!(ports.random(), remembered);
            assert_eq!(ports.tcp(), BTreeSet::from([remembered.unwrap_or(0)]));
        }
    }
}
