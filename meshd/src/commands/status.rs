//! `meshd status`

use std::io::{self, Write};

use super::Failure;
use super::table::{Table, bytes, duration, or_dash};
use crate::admin::{Network, Path, PathKind, Peer, PeerKind, Status, WorkloadState};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let status = super::client(global)?.status()?;
    if global.json {
        return super::print_json(status, out);
    }
    Ok(print(&status, out)?)
}

fn print(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let Status {
        node,
        interface,
        peers,
        drops,
        warnings,
        control,
        workloads,
        network,
    } = status;
    let reachable = peers
        .iter()
        .filter(|peer| peer.path.kind != PathKind::None)
        .count();
    writeln!(
        out,
        "{}  {}  up {}  MTU {}  {reachable}/{} reachable",
        super::printable(&node.name),
        node.address,
        duration(node.uptime_s),
        interface.mtu,
        peers.len()
    )?;
    if !peers.is_empty() {
        let mut table = Table::new(["NAME", "PATH", "RTT", "LOSS", "RX/TX", "HANDSHAKE"]);
        for peer in peers {
            table.row(row(peer));
        }
        table.print(out)?;
    }
    if !workloads.is_empty() {
        let attached = workloads.iter();
        let attached = attached.filter(|workload| workload.state == WorkloadState::Attached);
        writeln!(
            out,
            "workloads: {}/{} attached",
            attached.count(),
            workloads.len()
        )?;
    }
    let dropped: Vec<String> = drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !dropped.is_empty() {
        writeln!(out, "dropped: {}", super::printable(&dropped.join(", ")))?;
    }
    if let Some(control) = control.as_ref().filter(|control| !control.running) {
        writeln!(
            out,
            "control plane: being started again ({} times so far)",
            control.restarts
        )?;
    }
    if let Some(network) = network {
        writeln!(out, "{}", network_line(network))?;
    }
    super::print_warnings(warnings, out)
}

/// `network home  wx3...  member, admin  5 members`
fn network_line(network: &Network) -> String {
    let name = network.name.as_deref().map(super::printable);
    let name = name.unwrap_or_else(|| "-".to_owned());
    let admin = if network.admin { ", admin" } else { "" };
    let standing = super::members::standing(network.standing);
    format!(
        "network {name}  {}  {standing}{admin}  {} members",
        super::printable(&network.id),
        network.members
    )
}

fn row(peer: &Peer) -> [String; 6] {
    let traffic = if peer.rx_bytes == 0 && peer.tx_bytes == 0 {
        "-".to_owned()
    } else {
        format!("{}/{}", bytes(peer.rx_bytes), bytes(peer.tx_bytes))
    };
    [
        peer.name.clone(),
        way(peer),
        or_dash(peer.rtt_ms, |rtt| format!("{rtt:.0}ms")),
        or_dash(peer.loss, percent),
        traffic,
        or_dash(peer.last_handshake_s, duration),
    ]
}

/// The path, or why there is none.
fn way(peer: &Peer) -> String {
    if peer.path.kind == PathKind::None {
        let mut text = format!(
            "unreachable: {}",
            peer.reason.as_deref().unwrap_or("no session")
        );
        if let Some(seen) = peer.seen_s {
            text += &format!(", seen {}", duration(seen));
        }
        return text;
    }
    match peer.kind {
        PeerKind::Mesh => path(&peer.path),
        PeerKind::Stock => "leaf (stock, not end-to-end)".to_owned(),
    }
}

/// `direct 203.0.113.7:51860`, `relay vps1, 2 hops`, `stream 203.0.113.7:443`, `none`
pub(super) fn path(path: &Path) -> String {
    let mut text = match path.kind {
        PathKind::Direct => "direct",
        PathKind::Relay => "relay",
        PathKind::Stream => "stream",
        PathKind::None => return "none".to_owned(),
    }
    .to_owned();
    if !path.via.is_empty() {
        text += &format!(" {}", path.via.join(" > "));
    } else if let Some(endpoint) = path.endpoint {
        text += &format!(" {endpoint}");
    }
    match path.hops {
        Some(hops) if hops > 1 => text + &format!(", {hops} hops"),
        _ => text,
    }
}

/// `0%`, `0.4%`, `12%`
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 10.0 {
        format!("{percent:.1}%")
    } else {
        format!("{percent:.0}%")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::{Interface, Node, Warning};
    use crate::testdata;

    fn peer(n: usize, name: &str, path: Path) -> Peer {
        let node = testdata::identity(n).node();
        Peer {
            name: name.into(),
            address: node.address(),
            public_key: node.public_key(),
            kind: PeerKind::Mesh,
            path,
            rtt_ms: None,
            loss: None,
            rx_bytes: 0,
            tx_bytes: 0,
            last_handshake_s: None,
            seen_s: None,
            reason: None,
        }
    }

    #[test]
    fn the_table_is_the_one_of_the_manual() {
        let node = testdata::identity(0).node();
        let relay = Path {
            kind: PathKind::Relay,
            endpoint: None,
            via: vec!["vps1".into()],
            hops: Some(2),
        };
        let direct = Path::direct("203.0.113.7:51860".parse().unwrap());
        let status = Status {
            node: Node {
                name: "nas".into(),
                address: node.address(),
                prefix: node.prefix(),
                peer_id: node.peer_id(),
                public_key: node.public_key(),
                version: "0.1.0".into(),
                uptime_s: 11_520,
            },
            interface: Interface {
                name: "mesh0".into(),
                mtu: 1420,
            },
            peers: vec![
                Peer {
                    rtt_ms: Some(27.2),
                    loss: Some(0.0),
                    rx_bytes: 1_240_000_000,
                    tx_bytes: 310_000_000,
                    last_handshake_s: Some(41),
                    ..peer(1, "laptop", direct.clone())
                },
                Peer {
                    rtt_ms: Some(38.0),
                    loss: Some(0.004),
                    rx_bytes: 12_000,
                    tx_bytes: 9000,
                    last_handshake_s: Some(90),
                    ..peer(2, "pi", relay)
                },
                Peer {
                    kind: PeerKind::Stock,
                    rx_bytes: 4_000_000,
                    tx_bytes: 900_000,
                    ..peer(3, "phone", direct)
                },
                Peer {
                    seen_s: Some(520_000),
                    reason: Some("no answer".into()),
                    ..peer(4, "old-box", Path::none())
                },
            ],
            drops: BTreeMap::from([("foreign source".into(), 3), ("replay".into(), 0)]),
            network: None,
            control: None,
            workloads: Vec::new(),
            warnings: vec![Warning {
                code: "NAT-SYM-SYM".into(),
                text: "pi: both routers change ports".into(),
            }],
        };
        let mut out = Vec::new();
        print(&status, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @"
        nas  664:6008:a954:afec::1  up 3h12m  MTU 1420  3/4 reachable
        NAME     PATH                             RTT   LOSS  RX/TX      HANDSHAKE
        laptop   direct 203.0.113.7:51860         27ms  0%    1.2G/310M  41s
        pi       relay vps1, 2 hops               38ms  0.4%  12K/9K     90s
        phone    leaf (stock, not end-to-end)     -     -     4M/900K    -
        old-box  unreachable: no answer, seen 6d  -     -     -          -
        dropped: foreign source 3
        ! NAT-SYM-SYM pi: both routers change ports
        ");
    }
}
