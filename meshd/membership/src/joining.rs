//! Joining: the two ends of it, as messages. Whatever carries them has authenticated each end's key to the other.
//!
//! ```text
//!  joiner                                                    doorkeeper (any member)
//!    hello: invite, signed with it for these two keys    ──►
//!                                                        ◄──  proof: the records that make the doorkeeper a member, its time
//!    join: its record, signed with the invite and itself ──►  kept, then
//!                                                        ◄──  welcome: what became of it, the records that say so
//! ```
//!
//! Nothing is shown to whoever has no ticket, and nothing of use is told to whoever is no member: the secret of the invite stays with the
//! joiner, and a hello is good for its two keys alone.

use std::fmt;

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::{
    Inserted, InviteKey, InviteSeed, Name, NetworkId, NodeKey, Record, Records, Standing,
    Statement, Ticket,
    judgement::Verdict,
    record::{MAX_TIME, is_signature, join_subject},
    records::{List, write_listed},
    sync::MAX_MESSAGE,
};

/// The version of the messages.
const VERSION: u8 = 1;
/// What precedes network id, joiner and doorkeeper where a hello is signed.
const HELLO: &[u8] = b"meshd hello v1";

/// The first byte after the version.
#[derive(Clone, Copy)]
enum Kind {
    Hello = 1,
    Proof = 2,
    Join = 3,
    Welcome = 4,
    Refusal = 5,
}

/// The side that joins. It needs no clock.
pub struct Joiner {
    network: NetworkId,
    seed: InviteSeed,
    node: Zeroizing<[u8; 32]>,
    name: Name,
    door: NodeKey,
    /// What the doorkeeper has shown, once it has.
    shown: Option<Records>,
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
    /// As many nodes as may have used it, or this node has and has left since.
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
    /// What became of the node: once it has sent its record, or when it was refused.
    pub outcome: Option<Result<Admission, Refusal>>,
}

impl Joiner {
    /// Begins to join, by way of `door`, whose key the connection has authenticated.
    #[must_use]
    pub fn new(ticket: &Ticket, node_seed: &[u8; 32], name: Name, door: NodeKey) -> Self {
        Self {
            network: ticket.network,
            seed: ticket.seed.clone(),
            node: Zeroizing::new(*node_seed),
            name,
            door,
            shown: None,
        }
    }

    /// The first message.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let node = NodeKey::of_seed(&self.node);
        let signing = self.seed.signing(&self.network);
        let signature = signing.sign(&signed_hello(&self.network, &node, &self.door));
        let mut message = vec![VERSION, Kind::Hello as u8];
        message.extend(signing.verifying_key().to_bytes());
        message.extend(signature.to_bytes());
        message
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// Joining has failed here; another member may be tried.
    pub fn handle_message(&mut self, message: &[u8]) -> Result<Step, JoinError> {
        let (kind, rest) = open(message).ok_or(JoinError::Message)?;
        match (kind, self.shown.take()) {
            (Kind::Refusal, _) => Err(Refusal::of_bytes(rest).ok_or(JoinError::Message)?.into()),
            (Kind::Proof, None) => self.handle_proof(rest),
            (Kind::Welcome, Some(records)) => self.handle_welcome(records, rest),
            (Kind::Proof, Some(_)) | (Kind::Welcome, None) | (Kind::Hello | Kind::Join, _) => {
                Err(JoinError::Message)
            }
        }
    }

    fn handle_proof(&mut self, rest: &[u8]) -> Result<Step, JoinError> {
        let (time, list) = rest.split_first_chunk().ok_or(JoinError::Message)?;
        let time = u64::from_be_bytes(*time).min(MAX_TIME);
        let mut records = Records::new(self.network);
        take_all(&mut records, list);
        match records.standing(&self.door) {
            Standing::Member(_) => {}
            Standing::Pending { .. }
            | Standing::Suspended { .. }
            | Standing::Revoked
            | Standing::Left
            | Standing::Unknown => return Err(JoinError::NotProven),
        }
        // By the doorkeeper's clock, which is what it compares with the expiry.
        let record = Record::join(
            &self.network,
            &self.seed,
            &self.node,
            self.name.clone(),
            time,
        );
        let mut message = vec![VERSION, Kind::Join as u8];
        message.extend(record.bytes());
        self.shown = Some(records);
        Ok(Step::Send(message))
    }

