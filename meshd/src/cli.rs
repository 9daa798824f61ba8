//! The command line: its grammar, nothing else.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use filter::Ports;
use ipnetwork::Ipv6Network;
use wireguard::PublicKey;

use crate::config::{HostPort, LogLevel};
use crate::workload::{INTERFACE, Target};

/// Encrypted IPv6 overlay between machines anywhere, over WireGuard, without a coordinator.
#[derive(Debug, Parser)]
#[command(
    name = "meshd",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes, before or after it.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file [default: /etc/meshd/meshd.toml]
    #[arg(long, global = true, value_name = "FILE", env = "MESHD_CONFIG")]
    pub config: Option<PathBuf>,
    /// State directory, in place of the configuration's
    #[arg(long, global = true, value_name = "DIR", env = "MESHD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the daemon, in place of the configuration's
    #[arg(long, global = true, value_name = "PATH", env = "MESHD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make this machine a node: a key with an address, and a configuration. Keeps what exists
    Init {
        /// What to call the node: lower-case letters, digits and hyphens [default: the host's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Run the daemon in the foreground
    Run,
    /// Make and show keys
    #[command(subcommand)]
    Key(Key),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Apply the changed configuration to the running daemon
    Reload,
    /// Remove the routing rules and routes that a killed daemon left behind to keep overlay traffic off the default route
    Cleanup,
    /// Wait until the daemon is ready, a peer is connected or a route exists
    Wait(Wait),
    /// Show the node and everybody it knows
    Status,
    /// List peers with their keys and endpoints
    Peers,
    /// List the links to neighbours, how well they work and what they cost
    Links,
    /// List the routes to other nodes, and why each is taken or not
    Routes,
    /// Show the way to a node, hop by hop, and the way packets would take next
    Trace {
        /// Name of a peer, or an overlay address
        target: String,
    },
    /// Show which way packets to a node take, what was tried to reach it straight, and what would help
    ///
    /// Each line is an address that the node might be reached at: the probes sent there, those answered, and what came of it. `host` is an
    /// address of its own, `reflexive` one that others see it at, `mapped` one that its router was asked for, `guessed` and `predicted` what
    /// its router may have given out, `peer-reflexive` one that its probes came from. With --json: `meshd.why/1` with `target`, `name`,
    /// `path` (as in `status`), `nat{mapping, filtering, last, witnesses}`, `candidates[]{address, kind, sent, answered, rtt_ms, note}`,
    /// `code`, `text`, `fix` where there is no straight way, and `blocked{by, destination, port, count, ago_s}` where the node has said that
    /// it does not let something in.
    Why {
        /// Name of a peer, or an overlay address
        target: String,
    },
    /// Say whether somebody may reach something on this node, and which rule decides. Exit code 10: denied
    ///
    /// It answers for packets that begin something: answers to what this node began always pass. The rules are those of this node's
    /// configuration; another node's are known there. With --json: `meshd.explain/1` with `from`, `source`, `to`, `destination`, `port`,
    /// `fate` (allowed, denied), `reason`, and `nearest`, the rule that comes nearest to letting it in.
    Explain {
        /// Name of a peer or device, an overlay address, or a public key
        from: String,
        /// `node` or this node's name, the name of a device of its, or an address in its /64
        to: String,
        /// `tcp/22`, `udp/53` or `icmp`
        port: String,
    },
    /// Show what the network lets this node do: UDP, IPv4 and IPv6, the router, port mapping, MTU, and what the node can be to others
    ///
    /// It tells what has been found out so far, and sends nothing. With --json: `meshd.netcheck/1` with `udp` (works, blocked, unknown),
    /// `ipv4{addresses[], links}`, `ipv6` likewise, `nat{mapping, filtering, last, witnesses}`, `port_mapping{protocol, external}`, `mtu`,
    /// `interface_mtu`, `role` (reachable, direct, hard, relayed, unknown), `role_text` and `fix`.
    Netcheck,
    /// Find what on this machine stands in the way, and name the fix
    ///
    /// It looks at the configuration, the daemon and its warnings, the TUN device and the ports, the packet filter, routes of others into the
    /// overlay, names, the MTU and the clock, and changes nothing. As root it sees more. It exits with 1 if something is wrong; a note may be as
    /// it should be. With --json: `meshd.doctor/1` with `ok` and `checks[]{check, state: ok|note|wrong|unknown, code, text, fix}`. Codes are
    /// those of warnings (`meshd help CODE`) and CONFIG, DAEMON, NO-TUN, PORT-IN-USE, FIREWALL, FIREWALL-OVERLAY, OVERLAY-ROUTE, NAMES-SILENT,
    /// NAMES-ELSEWHERE, MTU-LOW, CLOCK-BEHIND.
    Doctor,
    /// Show what has happened to links, routes, paths and peers, and go on as it happens
    Events {
        /// Only what is remembered: do not wait for more
        #[arg(long)]
        once: bool,
    },
    /// Draw this node's links and routes for Graphviz (dot)
    Graph {
        /// The language of Graphviz, which is also the default
        #[arg(long)]
        dot: bool,
    },
    /// Measure the way to a peer: until it is direct or ten times, or as often as -c says
    Ping {
        /// How many times
        #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Name of a peer, or an overlay address
        target: String,
    },
    /// Print what the daemon measures, as Prometheus reads it
    Metrics,
    /// Log more or less, until the next reload or start
    Log {
        /// The least important event to log
        level: LogLevel,
    },
    /// Write what helps to find a fault into one local file, without names, keys and public addresses. Nothing is sent
    Bugreport(Bugreport),
    /// Phones, routers and others that speak plain WireGuard
    #[command(subcommand)]
    Wg(Wg),
    /// Put a container, a VM or a process into the mesh, by its network namespace
    ///
    /// The namespace gets an interface with an address of its own, which follows from this node's prefix and the name. Root may do
    /// that, and whoever owns the user namespace that the network namespace belongs to, if the daemon talks to him (the group of `api` in the configuration). It
    /// lasts until `meshd detach`, or until the namespace dies; after a restart of the daemon, `meshd attach --restore` puts everything
    /// back. Run twice, it changes what is published.
    Attach(Attach),
    /// Take a workload out of the mesh again
    Detach {
        /// What it is called
        name: String,
    },
    /// List the workloads of this node
    Workloads,
    /// Be a CNI plugin: what is to be done comes from the environment and standard input (CNI 1.1)
    Cni,
    /// Create a private network, and show the one that this node is in
    #[command(subcommand)]
    Network(Network),
    /// Make a ticket with which another machine joins the network
    Invite(Invite),
    /// Join the network of a ticket. The ticket is a secret, and is never an argument
    Join(Join),
    /// List who is in the network, and who waits, is suspended or revoked
    Members,
    /// Let a node in that waits or is suspended; with --name, give a member that name
    Approve {
        /// Its name, address or public key
        target: String,
        /// The name to give it, which is then nobody else's
        #[arg(long)]
        name: Option<String>,
    },
    /// Put a member out of the network, for ever: a lost machine comes back with a new key only
    Revoke {
        /// Its name, address or public key
        target: String,
    },
    /// Leave the private network
    Leave,
    /// Say who owns an overlay address
    Whois {
        /// The address
        address: Ipv6Addr,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// Into which directory
        dir: PathBuf,
    },
    /// Explain a verb or the code of a warning
    Help {
        /// Verb or code
        topic: Vec<String>,
    },
}

