//! Routes of nodes are believed only if their origin has proven them, and proofs travel with them.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail by panic, and looks at what it wants to see"
)]

mod lab;

use lab::*;
use routing::extension::Extension;
use routing::origin::Own;
use routing::sim::{millis, owner, router_id, secs};
use routing::wire::{Tlv, Update};
use routing::{Event, FibAction, LinkId, Metric, Reason, RouterId};

fn unproven(lab: &mut Lab, to: usize, ahead: u16, metric: u16) -> Update {
    Update {
        proof: None,
        ..lab.route(to, ahead, metric)
    }
}

#[test]
fn an_update_without_proof_touches_nothing() {
    let mut lab = Lab::with_neighbours(2);
    let update = unproven(&mut lab, FAR, 0, 100);
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(1));
    assert_eq!(
        lab.router.routes().filter(|it| it.prefix == far()).count(),
        0
    );
    assert_eq!(lab.router.destinations(), 1);
    assert_eq!(lab.discarded(Reason::Unproven), 1);
    let is_question = |tlv: &Tlv<'_>| {
        *tlv == Tlv::RouteRequest {
            prefix: Some(far()),
        }
    };
    assert!(
        lab.has_sent(A, is_question),
        "an answer would carry the proof"
    );
}

#[test]
fn a_proof_is_needed_for_the_first_update_and_not_for_refreshes_and_what_is_worse() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 300);
    assert_eq!(lab.selected(far()), Some((A, 396)));
    for (metric, taken) in [(300, 300), (500, 500), (300, 500)] {
        let update = unproven(&mut lab, FAR, 0, metric);
        lab.say(A, &[Tlv::Update(update)]);
        let route = lab.router.routes().find(|it| it.prefix == far()).unwrap();
        assert_eq!(route.advertised, Metric(taken));
    }
    assert_eq!(
        lab.discarded(Reason::Unproven),
        1,
        "the level it stands for now is 500's"
    );
}

#[test]
fn a_metric_below_what_was_shown_needs_another_proof() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 300);
    let update = unproven(&mut lab, FAR, 0, 100);
    lab.say(A, &[Tlv::Update(update)]);
    assert_eq!(lab.selected(far()), Some((A, 396)));
    lab.hear(A, FAR, 0, 100);
    assert_eq!(lab.selected(far()), Some((A, 196)));
}

#[test]
fn a_forged_metric_is_refused_and_the_route_left_as_it_was() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 300);
    let mut update = lab.route(FAR, 0, 300);
    update.metric = Metric(100);
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(1));
    assert_eq!(lab.selected(far()), Some((A, 396)));
    assert_eq!(lab.discarded(Reason::WrongProof), 1);
}

#[test]
fn a_forged_seqno_is_refused() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(B, FAR, 0, 300);
    let mut update = lab.route(FAR, 0, 100);
    update.seqno = update.seqno.plus(3);
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(1));
    assert_eq!(lab.selected(far()), Some((B, 396)));
    let routes = lab.router.routes().filter(|it| it.prefix == far());
    assert_eq!(routes.count(), 1);
}

#[test]
fn the_proof_of_another_prefix_proves_nothing() {
    let mut lab = Lab::with_neighbours(1);
    lab.hear(A, 10, 0, 100);
    let mut update = lab.route(10, 0, 100);
    update.prefix = Some(far());
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(5));
    assert_eq!(lab.selected(far()), None);
}

#[test]
fn nobody_but_the_origin_announces_a_metric_below_one_hop() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 95);
    assert_eq!(lab.selected(far()), None);
    lab.hear(A, 1, 0, 0);
    assert_eq!(lab.selected(owner(1).prefix), Some((A, 96)));
}

#[test]
fn only_64s_of_the_overlay_are_taken_from_nodes() {
    let mut lab = Lab::with_neighbours(1);
    for prefix in [
        "::/0",
        "600::/8",
        "601::/48",
        "601::/65",
        "601::1/128",
        "2001:db8::/64",
        "fd00::/64",
    ] {
        lab.say(A, &[Tlv::Update(Lab::plain(net(prefix), 7, 1, 100))]);
    }
    assert_eq!(lab.discarded(Reason::PrefixRefused), 7);
    assert_eq!(lab.router.destinations(), 1);
}

