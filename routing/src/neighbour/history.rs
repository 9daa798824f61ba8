//! Which of the last sixteen Hellos of a kind came (RFC 8966 Appendix A.1).

use std::time::Instant;

use crate::types::{Interval, Seqno};

/// How many Hellos are remembered.
const LENGTH: u32 = u16::BITS;

/// The Hellos of one kind that a neighbour has sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Whether it came, the latest in the highest bit.
    bits: u16,
    /// How many of the bits, from the highest, stand for Hellos that were ever due.
    known: u32,
    expected: Seqno,
    interval: Option<Interval>,
    timer: Option<Instant>,
}

/// What a Hello's seqno says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// It continues the history.
    Continues,
    /// The sender has lost its seqno: whatever was known about it is void.
    Restarted,
}

impl History {
    /// A Hello came. Nothing is noted if its sender has restarted.
    pub(crate) fn note(
        &mut self,
        seqno: Seqno,
        interval: Option<Interval>,
        now: Instant,
    ) -> Sequence {
        let ahead = i32::from(seqno.since(self.expected));
        if self.known > 0 {
            if ahead.unsigned_abs() > LENGTH {
                return Sequence::Restarted;
            }
            if ahead < 0 {
                self.undo(ahead.unsigned_abs());
            } else {
                (0..ahead).for_each(|_| self.push(false));
            }
        }
        self.push(true);
        self.expected = seqno.plus(1);
        if let Some(interval) = interval {
            self.interval = Some(interval);
            self.timer = Some(now + interval.duration() * 3 / 2);
        }
        Sequence::Continues
    }

    /// Notes the Hellos that did not come by `now`.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let (Some(timer), Some(interval)) = (self.timer, self.interval)
            && timer <= now
        {
            self.push(false);
            self.expected = self.expected.plus(1);
            self.timer = (!self.is_empty()).then(|| timer + interval.duration());
        }
    }

    /// Whether none of the last sixteen came.
    pub(crate) const fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// Whether two of the last three came, or the only one that was ever due (RFC 8966 Appendix A.2.1).
    pub(crate) const fn is_steady(&self) -> bool {
        (self.bits >> 13).count_ones() >= if self.known < 2 { 1 } else { 2 }
    }

    /// How many of the last Hellos did not come, and of how many.
    pub(crate) const fn missed(&self) -> (u32, u32) {
        (self.known - self.bits.count_ones(), self.known)
    }

    /// Forgets what was lost, so that a link that was cut is judged by how it is since.
    pub(crate) fn forgive(&mut self) {
        if self.known > 0 {
            self.known = 1;
            self.bits &= 0x8000;
        }
    }

    /// When the next Hello is due, as it was promised.
    pub(crate) const fn interval(&self) -> Option<Interval> {
        self.interval
    }

    pub(crate) const fn timer(&self) -> Option<Instant> {
        self.timer
    }

    fn push(&mut self, came: bool) {
        self.bits = self.bits >> 1 | u16::from(came) << 15;
        self.known = (self.known + 1).min(LENGTH);
    }

    /// Takes back the last `count` entries: they were due later than we thought.
    fn undo(&mut self, count: u32) {
        self.bits = self.bits.checked_shl(count).unwrap_or(0);
        self.known = self.known.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: Option<Interval> = Some(Interval(100));

    fn heard(seqnos: &[u16], now: Instant) -> History {
        let mut history = History::default();
        for &seqno in seqnos {
            let sequence = history.note(Seqno(seqno), SECOND, now);
            assert_eq!(sequence, Sequence::Continues);
        }
        history
    }

    #[test]
    fn a_gap_in_the_seqnos_is_a_loss() {
        let missed = |seqnos| heard(seqnos, start()).missed();
        assert_eq!(missed(&[7, 8, 9]), (0, 3));
        assert_eq!(missed(&[7, 8, 10, 13]), (3, 7));
        assert_eq!(missed(&[0xfffe, 0xffff, 1]), (1, 4));
    }

    #[test]
    fn a_seqno_before_the_expected_one_undoes_what_was_taken_for_a_loss() {
        let start = start();
        let mut history = heard(&[1, 2, 3], start);
        history.expire(start + Duration::from_secs(4));
        assert_eq!(history.missed(), (3, 6));
        history.note(Seqno(4), SECOND, start + Duration::from_secs(4));
        assert_eq!(history.missed(), (0, 4));
    }

    #[test]
    fn a_leap_of_more_than_sixteen_is_a_restart() {
        for (seqno, is_restart) in [(20, false), (21, true), (0xfff4, false), (0xfff3, true)] {
            let sequence = heard(&[2, 3], start()).note(Seqno(seqno), SECOND, start());
            assert_eq!(sequence == Sequence::Restarted, is_restart, "{seqno}");
        }
    }

    #[test]
    fn sixteen_silent_intervals_empty_it_and_stop_its_timer() {
        let start = start();
        let mut history = heard(&[1], start);
        history.expire(start + Duration::from_millis(1_499));
        assert_eq!(history.missed(), (0, 1));
        history.expire(start + Duration::from_millis(1_500));
        assert_eq!(history.missed(), (1, 2));
        history.expire(start + Duration::from_millis(16_499));
        assert!(!history.is_empty());
        history.expire(start + Duration::from_millis(16_500));
        assert!(history.is_empty() && history.timer().is_none());
        history.expire(start + Duration::from_secs(1 << 40));
    }

    #[test]
    fn an_unscheduled_hello_keeps_the_promise_of_the_last_scheduled_one() {
        let start = start();
        let mut history = heard(&[1], start);
        history.note(Seqno(2), None, start + Duration::from_secs(1));
        assert_eq!(history.timer(), Some(start + Duration::from_millis(1_500)));
    }

    #[test]
    fn two_of_three_make_it_steady() {
        let is_steady = |seqnos| heard(seqnos, start()).is_steady();
        assert!(is_steady(&[1]));
        assert!(is_steady(&[1, 2, 4]));
        assert!(!is_steady(&[1, 2, 5]));
        assert!(is_steady(&[1, 2, 5, 6]));
    }

    proptest! {
        #[test]
        fn it_never_counts_more_losses_than_hellos(steps in proptest::collection::vec((any::<u16>(), 0_u64..3_000), 0..60)) {
            let mut now = start();
            let mut history = History::default();
            for (seqno, millis) in steps {
                now += Duration::from_millis(millis);
                history.expire(now);
                if history.note(Seqno(seqno % 40), SECOND, now) == Sequence::Restarted {
                    history = History::default();
                }
                let (missed, known) = history.missed();
                prop_assert!(missed <= known && known <= 16);
            }
        }
    }
}
