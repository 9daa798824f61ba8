//! Handshakes and timers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::time::Duration;

use common::*;
use wireguard::{
    AddPeerError, Event, HandshakeError, Mac1, PresharedKey, SealError, Upkeep, Verdict,
};

fn established(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Established { .. }))
        .count()
}

fn closed(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Closed { .. }))
        .count()
}

fn unanswered(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Unanswered { .. }))
        .count()
}

both_engines! {
    fn a_packet_crosses_in_both_directions(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.send(0, 1).unwrap();
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.nodes[1].inbox, [(Verdict::Owned, packet(overlay(0), 100))]);
        assert_eq!(lab.nodes[0].inbox, [(Verdict::Owned, packet(overlay(1), 100))]);
        assert_eq!((established(&lab.nodes[0].events), established(&lab.nodes[1].events)), (1, 1));
        assert!(lab.nodes.iter().all(|node| node.refused.is_empty()));
        let counters = lab.session(0, 1).counters();
        assert_eq!(counters.handshakes, 1);
        assert_eq!(counters.rx_bytes, 92 + 144, "response and one packet padded to 112");
        assert_eq!(counters.tx_bytes, 148 + 32 + 144);
    }

    fn the_initiator_learns_the_round_trip(engine: Engine) {
        let lab = Lab::connected(engine);
        let Event::Established { rtt, .. } = lab.nodes[0].events.iter().find(|event| matches!(event, Event::Established { .. })).unwrap() else { panic!() };
        assert_eq!(*rtt, Some(Duration::from_millis(20)));
        assert!(lab.nodes[1].events.contains(&Event::Established { peer: public(0), rtt: None }));
    }

    fn a_responder_does_not_send_before_the_keypair_is_confirmed(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap();
        lab.deliver(1, initiation.from, &initiation.payload);
        assert!(!lab.session(1, 0).is_established());
        assert_eq!(lab.seal(1, 0, &[]).unwrap_err(), SealError::NotEstablished);
        let response = lab.air.pop_front().unwrap();
        lab.deliver(0, response.from, &response.payload);
        assert!(lab.session(0, 1).is_established());
        assert!(!lab.session(1, 0).is_established());
        let keepalive = lab.air.pop_front().unwrap();
        lab.deliver(1, keepalive.from, &keepalive.payload);
        assert!(lab.session(1, 0).is_established());
        assert!(lab.seal(1, 0, &[]).is_ok());
        assert!(lab.air.is_empty(), "nothing but initiation, response, keepalive");
    }

    fn data_confirms_when_the_keepalive_is_lost(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        lab.run(Duration::from_millis(20));
        lab.air.clear();
        assert!(lab.session(0, 1).is_established() && !lab.session(1, 0).is_established());
        lab.send(0, 1).unwrap();
        lab.run(secs(1));
        assert!(lab.session(1, 0).is_established());
        assert_eq!(lab.nodes[1].inbox.len(), 1);
    }

    fn both_sides_at_once_agree(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        lab.initiate(1, 0);
        lab.run(secs(1));
        for _ in 0..5 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
        }
        assert_eq!((lab.nodes[0].inbox.len(), lab.nodes[1].inbox.len()), (5, 5));
        lab.run(secs(60));
        assert_eq!(lab.times(0, 1).len() + lab.times(1, 1).len(), 2, "nobody starts again");
        assert_eq!((established(&lab.nodes[0].events), established(&lab.nodes[1].events)), (1, 1));
    }

    fn initiations_are_retried_with_jitter_and_given_up(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.cut(0, 1);
        lab.initiate(0, 1);
        lab.run(secs(600));
        let times = lab.times(0, 1);
        let pauses: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().all(|pause| (5.0..5.334).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| (pause - pauses[0]).abs() > 0.01), "no jitter: {pauses:?}");
        assert!((17..=19).contains(&times.len()), "{} initiations", times.len());
        assert!((84.0..90.4).contains(times.last().unwrap()));
        assert!((5..=7).contains(&unanswered(&lab.nodes[0].events)));
        assert_eq!(lab.nodes[0].device.poll_timeout(), None, "it waits for traffic");
        lab.heal();
        lab.initiate(0, 1);
        lab.run(secs(1));
        assert!(lab.session(0, 1).is_established());
    }

    fn a_peer_that_is_always_wanted_is_tried_for_ever(engine: Engine) {
        let mut lab = Lab::pair_with(engine, |peer| peer.upkeep = Upkeep::Always);
        lab.cut(0, 1);
        lab.run(secs(3600));
        let late: Vec<f64> = lab.times(0, 1).into_iter().filter(|&at| at > 120.0).collect();
        assert!(late.windows(2).all(|pair| (15.0..15.334).contains(&(pair[1] - pair[0]))));
        assert!(late.len() > 3400 / 16);
        lab.heal();
        lab.run(secs(16));
        assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
    }

    fn an_initiation_is_not_sent_twice_in_five_seconds(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.cut(0, 1);
        for _ in 0..40 {
            lab.initiate(0, 1);
            lab.run(Duration::from_millis(100));
        }
        assert_eq!(lab.times(0, 1).len(), 1);
    }

    fn traffic_renews_the_session_at_120_seconds_by_its_initiator(engine: Engine) {
        let mut lab = Lab::connected(engine);
        for _ in 0..400 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
        }
        let times = lab.times(0, 1);
        assert_eq!(times.len(), 4, "{times:?}");
        assert!(times.windows(2).all(|pair| (119.9..122.0).contains(&(pair[1] - pair[0]))), "{times:?}");
        assert_eq!(lab.times(1, 1).len(), 0);
        assert_eq!((lab.nodes[0].inbox.len(), lab.nodes[1].inbox.len()), (400, 400), "no packet is lost");
        assert_eq!((closed(&lab.nodes[0].events), established(&lab.nodes[0].events)), (0, 1));
        assert!(lab.nodes.iter().all(|node| node.refused.is_empty()));
    }

    fn an_initiator_that_receives_after_165_seconds_renews_at_once(engine: Engine) {
        for (age, renewals) in [(160, 0), (166, 1)] {
            let mut lab = Lab::connected(engine);
            lab.run(secs(age));
            lab.sent.clear();
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
            assert_eq!(lab.times(0, 1).len(), renewals, "at {age} s");
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
            assert_eq!(lab.times(0, 1).len(), renewals, "and not twice");
        }
    }

    fn a_session_is_closed_at_180_seconds_and_traffic_opens_it_again(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(secs(179));
        assert!(lab.session(0, 1).is_established());
        lab.run(secs(2));
        assert!(!lab.session(0, 1).is_established());
        assert_eq!(lab.send(0, 1), Err(SealError::NotEstablished));
        assert_eq!((closed(&lab.nodes[0].events), closed(&lab.nodes[1].events)), (1, 1));
        for idle in [20, 400, 4000] {
            lab.run(secs(idle));
            assert!(!lab.session(0, 1).is_established());
            lab.initiate(0, 1);
            lab.run(secs(1));
            assert_eq!(lab.send(0, 1), Ok(()));
            lab.run(secs(200));
        }
        assert_eq!(lab.nodes[1].inbox.len(), 3);
        assert_eq!(established(&lab.nodes[0].events), 4);
    }

    fn sealing_after_180_seconds_is_refused_even_if_the_device_was_not_asked(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.now += secs(180);
        assert_eq!(lab.seal(0, 1, &[]).unwrap_err(), SealError::NotEstablished);
        assert_eq!(closed(&lab.nodes[0].events), 1, "the signal told the device");
    }

    fn opening_after_180_seconds_is_refused(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let late = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
        lab.now += secs(181);
        lab.deliver(1, late.from, &late.payload);
        assert_eq!(lab.nodes[1].refused, ["open_expired"]);
    }

    fn keys_are_forgotten_after_540_seconds(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let late = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
        lab.cut(0, 1);
        lab.run(secs(700));
        lab.deliver(1, late.from, &late.payload);
        assert_eq!(lab.nodes[1].refused.last(), Some(&"open_unknown_index"));
        assert_eq!(lab.nodes[1].device.poll_timeout(), None);
    }

    fn data_is_answered_by_one_keepalive_and_no_keepalive_by_another(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.sent.clear();
        lab.send(0, 1).unwrap();
        lab.run(secs(100));
        let answers = lab.times(1, 4);
        assert_eq!(answers.len(), 1);
        assert!((10.0..10.2).contains(&(answers[0])), "{answers:?}");
        assert_eq!(lab.times(0, 4).len(), 1, "the packet itself");
        assert_eq!(lab.times(0, 1).len() + lab.times(1, 1).len(), 0);
    }

    fn one_way_traffic_gets_a_keepalive_every_ten_seconds(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.sent.clear();
        for _ in 0..100 {
            lab.send(0, 1).unwrap();
            lab.run(secs(1));
        }
        let answers = lab.times(1, 4);
        assert!((9..=10).contains(&answers.len()), "{answers:?}");
        assert_eq!(lab.times(0, 1).len(), 0, "it hears the keepalives and asks for nothing");
    }

    fn silence_after_data_starts_a_handshake_after_15_seconds(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.sent.clear();
        lab.cut(0, 1);
        lab.send(0, 1).unwrap();
        lab.run(secs(16));
        let times = lab.times(0, 1);
        assert_eq!(times.len(), 1);
        assert!((15.0..15.5).contains(&times[0]), "{times:?}");
    }

    fn persistent_keepalives_keep_their_interval(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let mut other = peer(1);
        other.persistent_keepalive = Some(secs(25));
        lab.nodes[0].device.update_peer(other, lab.now).unwrap();
        lab.drain(0);
        lab.run(secs(100));
        assert_eq!(lab.times(0, 1).len(), 1, "the first keepalive asked for the session");
        let times = lab.times(0, 4);
        assert!(times.windows(2).all(|pair| (24.999..25.1).contains(&(pair[1] - pair[0]))), "{times:?}");
        assert!(times.len() >= 4);
        lab.run(secs(400));
        assert!(lab.session(0, 1).is_established(), "keepalives renew it too");
        assert_eq!(closed(&lab.nodes[0].events), 0);
    }

    fn an_idle_session_that_is_always_wanted_never_goes_stale(engine: Engine) {
        let mut lab = Lab::pair_with(engine, |peer| peer.upkeep = Upkeep::Always);
        lab.run(secs(1));
        for _ in 0..2000 {
            lab.run(secs(1));
            assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
        }
        assert_eq!(closed(&lab.nodes[0].events) + closed(&lab.nodes[1].events), 0);
        let handshakes = lab.times(0, 1).len() + lab.times(1, 1).len();
        assert!(handshakes <= 2 * 2000 / 115, "{handshakes} handshakes");
    }

    fn a_responder_that_wants_the_session_always_renews_it_alone(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        lab.add(0, peer(1));
        lab.add(1, peer(0));
        lab.initiate(0, 1);
        lab.run(secs(1));
        let mut other = peer(0);
        other.upkeep = Upkeep::Always;
        lab.nodes[1].device.update_peer(other, lab.now).unwrap();
        lab.drain(1);
        lab.run(secs(1000));
        assert_eq!(closed(&lab.nodes[0].events) + closed(&lab.nodes[1].events), 0);
        assert!(lab.session(0, 1).is_established());
    }

    fn a_restarted_peer_gets_a_session_at_once(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(secs(30));
        lab.nodes[0].device = lab.restarted(engine, 0, 99);
        lab.add(0, peer(1));
        lab.initiate(0, 1);
        lab.run(secs(1));
        lab.send(0, 1).unwrap();
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!((lab.nodes[0].inbox.len(), lab.nodes[1].inbox.len()), (1, 1));
    }

    fn a_lost_response_costs_one_retry(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.cuts.insert((underlay(1), underlay(0)));
        lab.initiate(0, 1);
        lab.run(secs(1));
        lab.heal();
        lab.run(secs(5));
        assert!(lab.session(0, 1).is_established());
        assert_eq!(lab.times(0, 1).len(), 2);
    }

    fn a_late_answer_to_the_initiation_before_the_last_counts(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.cuts.insert((underlay(1), underlay(0)));
        lab.initiate(0, 1);
        lab.run(secs(1));
        let response = lab.last(1, 2);
        lab.cut(0, 1);
        lab.run(Duration::from_millis(4_500));
        assert_eq!(lab.times(0, 1).len(), 2);
        lab.deliver(0, underlay(1), &response);
        assert!(lab.session(0, 1).is_established());
        lab.heal();
        lab.run(secs(110));
        assert_eq!(lab.times(0, 1).len(), 2, "one answer is enough");
        assert_eq!(closed(&lab.nodes[0].events), 0);
    }

    fn an_answer_that_was_held_back_for_long_is_refused(engine: Engine) {
        for (wait, is_taken) in [(85, true), (95, false)] {
            let mut lab = Lab::pair(engine);
            lab.initiate(0, 1);
            lab.run(Duration::from_millis(15));
            let response = lab.air.pop_back().unwrap();
            assert_eq!(response.payload[0], 2);
            // The node did not run either, and so has not asked again.
            lab.now += secs(wait);
            let taken = lab.handshake(0, at(underlay(1)), &response.payload);
            assert_eq!(taken.is_ok(), is_taken, "{wait} s: {taken:?}");
            assert_eq!(lab.session(0, 1).is_established(), is_taken);
        }
    }

    fn who_has_just_answered_does_not_ask(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        lab.run(Duration::from_millis(15));
        lab.air.clear();
        lab.cut(0, 1);
        lab.initiate(1, 0);
        lab.run(Duration::from_millis(4_900));
        assert_eq!(lab.times(1, 1).len(), 0);
        lab.run(Duration::from_millis(500));
        assert_eq!(lab.times(1, 1).len(), 1, "but if nothing is confirmed in 5 s, it does");
    }

    fn a_keepalive_is_in_time_although_the_session_was_in_use(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.sent.clear();
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        lab.send(0, 1).unwrap();
        lab.run(secs(20));
        let times = lab.times(1, 4);
        assert_eq!(times.len(), 2, "{times:?}");
        assert!((11.0..11.2).contains(&times[1]), "{times:?}");
    }

    fn a_round_trip_of_seven_seconds_makes_no_endless_handshakes(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.latency = Duration::from_millis(3_500);
        lab.initiate(0, 1);
        lab.run(secs(20));
        for _ in 0..300 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
        }
        lab.run(secs(4));
        assert_eq!((lab.nodes[0].inbox.len(), lab.nodes[1].inbox.len()), (300, 300));
        let handshakes = lab.times(0, 1).len() + lab.times(1, 1).len();
        assert!(handshakes <= 8, "{handshakes} in 324 s");
    }

    fn an_idle_device_has_no_deadline_but_expiry(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.nodes[0].timeouts = 0;
        lab.run(secs(1000));
        assert!(lab.nodes[0].timeouts <= 2, "expiry and keys to forget: {}", lab.nodes[0].timeouts);
        assert_eq!(lab.nodes[0].device.poll_timeout(), None);
    }

    fn a_busy_session_wakes_the_device_rarely(engine: Engine) {
        let mut lab = Lab::connected(engine);
        (lab.nodes[0].timeouts, lab.nodes[0].signals) = (0, 0);
        for _ in 0..1000 {
            lab.send(0, 1).unwrap();
            lab.send(1, 0).unwrap();
            lab.run(Duration::from_millis(100));
        }
        assert!(lab.nodes[0].timeouts <= 12, "{} timeouts in 100 s", lab.nodes[0].timeouts);
        assert!(lab.nodes[0].signals <= 12, "{} signals in 100 s", lab.nodes[0].signals);
    }

    fn a_stranger_is_named_and_can_be_added(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        lab.add(0, peer(1));
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap();
        for _ in 0..2 {
            assert_eq!(lab.handshake(1, at(initiation.from), &initiation.payload), Err(HandshakeError::Stranger(public(0))));
            assert_eq!(lab.nodes[1].device.sessions().count(), 0);
            assert!(lab.nodes[1].device.poll_transmit().is_none());
        }
        lab.add(1, peer(0));
        lab.deliver(1, initiation.from, &initiation.payload);
        lab.run(secs(1));
        assert!(lab.session(1, 0).is_established());
    }

    fn another_preshared_key_makes_silence(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        let mut other = peer(1);
        other.preshared = Some(PresharedKey::from_bytes([7; 32]));
        lab.add(0, other);
        lab.add(1, peer(0));
        lab.initiate(0, 1);
        lab.run(secs(20));
        assert!(!lab.session(0, 1).is_established() && !lab.session(1, 0).is_established());
        assert!(lab.nodes[0].refused.iter().all(|&reason| reason == "handshake_forged"));
        assert!(!lab.nodes[0].refused.is_empty());

        let mut right = peer(0);
        right.preshared = Some(PresharedKey::from_bytes([7; 32]));
        lab.nodes[1].device.update_peer(right, lab.now).unwrap();
        lab.run(secs(6));
        assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
    }

    fn initiations_in_one_burst_are_answered_once_in_20_ms(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        lab.add(1, peer(0));
        let mut initiations = Vec::new();
        for seed in 0..3 {
            let mut other = lab.restarted(engine, 0, 50 + seed);
            // Later by more than what a stamp leaves out.
            lab.now += Duration::from_millis(17);
            other.add_peer(peer(1), lab.now).unwrap();
            other.initiate(&public(1), lab.now);
            initiations.push(other.poll_transmit().unwrap().payload);
        }
        assert_eq!(lab.handshake(1, at(underlay(0)), &initiations[0]), Ok(()));
        lab.now += Duration::from_millis(10);
        assert_eq!(lab.handshake(1, at(underlay(0)), &initiations[1]), Err(HandshakeError::TooSoon));
        lab.now += Duration::from_millis(10);
        assert_eq!(lab.handshake(1, at(underlay(0)), &initiations[2]), Ok(()));
    }

    fn every_refused_kind_of_ephemeral_is_refused(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap().payload;
        lab.deliver(1, underlay(0), &initiation);
        let response = lab.air.pop_front().unwrap().payload;
        for (node, message, offset) in [(1, &initiation, 8), (0, &response, 12)] {
            for point in bad_points() {
                let mut forged = message.clone();
                forged[offset..offset + 32].copy_from_slice(&point);
                Mac1::new(&public(node)).write(&mut forged);
                let refused = lab.handshake(node, at(underlay(1 - node)), &forged);
                assert!(matches!(refused, Err(HandshakeError::Ephemeral(_))), "{point:x?}: {refused:?}");
            }
        }
        assert_eq!(lab.handshake(0, at(underlay(1)), &response), Ok(()), "the right one still works");
    }

    fn a_wrong_mac_is_refused_before_all_else(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap().payload;
        for byte in 4..132 {
            let mut changed = initiation.clone();
            changed[byte] ^= 0x10;
            assert_eq!(lab.handshake(1, at(underlay(0)), &changed), Err(HandshakeError::Mac1));
        }
        for message in [&initiation[..147], &[][..], &[4; 32][..]] {
            assert_eq!(lab.handshake(1, at(underlay(0)), message), Err(HandshakeError::NotHandshake));
        }
        assert!(lab.nodes[1].device.poll_transmit().is_none());
    }

    fn our_own_key_is_no_peer(engine: Engine) {
        let mut lab = Lab::new(engine, 1);
        assert_eq!(lab.nodes[0].device.add_peer(peer(0), lab.now).unwrap_err(), AddPeerError::OwnKey);
        let mut twin = lab.restarted(engine, 1, 9);
        twin.add_peer(peer(0), lab.now).unwrap();
        twin.initiate(&public(0), lab.now);
        let stranger = twin.poll_transmit().unwrap().payload;
        assert_eq!(lab.handshake(0, at(underlay(1)), &stranger), Err(HandshakeError::Stranger(public(1))));
    }

    fn responses_and_cookies_to_nobody_are_refused(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let response = lab.last(1, 2);
        assert_eq!(lab.handshake(0, at(underlay(1)), &response), Err(HandshakeError::Unexpected), "answered before");
        let mut elsewhere = response;
        elsewhere[11] ^= 1;
        Mac1::new(&public(0)).write(&mut elsewhere);
        assert_eq!(lab.handshake(0, at(underlay(1)), &elsewhere), Err(HandshakeError::UnknownIndex));
        let mut cookie = vec![0; 64];
        cookie[0] = 3;
        assert_eq!(lab.handshake(0, at(underlay(1)), &cookie), Err(HandshakeError::UnknownIndex));
        cookie[4..8].copy_from_slice(&lab.last(0, 1)[4..8]);
        assert!(lab.handshake(0, at(underlay(1)), &cookie).is_err());
    }

    fn a_removed_peer_can_do_nothing(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let session = lab.session(0, 1);
        let late = lab.seal(1, 0, &packet(overlay(1), 60)).unwrap();
        lab.nodes[0].device.remove_peer(&public(1));
        assert!(!session.is_established());
        let mut out = [0; 2048];
        assert_eq!(session.lock(lab.now).seal(&[], MTU, &mut out), Err(SealError::NotEstablished));
        assert!(session.lock(lab.now).open(at(late.from), &late.payload, &mut out).is_err());
        assert_eq!(lab.nodes[0].device.poll_timeout(), None);
        lab.add(0, peer(1));
    }

    fn an_update_keeps_the_session_and_another_preshared_key_does_not(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let mut other = peer(1);
        other.allowed = vec!["600:9::/64".parse().unwrap()];
        lab.nodes[0].device.update_peer(other.clone(), lab.now).unwrap();
        lab.drain(0);
        assert!(lab.session(0, 1).is_established());
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.nodes[0].inbox[0].0, Verdict::Foreign, "its prefix changed");
        other.preshared = Some(PresharedKey::from_bytes([1; 32]));
        lab.nodes[0].device.update_peer(other, lab.now).unwrap();
        lab.drain(0);
        assert!(!lab.session(0, 1).is_established());
        assert_eq!(closed(&lab.nodes[0].events), 1);
        assert_eq!(lab.nodes[0].device.update_peer(peer(5), lab.now), Err(AddPeerError::Unknown));
    }

    fn a_network_change_shows_every_peer_where_we_are(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(secs(3));
        let moved = "198.51.100.7:4000".parse().unwrap();
        lab.nodes[0].at = moved;
        lab.nodes[0].device.handle_network_change(lab.now);
        lab.drain(0);
        assert_eq!(lab.session(0, 1).lock(lab.now).endpoint().unwrap().underlay().unwrap().local, None);
        lab.run(secs(1));
        assert_eq!(lab.endpoint(1, 0), Some(moved));
    }

    fn a_network_change_retries_at_once(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.cut(0, 1);
        lab.initiate(0, 1);
        lab.run(secs(1));
        lab.heal();
        lab.nodes[0].device.handle_network_change(lab.now);
        lab.drain(0);
        lab.run(Duration::from_millis(100));
        assert!(lab.session(0, 1).is_established());
    }

    fn an_address_that_comes_later_is_used_at_once(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        let mut homeless = peer(1);
        homeless.endpoints.clear();
        lab.add(0, homeless);
        lab.add(1, peer(0));
        lab.initiate(0, 1);
        assert_eq!(unanswered(&lab.nodes[0].events), 1, "there is nobody to ask");
        lab.run(secs(3));
        assert!(lab.sent.is_empty());
        lab.nodes[0].device.set_endpoints(&public(1), vec![at(underlay(1))], lab.now);
        lab.drain(0);
        lab.run(Duration::from_millis(100));
        assert!(lab.session(0, 1).is_established());
    }

    fn a_thousand_peers_are_tried_without_hurry(engine: Engine) {
        let mut lab = Lab::new(engine, 1);
        for node in 1..=1000 {
            let mut other = peer(node);
            other.upkeep = Upkeep::Always;
            other.endpoints = vec![at(underlay(250))];
            lab.add(0, other);
        }
        assert_eq!(lab.times(0, 1).len(), 1000);
        lab.run(secs(5));
        assert!(lab.nodes[0].timeouts <= 1);
        let (due, reason) = lab.nodes[0].device.poll_timeout().unwrap();
        assert!(due > lab.now && due - lab.start >= secs(5));
        assert_eq!(reason, "handshake retry");
        lab.run(Duration::from_millis(334));
        assert_eq!(lab.times(0, 1).len(), 2000);
        assert!(lab.nodes[0].timeouts <= 335, "at most one a millisecond");
    }
}

fn bad_points() -> Vec<[u8; 32]> {
    let mut points = vec![[0; 32], [0xff; 32]];
    let mut one = [0; 32];
    one[0] = 1;
    points.push(one);
    for low in 0xec..=0xef {
        let mut near_p = [0xff; 32];
        near_p[0] = low;
        near_p[31] = 0x7f;
        points.push(near_p);
    }
    // The two points of order eight.
    points.extend([
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83,
            0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd,
            0xd0, 0x9f, 0x11, 0x57,
        ],
    ]);
    points
}

#[test]
fn devices_and_sessions_may_move_between_threads() {
    fn moves<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    moves::<wireguard::Device>();
    is_shared::<wireguard::Session>();
}
