//! `meshd completions SHELL`

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use crate::cli::Cli;

pub(super) fn run(shell: Shell, out: &mut impl Write) -> Result<(), Failure> {
    // Into memory first: the generator panics when its output fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "meshd", &mut script);
    Ok(out.write_all(&script)?)
}
