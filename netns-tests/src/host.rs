//! One network namespace, and what is done inside it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::daemon::{Daemon, Settings};
use crate::lab::Site;
use crate::process::{self, Output, Process};
use crate::wait::{secs, wait_until};

/// How long a command may take whose caller names no limit.
const PATIENCE: Duration = secs(30);

/// A network namespace of the lab. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    site: Arc<Site>,
    name: String,
    namespace: String,
    directory: PathBuf,
    interfaces: AtomicU32,
    logs: AtomicU32,
    daemons: Mutex<Vec<Daemon>>,
    captures: Mutex<Vec<Process>>,
}

impl Host {
    pub(crate) fn new(site: &Arc<Site>, name: &str) -> Self {
        let namespace = site.namespace(name);
        let directory = site.directory().join(name);
        std::fs::create_dir_all(&directory)
            .unwrap_or_else(|err| panic!("cannot make {}: {err}", directory.display()));
        let host = Self(Arc::new(Inner {
            site: site.clone(),
            name: name.to_owned(),
            namespace,
            directory,
            interfaces: AtomicU32::new(0),
            logs: AtomicU32::new(0),
            daemons: Mutex::default(),
            captures: Mutex::default(),
        }));
        run_outside(&format!("ip netns add {}", host.namespace()));
        // Addresses are usable at once: a lab has no duplicates to detect.
        host.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        // An address taken away must not take along the one that replaces it.
        host.run("sysctl -qw net.ipv4.conf.all.promote_secondaries=1 net.ipv4.conf.default.promote_secondaries=1");
        host.run("ip link set lo up");
        host
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of its network namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Where its files are: configurations, state, logs, captures.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Where the sockets of its daemons are; the path is short, as a socket's must be.
    pub fn sockets(&self) -> &Path {
        self.0.site.sockets()
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.0.site
    }

    /// Runs a command line (split at spaces; no quotes) and returns its standard output.
    ///
    /// # Panics
    /// When it fails or takes more than half a minute.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.try_run(line)
            .unwrap_or_else(|err| panic!("{}: {line}: {err}", self.name()))
    }

    /// Runs a command line that may fail.
    ///
    /// # Errors
    /// Its exit status and what it said.
    pub fn try_run(&self, line: &str) -> Result<String, String> {
        self.output(line, PATIENCE)?.success()
    }

