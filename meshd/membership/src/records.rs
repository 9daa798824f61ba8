//! The set of records that a member keeps.

use std::sync::Arc;

use crate::{
    Approval, InviteKey, Name, NetworkId, NodeKey, Record, RecordError, RecordId, Roll, Standing,
    Tags,
};

/// The records of one network, merged by union. What follows from them is a function of the set alone: no clock, no order of arrival.
#[derive(Clone, Debug)]
pub struct Records {
    network: NetworkId,
}

/// What became of a record that was to be inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// It is new: keep it, and pass it on.
    New(RecordId),
    /// It was there already.
    Held,
}

/// Why a record was not inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InsertError {
    /// No record, or a false one.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Nothing here says that its signer may make it; a record that is still missing might.
    #[error("a record whose signer is not known to be entitled to it")]
    Unchained,
    /// Its signer, or its invite, has more records than are kept, and this one is not among those that are.
    #[error("a record beyond what is kept of one signer")]
    Beyond,
}

/// An invite, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invite {
    /// Its public half.
    pub key: InviteKey,
    /// The key of who made it.
    pub by: [u8; 32],
    /// When, by the maker's clock, seconds since 1970.
    pub issued: u64,
    /// Until when, seconds since 1970.
    pub expires: u64,
    /// By how many nodes it may be used.
    pub uses: u16,
    /// By how many it was.
    pub used: usize,
    /// Whether an admin must approve.
    pub approval: Approval,
    /// The name it gives.
    pub name: Option<Name>,
    /// The tags it gives.
    pub tags: Tags,
    /// Whether it has been withdrawn, or fell with its maker.
    pub revoked: bool,
}

impl Records {
    /// Most nodes that one invite may admit.
    pub const MAX_USES: u16 = 100;

    /// No record yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        Self { network }
    }

    /// Reads what [`Self::to_bytes`] wrote. Records that are damaged, or lack what they hang on, are left out and counted: they can be had
    /// from others.
    ///
    /// # Errors
    /// [`RecordError`]: not such a file, or one of a later release.
    pub fn from_bytes(network: NetworkId, bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        todo!("{network} {bytes:?}")
    }

    /// All records, for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Which network they are of.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows with every change, so that one who looks often can see that there was none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        todo!()
    }

    /// Takes a record from anybody. The set is as it was unless [`Inserted::New`] is returned.
    ///
    /// # Errors
    /// It is not taken. After [`InsertError::Unchained`] it may be another time.
    pub fn insert(&mut self, bytes: &[u8]) -> Result<Inserted, InsertError> {
        todo!("{bytes:?}")
    }

    /// The records, each after those that it hangs on.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        std::iter::empty()
    }

    /// Who is a member, and under which name: computed when it is first asked for after a change, then shared.
    #[must_use]
    pub fn roll(&self) -> Arc<Roll> {
        todo!()
    }

    /// What a node is. As [`Roll::standing`] of [`Self::roll`].
    #[must_use]
    pub fn standing(&self, node: &NodeKey) -> Standing {
        self.roll().standing(node).clone()
    }

    /// The invites, oldest first.
    #[must_use]
    pub fn invites(&self) -> Vec<Invite> {
        todo!()
    }
}
