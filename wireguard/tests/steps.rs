//! Steps of a handshake that another thread takes, and what the device makes of them later.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use wireguard::{Author, Event, HandshakeError, Kind, Mac1, PresharedKey, Session};

/// Takes a message for a session of `node`, which the device does not hear of.
fn take(lab: &Lab, node: usize, session: &Arc<Session>, datagram: &[u8]) -> Step {
    let reader = lab.nodes[node].device.reader();
    step(reader, session, at(underlay(1 - node)), datagram, lab.now)
}

/// An initiation on its way from node 0 to node 1.
fn initiated(lab: &mut Lab) -> Vec<u8> {
    lab.initiate(0, 1);
    lab.air.pop_front().unwrap().payload
}

/// The response of node 1 to an initiation of node 0, which has not arrived.
fn answered(lab: &mut Lab) -> Vec<u8> {
    let initiation = initiated(lab);
    lab.deliver(1, underlay(0), &initiation);
    lab.air.pop_front().unwrap().payload
}

fn has_established(lab: &Lab, node: usize) -> bool {
    let events = &lab.nodes[node].events;
    events
        .iter()
        .any(|event| matches!(event, Event::Established { .. }))
}

both_engines! {
    fn what_is_refused_ends_where_it_was_read(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let initiation = initiated(&mut lab);
        lab.deliver(1, underlay(0), &initiation);
        let response = lab.air.pop_front().unwrap().payload;
        let (a, b) = (lab.session(0, 1), lab.session(1, 0));
        let refused = |lab: &Lab, node, session: &Arc<Session>, datagram: &[u8], error| {
            let step = take(lab, node, session, datagram);
            assert_eq!(step.result, Err(error));
            assert!(!step.signals.any() && step.sent.is_empty(), "{error}: the device would hear of it");
        };
        refused(&lab, 1, &b, &initiation, HandshakeError::TooSoon);
        lab.now += secs(1);
        refused(&lab, 1, &b, &initiation, HandshakeError::Replayed);
        let forged = |byte: usize| {
            let mut forged = response.clone();
            forged[byte] ^= 1;
            Mac1::new(&public(0)).write(&mut forged);
            forged
        };
        refused(&lab, 0, &a, &forged(50), HandshakeError::Forged);
        refused(&lab, 0, &a, &forged(8), HandshakeError::Unexpected);
        assert_eq!(take(&lab, 0, &a, &response).result, Ok(()), "the right one still works");
        refused(&lab, 0, &a, &response, HandshakeError::Unexpected);
    }

    fn the_device_hears_of_a_response_when_it_is_told(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        let session = lab.session(0, 1);
        lab.now += Duration::from_millis(7);
        let step = take(&lab, 0, &session, &response);
        assert!(step.signals.handshake && session.is_established());
        assert_eq!(step.sent.len(), 1, "the keepalive that confirms");
        assert!(!has_established(&lab, 0));
        lab.nodes[0].device.handle_signal(&public(1), lab.now);
        lab.drain(0);
        let rtt = Some(Duration::from_millis(7));
        assert!(lab.nodes[0].events.contains(&Event::Established { peer: public(1), rtt }));
        lab.run(secs(20));
        assert_eq!(lab.times(0, 1).len(), 1, "nothing is tried again");
    }

    fn the_device_looks_before_it_tries_again(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        let session = lab.session(0, 1);
        let (due, _) = lab.nodes[0].device.poll_timeout().unwrap();
        lab.now = due;
        assert_eq!(take(&lab, 0, &session, &response).result, Ok(()));
        // The timer comes before the signal.
        lab.nodes[0].device.handle_timeout(lab.now);
        lab.drain(0);
        assert!(has_established(&lab, 0));
        assert_eq!(lab.times(0, 1).len(), 1);
    }

    fn who_has_answered_elsewhere_does_not_ask(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let initiation = initiated(&mut lab);
        let session = lab.session(1, 0);
        let step = take(&lab, 1, &session, &initiation);
        assert_eq!((step.result, step.sent.len()), (Ok(()), 1));
        lab.initiate(1, 0);
        lab.run(Duration::from_millis(4_900));
        assert_eq!(lab.times(1, 1).len(), 0, "a packet waits, but the peer asked first");
        lab.run(Duration::from_millis(500));
        assert_eq!(lab.times(1, 1).len(), 1);
    }

    fn an_initiation_that_crosses_a_response_is_not_repeated(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        lab.cut(0, 1);
        let session = lab.session(0, 1);
        let (due, _) = lab.nodes[0].device.poll_timeout().unwrap();
        lab.now = due;
        lab.nodes[0].device.handle_timeout(lab.now);
        lab.drain(0);
        assert_eq!(lab.times(0, 1).len(), 2);
        assert_eq!(take(&lab, 0, &session, &response).result, Ok(()));
        lab.nodes[0].device.handle_signal(&public(1), lab.now);
        lab.drain(0);
        lab.heal();
        lab.run(secs(120));
        assert_eq!(lab.times(0, 1).len(), 2);
        assert!(session.is_established());
    }

    fn nothing_is_left_of_a_peer_that_was_removed_meanwhile(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        let removed = lab.session(0, 1);
        assert_eq!(take(&lab, 0, &removed, &response).result, Ok(()));
        lab.nodes[0].device.remove_peer(&public(1));
        lab.nodes[0].device.handle_signal(&public(1), lab.now);
        assert!(!removed.is_established());
        assert_eq!(lab.nodes[0].device.poll_timeout(), None);
        lab.drain(0);
        assert!(!has_established(&lab, 0));

        // The same key again, perhaps as something else: the news of the old session means nothing to the new one.
        let mut other = peer(1);
        other.kind = Kind::Stock;
        lab.add(0, other);
        lab.nodes[0].device.handle_signal(&public(1), lab.now);
        lab.drain(0);
        assert!(!has_established(&lab, 0) && !lab.session(0, 1).is_established());
        assert_eq!(lab.nodes[0].device.poll_timeout(), None);
    }

    fn who_still_holds_a_removed_session_takes_no_step(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        lab.run(secs(6));
        let again = lab.last(0, 1);
        let (a, b) = (lab.session(0, 1), lab.session(1, 0));
        let author = lab.nodes[1].device.reader().read(&again, |_| Ok(())).unwrap();
        assert!(matches!(author, Author::Initiator { key, .. } if key == public(0)));
        lab.nodes[0].device.remove_peer(&public(1));
        lab.nodes[1].device.remove_peer(&public(0));
        assert_eq!(take(&lab, 0, &a, &response).result, Err(HandshakeError::Unexpected));
        assert_eq!(take(&lab, 1, &b, &again).result, Err(HandshakeError::Stranger(public(0))));
        let mut sent = VecDeque::new();
        let late = b.lock(lab.now).handle_handshake(author, at(underlay(0)), &again, &mut sent);
        assert_eq!((late, sent.len()), (Err(HandshakeError::Stranger(public(0))), 0));
        assert!(!a.is_established() && !b.is_established());
    }

    fn nothing_is_left_of_an_engine_that_was_replaced_meanwhile(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let response = answered(&mut lab);
        let session = lab.session(0, 1);
        assert_eq!(take(&lab, 0, &session, &response).result, Ok(()));
        let mut other = peer(1);
        other.preshared = Some(PresharedKey::from_bytes([7; 32]));
        lab.nodes[0].device.update_peer(other, lab.now).unwrap();
        lab.nodes[0].device.handle_signal(&public(1), lab.now);
        lab.drain(0);
        assert!(!session.is_established() && !has_established(&lab, 0));
        assert_eq!(take(&lab, 0, &session, &response).result, Err(HandshakeError::Unexpected));
    }

    fn who_answered_with_an_engine_that_was_replaced_meanwhile_may_ask_at_once(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let initiation = initiated(&mut lab);
        let session = lab.session(1, 0);
        assert_eq!(take(&lab, 1, &session, &initiation).result, Ok(()));
        let mut other = peer(0);
        other.preshared = Some(PresharedKey::from_bytes([7; 32]));
        lab.nodes[1].device.update_peer(other, lab.now).unwrap();
        lab.initiate(1, 0);
        assert_eq!(lab.times(1, 1).len(), 1);
    }

    fn a_step_in_the_name_of_another_is_refused(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.add(1, peer(2));
        let initiation = initiated(&mut lab);
        let author = lab.nodes[1].device.reader().read(&initiation, |_| Ok(())).unwrap();
        let wrong = lab.session(1, 2);
        let mut sent = VecDeque::new();
        let refused = wrong.lock(lab.now).handle_handshake(author, at(underlay(0)), &initiation, &mut sent);
        assert_eq!(refused, Err(HandshakeError::Stranger(public(0))));
    }
}

#[test]
fn an_initiation_after_the_last_too_soon_costs_one_key_agreement() {
    let mut lab = Lab::connected(Engine::Noise);
    let reader = lab.nodes[1].device.reader().clone();
    let mut right = lab.last(0, 1);
    // What the second key agreement would find out is not even looked at.
    right[110] ^= 1;
    Mac1::new(&public(1)).write(&mut right);
    let session = lab.session(1, 0);
    lab.now = lab.start + Duration::from_millis(15);
    let read = reader.read(&right, |_| session.admit(lab.now));
    assert_eq!(read, Err(HandshakeError::TooSoon));
    lab.now += Duration::from_millis(20);
    let read = reader.read(&right, |_| session.admit(lab.now));
    assert_eq!(read, Err(HandshakeError::Forged));
}
