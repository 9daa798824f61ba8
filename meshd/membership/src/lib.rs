//! Private networks without a server: who is a member, by signed records that every member keeps.
//!
//! Pure: bytes, wall-clock seconds and randomness come as arguments; bytes and answers go out. `docs/protocol.md` has the formats, the rules
//! and what they make of every case.
//!
//! ```text
//!  ticket ─► Joiner ◄── messages ──► Doorkeeper ─► Records ◄── Pull, answer, news ──► other members' Records
//!                                                     │ a function of the set alone
//!                                                     ▼
//!                                                   Roll: who is a member, under which name, with which tags
//! ```
//!
//! What is promised, by nothing but the records in a set:
//! - Two members with the same records agree on everything; no clock and no order of arrival is asked.
//! - Whom an admin has revoked stays out, whatever anybody signs before or after, but for the holder of the network key.
//! - Nothing that a revoked admin signs lets anybody in, whatever its date.
//! - Nobody makes another's set grow but by a bounded number of records for each secret that it has.
//!
//! What is not: that a ticket is used once while members do not see each other, or that an expired one is refused by a member of bad will.
//! Who is asked for records, and who tells them, is the caller's to check: they are for members only. So is how often.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod bounds;
mod issue;
mod joining;
mod judgement;
mod keys;
mod label;
mod record;
mod records;
mod roll;
pub mod sync;
mod ticket;

pub use self::{
    issue::{Invitation, IssueError, Issued},
    joining::{Admission, Answer, Doorkeeper, JoinError, Joiner, Refusal, Step, Welcome},
    keys::{InviteKey, InviteSeed, KeyError, NetworkId, NetworkKey, NodeKey, Signer},
    label::{LabelError, Name, Tag, Tags},
    record::{Approval, Past, Record, RecordError, RecordId, Statement, Target},
    records::{InsertError, Inserted, Invite, Records},
    roll::{Member, Roll, Standing, Suspension, Warning},
    ticket::{Ticket, TicketError},
};
