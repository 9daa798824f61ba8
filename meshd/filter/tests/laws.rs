//! What holds for all packets and all rules.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{collections::BTreeMap, time::Instant};

use common::*;
use filter::{
    BRIEF, Explanation, Fate, Judgement, LASTING, Packet, Policy, Port, Question, Refusal, Rule,
    Upper,
};
use proptest::{collection::vec, prelude::*, sample::select};

/// A packet of these tests, in as few words as make it.
#[derive(Clone, Copy, Debug)]
enum Spoken {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Ping(u16),
}

impl Spoken {
    fn inward(self) -> Vec<u8> {
        match self {
            Self::Tcp(theirs, ours, flags) => tcp((PEER, theirs), (NODE, ours), flags),
            Self::Udp(theirs, ours) => udp((PEER, theirs), (NODE, ours)),
            Self::Ping(id) => echo(PEER, NODE, 128, id),
        }
    }

    fn outward(self) -> Vec<u8> {
        match self {
            Self::Tcp(theirs, ours, flags) => tcp((NODE, ours), (PEER, theirs), flags),
            Self::Udp(theirs, ours) => udp((NODE, ours), (PEER, theirs)),
            Self::Ping(id) => echo(NODE, PEER, 128, id),
        }
    }

    fn port(self) -> Port {
        match self {
            Self::Tcp(_, ours, _) => Port::Tcp(ours),
            Self::Udp(_, ours) => Port::Udp(ours),
            Self::Ping(_) => Port::Icmp,
        }
    }
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![22u16, 53, 80])
}

fn spoken() -> impl Strategy<Value = Spoken> {
    let flags = select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, 0]);
    prop_oneof![
        (port(), port(), flags).prop_map(|(a, b, flags)| Spoken::Tcp(a, b, flags)),
        (port(), port()).prop_map(|(a, b)| Spoken::Udp(a, b)),
        (0..3u16).prop_map(Spoken::Ping),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let fate = || select(vec![Fate::Allow, Fate::Deny]);
    const FROM: [&str; 9] = [
        "any",
        "member:laptop",
        "member:nas",
        "member:*",
        "tag:x",
        "member:laptop/db",
        "any/6bb:2:2:2::1",
        "any/6bb:2:2:2::/64",
        "member:laptop/6bb:2:2:3::/64",
    ];
    const TO: [&str; 5] = ["node", "any", "workload:web", "leaf:phone", "leaf:none"];
    const PORTS: [&str; 6] = ["tcp/22", "udp/53", "tcp/*", "udp/50-60", "icmp", "any"];
    let rule = (
        select(&FROM[..]),
        select(&TO[..]),
        vec(select(&PORTS[..]), 1..3),
    );
    let rule = rule.prop_map(|(from, to, ports)| Rule {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        ports: ports.iter().map(|ports| ports.parse().unwrap()).collect(),
    });
    (fate(), fate(), vec(rule, 0..4)).prop_map(|(default, icmp_echo, allow)| Policy {
        default,
        icmp_echo,
        allow,
    })
}

/// Who began a conversation, as simply as it can be said: it is a chain of packets with no pause between them, and the first was theirs
/// or ours.
#[derive(Debug, Default)]
struct Chains(BTreeMap<(u16, u16), (Instant2, bool)>);
/// Seconds since the start.
type Instant2 = u64;

impl Chains {
    fn began(&self, flow: (u16, u16), now: Instant2) -> Option<bool> {
        let (last, is_ours) = *self.0.get(&flow)?;
        (now - last < BRIEF.as_secs()).then_some(is_ours)
    }

