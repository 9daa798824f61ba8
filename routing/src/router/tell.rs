//! What neighbours are told about a destination: which route, to whom, and with which proof.

use ipnetwork::Ipv6Network;

use super::receive::Echoes;
use super::{Audience, Router};
use crate::config::{Peer, SplitHorizon, Transit};
use crate::link::{Link, Word};
use crate::origin::Proof;
use crate::route::{Announced, Choice, Destination, Exchange, Slot, Trust};
use crate::types::{Metric, Seqno};
use crate::update::News;
use crate::wire::{PROOF_LEN, Update};

/// A feasibility distance is remembered for so many update intervals since it was announced last, but no less than [`LEAST_MEMORY`]:
/// as long as any neighbour may still use the route, and longer.
const MEMORY: u32 = 4;
/// RFC 8966 Appendix B.
const LEAST_MEMORY: std::time::Duration = std::time::Duration::from_secs(180);

impl Router {
    /// The route to a destination that the neighbour on a link is to know of; none: it is to know that there is none.
    pub(super) fn desired(
        &self,
        destination: &Destination,
        slot: Slot,
        echoes: Echoes,
    ) -> Option<Announced> {
        let link = self.links.get(slot)?;
        match destination.choice {
            Choice::Nothing | Choice::Held => None,
            Choice::Own => {
                let audience = self.own.get(&destination.prefix())?;
                let own = self.origins.own();
                let may_know = *audience == Audience::All || link.config.peer.is_stock();
                may_know.then(|| Announced {
                    router_id: own.owner().router_id,
                    seqno: own.seqno(),
                    metric: Metric::ZERO,
                })
            }
            Choice::Via(selected) => {
                let is_echo = selected == slot;
                let is_suppressed =
                    link.config.split_horizon == SplitHorizon::On && echoes == Echoes::Suppressed;
                if is_echo && is_suppressed || link.config.transit == Transit::No {
                    return None;
                }
                let exchange = destination.exchange(selected)?;
                let metric = self.distance(exchange);
                (exchange.trust == Trust::Proven && metric.is_finite()).then_some(Announced {
                    router_id: destination.source(exchange)?.router_id,
                    seqno: exchange.seqno,
                    metric,
                })
            }
        }
    }

    /// Sees to it that every neighbour hears what is new about a destination.
    pub(super) fn tell_change(&mut self, prefix: Ipv6Network) {
        let now = self.clock.now();
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let (mut most, mut whom) = (News::None, Vec::new());
        for (slot, link) in self.links.iter().filter(|(_, link)| link.is_up()) {
            let told = told(destination, slot);
            let desired = self.desired(destination, slot, Echoes::Suppressed);
            let mut news = News::of(told.as_ref(), desired.as_ref());
            if let (News::None, Some(told), Some(desired)) = (news, told, desired)
                && self.is_of_another_epoch(&told, &desired)
            {
                news = News::Soon;
            }
            if news != News::None && !is_about_to_hear(link, prefix) {
                most = most.max(news);
                whom.push(slot);
            }
        }
        if whom.is_empty() {
            return;
        }
        if destination.choice == Choice::Held {
            most = News::Urgent;
        }
        let delay = most.delay(&mut self.rng);
        let at = self.restless.schedule(prefix, delay, now);
        for slot in whom {
            if let Some(link) = self.links.get_mut(slot) {
                link.outbox.update(prefix, at);
            }
        }
    }

    /// Whether the origin has begun a new epoch between two of its seqnos. Neighbours that know it refuse what is from long before.
    fn is_of_another_epoch(&self, told: &Announced, now: &Announced) -> bool {
        let epoch = |it: &Announced| {
            let shown = self.origins.needed(it.router_id, it.seqno, it.metric);
            shown.map(|shown| shown.epoch())
        };
        told.seqno != now.seqno && epoch(told) != epoch(now)
    }

