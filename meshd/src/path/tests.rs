//! Agents against each other, in virtual time.

use std::time::{Duration, Instant};

use super::*;
use crate::testdata::identity;

/// That of the n-th identity of the pool.
pub(super) fn key(n: usize) -> PublicKey {
    identity(n).node().public_key()
}

fn agent(n: usize, hosts: &[&str], now: Instant) -> Agent {
    let mut agent = Agent::new(key(n), &[n as u8; 32]);
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    agent.set_local(
        Local {
            hosts,
            ..Local::default()
        },
        now,
    );
    agent
}

#[test]
fn two_hosts_without_routers_between_find_each_other() {
    let mut now = Instant::now();
    let hosts = ["192.0.2.1:7000", "198.51.100.1:7000"];
    let keys = [0, 1].map(key);
    let mut agents = [0, 1].map(|n| agent(n, &[hosts[n]], now));
    agents[0].reach(keys[1], Demand::Traffic, now);
    let mut proven = [false; 2];
    for _ in 0..1000 {
        for n in [0, 1] {
            while let Some(event) = agents[n].poll_event() {
                match &event {
                    Event::Offer { message, .. } => {
                        agents[1 - n].handle_offer(keys[n], message, now).unwrap();
                    }
                    Event::Proven { endpoint, .. } => {
                        assert_eq!(endpoint.remote, hosts[1 - n].parse().unwrap());
                        proven[n] = true;
                    }
                    Event::Failed { .. }
                    | Event::OpenSockets { .. }
                    | Event::Adopt { .. }
                    | Event::CloseSockets { .. } => panic!("{event:?}"),
                }
            }
            while let Some(transmit) = agents[n].poll_transmit() {
                assert_eq!(transmit.to, hosts[1 - n].parse().unwrap());
                if transmit.hop_limit.is_none() {
                    let from = Underlay::unproven(hosts[n].parse().unwrap());
                    agents[1 - n]
                        .handle_probe(from, &transmit.datagram, now)
                        .unwrap();
                }
            }
        }
        now += Duration::from_millis(10);
        for agent in &mut agents {
            agent.handle_timeout(now);
        }
    }
    assert_eq!(proven, [true; 2]);
}
