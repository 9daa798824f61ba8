//! The two spellings of "where somebody is" in a configuration: `host:port` and a libp2p multiaddress.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::identity::{AddressError, NodeId, overlay};

/// Where the WireGuard datagrams of a peer go: an address, or a name to be resolved when needed.
///
/// Never in the overlay block, never multicast or unspecified, never port 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The UDP port.
    pub port: u16,
}

/// The host of a [`HostPort`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address, nothing to resolve. The number is the scope (interface index) of a link-local address, else 0.
    Address(IpAddr, u32),
    /// A DNS name in lower case, without a final dot.
    Name(String),
}

impl HostPort {
    /// The socket address, unless a name has to be resolved first.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(IpAddr::V6(ip), scope) => {
                Some(std::net::SocketAddrV6::new(ip, self.port, 0, scope).into())
            }
            Host::Address(ip, _) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

/// Why a text is not a `host:port` that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// No port at the end.
    #[error("has no port: write host:port, [IPv6]:port")]
    NoPort,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address needs brackets: [2001:db8::1]:51860")]
    Brackets,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The host is neither an address nor a name.
    #[error("the host is neither an address nor a DNS name")]
    Host,
    /// An address in `0600::/8`.
    #[error(
        "an endpoint inside the overlay (0600::/8) would carry the mesh over itself: write the underlay address"
    )]
    Overlay,
    /// Unspecified, multicast or broadcast.
    #[error("nobody can be reached at an unspecified, multicast or broadcast address")]
    NotUnicast,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let scope = match address {
                SocketAddr::V6(v6) => v6.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            if address.port() == 0 {
                return Err(HostPortError::Port);
            }
            check_endpoint(address.ip())?;
            return Ok(Self {
                host: Host::Address(address.ip(), scope),
                port: address.port(),
            });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostPortError::Brackets);
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        if host.contains(':') {
            // Brackets with no address inside, or one colon too many.
            return Err(if host.starts_with('[') {
                HostPortError::Host
            } else {
                HostPortError::Brackets
            });
        }
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(HostPortError::Port)?;
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !is_dns_name(&name) {
            return Err(HostPortError::Host);
        }
        Ok(Self {
            host: Host::Name(name),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.address()) {
            (_, Some(address)) => address.fmt(f),
            (Host::Name(name), None) => write!(f, "{name}:{}", self.port),
            (Host::Address(ip, _), None) => write!(f, "{ip}"),
        }
    }
}

/// Whether datagrams of the underlay may go to this address at all.
fn check_endpoint(ip: IpAddr) -> Result<(), HostPortError> {
    let ip = ip.to_canonical();
    let overlaid = matches!(ip, IpAddr::V6(ip) if overlay().contains(ip));
    if overlaid {
        Err(HostPortError::Overlay)
    } else if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Err(HostPortError::NotUnicast)
    } else {
        Ok(())
    }
}

/// Letters, digits and hyphens in labels of 1 to 63, 253 in all; the last label is not a number (RFC 1123 §2.1).
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(label)
        && name.rsplit('.').next().is_some_and(|last| !number(last))
}

/// A libp2p multiaddress that ends in the PeerId of the node it leads to, such as
/// `/ip4/203.0.113.7/tcp/51861/p2p/12D3KooW...` or `/dns/vps1.example.org/udp/51861/quic-v1/p2p/12D3KooW...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Whom the address leads to.
    pub node: NodeId,
    /// The address as written.
    pub text: String,
}

