//! Which routes may be used, and what is done when none may (RFC 8966 §3.5 to §3.8).
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail by panic, and looks at what it wants to see"
)]

mod lab;

use lab::*;
use routing::sim::{millis, owner, router_id, secs};
use routing::wire::Tlv;
use routing::{FibAction, Interval, Metric, Seqno};

#[test]
fn of_two_routes_the_nearer_is_selected_and_announced_to_all_but_its_neighbour() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 300);
    lab.hear(B, FAR, 0, 200);
    lab.run(millis(100));
    assert_eq!(lab.selected(far()), Some((B, 296)));
    assert_eq!(lab.metrics(C, far()), [296]);
    assert_eq!(lab.metrics(A, far()), [296]);
    assert_eq!(lab.metrics(B, far()), [0; 0], "split horizon");
}

#[test]
fn when_the_selected_route_goes_the_next_feasible_one_takes_its_place_at_once() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 200);
    lab.hear(B, FAR, 0, 250);
    lab.run(millis(100));
    lab.forget();
    lab.hear_retraction(A, far());
    assert!(matches!(lab.fib(far()), Some(FibAction::Via { link, .. }) if link == B));
    lab.run(millis(100));
    assert_eq!(lab.metrics(C, far()), [346]);
}

/// T2: BIRD decides when a route comes whether it is feasible, and believes it for good.
#[test]
fn a_route_that_was_feasible_when_it_came_is_not_used_when_it_is_no_more() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(B, FAR, 0, 500);
    lab.run(millis(100));
    assert_eq!(lab.selected(far()), Some((B, 596)));
    lab.hear(A, FAR, 0, 96);
    lab.run(millis(100));
    assert_eq!(
        lab.metrics(C, far()),
        [596, 192],
        "the feasibility distance is 192 now"
    );
    lab.forget();
    lab.hear_retraction(A, far());
    assert_eq!(lab.selected(far()), None);
    assert_eq!(lab.fib(far()), Some(FibAction::Unreachable));
    lab.run(millis(20));
    let wanted = lab.route(FAR, 0, 0).seqno.plus(1);
    assert_eq!(
        lab.requested(B, far()),
        [(wanted, 64)],
        "the one that has a route is asked"
    );
    assert_eq!(lab.metrics(C, far()), [0xffff]);
    lab.hear(B, FAR, 1, 500);
    assert_eq!(lab.selected(far()), Some((B, 596)));
}

/// T9 and FRR 22928: babeld goes on with such a route, at its new metric.
#[test]
fn a_worse_announcement_of_the_selected_route_that_is_not_feasible_is_ignored_and_a_newer_seqno_asked_for()
 {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    assert_eq!(lab.metrics(B, far()), [196]);
    lab.forget();
    lab.hear(A, FAR, 0, 900);
    lab.run(millis(100));
    assert_eq!(lab.selected(far()), Some((A, 196)));
    assert_eq!(lab.metrics(B, far()), [0; 0]);
    let wanted = lab.route(FAR, 0, 0).seqno.plus(1);
    assert_eq!(lab.requested(A, far()), [(wanted, 64)]);
    assert_eq!(lab.requested(B, far()), []);
    lab.hear(A, FAR, 1, 900);
    lab.run(millis(100));
    assert_eq!(lab.selected(far()), Some((A, 996)));
    assert_eq!(lab.metrics(B, far()), [996]);
}

#[test]
fn a_route_in_doubt_whose_origin_does_not_answer_is_given_up_after_seven_seconds() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.hear(A, FAR, 0, 900);
    lab.run(secs(6));
    assert_eq!(lab.selected(far()), Some((A, 196)));
    lab.run(secs(2));
    assert_eq!(lab.selected(far()), None);
    assert_eq!(lab.requested(A, far()).len(), 3);
    assert_eq!(lab.metrics(B, far()).last(), Some(&0xffff));
}

#[test]
fn a_worse_announcement_of_the_selected_route_gives_way_to_a_better_feasible_one() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 100);
    lab.hear(B, FAR, 0, 150);
    lab.run(millis(100));
    lab.hear(A, FAR, 0, 900);
    assert_eq!(lab.selected(far()), Some((B, 246)));
}

