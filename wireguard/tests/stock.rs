//! A device and boringtun: handshakes and packets of another implementation, in both roles, under load too.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use ::boringtun::noise::rate_limiter::RateLimiter;
use ::boringtun::noise::{Tunn, TunnResult};
use ::boringtun::x25519;
use common::*;
use wireguard::{Gate, Load, Passage, Verdict};

/// Nodes of the lab that the two are.
const OURS: usize = 0;
const THEIRS: usize = 1;
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 0));

fn secret(node: usize) -> x25519::StaticSecret {
    let mut bytes = [0x40; 32];
    bytes[8..16].copy_from_slice(&(node as u64 + 1).to_le_bytes());
    bytes.into()
}

/// What a stock peer thinks of who sends it more handshake messages than this in a second.
fn limiter(limit: u64) -> Arc<RateLimiter> {
    let public = x25519::PublicKey::from(&secret(THEIRS));
    Arc::new(RateLimiter::new(&public, limit))
}

struct Stock {
    tunn: Tunn,
    opened: Vec<Vec<u8>>,
}

impl Stock {
    fn new(limit: u64) -> Self {
        let ours = (*public(OURS).as_bytes()).into();
        let limiter = Some(limiter(limit));
        Self {
            tunn: Tunn::new(secret(THEIRS), ours, None, None, 77, limiter),
            opened: Vec::new(),
        }
    }

    /// Takes a datagram; returns what it answers.
    fn take(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; 2048];
        match self.tunn.decapsulate(Some(HOME), datagram, &mut out) {
            TunnResult::Done => None,
            TunnResult::WriteToNetwork(answer) => Some(answer.to_vec()),
            TunnResult::WriteToTunnelV6(packet, _) => {
                self.opened.push(packet.to_vec());
                None
            }
            other @ (TunnResult::Err(_) | TunnResult::WriteToTunnelV4(..)) => {
                panic!("refused: {other:?}")
            }
        }
    }

    fn initiate(&mut self) -> Vec<u8> {
        let mut out = vec![0; 2048];
        let made = self.tunn.format_handshake_initiation(&mut out, true);
        let TunnResult::WriteToNetwork(initiation) = made else {
            panic!("no initiation: {made:?}");
        };
        initiation.to_vec()
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2048];
        let made = self.tunn.encapsulate(packet, &mut out);
        let TunnResult::WriteToNetwork(sealed) = made else {
            panic!("no keypair: {made:?}");
        };
        assert_eq!(sealed[0], 4, "no keypair");
        sealed.to_vec()
    }
}

/// Gives what each sends to the other until neither has anything to say.
fn settle(lab: &mut Lab, stock: &mut Stock) {
    while let Some(flight) = lab.air.pop_front() {
        if let Some(answer) = stock.take(&flight.payload) {
            lab.deliver(OURS, underlay(THEIRS), &answer);
        }
    }
    assert!(lab.nodes[OURS].refused.is_empty());
}

fn talk(lab: &mut Lab, stock: &mut Stock) {
    let (ours, theirs) = (packet(overlay(OURS), 64), packet(overlay(THEIRS), 64));
    let flight = lab.seal(OURS, THEIRS, &ours).unwrap();
    stock.take(&flight.payload);
    assert_eq!(stock.opened.pop(), Some(ours));
    let sealed = stock.seal(&theirs);
    lab.deliver(OURS, underlay(THEIRS), &sealed);
    assert_eq!(lab.nodes[OURS].inbox.pop(), Some((Verdict::Owned, theirs)));
}

fn lab() -> Lab {
    let mut lab = Lab::new(Engine::Noise, 1);
    lab.add(OURS, peer(THEIRS));
    lab
}

#[test]
fn we_agree_in_both_roles_over_and_over() {
    let (mut lab, mut stock) = (lab(), Stock::new(u64::MAX));
    for round in 0..300 {
        if round % 2 == 0 {
            lab.initiate(OURS, THEIRS);
        } else {
            let initiation = stock.initiate();
            lab.deliver(OURS, underlay(THEIRS), &initiation);
        }
        settle(&mut lab, &mut stock);
        talk(&mut lab, &mut stock);
        lab.run(secs(200));
        assert!(!lab.session(OURS, THEIRS).is_established());
    }
}

#[test]
fn our_second_initiation_proves_our_address_to_boringtun() {
    let (mut lab, mut stock) = (lab(), Stock::new(0));
    lab.initiate(OURS, THEIRS);
    let first = lab.air.pop_front().unwrap().payload;
    let cookie = stock.take(&first).unwrap();
    assert_eq!(cookie[0], 3, "it demands a proof");
    lab.deliver(OURS, underlay(THEIRS), &cookie);
    assert!(lab.nodes[OURS].refused.is_empty() && lab.air.is_empty());
    lab.deliver(OURS, underlay(THEIRS), &cookie);
    assert_eq!(
        lab.nodes[OURS].refused,
        ["handshake_unexpected"],
        "once is enough"
    );
    lab.nodes[OURS].refused.clear();
    lab.run(secs(6));
    assert_eq!(lab.times(OURS, 1).len(), 2);
    let second = lab.last(OURS, 1);
    let response = stock.take(&second).unwrap();
    assert_eq!(response[0], 2, "and is content with it");
    lab.deliver(OURS, underlay(THEIRS), &response);
    settle(&mut lab, &mut stock);
    talk(&mut lab, &mut stock);
}

#[test]
fn our_response_proves_our_address_to_an_initiator_under_load() {
    let mut lab = Lab::pair(Engine::Noise);
    let mut gate = Gate::new(&public(0), &[9; 32]);
    let mut answer = |lab: &mut Lab| {
        lab.initiate(0, 1);
        let initiation = lab.air.pop_front().unwrap().payload;
        lab.deliver(1, underlay(0), &initiation);
        let response = lab.air.pop_front().unwrap().payload;
        let passage = gate.judge(&response, underlay(1), Load::Heavy, lab.now);
        (response, passage)
    };
    let (_, Passage::Prove(cookie)) = answer(&mut lab) else {
        panic!("a proof is demanded under load");
    };
    lab.deliver(1, underlay(0), &cookie);
    lab.now += secs(6);
    let (response, passage) = answer(&mut lab);
    assert_eq!(passage, Passage::Pass);
    lab.deliver(0, underlay(1), &response);
    assert!(lab.session(0, 1).is_established());
    assert!(lab.nodes.iter().all(|node| node.refused.is_empty()));
}
