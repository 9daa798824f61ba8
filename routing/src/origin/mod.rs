//! Origin authentication: that an update for a node's prefix goes back to that node, and is not made to look nearer than it is.
//!
//! Babel believes what a neighbour says. Here the origin says it too: once an *epoch* it signs a [`Record`], which holds the end of one
//! hash chain for each of the epoch's seqnos, and every update carries one *element* of the chain of its seqno ([`Proof`]). The element's
//! place in the chain is its *level*, the metric divided by the least cost of a link. Who knows an element can make those of
//! higher levels and no others: whoever passes a route on hashes the element up to the level of its own, greater metric. So nothing is
//! signed per update or per hop, and whoever has the record checks an update with a few hashes. `docs/protocol.md` has the bytes.
//!
//! # What the router does
//!
//! 1. [`Origins::judge`] for every update with a finite metric for a prefix inside the overlay block, before it touches any table.
//!    Only what is [`Judgement::Implied`] goes on.
//! 2. [`Judgement::Check`] goes to a worker; [`Origins::learn`] gets what comes back; then the update is judged again.
//! 3. [`Judgement::NeedRecord`] asks the neighbour; its answer goes through [`Origins::offered`], a worker, [`Origins::learn`]; then
//!    as above. [`Judgement::NeedProof`] asks the neighbour for the route: an answer to a request always carries the proof.
//! 4. [`Reason::Stale`] and [`Offer::Stale`] are answered with [`Origins::record`]: the neighbour, which may be the origin itself, does
//!    not know the newest epoch.
//! 5. Every update that it sends carries [`Origins::proof`], unless the neighbour has been shown before what is [needed](Origins::needed).
//!    An answer to a request carries it in any case, since the neighbour may have forgotten.
//!
//! Neighbours can make us work in each of these; the router limits how often. Judging costs no hash; what does is a [`Job`], or a proof
//! of our own, with at most [`Scale::MAX_LEVELS`] hashes each, and mostly as many as there are hops between two neighbours.
//!
//! # What is guaranteed
//!
//! Whatever anybody does who has not the origin's seed, alone or with others:
//!
//! - An update is accepted only if the origin has made its seqno, in the newest epoch that is known here or the one right before it, and
//!   only for the origin's own prefix.
//! - The metric is not below the lowest level at which the liar, or anyone who lies with it, ever held *that seqno*. It makes no
//!   difference what they know of other seqnos, nor what the receiver knows from others.
//! - Nobody but the origin announces a metric below the least cost of a link.
//! - An element is refused once an epoch two or more after its own is known, also when seqnos have come round. So what was recorded long
//!   ago cannot be replayed, and a good place that a liar once had is worth nothing after two epochs.
//! - One record has one encoding and one signature that verifies; nobody but the key's holder can make a second.
//!
//! The second of these needs two things that one might do without:
//!
//! - *A chain for each seqno.* With one chain through all of an epoch, the element of a newer seqno yields all of the older ones, down
//!   to level 0. That would be harmless if routers preferred the newest seqno, as those of DSDV do. Those of Babel do not: they keep a
//!   feasible route with an older seqno for as long as it is refreshed. So a liar could ask the origin for a newer seqno,
//!   be the first to hear of it, and look like the origin's neighbour to everybody who is content with the older one.
//! - *A proof from each neighbour.* What a receiver knows from one neighbour proves nothing about another ([`Shown`]), or anybody
//!   could look as near to the origin as the receiver's best next hop.
//!
//! # What is not
//!
//! - A liar may announce the least metric of the level that it was given, instead of adding its own cost: it looks nearer by that cost
//!   and the part of a level before it.
//! - The origin may give its elements to whom it likes, who then look like its neighbours.
//! - Two that lie together may pass elements to each other outside the mesh (a wormhole): the far one looks as near as the near one is.
//! - Who was near with a seqno may go on announcing it after moving away, to those whose feasibility distance has not moved on.
//! - Whoever is the only way to the origin for a node that has just started, and thus remembers no epoch, may show it an old one.
//! - Dropping packets, keeping updates to oneself, adding to a metric, retracting one's own routes: the route gets worse, which needs no
//!   proof. That packets arrive is for the ends to find out.
//! - A key with the same 56 bits of prefix, and the work, costs 2^72 hashes. The second one to arrive is refused ([`Refusal::Taken`]).
//!
//! # Epochs, restarts and copies
//!
//! An epoch lasts until its seqnos are used up, the router calls [`Origins::renew`] (once a day), or the node restarts: a run begins
//! with the epoch after the last one kept. All of an epoch follows from the seed and its number, its base seqno too, so that a crash
//! before the number was kept repeats nothing but the same bytes. The two newest epochs that follow each other are held, since a
//! newer one does not reach all neighbours at once.
//!
//! A node that was restored from a snapshot, or has lost its state, begins with an epoch that others know to be old. They answer it with
//! the newest record (4 above), and it continues with the epoch after that ([`Overtaken::Continued`]); the same if it sees
//! an element of a seqno that it has not made yet. It needs no more margin than that: seqnos of different epochs differ. If it
//! happens more often than restoring explains, somebody else uses the key now ([`Overtaken::Cloned`]): the node continues no more until
//! the next [`Origins::renew`], so that two copies do not drive each other on, and the daemon reports it.
//!
//! Two genuine records of one epoch with different content ([`Conflict`]) are kept as evidence by whoever sees both, and nothing is
//! believed of the origin up to that epoch; after the third conflict, nothing at all. Nobody can bring that about without the seed.
//! Until both records have met, elements of the one look forged to those who hold the other: on [`Refusal::Element`] ask the sender for
//! its record of that epoch. If it is another genuine one, the origin is to blame, else the sender.

