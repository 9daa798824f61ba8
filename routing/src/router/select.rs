//! Which route is selected for a destination (RFC 8966 §3.6), and what follows from it.

use std::time::Duration;

use ipnetwork::Ipv6Network;

use super::Router;
use crate::event::{Event, FibAction, FibOp, Hop, Why};
use crate::feedback::Verdict;
use crate::link::{Ask, SeqnoWanted};
use crate::request;
use crate::route::{Choice, Destination, Exchange, Slot, Trust};
use crate::types::{Metric, RouterId};

/// What a route through a plain Babel router costs more.
const LEGACY_SURCHARGE: Metric = Metric(1_000);
/// A better route that has not been better for long enough is looked at again after so long.
const LATER: Duration = Duration::from_millis(500);

/// A route that is somewhat better for so long is worth a newer seqno.
const LASTING: Duration = Duration::from_secs(2);

/// How much better a route has to be to be worth a newer seqno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    AtOnce,
    Lasting,
}

/// A route that could be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    slot: Slot,
    trust: Trust,
    metric: Metric,
    /// The metric, smoothed.
    smoothed: Metric,
}

/// Whether to leave the selected route for a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    Stay,
    Leave,
    /// If it stays better.
    Later,
}

impl Candidate {
    /// Compares the best route with the selected one.
    fn against(&self, selected: &Self) -> Advice {
        let is_much_better = u32::from(self.metric.0) * 4 <= u32::from(selected.metric.0) * 3;
        if self.slot == selected.slot {
            Advice::Stay
        } else if self.trust < selected.trust {
            Advice::Leave
        } else if self.metric >= selected.metric {
            Advice::Stay
        } else if is_much_better || self.smoothed < selected.smoothed {
            Advice::Leave
        } else {
            Advice::Later
        }
    }
}

impl Router {
    /// Selects a route for a destination, and does what follows.
    pub(super) fn reselect(&mut self, prefix: Ipv6Network) {
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let before = destination.choice;
        let from = self.hop(destination);
        let lost = destination
            .selected()
            .and_then(|selected| destination.source(selected))
            .map(|source| source.router_id);
        let choice = self.choose(prefix);
        if choice != before {
            self.carry_out(prefix, before, choice, from);
        }
        match choice {
            Choice::Via(_) => {
                self.satisfy(prefix);
                self.covet(prefix);
            }
            Choice::Held | Choice::Nothing => self.seek(prefix, lost, before),
            Choice::Own => self.requests.content(prefix, None),
        }
        self.tell_change(prefix);
        self.forget_if_idle(prefix);
    }

    /// Begins to select routes, if it is time.
    pub(super) fn wake_up(&mut self) {
        let now = self.clock.now();
        let mut links = self
            .links
            .iter()
            .map(|(_, link)| link.is_noticed)
            .peekable();
        let all_know =
            !self.awaits_links && links.peek().is_some() && links.all(|is_noticed| is_noticed);
        if self.asleep.is_some_and(|until| all_know || until <= now) {
            self.asleep = None;
            self.dirty
                .extend(self.table.iter().map(Destination::prefix));
        }
    }

    /// Decides what becomes of a destination.
    fn choose(&mut self, prefix: Ipv6Network) -> Choice {
        self.deferred.remove(&prefix);
        if self.own.contains_key(&prefix) {
            return Choice::Own;
        }
        let Some(destination) = self.table.find(prefix) else {
            return Choice::Nothing;
        };
        let candidates = || {
            destination
                .exchanges()
                .iter()
                .filter_map(|exchange| self.candidate(destination, exchange))
        };
        let best = candidates()
            .filter(|_| self.asleep.is_none())
            //= RFC 8966 §3.6 seqno
            .min_by_key(|it| (it.trust, it.metric, it.slot));
        let selected = candidates().find(|it| destination.choice == Choice::Via(it.slot));
        match (best, selected) {
            (Some(best), None) => Choice::Via(best.slot),
            (Some(best), Some(selected)) => {
                let now = self.clock.now();
                let again = match best.against(&selected) {
                    Advice::Stay => return Choice::Via(selected.slot),
                    Advice::Leave => match self.restless.until(prefix, now) {
                        None => return Choice::Via(best.slot),
                        Some(until) => until,
                    },
                    Advice::Later => now + LATER,
                };
                self.deferred.insert(prefix, again);
                Choice::Via(selected.slot)
            }
            (None, _) => {
                let was_there = destination.choice != Choice::Nothing;
                let may_rely = destination.exchanges().iter().any(|it| it.may_rely);
                if was_there && may_rely {
                    Choice::Held
                } else {
                    Choice::Nothing
                }
            }
        }
    }

