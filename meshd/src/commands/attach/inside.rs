//! What the process that attaches a workload does inside the workload's network namespace, with its own rights: the daemon enters none.
//!
//! The device is made, or opened again, in a namespace that exists for this only, and moved. For an open TUN descriptor keeps the namespace
//! alive that it was opened in: were that the workload's, it would never die, and the workload never be withdrawn.
//!
//! ```text
//!   the workload's namespace          one that nobody else uses           the daemon
//!                    ◄── mesh0 ────── made here, its descriptor ────────► reads and writes
//!   address, route, up                 keeps only this one alive
//! ```

use std::{
    fs, io,
    net::Ipv6Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use tokio::runtime::{Builder, Runtime};

use super::super::failure::{Exit, Failure};
use crate::{
    admin::{AttachWorkload, WorkloadAttached, WorkloadState, client::Client},
    identity::workload_address,
    io::{
        namespace::{Namespace, NamespaceError},
        netlink::{Interface, Netlink, NetlinkError, Present},
        tun::{OpenError, Tun},
    },
    workload::Target,
};

/// Packets, or super-packets, that wait for the daemon.
const QUEUE: u32 = 256;

/// Whether a workload is to be attached as if it never had been.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::commands) enum Manner {
    /// Whatever lives in the namespace.
    New,
    /// It was before: a process by that number has to be in the same namespace, which its interface tells.
    Again,
}

/// Attaches a workload; where it is attached already, changes what it publishes. This thread is in another network namespace afterwards.
pub(in crate::commands) fn attach(
    client: &Client,
    wish: AttachWorkload,
    manner: Manner,
) -> Result<WorkloadAttached, Failure> {
    let offer = client.workloads()?;
    let target: Target = wish.target.parse().map_err(|error| usage(&error))?;
    let address = workload_address(offer.prefix, &wish.name);
    let known = offer
        .workloads
        .iter()
        .find(|known| known.name == wish.name && known.state == WorkloadState::Attached);
    let place = Place::enter(&target)?;
    let present = place.find(&wish.interface)?;
    match (&present, known) {
        (Some(present), Some(_)) if present.addresses.contains(&address) => {
            return Ok(client.attach_workload(&wish, None)?);
        }
        (_, Some(known)) => {
            let what = format!(
                "a workload `{}` is attached already, at {}",
                known.name, known.target
            );
            return Err(Failure::new(Exit::Failed, what)
                .next(format!("meshd detach {}     or another --name", known.name)));
        }
        (Some(present), None) if !present.addresses.contains(&address) => {
            let what = format!("{target} has an interface named {} already", wish.interface);
            return Err(Failure::new(Exit::Failed, what)
                .next(format!("meshd attach {target} --interface mesh1")));
        }
        (None, None) if manner == Manner::Again && matches!(target, Target::Pid(_)) => {
            let what = format!(
                "{target} is not in the namespace of `{}` any more",
                wish.name
            );
            return Err(Failure::new(Exit::NoSuchName, what));
        }
        (Some(_) | None, None) => {}
    }
    let interface = |index| Interface {
        index,
        address,
        mtu: offer.mtu.into(),
        queue_length: QUEUE,
    };
    let tun = match present {
        Some(present) => place.open_again(&wish.interface, &present, interface)?,
        None => place.open(&wish.interface, interface)?,
    };
    let descriptor = tun.as_fd().try_clone_to_owned();
    let descriptor = descriptor.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    Ok(client.attach_workload(&wish, Some(descriptor))?)
}

/// Removes the interface of a workload that the daemon does not have, if it is there.
pub(in crate::commands) fn remove(
    target: &Target,
    interface: &str,
    address: Ipv6Addr,
) -> Result<(), Failure> {
    let place = match Place::enter(target) {
        Err(failure) if failure.exit() == Exit::NoSuchName => return Ok(()),
        entered => entered?,
    };
    let found = place.find(interface)?;
    match found.filter(|present| present.addresses.contains(&address)) {
        Some(present) => Ok(place
            .runtime
            .block_on(place.netlink.delete(present.index))?),
        None => Ok(()),
    }
}

/// Whether a workload's interface is there and has its address.
pub(in crate::commands) fn has(
    target: &Target,
    interface: &str,
    address: Ipv6Addr,
) -> Result<bool, Failure> {
    let present = Place::enter(target)?.find(interface)?;
    Ok(present.is_some_and(|present| present.addresses.contains(&address)))
}

