//! What babeld and BIRD make of what we send, and we of what they do: each trap that was found in them, by its number in the project's
//! notes on interoperation.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail by panic, and looks at what it wants to see"
)]

mod lab;

use lab::*;
use routing::sim::{millis, owner, secs};
use routing::wire::{HelloKind, Tlv, Update};
use routing::{Cast, Event, FibAction, Hint, Interval, LinkConfig, LinkId, Metric, Peer, Seqno};

const STOCK: LinkId = LinkId(5);

fn legacy(prefix: &str) -> Peer {
    Peer::Legacy {
        allow: vec![net(prefix)],
    }
}

/// A router with two neighbours of its kind, and a plain one that may announce the overlay and a prefix of its own.
fn lab() -> Lab {
    let mut lab = Lab::with_neighbours(2);
    let peer = Peer::Legacy {
        allow: vec![overlay(), net("2001:db8::/32")],
    };
    lab.stock(5, peer);
    lab.run(millis(200));
    lab.forget();
    lab
}

/// Every Hello in a lab of all kinds of neighbours, with its packet.
fn hellos(lab: &Lab) -> Vec<(Sent, Tlv<'static>)> {
    let mut all = Vec::new();
    for sent in &lab.sent {
        for tlv in sent.tlvs() {
            if let Tlv::Hello {
                kind,
                seqno,
                interval,
                sent: stamp,
            } = tlv
            {
                let hello = Tlv::Hello {
                    kind,
                    seqno,
                    interval,
                    sent: stamp,
                };
                all.push((sent.clone(), hello));
            }
        }
    }
    all
}

/// T1: BIRD drops a neighbour and its routes for a Hello without an interval. T3: it ignores Unicast Hellos.
#[test]
fn every_hello_is_scheduled_and_of_the_multicast_series() {
    let mut lab = lab();
    for hint in [Hint::Silent, Hint::CarrierLost, Hint::CarrierBack] {
        lab.router.handle_hint(STOCK, hint, lab.now);
        lab.run(secs(10));
    }
    let hellos = hellos(&lab);
    assert!(hellos.len() > 100);
    for (_, hello) in hellos {
        assert!(
            matches!(
                hello,
                Tlv::Hello {
                    kind: HelloKind::Multicast,
                    interval: Some(Interval(1..)),
                    ..
                }
            ),
            "{hello:?}"
        );
    }
}

/// T3: and a neighbour that sends only Unicast Hellos is one all the same.
#[test]
fn a_neighbour_with_unicast_hellos_only_is_used() {
    let mut lab = Lab::new();
    lab.stock(5, legacy("2001:db8::/32"));
    lab.neighbour(STOCK).manners = Manners::Silent;
    for seqno in 0..10 {
        lab.say(
            STOCK,
            &[
                Tlv::Hello {
                    kind: HelloKind::Unicast,
                    seqno: Seqno(seqno),
                    interval: Some(Interval(100)),
                    sent: None,
                },
                Tlv::Ihu {
                    address: Some(address(US)),
                    rxcost: Metric(96),
                    interval: Interval(300),
                    echo: None,
                },
            ],
        );
        lab.run(secs(1));
    }
    let up = lab.router.links().next().unwrap();
    assert_eq!(up.cost, Metric(96));
}

