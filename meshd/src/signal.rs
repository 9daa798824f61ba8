//! Signals: what two nodes of the mesh tell each other inside their session, besides routing. `docs/protocol.md` has the layout.
//!
//! A signal is an IPv6/UDP packet between the nodes' link-local addresses, both ports [`PORT`]. It never leaves the session: no
//! relay, no workload and no program of the host can send or see one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wireguard::PublicKey;

use wireguard::Underlay;

use crate::{
    labels::Pair,
    packet::{self, HEADER, Ipv6Header, UDP},
};

/// UDP port of signals, on link-local addresses inside a session.
pub const PORT: u16 = 6697;

/// The layout described here. Others are ignored.
const VERSION: u8 = 1;

const UDP_HEADER: usize = 8;
/// Version, kind, and two bytes that are zero.
const HEAD: usize = 4;
const PROBE: u8 = 1;
const ECHO: u8 = 2;
const LABEL_REQUEST: u8 = 3;
const LABEL: u8 = 4;
const LABEL_UNKNOWN: u8 = 5;
const PRESENCE: u8 = 16;
const ACQUAINTANCE: u8 = 17;
const REFLECT: u8 = 6;
const REFLECTED: u8 = 7;
const OFFER: u8 = 8;
const RECORDS: u8 = 9;
const JOIN: u8 = 10;
const PROBE_BODY: usize = 8;
const ECHO_BODY: usize = 24;
const LABEL_REQUEST_BODY: usize = 32;
const LABEL_BODY: usize = 40;
const LABEL_UNKNOWN_BODY: usize = 4;
const PRESENCE_BODY: usize = 4;
const KEY: usize = 32;
/// An address as one of IPv6, and a port.
const ENDPOINT: usize = 18;
const ACQUAINTANCE_BODY: usize = KEY + Acquaintance::ENDPOINTS * ENDPOINT;
const REFLECT_BODY: usize = 4;
const REFLECTED_BODY: usize = 24;
/// Before the bytes of an offer or a message: their number, and two bytes that are zero.
const BYTES_HEAD: usize = 4;
/// The longest offer, in bytes.
pub const MAX_OFFER: usize = 512;
/// The longest message about records or joining, in bytes.
pub const MAX_RECORDS: usize = 1100;

/// A packet of this length carries a probe or an echo: a multiple of 16, as every sealed packet is.
pub const LEAST: usize = (HEADER + UDP_HEADER + HEAD + ECHO_BODY).next_multiple_of(16);

/// One signal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Signal {
    /// Asks for an [`Signal::Echo`] on the way that it came.
    Probe(Probe),
    /// Answers a [`Signal::Probe`].
    Echo(Echo),
    /// Asks a neighbour for a label for datagrams of this pair of nodes (`labelled.rs`).
    LabelRequest(Pair),
    /// Answers a [`Signal::LabelRequest`].
    Label {
        /// For which pair.
        pair: Pair,
        /// Under which label; 0: none.
        label: u32,
        /// Good for so many seconds.
        lifetime_s: u16,
    },
    /// A datagram came under this label, and nobody was given it; 0: none that was given before is known.
    LabelUnknown(u32),
    /// What the sender is to others.
    Presence {
        /// It opens sessions with everybody, and everybody may be told of it.
        is_open: bool,
    },
    /// Tells a neighbour of another node.
    Acquaintance(Acquaintance),
    /// Asks which address of ours this came from, with a number that names the question.
    Reflect(u32),
    /// Answers a [`Signal::Reflect`].
    Reflected {
        /// From the question.
        id: u32,
        /// Where the question came from.
        address: SocketAddr,
    },
    /// What members tell each other about records, at most [`MAX_RECORDS`] bytes (crate `membership`).
    Records(Vec<u8>),
    /// What one who joins and one who lets it in tell each other, at most [`MAX_RECORDS`] bytes (crate `membership`).
    Join(Vec<u8>),
    /// What the path agents of two nodes tell each other (`path/`), at most [`MAX_OFFER`] bytes.
    Offer(Vec<u8>),
}

