//! When neighbours are told about a change (RFC 8966 §3.7.2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use crate::bucket::{Bucket, Rate};
use crate::rng::Rng;
use crate::route::Announced;

/// How long something urgent is kept back, so that what happens at the same time shares a packet. RFC 8966 Appendix B allows 200 ms.
//= RFC 8966 §3.1 urgent
const URGENT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));
/// Anything else: about the same at every hop, so that what comes by fewer hops comes first, and the better of two routes is mostly the
/// only one that is spoken of.
const SOON: (Duration, Duration) = (Duration::from_millis(16), Duration::from_millis(20));
/// How often a destination is spoken of: ten times at once, then once a second. Who flaps faster is not followed.
const RATE: Rate = Rate {
    interval: Duration::from_secs(1),
    burst: 10,
};

/// How much a neighbour needs to hear of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// Not at all.
    None,
    /// Before long.
    Soon,
    /// As soon as possible: it may send packets where they are lost, or in a circle.
    Urgent,
}

impl News {
    /// What is new, compared with what the neighbour was told last.
    pub(crate) fn of(told: Option<&Announced>, now: Option<&Announced>) -> Self {
        //= RFC 8966 §3.5.3 origin-changed
        //= RFC 8966 §3.7.2 origin-changed
        match (told, now) {
            (None, None) => Self::None,
            (Some(_), None) => Self::Urgent,
            (None, Some(_)) => Self::Soon,
            (Some(told), Some(now)) if told.router_id != now.router_id => Self::Urgent,
            (Some(told), Some(now)) if told.metric != now.metric => Self::Soon,
            (Some(_), Some(_)) => Self::None,
        }
    }

    /// How long it is kept back.
    pub(crate) fn delay(self, rng: &mut Rng) -> Duration {
        let (least, most) = match self {
            Self::Urgent => URGENT,
            Self::Soon | Self::None => SOON,
        };
        rng.between(least, most)
    }
}

/// The destinations that have been spoken of lately, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restless {
    lately: BTreeMap<Ipv6Network, Lately>,
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Lately {
    bucket: Bucket,
    scheduled: Instant,
    /// Not because of the delay, but because it has been spoken of too often.
    is_held_back: bool,
}

impl Restless {
    /// When to speak of a destination of which there is something new, in `delay` at the earliest.
    pub(crate) fn schedule(
        &mut self,
        prefix: Ipv6Network,
        delay: Duration,
        now: Instant,
    ) -> Instant {
        self.sweep(now);
        let lately = self.lately.entry(prefix).or_insert_with(|| Lately {
            bucket: Bucket::default(),
            scheduled: now,
            is_held_back: false,
        });
        let soonest = now + delay;
        if lately.scheduled > now {
            // It will be spoken of, and then of this, too.
            if !lately.is_held_back {
                lately.scheduled = lately.scheduled.min(soonest);
            }
            return lately.scheduled;
        }
        lately.scheduled = lately.bucket.next(RATE, soonest);
        lately.is_held_back = lately.scheduled > soonest;
        lately.bucket.take(RATE, lately.scheduled);
        lately.scheduled
    }

    /// Until when a destination has changed so often lately that it does not change without need.
    pub(crate) fn until(&self, prefix: Ipv6Network, now: Instant) -> Option<Instant> {
        let next = self.lately.get(&prefix)?.bucket.next(RATE, now);
        (next > now).then_some(next)
    }

    /// Forgets those that are at rest, now and then.
    fn sweep(&mut self, now: Instant) {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) >= RATE.interval {
            self.lately
                .retain(|_, lately| !lately.bucket.is_full(now) || lately.scheduled > now);
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;
    use crate::types::{Metric, RouterId, Seqno};

    fn route(router_id: u8, seqno: u16, metric: u16) -> Announced {
        Announced {
            router_id: RouterId([router_id; 8]),
            seqno: Seqno(seqno),
            metric: Metric(metric),
        }
    }

    #[test]
    fn an_end_and_another_origin_are_urgent_and_a_newer_seqno_is_no_news() {
        let before = route(1, 1, 96);
        let news = |now: Option<&Announced>| News::of(Some(&before), now);
        assert_eq!(news(None), News::Urgent);
        assert_eq!(news(Some(&route(2, 1, 96))), News::Urgent);
        assert_eq!(news(Some(&route(1, 1, 97))), News::Soon);
        assert_eq!(news(Some(&route(1, 2, 96))), News::None);
        assert_eq!(News::of(None, Some(&before)), News::Soon);
        assert_eq!(News::of(None, None), News::None);
    }

    #[test]
    fn nothing_urgent_waits_longer_than_the_rfc_allows() {
        let mut rng = Rng::new(1);
        assert!((0..1_000).all(|_| News::Urgent.delay(&mut rng) <= Duration::from_millis(200)));
    }

    #[test]
    fn a_destination_that_changes_a_hundred_times_a_second_is_spoken_of_once() {
        let (start, mut restless) = (start(), Restless::default());
        let prefix = "600::/64".parse().unwrap();
        let (mut due, mut spoken) = (None::<Instant>, 0);
        for change in 0..6_000_u64 {
            let now = start + Duration::from_millis(change * 10);
            if due.is_some_and(|due| due <= now) {
                (due, spoken) = (None, spoken + 1);
            }
            let at = restless.schedule(prefix, URGENT.0, now);
            due = Some(due.map_or(at, |due| due.min(at)));
            assert!(change < 500 || restless.until(prefix, now).is_some());
        }
        assert!((60..=72).contains(&spoken), "{spoken}");
        let later = start + Duration::from_secs(300);
        assert_eq!(restless.until(prefix, later), None);
        restless.schedule("600:1::/64".parse().unwrap(), URGENT.0, later);
        assert_eq!(restless.lately.len(), 1);
    }

    #[test]
    fn what_is_new_while_something_waits_goes_along() {
        let (now, mut restless) = (start(), Restless::default());
        let prefix = "600::/64".parse().unwrap();
        let soon = restless.schedule(prefix, SOON.1, now);
        assert_eq!(restless.schedule(prefix, SOON.1, now + SOON.0), soon);
        assert!(restless.schedule(prefix, URGENT.0, now) < soon);
    }
}