/// T4: both compute round-trip times only from a Hello and an IHU in one packet. T5: BIRD wants to have heard a Hello before all else.
#[test]
fn what_echoes_a_time_stands_behind_the_hello_that_has_one() {
    let mut lab = lab();
    let stamped = |lab: &mut Lab, seqno| {
        lab.say(
            STOCK,
            &[Tlv::Hello {
                kind: HelloKind::Multicast,
                seqno: Seqno(seqno),
                interval: Some(Interval(400)),
                sent: Some(77),
            }],
        );
    };
    lab.neighbour(STOCK).manners = Manners::Silent;
    for seqno in 102..110 {
        stamped(&mut lab, seqno);
        lab.run(secs(4));
    }
    let mut echoes = 0;
    for sent in lab.sent.iter().filter(|sent| sent.link == STOCK) {
        let tlvs = sent.tlvs();
        let hello = tlvs.iter().position(|tlv| matches!(tlv, Tlv::Hello { .. }));
        let ihu = tlvs.iter().position(|tlv| matches!(tlv, Tlv::Ihu { .. }));
        assert!(hello.is_none_or(|at| at == 0), "Hello comes first");
        if let Some(ihu) = ihu {
            assert!(hello.is_some_and(|hello| hello < ihu));
            assert!(matches!(tlvs[0], Tlv::Hello { sent: Some(_), .. }));
            let Tlv::Ihu { echo, .. } = &tlvs[ihu] else {
                unreachable!()
            };
            echoes += u32::from(echo.is_some_and(|echo| echo.origin == 77));
        }
    }
    assert!(echoes >= 2, "{echoes}");
}

/// T5.
#[test]
fn the_first_packet_on_a_link_is_a_hello_to_all_and_asks_for_everything() {
    let mut lab = Lab::new();
    lab.forget();
    lab.stock(5, legacy("2001:db8::/32"));
    let first = &lab.sent[0];
    assert_eq!(first.to, Cast::Multicast);
    let tlvs = first.tlvs();
    assert!(matches!(tlvs[0], Tlv::Hello { .. }));
    assert!(tlvs.contains(&Tlv::RouteRequest { prefix: None }));
}

#[test]
fn a_neighbour_that_never_acknowledges_keeps_our_routes() {
    let mut lab = lab();
    lab.stock(6, legacy("2001:db8::/32"));
    lab.neighbour(LinkId(6)).manners = Manners::NoAcks;
    lab.run(secs(60));
    let says = |is_it: fn(&Tlv<'_>) -> bool| {
        let of_link = lab.sent.iter().filter(|sent| sent.link == LinkId(6));
        let all = of_link
            .enumerate()
            .filter(move |(_, sent)| sent.tlvs().iter().any(is_it));
        all.map(|(place, _)| place)
    };
    let ends = says(|tlv| matches!(tlv, Tlv::Update(Update { prefix: None, .. })));
    let routes = says(|tlv| {
        matches!(
            tlv,
            Tlv::Update(Update {
                prefix: Some(_),
                ..
            })
        )
    });
    assert!(ends.max() < routes.min(), "first the end, then the routes");
}

/// T7: babeld up to 1.12.1 misreads the second sub-TLV of a Hello or an IHU.
#[test]
fn no_hello_and_no_ihu_has_two_sub_tlvs() {
    let mut lab = lab();
    lab.run(secs(30));
    for sent in &lab.sent {
        let mut rest = &sent.packet[4..];
        while let [kind, length, after @ ..] = rest {
            let (body, next) = after.split_at(usize::from(*length));
            let longest = match kind {
                4 => 6 + 6,
                5 => 6 + 8 + 10,
                _ => 255,
            };
            assert!(body.len() <= longest);
            rest = next;
        }
    }
}

/// T8: BIRD waits until 12 of the last 16 Hellos have come, unless it takes us for rebooted.
#[test]
fn after_an_outage_that_we_know_of_our_hello_seqno_leaps() {
    let mut lab = lab();
    let last = |lab: &Lab| {
        let mut of_link = hellos(lab)
            .into_iter()
            .filter(|(sent, _)| sent.link == STOCK);
        match of_link.next_back() {
            Some((_, Tlv::Hello { seqno, .. })) => seqno,
            _ => unreachable!("there are Hellos"),
        }
    };
    lab.run(secs(10));
    let before = last(&lab);
    lab.router.handle_hint(STOCK, Hint::CarrierLost, lab.now);
    lab.neighbour(STOCK).manners = Manners::Silent;
    lab.run(secs(30));
    let during = last(&lab);
    assert!(during.since(before) < 16);
    lab.router.handle_hint(STOCK, Hint::CarrierBack, lab.now);
    lab.drain();
    assert!(last(&lab).since(during) > 16, "at once");
}

