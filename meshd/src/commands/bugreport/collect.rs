//! Asks the daemon, the configuration, the state directory and the machine. Any of them may have no answer; that is told as well.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use wireguard::PublicKey;

use super::super::program;
use super::{Report, Section, facts};
use crate::admin::client::Client;
use crate::admin::{LogLine, LogLines, PeerKind, Status};
use crate::config::{Config, ConfigError, PeerAddress, Source};
use crate::control::chain;
use crate::journal::Journal;
use crate::redact::{Detail, Redactor, Who};
use crate::state::{StateDir, Stock};
use crate::workload::Target;

/// Everything that there is to tell.
pub(super) fn report(source: &Source, detail: Detail) -> Report {
    let config = source.config();
    let Config {
        node,
        api,
        interface,
        ..
    } = config
        .as_ref()
        .map_or_else(|_| Config::default(), Clone::clone);
    let client = Client::new(source.socket.as_ref().unwrap_or(&api.socket));
    let state = StateDir::open(source.state_dir.as_ref().unwrap_or(&node.state_dir));
    let (status, devices) = (client.status(), client.devices());
    let interface = status
        .as_ref()
        .map_or(interface.name, |status| status.interface.name.clone());

    // Before anything is told, so that everybody has the same stand-in from the first line to the last.
    let mut redactor = Redactor::new(detail);
    redactor.keep(&interface);
    if let Ok(status) = &status {
        know_running(&mut redactor, status);
    }
    for member in client.members().iter().flat_map(|members| &members.members) {
        let who = if member.own { Who::Own } else { Who::Peer };
        redactor.know(who, member.name.as_deref(), Some(&member.public_key));
        for tag in &member.tags {
            redactor.know(Who::Other, Some(tag), None);
        }
    }
    for device in devices.iter().flat_map(|devices| &devices.devices) {
        redactor.know(Who::Device, Some(&device.name), Some(&device.public_key));
    }
    if let Ok(config) = &config {
        know_configured(&mut redactor, config);
    }
    if let Ok(state) = &state {
        know_added(&mut redactor, state);
    }
    know_host(&mut redactor);

    let version = status
        .as_ref()
        .ok()
        .map(|status| status.node.version.clone());
    let mut collection = Collection {
        redactor,
        missing: Vec::new(),
        sections: Vec::new(),
    };
    collection.text("versions", &facts::versions(version.as_deref()));
    match client.process() {
        Ok(Some(process)) => collection.text("the daemon's process", &facts::process(process)),
        Ok(None) => collection.text("the daemon's process", "not to be seen from here"),
        Err(error) => collection.lacks("the daemon's process", &error),
    }
    match status {
        Ok(status) => collection.answer("status", &status),
        // The process is not there for the same reason.
        Err(error) => collection.prose("status", &chain(&error)),
    }
    match devices {
        Ok(devices) => collection.answer("stock devices", &devices),
        Err(error) => collection.prose("stock devices", &chain(&error)),
    }
    match client.log_lines() {
        Ok(log) => collection.prose("the log, latest lines", &with_ages(log)),
        Err(error) => collection.prose("the log, latest lines", &chain(&error)),
    }
    collection.configuration(source, &config);
    match state {
        Ok(state) => collection.text("the state directory", &listing(&state)),
        Err(error) => collection.lacks("the state directory", &error),
    }
    collection.text("the overlay in the kernel", &facts::overlay(&interface));
    collection.text("the underlay", &facts::underlay());
    collection.text("settings of the kernel", &facts::settings(&interface));
    if facts::has_systemd() {
        collection.prose("the service", &program::run(facts::SERVICE));
        collection.prose("the journal, latest lines", &program::run(facts::JOURNAL));
    }
    Report {
        path: None,
        redacted: detail == Detail::Redacted,
        missing: collection.missing,
        sections: collection.sections,
    }
}

fn know_running(redactor: &mut Redactor, status: &Status) {
    let node = &status.node;
    redactor.know(Who::Own, Some(&node.name), Some(&node.public_key));
    for peer in &status.peers {
        let who = match peer.kind {
            PeerKind::Mesh => Who::Peer,
            PeerKind::Stock => Who::Device,
        };
        redactor.know(who, Some(&peer.name), Some(&peer.public_key));
    }
    for workload in &status.workloads {
        redactor.know(Who::Other, Some(&workload.name), None);
        let target = workload.target.parse::<Target>().ok();
        redactor.know(Who::Other, target.as_ref().and_then(Target::name), None);
    }
    if let Some(network) = &status.network {
        redactor.know(Who::Other, Some(&network.id), None);
        redactor.know(Who::Other, network.name.as_deref(), None);
        for invite in &network.invites {
            redactor.know(Who::Other, invite.name.as_deref(), None);
        }
    }
}

fn know_configured(redactor: &mut Redactor, config: &Config) {
    let key = |text: &str| text.parse::<PublicKey>().ok();
    redactor.know(Who::Own, Some(&config.node.name), None);
    for peer in &config.peers {
        let address = peer
            .address
            .as_ref()
            .and_then(|text| text.parse::<PeerAddress>().ok());
        let by_address = address.map(|address| address.node.public_key());
        let public_key = peer.public_key.as_deref().and_then(key).or(by_address);
        redactor.know(Who::Peer, peer.name.as_deref(), public_key.as_ref());
        peer.endpoint
            .0
            .iter()
            .for_each(|endpoint| redactor.know_endpoint(endpoint));
    }
    for text in &config.node.allow_keys {
        redactor.know(Who::Peer, None, key(text).as_ref());
    }
    for stock in &config.wireguard.stock {
        redactor.know(
            Who::Device,
            Some(&stock.name),
            key(&stock.public_key).as_ref(),
        );
        stock
            .endpoint
            .0
            .iter()
            .for_each(|endpoint| redactor.know_endpoint(endpoint));
    }
    for workload in &config.workload {
        redactor.know(Who::Other, Some(&workload.name), None);
        redactor.know(Who::Other, workload.netns.rsplit('/').next(), None);
    }
    redactor.know(Who::Other, Some(&config.api.group), None);
}

