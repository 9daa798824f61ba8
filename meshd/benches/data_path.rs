//! What the pure parts of the data path cost beside the cryptography: super-packets taken apart and put together, and look-ups.
//!
//! `cargo bench -p meshd`, with criterion's arguments after `--`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench may fail by panic"
)]

use std::hint::black_box;
use std::io::IoSlice;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshd::fib::{
    Carrier, CarrierStats, Fib, Labelled, LinkStats, Lookup, NextHop, Onward, Own, Relay, Role,
    Route,
};
use meshd::io::offload::{Coalescer, PACKET, Segmentation, VirtioHeader, split};
use meshd::io::tun::Offload;
use meshd::labels::Pair;
use meshd::packet::{HEADER, UDP, checksum, ipv6};
use routing::LinkId;
use wireguard::{Device, Kind, Peer, PrivateKey, Session, Underlay, Upkeep};

const TCP: u8 = 6;
/// TCP with its time stamps, as Linux sends it.
const TCP_HEADER: usize = 32;
/// Packets of full size: those of a link of 1420 bytes.
const FULL: usize = 1_420;
/// Their payload, by TCP and by UDP.
const TCP_SEGMENT: usize = FULL - HEADER - TCP_HEADER;
const UDP_PAYLOAD: usize = FULL - HEADER - UDP_HEADER;
/// Packets of a batch: about what a super-packet holds.
const BATCH: usize = 45;
/// What decryption leaves between packets.
const GAP: usize = 32;
const UDP_HEADER: usize = 8;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ACK: u8 = 0x10;
const DESTINATIONS: [usize; 3] = [10, 1_000, 10_000];
/// How far apart the destinations are that are asked for one after the other; prime, so that all have their turn.
const STRIDE: usize = 7;

fn tcp(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x10, 0, 0, 80];
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 7, 8 << 4, ACK, 1, 0, 0, 0, 0, 0]);
    segment.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend(payload);
    whole(TCP, &mut segment, TCP_CHECKSUM)
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x10, 0, 0, 80];
    let length = u16::try_from(UDP_HEADER + payload.len()).unwrap();
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    whole(UDP, &mut datagram, UDP_CHECKSUM)
}

/// A packet with its checksum.
fn whole(protocol: u8, transport: &mut [u8], field: usize) -> Vec<u8> {
    let sum = checksum(node(1), node(2), protocol, transport);
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    ipv6(node(1), node(2), protocol, transport)
}

/// A super-packet as the kernel hands it over, of as many bytes as there may be.
fn super_packet(segmentation: Segmentation) -> Vec<u8> {
    let is_udp = segmentation == Segmentation::Udp;
    let (headers, checksum_offset, packet) = if is_udp {
        let headers = HEADER + UDP_HEADER;
        (headers, UDP_CHECKSUM, udp(&vec![0xa5; PACKET - headers]))
    } else {
        let headers = HEADER + TCP_HEADER;
        (headers, TCP_CHECKSUM, tcp(0, &vec![0xa5; PACKET - headers]))
    };
    let header = VirtioHeader {
        needs_checksum: true,
        segmentation,
        header_length: headers as u16,
        segment_size: (FULL - headers) as u16,
        checksum_start: HEADER as u16,
        checksum_offset: checksum_offset as u16,
    };
    let mut frame = header.emit().to_vec();
    frame.extend(packet);
    frame
}

