//! `meshd attach netns:NAME|pid:N` and `meshd attach --restore`

pub(super) mod inside;

use std::io::Write;

use serde::Serialize;

use self::inside::Manner;
use super::failure::{Exit, Failure};
use super::workloads::describe;
use crate::admin::client::Client;
use crate::admin::{
    AttachWorkload, Schema, Workload, WorkloadAttached, WorkloadOrigin, WorkloadState,
};
use crate::cli::{Attach, Global};
use crate::config::is_label;
use crate::workload::{Target, Wish};

pub(super) fn run(global: &Global, options: Attach, out: &mut impl Write) -> Result<(), Failure> {
    let client = super::client(global)?;
    match &options.target {
        Some(target) => one(global, &client, target.clone(), options, out),
        None => restore(global, &client, out),
    }
}

fn one(
    global: &Global,
    client: &Client,
    target: Target,
    options: Attach,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let name = options
        .name
        .or_else(|| target.name().map(str::to_owned))
        .ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("{target} has no name to take: give one"),
            )
            .next(format!("meshd attach {target} --name web"))
        })?;
    if !is_label(&name) {
        let what = format!(
            "`{name}` cannot be a workload's name: 1 to 63 lower-case letters, digits and hyphens"
        );
        return Err(
            Failure::new(Exit::Usage, what).next(format!("meshd attach {target} --name web"))
        );
    }
    let wish = AttachWorkload::of(Wish {
        name,
        target,
        interface: options.interface,
        publish: options.publish,
        attachment: None,
    });
    let attached = inside::attach(client, wish, Manner::New)?;
    if global.json {
        return super::print_json(attached, out);
    }
    Ok(writeln!(out, "{}", describe(&attached.workload))?)
}

/// What `attach --restore --json` prints.
#[derive(Debug, Default, Serialize)]
struct Restored {
    /// They are attached again.
    attached: Vec<Workload>,
    /// They are in the configuration, and their namespaces are not there.
    waiting: Vec<String>,
    /// They were attached before, and their namespaces are no more.
    forgotten: Vec<String>,
    /// They are there, and could not be attached.
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    name: String,
    error: String,
}

impl Schema for Restored {
    const SCHEMA: &'static str = "meshd.attach-restore/1";
}

/// Attaches everything that waits. What had been attached before and does not live any more is forgotten.
fn restore(global: &Global, client: &Client, out: &mut impl Write) -> Result<(), Failure> {
    let mut restored = Restored::default();
    let workloads = client.workloads()?.workloads;
    let waiting = workloads
        .into_iter()
        .filter(|workload| workload.state == WorkloadState::Waiting);
    for workload in waiting {
        let name = workload.name.clone();
        match (restore_one(client, &workload), workload.origin) {
            (Ok(again), _) => restored.attached.push(again.workload),
            (Err(failure), WorkloadOrigin::Config) if is_gone(&failure) => {
                restored.waiting.push(name);
            }
            (Err(failure), WorkloadOrigin::Attached) if is_gone(&failure) => {
                client.detach_workload(&name)?;
                restored.forgotten.push(name);
            }
            (Err(failure), _) => restored.failed.push(Failed {
                name,
                error: failure.to_string(),
            }),
        }
    }
    let failed = restored.failed.len();
    if global.json {
        super::print_json(restored, out)?;
    } else {
        print(&restored, out)?;
    }
    if failed > 0 {
        let what = format!("{failed} workloads could not be attached");
        return Err(Failure::new(Exit::Failed, what).next("meshd workloads"));
    }
    Ok(())
}

/// The work of one thread, since it enters the workload's namespace and does not come back.
fn restore_one(client: &Client, workload: &Workload) -> Result<WorkloadAttached, Failure> {
    let wish = AttachWorkload {
        name: workload.name.clone(),
        target: workload.target.clone(),
        interface: workload.interface.clone(),
        publish: workload.publish.clone(),
        attachment: workload.attachment.clone(),
    };
    std::thread::scope(|scope| {
        let work = scope.spawn(|| inside::attach(client, wish, Manner::Again));
        work.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether what was to be attached is not there.
fn is_gone(failure: &Failure) -> bool {
    failure.exit() == Exit::NoSuchName
}

fn print(restored: &Restored, out: &mut impl Write) -> Result<(), Failure> {
    for workload in &restored.attached {
        writeln!(out, "{}", describe(workload))?;
    }
    for name in &restored.waiting {
        writeln!(out, "{name}  waits: its namespace is not there")?;
    }
    for name in &restored.forgotten {
        writeln!(out, "{name}  forgotten: its namespace is no more")?;
    }
    for Failed { name, error } in &restored.failed {
        writeln!(out, "{name}  failed: {}", super::printable(error))?;
    }
    Ok(())
}
