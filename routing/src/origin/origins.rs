//! What is known about origins: two epochs of each, and of each seqno the best element.

use std::collections::BTreeMap;

use ipnetwork::Ipv6Network;

use super::chain::Best;
use super::job::{Certified, Job, Outcome, ProofJob, Proven, RecordJob};
use super::own::Own;
use super::record::Record;
use super::{
    Bump, Claim, Conflict, Judgement, Learned, Offer, Overtaken, Owner, Proof, Reason, Refusal,
    Shown,
};
use crate::types::{Metric, RouterId, Seqno};

/// After so many conflicts an origin is believed no more; before that, only its later epochs are.
const MAX_CONFLICTS: u8 = 3;
/// How many origins are kept for their conflicts alone, when nobody routes to them any more.
const MAX_KEPT: usize = 64;

/// Everything known about origins, ourselves among them; about 1 KiB each.
#[derive(Debug)]
pub struct Origins {
    own: Own,
    known: BTreeMap<RouterId, Origin>,
    /// To whom a prefix belongs, so that a second key with the same one is noticed.
    holders: BTreeMap<Ipv6Network, RouterId>,
    /// How many of `known` are in conflict.
    conflicts: usize,
    capacity: usize,
}

impl Origins {
    /// Knows nobody but us. At most `capacity` origins will be known at a time; beyond, new ones are refused.
    pub fn new(own: Own, capacity: usize) -> Self {
        let mut origins = Self {
            known: BTreeMap::new(),
            holders: BTreeMap::new(),
            conflicts: 0,
            capacity,
            own,
        };
        let ours = origins.own.owner().clone();
        origins.holders.insert(ours.prefix, ours.router_id);
        origins.known.insert(
            ours.router_id,
            Origin::new(origins.own.record().clone(), ours),
        );
        origins.note_our_seqno();
        origins
    }

    /// We as an origin: our epoch, our seqno, our record.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Takes our next seqno.
    pub fn bump(&mut self) -> Bump {
        let bump = self.own.bump();
        self.follow(bump);
        bump
    }

    /// Begins a new epoch of ours, with a new seqno.
    pub fn renew(&mut self) -> Bump {
        let bump = self.own.renew();
        self.follow(bump);
        bump
    }

    /// Judges an update of a prefix that only its origin may announce. It costs no hash.
    pub fn judge(&self, claim: &Claim) -> Judgement {
        if !claim.metric.is_finite() {
            return Judgement::Implied;
        }
        if claim.proof.is_some_and(|proof| proof.epoch == 0) {
            return Judgement::Refused(Reason::Stale);
        }
        if claim.router_id == self.own.owner().router_id {
            return self.judge_ours(claim);
        }
        let Some(origin) = self.known.get(&claim.router_id) else {
            return claim
                .proof
                .map_or(Judgement::NeedProof, |proof| Judgement::NeedRecord {
                    epoch: proof.epoch,
                });
        };
        if claim.prefix != origin.owner.prefix {
            return Judgement::Refused(Reason::Prefix);
        }
        let epoch = match claim.proof {
            None => match origin.holding(claim.seqno) {
                Some(epoch) => epoch,
                None if origin.epochs().next().is_none() => {
                    return Judgement::Refused(Reason::Quarantined);
                }
                None => return Judgement::NeedProof,
            },
            Some(proof) => match origin.epoch(proof.epoch) {
                Some(epoch) => epoch,
                None if proof.epoch <= origin.quarantined => {
                    return Judgement::Refused(Reason::Quarantined);
                }
                None if origin.wants(proof.epoch) => {
                    return Judgement::NeedRecord { epoch: proof.epoch };
                }
                None => return Judgement::Refused(Reason::Stale),
            },
        };
        epoch.judge(claim)
    }

    /// Judges a record that somebody sent. It costs no cryptography.
    pub fn offered(&self, record: Record) -> Offer {
        let check = |record| {
            Offer::Check(Job::Record(RecordJob {
                record: Box::new(record),
                network: self.own.network().clone(),
            }))
        };
        let Some(origin) = self.known.get(&record.router_id) else {
            return if self.known.len() < self.capacity {
                check(record)
            } else {
                Offer::Refused(Refusal::Full)
            };
        };
        if record.key != origin.key {
            Offer::Refused(Refusal::Taken)
        } else if let Some(epoch) = origin.epoch(record.epoch) {
            if epoch.record == record {
                Offer::Known
            } else {
                check(record)
            }
        } else if record.epoch <= origin.quarantined {
            Offer::Refused(Refusal::Quarantined)
        } else if origin.has_place_for(&record) && !self.is_ours_and_old(&record) {
            check(record)
        } else {
            Offer::Stale
        }
    }

