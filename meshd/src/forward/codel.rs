//! CoDel (RFC 8289): from how long packets waited in a queue to the question which of them should tell its sender to slow down.
//!
//! A queue that empties now and then does its work, however long it becomes in between; one that is never shorter than [`TARGET`] for a
//! whole [`INTERVAL`] only adds delay. From then on one packet is chosen, and further ones ever more often until the queue is short again.
//! What becomes of a chosen packet (marked or dropped) is the caller's.

use std::time::{Duration, Instant};

/// How long packets may wait without end: 5 % of the interval, as the RFC has it, and less, since at this speed 2 ms are a megabyte.
pub(super) const TARGET: Duration = Duration::from_millis(2);
/// How long a queue may stay above the target: the time in which a sender far away can have reacted (RFC 8289 §4.3).
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// The memory of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codel {
    /// When the queue will have been above the target for an interval; none while it is below.
    due: Option<Instant>,
    /// While packets are being chosen: when the next one is.
    next: Option<Instant>,
    /// How many were chosen in this state so far.
    count: u32,
    /// When that state was left, and with what count: a return soon after goes on from there.
    left: Option<(Instant, u32)>,
}

impl Codel {
    /// Whether the packet that leaves the queue now, after waiting so long, is chosen.
    pub(super) fn chooses(&mut self, waited: Duration, now: Instant) -> bool {
        if waited < TARGET {
            self.due = None;
            if self.next.take().is_some() {
                self.left = Some((now, self.count));
            }
            return false;
        }
        let Some(due) = self.due else {
            self.due = Some(now + INTERVAL);
            return false;
        };
        match self.next {
            None if now >= due => {
                // Where the last state ended is a better guess of the rate than one, if that was not long ago (RFC 8289 §5.4).
                self.count = match self.left {
                    Some((left, count)) if now.saturating_duration_since(left) < 16 * INTERVAL => {
                        count.saturating_sub(2).max(1)
                    }
                    Some(_) | None => 1,
                };
                self.next = Some(now + self.spacing());
                true
            }
            Some(next) if now >= next => {
                self.count = self.count.saturating_add(1);
                self.next = Some(next + self.spacing());
                true
            }
            Some(_) | None => false,
        }
    }

    /// Until the next choice: the rate grows as the square root of the count, so that the throughput of TCP falls linearly.
    fn spacing(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many packets are chosen if one leaves every `step` for a second, each after `waited`.
    fn chosen(codel: &mut Codel, waited: Duration, step: Duration, from: &mut Instant) -> usize {
        let end = *from + Duration::from_secs(1);
        let mut count = 0;
        while *from < end {
            count += usize::from(codel.chooses(waited, *from));
            *from += step;
        }
        count
    }

    #[test]
    fn a_queue_below_the_target_loses_nothing() {
        let (mut codel, mut now) = (Codel::default(), Instant::now());
        assert_eq!(chosen(&mut codel, TARGET - MS, MS, &mut now), 0);
    }

    #[test]
    fn a_queue_that_empties_within_every_interval_loses_nothing() {
        let (mut codel, mut now) = (Codel::default(), Instant::now());
        for _ in 0..50 {
            for _ in 0..99 {
                assert!(!codel.chooses(50 * MS, now));
                now += MS;
            }
            assert!(!codel.chooses(Duration::ZERO, now));
        }
    }

    #[test]
    fn a_standing_queue_is_told_of_more_and_more_often() {
        let (mut codel, mut now) = (Codel::default(), Instant::now());
        let seconds = [(); 3].map(|()| chosen(&mut codel, 10 * MS, MS, &mut now));
        // The k-th choice comes the sum of 100 ms / sqrt(i) after the first.
        assert_eq!(seconds[0], 27, "{seconds:?}");
        assert!(seconds[1] > seconds[0] && seconds[2] > seconds[1]);
    }

    #[test]
    fn a_queue_that_stands_again_soon_is_told_of_at_the_rate_that_had_helped() {
        let (mut codel, mut now) = (Codel::default(), Instant::now());
        let first = chosen(&mut codel, 10 * MS, MS, &mut now);
        assert!(!codel.chooses(Duration::ZERO, now));
        let again = chosen(&mut codel, 10 * MS, MS, &mut now);
        assert!(again > first, "{first} {again}");

        assert!(!codel.chooses(Duration::ZERO, now));
        now += 17 * INTERVAL;
        assert_eq!(chosen(&mut codel, 10 * MS, MS, &mut now), first);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_harms_nothing() {
        let (mut codel, now) = (Codel::default(), Instant::now());
        for _ in 0..1000 {
            codel.chooses(10 * MS, now);
            codel.chooses(10 * MS, now - MS);
        }
        assert_eq!(codel.count, 0);
    }
}
