//! `meshd netcheck`

use std::io::{self, Write};

use super::failure::Failure;
use crate::admin::{FamilyReach, Netcheck, UdpReach};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let netcheck = super::client(global)?.netcheck()?;
    if global.json {
        return super::print_json(netcheck, out);
    }
    Ok(print(&netcheck, out)?)
}

fn print(netcheck: &Netcheck, out: &mut impl Write) -> io::Result<()> {
    let udp = match netcheck.udp {
        UdpReach::Works => "works",
        UdpReach::Blocked => "blocked: neighbours answer over TCP alone",
        UdpReach::Unknown => "not known: no neighbour answers",
    };
    writeln!(out, "UDP           {udp}")?;
    writeln!(out, "IPv4          {}", family(&netcheck.ipv4))?;
    writeln!(out, "IPv6          {}", family(&netcheck.ipv6))?;
    let nat = &netcheck.nat;
    let members = match nat.witnesses {
        1 => "1 member has told".to_owned(),
        count => format!("{count} members have told"),
    };
    writeln!(out, "router        {} ({members})", nat.mapping)?;
    writeln!(out, "              lets in {}", nat.filtering)?;
    if let Some(last) = nat.last {
        writeln!(out, "              this node was last seen at {last}")?;
    }
    match &netcheck.port_mapping {
        Some(mapped) => {
            let protocol = super::printable(&mapped.protocol);
            writeln!(out, "port mapping  {protocol}, {}", mapped.external)?;
        }
        None => writeln!(out, "port mapping  none")?,
    }
    match netcheck.mtu {
        Some(mtu) => {
            let whole = netcheck.interface_mtu;
            writeln!(out, "MTU           {mtu} of {whole} on the widest link")?;
        }
        None => writeln!(out, "MTU           not known: no link is up")?,
    }
    writeln!(out, "this node     {}", netcheck.role_text)?;
    if let Some(fix) = &netcheck.fix {
        writeln!(out, "  fix: {fix}")?;
    }
    Ok(())
}

fn family(family: &FamilyReach) -> String {
    if family.addresses.is_empty() {
        return "no address".to_owned();
    }
    let addresses: Vec<String> = family.addresses.iter().map(ToString::to_string).collect();
    let links = match family.links {
        1 => "1 link".to_owned(),
        count => format!("{count} links"),
    };
    format!("{}  {links}", addresses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{NatBehaviour, PortMapped, Role};

    #[test]
    fn it_tells_what_the_network_lets_through() {
        let mut netcheck = Netcheck {
            udp: UdpReach::Works,
            ipv4: FamilyReach {
                addresses: vec!["192.168.1.10:51860".parse().unwrap()],
                links: 2,
            },
            ipv6: FamilyReach {
                addresses: Vec::new(),
                links: 0,
            },
            nat: NatBehaviour {
                mapping: "one port for all destinations, the one that was asked for".into(),
                filtering: "what was asked for, at least".into(),
                last: Some("203.0.113.6:51860".parse().unwrap()),
                witnesses: 2,
            },
            port_mapping: Some(PortMapped {
                protocol: "UPnP".into(),
                external: "203.0.113.6:51860".parse().unwrap(),
            }),
            mtu: Some(1420),
            interface_mtu: 1420,
            role: Role::Reachable,
            role_text: "reachable".into(),
            fix: None,
        };
        let shown = |netcheck: &Netcheck| {
            let mut out = Vec::new();
            print(netcheck, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!(shown(&netcheck), @r"
        UDP           works
        IPv4          192.168.1.10:51860  2 links
        IPv6          no address
        router        one port for all destinations, the one that was asked for (2 members have told)
                      lets in what was asked for, at least
                      this node was last seen at 203.0.113.6:51860
        port mapping  UPnP, 203.0.113.6:51860
        MTU           1420 of 1420 on the widest link
        this node     reachable
        ");
        netcheck.udp = UdpReach::Blocked;
        netcheck.ipv4.links = 0;
        netcheck.port_mapping = None;
        netcheck.mtu = None;
        netcheck.nat.last = None;
        netcheck.fix = Some("let UDP out".into());
        insta::assert_snapshot!(shown(&netcheck), @r"
        UDP           blocked: neighbours answer over TCP alone
        IPv4          192.168.1.10:51860  0 links
        IPv6          no address
        router        one port for all destinations, the one that was asked for (2 members have told)
                      lets in what was asked for, at least
        port mapping  none
        MTU           not known: no link is up
        this node     reachable
          fix: let UDP out
        ");
    }
}
