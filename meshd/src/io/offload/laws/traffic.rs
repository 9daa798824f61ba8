//! Random packets, flows of them, and what may happen to those on their way.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::super::IPV6_HEADER;
use super::super::kernel::{
    self, ACK, CWR, ECE, FIN, Network, PSH, RST, SYN, TCP, Transport, UDP, URG, add, packet, word,
};

pub(super) fn network() -> impl Strategy<Value = Network> {
    // Hop-by-hop options, routing, destination options.
    let kind = prop_oneof![Just(0u8), Just(43), Just(60)];
    let body = (0usize..3).prop_flat_map(|units| prop::collection::vec(any::<u8>(), 6 + units * 8));
    let extensions = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((kind, body), 1..4),
    ];
    (
        any::<u8>(),
        0u32..1 << 20,
        any::<u8>(),
        any::<u64>(),
        any::<u64>(),
        extensions,
    )
        .prop_map(|(class, label, hop_limit, from, to, extensions)| Network {
            class,
            label,
            hop_limit,
            from: address(from),
            to: address(to),
            extensions,
        })
}

fn address(low: u64) -> Ipv6Addr {
    Ipv6Addr::from(0x600_u128 << 112 | u128::from(low))
}

fn sequence() -> impl Strategy<Value = u32> {
    // Half of them wrap around within a super-packet.
    prop_oneof![any::<u32>(), u32::MAX - 60_000..=u32::MAX]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    (0usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4))
}

fn tcp() -> impl Strategy<Value = Transport> {
    (
        any::<(u16, u16)>(),
        sequence(),
        any::<u32>(),
        0u8..16,
        any::<u8>(),
        any::<(u16, u16)>(),
        options(),
    )
        .prop_map(
            |(ports, sequence, acknowledgment, reserved, flags, (window, urgent), options)| {
                Transport::Tcp {
                    ports,
                    sequence,
                    acknowledgment,
                    reserved,
                    flags,
                    window,
                    urgent,
                    options,
                }
            },
        )
}

pub(super) fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        2 => tcp(),
        1 => any::<(u16, u16)>().prop_map(|ports| Transport::Udp { ports }),
    ]
}

/// Bytes in a segment.
pub(super) fn size() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..60, 60u16..1_400, Just(1_348), Just(9_000)]
}

/// That many bytes, which differ with the seed.
pub(super) fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}
/// A packet of a batch.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) bytes: Vec<u8>,
    /// Whether it must never be part of a super-packet.
    pub(super) is_alone: bool,
}

/// A conversation, one direction of it.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) network: Network,
    pub(super) transport: Transport,
    pub(super) size: u16,
}

/// Flows of which some have the same addresses, and some the same ports too, and differ in the protocol.
pub(super) fn flows(most: usize) -> impl Strategy<Value = Vec<Flow>> {
    let size = prop_oneof![1u16..60, 60u16..1_400, Just(1_348)];
    prop::collection::vec((network(), transport(), size), 1..=most).prop_map(|flows| {
        let number = |(number, (network, transport, size)): (usize, (Network, Transport, u16))| {
            let ports = (1_000 + number as u16 / 2, 80);
            Flow {
                network: Network {
                    from: address(number as u64 / 4),
                    to: address(9),
                    extensions: Vec::new(),
                    ..network
                },
                transport: with_ports(transport, ports),
                size,
            }
        };
        flows.into_iter().enumerate().map(number).collect()
    })
}

fn with_ports(mut transport: Transport, wanted: (u16, u16)) -> Transport {
    match &mut transport {
        Transport::Tcp { ports, flags, .. } => {
            *ports = wanted;
            *flags = *flags & ECE | ACK;
        }
        Transport::Udp { ports } => *ports = wanted,
    }
    transport
}

