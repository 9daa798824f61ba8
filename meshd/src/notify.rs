//! What the service manager is told: `sd_notify(3)`, spoken directly, since it is one datagram of text.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use tracing::warn;

use crate::io::clock;

/// A service manager that does not read may hold us up for this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager how the daemon does; without one, says nothing.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// What the service manager has put into the environment.
#[derive(Debug, Default)]
struct Environment {
    /// `NOTIFY_SOCKET`
    socket: Option<OsString>,
    /// `WATCHDOG_USEC`
    watchdog: Option<OsString>,
    /// `WATCHDOG_PID`
    pid: Option<OsString>,
}

impl Notifier {
    /// The service manager that the environment names, if it names one. One that cannot be used is warned of: the daemon
    /// runs as well without.
    pub fn from_env() -> Self {
        Self::new(&Environment {
            socket: env::var_os("NOTIFY_SOCKET"),
            watchdog: env::var_os("WATCHDOG_USEC"),
            pid: env::var_os("WATCHDOG_PID"),
        })
    }

    fn new(environment: &Environment) -> Self {
        let manager = environment.socket.as_deref().and_then(|socket| {
            open(socket)
                .inspect_err(
                    |error| warn!(?socket, %error, "The service manager cannot be notified"),
                )
                .ok()
        });
        let watchdog = manager.as_ref().and_then(|_| watchdog(environment));
        Self { manager, watchdog }
    }

    /// How often it must hear [`alive`](Self::alive), or it takes the daemon for dead; `None`: it does not care.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The daemon is up, or up again after [`reloading`](Self::reloading); `status` is one line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is being read again; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let now = clock::monotonic().as_micros();
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=Reading the configuration again"
        ));
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Taking the interface down");
    }

    /// The daemon has found itself in order.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, state: &str) {
        let Some((socket, manager)) = &self.manager else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), manager) {
            warn!(%error, "The service manager could not be notified");
        }
    }
}

fn open(socket: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let own = UnixDatagram::unbound()?;
    own.set_write_timeout(Some(PATIENCE))?;
    Ok((own, manager))
}

/// The watchdog's time, if it is meant for this process.
fn watchdog(environment: &Environment) -> Option<Duration> {
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    if let Some(pid) = &environment.pid
        && number(pid) != Some(process::id().into())
    {
        return None;
    }
    let time = environment.watchdog.as_ref()?;
    let usec = number(time).filter(|usec| *usec > 0);
    if usec.is_none() {
        warn!(?time, "WATCHDOG_USEC is no time, the watchdog is not fed");
    }
    usec.map(Duration::from_micros)
}

/// The text up to its first line break: what follows one would be another variable.
fn one_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(socket: &str) -> Environment {
        Environment {
            socket: Some(socket.into()),
            watchdog: Some("3000000".into()),
            pid: Some(process::id().to_string().into()),
        }
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_behind_a_path_or_an_abstract_name_hears_every_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("meshd-notify-{}", process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, socket) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.display().to_string(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                format!("@{name}"),
            ),
        ] {
            let notifier = Notifier::new(&environment(&socket));
            assert_eq!(notifier.watchdog(), Some(Duration::from_secs(3)));
            notifier.ready("up\nMAINPID=1");
            assert_eq!(heard(&manager), "READY=1\nSTATUS=up");
            let before = clock::monotonic().as_micros();
            notifier.reloading();
            let said = heard(&manager);
            let time = said
                .lines()
                .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
                .unwrap();
            assert!(said.starts_with("RELOADING=1\n"), "{said}");
            assert!(time.parse::<u128>().unwrap() >= before, "{said}");
            notifier.alive();
            assert_eq!(heard(&manager), "WATCHDOG=1");
            notifier.stopping();
            assert!(heard(&manager).starts_with("STOPPING=1\n"));
        }
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_no_watchdog_fed() {
        for socket in [None, Some("vsock:2:1".into()), Some("".into())] {
            let notifier = Notifier::new(&Environment {
                socket,
                watchdog: Some("1000".into()),
                pid: None,
            });
            assert_eq!(notifier.watchdog(), None);
            notifier.ready("up");
        }
    }

    #[test]
    fn a_watchdog_for_another_process_or_without_a_time_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let of = |time: &str, pid: Option<&str>| {
            let mut environment = environment(&path.display().to_string());
            environment.watchdog = Some(time.into());
            environment.pid = pid.map(Into::into);
            Notifier::new(&environment).watchdog()
        };
        assert_eq!(of("5", None), Some(Duration::from_micros(5)));
        assert_eq!(of("5", Some("1")), None);
        assert_eq!(of("0", None), None);
        assert_eq!(of("soon", None), None);
    }
}
