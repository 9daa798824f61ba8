//! How a verb ends when it does not end well.

use std::fmt;
use std::io;
use std::path::Path;

use crate::admin::client::ClientError;
use crate::admin::{self, ErrorBody, ErrorCode};
use crate::config::ConfigError;
use crate::daemon::RunError;
use crate::identity::MineError;
use crate::io::{netlink::NetlinkError, tun::OpenError, udp::BindError};
use crate::state::StateError;

const INIT: &str = "sudo meshd init";
const SUDO: &str = "the same command with sudo";

/// Exit codes that scripts rely on. A success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything without a code of its own.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The daemon does not run.
    NotRunning = 3,
    /// The caller may not do this.
    Permission = 4,
    /// There is nobody of that name.
    NoSuchName = 5,
    /// No reply, or not in time.
    Unreachable = 6,
    /// Not a member of the network, or not yet.
    NotMember = 7,
    /// The configuration is invalid.
    Config = 8,
    /// Client and daemon are of versions that do not fit.
    Version = 9,
    /// A rule forbids it.
    Denied = 10,
}

/// What happened with its likely cause, and the exact next command.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    next: Option<String>,
    broken_pipe: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            next: None,
            broken_pipe: false,
        }
    }

    /// An error with everything that caused it.
    pub(super) fn of(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            what += &format!(": {cause}");
            source = cause.source();
        }
        Self::new(exit, what)
    }

    /// Adds the command to run next.
    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// With what the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether it is only that nobody reads our output any more.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "meshd: {}", self.what)?;
        match &self.next {
            Some(command) => write!(f, "\nnext: {command}"),
            None => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    /// An error in writing the output.
    fn from(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            broken_pipe,
            ..Self::new(Exit::Failed, format!("writing the output: {error}"))
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::Invalid { .. } => {
                Self::of(Exit::Config, &error).next("correct the file, then: meshd config check")
            }
            ConfigError::Read { source, .. } => {
                let exit = exit_of(source, Exit::Config);
                let failure = Self::of(exit, &error);
                if source.kind() == io::ErrorKind::NotFound {
                    failure.next(INIT)
                } else if source.kind() == io::ErrorKind::PermissionDenied {
                    failure.next(SUDO)
                } else {
                    failure
                }
            }
        }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::of_state(&error)
    }
}

impl Failure {
    fn of_state(error: &StateError) -> Self {
        let quote = |path: &Path| format!("'{}'", path.display());
        let (exit, next) = match error {
            StateError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                (Exit::Permission, Some(SUDO.to_owned()))
            }
            StateError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                (Exit::Failed, Some(INIT.to_owned()))
            }
            StateError::Io { .. } => (Exit::Failed, None),
            StateError::NoKey(_) => (Exit::Failed, Some(INIT.to_owned())),
            StateError::KeyExists(_) => (Exit::Failed, Some("meshd key show".to_owned())),
            StateError::Open { path, .. } => (
                Exit::Permission,
                Some(format!(
                    "sudo chmod go-rwx {}     (if nobody else has read the key; otherwise make a new one)",
                    quote(path)
                )),
            ),
            // Somebody who is not root looks at root's files, or at the daemon's.
            StateError::Owner { expected, .. } if *expected != 0 => {
                (Exit::Permission, Some(SUDO.to_owned()))
            }
            StateError::Owner { path, expected, .. } => (
                Exit::Permission,
                Some(format!("sudo chown {expected} {}", quote(path))),
            ),
            StateError::NotAFile(path) | StateError::NotADirectory(path) => {
                (Exit::Failed, Some(format!("ls -l {}", quote(path))))
            }
            StateError::Key { path, .. }
            | StateError::NetworkKey(path)
            | StateError::Damaged { path, .. } => (
                Exit::Failed,
                Some(format!(
                    "restore {} from a backup, or move it away",
                    quote(path)
                )),
            ),
            StateError::Newer { .. } => (
                Exit::Version,
                Some("install the newer meshd again".to_owned()),
            ),
            StateError::Locked { pid, .. } => (
                Exit::Failed,
                Some(format!(
                    "meshd status     or, to end the other one: sudo kill {pid}"
                )),
            ),
        };
        Self {
            next,
            ..Self::of(exit, error)
        }
    }
}