fn know_added(redactor: &mut Redactor, state: &StateDir) {
    // A file that cannot be read has told nobody's name.
    let added = state.read::<Stock>().ok().flatten().unwrap_or_default();
    for device in added.devices {
        redactor.know(Who::Device, Some(&device.name), Some(&device.public_key));
    }
}

/// What the machine is called, in whole and up to the first dot.
fn know_host(redactor: &mut Redactor) {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    for name in [host.as_ref(), host.split('.').next().unwrap_or_default()] {
        if name != "localhost" {
            redactor.know(Who::Own, Some(name), None);
        }
    }
}

/// What has been told so far.
struct Collection {
    redactor: Redactor,
    missing: Vec<String>,
    sections: Vec<Section>,
}

impl Collection {
    fn section(&mut self, title: &'static str, text: String) {
        self.sections.push(Section { title, text });
    }

    /// What programs print and files hold.
    fn text(&mut self, title: &'static str, text: &str) {
        let text = self.redactor.text(text);
        self.section(title, text);
    }

    /// What people or the log have written.
    fn prose(&mut self, title: &'static str, text: &str) {
        let lines = text.lines().map(|line| self.redactor.prose(line) + "\n");
        let text = lines.collect();
        self.section(title, text);
    }

    /// Something is not there, and whoever reads only the summary is to know.
    fn lacks(&mut self, title: &'static str, error: &(dyn Error + 'static)) {
        let text = self.redactor.prose(&chain(error));
        self.missing.push(text.clone());
        self.section(title, text);
    }

    /// What the daemon said.
    fn answer(&mut self, title: &'static str, answer: &impl Serialize) {
        let text = serde_json::to_value(answer).map(|mut value| {
            self.redactor.json(&mut value);
            format!("{value:#}")
        });
        self.section(title, text.unwrap_or_else(|error| error.to_string()));
    }

    fn configuration(&mut self, source: &Source, config: &Result<Config, ConfigError>) {
        let mut text = self.redactor.text(&source.path.display().to_string()) + "\n";
        let refused = config.as_ref().err();
        let faults = match refused {
            Some(_) => None,
            None => source.load().err(),
        };
        if let Some(error) = refused.or(faults.as_ref()) {
            text += &self.faults(error);
        }
        if let Ok(Ok(mut value)) = config.as_ref().map(serde_json::to_value) {
            self.redactor.config(&mut value);
            text += &to_toml(value);
        }
        self.section("the configuration", text);
    }

    fn faults(&mut self, error: &ConfigError) -> String {
        match error {
            ConfigError::Read { .. } => self.redactor.prose(&chain(error)) + "\n",
            ConfigError::Invalid { faults, .. } => {
                let fault = |fault: &crate::config::Fault| {
                    let line = fault
                        .line
                        .map_or_else(|| "?".to_owned(), |line| line.to_string());
                    let message = self.redactor.fault(&fault.message);
                    format!("! line {line}: {}: {message}\n", fault.key)
                };
                faults.iter().map(fault).collect()
            }
        }
    }
}

fn to_toml(value: Value) -> String {
    toml::to_string(&value).unwrap_or_else(|error| format!("not to be written as TOML: {error}"))
}

fn with_ages(log: LogLines) -> String {
    let line = |LogLine { age_ms, text }| {
        let age = Duration::from_millis(age_ms).as_secs_f64();
        format!("{age:9.1} s ago  {text}\n")
    };
    log.lines.into_iter().map(line).collect()
}

/// What files there are, and what is written down of the kernel; what else they hold is the daemon's to tell.
fn listing(state: &StateDir) -> String {
    let mut lines = vec![state.path().display().to_string()];
    match fs::read_dir(state.path()) {
        Ok(entries) => {
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            lines.extend(entries.iter().map(|entry| {
                let name = entry.file_name();
                match entry.metadata() {
                    Ok(meta) => format!(
                        "{:04o} user {} {:>7} bytes, {} s old  {}",
                        meta.mode() & 0o7777,
                        meta.uid(),
                        meta.len(),
                        age(&meta),
                        name.display()
                    ),
                    Err(error) => format!("{}: {error}", name.display()),
                }
            }));
        }
        Err(error) => lines.push(error.to_string()),
    }
    lines.push(match state.read::<Journal>() {
        Ok(journal) => format!("left in the kernel: {journal:?}"),
        Err(error) => chain(&error),
    });
    lines.join("\n")
}

fn age(meta: &fs::Metadata) -> String {
    let age = meta.modified().map(|modified| modified.elapsed());
    // A clock that was set back makes files of the future.
    match age {
        Ok(Ok(age)) => age.as_secs().to_string(),
        Ok(Err(ahead)) => format!("-{}", ahead.duration().as_secs()),
        Err(_) => "?".to_owned(),
    }
}
