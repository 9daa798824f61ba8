//! The promise: whatever a member says about routes, nobody's traffic goes astray because of it, and nobody pays for listening.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use netns_tests::abuse::Dice;
use netns_tests::babel::{
    self, INFINITY, Proof, Tlv, Update, ack_request, extension, hello, packet, route_request,
    seqno_request, tlv,
};
use netns_tests::events::{Events, What};
use netns_tests::liar::BlackHole;
use netns_tests::origin::Origin;
use netns_tests::settings::PORT;
use netns_tests::speaker::{Manner, Seat};
use netns_tests::traffic::udp_echo;
use netns_tests::usage::Usage;
use netns_tests::view::RouteView;
use netns_tests::wait::{hold_for, pace};
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Daemon, Flow, Graph, Host, Identity, Impairment, Lab, Link, Mesh, Moment, Process, Role,
    Settings, Software, Speaker, StockRouter, StockSettings, Topology, millis, secs, wait_until,
};

/// How long lies are told.
const LIE: Duration = secs(1);
/// How long honest traffic may stand still meanwhile: not at all, but for the machine's own hiccups.
const HICCUP: Duration = millis(500);
/// The most that a neighbour's routes may take of a table.
const MOST_ROUTES: usize = 4096;
/// What 100,000 prefixes may cost in memory, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

/// far — relay — victim, with traffic from end to end; and a member that is next to the far node and the relay.
struct Scene {
    far: Daemon,
    relay: Daemon,
    victim: Daemon,
    member: Identity,
    host: Host,
    /// The key of a stock router that the relay trusts with all of the overlay.
    stock: Key,
    at_far: Seat,
    at_relay: Seat,
    flow: Flow,
    events: [Events; 2],
    _echo: Process,
    lab: Lab,
}

impl Scene {
    #[track_caller]
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let [far, relay, victim, host] =
            ["far", "relay", "victim", "member"].map(|name| lab.host(name));
        let [id_far, id_relay, id_victim, member] = [(); 4].map(|()| lab.identity());
        let at = |link: &Link| SocketAddr::new(link.a.v6.into(), PORT);
        let near = lab.link(&relay, &far);
        let last = lab.link(&relay, &victim);
        let [link_far, link_relay] = [lab.link(&far, &host), lab.link(&relay, &host)];
        let (stock, trusted) = (Key::generate(&host), Role::Legacy(vec![net("600::/8")]));
        let relay = relay.meshd(
            Settings::new(&id_relay)
                .peer("far", &id_far, None)
                .peer("victim", &id_victim, None)
                .peer("member", &member, None)
                .router("stock", &stock.public, &trusted, None),
        );
        let far = far.meshd(
            Settings::new(&id_far)
                .allow([&id_victim])
                .peer("relay", &id_relay, Some(at(&near)))
                .peer("member", &member, None),
        );
        let victim = victim.meshd(Settings::new(&id_victim).allow([&id_far, &member]).peer(
            "relay",
            &id_relay,
            Some(at(&last)),
        ));
        far.wait_for_answer(victim.address(), secs(20));
        let target = SocketAddr::new(victim.address().into(), 7000);
        let _echo = udp_echo(victim.host(), target);
        let flow = Flow::start(far.host(), target, millis(20));
        flow.wait_for_answers(secs(5));
        let at_far = Seat::of_member(&host, &member, far.identity(), at(&link_far));
        let at_relay = Seat::of_member(&host, &member, relay.identity(), at(&link_relay));
        for node in [&far, &relay] {
            node.wait_for_links(member.address, 1, secs(15));
        }
        let events = [&far, &relay].map(Events::of);
        Self {
            far,
            relay,
            victim,
            member,
            host,
            stock,
            at_far,
            at_relay,
            flow,
            events,
            _echo,
            lab,
        }
    }

    fn seats(&self) -> [&Speaker; 2] {
        [&self.at_far.speaker, &self.at_relay.speaker]
    }

    /// What a node honestly tells the member about the victim.
    #[track_caller]
    fn truth(&self, speaker: &Speaker) -> Update {
        let prefix = self.victim.identity().prefix();
        speaker.take();
        speaker.say(&[route_request(Some(prefix))]);
        speaker.wait_for_update(prefix, secs(10), |update| {
            update.metric < INFINITY && update.proof.is_some()
        })
    }

    /// Tells both nodes so for a while, and sees that nothing comes of it.
    #[track_caller]
    fn withstands(&self, what: &str, tlvs: &[Vec<u8>]) {
        for speaker in self.seats() {
            speaker.announce("lie", tlvs.concat());
        }
        let since = Moment::now();
        self.is_unharmed(what, LIE);
        for speaker in self.seats() {
            speaker.cease("lie");
        }
        let gap = self.flow.longest_gap(since);
        assert!(gap <= HICCUP, "{what}: no answer for {gap:?}");
    }

    /// All that time, and at no instant of it, is anything routed through the member, save what is the member's own.
    #[track_caller]
    fn is_unharmed(&self, what: &str, length: Duration) {
        let victim = self.victim.address();
        hold_for(length, what, || {
            let route = self.far.route_to(victim)?;
            if route.next_hop == Some(self.relay.address()) {
                Ok(())
            } else {
                Err(format!("{route:?}"))
            }
        });
        for (node, events) in [&self.far, &self.relay].into_iter().zip(&self.events) {
            for event in events.take() {
                if let What::Fib {
                    prefix,
                    via: Some(via),
                } = event.what
                {
                    assert!(
                        via != self.member.address || prefix == self.member.prefix(),
                        "{what}: {} sends what is for {prefix} to the member",
                        node.host().name()
                    );
                }
            }
        }
    }

    fn discarded(&self) -> u64 {
        let of = |node: &Daemon| node.drops().values().sum::<u64>();
        of(&self.far) + of(&self.relay)
    }
}

