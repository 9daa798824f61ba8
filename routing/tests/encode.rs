//! How packets are written, and that they are read as what was written (RFC 8966 §4, RFC 9616).
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod common;

use std::collections::BTreeSet;

use common::{ID, SOURCE, hex, read, update};
use ipnetwork::Ipv6Network;
use proptest::prelude::*;
use routing::wire::{
    Echo, EncodeError, HelloKind, PROOF_LEN, PacketBuf, PacketWriter, Tlv, Update,
};
use routing::{Interval, Metric, RouterId, Seqno};

/// The MTU of a link through WireGuard on Ethernet, and what is left of it for a packet.
const MTU: u16 = 1420;
const LIMIT: usize = 1372;

const HELLO: Tlv<'_> = Tlv::Hello {
    kind: HelloKind::Multicast,
    seqno: Seqno(7),
    interval: Some(Interval(400)),
    sent: Some(0x0102_0304),
};

const IHU: Tlv<'_> = Tlv::Ihu {
    address: None,
    rxcost: Metric(96),
    interval: Interval(1200),
    echo: Some(Echo {
        origin: 1,
        received: 2,
    }),
};

const WILDCARD_REQUEST: Tlv<'_> = Tlv::RouteRequest { prefix: None };

/// The only packet with these TLVs.
#[track_caller]
fn written(tlvs: &[Tlv<'_>]) -> PacketBuf {
    let mut writer = PacketWriter::unicast(MTU, SOURCE);
    for tlv in tlvs {
        writer.push(tlv).unwrap();
    }
    let [packet] = writer.finish().try_into().unwrap();
    packet
}

/// Expects that these TLVs become this body.
#[track_caller]
fn expect_body(tlvs: &[Tlv<'_>], body: &str) {
    assert_eq!(written(tlvs).bytes, common::packet(&hex(body)));
}

/// Expects that a TLV is refused, and that nothing of it is left.
#[track_caller]
fn expect_refusal(mut writer: PacketWriter, tlv: &Tlv<'_>, expected: EncodeError) {
    assert_eq!(writer.push(tlv), Err(expected));
    assert_eq!(writer.finish(), []);
}

fn multicast() -> PacketWriter {
    PacketWriter::multicast(MTU, SOURCE)
}

fn unicast() -> PacketWriter {
    PacketWriter::unicast(MTU, SOURCE)
}

#[test]
fn every_tlv_has_its_form() {
    for (tlv, body) in [
        (
            Tlv::AckRequest {
                opaque: 0x1234,
                interval: Interval(50),
            },
            "02 06 0000 1234 0032",
        ),
        (Tlv::Ack { opaque: 0x1234 }, "03 02 1234"),
        (HELLO, "04 0c 0000 0007 0190 03 04 01020304"),
        (
            Tlv::Hello {
                kind: HelloKind::Unicast,
                seqno: Seqno(7),
                interval: None,
                sent: None,
            },
            "04 06 8000 0007 0000",
        ),
        (
            Tlv::Ihu {
                address: Some("fe80::9".parse().unwrap()),
                rxcost: Metric::INFINITY,
                interval: Interval(1200),
                echo: None,
            },
            "05 0e 03 00 ffff 04b0 0000000000000009",
        ),
        (
            Tlv::Ihu {
                address: Some("600::9".parse().unwrap()),
                rxcost: Metric(96),
                interval: Interval(1200),
                echo: None,
            },
            "05 16 02 00 0060 04b0 06000000000000000000000000000009",
        ),
        (
            Tlv::Update(update("600:1::/32")),
            "06 0a 0000 0102030405060708 08 0e 02 80 20 00 0640 0005 0100 06000001",
        ),
        (WILDCARD_REQUEST, "09 02 00 00"),
        (
            Tlv::RouteRequest {
                prefix: Some("600:1::/32".parse().unwrap()),
            },
            "09 06 02 20 06000001",
        ),
        (
            Tlv::SeqnoRequest {
                prefix: "600:1::/32".parse().unwrap(),
                seqno: Seqno(6),
                hop_count: 64,
                router_id: ID,
            },
            "0a 12 02 20 0006 40 00 0102030405060708 06000001",
        ),
        (Tlv::Extension(&[1, 2, 3]), "e0 03 010203"),
    ] {
        expect_body(&[tlv], body);
    }
}

#[test]
fn a_proof_is_a_sub_tlv_of_its_update() {
    let proven = Update {
        proof: Some([9; PROOF_LEN]),
        ..update("600::/8")
    };
    let proof = "09".repeat(PROOF_LEN);
    let body =
        format!("06 0a 0000 0102030405060708 08 25 02 80 08 00 0640 0005 0100 06 70 18 {proof}");
    expect_body(&[Tlv::Update(proven)], &body);
}

#[test]
fn a_retraction_needs_no_router_id_and_no_next_hop() {
    let retraction = Update {
        metric: Metric::INFINITY,
        next_hop: "fe80::2".parse().unwrap(),
        ..update("600:1::/32")
    };
    expect_body(
        &[Tlv::Update(retraction)],
        "08 0e 02 80 20 00 0640 0005 ffff 06000001",
    );
    let everything = Update {
        prefix: None,
        router_id: None,
        ..retraction
    };
    expect_body(
        &[Tlv::Update(everything)],
        "08 0a 00 00 00 00 0640 0005 ffff",
    );
}

#[test]
fn what_the_reader_knows_is_not_written_again() {
    let tlvs = [
        "600:1:2:3::/64",
        "600:1:2:4::/64",
        "600:1:2:4::/60",
        "600:1::/32",
    ]
    .map(|prefix| Tlv::Update(update(prefix)));
    let body = "06 0a 0000 0102030405060708
        08 12 02 80 40 00 0640 0005 0100 0600000100020003
        08 0b 02 80 40 07 0640 0005 0100 04
        08 0b 02 80 3c 07 0640 0005 0100 00
        08 0a 02 80 20 04 0640 0005 0100";
    expect_body(&tlvs, body);
}

#[test]
fn another_next_hop_is_named_once() {
    let via = |next_hop: &str| {
        Tlv::Update(Update {
            next_hop: next_hop.parse().unwrap(),
            ..update("600::/8")
        })
    };
    let body = "07 0a 03 00 0000000000000002 06 0a 0000 0102030405060708
        08 0b 02 80 08 00 0640 0005 0100 06
        08 0a 02 80 08 01 0640 0005 0100
        07 0a 03 00 0000000000000001
        08 0a 02 80 08 01 0640 0005 0100";
    expect_body(&[via("fe80::2"), via("fe80::2"), via("fe80::1")], body);
}

#[test]
fn the_longest_interval_does_not_become_never() {
    let with_interval = |interval| {
        Tlv::Update(Update {
            interval,
            ..update("600::/8")
        })
    };
    let tlvs = [with_interval(Some(Interval(0xffff))), with_interval(None)];
    let body = "06 0a 0000 0102030405060708
        08 0b 02 80 08 00 fffe 0005 0100 06
        08 0a 02 80 08 01 ffff 0005 0100";
    expect_body(&tlvs, body);
}

#[test]
fn prefixes_are_written_without_the_bits_behind_their_length() {
    let host = Ipv6Network::new("600:1:2:3::9".parse().unwrap(), 62).unwrap();
    let body = "09 0a 02 3e 0600000100020000";
    expect_body(&[Tlv::RouteRequest { prefix: Some(host) }], body);
}

#[test]
fn nothing_makes_no_packet() {
    assert_eq!(multicast().finish(), []);
    let asking = unicast().asking_for_acks(1, Interval(50)).unwrap();
    assert_eq!(asking.finish(), []);
}

#[test]
fn the_time_of_sending_is_put_where_the_packet_says() {
    let mut packet = written(&[HELLO, IHU]);
    assert_eq!(packet.sent_at, Some(14));
    packet.stamp(0xa1b2_c3d4);
    let (tlvs, _) = read(&packet.bytes);
    let Tlv::Hello { sent, .. } = tlvs[0] else {
        panic!("{:?}", tlvs[0]);
    };
    assert_eq!((sent, tlvs[1]), (Some(0xa1b2_c3d4), IHU));

    let mut without = written(&[WILDCARD_REQUEST]);
    let before = without.clone();
    without.stamp(1);
    assert_eq!(without, before);
}

#[test]
fn a_hello_begins_a_packet_and_is_alone_in_it() {
    let mut writer = unicast();
    for tlv in [WILDCARD_REQUEST, HELLO, IHU, HELLO, IHU] {
        writer.push(&tlv).unwrap();
    }
    let packets = writer.finish();
    let read: Vec<_> = packets.iter().map(|packet| read(&packet.bytes).0).collect();
    assert_eq!(
        read,
        [vec![WILDCARD_REQUEST], vec![HELLO, IHU], vec![HELLO, IHU]]
    );
}

#[test]
fn an_echo_is_only_sent_with_a_hello_that_has_a_time() {
    expect_refusal(unicast(), &IHU, EncodeError::EchoWithoutHello);
    let mut writer = unicast();
    let untimed = Tlv::Hello {
        kind: HelloKind::Multicast,
        seqno: Seqno(7),
        interval: Some(Interval(400)),
        sent: None,
    };
    writer.push(&untimed).unwrap();
    assert_eq!(writer.push(&IHU), Err(EncodeError::EchoWithoutHello));

    // Where no more fit, the next begins with a Hello of its own.
    let mut writer = unicast();
    writer.push(&HELLO).unwrap();
    let mut fitting = 0;
    while writer.push(&IHU).is_ok() {
        fitting += 1;
    }
    assert_eq!(fitting, (LIMIT - 4 - 14) / 18);
    writer.push(&HELLO).unwrap();
    writer.push(&IHU).unwrap();
    let lengths: Vec<_> = (writer.finish().iter())
        .map(|packet| read(&packet.bytes).0.len())
        .collect();
    assert_eq!(lengths, [fitting + 1, 2]);
}

#[test]
fn what_the_rfc_forbids_is_refused() {
    let hello = |kind, interval| Tlv::Hello {
        kind,
        seqno: Seqno(7),
        interval,
        sent: None,
    };
    let seqno_request = |hop_count, router_id| Tlv::SeqnoRequest {
        prefix: "600::/8".parse().unwrap(),
        seqno: Seqno(6),
        hop_count,
        router_id,
    };
    let long = [0; 256];
    for (tlv, expected) in [
        (
            hello(HelloKind::Multicast, None),
            EncodeError::UnscheduledHello,
        ),
        (
            hello(HelloKind::Multicast, Some(Interval(0))),
            EncodeError::ZeroInterval,
        ),
        (
            hello(HelloKind::Unicast, Some(Interval(0))),
            EncodeError::ZeroInterval,
        ),
        (
            Tlv::AckRequest {
                opaque: 0,
                interval: Interval(0),
            },
            EncodeError::ZeroInterval,
        ),
        (
            Tlv::Ihu {
                address: None,
                rxcost: Metric(96),
                interval: Interval(0),
                echo: None,
            },
            EncodeError::ZeroInterval,
        ),
        (
            Tlv::Update(Update {
                interval: Some(Interval(0)),
                ..update("600::/8")
            }),
            EncodeError::ZeroInterval,
        ),
        (
            Tlv::Update(Update {
                router_id: None,
                ..update("600::/8")
            }),
            EncodeError::RouterId,
        ),
        (
            Tlv::Update(Update {
                router_id: Some(RouterId([0; 8])),
                ..update("600::/8")
            }),
            EncodeError::RouterId,
        ),
        (
            Tlv::Update(Update {
                prefix: None,
                ..update("600::/8")
            }),
            EncodeError::NoDestination,
        ),
        (seqno_request(0, ID), EncodeError::ZeroHopCount),
        (seqno_request(1, RouterId([0xff; 8])), EncodeError::RouterId),
        (Tlv::Extension(&long), EncodeError::TooLong(256)),
    ] {
        expect_refusal(unicast(), &tlv, expected);
    }
    let asking = unicast().asking_for_acks(1, Interval(0));
    assert_eq!(asking.unwrap_err(), EncodeError::ZeroInterval);
}

#[test]
fn what_is_for_one_neighbour_is_not_sent_to_all() {
    let unicast_hello = Tlv::Hello {
        kind: HelloKind::Unicast,
        seqno: Seqno(7),
        interval: Some(Interval(400)),
        sent: None,
    };
    for tlv in [Tlv::Ack { opaque: 7 }, unicast_hello] {
        expect_refusal(multicast(), &tlv, EncodeError::NotForAll);
        unicast().push(&tlv).unwrap();
    }
}

#[test]
fn packets_are_as_long_as_the_link_carries_and_never_below_512() {
    for (mtu, limit) in [
        (0, 512),
        (500, 512),
        (560, 512),
        (1280, 1232),
        (MTU, LIMIT),
        (u16::MAX, 65_487),
    ] {
        let mut writer = PacketWriter::multicast(mtu, SOURCE);
        for _ in 0..2 * limit / 4 {
            writer.push(&WILDCARD_REQUEST).unwrap();
        }
        let lengths: Vec<_> = writer.finish().iter().map(|it| it.bytes.len()).collect();
        assert_eq!(lengths[0], limit - limit % 4, "MTU {mtu}");
        assert!(lengths.iter().all(|&length| length <= limit));
    }
}

#[test]
fn every_packet_is_understood_without_the_others() {
    let mut updates: Vec<_> = (0..500_u16)
        .map(|n| update(&format!("600:1:2:{n:x}::/64")))
        .collect();
    let mut writer = multicast();
    writer.push_updates(&mut updates).unwrap();
    let packets = writer.finish();
    assert!(packets.len() > 3);
    let read_back: Vec<_> = (packets.iter())
        .flat_map(|packet| {
            let (tlvs, skipped) = read(&packet.bytes);
            assert_eq!(skipped.total(), 0);
            tlvs
        })
        .collect();
    assert_eq!(
        read_back,
        updates.into_iter().map(Tlv::Update).collect::<Vec<_>>()
    );
}

#[test]
fn every_packet_asks_for_an_acknowledgment_of_its_own() {
    let mut writer = unicast().asking_for_acks(0xffff, Interval(50)).unwrap();
    for _ in 0..1_000 {
        writer.push(&WILDCARD_REQUEST).unwrap();
    }
    let packets = writer.finish();
    let opaques: Vec<_> = packets.iter().map(|packet| packet.opaque).collect();
    assert_eq!(opaques, [Some(0xffff), Some(0), Some(1)]);
    for packet in &packets {
        assert!(packet.bytes.len() <= LIMIT);
        let (tlvs, _) = read(&packet.bytes);
        let expected = Tlv::AckRequest {
            opaque: packet.opaque.unwrap(),
            interval: Interval(50),
        };
        assert_eq!(tlvs.last(), Some(&expected));
    }
}

#[test]
fn sorted_updates_share_router_ids_and_the_beginnings_of_their_prefixes() {
    let from = |prefix: &str, origin: u8| Update {
        router_id: Some(RouterId([origin; 8])),
        ..update(prefix)
    };
    let retraction = |prefix: Option<&str>| Update {
        prefix: prefix.map(|it| it.parse().unwrap()),
        router_id: None,
        metric: Metric::INFINITY,
        ..update("::/0")
    };
    let mut updates = [
        from("600:3::/64", 1),
        from("600:2:0:1::/64", 9),
        retraction(Some("600:2:0:2::/64")),
        from("600:1:0:1::/64", 1),
        from("600:4::/64", 9),
        from("600:1::/64", 1),
        retraction(None),
    ];
    let mut writer = multicast();
    writer.push_updates(&mut updates).unwrap();
    let [packet] = writer.finish().try_into().unwrap();
    let expected = [
        retraction(None),
        from("600:1::/64", 1),
        from("600:1:0:1::/64", 1),
        from("600:3::/64", 1),
        from("600:2:0:1::/64", 9),
        from("600:4::/64", 9),
        retraction(Some("600:2:0:2::/64")),
    ];
    assert_eq!(read(&packet.bytes).0, expected.map(Tlv::Update));
    let router_ids = packet.bytes.windows(4).filter(|it| *it == [6, 10, 0, 0]);
    assert_eq!(router_ids.count(), 2);
}

#[test]
fn a_thousand_origins_with_a_64_each_take_less_than_31_bytes_each() {
    let mut hash = 1_u64;
    let mut updates: Vec<_> = (0..1_000)
        .map(|_| {
            hash = hash
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let network = u128::from(hash >> 8 | 6 << 56) << 64;
            Update {
                prefix: Some(Ipv6Network::new(network.into(), 64).unwrap()),
                router_id: Some(RouterId((!hash).to_be_bytes())),
                ..update("::/0")
            }
        })
        .collect();
    let mut writer = multicast();
    writer.push_updates(&mut updates).unwrap();
    let packets = writer.finish();
    let bytes: usize = packets.iter().map(|packet| packet.bytes.len()).sum();
    assert!(bytes < 31_000, "{bytes} bytes");
}

/// The flags of every Update in a packet.
fn update_flags(packet: &[u8]) -> Vec<u8> {
    let (mut rest, mut flags) = (&packet[4..], vec![]);
    while let [kind, length, body @ ..] = rest {
        if *kind == 8 {
            flags.push(body[1]);
        }
        rest = &body[usize::from(*length)..];
    }
    flags
}

/// Networks that often have something in common.
fn networks() -> impl Strategy<Value = Ipv6Network> {
    (
        prop::array::uniform16(prop_oneof![4 => Just(6_u8), 1 => any::<u8>()]),
        0_u8..=128,
    )
        .prop_map(|(octets, length)| {
            let network = Ipv6Network::new(octets.into(), length).unwrap();
            Ipv6Network::new(network.network(), length).unwrap()
        })
        .prop_filter("a martian", |network| {
            let [first, second, ..] = network.ip().octets();
            first != 0xff
                && (first, second & 0xc0) != (0xfe, 0x80)
                && (first != 0 || network.prefix() == 0)
        })
}

fn router_ids() -> impl Strategy<Value = RouterId> {
    (1_u8..4).prop_map(|n| RouterId([n; 8]))
}

fn intervals() -> impl Strategy<Value = Interval> {
    (1..u16::MAX).prop_map(Interval)
}

prop_compose! {
    fn updates()(
        prefix in networks(),
        router_id in router_ids(),
        next_hop in prop_oneof![3 => Just(SOURCE), 1 => Just("fe80::2".parse().unwrap()), 1 => Just("600::3".parse().unwrap())],
        interval in prop::option::of(intervals()),
        seqno: u16,
        metric: u16,
        proof in prop::option::of(any::<[u8; PROOF_LEN]>()),
        kind in 0..8,
    ) -> Update {
        let update = Update {
            prefix: Some(prefix),
            router_id: Some(router_id),
            next_hop,
            interval,
            seqno: Seqno(seqno),
            metric: Metric(metric.min(u16::MAX - 1)),
            proof,
        };
        let retraction = Update {
            router_id: None,
            next_hop: SOURCE,
            metric: Metric::INFINITY,
            ..update
        };
        match kind {
            0 => Update { prefix: None, ..retraction },
            1 | 2 => retraction,
            _ => update,
        }
    }
}

/// Everything but Hellos and IHUs, whose place in a packet matters.
fn tlvs() -> impl Strategy<Value = Tlv<'static>> {
    prop_oneof![
        1 => (any::<u16>(), intervals()).prop_map(|(opaque, interval)| Tlv::AckRequest { opaque, interval }),
        1 => any::<u16>().prop_map(|opaque| Tlv::Ack { opaque }),
        6 => updates().prop_map(Tlv::Update),
        1 => prop::option::of(networks()).prop_map(|prefix| Tlv::RouteRequest { prefix }),
        1 => (networks(), any::<u16>(), 1..=u8::MAX, router_ids()).prop_map(|(prefix, seqno, hop_count, router_id)| {
            Tlv::SeqnoRequest { prefix, seqno: Seqno(seqno), hop_count, router_id }
        }),
        1 => (0..=255_usize).prop_map(|length| Tlv::Extension(&[0x5a; 255][..length])),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(tlvs in prop::collection::vec(tlvs(), 0..80), mtu in 0..2_000_u16) {
        let mut writer = PacketWriter::unicast(mtu, SOURCE);
        for tlv in &tlvs {
            writer.push(tlv).unwrap();
        }
        let packets = writer.finish();
        let mut read_back = vec![];
        for packet in &packets {
            prop_assert!(packet.bytes.len() <= usize::from(mtu.max(560) - 48));
            let (tlvs, skipped) = read(&packet.bytes);
            prop_assert_eq!(skipped.total(), 0);
            prop_assert!(!tlvs.is_empty());
            prop_assert!(update_flags(&packet.bytes).iter().all(|flags| flags & 0x7f == 0));
            read_back.extend(tlvs);
        }
        prop_assert_eq!(read_back, tlvs);
    }

    #[test]
    fn what_is_written_of_a_neighbour_is_read(
        seqno: u16,
        interval in intervals(),
        sent in prop::option::of(any::<u32>()),
        ihus in prop::collection::vec((any::<u64>(), any::<bool>(), any::<u16>(), any::<(u32, u32)>()), 0..8),
    ) {
        let hello = Tlv::Hello { kind: HelloKind::Multicast, seqno: Seqno(seqno), interval: Some(interval), sent };
        let ihus = ihus.into_iter().map(|(host, near, cost, (origin, received))| Tlv::Ihu {
            address: Some((u128::from(host) | if near { 0xfe80 << 112 } else { 6 << 120 }).into()),
            rxcost: Metric(cost),
            interval,
            echo: sent.map(|_| Echo { origin, received }),
        });
        let tlvs: Vec<_> = std::iter::once(hello).chain(ihus).collect();
        let packet = written(&tlvs);
        prop_assert_eq!(packet.sent_at, sent.map(|_| 14));
        prop_assert_eq!(read(&packet.bytes).0, tlvs);
    }

    #[test]
    fn sorting_loses_no_update_and_repeats_no_router_id(updates in prop::collection::vec(updates(), 0..60)) {
        let mut sorted = updates.clone();
        let mut writer = PacketWriter::multicast(u16::MAX, SOURCE);
        writer.push_updates(&mut sorted).unwrap();
        let packets = writer.finish();
        let read_back: Vec<_> = packets.iter().flat_map(|packet| read(&packet.bytes).0).collect();
        prop_assert_eq!(&read_back, &sorted.iter().copied().map(Tlv::Update).collect::<Vec<_>>());
        for update in &updates {
            let count = |of: &[Update]| of.iter().filter(|it| *it == update).count();
            prop_assert_eq!(count(&updates), count(&sorted));
        }
        let ids: Vec<_> = sorted.iter().filter_map(|update| update.router_id).collect();
        let distinct: BTreeSet<_> = ids.iter().collect();
        prop_assert_eq!(ids.chunk_by(|a, b| a == b).count(), distinct.len());
    }
}

#[test]
fn an_extension_of_any_length_fits() {
    let body = [0; 255];
    let mut writer = PacketWriter::multicast(0, SOURCE);
    for _ in 0..3 {
        writer.push(&Tlv::Extension(&body)).unwrap();
    }
    let lengths: Vec<_> = writer.finish().iter().map(|it| it.bytes.len()).collect();
    assert_eq!(lengths, [261; 3]);
}
