//! Neighbours that lie, flood and forget. Whatever they do, tables stay within their bounds and others are served.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail by panic, and looks at what it wants to see"
)]

mod lab;

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use lab::*;
use proptest::prelude::*;
use routing::sim::{Net, millis, owner, router_id, secs};
use routing::wire::{Echo, HelloKind, PacketWriter, Tlv, Update};
use routing::{Event, Interval, LinkId, Metric, Peer, Reason, Seqno, Verdict};

const STOCK: LinkId = LinkId(5);

/// A router with two honest neighbours, and one that may announce anything that is not the overlay's.
fn lab() -> Lab {
    let mut lab = Lab::with_neighbours(2);
    let allow = vec![net("2001:db8::/32")];
    lab.stock(5, Peer::Legacy { allow });
    lab.run(millis(200));
    lab.forget();
    lab
}

fn numbered(number: u32) -> Ipv6Network {
    let bits = (0x2001_0db8_u128 << 96) | (u128::from(number) << 64);
    Ipv6Network::new(Ipv6Addr::from(bits), 64).unwrap()
}

#[test]
fn a_hundred_thousand_prefixes_from_one_neighbour_are_capped_and_others_served() {
    let mut lab = lab();
    for chunk in 0..1_000 {
        let updates: Vec<_> = (0..100)
            .map(|number| Tlv::Update(Lab::plain(numbered(chunk * 100 + number), 7, 1, 0)))
            .collect();
        lab.say(STOCK, &updates);
        lab.run(millis(10));
        if chunk % 100 == 0 {
            lab.forget();
        }
    }
    let taken = lab
        .router
        .links()
        .find(|it| it.link == STOCK)
        .unwrap()
        .routes;
    assert!(taken <= 4_096, "{taken}");
    assert!(lab.router.destinations() <= 4_096 + 10);
    assert!(lab.discarded(Reason::DestinationLimit) > 10_000);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    assert_eq!(lab.selected(owner(FAR).prefix), Some((A, 196)));
    assert_eq!(lab.metrics(B, owner(FAR).prefix), [196]);
}

#[test]
fn prefixes_that_come_and_go_do_not_drive_out_what_must_be_remembered() {
    let mut lab = lab();
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.hear_retraction(A, owner(FAR).prefix);
    lab.run(millis(500));
    for round in 0..200_u32 {
        let announced: Vec<_> = (0..60)
            .map(|number| Tlv::Update(Lab::plain(numbered(round * 60 + number), 7, 1, 0)))
            .collect();
        lab.say(STOCK, &announced);
        let all = Update {
            prefix: None,
            router_id: None,
            metric: Metric::INFINITY,
            ..Lab::plain(overlay(), 7, 1, 0)
        };
        lab.say(STOCK, &[Tlv::Update(all)]);
        lab.run(millis(500));
    }
    lab.hear(A, FAR, 0, 196);
    assert_eq!(
        lab.selected(owner(FAR).prefix),
        None,
        "the distance of 196 is remembered"
    );
    assert!(lab.router.destinations() <= 8_200);
}

#[test]
fn a_flood_of_updates_is_cut_off_and_what_was_missed_is_asked_for() {
    let mut lab = lab();
    let update = Lab::plain(numbered(1), 7, 1, 0);
    let packet = vec![Tlv::Update(update); 50];
    for _ in 0..1_000 {
        lab.say(STOCK, &packet);
    }
    assert!(lab.discarded(Reason::UpdateLimit) >= 50_000 - 20_000 - 50);
    lab.forget();
    lab.run(secs(11));
    assert!(lab.has_sent(STOCK, |tlv| *tlv == Tlv::RouteRequest { prefix: None }));
}

