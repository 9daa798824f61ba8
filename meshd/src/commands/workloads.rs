//! `meshd workloads`

use std::io::Write;

use super::failure::Failure;
use super::table::{Table, bytes, duration, or_dash};
use crate::admin::{Workload, WorkloadOrigin, WorkloadState};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let workloads = super::client(global)?.workloads()?;
    if global.json {
        return super::print_json(workloads, out);
    }
    let mut table = Table::new([
        "NAME", "ADDRESS", "STATE", "TARGET", "PUBLISH", "RX/TX", "FROM", "SINCE",
    ]);
    for workload in workloads.workloads {
        let traffic = match workload.state {
            WorkloadState::Attached => {
                format!("{}/{}", bytes(workload.rx_bytes), bytes(workload.tx_bytes))
            }
            WorkloadState::Waiting => "-".to_owned(),
        };
        let state = match workload.state {
            WorkloadState::Attached => "attached",
            WorkloadState::Waiting => "waiting",
        };
        let origin = match workload.origin {
            WorkloadOrigin::Config => "configuration",
            WorkloadOrigin::Attached if workload.attachment.is_some() => "cni",
            WorkloadOrigin::Attached => "attach",
        };
        table.row([
            workload.name,
            workload.address.to_string(),
            state.to_owned(),
            workload.target,
            published(&workload.publish),
            traffic,
            origin.to_owned(),
            or_dash(workload.since_s, duration),
        ]);
    }
    Ok(table.print(out)?)
}

/// One line about a workload that was attached.
pub(super) fn describe(workload: &Workload) -> String {
    let Workload {
        name,
        address,
        interface,
        target,
        publish,
        ..
    } = workload;
    super::printable(&format!(
        "{name}  {address}  {interface} in {target}  publishes {}",
        published(publish)
    ))
}

fn published(publish: &[String]) -> String {
    if publish.is_empty() {
        "-".to_owned()
    } else {
        publish.join(",")
    }
}