#[test]
fn refused_prefixes_are_taken_from_nobody() {
    let mut lab = Lab::with(|config| config.refused.push(net("2001:db8:5::1/128")));
    lab.stock(
        5,
        routing::Peer::Legacy {
            allow: vec![net("2001:db8::/32")],
        },
    );
    lab.run(millis(200));
    for (prefix, is_allowed) in [("2001:db8:5::/48", false), ("2001:db8:6::/48", true)] {
        lab.say(
            LinkId(5),
            &[Tlv::Update(Lab::plain(net(prefix), 7, 1, 100))],
        );
        assert_eq!(lab.selected(net(prefix)).is_some(), is_allowed);
    }
}

#[test]
fn our_own_prefix_is_taken_from_nobody() {
    let mut lab = Lab::with_neighbours(1);
    let ours = owner(US).prefix;
    lab.say(A, &[Tlv::Update(Lab::plain(ours, 7, 1, 100))]);
    let mut back = lab.route(FAR, 0, 100);
    back.prefix = Some(ours);
    back.router_id = Some(router_id(US));
    lab.say(A, &[Tlv::Update(back)]);
    lab.run(secs(5));
    assert_eq!(lab.selected(ours), None);
    assert_eq!(
        lab.router.lookup(ours.iter().nth(1).unwrap()),
        routing::Next::Own
    );
}

#[test]
fn what_is_passed_on_is_proven_at_its_own_level() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    let passed_on = lab.updates(B, far())[0];
    assert_eq!(passed_on.metric, Metric(196));
    let mut other = Lab::with_neighbours(2);
    other.route(FAR, 0, 100);
    other.say(A, &[Tlv::Update(passed_on)]);
    assert_eq!(
        other.selected(far()),
        Some((A, 292)),
        "another node believes it"
    );
    let better = Update {
        metric: Metric(100),
        ..passed_on
    };
    other.say(B, &[Tlv::Update(better)]);
    assert_eq!(
        other.selected(far()),
        Some((A, 292)),
        "but not at a better metric"
    );
}

#[test]
fn a_neighbour_that_was_shown_the_proof_gets_refreshes_without() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    assert!(lab.updates(B, far())[0].proof.is_some());
    lab.forget();
    lab.hear(A, FAR, 0, 250);
    lab.run(millis(100));
    assert_eq!(lab.updates(B, far()).len(), 0, "unfeasible");
    lab.hear(A, FAR, 1, 250);
    lab.run(millis(100));
    let worse = lab.updates(B, far())[0];
    assert!(worse.proof.is_some(), "of another seqno");
    lab.forget();
    lab.hear(A, FAR, 1, 300);
    lab.run(millis(100));
    assert!(lab.updates(B, far())[0].proof.is_none(), "worse");
    lab.run(secs(320));
    let refresh = *lab.updates(B, far()).last().unwrap();
    assert!(refresh.proof.is_none());
}

#[test]
fn a_record_is_asked_for_once_and_the_update_waits_for_it() {
    let mut lab = Lab::with_neighbours(3);
    lab.verifies = false;
    lab.hear(A, FAR, 0, 100);
    lab.hear(B, FAR, 0, 300);
    let asks = |lab: &Lab| {
        let requests = lab.sent.iter().filter(|sent| {
            let mut tlvs = sent.tlvs().into_iter();
            tlvs.any(|tlv| match tlv {
                Tlv::Extension(body) => {
                    matches!(Extension::decode(body), Ok(Extension::RecordRequest { .. }))
                }
                _ => false,
            })
        });
        requests.count()
    };
    assert_eq!(asks(&lab), 1);
    assert_eq!(lab.selected(far()), None);
    lab.run(millis(450));
    assert_eq!(asks(&lab), 2, "again");
    lab.verifies = true;
    lab.run(millis(500));
    assert_eq!(
        lab.selected(far()),
        Some((A, 196)),
        "and what B said was not lost"
    );
    let routes = lab.router.routes().filter(|it| it.prefix == far());
    assert_eq!(routes.count(), 2);
}

