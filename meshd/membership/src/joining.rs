//! Joining: the two ends of it, as messages. Whatever carries them has authenticated each end's key to the other.
//!
//! ```text
//!  joiner                                                    doorkeeper (any member)
//!    hello: invite, signed with it for these two keys   ──►
//!                                                       ◄──  proof: the records that make the doorkeeper a member, its time
//!    join: its record, signed with the invite and itself ──►  kept, then
//!                                                       ◄──  welcome: what became of it, the records that say so
//! ```

use zeroize::Zeroizing;

use crate::{InviteSeed, Name, NetworkId, NodeKey, Records, Ticket};

/// The side that joins. It needs no clock.
#[derive(Debug)]
pub struct Joiner {
    _network: NetworkId,
    _seed: InviteSeed,
    _node: Zeroizing<[u8; 32]>,
    _name: Name,
    _door: NodeKey,
}

/// What a joiner does next.
#[derive(Debug)]
pub enum Step {
    /// Send this, and give the answer to [`Joiner::handle_message`].
    Send(Vec<u8>),
    /// It is over.
    Over(Welcome),
}

/// How joining ended well.
#[derive(Debug)]
pub struct Welcome {
    /// Member, or pending.
    pub admission: Admission,
    /// The records that the doorkeeper showed: they make it, and this node if it is admitted, a member. Keep them; the rest is had by
    /// [`crate::sync::Pull`].
    pub records: Records,
}

/// What became of a node that came with a ticket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It is a member.
    Member,
    /// An admin must approve; come again.
    Pending,
}

/// Why a doorkeeper refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// This member does not know the invite; another may.
    #[error(
        "the member that answered does not know this ticket; it may be a false one, or too new"
    )]
    UnknownInvite,
    /// It is too late.
    #[error("the ticket has expired")]
    Expired,
    /// As many nodes as may have used it.
    #[error("the ticket has been used")]
    Used,
    /// It was withdrawn, or its maker was revoked.
    #[error("the ticket has been withdrawn")]
    Withdrawn,
    /// The node that joins is revoked.
    #[error("this node's key is revoked; make a new one")]
    Revoked,
    /// The node that joins is suspended.
    #[error("this node is suspended until an admin approves it")]
    Suspended,
    /// Who answers is itself no member now.
    #[error("the node that answered is not a member now")]
    NotMember,
    /// The message is not understood.
    #[error("the member that answered did not understand")]
    NotUnderstood,
}

/// Why joining failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JoinError {
    /// Who answered could not prove that it is a member. Nothing was told to it that it could use.
    #[error("the node that answered is not a member of the ticket's network")]
    NotProven,
    /// The doorkeeper refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer cannot be read, or was not expected.
    #[error("the answer cannot be read")]
    Message,
}

/// The side that lets in. It remembers nothing between messages, and each may come again.
#[derive(Debug)]
pub struct Doorkeeper;

/// What a doorkeeper does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The record of the new member, if there is one: keep it before the reply is sent, then pass it on.
    pub new: Option<Vec<u8>>,
    /// The reply.
    pub reply: Vec<u8>,
    /// What became of the node, once it has sent its record.
    pub outcome: Option<Result<Admission, Refusal>>,
}

impl Joiner {
    /// Begins to join, by way of `door`, whose key the connection has authenticated.
    #[must_use]
    pub fn new(ticket: &Ticket, node_seed: &[u8; 32], name: Name, door: NodeKey) -> Self {
        Self {
            _network: ticket.network,
            _seed: ticket.seed.clone(),
            _node: Zeroizing::new(*node_seed),
            _name: name,
            _door: door,
        }
    }

    /// The first message.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        todo!()
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// Joining has failed here; another member may be tried.
    pub fn handle_message(&mut self, message: &[u8]) -> Result<Step, JoinError> {
        todo!("{message:?}")
    }
}

impl Doorkeeper {
    /// Answers a message of `visitor`, whose key the connection has authenticated, in the name of `own`. `now` is in seconds since 1970.
    #[must_use]
    pub fn answer(
        records: &mut Records,
        own: &NodeKey,
        visitor: &NodeKey,
        message: &[u8],
        now: u64,
    ) -> Answer {
        todo!("{records:?} {own:?} {visitor:?} {message:?} {now}")
    }
}
