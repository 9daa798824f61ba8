//! What neighbours announce, from the packet to the tables: who may announce it, and whether it is feasible. Whether it is proven is
//! in `prove.rs`.

use std::time::Duration;

use ipnetwork::Ipv6Network;

use super::Router;
use crate::config::Peer;
use crate::discard::Reason;
use crate::link::{Ask, SeqnoWanted};
use crate::request::{self, HOP_COUNT};
use crate::route::{Choice, Destination, Exchange, Heard, Slot, Trust};
use crate::types::{RouterId, Seqno};
use crate::update::News;
use crate::wire::Update;

/// The longest interval between two updates: what is not repeated at all lasts as long.
const LONGEST: Duration = Duration::from_millis(655_350);
/// How long a route lasts without an update, in intervals (RFC 8966 Appendix B).
const HOLD: (u32, u32) = (7, 2);

impl Router {
    pub(super) fn heed_update(&mut self, slot: Slot, update: Update) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let rate = link.config.limits.updates;
        if !link.allows(|quota| &mut quota.updates, rate, now) {
            link.discards.note(Reason::UpdateLimit);
            link.refuse_for_now(now);
            return;
        }
        match (update.prefix, update.router_id) {
            (None, _) => self.retract_all(slot),
            (Some(prefix), Some(router_id)) if update.metric.is_finite() => {
                match self.admit(slot, prefix, router_id) {
                    Ok(Trust::Proven) => self.prove(slot, prefix, router_id, update),
                    Ok(trust) => self.adopt(slot, prefix, router_id, &update, trust),
                    Err(reason) => self.discard(slot, reason),
                }
            }
            (Some(prefix), _) => self.retract(slot, prefix),
        }
    }

    /// On whose word a neighbour may announce a prefix.
    fn admit(&self, slot: Slot, prefix: Ipv6Network, router_id: RouterId) -> Result<Trust, Reason> {
        let Some(link) = self.links.get(slot) else {
            return Err(Reason::UnknownLink);
        };
        let overlay = self.config.overlay;
        let is_refused = self.config.refused.iter().any(|it| it.overlaps(prefix));
        let is_node = overlay.is_supernet_of(prefix) && prefix.prefix() == 64;
        let allowed = |list: &[Ipv6Network]| list.iter().any(|it| it.is_supernet_of(prefix));
        let trust = match &link.config.peer {
            Peer::Meshd { .. } if is_node => Trust::Proven,
            Peer::Stub { prefixes } if allowed(prefixes) => Trust::Stub,
            Peer::Legacy { allow } if allowed(allow) && (is_node || !overlay.overlaps(prefix)) => {
                Trust::Legacy
            }
            Peer::Meshd { .. } | Peer::Stub { .. } | Peer::Legacy { .. } => {
                return Err(Reason::PrefixRefused);
            }
        };
        if is_refused {
            return Err(Reason::PrefixRefused);
        }
        let is_ours = self.own.contains_key(&prefix) || self.is_own(router_id);
        // What claims to be proven is looked at all the same: it may tell that somebody else uses our key.
        if is_ours && trust != Trust::Proven {
            return Err(Reason::Own);
        }
        Ok(trust)
    }

    pub(super) fn is_own(&self, router_id: RouterId) -> bool {
        router_id == self.origins.own().owner().router_id
    }

    /// A route that may be used, if it is feasible: into the table with it.
    pub(super) fn adopt(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        router_id: RouterId,
        update: &Update,
        trust: Trust,
    ) {
        let interval = update
            .interval
            .map_or(LONGEST, |interval| interval.duration());
        let heard = Heard {
            router_id,
            seqno: update.seqno,
            metric: update.metric,
            trust,
            hold: interval * HOLD.0 / HOLD.1,
        };
        let known = self.table.find(prefix);
        let is_feasible =
            known.is_none_or(|it| it.is_feasible(router_id, update.seqno, update.metric));
        let is_route = known.is_some_and(|it| it.exchange(slot).is_some_and(Exchange::is_route));
        if !is_feasible && trust == Trust::Proven {
            self.show_if_behind(slot, router_id, update);
        }
        let known = self.table.find(prefix);
        if !is_feasible && known.is_some_and(|known| self.is_to_ignore(known, slot, &heard)) {
            self.discard(slot, Reason::Unfeasible);
            self.want(prefix, router_id, request::Why::Doubt(slot), slot);
            return;
        }
        if let Err(reason) = self.charge(slot, prefix, is_route) {
            self.discard(slot, reason);
            return;
        }
        let tick = self.clock.tick();
        let Some(destination) = self.table.find_mut(prefix) else {
            return;
        };
        let Some(is_changed) = destination.hear(slot, &heard, tick) else {
            self.discard(slot, Reason::SourceLimit);
            return;
        };
        if let Some(exchange) = destination.exchange(slot) {
            self.sweep = self.sweep.min(exchange.ask_at());
        }
        if !is_route && let Some(link) = self.links.get_mut(slot) {
            link.quota.routes += 1;
        }
        if is_changed {
            self.dirty.push(prefix);
        }
        if is_feasible {
            self.requests.resolve(prefix, slot);
        }
    }

    /// Whether an unfeasible announcement of the selected route is better ignored for now: there is nothing else to go by, and what it
    /// replaces is still free of loops. A newer seqno will tell.
    fn is_to_ignore(&self, destination: &Destination, slot: Slot, heard: &Heard) -> bool {
        //= RFC 8966 §3.5.3 unselect
        let is_selected = destination.choice == Choice::Via(slot);
        let is_same_origin = destination
            .selected()
            .and_then(|selected| destination.source(selected))
            .is_some_and(|source| source.router_id == heard.router_id);
        let metric = heard.metric + self.links.cost(slot);
        let has_other = destination.exchanges().iter().any(|exchange| {
            exchange.slot != slot
                && destination.may_use(exchange)
                && self.metric(destination, exchange) <= metric
                && self.metric(destination, exchange).is_finite()
        });
        is_selected && is_same_origin && !has_other
    }

    /// Whether a neighbour may bring one more route; a new destination is made room for.
    fn charge(&mut self, slot: Slot, prefix: Ipv6Network, is_route: bool) -> Result<(), Reason> {
        let now = self.clock.now();
        let (is_known, count) = (self.table.find(prefix).is_some(), self.table.len());
        let Some(link) = self.links.get_mut(slot) else {
            return Err(Reason::UnknownLink);
        };
        let limits = link.config.limits;
        if !is_route && link.quota.routes >= limits.routes {
            return Err(Reason::RouteLimit);
        }
        if is_known {
            return Ok(());
        }
        let has_room = count < self.config.most_destinations
            && link.quota.destinations < limits.destinations
            && link.allows(
                |quota| &mut quota.new_destinations,
                limits.new_destinations,
                now,
            );
        if !has_room {
            link.refuse(now);
            return Err(Reason::DestinationLimit);
        }
        link.quota.destinations += 1;
        self.table.find_or_insert(prefix).charged = Some(slot);
        Ok(())
    }

    /// The neighbour's route cannot be proven any more: the origin has moved on.
    pub(super) fn want_newer(&mut self, slot: Slot, prefix: Ipv6Network, router_id: RouterId) {
        let is_selected = self
            .table
            .find(prefix)
            .is_some_and(|destination| destination.choice == Choice::Via(slot));
        if is_selected {
            self.want(prefix, router_id, request::Why::Doubt(slot), slot);
        }
    }

    /// Asks a neighbour for a newer seqno, unless it has been asked.
    pub(super) fn want(
        &mut self,
        prefix: Ipv6Network,
        router_id: RouterId,
        why: request::Why,
        slot: Slot,
    ) {
        let now = self.clock.now();
        let seqno = self
            .table
            .find(prefix)
            .and_then(|destination| destination.source_of(router_id)?.next_seqno());
        let Some(seqno) = seqno else {
            return;
        };
        if self
            .requests
            .want((prefix, router_id), seqno, why, slot, now)
        {
            self.request_seqno(prefix, router_id, seqno, slot);
        }
    }

    /// Asks a neighbour for a newer seqno.
    pub(super) fn request_seqno(
        &mut self,
        prefix: Ipv6Network,
        router_id: RouterId,
        seqno: Seqno,
        slot: Slot,
    ) {
        let at = self.clock.now() + News::Urgent.delay(&mut self.rng);
        if let Some(link) = self.links.get_mut(slot).filter(|link| link.is_up()) {
            let wanted = SeqnoWanted {
                seqno,
                hop_count: HOP_COUNT,
            };
            link.outbox.ask(Ask::Seqno(prefix, router_id), wanted, at);
        }
    }

    /// A neighbour retracts its route.
    fn retract(&mut self, slot: Slot, prefix: Ipv6Network) {
        if let Some(link) = self.links.get_mut(slot) {
            link.parked.remove(&prefix);
        }
        if !self.end_route(slot, prefix) {
            self.discard(slot, Reason::UnknownRoute);
        }
    }

    /// Ends a neighbour's route, if there is one.
    pub(super) fn end_route(&mut self, slot: Slot, prefix: Ipv6Network) -> bool {
        let tick = self.clock.tick();
        let ended = self
            .table
            .find_mut(prefix)
            .and_then(|destination| destination.exchange_mut(slot))
            .filter(|exchange| exchange.is_route());
        let Some(exchange) = ended else {
            return false;
        };
        exchange.retract(tick);
        self.sweep = self.sweep.min(exchange.expires);
        if let Some(link) = self.links.get_mut(slot) {
            link.quota.routes -= 1;
        }
        self.dirty.push(prefix);
        true
    }

    /// A neighbour retracts all its routes. It says so in what it greets with, which may have been overtaken by what it has announced since.
    fn retract_all(&mut self, slot: Slot) {
        let now = self.clock.now();
        if let Some(link) = self.links.get_mut(slot) {
            if !link.parked.is_empty() || link.quota.routes > 0 {
                link.doubt_retraction(now);
            }
            link.parked.clear();
        }
        let has_route =
            |destination: &&Destination| destination.exchange(slot).is_some_and(Exchange::is_route);
        let prefixes: Vec<_> = self
            .table
            .iter()
            .filter(has_route)
            .map(Destination::prefix)
            .collect();
        for prefix in prefixes {
            self.end_route(slot, prefix);
        }
    }
}
