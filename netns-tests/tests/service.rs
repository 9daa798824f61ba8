//! The daemon as a service: what it tells the service manager, and with how few rights it runs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use netns_tests::freeze::Frozen;
use netns_tests::{Daemon, Host, Lab, Settings, millis, secs, wait_until};

/// A service manager that only listens.
struct Manager {
    socket: UnixDatagram,
    wrapper: String,
}

impl Manager {
    fn new(host: &Host, watchdog_usec: u64) -> Self {
        let path = host.sockets().join("notify");
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            wrapper: format!(
                "env NOTIFY_SOCKET={} WATCHDOG_USEC={watchdog_usec}",
                path.display()
            ),
        }
    }

    fn heard_within(&self, within: std::time::Duration) -> Option<String> {
        let mut buffer = [0; 512];
        self.socket.set_read_timeout(Some(within)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// The next thing it says besides that it lives.
    #[track_caller]
    fn next_state(&self) -> String {
        wait_until(secs(10), "the daemon says something", || {
            self.heard_within(secs(1))
                .filter(|said| said != "WATCHDOG=1")
        })
    }

    fn forget(&self) {
        while self.heard_within(millis(1)).is_some() {}
    }

    #[track_caller]
    fn hears_it_live(&self) {
        wait_until(secs(10), "the watchdog is fed", || {
            self.heard_within(secs(1))
                .filter(|said| said == "WATCHDOG=1")
        });
    }
}

#[test]
fn the_service_manager_hears_start_reload_and_stop() {
    let lab = Lab::new("service states");
    let host = lab.host("a");
    let manager = Manager::new(&host, 60_000_000);
    let identity = lab.identity();
    let settings = Settings::new(&identity).started_by(&manager.wrapper);
    let daemon = host.meshd(settings.clone());
    let ready = manager.next_state();
    let status = format!("{}, UDP port 51860", daemon.address());
    assert_eq!(ready, format!("READY=1\nSTATUS={status}"));

    daemon.signal("HUP");
    let reloading = manager.next_state();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.next_state(), ready);

    daemon.configure(&settings.table("nonsense = 1"));
    daemon.signal("HUP");
    assert!(manager.next_state().starts_with("RELOADING=1\n"));
    let refused = manager.next_state();
    assert!(
        refused.starts_with("READY=1\nSTATUS=Runs with its former configuration: "),
        "{refused}"
    );

    assert!(daemon.stop().is_some_and(|status| status.success()));
    assert!(manager.next_state().starts_with("STOPPING=1\n"));
}

#[test]
fn ready_means_that_the_address_can_be_bound() {
    let lab = Lab::new("service ready");
    let host = lab.host("a");
    let manager = Manager::new(&host, 60_000_000);
    let identity = lab.identity();
    let address = identity.address;
    std::thread::scope(|scope| {
        // As a unit does that is ordered after ours: at once, and without any network but our own.
        let bound = scope.spawn(|| {
            manager.next_state();
            host.run(&format!("ip -6 route get {address} from {address}"));
            host.try_run(&format!("ping -n -c 1 -W 1 -I {address} {address}"))
        });
        host.meshd(Settings::new(&identity).started_by(&manager.wrapper));
        bound.join().unwrap().unwrap();
    });
}

#[test]
fn the_watchdog_is_fed_until_any_thread_of_the_packet_path_hangs() {
    let lab = Lab::new("service watchdog");
    let host = lab.host("a");
    let manager = Manager::new(&host, 600_000);
    let settings = Settings::new(&lab.identity()).started_by(&manager.wrapper);
    let daemon = host.meshd(settings);
    manager.hears_it_live();
    for thread in ["inside", "outside", "node"] {
        let frozen = Frozen::thread(daemon.id(), thread).unwrap();
        // A check that was under way may still succeed.
        manager.heard_within(millis(300));
        manager.forget();
        let said = manager.heard_within(secs(2));
        assert_eq!(said, None, "fed although `{thread}` hangs");
        let complaint = format!("thread `{thread}` does not answer");
        assert!(daemon.log().contains(&complaint), "{}", daemon.log());
        drop(frozen);
        manager.hears_it_live();
    }
    daemon.signal("STOP");
    manager.forget();
    assert_eq!(manager.heard_within(secs(2)), None);
    daemon.signal("CONT");
    manager.hears_it_live();
}

/// Nobody in particular.
const USER: u32 = 65_533;

