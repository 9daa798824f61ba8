//! The other side of the TUN device, for tests: super-packets as Linux hands them over, and what it makes of those that are written
//! to it. Written from what `tcp_gso_segment`, `__udp_gso_segment` and `virtio_net_hdr_to_skb` do and not from `split.rs`, in the most
//! simple way and with sums of its own, so that one mistake is not made twice.

use std::net::Ipv6Addr;

/// Length of a virtio header, and of the fixed IPv6 header.
const VIRTIO: usize = 10;
const FIXED: usize = 40;
const NEEDS_CHECKSUM: u8 = 1;
const TCP6: u8 = 4;
const UDP_SEGMENTS: u8 = 5;
/// `UDP_MAX_SEGMENTS` of kernels before 6.0.
const MOST_DATAGRAMS: usize = 64;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// What comes before the transport header.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) class: u8,
    /// 20 bits.
    pub(super) label: u32,
    pub(super) hop_limit: u8,
    pub(super) from: Ipv6Addr,
    pub(super) to: Ipv6Addr,
    /// Extension headers, each its type and its body after the two bytes of next header and length.
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
}

/// A transport header.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    Tcp {
        ports: (u16, u16),
        sequence: u32,
        acknowledgment: u32,
        /// The four bits after the data offset.
        reserved: u8,
        flags: u8,
        window: u16,
        urgent: u16,
        /// A multiple of four bytes, 40 at most.
        options: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
    },
}

impl Transport {
    pub(super) fn protocol(&self) -> u8 {
        match self {
            Self::Tcp { .. } => TCP,
            Self::Udp { .. } => UDP,
        }
    }

    /// The header without its checksum, before a payload of this length.
    fn header(&self, payload: usize) -> Vec<u8> {
        let mut header = Vec::new();
        match self {
            Self::Tcp {
                ports,
                sequence,
                acknowledgment,
                reserved,
                flags,
                window,
                urgent,
                options,
            } => {
                header.extend(ports.0.to_be_bytes());
                header.extend(ports.1.to_be_bytes());
                header.extend(sequence.to_be_bytes());
                header.extend(acknowledgment.to_be_bytes());
                header.push((5 + options.len() as u8 / 4) << 4 | reserved);
                header.push(*flags);
                header.extend(window.to_be_bytes());
                header.extend([0, 0]);
                header.extend(urgent.to_be_bytes());
                header.extend(options);
            }
            Self::Udp { ports } => {
                header.extend(ports.0.to_be_bytes());
                header.extend(ports.1.to_be_bytes());
                header.extend((8 + payload as u16).to_be_bytes());
                header.extend([0, 0]);
            }
        }
        header
    }

    /// That of one segment of many: the one whose payload begins at `offset`.
    fn of_segment(&self, offset: usize, is_last: bool) -> Self {
        let mut segment = self.clone();
        if let Self::Tcp {
            sequence, flags, ..
        } = &mut segment
        {
            *sequence = sequence.wrapping_add(offset as u32);
            if !is_last {
                *flags &= !(FIN | PSH);
            }
            if offset > 0 {
                *flags &= !CWR;
            }
        }
        segment
    }
}

/// A packet whose checksum is right.
pub(super) fn packet(network: &Network, transport: &Transport, payload: &[u8]) -> Vec<u8> {
    let mut packet = unsummed(network, transport, payload);
    complete(&mut packet, transport.protocol());
    packet
}

