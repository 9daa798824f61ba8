//! What the nodes, workloads and devices of a mesh are called, answered in DNS (RFC 1035), without I/O.
//!
//! A [`Directory`] is a snapshot of all that has a name. [`answer()`] answers one query from it. There are three zones, and this node has
//! authority over each:
//!
//! | zone | name | what it is |
//! |---|---|---|
//! | `NET.DOMAIN` | `NAME.NET.DOMAIN` | a node that has a name here |
//! | | `W.NAME.NET.DOMAIN` | a workload on that node, or a stock device of this node |
//! | `id.DOMAIN` | `KEY.id.DOMAIN` | the node with that WireGuard key, 52 digits of base32 (RFC 4648 §6, no padding) |
//! | | `W.KEY.id.DOMAIN` | a workload on that node |
//! | `6.0.ip6.arpa` | an address of the overlay | the name of that address |
//!
//! `DOMAIN` itself belongs to nobody here: others may have names in it. Whatever is in none of the zones is refused, and asked of nobody
//! else: this is no forwarder.
//!
//! The address of a workload follows from its node's prefix and its name, so that it is known without asking that node; whether there is
//! such a workload is not.
#![forbid(unsafe_code)]

mod answer;
mod directory;
mod question;

pub use self::{
    answer::{MAX_ANSWER, Unanswered, answer},
    directory::{Derivation, Directory, NameError, is_label, key_label},
    question::{address_in, question},
};
