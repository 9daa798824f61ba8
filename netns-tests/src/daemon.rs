//! A running `meshd`: the real program, with its own configuration, key, state, socket and log.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::host::Host;
use crate::identity::Identity;
use crate::lab;
use crate::process::{Output, Process};
use crate::settings::{Paths, Settings};
use crate::wait::{secs, wait_until};

/// How long a daemon may take from its start until it answers.
pub(crate) const START: Duration = secs(10);
/// How long a command of the command line interface may take.
const COMMAND: Duration = secs(15);
/// Names another `meshd` than the one built together with the tests.
const PROGRAM: &str = "MESHD_BIN";

/// A `meshd` on a host. Cheap to clone; all clones are the same daemon, which ends with the lab.
#[derive(Clone, Debug)]
pub struct Daemon(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    identity: Identity,
    paths: Paths,
    wrapper: String,
    program: String,
    process: Mutex<Option<Process>>,
}

impl Daemon {
    /// Starts one and does not wait.
    #[track_caller]
    pub(crate) fn launch(host: &Host, settings: Settings) -> Self {
        let paths = Paths {
            config: host.directory().join("meshd.toml"),
            state: host.directory().join("state"),
            socket: host.site().sockets().join(format!("{}.sock", host.name())),
        };
        let key = paths.state.join("node.key");
        if !key.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&paths.state)
                .unwrap_or_else(|err| panic!("cannot make {}: {err}", paths.state.display()));
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&key)
                .and_then(|mut file| {
                    std::io::Write::write_all(
                        &mut file,
                        format!("{}\n", settings.identity.seed).as_bytes(),
                    )
                })
                .unwrap_or_else(|err| panic!("cannot write {}: {err}", key.display()));
        }
        let identity = settings.identity.clone();
        let daemon = Self(Arc::new(Inner {
            host: host.clone(),
            identity,
            paths,
            wrapper: settings.wrapper.clone(),
            program: settings.program.clone().unwrap_or_else(program),
            process: Mutex::default(),
        }));
        daemon.configure(&settings);
        daemon.spawn();
        daemon
    }

    #[track_caller]
    fn run(&self) {
        self.spawn();
        self.wait_until_ready(START);
    }

    #[track_caller]
    fn spawn(&self) {
        let line = format!(
            "{} {} run --config {}",
            self.0.wrapper,
            self.0.program,
            self.0.paths.config.display()
        );
        *self.process() = Some(self.0.host.spawn(&line));
    }

    /// Waits until it answers its socket.
    #[track_caller]
    pub(crate) fn wait_until_ready(&self, within: Duration) {
        wait_until(
            within,
            &format!("meshd on {} is ready", self.0.host.name()),
            || {
                if self
                    .process()
                    .as_mut()
                    .is_none_or(|process| !process.is_running())
                {
                    panic!("meshd on {} has ended: {}", self.0.host.name(), self.log());
                }
                self.try_status()
            },
        );
    }

    /// Waits until it answers its socket, after [`Host::launch_meshd`](crate::Host::launch_meshd).
    #[track_caller]
    pub fn wait_for_answers(&self) {
        self.wait_until_ready(START);
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.0
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes another configuration, for [`Self::reload`] or [`Self::restart`] to apply.
    #[track_caller]
    pub fn configure(&self, settings: &Settings) {
        let text = settings.toml(self.0.host.name(), &self.0.paths);
        fs::write(&self.0.paths.config, text)
            .unwrap_or_else(|err| panic!("cannot write the configuration: {err}"));
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Its overlay address.
    pub fn address(&self) -> Ipv6Addr {
        self.0.identity.address
    }

    /// Where its state is.
    pub fn state(&self) -> &Path {
        &self.0.paths.state
    }

    /// Where its socket is.
    pub fn socket(&self) -> &Path {
        &self.0.paths.socket
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it is stopped.
    #[track_caller]
    pub fn id(&self) -> u32 {
        self.process().as_ref().expect("the daemon runs").id()
    }

    /// Its configuration file.
    pub fn configuration(&self) -> &Path {
        &self.0.paths.config
    }

    /// Its state directory.
    pub fn state_directory(&self) -> &Path {
        &self.0.paths.state
    }

    /// Runs a command of its command line interface: `meshd --socket … <line>`.
    ///
    /// # Errors
    /// When it cannot be started or takes more than 15 seconds.
    pub fn command(&self, line: &str) -> Result<Output, String> {
        let paths = &self.0.paths;
        let line = format!(
            "{} --socket {} --config {} {line}",
            program(),
            paths.socket.display(),
            paths.config.display()
        );
        self.0.host.output(&line, COMMAND)
    }

    /// As [`Self::command`], with the JSON it prints.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        self.try_json(line)
            .unwrap_or_else(|err| panic!("{}: meshd {line}: {err}", self.0.host.name()))
    }

    pub(crate) fn try_json(&self, line: &str) -> Result<Value, String> {
        let text = self.command(&format!("{line} --json"))?.success()?;
        serde_json::from_str(&text).map_err(|err| format!("not JSON ({err}): {text}"))
    }

    /// `meshd status --json`.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json("status")
    }

    /// `meshd status --json`, of a daemon that may not answer.
    ///
    /// # Errors
    /// What the command said.
    pub fn try_status(&self) -> Result<Value, String> {
        self.try_json("status")
    }

    /// What `status` says about the peer of that name, if it is there.
    #[track_caller]
    pub fn peer(&self, name: &str) -> Option<Value> {
        self.status()["peers"]
            .as_array()?
            .iter()
            .find(|peer| peer["name"] == name)
            .cloned()
    }

    /// How many packets it dropped, by reason.
    #[track_caller]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let status = self.status();
        let drops = status["drops"]
            .as_object()
            .unwrap_or_else(|| panic!("status has no drops: {status}"));
        drops
            .iter()
            .map(|(reason, count)| (reason.clone(), count.as_u64().expect("a count is a number")))
            .collect()
    }

    /// Everything it wrote to its log since it was started last.
    pub fn log(&self) -> String {
        self.process()
            .as_ref()
            .map(Process::log)
            .unwrap_or_default()
    }

    /// Starts a command of its command line interface that runs beside the test.
    #[track_caller]
    pub(crate) fn spawn_command(&self, line: &str) -> Process {
        let socket = self.0.paths.socket.display();
        self.0
            .host
            .spawn(&format!("{} --socket {socket} {line}", program()))
    }

    /// Asks it to end (SIGTERM) and returns how it did; `None` when it had to be killed after five seconds.
    ///
    /// # Panics
    /// When it is stopped already.
    #[track_caller]
    pub fn stop(&self) -> Option<ExitStatus> {
        let Some(mut process) = self.process().take() else {
            panic!("meshd on {} is stopped already", self.0.host.name());
        };
        process.stop()
    }

    /// Kills it (SIGKILL), if it runs.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], and waits until it answers.
    #[track_caller]
    pub fn start_again(&self) {
        self.run();
    }

    /// Stops it, politely, and starts it again.
    ///
    /// # Panics
    /// When it does not end by itself, or not with success.
    #[track_caller]
    pub fn restart(&self) {
        let ended = self.stop();
        assert!(
            ended.is_some_and(|status| status.success()),
            "meshd on {} did not stop well: {ended:?}",
            self.0.host.name()
        );
        self.run();
    }

    /// Applies the configuration that was written last.
    #[track_caller]
    pub fn reload(&self) {
        let said = self.command("reload").and_then(Output::success);
        said.unwrap_or_else(|err| panic!("{}: meshd reload: {err}", self.0.host.name()));
    }

    /// Sends it a signal by name (`HUP`, `STOP`, `CONT`).
    #[track_caller]
    pub fn signal(&self, name: &str) {
        self.process()
            .as_mut()
            .expect("the daemon runs")
            .signal(name);
    }

    /// Whether it reaches an overlay address, within a second.
    ///
    /// # Errors
    /// What `ping` said.
    pub fn ping(&self, target: impl Into<IpAddr>) -> Result<(), String> {
        self.0.host.ping(target)
    }
}

/// The program under test.
#[track_caller]
pub fn program() -> String {
    std::env::var(PROGRAM).unwrap_or_else(|_| lab::program("meshd"))
}