/// What is special about a packet of a batch.
#[derive(Clone, Copy, Debug)]
enum Twist {
    None,
    /// Flags that the next packets of the flow do not have.
    Flags(u8),
    /// One before it was lost.
    Gap(u16),
    /// It comes twice.
    Twice,
    /// It is sent again, with what was sent before it.
    Again(u16),
    /// From here on, another value of a header field that every segment has the same.
    Class(u8),
    Label(u32),
    HopLimit(u8),
    Acknowledgment(u32),
    Window(u16),
    Urgent(u16),
    Reserved(u8),
    Options(u8),
    MoreOptions,
    /// Something no super-packet can hold.
    Hostile(Hostile),
}

#[derive(Clone, Copy, Debug)]
enum Hostile {
    /// A bit of what the checksum covers is turned.
    Bit(u16),
    /// The length in the IPv6 header is not that of the packet.
    Length(i8),
    /// The length in the UDP header is not.
    UdpLength(i8),
    /// Some bytes at the end are missing, the lengths say so or do not.
    Cut(u8, bool),
    /// More bytes than the lengths say.
    Excess(u8),
    DataOffset(u8),
    NoChecksum,
    V4,
    Jumbo,
    Fragment(u16),
    Options,
    Empty,
    Garbage(u64, u8),
}

fn twist() -> impl Strategy<Value = Twist> {
    let flags = prop_oneof![
        4 => Just(PSH),
        1 => (0u8..8).prop_map(|bit| 1 << bit),
        1 => any::<u8>(),
    ];
    let hostile = prop_oneof![
        3 => any::<u16>().prop_map(Hostile::Bit),
        1 => any::<i8>().prop_map(Hostile::Length),
        1 => any::<i8>().prop_map(Hostile::UdpLength),
        1 => any::<(u8, bool)>().prop_map(|(bytes, told)| Hostile::Cut(bytes, told)),
        1 => any::<u8>().prop_map(Hostile::Excess),
        1 => (0u8..16).prop_map(Hostile::DataOffset),
        1 => Just(Hostile::NoChecksum),
        1 => Just(Hostile::V4),
        1 => Just(Hostile::Jumbo),
        1 => any::<u16>().prop_map(Hostile::Fragment),
        1 => Just(Hostile::Options),
        1 => Just(Hostile::Empty),
        1 => any::<(u64, u8)>().prop_map(|(seed, length)| Hostile::Garbage(seed, length)),
    ];
    let field = prop_oneof![
        any::<u8>().prop_map(Twist::Class),
        (0u8..4).prop_map(Twist::Class),
        (0u32..1 << 20).prop_map(Twist::Label),
        any::<u8>().prop_map(Twist::HopLimit),
        any::<u32>().prop_map(Twist::Acknowledgment),
        any::<u16>().prop_map(Twist::Window),
        any::<u16>().prop_map(Twist::Urgent),
        (0u8..16).prop_map(Twist::Reserved),
        any::<u8>().prop_map(Twist::Options),
        Just(Twist::MoreOptions),
    ];
    prop_oneof![
        40 => Just(Twist::None),
        3 => flags.prop_map(Twist::Flags),
        1 => (1u16..3_000).prop_map(Twist::Gap),
        1 => Just(Twist::Twice),
        1 => (1u16..3_000).prop_map(Twist::Again),
        2 => field,
        3 => hostile.prop_map(Twist::Hostile),
    ]
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    flow: prop::sample::Index,
    /// How much shorter, or longer, than the others of its flow.
    shorter: u16,
    longer: u16,
    twist: Twist,
    /// How many in a row are twisted the same way: what must be left alone must be so beside its like, too.
    times: u8,
}

pub(super) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let shorter = prop_oneof![12 => Just(0u16), 1 => 1u16..1_400];
    let longer = prop_oneof![30 => Just(0u16), 1 => 1u16..100];
    let times = prop_oneof![3 => Just(1u8), 1 => 2u8..4];
    let step = (
        any::<prop::sample::Index>(),
        shorter,
        longer,
        twist(),
        times,
    );
    prop::collection::vec(step, 0..most).prop_map(|steps| {
        let step = |(flow, shorter, longer, twist, times)| Step {
            flow,
            shorter,
            longer,
            twist,
            times,
        };
        steps.into_iter().map(step).collect()
    })
}