fn net(text: &str) -> Ipv6Network {
    text.parse().unwrap()
}

#[test]
fn no_lie_about_a_victim_moves_its_traffic() {
    let scene = Scene::new("hostile claims");
    let victim = scene.victim.identity().clone();
    let (prefix, router_id) = (victim.prefix(), victim.router_id());
    let own = Origin::new(&scene.member, 1);
    for speaker in scene.seats() {
        speaker.vouch(scene.member.router_id(), own.record());
        speaker.announce("own", own.update(own.base(), 0).tlvs());
    }
    // An honest member is heard.
    scene.victim.wait_for_route(scene.member.address, secs(15));
    // As the relay says it, one hop from the victim, and as the far node does, two hops from it.
    let [longer, truth] = scene.seats().map(|speaker| scene.truth(speaker));
    let proof = truth.proof.unwrap();
    let drops = scene.discarded();

    let lie = |seqno: u16, metric: u16| Update::new(prefix, router_id, seqno, metric);
    let same = truth.seqno;
    let newer = |by: u16| same.wrapping_add(by);
    let forged = Some(Proof {
        element: [0x55; 20],
        ..proof
    });
    let of_epoch = |epoch: u32| Some(Proof { epoch, ..proof });
    let lies = [
        (
            "another origin",
            vec![
                Update::new(prefix, scene.member.router_id(), 1, 0),
                Update {
                    prefix: Some(prefix),
                    ..own.update(own.base(), 0)
                },
            ],
        ),
        (
            "no proof",
            vec![lie(same, 0), lie(same, 1), lie(same, 95), lie(same, 96)],
        ),
        (
            "no proof of newer seqnos",
            vec![lie(newer(1), 0), lie(newer(8), 96), lie(newer(0x7fff), 96)],
        ),
        (
            "forged proofs",
            vec![
                lie(same, 0).proven_by(forged),
                lie(same, 96).proven_by(forged),
                lie(newer(1), 96).proven_by(forged),
            ],
        ),
        (
            "genuine proofs of greater metrics",
            vec![
                lie(same, 0).proven_by(Some(proof)),
                lie(same, 95).proven_by(Some(proof)),
                lie(longer.seqno, 96).proven_by(longer.proof),
            ],
        ),
        (
            "genuine proofs of other seqnos and epochs",
            vec![
                lie(newer(1), truth.metric).proven_by(Some(proof)),
                lie(newer(8), truth.metric).proven_by(Some(proof)),
                lie(same, truth.metric).proven_by(of_epoch(proof.epoch + 1)),
                lie(same, truth.metric).proven_by(of_epoch(proof.epoch.saturating_sub(1))),
                lie(same, truth.metric).proven_by(of_epoch(u32::MAX)),
            ],
        ),
        ("the truth, from somebody else", vec![truth.clone()]),
        (
            "retractions",
            vec![
                lie(same, INFINITY),
                Update {
                    prefix: None,
                    ..lie(0, INFINITY)
                },
            ],
        ),
    ];
    for (what, updates) in &lies {
        scene.withstands(what, &updates.iter().map(Update::tlvs).collect::<Vec<_>>());
    }
    // Prefixes around the victim's, of nodes that hear it, and of no node.
    let around = [victim.part(48), victim.part(63), victim.part(80)];
    let own_to_themselves = [&scene.far, &scene.relay].map(|node| node.identity().prefix());
    let strange = ["::/0", "600::/8", "600::/7", "2000::/3"].map(net);
    let special = ["fe80::/64", "ff00::/8", "::1/128", "fd77::/16"].map(net);
    let prefixes: [(&str, &[Ipv6Network]); 4] = [
        ("prefixes around the victim's", &around),
        ("prefixes of those who hear it", &own_to_themselves),
        ("prefixes with others in them", &strange),
        ("prefixes of no node", &special),
    ];
    for (what, prefixes) in prefixes {
        let update = |prefix: &Ipv6Network| {
            let proven = Update {
                prefix: Some(*prefix),
                ..truth.clone()
            };
            let bare = Update {
                metric: 0,
                ..proven.clone().proven_by(None)
            };
            [proven.tlvs(), bare.tlvs()]
        };
        scene.withstands(what, &prefixes.iter().flat_map(update).collect::<Vec<_>>());
    }
    // Only for packets from some sources (RFC 9079): a sub-TLV that must be understood.
    let from_some = truth.tlvs_with(&tlv(128, &[64, 6, 0, 0, 0, 0, 0, 0, 0]));
    scene.withstands("a source prefix", &[from_some]);
    // A record that says something else than the one before, and one with somebody else's id.
    let mut stolen = own.record();
    stolen[6..14].copy_from_slice(&router_id);
    let records = [own.record(), own.record_with(&[7]), stolen];
    scene.withstands("records", &records.map(|record| extension(&record)));

    assert!(
        scene.discarded() > drops,
        "lies are counted: {:?}",
        scene.relay.drops()
    );
    // The far node itself still takes what is true.
    let truth = scene.truth(&scene.at_relay.speaker);
    assert_eq!(truth.router_id, router_id);
}

