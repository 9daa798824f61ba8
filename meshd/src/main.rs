//! The mesh daemon and its command line.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use meshd::cli::Cli;
use meshd::commands;

fn main() -> ExitCode {
    let cli = if commands::is_plugin() {
        // A container runtime starts its plugins by their file, without arguments.
        Cli::parse_from(["meshd", "cni"])
    } else {
        Cli::parse()
    };
    let outcome = commands::dispatch(cli, &mut io::stdout().lock());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads our output has seen enough: `meshd peers | head -1`.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is closed, too.
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::from(failure.exit() as u8)
        }
    }
}
