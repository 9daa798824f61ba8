//! The route table (RFC 8966 §3.2.6) and what belongs to the same destinations: sources, and what we have told whom.
//!
//! It is laid out for many thousands of destinations with a few neighbours each: 96 bytes for a route, 40 for each further one.

use std::cell::Cell;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use ipnetwork::Ipv6Network;

use crate::clock::Tick;
use crate::few::Few;
use crate::source::Source;
use crate::types::{Metric, RouterId, Seqno};

/// The place of a link in the table of links, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(NonZeroU16);

impl Slot {
    pub(crate) const FIRST: Self = Self(NonZeroU16::MIN);
    pub(crate) const LAST: Self = Self(NonZeroU16::MAX);

    /// By its index; none: there are no more than 65,535.
    pub(crate) fn at(index: usize) -> Option<Self> {
        let number = u16::try_from(index + 1).ok()?;
        NonZeroU16::new(number).map(Self)
    }

    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// So many origins may announce one prefix. More are refused.
const MAX_SOURCES: usize = 8;
/// Half of a small change of a route's advertised metric is believed after so many ticks (RFC 8966 Appendix A.3 has three Hellos).
const HALF_LIFE: u32 = 15;
/// The index of no source.
const NO_SOURCE: u8 = u8::MAX;

/// On whose word a route stands. The earlier is preferred, whatever the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// The origin has proven it, or the prefix needs no proof between nodes that run this program.
    Proven,
    /// A stub neighbour's, as the operator allowed.
    Stub,
    /// Through a plain Babel router, as the operator allowed.
    Legacy,
}

/// What a neighbour has told us about a destination: a route; and what we have told it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) slot: Slot,
    source: u8,
    told_source: u8,
    pub(crate) trust: Trust,
    /// Our last word may not have arrived.
    pub(crate) is_unsure: bool,
    /// It has not acknowledged yet that we retracted the route, so it may still send packets here.
    pub(crate) may_rely: bool,
    /// Local feedback speaks against this next hop.
    pub(crate) is_penalised: bool,
    pub(crate) seqno: Seqno,
    /// As advertised. Infinite: retracted, or never heard of.
    pub(crate) metric: Metric,
    /// What the advertised metric was, smoothed, when it last changed.
    smoothed: Metric,
    /// How long it lasts without an update, in ticks.
    hold: u16,
    pub(crate) expires: Tick,
    /// Since when it is as it is.
    pub(crate) changed: Tick,
    told_seqno: Seqno,
    told_metric: Metric,
}

/// A route as a neighbour announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
    pub(crate) trust: Trust,
    pub(crate) hold: Duration,
}

/// A route as we announce it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
}

impl Exchange {
    fn new(slot: Slot) -> Self {
        Self {
            slot,
            source: NO_SOURCE,
            told_source: NO_SOURCE,
            trust: Trust::Proven,
            is_unsure: false,
            may_rely: false,
            is_penalised: false,
            seqno: Seqno(0),
            metric: Metric::INFINITY,
            smoothed: Metric::INFINITY,
            hold: 0,
            expires: Tick::NEVER,
            changed: Tick(0),
            told_seqno: Seqno(0),
            told_metric: Metric::INFINITY,
        }
    }

    /// Whether the neighbour has announced a route that is not retracted.
    pub(crate) const fn is_route(&self) -> bool {
        self.metric.is_finite()
    }

    /// Whether the neighbour has announced anything that has not expired since: a route, or its retraction.
    pub(crate) const fn is_heard(&self) -> bool {
        self.source != NO_SOURCE
    }

    /// Whether the neighbour has a route through us, as far as we know.
    pub(crate) const fn is_told(&self) -> bool {
        self.told_metric.is_finite()
    }

    const fn is_idle(&self) -> bool {
        !self.is_heard() && !self.is_told() && !self.may_rely && !self.is_unsure
    }

