//! `meshd cleanup`

use std::io::{self, Write};

use super::Failure;
use crate::cli::Global;
use crate::daemon;
use crate::state::{StateDir, StateError};

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    // Without a state directory there is no daemon to disturb, and the fixed numbers tell what is ours.
    let state = match StateDir::open(super::state_dir(global)?) {
        Ok(state) => Some(state),
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    // A daemon that runs has the lock, and keeps its rules.
    let _lock = state.as_ref().map(StateDir::lock).transpose()?;
    daemon::clean_up(state.as_ref())?;
    Ok(writeln!(
        out,
        "routing rules and routes of the overlay are gone"
    )?)
}
