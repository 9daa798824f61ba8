//! What a fuzzer's bytes do to two devices that have a session: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::time::{Duration, Instant};

use wireguard::{
    Device, Endpoint, Kind, Message, Opened, Peer, PrivateKey, PublicKey, Transmit, Upkeep, Verdict,
};

/// The most datagrams of one conversation.
const STEPS: usize = 32;

/// Bytes that run out, and are 0 then.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

fn endpoint(last: usize) -> Endpoint {
    let address = [192, 0, 2, u8::try_from(last % 8).unwrap_or_default()];
    Endpoint::unproven((address, 51_860).into())
}

fn peer(key: &PublicKey, prefix: &str, at: usize) -> Peer {
    Peer {
        key: *key,
        preshared: None,
        kind: Kind::Mesh,
        allowed: vec![prefix.parse().expect("a prefix")],
        endpoints: vec![endpoint(at)],
        persistent_keepalive: None,
        upkeep: Upkeep::OnDemand,
    }
}

/// Delivers what waits in both until nothing does; the last message of each type that was on the way stays in `seen`.
fn settle(a: &mut Device, b: &mut Device, seen: &mut Vec<Vec<u8>>, now: Instant) {
    for _ in 0..8 {
        for from_a in [true, false] {
            let (from, to, at) = if from_a {
                (&mut *a, &mut *b, 1)
            } else {
                (&mut *b, &mut *a, 2)
            };
            while let Some(Transmit { payload, .. }) = from.poll_transmit() {
                // A refusal is a result like any other here.
                let _ = to.handle_datagram(endpoint(at), &payload, now);
                open(to, at, &payload, now);
                if seen.len() < STEPS {
                    seen.push(payload);
                }
            }
        }
    }
}

/// Gives a datagram to the session it names; whether it was opened.
fn open(device: &mut Device, at: usize, datagram: &[u8], now: Instant) -> bool {
    let Some(Message::Data { receiver, .. }) = Message::of(datagram) else {
        return false;
    };
    let Some(session) = device.receiver(receiver).cloned() else {
        return false;
    };
    let mut out = vec![0; datagram.len()];
    let mut batch = session.lock(now);
    let opened = match batch.open(endpoint(at), datagram, &mut out) {
        Ok(Opened::Packet { verdict, packet }) => {
            assert!(packet.len() + 32 <= datagram.len());
            assert!(verdict != Verdict::Leaf, "the peer is a node");
            true
        }
        Ok(Opened::Keepalive) => true,
        Err(_) => false,
    };
    if batch.finish().any() {
        device.handle_signal(session.key(), now);
    }
    opened
}

/// Lets two devices shake hands, and then the bytes say what happens: arbitrary datagrams, changed and repeated genuine ones, packets
/// that are sealed though they are none, and time that passes. Nothing may panic, and nothing may open twice.
pub(crate) fn converse(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut now = Instant::now();
    let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
    let [of_a, of_b] = [keys[0].public(), keys[1].public()];
    let [mut a, mut b] = keys.map(|key| Device::new(key, 7));
    let at_a = a
        .add_peer(peer(&of_b, "600:2::/32", 2), now)
        .expect("a fresh device");
    b.add_peer(peer(&of_a, "600:1::/32", 1), now)
        .expect("a fresh device");
    a.initiate(&of_b, now);
    let mut seen = Vec::new();
    settle(&mut a, &mut b, &mut seen, now);
    assert!(at_a.is_established());
    let mut out = vec![0; 4096];
    for _ in 0..STEPS {
        if bytes.0.is_empty() {
            break;
        }
        let (what, length) = (bytes.byte(), bytes.byte() * 4);
        match what % 6 {
            // Anything.
            0 => {
                let datagram = bytes.take(length);
                let _ = b.handle_datagram(endpoint(what >> 4), datagram, now);
                open(&mut b, what >> 4, datagram, now);
            }
            // A genuine message with changes: never opens.
            1 if !seen.is_empty() => {
                let mut datagram = seen[length % seen.len()].clone();
                let (place, change) = (bytes.byte(), bytes.byte());
                let place = place % datagram.len();
                let change = u8::try_from(change).unwrap_or_default();
                datagram[place] ^= change;
                let _ = b.handle_datagram(endpoint(5), &datagram, now);
                assert!(
                    !open(&mut b, 5, &datagram, now),
                    "opened what was changed or used"
                );
            }
            // A packet, or what is none, sealed by the peer: opens once.
            2 | 3 => {
                let packet = bytes.take(length);
                let mut batch = at_a.lock(now);
                let sealed = batch.seal(packet, 1420, &mut out);
                if batch.finish().any() {
                    a.handle_signal(&of_b, now);
                }
                if let Ok(sealed) = sealed {
                    let datagram = out[..sealed].to_vec();
                    open(&mut b, 1, &datagram, now);
                    assert!(!open(&mut b, 6, &datagram, now), "opened twice");
                    seen.push(datagram);
                    seen.truncate(STEPS);
                }
            }
            // Time.
            4 => {
                now += Duration::from_millis(length as u64 * 50);
                a.handle_timeout(now);
                b.handle_timeout(now);
            }
            // The network works for a while.
            _ => settle(&mut a, &mut b, &mut seen, now),
        }
        while a.poll_event().is_some() || b.poll_event().is_some() {}
    }
}