    /// The advertised metric, smoothed.
    pub(crate) fn smoothed(&self, now: Tick) -> Metric {
        if !self.metric.is_finite() || !self.smoothed.is_finite() {
            return self.metric;
        }
        let ticks = now.0.saturating_sub(self.changed.0);
        let (halvings, rest) = (ticks / HALF_LIFE, i32::try_from(ticks % HALF_LIFE));
        let (metric, before) = (i32::from(self.metric.0), i32::from(self.smoothed.0));
        let apart = (before - metric)
            .checked_shr(halvings)
            .map_or(0, |apart| if halvings > 16 { 0 } else { apart });
        let apart = apart - apart / 2 * rest.unwrap_or(0) / HALF_LIFE as i32;
        Metric((metric + apart).clamp(0, i32::from(u16::MAX - 1)) as u16)
    }

    /// The route has been announced again, as it is.
    pub(crate) fn refresh(&mut self, hold: Duration, now: Tick) {
        self.hold = (hold.as_millis() / 100).try_into().unwrap_or(u16::MAX);
        self.expires = now.after(hold);
    }

    /// When to ask whether the route is still there: when two sevenths of its time are left, that is one interval.
    pub(crate) fn ask_at(&self) -> Tick {
        Tick(self.expires.0 - u32::from(self.hold) * 2 / 7)
    }

    /// The neighbour retracts its route, or it has expired: that is remembered as long as the route would have lasted.
    pub(crate) fn retract(&mut self, now: Tick) {
        self.metric = Metric::INFINITY;
        self.smoothed = Metric::INFINITY;
        self.changed = now;
        self.expires = now.after(Duration::from_millis(u64::from(self.hold) * 100));
    }

    /// Nothing is known from the neighbour any more.
    fn forget_heard(&mut self) {
        self.source = NO_SOURCE;
        self.metric = Metric::INFINITY;
        self.expires = Tick::NEVER;
        self.is_penalised = false;
    }

    /// The neighbour has forgotten what we told it, or will have to be told everything again.
    pub(crate) const fn forget_told(&mut self) {
        self.told_source = NO_SOURCE;
        self.told_metric = Metric::INFINITY;
        self.is_unsure = false;
        self.may_rely = false;
    }

    /// We retract.
    pub(crate) const fn tell_retraction(&mut self) {
        self.told_source = NO_SOURCE;
        self.told_metric = Metric::INFINITY;
        self.is_unsure = false;
    }
}

/// What became of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// There is no route, and nobody has one through us.
    Nothing,
    /// It is ours.
    Own,
    /// There is no route any more, and somebody may not know yet: packets must not follow a route for a shorter prefix.
    Held,
    /// The selected route.
    Via(Slot),
}

/// A prefix, and everything about it.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    prefix: Ipv6Network,
    pub(crate) choice: Choice,
    /// The link whose neighbour brought it, and in whose quota it is.
    pub(crate) charged: Option<Slot>,
    sources: Few<Source>,
    exchanges: Few<Exchange>,
}

const _: () = assert!(
    size_of::<Exchange>() <= 28 && size_of::<Destination>() <= 80,
    "a route is to take no more than 96 bytes, and 40 for each further neighbour"
);

impl Destination {
    fn new(prefix: Ipv6Network) -> Self {
        Self {
            prefix,
            choice: Choice::Nothing,
            charged: None,
            sources: Few::default(),
            exchanges: Few::default(),
        }
    }

    pub(crate) const fn prefix(&self) -> Ipv6Network {
        self.prefix
    }

    pub(crate) fn exchanges(&self) -> &[Exchange] {
        self.exchanges.as_slice()
    }

    pub(crate) fn exchanges_mut(&mut self) -> &mut [Exchange] {
        self.exchanges.as_mut_slice()
    }

    pub(crate) fn sources(&self) -> &[Source] {
        self.sources.as_slice()
    }

    pub(crate) fn exchange(&self, slot: Slot) -> Option<&Exchange> {
        let exchanges = self.exchanges();
        exchanges.iter().find(|exchange| exchange.slot == slot)
    }

    pub(crate) fn exchange_mut(&mut self, slot: Slot) -> Option<&mut Exchange> {
        let exchanges = self.exchanges_mut();
        exchanges.iter_mut().find(|exchange| exchange.slot == slot)
    }

