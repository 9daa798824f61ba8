//! The lab: it makes hosts and joins them, dumps what is known when a test fails, and leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::host::{Host, run_outside, try_run_outside};
use crate::identity::Identity;
use crate::impair::{Impairment, Wire};
use crate::nat::{Internet, Router};
use crate::process::{self, Process};
use crate::wait::{poll_until, secs};

/// Where Unix sockets go: their paths are limited to 107 bytes, and the artifact directory may lie deep.
const SOCKETS: &str = "/run/netns-tests";
/// Where user-space WireGuard programs put theirs.
pub(crate) const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";
/// Set to anything: the artifacts of a passing test stay too.
const KEEP: &str = "NETNS_TESTS_KEEP";

/// The part of a lab that its hosts know.
#[derive(Debug)]
pub(crate) struct Site {
    id: String,
    directory: PathBuf,
    sockets: PathBuf,
    networks: AtomicU16,
    tunnels: AtomicU32,
}

impl Site {
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.id)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// A number no other network of this lab has, from 1.
    pub(crate) fn next_network(&self) -> u16 {
        self.networks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A name no other user-space WireGuard interface on this machine has: they meet in one directory of sockets.
    pub(crate) fn next_tunnel(&self) -> String {
        format!(
            "wg{}x{}",
            std::process::id(),
            self.tunnels.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// Everything one test makes. See the [crate] documentation.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    hosts: Mutex<Vec<Host>>,
    wires: Mutex<Vec<Wire>>,
    internet: Mutex<Option<Internet>>,
    identities: AtomicU32,
}

impl Lab {
    /// An empty lab; the name becomes that of its directory under `target/netns/`.
    ///
    /// # Panics
    /// When this process may not make network namespaces.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let id = format!(
            "lab{}x{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let slug: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let directory = target_directory().join("netns").join(slug);
        let sockets = Path::new(SOCKETS).join(&id);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .unwrap_or_else(|err| panic!("cannot clear {}: {err}", directory.display()));
        }
        for made in [&directory, &sockets] {
            fs::create_dir_all(made).unwrap_or_else(|err| {
                panic!(
                    "cannot make {} ({err}); the lab needs root: sudo ./netns-tests/test",
                    made.display()
                )
            });
        }
        let site = Site {
            id,
            directory,
            sockets,
            networks: AtomicU16::new(0),
            tunnels: AtomicU32::new(0),
        };
        Self {
            site: Arc::new(site),
            hosts: Mutex::default(),
            wires: Mutex::default(),
            internet: Mutex::default(),
            identities: AtomicU32::new(0),
        }
    }

    /// A new host without links. Its name is part of a namespace's: letters, digits, hyphens.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let host = Host::new(&self.site, name);
        self.adopt(&host);
        host
    }

    /// A router with a LAN of its own behind it (a bridge, `192.168.n.0/24`), not yet online.
    #[track_caller]
    pub fn router(&self, name: &str) -> Router {
        Router::new(self, self.host(name), self.site.next_network())
    }

    /// The public internet of this lab: a router without NAT, made when first asked for.
    #[track_caller]
    pub fn internet(&self) -> Internet {
        let mut internet = self.internet.lock().unwrap_or_else(PoisonError::into_inner);
        internet
            .get_or_insert_with(|| Internet::new(self.host("internet")))
            .clone()
    }

    /// A switch: hosts plugged into it share one network.
    #[track_caller]
    pub fn switch(&self, name: &str) -> Switch {
        Switch::new(self.host(name), self.site.next_network())
    }

    /// Joins two hosts by a cable of 1500 bytes with addresses of both families.
    #[track_caller]
    pub fn link(&self, a: &Host, b: &Host) -> Link {
        self.link_with(a, b, Cable::default())
    }

    /// Joins two hosts by a cable of one's own making.
    #[track_caller]
    pub fn link_with(&self, a: &Host, b: &Host, cable: Cable) -> Link {
        let (at_a, at_b) = (a.next_interface(), b.next_interface());
        cable.lay((a, &at_a), (b, &at_b));
        Link::addressed((a, at_a), (b, at_b), self.site.next_network())
    }

    /// Joins two hosts by a cable through a link emulator, which delays, loses and holds back as told, also later.
    #[track_caller]
    pub fn wire(&self, a: &Host, b: &Host, impairment: Impairment) -> (Link, Wire) {
        self.wire_with(
            a,
            b,
            Cable {
                offloads: Offloads::Off,
                ..Cable::default()
            },
            impairment,
        )
    }

    /// As [`Self::wire`]; with [`Offloads::On`] the emulator carries segments larger than the MTU as the kernel hands them over.
    #[track_caller]
    pub fn wire_with(
        &self,
        a: &Host,
        b: &Host,
        cable: Cable,
        impairment: Impairment,
    ) -> (Link, Wire) {
        let number = self.site.next_network();
        let middle = self.host(&format!("wire{number}"));
        // Frames pass through the emulator, not through the middle's own stack.
        middle.run(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
        );
        let (at_a, at_b) = (a.next_interface(), b.next_interface());
        cable.lay((a, &at_a), (&middle, "left"));
        cable.lay((b, &at_b), (&middle, "right"));
        let wire = Wire::start(&middle, cable.offloads, impairment);
        self.wires
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(wire.clone());
        (Link::addressed((a, at_a), (b, at_b), number), wire)
    }

    /// The next identity of the committed pool that this lab has not given out.
    #[track_caller]
    pub fn identity(&self) -> Identity {
        let number = self.identities.fetch_add(1, Ordering::Relaxed);
        Identity::from_pool(number as usize)
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    pub(crate) fn adopt(&self, host: &Host) {
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(host.clone());
    }

    /// Where everything about this test is written.
    pub fn directory(&self) -> &Path {
        &self.site.directory
    }

    /// The beginning of the names of all its namespaces.
    pub fn id(&self) -> &str {
        &self.site.id
    }

    fn dump(&self) {
        for host in self
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            host.dump();
        }
        say(&format!(
            "what the lab knows about this failure: {}",
            self.site.directory.display()
        ));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.dump();
        }
        self.wires
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for host in self
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            host.remove();
        }
        let mut unwanted = vec![&self.site.sockets];
        if !failed && std::env::var_os(KEEP).is_none() {
            unwanted.push(&self.site.directory);
        }
        for directory in unwanted {
            if let Err(err) = fs::remove_dir_all(directory) {
                say(&format!("cannot remove {}: {err}", directory.display()));
            }
        }
        remove_wireguard_sockets(std::process::id());
    }
}

