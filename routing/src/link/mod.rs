//! A link: a Babel interface (RFC 8966 §3.2.3) with the one neighbour at its other end.

mod outbox;
mod schedule;
mod standing;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::bucket::{Bucket, Rate};
use crate::clock::Deadline;
use crate::config::LinkConfig;
use crate::cost::{SteadyCost, link_cost, rxcost};
use crate::discard::Discards;
use crate::neighbour::{Neighbour, Patience};
use crate::rng::Rng;
use crate::route::Slot;
use crate::types::{Interval, LinkId, Metric};
use crate::wire::{Skipped, Update};
pub(crate) use outbox::{Acknowledged, Ask, Cargo, DumpKind, Order, Outbox, SeqnoWanted, Word};
pub(crate) use schedule::{Beat, DueHello, Schedule};
pub(crate) use standing::Standing;

/// A link whose neighbour sends what cannot be read is not used for so long.
const MUTED: Duration = Duration::from_secs(60);
/// What was refused for being too much is asked for so much later.
const RESYNC: Duration = Duration::from_secs(10);
/// Twice as late each time, but so often only.
const MOST_RESYNCS: u32 = 6;
/// After a retraction of everything, a neighbour is asked for everything so soon, when nothing is under way any more.
const OVERTAKEN: Duration = Duration::from_millis(500);
/// A neighbour may begin anew so often: each time, everything about it is forgotten.
const BEGINNINGS: Rate = Rate {
    interval: Duration::from_secs(1),
    burst: 3,
};
/// With so many links, Hellos come as often as they are configured; with more, so much more rarely that they are not more in all.
const FEW_LINKS: u32 = 8;
/// But never more rarely than this many times.
const SLOWEST: u32 = 6;
/// How many of our latest questions may still be answered.
const QUESTIONS: usize = 8;

/// A link and its neighbour.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) config: LinkConfig,
    pub(crate) neighbour: Option<Neighbour>,
    pub(crate) schedule: Schedule,
    pub(crate) outbox: Outbox,
    pub(crate) quota: Quota,
    pub(crate) standing: Standing,
    /// Updates that wait until they are proven.
    pub(crate) parked: BTreeMap<Ipv6Network, Parked>,
    /// When something is to be done about one of them, or earlier.
    pub(crate) parked_until: Option<Instant>,
    pub(crate) discards: Discards,
    pub(crate) skipped: Skipped,
    /// None: it cannot be used now.
    cost: Option<SteadyCost>,
    /// Since when it can or cannot be used.
    pub(crate) since: Instant,
    /// Whether it could be used at any time.
    pub(crate) was_up: bool,
    has_carrier: bool,
    muted: Option<Instant>,
    questions: [Option<(u16, Instant)>; QUESTIONS],
    /// Whether the neighbour has answered something, and hence knows that we are new.
    pub(crate) is_noticed: bool,
    beginnings: Bucket,
    /// When to announce all routes again.
    pub(crate) refresh: Instant,
    /// When to measure the round-trip time by our own clock again.
    pub(crate) measure: Instant,
    /// When to announce all routes anew, since the neighbour has not taken some.
    pub(crate) redump: Option<Instant>,
    /// When to ask for all routes, since something was refused for now.
    pub(crate) resync: Option<Instant>,
    /// How often that has happened.
    resyncs: u32,
    /// Something in the packet being read was refused for now.
    pub(crate) has_refused: bool,
    /// When everything was announced last, so that it is not asked for again at once.
    pub(crate) dumped: Option<Instant>,
    /// Whether the caller has been told that the neighbour is in doubt.
    pub(crate) told_suspect: bool,
}

/// An update that waits until it is proven.
#[derive(Clone, Debug)]
pub(crate) struct Parked {
    pub(crate) update: Update,
    /// One without a proof of its own that came later.
    pub(crate) then: Option<Update>,
    pub(crate) since: Instant,
    /// What will tell; none: the origin's record.
    pub(crate) job: Option<u64>,
    /// When to ask for that again.
    pub(crate) ask: Instant,
}

