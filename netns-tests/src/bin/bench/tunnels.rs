//! A system that runs on a line of hosts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netns_tests::settings::PORT;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Daemon, Identity, Lab, Role, Settings, Software, StockRouter, StockSettings, millis, secs,
};

use crate::hook::Hooked;
use crate::line::Line;
use crate::system::System;

/// Where WireGuard programs listen.
const WIREGUARD_PORT: u16 = 51820;
/// The pace of a stock router in the middle.
const HELLO: Duration = millis(500);
const UPDATE: Duration = secs(2);

/// What runs, and must not be dropped before the measurement is over.
#[derive(Debug)]
pub(crate) struct Tunnels {
    /// Where the first host reaches each of the others, if it does.
    addresses: Vec<Option<IpAddr>>,
    programs: Programs,
}

#[derive(Debug)]
enum Programs {
    None,
    Meshd(Vec<Daemon>),
    WireGuard(Vec<WireGuard>),
    Hook(Hooked),
    Nested {
        nodes: Vec<Daemon>,
        tunnels: [WireGuard; 2],
        _router: StockRouter,
    },
}

impl Tunnels {
    /// Starts a system and does not wait until packets flow. Nothing if it cannot do so many hosts.
    pub(crate) fn start(system: &System, lab: &Lab, line: &Line) -> Result<Option<Self>> {
        Ok(Some(match system {
            System::Veth => routes(line),
            System::Meshd => meshd(lab, line, None),
            System::MeshdOlder(program) => meshd(lab, line, Some(program)),
            System::MeshdNested => nested(lab, line)?,
            System::WireGuardGo | System::BoringTun => {
                let program = system.wireguard().context("it is a WireGuard program")?;
                wireguard(line, program)
            }
            System::Hook(hook) => match hook.up(lab, line)? {
                Some(hooked) => Self {
                    addresses: hooked.addresses.iter().copied().map(Some).collect(),
                    programs: Programs::Hook(hooked),
                },
                None => return Ok(None),
            },
        }))
    }

    /// Where the first host reaches host `number` of the line, from 1, if it does.
    pub(crate) fn address(&self, number: usize) -> Option<IpAddr> {
        *self.addresses.get(number.checked_sub(1)?)?
    }

    /// The processes whose cost counts.
    pub(crate) fn ids(&self) -> Vec<u32> {
        match &self.programs {
            Programs::None => Vec::new(),
            Programs::Meshd(nodes) => nodes.iter().map(Daemon::id).collect(),
            Programs::WireGuard(ends) => ends.iter().map(|end| end.process().id()).collect(),
            Programs::Hook(hooked) => hooked.ids.clone(),
            Programs::Nested { nodes, tunnels, .. } => {
                let carriers = tunnels.iter().map(|end| end.process().id());
                nodes.iter().map(Daemon::id).chain(carriers).collect()
            }
        }
    }

    /// The nodes, where they are meshd's.
    pub(crate) fn nodes(&self) -> &[Daemon] {
        match &self.programs {
            Programs::Meshd(nodes) | Programs::Nested { nodes, .. } => nodes,
            Programs::None | Programs::WireGuard(_) | Programs::Hook(_) => &[],
        }
    }

    /// Waits until nodes that look for ways by themselves have found them, without sending anything of users'.
    pub(crate) fn settle(&self) {
        let nodes = self.nodes();
        for pair in nodes.windows(2) {
            pair[0].wait_for_links(pair[1].address(), 1, secs(20));
            pair[1].wait_for_links(pair[0].address(), 1, secs(20));
        }
        if let [first, .., last] = nodes {
            first.wait_for_route(last.address(), secs(20));
            last.wait_for_route(first.address(), secs(20));
        }
    }

    /// Ends what the lab does not end.
    pub(crate) fn end(self) -> Result<()> {
        match &self.programs {
            Programs::Hook(hooked) => hooked.down(),
            Programs::None
            | Programs::Meshd(_)
            | Programs::WireGuard(_)
            | Programs::Nested { .. } => Ok(()),
        }
    }
}

/// No tunnels: the kernel routes.
fn routes(line: &Line) -> Tunnels {
    if line.links.len() > 1 {
        line.first().route_by(line.links[0].b.v6);
        line.last().route_by(line.links[line.links.len() - 1].a.v6);
        for middle in &line.hosts[1..line.hosts.len() - 1] {
            middle.forward();
        }
    }
    Tunnels {
        addresses: line
            .links
            .iter()
            .map(|link| Some(link.b.v6.into()))
            .collect(),
        programs: Programs::None,
    }
}

