//! What a reload changes.

use std::collections::BTreeMap;

use super::settings::{LogSettings, PeerSettings, Settings, StockSettings, WorkloadSettings};
use crate::identity::NodeId;

/// The differences between two [`Settings`], in words for the person who reloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What takes effect at once: peers, stock devices, workloads, admission, relaying, inbound, log level.
    pub applied: Vec<String>,
    /// What takes effect after a restart of the daemon, by key.
    pub restart: Vec<String>,
}

impl Settings {
    /// What has to change for a daemon that runs with `self` to run with `new`.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        let name = |node: &NodeId| node.address().to_string();
        compare(
            &mut changes.applied,
            "peer",
            &self.peers_by_name(),
            &new.peers_by_name(),
        );
        compare(
            &mut changes.applied,
            "device",
            &self.stock_by_name(),
            &new.stock_by_name(),
        );
        compare(
            &mut changes.applied,
            "workload",
            &self.workloads_by_name(),
            &new.workloads_by_name(),
        );
        for node in new.allow_keys.difference(&self.allow_keys) {
            changes
                .applied
                .push(format!("allowed key of {} added", name(node)));
        }
        for node in self.allow_keys.difference(&new.allow_keys) {
            changes
                .applied
                .push(format!("allowed key of {} removed", name(node)));
        }
        let live = [
            ("node.open", self.admission != new.admission),
            ("node.relay", self.relay.relay != new.relay.relay),
            ("node.relay_mbit", self.relay.mbit != new.relay.mbit),
            ("inbound.default", self.inbound != new.inbound),
            ("log.level", self.log.level != new.log.level),
        ];
        let restart = [
            ("node.name", self.name != new.name),
            ("node.state_dir", self.state_dir != new.state_dir),
            ("interface.name", self.interface.name != new.interface.name),
            ("interface.mtu", self.interface.mtu != new.interface.mtu),
            (
                "interface.queues",
                self.interface.queues != new.interface.queues,
            ),
            ("wireguard.listen", self.listen != new.listen),
            (
                "wireguard.port_mapping",
                self.port_mapping != new.port_mapping,
            ),
            (
                "wireguard.stream_listen",
                self.stream_listen != new.stream_listen,
            ),
            (
                "control.enabled",
                self.control.enabled != new.control.enabled,
            ),
            ("control.listen", self.control.listen != new.control.listen),
            ("control.mdns", self.control.mdns != new.control.mdns),
            ("control.dht", self.control.dht != new.control.dht),
            ("api.socket", self.api.socket != new.api.socket),
            ("api.group", self.api.group != new.api.group),
            ("log.format", self.log.format != new.log.format),
            ("metrics.listen", self.metrics != new.metrics),
            ("dns.mode", self.dns.mode != new.dns.mode),
            ("dns.domain", self.dns.domain != new.dns.domain),
        ];
        let named = |keys: &[(&str, bool)]| -> Vec<String> {
            keys.iter()
                .filter(|(_, changed)| *changed)
                .map(|(key, _)| (*key).to_owned())
                .collect()
        };
        changes.applied.extend(named(&live));
        changes.restart.extend(named(&restart));
        changes
    }

    fn peers_by_name(&self) -> BTreeMap<&str, &PeerSettings> {
        self.peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer))
            .collect()
    }

    fn stock_by_name(&self) -> BTreeMap<&str, &StockSettings> {
        self.stock
            .iter()
            .map(|stock| (stock.name.as_str(), stock))
            .collect()
    }

    fn workloads_by_name(&self) -> BTreeMap<&str, &WorkloadSettings> {
        self.workloads
            .iter()
            .map(|workload| (workload.name.as_str(), workload))
            .collect()
    }

    /// These settings with everything that only a restart can change taken from `running`: what a daemon that runs
    /// with `running` may adopt now.
    #[must_use]
    pub fn live(self, running: &Self) -> Self {
        let running = running.clone();
        Self {
            name: running.name,
            state_dir: running.state_dir,
            interface: running.interface,
            listen: running.listen,
            port_mapping: running.port_mapping,
            stream_listen: running.stream_listen,
            control: running.control,
            api: running.api,
            metrics: running.metrics,
            dns: running.dns,
            log: LogSettings {
                level: self.log.level,
                format: running.log.format,
            },
            ..self
        }
    }
}

/// Notes which entries came, went, or became different.
fn compare<T: PartialEq>(
    changes: &mut Vec<String>,
    noun: &str,
    old: &BTreeMap<&str, &T>,
    new: &BTreeMap<&str, &T>,
) {
    for (name, entry) in new {
        match old.get(name) {
            None => changes.push(format!("{noun} {name} added")),
            Some(before) if before != entry => changes.push(format!("{noun} {name} changed")),
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(format!("{noun} {name} removed"));
    }
}
