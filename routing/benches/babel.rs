//! What reading Babel costs: one packet of full size as a router of ours writes it, the same in a router that knows it all already,
//! and the look-up of a route.
//!
//! `cargo bench -p routing`, with criterion's arguments after `--`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench may fail by panic"
)]

use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use routing::sim::{Net, Verification, millis, secs};
use routing::wire::{Packet, PacketWriter, Tlv, Update};
use routing::{Cast, Limits, LinkConfig, LinkId, Next, Peer, Rate};

#[path = "../tests/lab/mod.rs"]
mod lab;
use lab::{Lab, US, address, net as prefix};

/// Enough that a table takes several packets.
const NODES: usize = 400;
/// Destinations in the table of a router.
const DESTINATIONS: [usize; 3] = [10, 1_000, 10_000];
/// What a link of 1420 bytes leaves to a Babel packet is 1372 bytes; the writer stops when no update fits any more.
const FULL: usize = 1_300;
/// How far apart the destinations are that are asked for one after the other; prime, so that all have their turn.
const STRIDE: usize = 7;
const MTU: u16 = 1_420;
const NO_LIMIT: Rate = Rate {
    interval: Duration::ZERO,
    burst: 1,
};

/// The packet with the most updates that one router of ours sends another when the two become neighbours.
fn full_packet() -> (Vec<u8>, usize) {
    let mut net = Net::random(NODES, 4, 1);
    net.verification = Verification::Trusting(millis(1));
    net.run_for(secs(20));
    let joined = net.connect(0, NODES - 1);
    net.capture(joined);
    net.run_for(secs(20));
    let counted = net.captured().iter().map(|captured| {
        let updates = updates(&captured.packet);
        (captured.packet.clone(), updates)
    });
    let (packet, updates) = counted.max_by_key(|(_, updates)| *updates).unwrap();
    assert!(packet.len() >= FULL, "{} bytes", packet.len());
    (packet, updates)
}

/// How many updates a packet holds.
fn updates(packet: &[u8]) -> usize {
    let packet = Packet::parse(packet).unwrap();
    let is_update = |tlv: &Tlv<'_>| matches!(tlv, Tlv::Update(_));
    packet.tlvs(address(1)).filter(is_update).count()
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let (packet, count) = full_packet();
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(BenchmarkId::new("updates", count), |bencher| {
        bencher.iter(|| updates(black_box(&packet)));
    });
    group.finish();
}

/// A router with so many routes from one stock neighbour, and one full packet of them.
fn router(destinations: usize) -> (Lab, LinkId, Vec<u8>, usize) {
    let mut lab = Lab::new();
    let allow = vec![prefix("2001:db8::/32")];
    let stock = LinkConfig::stock(address(US), Peer::Legacy { allow }, MTU);
    // So often the same, at one moment of virtual time, would be refused.
    let limits = Limits {
        routes: u32::MAX,
        destinations: u32::MAX,
        new_destinations: NO_LIMIT,
        updates: NO_LIMIT,
        ..stock.limits
    };
    let link = lab.link(5, LinkConfig { limits, ..stock });
    lab.run(millis(200));
    let mut writer = PacketWriter::unicast(MTU, address(5));
    for number in 0..destinations {
        let update = Update {
            next_hop: address(5),
            ..Lab::plain(numbered(number), 7, 1, 100)
        };
        writer.push(&Tlv::Update(update)).unwrap();
    }
    let packets = writer.finish();
    for packet in &packets {
        handle(&mut lab, link, &packet.bytes);
        lab.drain();
    }
    lab.run(secs(4));
    assert!(lab.selected(numbered(destinations - 1)).is_some());
    let first = packets.into_iter().next().unwrap().bytes;
    let count = updates(&first);
    (lab, link, first, count)
}

fn numbered(number: usize) -> ipnetwork::Ipv6Network {
    prefix(&format!("2001:db8:{number:x}::/48"))
}

fn handle(lab: &mut Lab, link: LinkId, packet: &[u8]) {
    let (to, now) = (Cast::Unicast(address(US)), lab.now);
    let handled = (lab.router).handle_packet(link, address(5), to, packet, now, now);
    assert_eq!(handled, Ok(()));
}

fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    for destinations in DESTINATIONS {
        let (mut lab, link, packet, count) = router(destinations);
        group.throughput(Throughput::Elements(count as u64));
        let name = format!("{count} updates that change nothing");
        group.bench_function(BenchmarkId::new(name, destinations), |bencher| {
            bencher.iter(|| handle(&mut lab, link, black_box(&packet)));
        });
        assert!(lab.router.poll_transmit().is_none() && lab.router.poll_event().is_none());
        group.throughput(Throughput::Elements(1));
        let inside = |number| Ipv6Addr::from(numbered(number).ip().to_bits() | 1);
        let addresses: Vec<_> = (0..destinations).map(inside).collect();
        let mut number = 0;
        group.bench_function(BenchmarkId::new("look-up", destinations), |bencher| {
            bencher.iter(|| {
                number = (number + STRIDE) % destinations;
                let next = lab.router.lookup(black_box(addresses[number]));
                assert!(matches!(next, Next::Via { .. }), "{next:?}");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, table);
criterion_main!(benches);