/// How many bytes leave by a link while its neighbour says the same a thousand times within a second.
fn echo(tlv: &Tlv<'_>) -> usize {
    let mut lab = lab();
    for node in 10..60 {
        lab.hear(A, node, 0, 100);
    }
    lab.run(secs(2));
    lab.forget();
    for _ in 0..100 {
        lab.say(B, &vec![*tlv; 10]);
        lab.run(millis(10));
    }
    let sent = lab.sent.iter().filter(|sent| sent.link == B);
    sent.map(|sent| sent.packet.len()).sum()
}

#[test]
fn no_flood_of_requests_is_amplified() {
    let everything = echo(&Tlv::RouteRequest { prefix: None });
    assert!(
        everything < 10_000,
        "two tables, not a thousand: {everything}"
    );
    let ours = echo(&Tlv::SeqnoRequest {
        prefix: owner(US).prefix,
        seqno: Seqno(20_000),
        hop_count: 255,
        router_id: router_id(US),
    });
    assert!(ours < 30_000, "{ours}");
    let nowhere = echo(&Tlv::RouteRequest {
        prefix: Some(numbered(7)),
    });
    assert!(nowhere < 30_000, "{nowhere}");
    let acks = echo(&Tlv::AckRequest {
        opaque: 1,
        interval: Interval(100),
    });
    assert!(acks <= 20_000, "{acks}");
}

#[test]
fn seqno_requests_with_ever_newer_seqnos_are_passed_on_once_until_they_are_answered() {
    let mut lab = lab();
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.forget();
    let first = lab.route(FAR, 0, 0).seqno;
    for ahead in 1..500 {
        lab.say(
            B,
            &[Tlv::SeqnoRequest {
                prefix: owner(FAR).prefix,
                seqno: first.plus(ahead),
                hop_count: 255,
                router_id: router_id(FAR),
            }],
        );
        lab.run(millis(10));
    }
    let passed_on = lab.requested(A, owner(FAR).prefix).len();
    assert!(passed_on <= 11, "{passed_on} in 5 s");
}

#[test]
fn a_neighbour_that_sends_garbage_is_not_heeded_for_a_minute() {
    let mut lab = lab();
    lab.hear(A, FAR, 0, 100);
    lab.hear(B, FAR, 0, 150);
    lab.run(millis(100));
    let from = lab.neighbours[&A].address;
    for _ in 0..60 {
        lab.say_bytes(A, from, b"\x2a\x02\x00\x02\x2a\x02").unwrap();
    }
    assert_eq!(lab.selected(owner(FAR).prefix), Some((B, 246)));
    lab.run(secs(59));
    assert_eq!(lab.selected(owner(FAR).prefix), Some((B, 246)));
    lab.run(secs(8));
    assert_eq!(lab.selected(owner(FAR).prefix), Some((A, 196)));
}

#[test]
fn hellos_of_a_neighbour_that_always_begins_anew_make_no_storm() {
    let mut lab = lab();
    lab.neighbour(A).manners = Manners::NoAcks;
    lab.forget();
    for round in 0..1_000_u16 {
        lab.neighbour(A).hello_seqno = round.wrapping_mul(1_000);
        lab.greet(A);
        lab.run(millis(10));
    }
    let sent = lab.sent.iter().filter(|sent| sent.link == A).count();
    assert!(sent < 400, "{sent} in 10 s");
    assert!(lab.discarded(Reason::Restarts) > 900);
}

