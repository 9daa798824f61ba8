//! `meshd links`

use std::io::{self, Write};

use super::Failure;
use super::table::{Table, duration, or_dash};
use crate::admin::{Link, LinkState};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let links = super::client(global)?.links()?;
    if global.json {
        return super::print_json(links, out);
    }
    Ok(print(&links.links, out)?)
}

fn print(links: &[Link], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new([
        "PEER", "ENDPOINT", "STATE", "RTT", "RXCOST", "TXCOST", "MTU", "SINCE",
    ]);
    for link in links {
        table.row([
            link.peer.clone(),
            or_dash(link.endpoint, |endpoint| endpoint.to_string()),
            state(link.state).to_owned(),
            or_dash(link.rtt_ms, |rtt| format!("{rtt:.1}ms")),
            or_dash(link.rxcost, |cost| cost.to_string()),
            or_dash(link.txcost, |cost| cost.to_string()),
            link.mtu.to_string(),
            duration(link.since_s),
        ]);
    }
    table.print(out)
}

/// The word for a state.
pub(super) const fn state(state: LinkState) -> &'static str {
    match state {
        LinkState::Up => "up",
        LinkState::Suspect => "suspect",
        LinkState::Down => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_one_line() {
        let link = Link {
            peer: "vps1".into(),
            address: "6d4:97b8:38a7:2b6e::1".parse().unwrap(),
            endpoint: Some("203.0.113.7:51860".parse().unwrap()),
            state: LinkState::Up,
            rtt_ms: Some(10.94),
            rxcost: Some(96),
            txcost: None,
            since_s: 3700,
            id: 1,
            mtu: 1420,
            rx_bytes: 1,
            tx_bytes: 2,
            rx_packets: 3,
            tx_packets: 4,
        };
        let mut out = Vec::new();
        print(&[link], &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        PEER  ENDPOINT           STATE  RTT     RXCOST  TXCOST  MTU   SINCE
        vps1  203.0.113.7:51860  up     10.9ms  96      -       1420  1h01m
        ");
    }
}