impl From<MineError> for Failure {
    fn from(error: MineError) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotRunning { .. } => Exit::NotRunning,
            ClientError::Permission { .. } => Exit::Permission,
            ClientError::Version { .. } => Exit::Version,
            ClientError::Timeout => Exit::Unreachable,
            ClientError::Refused(body) => return Self::from(body.clone()),
            ClientError::Io { .. }
            | ClientError::Http(_)
            | ClientError::TooLarge
            | ClientError::Answer(_) => Exit::Failed,
        };
        let failure = Self::of(exit, &error);
        match exit {
            Exit::NotRunning => failure.next("sudo systemctl start meshd     or: sudo meshd run"),
            Exit::Permission => failure.next(SUDO),
            Exit::Version => {
                failure.next("sudo systemctl restart meshd     (runs the installed version)")
            }
            Exit::Unreachable => failure.next("journalctl -u meshd -n 50"),
            Exit::Failed
            | Exit::Usage
            | Exit::NoSuchName
            | Exit::NotMember
            | Exit::Config
            | Exit::Denied => failure,
        }
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let exit = match body.code {
            ErrorCode::Failed | ErrorCode::Exists | ErrorCode::Unknown => Exit::Failed,
            ErrorCode::Usage => Exit::Usage,
            ErrorCode::Permission => Exit::Permission,
            ErrorCode::NoSuchName => Exit::NoSuchName,
            ErrorCode::Unreachable => Exit::Unreachable,
            ErrorCode::NotMember => Exit::NotMember,
            ErrorCode::Config => Exit::Config,
            ErrorCode::Version => Exit::Version,
            ErrorCode::Denied => Exit::Denied,
        };
        let next = Some(body.hint).filter(|hint| !hint.is_empty());
        Self {
            next,
            ..Self::new(exit, body.error)
        }
    }
}

/// The code for an error of the system about a file.
pub(super) fn exit_of(error: &io::Error, otherwise: Exit) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Permission
    } else {
        otherwise
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let error = match error {
            RunError::State(error) => return Self::from(error),
            other @ (RunError::Listen(_)
            | RunError::ListenStreams(_)
            | RunError::Tun(_)
            | RunError::Netlink(_)
            | RunError::Socket { .. }
            | RunError::Metrics { .. }
            | RunError::Start(_)
            | RunError::Random(_)
            | RunError::Ended(_)) => other,
        };
        let (exit, next) = match &error {
            RunError::Listen(BindError {
                source, address, ..
            }) => match source.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    let port = address.port();
                    let next = format!(
                        "ss -ulpn 'sport = :{port}'     (who has it), or another port in [wireguard] listen"
                    );
                    (Exit::Failed, next)
                }
                Some(libc::EADDRNOTAVAIL) => {
                    let next =
                        "ip addr     (the address in [wireguard] listen is not this machine's)";
                    (Exit::Failed, next.into())
                }
                Some(libc::EACCES | libc::EPERM) => {
                    (Exit::Permission, "the same command with sudo".into())
                }
                _ => (Exit::Failed, "meshd config check".into()),
            },
            RunError::ListenStreams(error) => match error.source.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    let port = error.address.port();
                    let next = format!(
                        "ss -tlpn 'sport = :{port}'     (who has it), or without it in [wireguard] stream_listen"
                    );
                    (Exit::Failed, next)
                }
                Some(libc::EACCES | libc::EPERM) => {
                    let next = "systemctl edit meshd     (a port below 1024 needs what meshd.service says there)";
                    (Exit::Permission, next.into())
                }
                _ => (Exit::Failed, "meshd config check".into()),
            },
            RunError::Tun(OpenError::NoDriver) => (Exit::Failed, "sudo modprobe tun".into()),
            RunError::Tun(OpenError::NotPermitted { .. })
            | RunError::Netlink(NetlinkError::NotPermitted { .. }) => {
                (Exit::Permission, "sudo meshd run".into())
            }
            RunError::Tun(OpenError::InUse { name }) => {
                (Exit::Failed, format!("ip link show dev {name}"))
            }
            RunError::Socket {
                source: admin::server::BindError::InUse,
                ..
            } => (Exit::Failed, "meshd status".into()),
            RunError::Socket { .. } => (
                Exit::Failed,
                "correct [api] in the configuration, then: sudo meshd run".into(),
            ),
            RunError::Metrics { .. } => (
                Exit::Failed,
                "ss -tlpn     (who has the port), or another one in [metrics] listen".into(),
            ),
            RunError::State(error) => return Self::of_state(error),
            RunError::Tun(_)
            | RunError::Netlink(_)
            | RunError::Start(_)
            | RunError::Random(_)
            | RunError::Ended(_) => return Self::of(Exit::Failed, &error),
        };
        Self::of(exit, &error).next(next)
    }
}

impl From<crate::telemetry::TelemetryError> for Failure {
    fn from(error: crate::telemetry::TelemetryError) -> Self {
        Self::of(Exit::Failed, &error)
    }
}
