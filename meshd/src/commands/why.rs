//! `meshd why NAME|ADDR`

use std::io::{self, Write};

use super::failure::Failure;
use super::status;
use super::table::{Table, or_dash};
use crate::admin::{Why, WhyRequest};
use crate::cli::Global;

pub(super) fn run(global: &Global, target: &str, out: &mut impl Write) -> Result<(), Failure> {
    let why = super::client(global)?.why(&WhyRequest {
        target: target.to_owned(),
    })?;
    if global.json {
        return super::print_json(why, out);
    }
    Ok(print(&why, out)?)
}

/// ```text
/// pi  relay vps1, 2 hops
/// this node's router: a new port for each destination, at random (2 members agree)
/// ADDRESS               KIND       SENT  ANSWERED  RTT  NOTE
/// 198.51.100.9:41002    reflexive  12    0         -    no answer
/// ! NAT-SYM-SYM both routers change ports
///   fix: ...
/// ```
fn print(why: &Why, out: &mut impl Write) -> io::Result<()> {
    let name = super::printable(&why.name);
    let path = super::printable(&status::path(&why.path));
    writeln!(out, "{name}  {path}")?;
    let nat = &why.nat;
    let members = match nat.witnesses {
        1 => "1 member has told".to_owned(),
        count => format!("{count} members have told"),
    };
    writeln!(
        out,
        "this node's router: {}; lets in {} ({members})",
        nat.mapping, nat.filtering
    )?;
    if why.candidates.is_empty() {
        writeln!(out, "no other address was tried")?;
    } else {
        let mut table = Table::new(["ADDRESS", "KIND", "SENT", "ANSWERED", "RTT", "NOTE"]);
        for tried in &why.candidates {
            table.row([
                tried.address.to_string(),
                tried.kind.clone(),
                tried.sent.to_string(),
                tried.answered.to_string(),
                or_dash(tried.rtt_ms, |rtt| format!("{rtt:.1} ms")),
                tried.note.clone(),
            ]);
        }
        table.print(out)?;
    }
    if let (Some(code), Some(text)) = (&why.code, &why.text) {
        writeln!(out, "! {code} {text}")?;
    }
    if let Some(fix) = &why.fix {
        writeln!(out, "  fix: {fix}")?;
    }
    if let Some(blocked) = &why.blocked {
        let (by, port) = (
            super::printable(&blocked.by),
            super::printable(&blocked.port),
        );
        let times = match blocked.count {
            1 => String::new(),
            count => format!(", {count} times"),
        };
        writeln!(
            out,
            "blocked by {by}: {port} at {}{times}, {} s ago (its [inbound] rules)",
            blocked.destination, blocked.ago_s
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Blocked, NatBehaviour, Path, TriedCandidate};

    #[test]
    fn it_tells_what_was_tried_and_what_would_help() {
        let tried = |address: &str, kind: &str, note: &str| TriedCandidate {
            address: address.parse().unwrap(),
            kind: kind.into(),
            sent: 10,
            answered: 0,
            rtt_ms: None,
            note: note.into(),
        };
        let why = Why {
            target: "6d4:97b8:38a7:2b6e::1".parse().unwrap(),
            name: "pi".into(),
            path: Path::relay(vec!["vps1".into()], Some(2)),
            nat: NatBehaviour {
                mapping: "a new port for each destination, at random".into(),
                filtering: "what was asked for, at least".into(),
                last: None,
                witnesses: 2,
            },
            candidates: vec![
                tried("192.168.1.7:51860", "host", "silent"),
                tried("198.51.100.9:41002", "reflexive", "silent"),
            ],
            code: Some("NAT-SYM-SYM".into()),
            text: Some("both routers change ports".into()),
            fix: Some("use IPv6 on both sides".into()),
            blocked: Some(Blocked {
                by: "pi".into(),
                destination: "6d4:97b8:38a7:2b6e::1".parse().unwrap(),
                port: "tcp/22".into(),
                count: 3,
                ago_s: 12,
            }),
        };
        let mut out = Vec::new();
        print(&why, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        pi  relay vps1, 2 hops
        this node's router: a new port for each destination, at random; lets in what was asked for, at least (2 members have told)
        ADDRESS             KIND       SENT  ANSWERED  RTT  NOTE
        192.168.1.7:51860   host       10    0         -    silent
        198.51.100.9:41002  reflexive  10    0         -    silent
        ! NAT-SYM-SYM both routers change ports
          fix: use IPv6 on both sides
        blocked by pi: tcp/22 at 6d4:97b8:38a7:2b6e::1, 3 times, 12 s ago (its [inbound] rules)
        ");
    }
}
