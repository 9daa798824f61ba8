//! `meshd trace NAME|ADDR`

use std::io::{self, Write};

use super::failure::{Exit, Failure};
use super::table::or_dash;
use crate::admin::{Trace, TraceRequest};
use crate::cli::Global;

/// How long all hops together may take to answer.
const TIMEOUT_MS: u32 = 5000;

pub(super) fn run(global: &Global, target: &str, out: &mut impl Write) -> Result<(), Failure> {
    let trace = super::client(global)?.trace(&TraceRequest {
        target: target.to_owned(),
        timeout_ms: TIMEOUT_MS,
    })?;
    let reached = trace.reached;
    if global.json {
        super::print_json(trace, out)?;
    } else {
        print(&trace, out)?;
    }
    if reached {
        Ok(())
    } else {
        Err(
            Failure::new(Exit::Unreachable, format!("{target} does not answer"))
                .next("meshd routes"),
        )
    }
}

/// ```text
/// 1  laptop > vps1   10.9 ms   metric 109
/// 2  vps1 > pi       27.0 ms   metric 380
///    backup: via nas, metric 512, feasible
/// ```
fn print(trace: &Trace, out: &mut impl Write) -> io::Result<()> {
    let mut before = trace.from.as_str();
    let mut lines = Vec::new();
    for hop in &trace.hops {
        let node = hop.node.as_deref().unwrap_or("?");
        lines.push((
            super::printable(&format!("{before} > {node}")),
            or_dash(hop.rtt_ms, |rtt| format!("{rtt:.1} ms")),
            or_dash(hop.metric, |metric| format!("metric {metric}")),
        ));
        before = node;
    }
    let width = |cell: fn(&(String, String, String)) -> &String| {
        lines
            .iter()
            .map(|line| cell(line).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (way, rtt) = (width(|line| &line.0), width(|line| &line.1));
    for (number, line) in lines.iter().enumerate() {
        writeln!(
            out,
            "{}  {:<way$}   {:>rtt$}   {}",
            number + 1,
            line.0,
            line.1,
            line.2
        )?;
    }
    for backup in &trace.backup {
        let feasible = if backup.feasible {
            "feasible"
        } else {
            "not feasible"
        };
        let via = super::printable(&backup.via);
        writeln!(
            out,
            "   backup: via {via}, metric {}, {feasible}",
            backup.metric
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Backup, Hop};

    #[test]
    fn hops_are_lines_from_node_to_node() {
        let hop = |node: Option<&str>, rtt_ms, metric| Hop {
            node: node.map(str::to_owned),
            address: None,
            rtt_ms,
            metric,
        };
        let trace = Trace {
            target: "6d4:97b8:38a7:2b6e::1".parse().unwrap(),
            from: "laptop".into(),
            hops: vec![
                hop(Some("vps1"), Some(10.94), Some(109)),
                hop(None, None, None),
                hop(Some("pi"), Some(127.0), Some(380)),
            ],
            backup: vec![Backup {
                via: "nas".into(),
                metric: 512,
                feasible: true,
            }],
            reached: true,
        };
        let mut out = Vec::new();
        print(&trace, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        1  laptop > vps1    10.9 ms   metric 109
        2  vps1 > ?               -   -
        3  ? > pi          127.0 ms   metric 380
           backup: via nas, metric 512, feasible
        ");
    }
}
