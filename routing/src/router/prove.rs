//! Whether what nodes announce is proven by its origin: updates wait here for records and verifications (`origin` says why).

use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use super::{Audience, Router, Waiting};
use crate::config::Peer;
use crate::discard::Reason;
use crate::event::Event;
use crate::extension::Extension;
use crate::link::{Ask, PARKED, Parked, SeqnoWanted};
use crate::origin::{
    self, Claim, Job, Judgement, Learned, Offer, Outcome, Overtaken, Proof, Refusal, Shown,
};
use crate::route::{Exchange, Slot, Trust};
use crate::types::RouterId;
use crate::update::News;
use crate::wire::Update;

/// Proofs that take so few hashes are verified at once: it takes less than to hand them over.
const FEW_HASHES: u16 = 64;
/// A record is asked for again after so long.
const RECORD_PATIENCE: Duration = Duration::from_millis(300);
/// Nobody is asked for a record that somebody was asked for so recently.
const JUST_ASKED: Duration = Duration::from_millis(200);
/// So many are remembered, unless more were asked for in that time.
const MOST_ASKED: usize = 1_024;
/// Verifications under way, for all neighbours together.
const MOST_JOBS: usize = 8_192;

impl Router {
    /// Judges an update by its proof, and by what its sender has shown before.
    pub(super) fn prove(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        router_id: RouterId,
        update: Update,
    ) {
        let now = self.clock.now();
        let shown = self.table.find(prefix).and_then(|destination| {
            let exchange = destination.exchange(slot).filter(|it| it.is_route())?;
            let source = destination.source(exchange)?;
            let needed = |it: &Exchange| self.origins.needed(router_id, it.seqno, it.metric);
            (source.router_id == router_id).then(|| needed(exchange))?
        });
        if let Some(link) = self.links.get_mut(slot)
            && let Some(parked) = link.parked.get_mut(&prefix)
        {
            if update.proof.is_none() && parked.update.router_id == Some(router_id) {
                parked.then = Some(update);
                return;
            }
            link.parked.remove(&prefix);
        }
        self.judge(slot, prefix, router_id, update, shown, now);
    }

    fn judge(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        router_id: RouterId,
        update: Update,
        shown: Option<Shown>,
        since: Instant,
    ) {
        let Some(Peer::Meshd { router_id: sender }) =
            self.links.get(slot).map(|it| &it.config.peer)
        else {
            return;
        };
        let claim = Claim {
            prefix,
            router_id,
            seqno: update.seqno,
            metric: update.metric,
            proof: update.proof.as_ref().map(Proof::decode),
            sender: *sender,
            shown,
        };
        match self.origins.judge(&claim) {
            Judgement::Implied if self.is_own(router_id) => self.discard(slot, Reason::Own),
            Judgement::Implied => self.adopt(slot, prefix, router_id, &update, Trust::Proven),
            Judgement::Check(job) => self.verify_proof(slot, prefix, update, job, since),
            Judgement::NeedRecord { epoch } => {
                let job = None;
                if self.park(slot, prefix, update, job, since) {
                    self.ask_for_record(slot, router_id, Some(epoch));
                }
            }
            Judgement::NeedProof => {
                self.discard(slot, Reason::Unproven);
                self.ask_for_route(slot, prefix);
            }
            Judgement::Refused(origin::Reason::Stale) => {
                self.discard(slot, Reason::StaleProof);
                self.show_record(slot, router_id, None);
                self.want_newer(slot, prefix, router_id);
            }
            Judgement::Refused(origin::Reason::Ours) => self.discard(slot, Reason::Own),
            Judgement::Refused(origin::Reason::Prefix) => {
                self.discard(slot, Reason::PrefixRefused);
            }
            Judgement::Refused(
                origin::Reason::Seqno | origin::Reason::NotTheOrigin | origin::Reason::Quarantined,
            ) => self.discard(slot, Reason::WrongProof),
        }
    }

