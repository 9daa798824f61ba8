//! The set of records that a member keeps.
//!
//! Records are merged by union. What may be in the set depends on the set alone: a record is in if some chain of records leads from the
//! network key to its signer, be they revoked or not, and if it is among the first of its [`Group`], by an order that nobody but the
//! members of the group can do anything about. So two sets that have met are equal, in whatever order their records came; and nobody
//! fills up a set but with what its own group may have. What the records amount to is [`Roll`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use crate::{
    Approval, InviteKey, Name, NetworkId, NodeKey, Past, Record, RecordError, RecordId, Roll,
    Standing, Statement, Tags, judgement::Judgement, record::Kind,
};

/// What a file begins with.
const FILE: &[u8; 16] = b"meshd records 1\n";
/// Joins that are kept of one invite beyond its uses: evidence that it was used too often.
const BEYOND_USES: usize = 4;

/// The records of one network, merged by union. What follows from them is a function of the set alone: no clock, no order of arrival.
#[derive(Clone, Debug)]
pub struct Records {
    network: NetworkId,
    /// By stage and id: each after those that it hangs on.
    held: BTreeMap<Key, Record>,
    groups: BTreeMap<Group, BTreeSet<Place>>,
    hooks: Hooks,
    revision: u64,
    judgement: OnceLock<Arc<Judgement>>,
}

/// Where a record is in the order of records.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) stage: u8,
    pub(crate) id: RecordId,
}

/// What records may hang on.
#[derive(Clone, Debug, Default)]
struct Hooks {
    admins: BTreeMap<[u8; 32], RecordId>,
    invites: BTreeMap<InviteKey, (RecordId, u16)>,
    /// How many records let each node in.
    grants: BTreeMap<NodeKey, usize>,
}

/// Records that share a bound. Only who has the key in it can make one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Group {
    /// Names of the network.
    Networks,
    /// Admins, each once.
    Admins,
    /// What one admin has signed of one kind.
    Signed(Kind, [u8; 32]),
    /// Uses of one invite: by nodes, each once.
    Joins(InviteKey),
    /// Leaves of one node.
    Leaves(NodeKey),
}

