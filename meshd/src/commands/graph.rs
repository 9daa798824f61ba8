//! `meshd graph [--dot]`

use std::io::{self, Write};

use super::failure::{Exit, Failure};
use super::links;
use crate::admin::{Link, LinkState, Route, Status};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    if global.json {
        return Err(
            Failure::new(Exit::Usage, "graph draws; it has no JSON").next("meshd routes --json")
        );
    }
    let client = super::client(global)?;
    let (status, links, routes) = (client.status()?, client.links()?, client.routes()?);
    Ok(print(&status, &links.links, &routes.routes, out)?)
}

/// This node in the middle, neighbours by solid lines, what they lead to by dashed ones.
fn print(
    status: &Status,
    links: &[Link],
    routes: &[Route],
    out: &mut impl Write,
) -> io::Result<()> {
    let own = quoted(&status.node.name);
    writeln!(out, "graph meshd {{")?;
    writeln!(out, "  {own} [shape=box];")?;
    for link in links {
        let style = match link.state {
            LinkState::Up => "solid",
            LinkState::Suspect => "bold",
            LinkState::Down => "dotted",
        };
        let label = match link.rtt_ms {
            Some(rtt) => format!("{rtt:.1} ms"),
            None => links::state(link.state).to_owned(),
        };
        writeln!(
            out,
            "  {own} -- {} [style={style}, label={}];",
            quoted(&link.peer),
            quoted(&label)
        )?;
    }
    for route in routes.iter().filter(|route| route.selected) {
        let (Some(via), Some(metric), Some(next_hop)) = (&route.via, route.metric, route.next_hop)
        else {
            continue;
        };
        if route.prefix.contains(next_hop) {
            continue;
        }
        let destination = status
            .peers
            .iter()
            .find(|peer| route.prefix.contains(peer.address))
            .map_or_else(|| route.prefix.to_string(), |peer| peer.name.clone());
        writeln!(
            out,
            "  {} -- {} [style=dashed, label={}];",
            quoted(via),
            quoted(&destination),
            quoted(&metric.to_string())
        )?;
    }
    writeln!(out, "}}")
}

/// A string of the DOT language.
fn quoted(text: &str) -> String {
    let escaped = super::printable(text)
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Interface, Node, RouteOrigin};
    use crate::testdata;

    #[test]
    fn neighbours_are_solid_and_what_they_lead_to_is_dashed() {
        let [own, near, far] = [0, 1, 2].map(|n| testdata::identity(n).node());
        let status = Status {
            node: Node {
                name: "nas".into(),
                address: own.address(),
                prefix: own.prefix(),
                peer_id: own.to_string(),
                public_key: own.public_key(),
                version: "0".into(),
                uptime_s: 0,
            },
            interface: Interface {
                name: "mesh0".into(),
                mtu: 1420,
            },
            peers: Vec::new(),
            drops: Default::default(),
            warnings: Vec::new(),
            network: None,
            control: None,
            workloads: Vec::new(),
        };
        let link = Link {
            peer: "vp\"s1".into(),
            address: near.address(),
            endpoint: None,
            state: LinkState::Up,
            rtt_ms: Some(3.0),
            rxcost: Some(96),
            txcost: Some(96),
            since_s: 1,
            id: 1,
            mtu: 1420,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_packets: 0,
            tx_packets: 0,
        };
        let route = |prefix| Route {
            prefix,
            selected: true,
            metric: Some(200),
            next_hop: Some(near.address()),
            router_id: String::new(),
            feasible: true,
            age_s: 1,
            origin: RouteOrigin::Proven,
            via: Some("vp\"s1".into()),
            link: Some(1),
            why: String::new(),
        };
        let mut out = Vec::new();
        let routes = [route(near.prefix()), route(far.prefix())];
        print(&status, &[link], &routes, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        graph meshd {
          "nas" [shape=box];
          "nas" -- "vp\"s1" [style=solid, label="3.0 ms"];
          "vp\"s1" -- "674:20f:9465:60f6::/64" [style=dashed, label="200"];
        }
        "#);
    }
}
