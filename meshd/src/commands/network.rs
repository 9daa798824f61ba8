//! `meshd network create|show`, `meshd leave`

use std::io::{self, Write};

use super::failure::Failure;
use super::members::standing;
use super::table::{Table, duration};
use crate::admin::{CreateNetwork, MemberStanding, Network};
use crate::cli::{self, Global};

pub(super) fn run(
    global: &Global,
    verb: cli::Network,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let client = super::client(global)?;
    match verb {
        cli::Network::Create { name, node } => {
            let created = client.create_network(&CreateNetwork { name, node })?;
            if global.json {
                return super::print_json(created, out);
            }
            print(&created, out)?;
            writeln!(
                out,
                "its key is in this node's state directory (network-{}.key): keep a copy of it, it can make new admins\n\
                 next: sudo meshd invite --name laptop",
                super::printable(&created.id)
            )?;
            Ok(())
        }
        cli::Network::Show => {
            let network = client.network()?;
            if global.json {
                return super::print_json(network, out);
            }
            Ok(print(&network, out)?)
        }
    }
}

pub(super) fn leave(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let left = super::client(global)?.leave()?;
    if global.json {
        return super::print_json(left, out);
    }
    Ok(writeln!(
        out,
        "left network {}",
        super::printable(&left.network)
    )?)
}

/// ```text
/// network home  kq5r...  member, admin
/// 5 members, 12 records (2730 bytes)
/// INVITE  USES  EXPIRES  TAGS    APPROVE
/// laptop  0/1   23h59m   server  no
/// ```
fn print(network: &Network, out: &mut impl Write) -> io::Result<()> {
    if !network.private {
        let waits = if network.standing == MemberStanding::Pending {
            "; waits for an admin of a private one"
        } else {
            ""
        };
        return writeln!(out, "network open{waits}");
    }
    let name = network
        .name
        .as_deref()
        .map_or_else(|| "-".to_owned(), super::printable);
    let admin = if network.admin { ", admin" } else { "" };
    let key = if network.has_network_key {
        ", has the network key"
    } else {
        ""
    };
    writeln!(
        out,
        "network {name}  {}  {}{admin}{key}",
        super::printable(&network.id),
        standing(network.standing)
    )?;
    writeln!(
        out,
        "{} members, {} records ({} bytes)",
        network.members, network.records, network.record_bytes
    )?;
    if !network.invites.is_empty() {
        let mut table = Table::new(["INVITE", "USES", "EXPIRES", "TAGS", "APPROVE"]);
        for invite in &network.invites {
            table.row([
                invite.name.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{}/{}", invite.used, invite.uses),
                duration(invite.expires_in_s),
                super::members::tags(&invite.tags),
                if invite.approve { "yes" } else { "no" }.to_owned(),
            ]);
        }
        table.print(out)?;
    }
    super::print_warnings(&network.warnings, out)
}
