//! How packets are read, rule by rule (RFC 8966 §4, RFC 9079, RFC 9229, RFC 9616).
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod common;

use std::net::Ipv6Addr;

use common::{ID, SOURCE, block, expect, hex, packet, read, update};
use proptest::prelude::*;
use routing::wire::{
    DecodeError, Echo, HelloKind, PROOF_LEN, Packet, Skip, Tlv, Update, check_source,
};
use routing::{Interval, Metric, RouterId, Seqno};

/// Router-Id TLV with [`ID`].
const ROUTER_ID: &str = "06 0a 0000 0102030405060708";

/// The same as a retraction.
fn retraction(prefix: Option<&str>) -> Update {
    Update {
        prefix: prefix.map(|prefix| prefix.parse().unwrap()),
        router_id: None,
        metric: Metric::INFINITY,
        ..update("::/0")
    }
}

/// An Update TLV: encoding, flags, length and omitted bytes; interval 16 s, seqno 5, metric 256; prefix and sub-TLVs.
fn update_tlv(fields: &str, rest: &str) -> Vec<u8> {
    block(8, &hex(&format!("{fields} 0640 0005 0100 {rest}")))
}

/// The same with an infinite metric.
fn retraction_tlv(fields: &str, rest: &str) -> Vec<u8> {
    block(8, &hex(&format!("{fields} 0640 0005 ffff {rest}")))
}

/// Several TLVs, of which the first is [`ROUTER_ID`].
fn after_router_id(tlvs: &[Vec<u8>]) -> Vec<u8> {
    [hex(ROUTER_ID), tlvs.concat()].concat()
}

#[test]
fn only_link_local_addresses_and_the_babel_port_may_send() {
    assert_eq!(check_source(SOURCE, 6696), Ok(()));
    for outside in ["600::1", "::1", "ff02::1:6", "::ffff:192.0.2.1"] {
        let address = outside.parse().unwrap();
        assert_eq!(
            check_source(address, 6696),
            Err(DecodeError::Source(address))
        );
    }
    assert_eq!(check_source(SOURCE, 6697), Err(DecodeError::Port(6697)));
}

#[test]
fn packets_of_other_protocols_and_versions_are_ignored() {
    for (bytes, expected) in [
        ("", DecodeError::NoHeader(0)),
        ("2a 02 00", DecodeError::NoHeader(3)),
        ("2b 02 0000", DecodeError::Magic(43)),
        ("2a 03 0000", DecodeError::Version(3)),
        ("2a 01 0000", DecodeError::Version(1)),
    ] {
        assert_eq!(Packet::parse(&hex(bytes)).unwrap_err(), expected, "{bytes}");
    }
}

#[test]
fn a_packet_shorter_than_its_header_says_is_ignored() {
    for (bytes, body, packet) in [
        ("2a 02 0001", 1, 4),
        ("2a 02 ffff 00", 65_535, 5),
        ("2a 02 0008 04 06 0000", 8, 8),
    ] {
        assert_eq!(
            Packet::parse(&hex(bytes)).unwrap_err(),
            DecodeError::Truncated { body, packet }
        );
    }
}

#[test]
fn an_empty_packet_says_nothing() {
    expect(&[], &[], &[]);
}

#[test]
fn what_stands_in_the_trailer_is_ignored() {
    let mut bytes = packet(&[]);
    bytes.extend(hex("04 06 0000 0001 0190"));
    let (tlvs, skipped) = read(&bytes);
    assert_eq!((tlvs.len(), skipped.total()), (0, 0));
}

#[test]
fn padding_is_nothing() {
    expect(&hex("00 00 01 00 01 03 000000 00"), &[], &[]);
    expect(&hex("01 02 ffff"), &[], &[]);
}

#[test]
fn unknown_types_are_skipped_and_what_follows_is_read() {
    let tlvs = [
        block(11, &[1, 2, 3]),
        block(16, &[0; 32]),
        block(255, &[0; 255]),
        hex("03 02 0007"),
    ];
    expect(
        &tlvs.concat(),
        &[Tlv::Ack { opaque: 7 }],
        &[Skip::UnknownType; 3],
    );
}

#[test]
fn a_tlv_that_is_longer_than_the_packet_ends_it_and_what_came_before_stays() {
    for rest in ["04", "04 06", "04 06 0000 0001 01", "e0 ff 00", "01 01"] {
        let body = [hex("03 02 0007"), hex(rest)].concat();
        expect(&body, &[Tlv::Ack { opaque: 7 }], &[Skip::Overrun]);
    }
}

