//! Making records.

use crate::{
    Approval, InviteKey, InviteSeed, Name, NetworkKey, NodeKey, RecordId, Records, Signer, Tags,
};

/// What an invite shall allow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invitation {
    /// By how many nodes it may be used, 1 to [`Records::MAX_USES`].
    pub uses: u16,
    /// Until when, seconds since 1970.
    pub expires: u64,
    /// Whether an admin must approve each.
    pub approval: Approval,
    /// The name of whoever uses it; only with one use.
    pub name: Option<Name>,
    /// The tags of whoever uses it.
    pub tags: Tags,
}

/// The bytes of the records that were made and inserted: keep them, and pass them on. Empty if nothing had to be said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Issued(pub Vec<Vec<u8>>);

/// Why a record was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// Who would sign is not an admin of this network, or no longer.
    #[error("this node is not an admin of the network")]
    NotAdmin,
    /// It takes the network key.
    #[error("only the network key can do this")]
    NotNetworkKey,
    /// Who would sign has made as many records of this kind as are kept.
    #[error("this admin has made as many records of this kind as are kept")]
    Full,
    /// The node is revoked, and stays so.
    #[error("the node is revoked; it can come back with a new key only")]
    Revoked,
    /// There is nothing of this node that could be approved, named, or left.
    #[error("the node is not known in this network")]
    UnknownNode,
    /// There is no such invite.
    #[error("no such invite")]
    UnknownInvite,
    /// A number of uses out of range, or a name for several.
    #[error(
        "an invite has 1 to {} uses, and a name only if it has one",
        Records::MAX_USES
    )]
    Invitation,
}

impl Records {
    /// A new network: its name, and its first member and admin, by the network key.
    #[must_use]
    pub fn found(
        network: &NetworkKey,
        name: Name,
        node: NodeKey,
        node_name: Name,
        now: u64,
    ) -> (Self, Issued) {
        todo!("{network:?} {name} {node:?} {node_name} {now}")
    }

    /// Gives the network another name.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn rename(
        &mut self,
        network: &NetworkKey,
        name: Name,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{network:?} {name} {now}")
    }

    /// Makes a node an admin. It need not be a member.
    ///
    /// # Errors
    /// [`IssueError::NotNetworkKey`], [`IssueError::Revoked`], [`IssueError::Full`].
    pub fn promote(
        &mut self,
        network: &NetworkKey,
        node: NodeKey,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{network:?} {node:?} {now}")
    }

    /// Makes an invite of 16 random bytes, which go into its ticket.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::Invitation`], [`IssueError::Full`].
    pub fn invite(
        &mut self,
        signer: Signer<'_>,
        seed: &InviteSeed,
        invitation: Invitation,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {seed:?} {invitation:?} {now}")
    }

    /// Makes a node a member without an invite.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::Revoked`], [`IssueError::Full`].
    pub fn enrol(
        &mut self,
        signer: Signer<'_>,
        node: NodeKey,
        name: Name,
        tags: Tags,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {node:?} {name} {tags:?} {now}")
    }

    /// Approves a node that is pending or suspended.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::Revoked`], [`IssueError::UnknownNode`], [`IssueError::Full`].
    pub fn approve(
        &mut self,
        signer: Signer<'_>,
        node: &NodeKey,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {node:?} {now}")
    }

    /// Gives a node a name, which is then nobody else's.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::UnknownNode`], [`IssueError::Full`].
    pub fn name(
        &mut self,
        signer: Signer<'_>,
        node: NodeKey,
        name: Name,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {node:?} {name} {now}")
    }

    /// Revokes a node, for ever. If it is an admin, what it has let in until now, as far as it is known here, is approved first, in the
    /// signer's name; what it lets in later, or has elsewhere, is suspended.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::Full`]. Nothing has changed.
    pub fn revoke(
        &mut self,
        signer: Signer<'_>,
        node: NodeKey,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {node:?} {now}")
    }

    /// Revokes an admin together with its past: neither whom it let in nor whom it revoked counts, but for the revocations in `keep`.
    /// The way back after an admin's key was stolen and used.
    ///
    /// # Errors
    /// [`IssueError::Full`], [`IssueError::NotNetworkKey`]. Nothing has changed.
    pub fn disown(
        &mut self,
        network: &NetworkKey,
        admin: NodeKey,
        keep: &[RecordId],
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{network:?} {admin:?} {keep:?} {now}")
    }

    /// Withdraws an invite. Who has used it until now, as far as it is known here, stays.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::UnknownInvite`], [`IssueError::Full`]. Nothing has changed.
    pub fn withdraw(
        &mut self,
        signer: Signer<'_>,
        invite: &InviteKey,
        now: u64,
    ) -> Result<Issued, IssueError> {
        todo!("{signer:?} {invite:?} {now}")
    }

    /// Says that a node has left, in its own name. It stays an admin if it was one.
    ///
    /// # Errors
    /// [`IssueError::UnknownNode`].
    pub fn leave(&mut self, seed: &[u8; 32], now: u64) -> Result<Issued, IssueError> {
        todo!("{seed:?} {now}")
    }
}
