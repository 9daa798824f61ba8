//! One signed record.
//!
//! The layout is in `docs/protocol.md`. There is one way to write a record, and only that is read: [`Record::decode`] takes no byte that
//! signing would not have written.

use std::str::FromStr;

use blake2::{Blake2s256, Digest};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::{InviteKey, InviteSeed, Name, NetworkId, NodeKey, Signer, Tag, Tags, keys::first};

/// The only version of the layout that there is.
const VERSION: u8 = 1;
/// What precedes network id and record where its id is computed.
const ID: &[u8] = b"meshd record id v1";
/// What precedes network id, invite and node where the subject of a join is computed.
const SUBJECT: &[u8] = b"meshd join subject v1";
/// Greatest time that a record may have: far enough, and nothing overflows that is counted from it.
pub(crate) const MAX_TIME: u64 = (1 << 40) - 1;
const SIGNATURE: usize = 64;

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
    /// A file with the records of another network.
    #[error("records of another network")]
    Foreign,
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
        if bytes.len() > Self::MAX_LEN {
            return Err(RecordError::TooLong);
        }
        let mut reader = Reader(bytes);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let kind = reader.byte()?;
        let kind = Kind::of_byte(kind).ok_or(RecordError::Kind(kind))?;
        let issued = reader.time()?;
        let signer = reader.array()?;
        let statement = Statement::read(kind, &signer, &mut reader)?;
        let body = bytes.len() - reader.0.len();
        reader.take(kind.signatures() * SIGNATURE)?;
        if !reader.0.is_empty() {
            return Err(RecordError::Length);
        }
        Ok(Self {
            issued,
            signer,
            statement,
            id: id_of(network, bytes.get(..body).ok_or(RecordError::Length)?),
            bytes: bytes.to_vec(),
        })
    }

    /// Makes and signs one: all kinds but [`Statement::Join`], which takes two keys.
    pub(crate) fn sign(
        network: &NetworkId,
        signer: Signer<'_>,
        statement: Statement,
        issued: u64,
    ) -> Self {
        Self::build(network, &[&signer.signing()], statement, issued)
    }

    /// Makes a [`Statement::Join`], and signs it as the invite and as the node.
    pub(crate) fn join(
        network: &NetworkId,
        invite: &InviteSeed,
        node: &[u8; 32],
        name: Name,
        issued: u64,
    ) -> Self {
        let (invite, node) = (invite.signing(network), SigningKey::from_bytes(node));
        let statement = Statement::Join {
            node: NodeKey(node.verifying_key().to_bytes()),
            invite: InviteKey(invite.verifying_key().to_bytes()),
            name,
        };
        Self::build(network, &[&invite, &node], statement, issued)
    }

    /// The last of the keys is the signer's.
    fn build(network: &NetworkId, keys: &[&SigningKey], statement: Statement, issued: u64) -> Self {
        let kind = statement.kind();
        let issued = issued.min(MAX_TIME);
        let signer = keys
            .last()
            .map(|key| key.verifying_key().to_bytes())
            .unwrap_or_default();
        let mut bytes = Vec::with_capacity(Self::MAX_LEN);
        bytes.extend([VERSION, kind as u8]);
        bytes.extend(issued.to_be_bytes());
        bytes.extend(signer);
        statement.write(&mut bytes);
        let id = id_of(network, &bytes);
        let signed = kind.signed(network, &bytes);
        for key in keys {
            bytes.extend(key.sign(&signed).to_bytes());
        }
        Self {
            issued,
            signer,
            statement,
            id,
            bytes,
        }
    }

    /// Whether it is signed by whom it names, for this network, by the rules that leave one signature to one record and key: no point of
    /// small order, no number that is not reduced.
    #[must_use]
    pub fn is_signed(&self, network: &NetworkId) -> bool {
        let kind = self.statement.kind();
        let end = self.bytes.len() - kind.signatures() * SIGNATURE;
        let (body, signatures) = self.bytes.split_at(end);
        let signed = kind.signed(network, body);
        let keys = match &self.statement {
            Statement::Join { invite, .. } => [Some(&invite.0), Some(&self.signer)],
            Statement::Network { .. }
            | Statement::Admin { .. }
            | Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => [Some(&self.signer), None],
        };
        let signatures = signatures.as_chunks::<SIGNATURE>().0;
        keys.into_iter()
            .flatten()
            .zip(signatures)
            .all(|(key, signature)| is_signature(key, &signed, signature))
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
        match &self.statement {
            Statement::Join { node, invite, .. } => join_subject(network, invite, node),
            Statement::Network { .. }
            | Statement::Admin { .. }
            | Statement::Invite { .. }
            | Statement::Enrol { .. }
            | Statement::Name { .. }
            | Statement::Approve { .. }
            | Statement::Revoke { .. }
            | Statement::Leave { .. } => self.id,
        }
    }

    /// The bytes of it, signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where a record is in the order of records.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) stage: u8,
    pub(crate) id: RecordId,
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

    pub(crate) fn new(kind: Kind, id: RecordId) -> Self {
        Self {
            stage: kind.stage(),
            id,
        }
    }

    pub(crate) fn of(record: &Record) -> Self {
        Self::new(record.statement.kind(), record.id())
    }
}