    fn verify_proof(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        update: Update,
        job: Job,
        since: Instant,
    ) {
        if !self.may_verify(slot) {
            return;
        }
        let is_quick = match &job {
            Job::Proof(proof) => proof.hashes() <= FEW_HASHES,
            Job::Record(_) => false,
        };
        let waiting = Waiting {
            slot,
            prefix: Some(prefix),
            since,
        };
        if is_quick {
            // Nothing belongs to the key of a proof.
            let outcome = job.run(|_| None);
            if self.park(slot, prefix, update, None, since) {
                self.learn(waiting, None, outcome);
            }
            return;
        }
        let id = self.next_job;
        if self.park(slot, prefix, update, Some(id), since) {
            self.hand_over(waiting, job);
        }
    }

    fn hand_over(&mut self, waiting: Waiting, job: Job) {
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(id, waiting);
        self.events.push_back(Event::Verify { id, job });
    }

    fn may_verify(&mut self, slot: Slot) -> bool {
        let now = self.clock.now();
        let is_busy = self.jobs.len() >= MOST_JOBS;
        let Some(link) = self.links.get_mut(slot) else {
            return false;
        };
        let rate = link.config.limits.verifications;
        let may = !is_busy && link.allows(|quota| &mut quota.verifications, rate, now);
        if !may {
            link.discards.note(Reason::VerificationLimit);
            link.refuse_for_now(now);
        }
        may
    }

