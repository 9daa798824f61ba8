//! `meshd wait [--peer NAME] [--route PREFIX] [--timeout S]`

use std::io::Write;
use std::time::{Duration, Instant};

use super::Failure;
use crate::admin::WaitRequest;
use crate::admin::client::ClientError;
use crate::cli::{Global, Wait};

/// How often to look whether the daemon has started.
const RETRY: Duration = Duration::from_millis(100);

pub(super) fn run(global: &Global, wait: Wait, out: &mut impl Write) -> Result<(), Failure> {
    let client = super::client(global)?;
    let start = Instant::now();
    let timeout = Duration::from_secs(wait.timeout.into());
    let mut answer = loop {
        // What is left of the time, in whole seconds: the daemon may be asked for one too many, never for one too few.
        let left = timeout.saturating_sub(start.elapsed());
        let timeout_s = u32::try_from(left.as_secs_f64().ceil() as u64).unwrap_or(wait.timeout);
        match client.wait(&WaitRequest {
            peer: wait.peer.clone(),
            route: wait.route,
            timeout_s,
        }) {
            Err(ClientError::NotRunning { .. }) if !left.is_zero() => {
                std::thread::sleep(RETRY.min(left))
            }
            answer => break answer?,
        }
    };
    answer.waited_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    if global.json {
        return super::print_json(answer, out);
    }
    Ok(())
}
