//! Stock routers next to nodes of ours: the same scenes for every routing daemon.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::Ipv6Network;
use netns_tests::liar::Reposter;
use netns_tests::settings::PORT;
use netns_tests::stock::first;
use netns_tests::traffic::{tcp_send, tcp_serve, udp_echo, udp_sizes};
use netns_tests::view::{PathKind, RouteOrigin};
use netns_tests::wait::hold_for;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Daemon, Flow, Host, Identity, Lab, Link, Moment, Role, Settings, Software, StockRouter,
    StockSettings, millis, secs, wait_until,
};

/// The pace of the stock routers: eight times as quick as by default, so that nobody waits.
const HELLO: Duration = millis(500);
const UPDATE: Duration = secs(2);
/// Until a link that has come is used by both ends: two Hellos, and some time for the routes.
const UP: Duration = secs(10);
/// Until a link that has gone is no longer used: a stock router notices by Hellos that do not come.
const DOWN: Duration = secs(20);
/// Until a link that was gone is used again; less than the 12 Hellos that BIRD would wait for.
const BACK: Duration = secs(8);

/// A stock router's tunnel to a node that it calls.
#[track_caller]
fn tunnel(router: &Host, key: &Key, node: &Identity, link: &Link) -> WireGuard {
    let tunnel = WireGuard::start_for_routing(router, key, None);
    let endpoint = SocketAddr::new(link.a.v6.into(), PORT);
    tunnel.neighbour(&node.public_key, Some(endpoint));
    tunnel
}

/// Part of the node's /64, for a stub behind it.
fn part_of(node: &Identity) -> Ipv6Network {
    let mut segments = node.address.segments();
    segments[4..].copy_from_slice(&[0x5555, 0, 0, 0]);
    Ipv6Network::new(segments.into(), 80).unwrap()
}

/// A ping from an address of the host's own.
fn ping_from(host: &Host, from: Ipv6Addr, to: Ipv6Addr) -> Result<(), String> {
    host.try_run(&format!("ping -n -c 1 -W 1 -I {from} {to}"))
        .map(drop)
}

/// far — gateway — stub
pub(crate) struct StubScene {
    far: Daemon,
    gateway: Daemon,
    stub: StockRouter,
    prefix: Ipv6Network,
    tunnel: WireGuard,
    link: Link,
    _lab: Lab,
}

impl StubScene {
    #[track_caller]
    pub(crate) fn new(name: &str, software: Software) -> Self {
        let lab = Lab::new(name);
        let (far, gateway, stub) = (lab.host("far"), lab.host("gateway"), lab.host("stub"));
        let (back, link) = (lab.link(&gateway, &far), lab.link(&gateway, &stub));
        let (id_far, id_gateway) = (lab.identity(), lab.identity());
        let (prefix, key) = (part_of(&id_gateway), Key::generate(&stub));
        let at_gateway = SocketAddr::new(back.a.v6.into(), PORT);
        let gateway = gateway.meshd(
            Settings::new(&id_gateway)
                .peer("far", &id_far, None)
                .router("stub", &key.public, &Role::Stub(prefix), None),
        );
        let far = far.meshd(Settings::new(&id_far).peer("gateway", &id_gateway, Some(at_gateway)));
        let tunnel = tunnel(&stub, &key, &id_gateway, &link);
        stub.forward();
        let settings = StockSettings::on(&[tunnel.interface()])
            .every(HELLO, UPDATE)
            .announce(prefix);
        let stub = StockRouter::start(software, &stub, &settings);
        Self {
            far,
            gateway,
            stub,
            prefix,
            tunnel,
            link,
            _lab: lab,
        }
    }

    fn address(&self) -> Ipv6Addr {
        first(self.prefix)
    }

    /// The gateway has no way to the stub any more; its own /64 is there always.
    #[track_caller]
    fn is_forgotten(&self, within: Duration) {
        wait_until(within, "the gateway has forgotten the stub", || {
            let route = self.gateway.route_to(self.address())?;
            if route.prefix == self.prefix {
                Err(format!("{route:?}"))
            } else {
                Ok(())
            }
        });
    }