    /// The selected route, if it is a neighbour's.
    pub(crate) fn selected(&self) -> Option<&Exchange> {
        match self.choice {
            Choice::Via(slot) => self.exchange(slot),
            Choice::Nothing | Choice::Own | Choice::Held => None,
        }
    }

    /// Where a route comes from; none: the neighbour has not announced one.
    pub(crate) fn source(&self, exchange: &Exchange) -> Option<&Source> {
        self.sources().get(usize::from(exchange.source))
    }

    /// The origin with this router-id.
    pub(crate) fn source_of(&self, router_id: RouterId) -> Option<&Source> {
        let sources = self.sources();
        sources.iter().find(|source| source.router_id == router_id)
    }

    /// Whether it was announced to anybody so lately that they may still have the route.
    pub(crate) fn was_announced(&self) -> bool {
        self.sources()
            .iter()
            .any(|source| source.distance().is_some())
    }

    /// Whether a route with this distance could be used without risking a loop.
    pub(crate) fn is_feasible(&self, router_id: RouterId, seqno: Seqno, metric: Metric) -> bool {
        self.source_of(router_id)
            .is_none_or(|source| source.is_feasible(seqno, metric))
    }

    /// Whether a route may be used as things are now.
    pub(crate) fn may_use(&self, exchange: &Exchange) -> bool {
        exchange.is_route()
            && self
                .source(exchange)
                .is_some_and(|source| source.is_feasible(exchange.seqno, exchange.metric))
    }

    /// Notes a route that a neighbour announces. Says whether anything but its time changed; none: there are too many origins.
    pub(crate) fn hear(&mut self, slot: Slot, heard: &Heard, now: Tick) -> Option<bool> {
        let source = self.source_index(heard.router_id)?;
        let exchange = self.exchange_or_new(slot);
        let is_same = exchange.source == source
            && exchange.seqno == heard.seqno
            && exchange.metric == heard.metric
            && exchange.trust == heard.trust;
        exchange.refresh(heard.hold, now);
        if !is_same {
            let continues = exchange.source == source && exchange.is_route();
            if !continues || exchange.metric != heard.metric {
                let before = exchange.smoothed(now);
                // A change by more than a quarter is no noise.
                let is_small = before.0.abs_diff(heard.metric.0) <= before.0 / 4;
                exchange.smoothed = if continues && is_small {
                    before
                } else {
                    heard.metric
                };
                exchange.changed = now;
            }
            exchange.source = source;
            exchange.seqno = heard.seqno;
            exchange.metric = heard.metric;
            exchange.trust = heard.trust;
        }
        Some(!is_same)
    }

    /// Notes what we are about to tell a neighbour, and with it our feasibility distance. Says whether there was room.
    pub(crate) fn tell(&mut self, slot: Slot, what: &Announced, expires: Tick) -> bool {
        let Some(source) = self.source_index(what.router_id) else {
            return false;
        };
        self.sources.as_mut_slice()[usize::from(source)].announce(what.seqno, what.metric, expires);
        let exchange = self.exchange_or_new(slot);
        exchange.told_source = source;
        exchange.told_seqno = what.seqno;
        exchange.told_metric = what.metric;
        exchange.is_unsure = false;
        exchange.may_rely = true;
        true
    }

    /// What a neighbour has been told last, if it was not a retraction.
    pub(crate) fn told(&self, exchange: &Exchange) -> Option<Announced> {
        let source = self.sources().get(usize::from(exchange.told_source))?;
        exchange.is_told().then_some(Announced {
            router_id: source.router_id,
            seqno: exchange.told_seqno,
            metric: exchange.told_metric,
        })
    }

    /// Forgets all that the neighbour on a link said, or was told.
    pub(crate) fn forget(&mut self, slot: Slot) {
        let place = self
            .exchanges()
            .iter()
            .position(|exchange| exchange.slot == slot);
        if let Some(place) = place {
            self.exchanges.remove(place);
        }
    }

