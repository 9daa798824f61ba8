//! The other end of a link (RFC 8966 §3.2.4): which of its Hellos came, how well it hears us, how far away it is.

mod history;
mod liveness;
mod round_trip;

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::clock::Deadline;
use crate::types::{Interval, Metric, Seqno};
use crate::wire::{Echo, HelloKind};
use history::History;
pub(crate) use history::Sequence;
pub use liveness::Patience;
pub(crate) use liveness::{Doubt, Liveness, Turn};
pub(crate) use round_trip::RoundTrip;

/// How long what an IHU says is believed, in intervals (RFC 8966 Appendix B: 3.5).
const IHU_HOLD: (u32, u32) = (7, 2);

/// The other end of a link.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) address: Ipv6Addr,
    pub(crate) liveness: Liveness,
    pub(crate) round_trip: RoundTrip,
    multicast: History,
    unicast: History,
    txcost: Metric,
    ihu_expires: Option<Instant>,
    /// When the Hello of ours was sent that its last IHU has echoed, by our clock in microseconds.
    echoed: Option<u32>,
    echo: Option<Echo>,
}

impl Neighbour {
    /// A neighbour that has said Hello: pass it on to [`Self::hello`].
    pub(crate) fn new(address: Ipv6Addr, patience: Patience) -> Self {
        Self {
            address,
            liveness: Liveness::new(patience),
            round_trip: RoundTrip::default(),
            multicast: History::default(),
            unicast: History::default(),
            txcost: Metric::INFINITY,
            ihu_expires: None,
            echoed: None,
            echo: None,
        }
    }

    /// A Hello came. If it [`Sequence::Restarted`], nothing is noted: a new neighbour has to take this one's place.
    pub(crate) fn hello(
        &mut self,
        kind: HelloKind,
        seqno: Seqno,
        interval: Option<Interval>,
        now: Instant,
    ) -> Sequence {
        let history = match kind {
            HelloKind::Multicast => &mut self.multicast,
            HelloKind::Unicast => &mut self.unicast,
        };
        let sequence = history.note(seqno, interval, now);
        let (is_steady, promise) = (self.is_steady(), self.promise());
        self.liveness.hello(promise, now);
        self.liveness.returns(is_steady, promise, now);
        sequence
    }

    /// When its last Hello with a time was sent, by its clock, and received, by ours.
    pub(crate) const fn note_echo(&mut self, echo: Echo) {
        self.echo = Some(echo);
    }

    /// What it needs to know from us to compute the round-trip time.
    pub(crate) const fn echo(&self) -> Option<Echo> {
        self.echo
    }

    /// It says how well it hears us. That is out of date if it echoes an older Hello of ours than before: babeld may send what it has
    /// put by for a while after what it has said since.
    pub(crate) fn ihu(
        &mut self,
        rxcost: Metric,
        interval: Interval,
        echo: Option<Echo>,
        now: Instant,
    ) {
        if let (Some(echo), Some(echoed), Some(_)) = (echo, self.echoed, self.ihu_expires)
            && (echo.origin.wrapping_sub(echoed) as i32) < 0
        {
            return;
        }
        self.echoed = echo.map(|echo| echo.origin);
        self.txcost = rxcost;
        self.ihu_expires = Some(now + interval.duration() * IHU_HOLD.0 / IHU_HOLD.1);
    }

