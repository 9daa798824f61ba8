//! Views of IPv6 packets (RFC 8200), and the few packets that a node makes itself.

use std::net::Ipv6Addr;

use crate::{ecn::Ecn, io::checksum};

/// Length of the fixed IPv6 header, in bytes.
pub const HEADER: usize = 40;
/// Next header: UDP.
pub const UDP: u8 = 17;
/// Next header: a fragment header.
pub const FRAGMENT: u8 = 44;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;
/// Hop limit of packets that the node itself originates.
const HOP_LIMIT: u8 = 64;

/// What the fixed header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv6Header {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Length of what follows the fixed header, in bytes; never more than there is.
    pub payload: usize,
}

/// Why bytes are not an IPv6 packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Another IP version.
    #[error("not an IPv6 packet")]
    Version,
    /// Shorter than its header or its own length field.
    #[error("truncated IPv6 packet")]
    Truncated,
}

impl Ipv6Header {
    /// Reads the fixed header; the payload length may be less than what is there, never more.
    pub fn parse(packet: &[u8]) -> Result<Self, HeaderError> {
        if packet.first().is_some_and(|first| first >> 4 != 6) {
            return Err(HeaderError::Version);
        }
        let (header, rest) = packet
            .split_at_checked(HEADER)
            .ok_or(HeaderError::Truncated)?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if payload > rest.len() {
            return Err(HeaderError::Truncated);
        }
        Ok(Self {
            source: address(header, 8),
            destination: address(header, 24),
            next_header: header[6],
            hop_limit: header[7],
            payload,
        })
    }
}

impl Ipv6Header {
    /// The destination of a packet, or of the beginning of one.
    pub fn parse_destination(packet: &[u8]) -> Option<Ipv6Addr> {
        let octets = packet.get(24..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(*octets))
    }
}

/// Source and destination port of a UDP packet without extension headers; nothing if it is none, or its length is wrong.
pub fn udp_ports(header: &Ipv6Header, packet: &[u8]) -> Option<(u16, u16)> {
    if header.next_header != UDP {
        return None;
    }
    let udp: &[u8; 8] = packet.get(HEADER..)?.first_chunk()?;
    let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    (usize::from(field(4)) == header.payload).then(|| (field(0), field(2)))
}

/// What the extension headers lead to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UpperLayer {
    /// Protocol number of the upper layer.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the packet.
    pub offset: usize,
    /// Whether this is a fragment other than the first, so that no upper-layer header is there.
    pub is_later_fragment: bool,
}

/// Extension headers looked through before giving up: no honest packet has more, and a chain costs time for each.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Walks the extension headers (RFC 8200 §4) to the upper layer; nothing if they run past the end or are too many.
pub fn upper_layer(packet: &[u8]) -> Option<UpperLayer> {
    let (mut protocol, mut offset) = (*packet.get(6)?, HEADER);
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header = packet.get(offset..)?;
        let length = match protocol {
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*header.get(1)?) + 1) * 8,
            51 => (usize::from(*header.get(1)?) + 2) * 4,
            FRAGMENT => {
                let position = u16::from_be_bytes([*header.get(2)?, *header.get(3)?]) >> 3;
                if position != 0 {
                    return Some(UpperLayer {
                        protocol: header[0],
                        offset: offset + 8,
                        is_later_fragment: true,
                    });
                }
                8
            }
            _ => {
                return Some(UpperLayer {
                    protocol,
                    offset,
                    is_later_fragment: false,
                });
            }
        };
        protocol = header[0];
        offset += length;
    }
    None
}

/// Whether this is router or neighbour discovery (RFC 4861), an affair of links that has no business in the overlay.
pub fn is_neighbour_discovery(upper: &UpperLayer, packet: &[u8]) -> bool {
    upper.protocol == ICMPV6
        && !upper.is_later_fragment
        && packet
            .get(upper.offset)
            .is_some_and(|kind| (133..=137).contains(kind))
}

/// Takes one hop off a packet in transit; false if none was left (RFC 8200 §3).
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    match packet.get_mut(7) {
        Some(hop_limit) if *hop_limit > 1 => {
            *hop_limit -= 1;
            true
        }
        _ => false,
    }
}

/// Tells both ends of a packet's flow that a queue stands (RFC 3168 §5), if they understand that; otherwise says no.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let is_capable = Ecn::of(packet).is_capable();
    if is_capable {
        Ecn::Ce.write(packet);
    }
    is_capable
}