/// What the neighbour has left of its limits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quota {
    pub(crate) routes: u32,
    pub(crate) destinations: u32,
    pub(crate) new_destinations: Bucket,
    pub(crate) updates: Bucket,
    pub(crate) seqno_requests: Bucket,
    pub(crate) dumps: Bucket,
    pub(crate) requests: Bucket,
    pub(crate) records: Bucket,
    pub(crate) acks: Bucket,
    pub(crate) verifications: Bucket,
    pub(crate) malformed: Bucket,
}

/// What has become of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    /// It can be used from now on.
    Up,
    /// It cannot be used any more.
    Down,
    /// It costs something else.
    Cost,
}

impl Link {
    pub(crate) fn new(id: LinkId, config: LinkConfig, now: Instant, rng: &mut Rng) -> Self {
        let schedule = Schedule::new(config.hello, now, rng);
        let order = if config.peer.is_stock() {
            Order::Loose
        } else {
            Order::Kept
        };
        Self {
            id,
            neighbour: None,
            schedule,
            outbox: Outbox::new(order, rng.next() as u16),
            quota: Quota::default(),
            standing: Standing::default(),
            parked: BTreeMap::new(),
            parked_until: None,
            discards: Discards::default(),
            skipped: Skipped::default(),
            cost: None,
            since: now,
            was_up: false,
            has_carrier: true,
            muted: None,
            questions: [None; QUESTIONS],
            is_noticed: false,
            beginnings: Bucket::default(),
            refresh: now + config.update,
            measure: now,
            redump: None,
            resync: None,
            resyncs: 0,
            has_refused: false,
            dumped: None,
            told_suspect: false,
            config,
        }
    }

    /// What it costs at the moment, what the ends say about the neighbour included. Infinite: it cannot be used.
    pub(crate) fn cost(&self) -> Metric {
        self.cost.as_ref().map_or(Metric::INFINITY, |cost| {
            Metric(
                cost.value()
                    .0
                    .saturating_add(self.standing.surcharge())
                    .min(u16::MAX - 1),
            )
        })
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.cost.is_some()
    }

    /// Whether the neighbour is being asked whether it is still there.
    pub(crate) fn is_suspect(&self) -> bool {
        self.neighbour
            .as_ref()
            .is_some_and(|neighbour| neighbour.liveness.is_suspect())
    }

    /// What it costs to hear the neighbour, for the IHU.
    pub(crate) fn rxcost(&self, now: Instant) -> Metric {
        match &self.neighbour {
            Some(neighbour) if neighbour.is_heard() && !self.is_shut(now) => {
                rxcost(neighbour.losses())
            }
            Some(_) | None => Metric::INFINITY,
        }
    }

    /// Looks at everything that decides what the link costs.
    pub(crate) fn reassess(&mut self, now: Instant) -> Option<Shift> {
        let costs = self.costs(now);
        match (&mut self.cost, costs) {
            (Some(cost), Some(costs)) => cost.note(costs, now).then_some(Shift::Cost),
            (cost @ None, Some(costs)) => {
                *cost = Some(SteadyCost::new(costs, now));
                self.since = now;
                Some(Shift::Up)
            }
            (cost @ Some(_), None) => {
                *cost = None;
                self.since = now;
                Some(Shift::Down)
            }
            (None, None) => None,
        }
    }

    /// What it would cost at this very moment.
    fn costs(&self, now: Instant) -> Option<Metric> {
        let neighbour = self.neighbour.as_ref()?;
        let (txcost, rxcost) = (neighbour.txcost(), self.rxcost(now));
        //= RFC 8966 §3.4.3 unheard
        //= RFC 8966 §3.4.3 untold
        (txcost.is_finite() && rxcost.is_finite()).then(|| {
            link_cost(
                txcost,
                rxcost,
                self.config.least_cost,
                neighbour.round_trip.least(),
                &self.config.delay,
            )
        })
    }