#[test]
fn each_type_has_its_least_length() {
    let fields = hex("02 00 10 00 0640 0005 0100 01 02 03 04 05 06 07 08");
    for (kind, least) in [
        (2, 6),
        (3, 2),
        (4, 6),
        (5, 6),
        (6, 10),
        (7, 2),
        (8, 10),
        (9, 2),
        (10, 14),
    ] {
        for length in 0..least {
            expect(&block(kind, &fields[..length]), &[], &[Skip::Malformed]);
        }
    }
}

#[test]
fn acknowledgment_requests_have_an_interval() {
    let request = Tlv::AckRequest {
        opaque: 0x1234,
        interval: Interval(50),
    };
    expect(&hex("02 06 0000 1234 0032"), &[request], &[]);
    expect(&hex("02 06 0000 1234 0000"), &[], &[Skip::ZeroInterval]);
}

#[test]
fn reserved_fields_are_ignored() {
    let body = [
        "02 06 ffff 1234 0032",
        "04 06 7fff 0001 0190",
        "05 06 00ff 0060 04b0",
        "06 0a ffff 0102030405060708",
        "07 0a 03ff 0000000000000002",
        "08 0e 02 3f 20 00 0640 0005 0100 06000001",
        "0a 12 02 20 0006 40 ff 0102030405060708 06000001",
    ]
    .join(" ");
    let tlvs = [
        Tlv::AckRequest {
            opaque: 0x1234,
            interval: Interval(50),
        },
        Tlv::Hello {
            kind: HelloKind::Multicast,
            seqno: Seqno(1),
            interval: Some(Interval(400)),
            sent: None,
        },
        Tlv::Ihu {
            address: None,
            rxcost: Metric(96),
            interval: Interval(1200),
            echo: None,
        },
        Tlv::Update(Update {
            next_hop: "fe80::2".parse().unwrap(),
            ..update("600:1::/32")
        }),
        Tlv::SeqnoRequest {
            prefix: "600:1::/32".parse().unwrap(),
            seqno: Seqno(6),
            hop_count: 64,
            router_id: ID,
        },
    ];
    expect(&hex(&body), &tlvs, &[]);
}

#[test]
fn hellos_come_in_two_kinds_scheduled_or_not_with_a_time_or_without() {
    let hello = |kind, interval, sent| Tlv::Hello {
        kind,
        seqno: Seqno(0xabcd),
        interval,
        sent,
    };
    let interval = Some(Interval(400));
    for (bytes, expected) in [
        (
            "04 06 0000 abcd 0190",
            hello(HelloKind::Multicast, interval, None),
        ),
        (
            "04 06 8000 abcd 0190",
            hello(HelloKind::Unicast, interval, None),
        ),
        (
            "04 06 0000 abcd 0000",
            hello(HelloKind::Multicast, None, None),
        ),
        (
            "04 0c 8000 abcd 0000 03 04 01020304",
            hello(HelloKind::Unicast, None, Some(0x0102_0304)),
        ),
    ] {
        expect(&hex(bytes), &[expected], &[]);
    }
}

#[test]
fn timestamps_may_be_longer_than_today_and_shorter_ones_are_ignored() {
    for (sub_tlvs, expected) in [
        ("03 06 01020304 ffff", Some(0x0102_0304)),
        ("03 03 010203", None),
        ("03 00", None),
        ("00 01 02 0000 70 01 ff 03 04 01020304", Some(0x0102_0304)),
        ("03 04 01020304 03 04 05060708", Some(0x0102_0304)),
    ] {
        let hello = Tlv::Hello {
            kind: HelloKind::Multicast,
            seqno: Seqno(1),
            interval: Some(Interval(400)),
            sent: expected,
        };
        let body = hex(&format!("0000 0001 0190 {sub_tlvs}"));
        expect(&block(4, &body), &[hello], &[]);
    }
    for (sub_tlvs, expected) in [
        ("03 08 00000001 00000002", Some((1, 2))),
        (
            "03 08 00000001 00000002 03 08 00000003 00000004",
            Some((1, 2)),
        ),
        ("03 0a 00000001 00000002 ffff", Some((1, 2))),
        ("03 07 00000001 000000", None),
        ("03 04 00000001", None),
    ] {
        let ihu = Tlv::Ihu {
            address: None,
            rxcost: Metric(96),
            interval: Interval(1200),
            echo: expected.map(|(origin, received)| Echo { origin, received }),
        };
        let body = hex(&format!("0000 0060 04b0 {sub_tlvs}"));
        expect(&block(5, &body), &[ihu], &[]);
    }
}

