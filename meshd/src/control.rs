//! What the admin socket, the metrics and the signals act on: the running daemon, seen from the control thread.

mod network;

use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::sync::{Mutex, watch};
use tracing::{debug, info, warn};
use wireguard::PublicKey;

use crate::{
    admin::{self, ErrorBody, ErrorCode, WarningCode, server::refusal},
    alerts::Alerts,
    clock_watch::Reading,
    config::{self, Settings, Source},
    control_plane::ControlPlane,
    driver::{NodeHandle, NodeLoop},
    identity::NodeId,
    io::{
        clock::Clock,
        netlink::Netlink,
        tun::{Persistence, Tun},
    },
    network::Network,
    node::Seen,
    notify::Notifier,
    state::{self, PeerSeen, StateDir, StateError, Stock},
    telemetry::Telemetry,
    workload::{AttachError, NoSuchWorkload, Wish},
};

/// Packet threads let go of a device after their current batch.
const LET_GO: Duration = Duration::from_secs(1);
/// How old a remembered sign of life may get.
const REMEMBER_AGAIN: Duration = Duration::from_secs(300);

/// What the admin socket and the signals act on.
#[derive(Debug)]
pub struct Control {
    /// The node loop.
    pub node: NodeHandle,
    pub(crate) source: Source,
    pub(crate) own: NodeId,
    pub(crate) running: Mutex<Settings>,
    pub(crate) state: StateDir,
    pub(crate) port: u16,
    pub(crate) netlink: Netlink,
    /// The underlay has changed.
    pub(crate) network_changed: watch::Sender<()>,
    pub(crate) telemetry: Telemetry,
    pub(crate) notifier: Notifier,
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) clock: Clock,
    /// What the clocks said when the daemon started.
    pub(crate) started: Reading,
    pub(crate) plane: ControlPlane,
    /// The network that the node is in.
    pub(crate) network: watch::Sender<Network>,
}

impl Control {
    /// Everything that `meshd status` shows.
    ///
    /// # Errors
    /// The node loop does not answer.
    pub async fn status(&self) -> Result<admin::Status, ErrorBody> {
        let mut status = self
            .node
            .call(|node_loop, now| node_loop.node.status(now))
            .await?;
        status.control = self.plane.report();
        status
            .warnings
            .extend(self.alerts.warnings(self.clock.now()));
        Ok(status)
    }

    /// Writes a state file, and lets `status` say whether that works.
    fn write<T: state::Record>(&self, record: &T) -> Result<(), StateError> {
        let written = self.state.write(record);
        note_write(&self.alerts, &written);
        written
    }

    /// Reads the configuration again and adopts what can change while running. One at a time.
    ///
    /// # Errors
    /// [`ErrorCode::Config`]: the configuration that ran stays in effect.
    pub async fn reload(&self) -> Result<admin::Reload, ErrorBody> {
        let mut running = self.running.lock().await;
        self.notifier.reloading();
        let reloaded = self.adopt(&mut running).await;
        match &reloaded {
            Ok(_) => self.notifier.ready(&self.summary()),
            Err(error) => self.notifier.ready(&format!(
                "Runs with its former configuration: {}",
                error.error
            )),
        }
        reloaded
    }

    /// One line about the node, for `systemctl status`.
    pub(crate) fn summary(&self) -> String {
        format!("{}, UDP port {}", self.own.address(), self.port)
    }

    async fn adopt(&self, running: &mut Settings) -> Result<admin::Reload, ErrorBody> {
        let new = self.source.load_for(self.own).map_err(|error| {
            let text = format!("{:#}", anyhow::Error::new(error));
            refusal(
                ErrorCode::Config,
                &text,
                "correct the file, then: meshd reload",
            )
        })?;
        let added = self
            .node
            .call(|node_loop, _| node_loop.node.added_devices())
            .await?;
        if let Some((device, text)) = new.twice(&added) {
            let hint = format!(
                "sudo meshd wg remove {} && sudo meshd reload     or change the configuration",
                device.name
            );
            return Err(refusal(ErrorCode::Config, &text, &hint));
        }
        let changes = running.changes(&new);
        let warnings = new.warnings.clone();
        let live = new.live(running);
        let settings = live.clone();
        self.node
            .call(move |node_loop, now| node_loop.node.handle_settings(&settings, now))
            .await?;
        self.telemetry.set_level(live.log.level);
        self.alerts.clear(WarningCode::DeviceTwice);
        *running = live;
        self.plane.touch();
        info!(
            applied = changes.applied.len(),
            restart = changes.restart.len(),
            "Configuration reloaded"
        );
        Ok(admin::Reload {
            applied: changes.applied,
            restart: changes.restart,
            warnings,
        })
    }

