//! Packets between a node and a peer, and rules about them.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use filter::{
    Budget, Fate, Guard, Judgement, PickUp, Places, Policy, Rule, Rules, Standing, Subject, To,
};
use ipnetwork::Ipv6Network;

/// The node, a workload of its, and a leaf.
pub(crate) const NODE: Ipv6Addr = Ipv6Addr::new(0x6a3, 1, 1, 1, 0, 0, 0, 1);
pub(crate) const WEB: Ipv6Addr = Ipv6Addr::new(0x6a3, 1, 1, 1, 7, 7, 7, 7);
pub(crate) const PHONE: Ipv6Addr = Ipv6Addr::new(0x6a3, 1, 1, 1, 0x8000, 0, 0, 5);
/// A peer, and a workload of its.
pub(crate) const PEER: Ipv6Addr = Ipv6Addr::new(0x6bb, 2, 2, 2, 0, 0, 0, 1);
pub(crate) const PEERS_DB: Ipv6Addr = Ipv6Addr::new(0x6bb, 2, 2, 2, 9, 9, 9, 9);

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;
/// Next headers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;

/// What names stand for here.
#[derive(Debug)]
pub(crate) struct Here;

impl Places for Here {
    fn theirs(&self, workload: &str) -> Option<Ipv6Addr> {
        (workload == "db").then_some(PEERS_DB)
    }

    fn ours(&self, to: &To) -> Vec<Ipv6Network> {
        match to {
            To::Node => vec![NODE.into()],
            To::Workload(name) if name == "web" => vec![WEB.into()],
            To::Leaf(name) if name == "phone" => vec![PHONE.into()],
            To::Any => vec![Ipv6Network::new(Ipv6Addr::UNSPECIFIED, 0).unwrap()],
            To::Workload(_) | To::Leaf(_) => Vec::new(),
        }
    }
}

/// The party of these tests.
pub(crate) fn laptop() -> Subject<'static> {
    Subject {
        key: Some(&[7; 32]),
        member: Some("laptop"),
        standing: Standing::Member,
        ..Subject::STRANGER
    }
}

/// `from` and `ports` of rules for the node itself, with everything else refused.
pub(crate) fn policy(rules: &[(&str, &str)]) -> Policy {
    let rule = |(from, ports): &(&str, &str)| Rule {
        from: from.parse().unwrap(),
        to: To::Node,
        ports: ports
            .split(' ')
            .map(|ports| ports.parse().unwrap())
            .collect(),
    };
    Policy {
        default: Fate::Deny,
        icmp_echo: Fate::Deny,
        allow: rules.iter().map(rule).collect(),
    }
}

pub(crate) fn rules(policy: &Policy) -> Rules {
    policy.rules_for(&laptop(), &Here)
}

/// A guard that picks nothing up.
pub(crate) fn guard(now: Instant) -> Guard {
    picking_up(now, now)
}

pub(crate) fn picking_up(theirs: Instant, ours: Instant) -> Guard {
    Guard::new(PickUp { theirs, ours }, Budget::default())
}

pub(crate) fn passes(guard: &mut Guard, rules: &Rules, packet: &[u8], now: Instant) -> bool {
    guard.judge(rules, &[], packet, now) == Judgement::Pass
}

pub(crate) fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

// ---- packets -----------------------------------------------------------------------------------------------------------------

pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// A TCP header with these flags.
pub(crate) fn tcp_header(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = ports(source, destination);
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 255, 255, 0, 0, 0, 0]);
    header
}

pub(crate) fn tcp(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), flags: u8) -> Vec<u8> {
    ipv6(from.0, to.0, TCP, &tcp_header(from.1, to.1, flags))
}

pub(crate) fn udp(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16)) -> Vec<u8> {
    let mut payload = ports(from.1, to.1);
    payload.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    ipv6(from.0, to.0, UDP, &payload)
}

pub(crate) fn echo(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, id: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    ipv6(source, destination, ICMPV6, &message)
}

/// An ICMPv6 error about a packet.
pub(crate) fn error(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, about: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
    message.extend(&about[..about.len().min(1232)]);
    ipv6(source, destination, ICMPV6, &message)
}

/// Puts an extension header of eight bytes, with this type and these bytes 2 to 4, before what a packet carries.
pub(crate) fn extended(packet: &[u8], kind: u8, bytes: [u8; 2]) -> Vec<u8> {
    let mut payload = vec![packet[6], 0, bytes[0], bytes[1], 0, 0, 0, 0];
    payload.extend(&packet[40..]);
    ipv6(source(packet), destination(packet), kind, &payload)
}

/// Cuts a packet after so many bytes, a multiple of eight, of what it carries.
pub(crate) fn cut(packet: &[u8], at: usize, id: u32) -> [Vec<u8>; 2] {
    let fragment = |start: usize, is_last: bool, part: &[u8]| {
        let place = u16::try_from(start).unwrap() | u16::from(!is_last);
        let mut payload = vec![packet[6], 0];
        payload.extend(place.to_be_bytes());
        payload.extend(id.to_be_bytes());
        payload.extend(part);
        ipv6(source(packet), destination(packet), FRAGMENT, &payload)
    };
    let payload = &packet[40..];
    [
        fragment(0, false, &payload[..at]),
        fragment(at, true, &payload[at..]),
    ]
}

fn source(packet: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap())
}

fn destination(packet: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap())
}