/// A node on each host; those between the outer ones run `older`, if it is given.
fn meshd(lab: &Lab, line: &Line, older: Option<&str>) -> Tunnels {
    let ids: Vec<Identity> = line.hosts.iter().map(|_| lab.identity()).collect();
    let last = ids.len() - 1;
    let settings = |number: usize| {
        let apart = (0..=last).filter(|other| other.abs_diff(number) > 1);
        let mut settings = Settings::new(&ids[number])
            .log_level("info")
            .allow(apart.map(|other| &ids[other]));
        if number > 0 {
            let endpoint = line.after(number - 1, PORT);
            settings = settings.peer("before", &ids[number - 1], Some(endpoint));
        }
        if number < last {
            let endpoint = line.before(number + 1, PORT);
            settings = settings.peer("after", &ids[number + 1], Some(endpoint));
        }
        match older {
            Some(program) if number > 0 && number < last => settings.program(program),
            _ => settings,
        }
    };
    let nodes: Vec<Daemon> = line
        .hosts
        .iter()
        .enumerate()
        .map(|(number, host)| host.launch_meshd(settings(number)))
        .collect();
    Tunnels {
        addresses: nodes[1..]
            .iter()
            .map(|node| Some(node.address().into()))
            .collect(),
        programs: Programs::Meshd(nodes),
    }
}

/// Three hosts: nodes on the outer ones, and between them babeld over wireguard-go, which carries their session. It knows no labels,
/// so both nodes nest: they seal everything twice.
fn nested(lab: &Lab, line: &Line) -> Result<Tunnels> {
    let [a, middle, c] = line.hosts.as_slice() else {
        bail!("a stock router carries between two nodes: that is a line of three");
    };
    let ids = [lab.identity(), lab.identity()];
    let keys = [Key::generate(middle), Key::generate(middle)];
    let ways = [(a, &line.links[0].a), (c, &line.links[1].b)];
    let everything = vec!["600::/8".parse().context("the overlay block")?];
    let node = |end: usize| {
        let settings = Settings::new(&ids[end])
            .log_level("info")
            .allow([&ids[1 - end]])
            .router(
                "middle",
                &keys[end].public,
                &Role::Legacy(everything.clone()),
                None,
            );
        ways[end].0.launch_meshd(settings)
    };
    let nodes = vec![node(0), node(1)];
    let tunnel = |end: usize| {
        let tunnel = WireGuard::start_for_routing(middle, &keys[end], None);
        let endpoint = SocketAddr::new(ways[end].1.v4.into(), PORT);
        tunnel.neighbour(&ids[end].public_key, Some(endpoint));
        tunnel
    };
    let tunnels = [tunnel(0), tunnel(1)];
    middle.forward();
    let interfaces = tunnels.each_ref().map(WireGuard::interface);
    let settings = StockSettings::on(&interfaces).every(HELLO, UPDATE);
    let router = StockRouter::start(Software::Babeld, middle, &settings);
    Ok(Tunnels {
        addresses: vec![None, Some(nodes[1].address().into())],
        programs: Programs::Nested {
            nodes,
            tunnels,
            _router: router,
        },
    })
}

/// One interface on each host, with its neighbours as peers; the kernel of the middle one routes.
fn wireguard(line: &Line, program: &[&str]) -> Tunnels {
    let address = |number: usize| {
        let low = u16::try_from(number + 1).expect("a line is short");
        Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, low)
    };
    let start = |(number, host)| {
        let end = WireGuard::start_program(host, program, &Key::generate(host), address(number));
        end.listen(WIREGUARD_PORT);
        end
    };
    let ends: Vec<WireGuard> = line.hosts.iter().enumerate().map(start).collect();
    let last = ends.len() - 1;
    for (number, end) in ends.iter().enumerate() {
        let key = |other: usize| &ends[other].key().public;
        // An outer node reaches everybody by its only neighbour.
        let by = |other: usize| match number {
            _ if number == 0 || number == last => "fd78::/64".to_owned(),
            _ => format!("{}/128", address(other)),
        };
        if number > 0 {
            let endpoint = line.after(number - 1, WIREGUARD_PORT);
            end.peer(key(number - 1), &by(number - 1), Some(endpoint));
        }
        if number < last {
            let endpoint = line.before(number + 1, WIREGUARD_PORT);
            end.peer(key(number + 1), &by(number + 1), Some(endpoint));
        }
        if number > 0 && number < last {
            line.hosts[number].forward();
        }
    }
    Tunnels {
        addresses: (1..=last)
            .map(|number| Some(address(number).into()))
            .collect(),
        programs: Programs::WireGuard(ends),
    }
}