#[test]
fn what_comes_from_strangers_or_is_not_for_us_is_ignored() {
    let mut lab = lab();
    let hello = |seqno| Tlv::Hello {
        kind: HelloKind::Multicast,
        seqno: Seqno(seqno),
        interval: Some(Interval(100)),
        sent: None,
    };
    lab.say_from(A, address(77), &[hello(1)]);
    assert_eq!(lab.discarded(Reason::Stranger), 1);
    lab.say_from(STOCK, address(77), &[hello(1)]);
    assert_eq!(
        lab.discarded(Reason::Stranger),
        2,
        "there is a neighbour already"
    );
    let mut writer = PacketWriter::unicast(1_420, address(1));
    writer.push(&hello(1)).unwrap();
    let packet = writer.finish().remove(0).bytes;
    let global = "2001:db8::1".parse().unwrap();
    assert!(lab.say_bytes(A, global, &packet).is_err());
    let other = routing::Cast::Unicast(address(3));
    let read = lab
        .router
        .handle_packet(A, address(1), other, &packet, lab.now, lab.now);
    assert_eq!(read, Ok(()));
    assert_eq!(lab.discarded(Reason::NotForUs), 1);
    let read = lab.router.handle_packet(
        LinkId(999),
        address(1),
        routing::Cast::Multicast,
        &packet,
        lab.now,
        lab.now,
    );
    assert_eq!(read, Ok(()));
    assert_eq!(lab.discarded(Reason::UnknownLink), 1);
}

/// One of everything a neighbour may say, with values out of a small range so that they meet.
fn anything() -> impl Strategy<Value = (u8, u16, u16, u8)> {
    (
        0_u8..12,
        0_u16..40,
        prop_oneof![0_u16..400, Just(0xffff)],
        0_u8..8,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_neighbours_say_the_tables_stay_sound(
        said in proptest::collection::vec((1_u32..=3, anything(), 0_u64..400), 1..150),
    ) {
        let mut lab = Lab::with_neighbours(2);
        lab.stock(3, Peer::Legacy { allow: vec![overlay(), net("2001:db8::/32")] });
        lab.run(millis(100));
        for (link, (what, number, metric, kind), wait) in said {
            let link = LinkId(link);
            let to = 10 + usize::from(kind % 4);
            let prefix = owner(to).prefix;
            let update = if link == LinkId(3) {
                Lab::plain(if kind < 4 { prefix } else { numbered(kind.into()) }, kind + 1, number, metric)
            } else {
                lab.route(to, number % 6, metric)
            };
            let tlv = match what {
                0..=3 => Tlv::Update(update),
                4 => Tlv::Update(Update { proof: None, ..update }),
                5 => Tlv::Update(Update { prefix: None, router_id: None, metric: Metric::INFINITY, ..update }),
                6 => Tlv::RouteRequest { prefix: (kind > 0).then_some(prefix) },
                7 => Tlv::SeqnoRequest {
                    prefix: if kind == 0 { owner(US).prefix } else { prefix },
                    seqno: lab.route(to, number % 9, 0).seqno,
                    hop_count: kind + 1,
                    router_id: router_id(if kind == 0 { US } else { to }),
                },
                8 => Tlv::Ack { opaque: number },
                9 => Tlv::Hello {
                    kind: HelloKind::Unicast,
                    seqno: Seqno(number),
                    interval: (kind > 3).then_some(Interval(number + 1)),
                    sent: Some(metric.into()),
                },
                10 => Tlv::Ihu {
                    address: None,
                    rxcost: Metric(metric),
                    interval: Interval(number + 1),
                    echo: None,
                },
                _ => {
                    lab.neighbour(link).manners = [Manners::Good, Manners::NoAcks, Manners::Silent][usize::from(kind) % 3];
                    continue;
                }
            };
            lab.say(link, &[tlv]);
            lab.run(millis(wait));
        }
    }

    #[test]
    fn no_bytes_make_the_router_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut lab = Lab::with_neighbours(1);
        let length = (bytes.len() as u16).to_be_bytes();
        let packet = [&[42, 2, length[0], length[1]], &bytes[..]].concat();
        for bytes in [&bytes, &packet] {
            let _read = lab.say_bytes(A, address(1), bytes);
        }
        lab.run(secs(1));
    }
}

/// A network of six: a victim at each end, and a liar beside the honest way.
///
/// ```text
/// 0 - 1 - 2 - 3
///  \         /
///   4 (liar)
/// ```
fn with_liar() -> Net {
    let mut net = Net::of(5, &[(0, 1), (1, 2), (2, 3), (0, 4), (4, 3)], 1);
    assert!(net.run_until(secs(2), Net::is_connected));
    net.run_for(secs(3));
    net
}

