//! `meshd explain FROM TO PORT`

use std::io::{self, Write};

use super::failure::{Exit, Failure};
use crate::admin::{Explain, ExplainRequest, Fate};
use crate::cli::Global;

pub(super) fn run(
    global: &Global,
    from: &str,
    to: &str,
    port: &str,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let explained = super::client(global)?.explain(&ExplainRequest {
        from: from.to_owned(),
        to: to.to_owned(),
        port: port.to_owned(),
    })?;
    let (fate, what) = (explained.fate, what(&explained));
    if global.json {
        super::print_json(explained, out)?;
    } else {
        print(&explained, out)?;
    }
    match fate {
        Fate::Allowed => Ok(()),
        Fate::Denied => Err(Failure::new(Exit::Denied, format!("{what} is denied"))
            .next("add a rule to [inbound] allow, then: sudo meshd reload")),
    }
}

/// `tcp/22 of nas from laptop`
fn what(explained: &Explain) -> String {
    let printable = super::printable;
    format!(
        "{} of {} from {}",
        explained.port,
        printable(&explained.to),
        printable(&explained.from)
    )
}

/// ```text
/// denied: no rule of [inbound] lets it in, and it answers nothing
///   from laptop (6b1:22c4:9d01:77aa::1) to nas (6a3:9c1e:77b0:1f42::1), tcp/443
///   nearest: inbound.allow[0], from member:laptop: tcp/22: it opens other ports
/// ```
fn print(explained: &Explain, out: &mut impl Write) -> io::Result<()> {
    let printable = super::printable;
    let fate = match explained.fate {
        Fate::Allowed => "allowed",
        Fate::Denied => "denied",
    };
    writeln!(out, "{fate}: {}", printable(&explained.reason))?;
    writeln!(
        out,
        "  from {} ({}) to {} ({}), {}",
        printable(&explained.from),
        explained.source,
        printable(&explained.to),
        explained.destination,
        explained.port
    )?;
    if let Some(nearest) = &explained.nearest {
        writeln!(out, "  nearest: {}", printable(nearest))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_rule_that_comes_nearest() {
        let explained = Explain {
            from: "laptop".into(),
            source: "6b1:22c4:9d01:77aa::1".parse().unwrap(),
            to: "nas".into(),
            destination: "6a3:9c1e:77b0:1f42::1".parse().unwrap(),
            port: "tcp/443".into(),
            fate: Fate::Denied,
            reason: "no rule of [inbound] lets it in, and it answers nothing".into(),
            nearest: Some(
                "inbound.allow[0], from member:laptop: tcp/22: it opens other ports".into(),
            ),
        };
        let mut out = Vec::new();
        print(&explained, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        denied: no rule of [inbound] lets it in, and it answers nothing
          from laptop (6b1:22c4:9d01:77aa::1) to nas (6a3:9c1e:77b0:1f42::1), tcp/443
          nearest: inbound.allow[0], from member:laptop: tcp/22: it opens other ports
        ");
        assert_eq!(what(&explained), "tcp/443 of nas from laptop");
    }
}