    /// Forgets a route whose retraction has expired too.
    pub(crate) fn forget_heard(&mut self, slot: Slot) {
        if let Some(exchange) = self.exchange_mut(slot) {
            exchange.forget_heard();
        }
    }

    /// Lets pass what has expired, and drops what nothing refers to any more.
    pub(crate) fn tidy(&mut self, now: Tick) {
        while let Some(place) = self.exchanges().iter().position(Exchange::is_idle) {
            self.exchanges.remove(place);
        }
        let in_use = match self.choice {
            Choice::Via(_) => self
                .selected()
                .map_or(NO_SOURCE, |selected| selected.source),
            Choice::Nothing | Choice::Own | Choice::Held => NO_SOURCE,
        };
        for (index, source) in self.sources.as_mut_slice().iter_mut().enumerate() {
            if index != usize::from(in_use) {
                source.expire(now);
            }
        }
        while let Some(index) = self.unused_source() {
            self.sources.remove(index.into());
            for exchange in self.exchanges.as_mut_slice() {
                for source in [&mut exchange.source, &mut exchange.told_source] {
                    if *source != NO_SOURCE && *source > index {
                        *source -= 1;
                    }
                }
            }
        }
    }

    /// Whether nothing is left to remember about it.
    pub(crate) fn is_idle(&self) -> bool {
        self.choice == Choice::Nothing && self.exchanges().is_empty() && self.sources().is_empty()
    }

    fn unused_source(&self) -> Option<u8> {
        let is_used = |index: u8| {
            self.exchanges()
                .iter()
                .any(|exchange| exchange.source == index || exchange.told_source == index)
        };
        (0..self.sources().len() as u8).find(|&index| {
            self.sources()[usize::from(index)].distance().is_none() && !is_used(index)
        })
    }

    fn source_index(&mut self, router_id: RouterId) -> Option<u8> {
        let sources = self.sources();
        if let Some(index) = sources.iter().position(|it| it.router_id == router_id) {
            return Some(index as u8);
        }
        let index = sources.len();
        (index < MAX_SOURCES).then(|| {
            self.sources.insert(index, Source::new(router_id));
            index as u8
        })
    }

    fn exchange_or_new(&mut self, slot: Slot) -> &mut Exchange {
        let place = self
            .exchanges()
            .partition_point(|exchange| exchange.slot < slot);
        if self.exchange(slot).is_none() {
            self.exchanges.insert(place, Exchange::new(slot));
        }
        &mut self.exchanges_mut()[place]
    }
}