#[test]
fn a_newer_seqno_is_no_reason_to_prefer_a_route() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.hear(B, FAR, 3, 101);
    lab.run(secs(5));
    assert_eq!(lab.selected(far()), Some((A, 196)));
}

#[test]
fn what_is_told_sets_the_distance_even_if_it_was_worse_before_and_after() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 400);
    lab.run(millis(100));
    lab.hear(A, FAR, 0, 200);
    lab.run(millis(100));
    lab.hear(B, FAR, 0, 296);
    lab.hear_retraction(A, far());
    lab.run(millis(50));
    assert_eq!(lab.selected(far()), None, "296 is not less than 296");
    lab.hear(B, FAR, 0, 295);
    assert_eq!(lab.selected(far()), Some((B, 391)));
}

#[test]
fn a_much_better_route_that_is_not_feasible_is_asked_for_a_newer_seqno() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.hear(A, FAR, 1, 2_000);
    lab.run(millis(100));
    lab.hear(C, FAR, 0, 150);
    lab.run(millis(100));
    assert_eq!(lab.selected(far()), Some((A, 2_096)));
    let wanted = lab.route(FAR, 2, 0).seqno;
    assert_eq!(lab.requested(C, far()), [(wanted, 64)]);
    lab.hear(C, FAR, 2, 150);
    assert_eq!(lab.selected(far()), Some((C, 246)));
}

#[test]
fn a_retraction_is_held_until_all_neighbours_have_acknowledged_it() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.neighbour(C).manners = Manners::NoAcks;
    lab.forget();
    lab.hear_retraction(A, far());
    lab.run(millis(20));
    assert_eq!(lab.fib(far()), Some(FibAction::Unreachable));
    assert_eq!(lab.metrics(B, far()), [0xffff]);
    let host = far().iter().nth(1).unwrap();
    assert_eq!(lab.router.lookup(host), routing::Next::Unreachable);
    lab.neighbour(C).manners = Manners::Good;
    lab.run(secs(1));
    assert!(lab.metrics(C, far()).len() >= 2, "it was said again");
    assert_eq!(lab.fib(far()), Some(FibAction::Remove));
    assert_eq!(lab.router.lookup(host), routing::Next::Unknown);
}

#[test]
fn an_expired_route_is_retracted_once_its_neighbour_did_not_answer() {
    let mut lab = Lab::with_neighbours(2);
    let update = routing::wire::Update {
        interval: Some(Interval(400)),
        ..lab.route(FAR, 0, 100)
    };
    lab.say(A, &[Tlv::Update(update)]);
    lab.run(secs(9));
    assert!(!lab.has_sent(A, |tlv| matches!(
        tlv,
        Tlv::RouteRequest { prefix: Some(_) }
    )));
    lab.run(secs(2));
    let is_question = |tlv: &Tlv<'_>| matches!(tlv, Tlv::RouteRequest { prefix: Some(prefix) } if *prefix == far());
    assert!(lab.has_sent(A, is_question), "one interval before the end");
    assert_eq!(lab.selected(far()), Some((A, 196)));
    lab.run(secs(4));
    assert_eq!(lab.selected(far()), None);
    assert_eq!(lab.metrics(B, far()).last(), Some(&0xffff));
}

#[test]
fn a_route_that_is_announced_again_does_not_expire() {
    let mut lab = Lab::with_neighbours(2);
    let update = routing::wire::Update {
        interval: Some(Interval(400)),
        ..lab.route(FAR, 0, 100)
    };
    for _ in 0..20 {
        let refresh = routing::wire::Update {
            proof: None,
            ..update
        };
        lab.say(A, &[Tlv::Update(update), Tlv::Update(refresh)]);
        lab.run(secs(4));
        assert_eq!(lab.selected(far()), Some((A, 196)));
    }
}

#[test]
fn a_seqno_request_for_our_own_prefix_takes_the_next_seqno_and_only_the_next() {
    let mut lab = Lab::with_neighbours(2);
    let ours = owner(0).prefix;
    let before = lab.router.origins().own().seqno();
    lab.say(
        A,
        &[Tlv::SeqnoRequest {
            prefix: ours,
            seqno: before.plus(100),
            hop_count: 1,
            router_id: router_id(0),
        }],
    );
    lab.run(millis(50));
    assert_eq!(lab.router.origins().own().seqno(), before.plus(1));
    let answers = lab.updates(A, ours);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].seqno, before.plus(1));
    assert!(answers[0].proof.is_some());
    assert_eq!(lab.updates(B, ours), [], "nobody else has asked");
}

