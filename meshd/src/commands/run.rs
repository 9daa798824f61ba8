//! `meshd run`

use super::{Exit, Failure};
use crate::cli::Global;
use crate::daemon::{self, Launch};
use crate::io::hardening;
use crate::state::StateDir;
use crate::telemetry::Telemetry;

pub(super) fn run(global: &Global) -> Result<(), Failure> {
    // Before the key is read: it must not come into a core dump or before another program's eyes.
    hardening::protect_memory().map_err(|error| {
        let what = format!("cannot protect the memory of this process: {error}");
        Failure::new(Exit::Failed, what)
    })?;
    let source = super::source(global)?;
    let state = StateDir::open(source.load()?.state_dir)?;
    let lock = state.lock()?;
    let identity = state.identity()?;
    let settings = source.load_for(identity.node())?;
    let telemetry = Telemetry::init(settings.log)?;
    Ok(daemon::run(Launch {
        settings,
        source,
        identity,
        state,
        lock,
        telemetry,
    })?)
}