    /// Whether it is not to be used, whatever the neighbour says.
    fn is_shut(&self, now: Instant) -> bool {
        !self.has_carrier
            || self.muted.is_some_and(|until| now < until)
            || self.standing.is_quarantined(now)
    }

    /// The link is known to be cut, or not to be any more.
    pub(crate) const fn set_carrier(&mut self, has_carrier: bool) {
        self.has_carrier = has_carrier;
    }

    /// So many TLVs could not be read.
    pub(crate) fn note_malformed(&mut self, count: u64, now: Instant) {
        let rate = self.config.limits.malformed;
        let is_beyond = (0..count.min(1 << 10)).any(|_| !self.quota.malformed.take(rate, now));
        if is_beyond {
            self.muted = Some(now + MUTED);
        }
    }

    /// Whether a neighbour may begin anew.
    pub(crate) fn may_begin(&mut self, now: Instant) -> bool {
        self.beginnings.take(BEGINNINGS, now)
    }

    /// A question leaves that the neighbour has to answer.
    pub(crate) const fn note_question(&mut self, opaque: u16, now: Instant) {
        self.questions[opaque as usize % QUESTIONS] = Some((opaque, now));
    }

    /// How long ago the question was that has this number.
    pub(crate) fn question(&mut self, opaque: u16, now: Instant) -> Option<Duration> {
        let question = &mut self.questions[usize::from(opaque) % QUESTIONS];
        let (_, asked) = question.take_if(|(number, _)| *number == opaque)?;
        Some(now.saturating_duration_since(asked))
    }

    /// How far apart our Hellos should be, if those of a node with so many links are `pace` times as far apart as they could be. Two nodes
    /// go by the busier of them. Going a little faster than it keeps either from holding the other back when it is not busy any more.
    pub(crate) fn unhurried(&self, pace: u32) -> Duration {
        let own = self.config.hello;
        if self.config.peer.is_stock() || !self.is_up() {
            return own;
        }
        let theirs = self.neighbour.as_ref().and_then(Neighbour::promise);
        let followed = theirs.unwrap_or_default() * 7 / 8;
        (own * pace).max(followed).min(own * SLOWEST)
    }

    /// How long an Acknowledgment may take before a packet is sent again.
    pub(crate) fn ack_patience(&self) -> Duration {
        let rtt = self
            .neighbour
            .as_ref()
            .and_then(|neighbour| neighbour.round_trip.mean())
            .unwrap_or(0);
        self.config.patience.spacing + Duration::from_micros(rtt.into()) * 2
    }

    /// How soon we ask for an Acknowledgment.
    pub(crate) fn ack_interval(&self) -> Interval {
        Interval::from_duration(self.config.patience.spacing / 2)
    }

    /// How soon our updates come again.
    pub(crate) fn update_interval(&self) -> Interval {
        Interval::from_duration(self.config.update)
    }

    /// Where to send what is for the neighbour alone.
    pub(crate) fn address(&self) -> Option<Ipv6Addr> {
        self.neighbour.as_ref().map(|neighbour| neighbour.address)
    }

    pub(crate) const fn patience(&self) -> Patience {
        self.config.patience
    }

    /// Whether the neighbour may have one more of something.
    pub(crate) fn allows(
        &mut self,
        what: impl FnOnce(&mut Quota) -> &mut Bucket,
        rate: Rate,
        now: Instant,
    ) -> bool {
        what(&mut self.quota).take(rate, now)
    }

    /// Something was refused that would be welcome soon. If its packet asks for an Acknowledgment, it gets none, and the neighbour
    /// sends it again.
    pub(crate) fn refuse_for_now(&mut self, now: Instant) {
        self.has_refused = true;
        self.refuse(now);
    }

    /// Something was refused that would be welcome later: the neighbour will be asked for everything, ever more rarely.
    pub(crate) fn refuse(&mut self, now: Instant) {
        if self.resync.is_none() {
            self.resync = Some(now + RESYNC * (1 << self.resyncs.min(MOST_RESYNCS)));
            self.resyncs += 1;
        }
    }