    /// Takes note of what came out of a job.
    pub fn learn(&mut self, outcome: Outcome) -> Learned {
        match outcome {
            Outcome::Refused { why, .. } => Learned::Refused(why),
            Outcome::Proof(proven) => self.learn_proof(proven),
            Outcome::Record(certified) => self.learn_record(certified),
        }
    }

    /// What an update of ours has to show, which is what [`Self::proof`] shows: a neighbour that has seen something that implies it
    /// needs no proof again. None: we know nothing of that seqno.
    pub fn needed(&self, router_id: RouterId, seqno: Seqno, metric: Metric) -> Option<Shown> {
        let epoch = self.known.get(&router_id)?.holding(seqno)?;
        Some(epoch.needed(seqno, metric))
    }

    /// What proves to a neighbour that this seqno is the origin's and this metric not too small: for our own updates, and for those
    /// that we pass on with our metric. None: we could not prove it ourselves. It costs a hash for each level between the
    /// metric and the best one that we know of.
    pub fn proof(&self, router_id: RouterId, seqno: Seqno, metric: Metric) -> Option<Proof> {
        let epoch = self.known.get(&router_id)?.holding(seqno)?;
        epoch.proof(seqno, metric)
    }

    /// What to answer who asks for the record of an epoch (none: the newest): that one, or else the newest that we have.
    pub fn record(&self, router_id: RouterId, epoch: Option<u32>) -> Option<&Record> {
        let origin = self.known.get(&router_id)?;
        epoch
            .and_then(|epoch| origin.epoch(epoch))
            .or_else(|| origin.epochs().next())
            .map(|epoch| &epoch.record)
    }

    /// What belongs to the key of an origin.
    pub fn owner(&self, router_id: RouterId) -> Option<&Owner> {
        self.known.get(&router_id).map(|origin| &origin.owner)
    }

    /// Who has proven to own a prefix.
    pub fn holder(&self, prefix: Ipv6Network) -> Option<RouterId> {
        self.holders.get(&prefix).copied()
    }

    /// How many origins are known, ourselves included.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Forgets an origin that nobody routes to any more. We ourselves stay, and so do a few that are in conflict.
    pub fn forget(&mut self, router_id: RouterId) {
        let Some(origin) = self.known.get(&router_id) else {
            return;
        };
        let in_conflict = origin.conflict.is_some();
        if router_id == self.own.owner().router_id || in_conflict && self.conflicts <= MAX_KEPT {
            return;
        }
        self.conflicts -= usize::from(in_conflict);
        self.holders.remove(&origin.owner.prefix);
        self.known.remove(&router_id);
    }

