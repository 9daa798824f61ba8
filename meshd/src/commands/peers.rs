//! `meshd peers`

use std::io::{self, Write};

use super::Failure;
use super::table::{Table, or_dash};
use crate::admin::{Peer, PeerKind};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let peers = super::client(global)?.peers()?;
    if global.json {
        return super::print_json(peers, out);
    }
    Ok(print(&peers.peers, out)?)
}

fn print(peers: &[Peer], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(["NAME", "KIND", "ADDRESS", "ENDPOINT", "PUBLIC KEY"]);
    for peer in peers {
        let kind = match peer.kind {
            PeerKind::Mesh => "mesh",
            PeerKind::Stock => "stock",
        };
        table.row([
            peer.name.clone(),
            kind.to_owned(),
            peer.address.to_string(),
            or_dash(peer.path.endpoint, |endpoint| endpoint.to_string()),
            peer.public_key.to_string(),
        ]);
    }
    table.print(out)
}