/// All destinations, by prefix.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// In no order; places that are free among them.
    places: Vec<Destination>,
    free: Vec<u32>,
    /// Places in the order of their prefixes.
    order: Vec<u32>,
    /// How many prefixes of each length there are.
    lengths: [u32; 129],
    /// Where in `order` the last one was found: it is mostly looked for again, or else the next one, since updates come in order.
    last: Cell<usize>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
            lengths: [0; 129],
            last: Cell::new(0),
        }
    }
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// In the order of their prefixes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.order.iter().map(|&place| &self.places[place as usize])
    }

    /// In no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Destination> {
        self.places.iter_mut()
    }

    /// In the order of their prefixes, those after `prefix`; none: all.
    pub(crate) fn after(&self, prefix: Option<Ipv6Network>) -> impl Iterator<Item = &Destination> {
        let from = prefix.map_or(0, |prefix| match self.search(prefix) {
            Ok(found) => found + 1,
            Err(place) => place,
        });
        self.order[from..]
            .iter()
            .map(|&place| &self.places[place as usize])
    }

    pub(crate) fn find(&self, prefix: Ipv6Network) -> Option<&Destination> {
        let found = self.search(prefix).ok()?;
        Some(&self.places[self.order[found] as usize])
    }

    pub(crate) fn find_mut(&mut self, prefix: Ipv6Network) -> Option<&mut Destination> {
        let found = self.search(prefix).ok()?;
        Some(&mut self.places[self.order[found] as usize])
    }

    /// The destination; a new one if there is none.
    pub(crate) fn find_or_insert(&mut self, prefix: Ipv6Network) -> &mut Destination {
        let found = self
            .search(prefix)
            .unwrap_or_else(|before| self.insert(before, prefix));
        &mut self.places[self.order[found] as usize]
    }

    pub(crate) fn remove(&mut self, prefix: Ipv6Network) {
        if let Ok(found) = self.search(prefix) {
            let place = self.order.remove(found);
            self.places[place as usize] = Destination::new(prefix);
            self.free.push(place);
            self.lengths[usize::from(prefix.prefix())] -= 1;
        }
    }

    /// The destinations that an address lies in, the smallest first.
    pub(crate) fn covering(&self, address: Ipv6Addr) -> impl Iterator<Item = &Destination> {
        (0..=128_u8)
            .rev()
            .filter(|&length| self.lengths[usize::from(length)] > 0)
            .filter_map(move |length| self.find(block(address, length)))
    }

    fn search(&self, prefix: Ipv6Network) -> Result<usize, usize> {
        let at = |index: usize| {
            let place = *self.order.get(index)?;
            Some(self.places[place as usize].prefix)
        };
        let last = self.last.get();
        for guess in [last, last + 1] {
            if at(guess) == Some(prefix) {
                self.last.set(guess);
                return Ok(guess);
            }
        }
        let found = self
            .order
            .binary_search_by(|&place| self.places[place as usize].prefix.cmp(&prefix));
        self.last.set(found.unwrap_or_else(|before| before));
        found
    }

    fn insert(&mut self, before: usize, prefix: Ipv6Network) -> usize {
        let destination = Destination::new(prefix);
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = destination;
                place
            }
            None => {
                grow(&mut self.places);
                self.places.push(destination);
                self.places.len() as u32 - 1
            }
        };
        grow(&mut self.order);
        self.order.insert(before, place);
        self.lengths[usize::from(prefix.prefix())] += 1;
        before
    }
}

/// Makes room for one more, and a sixteenth at the most: doubling would leave too much of it empty.
fn grow<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact((items.len() / 16).max(16));
    }
}

