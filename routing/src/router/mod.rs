//! The router: everything that the modules around it know, put together.

mod learn;
mod prove;
mod receive;
mod select;
mod send;
mod tell;
mod time;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::bucket::{Bucket, Rate};
use crate::clock::{Agenda, Clock, Tick};
use crate::config::{Config, LinkConfig, Transit};
use crate::discard::{Discards, Reason};
use crate::event::{Cast, Event, FibOp, Hint, Next, Transmit};
use crate::feedback::{Feedback, Verdict};
use crate::link::{Ask, Link, Links, SeqnoWanted, Shift};
use crate::neighbour::Doubt;
use crate::origin::{Origins, Outcome, Own};
use crate::request::Requests;
use crate::rng::Rng;
use crate::route::{Choice, Slot, Table};
use crate::types::{LinkId, RouterId, Seqno};
use crate::update::Restless;
use crate::wire::DecodeError;

pub use view::{LinkView, RouteView, Violation};

/// How often our seqno grows on request: a few times at once, then every two seconds, and in the long run every ten, so that nobody
/// can use up our epochs.
const SEQNOS: [Rate; 2] = [
    Rate {
        interval: Duration::from_secs(2),
        burst: 4,
    },
    Rate {
        interval: Duration::from_secs(10),
        burst: 10,
    },
];
/// A new router selects no route for so long, unless all its neighbours know before that it is new. It remembers no feasibility distance,
/// and somebody may still believe in a route through it that it announced before it was restarted: together they could make a loop.
const SLEEP: Duration = Duration::from_secs(2);
/// A new epoch begins so often in any case.
const EPOCH: Duration = Duration::from_secs(86_400);

/// A Babel router (RFC 8966) whose routes are proven by their origins.
///
/// A state machine without I/O: after every `&mut` call, drain [`Self::poll_event`] and then [`Self::poll_transmit`], so that what
/// is announced can already be forwarded, and call [`Self::handle_timeout`] when [`Self::poll_timeout`] says. `now` must not go
/// backwards; if it does, time stands still.
#[derive(Debug)]
pub struct Router {
    config: Config,
    clock: Clock,
    rng: Rng,
    links: Links,
    table: Table,
    origins: Origins,
    own: BTreeMap<Ipv6Network, Audience>,
    /// Until when no route is selected; none: routes are.
    asleep: Option<Instant>,
    /// More links are about to be added.
    awaits_links: bool,
    seqno_buckets: [Bucket; 2],
    /// Somebody wants a newer seqno of ours than this, but it is too soon.
    owed: Option<Seqno>,
    renew: Instant,
    requests: Requests,
    feedback: Feedback,
    restless: Restless,
    /// Destinations to be looked at.
    dirty: Vec<Ipv6Network>,
    /// Destinations to be looked at later, for a better route may be better for long enough by then.
    deferred: Agenda<Ipv6Network>,
    /// Destinations without a route, and when nobody can believe in it any more.
    held: Agenda<Ipv6Network>,
    /// Who waits for which verification.
    jobs: BTreeMap<u64, Waiting>,
    next_job: u64,
    /// When which origin's record was asked for.
    records_asked: BTreeMap<RouterId, Instant>,
    /// When the table was last searched for what has expired, and when it has to be again.
    swept: Tick,
    sweep: Tick,
    eased: Instant,
    discards: Discards,
    fib: Vec<FibOp>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// Who hears of a prefix of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Everybody.
    All,
    /// Plain Babel speakers.
    Stock,
}

/// Who waits for a verification.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: Slot,
    /// The destination of a proof, not of a record.
    prefix: Option<Ipv6Network>,
    since: Instant,
}

impl Router {
    /// A router without links that announces nothing. `own` are we as an origin; `seed` gives jitter.
    ///
    /// # Panics
    /// If our router-id is a reserved one: of 2^63 keys, one has such.
    pub fn new(config: Config, own: Own, seed: u64, now: Instant) -> Self {
        //= RFC 8966 §4.1.3 own
        assert!(
            !own.owner().router_id.is_reserved(),
            "our router-id is reserved"
        );
        let capacity = config.most_destinations;
        let mut router = Self {
            clock: Clock::new(now),
            rng: Rng::new(seed),
            links: Links::default(),
            table: Table::default(),
            origins: Origins::new(own, capacity),
            own: BTreeMap::new(),
            asleep: Some(now + SLEEP),
            awaits_links: false,
            seqno_buckets: [Bucket::default(); 2],
            owed: None,
            renew: now + EPOCH,
            requests: Requests::default(),
            feedback: Feedback::default(),
            restless: Restless::default(),
            dirty: Vec::new(),
            deferred: Agenda::default(),
            held: Agenda::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            records_asked: BTreeMap::new(),
            swept: Tick(0),
            sweep: Tick::NEVER,
            eased: now,
            discards: Discards::default(),
            fib: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            config,
        };
        router.persist();
        router
    }

