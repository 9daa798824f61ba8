//! Beacons as `docs/protocol.md` has them, made and heard by nobody's node: for tests of what forged and repeated ones do.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest as _};
use ed25519_dalek::Signer as _;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::Ipv6Ttl};

use crate::identity::Identity;
use crate::lab::Port;
use crate::wait::pace;

/// Where nodes hear beacons.
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xed65, 0x7368);
/// The port of the group.
pub const PORT: u16 = 6698;
/// What beacons are sent with; other hop limits show that they come from behind a router.
pub const HOP_LIMIT: u8 = 255;

/// A beacon of `node`, as it would be sent from `source`, for a node whose sockets are on `port`.
pub fn beacon(node: &Identity, run: u64, port: u16, source: Ipv6Addr) -> Vec<u8> {
    let key = node.signing_key();
    let network = Blake2s256::digest(b"meshd network v1open");
    let mut body = [b"mbcn", &[1, 0, 0, 0][..], &network[..8]].concat();
    body.extend_from_slice(key.verifying_key().as_bytes());
    body.extend_from_slice(&run.to_be_bytes());
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&[0, 0]);
    let signed = [b"meshd beacon v1\x04open", &source.octets()[..], &body].concat();
    [&body[..], &key.sign(&signed).to_bytes()].concat()
}

/// Somebody on the link of a port who speaks to nodes there as if he were one.
#[derive(Debug)]
pub struct Voice {
    socket: UdpSocket,
    source: Ipv6Addr,
    interface: u32,
}

impl Voice {
    /// Speaks from the port's own link-local address.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn new(port: &Port) -> Self {
        Self::from(port, link_local(port))
    }

    /// Speaks from an address that the port has.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn from(port: &Port, source: Ipv6Addr) -> Self {
        let (socket, interface) = port.host.inside(|| {
            let interface = if_nametoindex(port.interface.as_str()).expect("the port is there");
            let own = SocketAddrV6::new(source, PORT, 0, interface);
            let socket = UdpSocket::bind(own).expect("the address is ours");
            setsockopt(&socket, Ipv6Ttl, &i32::from(HOP_LIMIT)).expect("a hop limit");
            (socket, interface)
        });
        Self {
            socket,
            source,
            interface,
        }
    }

    /// Where it speaks from.
    pub const fn source(&self) -> Ipv6Addr {
        self.source
    }

    /// Says something to one node.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn say(&self, to: Ipv6Addr, datagram: &[u8]) {
        let to = SocketAddrV6::new(to, PORT, 0, self.interface);
        self.socket
            .send_to(datagram, to)
            .expect("a way on the link");
    }

    /// Says so many things a second for that long.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn flood(
        &self,
        to: Ipv6Addr,
        per_second: u32,
        length: Duration,
        mut what: impl FnMut(u32) -> Vec<u8>,
    ) {
        let (start, step) = (Instant::now(), Duration::from_secs(1) / per_second);
        let count = u32::try_from(length.as_nanos() / step.as_nanos()).expect("a short flood");
        for number in 0..count {
            pace(start + step * number);
            self.say(to, &what(number));
        }
    }
}

/// Hears what is said to the group on the link of a port.
#[derive(Debug)]
pub struct Ear(UdpSocket);

impl Ear {
    /// Hears from now on.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn new(port: &Port) -> Self {
        Self(port.host.inside(|| {
            let interface = if_nametoindex(port.interface.as_str()).expect("the port is there");
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("the port is free");
            socket
                .join_multicast_v6(&GROUP, interface)
                .expect("the interface knows multicast");
            socket
        }))
    }

    /// The next beacon, and where it came from; nothing in that time.
    ///
    /// # Panics
    /// When the system refuses.
    #[track_caller]
    pub fn next(&self, within: Duration) -> Option<(Ipv6Addr, Vec<u8>)> {
        self.0
            .set_read_timeout(Some(within))
            .expect("a time that is not zero");
        let mut buffer = [0; 1024];
        let (length, from) = self.0.recv_from(&mut buffer).ok()?;
        match from.ip() {
            std::net::IpAddr::V6(from) => Some((from, buffer[..length].to_vec())),
            std::net::IpAddr::V4(_) => None,
        }
    }
}

/// The link-local address of a port.
///
/// # Panics
/// When it has none.
#[track_caller]
pub fn link_local(port: &Port) -> Ipv6Addr {
    let line = format!("ip -6 -o addr show dev {} scope link", port.interface);
    let shown = port.host.run(&line);
    let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6");
    let address = words.nth(1).and_then(|word| word.split('/').next());
    let address = address.and_then(|text| text.parse().ok());
    address.unwrap_or_else(|| panic!("{line}: {shown}"))
}