#[test]
fn an_ihu_names_its_receiver_in_full_in_short_or_not_at_all() {
    let ihu = |address: Option<&str>| Tlv::Ihu {
        address: address.map(|address| address.parse().unwrap()),
        rxcost: Metric::INFINITY,
        interval: Interval(1200),
        echo: None,
    };
    for (encoding, address, expected) in [
        (0, "", Ok(None)),
        (
            2,
            "06000001 00000000 00000000 00000001",
            Ok(Some("600:1::1")),
        ),
        (3, "0000000000000009", Ok(Some("fe80::9"))),
        (1, "c0000201", Err(Skip::Ipv4)),
        (4, "c0000201", Err(Skip::Encoding)),
        (5, "", Err(Skip::Encoding)),
        (255, "", Err(Skip::Encoding)),
        (3, "00000000000009", Err(Skip::Malformed)),
        (2, "0000000000000009", Err(Skip::Malformed)),
    ] {
        let body = block(5, &hex(&format!("{encoding:02x} 00 ffff 04b0 {address}")));
        match expected {
            Ok(address) => expect(&body, &[ihu(address)], &[]),
            Err(reason) => expect(&body, &[], &[reason]),
        }
    }
    expect(&hex("05 06 0000 0060 0000"), &[], &[Skip::ZeroInterval]);
}

#[test]
fn an_update_says_where_from_whom_and_how_far() {
    let body = after_router_id(&[update_tlv("02 00 40 00", "0600000100000002")]);
    expect(&body, &[Tlv::Update(update("600:1:0:2::/64"))], &[]);
}

#[test]
fn prefixes_have_as_many_bytes_as_their_length_needs_and_no_bits_behind_it() {
    for (length, bytes, expected) in [
        ("00", "", "::/0"),
        ("01", "80", "8000::/1"),
        ("07", "ff", "fe00::/7"),
        ("0d", "06ff", "6f8::/13"),
        ("80", "06000000 00000000 00000000 00000009", "600::9/128"),
    ] {
        let body = after_router_id(&[update_tlv(&format!("02 00 {length} 00"), bytes)]);
        expect(&body, &[Tlv::Update(update(expected))], &[]);
    }
}

#[test]
fn lengths_that_cannot_be_are_malformed() {
    let long = "06".repeat(32);
    for (fields, bytes) in [
        ("02 00 81 00", long.as_str()), // 129 bits of IPv6
        ("02 00 ff 00", &long),
        ("01 00 21 00", &long), // 33 bits of IPv4
        ("04 00 21 00", &long),
        ("02 00 40 00", "06000001000000"),   // one byte too few
        ("02 00 40 09", "0600000100000002"), // more omitted than there is
        ("02 00 00 01", "06"),
        ("03 00 40 01", "0600000100000002"), // link-local prefixes leave nothing out
    ] {
        let first = update_tlv("02 80 40 00", "0600000100000001");
        let body = after_router_id(&[first, update_tlv(fields, bytes)]);
        let expected = Tlv::Update(update("600:1:0:1::/64"));
        expect(&body, &[expected], &[Skip::Malformed]);
    }
}

#[test]
fn an_update_omits_bytes_of_the_last_prefix_that_was_set() {
    let body = after_router_id(&[
        update_tlv("02 80 40 00", "0600000100000002"),
        update_tlv("02 00 40 06", "0003"), // sets nothing
        update_tlv("02 80 30 04", "0004"), // shorter, and sets
        update_tlv("02 00 40 06", "0005"),
        update_tlv("02 00 2c 06", ""), // all of it omitted, four bits cut off
    ]);
    let prefixes = [
        "600:1:0:2::/64",
        "600:1:0:3::/64",
        "600:1:4::/48",
        "600:1:4:5::/64",
        "600:1::/44",
    ];
    expect(
        &body,
        &prefixes.map(|prefix| Tlv::Update(update(prefix))),
        &[],
    );
}