/// The packets of a batch, one step after the other.
pub(super) fn items(mut flows: Vec<Flow>, steps: &[Step]) -> Vec<Item> {
    let mut items = Vec::new();
    let all = (steps.iter()).flat_map(|step| std::iter::repeat_n(step, usize::from(step.times)));
    for (number, step) in all.enumerate() {
        let flow = step.flow.get(&flows).clone();
        let flow_number = step.flow.index(flows.len());
        let changed = &mut flows[flow_number];
        let length = flow.size.saturating_sub(step.shorter).max(1) + step.longer;
        let data = bytes(length.into(), number as u64);
        let mut network = flow.network;
        let mut transport = flow.transport;
        let mut is_alone = false;
        let mut extra_flags = 0;
        match step.twist {
            Twist::Flags(flags) => extra_flags = flags,
            Twist::Class(class) => network.class = class,
            Twist::Label(label) => network.label = label,
            Twist::HopLimit(hop_limit) => network.hop_limit = hop_limit,
            Twist::None | Twist::Twice | Twist::Hostile(_) => {}
            Twist::Gap(_)
            | Twist::Again(_)
            | Twist::Acknowledgment(_)
            | Twist::Window(_)
            | Twist::Urgent(_)
            | Twist::Reserved(_)
            | Twist::Options(_)
            | Twist::MoreOptions => twist_tcp(step.twist, &mut transport),
        }
        changed.network = network.clone();
        changed.transport = transport.clone();
        if let Transport::Tcp {
            sequence, flags, ..
        } = &mut changed.transport
        {
            *sequence = sequence.wrapping_add(length.into());
            if let Transport::Tcp { flags: own, .. } = &mut transport {
                *own = *flags ^ extra_flags;
                is_alone = *own & (FIN | SYN | RST | URG | CWR) != 0 || *own & ACK == 0;
            }
        }
        let mut bytes = packet(&network, &transport, &data);
        if let Twist::Hostile(hostile) = step.twist {
            is_alone = spoil(&mut bytes, transport.protocol(), hostile) || is_alone;
            // The next one follows in the eyes of whoever believes the data offset.
            if let Hostile::DataOffset(words @ 0..5) = hostile
                && let Transport::Tcp { sequence, .. } = &mut changed.transport
            {
                let believed = bytes.len() - IPV6_HEADER - usize::from(words) * 4;
                *sequence = sequence
                    .wrapping_sub(length.into())
                    .wrapping_add(believed as u32);
            }
        }
        let item = Item { bytes, is_alone };
        if matches!(step.twist, Twist::Twice) {
            items.push(item.clone());
        }
        items.push(item);
    }
    items
}

/// Changes what only TCP has.
fn twist_tcp(twist: Twist, transport: &mut Transport) {
    let Transport::Tcp {
        sequence,
        acknowledgment,
        reserved,
        window,
        urgent,
        options,
        ..
    } = transport
    else {
        return;
    };
    match twist {
        Twist::Gap(length) => *sequence = sequence.wrapping_add(length.into()),
        Twist::Again(length) => *sequence = sequence.wrapping_sub(length.into()),
        Twist::Acknowledgment(value) => *acknowledgment = value,
        Twist::Window(value) => *window = value,
        Twist::Urgent(value) => *urgent = value,
        Twist::Reserved(value) => *reserved = value,
        Twist::Options(value) => options.iter_mut().for_each(|byte| *byte ^= value),
        Twist::MoreOptions => options.resize((options.len() + 4) % 44, 1),
        Twist::None
        | Twist::Flags(_)
        | Twist::Twice
        | Twist::Class(_)
        | Twist::Label(_)
        | Twist::HopLimit(_)
        | Twist::Hostile(_) => {}
    }
}

