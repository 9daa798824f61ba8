//! What passes the filter and what does not, as one table.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{fmt::Write as _, time::Instant};

use common::*;
use filter::{Fate, Judgement, Policy, Refusal};

/// A packet, and which way it goes.
enum Sent {
    /// From the node to the peer.
    Out(Vec<u8>),
    /// From the peer to the node.
    In(Vec<u8>),
}
use Sent::{In, Out};

/// Where a row's packets have gone, the judgement over the last one, which comes from the peer, is shown.
fn judge(policy: &Policy, before: &[Sent], last: &[u8]) -> &'static str {
    let now = Instant::now();
    let (mut guard, rules) = (guard(now), rules(policy));
    for sent in before {
        match sent {
            Out(packet) => guard.note(packet, now),
            In(packet) => {
                guard.judge(&rules, &[], packet, now);
            }
        }
    }
    match guard.judge(&rules, &[], last, now) {
        Judgement::Pass => "pass",
        Judgement::Refuse(Refusal::Denied) => "denied",
        Judgement::Refuse(Refusal::Fragment) => "fragment",
        Judgement::Refuse(Refusal::Headers) => "headers",
    }
}

#[test]
fn who_began_it_and_the_rules_decide() {
    let nothing = policy(&[]);
    let shipped = Policy {
        icmp_echo: Fate::Allow,
        ..policy(&[])
    };
    let some = policy(&[("member:laptop", "tcp/22 udp/53"), ("member:nas", "any")]);
    let all = Policy {
        default: Fate::Allow,
        icmp_echo: Fate::Allow,
        ..policy(&[])
    };

    // The peer's port is 4444 wherever it began; the node's is 5555 wherever that did.
    let (peer, node) = ((PEER, 4444), (NODE, 5555));
    let (ssh, dns, web) = ((NODE, 22), (NODE, 53), (PEER, 80));
    let they_begin = |to, flags| tcp(peer, to, flags);
    let big = |from: (_, u16), to: (_, u16)| {
        let mut packet = udp(from, to);
        packet.extend([0; 600]);
        ipv6(from.0, to.0, UDP, &packet[40..])
    };
    let [to_dns, rest_to_dns] = cut(&big(peer, dns), 400, 7);
    let [to_us, rest_to_us] = cut(&big((PEER, 53), node), 400, 8);
    let [short, _] = cut(&they_begin(ssh, SYN), 8, 9);
    let mut overlapping = rest_to_dns.clone();
    overlapping[42..44].copy_from_slice(&8u16.to_be_bytes());
    let they_began_ssh = || vec![In(they_begin(ssh, SYN)), Out(tcp(ssh, peer, SYN | ACK))];
    let we_began = || vec![Out(tcp(node, web, SYN))];
    let we_asked = || vec![Out(udp(node, (PEER, 53)))];
    let sent = || tcp(node, web, ACK);
    let chain = |packet: Vec<u8>, count| (0..count).fold(packet, |p, _| extended(&p, 60, [1, 4]));

    let rows: Vec<(&str, Vec<Sent>, Vec<u8>)> = vec![
        ("INSIDE: what the node began", vec![], vec![]),
        (
            "tcp: the connection is granted",
            we_began(),
            tcp(web, node, SYN | ACK),
        ),
        (
            "tcp: it is refused by a reset",
            we_began(),
            tcp(web, node, RST | ACK),
        ),
        ("tcp: both ask at once", we_began(), tcp(web, node, SYN)),
        (
            "tcp: from another port",
            we_began(),
            tcp((PEER, 81), node, SYN | ACK),
        ),
        (
            "tcp: to another port",
            we_began(),
            tcp(web, (NODE, 5556), SYN | ACK),
        ),
        (
            "tcp: from another address of the peer's",
            we_began(),
            tcp((PEERS_DB, 80), node, SYN | ACK),
        ),
        ("udp: an answer", we_asked(), udp((PEER, 53), node)),
        (
            "udp: an answer from another port",
            we_asked(),
            udp((PEER, 54), node),
        ),
        (
            "ping: a reply",
            vec![Out(echo(NODE, PEER, 128, 3))],
            echo(PEER, NODE, 129, 3),
        ),
        (
            "ping: a reply to another request",
            vec![Out(echo(NODE, PEER, 128, 3))],
            echo(PEER, NODE, 129, 4),
        ),
        (
            "sctp: an answer",
            vec![Out(ipv6(NODE, PEER, 132, &[0; 12]))],
            ipv6(PEER, NODE, 132, &[0; 12]),
        ),
        ("OUTSIDE: what the peer begins", vec![], vec![]),
        ("tcp/22", vec![], they_begin(ssh, SYN)),
        ("tcp/23", vec![], they_begin((NODE, 23), SYN)),
        ("tcp/22 of a workload", vec![], they_begin((WEB, 22), SYN)),
        ("tcp/22, SYN and FIN", vec![], they_begin(ssh, SYN | FIN)),
        (
            "tcp/23 as if it went on, ACK",
            vec![],
            they_begin((NODE, 23), ACK),
        ),
        (
            "tcp/23 as if we had asked, SYN ACK",
            vec![],
            they_begin((NODE, 23), SYN | ACK),
        ),
        ("tcp/23, no flags", vec![], they_begin((NODE, 23), 0)),
        ("udp/53", vec![], udp(peer, dns)),
        ("udp/54", vec![], udp(peer, (NODE, 54))),
        ("ping", vec![], echo(PEER, NODE, 128, 1)),
        (
            "ping: a reply nobody asked for",
            vec![],
            echo(PEER, NODE, 129, 1),
        ),
        (
            "router advertisement",
            vec![],
            ipv6(PEER, NODE, ICMPV6, &[134, 0, 0, 0, 64, 0, 7, 8]),
        ),
        ("sctp", vec![], ipv6(PEER, NODE, 132, &[0; 12])),
        ("ESTABLISHED: what goes on", vec![], vec![]),
        (
            "tcp: ours",
            [we_began(), vec![In(tcp(web, node, SYN | ACK))]].concat_sent(),
            tcp(web, node, ACK),
        ),
        (
            "tcp: ours, a new connection the other way",
            [we_began(), vec![In(tcp(web, node, SYN | ACK))]].concat_sent(),
            tcp(web, node, SYN),
        ),
        (
            "tcp: theirs to tcp/22, answered by us",
            they_began_ssh(),
            they_begin(ssh, ACK),
        ),
        (
            "tcp: theirs to tcp/23, though we answered",
            vec![Out(tcp((NODE, 23), peer, SYN | ACK))],
            they_begin((NODE, 23), ACK),
        ),
        (
            "udp: to udp/53, whence we sent meanwhile",
            vec![In(udp(peer, dns)), Out(udp(dns, peer))],
            udp(peer, dns),
        ),
        ("RELATED: ICMPv6 errors", vec![], vec![]),
        (
            "unreachable, about ours",
            we_began(),
            error(PEER, NODE, 1, &sent()),
        ),
        (
            "too big, about ours",
            we_began(),
            error(PEER, NODE, 2, &sent()),
        ),
        (
            "too big, from a workload's node",
            we_asked(),
            error(PEERS_DB, NODE, 2, &udp(node, (PEER, 53))),
        ),
        (
            "time exceeded, about ping of ours",
            vec![Out(echo(NODE, PEER, 128, 3))],
            error(PEER, NODE, 3, &echo(NODE, PEER, 128, 3)),
        ),
        (
            "too big, about theirs to tcp/22",
            they_began_ssh(),
            error(PEER, NODE, 2, &tcp(ssh, peer, ACK)),
        ),
        (
            "too big, about nothing we sent",
            vec![],
            error(PEER, NODE, 2, &tcp((NODE, 23), peer, ACK)),
        ),
        (
            "too big, about what another address sent",
            we_began(),
            error(PEER, WEB, 2, &sent()),
        ),
        (
            "too big, about an error",
            we_began(),
            error(PEER, NODE, 2, &error(NODE, PEER, 1, &sent())),
        ),
        (
            "too big, quoting too little",
            we_began(),
            error(PEER, NODE, 2, &sent()[..44]),
        ),
        (
            "too big, about our first fragment",
            we_asked(),
            error(PEER, NODE, 2, &cut(&big(node, (PEER, 53)), 400, 1)[0]),
        ),
        ("FRAGMENTS", vec![], vec![]),
        ("first, to udp/53", vec![], to_dns.clone()),
        (
            "later, to udp/53",
            vec![In(to_dns.clone())],
            rest_to_dns.clone(),
        ),
        ("later, before the first", vec![], rest_to_dns),
        ("later, over the first", vec![In(to_dns)], overlapping),
        ("first, of an answer to us", we_asked(), to_us.clone()),
        (
            "later, of an answer to us",
            [we_asked(), vec![In(to_us)]].concat_sent(),
            rest_to_us,
        ),
        ("first, too short for its header", vec![], short),
        (
            "a fragment that is all, to udp/53",
            vec![],
            extended(&udp(peer, dns), FRAGMENT, [0, 0]),
        ),
        ("EXTENSION HEADERS", vec![], vec![]),
        (
            "options before tcp/22",
            vec![],
            chain(they_begin(ssh, SYN), 3),
        ),
        (
            "options before tcp/23",
            vec![],
            chain(they_begin((NODE, 23), SYN), 3),
        ),
        (
            "options before an answer to us",
            we_began(),
            chain(tcp(web, node, SYN | ACK), 8),
        ),
        (
            "more than anybody needs",
            we_began(),
            chain(tcp(web, node, SYN | ACK), 9),
        ),
        (
            "hop by hop before udp/53",
            vec![],
            extended(&udp(peer, dns), 0, [1, 4]),
        ),
        (
            "routing without hops, before tcp/22",
            vec![],
            extended(&they_begin(ssh, SYN), 43, [4, 0]),
        ),
        (
            "routing with hops, before tcp/22",
            vec![],
            extended(&they_begin(ssh, SYN), 43, [4, 1]),
        ),
        (
            "nothing behind the header",
            vec![],
            ipv6(PEER, NODE, 59, &[]),
        ),
        (
            "tcp/22, its header cut off",
            vec![],
            ipv6(PEER, NODE, TCP, &tcp_header(4444, 22, SYN)[..12]),
        ),
    ];

    let mut table = format!(
        "{:46}{:10}{:10}{:10}{}\n",
        "", "nothing", "shipped", "some", "all"
    );
    for (what, before, last) in &rows {
        if last.is_empty() {
            writeln!(table, "\n{what}").unwrap();
            continue;
        }
        write!(table, "  {what:44}").unwrap();
        let judged = [&nothing, &shipped, &some, &all].map(|policy| judge(policy, before, last));
        writeln!(
            table,
            "{:10}{:10}{:10}{}",
            judged[0], judged[1], judged[2], judged[3]
        )
        .unwrap();
    }
    // `some` opens tcp/22 and udp/53 of the node to the peer, and everything to somebody else.
    insta::assert_snapshot!(table, @r"
                                                  nothing   shipped   some      all

    INSIDE: what the node began
      tcp: the connection is granted              pass      pass      pass      pass
      tcp: it is refused by a reset               pass      pass      pass      pass
      tcp: both ask at once                       pass      pass      pass      pass
      tcp: from another port                      denied    denied    denied    pass
      tcp: to another port                        denied    denied    denied    pass
      tcp: from another address of the peer's     denied    denied    denied    pass
      udp: an answer                              pass      pass      pass      pass
      udp: an answer from another port            denied    denied    denied    pass
      ping: a reply                               pass      pass      pass      pass
      ping: a reply to another request            denied    denied    denied    pass
      sctp: an answer                             pass      pass      pass      pass

    OUTSIDE: what the peer begins
      tcp/22                                      denied    denied    pass      pass
      tcp/23                                      denied    denied    denied    pass
      tcp/22 of a workload                        denied    denied    denied    pass
      tcp/22, SYN and FIN                         denied    denied    pass      pass
      tcp/23 as if it went on, ACK                denied    denied    denied    pass
      tcp/23 as if we had asked, SYN ACK          denied    denied    denied    pass
      tcp/23, no flags                            denied    denied    denied    pass
      udp/53                                      denied    denied    pass      pass
      udp/54                                      denied    denied    denied    pass
      ping                                        denied    pass      denied    pass
      ping: a reply nobody asked for              denied    denied    denied    pass
      router advertisement                        denied    denied    denied    pass
      sctp                                        denied    denied    denied    pass

    ESTABLISHED: what goes on
      tcp: ours                                   pass      pass      pass      pass
      tcp: ours, a new connection the other way   denied    denied    denied    pass
      tcp: theirs to tcp/22, answered by us       denied    denied    pass      pass
      tcp: theirs to tcp/23, though we answered   denied    denied    denied    pass
      udp: to udp/53, whence we sent meanwhile    pass      pass      pass      pass

    RELATED: ICMPv6 errors
      unreachable, about ours                     pass      pass      pass      pass
      too big, about ours                         pass      pass      pass      pass
      too big, from a workload's node             pass      pass      pass      pass
      time exceeded, about ping of ours           pass      pass      pass      pass
      too big, about theirs to tcp/22             denied    denied    pass      pass
      too big, about nothing we sent              denied    denied    denied    pass
      too big, about what another address sent    denied    denied    denied    pass
      too big, about an error                     denied    denied    denied    pass
      too big, quoting too little                 denied    denied    denied    pass
      too big, about our first fragment           pass      pass      pass      pass

    FRAGMENTS
      first, to udp/53                            denied    denied    pass      pass
      later, to udp/53                            fragment  fragment  pass      pass
      later, before the first                     fragment  fragment  fragment  pass
      later, over the first                       fragment  fragment  fragment  pass
      first, of an answer to us                   pass      pass      pass      pass
      later, of an answer to us                   pass      pass      pass      pass
      first, too short for its header             headers   headers   headers   headers
      a fragment that is all, to udp/53           denied    denied    pass      pass

    EXTENSION HEADERS
      options before tcp/22                       denied    denied    pass      pass
      options before tcp/23                       denied    denied    denied    pass
      options before an answer to us              pass      pass      pass      pass
      more than anybody needs                     headers   headers   headers   headers
      hop by hop before udp/53                    denied    denied    pass      pass
      routing without hops, before tcp/22         denied    denied    pass      pass
      routing with hops, before tcp/22            headers   headers   headers   headers
      nothing behind the header                   denied    denied    denied    pass
      tcp/22, its header cut off                  headers   headers   headers   headers
    ");
}

/// Joins what was sent.
trait ConcatSent {
    fn concat_sent(self) -> Vec<Sent>;
}

impl<const N: usize> ConcatSent for [Vec<Sent>; N] {
    fn concat_sent(self) -> Vec<Sent> {
        self.into_iter().flatten().collect()
    }
}
