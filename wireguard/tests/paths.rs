//! Several ways to one peer: over the underlay and over the overlay, and who watches them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use wireguard::{Endpoint, Event, HandshakeError, Underlay};

fn elsewhere() -> SocketAddr {
    "[2001:db8::7]:4321".parse().unwrap()
}

/// Gives node 1 a fresh packet of node 0 as if it came from there.
fn hear_from(lab: &mut Lab, from: Endpoint) {
    hear(lab, from, &packet(overlay(0), 80));
}

fn hear(lab: &mut Lab, from: Endpoint, packet: &[u8]) {
    let flight = lab.seal(0, 1, packet).unwrap();
    let mut out = [0; 2048];
    let session = lab.session(1, 0);
    let mut batch = session.lock(lab.now);
    batch.open(from, &flight.payload, &mut out).unwrap();
    let signals = batch.finish();
    if signals.any() {
        lab.nodes[1].device.handle_signal(&public(0), lab.now);
    }
}

fn place(lab: &Lab) -> Option<Endpoint> {
    lab.session(1, 0).endpoint()
}

both_engines! {
    fn what_comes_across_classes_does_not_move_a_session(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let before = place(&lab);
        hear_from(&mut lab, Endpoint::Overlay(overlay(0)));
        assert_eq!(place(&lab), before);
        let relayed = Endpoint::Overlay(overlay(0));
        lab.session(1, 0).lock(lab.now).set_endpoint(relayed);
        hear_from(&mut lab, at(elsewhere()));
        assert_eq!(place(&lab), Some(relayed));
    }

    fn a_stream_is_a_class_of_its_own(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let udp = place(&lab);
        let [stream, other] = [7, 8].map(|port| {
            let remote = SocketAddr::new(elsewhere().ip(), port);
            Underlay::stream(remote, None)
        });
        hear_from(&mut lab, stream.into());
        assert_eq!(place(&lab), udp, "whoever stands between may have carried it");
        lab.session(1, 0).lock(lab.now).set_endpoint(stream.into());
        hear_from(&mut lab, at(elsewhere()));
        assert_eq!(place(&lab), Some(stream.into()));
        hear_from(&mut lab, other.into());
        assert_eq!(place(&lab), Some(other.into()), "a new stream takes the place of the last");
        lab.session(1, 0).lock(lab.now).forget_stream(&stream);
        assert_eq!(place(&lab), Some(other.into()));
        lab.session(1, 0).lock(lab.now).forget_stream(&other);
        assert_eq!(place(&lab), None);
        hear_from(&mut lab, at(elsewhere()));
        assert_eq!(place(&lab), Some(at(elsewhere())));
    }

    fn a_new_way_is_called_at_once_and_moves_only_a_session_that_has_none(engine: Engine) {
        for is_open in [true, false] {
            let mut lab = if is_open { Lab::connected(engine) } else { Lab::pair(engine) };
            lab.run(Duration::from_secs(10));
            let (before, stream) = (lab.session(0, 1).endpoint(), Underlay::stream(elsewhere(), None));
            while lab.nodes[0].device.poll_transmit().is_some() {}
            let handshakes = lab.session(0, 1).counters().handshakes;
            lab.nodes[0].device.call(&public(1), stream.into(), lab.now);
            let initiation = lab.nodes[0].device.poll_transmit().unwrap();
            assert_eq!(initiation.endpoint, stream.into());
            let theirs = Underlay::stream("192.0.2.9:9".parse().unwrap(), None);
            lab.handshake(1, theirs.into(), &initiation.payload).unwrap();
            let response = lab.nodes[1].device.poll_transmit().unwrap();
            assert_eq!(response.endpoint, theirs.into());
            lab.handshake(0, stream.into(), &response.payload).unwrap();
            assert_eq!(lab.session(0, 1).counters().handshakes, handshakes + 1);
            assert_eq!(lab.nodes[0].device.poll_transmit().unwrap().endpoint, stream.into());
            let after = if is_open { before } else { Some(stream.into()) };
            assert_eq!(lab.session(0, 1).endpoint(), after);
        }
    }

    fn a_known_path_does_not_move_a_session_and_an_unknown_one_does(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let before = place(&lab);
        let known = Underlay { remote: elsewhere(), local: None, socket: 0 };
        lab.session(1, 0).lock(lab.now).set_paths(vec![known]);
        let heard = Underlay { local: Some("192.0.2.9".parse().unwrap()), ..known };
        hear_from(&mut lab, Endpoint::Underlay(heard));
        assert_eq!(place(&lab), before);
        let unknown = at("192.0.2.77:7".parse().unwrap());
        hear_from(&mut lab, unknown);
        assert_eq!(place(&lab), Some(unknown));
        let roamed = std::iter::from_fn(|| lab.nodes[1].device.poll_event()).last().unwrap();
        assert_eq!(roamed, Event::Roamed { peer: public(0), from: before, endpoint: unknown });
    }

    fn a_packet_of_the_node_itself_moves_nothing(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let before = place(&lab);
        hear(&mut lab, at(elsewhere()), &packet("fe80::7".parse().unwrap(), 80));
        assert_eq!(place(&lab), before);
        hear_from(&mut lab, at(elsewhere()));
        assert_eq!(place(&lab), Some(at(elsewhere())));
    }

    fn a_handshake_over_the_overlay_comes_from_the_peers_own_address(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.nodes[0].device.initiate(&public(1), lab.now);
        let initiation = lab.nodes[0].device.poll_transmit().unwrap().payload;
        let foreign = Endpoint::Overlay(overlay(1));
        assert_eq!(lab.handshake(1, foreign, &initiation), Err(HandshakeError::Misplaced));
        assert_eq!(place(&lab), None);
        let own = Endpoint::Overlay(overlay(0));
        assert_eq!(lab.handshake(1, own, &initiation), Ok(()));
        assert_eq!(place(&lab), Some(own));
        assert_eq!(lab.nodes[1].device.poll_transmit().unwrap().endpoint, own);
    }

    fn a_response_that_was_carried_across_classes_proves_no_path(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let relayed = Endpoint::Overlay(overlay(1));
        lab.nodes[0].device.set_endpoints(&public(1), vec![relayed], lab.now);
        lab.nodes[0].device.initiate(&public(1), lab.now);
        let initiation = lab.nodes[0].device.poll_transmit().unwrap();
        assert_eq!(initiation.endpoint, relayed);
        lab.handshake(1, Endpoint::Overlay(overlay(0)), &initiation.payload).unwrap();
        let response = lab.nodes[1].device.poll_transmit().unwrap().payload;
        assert_eq!(lab.handshake(0, at(elsewhere()), &response), Ok(()));
        assert_eq!(lab.session(0, 1).endpoint(), Some(relayed));
        assert_eq!(lab.nodes[0].device.poll_transmit().unwrap().endpoint, relayed);
    }

    fn an_initiation_over_the_overlay_is_repeated_soon_and_its_loss_told(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let start = lab.now;
        lab.nodes[0].device.set_endpoints(&public(1), vec![Endpoint::Overlay(overlay(1))], lab.now);
        lab.nodes[0].device.initiate(&public(1), lab.now);
        let (mut sent, mut missed) = (Vec::new(), 0);
        while lab.now < start + secs(40) {
            while let Some(initiation) = lab.nodes[0].device.poll_transmit() {
                assert_eq!(initiation.endpoint, Endpoint::Overlay(overlay(1)));
                sent.push(lab.now);
            }
            while let Some(event) = lab.nodes[0].device.poll_event() {
                missed += usize::from(event == Event::Missed { peer: public(1) });
            }
            lab.now = lab.nodes[0].device.poll_timeout().unwrap().0;
            lab.nodes[0].device.handle_timeout(lab.now);
        }
        let soon = sent.iter().filter(|at| **at < start + secs(15)).count();
        assert!((12..=15).contains(&soon), "{soon}");
        assert!((4..=5).contains(&(sent.len() - soon)), "{}", sent.len() - soon);
        assert_eq!(missed, (sent.len() - 1) / 4);
    }

    fn a_way_over_the_overlay_that_appears_is_tried_soon(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.nodes[0].device.initiate(&public(1), lab.now);
        let first = lab.nodes[0].device.poll_transmit().unwrap();
        assert_eq!(first.endpoint.remote(), Some(underlay(1)));
        let start = lab.now;
        lab.now += Duration::from_millis(100);
        let endpoints = vec![Endpoint::Overlay(overlay(1)), first.endpoint];
        for _ in 0..2 {
            lab.nodes[0].device.set_endpoints(&public(1), endpoints.clone(), lab.now);
            assert_eq!(lab.nodes[0].device.poll_timeout().unwrap().0, start + secs(1));
        }
        lab.nodes[0].device.handle_timeout(start + secs(1));
        let second = lab.nodes[0].device.poll_transmit().unwrap();
        assert_eq!(second.endpoint, Endpoint::Overlay(overlay(1)));
    }

    fn whose_answer_had_no_way_asks_as_soon_as_there_is_one(engine: Engine) {
        for comes in [true, false] {
            let mut lab = Lab::pair(engine);
            let way = Endpoint::Overlay(overlay(1));
            if !comes {
                lab.nodes[0].device.set_endpoints(&public(1), vec![way], lab.now);
            }
            lab.nodes[1].device.initiate(&public(0), lab.now);
            let initiation = lab.nodes[1].device.poll_transmit().unwrap();
            lab.handshake(0, way, &initiation.payload).unwrap();
            let answer = lab.nodes[0].device.poll_transmit().unwrap();
            assert_eq!(answer.endpoint, way, "and it is lost there");
            let answered = lab.now;
            lab.now += Duration::from_millis(30);
            if comes {
                lab.nodes[0].device.set_endpoints(&public(1), vec![way], lab.now);
            }
            lab.nodes[0].device.initiate(&public(1), lab.now);
            let asks = lab.nodes[0].device.poll_transmit();
            assert_eq!(asks.is_some(), comes);
            if let Some(initiation) = asks {
                assert_eq!(initiation.endpoint, way);
                lab.handshake(1, Endpoint::Overlay(overlay(0)), &initiation.payload).unwrap();
                let answer = lab.nodes[1].device.poll_transmit().unwrap();
                lab.handshake(0, way, &answer.payload).unwrap();
                assert!(lab.session(0, 1).is_established());
            } else {
                // It may have been lost all the same, and a second is long enough to wait.
                lab.now = answered + secs(1);
                lab.nodes[0].device.handle_timeout(lab.now);
                assert_eq!(lab.nodes[0].device.poll_transmit().unwrap().endpoint, way);
            }
        }
    }

    fn answers_over_the_overlay_that_nobody_takes_up_are_told(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let is_missed = |lab: &mut Lab| {
            let mut events = std::iter::from_fn(|| lab.nodes[1].device.poll_event());
            events.any(|event| event == Event::Missed { peer: public(0) })
        };
        for (from, most) in [(Endpoint::Overlay(overlay(0)), 3), (at(elsewhere()), 9)] {
            for n in 1..=most {
                lab.now += secs(1);
                lab.nodes[0].device.handle_loss(&public(1), lab.now);
                lab.now = lab.nodes[0].device.poll_timeout().unwrap().0.max(lab.now);
                lab.nodes[0].device.handle_timeout(lab.now);
                let initiation = lab.nodes[0].device.poll_transmit().unwrap().payload;
                lab.handshake(1, from, &initiation).unwrap();
                let is_overlay = matches!(from, Endpoint::Overlay(_));
                assert_eq!(is_missed(&mut lab), is_overlay && n == most, "{n}");
            }
        }
    }

    fn use_is_told_at_intervals_while_packets_flow_and_not_after(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let interval = Duration::from_millis(400);
        lab.nodes[0].device.set_use_interval(&public(1), Some(interval), lab.now);
        let uses = |lab: &Lab| {
            let is_use = |event: &&Event| matches!(event, Event::InUse { .. });
            lab.nodes[0].events.iter().filter(is_use).count()
        };
        for _ in 0..40 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(Duration::from_millis(100));
        }
        let during = uses(&lab);
        assert!((8..=11).contains(&during), "{during}");
        lab.run(Duration::from_secs(60));
        assert!(uses(&lab) <= during + 2, "{}", uses(&lab));
    }

    fn a_packet_that_nobody_answers_is_told_and_one_of_the_node_itself_is_not(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let interval = Duration::from_millis(400);
        lab.nodes[0].device.set_use_interval(&public(1), Some(interval), lab.now);
        let waits = |lab: &Lab| {
            lab.nodes[0].events.iter().any(
                |event| matches!(event, Event::InUse { waiting: Some(waiting), .. } if *waiting >= interval),
            )
        };
        let session = lab.session(0, 1);
        {
            let mut batch = session.lock(lab.now);
            batch.seal_own(&packet(overlay(0), 80), MTU, &mut [0; 256]).unwrap();
            let signals = batch.finish();
            assert!(signals.woke, "the timers of the protocol wait for an answer all the same");
        }
        lab.run(Duration::from_secs(3));
        assert!(!waits(&lab));
        lab.nodes[1].at = elsewhere();
        lab.send(0, 1).unwrap();
        lab.run(Duration::from_secs(1));
        assert!(waits(&lab));
    }

    fn what_waits_is_told_of_when_it_has_waited_for_an_interval(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let interval = Duration::from_millis(400);
        lab.nodes[0].device.set_use_interval(&public(1), Some(interval), lab.now);
        for _ in 0..7 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(Duration::from_millis(100));
        }
        lab.cut(0, 1);
        let cut = lab.now;
        let is_told = |lab: &Lab| {
            lab.nodes[0].events.iter().any(
                |event| matches!(event, Event::InUse { waiting: Some(waiting), .. } if *waiting >= interval),
            )
        };
        while !is_told(&lab) {
            lab.send(0, 1).unwrap();
            lab.run(Duration::from_millis(10));
            assert!(lab.now <= cut + interval + Duration::from_millis(20));
        }
    }

    fn a_sign_that_comes_another_way_does_not_end_the_wait(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let interval = Duration::from_millis(400);
        let ways = [lab.nodes[0].at, elsewhere()];
        let known = ways.map(|remote| Underlay { remote, local: None, socket: 0 });
        lab.session(1, 0).lock(lab.now).set_paths(known.to_vec());
        lab.nodes[1].device.set_use_interval(&public(0), Some(interval), lab.now);
        for (from, ends) in [(ways[1], false), (ways[0], true)] {
            lab.nodes[1].events.clear();
            for _ in 0..10 {
                lab.seal(1, 0, &packet(overlay(1), 80)).unwrap();
                hear_from(&mut lab, at(from));
                lab.run(Duration::from_millis(100));
            }
            let waits = lab.nodes[1].events.iter().any(
                |event| matches!(event, Event::InUse { waiting: Some(waiting), .. } if *waiting >= interval),
            );
            assert_eq!(waits, !ends, "{from}");
        }
    }

    fn a_loss_that_somebody_else_noticed_makes_a_new_session(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(Duration::from_secs(10));
        let before = lab.session(0, 1).counters().handshakes;
        lab.nodes[0].device.handle_loss(&public(1), lab.now);
        lab.drain(0);
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.session(0, 1).counters().handshakes, before + 1);
    }

    fn what_was_expected_and_what_came_is_counted_over_the_whole_session(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let before = lab.session(1, 0).tally();
        for n in 0..100 {
            let flight = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
            if n % 4 != 1 {
                let from = flight.from;
                lab.deliver(1, from, &flight.payload);
            }
        }
        let after = lab.session(1, 0).tally();
        assert_eq!(after.expected - before.expected, 100);
        assert_eq!(after.received - before.received, 75);
    }
}
