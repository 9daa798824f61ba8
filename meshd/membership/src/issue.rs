//! Making records.

use std::collections::BTreeSet;

use crate::{
    Approval, Inserted, InviteKey, InviteSeed, Name, NetworkKey, NodeKey, Past, Record, RecordId,
    Records, Signer, Standing, Statement, Tags, Target,
    judgement::{Judgement, Verdict},
    record::{Kind, MAX_TIME},
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
    /// An admin cannot revoke itself: what it let in would fall with it. Another admin can.
    #[error("an admin cannot revoke itself; leave, or have another admin do it")]
    Itself,
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
        let mut records = Self::new(network.id());
        let signer = Signer::Network(network);
        let statements = [
            Statement::Network { name },
            Statement::Admin { node },
            Statement::Enrol {
                node,
                name: node_name,
                tags: Tags::default(),
            },
        ];
        let mut issued = Issued::default();
        for statement in statements {
            records.say(signer, statement, now, &mut issued);
        }
        (records, issued)
    }

    /// Gives the network another name.
    ///
    /// # Errors
    /// [`IssueError::NotNetworkKey`].
    pub fn rename(
        &mut self,
        network: &NetworkKey,
        name: Name,
        now: u64,
    ) -> Result<Issued, IssueError> {
        self.check_owner(network)?;
        let names = self
            .iter()
            .filter(|record| record.statement.kind() == Kind::Network);
        let last = names.map(|record| record.issued).max();
        let statement = Statement::Network { name };
        Ok(self.say_one(Signer::Network(network), statement, after(last, now)))
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
        self.check_owner(network)?;
        self.check_not_revoked(&node)?;
        if self.bounds().admin(&node.0).is_some() {
            return Ok(Issued::default());
        }
        self.check_room(Kind::Admin, &network.public(), 1)?;
        Ok(self.say_one(Signer::Network(network), Statement::Admin { node }, now))
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
        let Invitation {
            uses,
            expires,
            approval,
            name,
            tags,
        } = invitation;
        if !(1..=Self::MAX_USES).contains(&uses) || (name.is_some() && uses > 1) {
            return Err(IssueError::Invitation);
        }
        self.check_room(Kind::Invite, &self.admin(signer)?, 1)?;
        let given = name.as_ref().and_then(|name| self.last_given(name));
        let statement = Statement::Invite {
            key: seed.key(&self.network()),
            uses,
            expires: expires.min(MAX_TIME),
            approval,
            name,
            tags,
        };
        Ok(self.say_one(signer, statement, after(given, now)))
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
        let admin = self.admin(signer)?;
        self.check_not_revoked(&node)?;
        self.check_room(Kind::Enrol, &admin, 1)?;
        let last = self.last_given(&name).max(self.last_said_of(&node));
        let statement = Statement::Enrol { node, name, tags };
        Ok(self.say_one(signer, statement, after(last, now)))
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
        let admin = self.admin(signer)?;
        self.check_not_revoked(node)?;
        let judgement = self.judgement();
        let grants = judgement.grants.get(node).ok_or(IssueError::UnknownNode)?;
        let fallen = grants
            .iter()
            .filter(|grant| grant.verdict != Verdict::Counts);
        let subjects: BTreeSet<RecordId> = fallen.map(|grant| grant.subject).collect();
        self.check_room(Kind::Approve, &admin, approvals(&subjects))?;
        let mut issued = Issued::default();
        self.say_approved(signer, &subjects, now, &mut issued);
        Ok(issued)
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
        let admin = self.admin(signer)?;
        if !self.judgement().grants.contains_key(&node) {
            return Err(IssueError::UnknownNode);
        }
        self.check_room(Kind::Name, &admin, 1)?;
        let last = self.last_given(&name).max(self.last_said_of(&node));
        Ok(self.say_one(signer, Statement::Name { node, name }, after(last, now)))
    }

    /// Revokes a node, for ever. If it is an admin, what it has let in until now, as far as it is known here, is approved first, in the
    /// signer's name; what it lets in later, or has elsewhere, is suspended, and its tickets are void.
    ///
    /// # Errors
    /// [`IssueError::NotAdmin`], [`IssueError::Itself`], [`IssueError::Full`]. Nothing has changed.
    pub fn revoke(
        &mut self,
        signer: Signer<'_>,
        node: NodeKey,
        now: u64,
    ) -> Result<Issued, IssueError> {
        if self.admin(signer)? == node.0 {
            return Err(IssueError::Itself);
        }
        if matches!(self.standing(&node), Standing::Revoked) {
            return Ok(Issued::default());
        }
        self.say_revoked(signer, Target::Node(node), now)
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
        self.check_owner(network)?;
        let keep = keep.iter().copied().collect();
        self.check_room(Kind::Approve, &network.public(), approvals(&keep))?;
        self.check_room(Kind::Revoke, &network.public(), 1)?;
        let signer = Signer::Network(network);
        let mut issued = Issued::default();
        self.say_approved(signer, &keep, now, &mut issued);
        let statement = Statement::Revoke {
            target: Target::Node(admin),
            past: Past::Falls,
        };
        self.say(signer, statement, now, &mut issued);
        Ok(issued)
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
        self.admin(signer)?;
        let judgement = self.judgement();
        let held = judgement
            .invites
            .get(invite)
            .ok_or(IssueError::UnknownInvite)?;
        if held.revoked {
            return Ok(Issued::default());
        }
        self.say_revoked(signer, Target::Invite(*invite), now)
    }

    /// Says that a node has left, in its own name. It stays an admin if it was one.
    ///
    /// # Errors
    /// [`IssueError::UnknownNode`], [`IssueError::Full`]: it has left too often.
    pub fn leave(&mut self, seed: &[u8; 32], now: u64) -> Result<Issued, IssueError> {
        let node = NodeKey::of_seed(seed);
        let judgement = self.judgement();
        let grants = judgement.grants.get(&node).ok_or(IssueError::UnknownNode)?;
        let subjects: BTreeSet<RecordId> = grants.iter().map(|grant| grant.subject).collect();
        let subjects: Vec<RecordId> = subjects.into_iter().collect();
        let count = subjects.len().div_ceil(Record::MAX_SUBJECTS);
        self.check_room(Kind::Leave, &node.0, count)?;
        let mut issued = Issued::default();
        for subjects in subjects.chunks(Record::MAX_SUBJECTS) {
            let subjects = subjects.to_vec();
            let statement = Statement::Leave { node, subjects };
            self.say(Signer::Node(seed), statement, now, &mut issued);
        }
        Ok(issued)
    }

    /// The key of an admin in force.
    fn admin(&self, signer: Signer<'_>) -> Result<[u8; 32], IssueError> {
        let public = signer.public();
        if self.judgement().admins.contains(&public) || self.bounds().is_network_key(&public) {
            Ok(public)
        } else {
            Err(IssueError::NotAdmin)
        }
    }

    fn check_owner(&self, network: &NetworkKey) -> Result<(), IssueError> {
        if network.id() == self.network() {
            Ok(())
        } else {
            Err(IssueError::NotNetworkKey)
        }
    }

    fn check_not_revoked(&self, node: &NodeKey) -> Result<(), IssueError> {
        match self.standing(node) {
            Standing::Revoked => Err(IssueError::Revoked),
            Standing::Member(_)
            | Standing::Pending { .. }
            | Standing::Suspended { .. }
            | Standing::Left
            | Standing::Unknown => Ok(()),
        }
    }

    fn check_room(&self, kind: Kind, signer: &[u8; 32], count: usize) -> Result<(), IssueError> {
        if self.bounds().room(kind, signer) >= count {
            Ok(())
        } else {
            Err(IssueError::Full)
        }
    }

    /// When a name was last given to anybody.
    fn last_given(&self, name: &Name) -> Option<u64> {
        let gives = |record: &&Record| match &record.statement {
            Statement::Invite { name: given, .. } => given.as_ref() == Some(name),
            Statement::Enrol { name: given, .. } | Statement::Name { name: given, .. } => {
                given == name
            }
            Statement::Network { .. }
            | Statement::Admin { .. }
            | Statement::Join { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => false,
        };
        self.iter().filter(gives).map(|record| record.issued).max()
    }

    /// When an admin last said something of a node's name or tags.
    fn last_said_of(&self, node: &NodeKey) -> Option<u64> {
        let of = |record: &&Record| match &record.statement {
            Statement::Enrol { node: of, .. } | Statement::Name { node: of, .. } => of == node,
            Statement::Network { .. }
            | Statement::Admin { .. }
            | Statement::Invite { .. }
            | Statement::Join { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => false,
        };
        self.iter().filter(of).map(|record| record.issued).max()
    }

    /// Revokes, and approves before whatever would fall that counts by now, but for what is the target's own.
    fn say_revoked(
        &mut self,
        signer: Signer<'_>,
        target: Target,
        now: u64,
    ) -> Result<Issued, IssueError> {
        let past = Past::Stands;
        let statement = Statement::Revoke { target, past };
        let before = counting(self.judgement(), target);
        let mut with = self.clone();
        let mut last = Issued::default();
        with.say(signer, statement, now, &mut last);
        let after = counting(with.judgement(), target);
        let falling: BTreeSet<RecordId> = before.difference(&after).copied().collect();
        let signing = signer.public();
        self.check_room(Kind::Revoke, &signing, 1)?;
        self.check_room(Kind::Approve, &signing, approvals(&falling))?;
        let mut issued = Issued::default();
        self.say_approved(signer, &falling, now, &mut issued);
        for bytes in last.0 {
            // It was taken a moment ago, by a copy of this set.
            if self.insert(&bytes).is_ok() {
                issued.0.push(bytes);
            }
        }
        Ok(issued)
    }

    fn say_approved(
        &mut self,
        signer: Signer<'_>,
        subjects: &BTreeSet<RecordId>,
        now: u64,
        issued: &mut Issued,
    ) {
        let subjects: Vec<RecordId> = subjects.iter().copied().collect();
        for subjects in subjects.chunks(Record::MAX_SUBJECTS) {
            let subjects = subjects.to_vec();
            self.say(signer, Statement::Approve { subjects }, now, issued);
        }
    }

    fn say_one(&mut self, signer: Signer<'_>, statement: Statement, now: u64) -> Issued {
        let mut issued = Issued::default();
        self.say(signer, statement, now, &mut issued);
        issued
    }

    /// Makes a record and inserts it. That there is room for it has been seen to.
    fn say(&mut self, signer: Signer<'_>, statement: Statement, now: u64, issued: &mut Issued) {
        let record = Record::sign(&self.network(), signer, statement, now);
        if let Ok(Inserted::New(_)) = self.insert(record.bytes()) {
            issued.0.push(record.bytes);
        }
    }
}

/// What counts of what admins allow: grants by their subjects, and records that give names; but for the target's own.
fn counting(judgement: &Judgement, target: Target) -> BTreeSet<RecordId> {
    let grants = judgement.grants.iter();
    let grants = grants.filter(|(node, _)| target != Target::Node(**node));
    let grants = grants.flat_map(|(_, grants)| grants);
    let counting = grants.filter(|grant| grant.verdict == Verdict::Counts);
    let subjects = counting.map(|grant| grant.subject);
    subjects.chain(judgement.namings.iter().copied()).collect()
}

/// How many records it takes to approve so many.
fn approvals(subjects: &BTreeSet<RecordId>) -> usize {
    subjects.len().div_ceil(Record::MAX_SUBJECTS)
}

/// A time after the last one, so that what is said now is the latest, even if a clock has been set back.
fn after(last: Option<u64>, now: u64) -> u64 {
    last.map_or(now, |last| now.max(last.saturating_add(1)))
}
