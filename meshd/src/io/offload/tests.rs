use std::io::IoSlice;

use proptest::prelude::*;

use super::testing::{ACK, CWR, FIN, Flow, PSH, SYN, frame, packets};
use super::*;
use crate::io::tun::Offload;

fn tcp_header(size: u16) -> VirtioHeader {
    VirtioHeader {
        needs_checksum: true,
        segmentation: Segmentation::Tcp6,
        header_length: 72,
        segment_size: size,
        checksum_start: 40,
        checksum_offset: 16,
    }
}

fn udp_header(size: u16) -> VirtioHeader {
    VirtioHeader {
        segmentation: Segmentation::Udp,
        header_length: 48,
        checksum_offset: 6,
        ..tcp_header(size)
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Pushes the packets as one batch and gives back the frames written.
fn coalesce(batch: &[Vec<u8>]) -> Vec<Vec<u8>> {
    coalesce_for(Offload::TcpAndUdp, batch)
}

fn coalesce_for(offload: Offload, batch: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut coalescer = Coalescer::new(offload);
    // Gaps between the packets, as decryption leaves them.
    let mut arena = vec![0xaa; 32];
    for packet in batch {
        let start = arena.len();
        arena.extend(packet);
        arena.extend([0xaa; 48]);
        coalescer.push(&arena, start..start + packet.len());
    }
    let mut frames = Vec::new();
    coalescer.flush(&mut arena, |slices: &[IoSlice<'_>]| {
        frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect())
    });
    assert!(coalescer.is_empty());
    frames
}

fn give_back(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().flat_map(|frame| packets(frame)).collect()
}

#[test]
fn a_tcp_super_packet_becomes_the_packets_the_sender_would_have_sent() {
    let (flow, data) = (Flow::number(1), bytes(250));
    let frame = frame(
        tcp_header(100),
        &flow.tcp(u32::MAX - 50, ACK | PSH | FIN | CWR, &data),
    );
    let expected = [
        flow.tcp(u32::MAX - 50, ACK | CWR, &data[..100]),
        flow.tcp(49, ACK, &data[100..200]),
        flow.tcp(149, ACK | PSH | FIN, &data[200..]),
    ];
    assert_eq!(packets(&frame), expected);
}

#[test]
fn a_udp_super_packet_becomes_datagrams_with_their_own_lengths() {
    let (flow, data) = (Flow::number(1), bytes(33));
    let frame = frame(udp_header(16), &flow.udp(&data));
    assert_eq!(
        packets(&frame),
        [
            flow.udp(&data[..16]),
            flow.udp(&data[16..32]),
            flow.udp(&data[32..])
        ]
    );
}

#[test]
fn segments_shorter_than_their_headers_come_out_whole() {
    let (flow, data) = (Flow::number(1), bytes(9));
    let frame = frame(tcp_header(1), &flow.tcp(0, ACK, &data));
    let expected: Vec<_> = (0..9)
        .map(|i| flow.tcp(i, ACK, &data[i as usize..][..1]))
        .collect();
    assert_eq!(packets(&frame), expected);
}

#[test]
fn a_super_packet_behind_extension_headers_keeps_them() {
    let (flow, data) = (Flow::number(1), bytes(300));
    let frame = frame(
        VirtioHeader {
            checksum_start: 48,
            ..udp_header(200)
        },
        &flow.udp_behind_options(&data),
    );
    assert_eq!(
        packets(&frame),
        [
            flow.udp_behind_options(&data[..200]),
            flow.udp_behind_options(&data[200..])
        ]
    );
}

#[test]
fn a_single_packet_gets_its_checksum_completed() {
    let expected = Flow::number(1).tcp(5, ACK, &bytes(77));
    let mut packet = expected.clone();
    let partial = checksum::fold(pseudo_header(&packet, TCP, packet.len() - IPV6_HEADER));
    packet[56..58].copy_from_slice(&partial.to_ne_bytes());
    let header = VirtioHeader {
        segmentation: Segmentation::None,
        segment_size: 0,
        ..tcp_header(0)
    };
    assert_eq!(packets(&frame(header, &packet)), [expected]);
}

#[test]
fn what_is_not_ipv6_comes_out_as_it_is() {
    let packet = [0x45, 0, 0, 20, 1, 2, 3];
    assert_eq!(packets(&frame(tcp_header(2), &packet)), [packet]);
}

#[test]
fn lying_headers_are_refused() {
    let (tcp, udp) = (
        Flow::number(1).tcp(0, ACK, &bytes(100)),
        Flow::number(1).udp(&bytes(100)),
    );
    let refused =
        |header: VirtioHeader, packet: &[u8]| split(&mut frame(header, packet)).unwrap_err();
    assert_eq!(split(&mut [0; 9]).unwrap_err(), SplitError::Truncated);
    assert_eq!(refused(tcp_header(10), &[]), SplitError::Truncated);
    assert_eq!(refused(tcp_header(10), &tcp[..39]), SplitError::Truncated);
    assert_eq!(refused(tcp_header(10), &tcp[..99]), SplitError::Length);
    assert_eq!(refused(tcp_header(0), &tcp), SplitError::Segment);
    assert_eq!(refused(tcp_header(10), &udp), SplitError::Type);
    assert_eq!(refused(udp_header(10), &tcp), SplitError::Type);
    assert_eq!(
        refused(udp_header(10), &Flow::number(1).udp(&[])),
        SplitError::Segment
    );
    assert_eq!(
        refused(
            VirtioHeader {
                segmentation: Segmentation::Tcp4,
                ..tcp_header(10)
            },
            &tcp
        ),
        SplitError::Type
    );
    assert_eq!(
        refused(
            VirtioHeader {
                segmentation: Segmentation::Other(3),
                ..udp_header(10)
            },
            &udp
        ),
        SplitError::Type
    );
    assert_eq!(
        refused(
            VirtioHeader {
                needs_checksum: false,
                ..tcp_header(10)
            },
            &tcp
        ),
        SplitError::Checksum
    );
    assert_eq!(
        refused(
            VirtioHeader {
                checksum_offset: 6,
                ..tcp_header(10)
            },
            &tcp
        ),
        SplitError::Checksum
    );
    assert_eq!(
        refused(
            VirtioHeader {
                checksum_start: 39,
                ..tcp_header(10)
            },
            &tcp
        ),
        SplitError::Type
    );
    assert_eq!(
        refused(
            VirtioHeader {
                checksum_start: 0xffff,
                ..tcp_header(10)
            },
            &tcp
        ),
        SplitError::Truncated
    );
    let mut short_header = tcp.clone();
    short_header[52] = 4 << 4;
    assert_eq!(
        refused(tcp_header(10), &short_header),
        SplitError::Truncated
    );
    let whole = VirtioHeader {
        segmentation: Segmentation::None,
        ..tcp_header(0)
    };
    assert_eq!(
        refused(
            VirtioHeader {
                checksum_start: 0xffff,
                checksum_offset: 0xffff,
                ..whole
            },
            &tcp
        ),
        SplitError::Checksum
    );
    assert_eq!(
        refused(
            VirtioHeader {
                checksum_start: 171,
                ..whole
            },
            &tcp
        ),
        SplitError::Checksum
    );
}

#[test]
fn a_virtio_header_reads_back_what_was_emitted() {
    let header = VirtioHeader {
        segment_size: 0x1234,
        ..udp_header(0)
    };
    assert_eq!(VirtioHeader::parse(header.emit()), header);
    let mut with_ecn = tcp_header(5).emit();
    with_ecn[1] |= 0x80;
    assert_eq!(VirtioHeader::parse(with_ecn), tcp_header(5));
}

#[test]
fn interleaved_flows_are_written_as_one_super_packet_each() {
    let (a, b, c, data) = (
        Flow::number(1),
        Flow::number(2),
        Flow::number(3),
        bytes(100),
    );
    let mut batch = Vec::new();
    for i in 0..10 {
        batch.extend([
            a.tcp(i * 100, ACK, &data),
            b.udp(&data),
            c.tcp(i * 100, ACK, &data),
        ]);
    }
    let frames = coalesce(&batch);
    assert_eq!(frames.len(), 3);
    assert_eq!(packets(&frames[1]), vec![b.udp(&data); 10]);
}

#[test]
fn push_ends_a_run_and_stays_on_its_last_packet() {
    let (flow, data) = (Flow::number(1), bytes(100));
    let batch: Vec<_> = (0..4)
        .map(|i| flow.tcp(i * 100, if i == 1 { ACK | PSH } else { ACK }, &data))
        .collect();
    let frames = coalesce(&batch);
    assert_eq!(frames.len(), 2);
    assert_eq!(give_back(&frames), batch);
}

#[test]
fn a_shorter_packet_is_the_last_of_its_run_and_a_longer_one_the_first_of_the_next() {
    let (flow, data) = (Flow::number(1), bytes(100));
    let batch: Vec<_> = [50, 50, 20, 50, 60]
        .iter()
        .map(|&length| flow.udp(&data[..length]))
        .collect();
    let frames = coalesce(&batch);
    assert_eq!(
        frames
            .iter()
            .map(|frame| packets(frame).len())
            .collect::<Vec<_>>(),
        [3, 1, 1]
    );
    assert_eq!(give_back(&frames), batch);
}

#[test]
fn packets_that_a_split_would_not_give_back_are_never_joined() {
    let (flow, data) = (Flow::number(1), bytes(100));
    let marked = Flow {
        traffic_class: 3,
        ..flow
    };
    let first = flow.tcp(0, ACK, &data);
    let mut other_window = flow.tcp(100, ACK, &data);
    other_window[54] ^= 1;
    for second in [
        flow.tcp(101, ACK, &data),
        flow.tcp(0, ACK, &data),
        flow.tcp(100, ACK | FIN, &data),
        flow.tcp(100, ACK | SYN, &data),
        flow.tcp(100, ACK | CWR, &data),
        flow.tcp(100, 0, &data),
        flow.tcp(100, ACK, &[]),
        marked.tcp(100, ACK, &data),
        Flow::number(2).tcp(100, ACK, &data),
        flow.udp(&data),
        other_window,
    ] {
        let batch = [first.clone(), second];
        let frames = coalesce(&batch);
        assert_eq!(frames.len(), 2);
        assert_eq!(give_back(&frames), batch);
    }
}

#[test]
fn a_wrong_checksum_is_passed_on_for_the_kernel_to_see() {
    let (flow, data) = (Flow::number(1), bytes(100));
    for broken in 0..3usize {
        let mut batch: Vec<_> = (0..3).map(|i| flow.tcp(i * 100, ACK, &data)).collect();
        batch[broken][80] ^= 0xff;
        let frames = coalesce(&batch);
        assert_eq!(give_back(&frames), batch);
        let own = frames
            .iter()
            .find(|frame| frame[HEADER..] == batch[broken])
            .unwrap();
        assert_eq!(own[..HEADER], VirtioHeader::default().emit());
    }
}

#[test]
fn udp_is_left_alone_where_the_kernel_does_not_take_it() {
    let batch = vec![Flow::number(1).udp(&bytes(10)); 3];
    assert_eq!(coalesce_for(Offload::Tcp, &batch).len(), 3);
}

#[test]
fn a_datagram_without_checksum_is_left_alone() {
    let mut packet = Flow::number(1).udp(&bytes(10));
    packet[46..48].fill(0);
    assert_eq!(coalesce(&[packet.clone(), packet]).len(), 2);
}

#[test]
fn nothing_overtakes_a_packet_whose_flow_is_hidden() {
    let (flow, data) = (Flow::number(1), bytes(50));
    let batch = [
        flow.udp(&data),
        flow.udp_behind_options(&data),
        flow.udp(&data),
        flow.udp(&data),
    ];
    let frames = coalesce(&batch);
    assert_eq!(frames.len(), 3);
    assert_eq!(give_back(&frames), batch);
}

#[test]
fn a_super_packet_holds_no_more_than_the_kernel_takes() {
    let (flow, data) = (Flow::number(1), bytes(1400));
    let small: Vec<_> = (0..SEGMENTS + 1).map(|_| flow.udp(&data[..10])).collect();
    assert_eq!(
        coalesce(&small)
            .iter()
            .map(|frame| packets(frame).len())
            .collect::<Vec<_>>(),
        [SEGMENTS, 1]
    );
    let large: Vec<_> = (0..60).map(|i| flow.tcp(i * 1400, ACK, &data)).collect();
    let frames = coalesce(&large);
    assert!(frames.iter().all(|frame| frame.len() <= FRAME));
    assert_eq!(frames.len(), 2);
    assert_eq!(give_back(&frames), large);
}

#[test]
fn more_flows_than_fit_the_table_keep_their_order() {
    let data = bytes(20);
    let batch: Vec<_> = (0..60u32)
        .map(|i| Flow::number((i % 20) as u16).tcp(i / 20 * 20, ACK, &data))
        .collect();
    let given_back = give_back(&coalesce(&batch));
    assert_eq!(by_flow(&given_back), by_flow(&batch));
}

/// The packets of each flow, in order.
fn by_flow(batch: &[Vec<u8>]) -> std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<_, Vec<_>>::new();
    for packet in batch {
        // Source and destination, ports, protocol: what is behind extension headers counts as a flow of its own.
        let mut key = packet[8..44.min(packet.len())].to_vec();
        key.push(packet[6]);
        flows.entry(key).or_default().push(packet.clone());
    }
    flows
}