    fn add(&mut self, flow: (u16, u16), is_ours: bool, now: Instant2) {
        let began = self.began(flow, now).unwrap_or(is_ours);
        self.0.insert(flow, (now, began));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_it_panic_or_read_past_the_end(
        packets in vec((any::<bool>(), vec(any::<u8>(), 0..120), 0..12usize, any::<u16>()), 0..20),
        policy in any_policy(),
    ) {
        let now = Instant::now();
        let (mut guard, rules) = (guard(now), rules(&policy));
        for (is_out, mut bytes, kind, place) in packets {
            // Most are packets at the first look.
            let kinds = [0, 6, 17, 43, 44, 51, 58, 59, 60, 132, 135, 255];
            if bytes.len() >= 48 {
                bytes[0] = 0x60;
                let length = u16::try_from(bytes.len() - 40).unwrap();
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes[6] = kinds[kind];
                bytes[40] = kinds[usize::from(place) % 12];
                bytes[41] = (place >> 12) as u8;
            }
            if let Ok(Packet { fragment: Some(fragment), .. }) = Packet::parse(&bytes) {
                prop_assert!(fragment.start <= fragment.end);
            }
            if is_out {
                guard.note(&bytes, now);
            } else {
                guard.judge(&rules, &[], &bytes, now);
            }
        }
    }

    /// The table forgets nothing too early and nothing too late, and rules take effect with the next packet.
    #[test]
    fn udp_passes_if_we_began_it_or_the_rules_of_the_moment_let_it_in(
        steps in vec((any::<bool>(), (port(), port()), 0..200u64, any::<bool>()), 1..60),
    ) {
        let (start, mut now, mut chains) = (Instant::now(), 0, Chains::default());
        let (mut guard, open) = (guard(start), policy(&[("any", "udp/53")]));
        for (is_out, (theirs, ours), pause, is_open) in steps {
            now += pause;
            let at = start + secs(now);
            let flow = (theirs, ours);
            if is_out {
                guard.note(&Spoken::Udp(theirs, ours).outward(), at);
                chains.add(flow, true, now);
                continue;
            }
            let rules = rules(&if is_open { open.clone() } else { policy(&[]) });
            let expected = chains.began(flow, now) == Some(true) || (is_open && ours == 53);
            if expected {
                chains.add(flow, false, now);
            }
            let packet = Spoken::Udp(theirs, ours).inward();
            prop_assert_eq!(passes(&mut guard, &rules, &packet, at), expected);
        }
    }

    #[test]
    fn without_rules_nothing_passes_that_does_not_answer_us(
        steps in vec((any::<bool>(), spoken(), 0..400u64), 1..60),
    ) {
        let (start, mut now) = (Instant::now(), 0);
        let (mut guard, rules) = (guard(start), rules(&policy(&[])));
        let mut asked: Vec<Spoken> = Vec::new();
        for (is_out, spoken, pause) in steps {
            now += pause;
            let at = start + secs(now);
            if is_out {
                guard.note(&spoken.outward(), at);
                if !matches!(spoken, Spoken::Tcp(_, _, flags) if flags & (SYN | ACK | RST) != SYN) {
                    asked.push(spoken);
                }
            } else if passes(&mut guard, &rules, &spoken.inward(), at) {
                let is_answer = asked.iter().any(|asked| match (*asked, spoken) {
                    (Spoken::Tcp(a, b, _), Spoken::Tcp(c, d, _))
                    | (Spoken::Udp(a, b), Spoken::Udp(c, d)) => (a, b) == (c, d),
                    _ => false,
                });
                prop_assert!(is_answer, "{spoken:?} after {asked:?}");
            }
        }
    }

    #[test]
    fn options_before_it_change_nothing(spoken in spoken(), count in 0..9usize, policy in any_policy()) {
        let now = Instant::now();
        let rules = rules(&policy);
        let plain = spoken.inward();
        let extended = (0..count).fold(plain.clone(), |packet, _| extended(&packet, 60, [1, 4]));
        prop_assert_eq!(
            guard(now).judge(&rules, &[], &plain, now),
            guard(now).judge(&rules, &[], &extended, now)
        );
    }

    #[test]
    fn what_is_cut_passes_as_the_whole_does(spoken in spoken(), at in 3..10usize, policy in any_policy()) {
        let now = Instant::now();
        let rules = rules(&policy);
        let mut whole = spoken.inward();
        whole.extend([0; 100]);
        let length = u16::try_from(whole.len() - 40).unwrap();
        whole[4..6].copy_from_slice(&length.to_be_bytes());
        let mut judged = guard(now);
        let parts = cut(&whole, at * 8, 3).map(|part| judged.judge(&rules, &[], &part, now));
        match guard(now).judge(&rules, &[], &whole, now) {
            Judgement::Pass => prop_assert_eq!(parts, [Judgement::Pass; 2]),
            Judgement::Refuse(refusal) => {
                prop_assert_eq!(parts[0], Judgement::Refuse(refusal));
                // Where all else is let in the rest is, too, and nothing can be made of it.
                let rest = Question { source: PEER, destination: NODE, port: Port::Other(44), publish: &[] };
                let is_refused = parts[1] == Judgement::Refuse(Refusal::Fragment);
                prop_assert!(is_refused || rules.allow(&rest).is_some());
            }
        }
    }

    #[test]
    fn what_is_explained_is_what_happens(
        spoken in spoken(),
        source in select(vec![PEER, PEERS_DB]),
        destination in select(vec![NODE, WEB, PHONE]),
        publish in select(vec!["tcp/80", "icmp", "tcp/1"]),
        policy in any_policy(),
    ) {
        let now = Instant::now();
        let mut packet = spoken.inward();
        packet[8..24].copy_from_slice(&source.octets());
        packet[24..40].copy_from_slice(&destination.octets());
        let publish = [publish.parse().unwrap()];
        let question = Question { source, destination, port: spoken.port(), publish: &publish };
        let judged = guard(now).judge(&rules(&policy), &publish, &packet, now);
        match policy.explain(&laptop(), &Here, &question) {
            Explanation::Allowed(_) => prop_assert_eq!(judged, Judgement::Pass),
            Explanation::Denied(near) => {
                prop_assert_eq!(judged, Judgement::Refuse(Refusal::Denied));
                prop_assert!(near.is_none_or(|near| !near.lacks.is_empty()));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back(spoken in spoken(), is_theirs: bool) {
        let packet = Packet::parse(&if is_theirs { spoken.inward() } else { spoken.outward() });
        let upper = packet.unwrap().upper.unwrap();
        match (spoken, upper) {
            (Spoken::Tcp(theirs, ours, _), Upper::Tcp { source, destination, .. })
            | (Spoken::Udp(theirs, ours), Upper::Udp { source, destination }) => {
                let expected = if is_theirs { (theirs, ours) } else { (ours, theirs) };
                prop_assert_eq!((source, destination), expected);
            }
            (Spoken::Ping(id), Upper::EchoRequest(read)) => prop_assert_eq!(id, read),
            _ => prop_assert!(false, "{spoken:?} is read as {upper:?}"),
        }
    }
}

#[test]
fn a_rule_for_an_address_means_no_other_of_the_same_party() {
    let now = Instant::now();
    let rules = rules(&policy(&[("member:laptop/db", "tcp/22")]));
    let from = |source| tcp((source, 4444), (NODE, 22), SYN);
    assert!(passes(&mut guard(now), &rules, &from(PEERS_DB), now));
    assert!(!passes(&mut guard(now), &rules, &from(PEER), now));
}

#[test]
fn a_change_of_the_rules_ends_what_they_let_in_but_nothing_of_ours() {
    let now = Instant::now();
    let (open, closed) = (rules(&policy(&[("any", "any")])), rules(&policy(&[])));
    let mut guard = guard(now);
    for to in [Spoken::Tcp(4444, 22, SYN), Spoken::Udp(4444, 53)] {
        assert!(passes(&mut guard, &open, &to.inward(), now));
    }
    guard.note(&Spoken::Tcp(4444, 22, SYN | ACK).outward(), now);
    guard.note(&Spoken::Udp(4444, 53).outward(), now);
    guard.note(&Spoken::Tcp(80, 5555, SYN).outward(), now);
    assert!(passes(
        &mut guard,
        &open,
        &Spoken::Tcp(80, 5555, SYN | ACK).inward(),
        now
    ));
    // Whatever the node goes on to send.
    guard.note(&Spoken::Tcp(4444, 22, ACK).outward(), now);
    guard.note(&Spoken::Udp(4444, 53).outward(), now);
    for gone in [Spoken::Tcp(4444, 22, ACK), Spoken::Udp(4444, 53)] {
        assert!(!passes(&mut guard, &closed, &gone.inward(), now));
        assert!(passes(&mut guard, &open, &gone.inward(), now));
    }
    assert!(passes(
        &mut guard,
        &closed,
        &Spoken::Tcp(80, 5555, ACK).inward(),
        now
    ));
}

#[test]
fn a_member_goes_on_with_its_connections_for_a_minute_after_a_start_and_a_stranger_does_not() {
    let now = Instant::now();
    let (soon, late) = (now + secs(59), now + secs(60));
    let members = rules(&policy(&[]));
    let strangers = policy(&[]).rules_for(&filter::Subject::STRANGER, &Here);
    let going = Spoken::Tcp(4444, 22, ACK).inward();
    let fresh = || picking_up(late, late);
    let mut picked_up = fresh();
    assert!(passes(&mut picked_up, &members, &going, soon));
    assert!(passes(&mut picked_up, &members, &going, soon + secs(3600)));
    assert!(!passes(&mut fresh(), &members, &going, late));
    assert!(!passes(&mut fresh(), &strangers, &going, soon));
    for flags in [SYN, SYN | ACK, RST, 0] {
        let packet = Spoken::Tcp(4444, 22, flags).inward();
        assert!(!passes(&mut fresh(), &members, &packet, soon));
    }
    assert!(!passes(
        &mut fresh(),
        &members,
        &Spoken::Udp(4444, 53).inward(),
        soon
    ));
    // What this node goes on with is answered by everybody.
    let mut ours = fresh();
    ours.note(&Spoken::Tcp(80, 5555, ACK).outward(), soon);
    let answer = Spoken::Tcp(80, 5555, ACK).inward();
    assert!(passes(&mut ours, &strangers, &answer, late));
    let mut ours = fresh();
    ours.note(&Spoken::Tcp(80, 5555, ACK).outward(), late);
    assert!(!passes(&mut ours, &strangers, &answer, late));
}

#[test]
fn what_is_silent_for_long_is_forgotten() {
    let now = Instant::now();
    let closed = rules(&policy(&[]));
    let mut guard = guard(now);
    guard.note(&Spoken::Udp(53, 5555).outward(), now);
    guard.note(&Spoken::Tcp(80, 5555, SYN).outward(), now);
    let grant = Spoken::Tcp(80, 5555, SYN | ACK).inward();
    assert!(passes(&mut guard, &closed, &grant, now));
    let udp = Spoken::Udp(53, 5555).inward();
    assert!(!passes(&mut guard, &closed, &udp, now + BRIEF));
    let data = Spoken::Tcp(80, 5555, ACK).inward();
    assert!(passes(&mut guard, &closed, &data, now + LASTING - secs(1)));
    assert!(!passes(&mut guard, &closed, &data, now + 2 * LASTING));
}