    /// A route as a candidate, if it may be used and its link can be.
    fn candidate(&self, destination: &Destination, exchange: &Exchange) -> Option<Candidate> {
        //= RFC 8966 §3.6 feasible
        if !destination.may_use(exchange) {
            return None;
        }
        let metric = self.metric(destination, exchange);
        let extra = metric.0 - exchange.metric.0;
        let smoothed = exchange.smoothed(self.clock.tick());
        //= RFC 8966 §3.6 finite
        metric.is_finite().then_some(Candidate {
            slot: exchange.slot,
            trust: exchange.trust,
            metric,
            smoothed: smoothed + Metric(extra),
        })
    }

    /// How far it is by a route, as others are told: what the neighbour announced, and the link. Always more than announced.
    pub(super) fn distance(&self, exchange: &Exchange) -> Metric {
        let link = self.links.cost(exchange.slot);
        let surcharge = match exchange.trust {
            Trust::Legacy => LEGACY_SURCHARGE,
            Trust::Proven | Trust::Stub => Metric::ZERO,
        };
        //= RFC 8966 §3.5.2 infinite
        //= RFC 8966 §3.5.2 monotonic
        exchange.metric + link + surcharge
    }

    /// The same with what speaks against the route, which is ours to know: were it passed on, a few nodes in a row that have each found
    /// a destination silent would make it unreachable for those behind them. A route is never lost for that alone.
    pub(super) fn metric(&self, destination: &Destination, exchange: &Exchange) -> Metric {
        let distance = self.distance(exchange);
        if !exchange.is_penalised || !distance.is_finite() {
            return distance;
        }
        let now = self.clock.now();
        let penalty = self
            .feedback
            .penalty(destination.prefix(), exchange.slot, now);
        Metric(distance.0.saturating_add(penalty).min(u16::MAX - 1))
    }

    /// The selected route, as others see it.
    pub(super) fn hop(&self, destination: &Destination) -> Option<Hop> {
        let exchange = destination.selected()?;
        let (link, next_hop) = self.next_hop(exchange.slot)?;
        Some(Hop {
            link,
            next_hop,
            metric: self.metric(destination, exchange),
            router_id: destination.source(exchange)?.router_id,
            seqno: exchange.seqno,
        })
    }

    /// Another choice was made for a destination.
    fn carry_out(
        &mut self,
        prefix: Ipv6Network,
        before: Choice,
        choice: Choice,
        from: Option<Hop>,
    ) {
        let Some(destination) = self.table.find_mut(prefix) else {
            return;
        };
        destination.choice = choice;
        let action = match choice {
            Choice::Via(slot) => self
                .next_hop(slot)
                .map(|(link, next_hop)| FibAction::Via { link, next_hop }),
            Choice::Held => Some(FibAction::Unreachable),
            Choice::Nothing | Choice::Own => match before {
                Choice::Via(_) | Choice::Held => Some(FibAction::Remove),
                Choice::Nothing | Choice::Own => None,
            },
        };
        self.fib
            .extend(action.map(|action| FibOp { prefix, action }));
        self.held.remove(&prefix);
        if choice == Choice::Held {
            let longest = self.links.iter().map(|(_, link)| link.config.update).max();
            let until = self.clock.now() + longest.unwrap_or_default() * 7 / 2;
            self.held.insert(prefix, until);
        }
        let to = self.table.find(prefix).and_then(|it| self.hop(it));
        let why = match (before, choice) {
            (Choice::Via(_), Choice::Via(_)) => self.why(prefix, before),
            (Choice::Via(_), _) => Why::Lost,
            (_, Choice::Via(_)) => Why::New,
            (_, _) => return,
        };
        self.events.push_back(Event::Route {
            prefix,
            from,
            to,
            why,
        });
    }

