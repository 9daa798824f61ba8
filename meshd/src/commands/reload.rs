//! `meshd reload`

use std::io::Write;

use super::Failure;
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let reload = super::client(global)?.reload()?;
    if global.json {
        return super::print_json(reload, out);
    }
    for change in &reload.applied {
        writeln!(out, "applied: {}", super::printable(change))?;
    }
    for key in &reload.restart {
        writeln!(out, "needs a restart: {}", super::printable(key))?;
    }
    if reload.applied.is_empty() && reload.restart.is_empty() {
        writeln!(out, "nothing has changed")?;
    }
    super::print_warnings(&reload.warnings, out)?;
    if !reload.restart.is_empty() {
        writeln!(out, "next: sudo systemctl restart meshd")?;
    }
    Ok(())
}
