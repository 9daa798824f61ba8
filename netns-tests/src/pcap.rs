//! What `tcpdump -w` writes, read: the IP packets of a capture, and what is in them.

use std::net::{IpAddr, Ipv6Addr};

/// Lengths of the headers of a capture file, of a frame in it, and of Ethernet.
const FILE: usize = 24;
const FRAME: usize = 16;
const ETHERNET: usize = 14;
/// `LINKTYPE_ETHERNET`; what else is captured in a lab has no header of a link.
const LINK_ETHERNET: u32 = 1;

/// TCP, as IP numbers it.
pub const TCP: u8 = 6;
/// UDP, as IP numbers it.
pub const UDP: u8 = 17;

/// The IP packets of a capture, whole as they were seen; those on Ethernet and those without any link. The file is little-endian, as
/// it is written here, and may end anywhere.
pub fn packets(file: &[u8]) -> Vec<&[u8]> {
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_le_bytes(*word))
    };
    let skipped = if word(file, 20) == Some(LINK_ETHERNET) {
        ETHERNET
    } else {
        0
    };
    let mut packets = Vec::new();
    let mut rest = file.get(FILE..).unwrap_or_default();
    while let Some((header, after)) = rest.split_at_checked(FRAME) {
        let length = word(header, 8).map_or(usize::MAX, |length| length as usize);
        let Some((frame, next)) = after.split_at_checked(length) else {
            break;
        };
        rest = next;
        let is_ip = skipped == 0 || matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        packets.extend(frame.get(skipped..).filter(|_| is_ip));
    }
    packets
}

/// An IP packet without extension headers and not a fragment.
#[derive(Clone, Copy, Debug)]
pub struct Ip<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What is in it.
    pub protocol: u8,
    /// What follows its header.
    pub payload: &'a [u8],
    /// Its length in bytes, the header included.
    pub length: usize,
}

