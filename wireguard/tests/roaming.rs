//! Where a peer is, and what can change that.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use wireguard::{Endpoint, Event, HandshakeError, Mac1, Underlay};

fn elsewhere() -> SocketAddr {
    "[2001:db8::7]:4321".parse().unwrap()
}

both_engines! {
    fn a_data_packet_from_elsewhere_moves_the_endpoint(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
        lab.deliver(1, elsewhere(), &flight.payload);
        assert_eq!(lab.endpoint(1, 0), Some(elsewhere()));
        assert!(matches!(lab.nodes[1].events.last(), Some(Event::Roamed { endpoint, .. }) if endpoint.remote() == Some(elsewhere())));
        let answer = lab.seal(1, 0, &packet(overlay(1), 80)).unwrap();
        assert_eq!(answer.to, elsewhere());
    }

    fn a_keepalive_from_elsewhere_moves_the_endpoint(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &[]).unwrap();
        lab.deliver(1, elsewhere(), &flight.payload);
        assert_eq!(lab.endpoint(1, 0), Some(elsewhere()));
    }

    fn another_local_address_is_kept_without_an_event(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let events = lab.nodes[1].events.len();
        let flight = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
        let session = lab.session(1, 0);
        let from = Endpoint::Underlay(Underlay {
            remote: underlay(0),
            local: Some("192.0.2.99".parse().unwrap()),
            socket: 0,
        });
        let mut out = [0; 2048];
        let mut batch = session.lock(lab.now);
        assert!(batch.open(from, &flight.payload, &mut out).is_ok());
        assert!(!batch.finish().roamed);
        assert_eq!(session.lock(lab.now).endpoint(), Some(from));
        lab.drain(1);
        assert_eq!(lab.nodes[1].events.len(), events);
    }

    fn a_forged_or_replayed_data_packet_moves_nothing(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap();
        lab.deliver(1, underlay(0), &flight.payload);
        lab.deliver(1, elsewhere(), &flight.payload);
        let mut forged = lab.seal(0, 1, &packet(overlay(0), 80)).unwrap().payload;
        forged[40] ^= 1;
        lab.deliver(1, elsewhere(), &forged);
        assert_eq!(lab.nodes[1].refused, ["open_replayed", "open_forged"]);
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
    }

    fn a_replayed_initiation_moves_nothing_and_answers_nothing(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let initiation = lab.last(0, 1);
        lab.run(secs(1));
        let sent = lab.sent.len();
        for _ in 0..3 {
            let refused = lab.handshake(1, at(elsewhere()), &initiation);
            assert_eq!(refused, Err(HandshakeError::Replayed));
            lab.run(secs(50));
        }
        lab.drain(1);
        assert_eq!(lab.sent.len(), sent);
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
        assert!(lab.session(1, 0).is_established());
    }

    fn a_replayed_older_initiation_moves_nothing_either(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let oldest = lab.last(0, 1);
        for _ in 0..130 {
            lab.send(0, 1).unwrap();
            lab.run(secs(1));
        }
        assert_eq!(lab.times(0, 1).len(), 2);
        assert_eq!(lab.handshake(1, at(elsewhere()), &oldest), Err(HandshakeError::Replayed));
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
    }

    fn an_old_initiation_replayed_after_our_restart_does_not_move_a_session(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let initiation = lab.last(0, 1);
        lab.run(secs(10));
        lab.nodes[1].device = lab.restarted(engine, 1, 88);
        lab.add(1, peer(0));
        lab.initiate(1, 0);
        lab.run(secs(1));
        assert!(lab.session(1, 0).is_established());
        assert_eq!(lab.handshake(1, at(elsewhere()), &initiation), Ok(()), "it cannot know");
        lab.drain(1);
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.nodes[0].inbox.len(), 1);
    }

    fn a_peer_that_restarted_elsewhere_is_followed(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(secs(10));
        lab.nodes[0].at = elsewhere();
        lab.nodes[0].device = lab.restarted(engine, 0, 77);
        lab.add(0, peer(1));
        lab.initiate(0, 1);
        lab.run(secs(1));
        assert_eq!(lab.endpoint(1, 0), Some(elsewhere()));
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.nodes[0].inbox.len(), 1);
    }

    fn forged_handshakes_move_nothing(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let (initiation, response) = (lab.last(0, 1), lab.last(1, 2));
        lab.run(secs(1));
        for byte in 4..116 {
            let mut forged = initiation.clone();
            forged[byte] ^= 1;
            Mac1::new(&public(1)).write(&mut forged);
            assert!(lab.handshake(1, at(elsewhere()), &forged).is_err(), "byte {byte}");
        }
        for byte in 4..60 {
            let mut forged = response.clone();
            forged[byte] ^= 1;
            Mac1::new(&public(0)).write(&mut forged);
            assert!(lab.handshake(0, at(elsewhere()), &forged).is_err(), "byte {byte}");
        }
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
        assert_eq!(lab.endpoint(0, 1), Some(underlay(1)));
        assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
    }

    fn a_response_from_elsewhere_moves_the_endpoint(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap();
        lab.deliver(1, initiation.from, &initiation.payload);
        let response = lab.air.pop_front().unwrap();
        lab.deliver(0, elsewhere(), &response.payload);
        assert_eq!(lab.endpoint(0, 1), Some(elsewhere()));
        assert_eq!(lab.air.back().unwrap().to, elsewhere(), "the keepalive follows");
    }

    fn initiations_try_the_configured_endpoints_in_turn(engine: Engine) {
        let mut lab = Lab::new(engine, 2);
        let mut other = peer(1);
        other.endpoints = [8, 9, 1].map(underlay).map(at).to_vec();
        lab.add(0, other);
        lab.add(1, peer(0));
        lab.initiate(0, 1);
        assert_eq!(lab.air.back().unwrap().to, underlay(8));
        lab.run(Duration::from_millis(5_340));
        lab.run(Duration::from_millis(6_000));
        assert!(lab.session(0, 1).is_established(), "the third worked");
        assert_eq!(lab.times(0, 1).len(), 3);
        assert_eq!(lab.endpoint(0, 1), Some(underlay(1)));
    }

    fn a_peer_that_moved_away_is_found_at_its_configured_endpoint(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.nodes[1].at = underlay(5);
        lab.nodes[0].device.set_endpoints(&public(1), vec![at(underlay(5))], lab.now);
        assert_eq!(lab.endpoint(0, 1), Some(underlay(1)), "what works is not changed");
        lab.send(0, 1).unwrap();
        lab.run(secs(27));
        assert_eq!(lab.endpoint(0, 1), Some(underlay(5)));
    }

    fn a_decision_from_outside_stays_until_the_peer_is_heard(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.session(0, 1).lock(lab.now).set_endpoint(at(elsewhere()));
        assert_eq!(lab.seal(0, 1, &[]).unwrap().to, elsewhere());
        lab.send(1, 0).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.endpoint(0, 1), Some(underlay(1)));
    }
}
