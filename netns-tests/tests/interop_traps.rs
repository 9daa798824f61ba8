//! What has gone wrong between speakers of Babel before, tried on a node of ours with a speaker that the test controls.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use netns_tests::babel::{INFINITY, Tlv, Update, ack_request, route_request, seqno_request};
use netns_tests::origin::Origin;
use netns_tests::settings::PORT;
use netns_tests::speaker::{Manner, Seat};
use netns_tests::wait::hold_for;
use netns_tests::{Daemon, Identity, Lab, Moment, Settings, secs, wait_until};

/// A node with a friend, and with members around it that are speakers of ours.
struct Scene {
    node: Daemon,
    friend: Daemon,
    /// Their identities and their places.
    members: Vec<(Identity, Seat)>,
    /// A node that is somewhere behind the members, and is not really there.
    origin: Identity,
    _lab: Lab,
}

impl Scene {
    #[track_caller]
    fn new(name: &str, members: usize) -> Self {
        let lab = Lab::new(name);
        let (node, friend) = (lab.host("node"), lab.host("friend"));
        let link = lab.link(&node, &friend);
        let (id, id_friend, origin) = (lab.identity(), lab.identity(), lab.identity());
        let ids: Vec<Identity> = (0..members).map(|_| lab.identity()).collect();
        let mut settings = Settings::new(&id)
            .allow([&origin])
            .peer("friend", &id_friend, None);
        for (number, id) in ids.iter().enumerate() {
            settings = settings.peer(&format!("m{number}"), id, None);
        }
        let at_node = SocketAddr::new(link.a.v6.into(), PORT);
        let friend = friend.meshd(
            Settings::new(&id_friend)
                .allow(ids.iter().chain([&origin]))
                .peer("node", &id, Some(at_node)),
        );
        let seats: Vec<_> = (0..members)
            .map(|number| {
                let host = lab.host(&format!("m{number}"));
                let link = lab.link(&node, &host);
                (host, SocketAddr::new(link.a.v6.into(), PORT))
            })
            .collect();
        let node = node.meshd(settings);
        let members = ids
            .into_iter()
            .zip(seats)
            .map(|(id, (host, endpoint))| {
                let seat = Seat::of_member(&host, &id, node.identity(), endpoint);
                (id, seat)
            })
            .collect();
        let scene = Self {
            node,
            friend,
            members,
            origin,
            _lab: lab,
        };
        for (id, _) in &scene.members {
            scene.node.wait_for_links(id.address, 1, secs(15));
        }
        scene.friend.wait_for_route(scene.node.address(), secs(15));
        scene
    }

    fn seat(&self, member: usize) -> &Seat {
        &self.members[member].1
    }

    /// A member announces the origin, again and again.
    fn announces(&self, member: usize, update: &Update) {
        self.seat(member).speaker.announce("origin", update.tlvs());
    }

    #[track_caller]
    fn routes_through(&self, member: usize, metric: u16) {
        let route = self.node.wait_for_route_via(
            self.origin.address,
            self.members[member].0.address,
            secs(10),
        );
        assert!(route.metric >= Some(metric), "{route:?}");
        // Having told somebody is what makes a distance count.
        self.friend.wait_for_route(self.origin.address, secs(10));
    }

    /// The node asks this member for a seqno that is not out yet.
    #[track_caller]
    fn asks(&self, member: usize, wanted: u16) {
        let speaker = &self.seat(member).speaker;
        speaker.wait_to_hear(secs(5), "a seqno request", |tlv| {
            if let Tlv::SeqnoRequest { prefix, seqno, .. } = tlv {
                (*prefix == self.origin.prefix() && *seqno == wanted).then_some(())
            } else {
                None
            }
        });
    }
}