#[test]
fn bytes_are_omitted_only_where_a_prefix_of_that_encoding_was_set() {
    for first in [
        vec![],
        update_tlv("02 00 40 00", "0600000100000001"), // without the flag
        update_tlv("01 80 20 00", "c0000201"),
        update_tlv("04 80 20 00", "c0000201"),
    ] {
        let body = after_router_id(&[first, update_tlv("02 00 40 04", "00000002")]);
        let packet = packet(&body);
        let (tlvs, skipped) = read(&packet);
        assert!(!tlvs.contains(&Tlv::Update(update("600:1:0:2::/64"))));
        assert_eq!(skipped.count(Skip::NoPrefix), 1);
    }
}

#[test]
fn ipv4_and_ipv4_via_ipv6_have_prefixes_of_their_own_and_only_change_the_state() {
    let body = [
        update_tlv("01 80 18 00", "c00002"),
        update_tlv("04 80 18 00", "c63364"),
        // The router-id of the second is taken from its prefix, 198.51.100.0; the first would give another.
        update_tlv("01 40 20 03", "00"),
        update_tlv("04 40 20 03", "00"),
        update_tlv("02 00 20 00", "06000001"),
    ];
    let expected = Update {
        router_id: Some(RouterId([0, 0, 0, 0, 198, 51, 100, 0])),
        ..update("600:1::/32")
    };
    expect(&body.concat(), &[Tlv::Update(expected)], &[Skip::Ipv4; 4]);
}

#[test]
fn a_router_id_may_come_out_of_a_prefix() {
    let body = [
        update_tlv("02 40 80 00", "06000001000000020102030405060708"),
        update_tlv("02 00 20 00", "06000001"),
    ];
    let updates = ["600:1:0:2:102:304:506:708/128", "600:1::/32"].map(|it| Tlv::Update(update(it)));
    expect(&body.concat(), &updates, &[]);
}

#[test]
fn the_router_id_in_the_prefix_of_a_64_is_none() {
    let body = after_router_id(&[
        update_tlv("02 40 40 00", "0600000100000002"),
        update_tlv("02 00 20 00", "06000001"),
    ]);
    expect(&body, &[], &[Skip::NoRouterId; 2]);
}

#[test]
fn a_route_has_a_router_id_and_a_retraction_needs_none() {
    let body = [
        update_tlv("02 00 20 00", "06000001"),
        retraction_tlv("02 00 20 00", "06000001"),
    ];
    let expected = Tlv::Update(retraction(Some("600:1::/32")));
    expect(&body.concat(), &[expected], &[Skip::NoRouterId]);
}

#[test]
fn reserved_router_ids_are_none_and_the_one_before_does_not_stay() {
    for reserved in ["00".repeat(8), "ff".repeat(8)] {
        let body = after_router_id(&[
            block(6, &hex(&format!("0000 {reserved}"))),
            update_tlv("02 00 20 00", "06000001"),
        ]);
        expect(&body, &[], &[Skip::ReservedRouterId, Skip::NoRouterId]);
        let request = hex(&format!("02 20 0006 40 00 {reserved} 06000001"));
        expect(&block(10, &request), &[], &[Skip::ReservedRouterId]);
    }
}

#[test]
fn the_state_of_one_packet_is_unknown_in_the_next() {
    let first = packet(&after_router_id(&[update_tlv("02 80 20 00", "06000001")]));
    assert_eq!(read(&first).0.len(), 1);
    expect(&update_tlv("02 00 20 02", "0002"), &[], &[Skip::NoPrefix]);
    expect(
        &update_tlv("02 00 20 00", "06000001"),
        &[],
        &[Skip::NoRouterId],
    );
}

#[test]
fn the_next_hop_is_the_source_until_another_is_named() {
    let via = |next_hop: &str| {
        Tlv::Update(Update {
            next_hop: next_hop.parse().unwrap(),
            ..update("600:1::/32")
        })
    };
    let tlv = update_tlv("02 00 20 00", "06000001");
    let body = after_router_id(&[
        tlv.clone(),
        hex("07 0a 03 00 0000000000000002"),
        tlv.clone(),
        hex("07 06 01 00 c0000201"), // another family
        tlv.clone(),
        hex("07 12 02 00 06000000000000000000000000000003"),
        tlv,
    ]);
    let expected = [
        via("fe80::1"),
        via("fe80::2"),
        via("fe80::2"),
        via("600::3"),
    ];
    expect(&body, &expected, &[Skip::Ipv4]);
}