    /// Runs a command line and returns everything about its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn output(&self, line: &str, within: Duration) -> Result<Output, String> {
        process::run(self.command(&words(line)), "", within)
    }

    /// Runs a command with arguments of its own right (they may hold spaces) and standard input.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn output_of(
        &self,
        argv: &[&str],
        input: &str,
        within: Duration,
    ) -> Result<Output, String> {
        process::run(self.command(argv), input, within)
    }

    /// Starts a command line that runs beside the test, from the thread that runs the test: it ends with that thread.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(&self, line: &str) -> Process {
        let mut command = self.command(&words(line));
        command.stdin(Stdio::null());
        self.start(command, line)
    }

    #[track_caller]
    pub(crate) fn spawn_with_input(&self, argv: &[&str]) -> Process {
        let mut command = self.command(argv);
        command.stdin(Stdio::piped());
        self.start(command, &argv.join(" "))
    }

    #[track_caller]
    fn start(&self, command: Command, line: &str) -> Process {
        let program = line
            .split_whitespace()
            .next()
            .and_then(|word| word.rsplit('/').next())
            .unwrap_or("process");
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.directory().join(format!("{number}-{program}.log"));
        Process::start(command, line, &log).unwrap_or_else(|err| panic!("{}: {err}", self.name()))
    }

    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let mut command = process::command(Some(self.namespace()), argv);
        command.current_dir(self.directory());
        command
    }

    /// A name for its next interface: `eth0`, `eth1`, …
    pub(crate) fn next_interface(&self) -> String {
        format!("eth{}", self.0.interfaces.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether one echo request is answered within a second.
    ///
    /// # Errors
    /// What `ping` said.
    pub fn ping(&self, target: impl Into<IpAddr>) -> Result<(), String> {
        self.ping_within(target, secs(1))
    }

    /// Whether one echo request is answered within that time.
    ///
    /// # Errors
    /// What `ping` said.
    pub fn ping_within(&self, target: impl Into<IpAddr>, within: Duration) -> Result<(), String> {
        self.try_run(&format!(
            "ping -n -c 1 -W {} {}",
            within.as_secs_f64(),
            target.into()
        ))
        .map(drop)
    }

    /// Gives an interface one more address (`address/length`).
    #[track_caller]
    pub fn set_address(&self, interface: &str, address: &str) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.run(&format!("ip addr add {address} dev {interface}{nodad}"));
    }

    /// Replaces an address (`address/length`) by another: first the old one goes, then the new one comes, as when a host moves.
    /// (The other way round, an IPv4 address of the same network would be a secondary one, and go with its primary.)
    #[track_caller]
    pub fn replace_address(&self, interface: &str, old: &str, new: &str) {
        self.run(&format!("ip addr del {old} dev {interface}"));
        self.set_address(interface, new);
    }

    /// Takes an interface down.
    #[track_caller]
    pub fn link_down(&self, interface: &str) {
        self.run(&format!("ip link set {interface} down"));
    }

    /// Brings an interface up.
    #[track_caller]
    pub fn link_up(&self, interface: &str) {
        self.run(&format!("ip link set {interface} up"));
    }

    /// Adds a default route by way of `gateway`, IPv4 or IPv6.
    #[track_caller]
    pub fn route_by(&self, gateway: impl Into<IpAddr>) {
        let gateway = gateway.into();
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.run(&format!("ip {family} route replace default via {gateway}"));
    }

    /// Makes it forward packets, both families.
    #[track_caller]
    pub fn forward(&self) {
        self.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    }

    /// Captures what passes an interface into `<directory>/<number>-<interface>.pcap`, from the moment this returns.
    ///
    /// # Panics
    /// When `tcpdump` does not start within ten seconds.
    #[track_caller]
    pub fn capture(&self, interface: &str) -> PathBuf {
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let file = self.directory().join(format!("{number}-{interface}.pcap"));
        let mut tcpdump = self.spawn(&format!(
            "tcpdump -n -U --immediate-mode -Z root -i {interface} -w {}",
            file.display()
        ));
        wait_until(secs(10), "tcpdump listens", || match tcpdump.status() {
            None if tcpdump.log().contains("listening on") => Ok(()),
            _ => Err(tcpdump.log()),
        });
        self.0
            .captures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tcpdump);
        file
    }

    /// Starts `meshd` here and waits until it answers its socket.
    ///
    /// # Panics
    /// When there is no such program or it is not ready in ten seconds.
    #[track_caller]
    pub fn meshd(&self, settings: Settings) -> Daemon {
        let daemon = Daemon::start(self, settings);
        self.0
            .daemons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(daemon.clone());
        daemon
    }

    /// Writes into its directory what is known about it.
    pub(crate) fn dump(&self) {
        let mut text = String::new();
        for line in [
            "ip addr",
            "ip -s link",
            "ip rule",
            "ip route show table all",
            "ip -6 addr",
            "ip -6 rule",
            "ip -6 route show table all",
            "ss -anptu",
            "nft list ruleset",
        ] {
            let said = self
                .output(line, secs(5))
                .map_or_else(|err| err, |output| output.stdout + &output.stderr);
            text.push_str(&format!("# {line}\n{said}\n"));
        }
        self.keep("network.txt", &text);
        for (number, daemon) in self
            .0
            .daemons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .enumerate()
        {
            let status = daemon
                .try_status()
                .map_or_else(|err| err, |status| format!("{status:#}"));
            self.keep(&format!("status-{number}.json"), &status);
        }
    }

    fn keep(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        if let Err(err) = std::fs::write(&path, text) {
            crate::lab::say(&format!("cannot write {}: {err}", path.display()));
        }
    }

    /// Ends every process of this host, whoever started it, and removes the namespace.
    pub(crate) fn remove(&self) {
        self.0
            .captures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for daemon in self
            .0
            .daemons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            daemon.kill();
        }
        crate::lab::remove_namespace(self.namespace());
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({}, {})", self.name(), self.namespace())
    }
}

/// Runs a command line outside all namespaces of the lab.
#[track_caller]
pub(crate) fn run_outside(line: &str) -> String {
    try_run_outside(line).unwrap_or_else(|err| panic!("{line}: {err}"))
}

pub(crate) fn try_run_outside(line: &str) -> Result<String, String> {
    process::run(process::command(None, &words(line)), "", PATIENCE)?.success()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