#[test]
fn after_an_outage_that_only_shows_our_hello_seqno_leaps_once_the_neighbour_is_heard() {
    let mut lab = lab();
    let seqnos = |lab: &Lab| -> Vec<Seqno> {
        hellos(lab)
            .into_iter()
            .filter(|(sent, _)| sent.link == STOCK)
            .filter_map(|(_, tlv)| match tlv {
                Tlv::Hello { seqno, .. } => Some(seqno),
                _ => None,
            })
            .collect()
    };
    lab.run(secs(10));
    lab.neighbour(STOCK).manners = Manners::Silent;
    lab.run(secs(40));
    let during = seqnos(&lab);
    assert!(during.windows(2).all(|two| two[1].since(two[0]) == 1));
    // It is heard again, and does not hear us well enough yet.
    lab.neighbour(STOCK).rxcost = Metric::INFINITY;
    lab.neighbour(STOCK).hello_seqno += 10;
    for _ in 0..12 {
        lab.greet(STOCK);
        lab.run(secs(1));
    }
    let after = seqnos(&lab);
    let leaps = |seqnos: &[Seqno]| {
        let leaps = seqnos.windows(2).filter(|two| two[1].since(two[0]) > 16);
        leaps.count()
    };
    assert_eq!(leaps(&after), 1, "{after:?}");
}

/// T8, from the other side: two packets are enough for us.
#[test]
fn a_stock_neighbour_that_comes_back_is_used_after_its_first_answer() {
    let mut lab = lab();
    lab.neighbour(STOCK).manners = Manners::Silent;
    lab.run(secs(30));
    let cost = |lab: &Lab| lab.router.links().find(|it| it.link == STOCK).unwrap().cost;
    assert_eq!(cost(&lab), Metric::INFINITY);
    lab.neighbour(STOCK).manners = Manners::Good;
    lab.neighbour(STOCK).hello_seqno += 8;
    lab.greet(STOCK);
    lab.run(millis(500));
    assert_eq!(cost(&lab), Metric(96));
}

/// T10: babeld announces new routes late, and waits for the next whole table when it is new.
#[test]
fn a_neighbour_that_hears_us_is_told_everything_at_once() {
    let mut lab = Lab::with_neighbours(1);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.stock(5, legacy("2001:db8::/32"));
    lab.greet(STOCK);
    lab.run(millis(10));
    assert_eq!(lab.metrics(STOCK, owner(FAR).prefix), [196]);
    assert_eq!(lab.metrics(STOCK, owner(US).prefix), [0]);
}

/// T11: babeld changes a route in the kernel by removing it first.
#[test]
fn a_route_is_replaced_and_never_removed_before() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 300);
    lab.run(millis(100));
    lab.forget();
    lab.hear(B, FAR, 0, 100);
    lab.run(millis(100));
    let ops: Vec<_> = lab
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Fib(batch) => Some(batch.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(ops.len(), 1);
    assert!(matches!(ops[0].action, FibAction::Via { link, .. } if link == B));
}

/// T12: both pass routes on without our sub-TLVs.
#[test]
fn a_node_behind_a_plain_router_is_reached_without_proof_at_a_price() {
    let mut lab = lab();
    let stripped = Update {
        proof: None,
        ..lab.route(FAR, 0, 196)
    };
    lab.say(STOCK, &[Tlv::Update(stripped)]);
    lab.run(millis(100));
    let far = owner(FAR).prefix;
    assert_eq!(lab.selected(far), Some((STOCK, 196 + 96 + 1_000)));
    assert_eq!(lab.metrics(A, far), [0; 0], "it stops at the first of us");
    lab.say(A, &[Tlv::RouteRequest { prefix: Some(far) }]);
    lab.run(millis(50));
    assert_eq!(lab.metrics(A, far), [0xffff]);
}