#[test]
fn a_next_hop_of_another_encoding_changes_nothing() {
    for encoding in [0, 4, 5, 255] {
        let next_hop = block(7, &hex(&format!("{encoding:02x} 00 0000000000000002")));
        let body = after_router_id(&[next_hop, update_tlv("02 00 20 00", "06000001")]);
        expect(
            &body,
            &[Tlv::Update(update("600:1::/32"))],
            &[Skip::Encoding],
        );
    }
}

#[test]
fn after_an_unusable_next_hop_routes_are_skipped_and_retractions_are_not() {
    for (next_hop, reason) in [
        ("02 00 ff020000000000000000000000000106", Skip::Martian),
        ("02 00 00000000000000000000000000000000", Skip::Martian),
        ("02 00 00000000000000000000ffffc0000201", Skip::Martian),
        ("02 00 0600", Skip::Malformed),
        ("03 00 00000000000002", Skip::Malformed),
    ] {
        let body = after_router_id(&[
            block(7, &hex(next_hop)),
            update_tlv("02 00 20 00", "06000001"),
            retraction_tlv("02 00 20 00", "06000001"),
        ]);
        let expected = Tlv::Update(retraction(Some("600:1::/32")));
        expect(&body, &[expected], &[reason, Skip::NoNextHop]);
    }
}

#[test]
fn all_destinations_can_only_be_retracted() {
    expect(
        &retraction_tlv("00 00 00 00", ""),
        &[Tlv::Update(retraction(None))],
        &[],
    );
    for body in [
        update_tlv("00 00 00 00", ""),
        retraction_tlv("00 00 01 00", "00"),
        retraction_tlv("00 00 00 01", ""),
        retraction_tlv("00 00 40 00", "0600000100000002"),
    ] {
        expect(&after_router_id(&[body]), &[], &[Skip::Malformed]);
    }
}

#[test]
fn an_update_has_an_interval_or_is_not_repeated() {
    let with_interval = |hundredths: &str| {
        let body = hex(&format!("02 00 20 00 {hundredths} 0005 0100 06000001"));
        after_router_id(&[block(8, &body)])
    };
    expect(&with_interval("0000"), &[], &[Skip::ZeroInterval]);
    let once = Update {
        interval: None,
        ..update("600:1::/32")
    };
    expect(&with_interval("ffff"), &[Tlv::Update(once)], &[]);
}

#[test]
fn updates_of_other_encodings_are_skipped_and_leave_no_router_id_behind() {
    for encoding in [5, 224, 255] {
        let body = after_router_id(&[
            update_tlv(&format!("{encoding:02x} 80 20 00"), "06000001"),
            update_tlv("02 00 20 00", "06000001"),
            update_tlv(&format!("{encoding:02x} c0 20 00"), "06000001"),
            update_tlv("02 00 20 00", "06000001"),
        ]);
        let expected = [Tlv::Update(update("600:1::/32"))];
        expect(
            &body,
            &expected,
            &[Skip::Encoding, Skip::Encoding, Skip::NoRouterId],
        );
    }
}

#[test]
fn no_route_leads_to_a_martian() {
    for (fields, bytes) in [
        ("02 00 40 00", "fe80000000000000"),
        ("02 00 0a 00", "fe80"),
        ("02 00 08 00", "ff"),
        ("02 00 80 00", "00000000000000000000000000000001"),
        ("02 00 80 00", "00000000000000000000000000000000"),
        ("02 00 78 00", "00000000000000000000ffffc00002"),
        ("03 00 40 00", "0000000000000002"),
    ] {
        let body = after_router_id(&[update_tlv(fields, bytes), retraction_tlv(fields, bytes)]);
        expect(&body, &[], &[Skip::Martian; 2]);
    }
}