#[test]
fn a_seqno_that_is_there_already_is_announced_without_another() {
    let mut lab = Lab::with_neighbours(1);
    let ours = owner(0).prefix;
    let before = lab.router.origins().own().seqno();
    lab.say(
        A,
        &[Tlv::SeqnoRequest {
            prefix: ours,
            seqno: before,
            hop_count: 1,
            router_id: router_id(0),
        }],
    );
    lab.run(millis(50));
    assert_eq!(lab.updates(A, ours)[0].seqno, before);
}

fn seqno_request(ahead: u16, hop_count: u8, lab: &mut Lab) -> Tlv<'static> {
    Tlv::SeqnoRequest {
        prefix: far(),
        seqno: lab.route(FAR, 0, 0).seqno.plus(ahead),
        hop_count,
        router_id: router_id(FAR),
    }
}

/// FRR 49f6e9a: not to the next hop that asks.
#[test]
fn a_seqno_request_goes_on_to_one_neighbour_that_is_not_the_one_that_asks() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 100);
    lab.hear(B, FAR, 0, 120);
    lab.run(millis(100));
    lab.forget();
    let request = seqno_request(1, 5, &mut lab);
    lab.say(C, std::slice::from_ref(&request));
    lab.run(millis(20));
    let wanted = lab.route(FAR, 1, 0).seqno;
    assert_eq!(lab.requested(A, far()), [(wanted, 4)]);
    assert_eq!(lab.requested(B, far()), []);
    lab.forget();
    lab.run(secs(1));
    lab.say(A, &[request]);
    lab.run(millis(20));
    assert_eq!(lab.requested(A, far()), [], "not back");
    assert_eq!(lab.requested(B, far()), [(wanted, 4)]);
}

#[test]
fn a_seqno_request_with_one_hop_left_goes_no_further() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    let request = seqno_request(1, 1, &mut lab);
    lab.say(B, &[request]);
    lab.run(millis(20));
    assert_eq!(lab.requested(A, far()), []);
    assert_eq!(lab.discarded(routing::Reason::NoWay), 1);
}

/// FRR be2fcee: a request is for one origin.
#[test]
fn a_seqno_request_for_another_origin_is_answered_with_the_route_there_is() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.forget();
    lab.say(
        B,
        &[Tlv::SeqnoRequest {
            prefix: far(),
            seqno: Seqno(9_999),
            hop_count: 9,
            router_id: router_id(33),
        }],
    );
    lab.run(millis(20));
    assert_eq!(lab.requested(A, far()), []);
    assert_eq!(lab.metrics(B, far()), [196]);
}

#[test]
fn a_request_that_two_neighbours_make_goes_on_once_and_both_get_the_answer_at_once() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.forget();
    let request = seqno_request(1, 9, &mut lab);
    lab.say(B, std::slice::from_ref(&request));
    lab.say(C, &[request]);
    lab.run(millis(50));
    assert_eq!(lab.requested(A, far()).len(), 1);
    lab.hear(A, FAR, 1, 100);
    lab.run(millis(5));
    let seqno = lab.route(FAR, 1, 0).seqno;
    for link in [B, C] {
        let answers = lab.updates(link, far());
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].seqno, seqno);
    }
}

/// FRR 22918.
#[test]
fn a_route_request_is_answered_also_for_a_route_through_the_one_that_asks() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.forget();
    lab.say(
        A,
        &[Tlv::RouteRequest {
            prefix: Some(far()),
        }],
    );
    lab.run(millis(50));
    assert_eq!(lab.metrics(A, far()), [196]);
}

#[test]
fn a_route_request_for_what_there_is_not_is_answered_with_a_retraction() {
    let mut lab = Lab::with_neighbours(1);
    let nowhere = net("600:0:0:77::/64");
    lab.say(
        A,
        &[Tlv::RouteRequest {
            prefix: Some(nowhere),
        }],
    );
    lab.run(millis(50));
    assert_eq!(lab.metrics(A, nowhere), [0xffff]);
}

