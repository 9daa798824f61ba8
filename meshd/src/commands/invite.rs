//! `meshd invite`

use std::io::Write;

use super::failure::Failure;
use crate::admin::InviteRequest;
use crate::cli::{Global, Invite};

/// Prints the ticket alone to standard output, so that it can be piped, and what to do with it below.
pub(super) fn run(global: &Global, invite: Invite, out: &mut impl Write) -> Result<(), Failure> {
    let Invite {
        name,
        uses,
        expires,
        tags,
        approve,
        endpoint,
    } = invite;
    let request = InviteRequest {
        name,
        uses,
        lifetime_s: expires,
        tags,
        approve,
        endpoint,
    };
    let invited = super::client(global)?.invite(&request)?;
    if global.json {
        return super::print_json(invited, out);
    }
    writeln!(out, "{}", super::printable(&invited.ticket))?;
    let uses = match invited.uses {
        1 => "one use".to_owned(),
        uses => format!("{uses} uses"),
    };
    let mut about = vec![
        uses,
        format!("good for {}", super::table::duration(expires)),
    ];
    about.extend(invited.name.map(|name| format!("name {name}")));
    if !invited.tags.is_empty() {
        about.push(format!("tags {}", invited.tags.join(",")));
    }
    if approve {
        about.push("to be approved".to_owned());
    }
    writeln!(out, "# {}", super::printable(&about.join(", ")))?;
    match (&invited.endpoint, invited.local_only) {
        (Some(endpoint), false) => {
            writeln!(
                out,
                "# on the other machine: sudo meshd join -     (asks {endpoint})"
            )?;
        }
        (Some(endpoint), true) => writeln!(
            out,
            "# on another machine of this network: sudo meshd join -     (asks {endpoint}, which others do not reach: --endpoint IP:PORT)"
        )?,
        (None, _) => writeln!(
            out,
            "# on the other machine: sudo meshd join - --peer KEY@HOST:PORT     (of any member; the ticket does not say where to ask)"
        )?,
    }
    Ok(())
}
