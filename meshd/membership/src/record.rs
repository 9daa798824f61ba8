//! One signed record.

use crate::{InviteKey, Name, NetworkId, NodeKey, Signer, Tags};

/// Which record it is: a hash of what it says and in which network, whoever's signature is on it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordId(pub [u8; 16]);

/// A record that was read or made: what it says, and its bytes. Reading one says nothing about its signatures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// When its signer says it was made, seconds since 1970.
    pub issued: u64,
    /// The Ed25519 key that signed it: the network's, or a node's.
    pub signer: [u8; 32],
    /// What it says.
    pub statement: Statement,
    pub(crate) id: RecordId,
    pub(crate) bytes: Vec<u8>,
}

/// What a record says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Statement {
    /// The network's name. By the network key.
    Network {
        /// The name.
        name: Name,
    },
    /// This node is an admin. By the network key.
    Admin {
        /// The node.
        node: NodeKey,
    },
    /// Who has the secret half of this key may become a member. By an admin.
    Invite {
        /// The public half.
        key: InviteKey,
        /// By how many nodes, 1 to [`crate::Records::MAX_USES`].
        uses: u16,
        /// Until when, seconds since 1970.
        expires: u64,
        /// Whether an admin must approve each.
        approval: Approval,
        /// The name of whoever uses it, if that is settled.
        name: Option<Name>,
        /// The tags of whoever uses it.
        tags: Tags,
    },
    /// This node has used an invite. By the node, and by the invite's key.
    Join {
        /// The node that signs.
        node: NodeKey,
        /// The invite.
        invite: InviteKey,
        /// The name that it would like.
        name: Name,
    },
    /// This node is a member, without an invite. By an admin.
    Enrol {
        /// The node.
        node: NodeKey,
        /// Its name.
        name: Name,
        /// Its tags.
        tags: Tags,
    },
    /// This node has this name. By an admin.
    Name {
        /// The node.
        node: NodeKey,
        /// Its name.
        name: Name,
    },
    /// What these records say stands on the signer's authority too. By an admin.
    Approve {
        /// Their subjects ([`Record::subject`]).
        subjects: Vec<RecordId>,
    },
    /// This node, or this invite, is out, for ever. By an admin.
    Revoke {
        /// Who or what.
        target: Target,
        /// What becomes of revocations that an admin has made who is revoked. [`Past::Falls`] is the network key's to say.
        past: Past,
    },
    /// This node has left. By the node.
    Leave {
        /// The node that signs.
        node: NodeKey,
        /// By which records it was a member ([`Record::subject`]).
        subjects: Vec<RecordId>,
    },
}

/// Whether an admin must approve whoever uses an invite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Approval {
    /// It is enough to have the ticket.
    NotNeeded,
    /// Whoever comes is pending until an admin approves.
    Needed,
}

/// Who or what is revoked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Target {
    /// A node.
    Node(NodeKey),
    /// An invite.
    Invite(InviteKey),
}

/// What becomes of the revocations that a revoked admin has made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Past {
    /// They stand.
    Stands,
    /// They fall, but for those that an admin approves.
    Falls,
}

/// Why bytes are no record, or none to be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any record.
    #[error("a record longer than {} bytes", Record::MAX_LEN)]
    TooLong,
    /// The end is missing, or there is more behind it.
    #[error("a record of the wrong length")]
    Length,
    /// Another version of the layout.
    #[error("a record of the unknown version {0}")]
    Version(u8),
    /// A kind of record of a later release.
    #[error("a record of the unknown kind {0}")]
    Kind(u8),
    /// Written in a way that no node writes it.
    #[error("a record that is not in its canonical form")]
    NotCanonical,
    /// Not signed by whom it names, or for another network.
    #[error("a record with a wrong signature")]
    Signature,
}

impl Record {
    /// Longest record, in bytes.
    pub const MAX_LEN: usize = 512;
    /// Most subjects in one record.
    pub const MAX_SUBJECTS: usize = 12;

    /// Reads a record of a network without believing it.
    ///
    /// # Errors
    /// The bytes are not those of a record.
    pub fn decode(network: &NetworkId, bytes: &[u8]) -> Result<Self, RecordError> {
        todo!("{network} {bytes:?}")
    }

    /// Makes and signs one that an admin, or a node about itself, may make: all but [`Statement::Join`].
    pub(crate) fn sign(
        network: &NetworkId,
        signer: Signer<'_>,
        statement: Statement,
        issued: u64,
    ) -> Self {
        todo!("{network} {signer:?} {statement:?} {issued}")
    }

    /// Which record it is.
    #[must_use]
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// What approvals and leaves call it: for a [`Statement::Join`] the pair of node and invite, so that a node that joins twice with one
    /// ticket is approved once; for others [`Self::id`].
    #[must_use]
    pub fn subject(&self, network: &NetworkId) -> RecordId {
        todo!("{network}")
    }

    /// The bytes of it, signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