    /// A packet came from it, or data.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.liveness.heard(self.promise(), now);
    }

    /// It answered an Acknowledgment Request.
    pub(crate) fn answered(&mut self, now: Instant) {
        let was_silent = self.liveness.is_silent();
        self.liveness.answered(self.promise(), now);
        if was_silent {
            self.multicast.forgive();
            self.unicast.forgive();
        }
    }

    /// Lets pass what has run out.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.multicast.expire(now);
        self.unicast.expire(now);
        if self.ihu_expires.is_some_and(|expires| expires <= now) {
            self.ihu_expires = None;
            self.echoed = None;
            self.txcost = Metric::INFINITY;
        }
    }

    /// Whether it is to be asked, or has just been given up.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Turn> {
        let rtt = self.round_trip.mean().unwrap_or(0);
        let (missed, _) = self.losses();
        self.liveness
            .poll(Duration::from_micros(rtt.into()), missed, now)
    }

    /// Whether nothing has been heard of it for sixteen Hellos of either kind, so that it is to be forgotten.
    pub(crate) const fn is_gone(&self) -> bool {
        self.multicast.is_empty() && self.unicast.is_empty()
    }

    /// Whether it is heard: one that answers when asked, until it does not; another while its Hellos are steady.
    pub(crate) const fn is_heard(&self) -> bool {
        !self.liveness.is_silent()
            && !self.is_gone()
            && (self.liveness.answers() || self.is_steady())
    }

    /// What it costs it to hear us, as it says.
    pub(crate) const fn txcost(&self) -> Metric {
        self.txcost
    }

    /// How many of its last Hellos did not come, and of how many: of the kind that fares better.
    pub(crate) fn losses(&self) -> (u32, u32) {
        let (multicast, unicast) = (self.multicast.missed(), self.unicast.missed());
        if multicast.1 == 0 || unicast.1 > 0 && unicast.0 < multicast.0 {
            unicast
        } else {
            multicast
        }
    }

    /// How soon it promised its next Hello.
    pub(crate) fn promise(&self) -> Option<Duration> {
        let intervals = [self.multicast.interval(), self.unicast.interval()];
        let soonest = intervals.into_iter().flatten().min()?;
        Some(soonest.duration())
    }

    pub(crate) fn deadline(&self) -> Deadline {
        let mut deadline = Deadline::default();
        deadline.at(self.multicast.timer(), "hello missed");
        deadline.at(self.unicast.timer(), "hello missed");
        deadline.at(self.ihu_expires, "ihu expires");
        deadline.at(self.liveness.deadline(), "hello late");
        deadline
    }

    const fn is_steady(&self) -> bool {
        self.multicast.is_steady() || self.unicast.is_steady()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    const HALF: Interval = Interval(50);

    fn neighbour() -> Neighbour {
        Neighbour::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Patience::MESHD)
    }

    fn hello(neighbour: &mut Neighbour, kind: HelloKind, seqno: u16, now: Instant) {
        let sequence = neighbour.hello(kind, Seqno(seqno), Some(HALF), now);
        assert_eq!(sequence, Sequence::Continues);
    }

    #[test]
    fn an_ihu_is_believed_for_three_and_a_half_intervals() {
        let (start, mut neighbour) = (start(), neighbour());
        neighbour.ihu(Metric(96), Interval(100), None, start);
        neighbour.expire(start + Duration::from_millis(3_499));
        assert_eq!(neighbour.txcost(), Metric(96));
        neighbour.expire(start + Duration::from_millis(3_500));
        assert_eq!(neighbour.txcost(), Metric::INFINITY);
    }

    #[test]
    fn an_ihu_that_echoes_an_older_hello_is_out_of_date() {
        let (start, mut neighbour) = (start(), neighbour());
        let echo = |origin| {
            let received = 7;
            Some(Echo { origin, received })
        };
        for (echo, rxcost, believed) in [
            (echo(u32::MAX), 96, 96),
            (echo(3), 97, 97),
            (echo(u32::MAX), 0xffff, 97),
            (echo(3), 98, 98),
            (None, 99, 99),
        ] {
            neighbour.ihu(Metric(rxcost), Interval(100), echo, start);
            assert_eq!(neighbour.txcost(), Metric(believed));
        }
        // Not for longer than it is believed itself.
        neighbour.ihu(Metric(96), Interval(100), echo(1 << 30), start);
        let later = start + Duration::from_secs(4);
        neighbour.expire(later);
        neighbour.ihu(Metric(96), Interval(100), echo(1), later);
        assert_eq!(neighbour.txcost(), Metric(96));
    }

    #[test]
    fn either_kind_of_hello_keeps_it_there() {
        for kind in [HelloKind::Multicast, HelloKind::Unicast] {
            let (start, mut neighbour) = (start(), neighbour());
            for seqno in 0..40_u16 {
                let now = start + Duration::from_millis(500) * seqno.into();
                neighbour.expire(now);
                hello(&mut neighbour, kind, seqno, now);
                assert!(neighbour.is_heard());
            }
            neighbour.expire(start + Duration::from_secs(20 + 9));
            assert!(neighbour.is_gone() && !neighbour.is_heard());
        }
    }

    #[test]
    fn one_that_has_never_answered_needs_two_of_three_hellos() {
        let (start, mut neighbour) = (start(), neighbour());
        hello(&mut neighbour, HelloKind::Multicast, 1, start);
        hello(&mut neighbour, HelloKind::Multicast, 4, start);
        assert!(!neighbour.is_heard());
        neighbour.answered(start);
        assert!(neighbour.is_heard());
    }

    #[test]
    fn what_was_lost_while_it_was_away_is_forgiven() {
        let (start, mut neighbour) = (start(), neighbour());
        hello(&mut neighbour, HelloKind::Multicast, 1, start);
        neighbour.answered(start);
        neighbour.liveness.give_up();
        neighbour.expire(start + Duration::from_secs(5));
        hello(
            &mut neighbour,
            HelloKind::Multicast,
            11,
            start + Duration::from_secs(5),
        );
        assert!(neighbour.losses().0 > 5);
        neighbour.answered(start + Duration::from_secs(5));
        assert_eq!(neighbour.losses(), (0, 1));
    }
}