#[test]
fn what_is_proven_is_never_displaced_by_what_a_plain_router_says() {
    let mut lab = lab();
    let far = owner(FAR).prefix;
    lab.hear(A, FAR, 0, 30_000);
    lab.run(millis(100));
    let stripped = Update {
        proof: None,
        ..lab.route(FAR, 5, 0)
    };
    lab.say(STOCK, &[Tlv::Update(stripped)]);
    lab.run(secs(5));
    assert_eq!(lab.selected(far), Some((A, 30_096)));
    assert_eq!(lab.metrics(B, far), [30_096]);
    lab.hear_retraction(A, far);
    assert_eq!(
        lab.selected(far),
        Some((STOCK, 1_096)),
        "better than nothing"
    );
    lab.run(millis(100));
    assert_eq!(lab.metrics(B, far), [30_096, 0xffff]);
    lab.hear(A, FAR, 0, 30_000);
    assert_eq!(lab.selected(far), Some((A, 30_096)));
}

#[test]
fn a_plain_router_gets_plain_routes() {
    let mut lab = lab();
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    let updates = lab.updates(STOCK, owner(FAR).prefix);
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].proof, None);
    assert_eq!(updates[0].interval, Some(Interval(1_600)));
    assert!(
        lab.sent
            .iter()
            .filter(|sent| sent.link == STOCK)
            .all(|sent| {
                !sent
                    .tlvs()
                    .iter()
                    .any(|tlv| matches!(tlv, Tlv::Extension(_)))
            })
    );
}

#[test]
fn a_plain_router_gets_every_route_again_in_time() {
    let mut lab = lab();
    lab.hear(A, FAR, 0, 100);
    lab.run(secs(100));
    let of_far = lab.updates(STOCK, owner(FAR).prefix).len();
    assert!((6..=9).contains(&of_far), "{of_far} in 100 s");
}

#[test]
fn a_stub_may_announce_what_the_operator_gave_it_and_nothing_else() {
    let mut lab = Lab::with_neighbours(1);
    let inside = owner(US).prefix.iter().nth(0x1_0000).unwrap();
    let given = ipnetwork::Ipv6Network::new(inside, 112).unwrap();
    let peer = Peer::Stub {
        prefixes: vec![given],
    };
    lab.stock(5, peer);
    lab.run(millis(100));
    let host = ipnetwork::Ipv6Network::new(inside, 128).unwrap();
    for (prefix, is_allowed) in [
        (given, true),
        (host, true),
        (owner(US).prefix, false),
        (owner(FAR).prefix, false),
        (net("2001:db8::/48"), false),
    ] {
        let update = Lab::plain(prefix, 7, 1, 0);
        lab.say(STOCK, &[Tlv::Update(update)]);
        let selected = Some((STOCK, 96));
        assert_eq!(lab.selected(prefix) == selected, is_allowed, "{prefix}");
    }
    assert_eq!(lab.discarded(routing::Reason::PrefixRefused), 3);
    lab.run(secs(1));
    assert_eq!(
        lab.updates(A, given),
        [],
        "it is reached through our own prefix"
    );
    assert_eq!(
        lab.router.lookup(inside),
        routing::Next::Via {
            link: STOCK,
            next_hop: address(5)
        }
    );
}

#[test]
fn prefixes_for_plain_speakers_are_announced_to_them_only() {
    let mut lab = lab();
    lab.router.announce(overlay(), lab.now);
    lab.run(millis(100));
    assert_eq!(lab.metrics(STOCK, overlay()), [0]);
    assert_eq!(lab.metrics(A, overlay()), [0; 0]);
    lab.router.withdraw(overlay(), lab.now);
    lab.run(millis(100));
    assert_eq!(lab.metrics(STOCK, overlay()), [0, 0xffff]);
}

/// T14, from the list of what FRR had to fix.
mod frr {
    use super::*;

    /// 8a8c43c: no request for a newer seqno although only unfeasible routes were left.
    #[test]
    fn who_has_only_unfeasible_routes_left_asks_all_their_neighbours() {
        let mut lab = Lab::with_neighbours(3);
        lab.hear(A, FAR, 0, 100);
        lab.run(millis(100));
        lab.hear(B, FAR, 0, 400);
        lab.hear(LinkId(3), FAR, 0, 500);
        lab.run(millis(100));
        lab.forget();
        lab.hear_retraction(A, owner(FAR).prefix);
        lab.run(millis(50));
        for link in [B, LinkId(3)] {
            assert_eq!(lab.requested(link, owner(FAR).prefix).len(), 1);
        }
    }