/// Writes the right checksum into a packet, whatever else is wrong with it.
pub(super) fn complete(packet: &mut [u8], protocol: u8) {
    let start = transport_offset(packet, protocol);
    let field = start + field(protocol);
    packet[field..field + 2].fill(0);
    let sum = add(
        pseudo(packet, protocol, packet.len() - start),
        total(&packet[start..]),
    );
    let value = if sum == 0xffff { 0xffff } else { !sum };
    packet[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// A super-packet as it is read from the device, virtio header first.
pub(super) fn hand_over(
    network: &Network,
    transport: &Transport,
    payload: &[u8],
    size: u16,
) -> Vec<u8> {
    let protocol = transport.protocol();
    let mut packet = unsummed(network, transport, payload);
    let start = transport_offset(&packet, protocol);
    let partial = pseudo(&packet, protocol, packet.len() - start);
    let field_at = start + field(protocol);
    packet[field_at..field_at + 2].copy_from_slice(&partial.to_be_bytes());
    let kind = if protocol == TCP { TCP6 } else { UDP_SEGMENTS };
    let mut frame = vec![NEEDS_CHECKSUM, kind];
    let headers = packet.len() - payload.len();
    for value in [
        headers,
        usize::from(size),
        start,
        usize::from(field(protocol) as u8),
    ] {
        frame.extend((value as u16).to_ne_bytes());
    }
    frame.extend(packet);
    frame
}

/// The packets that the sender would have sent in place of a super-packet.
pub(super) fn segments(
    network: &Network,
    transport: &Transport,
    payload: &[u8],
    size: u16,
) -> Vec<Vec<u8>> {
    let size = usize::from(size);
    let count = payload.len().div_ceil(size);
    (0..count)
        .map(|number| {
            let offset = number * size;
            let part = &payload[offset..payload.len().min(offset + size)];
            let transport = transport.of_segment(offset, number + 1 == count);
            packet(network, &transport, part)
        })
        .collect()
}

/// What Linux makes of a frame that is written to the device.
///
/// # Panics
/// If it would refuse the frame, or if a single packet has anything in its virtio header.
pub(super) fn take_apart(frame: &[u8]) -> Vec<Vec<u8>> {
    let (virtio, packet) = frame.split_at(VIRTIO);
    let at = |at: usize| usize::from(u16::from_ne_bytes([virtio[at], virtio[at + 1]]));
    let (kind, headers, size, start, offset) = (virtio[1], at(2), at(4), at(6), at(8));
    if kind == 0 {
        assert_eq!(virtio, [0; VIRTIO]);
        return vec![packet.to_vec()];
    }
    assert_eq!((virtio[0], packet[0] >> 4, start), (NEEDS_CHECKSUM, 6, 40));
    assert_eq!(
        word(packet, 4) as usize,
        packet.len() - FIXED,
        "IPv6 payload length"
    );
    let protocol = match kind {
        TCP6 => TCP,
        UDP_SEGMENTS => UDP,
        _ => panic!("segmentation type {kind}"),
    };
    assert_eq!((packet[6], offset), (protocol, field(protocol)));
    let header = if protocol == TCP {
        usize::from(packet[FIXED + 12] >> 4) * 4
    } else {
        8
    };
    assert_eq!(headers, FIXED + header, "header length");
    let payload = &packet[headers..];
    assert!(
        size > 0 && payload.len() > size,
        "one segment is no super-packet"
    );
    if protocol == UDP {
        assert!(
            payload.len() <= size * MOST_DATAGRAMS,
            "too many datagrams for the kernel"
        );
        assert_eq!(
            word(packet, FIXED + 4) as usize,
            packet.len() - FIXED,
            "UDP length"
        );
    }
    let partial = word(packet, FIXED + offset);
    let whole_length = (packet.len() - FIXED) as u16;
    payload
        .chunks(size)
        .enumerate()
        .map(|(number, part)| {
            let mut segment = packet[..headers].to_vec();
            segment.extend(part);
            let length = (segment.len() - FIXED) as u16;
            segment[4..6].copy_from_slice(&length.to_be_bytes());
            let transport = &mut segment[FIXED..];
            if protocol == TCP {
                let first = u32::from_be_bytes(transport[4..8].try_into().unwrap());
                let sequence = first.wrapping_add((number * size) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                if (number + 1) * size < payload.len() {
                    transport[13] &= !(FIN | PSH);
                }
                if number > 0 {
                    transport[13] &= !CWR;
                }
            } else {
                transport[4..6].copy_from_slice(&length.to_be_bytes());
            }
            // The sum of the pseudo-header is not made anew: the length in it is replaced, and the rest believed.
            let pseudo = add(add(partial, !whole_length), length);
            transport[offset..offset + 2].fill(0);
            let value = match !add(pseudo, total(transport)) {
                0 if protocol == UDP => 0xffff,
                value => value,
            };
            transport[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
            segment
        })
        .collect()
}

fn unsummed(network: &Network, transport: &Transport, payload: &[u8]) -> Vec<u8> {
    let mut next: Vec<u8> = network.extensions.iter().map(|(kind, _)| *kind).collect();
    next.push(transport.protocol());
    let mut packet = (6 << 28 | u32::from(network.class) << 20 | network.label)
        .to_be_bytes()
        .to_vec();
    packet.extend([0, 0, next[0], network.hop_limit]);
    packet.extend(network.from.octets());
    packet.extend(network.to.octets());
    for ((_, body), next) in network.extensions.iter().zip(&next[1..]) {
        assert_eq!(body.len() % 8, 6);
        packet.extend([*next, (body.len() / 8) as u8]);
        packet.extend(body);
    }
    packet.extend(transport.header(payload.len()));
    packet.extend(payload);
    let length = (packet.len() - FIXED) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Where the transport header of a packet begins: behind extension headers.
fn transport_offset(packet: &[u8], protocol: u8) -> usize {
    let (mut next, mut at) = (packet[6], FIXED);
    while next != protocol {
        next = packet[at];
        at += 8 + usize::from(packet[at + 1]) * 8;
    }
    at
}

/// Where the checksum is in a transport header.
fn field(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

fn pseudo(packet: &[u8], protocol: u8, length: usize) -> u16 {
    add(
        add(total(&packet[8..FIXED]), length as u16),
        protocol.into(),
    )
}

/// RFC 1071 §1: the sum of all words, byte order of the network.
fn total(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        add(sum, u16::from_be_bytes([pair[0], low]))
    })
}

/// One's-complement addition.
pub(super) fn add(a: u16, b: u16) -> u16 {
    let (sum, carried) = a.overflowing_add(b);
    sum + u16::from(carried)
}

/// The 16-bit field at `at`.
pub(super) fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}
