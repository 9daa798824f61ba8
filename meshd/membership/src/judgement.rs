//! What follows from a set of records: a function of the set, in this order.
//!
//! 1. A revocation counts, whoever its maker is by now: what an admin forbade stays forbidden. Only where the network key has disowned an
//!    admin ([`Past::Falls`]) that admin's revocations fall, but for those that the network key approves.
//! 2. An admin is in force unless a revocation that counts names it. What it allowed (invites, enrolments, approvals, names) counts while
//!    it is in force, or if another who is in force approves it.
//! 3. A node is let in by a use of an invite, or by an enrolment, that it has not left. A use counts if it is approved; or else if its
//!    invite counts, was not withdrawn, and had not expired at the time in the use, if no more nodes have used it than may, and if it asks
//!    for no approval.
//! 4. A revoked node is nothing else, whatever lets it in.
//!
//! So nothing that a revoked admin signs later, with whatever date, lets anybody in, and nothing that anybody but the holder of the network
//! key signs brings a revoked node back. No step asks for the time or for the order in which records came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Approval, Invite, InviteKey, Member, Name, NetworkId, NodeKey, Past, Record, RecordId, Roll,
    Standing, Statement, Suspension, Tags, Target, Warning,
};

/// What follows from a set of records.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) roll: Arc<Roll>,
    pub(crate) invites: BTreeMap<InviteKey, Invite>,
    /// Who may sign as an admin: those in force, but for the network key.
    pub(crate) admins: BTreeSet<[u8; 32]>,
    /// What lets each node in, or would.
    pub(crate) grants: BTreeMap<NodeKey, Vec<Grant>>,
    /// The subjects that are approved, and by which record.
    pub(crate) approved: BTreeMap<RecordId, RecordId>,
    /// The records that give names, and count.
    pub(crate) namings: BTreeSet<RecordId>,
}

/// When an admin said something, and in which record: what was said last, counts.
type Said = (u64, RecordId);
/// A name that an admin has given.
type Naming = (Name, Said);

/// Something that lets a node in, or would. Those that the node has left are not here.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// What approvals and leaves call it.
    pub(crate) subject: RecordId,
    /// Its record.
    pub(crate) record: RecordId,
    /// The invite, if it is a use of one.
    pub(crate) invite: Option<InviteKey>,
    /// The admin on whose word it rests.
    by: [u8; 32],
    /// When that admin said so, and in which record: the latest gives name and tags.
    said: Said,
    /// When the node's own record is from.
    since: u64,
    name: Name,
    /// Whether the name is the admin's word.
    given: bool,
    tags: Tags,
    pub(crate) verdict: Verdict,
}

/// Whether a grant counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Counts,
    Pending,
    Suspended(Suspension),
}

impl Judgement {
    pub(crate) fn of<'a>(
        network: NetworkId,
        records: impl Iterator<Item = &'a Record> + Clone,
    ) -> Self {
        let is_network = |signer: &[u8; 32]| NetworkId::of_key(signer) == network;
        let network_keys: BTreeSet<[u8; 32]> = records
            .clone()
            .map(|record| record.signer)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter(is_network)
            .collect();
        let law = Law::of(&network_keys, records.clone());
        let approved = law.approvals(records.clone());
        let mut sorted = Sorted::of(network, records, &law, &approved);
        sorted.judge_joins(&law, &approved);
        let namings = sorted
            .namings
            .values()
            .flatten()
            .map(|naming| naming.1.1)
            .collect();
        let roll = Arc::new(sorted.roll(&law));
        Self {
            roll,
            invites: sorted
                .invites
                .into_iter()
                .map(|(key, held)| (key, held.invite))
                .collect(),
            admins: law.in_force.difference(&network_keys).copied().collect(),
            grants: sorted.grants,
            approved,
            namings,
        }
    }
}

/// Who may say what.
struct Law {
    /// Admins in force, and the network key.
    in_force: BTreeSet<[u8; 32]>,
    revoked: BTreeSet<Target>,
    /// Revocations that have fallen: record, and whom they named.
    fallen: Vec<(RecordId, NodeKey)>,
}

