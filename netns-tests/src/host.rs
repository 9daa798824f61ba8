//! One network namespace, and what is done inside it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::daemon::{Daemon, START};
use crate::inside;
use crate::lab::Site;
use crate::process::{self, Output, Process};
use crate::settings::Settings;
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
    held: Mutex<Vec<Process>>,
    witnesses: Mutex<Vec<(String, Witness)>>,
}

/// Tells what is known, when a test has failed.
type Witness = Box<dyn Fn() -> String + Send + Sync>;

impl Host {
    pub(crate) fn new(site: &Arc<Site>, name: &str) -> Self {
        let host = Self::without_namespace(site, name);
        run_outside(&format!("ip netns add {}", host.namespace()));
        host.settle();
        host.run("ip link set lo up");
        host
    }

    /// A host whose namespace the caller makes, settles and brings `lo` up in.
    pub(crate) fn without_namespace(site: &Arc<Site>, name: &str) -> Self {
        let namespace = site.namespace(name);
        let directory = site.directory().join(name);
        std::fs::create_dir_all(&directory)
            .unwrap_or_else(|err| panic!("cannot make {}: {err}", directory.display()));
        Self(Arc::new(Inner {
            site: site.clone(),
            name: name.to_owned(),
            namespace,
            directory,
            interfaces: AtomicU32::new(0),
            logs: AtomicU32::new(0),
            daemons: Mutex::default(),
            held: Mutex::default(),
            witnesses: Mutex::default(),
        }))
    }

    /// Sets the kernel of a new namespace up as a lab wants it.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for of in ["all", "default"] {
            // Addresses are usable at once: a lab has no duplicates to detect.
            self.sysctl(&format!("ipv6/conf/{of}/accept_dad"), "0");
            // An address taken away must not take along the one that replaces it.
            self.sysctl(&format!("ipv4/conf/{of}/promote_secondaries"), "1");
        }
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
        self.spawn_argv(&words(line))
    }

    /// As [`Self::spawn`], with arguments of its own right.
    #[track_caller]
    pub(crate) fn spawn_argv(&self, argv: &[&str]) -> Process {
        let mut command = self.command(argv);
        command.stdin(Stdio::null());
        self.start(command, &argv.join(" "))
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
        self.sysctl("ipv4/ip_forward", "1");
        self.sysctl("ipv6/conf/all/forwarding", "1");
    }

    /// Makes it forward no IPv6 any more, silently: what it announces elsewhere, it drops.
    #[track_caller]
    pub fn stop_forwarding(&self) {
        self.sysctl("ipv6/conf/all/forwarding", "0");
    }

    /// Sets a value under `/proc/sys/net/`.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        let written = self.inside(|| std::fs::write(&path, value));
        written
            .unwrap_or_else(|err| panic!("{}: cannot set {}: {err}", self.name(), path.display()));
    }

    /// Runs code of this process in the namespace, for sockets and files that belong there. It must not start processes: they would
    /// end with the thread that this runs on.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside::inside(self.namespace(), work)
    }

    /// Captures what passes an interface into `<directory>/<number>-<interface>.pcap`, from the moment this returns.
    ///
    /// # Panics
    /// When `tcpdump` does not start within ten seconds.
    #[track_caller]
    pub fn capture(&self, interface: &str) -> PathBuf {
        self.capture_with(interface, "")
    }

    /// As [`Self::capture`], with room for a thousand super-packets: of a burst, nothing is left out.
    #[track_caller]
    pub fn capture_all(&self, interface: &str) -> PathBuf {
        self.capture_with(interface, "-B 65536 -s 65600 ")
    }

    #[track_caller]
    fn capture_with(&self, interface: &str, options: &str) -> PathBuf {
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let file = self.directory().join(format!("{number}-{interface}.pcap"));
        let mut tcpdump = self.spawn(&format!(
            "tcpdump -n -U --immediate-mode -Z root {options}-i {interface} -w {}",
            file.display()
        ));
        wait_until(secs(10), "tcpdump listens", || match tcpdump.status() {
            None if tcpdump.log().contains("listening on") => Ok(()),
            _ => Err(tcpdump.log()),
        });
        self.hold(tcpdump);
        file
    }

    /// Keeps a process until the host goes.
    pub(crate) fn hold(&self, process: Process) {
        self.0
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(process);
    }

    /// How many packets of a capture pass a filter, as `tcpdump` takes it.
    ///
    /// # Panics
    /// When `tcpdump` does not understand the filter.
    #[track_caller]
    pub fn captured(&self, file: &Path, filter: &str) -> usize {
        let path = file.display().to_string();
        let said = self
            .output_of(&["tcpdump", "-n", "-r", &path, filter], "", PATIENCE)
            .and_then(Output::success);
        said.unwrap_or_else(|err| panic!("tcpdump -r {path} {filter}: {err}"))
            .lines()
            .count()
    }

    /// Starts `meshd` here and waits until it answers its socket.
    ///
    /// # Panics
    /// When there is no such program or it is not ready in ten seconds.
    #[track_caller]
    pub fn meshd(&self, settings: Settings) -> Daemon {
        let daemon = self.launch_meshd(settings);
        daemon.wait_until_ready(START);
        daemon
    }

    /// Starts `meshd` here and does not wait.
    #[track_caller]
    pub fn launch_meshd(&self, settings: Settings) -> Daemon {
        let daemon = Daemon::launch(self, settings);
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
            for verb in ["status", "links", "routes"] {
                let shown = daemon
                    .try_json(verb)
                    .map_or_else(|err| err, |shown| format!("{shown:#}"));
                self.keep(&format!("{verb}-{number}.json"), &shown);
            }
        }
        for (name, witness) in self
            .0
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            self.keep(name, &witness());
        }
    }

    /// Has `witness` asked when a test fails; what it says is kept in that file. What it owns lives until the host goes.
    pub(crate) fn witness(&self, file: &str, witness: impl Fn() -> String + Send + Sync + 'static) {
        self.0
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((file.to_owned(), Box::new(witness)));
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
            .held
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
        self.0
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
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

/// As [`run_outside`], with standard input.
#[track_caller]
pub(crate) fn run_outside_with(line: &str, input: &str) {
    let done = process::run(process::command(None, &words(line)), input, PATIENCE)
        .and_then(Output::success);
    done.unwrap_or_else(|err| panic!("{line}: {err}\n{input}"));
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