    /// The neighbour has retracted everything, which may be older than what it had announced: it will be asked for everything soon.
    pub(crate) fn doubt_retraction(&mut self, now: Instant) {
        let soon = now + OVERTAKEN;
        self.resync = Some(self.resync.map_or(soon, |at| at.min(soon)));
    }

    /// The neighbour is told everything, beginning now.
    pub(crate) fn dump(&mut self, now: Instant) {
        self.outbox.dump(DumpKind::Full, now);
        self.dumped = Some(now);
        self.redump = None;
        self.refresh = now + self.config.update;
    }

    /// The neighbour did not take what it was told: it will be told everything after a while.
    pub(crate) fn dump_later(&mut self, now: Instant) {
        self.redump.get_or_insert(now + RESYNC);
    }

    /// Ends what has run out.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.muted.is_some_and(|until| until <= now) {
            self.muted = None;
        }
        self.standing.expire(now);
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.expire(now);
        }
    }

    pub(crate) fn deadline(&self, now: Instant) -> Deadline {
        let mut deadline = Deadline::default();
        deadline.at(self.schedule.deadline(), "hello");
        deadline.at(self.muted, "link heeded again");
        deadline.at(self.resync, "full request");
        deadline.at(self.redump, "full update");
        if self.is_up() {
            deadline.at(self.refresh, "periodic update");
        }
        if let Some(cost) = &self.cost {
            deadline.at(cost.deadline(now), "cost");
        }
        if let Some(neighbour) = &self.neighbour {
            deadline.merge(neighbour.deadline());
            deadline.merge(self.outbox.deadline(self.is_suspect()));
        }
        deadline.at(self.parked_until, "proof");
        deadline.merge(self.standing.deadline());
        deadline
    }
}

/// An update waits so long for its proof.
pub(crate) const PARKED: Duration = Duration::from_secs(3);

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    slots: Vec<Option<Link>>,
    ids: BTreeMap<LinkId, Slot>,
}

impl Links {
    /// Adds a link, in the place of one with the same id; none: there are too many.
    pub(crate) fn insert(&mut self, link: Link) -> Option<Slot> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = Slot::at(free.unwrap_or(self.slots.len()))?;
        if slot.index() == self.slots.len() {
            self.slots.push(None);
        }
        self.ids.insert(link.id, slot);
        self.slots[slot.index()] = Some(link);
        Some(slot)
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(link) = self.slots.get_mut(slot.index()).and_then(Option::take) {
            self.ids.remove(&link.id);
        }
    }

    pub(crate) fn slot(&self, id: LinkId) -> Option<Slot> {
        self.ids.get(&id).copied()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Link> {
        self.slots.get(slot.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Link> {
        self.slots.get_mut(slot.index())?.as_mut()
    }

    /// How many times as far apart as they could be Hellos are, for so many links being in use.
    pub(crate) fn pace(&self) -> u32 {
        let used = self.slots.iter().flatten().filter(|link| link.is_up());
        let used = u32::try_from(used.count()).unwrap_or(u32::MAX);
        (used / FEW_LINKS).clamp(1, SLOWEST)
    }

    /// Whether a Hello is due by any link.
    pub(crate) fn beat(&self, now: Instant) -> Beat {
        let mut links = self.slots.iter().flatten();
        if links.any(|link| link.schedule.is_due(now)) {
            Beat::Now
        } else {
            Beat::Later
        }
    }

    /// What a link costs; infinite if there is none.
    pub(crate) fn cost(&self, slot: Slot) -> Metric {
        self.get(slot).map_or(Metric::INFINITY, Link::cost)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Link)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, link)| Some((Slot::at(index)?, link.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Link)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(index, link)| Some((Slot::at(index)?, link.as_mut()?)))
    }

    /// All places, those that are free among them.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.slots.len()).filter_map(Slot::at)
    }
}
