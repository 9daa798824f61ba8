//! Workloads on the admin socket. A device is handed over as a descriptor (SCM_RIGHTS) with the first byte of its request.

use std::{net::Ipv6Addr, time::Instant};

use filter::{Ports, PortsError};
use ipnetwork::Ipv6Network;
use serde::{Deserialize, Serialize};

use super::{ErrorBody, ErrorCode, Schema, server::refusal};
use crate::{
    control::chain,
    workload::{self, AttachError, NoSuchWorkload, Origin, Target, TargetError, Wish},
};

/// The workloads of this node, and what one more would have to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// The `/64` that their addresses are in.
    pub prefix: Ipv6Network,
    /// The MTU of their interfaces, in bytes.
    pub mtu: u16,
    /// By name.
    pub workloads: Vec<Workload>,
}

impl Schema for Workloads {
    const SCHEMA: &'static str = "meshd.workloads/1";
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// What it is called.
    pub name: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// Where it lives: `netns:NAME`, `netns:/PATH` or `pid:NUMBER`.
    pub target: String,
    /// What its interface is called there.
    pub interface: String,
    /// What it publishes.
    pub publish: Vec<String>,
    /// Who asked for it.
    pub origin: WorkloadOrigin,
    /// Whether it has its interface.
    pub state: WorkloadState,
    /// What a container runtime calls it; null for others.
    pub attachment: Option<String>,
    /// Seconds since it was attached; null while it waits.
    pub since_s: Option<u64>,
    /// Bytes that came to it since.
    pub rx_bytes: u64,
    /// Bytes that came from it since.
    pub tx_bytes: u64,
}

impl Workload {
    pub(crate) fn of(workload: &workload::Workload, now: Instant) -> Self {
        let Wish {
            name,
            target,
            interface,
            publish,
            attachment,
        } = &workload.wish;
        let attached = workload.attached.as_ref();
        let bytes = |count: fn(&workload::WorkloadStats) -> u64| {
            attached.map_or(0, |attached| count(&attached.stats))
        };
        Self {
            name: name.clone(),
            address: workload.address,
            target: target.to_string(),
            interface: interface.clone(),
            publish: publish.iter().map(ToString::to_string).collect(),
            origin: match workload.origin {
                Origin::Config => WorkloadOrigin::Config,
                Origin::Attached => WorkloadOrigin::Attached,
            },
            state: if attached.is_some() {
                WorkloadState::Attached
            } else {
                WorkloadState::Waiting
            },
            attachment: attachment.clone(),
            since_s: attached
                .map(|attached| now.saturating_duration_since(attached.since).as_secs()),
            rx_bytes: bytes(workload::WorkloadStats::rx_bytes),
            tx_bytes: bytes(workload::WorkloadStats::tx_bytes),
        }
    }
}

/// Where a workload is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadOrigin {
    /// `[[workload]]`
    Config,
    /// `meshd attach`, or a container runtime: the state directory.
    Attached,
}

/// Whether a workload takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadState {
    /// It has its interface, and is reachable.
    Attached,
    /// `meshd attach --restore` gives it its interface, if its namespace is there.
    Waiting,
}

/// Hands over the device of a workload; without a descriptor, changes what an attached one publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachWorkload {
    /// What to call it: a DNS label.
    pub name: String,
    /// As [`Workload::target`].
    pub target: String,
    /// What its interface is called there.
    pub interface: String,
    /// What it publishes.
    pub publish: Vec<String>,
    /// What a container runtime calls it.
    #[serde(default)]
    pub attachment: Option<String>,
}

/// What makes no sense in an [`AttachWorkload`].
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// Where it lives.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What it publishes.
    #[error("cannot publish this")]
    Ports(#[from] PortsError),
}

impl AttachWorkload {
    pub(crate) fn of(wish: Wish) -> Self {
        Self {
            name: wish.name,
            target: wish.target.to_string(),
            interface: wish.interface,
            publish: wish.publish.iter().map(ToString::to_string).collect(),
            attachment: wish.attachment,
        }
    }

    pub(crate) fn wish(self) -> Result<Wish, WishError> {
        let publish: Result<Vec<Ports>, PortsError> =
            self.publish.iter().map(|text| text.parse()).collect();
        Ok(Wish {
            name: self.name,
            target: self.target.parse::<Target>()?,
            interface: self.interface,
            publish: publish?,
            attachment: self.attachment,
        })
    }
}

/// A workload is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadAttached {
    /// As it is now.
    #[serde(flatten)]
    pub workload: Workload,
}

impl Schema for WorkloadAttached {
    const SCHEMA: &'static str = "meshd.attach/1";
}

/// A workload is detached. One of the configuration waits until it is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadDetached {
    /// As it was.
    #[serde(flatten)]
    pub workload: Workload,
}

impl Schema for WorkloadDetached {
    const SCHEMA: &'static str = "meshd.detach/1";
}

impl From<AttachError> for ErrorBody {
    fn from(error: AttachError) -> Self {
        let (code, hint) = match &error {
            AttachError::Name(_) | AttachError::TooManyPorts => {
                (ErrorCode::Usage, "meshd help attach".to_owned())
            }
            AttachError::Attached { name, .. } => {
                (ErrorCode::Exists, format!("meshd detach {name}"))
            }
            AttachError::Address { .. } => (
                ErrorCode::Exists,
                "choose another name, or change `allowed` of the device that has it".to_owned(),
            ),
            AttachError::TooMany => (ErrorCode::Failed, "meshd workloads".to_owned()),
        };
        refusal(code, &error.to_string(), &hint)
    }
}

impl From<NoSuchWorkload> for ErrorBody {
    fn from(error: NoSuchWorkload) -> Self {
        refusal(ErrorCode::NoSuchName, &error.to_string(), "meshd workloads")
    }
}

impl From<WishError> for ErrorBody {
    fn from(error: WishError) -> Self {
        refusal(ErrorCode::Usage, &chain(&error), "meshd help attach")
    }
}
