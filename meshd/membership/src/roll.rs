//! What a set of records amounts to.

use std::collections::BTreeMap;

use crate::{InviteKey, Name, NodeKey, RecordId, Tags};

/// Who is what in a network, by one set of records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roll {
    pub(crate) name: Option<Name>,
    pub(crate) standings: BTreeMap<NodeKey, Standing>,
    pub(crate) names: BTreeMap<String, NodeKey>,
    pub(crate) warnings: Vec<Warning>,
}

/// What a node is in a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// A member.
    Member(Member),
    /// It has come with an invite, and an admin must approve.
    Pending {
        /// The name that it, or its invite, asks for.
        name: Name,
    },
    /// It was let in, and that does not count until an admin approves.
    Suspended {
        /// The name that it had.
        name: Name,
        /// Why.
        why: Suspension,
    },
    /// It is out, for ever.
    Revoked,
    /// It has left; it may be let in again.
    Left,
    /// Nothing is said of it.
    Unknown,
}

/// A member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Under which name it is shown and found: no two members have the same. A label of DNS.
    pub name: String,
    /// The name that it has or claims, which may be another's.
    pub claimed: Name,
    /// Its tags.
    pub tags: Tags,
    /// Whether it is an admin.
    pub admin: bool,
    /// When it became a member, by the clock of who made the record, seconds since 1970.
    pub since: u64,
}

/// Why a member is suspended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suspension {
    /// More nodes have used its invite than may (`INVITE-REUSED`).
    InviteReused,
    /// Its invite has been withdrawn.
    InviteRevoked,
    /// The admin who let it in, or made its invite, has been revoked.
    AdminRevoked,
    /// It used its invite after that had expired.
    InviteExpired,
}

/// What an admin should look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Warning {
    /// More nodes have used an invite than may; those that no admin has approved are suspended.
    InviteReused {
        /// The invite.
        invite: InviteKey,
        /// Who used it.
        nodes: Vec<NodeKey>,
    },
    /// Several members claim one name.
    NameConflict {
        /// The name.
        name: Name,
        /// Whom an admin gave it.
        holder: Option<NodeKey>,
        /// Who claims it, and is shown with a part of the key behind it.
        nodes: Vec<NodeKey>,
    },
    /// Members whom a revoked admin had let in, and nobody has approved, are suspended.
    AdminRevoked {
        /// The admin.
        admin: NodeKey,
        /// Who is suspended.
        nodes: Vec<NodeKey>,
    },
    /// A revocation does not count, since its maker's past has fallen.
    RevocationFallen {
        /// The record.
        record: RecordId,
        /// Whom it revoked.
        node: NodeKey,
    },
}

impl Warning {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InviteReused { .. } => "INVITE-REUSED",
            Self::NameConflict { .. } => "NAME-CONFLICT",
            Self::AdminRevoked { .. } => "ADMIN-REVOKED",
            Self::RevocationFallen { .. } => "REVOCATION-FALLEN",
        }
    }
}

impl Roll {
    /// The name of the network, if a record gives it one.
    #[must_use]
    pub fn network_name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// What a node is.
    #[must_use]
    pub fn standing(&self, node: &NodeKey) -> &Standing {
        self.standings.get(node).unwrap_or(&Standing::Unknown)
    }

    /// What it is as a member, if it is one.
    #[must_use]
    pub fn member(&self, node: &NodeKey) -> Option<&Member> {
        match self.standing(node) {
            Standing::Member(member) => Some(member),
            Standing::Pending { .. }
            | Standing::Suspended { .. }
            | Standing::Revoked
            | Standing::Left
            | Standing::Unknown => None,
        }
    }

    /// The members, by key.
    pub fn members(&self) -> impl Iterator<Item = (&NodeKey, &Member)> {
        self.standings
            .iter()
            .filter_map(|(node, standing)| match standing {
                Standing::Member(member) => Some((node, member)),
                Standing::Pending { .. }
                | Standing::Suspended { .. }
                | Standing::Revoked
                | Standing::Left
                | Standing::Unknown => None,
            })
    }

    /// Everybody of whom something is said, by key.
    pub fn standings(&self) -> impl Iterator<Item = (&NodeKey, &Standing)> {
        self.standings.iter()
    }

    /// Which member is shown under a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&NodeKey> {
        self.names.get(name)
    }

    /// What an admin should look at.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}
