//! What the machine says about itself, the daemon's process and the network.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::super::program::run;
use crate::io::netlink::TABLE;

/// How the service manager sees the daemon.
pub(super) const SERVICE: &str = "systemctl show meshd -p LoadState,ActiveState,SubState,Result,StatusText,NRestarts,ExecMainStatus,FragmentPath,DropInPaths";
/// The log of the daemon's runs, this one and those before.
pub(super) const JOURNAL: &str = "journalctl -u meshd -n 100 --no-pager -o short-precise";

/// Settings of the kernel that the daemon depends on or that explain what it sees.
const SETTINGS: [&str; 12] = [
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/netdev_max_backlog",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/default/disable_ipv6",
    "net/ipv6/bindv6only",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
];
/// Settings of the overlay interface.
const INTERFACE_SETTINGS: [&str; 3] = ["disable_ipv6", "accept_ra", "forwarding"];
/// What is told of `/proc/PID/status`.
const PROCESS: [&str; 11] = [
    "Name",
    "State",
    "Uid",
    "Gid",
    "VmHWM",
    "VmRSS",
    "Threads",
    "CapEff",
    "CapBnd",
    "NoNewPrivs",
    "Seccomp",
];

pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

pub(super) fn versions(daemon: Option<&str>) -> String {
    let uname = rustix::system::uname();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "this program {}, the daemon {}\nkernel {} {} {}, {processors} processors, {}\nsystem {}\nservice manager: {}\n\
         security modules: {}\n/dev/net/tun: {}\n{}",
        env!("CARGO_PKG_VERSION"),
        daemon.unwrap_or("unknown"),
        word(uname.release()),
        word(uname.machine()),
        word(uname.version()),
        line_of("/proc/meminfo", "MemTotal"),
        system.trim_matches('"'),
        if has_systemd() { "systemd" } else { "none" },
        first_line("/sys/kernel/security/lsm"),
        if Path::new("/dev/net/tun").exists() {
            "there"
        } else {
            "missing"
        },
        run("systemd-detect-virt"),
    )
}

/// Rights, memory and limits of the daemon.
pub(super) fn process(id: u32) -> String {
    let directory = format!("/proc/{id}");
    let mut text = format!("process {id}\n");
    let status = fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
    for line in status.lines() {
        if PROCESS
            .iter()
            .any(|field| line.split(':').next() == Some(field))
        {
            text += &line.replace('\t', " ");
            text.push('\n');
        }
    }
    let limits = fs::read_to_string(format!("{directory}/limits")).unwrap_or_default();
    for line in limits
        .lines()
        .filter(|line| line.starts_with("Max open files") || line.starts_with("Max core file"))
    {
        text += line;
        text.push('\n');
    }
    let descriptors = fs::read_dir(format!("{directory}/fd")).map_or_else(
        |error| error.to_string(),
        |entries| entries.count().to_string(),
    );
    let network = match [directory.as_str(), "/proc/self"]
        .map(|process| fs::read_link(format!("{process}/ns/net")))
    {
        [Ok(its), Ok(ours)] if its == ours => "the same as ours",
        [Ok(_), Ok(_)] => "not ours: what follows about the network is not the daemon's",
        _ => "unknown",
    };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "open descriptors: {descriptors}\nnetwork namespace: {network}\ncontrol group: {}\n",
        first_line(&format!("{directory}/cgroup"))
    );
    text
}

/// What the daemon has put into the kernel, and what else looks at packets of its kind.
pub(super) fn overlay(interface: &str) -> String {
    [
        format!("ip -d -s link show dev {interface}"),
        format!("ip addr show dev {interface}"),
        "ip -6 rule".to_owned(),
        format!("ip -6 route show table {TABLE}"),
        "nft list table ip6 meshd".to_owned(),
    ]
    .map(|line| run(&line))
    .concat()
}

pub(super) fn underlay() -> String {
    let programs = [
        "ip -br addr",
        "ip route show default",
        "ip -6 route show default",
        "ip rule",
    ];
    let mut text = programs.map(run).concat();
    // Those of other programs are nobody's business. With their buffers, and what did not fit in (d).
    let sockets = run("ss -HOuapnm");
    for line in sockets
        .lines()
        .filter(|line| line.starts_with('$') || line.contains("((\"meshd\","))
    {
        text += line;
        text.push('\n');
    }
    for file in ["/proc/net/snmp", "/proc/net/snmp6"] {
        let counters = fs::read_to_string(file).unwrap_or_default();
        for line in counters
            .lines()
            .filter(|line| line.starts_with("Udp:") || line.starts_with("Udp6"))
        {
            text += line;
            text.push('\n');
        }
    }
    text
}

pub(super) fn settings(interface: &str) -> String {
    let of_interface = INTERFACE_SETTINGS.map(|name| format!("net/ipv6/conf/{interface}/{name}"));
    let names = SETTINGS.into_iter().map(str::to_owned).chain(of_interface);
    names
        .map(|name| {
            let value = first_line(&format!("/proc/sys/{name}"));
            format!("{} = {value}\n", name.replace('/', "."))
        })
        .collect()
}

/// The first line of a file of the kernel, or why there is none.
fn first_line(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(error) => format!("({error})"),
    }
}

/// The line of a file that begins with this field.
fn line_of(path: &str, field: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    line.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