/// A node that the sender has a session with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acquaintance {
    /// Who it is.
    pub key: PublicKey,
    /// Where the sender hears it on the underlay.
    pub endpoints: [Option<SocketAddr>; Self::ENDPOINTS],
}

impl Acquaintance {
    /// Endpoints that are told of one node.
    pub const ENDPOINTS: usize = 2;
}

/// Which way a probe was sent. The sender says so, since whoever stands between can make a packet arrive another way, but cannot change
/// what is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Straight over the underlay.
    Direct,
    /// Through other nodes.
    Relayed,
    /// In a TCP stream over the underlay.
    Stream,
}

impl Way {
    /// How a datagram goes that is sent straight to this address.
    pub const fn straight(to: &Underlay) -> Self {
        if to.is_stream() {
            Self::Stream
        } else {
            Self::Direct
        }
    }
}

/// A question whether, and how well, a way works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Names the question; random, so that no answer can be guessed.
    pub id: u32,
    /// Which way it was sent.
    pub way: Way,
}

/// An answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Echo {
    /// From the question.
    pub id: u32,
    /// Length of the packet that the question came in, in bytes.
    pub size: u16,
    /// Data messages that the answerer should have received in this session so far, as the counters of those that came show.
    pub expected: u64,
    /// How many of them came.
    pub received: u64,
}