/// Babel belongs into a link, from a link-local address.
#[test]
fn babel_from_anywhere_else_is_not_heard() {
    let scene = Scene::new("hostile sources");
    let lie = Update::new(
        scene.victim.identity().prefix(),
        scene.victim.identity().router_id(),
        1,
        0,
    );
    let bytes = packet(&[hello(1, 100, &[]), lie.tlvs()]);
    let interface = scene.at_relay.tunnel.interface();
    scene
        .host
        .set_address(interface, &format!("{}/128", scene.member.address));
    scene.host.set_address(interface, "fe80::bad/128");
    scene.host.run(&format!(
        "ip -6 route replace {} dev {interface}",
        scene.relay.identity().prefix()
    ));
    let relay = scene.relay.identity().clone();
    let port = babel::PORT;
    let targets: [(Ipv6Addr, u16, Ipv6Addr); 4] = [
        (scene.member.address, port, relay.address),
        (scene.member.address, port, relay.link_local()),
        ("fe80::bad".parse().unwrap(), port, relay.link_local()),
        (scene.member.link_local(), port + 1, relay.link_local()),
    ];
    let drops = scene.discarded();
    for (from, from_port, to) in targets {
        for _ in 0..20 {
            let speaker = &scene.at_relay.speaker;
            speaker.say_from(from, from_port, to, &bytes);
        }
        scene.is_unharmed(&format!("from {from} to {to}"), LIE);
    }
    assert!(scene.discarded() > drops, "{:?}", scene.relay.drops());
}