#[test]
fn an_update_whose_record_never_comes_is_dropped() {
    let mut lab = Lab::with_neighbours(1);
    lab.verifies = false;
    lab.hear(A, FAR, 0, 100);
    lab.run(secs(4));
    assert_eq!(lab.discarded(Reason::NoRecord), 1);
    lab.verifies = true;
    lab.run(secs(4));
    assert_eq!(lab.selected(far()), None);
}

#[test]
fn a_retraction_that_overtakes_a_verification_wins() {
    let mut lab = Lab::with_neighbours(2);
    lab.verifies = false;
    lab.hear(A, FAR, 0, 100);
    lab.hear_retraction(A, far());
    lab.verifies = true;
    lab.run(secs(3));
    assert_eq!(lab.selected(far()), None);
}

#[test]
fn a_record_that_nobody_needs_costs_nothing() {
    let mut lab = Lab::with_neighbours(1);
    let record = own(FAR, None).record().clone();
    let body = Extension::Record(record).encode();
    lab.say(A, &[Tlv::Extension(&body)]);
    assert_eq!(lab.discarded(Reason::UselessRecord), 1);
    assert!(
        !lab.events
            .iter()
            .any(|event| matches!(event, Event::Verify { .. }))
    );
}

#[test]
fn who_asks_for_a_record_gets_it() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.forget();
    let request = Extension::RecordRequest {
        router_id: router_id(FAR),
        epoch: None,
    };
    let body = request.encode();
    lab.say(B, &[Tlv::Extension(&body)]);
    let answer = Extension::Record(own(FAR, None).record().clone()).encode();
    assert!(lab.has_sent(B, |tlv| *tlv == Tlv::Extension(&answer)));
    let key = lab.router.record(far()).unwrap().key();
    assert_eq!(key, own(FAR, None).record().key(), "and so does the caller");
}

/// The node was restored from a snapshot: others know a later epoch of ours.
#[test]
fn a_node_that_is_shown_a_later_epoch_of_its_own_continues_after_it() {
    let mut lab = Lab::with_neighbours(2);
    assert_eq!(lab.router.origins().own().epoch(), 1);
    let body = Extension::Record(own(US, Some(6)).record().clone()).encode();
    lab.say(A, &[Tlv::Extension(&body)]);
    assert_eq!(lab.router.origins().own().epoch(), 8);
    let is_kept = |event: &Event| matches!(event, Event::Persist { epoch: 8, .. });
    assert!(lab.events.iter().any(is_kept));
    lab.run(millis(100));
    for link in [A, B] {
        let update = *lab.updates(link, owner(US).prefix).last().unwrap();
        assert_eq!(update.seqno, lab.router.origins().own().seqno());
        assert!(update.proof.is_some());
    }
}

#[test]
fn a_key_that_is_used_twice_is_reported() {
    let mut lab = Lab::with_neighbours(1);
    for epoch in [20, 40, 60, 80, 100, 120, 140, 160, 180, 200] {
        let body = Extension::Record(own(US, Some(epoch)).record().clone()).encode();
        lab.say(A, &[Tlv::Extension(&body)]);
    }
    assert!(lab.events.contains(&Event::IdentityCloned));
}

