//! What always holds for super-packets, over thousands of random ones, with [`kernel`] on the other side.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::Ipv6Addr;
use std::ops::Range;

use proptest::prelude::*;

use super::kernel::{
    self, ACK, CWR, ECE, FIN, Network, PSH, RST, SYN, TCP, Transport, UDP, URG, hand_over, packet,
    segments, take_apart,
};
use super::{Coalescer, HEADER, IPV6_HEADER, PACKET, SEGMENTS, split};
use crate::io::tun::Offload;

const CASES: u32 = 2_000;

fn network() -> impl Strategy<Value = Network> {
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

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        2 => tcp(),
        1 => any::<(u16, u16)>().prop_map(|ports| Transport::Udp { ports }),
    ]
}

/// Bytes in a segment.
fn size() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..60, 60u16..1_400, Just(1_348), Just(9_000)]
}

/// That many bytes, which differ with the seed.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

fn split_all(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut frame = frame.to_vec();
    let mut segments = split(&mut frame).unwrap();
    let mut packets = Vec::new();
    let (promised, longest) = (segments.remaining(), segments.longest());
    while let Some(packet) = segments.next_packet() {
        packets.push(packet.to_vec());
    }
    assert_eq!(packets.len(), promised);
    assert_eq!(packets.iter().map(Vec::len).max(), Some(longest));
    packets
}