#[derive(Debug, Clone)]
struct Step {
    flow: u16,
    length: usize,
    kind: u8,
    gap: bool,
    broken: bool,
    marked: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => Just(100usize), 1 => Just(37), 1 => Just(0), 1 => 1usize..1400];
    let rare = || prop::bool::weighted(0.05);
    let step = (0u16..6, length, 0u8..20, rare(), rare(), rare());
    prop::collection::vec(step, 0..200).prop_map(|steps| {
        let step = |(flow, length, kind, gap, broken, marked)| Step {
            flow,
            length,
            kind,
            gap,
            broken,
            marked,
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    /// The one law of coalescing: what the kernel will split is, flow by flow, byte for byte what came in.
    #[test]
    fn splitting_what_was_coalesced_gives_back_every_flow(steps in steps()) {
        let mut sequences = [0u32; 6];
        let mut batch = Vec::new();
        for step in steps {
            let flow = Flow { traffic_class: if step.marked { 3 } else { 0 }, ..Flow::number(step.flow) };
            let data = bytes(step.length);
            let mut packet = match (step.flow, step.kind) {
                (_, 0) => flow.udp_behind_options(&data),
                (0..2, _) => flow.udp(&data),
                (_, 1) => flow.tcp(sequences[step.flow as usize], SYN, &data),
                (_, 2) => flow.tcp(sequences[step.flow as usize], ACK | FIN, &data),
                (_, 3) => flow.tcp(sequences[step.flow as usize], ACK | PSH, &data),
                _ => flow.tcp(sequences[step.flow as usize], ACK, &data),
            };
            sequences[step.flow as usize] += step.length as u32 + u32::from(step.gap);
            if step.broken {
                *packet.last_mut().unwrap() ^= 1;
            }
            batch.push(packet);
        }
        let frames = coalesce(&batch);
        prop_assert!(frames.len() <= batch.len());
        prop_assert_eq!(by_flow(&give_back(&frames)), by_flow(&batch));
    }

    #[test]
    fn garbage_never_panics_in_split(mut frame in prop::collection::vec(any::<u8>(), 0..400)) {
        drain(&mut frame);
    }

    #[test]
    fn a_real_packet_behind_a_random_header_never_panics(header in any::<[u8; HEADER]>(), kind in 0u8..6, flips in prop::collection::vec((0usize..120, any::<u8>()), 0..4), tcp in any::<bool>()) {
        let flow = Flow::number(1);
        let packet = if tcp { flow.tcp(0, ACK, &bytes(100)) } else { flow.udp(&bytes(100)) };
        let mut frame = header.to_vec();
        frame[1] = kind;
        frame.extend(packet);
        for (at, value) in flips {
            frame[HEADER + at] = value;
        }
        drain(&mut frame);
    }

    #[test]
    fn a_slightly_wrong_header_never_panics(size in 0u16..200, start in 30u16..180, offset in 0u16..120, udp in any::<bool>()) {
        let packet = if udp { Flow::number(1).udp(&bytes(100)) } else { Flow::number(1).tcp(0, ACK, &bytes(100)) };
        for base in [tcp_header(size), udp_header(size), VirtioHeader { segmentation: Segmentation::None, ..tcp_header(size) }] {
            drain(&mut frame(VirtioHeader { checksum_start: start, ..base }, &packet));
            drain(&mut frame(VirtioHeader { checksum_start: start, checksum_offset: offset, ..base }, &packet));
        }
    }

    #[test]
    fn garbage_is_coalesced_to_itself(batch in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..120), 0..20)) {
        let mut frames: Vec<_> = coalesce(&batch).iter().map(|frame| frame[HEADER..].to_vec()).collect();
        let mut batch = batch;
        frames.sort();
        batch.sort();
        prop_assert_eq!(frames, batch);
    }
}

/// Takes all packets of a frame that may be refused, and checks that as many come as were promised.
fn drain(frame: &mut [u8]) {
    if let Ok(mut segments) = split(frame) {
        while segments.remaining() > 0 {
            let remaining = segments.remaining();
            assert!(segments.next_packet().is_some());
            assert_eq!(segments.remaining(), remaining - 1);
        }
        assert!(segments.next_packet().is_none());
    }
}
