//! `meshd man DIR`

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::failure::{Exit, Failure, exit_of};
use crate::cli::Cli;

pub(super) fn run(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| {
            Failure::new(
                exit_of(&error, Exit::Failed),
                format!("writing manual pages into {}: {error}", dir.display()),
            )
        })
}