/// The block of this length that an address lies in.
fn block(address: Ipv6Addr, length: u8) -> Ipv6Network {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Ipv6Network::new(Ipv6Addr::from(u128::from(address) & mask), length)
        .expect("no prefix is longer than 128 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOLD: Duration = Duration::from_secs(1_050);

    fn slot(index: usize) -> Slot {
        Slot::at(index).unwrap()
    }

    fn prefix(number: usize) -> Ipv6Network {
        let bits = (0x600_u128 << 112) | ((number as u128 * 0x9e37_79b9) << 64);
        Ipv6Network::new(Ipv6Addr::from(bits), 64).unwrap()
    }

    fn heard(metric: u16) -> Heard {
        Heard {
            router_id: RouterId([1; 8]),
            seqno: Seqno(1),
            metric: Metric(metric),
            trust: Trust::Proven,
            hold: HOLD,
        }
    }

    /// What a table takes, to the byte.
    fn bytes(table: &Table) -> usize {
        fn heap<T>(few: &Few<T>) -> usize {
            match few {
                Few::One(_) => 0,
                Few::Many(items) => size_of_val(&**items),
            }
        }
        let lists = table.places.iter();
        let lists = lists.map(|it| heap(&it.exchanges) + heap(&it.sources));
        table.places.capacity() * size_of::<Destination>()
            + (table.order.capacity() + table.free.capacity()) * size_of::<u32>()
            + lists.sum::<usize>()
    }

    fn table(destinations: usize, neighbours: usize) -> Table {
        let mut table = Table::default();
        for number in 0..destinations {
            let destination = table.find_or_insert(prefix(number));
            for neighbour in 0..neighbours {
                destination.hear(slot(neighbour), &heard(100), Tick(1));
            }
        }
        table
    }

    #[test]
    fn a_route_takes_at_most_96_bytes_and_each_further_neighbour_40() {
        for destinations in [1_000, 1_063, 10_000, 65_537] {
            let per_route = |neighbours| bytes(&table(destinations, neighbours)) / destinations;
            let one = per_route(1);
            assert!(one <= 96, "{one} bytes, {destinations} destinations");
            let four = (per_route(4) - one) / 3;
            assert!(four <= 40, "{four} bytes, {destinations} destinations");
        }
    }

    #[test]
    fn a_small_change_of_the_metric_is_believed_by_and_by_and_a_great_one_at_once() {
        let mut table = table(1, 1);
        let destination = table.find_mut(prefix(0)).unwrap();
        destination.hear(slot(0), &heard(120), Tick(10));
        let smoothed = |destination: &Destination, tick| {
            let exchange = destination.exchange(slot(0)).unwrap();
            exchange.smoothed(Tick(tick)).0
        };
        let at = [10, 17, 25, 40, 70].map(|tick| smoothed(destination, tick));
        assert_eq!(at, [100, 104, 110, 115, 118]);
        destination.hear(slot(0), &heard(1_000), Tick(100));
        assert_eq!(smoothed(destination, 100), 1_000);
        destination.hear(slot(0), &heard(900), Tick(200));
        assert_eq!(smoothed(destination, 200), 1_000);
        assert_eq!(smoothed(destination, 60_000), 900);
    }

    #[test]
    fn an_origin_that_nobody_names_and_nothing_was_announced_of_is_forgotten() {
        let mut table = table(1, 2);
        let destination = table.find_mut(prefix(0)).unwrap();
        let other = Heard {
            router_id: RouterId([2; 8]),
            ..heard(50)
        };
        destination.hear(slot(0), &other, Tick(2));
        destination.tidy(Tick(3));
        assert_eq!(destination.sources().len(), 2);
        destination.hear(slot(1), &other, Tick(4));
        destination.tidy(Tick(5));
        assert_eq!(destination.sources().len(), 1);
        for slot in [slot(0), slot(1)] {
            let exchange = destination.exchange(slot).unwrap();
            let source = destination.source(exchange).unwrap();
            assert_eq!(source.router_id, RouterId([2; 8]), "the indices have moved");
        }
    }

    #[test]
    fn more_than_eight_origins_of_a_prefix_are_refused() {
        let mut table = table(1, 0);
        let destination = table.find_or_insert(prefix(0));
        for number in 0..20_u8 {
            let one_of_many = Heard {
                router_id: RouterId([number; 8]),
                ..heard(50)
            };
            let is_taken = destination
                .hear(slot(number.into()), &one_of_many, Tick(1))
                .is_some();
            assert_eq!(is_taken, usize::from(number) < MAX_SOURCES);
        }
    }

    #[test]
    fn an_address_lies_in_the_smallest_block_first() {
        let mut table = Table::default();
        for block in ["::/0", "600::/8", "600:1::/64", "600:1::/112", "600:2::/64"] {
            table.find_or_insert(block.parse().unwrap());
        }
        let address = "600:1::17".parse().unwrap();
        let lengths: Vec<u8> = table
            .covering(address)
            .map(|it| it.prefix().prefix())
            .collect();
        assert_eq!(lengths, [112, 64, 8, 0]);
    }

    proptest! {
        #[test]
        fn the_table_is_a_sorted_map(steps in proptest::collection::vec((any::<bool>(), 0_usize..60), 1..200)) {
            let (mut table, mut model) = (Table::default(), std::collections::BTreeSet::new());
            for (is_insert, number) in steps {
                let prefix = prefix(number);
                if is_insert {
                    table.find_or_insert(prefix);
                    model.insert(prefix);
                } else {
                    table.remove(prefix);
                    model.remove(&prefix);
                }
                prop_assert_eq!(table.find(prefix).is_some(), is_insert);
                prop_assert!(table.iter().map(Destination::prefix).eq(model.iter().copied()));
                let after = table.after(Some(prefix)).map(Destination::prefix);
                prop_assert!(after.eq(model.iter().copied().filter(|it| *it > prefix)));
            }
        }
    }
}