/// The kinds of records, by their numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Network = 1,
    Admin = 2,
    Invite = 3,
    Join = 4,
    Enrol = 5,
    Name = 6,
    Approve = 7,
    Revoke = 8,
    Leave = 9,
}

impl Kind {
    fn of_byte(byte: u8) -> Option<Self> {
        let kinds = [
            Self::Network,
            Self::Admin,
            Self::Invite,
            Self::Join,
            Self::Enrol,
            Self::Name,
            Self::Approve,
            Self::Revoke,
            Self::Leave,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// What precedes network id and record where it is signed, so that no other signature of the key can be taken for one.
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Network => b"meshd network v1",
            Self::Admin => b"meshd admin v1",
            Self::Invite => b"meshd invite v1",
            Self::Join => b"meshd join v1",
            Self::Enrol => b"meshd enrol v1",
            Self::Name => b"meshd name v1",
            Self::Approve => b"meshd approve v1",
            Self::Revoke => b"meshd revoke v1",
            Self::Leave => b"meshd leave v1",
        }
    }

    /// What the signatures of a record are over.
    fn signed(self, network: &NetworkId, body: &[u8]) -> Vec<u8> {
        [self.domain(), &network.0, body].concat()
    }

    fn signatures(self) -> usize {
        match self {
            Self::Join => 2,
            Self::Network
            | Self::Admin
            | Self::Invite
            | Self::Enrol
            | Self::Name
            | Self::Approve
            | Self::Revoke
            | Self::Leave => 1,
        }
    }

    /// Where it comes in the order of records: after those that it hangs on. What is against somebody comes as early as can be, and
    /// after what keeps others in.
    pub(crate) fn stage(self) -> u8 {
        match self {
            Self::Network => 0,
            Self::Admin => 1,
            Self::Approve => 2,
            Self::Revoke => 3,
            Self::Invite => 4,
            Self::Enrol => 5,
            Self::Join => 6,
            Self::Name => 7,
            Self::Leave => 8,
        }
    }
}

impl Statement {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Network { .. } => Kind::Network,
            Self::Admin { .. } => Kind::Admin,
            Self::Invite { .. } => Kind::Invite,
            Self::Join { .. } => Kind::Join,
            Self::Enrol { .. } => Kind::Enrol,
            Self::Name { .. } => Kind::Name,
            Self::Approve { .. } => Kind::Approve,
            Self::Revoke { .. } => Kind::Revoke,
            Self::Leave { .. } => Kind::Leave,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Network { name } => write_label(bytes, name.as_str()),
            Self::Admin { node } => bytes.extend(node.0),
            Self::Invite {
                key,
                uses,
                expires,
                approval,
                name,
                tags,
            } => {
                bytes.extend(key.0);
                bytes.extend(uses.to_be_bytes());
                bytes.extend(expires.to_be_bytes());
                bytes.push(match approval {
                    Approval::NotNeeded => 0,
                    Approval::Needed => 1,
                });
                write_label(bytes, name.as_ref().map_or("", Name::as_str));
                write_tags(bytes, tags);
            }
            Self::Join { invite, name, .. } => {
                bytes.extend(invite.0);
                write_label(bytes, name.as_str());
            }
            Self::Enrol { node, name, tags } => {
                bytes.extend(node.0);
                write_label(bytes, name.as_str());
                write_tags(bytes, tags);
            }
            Self::Name { node, name } => {
                bytes.extend(node.0);
                write_label(bytes, name.as_str());
            }
            Self::Approve { subjects } | Self::Leave { subjects, .. } => {
                bytes.push(subjects.len() as u8);
                bytes.extend(subjects.iter().flat_map(|subject| subject.0));
            }
            Self::Revoke { target, past } => {
                let (kind, key) = match target {
                    Target::Node(node) => (0, node.0),
                    Target::Invite(invite) => (1, invite.0),
                };
                bytes.push(kind);
                bytes.extend(key);
                bytes.push(match past {
                    Past::Stands => 0,
                    Past::Falls => 1,
                });
            }
        }
    }

    fn read(kind: Kind, signer: &[u8; 32], reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(match kind {
            Kind::Network => Self::Network {
                name: reader.label()?,
            },
            Kind::Admin => Self::Admin {
                node: NodeKey(reader.array()?),
            },
            Kind::Invite => {
                let key = InviteKey(reader.array()?);
                let uses = u16::from_be_bytes(reader.array()?);
                let expires = reader.time()?;
                let approval = match reader.byte()? {
                    0 => Approval::NotNeeded,
                    1 => Approval::Needed,
                    _ => return Err(RecordError::NotCanonical),
                };
                let name = match reader.0.first() {
                    Some(0) => {
                        reader.byte()?;
                        None
                    }
                    Some(_) | None => Some(reader.label()?),
                };
                if !(1..=Self::MAX_USES).contains(&uses) || (name.is_some() && uses > 1) {
                    return Err(RecordError::NotCanonical);
                }
                Self::Invite {
                    key,
                    uses,
                    expires,
                    approval,
                    name,
                    tags: reader.tags()?,
                }
            }
            Kind::Join => Self::Join {
                node: NodeKey(*signer),
                invite: InviteKey(reader.array()?),
                name: reader.label()?,
            },
            Kind::Enrol => Self::Enrol {
                node: NodeKey(reader.array()?),
                name: reader.label()?,
                tags: reader.tags()?,
            },
            Kind::Name => Self::Name {
                node: NodeKey(reader.array()?),
                name: reader.label()?,
            },
            Kind::Approve => Self::Approve {
                subjects: reader.subjects()?,
            },
            Kind::Revoke => {
                let target = match reader.byte()? {
                    0 => Target::Node(NodeKey(reader.array()?)),
                    1 => Target::Invite(InviteKey(reader.array()?)),
                    _ => return Err(RecordError::NotCanonical),
                };
                let past = match (reader.byte()?, target) {
                    (0, _) => Past::Stands,
                    (1, Target::Node(_)) => Past::Falls,
                    _ => return Err(RecordError::NotCanonical),
                };
                Self::Revoke { target, past }
            }
            Kind::Leave => Self::Leave {
                node: NodeKey(*signer),
                subjects: reader.subjects()?,
            },
        })
    }

    /// Most nodes that one invite may admit.
    pub(crate) const MAX_USES: u16 = 100;
}