    #[track_caller]
    fn works(&self, within: Duration) {
        self.stub.wait_for_route(self.far.address(), within);
        self.far.wait_for_answer(self.address(), within);
        let back = || ping_from(self.stub.host(), self.address(), self.far.address());
        wait_until(within, "the stub reaches the far node", back);
    }

    /// Everything about a stub that works.
    #[track_caller]
    pub(crate) fn routes_both_ways(&self) {
        self.stub.wait_for_neighbour(self.tunnel.interface(), UP);
        self.works(UP);

        // The gateway has the route, its neighbours only its own.
        let route = self.gateway.wait_for_route(self.address(), secs(5));
        assert_eq!(route.prefix, self.prefix);
        let far = self.far.route_to(self.address()).unwrap();
        assert_eq!(far.prefix, self.gateway.identity().prefix(), "{far:?}");
        assert_eq!(far.origin, RouteOrigin::Proven, "{far:?}");

        // One link costs 96, and what lies behind the gateway more; but not by much.
        let near = self.stub.route_to(self.gateway.address()).unwrap();
        let behind = self.stub.route_to(self.far.address()).unwrap();
        let (near, behind) = (near.metric.unwrap(), behind.metric.unwrap());
        assert!((96..192).contains(&near), "{near}");
        assert!(behind >= near && behind < 1000, "{behind}");
        let link = self.gateway.links().unwrap();
        let link = link.iter().find(|link| link.peer == "stub").unwrap();
        assert!(link.rxcost.is_some() && link.txcost.is_some(), "{link:?}");
        // BIRD 2.0.12 measures no round-trip times.
        if self.stub.software() == Software::Babeld {
            wait_until(UP, "both ends have measured the link", || {
                let neighbours = self.stub.neighbours()?;
                let theirs = neighbours.iter().any(|it| it.rtt_ms.is_some());
                let ours = self.gateway.links()?;
                let ours = ours.iter().find(|link| link.peer == "stub");
                let rtt = ours.and_then(|link| link.rtt_ms);
                match rtt {
                    Some(rtt) if theirs && rtt > 0.0 && rtt < 1000.0 => Ok(()),
                    _ => Err(format!("{neighbours:?} {ours:?}")),
                }
            });
        }

        let at = |address: Ipv6Addr, port| SocketAddr::new(address.into(), port);
        let _echo = udp_echo(self.stub.host(), at(self.address(), 7000));
        udp_sizes(self.far.host(), at(self.address(), 7000), 0..=1200).unwrap();
        let _server = tcp_serve(self.stub.host(), at(self.address(), 7001));
        tcp_send(self.far.host(), at(self.address(), 7001), 2, 500_000).unwrap();
        assert_eq!(self.stub.complaints(), "");
    }

    /// T8: an outage that both ends have noticed does not make the link worse than before. (BIRD keeps a link out of use until 12 of
    /// the last 16 Hellos have come, unless Hellos are counted on as after a restart.)
    #[track_caller]
    pub(crate) fn heals(&self) {
        self.works(secs(30));
        self.link.silence();
        wait_until(DOWN, "the stub has noticed", || {
            self.stub.route_to(self.far.address()).is_err()
        });
        self.is_forgotten(DOWN);
        self.link.restore();
        let restored = Moment::now();
        self.works(BACK);
        println!(
            "{} is back after {:?}",
            self.stub.software().name(),
            Moment::now().since(restored)
        );
        // And what it announces can go, come back, and be announced by another run of it.
        self.stub.stop();
        self.is_forgotten(secs(10));
        self.stub.start_again();
        self.works(secs(30));
    }
}