const LIAR: usize = 4;

/// The pairs of honest nodes that do not reach each other, though the honest among themselves could.
fn harmed(net: &Net) -> Vec<(usize, usize)> {
    let mut pairs = net.unreached();
    pairs.retain(|&(a, b)| a != LIAR && b != LIAR);
    pairs
}

#[test]
fn who_announces_anothers_prefix_is_not_believed() {
    let mut net = with_liar();
    net.tamper(
        LIAR,
        Box::new(|tlv, writer| {
            let forged = match tlv {
                Tlv::Update(update) if update.metric.is_finite() => Tlv::Update(Update {
                    metric: Metric(0),
                    seqno: update.seqno.plus(1),
                    ..*update
                }),
                other => *other,
            };
            let _written = writer.push(&forged);
        }),
    );
    net.restart(LIAR, routing::sim::Kept::State);
    net.run_for(secs(10));
    for node in [0, 3] {
        let router = &net.node(node).router;
        let liar = net.wire_between(node, LIAR) as u32;
        for route in router
            .routes()
            .filter(|it| it.via.is_some_and(|(link, _)| link.0 == liar))
        {
            assert_eq!(route.advertised, Metric::INFINITY, "{route:?}");
        }
        assert!(router.discards().count(Reason::WrongProof) > 0);
    }
    assert_eq!(harmed(&net), []);
    assert_eq!(net.loops(), 0);
}

#[test]
fn who_understates_a_metric_gains_nothing_by_it() {
    let mut net = with_liar();
    let wire = net.wire_between(LIAR, 3);
    net.wire_mut(wire).set_latency(millis(60));
    net.run_for(secs(60));
    net.tamper(
        LIAR,
        Box::new(|tlv, writer| {
            let forged = match tlv {
                Tlv::Update(update) if update.metric.is_finite() && update.metric.0 > 96 => {
                    Tlv::Update(Update {
                        metric: Metric(96),
                        ..*update
                    })
                }
                other => *other,
            };
            let _written = writer.push(&forged);
        }),
    );
    net.restart(LIAR, routing::sim::Kept::State);
    net.run_for(secs(10));
    let to_3 = net.path(0, 3).1;
    assert_eq!(to_3.len(), 3, "the honest way: {to_3:?}");
    assert_eq!(harmed(&net), []);
}

#[test]
fn who_says_that_it_is_near_is_measured() {
    let mut net = Net::line(2, 1);
    net.wire_mut(0).set_latency(millis(50));
    // It says that it got our Hello at once, and sent its own long after: so it looks as if all the time had passed there.
    net.tamper(
        1,
        Box::new(|tlv, writer| {
            let forged = match tlv {
                Tlv::Ihu {
                    address,
                    rxcost,
                    interval,
                    echo: Some(echo),
                } => Tlv::Ihu {
                    address: *address,
                    rxcost: *rxcost,
                    interval: *interval,
                    echo: Some(Echo {
                        received: echo.received.wrapping_sub(99_000),
                        ..*echo
                    }),
                },
                other => *other,
            };
            let _written = writer.push(&forged);
        }),
    );
    net.run_for(secs(300));
    let link = net.node(0).router.links().next().unwrap();
    assert!(link.rtt >= Some(100_000), "{:?}", link.rtt);
    assert!(link.cost >= Metric(96 + 240), "{}", link.cost);
}

/// It routes, and drops what it is given.
#[test]
fn who_drops_data_is_routed_around_within_15_s_and_remembered() {
    let mut net = with_liar();
    assert_eq!(net.path(0, 3).1.len(), 2, "through the liar");
    net.add_flow(0, 3, secs(1));
    net.node_mut(LIAR).is_black_hole = true;
    assert!(net.run_until(secs(15), |net| net.reaches(0, 3)));
    for _ in 0..60 {
        net.run_for(secs(1));
        assert!(net.reaches(0, 3), "remembered");
    }
    assert_eq!(net.loops(), 0);
}