/// T1, T3, T4, T5, T6, T7, T10: everything a node says within some seconds, in whatever mood it is brought.
#[test]
fn what_a_node_says_suits_every_speaker_there_is() {
    let scene = Scene::new("traps manners", 1);
    let speaker = &scene.seat(0).speaker;
    speaker.behave(Manner::Hasty(Duration::ZERO));
    // From its first packet on.
    assert!(scene.node.stop().is_some());
    speaker.take();
    scene.node.start_again();
    let mut heard = Vec::new();
    let mut asked = 0;
    let start = Moment::now();
    wait_until(secs(30), "the node has been heard for a while", || {
        heard.extend(speaker.take());
        // What asks for an acknowledgment gets none if something beside it was refused, as everything is before the first Hello.
        let has_said_hello = heard
            .iter()
            .any(|(_, tlv)| matches!(tlv, Tlv::Hello { .. }));
        if asked < 20 && has_said_hello {
            asked += 1;
            speaker.say(&[
                route_request(None),
                seqno_request(
                    scene.node.identity().prefix(),
                    asked,
                    3,
                    scene.node.identity().router_id(),
                ),
            ]);
            speaker.say(&[ack_request(asked, 20)]);
        }
        Moment::now().since(start) > secs(8)
    });
    assert_eq!(speaker.malformed(), Vec::<String>::new(), "T6");
    let mut packets: BTreeMap<Moment, Vec<&Tlv>> = BTreeMap::new();
    for (at, tlv) in &heard {
        packets.entry(*at).or_default().push(tlv);
    }
    let first_update = heard.iter().find(|(_, tlv)| tlv.update().is_some());
    let (mut first_hello, mut timed) = (None, 0);
    for (at, packet) in &packets {
        for (place, tlv) in packet.iter().enumerate() {
            if let Tlv::Hello {
                is_unicast,
                interval,
                sub_tlvs,
                ..
            } = tlv
            {
                first_hello.get_or_insert(*at);
                assert!(*interval > 0, "T1: an unscheduled Hello");
                assert!(!is_unicast, "T3: a unicast Hello");
                assert!(sub_tlvs.len() <= 1, "T7: {sub_tlvs:?}");
            }
            if let Tlv::Ihu { sub_tlvs, .. } = tlv {
                assert!(sub_tlvs.len() <= 1, "T7: {sub_tlvs:?}");
                if !sub_tlvs.is_empty() {
                    timed += 1;
                    let before = &packet[..place];
                    let is_timed = before
                        .iter()
                        .any(|tlv| matches!(tlv, Tlv::Hello { sent: Some(_), .. }));
                    assert!(is_timed, "T4: {packet:?}");
                }
            }
        }
    }
    assert!(timed > 0, "T4: no IHU with times");
    let first_packet = packets.values().next().unwrap();
    assert!(
        matches!(first_packet[0], Tlv::Hello { .. }),
        "T5: {first_packet:?}"
    );
    let first_update = first_update.unwrap().0;
    let wait = first_update.since(first_hello.unwrap());
    assert!(wait < secs(2), "T10: the first route after {wait:?}");
    let acks = heard
        .iter()
        .filter(|(_, tlv)| matches!(tlv, Tlv::Ack { .. }));
    assert!(acks.count() > 0, "no acknowledgment");
}

/// T2: BIRD looks at feasibility when an update comes, and not when it falls back to it.
#[test]
fn a_route_that_has_become_unfeasible_is_not_fallen_back_to() {
    let scene = Scene::new("traps fallback", 2);
    let origin = Origin::new(&scene.origin, 1);
    for (_, seat) in &scene.members {
        seat.speaker
            .vouch(scene.origin.router_id(), origin.record());
    }
    let seqno = origin.base();
    scene.announces(1, &origin.update(seqno, 500));
    scene.routes_through(1, 596);
    scene.announces(0, &origin.update(seqno, 96));
    scene.routes_through(0, 192);

    let near = &scene.seat(0).speaker;
    near.cease("origin");
    let end = Update {
        metric: INFINITY,
        proof: None,
        ..origin.update(seqno, 96)
    };
    near.say(&[end.tlvs()]);
    scene.asks(1, seqno.wrapping_add(1));
    let far = scene.members[1].0.address;
    scene
        .node
        .never_routes_through(scene.origin.address, far, secs(3));
    scene.announces(1, &origin.update(seqno.wrapping_add(1), 500));
    scene.routes_through(1, 596);
}

/// T9: babeld keeps a selected route that has become unfeasible, with its new metric.
#[test]
fn an_unfeasible_update_of_the_selected_route_is_not_taken() {
    let scene = Scene::new("traps unfeasible", 1);
    let origin = Origin::new(&scene.origin, 1);
    let speaker = &scene.seat(0).speaker;
    speaker.vouch(scene.origin.router_id(), origin.record());
    let seqno = origin.base();
    scene.announces(0, &origin.update(seqno, 96));
    scene.routes_through(0, 192);
    scene.announces(0, &origin.update(seqno, 900));
    scene.asks(0, seqno.wrapping_add(1));
    hold_for(secs(3), "the longer way is not taken", || {
        match scene.node.route_to(scene.origin.address) {
            Ok(route) if route.metric >= Some(996) => Err(format!("{route:?}")),
            _ => Ok(()),
        }
    });
    scene.announces(0, &origin.update(seqno.wrapping_add(1), 900));
    scene.routes_through(0, 996);
}

/// T8, from the other side: a neighbour that was away and counts its Hellos on as after a restart is used again at once.
#[test]
fn a_neighbour_that_was_away_is_back_within_seconds() {
    let scene = Scene::new("traps outage", 1);
    let origin = Origin::new(&scene.origin, 1);
    let speaker = &scene.seat(0).speaker;
    speaker.vouch(scene.origin.router_id(), origin.record());
    scene.announces(0, &origin.update(origin.base(), 96));
    scene.routes_through(0, 192);
    speaker.behave(Manner::Silent);
    scene
        .node
        .wait_without_route(scene.origin.address, secs(20));
    speaker.skip_hellos(64);
    speaker.behave(Manner::Polite);
    let back = Moment::now();
    scene.node.wait_for_route(scene.origin.address, secs(4));
    let back = Moment::now().since(back);
    assert!(back <= secs(4), "{back:?}");
}
