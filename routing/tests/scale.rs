//! A thousand nodes, and what they cost: the test prints it (`--no-capture`).

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod lab;

use std::time::Instant;

use lab::*;
use routing::sim::{Net, Verification, millis, owner, secs};
use routing::wire::{PacketWriter, Tlv, Update};

const NODES: usize = 1_000;

fn wall_clock() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "figures for people")]
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "figures for people")]
fn report(line: &str) {
    println!("{line}");
}

#[test]
fn a_thousand_nodes_find_each_other_within_a_second() {
    let begin = wall_clock();
    let mut net = Net::random(NODES, 4, 1);
    net.verification = Verification::Trusting(millis(1));
    let all = NODES * (NODES - 1);
    let is_done = net.run_until(secs(1), |net| net.installed() == all);
    assert!(is_done, "{} of {all} routes", net.installed());
    let (took, traffic) = (net.now(), net.traffic());
    let announced = traffic.packets as f64 / (2 * net.wires()) as f64;
    report(&format!(
        "{NODES} nodes, {} links: all routes after {took:?}, {} packets ({announced:.0} each way and link), {} MB, {:?} of real time",
        net.wires(),
        traffic.packets,
        traffic.bytes / 1_000_000,
        wall_clock() - begin,
    ));
    let table = net.node(0).router.routes().count();
    report(&format!(
        "the table of one: {table} routes to {} destinations",
        net.node(0).router.destinations()
    ));
    // A whole table is 21 packets of 48 updates with proofs; records come besides.
    assert!(announced < 500.0);
    assert_eq!((net.loops(), net.gaps()), (0, 0));
    assert_eq!(net.violations(), [""; 0]);
}

/// How long a router takes for an update that changes nothing, in a table of a thousand.
#[test]
fn an_update_that_changes_nothing_costs_next_to_nothing() {
    let mut lab = Lab::with_neighbours(1);
    let updates: Vec<Update> = (1..=1_000)
        .map(|number| {
            let prefix = net(&format!("2001:db8:{number:x}::/64"));
            Lab::plain(prefix, 7, 1, 100)
        })
        .collect();
    let allow = vec![net("2001:db8::/32")];
    let link = lab.stock(5, routing::Peer::Legacy { allow });
    lab.run(millis(200));
    let mut writer = PacketWriter::unicast(1_420, address(5));
    for update in &updates {
        let next_hop = address(5);
        let update = Update {
            next_hop,
            ..*update
        };
        writer.push(&Tlv::Update(update)).unwrap();
    }
    let packets = writer.finish();
    let round = |lab: &mut Lab| {
        let begin = wall_clock();
        for packet in &packets {
            let to = routing::Cast::Unicast(address(US));
            let (bytes, now) = (&packet.bytes, lab.now);
            let read = lab
                .router
                .handle_packet(link, address(5), to, bytes, now, now);
            assert_eq!(read, Ok(()));
        }
        let took = wall_clock() - begin;
        lab.drain();
        lab.run(secs(4));
        took / 1_000
    };
    let first = round(&mut lab);
    let again = (0..20).map(|_| round(&mut lab)).min().unwrap();
    report(&format!(
        "an update that is new takes {first:?}, one that changes nothing {again:?}"
    ));
    assert!(lab.selected(updates[999].prefix.unwrap()).is_some());
    assert!(lab.selected(owner(1).prefix).is_none());
}
