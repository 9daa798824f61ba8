//! Babel (RFC 8966) for IPv6, without I/O, with routes that are proven by their origins.
//!
//! Bytes, hints and the time go in; packets, changes of what to forward by, events and deadlines come out of the [`Router`]. There is no
//! socket, no thread and no clock here, so that a thousand routers run in virtual time in one test (module `sim`, behind the feature
//! `_sim`). What a link is made of is unknown here: it has a number, an MTU, and one neighbour at its other end.
//!
//! # The tables of RFC 8966 §3.2
//!
//! | table | where | what is different |
//! |---|---|---|
//! | interfaces (§3.2.3) | `link/` | a *link* is point-to-point: an interface with one neighbour |
//! | neighbours (§3.2.4) | `neighbour/` | part of its link; besides Hellos, a neighbour that is late is asked (`liveness.rs`) |
//! | sources (§3.2.5) | `source.rs` | lies with its destination; a feasibility distance is kept for four update intervals |
//! | routes (§3.2.6) | `route.rs` | lies with its destination, and with it what each neighbour was told |
//! | pending requests (§3.2.7) | `request.rs` | by prefix *and* router-id; those of ours, and those that were passed on |
//!
//! # The way of a packet in
//!
//! 1. [`wire`] makes TLVs of it; what cannot be read is counted ([`wire::Skipped`]).
//! 2. `router/receive.rs` heeds them in their order. Everything a neighbour may ask for or bring has a limit ([`Limits`]), and everything
//!    that comes to nothing a reason ([`Reason`]).
//! 3. An update passes `learn.rs`: may this neighbour announce that prefix? Then `prove.rs`: is it proven ([`origin`])? If that takes
//!    time, it waits outside of all tables. Then it is judged against the feasibility distance, and stored.
//! 4. When the packet has been read, `select.rs` looks at the destinations that it has touched; what follows for forwarding is one
//!    [`Event::Fib`], what follows for neighbours goes into their links' outboxes.
//!
//! # The way of an update out
//!
//! 1. `tell.rs` compares what each neighbour is to know with what it was told, and `update.rs` says by when it has to hear of the
//!    difference. Only the name of the destination waits in the outbox (`link/outbox.rs`).
//! 2. `send.rs` writes what is true when the packet is made, notes it as told, and moves the feasibility distance before the
//!    packet leaves.
//! 3. Packets with changes ask for an Acknowledgment, and what was in them is said again without it: so the periodic updates
//!    between nodes that run this program may be rare. A packet of which something had to be refused for the moment is not
//!    acknowledged.
//!
//! # What is there
//!
//! - All of RFC 8966 that concerns IPv6 (`tests/compliance.txt` lists every MUST, `tests/interop_traps.rs` what others got wrong), with
//!   acknowledged triggered updates (§3.3), the acknowledged hold of §3.5.4, hysteresis (Appendix A.3), and split horizon.
//! - Round-trip times (RFC 9616), corrected by our own measurement, in the cost of a link, which does not swing under load (`cost.rs`).
//! - Links that break are found by asking: within a second without traffic, within half of one with it ([`Hint::Silent`]).
//! - Origin proofs ([`origin`], [`extension`]); neighbours that are plain Babel speakers ([`Peer::Stub`], [`Peer::Legacy`]).
//! - What the ends of sessions say about relays ([`Router::handle_feedback`]).
//!
//! Not there: IPv4 (RFC 8966, RFC 9229), source-specific routes (RFC 9079) and authentication of packets (RFC 8967) are read past.
//!
//! # What always holds
//!
//! - Only feasible routes of finite metric are selected, whatever else is decided: so packets to one origin never go in a circle
//!   (`tests/loops.rs` looks at every change). A router that was just started waits until its neighbours know that it is new.
//! - Nothing a neighbour says reaches the tables of sources and routes before it is allowed, and proven where it has to be.
//! - Local judgement only raises metrics: cost, penalties, surcharges.
//! - Every table is bounded, and most by neighbour; a full one refuses what is new and forgets nothing.
//! - The same calls with the same seed give the same bytes. Nothing depends on the order of a hash table, or on fractions.
//!
//! [`Router::check`] looks for what must not be; `sim` for loops, and whether routes are as short as they can be.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::unwrap_in_result,
        reason = "a test may fail by panic"
    )
)]

mod bucket;
mod clock;
mod config;
mod cost;
mod counters;
mod discard;
mod event;
pub mod extension;
mod feedback;
mod few;
mod link;
mod neighbour;
pub mod origin;
mod request;
mod rng;
mod route;
mod router;
#[cfg(feature = "_sim")]
pub mod sim;
mod source;
mod types;
mod update;
pub mod wire;

pub use bucket::Rate;
pub use config::{Config, Limits, LinkConfig, Peer, SplitHorizon, Transit};
pub use cost::{Delay, NOMINAL};
pub use discard::{Discards, Reason};
pub use event::{Cast, Event, FibAction, FibOp, Hint, Hop, NeighbourState, Next, Transmit, Why};
pub use feedback::Verdict;
pub use neighbour::Patience;
pub use route::Trust;
pub use router::{LinkView, RouteView, Router, Violation};
pub use types::{Interval, LinkId, Metric, RouterId, Seqno};
