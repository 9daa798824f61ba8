//! `meshd whois ADDR`

use std::io::Write;
use std::net::Ipv6Addr;

use super::failure::Failure;
use crate::admin::{WhoisKind, WhoisRequest};
use crate::cli::Global;

pub(super) fn run(global: &Global, address: Ipv6Addr, out: &mut impl Write) -> Result<(), Failure> {
    let whois = super::client(global)?.whois(&WhoisRequest { address })?;
    if global.json {
        return super::print_json(whois, out);
    }
    let kind = match whois.kind {
        WhoisKind::Own => "this node",
        WhoisKind::Leaf => "stock device of this node",
        WhoisKind::Member if whois.admin => "member, admin",
        WhoisKind::Member => "member",
        WhoisKind::Peer => "configured peer",
        WhoisKind::Stranger => "not configured, no member",
    };
    writeln!(out, "{}  {kind}", super::printable(&whois.name))?;
    if let Some(node) = whois.node.filter(|node| *node != whois.address) {
        writeln!(out, "node         {node}")?;
    }
    writeln!(out, "public key   {}", whois.public_key)?;
    if let Some(peer_id) = &whois.peer_id {
        writeln!(out, "peer id      {}", super::printable(peer_id))?;
    }
    if !whois.tags.is_empty() {
        writeln!(
            out,
            "tags         {}",
            super::printable(&whois.tags.join(","))
        )?;
    }
    Ok(())
}