    /// Keeps an update until it is proven. Says whether there was room.
    fn park(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        update: Update,
        job: Option<u64>,
        since: Instant,
    ) -> bool {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return false;
        };
        if link.parked.len() >= link.config.limits.waiting && !link.parked.contains_key(&prefix) {
            link.discards.note(Reason::VerificationLimit);
            link.refuse_for_now(now);
            return false;
        }
        let ask = now + RECORD_PATIENCE;
        let parked = Parked {
            update,
            then: None,
            since,
            job,
            ask,
        };
        link.parked_until = Some(link.parked_until.map_or(ask, |at| at.min(ask)));
        link.parked.insert(prefix, parked);
        true
    }

    /// Takes note of what a verification says; `id` is its number, if it was handed over.
    pub(super) fn learn(&mut self, waiting: Waiting, id: Option<u64>, outcome: Outcome) {
        let Waiting { slot, prefix, .. } = waiting;
        let router_id = outcome.router_id();
        match self.origins.learn(outcome) {
            Learned::Record => {
                self.spread_record(slot, router_id);
                self.judge_parked(router_id);
            }
            Learned::Proof(shown) => self.judge_again(slot, prefix, id, Some(shown)),
            Learned::Nothing if prefix.is_some() => self.judge_again(slot, prefix, id, None),
            Learned::Nothing => self.judge_parked(router_id),
            Learned::Refused(refusal) => {
                self.discard(slot, Reason::WrongProof);
                if let Some(prefix) = prefix {
                    self.unpark(slot, prefix, id);
                }
                if refusal == Refusal::Element {
                    // The sender may hold another genuine record of that epoch: evidence against the origin.
                    self.ask_for_record(slot, router_id, None);
                }
            }
            Learned::Conflict(conflict) => {
                self.events.push_back(Event::Conflict(conflict));
                self.distrust(router_id);
            }
            Learned::Overtaken(overtaken) => self.overtaken(overtaken),
        }
    }

    fn unpark(&mut self, slot: Slot, prefix: Ipv6Network, id: Option<u64>) -> Option<Parked> {
        let parked = &mut self.links.get_mut(slot)?.parked;
        parked.get(&prefix).filter(|it| it.job == id)?;
        parked.remove(&prefix)
    }

    /// Judges the update again that a proof was verified for.
    fn judge_again(
        &mut self,
        slot: Slot,
        prefix: Option<Ipv6Network>,
        id: Option<u64>,
        shown: Option<Shown>,
    ) {
        let Some(prefix) = prefix else {
            return;
        };
        let Some(parked) = self.unpark(slot, prefix, id) else {
            return;
        };
        for mut update in [Some(parked.update), parked.then].into_iter().flatten() {
            if shown.is_none() {
                // The epoch has gone meanwhile: what was sent with it proves nothing any more.
                update.proof = None;
            }
            if let Some(router_id) = update.router_id {
                self.judge(slot, prefix, router_id, update, shown, parked.since);
            }
        }
    }

    /// There is a record of a newer epoch, which the neighbour on `from` has shown: whoever announces the origin's route with a
    /// seqno from before it does not know it, and may be the origin itself, which has lost its state.
    fn spread_record(&mut self, from: Slot, router_id: RouterId) {
        let Some(record) = self.origins.record(router_id, None) else {
            return;
        };
        let base = record.base();
        let destination = self
            .origins
            .owner(router_id)
            .and_then(|owner| self.table.find(owner.prefix));
        let behind: Vec<Slot> = destination.map_or_else(Vec::new, |destination| {
            destination
                .exchanges()
                .iter()
                .filter(|it| it.is_route() && it.trust == Trust::Proven)
                .filter(|it| base.is_newer_than(it.seqno) && it.slot != from)
                .map(|it| it.slot)
                .collect()
        });
        for slot in behind {
            self.show_record(slot, router_id, None);
        }
    }

    /// A neighbour has announced what cannot be used. If that is because it does not know the origin's newest epoch, it is shown.
    pub(super) fn show_if_behind(&mut self, slot: Slot, router_id: RouterId, update: &Update) {
        let newest = self
            .origins
            .record(router_id, None)
            .map(origin::Record::epoch);
        let shown = update.proof.as_ref().map(Proof::decode);
        if shown.is_some_and(|shown| newest > Some(shown.epoch)) {
            self.show_record(slot, router_id, None);
        }
    }

    /// Judges all updates again that wait for an origin's record. What was announced for another prefix than the origin's goes on
    /// waiting, in vain.
    fn judge_parked(&mut self, router_id: RouterId) {
        self.records_asked.remove(&router_id);
        let Some(prefix) = self.origins.owner(router_id).map(|owner| owner.prefix) else {
            return;
        };
        for slot in self.links.slots() {
            let Some(parked) = self.unpark(slot, prefix, None) else {
                continue;
            };
            for update in [Some(parked.update), parked.then].into_iter().flatten() {
                if let Some(router_id) = update.router_id {
                    self.prove(slot, prefix, router_id, update);
                }
            }
        }
    }

    /// Routes whose origin has contradicted itself are not believed any more.
    fn distrust(&mut self, router_id: RouterId) {
        let Some(prefix) = self.origins.owner(router_id).map(|owner| owner.prefix) else {
            return;
        };
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let void: Vec<Slot> = destination
            .exchanges()
            .iter()
            .filter(|exchange| exchange.is_route() && exchange.trust == Trust::Proven)
            .filter(|it| {
                self.origins
                    .needed(router_id, it.seqno, it.metric)
                    .is_none()
            })
            .map(|exchange| exchange.slot)
            .collect();
        for slot in void {
            self.end_route(slot, prefix);
        }
    }

    fn overtaken(&mut self, overtaken: Overtaken) {
        match overtaken {
            Overtaken::Continued => self.announce_ourselves(News::Urgent),
            Overtaken::Cloned => self.events.push_back(Event::IdentityCloned),
        }
    }

    /// Our seqno has changed, and everybody is to know.
    pub(super) fn announce_ourselves(&mut self, news: News) {
        self.persist();
        let now = self.clock.now();
        for (&prefix, &audience) in &self.own {
            for (_, link) in self.links.iter_mut() {
                if link.is_up() && (audience == Audience::All || link.config.peer.is_stock()) {
                    let at = now + news.delay(&mut self.rng);
                    link.outbox.answer(prefix, at);
                }
            }
        }
    }

    pub(super) fn ask_for_record(&mut self, slot: Slot, router_id: RouterId, epoch: Option<u32>) {
        let now = self.clock.now();
        let asked = self.records_asked.get(&router_id);
        if asked.is_some_and(|&at| now < at + JUST_ASKED) {
            return;
        }
        if self.records_asked.len() >= MOST_ASKED {
            self.records_asked
                .retain(|_, &mut at| now < at + JUST_ASKED);
        }
        self.records_asked.insert(router_id, now);
        let request = Extension::RecordRequest { router_id, epoch };
        if let Some(link) = self.links.get_mut(slot) {
            link.outbox.message(request.encode());
        }
    }

    /// Asks again for the records that updates wait for, and gives up those that have waited too long.
    pub(super) fn tend_parked(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        if link.parked_until.is_none_or(|at| now < at) {
            return;
        }
        let mut missing = Vec::new();
        let mut next = None::<Instant>;
        let before = link.parked.len();
        link.parked.retain(|_, parked| {
            let end = parked.since + PARKED;
            if now >= end {
                return false;
            }
            if parked.job.is_none()
                && now >= parked.ask
                && let Some(router_id) = parked.update.router_id
            {
                parked.ask = now + RECORD_PATIENCE;
                let proof = parked.update.proof.as_ref().map(Proof::decode);
                missing.push((router_id, proof.map(|proof| proof.epoch)));
            }
            let at = if parked.job.is_none() {
                parked.ask
            } else {
                end
            };
            next = Some(next.map_or(at, |next| next.min(at)));
            true
        });
        link.parked_until = next;
        for _ in link.parked.len()..before {
            link.discards.note(Reason::NoRecord);
            link.refuse(now);
        }
        for (router_id, epoch) in missing {
            self.ask_for_record(slot, router_id, epoch);
        }
    }

    pub(super) fn heed_extension(&mut self, slot: Slot, body: &[u8]) {
        match Extension::decode(body) {
            Ok(Extension::RecordRequest { router_id, epoch }) => {
                self.show_record(slot, router_id, epoch);
            }
            Ok(Extension::Record(record)) => self.heed_record(slot, record),
            // Whoever told the links of a session apart has read it.
            Ok(Extension::LinkTag(_)) => {}
            Err(_) => self.discard(slot, Reason::UnknownMessage),
        }
    }

    /// Sends a neighbour an origin's record, if we have any.
    fn show_record(&mut self, slot: Slot, router_id: RouterId, epoch: Option<u32>) {
        let now = self.clock.now();
        let (Some(link), Some(record)) = (
            self.links.get_mut(slot),
            self.origins.record(router_id, epoch),
        ) else {
            return;
        };
        let rate = link.config.limits.records;
        if link.allows(|quota| &mut quota.records, rate, now) {
            link.outbox
                .message(Extension::Record(record.clone()).encode());
        } else {
            link.discards.note(Reason::RequestLimit);
        }
    }

    fn heed_record(&mut self, slot: Slot, record: origin::Record) {
        let now = self.clock.now();
        let router_id = record.router_id();
        let is_wanted = self.origins.owner(router_id).is_some()
            || self.links.get(slot).is_some_and(|link| {
                let mut parked = link.parked.values();
                parked.any(|parked| parked.update.router_id == Some(router_id))
            });
        if !is_wanted {
            self.discard(slot, Reason::UselessRecord);
            return;
        }
        match self.origins.offered(record) {
            Offer::Known => {}
            Offer::Check(job) => {
                if self.may_verify(slot) {
                    let waiting = Waiting {
                        slot,
                        prefix: None,
                        since: now,
                    };
                    self.hand_over(waiting, job);
                }
            }
            Offer::Stale => {
                self.discard(slot, Reason::StaleProof);
                self.show_record(slot, router_id, None);
            }
            Offer::Refused(_) => self.discard(slot, Reason::UselessRecord),
        }
    }

    pub(super) fn ask_for_route(&mut self, slot: Slot, prefix: Ipv6Network) {
        let at = self.clock.now() + News::Soon.delay(&mut self.rng);
        if let Some(link) = self.links.get_mut(slot) {
            link.outbox.ask(Ask::Route(prefix), SeqnoWanted::NONE, at);
        }
    }
}
