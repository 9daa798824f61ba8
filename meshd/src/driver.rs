//! From a checked configuration to a running node.

use crate::config::{Settings, Source};
use crate::identity::Identity;
use crate::state::{StateDir, StateLock};
use crate::telemetry::Telemetry;

/// Everything a node needs to start, checked and locked.
#[derive(Debug)]
pub struct Launch {
    /// What the configuration says.
    pub settings: Settings,
    /// Where it says so, for a reload.
    pub source: Source,
    /// Who we are.
    pub identity: Identity,
    /// What we keep.
    pub state: StateDir,
    /// Keeps other daemons out of `state`.
    pub lock: StateLock,
    /// The log, whose level a reload may change.
    pub telemetry: Telemetry,
}

/// Why the daemon ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// This build has no data plane.
    #[error("this build of meshd cannot carry packets")]
    NoDataPlane,
}

/// Runs the node until it is told to stop.
pub fn run(launch: Launch) -> Result<(), RunError> {
    for warning in &launch.settings.warnings {
        tracing::warn!(code = warning.code, "{}", warning.text);
    }
    Err(RunError::NoDataPlane)
}