/// `meshd key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a new secret and write it to standard output; it is kept nowhere
    Generate,
    /// Show this node's address, peer id and public key
    Show,
    /// Read a secret from standard input and write its WireGuard public key to standard output
    Pub,
}

/// `meshd config`
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Name everything that is wrong with the configuration
    Check,
    /// Print the configuration with all defaults
    Show,
}

/// `meshd wait`
#[derive(Debug, Args)]
pub struct Wait {
    /// Until this peer, by name or address, has a session
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// Until there is a route to this prefix
    #[arg(long, value_name = "PREFIX")]
    pub route: Option<Ipv6Network>,
    /// Give up after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(crate::admin::MAX_WAIT_S)))]
    pub timeout: u32,
}

/// `meshd bugreport`
#[derive(Debug, Args)]
pub struct Bugreport {
    /// Keep names, public keys and addresses. Secrets are never in it
    #[arg(long)]
    pub full: bool,
    /// Where to write it; - is standard output [default: meshd-bugreport-TIME.txt here]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `meshd attach`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["target", "restore"])))]
pub struct Attach {
    /// netns:NAME (as `ip netns` lists it), netns:/PATH, or pid:NUMBER of a process in the namespace
    pub target: Option<Target>,
    /// What to call it: lower-case letters, digits and hyphens [default: the namespace's name]
    #[arg(long, requires = "target")]
    pub name: Option<String>,
    /// What others may reach: tcp/80, udp/53, tcp/8000-8010, icmp, any; may be given several times, or with commas
    #[arg(long, value_name = "PORTS", value_delimiter = ',', requires = "target")]
    pub publish: Vec<Ports>,
    /// What to call the interface inside
    #[arg(long, value_name = "NAME", default_value = INTERFACE, requires = "target")]
    pub interface: String,
    /// Attach what the configuration lists, and what was attached before and still lives
    #[arg(long)]
    pub restore: bool,
}

/// `meshd network`
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Create a private network: this node is its first member and admin, and only members can join, relay and find each other
    Create {
        /// What to call it: up to 32 lower-case letters, digits and hyphens
        name: String,
        /// What to call this node in it [default: as in the configuration]
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Show the network that this node is in
    Show,
}

/// `meshd invite`
#[derive(Debug, Args)]
pub struct Invite {
    /// What whoever uses it is called [default: as it calls itself]
    #[arg(long)]
    pub name: Option<String>,
    /// How many machines may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub uses: u16,
    /// How long it is good: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
    pub expires: u64,
    /// Tags of whoever uses it, with commas between
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Whoever uses it waits until an admin approves
    #[arg(long)]
    pub approve: bool,
    /// Where a member takes libp2p connections over TCP [default: this node's own address]
    #[arg(long, value_name = "IP:PORT")]
    pub endpoint: Option<String>,
}

/// `meshd join`
#[derive(Debug, Args)]
pub struct Join {
    /// File with the ticket; - is standard input [default: asks for it]
    #[arg(value_name = "-|FILE")]
    pub ticket: Option<PathBuf>,
    /// What to call this node in the network [default: as in the configuration]
    #[arg(long)]
    pub name: Option<String>,
    /// Ask this member, by its public key and WireGuard endpoint, without libp2p
    #[arg(long, value_name = "KEY@HOST:PORT", conflicts_with = "endpoint")]
    pub peer: Option<String>,
    /// Ask here in place of the ticket's endpoint: where a member takes libp2p connections over TCP
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
}

/// Seconds in `30m`, `24h`, `7d`, `90s`.
fn lifetime(text: &str) -> Result<u64, String> {
    let split = text.len() - usize::from(text.ends_with(|unit: char| "smhd".contains(unit)));
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 86_400,
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    seconds
        .filter(|seconds| (1..=crate::admin::MAX_INVITE_S).contains(seconds))
        .ok_or_else(|| "a time like 30m, 24h or 7d, a year at most".to_owned())
}

/// `meshd wg`
#[derive(Debug, Subcommand)]
pub enum Wg {
    /// Let a device in, and print the configuration to give it. Its private key is shown once and kept nowhere
    ///
    /// The text is for `wg-quick`, NetworkManager and the WireGuard apps, which also take it as a QR code. The device reaches, through this
    /// node, whatever this node reaches; this node can read what it says. With --json: `meshd.wg-add/1` with `name`, `address`,
    /// `public_key`, `private_key`, `endpoint`, `configuration` and `qr`.
    Add(WgAdd),
    /// List the devices
    List,
    /// Let a device in no more
    Remove {
        /// What it is called
        name: String,
    },
}

/// `meshd wg add`
#[derive(Debug, Args)]
pub struct WgAdd {
    /// What to call it: lower-case letters, digits and hyphens
    pub name: String,
    /// The key the device has made itself; without it one is made here
    #[arg(long, value_name = "KEY", conflicts_with_all = ["qr", "png", "svg"])]
    pub public_key: Option<PublicKey>,
    /// Where the device finds this node [default: what the node thinks its address is]
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<HostPort>,
    /// Let the device ask this node for names: it then asks nobody else while it is connected, and finds nothing but names of the mesh
    #[arg(long)]
    pub dns: bool,
    /// Show a QR code below the text: some 70 columns and 35 lines
    #[arg(long)]
    pub qr: bool,
    /// Write the QR code into a new file, which only you may read, as PNG
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// The same as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}