/// Many destinations behind a neighbour that drops everything: it is not used at all any more.
#[test]
fn who_drops_everything_ends_in_quarantine() {
    let mut lab = Lab::with_neighbours(2);
    for node in 10..30 {
        lab.hear(A, node, 0, 100);
        lab.hear(B, node, 0, 150);
    }
    lab.run(millis(200));
    for node in 10..30 {
        let prefix = owner(node).prefix;
        lab.router
            .handle_feedback(prefix, A, Verdict::Failed, lab.now);
        assert_eq!(
            lab.selected(prefix),
            Some((B, 246)),
            "this destination at once"
        );
        lab.router
            .handle_feedback(prefix, B, Verdict::Answered, lab.now);
    }
    lab.drain();
    let is_it = |event: &Event| matches!(event, Event::Quarantined { link, .. } if *link == A);
    assert!(lab.events.iter().any(is_it));
    let cost = |lab: &Lab| lab.router.links().find(|it| it.link == A).unwrap().cost;
    assert_eq!(cost(&lab), Metric::INFINITY);
    lab.run(secs(590));
    assert_eq!(cost(&lab), Metric::INFINITY);
    lab.run(secs(20));
    assert!(cost(&lab).is_finite());
}

/// A destination that is silent itself, to frame the neighbours of others.
#[test]
fn who_is_silent_frames_nobody() {
    let mut lab = Lab::with_neighbours(2);
    for node in 10..30 {
        lab.hear(A, node, 0, 100);
        lab.hear(B, node, 0, 150);
    }
    lab.run(millis(200));
    for node in 10..30 {
        let prefix = owner(node).prefix;
        for link in [A, B] {
            lab.router
                .handle_feedback(prefix, link, Verdict::Failed, lab.now);
        }
    }
    lab.run(secs(1));
    assert!(lab.router.links().all(|link| link.cost == Metric(96)));
    assert!(
        !lab.events
            .iter()
            .any(|event| matches!(event, Event::Quarantined { .. }))
    );
}

#[test]
fn a_penalty_is_told_to_nobody_raises_only_and_ends() {
    let mut lab = Lab::with_neighbours(2);
    let far = owner(FAR).prefix;
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.router.handle_feedback(far, A, Verdict::Failed, lab.now);
    lab.run(millis(100));
    assert_eq!(
        lab.selected(far),
        Some((A, 196 + 16_384)),
        "there is no other"
    );
    assert_eq!(lab.metrics(B, far), [196]);
    lab.run(secs(301));
    assert_eq!(lab.selected(far), Some((A, 196 + 8_192)));
    lab.router
        .handle_feedback(far, A, Verdict::Answered, lab.now);
    assert_eq!(lab.selected(far), Some((A, 196)));
    lab.router
        .handle_feedback(far, A, Verdict::Answered, lab.now);
    assert_eq!(lab.selected(far), Some((A, 196)), "never a reward");
}

/// What was said long ago is said again.
#[test]
fn replayed_updates_change_nothing() {
    let mut lab = Lab::with_neighbours(2);
    let far = owner(FAR).prefix;
    let recorded = lab.route(FAR, 0, 100);
    lab.say(A, &[Tlv::Update(recorded)]);
    lab.run(millis(100));
    for ahead in 1..30 {
        lab.hear(A, FAR, ahead, 500);
        lab.run(millis(100));
    }
    assert_eq!(lab.selected(far), Some((A, 596)));
    lab.say(B, &[Tlv::Update(recorded)]);
    lab.run(secs(1));
    assert_eq!(lab.selected(far), Some((A, 596)));
}