/// Whether the network cards pretend to segment and to check sums, as real ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Packets may be handed over larger than the MTU and without checksums.
    On,
    /// Every packet crosses as it would on a wire.
    Off,
}

/// A pair of virtual Ethernet cards.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// What the cards pretend to do.
    pub offloads: Offloads,
}

impl Default for Cable {
    fn default() -> Self {
        Self {
            mtu: 1500,
            offloads: Offloads::On,
        }
    }
}

impl Cable {
    #[track_caller]
    pub(crate) fn lay(&self, a: (&Host, &str), b: (&Host, &str)) {
        let Self { mtu, offloads } = self;
        run_outside(&format!(
            "ip link add {} mtu {mtu} netns {} type veth peer name {} mtu {mtu} netns {}",
            a.1,
            a.0.namespace(),
            b.1,
            b.0.namespace()
        ));
        for (host, interface) in [a, b] {
            if *offloads == Offloads::Off {
                host.run(&format!("ethtool -K {interface} tx off sg off tso off gso off gro off tx-udp-segmentation off"));
            }
            host.link_up(interface);
        }
    }
}

/// One end of a link.
#[derive(Clone, Debug)]
pub struct Port {
    /// Whose it is.
    pub host: Host,
    /// The interface there.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Two hosts joined: `10.77.n.0/24` and `fd77:n::/64`, the first host with 1 and the second with 2.
#[derive(Clone, Debug)]
pub struct Link {
    /// The end at the first host.
    pub a: Port,
    /// The end at the second host.
    pub b: Port,
}

impl Link {
    #[track_caller]
    fn addressed(a: (&Host, String), b: (&Host, String), network: u16) -> Self {
        Self {
            a: Port::addressed(a.0, a.1, network, 1),
            b: Port::addressed(b.0, b.1, network, 2),
        }
    }

    /// Cuts it: no packet passes until [`Self::mend`].
    #[track_caller]
    pub fn cut(&self) {
        self.a.host.link_down(&self.a.interface);
    }

    /// Cuts it so that nobody is told: both cards stay up, and nothing arrives, until [`Self::restore`].
    #[track_caller]
    pub fn silence(&self) {
        self.both(Port::deafen);
    }