    /// Writes what is to be said to a neighbour about a destination, if there is anything, and notes that it was said.
    pub(super) fn compose(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        say: Say,
    ) -> Option<(Update, Word)> {
        let link = self.links.get(slot)?;
        let (local, interval) = (link.config.local, link.update_interval());
        let needs_proof = matches!(link.config.peer, Peer::Meshd { .. });
        let expires = self
            .clock
            .tick()
            .after((link.config.update * MEMORY).max(LEAST_MEMORY));
        let echoes = match say {
            Say::Answer => Echoes::Allowed,
            Say::Change | Say::Again | Say::Anew => Echoes::Suppressed,
        };
        let destination = self.table.find(prefix);
        let desired = destination.and_then(|it| self.desired(it, slot, echoes));
        let exchange = destination.and_then(|it| it.exchange(slot));
        let is_unsure = exchange.is_some_and(|exchange| exchange.is_unsure);
        let told = destination.and_then(|destination| told(destination, slot));
        let proof = match desired {
            Some(desired) if needs_proof => {
                let may_have_forgotten = is_unsure || say == Say::Answer;
                let shown = told.filter(|_| !may_have_forgotten);
                self.proof(shown.as_ref(), &desired)
            }
            Some(_) | None => Ok(None),
        };
        let update = Update {
            prefix: Some(prefix),
            router_id: None,
            next_hop: local,
            interval: Some(interval),
            seqno: Seqno(0),
            metric: Metric::INFINITY,
            proof: None,
        };
        match (desired, proof) {
            (Some(desired), Ok(proof)) => {
                let is_news = told != Some(desired);
                if say == Say::Change && !is_news && !is_unsure {
                    return None;
                }
                self.table
                    .find_mut(prefix)?
                    .tell(slot, &desired, expires)
                    .then_some(())?;
                self.sweep = self.sweep.min(expires);
                let update = Update {
                    router_id: Some(desired.router_id),
                    seqno: desired.seqno,
                    metric: desired.metric,
                    proof,
                    ..update
                };
                Some((update, Word::Route))
            }
            (None, _) | (Some(_), Err(Unprovable)) => {
                let may_rely = exchange.is_some_and(|exchange| exchange.may_rely);
                let is_to_say = match say {
                    Say::Answer => true,
                    Say::Change => told.is_some() || is_unsure && may_rely,
                    Say::Again => false,
                    Say::Anew => destination.is_some_and(Destination::was_announced),
                };
                if !is_to_say {
                    return None;
                }
                if let Some(exchange) = self
                    .table
                    .find_mut(prefix)
                    .and_then(|destination| destination.exchange_mut(slot))
                {
                    exchange.tell_retraction();
                }
                Some((update, Word::Retraction))
            }
        }
    }

    /// The proof that goes with a route, unless the neighbour has been `shown` as much.
    fn proof(
        &self,
        shown: Option<&Announced>,
        now: &Announced,
    ) -> Result<Option<[u8; PROOF_LEN]>, Unprovable> {
        let needed = |it: &Announced| self.origins.needed(it.router_id, it.seqno, it.metric);
        let is_shown = shown
            .filter(|shown| shown.router_id == now.router_id)
            .and_then(needed)
            .zip(needed(now))
            .is_some_and(|(shown, needed)| shown.implies(&needed));
        if is_shown {
            return Ok(None);
        }
        self.origins
            .proof(now.router_id, now.seqno, now.metric)
            .map(|proof: Proof| Some(proof.encode()))
            .ok_or(Unprovable)
    }

    /// What was said to a neighbour about destinations may not have arrived.
    pub(super) fn doubt_told(&mut self, slot: Slot, updates: &[(Ipv6Network, Word)]) {
        for &(prefix, _) in updates {
            if let Some(exchange) = self
                .table
                .find_mut(prefix)
                .and_then(|destination| destination.exchange_mut(slot))
            {
                exchange.is_unsure = true;
            }
        }
    }
}

/// What makes us speak of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Something may have changed: if not, nothing is said.
    Change,
    /// The neighbour has asked: something is said in any case, and proven.
    Answer,
    /// The neighbour is told again what it knows.
    Again,
    /// The neighbour is told everything, for nobody knows what it knows: routes, and the end of those that were announced lately.
    Anew,
}

/// The origin has moved on, so that the route cannot be proven any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unprovable;

/// What the neighbour on a link was told last about a destination.
fn told(destination: &Destination, slot: Slot) -> Option<Announced> {
    destination
        .exchange(slot)
        .and_then(|exchange: &Exchange| destination.told(exchange))
}

/// Whether a neighbour is going to be told everything anyway, and has not come to this destination.
fn is_about_to_hear(link: &Link, prefix: Ipv6Network) -> bool {
    link.outbox.will_tell_all_after(prefix)
}