#[test]
fn a_request_for_everything_gets_everything_with_proofs() {
    let mut lab = Lab::with_neighbours(2);
    for node in 10..40 {
        lab.hear(A, node, 0, 100);
    }
    lab.run(secs(3));
    lab.forget();
    lab.say(B, &[Tlv::RouteRequest { prefix: None }]);
    lab.run(millis(100));
    for node in 10..40 {
        let updates = lab.updates(B, owner(node).prefix);
        assert_eq!(updates.len(), 1, "{node}");
        assert!(updates[0].proof.is_some());
    }
    assert_eq!(lab.updates(B, owner(0).prefix).len(), 1);
}

#[test]
fn a_change_is_said_again_until_it_is_acknowledged_but_no_more_than_five_times() {
    let mut lab = Lab::with_neighbours(2);
    lab.neighbour(B).manners = Manners::NoAcks;
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(900));
    let copies = lab.metrics(B, far()).len();
    assert!((2..=5).contains(&copies), "{copies}");
    assert!(
        lab.updates(B, far())
            .iter()
            .all(|update| update.proof.is_some())
    );
}

#[test]
fn a_neighbour_that_stops_answering_is_left_even_if_its_hellos_come() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.neighbour(A).manners = Manners::NoAcks;
    lab.router.handle_hint(A, routing::Hint::Silent, lab.now);
    lab.drain();
    lab.run(millis(500));
    assert_eq!(lab.selected(far()), None);
    lab.neighbour(A).manners = Manners::Good;
    lab.run(secs(1));
    assert_eq!(lab.selected(far()), Some((A, 196)));
}

#[test]
fn the_metric_of_a_link_is_never_less_than_96() {
    let mut lab = Lab::with_neighbours(1);
    lab.neighbour(A).rxcost = Metric(1);
    lab.run(secs(2));
    lab.hear(A, FAR, 0, 100);
    assert_eq!(lab.selected(far()), Some((A, 196)));
}

#[test]
fn a_route_that_flaps_a_hundred_times_a_second_is_not_followed() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(B, FAR, 0, 150);
    lab.hear(A, FAR, 0, 100);
    lab.run(secs(30));
    lab.forget();
    for _ in 0..1_500 {
        lab.hear_retraction(A, far());
        lab.run(millis(10));
        lab.hear(A, FAR, 0, 100);
        lab.run(millis(10));
    }
    let updates = lab.metrics(C, far()).len();
    assert!(updates <= 30 + 12, "{updates} in 30 s");
    let changes = lab
        .events
        .iter()
        .filter(|event| matches!(event, routing::Event::Fib(_)));
    let changes = changes.count();
    assert!(changes <= 2 * (30 + 12), "{changes} in 30 s");
}

#[test]
fn a_metric_that_is_noisy_by_a_tenth_moves_no_traffic() {
    let mut lab = Lab::with_neighbours(3);
    lab.hear(A, FAR, 0, 400);
    lab.hear(B, FAR, 0, 420);
    lab.run(secs(5));
    lab.forget();
    for round in 0..600_u16 {
        let noise = [0, 37, 11, 40, 25][usize::from(round) % 5];
        lab.hear(A, FAR, 0, 400 + noise);
        lab.run(millis(100));
    }
    let moves = lab
        .events
        .iter()
        .filter(|event| matches!(event, routing::Event::Fib(_)));
    assert!(moves.count() <= 2);
    assert!(lab.metrics(C, far()).len() <= 72);
}

/// We thought that a neighbour was gone, and lost a route meanwhile; it did not notice anything.
#[test]
fn who_was_out_of_reach_hears_of_what_has_ended_meanwhile() {
    let mut lab = Lab::with_neighbours(2);
    lab.hear(A, FAR, 0, 100);
    lab.run(millis(100));
    lab.neighbour(B).manners = Manners::Silent;
    lab.run(secs(3));
    lab.hear_retraction(A, far());
    lab.run(secs(1));
    lab.forget();
    lab.neighbour(B).hello_seqno += 6;
    lab.neighbour(B).manners = Manners::Good;
    lab.run(secs(1));
    assert_eq!(lab.metrics(B, far()), [0xffff]);
    assert_eq!(lab.metrics(B, owner(0).prefix), [0]);
}