    /// 7c48a71: the time of a route is renewed also by an announcement that is not feasible, of a route that is not selected.
    #[test]
    fn an_unfeasible_route_that_is_announced_again_is_not_forgotten() {
        let mut lab = Lab::with_neighbours(2);
        lab.hear(A, FAR, 0, 100);
        lab.run(millis(100));
        let update = Update {
            interval: Some(Interval(400)),
            ..lab.route(FAR, 0, 300)
        };
        for _ in 0..10 {
            lab.say(B, &[Tlv::Update(update)]);
            lab.run(secs(4));
        }
        let routes = lab
            .router
            .routes()
            .filter(|it| it.prefix == owner(FAR).prefix);
        assert_eq!(routes.count(), 2);
    }

    /// e637372: an expired route was dropped without telling anybody.
    #[test]
    fn an_expired_route_is_retracted_before_it_is_forgotten() {
        let mut lab = Lab::with_neighbours(2);
        let update = Update {
            interval: Some(Interval(100)),
            ..lab.route(FAR, 0, 100)
        };
        lab.say(A, &[Tlv::Update(update)]);
        lab.run(secs(4));
        assert_eq!(lab.metrics(B, owner(FAR).prefix), [196, 0xffff]);
        lab.run(secs(10));
        assert_eq!(
            lab.router
                .routes()
                .filter(|it| it.prefix == owner(FAR).prefix)
                .count(),
            0
        );
    }

    /// b255e1b: a retraction of everything.
    #[test]
    fn a_neighbour_that_retracts_everything_has_no_route_left() {
        let mut lab = Lab::with_neighbours(1);
        for node in 10..20 {
            lab.hear(A, node, 0, 100);
        }
        let everything = Update {
            prefix: None,
            router_id: None,
            metric: Metric::INFINITY,
            ..lab.route(10, 0, 0)
        };
        lab.say(A, &[Tlv::Update(everything)]);
        assert!((10..20).all(|node| lab.selected(owner(node).prefix).is_none()));
    }
}

#[test]
fn at_the_end_everything_is_retracted_from_everybody() {
    let mut lab = lab();
    lab.router.shut_down(lab.now);
    lab.drain();
    for link in [A, B, STOCK] {
        assert!(lab.has_sent(link, |tlv| matches!(
            tlv,
            Tlv::Update(Update {
                prefix: None,
                metric: Metric::INFINITY,
                ..
            })
        )));
    }
}

#[test]
fn an_acknowledgment_is_sent_to_the_one_that_asks_at_once() {
    let mut lab = lab();
    for link in [A, STOCK] {
        lab.forget();
        lab.say(
            link,
            &[Tlv::AckRequest {
                opaque: 4_711,
                interval: Interval(1),
            }],
        );
        let acks = lab
            .sent
            .iter()
            .filter(|sent| sent.tlvs().contains(&Tlv::Ack { opaque: 4_711 }));
        let acks: Vec<_> = acks.collect();
        assert_eq!(acks.len(), 1);
        let to = lab.neighbours[&link].address;
        assert_eq!((acks[0].to, acks[0].at), (Cast::Unicast(to), lab.now));
    }
}

#[test]
fn a_link_of_a_small_mtu_carries_small_packets() {
    let mut lab = Lab::with_neighbours(1);
    for node in 10..90 {
        lab.hear(A, node, 0, 100);
    }
    lab.run(secs(1));
    let mut config = LinkConfig::stock(address(US), legacy("2001:db8::/32"), 1_280);
    config.remote = Some(address(5));
    lab.link(5, config);
    lab.greet(STOCK);
    lab.run(millis(500));
    let packets: Vec<_> = lab.sent.iter().filter(|sent| sent.link == STOCK).collect();
    assert!(packets.len() > 3);
    assert!(packets.iter().all(|sent| sent.packet.len() <= 1_280 - 48));
    assert!((10..90).all(|node| lab.metrics(STOCK, owner(node).prefix) == [196]));
}
