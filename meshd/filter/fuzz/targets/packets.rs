//! Any packets to and from a party, judged under three sets of rules.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use filter::{
    Budget, Fate, Guard, Judgement, MAX_FLOWS, Packet, PickUp, Places, Policy, Refusal, Rule,
    Rules, Standing, Subject, To,
};
use ipnetwork::Ipv6Network;

/// The node and the other party.
const OURS: Ipv6Addr = Ipv6Addr::new(0x6a3, 1, 1, 1, 0, 0, 0, 1);
const THEIRS: Ipv6Addr = Ipv6Addr::new(0x6bb, 2, 2, 2, 0, 0, 0, 1);

struct Here;

impl Places for Here {
    fn theirs(&self, _: &str) -> Option<Ipv6Addr> {
        None
    }

    fn ours(&self, _: &To) -> Vec<Ipv6Network> {
        vec![OURS.into()]
    }
}

fn rules(default: Fate, ports: &[&str]) -> Rules {
    let ports = ports.iter().map(|ports| ports.parse().expect("ports"));
    let rule = Rule {
        from: "any".parse().expect("everybody"),
        to: To::Node,
        ports: ports.collect(),
    };
    let policy = Policy {
        default,
        icmp_echo: default,
        allow: vec![rule],
    };
    let member = Subject {
        standing: Standing::Member,
        ..Subject::STRANGER
    };
    policy.rules_for(&member, &Here)
}

/// The bytes are packets, each after a byte that says what is done with it, and two that say how long it is. Nothing that the node did not
/// ask for passes where there are no rules; whatever can be judged passes where everything may.
pub(crate) fn judge(mut bytes: &[u8]) {
    let start = Instant::now();
    let guard = || {
        let pick_up = PickUp {
            theirs: start,
            ours: start,
        };
        Guard::new(pick_up, Budget::default())
    };
    let nothing = rules(Fate::Deny, &[]);
    let some = rules(Fate::Deny, &["tcp/22", "udp/53"]);
    let all = rules(Fate::Allow, &[]);
    let [mut strict, mut mixed, mut open] = [guard(), guard(), guard()];
    let (mut now, mut has_asked) = (start, false);
    while let Some((&[choice, high, low], rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        let mut packet = packet.to_vec();
        // Most have the addresses of a packet that gets here, and the length that they are.
        if let Some(header) = packet.first_chunk_mut::<40>()
            && choice & 0x40 == 0
        {
            let ends = if choice & 1 == 0 {
                [THEIRS, OURS]
            } else {
                [OURS, THEIRS]
            };
            header[8..24].copy_from_slice(&ends[0].octets());
            header[24..40].copy_from_slice(&ends[1].octets());
            header[0] = 0x60;
            let length = u16::try_from(length - 40).unwrap_or(u16::MAX);
            header[4..6].copy_from_slice(&length.to_be_bytes());
        }
        now += Duration::from_secs(u64::from(choice >> 1 & 7) * 20);
        if choice & 1 != 0 {
            for guard in [&mut strict, &mut mixed, &mut open] {
                guard.note(&packet, now);
            }
            has_asked = true;
            continue;
        }
        let judged = [
            strict.judge(&nothing, &[], &packet, now),
            mixed.judge(&some, &[], &packet, now),
            open.judge(&all, &[], &packet, now),
        ];
        match Packet::parse(&packet) {
            Err(_) => assert_eq!(judged, [Judgement::Refuse(Refusal::Headers); 3]),
            Ok(_) => assert_eq!(judged[2], Judgement::Pass),
        }
        if judged[0] == Judgement::Pass {
            assert!(
                has_asked,
                "passes though nothing was asked for: {packet:02x?}"
            );
        }
        // More rules let in more, by packet; what they let in may make it somebody else's conversation later.
        if !has_asked && judged[0] == Judgement::Pass {
            assert_eq!(judged[1], Judgement::Pass);
        }
    }
    for guard in [&strict, &mixed, &open] {
        assert!(guard.flows() <= MAX_FLOWS);
    }
}
