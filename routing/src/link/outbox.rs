//! What a link has to send, and what its neighbour has not acknowledged yet.
//!
//! An update is not kept as a message but as the name of a destination: what is said about it is what is true when the packet is made,
//! so that nothing old is ever sent, and however often something changes in between, it is sent once. And what was said is not said
//! anew before it is acknowledged, or lost: packets may overtake each other, and the last word has to arrive last.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::clock::Deadline;
use crate::types::{RouterId, Seqno};

/// The most copies of anything (RFC 8966 §3.7.2).
const MOST_COPIES: u8 = 5;
/// The most packets that wait for an Acknowledgment. Beyond, what is to be sent waits too.
const MOST_FLIGHTS: usize = 48;
/// What is due so soon leaves with what is due now.
const TOGETHER: Duration = Duration::from_millis(30);
/// Our own messages that wait.
const MOST_MESSAGES: usize = 64;
/// Acknowledgments that wait.
const MOST_ACKS: usize = 512;
/// So many of our last requests may still be answered, though they are not waited for any more.
const LATE: u16 = 128;

/// How something is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Instant,
    /// It was asked for: an answer is sent even if nothing has changed, or there is nothing.
    pub(crate) is_answer: bool,
    /// How many copies have been sent.
    pub(crate) copies: u8,
}

/// What is asked of the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    /// All its routes.
    Everything,
    /// Its route for one prefix.
    Route(Ipv6Network),
    /// A newer seqno.
    Seqno(Ipv6Network, RouterId),
}

/// What else belongs to [`Ask::Seqno`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeqnoWanted {
    pub(crate) seqno: Seqno,
    pub(crate) hop_count: u8,
}

impl SeqnoWanted {
    /// For what is no [`Ask::Seqno`].
    pub(crate) const NONE: Self = Self {
        seqno: Seqno(0),
        hop_count: 0,
    };
}

/// A packet that has not been acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cargo {
    /// What was said about which destinations.
    pub(crate) updates: Vec<(Ipv6Network, Word)>,
    pub(crate) asks: Vec<(Ask, SeqnoWanted)>,
    /// How many copies of it have been sent, this one included.
    pub(crate) copies: u8,
}

/// What was said about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Route,
    Retraction,
}

#[derive(Clone, Debug)]
struct Flight {
    opaque: u16,
    sent: Instant,
    resend: Instant,
    cargo: Cargo,
}

/// Going through the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dump {
    /// The last prefix that was dealt with.
    pub(crate) after: Option<Ipv6Network>,
    pub(crate) kind: DumpKind,
    pub(crate) next: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DumpKind {
    /// Said again, so that nothing expires.
    Refresh,
    /// Said for the first time, or asked for: with acknowledgments.
    Full,
}

/// What came of an Acknowledgment.
#[derive(Clone, Debug)]
pub(crate) enum Acknowledged {
    /// What it was for, and how long it took.
    Now(Cargo, Duration),
    /// It was waited for earlier.
    Late,
    /// Nothing of ours.
    Unknown,
}

/// What a link has to send.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    updates: BTreeMap<Ipv6Network, Due>,
    /// When the first of them is due, or earlier.
    soonest: Option<Instant>,
    asks: BTreeMap<Ask, (Due, SeqnoWanted)>,
    pub(crate) acks: Vec<(Ipv6Addr, u16)>,
    pub(crate) messages: VecDeque<Vec<u8>>,
    pub(crate) dump: Option<Dump>,
    flights: VecDeque<Flight>,
    /// Destinations in packets that have not been acknowledged, and in how many.
    flying: BTreeMap<Ipv6Network, u16>,
    /// Updates that wait for those.
    held: BTreeMap<Ipv6Network, Due>,
    order: Order,
    next_opaque: u16,
}

/// Whether the last word about a destination has to wait until the one before was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The neighbour acknowledges at once.
    Kept,
    /// It may take its time, or never acknowledge.
    Loose,
}

impl Outbox {
    pub(crate) const fn new(order: Order, first_opaque: u16) -> Self {
        Self {
            flying: BTreeMap::new(),
            held: BTreeMap::new(),
            order,
            updates: BTreeMap::new(),
            soonest: None,
            asks: BTreeMap::new(),
            acks: Vec::new(),
            messages: VecDeque::new(),
            dump: None,
            flights: VecDeque::new(),
            next_opaque: first_opaque,
        }
    }