    /// The origins that signed two records of one epoch, each with its latest such pair.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.known
            .values()
            .filter_map(|origin| origin.conflict.as_deref())
    }

    /// Our own updates come back from neighbours, and are of no use but for one thing: to notice seqnos that this run has not made.
    fn judge_ours(&self, claim: &Claim) -> Judgement {
        match claim.proof {
            Some(proof) if proof.epoch > self.own.epoch() => {
                Judgement::NeedRecord { epoch: proof.epoch }
            }
            Some(proof)
                if proof.epoch == self.own.epoch()
                    && !self.own.has_made(proof.epoch, claim.seqno) =>
            {
                self.known
                    .get(&claim.router_id)
                    .and_then(|ours| ours.epoch(proof.epoch))
                    .map_or(Judgement::Refused(Reason::Ours), |epoch| epoch.judge(claim))
            }
            Some(_) | None => Judgement::Refused(Reason::Ours),
        }
    }

    fn learn_proof(&mut self, Proven(job): Proven) -> Learned {
        let router_id = job.chain.router_id;
        let Some(best) = self
            .known
            .get_mut(&router_id)
            .and_then(|origin| origin.best_for(&job))
        else {
            return Learned::Nothing;
        };
        match best {
            Best::Element { level, .. } if *level <= job.level => {}
            Best::Element { .. } | Best::Anchor(_) => {
                *best = Best::Element {
                    level: job.level,
                    element: job.element,
                };
            }
        }
        if router_id == self.own.owner().router_id
            && !self.own.has_made(job.chain.epoch, job.chain.seqno)
        {
            return self.overtaken(job.chain.epoch);
        }
        Learned::Proof(Shown {
            epoch: job.chain.epoch,
            seqno: job.chain.seqno,
            level: job.level,
        })
    }

    fn learn_record(&mut self, certified: Certified) -> Learned {
        let Certified {
            record,
            network,
            owner,
        } = certified;
        if network != *self.own.network() {
            // It was asked before we went to another network.
            return Learned::Nothing;
        }
        let router_id = record.router_id;
        if router_id == self.own.owner().router_id {
            return self.learn_own_record(&record);
        }
        let Some(origin) = self.known.get_mut(&router_id) else {
            return self.meet(*record, owner);
        };
        if record.key != origin.key {
            return Learned::Refused(Refusal::Taken);
        }
        if let Some(epoch) = origin.epoch(record.epoch) {
            if epoch.record == *record {
                return Learned::Nothing;
            }
            let conflict = Conflict {
                records: [epoch.record.clone(), *record],
            };
            self.conflicts += usize::from(origin.conflict.is_none());
            origin.quarantine(conflict.clone());
            return Learned::Conflict(Box::new(conflict));
        }
        if !origin.has_place_for(&record) {
            return Learned::Nothing;
        }
        origin.place(*record);
        Learned::Record
    }

    fn learn_own_record(&mut self, record: &Record) -> Learned {
        let ours = self.own.record();
        let theirs = record.key == *ours.key()
            && (record.epoch > ours.epoch() || record.epoch == ours.epoch() && record != ours);
        if theirs {
            self.overtaken(record.epoch)
        } else {
            Learned::Nothing
        }
    }

    /// Our own old epochs are of no use to us.
    fn is_ours_and_old(&self, record: &Record) -> bool {
        record.router_id == self.own.owner().router_id && record.epoch < self.own.epoch()
    }

    /// An origin that was not known so far.
    fn meet(&mut self, record: Record, owner: Owner) -> Learned {
        if self.holders.contains_key(&owner.prefix) {
            return Learned::Refused(Refusal::Taken);
        }
        if self.known.len() >= self.capacity {
            return Learned::Refused(Refusal::Full);
        }
        self.holders.insert(owner.prefix, owner.router_id);
        self.known
            .insert(owner.router_id, Origin::new(record, owner));
        Learned::Record
    }

    fn overtaken(&mut self, epoch: u32) -> Learned {
        let overtaken = self.own.overtaken(epoch);
        if overtaken == Overtaken::Continued {
            self.follow(Bump::Epoch);
        }
        Learned::Overtaken(overtaken)
    }

    /// Notes what became of our seqno.
    fn follow(&mut self, bump: Bump) {
        match bump {
            Bump::Exhausted => return,
            Bump::Seqno => {}
            Bump::Epoch => {
                let record = self.own.record().clone();
                self.ours().place(record);
            }
        }
        self.note_our_seqno();
    }

    fn note_our_seqno(&mut self) {
        let (seqno, start) = (self.own.seqno(), self.own.start());
        if let Some(best) = self.ours().current.as_mut().and_then(|e| e.best(seqno)) {
            *best = Best::Element {
                level: 0,
                element: start,
            };
        }
    }

    fn ours(&mut self) -> &mut Origin {
        self.known
            .get_mut(&self.own.owner().router_id)
            .expect("we are there from the beginning and are not forgotten")
    }
}

#[derive(Debug)]
struct Origin {
    owner: Owner,
    key: [u8; 32],
    /// The newest epoch; none: it is in quarantine.
    current: Option<Epoch>,
    /// The one right before it, as long as its seqnos are before those of `current`.
    previous: Option<Epoch>,
    conflict: Option<Box<Conflict>>,
    conflicts: u8,
    /// Nothing up to this epoch is believed.
    quarantined: u32,
}

impl Origin {
    fn new(record: Record, owner: Owner) -> Self {
        Self {
            owner,
            key: record.key,
            current: Some(Epoch::new(record)),
            previous: None,
            conflict: None,
            conflicts: 0,
            quarantined: 0,
        }
    }

    /// What is held of it, newest first.
    fn epochs(&self) -> impl Iterator<Item = &Epoch> {
        self.current.iter().chain(&self.previous)
    }