/// near — transit — middle — beyond, where the transit is a stock router, and near and beyond are neighbours of nobody else.
pub(crate) struct TransitScene {
    near: Daemon,
    middle: Daemon,
    beyond: Daemon,
    transit: StockRouter,
    links: [Link; 2],
    _tunnels: [WireGuard; 2],
    lab: Lab,
}

impl TransitScene {
    #[track_caller]
    pub(crate) fn new(name: &str, software: Software) -> Self {
        let lab = Lab::new(name);
        let [near, transit, middle, beyond] =
            ["near", "transit", "middle", "beyond"].map(|name| lab.host(name));
        let links = [lab.link(&near, &transit), lab.link(&middle, &transit)];
        let last = lab.link(&middle, &beyond);
        let ids: [Identity; 3] = [(); 3].map(|()| lab.identity());
        let keys = [(); 2].map(|()| Key::generate(&transit));
        let role = Role::Legacy(vec!["600::/8".parse().unwrap()]);
        let at_middle = SocketAddr::new(last.a.v6.into(), PORT);
        let near = near.meshd(Settings::new(&ids[0]).allow(&ids[1..]).router(
            "transit",
            &keys[0].public,
            &role,
            None,
        ));
        let middle = middle.meshd(
            Settings::new(&ids[1])
                .allow(&ids[..1])
                .peer("beyond", &ids[2], None)
                .router("transit", &keys[1].public, &role, None),
        );
        let beyond = beyond.meshd(Settings::new(&ids[2]).allow(&ids[..1]).peer(
            "middle",
            &ids[1],
            Some(at_middle),
        ));
        let _tunnels = [0, 1].map(|end| tunnel(&transit, &keys[end], &ids[end], &links[end]));
        transit.forward();
        let interfaces = _tunnels.each_ref().map(WireGuard::interface);
        let settings = StockSettings::on(&interfaces).every(HELLO, UPDATE);
        let transit = StockRouter::start(software, &transit, &settings);
        Self {
            near,
            middle,
            beyond,
            transit,
            links,
            _tunnels,
            lab,
        }
    }

    #[track_caller]
    fn works(&self, within: Duration) {
        let ends = [(&self.near, &self.middle), (&self.middle, &self.near)];
        for (from, to) in ends {
            from.wait_for_route(to.address(), within);
            from.wait_for_answer(to.address(), secs(15));
        }
    }

    /// Two nodes reach each other through a router with none of our code on it, in a session of their own.
    #[track_caller]
    pub(crate) fn carries_sessions(&self) {
        // New routes go from babeld to its neighbours with its next update at the latest.
        self.works(UP + UPDATE);
        let route = self.near.route_to(self.middle.address()).unwrap();
        assert_eq!(route.origin, RouteOrigin::Legacy, "{route:?}");
        assert!(route.metric > Some(1000), "{route:?}");
        let path = self
            .near
            .wait_for_path(self.middle.address(), PathKind::Relay, secs(5));
        assert_eq!(path.hops, Some(2), "{path:?}");

        let canary = netns_tests::Canary::new();
        let taps = self
            ._tunnels
            .each_ref()
            .map(|tunnel| self.transit.host().capture(tunnel.interface()));
        let arrived = self.middle.host().capture("mesh0");
        let at = |port| SocketAddr::new(self.middle.address().into(), port);
        let _echo = udp_echo(self.middle.host(), at(7000));
        canary.send(self.near.host(), at(7000), 10);
        wait_until(secs(5), "the canary has arrived", || canary.is_in(&arrived));
        for tap in &taps {
            assert!(!canary.is_in(tap), "{}", tap.display());
            assert!(self.transit.host().captured(tap, "udp port 51820") > 0);
        }
        let _server = tcp_serve(self.middle.host(), at(7001));
        tcp_send(self.near.host(), at(7001), 2, 500_000).unwrap();
        assert_eq!(self.transit.complaints(), "");
    }

