//! What a fuzzer's bytes do as frames of a TUN device: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::collections::BTreeMap;
use std::io::IoSlice;

use meshd::io::offload::{Coalescer, FRAME, HEADER, Segmentation, Segments, VirtioHeader, split};
use meshd::io::tun::Offload;
use meshd::packet::{self, Ipv6Header, ipv6};

use crate::bytes::Bytes;

/// The most frames of one batch.
const FRAMES: usize = 16;
/// The most packets of one batch.
const PACKETS: usize = 512;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
/// FIN and PSH, which belong to the last segment.
const LAST: u8 = 0x09;

/// The bytes make frames: whole super-packets, and anything. What is split has to be what the sender would have sent, and what is
/// coalesced has to come out of the next split as it was, flow by flow.
pub(crate) fn pass(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let offload = match bytes.byte() & 1 {
        0 => Offload::TcpAndUdp,
        _ => Offload::Tcp,
    };
    let mut batch: Vec<Vec<u8>> = Vec::new();
    for _ in 0..FRAMES {
        if bytes.is_empty() || batch.len() > PACKETS {
            break;
        }
        let kind = bytes.byte();
        match kind & 3 {
            // Super-packets.
            0 => batch.extend(super_packet(TCP, &mut bytes)),
            1 => batch.extend(super_packet(UDP, &mut bytes)),
            // A packet as it came before, with one byte changed.
            2 if !batch.is_empty() => {
                let mut packet = batch[usize::from(kind >> 2) % batch.len()].clone();
                let (place, change) = (usize::from(bytes.word()), bytes.byte());
                let place = place % packet.len();
                packet[place] ^= change;
                batch.push(packet);
            }
            // Anything, with any virtio header.
            _ => {
                let length = usize::from(bytes.byte()) * 2;
                let mut frame = bytes.take(length).to_vec();
                if let Ok(segments) = split(&mut frame) {
                    batch.extend(
                        drain(segments)
                            .into_iter()
                            .filter(|packet| !packet.is_empty()),
                    );
                }
            }
        }
    }
    batch.truncate(PACKETS);

    let frames = coalesce(offload, &batch);
    assert!(frames.len() <= batch.len());
    let given_back: Vec<Vec<u8>> = frames.into_iter().flat_map(take_apart).collect();
    assert_eq!(by_flow(&given_back), by_flow(&batch));
}

/// A super-packet as the kernel hands it over, and its packets, checked.
fn super_packet(protocol: u8, bytes: &mut Bytes<'_>) -> Vec<Vec<u8>> {
    let (flow, class, flags, size) = (bytes.byte() & 3, bytes.byte(), bytes.byte(), bytes.word());
    let sequence = u32::from(bytes.word()) << 16;
    let length = usize::from(bytes.word()) % 60_000 + 1;
    let options = usize::from(flags >> 6) * 4;
    let size = size % 1400 + 1;
    let given = usize::from(bytes.byte());
    let mut payload = bytes.take(given).to_vec();
    payload.resize(length.min(usize::from(size) * 64), 0xA5);

    let mut transport = vec![0x10, flow, 0, 80];
    if protocol == TCP {
        transport.extend(sequence.to_be_bytes());
        let words = u8::try_from((20 + options) / 4).expect("at most 32 bytes");
        transport.extend([0, 0, 0, 7, words << 4, flags & 0x1F | ACK, 1, 0]);
        transport.extend([0; 4]);
        transport.resize(20 + options, 1);
    } else {
        let total = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        transport.extend(total.to_be_bytes());
        transport.extend([0, 0]);
    }
    let headers = transport.len();
    transport.extend(&payload);
    let [from, to] = ["600::1", "600:1::1"].map(|text| text.parse().expect("an address"));
    let mut whole = ipv6(from, to, protocol, &transport);
    // ECN, which every packet has to keep.
    whole[1] = class << 4;
    let header = VirtioHeader {
        needs_checksum: true,
        segmentation: if protocol == TCP {
            Segmentation::Tcp6
        } else {
            Segmentation::Udp
        },
        header_length: u16::try_from(packet::HEADER + headers).expect("short"),
        segment_size: size,
        checksum_start: 40,
        checksum_offset: if protocol == TCP { 16 } else { 6 },
    };
    let mut frame = header.emit().to_vec();
    frame.extend(&whole);

    let segments = split(&mut frame).expect("a super-packet as the kernel makes them");
    let packets = drain(segments);
    let mut carried = Vec::new();
    for (number, packet) in packets.iter().enumerate() {
        let header = Ipv6Header::parse(packet).expect("a packet");
        assert_eq!(header.payload + packet::HEADER, packet.len());
        assert_eq!(packet[..4], whole[..4]);
        let body = &packet[packet::HEADER..];
        assert_eq!(packet::checksum(from, to, protocol, body), 0);
        if protocol == TCP {
            let expected = sequence.wrapping_add(u32::try_from(carried.len()).expect("short"));
            assert_eq!(body[4..8], expected.to_be_bytes());
            assert!(body[13] & LAST == 0 || number + 1 == packets.len());
        } else {
            assert_eq!(
                usize::from(u16::from_be_bytes([body[4], body[5]])),
                body.len()
            );
        }
        carried.extend_from_slice(&body[headers..]);
    }
    assert_eq!(carried, payload);
    packets
}

/// All packets, and that as many come as were promised.
fn drain(mut segments: Segments<'_>) -> Vec<Vec<u8>> {
    let promised = segments.remaining();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next_packet() {
        packets.push(packet.to_vec());
    }
    assert_eq!((packets.len(), segments.remaining()), (promised, 0));
    packets
}

fn coalesce(offload: Offload, batch: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut coalescer = Coalescer::new(offload);
    // Gaps between the packets, as decryption leaves them. All is there before the first is pushed, as it is in the daemon.
    let mut arena = Vec::new();
    let mut places = Vec::new();
    for packet in batch {
        arena.extend([0xAA; 32]);
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    for place in places {
        coalescer.push(&arena, place);
    }
    let mut frames = Vec::new();
    coalescer.flush(&mut arena, |slices: &[IoSlice<'_>]| {
        frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
    });
    assert!(coalescer.is_empty());
    frames
}

/// What the kernel makes of a frame that is written to it.
fn take_apart(mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    assert!(frame.len() <= FRAME);
    let plain = VirtioHeader::default().emit();
    if frame[..HEADER] == plain {
        return vec![frame.split_off(HEADER)];
    }
    drain(split(&mut frame).expect("what was coalesced can be split"))
}

/// Protocol, source and destination, ports: what is behind extension headers counts as a flow of its own.
type Flow<'a> = (Option<u8>, &'a [u8]);

/// The packets of each flow, in order.
fn by_flow(batch: &[Vec<u8>]) -> BTreeMap<Flow<'_>, Vec<&[u8]>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in batch {
        let ends = packet.get(8..44.min(packet.len())).unwrap_or_default();
        let flow = (packet.get(6).copied(), ends);
        flows.entry(flow).or_default().push(packet.as_slice());
    }
    flows
}