/// Where a record is among those of its group: by the first, then by the second.
type Place = ([u8; 16], RecordId);

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
    /// Most leaves of one node.
    pub const MAX_LEAVES: usize = 16;

    /// No record yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            held: BTreeMap::new(),
            groups: BTreeMap::new(),
            hooks: Hooks::default(),
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
        if !self.is_entitled(&record) {
            return Err(InsertError::Unchained);
        }
        let rival = self.rival(&record);
        if rival.is_some_and(|rival| rival < key) || !self.has_room(&record, rival) {
            return Err(InsertError::Beyond);
        }
        if !record.is_signed(&self.network) {
            return Err(RecordError::Signature.into());
        }
        if let Some(rival) = rival {
            self.remove(rival);
        }
        let group = self.add(key, record);
        if self.trim(group) || rival.is_some() {
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

    pub(crate) fn is_network_key(&self, signer: &[u8; 32]) -> bool {
        NetworkId::of_key(signer) == self.network
    }

    /// The invite of a key, if its record is held.
    pub(crate) fn invite_record(&self, key: &InviteKey) -> Option<&Record> {
        let (id, _) = self.hooks.invites.get(key)?;
        self.held.get(&Key::new(Kind::Invite, *id))
    }

    /// The use of an invite by a node, left or not, by its subject.
    pub(crate) fn join_of(&self, invite: &InviteKey, subject: RecordId) -> Option<Key> {
        let places = self.groups.get(&Group::Joins(*invite))?;
        let from = (subject.0, RecordId([0; 16]));
        let (found, id) = places.range(from..).next()?;
        (*found == subject.0).then(|| Key::new(Kind::Join, *id))
    }

    /// The record that makes a node an admin, revoked or not.
    pub(crate) fn admin_record(&self, signer: &[u8; 32]) -> Option<&Record> {
        let id = self.hooks.admins.get(signer)?;
        self.held.get(&Key::new(Kind::Admin, *id))
    }

    /// How many more records of this kind a signer may make.
    pub(crate) fn room(&self, kind: Kind, signer: &[u8; 32]) -> usize {
        let group = match kind {
            Kind::Network => Group::Networks,
            Kind::Admin => Group::Admins,
            Kind::Leave => Group::Leaves(NodeKey(*signer)),
            Kind::Invite | Kind::Join | Kind::Enrol | Kind::Name | Kind::Approve | Kind::Revoke => {
                Group::Signed(kind, *signer)
            }
        };
        let held = self.groups.get(&group).map_or(0, BTreeSet::len);
        match group {
            // The older one makes room.
            Group::Networks => usize::MAX,
            Group::Admins | Group::Signed(..) | Group::Joins(_) | Group::Leaves(_) => {
                self.limit(group).saturating_sub(held)
            }
        }
    }

    /// Whether records that are held say, revoked or not, that its signer may make it.
    fn is_entitled(&self, record: &Record) -> bool {
        let is_network = || self.is_network_key(&record.signer);
        match &record.statement {
            Statement::Network { .. }
            | Statement::Admin { .. }
            | Statement::Revoke {
                past: Past::Falls, ..
            } => is_network(),
            Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke {
                past: Past::Stands, ..
            } => self.hooks.admins.contains_key(&record.signer) || is_network(),
            Statement::Join { invite, .. } => self.hooks.invites.contains_key(invite),
            Statement::Leave { node, .. } => self.hooks.grants.contains_key(node),
        }
    }

    /// The held record that says of the same thing what only one record may say: the one with the smaller id is kept.
    fn rival(&self, record: &Record) -> Option<Key> {
        match &record.statement {
            Statement::Admin { node } => {
                let id = self.hooks.admins.get(&node.0)?;
                Some(Key::new(Kind::Admin, *id))
            }
            Statement::Invite { key, .. } => {
                let (id, _) = self.hooks.invites.get(key)?;
                Some(Key::new(Kind::Invite, *id))
            }
            Statement::Join { invite, .. } => self.join_of(invite, record.subject(&self.network)),
            Statement::Network { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => None,
        }
    }

    fn group(record: &Record) -> Group {
        match &record.statement {
            Statement::Network { .. } => Group::Networks,
            Statement::Admin { .. } => Group::Admins,
            Statement::Join { invite, .. } => Group::Joins(*invite),
            Statement::Leave { node, .. } => Group::Leaves(*node),
            Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. } => Group::Signed(record.statement.kind(), record.signer),
        }
    }

    fn place(&self, record: &Record) -> Place {
        let order = match &record.statement {
            // The newest first.
            Statement::Network { .. } => u128::from(!record.issued).to_be_bytes(),
            Statement::Join { .. } => record.subject(&self.network).0,
            Statement::Admin { .. }
            | Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => record.id().0,
        };
        (order, record.id())
    }

    /// How many records of a group are kept: the first ones.
    fn limit(&self, group: Group) -> usize {
        match group {
            Group::Networks => 1,
            Group::Admins => Self::MAX_ADMINS,
            Group::Signed(Kind::Invite, _) => Self::MAX_INVITES,
            Group::Signed(..) => Self::MAX_SIGNED,
            Group::Joins(invite) => {
                let uses = self.hooks.invites.get(&invite).map_or(0, |held| held.1);
                usize::from(uses) + BEYOND_USES
            }
            Group::Leaves(_) => Self::MAX_LEAVES,
        }
    }

    /// Whether it would be among those of its group that are kept, its rival gone.
    fn has_room(&self, record: &Record, rival: Option<Key>) -> bool {
        let group = Self::group(record);
        let of_rival = rival
            .and_then(|rival| self.held.get(&rival))
            .map(Self::group);
        if of_rival == Some(group) {
            return true;
        }
        let Some(places) = self.groups.get(&group) else {
            return true;
        };
        places.len() < self.limit(group)
            || places.last().is_some_and(|last| self.place(record) < *last)
    }

    fn add(&mut self, key: Key, record: Record) -> Group {
        match &record.statement {
            Statement::Admin { node } => {
                self.hooks.admins.insert(node.0, key.id);
            }
            Statement::Invite {
                key: invite, uses, ..
            } => {
                self.hooks.invites.insert(*invite, (key.id, *uses));
            }
            Statement::Join { node, .. } | Statement::Enrol { node, .. } => {
                *self.hooks.grants.entry(*node).or_default() += 1;
            }
            Statement::Network { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => {}
        }
        let (group, place) = (Self::group(&record), self.place(&record));
        self.groups.entry(group).or_default().insert(place);
        self.held.insert(key, record);
        group
    }

    fn remove(&mut self, key: Key) {
        let Some(record) = self.held.remove(&key) else {
            return;
        };
        match &record.statement {
            Statement::Admin { node } => {
                self.hooks.admins.remove(&node.0);
            }
            Statement::Invite { key: invite, .. } => {
                self.hooks.invites.remove(invite);
            }
            Statement::Join { node, .. } | Statement::Enrol { node, .. } => {
                if let Some(grants) = self.hooks.grants.get_mut(node) {
                    *grants -= 1;
                    if *grants == 0 {
                        self.hooks.grants.remove(node);
                    }
                }
            }
            Statement::Network { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => {}
        }
        let (group, place) = (Self::group(&record), self.place(&record));
        if let Some(places) = self.groups.get_mut(&group) {
            places.remove(&place);
            if places.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// Brings a group to its limit; says whether anything was removed.
    fn trim(&mut self, group: Group) -> bool {
        let mut trimmed = false;
        while let Some(places) = self.groups.get(&group) {
            let Some((_, id)) = places.last().filter(|_| places.len() > self.limit(group)) else {
                break;
            };
            let kind = match group {
                Group::Networks => Kind::Network,
                Group::Admins => Kind::Admin,
                Group::Signed(kind, _) => kind,
                Group::Joins(_) => Kind::Join,
                Group::Leaves(_) => Kind::Leave,
            };
            self.remove(Key::new(kind, *id));
            trimmed = true;
        }
        trimmed
    }

    /// Removes what hangs on nothing any more, and what is beyond limits that have changed.
    fn sweep(&mut self) {
        let groups: Vec<Group> = self.groups.keys().copied().collect();
        for group in groups {
            self.trim(group);
        }
        // In the order of records: what something hangs on is settled before it.
        let keys: Vec<Key> = self.held.keys().copied().collect();
        for key in keys {
            let stays = |record: &Record| self.is_entitled(record);
            if !self.held.get(&key).is_some_and(stays) {
                self.remove(key);
            }
        }
    }
}

impl Key {
    /// Before every record.
    pub(crate) const FIRST: Self = Self {
        stage: 0,
        id: RecordId([0; 16]),
    };
    /// After every record.
    pub(crate) const END: Self = Self {
        stage: u8::MAX,
        id: RecordId([u8::MAX; 16]),
    };

    fn new(kind: Kind, id: RecordId) -> Self {
        Self {
            stage: kind.stage(),
            id,
        }
    }

    pub(crate) fn of(record: &Record) -> Self {
        Self::new(record.statement.kind(), record.id())
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
