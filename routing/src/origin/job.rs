//! What verification costs is done apart from the router: a job is plain data, and whoever has time runs it.

use super::chain::{Anchor, Best, Chain, Element, Scale};
use super::record::{Network, Record};
use super::{Owner, Refusal};
use crate::types::RouterId;

/// Something to verify. The router hands it to a worker, and what comes out of it to [`super::Origins::learn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Whether an element belongs to a chain: [`ProofJob::hashes`] steps of 50 to 200 ns.
    Proof(ProofJob),
    /// Whether a record was made by the holder of its key: about 0.1 ms, half of it for `derive`.
    Record(RecordJob),
}

impl Job {
    /// Whose proof or record it is said to be.
    pub fn router_id(&self) -> RouterId {
        match self {
            Self::Proof(job) => job.chain.router_id,
            Self::Record(job) => job.record.router_id,
        }
    }

    /// Does it. `derive` says what belongs to an Ed25519 key; none if no node may have it.
    pub fn run(&self, derive: impl Fn(&[u8; 32]) -> Option<Owner>) -> Outcome {
        match self {
            Self::Proof(job) => {
                job.decide(
                    job.known
                        .confirms(job.chain, job.scale, job.element, job.level),
                )
            }
            Self::Record(job) => job.decide(derive, Record::is_signed),
        }
    }

    /// Believes everything but that a key has an owner, for simulations of so many nodes that cryptography would take too long.
    #[cfg(any(test, feature = "_sim"))]
    pub fn trust(&self, derive: impl Fn(&[u8; 32]) -> Option<Owner>) -> Outcome {
        match self {
            Self::Proof(job) => job.decide(true),
            Self::Record(job) => job.decide(derive, |_, _| true),
        }
    }
}

/// See [`Job::Proof`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofJob {
    pub(super) chain: Chain,
    pub(super) scale: Scale,
    /// The end of the chain.
    pub(super) anchor: Anchor,
    /// What it is compared with.
    pub(super) known: Best,
    pub(super) level: u16,
    pub(super) element: Element,
}

impl ProofJob {
    /// How many hashes it takes, at most [`Scale::MAX_LEVELS`]. A few are cheaper done at once than handed over.
    pub fn hashes(&self) -> u16 {
        self.known.steps_to(self.level, self.scale)
    }

    fn decide(&self, genuine: bool) -> Outcome {
        if genuine {
            Outcome::Proof(Proven(*self))
        } else {
            Outcome::Refused {
                router_id: self.chain.router_id,
                epoch: self.chain.epoch,
                why: Refusal::Element,
            }
        }
    }
}

/// See [`Job::Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordJob {
    pub(super) record: Box<Record>,
    pub(super) network: Network,
}

impl RecordJob {
    /// The record in question.
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn decide(
        &self,
        derive: impl Fn(&[u8; 32]) -> Option<Owner>,
        signed: impl Fn(&Record, &Network) -> bool,
    ) -> Outcome {
        let record = &self.record;
        let refuse = |why| Outcome::Refused {
            router_id: record.router_id,
            epoch: record.epoch,
            why,
        };
        if !signed(record, &self.network) {
            return refuse(Refusal::Signature);
        }
        match derive(&record.key) {
            None => refuse(Refusal::Key),
            Some(owner) if owner.router_id != record.router_id => refuse(Refusal::RouterId),
            Some(owner) => Outcome::Record(Certified {
                record: record.clone(),
                network: self.network.clone(),
                owner,
            }),
        }
    }
}

/// What came out of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The element is genuine.
    Proof(Proven),
    /// The record is genuine.
    Record(Certified),
    /// Neither. `epoch` is the one that was in question.
    Refused {
        /// Whose it was said to be.
        router_id: RouterId,
        /// Of which epoch.
        epoch: u32,
        /// What is wrong.
        why: Refusal,
    },
}

impl Outcome {
    /// Whose proof or record it is, or was said to be.
    pub fn router_id(&self) -> RouterId {
        match self {
            Self::Proof(Proven(job)) => job.chain.router_id,
            Self::Record(certified) => certified.record.router_id,
            Self::Refused { router_id, .. } => *router_id,
        }
    }
}

/// An element that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven(pub(super) ProofJob);

/// A record that was verified, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    pub(super) record: Box<Record>,
    pub(super) network: Network,
    pub(super) owner: Owner,
}