    /// Whether a route was left for a better one, or because it cannot be used.
    fn why(&self, prefix: Ipv6Network, before: Choice) -> Why {
        let Some(destination) = self.table.find(prefix) else {
            return Why::Lost;
        };
        let mut exchanges = destination.exchanges().iter();
        let is_there = exchanges
            .any(|it| before == Choice::Via(it.slot) && self.candidate(destination, it).is_some());
        if is_there { Why::Better } else { Why::Lost }
    }

    /// A route is selected: whoever asked for it hears of it, if it is what they asked for.
    fn satisfy(&mut self, prefix: Ipv6Network) {
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let (Choice::Via(slot), Some(hop)) = (destination.choice, self.hop(destination)) else {
            return;
        };
        self.requests.content(prefix, Some(slot));
        let mut askers = self.requests.answer((prefix, hop.router_id), hop.seqno);
        askers.extend(self.requests.answer_others(prefix, hop.router_id));
        for asker in askers {
            self.answer(asker, prefix);
        }
    }

    /// The neighbours whose routes are not feasible, and whose metric would be below `limit`.
    fn coveted(&self, destination: &Destination, limit: Metric) -> Vec<(Slot, RouterId)> {
        let rank = destination.selected().map(|selected| selected.trust);
        destination
            .exchanges()
            .iter()
            .filter(|exchange| exchange.is_route() && !destination.may_use(exchange))
            .filter(|exchange| rank.is_none_or(|rank| exchange.trust <= rank))
            .filter(|exchange| self.metric(destination, exchange) < limit)
            .filter_map(|exchange| Some((exchange.slot, destination.source(exchange)?.router_id)))
            .collect()
    }

    /// The metric below which a route that is not feasible is worth asking for a newer seqno: any, if there is no other; by a quarter
    /// less than the selected one's; or by a sixteenth, if it stays like that.
    fn desire(&self, destination: &Destination, patience: Patience) -> Metric {
        destination.selected().map_or(Metric::INFINITY, |selected| {
            let metric = self.metric(destination, selected).0;
            Metric(match patience {
                Patience::AtOnce => metric - metric / 4,
                Patience::Lasting => metric - metric / 16,
            })
        })
    }

    /// Asks for newer seqnos of routes that would be better than the selected one.
    fn covet(&mut self, prefix: Ipv6Network) {
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let much = self.desire(destination, Patience::AtOnce);
        let somewhat = self.desire(destination, Patience::Lasting);
        let lasts = |exchange: Option<&Exchange>| {
            exchange.is_some_and(|exchange| tick.since(exchange.changed) >= LASTING)
        };
        let mut to_ask = self.coveted(destination, much);
        for (slot, router_id) in self.coveted(destination, somewhat) {
            if lasts(destination.exchange(slot)) && lasts(destination.selected()) {
                to_ask.push((slot, router_id));
            } else {
                self.deferred.insert(prefix, now + LASTING);
            }
        }
        for (slot, router_id) in to_ask {
            self.want(prefix, router_id, request::Why::Better, slot);
        }
    }

    /// There is no route: whoever might help is asked.
    fn seek(&mut self, prefix: Ipv6Network, lost: Option<RouterId>, before: Choice) {
        let Some(destination) = self.table.find(prefix) else {
            return;
        };
        let coveted = self.coveted(destination, Metric::INFINITY);
        // Neighbours that had the route from us, and have told us nothing, may have another one.
        let mut silent: Vec<Slot> = Vec::new();
        let mut next = None;
        if let Choice::Via(lost_slot) = before {
            next = lost.and_then(|lost| Some((lost, destination.source_of(lost)?.next_seqno()?)));
            let had_it = destination
                .exchanges()
                .iter()
                .filter(|exchange| !exchange.is_route() && exchange.is_told())
                .map(|exchange| exchange.slot);
            silent.extend(had_it.filter(|&slot| slot != lost_slot));
        }
        for (slot, router_id) in coveted {
            //= RFC 8966 §3.8.2.1 starving
            //= RFC 8966 §3.8.2.1 along
            self.want(prefix, router_id, request::Why::Starving, slot);
        }
        if let Some((router_id, seqno)) = next {
            for slot in silent {
                self.request_seqno(prefix, router_id, seqno, slot);
            }
        }
    }