impl<'a> Ip<'a> {
    /// Reads a packet; none if it is cut, or not one of those.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (source, destination, protocol, header, length) = match packet.first()? >> 4 {
            4 => {
                let fixed = packet.first_chunk::<20>()?;
                let is_fragment = fixed[6] & 0x3f != 0 || fixed[7] != 0;
                let address = |at: usize| IpAddr::from([0, 1, 2, 3].map(|byte| fixed[at + byte]));
                let header = usize::from(fixed[0] & 15) * 4;
                let length = usize::from(half(fixed, 2));
                let packet = (address(12), address(16), fixed[9], header, length);
                (!is_fragment).then_some(packet)?
            }
            6 => {
                let fixed = packet.first_chunk::<40>()?;
                let address = |at: usize| {
                    let octets: [u8; 16] = std::array::from_fn(|byte| fixed[at + byte]);
                    Ipv6Addr::from(octets).into()
                };
                let length = 40 + usize::from(half(fixed, 4));
                (address(8), address(24), fixed[6], 40, length)
            }
            _ => return None,
        };
        Some(Self {
            source,
            destination,
            protocol,
            payload: packet.get(header..length)?,
            length,
        })
    }

    /// Destination port and what TCP or UDP carries.
    pub fn carried(&self) -> Option<(u16, &'a [u8])> {
        let header = match self.protocol {
            TCP => usize::from(self.payload.get(12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        let carried = self.payload.get(header..)?;
        Some((half(self.payload, 2), carried))
    }

    /// Sequence number and flags of a TCP segment.
    pub fn sequence(&self) -> Option<(u32, u8)> {
        let segment = self.payload.first_chunk::<20>()?;
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        (self.protocol == TCP).then_some((sequence, segment[13]))
    }

    /// What the checksum of TCP or UDP says.
    pub fn checksum(&self) -> Checksum {
        let at = if self.protocol == TCP { 16 } else { 6 };
        let pseudo = self.pseudo();
        match self.payload.get(at..at + 2) {
            None => Checksum::Wrong,
            Some([0, 0]) if self.protocol == UDP => Checksum::None,
            _ if sum(self.payload, pseudo) == 0xffff => Checksum::Right,
            Some(field) if half(field, 0) == pseudo => Checksum::Partial,
            Some(_) => Checksum::Wrong,
        }
    }

    /// The sum of the pseudo-header (RFC 8200 §8.1, RFC 9293 §3.1).
    fn pseudo(&self) -> u16 {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let addresses = sum(&octets(self.destination), sum(&octets(self.source), 0));
        let length = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
        sum(&length.to_be_bytes(), sum(&[0, self.protocol], addresses))
    }
}

/// What a checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The packet is what was sent.
    Right,
    /// It holds the sum of the pseudo-header alone: whoever puts the packet on a wire is to complete it.
    Partial,
    /// There is none.
    None,
    /// The packet is not what was sent.
    Wrong,
}

/// The bytes of the TCP stream to this port in the captured packets, in order, without what was sent twice; none if something of it is
/// missing, or two packets say different things.
pub fn stream(packets: &[Ip<'_>], port: u16, length: usize) -> Option<Vec<u8>> {
    const SYN: u8 = 2;
    let segments = packets.iter().filter_map(|packet| {
        let (to, carried) = packet.carried()?;
        let (sequence, flags) = packet.sequence()?;
        (to == port).then_some((sequence, flags, carried))
    });
    let mut first = None;
    let mut stream: Vec<Option<u8>> = vec![None; length];
    for (sequence, flags, carried) in segments {
        if flags & SYN != 0 {
            first = Some(sequence.wrapping_add(1));
            continue;
        }
        let offset = sequence.wrapping_sub(first?) as usize;
        for (place, byte) in (offset..).zip(carried) {
            let known = stream.get_mut(place)?;
            if known.replace(*byte).is_some_and(|known| known != *byte) {
                return None;
            }
        }
    }
    stream.into_iter().collect()
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 1071 §1.
fn sum(bytes: &[u8], initial: u16) -> u16 {
    bytes.chunks(2).fold(initial, |sum, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        let (sum, carried) = sum.overflowing_add(u16::from_be_bytes([pair[0], low]));
        sum + u16::from(carried)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram of four bytes over IPv6, and over Ethernet.
    const DATAGRAM: &str = "86dd 60000000 000c 11 40 fe800000000000000000000000000001 fe800000000000000000000000000002 \
        1000 0007 000c 0000 61626364";

    fn datagram() -> Vec<u8> {
        let digits: String = DATAGRAM.split_whitespace().collect();
        let mut frame = vec![0; 12];
        frame.extend(
            (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()),
        );
        frame
    }

    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0; FILE];
        file[20] = 1;
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            file.extend([&[0; 8], &length[..], &length[..], frame].concat());
        }
        file
    }

    #[test]
    fn frames_are_read_and_one_that_is_cut_is_not() {
        let mut file = file(&[datagram(), datagram(), vec![0; 60]]);
        assert_eq!(packets(&file), [&datagram()[ETHERNET..]; 2]);
        file.truncate(FILE + 2 * (FRAME + datagram().len()) - 1);
        assert_eq!(packets(&file).len(), 1);
        assert!(packets(&[]).is_empty());
    }

    #[test]
    fn checksums_are_told_apart() {
        let mut frame = datagram();
        let check = |frame: &[u8]| Ip::parse(&frame[ETHERNET..]).unwrap().checksum();
        assert_eq!(check(&frame), Checksum::None);
        let field = ETHERNET + 40 + 6;
        let packet = frame[ETHERNET..].to_vec();
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!(ip.carried(), Some((7, &b"abcd"[..])));
        frame[field..field + 2].copy_from_slice(&ip.pseudo().to_be_bytes());
        assert_eq!(check(&frame), Checksum::Partial);
        // By hand: 0xfe80 + 1 + 0xfe80 + 2 + 12 + 17 + 0x1000 + 7 + 12 + 0x6162 + 0x6364, folded and inverted.
        let right = !sum(
            &[
                0xfe, 0x80, 0, 1, 0xfe, 0x80, 0, 2, 0, 12, 0, 17, 16, 0, 0, 7, 0, 12, 0x61, 0x62,
                0x63, 0x64,
            ],
            0,
        );
        frame[field..field + 2].copy_from_slice(&right.to_be_bytes());
        assert_eq!(check(&frame), Checksum::Right);
        frame[field + 3] ^= 1;
        assert_eq!(check(&frame), Checksum::Wrong);
    }

    #[test]
    fn a_stream_is_put_together_from_what_came_twice_and_in_any_order() {
        let segment = |sequence: u32, flags: u8, carried: &[u8]| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 20 + carried.len() as u8, TCP, 64];
            packet.extend([0; 32]);
            packet.extend([0, 9, 0, 7]);
            packet.extend(sequence.to_be_bytes());
            packet.extend([0, 0, 0, 0, 5 << 4, flags, 0, 0, 0, 0, 0, 0]);
            packet.extend(carried);
            packet
        };
        let sent = [
            segment(u32::MAX - 1, 2, b""),
            segment(1, 16, b"cd"),
            segment(u32::MAX, 16, b"ab"),
            segment(0, 16, b"bcd"),
        ];
        let parsed: Vec<_> = sent
            .iter()
            .map(|packet| Ip::parse(packet).unwrap())
            .collect();
        assert_eq!(stream(&parsed, 7, 4).unwrap(), b"abcd");
        assert_eq!(stream(&parsed[..2], 7, 4), None);
        assert_eq!(stream(&parsed, 8, 4), None);
        assert_eq!(stream(&parsed, 7, 5), None);
    }
}
