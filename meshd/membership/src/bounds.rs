//! What may be in a set of records: what hangs on something that is there, once, and only so much of it.
//!
//! Whether a record is in depends on the set alone, not on the order of arrival. Records share bounds in groups, and the first of a group
//! are kept, by an order over which nobody has a say but who signs in that group: so nobody displaces what another has made.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    InviteKey, NetworkId, NodeKey, Past, Record, RecordId, Records, Statement,
    record::{Key, Kind},
};

/// Joins that are kept of one invite beyond its uses: evidence that it was used too often.
const BEYOND_USES: usize = 4;

/// What is known of the records of a set to say what may be in it.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    network: NetworkId,
    groups: BTreeMap<Group, BTreeSet<Place>>,
    admins: BTreeMap<[u8; 32], RecordId>,
    invites: BTreeMap<InviteKey, Invited>,
    /// How many records let each node in.
    grants: BTreeMap<NodeKey, usize>,
}

/// An invite that is held.
#[derive(Clone, Copy, Debug)]
struct Invited {
    id: RecordId,
    by: [u8; 32],
    uses: u16,
}

/// Records that share a bound.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Group {
    /// Names of the network.
    Networks,
    /// Admins, each once.
    Admins,
    /// What one admin has signed of one kind.
    Signed(Kind, [u8; 32]),
    /// Uses of one invite: by nodes, each once.
    Joins(InviteKey),
    /// Uses of all invites of one admin.
    Guests([u8; 32]),
    /// Leaves of one node.
    Leaves(NodeKey),
}

/// Where a record is among those of its group: by the first, then by the second.
type Place = ([u8; 16], RecordId);

