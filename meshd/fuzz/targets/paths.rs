//! What a fuzzer's bytes do to two path agents: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use meshd::path::{Agent, Arrival, Demand, Event, Local, Reflexion, Socket, guess, offer, probe};
use wireguard::PublicKey;

use crate::bytes::Bytes;

/// The most steps of one run.
const STEPS: usize = 200;

/// The agents of two nodes, and what is on the way between them.
struct Pair {
    agents: [Agent; 2],
    keys: [PublicKey; 2],
    hosts: [SocketAddr; 2],
    messages: Vec<(usize, Vec<u8>)>,
    datagrams: Vec<(usize, Vec<u8>)>,
    now: Instant,
}

/// Bytes choose between calls, messages and datagrams that arrive, are lost, changed or made up, and time that passes. Nothing may
/// panic, an agent that was called when it wanted to be has to want to be called later, and what it sends has its bounds.
pub(crate) fn seek(bytes: &[u8]) {
    let now = Instant::now();
    let keys = [9, 10].map(|byte| PublicKey::from_bytes([byte; 32]).expect("of high order"));
    let hosts = [
        SocketAddr::from(([192, 0, 2, 1], 7000)),
        SocketAddr::from(([198, 51, 100, 1], 7000)),
    ];
    let mut agents = keys.map(|key| Agent::new(key, &[1; 32]));
    for (agent, host) in agents.iter_mut().zip(hosts) {
        let local = Local {
            hosts: vec![host],
            ..Local::default()
        };
        agent.set_local(local, now);
    }
    let mut pair = Pair {
        agents,
        keys,
        hosts,
        messages: Vec::new(),
        datagrams: Vec::new(),
        now,
    };
    let mut bytes = Bytes(bytes);
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        let step = bytes.byte();
        pair.step(step, &mut bytes);
    }
}

impl Pair {
    fn step(&mut self, step: u8, bytes: &mut Bytes<'_>) {
        let (n, now) = (usize::from(step >> 7), self.now);
        let peer = self.keys[1 - n];
        let agent = &mut self.agents[n];
        match step & 15 {
            0 => agent.reach(peer, Demand::Traffic, now),
            1 => agent.reach(peer, Demand::Background, now),
            2 => self.now += Duration::from_millis(bytes.word().into()),
            3 => {
                let length = usize::from(bytes.word()) % 600;
                let _ = agent.handle_offer(peer, bytes.take(length), now);
            }
            4 => {
                let length = usize::from(bytes.byte());
                let arrival = self.arrival(n, bytes);
                let _ = self.agents[n].handle_probe(arrival, bytes.take(length), now);
            }
            5 | 6 => {
                if !self.messages.is_empty() {
                    let (to, mut message) = self.messages.remove(0);
                    if step & 15 == 6 {
                        change(&mut message, bytes);
                    }
                    let _ = self.agents[to].handle_offer(self.keys[1 - to], &message, now);
                }
            }
            7 | 8 => {
                if !self.datagrams.is_empty() {
                    let (to, mut datagram) = self.datagrams.remove(0);
                    let mut arrival = self.arrival(to, &mut Bytes(&[]));
                    if step & 15 == 8 {
                        change(&mut datagram, bytes);
                        arrival = self.arrival(to, bytes);
                    }
                    let _ = self.agents[to].handle_probe(arrival, &datagram, now);
                }
            }
            9 => {
                let reflexion = Reflexion {
                    witness: PublicKey::from_bytes([12 + (step >> 5 & 3); 32])
                        .expect("of high order"),
                    remote: SocketAddr::from(([203, 0, 113, bytes.byte() % 4], 1)),
                    seen: SocketAddr::from(([100, 0, 0, bytes.byte()], bytes.word())),
                    socket: 0,
                };
                agent.handle_reflexion(reflexion, now);
            }
            10 => agent.handle_sockets(peer, bytes.word(), now),
            11 => agent.handle_network_change(now),
            12 => agent.forget(peer),
            13 => {
                self.messages.pop();
            }
            14 => {
                self.datagrams.pop();
            }
            _ => {
                // As if nothing had been missed.
                for _ in 0..bytes.byte() {
                    let due = self.agents.iter().filter_map(Agent::poll_timeout).min();
                    let Some(due) = due.filter(|due| *due < now + Duration::from_secs(100)) else {
                        break;
                    };
                    self.now = self.now.max(due);
                    self.drain();
                }
            }
        }
        self.drain();
    }

    fn arrival(&self, n: usize, bytes: &mut Bytes<'_>) -> Arrival {
        Arrival {
            remote: match bytes.byte() {
                0 => self.hosts[1 - n],
                byte => SocketAddr::from(([203, 0, 113, byte], bytes.word())),
            },
            local: None,
            socket: match bytes.byte() {
                0 => Socket::Own(0),
                byte => Socket::Extra(byte.into()),
            },
        }
    }

    fn drain(&mut self) {
        for n in [0, 1] {
            let agent = &mut self.agents[n];
            agent.handle_timeout(self.now);
            let due = agent.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "it turns on the spot");
            let mut sent = 0;
            while let Some(transmit) = agent.poll_transmit() {
                sent += 1;
                assert!(probe::is_probe(&transmit.datagram));
                assert_ne!(transmit.to.port(), 0);
                if transmit.to == self.hosts[1 - n] {
                    self.datagrams.push((1 - n, transmit.datagram));
                }
            }
            // A minute's worth, what ports are guessed with, and what waited for the time to pass.
            assert!(
                sent <= 60 + usize::from(guess::SOCKETS) + 1600,
                "{sent} probes"
            );
            while let Some(event) = agent.poll_event() {
                if let Event::Offer { message, .. } = event {
                    assert!(message.len() <= offer::MAX);
                    assert!(offer::Message::parse(&message).is_ok());
                    self.messages.push((1 - n, message));
                }
            }
        }
    }
}

fn change(message: &mut [u8], bytes: &mut Bytes<'_>) {
    let place = usize::from(bytes.word()) % message.len().max(1);
    if let Some(byte) = message.get_mut(place) {
        *byte ^= bytes.byte();
    }
}