    fn handle_welcome(&self, mut records: Records, rest: &[u8]) -> Result<Step, JoinError> {
        let (admission, list) = rest.split_first().ok_or(JoinError::Message)?;
        take_all(&mut records, list);
        let admission = match admission {
            1 => Admission::Member,
            2 => Admission::Pending,
            _ => return Err(JoinError::Message),
        };
        let own = records.standing(&NodeKey::of_seed(&self.node));
        let is_shown = match own {
            Standing::Member(_) => true,
            Standing::Pending { .. } => admission == Admission::Pending,
            Standing::Suspended { .. } | Standing::Revoked | Standing::Left | Standing::Unknown => {
                false
            }
        };
        if !is_shown {
            return Err(JoinError::NotProven);
        }
        Ok(Step::Over(Welcome { admission, records }))
    }
}

impl Doorkeeper {
    /// Answers a message of `visitor`, whose key the connection has authenticated, in the name of `own`. `now` is in seconds since 1970.
    /// It costs the check of one signature for a hello, of two for a record; callers bound how often.
    #[must_use]
    pub fn answer(
        records: &mut Records,
        own: &NodeKey,
        visitor: &NodeKey,
        message: &[u8],
        now: u64,
    ) -> Answer {
        let answered = match open(message) {
            _ if records.roll().member(own).is_none() => Err(Refusal::NotMember),
            Some((Kind::Hello, rest)) => hello(records, own, visitor, rest, now),
            Some((Kind::Join, rest)) => join(records, visitor, rest, now),
            Some((Kind::Proof | Kind::Welcome | Kind::Refusal, _)) | None => {
                Err(Refusal::NotUnderstood)
            }
        };
        answered.unwrap_or_else(|refusal| Answer {
            new: None,
            reply: vec![VERSION, Kind::Refusal as u8, refusal as u8 + 1],
            outcome: Some(Err(refusal)),
        })
    }
}

fn hello(
    records: &Records,
    own: &NodeKey,
    visitor: &NodeKey,
    rest: &[u8],
    now: u64,
) -> Result<Answer, Refusal> {
    let (invite, rest) = rest.split_first_chunk().ok_or(Refusal::NotUnderstood)?;
    let signature = rest.try_into().map_err(|_| Refusal::NotUnderstood)?;
    let signed = signed_hello(&records.network(), visitor, own);
    // Whoever has no ticket is told no more than whoever has an unknown one.
    let held = records.judgement().invites.get(&InviteKey(*invite));
    let held = held.filter(|_| is_signature(invite, &signed, signature));
    let held = held.ok_or(Refusal::UnknownInvite)?;
    let mut reply = vec![VERSION, Kind::Proof as u8];
    // It is not earlier than the invite, whatever this clock says; unless the clock of who made that was too far ahead.
    let time = now.max(held.issued.min(held.expires)).min(MAX_TIME);
    reply.extend(time.to_be_bytes());
    write_all(&mut reply, records.proof(own));
    Ok(Answer {
        new: None,
        reply,
        outcome: None,
    })
}

fn join(
    records: &mut Records,
    visitor: &NodeKey,
    bytes: &[u8],
    now: u64,
) -> Result<Answer, Refusal> {
    let network = records.network();
    let record = Record::decode(&network, bytes).map_err(|_| Refusal::NotUnderstood)?;
    let Statement::Join { node, invite, .. } = &record.statement else {
        return Err(Refusal::NotUnderstood);
    };
    if node != visitor {
        return Err(Refusal::NotUnderstood);
    }
    // Before anything is told of it, it must show the ticket.
    if !records.judgement().invites.contains_key(invite) || !record.is_signed(&network) {
        return Err(Refusal::UnknownInvite);
    }
    let mut new = None;
    let known = known(records, visitor, invite)?;
    if !known {
        may_use(records, visitor, invite, &record, now)?;
        match records.insert(record.bytes()) {
            Ok(Inserted::New(_)) => new = Some(record.bytes().to_vec()),
            Ok(Inserted::Held) => {}
            Err(_) => return Err(Refusal::Used),
        }
    }
    let admission = match records.standing(visitor) {
        Standing::Member(_) => Ok(Admission::Member),
        Standing::Pending { .. } => Ok(Admission::Pending),
        Standing::Suspended { .. } => Err(Refusal::Suspended),
        Standing::Revoked => Err(Refusal::Revoked),
        Standing::Left | Standing::Unknown => Err(Refusal::Used),
    };
    let reply = match admission {
        Ok(admission) => {
            let mut reply = vec![VERSION, Kind::Welcome as u8];
            reply.push(match admission {
                Admission::Member => 1,
                Admission::Pending => 2,
            });
            // The name of the network last: it is what may be had later, where not all fits.
            let name = records
                .iter()
                .take_while(|record| matches!(record.statement, Statement::Network { .. }));
            write_all(&mut reply, records.proof(visitor).into_iter().chain(name));
            reply
        }
        Err(refusal) => vec![VERSION, Kind::Refusal as u8, refusal as u8 + 1],
    };
    Ok(Answer {
        new,
        reply,
        outcome: Some(admission),
    })
}

