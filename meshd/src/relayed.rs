//! A session's datagrams as packets of the overlay: how a session crosses nodes in between, which see ciphertext only.
//!
//! A relayed datagram is an ordinary IPv6/UDP packet from one node's own address to another's, both ports [`PORT`]. So whoever
//! routes the overlay can carry it, a stock router too. `docs/protocol.md` has the layout.

use std::net::Ipv6Addr;

use crate::{
    ecn::Ecn,
    io::checksum,
    packet::{FRAGMENT, HEADER, Ipv6Header, UDP},
};

/// UDP port of WireGuard inside the overlay, on every node's own address: taken from programs there.
pub const PORT: u16 = 51820;

/// What the two headers add to a datagram, in bytes.
pub const OVERHEAD: usize = HEADER + UDP_HEADER;

/// Hop limit of what we send: more hops than any mesh is wide.
pub const HOP_LIMIT: u8 = 64;

const UDP_HEADER: usize = 8;

/// A packet that carries a datagram, or a part of one, of a session between two nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relayed<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// A fragment.
    Part,
}

impl<'a> Relayed<'a> {
    /// What a packet with this header carries for the node that it is addressed to; nothing if it is for somebody behind that node.
    /// The datagram may be anything: only its session can tell.
    pub fn parse(header: &Ipv6Header, packet: &'a [u8]) -> Option<Self> {
        if !is_node(header.source) || !is_node(header.destination) {
            return None;
        }
        let payload = packet.get(HEADER..HEADER + header.payload)?;
        match header.next_header {
            UDP => {
                let (udp, datagram) = payload.split_first_chunk::<UDP_HEADER>()?;
                let [port, port_again] = [PORT.to_be_bytes(); 2];
                let is_ours = udp[..2] == port && udp[2..4] == port_again;
                let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
                (is_ours && length == payload.len()).then_some(Self::Whole(datagram))
            }
            FRAGMENT => Some(Self::Part),
            _ => None,
        }
    }
}

/// Whether this is a node's own address and not somebody's behind it.
pub fn is_node(address: Ipv6Addr) -> bool {
    address.to_bits() & u128::from(u64::MAX) == 1
}

/// Writes the headers of a relayed datagram into the first [`OVERHEAD`] bytes of `packet`, before the datagram that fills the rest: at
/// most 65,487 bytes. `ecn` is that of what is sealed in the datagram: the sessions of links copy it.
pub fn write_headers(
    packet: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    ecn: Ecn,
) {
    let length = u16::try_from(packet.len() - HEADER).expect("as long as a UDP datagram at most");
    packet[..4].copy_from_slice(&[0x60, ecn.class() << 4, 0, 0]);
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6..8].copy_from_slice(&[UDP, hop_limit]);
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
    let (addresses, udp) = packet.split_at_mut(HEADER);
    udp[..2].copy_from_slice(&PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    udp[6..8].fill(0);
    let pseudo = checksum::sum(&addresses[8..], 0)
        + checksum::sum(&[0, UDP], 0)
        + checksum::sum(&length.to_be_bytes(), 0);
    let sum = checksum::finish(checksum::sum(udp, pseudo));
    udp[6..8].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        packet,
        testdata::{identity, vectors},
    };

    const A: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x6aa, 9, 9, 9, 0, 0, 0, 1);

    fn wrapped(datagram: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; OVERHEAD];
        packet.extend_from_slice(datagram);
        write_headers(&mut packet, A, B, HOP_LIMIT, Ecn::NotEct);
        packet
    }

    fn parse(packet: &[u8]) -> Option<Relayed<'_>> {
        Relayed::parse(&Ipv6Header::parse(packet).ok()?, packet)
    }

    #[test]
    fn ports_addresses_and_lengths_have_to_be_right() {
        let right = wrapped(&[4, 0, 0, 0, 7]);
        assert_eq!(parse(&right), Some(Relayed::Whole(&[4, 0, 0, 0, 7])));
        for (at, what) in [
            (6, "protocol"),
            (23, "source"),
            (39, "destination"),
            (41, "source port"),
            (43, "destination port"),
            (45, "UDP length"),
        ] {
            let mut wrong = right.clone();
            wrong[at] ^= 2;
            assert_eq!(parse(&wrong), None, "{what}");
        }
    }

    #[test]
    fn the_published_vector_holds() {
        let [(_, datagram), (_, packet)] = &vectors("relayed")[..] else {
            panic!("two lines");
        };
        let [from, to] = [0, 1].map(|n| identity(n).node().address());
        let mut made = vec![0; OVERHEAD];
        made.extend_from_slice(datagram);
        write_headers(&mut made, from, to, HOP_LIMIT, Ecn::NotEct);
        assert_eq!(&made, packet);
        assert_eq!(parse(packet), Some(Relayed::Whole(datagram)));
    }

    #[test]
    fn a_fragment_is_a_part_whatever_is_in_it() {
        let packet = packet::ipv6(A, B, FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3]);
        assert_eq!(parse(&packet), Some(Relayed::Part));
    }

    proptest! {
        #[test]
        fn what_is_wrapped_comes_out_with_a_right_checksum(datagram in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let packet = wrapped(&datagram);
            prop_assert_eq!(parse(&packet), Some(Relayed::Whole(&datagram)));
            prop_assert_eq!(packet::checksum(A, B, UDP, &packet[HEADER..]), 0);
        }
    }
}
