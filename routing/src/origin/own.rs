//! What we are as an origin: our epoch, its record, and how far its seqnos are used up.

use std::fmt;

use ed25519_dalek::SigningKey;

use super::chain::{Chain, Element, Scale};
use super::record::{Network, Record};
use super::{Bump, Overtaken, Owner};
use crate::types::Seqno;

/// How often a run continues after others have shown it something of its own that it does not know. A node restored from a
/// snapshot needs one, or a few where the mesh was parted; a key in use twice needs one more whenever the other has answered.
const MAX_SUCCESSIONS: u32 = 3;

/// Our side of the origin proof. All of an epoch follows from the seed, the network, the epoch and this release, so that an epoch which is begun
/// twice, because the memory of the first time was lost, is the same epoch. Its seqnos follow from it as well: the base is the
/// epoch times the number of seqnos in one, modulo 2^16.
pub struct Own {
    signing: SigningKey,
    network: Network,
    owner: Owner,
    record: Record,
    /// Our seqno, counted from the record's base.
    place: u16,
    /// The newest epoch of ours that we know of, also from others.
    newest: u32,
    successions: u32,
}

impl Own {
    /// Begins the epoch after `last`, the one that the caller last kept for the run before (none: there was no run before, or nobody
    /// remembers it), in the network of everybody. `owner` is what belongs to the seed's public key.
    pub fn new(seed: &[u8; 32], owner: Owner, last: Option<u32>) -> Self {
        Self::in_network(Network::default(), seed, owner, last)
    }

    /// The same, in that network.
    pub fn in_network(network: Network, seed: &[u8; 32], owner: Owner, last: Option<u32>) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let newest = last.map_or(1, |last| last.saturating_add(1));
        Self {
            record: record(&signing, &network, &owner, newest),
            signing,
            network,
            owner,
            place: 0,
            newest,
            successions: 0,
        }
    }

    /// The network that we are in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Who we are.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Our epoch: what the caller keeps for [`Self::new`]. Nothing is lost if it is kept too late or never, but a round trip to a
    /// neighbour that knows better.
    pub fn epoch(&self) -> u32 {
        self.record.epoch()
    }

    /// Our seqno.
    pub fn seqno(&self) -> Seqno {
        self.record.base().plus(self.place)
    }

    /// The record of our epoch.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The element of level 0 for our seqno.
    pub(super) fn start(&self) -> Element {
        self.record
            .chain(self.seqno())
            .start(self.signing.as_bytes())
    }

    /// Takes the next seqno, in a new epoch if this one has no more.
    pub(super) fn bump(&mut self) -> Bump {
        if self.place + 1 < self.record.seqnos() {
            self.place += 1;
            Bump::Seqno
        } else {
            self.renew()
        }
    }

    /// Begins a new epoch.
    pub(super) fn renew(&mut self) -> Bump {
        let Some(next) = self.newest.checked_add(1) else {
            return Bump::Exhausted;
        };
        self.newest = next;
        self.record = record(&self.signing, &self.network, &self.owner, next);
        self.place = 0;
        Bump::Epoch
    }

    /// Whether we have made that seqno of that epoch, or one after it.
    pub(super) fn has_made(&self, epoch: u32, seqno: Seqno) -> bool {
        epoch < self.epoch()
            || epoch == self.epoch()
                && self
                    .record
                    .place(seqno)
                    .is_some_and(|place| place <= usize::from(self.place))
    }

    /// Somebody has shown us something of that epoch that only our seed can have made, and this run has not.
    pub(super) fn overtaken(&mut self, epoch: u32) -> Overtaken {
        self.newest = self.newest.max(epoch);
        if self.successions == MAX_SUCCESSIONS {
            return Overtaken::Cloned;
        }
        self.successions += 1;
        match self.renew() {
            Bump::Seqno | Bump::Epoch => Overtaken::Continued,
            Bump::Exhausted => Overtaken::Cloned,
        }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own")
            .field("owner", &self.owner)
            .field("epoch", &self.epoch())
            .field("seqno", &self.seqno())
            .finish_non_exhaustive()
    }
}

/// The record of an epoch: eight chains of 683 steps and a signature, about half a millisecond.
fn record(signing: &SigningKey, network: &Network, owner: &Owner, epoch: u32) -> Record {
    const SEQNOS: u16 = Record::MAX_SEQNOS as u16;
    let base = Seqno((epoch as u16).wrapping_mul(SEQNOS));
    let anchors = (0..SEQNOS)
        .map(|place| {
            let chain = Chain {
                router_id: owner.router_id,
                epoch,
                seqno: base.plus(place),
            };
            chain.anchor(chain.start(signing.as_bytes()), Scale::OURS)
        })
        .collect();
    Record::sign(
        signing,
        network,
        owner.router_id,
        epoch,
        base,
        Scale::OURS,
        anchors,
    )
}