#[test]
fn an_unknown_mandatory_sub_tlv_makes_any_tlv_unusable_and_an_optional_one_does_not() {
    let tlvs = [
        "02 0000 1234 0032",
        "03 0007",
        "04 0000 0001 0190",
        "05 0000 0060 04b0",
        "08 02 00 20 00 0640 0005 0100 06000001",
        "09 02 20 06000001",
        "09 00 00",
        "0a 02 20 0006 40 00 0102030405060708 06000001",
    ];
    for tlv in tlvs {
        let (kind, body) = tlv.split_at(2);
        let kind = u8::from_str_radix(kind, 16).unwrap();
        let with = |sub_tlvs: &str| {
            let tlv = block(kind, &hex(&format!("{body} {sub_tlvs}")));
            let packet = packet(&after_router_id(&[tlv]));
            let (tlvs, skipped) = read(&packet);
            (tlvs.len(), skipped.iter().collect::<Vec<_>>())
        };
        for optional in ["7f 00", "02 01 ff", "00", "01 00", "04 02 ffff 05 00 00"] {
            assert_eq!(with(optional), (1, vec![]), "{tlv} with {optional}");
        }
        for mandatory in ["81 00", "f0 02 0000", "ff 00", "02 01 ff 00 01 01 00 fe 00"] {
            let skips = vec![(Skip::UnknownMandatory, 1)];
            assert_eq!(with(mandatory), (0, skips), "{tlv} with {mandatory}");
        }
        for truncated in ["02", "02 01", "01 ff 00", "81 02 00", "00 00 70"] {
            let skips = vec![(Skip::Malformed, 1)];
            assert_eq!(with(truncated), (0, skips), "{tlv} with {truncated}");
        }
    }
}