/// Packets that have broken speakers of Babel, and their like.
fn malformed(scene: &Scene) -> Vec<Vec<u8>> {
    let truth = scene.truth(&scene.at_relay.speaker);
    let tlvs = truth.tlvs();
    let whole = packet(&[hello(9, 100, &[]), tlvs.clone()]);
    let with_length = |length: u16| {
        let mut bytes = whole.clone();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let update = |body: &[u8]| packet(&[babel::router_id(truth.router_id), tlv(8, body)]);
    let mut packets = vec![
        vec![],
        vec![42],
        vec![42, 2, 0],
        // The reproducer of CVE-2022-26127.
        vec![42, 2, 0, 42, 2],
        vec![41, 2, 0, 0],
        vec![42, 3, 0, 0],
        with_length(0),
        with_length(u16::MAX),
        with_length(7),
        packet(&[vec![0; 1200]]),
        packet(&[tlv(1, &[0; 255])]),
        packet(&[vec![4, 255]]),
        packet(&[vec![8]]),
        // Prefixes longer than there are, omitted bytes of none, families that are none, infinite intervals.
        update(&[2, 0, 129, 0, 0, 1, 0, 1, 0, 0]),
        update(&[2, 0, 64, 0, 0, 1, 0, 1, 0, 0]),
        update(&[2, 0, 64, 8, 0, 1, 0, 1, 0, 0]),
        update(&[2, 0, 8, 255, 0, 1, 0, 1, 0, 0]),
        update(&[9, 0, 64, 0, 0, 1, 0, 1, 0, 0]),
        update(&[0, 0, 0, 0, 0, 1, 0, 1, 0, 0]),
        update(&[3, 0x40, 64, 0, 0, 1, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        packet(&[babel::router_id([0; 8]), tlvs.clone()]),
        packet(&[babel::router_id([0xff; 8]), tlvs]),
        // Sub-TLVs that run past the end, in Hello, IHU and Update; ones that must be understood.
        packet(&[hello(9, 100, &[3, 9, 1])]),
        packet(&[babel::ihu(
            scene.relay.identity().link_local(),
            96,
            300,
            &[3, 200],
        )]),
        packet(&[truth.tlvs_with(&[112, 24, 0])]),
        packet(&[truth.tlvs_with(&tlv(112, &[0; 25]))]),
        packet(&[hello(9, 100, &tlv(240, b"x"))]),
        packet(&[hello(9, 0, &[])]),
        packet(&[seqno_request(net("600::/8"), 1, 0, [0; 8])]),
        packet(&[tlv(10, &[2, 64, 0, 1])]),
        packet(&[tlv(9, &[0, 64]), tlv(9, &[7]), tlv(9, &[])]),
        packet(&[tlv(2, &[0, 0, 1]), ack_request(1, 0)]),
        packet(&[tlv(7, &[2, 0, 1, 2, 3])]),
        packet(&[
            extension(&[]),
            extension(&[1]),
            extension(&[1, 2]),
            extension(&[1, 1, 0]),
            extension(&[9, 9]),
        ]),
    ];
    packets.push(packet(&vec![tlv(224, &[1, 1]); 300]));
    packets.push(whole);
    packets
}

#[test]
fn malformed_packets_break_nothing() {
    let scene = Scene::new("hostile malformed");
    let corpus = malformed(&scene);
    let before = Usage::of(&[scene.relay.id()]);
    let (mut dice, speaker) = (Dice::new(23), &scene.at_relay.speaker);
    let start = Instant::now();
    for number in 0..10_000_u32 {
        pace(start + secs(1) * number / 2000);
        let mut bytes = corpus[number as usize % corpus.len()].clone();
        // First as they are, then with a few bytes changed.
        if number as usize >= corpus.len() && !bytes.is_empty() {
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len());
                bytes[at] = u8::try_from(dice.below(256)).unwrap();
            }
        }
        if !bytes.is_empty() {
            speaker.say_raw(&bytes);
        }
    }
    scene.is_unharmed("after 10,000 malformed packets", LIE);
    let after = Usage::of(&[scene.relay.id()]);
    assert!(
        after.resident_kib <= before.resident_kib + (4 << 10),
        "{before:?} {after:?}"
    );
    println!("{:?} of processor time", after.processor - before.processor);
    scene.flow.goes_on(secs(1), HICCUP);
    speaker.take();
    speaker.wait_to_hear(secs(5), "that the node still speaks", |tlv| {
        matches!(tlv, Tlv::Hello { .. }).then_some(())
    });
}

/// Announces 30,000 prefixes a second, 30 in a packet.
fn flood(speaker: &Speaker, prefixes: impl Iterator<Item = Update>) {
    let updates: Vec<Vec<u8>> = prefixes.map(|update| update.tlvs()).collect();
    let start = Instant::now();
    for (number, some) in updates.chunks(30).enumerate() {
        pace(start + millis(1) * u32::try_from(number).unwrap());
        speaker.say(some);
    }
}

/// Prefix number `n` of the overlay.
fn numbered(n: u32) -> Ipv6Network {
    let [high, low] = [n >> 16, n & 0xffff].map(|half| u16::try_from(half).unwrap());
    Ipv6Network::new([0x6ff, high, low, 0, 0, 0, 0, 0].into(), 64).unwrap()
}

#[test]
fn a_hundred_thousand_prefixes_are_capped_and_the_others_unharmed() {
    let scene = Scene::new("hostile flood");
    let before = Usage::of(&[scene.relay.id()]);
    let from_many = |n: u32| Update::new(numbered(n), u64::from(n + 1).to_be_bytes(), 1, 96);
    flood(&scene.at_relay.speaker, (0..100_000).map(from_many));
    scene.is_unharmed("after 100,000 prefixes", LIE);
    // All of it came from one neighbour, and nobody proved anything.
    let routes = scene.relay.routes().unwrap();
    assert!(routes.len() < 100, "{} routes", routes.len());
    // Somebody else's change is heard in the middle of it.
    scene.victim.restart();
    let again = Moment::now();
    flood(&scene.at_relay.speaker, (0..30_000).map(from_many));
    scene.flow.wait_for_answers(secs(10));
    println!("back after {:?}", Moment::now().since(again));
    let after = Usage::of(&[scene.relay.id()]);
    println!("{before:?} {after:?}");
    assert!(after.resident_kib <= before.resident_kib + MOST_MEMORY);
}

/// A stock router that is trusted with transit may announce what it likes: within the neighbour's share of the table.
#[test]
fn a_trusted_stock_router_gets_no_more_than_its_share_of_the_table() {
    let scene = Scene::new("hostile stock flood");
    let host = scene.lab.host("stock");
    let link = scene.lab.link(scene.relay.host(), &host);
    let endpoint = SocketAddr::new(link.a.v6.into(), PORT);
    let seat = Seat::of_stock(&host, &scene.stock, scene.relay.identity(), endpoint);
    wait_until(secs(15), "the stock router is heard", || {
        seat.speaker.neighbour()
    });
    let before = Usage::of(&[scene.relay.id()]);
    flood(
        &seat.speaker,
        (0..100_000).map(|n| Update::new(numbered(n), [9; 8], 1, 96)),
    );
    wait_until(secs(5), "some of it was taken", || {
        let routes = scene.relay.routes()?;
        let flood = net("6ff::/16");
        let is_taken = |route: &&RouteView| flood.contains(route.prefix.network());
        let taken = routes.iter().filter(is_taken).count();
        if taken > 0 && taken <= MOST_ROUTES {
            Ok(())
        } else {
            Err(format!("{taken} routes"))
        }
    });
    // And the victim's own is not among what it may take away.
    seat.speaker.announce(
        "lie",
        Update::new(scene.victim.identity().prefix(), [9; 8], 1, 0).tlvs(),
    );
    scene.is_unharmed("after the flood of a stock router", LIE);
    let after = Usage::of(&[scene.relay.id()]);
    println!("{before:?} {after:?}");
    assert!(after.resident_kib <= before.resident_kib + MOST_MEMORY);
    scene.flow.goes_on(secs(1), HICCUP);
}

#[test]
fn requests_and_flaps_cost_a_bounded_number_of_answers() {
    let scene = Scene::new("hostile storms");
    let (speaker, listener) = (&scene.at_relay.speaker, &scene.at_far.speaker);
    let victim = scene.victim.identity().clone();
    let seconds = 3_u32;
    let storm = |what: &str, tlvs: &dyn Fn(u32) -> Vec<u8>| -> Vec<Tlv> {
        speaker.take();
        listener.take();
        let start = Instant::now();
        for number in 0..1000 * seconds {
            pace(start + secs(1) * number / 1000);
            speaker.say(&[tlvs(number)]);
        }
        scene.is_unharmed(what, millis(500));
        speaker.take().into_iter().map(|(_, tlv)| tlv).collect()
    };

    let seqno = scene.truth(speaker).seqno;
    storm("seqno requests", &|number| {
        let wanted = seqno.wrapping_add(1 + u16::try_from(number % 30_000).unwrap());
        seqno_request(victim.prefix(), wanted, 255, victim.router_id())
    });
    let bumped = scene.truth(speaker).seqno.wrapping_sub(seqno);
    assert!(bumped <= 6, "{bumped} new seqnos in {seconds} s");

    let heard = storm("requests for everything", &|_| route_request(None));
    let updates = heard.iter().filter(|tlv| tlv.update().is_some()).count();
    // A handful of routes, told a few times.
    assert!(updates <= 100, "{updates} updates in {seconds} s");

    let heard = storm("requests for acknowledgments", &|number| {
        ack_request(u16::try_from(number % 60_000).unwrap(), 1)
    });
    let acks = heard
        .iter()
        .filter(|tlv| matches!(tlv, Tlv::Ack { .. }))
        .count();
    // So many at once, and so many a second: each is shorter than what asked for it.
    let most = 1_000 + 200 * (seconds as usize + 1);
    assert!(acks <= most, "{acks} acknowledgments in {seconds} s");

    // Its own route comes and goes a hundred times a second.
    let own = Origin::new(&scene.member, 1);
    speaker.vouch(scene.member.router_id(), own.record());
    speaker.announce("own", own.update(own.base(), 0).tlvs());
    scene.relay.wait_for_route(scene.member.address, secs(10));
    speaker.cease("own");
    scene.at_far.speaker.take();
    let start = Instant::now();
    for number in 0..100 * seconds {
        pace(start + secs(1) * number / 100);
        let update = own.update(own.base(), 0);
        let metric = if number % 2 == 0 { INFINITY } else { 0 };
        speaker.say(&[Update { metric, ..update }.tlvs()]);
    }
    let passed_on = scene.at_far.speaker.take();
    let passed_on = passed_on
        .iter()
        .filter_map(|(_, tlv)| tlv.update())
        .filter(|update| update.prefix == Some(scene.member.prefix()))
        .count();
    assert!(
        passed_on <= 6 * seconds as usize,
        "{passed_on} updates in {seconds} s"
    );
    scene.flow.goes_on(secs(1), HICCUP);
}

/// Who is far says that it got every Hello earlier than it did, and looks near.
#[test]
fn a_neighbour_does_not_get_nearer_by_lying_about_times() {
    let lab = Lab::new("hostile times");
    let (node, host) = (lab.host("node"), lab.host("member"));
    let (link, _wire) = lab.wire(&node, &host, Impairment::delay(millis(40)));
    let (id, member) = (lab.identity(), lab.identity());
    let node = node.meshd(Settings::new(&id).peer("member", &member, None));
    let endpoint = SocketAddr::new(link.a.v6.into(), PORT);
    let seat = Seat::of_member(&host, &member, &id, endpoint);
    let rtt = || {
        let links = node.links()?;
        let rtt = links.first().and_then(|link| link.rtt_ms);
        rtt.ok_or_else(|| format!("{links:?}"))
    };
    seat.speaker.behave(Manner::Hasty(Duration::ZERO));
    let honest = wait_until(secs(20), "the link is measured", rtt);
    assert!((75.0..200.0).contains(&honest), "{honest} ms");
    seat.speaker.behave(Manner::Hasty(millis(79)));
    hold_for(secs(6), "the link looks as long as it is", || match rtt() {
        Ok(rtt) if rtt < 60.0 => Err(format!("{rtt} ms")),
        _ => Ok(()),
    });
}

/// near — one — two — far; and between near and far a member that passes on all of Babel, with the least metrics it can prove, and not
/// one packet.
struct Detour {
    mesh: Mesh,
    member: Identity,
    host: Host,
    /// From the member to near and far.
    links: [Link; 2],
    _lab: Lab,
}

impl Detour {
    #[track_caller]
    fn new(name: &str, change: impl Fn(&Topology)) -> Self {
        let lab = Lab::new(name);
        let topology = Topology::lay(&lab, Graph::line(4));
        change(&topology);
        let (member, host) = (lab.identity(), lab.host("member"));
        let links = [0, 3].map(|node| lab.link(&topology.hosts[node], &host));
        let mesh = Mesh::on(&lab, topology, |node, settings| match node {
            0 | 3 => settings.peer("member", &member, None),
            _ => settings,
        });
        Self {
            mesh,
            member,
            host,
            links,
            _lab: lab,
        }
    }

    fn ends(&self) -> [&Daemon; 2] {
        [&self.mesh.nodes[0], &self.mesh.nodes[3]]
    }

    /// The member begins its work.
    #[track_caller]
    fn opens(&self) -> (BlackHole, [Seat; 2]) {
        let seats = [0, 1].map(|end| {
            let endpoint = SocketAddr::new(self.links[end].a.v6.into(), PORT);
            Seat::of_member(
                &self.host,
                &self.member,
                self.ends()[end].identity(),
                endpoint,
            )
        });
        for node in self.ends() {
            node.wait_for_links(self.member.address, 1, secs(15));
        }
        (
            BlackHole::between(&seats[0].speaker, &seats[1].speaker),
            seats,
        )
    }

    #[track_caller]
    fn flow(&self) -> (Flow, Process) {
        let [near, far] = self.ends();
        let echo = udp_echo(far.host(), self.mesh.at(3, 7000));
        (
            Flow::start(near.host(), self.mesh.at(3, 7000), millis(50)),
            echo,
        )
    }

    /// Packets go the honest way within that time, and stay there.
    #[track_caller]
    fn is_left(&self, flow: &Flow, within: Duration) {
        let [near, far] = self.ends();
        flow.wait_for_answers(within);
        near.never_routes_through(far.address(), self.member.address, secs(5));
        flow.goes_on(secs(2), secs(1));
    }
}

#[test]
fn a_member_that_lies_about_metrics_and_drops_data_is_routed_around() {
    let detour = Detour::new("hostile black hole", |_| {});
    let [near, far] = detour.ends();
    near.wait_for_answer(far.address(), secs(20));
    let (flow, _echo) = detour.flow();
    flow.wait_for_answers(secs(5));
    let events = Events::of(near);
    let since = Moment::now();
    let _hole = detour.opens();
    let mut seen = Vec::new();
    wait_until(secs(15), "near falls for it", || {
        seen.extend(events.take());
        seen.iter().any(|event| {
            matches!(event.what, What::Fib { prefix, via } if prefix == far.identity().prefix() && via == Some(detour.member.address))
        })
    });
    detour.is_left(&flow, secs(15));
    println!("no answer for {:?}", flow.longest_gap(since));
}

/// As before, but there is no session yet, and no other way at first.
#[test]
fn a_first_contact_finds_the_way_round_a_black_hole() {
    let detour = Detour::new("hostile first contact", |topology| {
        topology.links[1].silence()
    });
    let [near, far] = detour.ends();
    let _hole = detour.opens();
    near.wait_for_route_via(far.address(), detour.member.address, secs(30));
    let (flow, _echo) = detour.flow();
    hold_for(secs(3), "nothing gets through", || {
        near.ping(far.address()).is_err()
    });
    detour.mesh.topology.links[1].restore();
    detour.mesh.nodes[1].wait_for_route(far.address(), secs(20));
    detour.is_left(&flow, secs(30));
}

/// Two stock routers side by side, one of which still announces, and forwards nothing any more.
#[test]
fn a_stock_transit_that_ceases_to_forward_is_left() {
    let lab = Lab::new("hostile stock transit");
    let (near, far) = (lab.host("near"), lab.host("far"));
    let (id_near, id_far) = (lab.identity(), lab.identity());
    let transits = ["one", "two"].map(|name| lab.host(name));
    let role = Role::Legacy(vec![net("600::/8")]);
    let (mut for_near, mut for_far) = (
        Settings::new(&id_near).allow([&id_far]),
        Settings::new(&id_far).allow([&id_near]),
    );
    let mut tunnels = Vec::new();
    for host in &transits {
        let keys = [(); 2].map(|()| Key::generate(host));
        let links = [lab.link(&near, host), lab.link(&far, host)];
        for_near = for_near.router(host.name(), &keys[0].public, &role, None);
        for_far = for_far.router(host.name(), &keys[1].public, &role, None);
        tunnels.push((host, keys, links));
    }
    let (near, far) = (near.meshd(for_near), far.meshd(for_far));
    let running: Vec<(Vec<WireGuard>, StockRouter)> = tunnels
        .iter()
        .map(|(host, keys, links)| {
            let ends: Vec<WireGuard> = [&id_near, &id_far]
                .into_iter()
                .enumerate()
                .map(|(end, node)| {
                    let tunnel = WireGuard::start_for_routing(host, &keys[end], None);
                    let endpoint = SocketAddr::new(links[end].a.v6.into(), PORT);
                    tunnel.neighbour(&node.public_key, Some(endpoint));
                    tunnel
                })
                .collect();
            host.forward();
            let interfaces: Vec<&str> = ends.iter().map(WireGuard::interface).collect();
            let settings = StockSettings::on(&interfaces).every(secs(1), secs(4));
            let router = StockRouter::start(Software::Babeld, host, &settings);
            (ends, router)
        })
        .collect();
    wait_until(secs(30), "there are two ways", || {
        let routes = near.routes()?;
        let ways = routes
            .iter()
            .filter(|route| route.prefix.contains(far.address()));
        if ways.count() == 2 {
            Ok(())
        } else {
            Err(format!("{routes:?}"))
        }
    });
    near.wait_for_answer(far.address(), secs(15));
    let target = SocketAddr::new(far.address().into(), 7000);
    let _echo = udp_echo(far.host(), target);
    let flow = Flow::start(near.host(), target, millis(50));
    flow.wait_for_answers(secs(5));
    let used = near.route_to(far.address()).unwrap().via.unwrap();
    let (_, liar) = running
        .iter()
        .find(|(_, router)| router.host().name() == used)
        .unwrap();
    liar.host().stop_forwarding();
    flow.wait_for_answers(secs(15));
    hold_for(secs(5), "the liar is left", || {
        match near.route_to(far.address()) {
            Ok(route) if route.via.as_ref() == Some(&used) => Err(format!("{route:?}")),
            _ => Ok(()),
        }
    });
    liar.neighbours().unwrap();
}

/// near reaches two nodes by way of one relay; one of them is a member that announces itself and answers nothing. There is another
/// way to the honest one, and no reason to take it.
#[test]
fn a_silent_destination_frames_no_honest_relay() {
    let lab = Lab::new("hostile framing");
    // near, relay, honest; and a detour of two.
    let graph = Graph::new(5, &[(0, 1), (1, 2), (0, 3), (3, 4), (4, 2)]);
    let (member, host) = (lab.identity(), lab.host("member"));
    let topology = Topology::lay(&lab, graph);
    let link = lab.link(&topology.hosts[1], &host);
    let mesh = Mesh::on(&lab, topology, |node, settings| match node {
        1 => settings.peer("member", &member, None),
        _ => settings.allow([&member]),
    });
    let (near, relay, honest) = (&mesh.nodes[0], &mesh.nodes[1], &mesh.nodes[2]);
    let seat = Seat::of_member(
        &host,
        &member,
        relay.identity(),
        SocketAddr::new(link.a.v6.into(), PORT),
    );
    let origin = Origin::new(&member, 1);
    seat.speaker.vouch(member.router_id(), origin.record());
    seat.speaker
        .announce("own", origin.update(origin.base(), 0).tlvs());
    near.wait_for_route_via(member.address, relay.address(), secs(30));
    near.wait_for_route_via(honest.address(), relay.address(), secs(30));

    let target = mesh.at(2, 7000);
    let _echo = udp_echo(honest.host(), target);
    let flow = Flow::start(near.host(), target, millis(50));
    flow.wait_for_answers(secs(10));
    let _silent = Flow::start(
        near.host(),
        SocketAddr::new(member.address.into(), 7000),
        millis(50),
    );
    let detour = mesh.nodes[3].address();
    near.never_routes_through(honest.address(), detour, secs(10));
    flow.goes_on(secs(1), HICCUP);
}
