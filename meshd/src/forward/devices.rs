//! The TUN devices of attached workloads: handed over while the daemon runs, and gone when a workload is detached or its namespace dies.

use std::{fmt, io, net::Ipv6Addr, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    io::{tun::Tun, wake::Wake},
    workload::{WorkloadId, WorkloadStats},
};

/// The devices by their attachments. The node loop adds and removes, one packet thread reads from them, and all write to them.
pub struct Devices {
    table: ArcSwap<Table>,
    /// Wakes the thread that reads: the table has changed.
    wake: Wake,
}

/// The device of an attached workload.
#[derive(Clone, Debug)]
pub struct Device {
    /// Names the attachment.
    pub id: WorkloadId,
    /// The workload's address: what comes from the device has it as its source.
    pub address: Ipv6Addr,
    /// The device.
    pub tun: Arc<Tun>,
    /// What is noted about the workload.
    pub stats: Arc<WorkloadStats>,
}

/// The devices that there are now, in the order of their attachments.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) Vec<Device>);

impl Table {
    pub(super) fn get(&self, id: WorkloadId) -> Option<&Device> {
        let at = self.0.binary_search_by_key(&id, |device| device.id).ok()?;
        self.0.get(at)
    }
}

impl Devices {
    /// None yet.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            table: ArcSwap::default(),
            wake: Wake::new()?,
        })
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Adds the device of a new attachment.
    pub fn add(&self, device: Device) {
        let mut devices = self.table.load().0.clone();
        devices.push(device);
        devices.sort_unstable_by_key(|device| device.id);
        self.publish(devices);
    }

    /// Takes the device of an attachment away. Packet threads let go of it soon.
    pub fn remove(&self, id: WorkloadId) -> Option<Arc<Tun>> {
        let mut devices = self.table.load().0.clone();
        let at = devices.iter().position(|device| device.id == id)?;
        let device = devices.remove(at);
        self.publish(devices);
        Some(device.tun)
    }

    fn publish(&self, devices: Vec<Device>) {
        self.table.store(Arc::new(Table(devices)));
        if let Err(error) = self.wake.wake() {
            tracing::error!(%error, "The thread of workloads cannot be woken");
        }
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices")
            .field("devices", &self.table.load().0.len())
            .finish_non_exhaustive()
    }
}