#[test]
fn a_user_with_nothing_but_cap_net_admin_carries_traffic_and_cleans_up() {
    let lab = Lab::new("service unprivileged");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let kernel = || {
        [
            "ip link",
            "ip -6 rule",
            "ip -6 route show table all",
            "nft list tables",
        ]
        .map(|line| a.run(line))
    };
    let before = kernel();

    let drop_rights = format!(
        "setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --inh-caps -all,+net_admin \
         --ambient-caps -all,+net_admin --bounding-set -all,+net_admin"
    );
    let a = Unprivileged::prepare(&a, &drop_rights, for_a);
    let b = b.meshd(for_b);
    wait_until(secs(10), "a reaches b", || a.daemon.ping(b.address()));
    wait_until(secs(10), "b reaches a", || b.ping(a.daemon.address()));

    let proc = fs::read_to_string(format!("/proc/{}/status", a.daemon.id())).unwrap();
    let field = |name: &str| {
        let line = proc.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(field("Uid:"), USER.to_string());
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:"] {
        assert_eq!(
            field(set),
            "0000000000001000",
            "{set} is not CAP_NET_ADMIN alone"
        );
    }

    a.daemon.reload();
    assert!(a.daemon.stop().is_some_and(|status| status.success()));
    assert_eq!(kernel(), before);
}

/// A daemon of another user, whose directories are that user's as systemd would make them.
struct Unprivileged {
    daemon: Daemon,
}

impl Unprivileged {
    #[track_caller]
    fn prepare(host: &Host, drop_rights: &str, settings: Settings) -> Self {
        // The key is root's when `meshd init` has made it; systemd gives the state directory to the service's user at every start.
        let script = host.directory().join("start");
        fs::write(
            &script,
            format!(
                "#!/bin/sh -e\nchown -R {USER}:{USER} {state}\nchmod 0777 {sockets}\n\
                 [ -e {tun} ] || mknod -m 0666 {tun} c 10 200\nmount --bind {tun} /dev/net/tun\nexec {drop_rights} \"$@\"\n",
                state = host.directory().join("state").display(),
                sockets = host.sockets().display(),
                // udev lets everybody open it, and not every machine that runs this test has udev. The mount is the namespace's own.
                tun = host.sockets().join("tun").display(),
            ),
        )
        .unwrap();
        let daemon = host.meshd(settings.started_by(&format!("sh {}", script.display())));
        Self { daemon }
    }
}

#[test]
fn the_units_leave_the_programs_what_they_need() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let values = |unit: &str, key: &str| -> Vec<String> {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        let values = text
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    // With these the daemon confines itself, and none of the unit's groups of calls has them.
    let calls = values("meshd.service", "SystemCallFilter");
    for call in [
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "seccomp",
    ] {
        assert!(
            calls.iter().any(|allowed| allowed == call),
            "{call} in {calls:?}"
        );
    }
    // Who has no capabilities reaches the socket as its owner alone.
    for key in ["User", "DynamicUser"] {
        let [daemon, waiting] =
            ["meshd.service", "meshd-online.service"].map(|unit| values(unit, key));
        assert_eq!(daemon, waiting, "{key}");
    }
}

#[test]
fn the_units_are_sound_and_their_exposure_is_small() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .current_dir(&units)
            .env("SYSTEMD_COLORS", "0")
            .output()
            .expect("systemd-analyze: sudo apt-get install systemd");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let warned = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{warned}");
        (said, warned)
    };
    // The threshold is in tenths.
    analyze(&[
        "security",
        "--offline=true",
        "--threshold=22",
        "meshd.service",
    ]);
    analyze(&[
        "security",
        "--offline=true",
        "--threshold=22",
        "meshd-online.service",
    ]);

    // Verified where the programs are, or every ExecStart= would be found missing.
    let directory = std::env::temp_dir().join(format!("meshd-units-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netns-tests/test");
    for unit in [
        "meshd.service",
        "meshd-online.service",
        "meshd-online.target",
        "meshd-workloads.service",
    ] {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        let text = text.replace(
            "/usr/bin/meshd",
            program.canonicalize().unwrap().to_str().unwrap(),
        );
        // The manual pages come with the package.
        let kept = text
            .lines()
            .filter(|line| !line.starts_with("Documentation=man:"));
        fs::write(directory.join(unit), kept.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let path = |unit: &str| directory.join(unit).display().to_string();
    let (said, warned) = analyze(&[
        "verify",
        &path("meshd.service"),
        &path("meshd-online.service"),
        &path("meshd-online.target"),
        &path("meshd-workloads.service"),
    ]);
    let ours: Vec<&str> = warned
        .lines()
        .chain(said.lines())
        .filter(|line| line.contains("meshd"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
    fs::remove_dir_all(&directory).unwrap();
}