impl Law {
    fn of<'a>(
        network_keys: &BTreeSet<[u8; 32]>,
        records: impl Iterator<Item = &'a Record> + Clone,
    ) -> Self {
        let mut admins = network_keys.clone();
        let mut disowned: BTreeSet<[u8; 32]> = BTreeSet::new();
        let mut kept: BTreeSet<RecordId> = BTreeSet::new();
        for record in records.clone() {
            match &record.statement {
                Statement::Admin { node } => {
                    admins.insert(node.0);
                }
                Statement::Revoke {
                    target: Target::Node(node),
                    past: Past::Falls,
                } => {
                    disowned.insert(node.0);
                }
                Statement::Approve { subjects } if network_keys.contains(&record.signer) => {
                    kept.extend(subjects);
                }
                Statement::Network { .. }
                | Statement::Invite { .. }
                | Statement::Join { .. }
                | Statement::Enrol { .. }
                | Statement::Name { .. }
                | Statement::Approve { .. }
                | Statement::Revoke { .. }
                | Statement::Leave { .. } => {}
            }
        }
        let (mut revoked, mut fallen) = (BTreeSet::new(), Vec::new());
        for record in records {
            let Statement::Revoke { target, .. } = &record.statement else {
                continue;
            };
            let stands =
                network_keys.contains(&record.signer) || !disowned.contains(&record.signer);
            if stands || kept.contains(&record.id()) {
                revoked.insert(*target);
            } else if let Target::Node(node) = target {
                fallen.push((record.id(), *node));
            }
        }
        fallen.retain(|(_, node)| !revoked.contains(&Target::Node(*node)));
        admins.retain(|admin| {
            network_keys.contains(admin) || !revoked.contains(&Target::Node(NodeKey(*admin)))
        });
        Self {
            in_force: admins,
            revoked,
            fallen,
        }
    }

    fn approvals<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
    ) -> BTreeMap<RecordId, RecordId> {
        let mut approved = BTreeMap::new();
        for record in records {
            if let Statement::Approve { subjects } = &record.statement
                && self.in_force.contains(&record.signer)
            {
                for subject in subjects {
                    approved.entry(*subject).or_insert_with(|| record.id());
                }
            }
        }
        approved
    }

    fn has_revoked(&self, node: &NodeKey) -> bool {
        self.revoked.contains(&Target::Node(*node))
    }
}

/// An invite, and what is to be known of it to judge.
struct HeldInvite {
    invite: Invite,
    record: RecordId,
    /// Whether its maker is in force, or it is approved.
    by_force: bool,
    withdrawn: bool,
}

/// Records by what they are about.
#[derive(Default)]
struct Sorted {
    name: Option<(u64, RecordId, Name)>,
    invites: BTreeMap<InviteKey, HeldInvite>,
    grants: BTreeMap<NodeKey, Vec<Grant>>,
    left: BTreeSet<NodeKey>,
    /// Names that admins gave to each node: name, when and where.
    namings: BTreeMap<NodeKey, Vec<Naming>>,
    warnings: Vec<Warning>,
}