    /// Something about a destination is to be said by then; never later than it already was.
    pub(crate) fn update(&mut self, prefix: Ipv6Network, at: Instant) {
        self.merge(
            prefix,
            Due {
                at,
                is_answer: false,
                copies: 0,
            },
        );
    }

    /// The neighbour is to hear about a destination, whatever there is to say.
    pub(crate) fn answer(&mut self, prefix: Ipv6Network, at: Instant) {
        self.merge(
            prefix,
            Due {
                at,
                is_answer: true,
                copies: 0,
            },
        );
    }

    fn merge(&mut self, prefix: Ipv6Network, due: Due) {
        let updates = if self.flying.contains_key(&prefix) {
            &mut self.held
        } else {
            self.soonest = Some(self.soonest.map_or(due.at, |at| at.min(due.at)));
            &mut self.updates
        };
        updates
            .entry(prefix)
            .and_modify(|known| {
                known.at = known.at.min(due.at);
                known.is_answer |= due.is_answer;
                known.copies = known.copies.max(due.copies);
            })
            .or_insert(due);
    }

    /// Asks the neighbour for something.
    pub(crate) fn ask(&mut self, ask: Ask, wanted: SeqnoWanted, at: Instant) {
        let due = Due {
            at,
            is_answer: false,
            copies: 0,
        };
        self.asks.insert(ask, (due, wanted));
    }

    /// A message of ours. The oldest makes room if there are too many.
    pub(crate) fn message(&mut self, body: Vec<u8>) {
        if self.messages.len() == MOST_MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back(body);
    }

    /// Answers an Acknowledgment Request.
    pub(crate) fn ack(&mut self, to: Ipv6Addr, opaque: u16) {
        if self.acks.len() < MOST_ACKS {
            self.acks.push((to, opaque));
        }
    }

    /// Goes through the whole table, from the beginning if that was not under way.
    pub(crate) fn dump(&mut self, kind: DumpKind, now: Instant) {
        if self.dump.is_none_or(|dump| dump.kind < kind) {
            self.dump = Some(Dump {
                after: None,
                kind,
                next: now,
            });
        }
    }

    /// Whether the neighbour is being told everything, and has not come to this destination.
    pub(crate) fn will_tell_all_after(&self, prefix: Ipv6Network) -> bool {
        self.dump.is_some_and(|dump| {
            dump.kind == DumpKind::Full && dump.after.is_none_or(|after| after < prefix)
        })
    }

    /// What is due, or as good as due, if anything is: it is taken out.
    pub(crate) fn take_due(&mut self, most: usize, now: Instant) -> Vec<(Ipv6Network, Due)> {
        if self.soonest.is_none_or(|at| now < at) || !self.has_room() {
            return Vec::new();
        }
        let due: Vec<_> = self
            .updates
            .iter()
            .filter(|(_, due)| due.at <= now + TOGETHER)
            .take(most)
            .map(|(&prefix, &due)| (prefix, due))
            .collect();
        for (prefix, _) in &due {
            self.updates.remove(prefix);
        }
        self.soonest = self.updates.values().map(|due| due.at).min();
        due
    }

    /// What is to be asked now: it is taken out.
    pub(crate) fn take_asks(&mut self, now: Instant) -> Vec<(Ask, Due, SeqnoWanted)> {
        if !self.has_room() {
            return Vec::new();
        }
        let due: Vec<_> = self
            .asks
            .iter()
            .filter(|(_, (due, _))| due.at <= now)
            .map(|(&ask, &(due, wanted))| (ask, due, wanted))
            .collect();
        for (ask, ..) in &due {
            self.asks.remove(ask);
        }
        due
    }

    /// The number for the next Acknowledgment Request. The `count` that follow it are taken, too.
    pub(crate) const fn take_opaques(&mut self, count: u16) -> u16 {
        let first = self.next_opaque;
        self.next_opaque = first.wrapping_add(count);
        first
    }

    /// A packet leaves that is to be acknowledged within `patience`, or sent again.
    pub(crate) fn launch(&mut self, opaque: u16, cargo: Cargo, patience: Duration, now: Instant) {
        let doublings = u32::from(cargo.copies.saturating_sub(1)).min(4);
        if self.order == Order::Kept {
            for (prefix, _) in &cargo.updates {
                *self.flying.entry(*prefix).or_default() += 1;
                if let Some(due) = self.updates.remove(prefix) {
                    self.held.insert(*prefix, due);
                }
            }
        }
        self.flights.push_back(Flight {
            opaque,
            sent: now,
            resend: now + patience * (1 << doublings),
            cargo,
        });
    }

