//! What time brings.

use std::time::Duration;

use super::Router;
use crate::clock::{Deadline, Tick};
use crate::event::{Event, NeighbourState};
use crate::link::DumpKind;
use crate::neighbour::Turn;
use crate::route::{Choice, Slot};
use crate::types::Metric;

/// The table is not searched for what has expired more often than this.
const SWEEP: Duration = Duration::from_millis(500);
/// A verification that has not come back after so long is not waited for.
const JOB: Duration = Duration::from_secs(30);

impl Router {
    /// Does what is due on a link.
    pub(super) fn tend(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        if link.deadline(now).earliest().is_none_or(|(at, _)| now < at) {
            return;
        }
        link.expire(now);
        //= RFC 8966 §3.7.1 periodic
        if link.is_up() && link.refresh <= now {
            let interval = link.config.update;
            link.refresh = now + self.rng.between(interval * 9 / 10, interval);
            link.outbox.dump(DumpKind::Refresh, now);
        }
        if link.redump.take_if(|at| *at <= now).is_some() && link.is_up() {
            link.dump(now);
        }
        let is_to_resync = link.resync.take_if(|at| *at <= now).is_some();
        if link.neighbour.as_ref().is_some_and(|it| it.is_gone()) {
            self.drop_neighbour(slot);
        }
        if is_to_resync {
            self.ask_for_everything(slot);
        }
        self.tend_parked(slot);
        self.tend_flights(slot);
        self.watch(slot);
        self.reassess(slot);
    }

    /// Asks a neighbour that is in doubt, or gives it up.
    pub(super) fn watch(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        match link.neighbour.as_mut().and_then(|it| it.poll(now)) {
            Some(Turn::Ask) => self.question(slot),
            Some(Turn::GivenUp) => self.reassess(slot),
            None => {}
        }
    }

    /// Tells the caller that a neighbour is in doubt now, or is no more.
    pub(super) fn report_doubt(&mut self, slot: Slot) {
        let link = self.links.get(slot);
        if link.is_some_and(|link| link.is_up() && link.is_suspect() != link.told_suspect) {
            self.report(slot);
        }
    }

    /// Sends again what was not acknowledged, and doubts the neighbour for it.
    fn tend_flights(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        if link.is_suspect() {
            // It is being asked; if it answers, all is sent again.
            return;
        }
        let lost = link.outbox.take_unacknowledged(now);
        if lost.is_empty() {
            return;
        }
        let was_first = lost.iter().any(|cargo| cargo.copies == 1);
        if let Some(neighbour) = link.neighbour.as_mut().filter(|_| was_first) {
            neighbour
                .liveness
                .doubt(crate::neighbour::Doubt::Unanswered, now);
        }
        for cargo in lost {
            if let Some(link) = self.links.get_mut(slot)
                && !link.outbox.again(&cargo, now)
            {
                // It answers, but not this: the whole table will tell it, later.
                link.dump_later(now);
            }
            self.doubt_told(slot, &cargo.updates);
        }
    }

    /// Looks again at destinations whose time has come, and lets pass what has expired.
    pub(super) fn tend_destinations(&mut self) {
        let now = self.clock.now();
        self.wake_up();
        self.dirty.extend(self.deferred.take_due(now));
        for prefix in self.held.take_due(now) {
            if let Some(destination) = self.table.find_mut(prefix) {
                for exchange in destination.exchanges_mut() {
                    exchange.may_rely = false;
                }
            }
            self.dirty.push(prefix);
        }
        self.jobs
            .retain(|_, waiting| now.saturating_duration_since(waiting.since) < JOB);
        if self.sweep <= self.clock.tick() {
            self.sweep();
        }
    }

    /// Searches the table for what has expired.
    fn sweep(&mut self) {
        let (before, tick) = (self.swept, self.clock.tick());
        let (mut ended, mut over, mut fading) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Tick::NEVER;
        for destination in self.table.iter() {
            let prefix = destination.prefix();
            for exchange in destination.exchanges() {
                let slot = exchange.slot;
                if exchange.expires <= tick {
                    if exchange.is_route() {
                        ended.push((slot, prefix));
                    } else {
                        over.push((slot, prefix));
                    }
                    continue;
                }
                next = next.min(exchange.expires);
                if destination.choice == Choice::Via(slot) {
                    let ask_at = exchange.ask_at();
                    if before < ask_at && ask_at <= tick {
                        fading.push((slot, prefix));
                    } else if ask_at > tick {
                        next = next.min(ask_at);
                    }
                }
            }
            for source in destination.sources() {
                if source.expires() <= tick {
                    self.dirty.push(prefix);
                } else {
                    next = next.min(source.expires());
                }
            }
        }
        self.swept = tick;
        self.sweep = next.max(tick.after(SWEEP));
        for (slot, prefix) in fading {
            self.ask_for_route(slot, prefix);
        }
        for (slot, prefix) in over {
            if let Some(destination) = self.table.find_mut(prefix) {
                destination.forget_heard(slot);
            }
            self.dirty.push(prefix);
        }
        for (slot, prefix) in ended {
            self.end_route(slot, prefix);
        }
    }

    /// Lets penalties ease.
    pub(super) fn tend_feedback(&mut self) {
        let (before, now) = (self.eased, self.clock.now());
        self.eased = now;
        for (prefix, slot) in self.feedback.eased(before, now) {
            let is_penalised = self.feedback.penalty(prefix, slot, now) > 0;
            if let Some(exchange) = self
                .table
                .find_mut(prefix)
                .and_then(|destination| destination.exchange_mut(slot))
            {
                exchange.is_penalised = is_penalised;
            }
            self.dirty.push(prefix);
        }
    }

    /// Tells the caller what is thought of a neighbour.
    pub(super) fn report(&mut self, slot: Slot) {
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        link.told_suspect = link.is_suspect();
        let Some(neighbour) = &link.neighbour else {
            return;
        };
        self.events.push_back(Event::Neighbour {
            link: link.id,
            address: neighbour.address,
            state: link.state(),
            cost: link.cost(),
            rtt: neighbour.round_trip.mean(),
        });
    }

    /// Tells the caller that a neighbour is gone.
    pub(super) fn report_down(&mut self, slot: Slot, address: std::net::Ipv6Addr) {
        let Some(link) = self.links.get(slot) else {
            return;
        };
        self.events.push_back(Event::Neighbour {
            link: link.id,
            address,
            state: NeighbourState::Down,
            cost: Metric::INFINITY,
            rtt: None,
        });
    }

    /// When something is due, and what.
    pub(super) fn deadline(&self) -> Deadline {
        let now = self.clock.now();
        let mut deadline = Deadline::default();
        for (_, link) in self.links.iter() {
            deadline.merge(link.deadline(now));
        }
        deadline.at(self.requests.deadline(), "request again");
        deadline.at(self.deferred.deadline(), "selection");
        deadline.at(self.held.deadline(), "hold ends");
        deadline.at(self.clock.instant(self.sweep), "expiry");
        deadline.merge(self.feedback.deadline(now));
        deadline.at(self.renew, "new epoch");
        deadline.at(self.asleep, "first selection");
        if self.owed.is_some() {
            let next = self
                .seqno_buckets
                .iter()
                .zip(super::SEQNOS)
                .map(|(bucket, rate)| bucket.next(rate, now))
                .max();
            deadline.at(next, "new seqno");
        }
        deadline
    }
}
