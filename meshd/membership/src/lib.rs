//! Private networks without a server: who is a member, by signed records that every member keeps.
//!
//! Pure: bytes, wall-clock seconds and randomness come as arguments; bytes and answers go out.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

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