    /// An Acknowledgment came.
    pub(crate) fn acknowledged(&mut self, opaque: u16, now: Instant) -> Acknowledged {
        let place = self
            .flights
            .iter()
            .position(|flight| flight.opaque == opaque);
        match place.and_then(|place| self.flights.remove(place)) {
            Some(flight) => {
                self.land(&flight.cargo);
                Acknowledged::Now(flight.cargo, now.saturating_duration_since(flight.sent))
            }
            None if self.next_opaque.wrapping_sub(opaque).wrapping_sub(1) < LATE => {
                Acknowledged::Late
            }
            None => Acknowledged::Unknown,
        }
    }

    /// The packets that should have been acknowledged by now.
    pub(crate) fn take_unacknowledged(&mut self, now: Instant) -> Vec<Cargo> {
        let (overdue, waiting) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition::<VecDeque<_>, _>(|flight| flight.resend <= now);
        self.flights = waiting;
        let cargos: Vec<Cargo> = overdue.into_iter().map(|flight| flight.cargo).collect();
        for cargo in &cargos {
            self.land(cargo);
        }
        cargos
    }

    /// A packet is not waited for any more: what has waited for it may be said.
    fn land(&mut self, cargo: &Cargo) {
        for (prefix, _) in &cargo.updates {
            let Some(count) = self.flying.get_mut(prefix) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.flying.remove(prefix);
                if let Some(due) = self.held.remove(prefix) {
                    self.merge(*prefix, due);
                }
            }
        }
    }

    /// Sends again what was in a packet that was lost. Says whether that has been tried often enough.
    pub(crate) fn again(&mut self, cargo: &Cargo, now: Instant) -> bool {
        //= RFC 8966 §3.7.2 copies
        if cargo.copies >= MOST_COPIES {
            return false;
        }
        let due = Due {
            at: now,
            is_answer: false,
            copies: cargo.copies,
        };
        for &(prefix, _) in &cargo.updates {
            self.merge(prefix, due);
        }
        for &(ask, wanted) in &cargo.asks {
            self.asks.entry(ask).or_insert((due, wanted));
        }
        true
    }

    /// The neighbour is out of reach: nothing that was meant for it has any use.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.order, self.next_opaque);
    }

    /// Whether another packet may leave that has to be acknowledged.
    fn has_room(&self) -> bool {
        self.flights.len() < MOST_FLIGHTS
    }

    /// Whether packets of a whole table are acknowledged: plain Babel speakers get it so often that it need not be.
    pub(crate) fn is_reliable(&self, kind: DumpKind) -> bool {
        self.order == Order::Kept || kind == DumpKind::Full
    }

    /// Whether another packet of a whole table may leave.
    pub(crate) fn has_room_for(&self, kind: DumpKind) -> bool {
        self.has_room() || !self.is_reliable(kind)
    }

    /// Whether something about a destination is under way, so that the next word about it has to wait.
    pub(crate) fn is_flying(&self, prefix: Ipv6Network) -> bool {
        self.flying.contains_key(&prefix)
    }

    /// When there is something to send; `is_patient`: nothing is sent again for want of an Acknowledgment.
    pub(crate) fn deadline(&self, is_patient: bool) -> Deadline {
        let mut deadline = Deadline::default();
        if self.has_room() {
            deadline.at(self.soonest, "update");
            deadline.at(self.asks.values().map(|(due, _)| due.at).min(), "request");
        }
        if let Some(dump) = self.dump.filter(|&dump| self.has_room_for(dump.kind)) {
            deadline.at(dump.next, "dump");
        }
        if !is_patient {
            let resend = self.flights.iter().map(|flight| flight.resend).min();
            deadline.at(resend, "acknowledgment");
        }
        deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn prefix(number: u16) -> Ipv6Network {
        format!("600:{number:x}::/64").parse().unwrap()
    }

    fn cargo(copies: u8) -> Cargo {
        Cargo {
            updates: vec![(prefix(1), Word::Route)],
            copies,
            ..Cargo::default()
        }
    }

    #[test]
    fn what_changes_twice_is_sent_once_and_by_the_earlier_time() {
        let now = start();
        let mut outbox = Outbox::new(Order::Kept, 0);
        outbox.update(prefix(1), now + PATIENCE);
        outbox.update(prefix(1), now);
        outbox.update(prefix(1), now + PATIENCE);
        let due = outbox.take_due(100, now);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].1.at, now);
        assert_eq!(outbox.deadline(false).earliest(), None);
    }

    #[test]
    fn what_is_nearly_due_goes_along_but_does_not_start_a_packet() {
        let now = start();
        let mut outbox = Outbox::new(Order::Kept, 0);
        outbox.update(prefix(2), now + TOGETHER);
        outbox.update(prefix(3), now + Duration::from_secs(1));
        assert!(outbox.take_due(100, now).is_empty());
        outbox.update(prefix(1), now);
        let due = outbox.take_due(100, now);
        assert_eq!(due.len(), 2);
        assert_eq!(outbox.updates.len(), 1);
    }

    #[test]
    fn the_last_word_waits_until_the_one_before_has_arrived() {
        let now = start();
        let mut outbox = Outbox::new(Order::Kept, 0);
        let opaque = outbox.take_opaques(1);
        outbox.launch(opaque, cargo(1), PATIENCE, now);
        outbox.update(prefix(1), now);
        assert!(outbox.take_due(100, now).is_empty());
        let (at, _) = outbox.deadline(false).earliest().unwrap();
        assert_eq!(at, now + PATIENCE, "the packet's, not the update's");
        outbox.acknowledged(opaque, now);
        assert_eq!(outbox.take_due(100, now).len(), 1);
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_four_times_ever_later() {
        let start = start();
        let mut outbox = Outbox::new(Order::Kept, 9);
        let (mut now, mut times) = (start, Vec::new());
        outbox.launch(1, cargo(1), PATIENCE, now);
        while let Some((at, _)) = outbox.deadline(false).earliest() {
            now = at;
            for mut lost in outbox.take_unacknowledged(now) {
                if outbox.again(&lost, now) {
                    times.push((now - start).as_millis());
                    let due = outbox.take_due(100, now);
                    lost.copies = due[0].1.copies + 1;
                    outbox.launch(1, lost, PATIENCE, now);
                }
            }
        }
        assert_eq!(times, [100, 300, 700, 1_500]);
    }

    #[test]
    fn an_acknowledgment_that_comes_late_is_told_from_one_of_nothing() {
        let now = start();
        let mut outbox = Outbox::new(Order::Kept, 0xfff0);
        let opaque = outbox.take_opaques(3);
        assert_eq!(opaque, 0xfff0);
        outbox.launch(opaque, cargo(1), PATIENCE, now);
        let later = now + Duration::from_millis(7);
        assert!(matches!(
            outbox.acknowledged(opaque, later),
            Acknowledged::Now(_, span) if span == Duration::from_millis(7)
        ));
        assert!(matches!(
            outbox.acknowledged(opaque, later),
            Acknowledged::Late
        ));
        for unknown in [0xfff3, 0, 0x8000] {
            assert!(matches!(
                outbox.acknowledged(unknown, later),
                Acknowledged::Unknown
            ));
        }
    }

    #[test]
    fn a_neighbour_that_acknowledges_nothing_stops_the_flow() {
        let now = start();
        let mut outbox = Outbox::new(Order::Kept, 0);
        for _ in 0..MOST_FLIGHTS {
            let opaque = outbox.take_opaques(1);
            outbox.launch(opaque, cargo(1), PATIENCE, now);
        }
        outbox.update(prefix(2), now);
        assert!(outbox.take_due(100, now).is_empty());
        assert_eq!(outbox.deadline(true).earliest(), None);
        outbox.acknowledged(0, now);
        assert_eq!(outbox.take_due(100, now).len(), 1);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut outbox = Outbox::new(Order::Kept, 0);
        for number in 0..10_000_u16 {
            outbox.ack(Ipv6Addr::LOCALHOST, number);
            outbox.message(number.to_be_bytes().into());
        }
        assert_eq!(outbox.acks.len(), MOST_ACKS);
        assert_eq!(outbox.messages.len(), MOST_MESSAGES);
        assert_eq!(outbox.messages.back(), Some(&vec![0x27, 0x0f]));
    }
}