impl Signal {
    /// Reads the signal in a packet from `peer` (its link-local address) to `own`. Nothing: it is none, or of a kind that this
    /// version does not know.
    pub fn parse(packet: &[u8], peer: Ipv6Addr, own: Ipv6Addr) -> Option<Self> {
        let header = Ipv6Header::parse(packet).ok()?;
        if (header.source, header.destination, header.next_header) != (peer, own, UDP) {
            return None;
        }
        let payload = packet.get(HEADER..HEADER + header.payload)?;
        let (udp, signal) = payload.split_first_chunk::<UDP_HEADER>()?;
        if udp[..4] != ports() {
            return None;
        }
        let (head, body) = signal.split_first_chunk::<HEAD>()?;
        match head {
            [VERSION, PROBE, ..] => {
                let body: &[u8; PROBE_BODY] = body.first_chunk()?;
                Some(Self::Probe(Probe {
                    id: u32::from_be_bytes([body[0], body[1], body[2], body[3]]),
                    way: match body[4] {
                        0 => Way::Direct,
                        1 => Way::Relayed,
                        2 => Way::Stream,
                        _ => return None,
                    },
                }))
            }
            [VERSION, ECHO, ..] => {
                let body: &[u8; ECHO_BODY] = body.first_chunk()?;
                let word = |at: usize| {
                    u64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes of 24"))
                };
                Some(Self::Echo(Echo {
                    id: u32::from_be_bytes([body[0], body[1], body[2], body[3]]),
                    size: u16::from_be_bytes([body[4], body[5]]),
                    expected: word(8),
                    received: word(16),
                }))
            }
            [VERSION, LABEL_REQUEST, ..] => {
                let body: &[u8; LABEL_REQUEST_BODY] = body.first_chunk()?;
                Some(Self::LabelRequest(pair(body)))
            }
            [VERSION, LABEL, ..] => {
                let (of, rest) = body.split_first_chunk::<LABEL_REQUEST_BODY>()?;
                let rest: &[u8; LABEL_BODY - LABEL_REQUEST_BODY] = rest.first_chunk()?;
                Some(Self::Label {
                    pair: pair(of),
                    label: u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]),
                    lifetime_s: u16::from_be_bytes([rest[4], rest[5]]),
                })
            }
            [VERSION, LABEL_UNKNOWN, ..] => {
                let body: &[u8; LABEL_UNKNOWN_BODY] = body.first_chunk()?;
                Some(Self::LabelUnknown(u32::from_be_bytes(*body)))
            }
            [VERSION, PRESENCE, ..] => {
                let body: &[u8; PRESENCE_BODY] = body.first_chunk()?;
                Some(Self::Presence {
                    is_open: body[0] & 1 != 0,
                })
            }
            [VERSION, ACQUAINTANCE, ..] => {
                let body: &[u8; ACQUAINTANCE_BODY] = body.first_chunk()?;
                let (key, rest) = body.split_first_chunk::<KEY>()?;
                let (told, _) = rest.as_chunks::<ENDPOINT>();
                let mut endpoints = [None; Acquaintance::ENDPOINTS];
                for (endpoint, told) in endpoints.iter_mut().zip(told) {
                    *endpoint = read_endpoint(told);
                }
                Some(Self::Acquaintance(Acquaintance {
                    key: PublicKey::from_bytes(*key).ok()?,
                    endpoints,
                }))
            }
            [VERSION, REFLECT, ..] => {
                let body: &[u8; REFLECT_BODY] = body.first_chunk()?;
                Some(Self::Reflect(u32::from_be_bytes(*body)))
            }
            [VERSION, REFLECTED, ..] => {
                let body: &[u8; REFLECTED_BODY] = body.first_chunk()?;
                let octets: [u8; 16] = body[8..24].try_into().expect("sixteen bytes of 24");
                let port = u16::from_be_bytes([body[4], body[5]]);
                Some(Self::Reflected {
                    id: u32::from_be_bytes([body[0], body[1], body[2], body[3]]),
                    address: SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port),
                })
            }
            [VERSION, OFFER, ..] => read_bytes(body, MAX_OFFER).map(Self::Offer),
            [VERSION, RECORDS, ..] => read_bytes(body, MAX_RECORDS).map(Self::Records),
            [VERSION, JOIN, ..] => read_bytes(body, MAX_RECORDS).map(Self::Join),
            _ => None,
        }
    }

    /// The shortest packet that carries it.
    fn least(&self) -> usize {
        match self {
            Self::Probe(_)
            | Self::Echo(_)
            | Self::LabelUnknown(_)
            | Self::Reflect(_)
            | Self::Reflected { .. }
            | Self::Presence { .. } => LEAST,
            Self::Offer(bytes) | Self::Records(bytes) | Self::Join(bytes) => {
                (HEADER + UDP_HEADER + HEAD + BYTES_HEAD + bytes.len())
                    .next_multiple_of(16)
                    .max(LEAST)
            }
            Self::LabelRequest(_) | Self::Label { .. } => {
                (HEADER + UDP_HEADER + HEAD + LABEL_BODY).next_multiple_of(16)
            }
            Self::Acquaintance(_) => {
                (HEADER + UDP_HEADER + HEAD + ACQUAINTANCE_BODY).next_multiple_of(16)
            }
        }
    }

    /// The packet that carries the signal, padded to `size` bytes, at least [`LEAST`] or what it needs.
    pub fn packet(&self, own: Ipv6Addr, peer: Ipv6Addr, size: usize) -> Vec<u8> {
        let mut payload = vec![0; size.clamp(self.least(), usize::from(u16::MAX)) - HEADER];
        payload[..4].copy_from_slice(&ports());
        let length = (payload.len() as u16).to_be_bytes();
        payload[4..6].copy_from_slice(&length);
        let (head, body) = payload[UDP_HEADER..].split_at_mut(HEAD);
        head[0] = VERSION;
        match self {
            Self::Probe(Probe { id, way }) => {
                head[1] = PROBE;
                body[..4].copy_from_slice(&id.to_be_bytes());
                body[4] = match way {
                    Way::Direct => 0,
                    Way::Relayed => 1,
                    Way::Stream => 2,
                };
            }
            Self::Echo(echo) => {
                head[1] = ECHO;
                body[..4].copy_from_slice(&echo.id.to_be_bytes());
                body[4..6].copy_from_slice(&echo.size.to_be_bytes());
                body[8..16].copy_from_slice(&echo.expected.to_be_bytes());
                body[16..24].copy_from_slice(&echo.received.to_be_bytes());
            }
            Self::LabelRequest(pair) => {
                head[1] = LABEL_REQUEST;
                write_pair(body, pair);
            }
            Self::Label {
                pair,
                label,
                lifetime_s,
            } => {
                head[1] = LABEL;
                write_pair(body, pair);
                body[32..36].copy_from_slice(&label.to_be_bytes());
                body[36..38].copy_from_slice(&lifetime_s.to_be_bytes());
            }
            Self::LabelUnknown(label) => {
                head[1] = LABEL_UNKNOWN;
                body[..4].copy_from_slice(&label.to_be_bytes());
            }
            Self::Presence { is_open } => {
                head[1] = PRESENCE;
                body[0] = u8::from(*is_open);
            }
            Self::Acquaintance(Acquaintance { key, endpoints }) => {
                head[1] = ACQUAINTANCE;
                body[..KEY].copy_from_slice(key.as_bytes());
                let (told, _) = body[KEY..].as_chunks_mut::<ENDPOINT>();
                for (told, endpoint) in told.iter_mut().zip(endpoints.iter().flatten()) {
                    *told = write_endpoint(endpoint);
                }
            }
            Self::Reflect(id) => {
                head[1] = REFLECT;
                body[..4].copy_from_slice(&id.to_be_bytes());
            }
            Self::Reflected { id, address } => {
                head[1] = REFLECTED;
                body[..4].copy_from_slice(&id.to_be_bytes());
                body[4..6].copy_from_slice(&address.port().to_be_bytes());
                let ip = match address.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                body[8..24].copy_from_slice(&ip.octets());
            }
            Self::Offer(offer) => {
                head[1] = OFFER;
                write_bytes(body, offer);
            }
            Self::Records(message) => {
                head[1] = RECORDS;
                write_bytes(body, message);
            }
            Self::Join(message) => {
                head[1] = JOIN;
                write_bytes(body, message);
            }
        }
        packet::udp(own, peer, payload)
    }
}