    fn epoch(&self, epoch: u32) -> Option<&Epoch> {
        self.epochs().find(|held| held.record.epoch == epoch)
    }

    /// The epoch with this seqno; there is at most one.
    fn holding(&self, seqno: Seqno) -> Option<&Epoch> {
        self.epochs()
            .find(|held| held.record.place(seqno).is_some())
    }

    /// Whether a record of an epoch that is not held might find a place.
    fn wants(&self, epoch: u32) -> bool {
        epoch > self.quarantined
            && self.current.as_ref().is_none_or(|current| {
                let newest = current.record.epoch;
                epoch > newest || epoch.checked_add(1) == Some(newest) && self.previous.is_none()
            })
    }

    fn has_place_for(&self, record: &Record) -> bool {
        self.wants(record.epoch)
            && self.current.as_ref().is_none_or(|current| {
                record.epoch > current.record.epoch || record.leads_to(&current.record)
            })
    }

    /// Holds an epoch that [has a place](Self::has_place_for).
    fn place(&mut self, record: Record) {
        match &self.current {
            Some(current) if current.record.epoch > record.epoch => {
                self.previous = Some(Epoch::new(record));
            }
            Some(_) | None => {
                self.previous = self
                    .current
                    .take()
                    .filter(|current| current.record.leads_to(&record));
                self.current = Some(Epoch::new(record));
            }
        }
    }

    /// Where an element belongs whose job said so, unless the epoch has gone since.
    fn best_for(&mut self, job: &ProofJob) -> Option<&mut Best> {
        let epoch = [&mut self.current, &mut self.previous]
            .into_iter()
            .flatten()
            .find(|held| held.record.epoch == job.chain.epoch)?;
        let place = epoch.record.place(job.chain.seqno)?;
        (epoch.record.anchors.get(place) == Some(&job.anchor))
            .then(|| epoch.best.get_mut(place))
            .flatten()
    }

    fn quarantine(&mut self, conflict: Conflict) {
        self.conflicts = self.conflicts.saturating_add(1);
        self.quarantined = if self.conflicts < MAX_CONFLICTS {
            conflict.records[0].epoch
        } else {
            u32::MAX
        };
        self.conflict = Some(Box::new(conflict));
        for held in [&mut self.current, &mut self.previous] {
            if held
                .as_ref()
                .is_some_and(|held| held.record.epoch <= self.quarantined)
            {
                *held = None;
            }
        }
    }
}

/// A record, and what else is known of its epoch.
#[derive(Debug)]
struct Epoch {
    record: Record,
    /// One for each of its seqnos.
    best: Vec<Best>,
}

impl Epoch {
    fn new(record: Record) -> Self {
        Self {
            best: record.anchors.iter().copied().map(Best::Anchor).collect(),
            record,
        }
    }

    fn judge(&self, claim: &Claim) -> Judgement {
        let record = &self.record;
        let Some(place) = record.place(claim.seqno) else {
            return Judgement::Refused(Reason::Seqno);
        };
        let needed = self.needed(claim.seqno, claim.metric);
        if needed.level == 0 && claim.sender != claim.router_id {
            return Judgement::Refused(Reason::NotTheOrigin);
        }
        if claim.shown.is_some_and(|shown| shown.implies(&needed)) {
            return Judgement::Implied;
        }
        let (anchor, known) = (record.anchors[place], self.best[place]);
        claim.proof.map_or(Judgement::NeedProof, |proof| {
            Judgement::Check(Job::Proof(ProofJob {
                chain: record.chain(claim.seqno),
                scale: record.scale,
                anchor,
                known,
                level: needed.level,
                element: proof.element,
            }))
        })
    }

    fn needed(&self, seqno: Seqno, metric: Metric) -> Shown {
        Shown {
            epoch: self.record.epoch,
            seqno,
            level: self.record.scale.level(metric),
        }
    }

    fn best(&mut self, seqno: Seqno) -> Option<&mut Best> {
        let place = self.record.place(seqno)?;
        self.best.get_mut(place)
    }

    fn proof(&self, seqno: Seqno, metric: Metric) -> Option<Proof> {
        let to = self.record.scale.level(metric);
        match self.best.get(self.record.place(seqno)?)? {
            Best::Element { level, element } if *level <= to => Some(Proof {
                epoch: self.record.epoch,
                element: self.record.chain(seqno).climb(*element, *level, to),
            }),
            Best::Element { .. } | Best::Anchor(_) => None,
        }
    }
}