fn take_apart(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    let kinds = [
        ("TCP", Segmentation::Tcp6, 49),
        ("UDP", Segmentation::Udp, 48),
    ];
    for (name, segmentation, segments) in kinds {
        let frame = super_packet(segmentation);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new(name, frame.len()), |bencher| {
            let split = |frame: &mut Vec<u8>| {
                let mut packets = split(frame).unwrap();
                let mut count = 0;
                while let Some(packet) = packets.next_packet() {
                    black_box(packet);
                    count += 1;
                }
                assert_eq!(count, segments);
            };
            bencher.iter_batched_ref(|| frame.clone(), split, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn put_together(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    let data = vec![0xa5; UDP_PAYLOAD];
    let stream = |number: usize| tcp((number * TCP_SEGMENT) as u32, &data[..TCP_SEGMENT]);
    let unrelated = |number: usize| tcp((number * 100_000) as u32, &data[..TCP_SEGMENT]);
    let kinds: [(_, Vec<_>, _); 3] = [
        ("TCP", (0..BATCH).map(stream).collect(), 1),
        ("UDP", vec![udp(&data); BATCH], 1),
        ("TCP with gaps", (0..BATCH).map(unrelated).collect(), BATCH),
    ];
    for (name, packets, frames) in kinds {
        let (mut arena, mut places) = (Vec::new(), Vec::new());
        for packet in packets {
            arena.extend([0; GAP]);
            places.push(arena.len()..arena.len() + packet.len());
            arena.extend(packet);
        }
        group.throughput(Throughput::Bytes(arena.len() as u64));
        let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
        group.bench_function(BenchmarkId::new(name, BATCH), |bencher| {
            let coalesce = |arena: &mut Vec<u8>| {
                for place in &places {
                    coalescer.push(arena, place.clone());
                }
                let mut written = 0;
                coalescer.flush(arena, |slices: &[IoSlice<'_>]| {
                    black_box(slices);
                    written += 1;
                });
                assert_eq!(written, frames);
            };
            bencher.iter_batched_ref(|| arena.clone(), coalesce, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// The address of a node: a /64 for each.
fn node(number: usize) -> Ipv6Addr {
    Ipv6Addr::from(0x600_u128 << 112 | (number as u128) << 64 | 1)
}

fn key(number: usize) -> PrivateKey {
    let mut bytes = [0x40; 32];
    bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    PrivateKey::from_bytes(bytes)
}

fn prefix(node: Ipv6Addr) -> ipnetwork::Ipv6Network {
    ipnetwork::Ipv6Network::new(node, 64).unwrap()
}

/// A snapshot in which so many nodes have a session, a route through one neighbour, and a label given for what they send.
fn fib(destinations: usize) -> (Fib, Vec<Arc<Session>>) {
    let now = Instant::now();
    let mut device = Device::simulated(key(0), 1);
    let add = |number| {
        let peer = Peer {
            key: key(number).public(),
            preshared: None,
            kind: Kind::Mesh,
            allowed: vec![prefix(node(number))],
            endpoints: Vec::new(),
            persistent_keepalive: None,
            upkeep: Upkeep::OnDemand,
        };
        device.add_peer(peer, now).unwrap()
    };
    let sessions: Vec<_> = (1..=destinations).map(add).collect();
    let carriers = (1..).zip(&sessions).map(|(number, session)| Carrier {
        session: Arc::clone(session),
        owns: vec![prefix(node(number))],
        role: Role::Node {
            address: node(number),
            link_local: Ipv6Addr::from(0xfe80_u128 << 112 | number as u128),
            relay: Relay::Yes,
        },
        stats: Arc::new(CarrierStats::default()),
        inbound: None,
    });
    let at = SocketAddr::from(([192, 0, 2, 1], 51860));
    let neighbour = Arc::new(NextHop {
        link: LinkId(1),
        session: Arc::clone(&sessions[0]),
        endpoint: Underlay {
            remote: at,
            local: None,
            socket: 0,
        },
        mtu: 1_420,
        stats: Arc::new(LinkStats::new(now)),
    });
    let routes =
        (1..=destinations).map(|number| (prefix(node(number)), Some(Arc::clone(&neighbour))));
    let own = Own {
        address: node(0),
        prefix: prefix(node(0)),
        link_local: Ipv6Addr::from(0xfe80_u128 << 112 | 0xffff_ffff),
        token: [7; 8],
    };
    let given = (1..=destinations).map(|number| {
        let labelled = Labelled {
            from: at,
            class: wireguard::Class::Underlay,
            session: Arc::clone(&sessions[0]),
            stats: Arc::clone(&neighbour.stats),
            pair: Pair {
                source: node(1),
                destination: node(number),
            },
            onward: Onward::Via(Arc::clone(&neighbour), Some(number as u32)),
        };
        (label(number), labelled)
    });
    let fib = Fib::new(own, carriers, routes).labelling(given, []);
    (fib, sessions)
}

/// Labels are given out at random: nothing about their order.
fn label(number: usize) -> u32 {
    (number as u32).wrapping_mul(0x9e37_79b1)
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look-up");
    for destinations in DESTINATIONS {
        let (fib, sessions) = fib(destinations);
        let mut number = 0;
        // Nothing but a counter comes on top of what is measured.
        let mut next = || {
            number += STRIDE;
            if number > destinations {
                number = number % destinations + 1;
            }
            number
        };
        let addresses: Vec<Ipv6Addr> = (0..=destinations).map(node).collect();
        let name = |what| BenchmarkId::new(what, destinations);
        group.bench_function(name("session by destination"), |bencher| {
            bencher.iter(|| {
                let found = fib.lookup(black_box(addresses[next()]));
                assert!(matches!(found, Lookup::Session(_)), "{found:?}");
            });
        });
        group.bench_function(name("next hop by node"), |bencher| {
            bencher.iter(|| {
                let found = fib.route(black_box(addresses[next()]));
                assert!(matches!(found, Route::Via(_)), "{found:?}");
            });
        });
        let labels: Vec<u32> = (0..=destinations).map(label).collect();
        group.bench_function(name("label"), |bencher| {
            bencher.iter(|| {
                let found = fib.labelled(black_box(labels[next()]));
                assert!(found.is_some());
            });
        });
        let receivers = receivers(&sessions);
        group.bench_function(name("session by receiver index"), |bencher| {
            bencher.iter(|| {
                let found = fib.receiver(black_box(receivers[next()]));
                assert!(found.is_some());
            });
        });
    }
    group.finish();
}

/// A receiver index of each session, by number from 1; found among all there are, as nobody but a handshake gives one out.
fn receivers(sessions: &[Arc<Session>]) -> Vec<u32> {
    let indices = sessions[0].indices();
    let numbers: std::collections::HashMap<u32, usize> = (1..)
        .zip(sessions)
        .map(|(number, session)| (session.index(), number))
        .collect();
    let mut receivers = vec![0; sessions.len() + 1];
    let mut missing = sessions.len();
    for receiver in 1.. {
        if let Some(&number) = numbers.get(&indices.session(receiver))
            && receivers[number] == 0
        {
            receivers[number] = receiver;
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    receivers
}

criterion_group!(benches, take_apart, put_together, look_up);
criterion_main!(benches);