    /// Restores what was silenced.
    #[track_caller]
    pub fn restore(&self) {
        self.both(Port::undeafen);
    }

    /// Both ends at the same time, as far as that goes.
    fn both(&self, change: fn(&Port)) {
        std::thread::scope(|scope| {
            scope.spawn(|| change(&self.a));
            change(&self.b);
        });
    }

    /// Mends what was cut.
    #[track_caller]
    pub fn mend(&self) {
        self.a.host.link_up(&self.a.interface);
        // Taking an interface down takes its IPv6 addresses.
        if !self
            .a
            .host
            .run(&format!("ip -6 addr show dev {}", self.a.interface))
            .contains(&self.a.v6.to_string())
        {
            self.a
                .host
                .set_address(&self.a.interface, &format!("{}/64", self.a.v6));
        }
    }
}

/// What a port marks whose queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// What says that it may be marked, as routers should.
    Capable,
    /// Everything, as broken ones do.
    Everything,
}

impl Port {
    /// Takes nothing in any more, while the card stays up and nobody is told.
    #[track_caller]
    pub fn deafen(&self) {
        self.nft(&format!(
            "table netdev deaf-{0} {{\n chain in {{ type filter hook ingress device \"{0}\" priority -500; policy drop; }}\n}}\n",
            self.interface
        ));
    }

    /// Takes in again what comes.
    #[track_caller]
    pub fn undeafen(&self) {
        self.nft(&format!("delete table netdev deaf-{}\n", self.interface));
    }

    /// Loses what it is to send if an expression of nftables matches, in silence: whoever sends it is told that it was sent.
    #[track_caller]
    pub fn lose(&self, what: &str) {
        self.nft(&format!(
            "table netdev lossy-{0} {{\n chain out {{ type filter hook egress device \"{0}\" priority 0; {what} drop\n }}\n}}\n",
            self.interface
        ));
    }

    /// Marks what it sends, as a router does whose queue stands (ECN).
    #[track_caller]
    pub fn mark(&self, what: Marks) {
        let rules = match what {
            Marks::Capable => "ip ecn != not-ect ip ecn set ce; ip6 ecn != not-ect ip6 ecn set ce",
            Marks::Everything => "ip ecn set ce; ip6 ecn set ce",
        };
        self.nft(&format!(
            "table netdev ecn-{0} {{\n chain out {{ type filter hook egress device \"{0}\" priority 0; {rules}\n }}\n}}\n",
            self.interface
        ));
    }

    /// Marks nothing any more.
    #[track_caller]
    pub fn unmark(&self) {
        self.nft(&format!("delete table netdev ecn-{}\n", self.interface));
    }

    #[track_caller]
    fn nft(&self, rules: &str) {
        let done = self
            .host
            .output_of(&["nft", "-f", "-"], rules, secs(5))
            .and_then(process::Output::success);
        done.unwrap_or_else(|err| panic!("{}: nft {rules}: {err}", self.host.name()));
    }

    #[track_caller]
    pub(crate) fn addressed(host: &Host, interface: String, network: u16, number: u8) -> Self {
        let port = Self::planned(host, interface, network, number);
        host.set_address(&port.interface, &format!("{}/24", port.v4));
        host.set_address(&port.interface, &format!("{}/64", port.v6));
        port
    }

    /// A port whose addresses are yet to be set.
    pub(crate) fn planned(host: &Host, interface: String, network: u16, number: u8) -> Self {
        let [high, low] = network.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 77 + high, low, number);
        let v6 = Ipv6Addr::new(0xfd77, network, 0, 0, 0, 0, 0, u16::from(number));
        Self {
            host: host.clone(),
            interface,
            v4,
            v6,
        }
    }
}

/// A bridge that hosts are plugged into.
#[derive(Debug)]
pub struct Switch {
    host: Host,
    network: u16,
    ports: AtomicU16,
}

impl Switch {
    #[track_caller]
    fn new(host: Host, network: u16) -> Self {
        host.run("ip link add bridge type bridge");
        host.link_up("bridge");
        Self {
            host,
            network,
            ports: AtomicU16::new(0),
        }
    }