    /// Says whether a router that has just begun is about to get more links. It waits for their neighbours to know that it is new.
    pub fn await_links(&mut self, awaits: bool, now: Instant) {
        self.clock.advance(now);
        self.awaits_links = awaits;
        self.wake_up();
        self.settle();
    }

    /// A link is there: its neighbour is greeted, and asked for its routes. It takes the place of one with the same id.
    pub fn add_link(&mut self, id: LinkId, config: LinkConfig, now: Instant) {
        self.remove_link(id, now);
        let link = Link::new(id, config, self.clock.now(), &mut self.rng);
        self.links.insert(link);
        self.settle();
    }

    /// A link is gone, and with it the routes through its neighbour.
    pub fn remove_link(&mut self, id: LinkId, now: Instant) {
        self.clock.advance(now);
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        self.drop_neighbour(slot);
        self.links.remove(slot);
        for destination in self.table.iter_mut() {
            if destination.charged == Some(slot) {
                destination.charged = None;
            }
        }
        self.requests.forget(slot);
        self.feedback.forget(slot);
        self.jobs.retain(|_, waiting| waiting.slot != slot);
        self.settle();
    }

    /// Whether packets of the neighbour on a link are forwarded to others has changed.
    pub fn set_transit(&mut self, link: LinkId, transit: Transit, now: Instant) {
        self.clock.advance(now);
        let slot = self.links.slot(link);
        let link = slot.and_then(|slot| self.links.get_mut(slot));
        if let Some(link) = link.filter(|link| link.config.transit != transit) {
            link.config.transit = transit;
            let all = self.table.iter().map(|destination| destination.prefix());
            self.dirty.extend(all);
        }
        self.settle();
    }

    /// A UDP payload from `from` to `to` came by a link, at `received`, from Babel's port.
    ///
    /// # Errors
    /// [`DecodeError`]: it was not read. What is wrong with single messages is counted, not returned.
    pub fn handle_packet(
        &mut self,
        link: LinkId,
        from: Ipv6Addr,
        to: Cast,
        packet: &[u8],
        received: Instant,
        now: Instant,
    ) -> Result<(), DecodeError> {
        self.clock.advance(now);
        let Some(slot) = self.links.slot(link) else {
            self.discards.note(Reason::UnknownLink);
            return Ok(());
        };
        let read = self.receive(slot, from, to, packet, received);
        self.reassess(slot);
        self.settle();
        read
    }

    /// The data plane has seen something of a link.
    pub fn handle_hint(&mut self, link: LinkId, hint: Hint, now: Instant) {
        self.clock.advance(now);
        let now = self.clock.now();
        let Some(slot) = self.links.slot(link) else {
            return;
        };
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        match hint {
            Hint::Silent => {
                if let Some(neighbour) = &mut link.neighbour {
                    neighbour.liveness.doubt(Doubt::Unanswered, now);
                }
            }
            Hint::Heard => {
                if let Some(neighbour) = &mut link.neighbour {
                    neighbour.heard(now);
                }
            }
            Hint::CarrierLost => link.set_carrier(false),
            Hint::CarrierBack => {
                link.set_carrier(true);
                link.schedule.leap(now);
                if let Some(neighbour) = &mut link.neighbour {
                    neighbour.liveness.give_up();
                }
            }
        }
        self.reassess(slot);
        self.watch(slot);
        self.settle();
    }

    /// A verification has been done.
    pub fn handle_outcome(&mut self, id: u64, outcome: Outcome, now: Instant) {
        self.clock.advance(now);
        match self.jobs.remove(&id) {
            Some(waiting) => self.learn(waiting, Some(id), outcome),
            None => self.discards.note(Reason::StaleOutcome),
        }
        self.settle();
    }

    /// A destination did, or did not, answer end to end to what was sent by a link.
    pub fn handle_feedback(
        &mut self,
        prefix: Ipv6Network,
        link: LinkId,
        verdict: Verdict,
        now: Instant,
    ) {
        self.clock.advance(now);
        if let Some(slot) = self.links.slot(link) {
            self.weigh(prefix, slot, verdict);
        }
        self.settle();
    }

    /// Announces a prefix: our own /64 to everybody, others to plain Babel speakers only.
    pub fn announce(&mut self, prefix: Ipv6Network, now: Instant) {
        self.clock.advance(now);
        let audience = if prefix == self.origins.own().owner().prefix {
            Audience::All
        } else {
            Audience::Stock
        };
        self.own.insert(prefix, audience);
        self.table.find_or_insert(prefix);
        self.dirty.push(prefix);
        self.settle();
    }