/// What approvals and leaves call a node's use of an invite.
pub(crate) fn join_subject(network: &NetworkId, invite: &InviteKey, node: &NodeKey) -> RecordId {
    let hash = Blake2s256::new()
        .chain_update(SUBJECT)
        .chain_update(network.0)
        .chain_update(invite.0)
        .chain_update(node.0)
        .finalize();
    RecordId(first(&hash.into()))
}

/// Whether a key has signed a message.
pub(crate) fn is_signature(key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}

fn id_of(network: &NetworkId, body: &[u8]) -> RecordId {
    let hash = Blake2s256::new()
        .chain_update(ID)
        .chain_update(network.0)
        .chain_update(body)
        .finalize();
    RecordId(first(&hash.into()))
}

fn write_label(bytes: &mut Vec<u8>, label: &str) {
    bytes.push(label.len() as u8);
    bytes.extend(label.bytes());
}

fn write_tags(bytes: &mut Vec<u8>, tags: &Tags) {
    bytes.push(tags.iter().count() as u8);
    for tag in tags.iter() {
        write_label(bytes, tag.as_str());
    }
}

/// The rest of what is read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    fn time(&mut self) -> Result<u64, RecordError> {
        let time = u64::from_be_bytes(self.array()?);
        if time > MAX_TIME {
            return Err(RecordError::NotCanonical);
        }
        Ok(time)
    }

    fn label<L: FromStr>(&mut self) -> Result<L, RecordError> {
        let len = usize::from(self.byte()?);
        let text = std::str::from_utf8(self.take(len)?).ok();
        let label = text.and_then(|text| text.parse().ok());
        label.ok_or(RecordError::NotCanonical)
    }

    fn tags(&mut self) -> Result<Tags, RecordError> {
        let count = usize::from(self.byte()?);
        if count > Tags::MAX {
            return Err(RecordError::NotCanonical);
        }
        let tags: Vec<Tag> = (0..count).map(|_| self.label()).collect::<Result<_, _>>()?;
        if !tags.is_sorted_by(|one, next| one < next) {
            return Err(RecordError::NotCanonical);
        }
        Tags::new(tags).map_err(|_| RecordError::NotCanonical)
    }

    fn subjects(&mut self) -> Result<Vec<RecordId>, RecordError> {
        let count = usize::from(self.byte()?);
        if !(1..=Record::MAX_SUBJECTS).contains(&count) {
            return Err(RecordError::NotCanonical);
        }
        let subjects: Vec<RecordId> = (0..count)
            .map(|_| self.array().map(RecordId))
            .collect::<Result<_, _>>()?;
        if !subjects.is_sorted_by(|one, next| one < next) {
            return Err(RecordError::NotCanonical);
        }
        Ok(subjects)
    }
}