impl Sorted {
    fn of<'a>(
        network: NetworkId,
        records: impl Iterator<Item = &'a Record> + Clone,
        law: &Law,
        approved: &BTreeMap<RecordId, RecordId>,
    ) -> Self {
        let mut sorted = Self::default();
        let mut gone: BTreeSet<(NodeKey, RecordId)> = BTreeSet::new();
        for record in records.clone() {
            if let Statement::Leave { node, subjects } = &record.statement {
                sorted.left.insert(*node);
                gone.extend(subjects.iter().map(|subject| (*node, *subject)));
            }
        }
        for record in records {
            let counts =
                law.in_force.contains(&record.signer) || approved.contains_key(&record.id());
            let said = (record.issued, record.id());
            match &record.statement {
                Statement::Network { name } => {
                    sorted.name = sorted.name.take().max(Some((said.0, said.1, name.clone())));
                }
                Statement::Invite {
                    key,
                    uses,
                    expires,
                    approval,
                    name,
                    tags,
                } => {
                    let withdrawn = law.revoked.contains(&Target::Invite(*key));
                    let invite = Invite {
                        key: *key,
                        by: record.signer,
                        issued: record.issued,
                        expires: *expires,
                        uses: *uses,
                        used: 0,
                        approval: *approval,
                        name: name.clone(),
                        tags: tags.clone(),
                        revoked: withdrawn || !counts,
                    };
                    let held = HeldInvite {
                        invite,
                        record: record.id(),
                        by_force: counts,
                        withdrawn,
                    };
                    sorted.invites.insert(*key, held);
                }
                Statement::Join { node, invite, name } => {
                    let subject = record.subject(&network);
                    let Some(held) = sorted.invites.get_mut(invite) else {
                        continue;
                    };
                    held.invite.used += 1;
                    if gone.contains(&(*node, subject)) {
                        continue;
                    }
                    let given = held.invite.name.clone();
                    sorted.grants.entry(*node).or_default().push(Grant {
                        subject,
                        record: record.id(),
                        invite: Some(*invite),
                        by: held.invite.by,
                        said: (held.invite.issued, held.record),
                        since: record.issued,
                        given: given.is_some(),
                        name: given.unwrap_or_else(|| name.clone()),
                        tags: held.invite.tags.clone(),
                        verdict: Verdict::Pending,
                    });
                }
                Statement::Enrol { node, name, tags } => {
                    if gone.contains(&(*node, record.id())) {
                        continue;
                    }
                    sorted.grants.entry(*node).or_default().push(Grant {
                        subject: record.id(),
                        record: record.id(),
                        invite: None,
                        by: record.signer,
                        said,
                        since: record.issued,
                        name: name.clone(),
                        given: true,
                        tags: tags.clone(),
                        verdict: if counts {
                            Verdict::Counts
                        } else {
                            Verdict::Suspended(Suspension::AdminRevoked)
                        },
                    });
                }
                Statement::Name { node, name } if counts => {
                    let namings = sorted.namings.entry(*node).or_default();
                    namings.push((name.clone(), said));
                }
                Statement::Admin { .. }
                | Statement::Name { .. }
                | Statement::Approve { .. }
                | Statement::Revoke { .. }
                | Statement::Leave { .. } => {}
            }
        }
        sorted
    }

    /// Judges uses of invites, once it is known how many there are of each.
    fn judge_joins(&mut self, law: &Law, approved: &BTreeMap<RecordId, RecordId>) {
        let mut reused: BTreeMap<InviteKey, Vec<NodeKey>> = BTreeMap::new();
        for (node, grants) in &mut self.grants {
            for grant in grants {
                let Some(held) = grant.invite.as_ref().and_then(|key| self.invites.get(key)) else {
                    continue;
                };
                let invite = &held.invite;
                grant.verdict = if approved.contains_key(&grant.subject) {
                    Verdict::Counts
                } else if !held.by_force {
                    Verdict::Suspended(Suspension::AdminRevoked)
                } else if held.withdrawn {
                    Verdict::Suspended(Suspension::InviteRevoked)
                } else if grant.since > invite.expires {
                    Verdict::Suspended(Suspension::InviteExpired)
                } else if invite.used > usize::from(invite.uses) {
                    Verdict::Suspended(Suspension::InviteReused)
                } else {
                    match invite.approval {
                        Approval::Needed => Verdict::Pending,
                        Approval::NotNeeded => Verdict::Counts,
                    }
                };
                if grant.verdict == Verdict::Suspended(Suspension::InviteReused)
                    && !law.has_revoked(node)
                {
                    reused.entry(invite.key).or_default().push(*node);
                }
            }
        }
        let warn = |(invite, nodes)| Warning::InviteReused { invite, nodes };
        self.warnings.extend(reused.into_iter().map(warn));
    }

    fn roll(&mut self, law: &Law) -> Roll {
        let mut roll = Roll {
            name: self.name.take().map(|(.., name)| name),
            ..Roll::default()
        };
        let mut claims = Vec::new();
        let mut orphaned: BTreeMap<NodeKey, Vec<NodeKey>> = BTreeMap::new();
        let revoked = law.revoked.iter().filter_map(|target| match target {
            Target::Node(node) => Some(*node),
            Target::Invite(_) => None,
        });
        roll.standings
            .extend(revoked.map(|node| (node, Standing::Revoked)));
        for node in &self.left {
            roll.standings.entry(*node).or_insert(Standing::Left);
        }
        for (node, grants) in &self.grants {
            if law.has_revoked(node) {
                continue;
            }
            let counting = || {
                grants
                    .iter()
                    .filter(|grant| grant.verdict == Verdict::Counts)
            };
            let standing = if let Some(best) = counting().max_by_key(|grant| grant.said) {
                let naming = self.namings.get(node).into_iter().flatten();
                let naming = naming.max_by_key(|naming| naming.1);
                let claim = naming.map_or_else(
                    || Claim {
                        node: *node,
                        name: best.name.clone(),
                        given: best.given.then_some(best.said),
                    },
                    |(name, said)| Claim {
                        node: *node,
                        name: name.clone(),
                        given: Some(*said),
                    },
                );
                let since = counting().map(|grant| grant.since).min();
                let member = Member {
                    name: claim.name.to_string(),
                    claimed: claim.name.clone(),
                    tags: best.tags.clone(),
                    admin: law.in_force.contains(&node.0),
                    since: since.unwrap_or(best.since),
                };
                claims.push(claim);
                Standing::Member(member)
            } else {
                let worst = |grant: &&Grant| (grant.verdict == Verdict::Pending, grant.said);
                let Some(best) = grants.iter().max_by_key(worst) else {
                    continue;
                };
                let name = best.name.clone();
                match best.verdict {
                    Verdict::Suspended(why) => {
                        if why == Suspension::AdminRevoked {
                            orphaned.entry(NodeKey(best.by)).or_default().push(*node);
                        }
                        Standing::Suspended { name, why }
                    }
                    Verdict::Pending | Verdict::Counts => Standing::Pending { name },
                }
            };
            roll.standings.insert(*node, standing);
        }
        self.warnings.extend(settle_names(&mut roll, claims));
        let warn = |(admin, nodes)| Warning::AdminRevoked { admin, nodes };
        self.warnings.extend(orphaned.into_iter().map(warn));
        let warn = |(record, node): &(RecordId, NodeKey)| Warning::RevocationFallen {
            record: *record,
            node: *node,
        };
        self.warnings.extend(law.fallen.iter().map(warn));
        roll.warnings = std::mem::take(&mut self.warnings);
        roll
    }
}