mod chain;
mod job;
mod origins;
mod own;
mod record;

use ipnetwork::Ipv6Network;

pub use chain::{ELEMENT_LEN, Element, Scale};
pub use job::{Certified, Job, Outcome, ProofJob, Proven, RecordJob};
pub use origins::Origins;
pub use own::Own;
pub use record::{Network, Record, RecordError};

use crate::types::{Metric, RouterId, Seqno};
use crate::wire::PROOF_LEN;

/// What belongs to an Ed25519 key, as far as routing is concerned. How it follows from the key, and which keys no node may have, is
/// not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The router-id.
    pub router_id: RouterId,
    /// The only prefix that it may announce.
    pub prefix: Ipv6Network,
}

/// What an update carries in sub-TLV 112: the epoch, and the element for its seqno and the level of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The origin's epoch.
    pub epoch: u32,
    /// The element.
    pub element: Element,
}

impl Proof {
    /// Reads the body of the sub-TLV. Any bytes are a proof of something, if only of nothing.
    pub fn decode(bytes: &[u8; PROOF_LEN]) -> Self {
        let [a, b, c, d, element @ ..] = *bytes;
        Self {
            epoch: u32::from_be_bytes([a, b, c, d]),
            element: Element(element),
        }
    }

    /// Writes the body of the sub-TLV.
    pub fn encode(&self) -> [u8; PROOF_LEN] {
        let mut bytes = [0; PROOF_LEN];
        let (epoch, element) = bytes.split_at_mut(4);
        epoch.copy_from_slice(&self.epoch.to_be_bytes());
        element.copy_from_slice(&self.element.0);
        bytes
    }
}

/// What a neighbour has shown of an origin, by a proof that was genuine; or what we have shown to it. The router keeps it with the
/// neighbour's route, so that refreshes need no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    epoch: u32,
    seqno: Seqno,
    level: u16,
}

impl Shown {
    /// Of which epoch.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether who has shown this could show the other as well.
    pub fn implies(&self, other: &Self) -> bool {
        (self.epoch, self.seqno) == (other.epoch, other.seqno) && self.level <= other.level
    }
}

