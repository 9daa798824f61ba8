//! `meshd run`

use super::Failure;
use crate::cli::Global;
use crate::daemon::{self, Launch};
use crate::state::StateDir;
use crate::telemetry::Telemetry;

pub(super) fn run(global: &Global) -> Result<(), Failure> {
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