/// A member's claim to a name.
struct Claim {
    node: NodeKey,
    name: Name,
    /// When and in which record an admin gave it, if one did.
    given: Option<Said>,
}

/// Decides under which name each member is shown: whom an admin gave a name has it, the last one if there are several; a name that nobody
/// was given is its only claimant's. Everybody else has a part of its key behind the name.
fn settle_names(roll: &mut Roll, claims: Vec<Claim>) -> Vec<Warning> {
    let mut by_name: BTreeMap<Name, Vec<Claim>> = BTreeMap::new();
    for claim in claims {
        by_name.entry(claim.name.clone()).or_default().push(claim);
    }
    let mut warnings = Vec::new();
    for (name, claims) in by_name {
        let given = claims.iter().filter(|claim| claim.given.is_some());
        let holder = given
            .max_by_key(|claim| claim.given)
            .map(|claim| claim.node);
        let holder = holder.or(match claims.as_slice() {
            [only] => Some(only.node),
            _ => None,
        });
        let others: Vec<NodeKey> = claims
            .iter()
            .map(|claim| claim.node)
            .filter(|node| Some(*node) != holder)
            .collect();
        let digits = distinct_digits(&others);
        for node in claims.iter().map(|claim| claim.node) {
            let shown = if Some(node) == holder {
                name.to_string()
            } else {
                format!("{name}-{}", hex(&node.0, digits))
            };
            if let Some(Standing::Member(member)) = roll.standings.get_mut(&node) {
                member.name.clone_from(&shown);
            }
            roll.names.insert(shown, node);
        }
        if !others.is_empty() {
            warnings.push(Warning::NameConflict {
                name,
                holder,
                nodes: others,
            });
        }
    }
    warnings
}

/// How many digits tell these keys apart: 8 to 30, an even number.
fn distinct_digits(nodes: &[NodeKey]) -> usize {
    let differ = |digits: &usize| {
        let begins: BTreeSet<&[u8]> = nodes.iter().map(|node| &node.0[..digits / 2]).collect();
        begins.len() == nodes.len()
    };
    (8..30).step_by(2).find(differ).unwrap_or(30)
}

/// The first digits of a key in hexadecimal.
fn hex(key: &[u8; 32], digits: usize) -> String {
    let nibbles = key.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles
        .take(digits)
        .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
        .collect()
}
