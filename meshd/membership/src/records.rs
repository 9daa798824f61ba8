//! The set of records that a member keeps.
//!
//! Records are merged by union. What may be in the set depends on the set alone: a record is in if some chain of records leads from the
//! network key to its signer, be they revoked or not, and if there is room for it ([`Bounds`]). So two sets that have met are equal, in
//! whatever order their records came. What the records amount to is [`Roll`]'s.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use crate::{
    Approval, InviteKey, Name, NetworkId, NodeKey, Record, RecordError, RecordId, Roll, Standing,
    Statement, Tags,
    bounds::{Bounds, Group},
    judgement::Judgement,
    record::Key,
};

/// What a file begins with.
const FILE: &[u8; 16] = b"meshd records 1\n";

/// The records of one network, merged by union. What follows from them is a function of the set alone: no clock, no order of arrival.
#[derive(Clone, Debug)]
pub struct Records {
    network: NetworkId,
    /// By stage and id: each after those that it hangs on.
    held: BTreeMap<Key, Record>,
    bounds: Bounds,
    revision: u64,
    judgement: OnceLock<Arc<Judgement>>,
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
    pub const MAX_USES: u16 = Statement::MAX_USES;
    /// Most admins of a network.
    pub const MAX_ADMINS: usize = 64;
    /// Most records of one kind by one admin.
    pub const MAX_SIGNED: usize = 2_048;
    /// Most invites by one admin.
    pub const MAX_INVITES: usize = 1_024;
    /// Most nodes that the invites of one admin may have let in.
    pub const MAX_GUESTS: usize = 4_096;
    /// Most leaves of one node.
    pub const MAX_LEAVES: usize = 16;

    /// No record yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            held: BTreeMap::new(),
            bounds: Bounds::new(network),
            revision: 0,
            judgement: OnceLock::new(),
        }
    }

    /// Reads what [`Self::to_bytes`] wrote. Records that are damaged, or lack what they hang on, are left out and counted: they can be had
    /// from others.
    ///
    /// # Errors
    /// [`RecordError`]: not such a file, or one of a later release.
    pub fn from_bytes(network: NetworkId, bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        let (head, rest) = bytes.split_first_chunk::<16>().ok_or(RecordError::Length)?;
        if head != FILE {
            return Err(RecordError::Version(head[14]));
        }
        let (of, rest) = rest.split_first_chunk().ok_or(RecordError::Length)?;
        if *of != network.0 {
            return Err(RecordError::Foreign);
        }
        let mut records = Self::new(network);
        let mut damaged = 0;
        let mut list = List(rest);
        for record in &mut list {
            damaged += usize::from(records.insert(record).is_err());
        }
        damaged += usize::from(!list.0.is_empty());
        Ok((records, damaged))
    }

    /// All records, for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [&FILE[..], &self.network.0].concat();
        for record in self.held.values() {
            write_listed(&mut bytes, record.bytes());
        }
        bytes
    }

    /// Which network they are of.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Grows with every change, so that one who looks often can see that there was none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes a record from anybody. The set is as it was unless [`Inserted::New`] is returned. What costs least is checked first, the
    /// signature last.
    ///
    /// # Errors
    /// It is not taken. After [`InsertError::Unchained`] it may be another time.
    pub fn insert(&mut self, bytes: &[u8]) -> Result<Inserted, InsertError> {
        let record = Record::decode(&self.network, bytes)?;
        let key = Key::of(&record);
        if self.held.contains_key(&key) {
            return Ok(Inserted::Held);
        }
        if !self.bounds.is_entitled(&record) {
            return Err(InsertError::Unchained);
        }
        let rival = self.bounds.rival(&record);
        let rival_record = rival.and_then(|rival| self.held.get(&rival));
        if rival.is_some_and(|rival| rival < key) || !self.bounds.has_room(&record, rival_record) {
            return Err(InsertError::Beyond);
        }
        if !record.is_signed(&self.network) {
            return Err(RecordError::Signature.into());
        }
        if let Some(rival) = rival {
            self.remove(rival);
        }
        let mut groups = self.bounds.add(&record);
        self.held.insert(key, record);
        if self.trim(&mut groups) || rival.is_some() {
            self.sweep();
        }
        self.revision += 1;
        self.judgement = OnceLock::new();
        Ok(Inserted::New(key.id))
    }

    /// The records, each after those that it hangs on.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.held.values()
    }

    /// Who is a member, and under which name: computed when it is first asked for after a change, then shared.
    #[must_use]
    pub fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.judgement().roll)
    }

    /// What a node is. As [`Roll::standing`] of [`Self::roll`].
    #[must_use]
    pub fn standing(&self, node: &NodeKey) -> Standing {
        self.judgement().roll.standing(node).clone()
    }

    /// The invites, oldest first.
    #[must_use]
    pub fn invites(&self) -> Vec<Invite> {
        let mut invites: Vec<Invite> = self.judgement().invites.values().cloned().collect();
        invites.sort_by_key(|invite| (invite.issued, invite.key));
        invites
    }

    pub(crate) fn judgement(&self) -> &Arc<Judgement> {
        self.judgement
            .get_or_init(|| Arc::new(Judgement::of(self.network, self.held.values())))
    }

    /// The records of a part of the order, `to` not among them.
    pub(crate) fn between(
        &self,
        from: Key,
        to: Key,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Record)> {
        self.held.range(from..to.max(from))
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A record by its place in the order.
    pub(crate) fn at(&self, key: Key) -> Option<&Record> {
        self.held.get(&key)
    }

    fn remove(&mut self, key: Key) {
        let Some(record) = self.held.get(&key) else {
            return;
        };
        if let Statement::Invite { key: invite, .. } = &record.statement {
            for join in self.bounds.joins(invite) {
                self.remove(join);
            }
        }
        if let Some(record) = self.held.remove(&key) {
            self.bounds.remove(&record);
        }
    }

    /// Brings groups to their limits; says whether anything was removed.
    fn trim(&mut self, groups: &mut Vec<Group>) -> bool {
        let mut trimmed = false;
        while let Some(group) = groups.last() {
            match self.bounds.excess(*group) {
                Some(key) => {
                    self.remove(key);
                    trimmed = true;
                }
                None => {
                    groups.pop();
                }
            }
        }
        trimmed
    }

    /// Removes what hangs on nothing any more, and what is beyond limits that have changed.
    fn sweep(&mut self) {
        self.trim(&mut self.bounds.groups());
        // In the order of records: what something hangs on is settled before it.
        let keys: Vec<Key> = self.held.keys().copied().collect();
        for key in keys {
            let stays = |record: &Record| self.bounds.is_entitled(record);
            if !self.held.get(&key).is_some_and(stays) {
                self.remove(key);
            }
        }
    }
}

/// Records one after the other, each after its length in two bytes. What is left when it ends is damaged.
pub(crate) struct List<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for List<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        self.0 = rest;
        Some(record)
    }
}

/// Writes a record so that [`List`] reads it.
pub(crate) fn write_listed(bytes: &mut Vec<u8>, record: &[u8]) {
    bytes.extend((record.len() as u16).to_be_bytes());
    bytes.extend(record);
}