/// What an update says, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The destination.
    pub prefix: Ipv6Network,
    /// The origin.
    pub router_id: RouterId,
    /// The origin's.
    pub seqno: Seqno,
    /// As the neighbour announces it, without the cost of the link.
    pub metric: Metric,
    /// What came with it.
    pub proof: Option<Proof>,
    /// The neighbour who sent it, by the key of its session and not by what it says.
    pub sender: RouterId,
    /// What that neighbour has shown of that origin before.
    pub shown: Option<Shown>,
}

/// What to do with an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It follows from what the neighbour has shown; or it is a retraction, which needs no proof.
    Implied,
    /// It is if the job says so. Afterwards, judge it again.
    Check(Job),
    /// It cannot be judged without the origin's record of that epoch, or a later one.
    NeedRecord {
        /// At least 1.
        epoch: u32,
    },
    /// It carries no proof, and does not follow from what the neighbour has shown.
    NeedProof,
    /// It is wrong, or of no use.
    Refused(Reason),
}

/// Why an update is refused without looking at its element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its epoch is too old: show the sender the newest record.
    Stale,
    /// The seqno is not of the epoch that it names.
    Seqno,
    /// The prefix is not the origin's.
    Prefix,
    /// So small a metric is for the origin itself to announce.
    NotTheOrigin,
    /// The origin has signed two records of that epoch or a later one.
    Quarantined,
    /// It is our own, come back.
    Ours,
}

/// What to do with a record that somebody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Something new if the job says so.
    Check(Job),
    /// Nothing: it is held already.
    Known,
    /// It is too old: show the sender the newest one.
    Stale,
    /// It is of no use.
    Refused(Refusal),
}

/// Why a record or an element is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The element does not lead where it should.
    #[error("the element is not of the chain")]
    Element,
    /// The holder of the key has not signed this.
    #[error("the signature is wrong")]
    Signature,
    /// No node may have the key.
    #[error("no node may have the key")]
    Key,
    /// The record names another router-id than its key has.
    #[error("the router-id is not the key's")]
    RouterId,
    /// Another key has the prefix or the router-id.
    #[error("another key has the same prefix or router-id")]
    Taken,
    /// As many origins are known as may be.
    #[error("too many origins")]
    Full,
    /// The origin has signed two records of that epoch or a later one.
    #[error("the origin has signed two records of one epoch")]
    Quarantined,
}

/// What has changed by the outcome of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// There is a new record of the origin: judge what waits for it again.
    Record,
    /// The neighbour has shown this: judge what waits for it again.
    Proof(Shown),
    /// Nothing: somebody was faster, or it is not needed any more. Judge what waits for it again all the same.
    Nothing,
    /// The origin has signed two records of one epoch.
    Conflict(Box<Conflict>),
    /// It was about ourselves, and was not made by this run.
    Overtaken(Overtaken),
    /// It was not genuine, or is of no use: discard what waits for it.
    Refused(Refusal),
}

/// What becomes of us when others know something of ours that we do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overtaken {
    /// We have begun a newer epoch: keep its number, and announce its seqno.
    Continued,
    /// It has happened too often: somebody else uses our key.
    Cloned,
}

/// What became of our seqno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bump {
    /// It is the next one.
    Seqno,
    /// It is the first one of a new epoch: keep its number.
    Epoch,
    /// There are no more epochs. It takes 10,000 years to get there, or somebody else with our key.
    Exhausted,
}

/// Two records of one epoch, both signed by the origin, with different content: evidence, since nobody else can have made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// In the order of their arrival.
    pub records: [Record; 2],
}

impl Conflict {
    /// Whose they are.
    pub fn router_id(&self) -> RouterId {
        self.records[0].router_id()
    }
}

#[cfg(test)]
mod tests;
