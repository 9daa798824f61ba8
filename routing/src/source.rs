//! The source table (RFC 8966 §3.2.5): for each prefix and origin, the best distance that we have ever announced.

use crate::clock::Tick;
use crate::types::{Metric, RouterId, Seqno};

/// An origin of a prefix, and our feasibility distance to it.
///
/// There is one for each origin that any neighbour names, so that routes need not repeat the router-id; a distance only once we have
/// announced one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) router_id: RouterId,
    seqno: Seqno,
    /// Infinite: there is no distance.
    metric: Metric,
    expires: Tick,
}

impl Source {
    /// An origin to which nothing was announced yet.
    pub(crate) const fn new(router_id: RouterId) -> Self {
        Self {
            router_id,
            seqno: Seqno(0),
            metric: Metric::INFINITY,
            expires: Tick::NEVER,
        }
    }

    /// The feasibility distance, if there is one.
    pub(crate) fn distance(&self) -> Option<(Seqno, Metric)> {
        self.metric.is_finite().then_some((self.seqno, self.metric))
    }

    /// Whether a route that a neighbour announces with this distance cannot make a loop.
    pub(crate) fn is_feasible(&self, seqno: Seqno, metric: Metric) -> bool {
        !metric.is_finite()
            || self.distance().is_none_or(|(best_seqno, best_metric)| {
                seqno.is_newer_than(best_seqno) || seqno == best_seqno && metric < best_metric
            })
    }

    /// Which seqno makes any route feasible.
    pub(crate) fn next_seqno(&self) -> Option<Seqno> {
        self.distance().map(|(seqno, _)| seqno.plus(1))
    }

    /// A finite update is about to leave: notes it, until `expires`.
    pub(crate) fn announce(&mut self, seqno: Seqno, metric: Metric, expires: Tick) {
        let is_better = self.distance().is_none_or(|(best_seqno, best_metric)| {
            seqno.is_newer_than(best_seqno) || seqno == best_seqno && metric < best_metric
        });
        if is_better {
            (self.seqno, self.metric) = (seqno, metric);
        }
        self.expires = expires;
    }

    /// Forgets the distance if it has been so long since the last update.
    pub(crate) fn expire(&mut self, now: Tick) {
        if self.expires <= now {
            *self = Self::new(self.router_id);
        }
    }

    /// When the distance will be forgotten.
    pub(crate) const fn expires(&self) -> Tick {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source() -> Source {
        Source::new(RouterId([1; 8]))
    }

    #[test]
    fn anything_is_feasible_before_anything_was_announced() {
        assert!(source().is_feasible(Seqno(9), Metric(65_000)));
    }

    #[test]
    fn only_newer_or_strictly_nearer_is_feasible() {
        let mut source = source();
        source.announce(Seqno(0xffff), Metric(200), Tick(1));
        for (seqno, metric, is_feasible) in [
            (0xffff, 199, true),
            (0xffff, 200, false),
            (0xfffe, 0, false),
            (0, 60_000, true),
            (0x7fff, 100, false),
            (0xfffe, 0xffff, true),
        ] {
            assert_eq!(
                source.is_feasible(Seqno(seqno), Metric(metric)),
                is_feasible,
                "{seqno} {metric}"
            );
        }
    }

    #[test]
    fn a_distance_is_forgotten_when_nothing_was_announced_for_long() {
        let mut source = source();
        source.announce(Seqno(1), Metric(96), Tick(10));
        source.announce(Seqno(1), Metric(300), Tick(20));
        source.expire(Tick(19));
        assert_eq!(source.distance(), Some((Seqno(1), Metric(96))));
        source.expire(Tick(20));
        assert_eq!(source.distance(), None);
    }

    proptest! {
        #[test]
        fn what_was_announced_makes_everything_not_better_infeasible(
            announced in proptest::collection::vec((0_u16..50, 0_u16..500), 1..20), seqno in 0_u16..50, metric in 0_u16..500,
        ) {
            let mut source = source();
            for &(seqno, metric) in &announced {
                source.announce(Seqno(seqno), Metric(metric), Tick::NEVER);
            }
            let is_better = announced.iter().all(|&(s, m)| seqno > s || seqno == s && metric < m);
            prop_assert_eq!(source.is_feasible(Seqno(seqno), Metric(metric)), is_better);
        }
    }
}