/// Why a text is not a [`PeerAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerAddressError {
    /// Not of the form described.
    #[error("not a libp2p address: write /ip4/ADDRESS/tcp/PORT/p2p/PEER-ID")]
    Form,
    /// A protocol that meshd does not speak.
    #[error(
        "`{0}` is not a protocol that a peer's address may use: ip4, ip6, dns, dns4, dns6, tcp, udp, quic-v1, p2p, p2p-circuit"
    )]
    Protocol(String),
    /// The value after a protocol is wrong.
    #[error("`{1}` is wrong after /{0}")]
    Value(String, String),
    /// Who is there is not said.
    #[error("does not end in /p2p/PEER-ID, so whose address it is cannot be known")]
    NoPeer,
    /// A PeerId that no node can have.
    #[error("the PeerId cannot be a node's: {0}")]
    Peer(AddressError),
    /// An address in `0600::/8`, or no unicast address.
    #[error("{0}")]
    Endpoint(HostPortError),
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let mut parts = text
            .strip_prefix('/')
            .ok_or(PeerAddressError::Form)?
            .split('/');
        let mut node = None;
        let mut transports = 0;
        while let Some(protocol) = parts.next() {
            // What follows a PeerId can only lead further, through that node.
            let last = node.take();
            match protocol {
                "quic-v1" => continue,
                "p2p-circuit" if last.is_some() => continue,
                _ => {}
            }
            let value = match protocol {
                "ip4" | "ip6" | "dns" | "dns4" | "dns6" | "tcp" | "udp" | "p2p" => {
                    parts.next().ok_or(PeerAddressError::Form)?
                }
                _ => return Err(PeerAddressError::Protocol(protocol.to_owned())),
            };
            let wrong = || PeerAddressError::Value(protocol.to_owned(), value.to_owned());
            match protocol {
                "ip4" => check_ip(value.parse::<Ipv4Addr>().map_err(|_| wrong())?.into())?,
                "ip6" => check_ip(value.parse::<Ipv6Addr>().map_err(|_| wrong())?.into())?,
                "tcp" | "udp" => {
                    value
                        .parse::<u16>()
                        .ok()
                        .filter(|port| *port != 0)
                        .ok_or_else(wrong)?;
                    transports += 1;
                }
                "p2p" => node = Some(value.parse().map_err(PeerAddressError::Peer)?),
                _ if is_dns_name(&value.to_ascii_lowercase()) => {}
                _ => return Err(wrong()),
            }
        }
        let node = node.ok_or(PeerAddressError::NoPeer)?;
        if transports != 1 {
            return Err(PeerAddressError::Form);
        }
        Ok(Self {
            node,
            text: text.to_owned(),
        })
    }
}

/// A libp2p multiaddress to listen on: `/ip4/ADDRESS/tcp/PORT` or `/ip4/ADDRESS/udp/PORT/quic-v1`, of either family; unspecified
/// addresses and port 0 are good, the overlay is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress {
    /// Where; port 0: the remembered random port.
    pub at: SocketAddr,
    /// Over what.
    pub transport: Transport,
}

/// What libp2p listens over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// QUIC, over UDP.
    Quic,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.at.is_ipv4() { "ip4" } else { "ip6" };
        let (ip, port) = (self.at.ip(), self.at.port());
        match self.transport {
            Transport::Tcp => write!(f, "/{family}/{ip}/tcp/{port}"),
            Transport::Quic => write!(f, "/{family}/{ip}/udp/{port}/quic-v1"),
        }
    }
}

/// Why a text is not a [`ListenAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// Not of the form described.
    #[error("not an address to listen on: write /ip6/::/tcp/51861 or /ip6/::/udp/51861/quic-v1")]
    Form,
    /// An address in `0600::/8`.
    #[error("an address of the overlay cannot be listened on")]
    Overlay,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (family, ip, transport, port) = match parts[..] {
            ["", family, ip, "tcp", port] => (family, ip, Transport::Tcp, port),
            ["", family, ip, "udp", port, "quic-v1"] => (family, ip, Transport::Quic, port),
            _ => return Err(ListenAddressError::Form),
        };
        let ip: IpAddr = match family {
            "ip4" => ip.parse::<Ipv4Addr>().map(Into::into),
            "ip6" => ip.parse::<Ipv6Addr>().map(Into::into),
            _ => return Err(ListenAddressError::Form),
        }
        .map_err(|_| ListenAddressError::Form)?;
        if matches!(ip, IpAddr::V6(ip) if overlay().contains(ip)) {
            return Err(ListenAddressError::Overlay);
        }
        let port = port.parse().map_err(|_| ListenAddressError::Form)?;
        Ok(Self {
            at: SocketAddr::new(ip, port),
            transport,
        })
    }
}

fn check_ip(ip: IpAddr) -> Result<(), PeerAddressError> {
    check_endpoint(ip).map_err(PeerAddressError::Endpoint)
}