    /// Forgets a destination that nothing is left of.
    pub(super) fn forget_if_idle(&mut self, prefix: Ipv6Network) {
        let tick = self.clock.tick();
        let Some(destination) = self.table.find_mut(prefix) else {
            return;
        };
        destination.tidy(tick);
        if !destination.is_idle() {
            return;
        }
        let charged = destination.charged;
        self.table.remove(prefix);
        if let Some(link) = charged.and_then(|slot| self.links.get_mut(slot)) {
            link.quota.destinations -= 1;
        }
        if let Some(router_id) = self.origins.holder(prefix) {
            self.origins.forget(router_id);
        }
    }

    /// Takes note of what the ends of a session say.
    pub(super) fn weigh(&mut self, prefix: Ipv6Network, slot: Slot, verdict: Verdict) {
        let now = self.clock.now();
        for (slot, verdict) in self.feedback.note(prefix, slot, verdict, now) {
            let Some(link) = self.links.get_mut(slot) else {
                continue;
            };
            let before = link.cost();
            let has_failed = verdict == Verdict::Failed;
            if let Some(until) = link.standing.note(prefix, has_failed, now) {
                let link = link.id;
                self.events.push_back(Event::Quarantined { link, until });
            }
            self.reassess(slot);
            if self.links.cost(slot) != before {
                self.mark(slot);
            }
        }
        let is_penalised = verdict == Verdict::Failed;
        if let Some(exchange) = self
            .table
            .find_mut(prefix)
            .and_then(|destination| destination.exchange_mut(slot))
        {
            exchange.is_penalised = is_penalised;
            self.dirty.push(prefix);
        }
    }

    /// Asks every neighbour that is still there for all it has: something was refused for now.
    pub(super) fn ask_for_everything(&mut self, slot: Slot) {
        let now = self.clock.now();
        if let Some(link) = self.links.get_mut(slot) {
            link.outbox.ask(Ask::Everything, SeqnoWanted::NONE, now);
        }
    }

    /// A request of ours was not answered in time: asks again whoever may know.
    pub(super) fn tend_requests(&mut self) {
        let now = self.clock.now();
        for ((prefix, router_id), seqno, turn) in self.requests.poll(now) {
            let Some(destination) = self.table.find(prefix) else {
                self.requests.abandon((prefix, router_id));
                continue;
            };
            match turn {
                request::Turn::GiveUp(slot) => {
                    if destination.choice == Choice::Via(slot) {
                        self.end_route(slot, prefix);
                    }
                }
                request::Turn::AgainFrom(slot) => {
                    self.request_seqno(prefix, router_id, seqno, slot);
                }
                request::Turn::Again => {
                    let limit = self.desire(destination, Patience::Lasting);
                    let candidates: Vec<Slot> = self
                        .coveted(destination, limit)
                        .into_iter()
                        .filter(|&(_, other)| other == router_id)
                        .map(|(slot, _)| slot)
                        .collect();
                    if candidates.is_empty() {
                        self.requests.abandon((prefix, router_id));
                    }
                    for slot in candidates {
                        self.request_seqno(prefix, router_id, seqno, slot);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(slot: usize, metric: u16, smoothed: u16) -> Candidate {
        Candidate {
            slot: Slot::at(slot).unwrap(),
            trust: Trust::Proven,
            metric: Metric(metric),
            smoothed: Metric(smoothed),
        }
    }

    #[test]
    fn a_little_better_has_to_be_so_for_a_while_and_much_better_does_not() {
        let selected = candidate(0, 400, 390);
        for (metric, smoothed, verdict) in [
            (400, 100, Advice::Stay),
            (399, 391, Advice::Later),
            (399, 389, Advice::Leave),
            (301, 60_000, Advice::Later),
            (300, 60_000, Advice::Leave),
        ] {
            let best = candidate(1, metric, smoothed);
            assert_eq!(best.against(&selected), verdict, "{metric} {smoothed}");
        }
    }

    #[test]
    fn a_new_route_that_is_a_little_better_is_taken_at_once() {
        assert_eq!(
            candidate(1, 399, 399).against(&candidate(0, 400, 400)),
            Advice::Leave
        );
    }

    #[test]
    fn what_is_proven_goes_before_what_is_not_whatever_the_metric() {
        let legacy = Candidate {
            trust: Trust::Legacy,
            ..candidate(0, 96, 96)
        };
        let proven = candidate(1, 60_000, 60_000);
        assert_eq!(proven.against(&legacy), Advice::Leave);
    }
}