/// The frames that are written for a batch. What is between the packets is noise.
fn coalesce(offload: Offload, batch: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut arena = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::new();
    for packet in batch {
        arena.extend([0xaa; 32]);
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    let mut coalescer = Coalescer::new(offload);
    for place in places {
        coalescer.push(&arena, place);
    }
    let mut frames = Vec::new();
    coalescer.flush(&mut arena, |slices: &[IoSlice<'_>]| {
        frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
    });
    frames
}

/// Whose order counts: addresses, protocol, ports; none for a packet that does not show them.
fn flow(packet: &[u8]) -> Option<(&[u8], u8)> {
    let shows = packet.len() >= 44 && packet[0] >> 4 == 6 && [TCP, UDP].contains(&packet[6]);
    shows.then(|| (&packet[8..44], packet[6]))
}

/// Whether the second of two packets must not overtake the first.
fn is_ordered(first: &[u8], second: &[u8]) -> bool {
    match (flow(first), flow(second)) {
        (Some(first), Some(second)) => first == second,
        // What hides its flow may be of any between its addresses.
        _ => {
            let addresses = |packet: &[u8]| packet.get(8..40).map(<[u8]>::to_vec);
            addresses(first).is_some() && addresses(first) == addresses(second)
        }
    }
}

/// A packet as it can be compared: a TCP checksum of zero and one of all ones say the same, and Linux writes either.
fn canonical(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= IPV6_HEADER + 18
        && flow(&packet).is_some_and(|(_, protocol)| protocol == TCP)
        && packet[56..58] == [0, 0]
    {
        packet[56..58].fill(0xff);
    }
    packet
}

/// A packet of a batch.
#[derive(Clone, Debug)]
struct Item {
    bytes: Vec<u8>,
    /// Whether it must never be part of a super-packet.
    is_alone: bool,
}

/// The law of coalescing: what Linux makes of the frames is what came in, in the order of each flow; and what must be left alone is.
fn check_batch(offload: Offload, batch: &[Item]) -> Result<Vec<usize>, TestCaseError> {
    let packets: Vec<_> = batch.iter().map(|item| item.bytes.clone()).collect();
    let frames = coalesce(offload, &packets);
    let mut expected = BTreeMap::<_, VecDeque<usize>>::new();
    for (number, packet) in packets.iter().enumerate() {
        expected
            .entry(canonical(packet))
            .or_default()
            .push_back(number);
    }
    let mut places = vec![0; packets.len()];
    let mut place = 0;
    let mut lengths = Vec::new();
    for frame in &frames {
        prop_assert!(frame.len() <= HEADER + PACKET);
        let given_back = take_apart(frame);
        lengths.push(given_back.len());
        prop_assert!(given_back.len() <= SEGMENTS);
        for packet in &given_back {
            let known = expected
                .get_mut(&canonical(packet))
                .and_then(VecDeque::pop_front);
            let Some(number) = known else {
                return Err(TestCaseError::fail(format!("nobody sent {packet:x?}")));
            };
            if given_back.len() == 1 {
                prop_assert_eq!(packet, &packets[number]);
            } else {
                prop_assert!(!batch[number].is_alone, "{:x?}", packet);
            }
            places[number] = place;
            place += 1;
        }
    }
    prop_assert!(expected.values().all(VecDeque::is_empty), "some were lost");
    for second in 0..packets.len() {
        for first in 0..second {
            if places[first] > places[second] {
                prop_assert!(!is_ordered(&packets[first], &packets[second]));
            }
        }
    }
    Ok(lengths)
}

/// A conversation, one direction of it.
#[derive(Clone, Debug)]
struct Flow {
    network: Network,
    transport: Transport,
    size: u16,
}

/// Flows of which some have the same addresses, and some the same ports too, and differ in the protocol.
fn flows(most: usize) -> impl Strategy<Value = Vec<Flow>> {
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
struct Step {
    flow: prop::sample::Index,
    /// How much shorter, or longer, than the others of its flow.
    shorter: u16,
    longer: u16,
    twist: Twist,
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let shorter = prop_oneof![12 => Just(0u16), 1 => 1u16..1_400];
    let longer = prop_oneof![30 => Just(0u16), 1 => 1u16..100];
    let step = (any::<prop::sample::Index>(), shorter, longer, twist());
    prop::collection::vec(step, 0..most).prop_map(|steps| {
        let step = |(flow, shorter, longer, twist)| Step {
            flow,
            shorter,
            longer,
            twist,
        };
        steps.into_iter().map(step).collect()
    })
}

/// The packets of a batch, one step after the other.
fn items(mut flows: Vec<Flow>, steps: &[Step]) -> Vec<Item> {
    let mut items = Vec::new();
    for (number, step) in steps.iter().enumerate() {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// The law of splitting: byte for byte the packets that the sender would have sent.
    #[test]
    fn a_super_packet_becomes_what_the_sender_would_have_sent(
        network in network(), transport in transport(), size in size(), count in 1usize..65, short in any::<u16>(), seed in any::<u64>(),
    ) {
        let most = PACKET - 300;
        let length = (usize::from(size) * count).min(most) - usize::from(short % size);
        let data = bytes(length.max(1), seed);
        let frame = hand_over(&network, &transport, &data, size);
        let expected = segments(&network, &transport, &data, size);
        prop_assert_eq!(split_all(&frame), expected);
    }

    /// What was split and is put together again is the very frame, since the kernel at the other end has to see what this one did.
    #[test]
    fn a_super_packet_that_was_split_is_put_together_as_it_was(
        mut flow in flows(1), count in 2usize..65, short in any::<u16>(), push in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut flow = flow.remove(0);
        if let Transport::Tcp { flags, .. } = &mut flow.transport
            && push
        {
            *flags |= PSH;
        }
        let size = usize::from(flow.size);
        let most = (PACKET - 120) / size * size;
        let data = bytes((size * count).min(most) - usize::from(short) % size, seed);
        let frame = hand_over(&flow.network, &flow.transport, &data, flow.size);
        let packets = split_all(&frame);
        let frames = coalesce(Offload::TcpAndUdp, &packets);
        if packets.len() == 1 {
            prop_assert_eq!(take_apart(&frames[0]), packets);
        } else {
            prop_assert_eq!(frames, [frame]);
        }
    }

    /// Nothing but the limits of a super-packet ends a run of a flow that nothing happens to.
    #[test]
    fn undisturbed_flows_fill_their_super_packets(
        flows in flows(4), count in 1usize..200, seed in any::<u64>(),
    ) {
        let mut flows: BTreeMap<_, _> = flows
            .into_iter()
            .map(|flow| (key(&flow), flow))
            .collect();
        let (mut batch, mut expected) = (Vec::new(), 0);
        for flow in flows.values() {
            let headers = packet(&flow.network, &flow.transport, &[]).len();
            let capacity = SEGMENTS.min((PACKET - headers) / usize::from(flow.size));
            expected += count.div_ceil(capacity);
        }
        for number in 0..count {
            for flow in flows.values_mut() {
                let data = bytes(flow.size.into(), seed ^ number as u64);
                let bytes = packet(&flow.network, &flow.transport, &data);
                batch.push(Item { bytes, is_alone: false });
                if let Transport::Tcp { sequence, .. } = &mut flow.transport {
                    *sequence = sequence.wrapping_add(flow.size.into());
                }
            }
        }
        let lengths = check_batch(Offload::TcpAndUdp, &batch)?;
        prop_assert_eq!(lengths.len(), expected);
    }

    /// Whatever comes between: losses, copies, another order, other headers, packets that lie.
    #[test]
    fn whatever_comes_is_given_back_in_the_order_of_its_flow(
        flows in flows(7), steps in steps(120), swaps in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut batch = items(flows, &steps);
        for swap in &swaps {
            if batch.len() > 1 {
                let at = swap.index(batch.len() - 1);
                batch.swap(at, at + 1);
            }
        }
        check_batch(Offload::TcpAndUdp, &batch)?;
        let datagrams_alone: Vec<_> = batch
            .iter()
            .map(|item| Item { is_alone: item.is_alone || item.bytes.get(6) == Some(&UDP), ..item.clone() })
            .collect();
        check_batch(Offload::Tcp, &datagrams_alone)?;
    }

    /// More flows than can be open at a time.
    #[test]
    fn many_flows_are_given_back_in_their_order(flows in flows(40), steps in steps(150)) {
        check_batch(Offload::TcpAndUdp, &items(flows, &steps))?;
    }

    /// A frame that was spoiled in any place is refused, or comes out in as many packets as it says; nothing panics.
    #[test]
    fn a_spoiled_frame_never_panics(
        network in network(), transport in transport(), size in size(), length in 1usize..4_000,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
        says_so in any::<bool>(),
    ) {
        let mut frame = hand_over(&network, &transport, &bytes(length, 1), size);
        if cuts {
            frame.truncate(cut.index(frame.len()));
        }
        if says_so && frame.len() >= HEADER + IPV6_HEADER {
            let length = (frame.len() - HEADER - IPV6_HEADER) as u16;
            frame[HEADER + 4..HEADER + 6].copy_from_slice(&length.to_be_bytes());
        }
        for (at, value) in flips {
            // The headers of both kinds, mostly.
            let among = frame.len().min(HEADER + 120);
            if among > 0 {
                frame[at.index(among)] ^= value;
            }
        }
        let whole = frame.len();
        if let Ok(mut segments) = split(&mut frame) {
            let (promised, longest) = (segments.remaining(), segments.longest());
            let mut count = 0;
            while let Some(packet) = segments.next_packet() {
                prop_assert!(packet.len() <= longest && longest <= whole);
                count += 1;
            }
            prop_assert_eq!(count, promised);
        }
    }
}

/// What makes a flow one.
fn key(flow: &Flow) -> (Ipv6Addr, u8, u16) {
    let (Transport::Tcp { ports, .. } | Transport::Udp { ports }) = &flow.transport;
    (flow.network.from, flow.transport.protocol(), ports.0)
}
