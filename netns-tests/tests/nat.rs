//! Nodes behind routers that translate addresses: they talk through a public member at once, and straight soon, wherever that can be.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netns_tests::settings::PORT;
use netns_tests::view::PathKind;
use netns_tests::{Daemon, Identity, Lab, Nat, Router, Settings, millis, secs, wait_until};

/// From the first packet to the first answer, whichever way it takes.
const USABLE: Duration = secs(1);
/// From the first packet to a straight way.
const DIRECT: Duration = secs(5);

/// IPv4 alone, so that no path over IPv6 hides what is tried here.
const V4: [&str; 1] = ["0.0.0.0:51860"];

/// Public members in the middle, and who is behind a router. All know the members, and let each other open a session.
struct Site<'lab> {
    lab: &'lab Lab,
    members: Vec<(Identity, SocketAddr)>,
    ids: Vec<Identity>,
    nodes: Vec<Daemon>,
}

impl<'lab> Site<'lab> {
    /// So many members, which let in this many nodes.
    fn new(lab: &'lab Lab, members: usize, nodes: usize) -> Self {
        let ids: Vec<Identity> = (0..nodes).map(|_| lab.identity()).collect();
        let hosts: Vec<_> = (0..members).map(|n| lab.host(&format!("m{n}"))).collect();
        let places: Vec<SocketAddr> = hosts
            .iter()
            .map(|host| SocketAddr::new(lab.internet().connect(host).v4.into(), PORT))
            .collect();
        let members: Vec<(Identity, SocketAddr)> = places
            .iter()
            .map(|place| (lab.identity(), *place))
            .collect();
        for (at, host) in hosts.iter().enumerate() {
            let mut settings = Settings::new(&members[at].0).listen(&V4).allow(&ids);
            for (other, (id, place)) in members.iter().enumerate() {
                if other != at {
                    settings = settings.peer(&format!("m{other}"), id, Some(*place));
                }
            }
            host.meshd(settings);
        }
        Self {
            lab,
            members,
            ids,
            nodes: Vec::new(),
        }
    }

    /// Starts the next node, behind that router.
    fn behind(&mut self, router: &Router, listen: &[&str]) -> Daemon {
        let number = self.nodes.len();
        let host = self.lab.host(&format!("n{number}"));
        router.attach(&host);
        let id = &self.ids[number];
        let others = self.ids.iter().filter(|other| *other != id);
        let mut settings = Settings::new(id).listen(listen).allow(others);
        for (at, (member, place)) in self.members.iter().enumerate() {
            settings = settings.peer(&format!("m{at}"), member, Some(*place));
        }
        let node = host.meshd(settings);
        self.nodes.push(node.clone());
        node
    }
}

/// What became of one pair.
struct Met {
    usable: Duration,
    direct: Duration,
}

/// Sends from `a` to `b` until both have a straight way.
#[track_caller]
fn meet(a: &Daemon, b: &Daemon, within: Duration) -> Met {
    a.wait_for_route(b.address(), secs(15));
    b.wait_for_route(a.address(), secs(15));
    let start = Instant::now();
    let _traffic = a
        .host()
        .spawn(&format!("ping -n -q -i 0.1 {}", b.address()));
    wait_until(USABLE, "an answer comes", || {
        a.host().ping_within(b.address(), millis(500))
    });
    let usable = start.elapsed();
    let left = within.saturating_sub(start.elapsed());
    a.wait_for_path(b.address(), PathKind::Direct, left);
    b.wait_for_path(
        a.address(),
        PathKind::Direct,
        within.saturating_sub(start.elapsed()),
    );
    Met {
        usable,
        direct: start.elapsed(),
    }
}

#[test]
fn two_homes_talk_through_a_member_at_once_and_straight_soon() {
    let lab = Lab::new("nat two homes");
    let mut site = Site::new(&lab, 1, 2);
    let homes = ["r0", "r1"].map(|name| lab.router(name).online().nat(Nat::PortRestricted));
    let [a, b] = homes.each_ref().map(|router| site.behind(router, &V4));
    let met = meet(&a, &b, DIRECT);
    println!("usable {:?}, direct {:?}", met.usable, met.direct);
}
