//! A lab of network namespaces whose tests read as prose.
//!
//! ```no_run
//! use netns_tests::{Cable, Lab, secs, wait_until};
//!
//! let lab = Lab::new("two hosts");
//! let (a, b) = (lab.host("a"), lab.host("b"));
//! let link = lab.link(&a, &b);
//! wait_until(secs(2), "b answers a", || a.ping(link.b.v6));
//! # let _ = Cable::default();
//! ```
//!
//! A [`Lab`] owns everything it makes: namespaces, processes, sockets, files. All of it goes when the lab is dropped, also
//! while a test fails; before that, a failing test writes what it knows (addresses, routes, daemon status, logs, captures)
//! into `target/netns/<test>/`. What a killed run left behind is removed when the next lab starts.
//!
//! A lab that cannot be built has no result to give, so the functions here panic, with the command that failed, instead of
//! returning errors that every test would unwrap. Only [`wait`] pauses.
//!
//! Everything is done by `ip`, `nft` and `ethtool`, or by threads inside a namespace, as root; nothing is touched outside the
//! namespaces of the lab.
//!
//! What is about routing: [`Topology`] and [`Mesh`] make many hosts and nodes at once; [`trial::Trial`] follows what all of them
//! do with packets and judges it, be they nodes or [stock routers](stock); [`Speaker`] is a neighbour that does as a test tells it.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod abuse;
pub mod abuse_admin;
pub mod babel;
mod babeld;
pub mod beacon;
mod bird;
pub mod canary;
pub mod daemon;
pub mod events;
pub mod fib;
pub mod flow;
pub mod freeze;
pub mod host;
pub mod identity;
pub mod impair;
mod inside;
pub mod lab;
pub mod leaf;
pub mod liar;
pub mod mesh;
pub mod moment;
pub mod monitor;
pub mod nat;
pub mod origin;
pub mod pcap;
pub mod process;
pub mod settings;
pub mod speaker;
pub mod speed;
pub mod stock;
pub mod topology;
pub mod traffic;
pub mod trial;
pub mod usage;
pub mod view;
pub mod wait;
pub mod wall_clock;
pub mod wireguard;
pub mod workload;

pub use canary::Canary;
pub use daemon::Daemon;
pub use flow::Flow;
pub use host::Host;
pub use identity::Identity;
pub use impair::{Direction, Impairment, Wire};
pub use lab::{Cable, Lab, Link, Marks, Offloads, Port, Switch};
pub use mesh::Mesh;
pub use moment::Moment;
pub use nat::{Nat, NatBox, Router};
pub use process::Process;
pub use settings::{Role, Settings};
pub use speaker::Speaker;
pub use speed::Stretch;
pub use stock::{Software, StockRouter, StockSettings};
pub use topology::{Graph, Topology};
pub use wait::{millis, secs, wait_until};