/// Bytes after their number, at most so many.
fn read_bytes(body: &[u8], most: usize) -> Option<Vec<u8>> {
    let (head, rest) = body.split_first_chunk::<BYTES_HEAD>()?;
    let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
    let bytes = rest.get(..length).filter(|_| length <= most)?;
    Some(bytes.to_vec())
}

fn write_bytes(body: &mut [u8], bytes: &[u8]) {
    body[..2].copy_from_slice(&(bytes.len() as u16).to_be_bytes());
    body[BYTES_HEAD..BYTES_HEAD + bytes.len()].copy_from_slice(bytes);
}

fn pair(body: &[u8; LABEL_REQUEST_BODY]) -> Pair {
    let [source, destination] = [0, 16].map(|at| {
        let octets: [u8; 16] = body[at..at + 16].try_into().expect("sixteen bytes of 32");
        Ipv6Addr::from(octets)
    });
    Pair {
        source,
        destination,
    }
}

/// Nothing where the port is 0.
fn read_endpoint(bytes: &[u8; ENDPOINT]) -> Option<SocketAddr> {
    let [ip @ .., high, low] = *bytes;
    let port = u16::from_be_bytes([high, low]);
    let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
    (port != 0).then(|| SocketAddr::new(ip, port))
}

fn write_endpoint(endpoint: &SocketAddr) -> [u8; ENDPOINT] {
    let ip = match endpoint.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ENDPOINT];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes
}

fn write_pair(body: &mut [u8], pair: &Pair) {
    body[..16].copy_from_slice(&pair.source.octets());
    body[16..32].copy_from_slice(&pair.destination.octets());
}