    /// The transit posts the session's datagrams also from elsewhere, twice, straight to the node that they are for: that makes no
    /// direct path.
    #[track_caller]
    pub(crate) fn gains_nothing_by_posting_from_elsewhere(&self) {
        self.works(UP + UPDATE);
        let elsewhere = self.lab.host("elsewhere");
        let link = self.lab.link(self.middle.host(), &elsewhere);
        let at = SocketAddr::new(self.middle.address().into(), 7000);
        let _echo = udp_echo(self.middle.host(), at);
        let flow = Flow::start(self.near.host(), at, millis(20));
        flow.wait_for_answers(secs(5));
        let drops = || self.middle.drops().values().sum::<u64>();
        let before = drops();
        let poster = Reposter::start(
            self.transit.host(),
            self._tunnels[0].interface(),
            self.middle.address(),
            &elsewhere,
            SocketAddr::new(link.a.v6.into(), PORT),
            2,
        );
        wait_until(secs(10), "datagrams were posted", || poster.posted() > 100);
        let ends = [(&self.middle, &self.near), (&self.near, &self.middle)];
        hold_for(secs(3), "the session stays relayed", || {
            for (node, peer) in ends {
                let path = node.path_to(peer.address())?;
                if path.kind != PathKind::Relay || path.endpoint.is_some() {
                    return Err(format!("{path:?}"));
                }
            }
            Ok(())
        });
        flow.goes_on(secs(1), millis(500));
        assert!(drops() > before, "{:?}", self.middle.drops());
    }

    /// What came through a legacy router is not passed on: the node beyond has no route to the near one, nor the transit to it.
    #[track_caller]
    pub(crate) fn stops_at_the_first_node(&self) {
        self.works(UP + UPDATE);
        self.beyond.wait_for_answer(self.middle.address(), UP);
        hold_for(secs(5), "nobody beyond hears of it", || {
            let there = self.beyond.routes()?;
            match there
                .iter()
                .find(|it| it.prefix.contains(self.near.address()))
            {
                Some(route) => Err(format!("{route:?}")),
                None => Ok(()),
            }
        });
    }

    /// A link goes in silence and comes back.
    #[track_caller]
    pub(crate) fn heals(&self) {
        self.works(UP + UPDATE);
        let at = SocketAddr::new(self.middle.address().into(), 7000);
        let _echo = udp_echo(self.middle.host(), at);
        let flow = Flow::start(self.near.host(), at, millis(50));
        flow.wait_for_answers(secs(10));
        self.links[1].silence();
        self.near.wait_without_route(self.middle.address(), DOWN);
        self.links[1].restore();
        self.works(UP + UPDATE);
        flow.wait_for_answers(secs(10));
    }

    /// A proven route is preferred to what a legacy router carries, however much longer it is.
    #[track_caller]
    pub(crate) fn gives_way_to_proven_routes(&self) {
        self.works(UP + UPDATE);
        let link = self.lab.link(self.middle.host(), self.near.host());
        let at_middle = SocketAddr::new(link.a.v6.into(), PORT);
        let ids = [&self.near, &self.middle, &self.beyond].map(Daemon::identity);
        let role = Role::Legacy(vec!["600::/8".parse().unwrap()]);
        let key = self._tunnels[0].key().public.clone();
        self.near.configure(
            &Settings::new(ids[0])
                .allow([ids[2]])
                .router("transit", &key, &role, None)
                .peer("middle", ids[1], Some(at_middle)),
        );
        self.middle.configure(
            &Settings::new(ids[1])
                .router("transit", &self._tunnels[1].key().public, &role, None)
                .peer("near", ids[0], None)
                .peer("beyond", ids[2], None),
        );
        self.middle.reload();
        self.near.reload();
        wait_until(UP, "near takes the proven route", || {
            let route = self.near.route_to(self.middle.address())?;
            if route.origin == RouteOrigin::Proven {
                Ok(())
            } else {
                Err(format!("{route:?}"))
            }
        });
        self.near.wait_for_answer(self.beyond.address(), UP);
    }
}
