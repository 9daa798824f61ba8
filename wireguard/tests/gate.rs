//! The gate in front of a device: limits by source, cookies, and who understands them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::boringtun::noise::{Tunn, TunnResult};
use common::*;
use wireguard::{Author, Gate, HandshakeError, Load, Mac1, Passage};

fn gate(node: usize) -> Gate {
    Gate::new(&public(node), &[9; 32])
}

/// An initiation as anybody can write it who knows the key of a node.
fn nonsense(node: usize) -> Vec<u8> {
    let mut message = vec![0x33; 148];
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    Mac1::new(&public(node)).write(&mut message);
    message
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Lets the two devices talk for so long; what reaches node 1 passes its gate, under this load.
fn run_through(lab: &mut Lab, gate: &mut Gate, load: Load, duration: Duration) {
    let end = lab.now + duration;
    while lab.now < end {
        let arrived: Vec<_> = lab.air.drain(..).collect();
        for flight in arrived {
            let to_gate = flight.to == underlay(1) && matches!(flight.payload[0], 1 | 2);
            if !to_gate {
                let node = usize::from(flight.to == underlay(1));
                lab.deliver(node, flight.from, &flight.payload);
                continue;
            }
            match gate.judge(&flight.payload, flight.from, load, lab.now) {
                Passage::Pass => lab.deliver(1, flight.from, &flight.payload),
                Passage::Prove(reply) => lab.deliver(0, flight.to, &reply),
                Passage::Mac1 | Passage::Limited => panic!("an honest initiation was refused"),
            }
        }
        for node in 0..2 {
            let due = lab.nodes[node].device.poll_timeout();
            if due.is_some_and(|(due, _)| due <= lab.now) {
                lab.nodes[node].device.handle_timeout(lab.now);
                lab.drain(node);
            }
        }
        lab.now += Duration::from_millis(10);
    }
}

#[test]
fn a_device_proves_its_address_and_connects_with_its_second_initiation() {
    let (mut lab, mut gate) = (Lab::pair(Engine::Noise), gate(1));
    lab.initiate(0, 1);
    run_through(&mut lab, &mut gate, Load::Heavy, secs(6));
    assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
    assert_eq!(lab.times(0, 1).len(), 2);
}

#[test]
fn without_load_the_first_initiation_passes() {
    let (mut lab, mut gate) = (Lab::pair(Engine::Noise), gate(1));
    lab.initiate(0, 1);
    run_through(&mut lab, &mut gate, Load::Light, Duration::from_millis(100));
    assert!(lab.session(1, 0).is_established());
    assert_eq!(lab.times(0, 1).len(), 1);
}

/// A stock client of node 1.
fn stock() -> Tunn {
    let secret = ::boringtun::x25519::StaticSecret::from([0x48; 32]);
    Tunn::new(secret, (*public(1).as_bytes()).into(), None, None, 1, None)
}

fn initiate(client: &mut Tunn) -> Vec<u8> {
    let mut buffer = [0; 256];
    let TunnResult::WriteToNetwork(message) = client.format_handshake_initiation(&mut buffer, true)
    else {
        panic!("no initiation");
    };
    message.to_vec()
}

#[test]
fn stock_boringtun_proves_its_address() {
    let (mut gate, now, from) = (gate(1), Instant::now(), address("192.0.2.1:7"));
    let mut client = stock();
    let first = initiate(&mut client);
    let Passage::Prove(reply) = gate.judge(&first, from, Load::Heavy, now) else {
        panic!("a proof is demanded under load");
    };
    let mut out = [0; 256];
    let taken = client.decapsulate(None, &reply, &mut out);
    assert!(matches!(taken, TunnResult::Done), "{taken:?}");
    let second = initiate(&mut client);
    let elsewhere = gate.judge(&second, address("192.0.2.1:8"), Load::Heavy, now);
    assert!(matches!(elsewhere, Passage::Prove(_)), "{elsewhere:?}");
    let here = gate.judge(&second, from, Load::Heavy, now);
    assert_eq!(here, Passage::Pass);
}

#[test]
fn load_lasts_a_second_longer() {
    let (mut gate, now, from) = (gate(1), Instant::now(), address("192.0.2.1:7"));
    let message = nonsense(1);
    let mut passes = |load, millis| {
        let now = now + Duration::from_millis(millis);
        gate.judge(&message, from, load, now) == Passage::Pass
    };
    assert!(passes(Load::Light, 0));
    assert!(!passes(Load::Heavy, 1000));
    assert!(!passes(Load::Light, 1999));
    assert!(passes(Load::Light, 2000));
}

#[test]
fn a_flood_in_the_name_of_a_peer_does_not_shut_it_out() {
    let (mut lab, mut gate) = (Lab::pair(Engine::Noise), gate(1));
    let message = nonsense(1);
    for _ in 0..1000 {
        gate.judge(&message, underlay(0), Load::Light, lab.now);
    }
    lab.initiate(0, 1);
    for _ in 0..60 {
        for _ in 0..10 {
            gate.judge(&message, underlay(0), Load::Light, lab.now);
        }
        run_through(&mut lab, &mut gate, Load::Light, Duration::from_millis(100));
    }
    assert!(lab.session(1, 0).is_established());
}

#[test]
fn who_has_proven_its_address_is_limited_there() {
    let (mut gate, now, from) = (gate(1), Instant::now(), address("192.0.2.1:7"));
    let mut client = stock();
    let mut passed = 0;
    for _ in 0..100 {
        let message = initiate(&mut client);
        match gate.judge(&message, from, Load::Heavy, now) {
            Passage::Pass => passed += 1,
            Passage::Prove(reply) => {
                client.decapsulate(None, &reply, &mut [0; 256]);
            }
            Passage::Limited => {}
            Passage::Mac1 => panic!("the MAC is right"),
        }
    }
    assert_eq!(passed, 5);
}

#[test]
fn replies_are_never_longer_than_what_they_answer_and_strangers_to_our_key_get_none() {
    let (mut gate, now) = (gate(1), Instant::now());
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for n in 0..20_000_u32 {
        let from = SocketAddr::from((n.to_be_bytes(), 7));
        let mut message = nonsense(1);
        let is_right = n % 3 > 0;
        message[100] ^= u8::from(!is_right);
        bytes_in += message.len();
        match gate.judge(&message, from, Load::Heavy, now) {
            Passage::Prove(reply) => {
                assert!(is_right);
                bytes_out += reply.len();
            }
            Passage::Mac1 => assert!(!is_right),
            Passage::Pass | Passage::Limited => panic!("nobody has proven anything"),
        }
    }
    assert!(bytes_out > 0 && bytes_out <= bytes_in / 2);
}

both_engines! {
    fn a_reader_names_the_author_and_another_thread_may_ask(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let initiation = lab.last(0, 1);
        let reader = lab.nodes[1].device.reader().clone();
        let thread = std::thread::spawn(move || reader.read(&initiation, |_| Ok(())));
        let read = thread.join().unwrap();
        assert!(matches!(read, Ok(Author::Initiator { key, .. }) if key == public(0)), "{read:?}");
    }

    fn a_stranger_is_turned_away_by_the_reader(engine: Engine) {
        let mut lab = Lab::pair(engine);
        lab.initiate(0, 1);
        let read = lab.nodes[1].device.reader().read(&lab.last(0, 1), |key| Err(HandshakeError::Stranger(*key)));
        assert_eq!(read, Err(HandshakeError::Stranger(public(0))));
    }
}

/// Who knows a peer's public key can name it in an initiation, but not seal the time stamp.
#[test]
fn an_initiation_in_the_name_of_a_peer_does_not_get_past_the_reader() {
    let mut lab = Lab::pair(Engine::Noise);
    lab.initiate(0, 1);
    let right = lab.last(0, 1);
    let reader = lab.nodes[1].device.reader();
    for byte in 88..116 {
        let mut forged = right.clone();
        forged[byte] ^= 1;
        Mac1::new(&public(1)).write(&mut forged);
        let mut asked = None;
        let read = reader.read(&forged, |key| {
            asked = Some(*key);
            Ok(())
        });
        assert_eq!(
            (read, asked),
            (Err(HandshakeError::Forged), Some(public(0)))
        );
    }
}