    /// Lets a stock device join, and remembers it.
    ///
    /// # Errors
    /// Those of the node; and if it cannot be remembered, in which case it is not added.
    pub async fn add_device(
        &self,
        name: &str,
        key: PublicKey,
    ) -> Result<std::net::Ipv6Addr, ErrorBody> {
        if !config::is_label(name) {
            let error =
                format!("`{name}` is no name: 1 to 63 lower-case letters, digits and hyphens");
            return Err(refusal(ErrorCode::Usage, &error, "meshd wg add phone"));
        }
        // Held over the write, so that two requests do not overwrite each other's file.
        let _running = self.running.lock().await;
        let own_name = name.to_owned();
        let (address, devices) = self
            .node
            .call(move |node_loop, now| {
                let address = node_loop.node.add_device(&own_name, key, now)?;
                Ok::<_, crate::node::CommandError>((address, node_loop.node.added_devices()))
            })
            .await??;
        if let Err(error) = self.write(&Stock { devices }) {
            let own_name = name.to_owned();
            self.node
                .call(move |node_loop, now| node_loop.node.remove_device(&own_name, now))
                .await??;
            return Err(not_remembered(error));
        }
        Ok(address)
    }

    /// Takes a stock device away, for good.
    ///
    /// # Errors
    /// Those of the node; and if the removal cannot be remembered: the device is out until the daemon restarts.
    pub async fn remove_device(&self, name: &str) -> Result<(), ErrorBody> {
        let running = self.running.lock().await;
        let (name, settings) = (name.to_owned(), running.clone());
        let devices = self
            .node
            .call(move |node_loop, now| {
                node_loop.node.remove_device(&name, now)?;
                let left = node_loop.node.added_devices();
                // The configuration may have had an entry for the same key, which counts from now on.
                node_loop.node.handle_settings(&settings, now);
                Ok::<_, crate::node::CommandError>(left)
            })
            .await??;
        match running.twice(&devices) {
            Some((_, text)) => self.alerts.raise(WarningCode::DeviceTwice, text),
            None => self.alerts.clear(WarningCode::DeviceTwice),
        }
        self.write(&Stock { devices }).map_err(not_remembered)
    }

    /// All workloads, and what one more would have to know.
    ///
    /// # Errors
    /// The node loop does not answer.
    pub async fn workloads(&self) -> Result<admin::Workloads, ErrorBody> {
        let workloads = self
            .node
            .call(|node_loop, now| node_loop.node.workloads(now))
            .await?;
        Ok(admin::Workloads {
            prefix: self.own.prefix(),
            mtu: self.running.lock().await.interface.mtu,
            workloads,
        })
    }

    /// Attaches a workload by the device that came with the request, and remembers it; without a device, changes what one publishes.
    ///
    /// # Errors
    /// [`AttachError`], or it cannot be remembered, in which case it is not attached.
    pub async fn attach_workload(
        &self,
        request: admin::AttachWorkload,
        device: Option<OwnedFd>,
    ) -> Result<admin::WorkloadAttached, ErrorBody> {
        let wish = request.wish()?;
        // Held over the write, so that two requests do not overwrite each other's file.
        let _running = self.running.lock().await;
        let attached = match device {
            Some(device) => self.adopt_device(wish, device).await?,
            None => {
                let publish = move |node_loop: &mut NodeLoop, now| {
                    let workload = node_loop.node.publish(&wish.name, wish.publish)?;
                    Ok::<_, NoSuchWorkload>(admin::Workload::of(&workload, now))
                };
                self.node.call(publish).await??
            }
        };
        if let Err(error) = self.remember_workloads().await {
            let name = attached.name.clone();
            let detached = self.node.call(move |node_loop, _| node_loop.detach(&name));
            if let (_, Some(device)) = detached.await?? {
                remove_device(device).await;
            }
            return Err(error);
        }
        Ok(admin::WorkloadAttached { workload: attached })
    }

    async fn adopt_device(
        &self,
        wish: Wish,
        device: OwnedFd,
    ) -> Result<admin::Workload, ErrorBody> {
        let refused = |error: &(dyn std::error::Error + 'static)| {
            refusal(ErrorCode::Usage, &chain(error), "meshd attach")
        };
        let tun = Tun::adopt(device).map_err(|error| refused(&error))?;
        let tun = Arc::new(tun);
        let kept = Arc::clone(&tun);
        let attach = move |node_loop: &mut NodeLoop, now| {
            let workload = node_loop.attach(wish, tun, now)?;
            Ok::<_, AttachError>(admin::Workload::of(&workload, now))
        };
        let attached = self.node.call(attach).await??;
        // Only now, so that a device that was refused goes with its descriptor.
        kept.set_persistence(Persistence::Stays)
            .map_err(|error| refused(&error))?;
        Ok(attached)
    }

