//! `meshd cni`: a plugin of the Container Network Interface.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Ipv6Addr;

use serde_json::Value;

use super::attach::inside::{self, Manner};
use super::failure::{Exit, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::{AttachWorkload, ErrorCode, Workload, WorkloadState};
use crate::cli::Global;
use crate::cni::{self, Attachment, CniError, Code, Command, MAX_LEN, Request};
use crate::workload::Target;

/// Variables of the environment that a runtime sets.
const VARIABLES: [&str; 6] = [
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
];

/// Whether a container runtime has started this program: it gives no arguments.
#[must_use]
pub fn is_asked_for() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os(VARIABLES[0]).is_some()
}

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let mut input = Vec::new();
    io::stdin()
        .take(MAX_LEN)
        .read_to_end(&mut input)
        .map_err(|error| Failure::new(Exit::Failed, format!("standard input: {error}")))?;
    let environment = VARIABLES.iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some(((*name).to_owned(), value))
    });
    let environment: BTreeMap<String, String> = environment.collect();
    let answered = cni::read(&environment, &input).and_then(|request| {
        let version = request.version.clone();
        answer(global, request).map_err(|error| (error, version))
    });
    match answered {
        Ok(None) => Ok(()),
        Ok(Some(answer)) => Ok(writeln!(out, "{answer}")?),
        Err((error, version)) => {
            writeln!(out, "{}", error.document(&version))?;
            Err(Failure::new(Exit::Failed, error.to_string()).next("meshd workloads"))
        }
    }
}

fn answer(global: &Global, request: Request) -> Result<Option<Value>, CniError> {
    let global = Global {
        socket: request.socket.clone().or_else(|| global.socket.clone()),
        ..global.clone()
    };
    let client =
        || super::client(&global).map_err(|failure| CniError::new(Code::Io, failure.to_string()));
    match request.command {
        Command::Version => Ok(Some(cni::versions())),
        Command::Status => match client()?.workloads() {
            Ok(_) => Ok(None),
            Err(error) => Err(CniError::new(Code::Unavailable, error.to_string())),
        },
        Command::Add(attachment) => add(&client()?, &request.version, attachment).map(Some),
        Command::Del(attachment) => del(&client()?, &attachment).map(|()| None),
        Command::Check(attachment) => check(&client()?, &attachment).map(|()| None),
        Command::Gc { network, valid } => gc(&client()?, &network, &valid).map(|()| None),
    }
}

fn add(client: &Client, version: &str, attachment: Attachment) -> Result<Value, CniError> {
    let Some(wish) = attachment.wish.clone() else {
        return Err(CniError::new(Code::Environment, "CNI_NETNS is missing"));
    };
    let mtu = client.workloads().map_err(|error| of_client(&error))?.mtu;
    let interface = wish.interface.clone();
    let attached = inside::attach(client, AttachWorkload::of(wish), Manner::New)
        .map_err(|failure| of_failure(&failure))?;
    let address = attached.workload.address;
    Ok(cni::added(version, &attachment, &interface, address, mtu))
}

/// Whatever is gone already is no error; nor is a daemon that is gone, which finds the namespace dead when it comes back.
fn del(client: &Client, attachment: &Attachment) -> Result<(), CniError> {
    let workload = match find(client, &attachment.id) {
        Ok(Some(workload)) => workload,
        Ok(None) | Err(ClientError::NotRunning { .. }) => return Ok(()),
        Err(error) => return Err(of_client(&error)),
    };
    detach(client, &workload)
}

fn detach(client: &Client, workload: &Workload) -> Result<(), CniError> {
    match client.detach_workload(&workload.name) {
        Ok(_) => {}
        Err(ClientError::Refused(body)) if body.code == ErrorCode::NoSuchName => return Ok(()),
        Err(error) => return Err(of_client(&error)),
    }
    match (workload.state, workload.target.parse::<Target>()) {
        // The daemon had not got it back: it is still in its namespace.
        (WorkloadState::Waiting, Ok(target)) => {
            inside(|| inside::remove(&target, &workload.interface, workload.address))
        }
        (WorkloadState::Attached | WorkloadState::Waiting, _) => Ok(()),
    }
}

fn check(client: &Client, attachment: &Attachment) -> Result<(), CniError> {
    let workload = find(client, &attachment.id).map_err(|error| of_client(&error))?;
    let workload = workload
        .filter(|workload| workload.state == WorkloadState::Attached)
        .ok_or_else(|| CniError::new(Code::Unknown, "the daemon does not have this container"))?;
    let not_as_made = |message: String| CniError::new(Code::NotAsMade, message);
    let Some(wish) = &attachment.wish else {
        return Err(CniError::new(Code::Environment, "CNI_NETNS is missing"));
    };
    let address: Ipv6Addr = workload.address;
    if !cni::has_address(&attachment.previous, address) {
        return Err(not_as_made(format!("prevResult does not have {address}")));
    }
    let interface = &workload.interface;
    let is_there = inside(|| inside::has(&wish.target, interface, address))?;
    if !is_there {
        let message = format!("{interface} with {address} is not in {}", wish.target);
        return Err(not_as_made(message));
    }
    Ok(())
}

fn gc(client: &Client, network: &str, valid: &[String]) -> Result<(), CniError> {
    let ours = cni::attachments_of(network);
    let workloads = client.workloads().map_err(|error| of_client(&error))?;
    for workload in &workloads.workloads {
        let stale = workload.attachment.as_ref();
        let stale = stale.filter(|id| id.starts_with(&ours) && !valid.contains(id));
        if stale.is_some() {
            detach(client, workload)?;
        }
    }
    Ok(())
}

fn find(client: &Client, id: &str) -> Result<Option<Workload>, ClientError> {
    let mut workloads = client.workloads()?.workloads.into_iter();
    Ok(workloads.find(|workload| workload.attachment.as_deref() == Some(id)))
}

/// Work inside a namespace, on a thread that does not come back from there.
fn inside<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, CniError> {
    let done = std::thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    done.map_err(|failure| of_failure(&failure))
}

fn of_failure(failure: &Failure) -> CniError {
    let code = match failure.exit() {
        Exit::NoSuchName => Code::Unknown,
        Exit::NotRunning | Exit::Unreachable => Code::TryAgain,
        Exit::Usage => Code::Config,
        Exit::Failed
        | Exit::Permission
        | Exit::NotMember
        | Exit::Config
        | Exit::Version
        | Exit::Denied => Code::Io,
    };
    CniError::new(code, failure.to_string())
}

fn of_client(error: &ClientError) -> CniError {
    let code = match error {
        ClientError::NotRunning { .. } | ClientError::Timeout => Code::TryAgain,
        ClientError::Permission { .. }
        | ClientError::Io { .. }
        | ClientError::Http(_)
        | ClientError::TooLarge
        | ClientError::Version { .. }
        | ClientError::Answer(_)
        | ClientError::Refused(_) => Code::Io,
    };
    CniError::new(code, error.to_string())
}