/// An ICMPv6 message in an IPv6 packet; bytes 2 and 3 of `body` become the checksum.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut packet = ipv6(source, destination, ICMPV6, body);
    packet[HEADER + 2..HEADER + 4].fill(0);
    let sum = checksum(source, destination, ICMPV6, &packet[HEADER..]);
    packet[HEADER + 2..HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Sets the hop limit of an IPv6 packet, which no checksum covers.
pub fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    packet[7] = hop_limit;
}

/// A UDP packet between equal ports.
pub fn udp_between(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    udp_to((source, port), (destination, port), payload)
}

/// A UDP packet from one address and port to another.
pub fn udp_to(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).expect("packets of ours are short");
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend_from_slice(&source.1.to_be_bytes());
    datagram.extend_from_slice(&destination.1.to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    udp(source.0, destination.0, datagram)
}

/// A UDP packet: `datagram` is its header (ports and length set) and payload; bytes 6 and 7 become the checksum.
pub fn udp(source: Ipv6Addr, destination: Ipv6Addr, mut datagram: Vec<u8>) -> Vec<u8> {
    datagram[6..8].fill(0);
    let sum = match checksum(source, destination, UDP, &datagram) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv6(source, destination, UDP, &datagram)
}

/// An IPv6 packet with this payload.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("packets of ours are short");
    let mut packet = Vec::with_capacity(HEADER + payload.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[next_header, HOP_LIMIT]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

/// The checksum of an upper-layer packet with its pseudo-header (RFC 8200 §8.1); 0 over one that carries a right checksum.
pub fn checksum(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> u16 {
    let length = u32::try_from(payload.len())
        .expect("packets are shorter than 4 GiB")
        .to_be_bytes();
    let pseudo = [source.octets(), destination.octets()]
        .iter()
        .map(|address| checksum::sum(address, 0))
        .sum::<u64>()
        + checksum::sum(&length, 0)
        + checksum::sum(&[0, next_header], 0);
    u16::from_be_bytes((!checksum::fold(checksum::sum(payload, pseudo))).to_ne_bytes())
}

fn address(header: &[u8], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = header[at..at + 16]
        .try_into()
        .expect("sixteen bytes, header length checked");
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x6aa, 9, 9, 9, 0, 0, 0, 1);

    #[test]
    fn a_packet_of_ours_parses_back() {
        let packet = ipv6(A, B, 17, &[1, 2, 3]);
        let header = Ipv6Header::parse(&packet).unwrap();
        assert_eq!(
            header,
            Ipv6Header {
                source: A,
                destination: B,
                next_header: 17,
                hop_limit: 64,
                payload: 3
            }
        );
        assert_eq!(
            Ipv6Header::parse(&packet[..42]),
            Err(HeaderError::Truncated)
        );
        assert_eq!(Ipv6Header::parse(&[0x45; 60]), Err(HeaderError::Version));
        assert_eq!(Ipv6Header::parse(&[]), Err(HeaderError::Truncated));
    }

    #[test]
    fn extension_headers_are_walked_up_to_a_bound() {
        let chain = |count: usize| {
            let mut payload = vec![0; count * 8];
            for i in 0..count {
                payload[i * 8] = if i + 1 == count { 17 } else { 60 };
            }
            payload.extend_from_slice(&[0; 8]);
            ipv6(A, B, if count == 0 { 17 } else { 60 }, &payload)
        };
        assert_eq!(
            upper_layer(&chain(0)),
            Some(UpperLayer {
                protocol: 17,
                offset: 40,
                is_later_fragment: false
            })
        );
        assert_eq!(
            upper_layer(&chain(3)),
            Some(UpperLayer {
                protocol: 17,
                offset: 64,
                is_later_fragment: false
            })
        );
        assert_eq!(upper_layer(&chain(60)), None);
    }

    #[test]
    fn the_last_hop_is_not_taken() {
        let mut packet = ipv6(A, B, 17, &[]);
        packet[7] = 2;
        assert!(decrement_hop_limit(&mut packet));
        assert_eq!(packet[7], 1);
        assert!(!decrement_hop_limit(&mut packet));
        packet[7] = 0;
        assert!(!decrement_hop_limit(&mut packet));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_views_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0u8..16) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first << 4;
            }
            let _ = Ipv6Header::parse(&bytes);
            let _ = upper_layer(&bytes);
            let _ = decrement_hop_limit(&mut bytes);
            let _ = crate::icmp::error(crate::icmp::Unreachable::NoRoute, A, &bytes);
            let _ = crate::icmp::echo_reply(&bytes, [0; 8]);
        }

        #[test]
        fn a_right_checksum_sums_to_zero(body in proptest::collection::vec(any::<u8>(), 4..64)) {
            let packet = icmpv6(A, B, &body);
            prop_assert_eq!(checksum(A, B, ICMPV6, &packet[HEADER..]), 0);
        }
    }
}