/// A neighbour that has not heard of the newest epoch is shown its record.
#[test]
fn a_stale_epoch_is_answered_with_the_newest_record() {
    let mut lab = Lab::with_neighbours(2);
    let mut origins = routing::origin::Origins::new(own(FAR, Some(4)), 4);
    lab.origins
        .insert(FAR, routing::origin::Origins::new(own(FAR, Some(4)), 4));
    lab.hear(A, FAR, 0, 100);
    assert_eq!(lab.selected(far()), Some((A, 196)));
    origins.bump();
    let old: Own = own(FAR, None);
    let seqno = old.seqno();
    let old = routing::origin::Origins::new(old, 4);
    let proof = old.proof(router_id(FAR), seqno, Metric(100)).unwrap();
    let stale = Update {
        seqno,
        proof: Some(proof.encode()),
        ..lab.route(FAR, 0, 100)
    };
    lab.forget();
    lab.say(B, &[Tlv::Update(stale)]);
    assert_eq!(lab.discarded(Reason::StaleProof), 1);
    let newest = Extension::Record(own(FAR, Some(4)).record().clone()).encode();
    assert!(lab.has_sent(B, |tlv| *tlv == Tlv::Extension(&newest)));
}

#[test]
fn seqnos_of_ours_are_not_used_up_however_often_they_are_asked_for() {
    let mut lab = Lab::with_neighbours(2);
    let ours = owner(US).prefix;
    let first = lab.router.origins().own().seqno();
    for _ in 0..600 {
        for link in [A, B] {
            lab.say(
                link,
                &[Tlv::SeqnoRequest {
                    prefix: ours,
                    seqno: lab.router.origins().own().seqno().plus(1),
                    hop_count: 255,
                    router_id: router_id(US),
                }],
            );
        }
        lab.run(millis(100));
    }
    let taken = lab.router.origins().own().seqno().since(first);
    assert!((10..=16).contains(&taken), "{taken} in a minute");
}

#[test]
fn an_origin_that_contradicts_itself_loses_its_routes() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    assert!(lab.selected(far()).is_some());
    let mut forged = own(FAR, None).record().encode();
    // A flag is no part of what the chains follow from: the same epoch, another content. It has to be signed again, which only the
    // origin can do; here it is refused.
    forged[3] ^= 1;
    let record = routing::origin::Record::decode(&forged).unwrap();
    let body = Extension::Record(record).encode();
    lab.say(B, &[Tlv::Extension(&body)]);
    assert_eq!(lab.discarded(Reason::WrongProof), 1);
    assert_eq!(lab.selected(far()), Some((A, 196)));
}

#[test]
fn a_node_whose_route_is_gone_is_forgotten_in_time() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.hear_retraction(A, far());
    lab.run(millis(200));
    assert_eq!(lab.fib(far()), Some(FibAction::Remove));
    assert!(
        lab.router.record(far()).is_some(),
        "its distance has to be remembered"
    );
    lab.run(secs(2_400));
    assert_eq!(lab.router.destinations(), 1);
    assert!(lab.router.record(far()).is_none());
    assert_eq!(lab.router.origins().count(), 1);
}

#[test]
fn a_router_id_of_another_kind_is_nobody() {
    let mut lab = Lab::with_neighbours(1);
    let mut update = lab.route(FAR, 0, 100);
    update.router_id = Some(RouterId([0xab; 8]));
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(5));
    assert_eq!(lab.selected(far()), None);
}

/// A greeting retracts everything, since its sender may have been started again. It may be slower than the routes that follow it.
#[test]
fn what_a_greeting_takes_back_too_late_is_asked_for_again() {
    let mut lab = Lab::with_neighbours(1);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    assert!(lab.selected(owner(FAR).prefix).is_some());
    lab.forget();
    let retraction = Update {
        prefix: None,
        router_id: None,
        metric: Metric::INFINITY,
        ..Lab::plain(owner(FAR).prefix, 1, 0, 0)
    };
    lab.say(A, &[Tlv::Update(retraction)]);
    lab.run(millis(100));
    assert!(lab.selected(owner(FAR).prefix).is_none());
    lab.run(secs(1));
    let asks = |lab: &Lab| lab.has_sent(A, |tlv| matches!(tlv, Tlv::RouteRequest { prefix: None }));
    assert!(asks(&lab));
    // Who has announced nothing has nothing to lose.
    lab.forget();
    lab.say(A, &[Tlv::Update(retraction)]);
    lab.run(secs(5));
    assert!(!asks(&lab));
}
