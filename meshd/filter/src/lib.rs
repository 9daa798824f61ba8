//! Who may reach what on this node: a stateful filter, without I/O and without a clock.
//!
//! A *party* is whoever's packets are judged together: the other end of a session, with all that it answers for, or a workload of this
//! node. Which party a packet is from is found out by others, by keys and interfaces; a source address never decides whose rules apply.
//!
//! ```text
//!  Policy (configuration) ── rules_for(Subject) ──► Rules (one party's)
//!                                                      │
//!  packet of the party ──► Guard::judge ───────────────┴──► Pass | Refuse(why)
//!  packet to the party ──► Guard::note     (what this node begins is answered)
//! ```
//!
//! A packet passes if it belongs to a conversation that this node began, if it is an ICMPv6 error about one, or if the rules let it in by
//! themselves; a fragment passes if its first one did. Conversations that a party began are remembered as such, so that an answer of ours
//! does not turn them into ours; the rules decide about each packet of theirs, and a change of the rules about the next one.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")
)]

mod flows;
mod fragments;
mod guard;
mod packet;
mod ports;
mod rules;
mod selector;

pub use self::{
    flows::{BRIEF, Budget, LASTING, MAX_FLOWS, MAX_SHARED, SURE_FLOWS},
    fragments::{MAX_CUT, REASSEMBLY},
    guard::{Guard, Judgement, PickUp, Refusal},
    packet::{Fragment, Packet, PacketError, Quoted, QuotedUpper, Step, Upper},
    ports::{Port, PortRange, Ports, PortsError},
    rules::{Explanation, Fate, Lack, Near, Places, Policy, Question, Rule, Rules, Why},
    selector::{From, Name, SelectorError, Standing, Subject, To, Whom, Within},
};