impl Bounds {
    pub(crate) fn new(network: NetworkId) -> Self {
        Self {
            network,
            groups: BTreeMap::new(),
            admins: BTreeMap::new(),
            invites: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }

    pub(crate) fn is_network_key(&self, signer: &[u8; 32]) -> bool {
        NetworkId::of_key(signer) == self.network
    }

    /// Whether records that are held say, revoked or not, that its signer may make it.
    pub(crate) fn is_entitled(&self, record: &Record) -> bool {
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
            } => self.admins.contains_key(&record.signer) || is_network(),
            Statement::Join { invite, .. } => self.invites.contains_key(invite),
            Statement::Leave { node, .. } => self.grants.contains_key(node),
        }
    }

    /// The held record that says of the same thing what only one record may say: the one with the smaller id is kept.
    pub(crate) fn rival(&self, record: &Record) -> Option<Key> {
        match &record.statement {
            Statement::Admin { node } => self.admin(&node.0),
            Statement::Invite { key, .. } => self.invite(key),
            Statement::Join { invite, .. } => self.join(invite, record.subject(&self.network)),
            Statement::Network { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => None,
        }
    }

    /// The record that makes a node an admin, revoked or not.
    pub(crate) fn admin(&self, signer: &[u8; 32]) -> Option<Key> {
        let id = self.admins.get(signer)?;
        Some(Key::new(Kind::Admin, *id))
    }

    /// The record of an invite.
    pub(crate) fn invite(&self, key: &InviteKey) -> Option<Key> {
        let invited = self.invites.get(key)?;
        Some(Key::new(Kind::Invite, invited.id))
    }

    /// The use of an invite by a node, left or not, by its subject.
    pub(crate) fn join(&self, invite: &InviteKey, subject: RecordId) -> Option<Key> {
        let places = self.groups.get(&Group::Joins(*invite))?;
        let from = (subject.0, RecordId([0; 16]));
        let (found, id) = places.range(from..).next()?;
        (*found == subject.0).then(|| Key::new(Kind::Join, *id))
    }

    /// All uses of an invite.
    pub(crate) fn joins(&self, invite: &InviteKey) -> Vec<Key> {
        let places = self.groups.get(&Group::Joins(*invite));
        let ids = places.into_iter().flatten();
        ids.map(|(_, id)| Key::new(Kind::Join, *id)).collect()
    }

    /// How many more records of this kind a signer may make.
    pub(crate) fn room(&self, kind: Kind, signer: &[u8; 32]) -> usize {
        let group = match kind {
            // The older one makes room.
            Kind::Network => return usize::MAX,
            Kind::Admin => Group::Admins,
            Kind::Leave => Group::Leaves(NodeKey(*signer)),
            Kind::Invite | Kind::Join | Kind::Enrol | Kind::Name | Kind::Approve | Kind::Revoke => {
                Group::Signed(kind, *signer)
            }
        };
        let held = self.groups.get(&group).map_or(0, BTreeSet::len);
        self.limit(group).saturating_sub(held)
    }

    /// Whether it would be among those that are kept, its rival gone.
    pub(crate) fn has_room(&self, record: &Record, rival: Option<&Record>) -> bool {
        let place = self.place(record);
        let freed = rival.map(|rival| self.groups_of(rival)).unwrap_or_default();
        self.groups_of(record).into_iter().flatten().all(|group| {
            let Some(places) = self.groups.get(&group) else {
                return true;
            };
            freed.contains(&Some(group))
                || places.len() < self.limit(group)
                || places.last().is_some_and(|last| place < *last)
        })
    }

    /// Notes a record; says in which groups it is.
    pub(crate) fn add(&mut self, record: &Record) -> Vec<Group> {
        match &record.statement {
            Statement::Admin { node } => {
                self.admins.insert(node.0, record.id());
            }
            Statement::Invite { key, uses, .. } => {
                let invited = Invited {
                    id: record.id(),
                    by: record.signer,
                    uses: *uses,
                };
                self.invites.insert(*key, invited);
            }
            Statement::Join { node, .. } | Statement::Enrol { node, .. } => {
                *self.grants.entry(*node).or_default() += 1;
            }
            Statement::Network { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => {}
        }
        let place = self.place(record);
        let groups: Vec<Group> = self.groups_of(record).into_iter().flatten().collect();
        for group in &groups {
            self.groups.entry(*group).or_default().insert(place);
        }
        groups
    }

    /// Forgets a record. Of an invite, its uses must be gone.
    pub(crate) fn remove(&mut self, record: &Record) {
        let place = self.place(record);
        for group in self.groups_of(record).into_iter().flatten() {
            if let Some(places) = self.groups.get_mut(&group) {
                places.remove(&place);
                if places.is_empty() {
                    self.groups.remove(&group);
                }
            }
        }
        match &record.statement {
            Statement::Admin { node } => {
                self.admins.remove(&node.0);
            }
            Statement::Invite { key, .. } => {
                self.invites.remove(key);
            }
            Statement::Join { node, .. } | Statement::Enrol { node, .. } => {
                if let Some(grants) = self.grants.get_mut(node) {
                    *grants -= 1;
                    if *grants == 0 {
                        self.grants.remove(node);
                    }
                }
            }
            Statement::Network { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => {}
        }
    }

    /// All groups there are.
    pub(crate) fn groups(&self) -> Vec<Group> {
        self.groups.keys().copied().collect()
    }

    /// The last record of a group that has more than are kept.
    pub(crate) fn excess(&self, group: Group) -> Option<Key> {
        let places = self.groups.get(&group)?;
        let (_, id) = places.last()?;
        let kind = match group {
            Group::Networks => Kind::Network,
            Group::Admins => Kind::Admin,
            Group::Signed(kind, _) => kind,
            Group::Joins(_) | Group::Guests(_) => Kind::Join,
            Group::Leaves(_) => Kind::Leave,
        };
        (places.len() > self.limit(group)).then(|| Key::new(kind, *id))
    }

    fn groups_of(&self, record: &Record) -> [Option<Group>; 2] {
        let one = match &record.statement {
            Statement::Network { .. } => Group::Networks,
            Statement::Admin { .. } => Group::Admins,
            Statement::Join { invite, .. } => {
                let by = self.invites.get(invite).map(|invited| invited.by);
                return [Some(Group::Joins(*invite)), by.map(Group::Guests)];
            }
            Statement::Leave { node, .. } => Group::Leaves(*node),
            Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. } => Group::Signed(record.statement.kind(), record.signer),
        };
        [Some(one), None]
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
            Group::Admins => Records::MAX_ADMINS,
            Group::Signed(Kind::Invite, _) => Records::MAX_INVITES,
            Group::Signed(..) => Records::MAX_SIGNED,
            Group::Joins(invite) => {
                let uses = self.invites.get(&invite).map_or(0, |invited| invited.uses);
                usize::from(uses) + BEYOND_USES
            }
            Group::Guests(_) => Records::MAX_GUESTS,
            // Each names all that let the node in and that it has not left: there is no use for more.
            Group::Leaves(node) => {
                let grants = self.grants.get(&node).copied().unwrap_or_default();
                grants.min(Records::MAX_LEAVES)
            }
        }
    }
}
