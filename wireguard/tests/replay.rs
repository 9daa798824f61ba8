//! What a data message must be to be opened, and what sealing makes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use common::*;
use wireguard::constants::REJECT_AFTER_MESSAGES;
use wireguard::{Kind, OpenError, Opened, SealError, Verdict};

both_engines! {
    fn the_window_takes_each_counter_once_in_any_order(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flights: Vec<_> = (0..3000).map(|_| lab.seal(0, 1, &packet(overlay(0), 64)).unwrap().payload).collect();
        // Every block of 512 backwards, then everything again.
        for block in flights.chunks(512) {
            for flight in block.iter().rev() {
                lab.deliver(1, underlay(0), flight);
            }
        }
        assert_eq!(lab.nodes[1].inbox.len(), flights.len());
        for flight in &flights {
            lab.deliver(1, underlay(0), flight);
        }
        assert_eq!(lab.nodes[1].inbox.len(), flights.len());
        assert_eq!(lab.nodes[1].refused, vec!["open_replayed"; flights.len()]);
    }

    fn a_counter_too_far_behind_is_refused(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flights: Vec<_> = (0..8200).map(|_| lab.seal(0, 1, &packet(overlay(0), 64)).unwrap().payload).collect();
        lab.deliver(1, underlay(0), &flights[8199]);
        lab.deliver(1, underlay(0), &flights[8199 - 8128]);
        assert_eq!(lab.nodes[1].refused, ["open_replayed"]);
        lab.deliver(1, underlay(0), &flights[8199 - 8127]);
        assert_eq!(lab.nodes[1].inbox.len(), 2);
    }

    fn counters_beyond_the_limit_do_not_reach_the_engine(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &packet(overlay(0), 64)).unwrap();
        let (session, mut out) = (lab.session(1, 0), [0; 256]);
        for (counter, error) in [
            (u64::MAX, OpenError::Counter),
            (REJECT_AFTER_MESSAGES, OpenError::Counter),
            (REJECT_AFTER_MESSAGES - 1, OpenError::Forged),
            (1 << 60, OpenError::Forged),
        ] {
            let mut forged = flight.payload.clone();
            forged[8..16].copy_from_slice(&counter.to_le_bytes());
            assert_eq!(session.lock(lab.now).open(at(flight.from), &forged, &mut out), Err(error), "{counter}");
        }
        lab.deliver(1, flight.from, &flight.payload);
        lab.deliver(1, flight.from, &flight.payload);
        assert_eq!((lab.nodes[1].inbox.len(), lab.nodes[1].refused.as_slice()), (1, ["open_replayed"].as_slice()));
    }

    fn a_flip_of_any_bit_is_noticed(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &packet(overlay(0), 100)).unwrap();
        for byte in 0..flight.payload.len() {
            for bit in 0..8 {
                let mut flipped = flight.payload.clone();
                flipped[byte] ^= 1 << bit;
                lab.deliver(1, elsewhere(), &flipped);
            }
        }
        assert!(lab.nodes[1].inbox.is_empty());
        assert_eq!(lab.nodes[1].refused.len(), flight.payload.len() * 8);
        assert_eq!(lab.endpoint(1, 0), Some(underlay(0)));
        lab.deliver(1, flight.from, &flight.payload);
        assert_eq!(lab.nodes[1].inbox.len(), 1, "the right one still opens");
    }

    fn packets_are_padded_to_16_but_not_beyond_the_mtu(engine: Engine) {
        let mut lab = Lab::connected(engine);
        for length in 40..=MTU {
            let sent = packet(overlay(0), length);
            let flight = lab.seal(0, 1, &sent).unwrap();
            let inner = flight.payload.len() - 32;
            assert!(inner >= length && inner <= MTU);
            assert!(inner.is_multiple_of(16) || inner == MTU, "{length} became {inner}");
            assert!(inner - length < 16);
            lab.deliver(1, flight.from, &flight.payload);
            assert_eq!(lab.nodes[1].inbox.pop(), Some((Verdict::Owned, sent)), "padding is cut off again");
        }
        assert_eq!(lab.seal(0, 1, &[]).unwrap().payload.len(), 32);
        assert_eq!(lab.seal(0, 1, &packet(overlay(0), MTU + 5)).unwrap().payload.len(), MTU + 5 + 32);
    }

    fn small_buffers_are_refused_and_use_up_nothing(engine: Engine) {
        let lab = Lab::connected(engine);
        let (sender, receiver) = (lab.session(0, 1), lab.session(1, 0));
        let sent = packet(overlay(0), 100);
        let mut out = [0; 144];
        for length in 0..144 {
            assert_eq!(sender.lock(lab.now).seal(&sent, MTU, &mut out[..length]), Err(SealError::Buffer));
        }
        assert_eq!(sender.lock(lab.now).seal(&sent, MTU, &mut out), Ok(144));
        assert_eq!(out[8], 1, "the second message of the keypair, after the keepalive");
        let mut opened = [0; 128];
        for length in 0..128 {
            let refused = receiver.lock(lab.now).open(at(underlay(0)), &out, &mut opened[..length]);
            assert_eq!(refused, Err(OpenError::Buffer));
        }
        assert!(receiver.lock(lab.now).open(at(underlay(0)), &out, &mut opened).is_ok());
    }

    fn a_spoofed_source_is_foreign(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let sources = [overlay(0), "600::ffff:0:0:1".parse().unwrap(), overlay(1), overlay(7), "::1".parse().unwrap(), "fe80::1".parse().unwrap()];
        for source in sources {
            let flight = lab.seal(0, 1, &packet(source, 60)).unwrap();
            lab.launch(0, flight);
        }
        lab.run(secs(1));
        let verdicts: Vec<Verdict> = lab.nodes[1].inbox.iter().map(|(verdict, _)| *verdict).collect();
        use Verdict::{Foreign, Owned};
        assert_eq!(verdicts, [Owned, Owned, Foreign, Foreign, Foreign, Foreign]);
    }

    fn a_stock_device_is_a_leaf(engine: Engine) {
        let mut lab = Lab::pair_with(engine, |peer| peer.kind = Kind::Stock);
        lab.initiate(0, 1);
        lab.run(secs(1));
        lab.send(0, 1).unwrap();
        let foreign = lab.seal(0, 1, &packet(overlay(3), 60)).unwrap();
        lab.launch(0, foreign);
        lab.run(secs(1));
        let verdicts: Vec<Verdict> = lab.nodes[1].inbox.iter().map(|(verdict, _)| *verdict).collect();
        assert_eq!(verdicts, [Verdict::Leaf, Verdict::Foreign]);
    }

    fn ipv4_inside_is_foreign_and_rubbish_is_malformed(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let mut v4 = [0; 28];
        v4[0] = 0x45;
        v4[3] = 28;
        let mut long = packet(overlay(0), 60);
        long[4] = 1; // claims 276 bytes
        let mut empty_v4 = v4;
        empty_v4[3] = 0;
        for inner in [&v4[..], &[0; 20], &[0x60; 16], &long, &empty_v4] {
            let flight = lab.seal(0, 1, inner).unwrap();
            lab.launch(0, flight);
        }
        lab.run(secs(1));
        assert_eq!(lab.nodes[1].inbox, [(Verdict::Foreign, v4.to_vec())]);
        assert_eq!(lab.nodes[1].refused, vec!["open_malformed"; 4]);
        let late = lab.seal(0, 1, &[0; 20]).unwrap();
        lab.deliver(1, elsewhere(), &late.payload);
        assert_eq!(lab.endpoint(1, 0), Some(elsewhere()), "malformed inside, but authentic");
    }

    fn a_message_for_another_keypair_is_unknown(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let flight = lab.seal(0, 1, &packet(overlay(0), 60)).unwrap();
        let (session, mut out) = (lab.session(1, 0), [0; 256]);
        for change in [1, 2, 8, 0x80] {
            let mut other = flight.payload.clone();
            other[4] ^= change;
            assert_eq!(session.lock(lab.now).open(at(flight.from), &other, &mut out), Err(OpenError::UnknownIndex));
        }
        assert_eq!(session.lock(lab.now).open(at(flight.from), &[1; 148], &mut out), Err(OpenError::NotData));
        assert_eq!(session.lock(lab.now).open(at(flight.from), &[], &mut out), Err(OpenError::NotData));
    }

    fn late_packets_of_the_old_keypair_still_open_after_renewal(engine: Engine) {
        let mut lab = Lab::connected(engine);
        lab.run(secs(119));
        let late: Vec<_> = (0..20).map(|_| lab.seal(0, 1, &packet(overlay(0), 60)).unwrap()).collect();
        lab.run(secs(2));
        lab.send(0, 1).unwrap();
        lab.run(secs(1));
        assert_eq!(lab.times(0, 1).len(), 2);
        lab.send(0, 1).unwrap();
        lab.run(secs(1));
        for flight in &late {
            lab.deliver(1, flight.from, &flight.payload);
        }
        assert_eq!(lab.nodes[1].inbox.len(), 22);
        // Node 1 still sends with the new keypair: its index is that of the last initiation.
        let answer = lab.seal(1, 0, &[]).unwrap();
        assert_eq!(answer.payload[4..8], lab.last(0, 1)[4..8]);
    }

    fn one_batch_takes_many_packets(engine: Engine) {
        let lab = Lab::connected(engine);
        let (sender, receiver) = (lab.session(0, 1), lab.session(1, 0));
        let mut arena = vec![0; 64 * 200];
        let mut batch = sender.lock(lab.now);
        for out in arena.chunks_mut(200) {
            assert_eq!(batch.seal(&packet(overlay(0), 160), MTU, out), Ok(192));
        }
        assert!(batch.finish().woke, "the first data after silence");
        let mut out = [0; 200];
        let mut batch = receiver.lock(lab.now);
        for datagram in arena.chunks_mut(200) {
            let opened = batch.open(at(underlay(0)), &datagram[..192], &mut out).unwrap();
            assert!(matches!(opened, Opened::Packet { verdict: Verdict::Owned, packet } if packet.len() == 160));
        }
        let signals = batch.finish();
        assert!(signals.woke && !signals.confirmed && !signals.roamed);
    }
}

fn elsewhere() -> std::net::SocketAddr {
    "198.51.100.1:9".parse().unwrap()
}