    /// Announces a prefix no longer.
    pub fn withdraw(&mut self, prefix: Ipv6Network, now: Instant) {
        self.clock.advance(now);
        if self.own.remove(&prefix).is_some() {
            self.dirty.push(prefix);
        }
        self.settle();
    }

    /// Says goodbye: everything is retracted from every neighbour, at once. To be called last.
    pub fn shut_down(&mut self, now: Instant) {
        self.clock.advance(now);
        for slot in self.links.slots() {
            self.say_goodbye(slot);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock.advance(now);
        for slot in self.links.slots() {
            self.tend(slot);
        }
        self.tend_requests();
        self.tend_destinations();
        self.tend_feedback();
        self.tend_seqno();
        self.settle();
    }

    /// When, and why, [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadline().earliest()
    }

    /// A packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What the caller should know, or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What a packet is to be stamped with that leaves at `instant`: microseconds of our clock, modulo 2^32 (RFC 9616).
    pub fn micros(&self, instant: Instant) -> u32 {
        self.clock.micros(instant)
    }

    /// Where packets to an address go.
    pub fn lookup(&self, address: Ipv6Addr) -> Next {
        for destination in self.table.covering(address) {
            match destination.choice {
                Choice::Nothing => {}
                Choice::Own => return Next::Own,
                //= RFC 8966 §3.5.4 hold
                Choice::Held => return Next::Unreachable,
                Choice::Via(slot) => {
                    if let Some((link, next_hop)) = self.next_hop(slot) {
                        return Next::Via { link, next_hop };
                    }
                }
            }
        }
        Next::Unknown
    }

    /// Brings everything in order that a call has changed, and sends what is due.
    fn settle(&mut self) {
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.sort_unstable();
            dirty.dedup();
            for prefix in dirty {
                self.reselect(prefix);
            }
        }
        let (beat, pace) = (self.links.beat(self.clock.now()), self.links.pace());
        for slot in self.links.slots() {
            self.flush(slot, beat, pace);
            self.report_doubt(slot);
        }
        if !self.fib.is_empty() {
            let batch = std::mem::take(&mut self.fib);
            self.events.push_back(Event::Fib(batch));
        }
    }

    /// A link's neighbour, or what we know of it, has changed: does what follows.
    fn reassess(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        match link.reassess(now) {
            None => return,
            Some(Shift::Up) => {
                link.schedule.greet(now);
                link.dump(now);
                if link.was_up {
                    // It may not know that it was out of reach, or forgotten.
                    link.outbox.ask(Ask::Everything, SeqnoWanted::NONE, now);
                }
                link.was_up = true;
            }
            Some(Shift::Down) => {
                link.schedule.greet(now);
                link.outbox.clear();
                link.parked.clear();
                self.forget_told(slot);
            }
            Some(Shift::Cost) => {}
        }
        self.mark(slot);
        self.report(slot);
    }

    /// All destinations that the neighbour on a link has announced, or was told of, are to be looked at.
    fn mark(&mut self, slot: Slot) {
        let marked = self
            .table
            .iter()
            .filter(|destination| destination.exchange(slot).is_some())
            .map(|destination| destination.prefix());
        self.dirty.extend(marked);
    }

    /// What the neighbour on a link was told is void.
    fn forget_told(&mut self, slot: Slot) {
        for destination in self.table.iter_mut() {
            if let Some(exchange) = destination.exchange_mut(slot) {
                exchange.forget_told();
            }
        }
    }

    /// The neighbour on a link is another now, or none.
    fn drop_neighbour(&mut self, slot: Slot) {
        self.mark(slot);
        for destination in self.table.iter_mut() {
            destination.forget(slot);
        }
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        link.quota.routes = 0;
        link.outbox.clear();
        link.parked.clear();
        let was_up = link.is_up();
        let neighbour = link.neighbour.take();
        link.reassess(self.clock.now());
        if let Some(neighbour) = neighbour.filter(|_| was_up) {
            self.report_down(slot, neighbour.address);
        }
    }

    /// We have a new seqno.
    fn persist(&mut self) {
        let own = self.origins.own();
        self.events.push_back(Event::Persist {
            epoch: own.epoch(),
            seqno: own.seqno(),
        });
    }

    fn next_hop(&self, slot: Slot) -> Option<(LinkId, Ipv6Addr)> {
        let link = self.links.get(slot)?;
        Some((link.id, link.address()?))
    }
}