/// Source and destination port.
fn ports() -> [u8; 4] {
    let [high, low] = PORT.to_be_bytes();
    [high, low, high, low]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testdata::{identity, vectors};

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
    const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 9, 9, 9, 9);

    fn signals() -> impl Strategy<Value = Signal> {
        let way = prop_oneof![Just(Way::Direct), Just(Way::Relayed), Just(Way::Stream)];
        prop_oneof![
            (any::<u32>(), way).prop_map(|(id, way)| Signal::Probe(Probe { id, way })),
            any::<(u32, u16, u64, u64)>().prop_map(|(id, size, expected, received)| {
                Signal::Echo(Echo {
                    id,
                    size,
                    expected,
                    received,
                })
            }),
            any::<u32>().prop_map(Signal::LabelUnknown),
            any::<bool>().prop_map(|is_open| Signal::Presence { is_open }),
            (0_usize..4, any::<(u32, u128)>(), 1_u16..).prop_map(|(n, (v4, v6), port)| {
                let v4 = std::net::Ipv4Addr::from_bits(v4).into();
                // One that stands for IPv4 is read as what it stands for.
                let v6 = Ipv6Addr::from_bits(v6 | 1 << 127).into();
                Signal::Acquaintance(Acquaintance {
                    key: identity(n).node().public_key(),
                    endpoints: [
                        Some(SocketAddr::new(v4, port)),
                        Some(SocketAddr::new(v6, port)),
                    ],
                })
            }),
            any::<u32>().prop_map(Signal::Reflect),
            (any::<u32>(), any::<(IpAddr, u16)>()).prop_map(|(id, (ip, port))| {
                Signal::Reflected {
                    id,
                    address: SocketAddr::new(ip.to_canonical(), port),
                }
            }),
            proptest::collection::vec(any::<u8>(), 0..=MAX_OFFER).prop_map(Signal::Offer),
            proptest::collection::vec(any::<u8>(), 0..=MAX_RECORDS).prop_map(Signal::Records),
            proptest::collection::vec(any::<u8>(), 0..=MAX_RECORDS).prop_map(Signal::Join),
            any::<[u128; 2]>().prop_map(|pair| Signal::LabelRequest(pair_of(pair))),
            any::<([u128; 2], u32, u16)>().prop_map(|(pair, label, lifetime_s)| Signal::Label {
                pair: pair_of(pair),
                label,
                lifetime_s,
            }),
        ]
    }

    fn pair_of(pair: [u128; 2]) -> Pair {
        let [source, destination] = pair.map(Ipv6Addr::from_bits);
        Pair {
            source,
            destination,
        }
    }

    #[test]
    fn a_signal_of_another_version_kind_or_way_is_ignored() {
        let probe = Signal::Probe(Probe {
            id: 7,
            way: Way::Direct,
        });
        let packet = probe.packet(A, B, 0);
        assert_eq!(packet.len(), LEAST);
        assert_eq!(Signal::parse(&packet, A, B), Some(probe));
        for at in [48, 49, 56] {
            let mut other = packet.clone();
            other[at] = 99;
            assert_eq!(Signal::parse(&other, A, B), None, "byte {at}");
        }
        assert_eq!(Signal::parse(&packet, B, A), None, "other addresses");
    }

    #[test]
    fn an_offer_that_is_too_long_or_cut_is_ignored() {
        let packet = Signal::Offer(vec![7; 100]).packet(A, B, 0);
        let claims = |length: u16| {
            let mut packet = packet.clone();
            packet[52..54].copy_from_slice(&length.to_be_bytes());
            Signal::parse(&packet, A, B)
        };
        assert_eq!(claims(100), Some(Signal::Offer(vec![7; 100])));
        let padding = packet.len() as u16 - 56;
        assert!(claims(padding).is_some());
        assert_eq!(claims(padding + 1), None, "longer than its packet");
        let long = Signal::Offer(vec![7; MAX_OFFER + 1]).packet(A, B, 0);
        assert_eq!(Signal::parse(&long, A, B), None, "longer than any");
    }

    #[test]
    fn the_published_vectors_hold() {
        let [own, peer] = [0, 1].map(|n| identity(n).node().link_local());
        let probe = |way| {
            Signal::Probe(Probe {
                id: 0x0102_0304,
                way,
            })
        };
        let echo = Signal::Echo(Echo {
            id: 0x0102_0304,
            size: 1420,
            expected: 1000,
            received: 997,
        });
        let [source, destination] = [0, 1].map(|n| identity(n).node().address());
        let pair = Pair {
            source,
            destination,
        };
        let label = Signal::Label {
            pair,
            label: 0x0a0b_0c0d,
            lifetime_s: 180,
        };
        let acquaintance = |second| {
            Signal::Acquaintance(Acquaintance {
                key: identity(2).node().public_key(),
                endpoints: [Some("203.0.113.7:51860".parse().unwrap()), second],
            })
        };
        let mut seen = 0;
        for (name, packet) in vectors("signals") {
            let read = Signal::parse(&packet, own, peer);
            let expected = match name {
                "probe 01020304, direct" => Some(probe(Way::Direct)),
                "probe 01020304, relayed, in a packet of 100 bytes" => Some(probe(Way::Relayed)),
                "probe 01020304, in a stream" => Some(probe(Way::Stream)),
                "probe 01020304, direct, with fields of a later release" => {
                    assert_eq!(read, Some(probe(Way::Direct)));
                    continue;
                }
                name if name.starts_with("echo") => Some(echo.clone()),
                name if name.starts_with("label request") => Some(Signal::LabelRequest(pair)),
                "presence of a node that is open" => Some(Signal::Presence { is_open: true }),
                "presence of a node that is not" => Some(Signal::Presence { is_open: false }),
                "acquaintance with the third identity at 203.0.113.7:51860" => {
                    Some(acquaintance(None))
                }
                "acquaintance with the third identity at 203.0.113.7:51860 and [2001:db8::7]:443" => {
                    Some(acquaintance(Some("[2001:db8::7]:443".parse().unwrap())))
                }
                name if name.ends_with("unknown") => Some(Signal::LabelUnknown(0x0a0b_0c0d)),
                name if name.starts_with("label ") => Some(label.clone()),
                name if name.starts_with("reflect ") => Some(Signal::Reflect(0x0102_0304)),
                name if name.starts_with("reflected") => Some(Signal::Reflected {
                    id: 0x0102_0304,
                    address: "192.0.2.7:41002".parse().unwrap(),
                }),
                name if name.starts_with("offer") => Some(Signal::Offer(b"hello".to_vec())),
                name if name.starts_with("records") => Some(Signal::Records(b"hello".to_vec())),
                name if name.starts_with("join") => Some(Signal::Join(b"hello".to_vec())),
                _ => None,
            };
            assert_eq!(read, expected, "{name}");
            if let Some(signal) = expected {
                assert_eq!(signal.packet(own, peer, packet.len()), packet, "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, 16);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(signal in signals(), size in 0_usize..2000) {
            let packet = signal.packet(A, B, size);
            prop_assert_eq!(packet.len(), size.max(signal.least()));
            prop_assert_eq!(Signal::parse(&packet, A, B), Some(signal));
            prop_assert_eq!(packet::checksum(A, B, UDP, &packet[HEADER..]), 0);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut packet = Signal::Probe(Probe { id: 1, way: Way::Direct }).packet(A, B, 0);
            let _ = Signal::parse(&bytes, A, B);
            packet.truncate(HEADER);
            packet.extend_from_slice(&bytes);
            packet[4..6].copy_from_slice(&(bytes.len() as u16).to_be_bytes());
            let _ = Signal::parse(&packet, A, B);
        }
    }
}