#[test]
fn an_ignored_tlv_changes_the_state_all_the_same() {
    let body = [
        block(6, &hex("0000 0102030405060708 81 00")),
        block(7, &hex("03 00 0000000000000002 81 00")),
        update_tlv("02 80 40 00", "0600000100000002 81 00"),
        update_tlv("02 00 40 06", "0003"),
        // Ignored for its interval, its martian prefix, its source prefix: what they set counts.
        block(8, &hex("02 80 20 00 0000 0005 0100 06000005")),
        update_tlv("02 00 40 04", "00000003"),
        update_tlv("02 c0 80 00", "fe80000000000000 1112131415161718"),
        update_tlv("02 80 20 00", "06000007 80 05 20 06000001"),
        update_tlv("02 00 40 04", "00000004"),
    ];
    let via = |prefix, router_id| {
        Tlv::Update(Update {
            next_hop: "fe80::2".parse().unwrap(),
            router_id: Some(router_id),
            ..update(prefix)
        })
    };
    let expected = [
        via("600:1:0:3::/64", ID),
        via("600:5:0:3::/64", ID),
        via(
            "600:7:0:4::/64",
            RouterId([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
        ),
    ];
    let skips = [
        Skip::UnknownMandatory,
        Skip::UnknownMandatory,
        Skip::UnknownMandatory,
        Skip::ZeroInterval,
        Skip::Martian,
        Skip::SourceSpecific,
    ];
    expect(&body.concat(), &expected, &skips);
}

#[test]
fn what_cannot_be_read_leaves_nothing_to_build_on() {
    let first = update_tlv("02 80 40 00", "0600000100000001");
    let expected = Tlv::Update(update("600:1:0:1::/64"));
    for (broken, reason) in [
        (hex("08 04 02 00 40 00"), Skip::Malformed),
        (update_tlv("02 c0 40 00", "0600"), Skip::Malformed),
        (update_tlv("02 c0 81 00", ""), Skip::Malformed),
        (hex("06 04 0000 0102"), Skip::Malformed),
    ] {
        let body = after_router_id(&[
            first.clone(),
            broken,
            update_tlv("02 00 40 00", "0600000100000002"),
        ]);
        expect(&body, &[expected], &[reason, Skip::NoRouterId]);
    }
    for broken in ["08 04 02 00 40 00", "08 0c 02 80 40 00 0640 0005 0100 0600"] {
        let body = after_router_id(&[
            first.clone(),
            hex(broken),
            hex(ROUTER_ID),
            update_tlv("02 00 40 06", "0002"),
        ]);
        expect(&body, &[expected], &[Skip::Malformed, Skip::NoPrefix]);
    }
}

#[test]
fn routes_from_one_source_prefix_only_are_skipped_and_so_are_requests_for_them() {
    for (sub_tlv, reason) in [
        ("80 05 20 06000001", Skip::SourceSpecific),
        ("80 07 20 06000001 ffff", Skip::SourceSpecific), // longer than it need be
        ("80 05 20 06000001 80 05 20 06000001", Skip::SourceSpecific),
        ("80 00", Skip::Malformed),
        ("80 01 00", Skip::Malformed), // of no length
        ("80 04 20 060000", Skip::Malformed),
        (
            "80 12 81 0600000000000000000000000000000000",
            Skip::Malformed,
        ),
    ] {
        for body in [
            update_tlv("02 00 20 00", &format!("06000001 {sub_tlv}")),
            block(9, &hex(&format!("02 20 06000001 {sub_tlv}"))),
            block(
                10,
                &hex(&format!(
                    "02 20 0006 40 00 0102030405060708 06000001 {sub_tlv}"
                )),
            ),
        ] {
            expect(&after_router_id(&[body]), &[], &[reason]);
        }
    }
    for wildcard in [
        retraction_tlv("00 00 00 00", "80 05 20 06000001"),
        hex("09 09 00 00 80 05 20 06000001"),
    ] {
        expect(&wildcard, &[], &[Skip::Malformed]);
    }
    let hello = hex("04 0d 0000 0001 0190 80 05 20 06000001");
    expect(&hello, &[], &[Skip::UnknownMandatory]);
}

#[test]
fn the_first_proof_is_handed_on_unread_and_a_short_one_is_none() {
    let proof: [u8; PROOF_LEN] = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let with = |sub_tlvs: &[u8]| {
        let mut tlv = update_tlv("02 00 20 00", "06000001");
        tlv.extend(sub_tlvs);
        tlv[1] = u8::try_from(tlv.len() - 2).unwrap();
        after_router_id(&[tlv])
    };
    let proven = Update {
        proof: Some(proof),
        ..update("600:1::/32")
    };
    let longer = [&proof[..], &[9]].concat();
    expect(&with(&block(112, &proof)), &[Tlv::Update(proven)], &[]);
    expect(&with(&block(112, &longer)), &[Tlv::Update(proven)], &[]);
    let twice = [block(112, &proof), block(112, &[9; PROOF_LEN])].concat();
    expect(&with(&twice), &[Tlv::Update(proven)], &[]);
    let unproven = Tlv::Update(update("600:1::/32"));
    expect(&with(&block(112, &proof[1..])), &[unproven], &[]);
}

#[test]
fn route_requests_ask_for_one_prefix_or_for_all() {
    let request = |prefix: Option<&str>| Tlv::RouteRequest {
        prefix: prefix.map(|prefix| prefix.parse().unwrap()),
    };
    for (body, expected) in [
        ("00 00", Ok(None)),
        ("02 20 06000001", Ok(Some("600:1::/32"))),
        ("02 1f 06000001", Ok(Some("600::/31"))),
        ("02 00", Ok(Some("::/0"))),
        ("00 01 00", Err(Skip::Malformed)),
        ("00 40 0600000100000002", Err(Skip::Malformed)),
        ("02 20 060000", Err(Skip::Malformed)),
        ("02 81 06000001", Err(Skip::Malformed)),
        ("01 18 c00002", Err(Skip::Ipv4)),
        ("04 18 c00002", Err(Skip::Ipv4)),
        ("03 40 0000000000000002", Err(Skip::Martian)),
        ("05 00", Err(Skip::Encoding)),
    ] {
        let body = block(9, &hex(body));
        match expected {
            Ok(prefix) => expect(&body, &[request(prefix)], &[]),
            Err(reason) => expect(&body, &[], &[reason]),
        }
    }
}

#[test]
fn seqno_requests_name_a_prefix_an_origin_and_how_far_they_travel() {
    let request = Tlv::SeqnoRequest {
        prefix: "600:1::/32".parse().unwrap(),
        seqno: Seqno(6),
        hop_count: 1,
        router_id: ID,
    };
    for (body, expected) in [
        ("02 20 0006 01 00 0102030405060708 06000001", Ok(request)),
        (
            "02 20 0006 00 00 0102030405060708 06000001",
            Err(Skip::ZeroHopCount),
        ),
        ("00 00 0006 01 00 0102030405060708", Err(Skip::Malformed)),
        (
            "02 20 0006 01 00 0102030405060708 060000",
            Err(Skip::Malformed),
        ),
        ("01 18 0006 01 00 0102030405060708 c00002", Err(Skip::Ipv4)),
        ("04 18 0006 01 00 0102030405060708 c00002", Err(Skip::Ipv4)),
        (
            "09 18 0006 01 00 0102030405060708 c00002",
            Err(Skip::Encoding),
        ),
    ] {
        let body = block(10, &hex(body));
        match expected {
            Ok(tlv) => expect(&body, &[tlv], &[]),
            Err(reason) => expect(&body, &[], &[reason]),
        }
    }
}

#[test]
fn extensions_are_handed_on_unread() {
    for length in [0, 1, 255] {
        let body = vec![0x81; length];
        expect(&block(224, &body), &[Tlv::Extension(&body)], &[]);
    }
}

#[test]
fn packets_that_broke_other_speakers_do_no_harm() {
    // Reads past the end: a header alone, a TLV header alone, sub-TLV headers alone, and bodies shorter than their type's.
    for bytes in [
        "2a 02 0002 2a 02",
        "2a 02 0001 08",
        "2a 02 0002 08 00",
        "2a 02 0003 07 01 03",
        "2a 02 0009 04 07 0000 0001 0190 03",
        "2a 02 000e 09 0c 02 ff ffffffffffffffffffff",
    ] {
        let bytes = hex(bytes);
        let mut tlvs = Packet::parse(&bytes).unwrap().tlvs(SOURCE);
        assert_eq!(tlvs.next(), None);
        assert_eq!(tlvs.skipped().total(), 1);
    }
    assert_eq!(
        Packet::parse(&hex("2a 02 002a 02")).unwrap_err(),
        DecodeError::Truncated {
            body: 42,
            packet: 5
        }
    );
}

#[test]
fn the_largest_packets_are_read_to_their_end() {
    let pad_1 = vec![0; 65_535];
    expect(&pad_1, &[], &[]);
    let empty = [224, 0].repeat(32_767);
    expect(&empty, &vec![Tlv::Extension(&[]); 32_767], &[]);
    let long = [&[99, 255][..], &[0; 255]].concat().repeat(255);
    expect(&long, &[], &[Skip::UnknownType; 255]);
    // A TLV full of sub-TLVs, and sub-TLVs that hold what looks like sub-TLVs.
    let sub_tlvs = [&hex("0000 0001 0190")[..], &[2, 0].repeat(124), &[0]].concat();
    let nested = hex("0000 0001 0190 02 06 02 04 02 02 02 00");
    let hello = Tlv::Hello {
        kind: HelloKind::Multicast,
        seqno: Seqno(1),
        interval: Some(Interval(400)),
        sent: None,
    };
    expect(&block(4, &sub_tlvs), &[hello], &[]);
    expect(&block(4, &nested), &[hello], &[]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(packet) = Packet::parse(&bytes) {
            let mut tlvs = packet.tlvs(SOURCE);
            let count = tlvs.by_ref().count() as u64 + tlvs.skipped().total();
            prop_assert!(count <= bytes.len() as u64 / 2);
        }
    }

    #[test]
    fn likely_bytes_are_read_without_harm(
        tlvs in proptest::collection::vec((1_u8..12, proptest::collection::vec(0_u8..6, 0..40)), 0..40),
    ) {
        let body = tlvs.iter().flat_map(|(kind, body)| block(*kind, body)).collect::<Vec<_>>();
        let packet = packet(&body);
        let (read, skipped) = read(&packet);
        prop_assert!(read.len() as u64 + skipped.total() <= tlvs.len() as u64);
        for tlv in read {
            if let Tlv::Update(update) = tlv {
                prop_assert_eq!(update.router_id.is_some(), update.metric.is_finite());
                prop_assert!(update.prefix.is_some() || !update.metric.is_finite());
                prop_assert!(update.router_id.is_none_or(|id| !id.is_reserved()));
                prop_assert!(update.prefix.is_none_or(|it| it.ip() == it.network()));
            }
        }
    }

    #[test]
    fn a_cut_packet_says_no_more_than_a_whole_one(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut: prop::sample::Index) {
        let cut = cut.index(bytes.len() + 1);
        let (whole, part) = (packet(&bytes), packet(&bytes[..cut]));
        let (whole, part) = (read(&whole).0, read(&part).0);
        prop_assert_eq!(&whole[..part.len()], &part[..]);
    }
}

#[test]
fn the_group_is_all_babel_nodes_on_the_link() {
    assert_eq!(
        routing::wire::GROUP,
        "ff02::1:6".parse::<Ipv6Addr>().unwrap()
    );
}