/// Spoils a packet in one way only: all else about it, its checksum included, stays right. Says whether it did.
fn spoil(packet: &mut Vec<u8>, protocol: u8, hostile: Hostile) -> bool {
    let length = packet.len();
    let set_length = |packet: &mut [u8], length: usize| {
        packet[4..6].copy_from_slice(&((length - IPV6_HEADER) as u16).to_be_bytes());
    };
    match hostile {
        Hostile::Bit(bit) => {
            // Not the ports, which would make another flow of it.
            let at = IPV6_HEADER + 4 + usize::from(bit / 8) % (length - IPV6_HEADER - 4);
            packet[at] ^= 1 << (bit % 8);
        }
        Hostile::Length(0) | Hostile::UdpLength(0) => return false,
        Hostile::Length(by) => {
            let told = (length as u16).wrapping_add_signed(by.into());
            set_length(packet, usize::from(told).max(IPV6_HEADER));
            return usize::from(told).max(IPV6_HEADER) != length;
        }
        Hostile::UdpLength(by) => {
            if protocol != UDP {
                return false;
            }
            let told = ((length - IPV6_HEADER) as u16).wrapping_add_signed(by.into());
            packet[44..46].copy_from_slice(&told.to_be_bytes());
            kernel::complete(packet, UDP);
        }
        Hostile::Cut(by, told) => {
            let left = length.saturating_sub(usize::from(by) + 1);
            packet.truncate(left.max(1));
            if told && left >= IPV6_HEADER {
                set_length(packet, left);
                // What is left may be a whole TCP packet, but for its checksum.
                return left < IPV6_HEADER + 20 || !has_right_sum(packet, protocol);
            }
        }
        Hostile::Excess(by) => packet.resize(length + usize::from(by) + 1, 0),
        Hostile::DataOffset(words) => {
            let is_wrong = words < 5 || usize::from(words) * 4 >= length - IPV6_HEADER;
            if protocol != TCP || !is_wrong {
                return false;
            }
            packet[52] = words << 4 | packet[52] & 15;
            kernel::complete(packet, TCP);
        }
        Hostile::NoChecksum => {
            if protocol != UDP {
                return false;
            }
            // Of a packet whose checksum would be zero, were that not said with all ones.
            if length >= 50 {
                let (checksum, word) = (word(packet, 46), word(packet, 48));
                packet[48..50].copy_from_slice(&add(word, checksum).to_be_bytes());
            }
            packet[46..48].fill(0);
        }
        Hostile::V4 => packet[0] = 0x45,
        // A hop-by-hop header with the jumbo payload option (RFC 2675), and no length in the IPv6 header.
        Hostile::Jumbo => {
            insert(packet, 0, [0xc2, 4, 0, 0, 0, 0]);
            packet[4..6].fill(0);
        }
        Hostile::Fragment(offset) => {
            let [high, low] = offset.to_be_bytes();
            insert(packet, 44, [high, low, 0, 0, 0, 1]);
            packet[41] = 0;
        }
        Hostile::Options => insert(packet, 60, [1, 4, 0, 0, 0, 0]),
        Hostile::Empty => {
            let header = if protocol == TCP {
                usize::from(packet[52] >> 4) * 4
            } else {
                packet[44..46].copy_from_slice(&8u16.to_be_bytes());
                8
            };
            packet.truncate(IPV6_HEADER + header);
            set_length(packet, IPV6_HEADER + header);
            kernel::complete(packet, protocol);
        }
        Hostile::Garbage(seed, length) => *packet = bytes(usize::from(length) + 1, seed),
    }
    true
}

/// Puts an extension header of eight bytes between the IPv6 header and what follows.
fn insert(packet: &mut Vec<u8>, kind: u8, body: [u8; 6]) {
    let next = std::mem::replace(&mut packet[6], kind);
    let header = [&[next, 0], &body[..]].concat();
    packet.splice(IPV6_HEADER..IPV6_HEADER, header);
    let length = (packet.len() - IPV6_HEADER) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
}

fn has_right_sum(packet: &[u8], protocol: u8) -> bool {
    let mut right = packet.to_vec();
    kernel::complete(&mut right, protocol);
    right == packet
}
