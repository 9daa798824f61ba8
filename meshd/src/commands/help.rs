//! `meshd help [VERB...|CODE]`

use std::io::Write;

use clap::CommandFactory;

use super::failure::{Exit, Failure};
use crate::admin::WarningCode;
use crate::cli::Cli;

pub(super) fn run(topic: &[String], out: &mut impl Write) -> Result<(), Failure> {
    if let [code] = topic {
        let known = WarningCode::ALL
            .into_iter()
            .find(|known| known.to_string().eq_ignore_ascii_case(code));
        if let Some(known) = known {
            return Ok(writeln!(out, "{known}\n{}", known.explanation())?);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut at = &mut command;
    for verb in topic {
        let Some(inner) = at.find_subcommand_mut(verb) else {
            let codes = WarningCode::ALL.map(|code| code.to_string()).join(", ");
            let what = format!(
                "no help on `{}`: neither a verb nor one of the codes {codes}",
                topic.join(" ")
            );
            return Err(Failure::new(Exit::Usage, what).next("meshd help"));
        };
        at = inner;
    }
    Ok(write!(out, "{}", at.render_long_help())?)
}
