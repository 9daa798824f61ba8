//! What a link costs (RFC 8966 §3.4.3, RFC 9616): its losses and its round-trip time, kept from swinging.

use std::time::{Duration, Instant};

use crate::types::Metric;

/// What a link without losses costs.
pub const NOMINAL: Metric = Metric(96);
/// So few losses among the last sixteen Hellos do not count.
const FORGIVEN: u32 = 1;

/// How much the round-trip time adds to the cost of a link: nothing up to `least`, `penalty` from `most` on, in between in proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Up to here it adds nothing.
    pub least: Duration,
    /// From here on it adds no more.
    pub most: Duration,
    /// The most it adds; 0: the round-trip time does not matter.
    pub penalty: u16,
}

impl Delay {
    /// From 10 to 120 ms, at most as much as three more hops.
    pub const DEFAULT: Self = Self {
        least: Duration::from_millis(10),
        most: Duration::from_millis(120),
        penalty: 300,
    };

    /// What a round trip of so many microseconds adds.
    fn cost(&self, rtt: u32) -> u16 {
        let rtt = Duration::from_micros(rtt.into()).clamp(self.least, self.most);
        let span = (self.most - self.least).as_micros().max(1);
        let above = (rtt - self.least).as_micros();
        (u128::from(self.penalty) * above / span) as u16
    }
}

/// The cost of receiving over a link that lost `missed` of the last `known` Hellos. As in ETX (RFC 8966 Appendix A.2.2), but that
/// a link without losses costs [`NOMINAL`].
pub(crate) fn rxcost((missed, known): (u32, u32)) -> Metric {
    if missed <= FORGIVEN {
        return NOMINAL;
    }
    let came = (known - missed).max(1);
    Metric((u32::from(NOMINAL.0) * known / came) as u16)
}

/// The cost of a link: of both directions, of its round-trip time in microseconds, and at least `least`. Finite.
pub(crate) fn link_cost(
    txcost: Metric,
    rxcost: Metric,
    least: Metric,
    rtt: Option<u32>,
    delay: &Delay,
) -> Metric {
    let both = u32::from(txcost.max(NOMINAL).0) * u32::from(rxcost.0) / u32::from(NOMINAL.0);
    //= RFC 8966 §3.4.3 positive
    let reachability = u16::try_from(both).unwrap_or(u16::MAX).max(least.0).max(1);
    let delay = rtt.map_or(0, |rtt| delay.cost(rtt));
    Metric(reachability.saturating_add(delay).min(u16::MAX - 1))
}

/// A cost that changes only if there is reason to: the traffic that a low cost draws onto a link delays its Hellos, and must not
/// drive itself away again and again.
#[derive(Clone, Debug)]
pub(crate) struct SteadyCost {
    value: Metric,
    /// When the link came up.
    since: Instant,
    /// Since when the cost has been out of the band, and on which side.
    outside: Option<(Instant, Side)>,
    /// How often it has turned back.
    turns: u32,
    last: Option<(Instant, Side)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

/// In the beginning, a cost is corrected at once.
const SETTLING: Duration = Duration::from_secs(10);
/// A cost that is higher for so long is believed.
const RISE: Duration = Duration::from_secs(5);
/// And one that is lower, unless it has turned back before: each time doubles it.
const FALL: Duration = Duration::from_secs(30);
/// So many times.
const MOST_TURNS: u32 = 5;
/// Turns are forgotten after so long without a change.
const CALM: Duration = Duration::from_secs(3_600);

impl SteadyCost {
    pub(crate) const fn new(value: Metric, now: Instant) -> Self {
        Self {
            value,
            since: now,
            outside: None,
            turns: 0,
            last: None,
        }
    }

    pub(crate) const fn value(&self) -> Metric {
        self.value
    }

    /// The link costs `now_costs` at the moment. Says whether the value has changed.
    pub(crate) fn note(&mut self, now_costs: Metric, now: Instant) -> bool {
        let settling = now < self.since + SETTLING;
        let band = if settling {
            (self.value.0 / 8).max(16)
        } else {
            (self.value.0 / 4).max(48)
        };
        let side = if now_costs.0 > self.value.0.saturating_add(band) {
            Side::Above
        } else if now_costs.0 < self.value.0.saturating_sub(band) {
            Side::Below
        } else {
            self.outside = None;
            return false;
        };
        let (began, _) = *self.outside.insert(match self.outside {
            Some(outside) if outside.1 == side => outside,
            Some(_) | None => (now, side),
        });
        if !settling && now < began + self.dwell(side, now) {
            return false;
        }
        self.adopt(now_costs, side, now);
        true
    }