/// The namespace of a workload, which this thread has entered.
struct Place {
    path: PathBuf,
    namespace: Namespace,
    runtime: Runtime,
    /// To the namespace, wherever the thread goes.
    netlink: Netlink,
}

impl Place {
    fn enter(target: &Target) -> Result<Self, Failure> {
        let path = target.path();
        let namespace = Namespace::open(&path)?;
        namespace.enter(&path)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
        let netlink = runtime.block_on(async { Netlink::new() })?;
        Ok(Self {
            path,
            namespace,
            runtime,
            netlink,
        })
    }

    fn find(&self, interface: &str) -> Result<Option<Present>, NetlinkError> {
        self.runtime.block_on(self.netlink.find(interface))
    }

    /// Makes the device. If anything fails, it goes with its descriptor.
    fn open(&self, name: &str, interface: impl Fn(u32) -> Interface) -> Result<Tun, Failure> {
        let _nowhere = Namespace::make()?;
        let tun = Tun::open_for_workload(name)?;
        self.receive(name, tun.index(), interface)?;
        Ok(tun)
    }

    /// Opens a device that a daemon left here. While it is away, nothing for the overlay leaves by another way.
    fn open_again(
        &self,
        name: &str,
        present: &Present,
        interface: impl Fn(u32) -> Interface,
    ) -> Result<Tun, Failure> {
        let nowhere = Namespace::make()?;
        self.runtime.block_on(async {
            self.netlink.close_overlay().await?;
            self.netlink.move_into(present.index, &nowhere).await
        })?;
        let tun = Tun::open_again(name);
        let received = self.receive(name, present.index, interface);
        let opened = received.and_then(|()| tun.map_err(Failure::from));
        // Also when the device stays in other hands: it is back, with its route.
        self.runtime.block_on(self.netlink.open_overlay())?;
        opened
    }

    /// Moves the device from the namespace that this thread is in to the workload's, and follows it.
    fn receive(
        &self,
        name: &str,
        index: u32,
        interface: impl Fn(u32) -> Interface,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let netlink = Netlink::new()?;
            netlink.move_into(index, &self.namespace).await
        })?;
        self.namespace.enter(&self.path)?;
        enable_ipv6(name).map_err(|error| {
            let what = format!(
                "cannot enable IPv6 on {name} in {}: {error}",
                self.path.display()
            );
            Failure::new(Exit::Failed, what)
        })?;
        let Some(present) = self.find(name)? else {
            let what = format!("{name} has gone from {} at once", self.path.display());
            return Err(Failure::new(Exit::Failed, what));
        };
        let interface = interface(present.index);
        Ok(self
            .runtime
            .block_on(self.netlink.configure_workload(&interface))?)
    }
}

/// Container engines switch IPv6 off where they give no addresses of it.
fn enable_ipv6(interface: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net/ipv6/conf")
        .join(interface)
        .join("disable_ipv6");
    match fs::read_to_string(&path) {
        Ok(value) if value.trim() == "0" => Ok(()),
        Ok(_) => fs::write(&path, "0"),
        // Without IPv6 in the kernel; the address says so better.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn usage(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Usage, error.to_string()).next("meshd help attach")
}

impl From<NamespaceError> for Failure {
    fn from(error: NamespaceError) -> Self {
        match &error {
            NamespaceError::Missing { .. } => {
                Self::of(Exit::NoSuchName, &error).next("ip netns list     or: lsns -t net")
            }
            NamespaceError::Other { .. } | NamespaceError::Own { .. } => {
                Self::of(Exit::Usage, &error).next("lsns -t net")
            }
            NamespaceError::NotPermitted { .. } => {
                Self::of(Exit::Permission, &error).next("the same command with sudo")
            }
            NamespaceError::Kernel { .. } => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match &error {
            OpenError::NotPermitted { .. } => Exit::Permission,
            OpenError::BadName { .. } => Exit::Usage,
            OpenError::NoDriver | OpenError::InUse { .. } | OpenError::Kernel { .. } => {
                Exit::Failed
            }
        };
        Self::of(exit, &error)
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        let exit = match &error {
            NetlinkError::NotPermitted { .. } => Exit::Permission,
            NetlinkError::NoIpv6 { .. }
            | NetlinkError::Kernel { .. }
            | NetlinkError::Protocol { .. } => Exit::Failed,
        };
        Self::of(exit, &error)
    }
}