    /// Plugs a host in, with the next free address of both families: `10.77.n.1`, `10.77.n.2`, …
    ///
    /// # Panics
    /// When more than 254 hosts share the switch.
    #[track_caller]
    pub fn plug(&self, host: &Host) -> Port {
        let number = u8::try_from(self.ports.fetch_add(1, Ordering::Relaxed) + 1)
            .expect("a switch has 254 ports");
        let (here, there) = (format!("port{number}"), host.next_interface());
        Cable::default().lay((&self.host, &here), (host, &there));
        self.host.run(&format!("ip link set {here} master bridge"));
        Port::addressed(host, there, self.network, number)
    }
}

/// Where cargo puts what it builds: two levels above this program, three when it is a test.
pub(crate) fn target_directory() -> PathBuf {
    let profile = profile_directory();
    profile
        .parent()
        .map_or_else(|| profile.clone(), Path::to_owned)
}

/// Where the programs built together with this one are.
pub(crate) fn profile_directory() -> PathBuf {
    let program =
        std::env::current_exe().unwrap_or_else(|err| panic!("cannot find this program: {err}"));
    let directory = program.parent().expect("a program lies in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory
            .parent()
            .expect("deps lies in a directory")
            .to_owned(),
        _ => directory.to_owned(),
    }
}

/// A program of this workspace.
///
/// # Panics
/// When it was not built; the message says how.
#[track_caller]
pub fn program(name: &str) -> String {
    let path = profile_directory().join(name);
    assert!(
        path.exists(),
        "{} is not there; build it: cargo build --workspace --bins",
        path.display()
    );
    path.display().to_string()
}

/// Removes what runs that were killed have left: their names carry the id of a process that is gone.
fn sweep() {
    let listed = try_run_outside("ip netns list")
        .unwrap_or_else(|err| panic!("cannot list namespaces: {err}"));
    let mut gone = BTreeSet::new();
    for namespace in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if let Some(pid) = owner(namespace).filter(|pid| !is_alive(*pid)) {
            gone.insert(pid);
            remove_namespace(namespace);
        }
    }
    if let Ok(entries) = fs::read_dir(SOCKETS) {
        for entry in entries.flatten() {
            if let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(owner)
                .filter(|pid| !is_alive(*pid))
            {
                gone.insert(pid);
                if let Err(err) = fs::remove_dir_all(entry.path()) {
                    say(&format!("cannot remove {}: {err}", entry.path().display()));
                }
            }
        }
    }
    gone.into_iter().for_each(remove_wireguard_sockets);
}

/// The process that a name of ours carries: `lab<pid>x<number>…`.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("lab")?.split_once('x')?.0.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn remove_wireguard_sockets(pid: u32) {
    let Ok(entries) = fs::read_dir(WIREGUARD_SOCKETS) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("wg{pid}x"))
            && let Err(err) = fs::remove_file(entry.path())
        {
            say(&format!("cannot remove {}: {err}", entry.path().display()));
        }
    }
}

/// Kills what runs in a namespace and removes it. Failures are told, not raised: this runs while tests fail.
pub(crate) fn remove_namespace(namespace: &str) {
    let emptied = poll_until(secs(5), || {
        let pids = try_run_outside(&format!("ip netns pids {namespace}"))?;
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if pids.is_empty() {
            return Ok(());
        }
        let mut kill = vec!["kill", "-KILL"];
        kill.extend(&pids);
        // One that has ended meanwhile is no failure: the next look tells.
        drop(process::run(process::command(None, &kill), "", secs(5)));
        Err(format!("processes {pids:?} still run"))
    });
    if let Err(late) = emptied {
        say(&format!("{namespace}: {}", late.last));
    }
    if let Err(err) = try_run_outside(&format!("ip netns del {namespace}")) {
        say(&format!("cannot remove the namespace {namespace}: {err}"));
    }
}

/// Tells the person who runs the tests; a lab has no other log.
pub(crate) fn say(text: &str) {
    // Nobody is left to be told when standard error is closed.
    drop(writeln!(std::io::stderr(), "netns-tests: {text}"));
}

/// Starts a command line outside the namespaces, as a child that ends with this thread.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn spawn_outside(argv: &[&str], log: &Path) -> Process {
    let command: Command = process::command(None, argv);
    Process::start(command, &argv.join(" "), log).unwrap_or_else(|err| panic!("{err}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_carry_the_process_that_made_them() {
        assert_eq!(owner("lab4194304x12-router"), Some(4_194_304));
        assert_eq!(owner("lab17x0"), Some(17));
        for other in ["lab", "labx1", "label", "lab-1x2", "laboratory"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
