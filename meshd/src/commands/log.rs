//! `meshd log`

use std::io::Write;

use super::Failure;
use crate::admin::Log;
use crate::cli::Global;
use crate::config::LogLevel;

pub(super) fn run(global: &Global, level: LogLevel, out: &mut impl Write) -> Result<(), Failure> {
    let log = super::client(global)?.set_log(&Log { level })?;
    if global.json {
        return super::print_json(log, out);
    }
    let level = format!("{:?}", log.level).to_lowercase();
    Ok(writeln!(
        out,
        "logging {level} and above until the next reload or start"
    )?)
}
