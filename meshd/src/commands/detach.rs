//! `meshd detach NAME`

use std::io::Write;

use super::attach::inside;
use super::failure::Failure;
use crate::admin::{WorkloadOrigin, WorkloadState};
use crate::cli::Global;

pub(super) fn run(global: &Global, name: &str, out: &mut impl Write) -> Result<(), Failure> {
    let detached = super::client(global)?.detach_workload(name)?;
    let workload = &detached.workload;
    // The daemon has removed its own; one that it did not get back since its start is still there.
    if workload.state == WorkloadState::Waiting
        && let Ok(target) = workload.target.parse()
    {
        inside::remove(&target, &workload.interface, workload.address)?;
    }
    if global.json {
        return super::print_json(detached, out);
    }
    let name = super::printable(&workload.name);
    let until = match workload.origin {
        WorkloadOrigin::Attached => "",
        WorkloadOrigin::Config => " until `meshd attach --restore`: it is in the configuration",
    };
    Ok(writeln!(out, "{name} is out of the mesh{until}")?)
}
