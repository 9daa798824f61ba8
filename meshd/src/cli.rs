//! The command line: its grammar, nothing else.

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
    /// and `code`, `text`, `fix` where there is no straight way.
    Why {
        /// Name of a peer, or an overlay address
        target: String,
    },
    /// Show what the network lets this node do: UDP, IPv4 and IPv6, the router, port mapping, MTU, and what the node can be to others
    ///
    /// It tells what has been found out so far, and sends nothing. With --json: `meshd.netcheck/1` with `udp` (works, blocked, unknown),
    /// `ipv4{addresses[], links}`, `ipv6` likewise, `nat{mapping, filtering, last, witnesses}`, `port_mapping{protocol, external}`, `mtu`,
    /// `interface_mtu`, `role` (reachable, direct, hard, relayed, unknown), `role_text` and `fix`.
    Netcheck,
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

/// `meshd wg`
#[derive(Debug, Subcommand)]
pub enum Wg {
    /// Let a device in, and print the configuration to give it. Its private key is shown once and kept nowhere
    Add {
        /// What to call it: lower-case letters, digits and hyphens
        name: String,
        /// The key the device has made itself; without it one is made here
        #[arg(long, value_name = "KEY")]
        public_key: Option<PublicKey>,
        /// Where the device finds this node [default: what the node thinks its address is]
        #[arg(long, value_name = "HOST:PORT")]
        endpoint: Option<HostPort>,
    },
    /// List the devices
    List,
    /// Let a device in no more
    Remove {
        /// What it is called
        name: String,
    },
}