/// Whether there is no need for another record: the node is a member, or has used this invite.
fn known(records: &Records, visitor: &NodeKey, invite: &InviteKey) -> Result<bool, Refusal> {
    match records.standing(visitor) {
        Standing::Revoked => return Err(Refusal::Revoked),
        Standing::Member(_) => return Ok(true),
        Standing::Pending { .. }
        | Standing::Suspended { .. }
        | Standing::Left
        | Standing::Unknown => {}
    }
    let grants = records.judgement().grants.get(visitor);
    let mut grants = grants.into_iter().flatten();
    Ok(grants.any(|grant| grant.invite.as_ref() == Some(invite)))
}

/// Whether a node that has not used this invite may.
fn may_use(
    records: &Records,
    visitor: &NodeKey,
    key: &InviteKey,
    record: &Record,
    now: u64,
) -> Result<(), Refusal> {
    let judgement = records.judgement();
    let invite = judgement.invites.get(key).ok_or(Refusal::UnknownInvite)?;
    if invite.revoked {
        return Err(Refusal::Withdrawn);
    }
    if now > invite.expires || record.issued > invite.expires {
        return Err(Refusal::Expired);
    }
    // A use that the node has left is one.
    let subject = join_subject(&records.network(), key, visitor);
    if invite.used >= usize::from(invite.uses) || records.bounds().join(key, subject).is_some() {
        return Err(Refusal::Used);
    }
    Ok(())
}

impl Records {
    /// The records that make a node a member, or would: each after those that it hangs on. They fit into a message.
    pub(crate) fn proof(&self, node: &NodeKey) -> Vec<&Record> {
        let judgement = self.judgement();
        let grants = judgement.grants.get(node).into_iter().flatten();
        let Some(grant) = grants.max_by_key(|grant| grant.verdict == Verdict::Counts) else {
            return Vec::new();
        };
        let record = |id| self.iter().find(|record| record.id() == id);
        let admin = |signer: &[u8; 32]| self.bounds().admin(signer).and_then(|key| self.at(key));
        let mut proof: Vec<&Record> = Vec::new();
        let said = match grant.invite.as_ref() {
            Some(invite) => self.bounds().invite(invite).and_then(|key| self.at(key)),
            None => record(grant.record),
        };
        if let Some(said) = said {
            proof.extend(admin(&said.signer));
            if let Some(approval) = judgement
                .approved
                .get(&grant.subject)
                .and_then(|id| record(*id))
            {
                proof.extend(admin(&approval.signer));
                proof.push(approval);
            }
            proof.push(said);
        }
        if grant.invite.is_some() {
            proof.extend(record(grant.record));
        }
        proof
    }
}

impl Refusal {
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let all = [
            Self::UnknownInvite,
            Self::Expired,
            Self::Used,
            Self::Withdrawn,
            Self::Revoked,
            Self::Suspended,
            Self::NotMember,
            Self::NotUnderstood,
        ];
        let [code] = bytes else { return None };
        all.into_iter().find(|refusal| *refusal as u8 + 1 == *code)
    }
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joiner")
            .field("network", &self.network)
            .field("name", &self.name)
            .field("door", &self.door)
            .finish_non_exhaustive()
    }
}

fn open(message: &[u8]) -> Option<(Kind, &[u8])> {
    let (head, rest) = message.split_first_chunk()?;
    let [version, kind] = *head;
    if version != VERSION || message.len() > MAX_MESSAGE {
        return None;
    }
    let kinds = [
        Kind::Hello,
        Kind::Proof,
        Kind::Join,
        Kind::Welcome,
        Kind::Refusal,
    ];
    let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
    Some((kind, rest))
}

fn signed_hello(network: &NetworkId, joiner: &NodeKey, door: &NodeKey) -> Vec<u8> {
    [HELLO, &network.0, &joiner.0, &door.0].concat()
}

/// Takes records in any order; what is false or foreign is left out.
fn take_all(records: &mut Records, list: &[u8]) {
    let len = records.len();
    for record in List(list) {
        // Whether what was needed is there is seen by what they amount to.
        let _ = records.insert(record);
    }
    if records.len() > len && List(list).count() > records.len() - len {
        take_all(records, list);
    }
}

/// Writes records as far as they fit into a message.
fn write_all<'a>(message: &mut Vec<u8>, records: impl IntoIterator<Item = &'a Record>) {
    for record in records {
        if message.len() + 2 + record.bytes().len() <= MAX_MESSAGE {
            write_listed(message, record.bytes());
        }
    }
}
