//! What always holds for super-packets, over thousands of random ones, with [`kernel`](super::kernel) on the other side.

mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::Ipv6Addr;
use std::ops::Range;

use proptest::prelude::*;

use self::traffic::{Flow, Item, bytes, flows, items, network, size, steps, transport};
use super::kernel::{PSH, TCP, Transport, UDP, hand_over, packet, segments, take_apart};
use super::{Coalescer, HEADER, IPV6_HEADER, PACKET, SEGMENTS, split};
use crate::io::tun::Offload;

const CASES: u32 = 2_000;

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