    /// Detaches a workload, and forgets it. Its interface is gone when this returns.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be forgotten.
    pub async fn detach_workload(&self, name: &str) -> Result<admin::WorkloadDetached, ErrorBody> {
        let _running = self.running.lock().await;
        let name = name.to_owned();
        let detach = move |node_loop: &mut NodeLoop, now| {
            let (workload, device) = node_loop.detach(&name)?;
            Ok::<_, NoSuchWorkload>((admin::Workload::of(&workload, now), device))
        };
        let (workload, device) = self.node.call(detach).await??;
        if let Some(device) = device {
            remove_device(device).await;
        }
        self.remember_workloads().await?;
        Ok(admin::WorkloadDetached { workload })
    }

    /// Writes down which workloads are to be brought back after a restart.
    pub(crate) async fn remember_workloads(&self) -> Result<(), ErrorBody> {
        let workloads = self
            .node
            .call(|node_loop, _| node_loop.node.workloads_to_remember())
            .await?;
        let workloads = workloads.into_iter().map(admin::AttachWorkload::of);
        let record = state::Workloads {
            workloads: workloads.collect(),
        };
        self.write(&record).map_err(not_remembered)
    }

    /// Changes the level of the log until the next reload or start.
    pub fn set_log_level(&self, level: config::LogLevel) {
        self.telemetry.set_level(level);
        info!(?level, "Log level set");
    }

    /// The latest lines of the log.
    pub fn log_lines(&self) -> admin::LogLines {
        let line = |(age, text): (Duration, String)| admin::LogLine {
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            text,
        };
        let lines = self.telemetry.recent().lines();
        admin::LogLines {
            lines: lines.into_iter().map(line).collect(),
        }
    }

    /// The UDP port of the WireGuard sockets.
    pub fn listen_port(&self) -> u16 {
        self.port
    }

    /// An address of this machine at which others can probably reach it.
    pub async fn guess_address(&self) -> Option<IpAddr> {
        match self.netlink.local_addresses().await {
            Ok(addresses) => addresses.first().copied(),
            Err(error) => {
                debug!(%error, "Local addresses unknown");
                None
            }
        }
    }

    /// Writes down where peers are, if they have moved since `last`, or if that was long ago.
    pub(crate) async fn remember(&self, last: &mut Remembered) {
        let Ok(seen) = self
            .node
            .call(|node_loop, now| node_loop.node.seen(now))
            .await
        else {
            return;
        };
        let now = Reading::now(self.clock).unix(self.started).as_secs();
        let peer = |(key, seen): (PublicKey, Seen)| PeerSeen {
            public_key: key,
            endpoints: seen.endpoints,
            seen: now.saturating_sub(seen.age.as_secs()),
        };
        let record = state::Peers {
            peers: seen.into_iter().map(peer).collect(),
        };
        if !last.is_outdated_by(&record) {
            return;
        }
        match self.write(&record) {
            Ok(()) => last.0 = record,
            Err(error) => {
                warn!(error = %format!("{:#}", anyhow::Error::new(error)), "Peers not remembered");
            }
        }
    }
}

/// What was last written of peers.
#[derive(Debug, Default)]
pub(crate) struct Remembered(state::Peers);

impl Remembered {
    /// Whether a file is worth its write: somebody is elsewhere, or was heard of five minutes later.
    fn is_outdated_by(&self, now: &state::Peers) -> bool {
        let is_same = |(old, new): (&PeerSeen, &PeerSeen)| {
            old.public_key == new.public_key
                && old.endpoints == new.endpoints
                && new.seen.saturating_sub(old.seen) < REMEMBER_AGAIN.as_secs()
        };
        self.0.peers.len() != now.peers.len() || !self.0.peers.iter().zip(&now.peers).all(is_same)
    }
}

/// Removes the device of a workload that packet threads are about to let go of. Removing it takes the kernel some time, which must not
/// be theirs.
pub(crate) async fn remove_device(device: Arc<Tun>) {
    if let Err(error) = device.set_persistence(Persistence::Goes) {
        debug!(%error, "A workload's interface was gone already");
    }
    let patience = tokio::time::Instant::now() + LET_GO;
    while Arc::strong_count(&device) > 1 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let removed = tokio::task::spawn_blocking(move || drop(device));
    if removed.await.is_err() {
        warn!("A workload's interface was not removed");
    }
}

fn not_remembered(error: StateError) -> ErrorBody {
    let text = format!("{:#}", anyhow::Error::new(error));
    refusal(
        ErrorCode::Failed,
        &format!("cannot write it down: {text}"),
        "df -h; then try again",
    )
}

/// Remembers whether the state directory can be written.
pub(crate) fn note_write(alerts: &Alerts, written: &Result<(), StateError>) {
    match written {
        Ok(()) => alerts.clear(WarningCode::StateReadonly),
        Err(error) => alerts.raise(WarningCode::StateReadonly, chain(error)),
    }
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
