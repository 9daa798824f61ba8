//! The mesh daemon and its command line.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::unwrap_in_result))]

pub mod admin;
pub mod agenda;
pub mod alerts;
pub mod beacon;
pub mod bell;
pub mod cli;
pub mod clock_watch;
pub mod cni;
pub mod commands;
pub mod config;
pub mod control;
pub mod control_plane;
pub mod daemon;
pub mod discard;
pub mod driver;
pub mod ecn;
pub mod fib;
pub mod forward;
pub mod fragment;
pub mod handshake;
pub mod held;
pub mod icmp;
pub mod identity;
pub mod inbound;
pub mod io;
pub mod journal;
pub mod labelled;
pub mod labels;
mod lan;
pub mod liveness;
pub mod metrics;
pub mod network;
mod network_watch;
pub mod node;
pub mod notify;
pub mod packet;
pub mod path;
pub mod port_mapping;
pub mod pulse;
pub mod recent;
pub mod redact;
pub mod relayed;
pub mod resolved;
pub mod signal;
#[cfg(feature = "_sim")]
pub mod sim;
pub mod state;
pub mod stream;
pub mod telemetry;
#[cfg(any(test, feature = "_sim"))]
mod testdata;
pub mod workload;