    /// When a cost that is out of the band will have been so for long enough.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.outside
            .map(|(began, side)| began + self.dwell(side, now))
    }

    fn dwell(&self, side: Side, now: Instant) -> Duration {
        match side {
            Side::Above => RISE,
            Side::Below if self.is_calm(now) => FALL,
            Side::Below => FALL * (1 << self.turns),
        }
    }

    fn is_calm(&self, now: Instant) -> bool {
        self.last.is_none_or(|(at, _)| now >= at + CALM)
    }

    fn adopt(&mut self, value: Metric, side: Side, now: Instant) {
        if self.is_calm(now) {
            self.turns = 0;
        } else if now >= self.since + SETTLING
            && side == Side::Below
            && self.last.is_some_and(|(_, last)| last == Side::Above)
        {
            self.turns = (self.turns + 1).min(MOST_TURNS);
        }
        self.value = value;
        self.outside = None;
        self.last = Some((now, side));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;
    use proptest::prelude::*;

    fn cost(txcost: u16, losses: (u32, u32), rtt_millis: u32) -> u16 {
        let rtt = Some(rtt_millis * 1_000);
        link_cost(
            Metric(txcost),
            rxcost(losses),
            NOMINAL,
            rtt,
            &Delay::DEFAULT,
        )
        .0
    }

    #[test]
    fn a_near_link_without_losses_costs_96() {
        assert_eq!(cost(96, (0, 16), 0), 96);
        assert_eq!(cost(96, (0, 1), 10), 96);
        assert_eq!(cost(96, (1, 16), 10), 96, "once is chance");
    }

    #[test]
    fn a_round_trip_of_120_ms_costs_as_much_as_three_hops_more() {
        assert_eq!(cost(96, (0, 16), 65), 96 + 150);
        assert_eq!(cost(96, (0, 16), 120), 96 + 300);
        assert_eq!(cost(96, (0, 16), 60_000), 96 + 300);
    }

    #[test]
    fn losses_in_both_directions_multiply() {
        assert_eq!(cost(96, (8, 16), 0), 192);
        assert_eq!(cost(192, (8, 16), 0), 384);
    }

    #[test]
    fn a_neighbour_that_says_it_hears_us_for_nothing_is_not_believed() {
        assert_eq!(cost(0, (0, 16), 0), 96);
        assert_eq!(cost(1, (0, 16), 0), 96);
    }

    #[test]
    fn short_noise_changes_nothing_and_a_lasting_change_does() {
        let start = start();
        let mut cost = SteadyCost::new(Metric(200), start);
        let mut at = |seconds, value| {
            let now = start + Duration::from_secs(seconds);
            let is_changed = cost.note(Metric(value), now);
            assert_eq!(is_changed, cost.value() == Metric(value) && value != 200);
            cost.value().0
        };
        assert_eq!(at(20, 240), 200, "within a quarter");
        assert_eq!(at(21, 400), 200);
        assert_eq!(at(24, 230), 200);
        assert_eq!(at(25, 400), 200);
        assert_eq!(at(29, 410), 200);
        assert_eq!(at(30, 405), 405);
    }

    #[test]
    fn the_first_samples_are_taken_at_once() {
        let start = start();
        let mut cost = SteadyCost::new(Metric(396), start);
        assert!(cost.note(Metric(110), start + Duration::from_secs(1)));
        assert_eq!(cost.value(), Metric(110));
    }

    /// How often a link that is slow while it is used, and is used while it is cheap, changes its cost within an hour.
    #[test]
    fn load_that_follows_the_cost_does_not_make_it_swing() {
        let start = start();
        let mut cost = SteadyCost::new(Metric(96), start);
        let (mut changes, mut now) = (0, start);
        while now < start + Duration::from_secs(3_600) {
            now += Duration::from_millis(700);
            let is_used = cost.value() < Metric(192);
            let raw = if is_used && now > start + SETTLING {
                396
            } else {
                96
            };
            changes += u32::from(cost.note(Metric(raw), now));
        }
        assert!(changes <= 15, "{changes} changes");
    }

    proptest! {
        #[test]
        fn a_cost_is_finite_and_never_less_than_the_least(
            txcost in 0_u16..0xffff, missed in 0_u32..=16, known in 0_u32..=16, rtt: u32, least in 1_u16..2_000,
        ) {
            let losses = (missed.min(known), known);
            let cost = link_cost(Metric(txcost), rxcost(losses), Metric(least), Some(rtt), &Delay::DEFAULT);
            prop_assert!(cost >= Metric(least) && cost.is_finite());
        }
    }
}
