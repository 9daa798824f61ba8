//! When Hellos are sent, and when there is an IHU with them.

use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::types::{Interval, Seqno};

/// While nobody has answered, the first Hellos follow each other faster.
const HURRY: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// An IHU is sent with every so manieth Hello (RFC 8966 Appendix B).
const IHU_EVERY: u32 = 3;
/// How far our Hello seqno leaps after an outage that we know of: a neighbour takes us for rebooted then, and does not wait until most
/// of its history is good again (BIRD: 12 of 16).
const LEAP: u16 = 64;
/// While a plain Babel speaker is heard and the link cannot be used, the seqno leaps at most so often: babeld wants two Hellos in a row.
const LEAP_AGAIN: Duration = Duration::from_secs(16);
/// The least time between two Hellos.
const GAP: Duration = Duration::from_millis(20);
/// When a Hello leaves by one link, those leave with it that others would say within this part of their interval: one wake-up, and one
/// system call, for all.
const AHEAD: u32 = 8;

/// Whether a Hello leaves by any link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// One does.
    Now,
    /// None does yet.
    Later,
}

/// When Hellos are sent.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    seqno: Seqno,
    next: Instant,
    last: Option<Instant>,
    leapt: Option<Instant>,
    hurried: usize,
    /// How many Hellos have gone without an IHU.
    without_ihu: u32,
}

/// A Hello to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueHello {
    pub(crate) seqno: Seqno,
    /// How soon the next one comes.
    pub(crate) interval: Interval,
    pub(crate) with_ihu: bool,
}

impl Schedule {
    pub(crate) fn new(interval: Duration, now: Instant, rng: &mut Rng) -> Self {
        Self {
            interval,
            // In the lower half: old versions of BIRD compare seqnos as plain numbers.
            seqno: Seqno(rng.below(0x8000) as u16),
            next: now,
            last: None,
            leapt: None,
            hurried: 0,
            without_ihu: 0,
        }
    }

    /// The Hello that is due, if one is.
    pub(crate) fn poll(
        &mut self,
        has_neighbour: bool,
        beat: Beat,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<DueHello> {
        let is_soon = beat == Beat::Now
            && has_neighbour
            && self.next <= now + self.interval / AHEAD
            && self.last.is_none_or(|last| last + GAP <= now);
        if now < self.next && !is_soon {
            return None;
        }
        let hurry = HURRY.get(self.hurried).filter(|_| !has_neighbour);
        self.next = now
            + match hurry {
                Some(&hurry) => hurry.min(self.interval),
                // Always sooner than promised, and never at the same time as everybody else.
                None => rng.between(self.interval * 9 / 10, self.interval * 49 / 50),
            };
        self.hurried += 1;
        let with_ihu = has_neighbour && self.without_ihu == 0;
        self.without_ihu = if with_ihu {
            IHU_EVERY - 1
        } else {
            self.without_ihu.saturating_sub(1)
        };
        self.last = Some(now);
        //= RFC 8966 §4.6.5 count
        let seqno = self.seqno;
        self.seqno = seqno.plus(1);
        Some(DueHello {
            seqno,
            interval: self.hello_interval(),
            with_ihu,
        })
    }

    /// The next Hello is sent at once, and an IHU with it: something has changed that the neighbour should know.
    pub(crate) fn greet(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| (last + GAP).max(now));
        self.next = self.next.min(soonest);
        self.without_ihu = 0;
    }

    /// There was an outage.
    pub(crate) fn leap(&mut self, now: Instant) {
        self.seqno = self.seqno.plus(LEAP);
        self.hurried = 0;
        self.leapt = Some(now);
        self.greet(now);
    }

    /// The neighbour is heard again, but the link cannot be used yet.
    pub(crate) fn recover(&mut self, now: Instant) {
        let is_early = |leapt| now.saturating_duration_since(leapt) < LEAP_AGAIN;
        if !self.leapt.is_some_and(is_early) {
            self.leap(now);
        }
    }

    /// How far apart Hellos are from the next one on, which says so. If that is longer than before, an IHU goes with it, and says so too:
    /// what the last one said would run out too soon.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        if interval > self.interval {
            self.without_ihu = 0;
        }
        self.interval = interval;
    }

    /// Whether a Hello is due, whatever other links do.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    pub(crate) fn hello_interval(&self) -> Interval {
        Interval::from_duration(self.interval)
    }

    pub(crate) fn ihu_interval(&self) -> Interval {
        Interval::from_duration(self.interval * IHU_EVERY)
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::start;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_hello_comes_before_the_last_one_promised() {
        let (mut now, mut rng) = (start(), Rng::new(1));
        let mut schedule = Schedule::new(SECOND, now, &mut rng);
        for _ in 0..200 {
            let hello = schedule.poll(true, Beat::Later, now, &mut rng).unwrap();
            assert_eq!(hello.interval, Interval(100));
            assert!(schedule.deadline() < now + SECOND);
            now = schedule.deadline();
        }
    }

    #[test]
    fn every_third_hello_has_an_ihu_and_a_greeting_has_one_at_once() {
        let (mut now, mut rng) = (start(), Rng::new(1));
        let mut schedule = Schedule::new(SECOND, now, &mut rng);
        let mut ihus = |schedule: &mut Schedule, count: usize| -> Vec<bool> {
            (0..count)
                .map(|_| {
                    now = now.max(schedule.deadline());
                    schedule
                        .poll(true, Beat::Later, now, &mut rng)
                        .unwrap()
                        .with_ihu
                })
                .collect()
        };
        assert_eq!(ihus(&mut schedule, 5), [true, false, false, true, false]);
        schedule.greet(start());
        assert_eq!(ihus(&mut schedule, 3), [true, false, false]);
    }

    #[test]
    fn hellos_of_links_that_are_nearly_due_leave_together() {
        let (start, mut rng) = (start(), Rng::new(1));
        let mut schedules = [0; 50].map(|_| Schedule::new(SECOND, start, &mut rng));
        let (mut hellos, mut beats) = (0, 0);
        loop {
            let now = schedules.iter().map(Schedule::deadline).min().unwrap();
            if now > start + SECOND * 100 {
                break;
            }
            beats += 1;
            for schedule in &mut schedules {
                let last = schedule.last;
                if schedule.poll(true, Beat::Now, now, &mut rng).is_some() {
                    assert!(last.is_none_or(|last| now < last + SECOND));
                    hellos += 1;
                }
            }
        }
        assert!((5_000..5_800).contains(&hellos), "{hellos}");
        assert!((100..=115).contains(&beats), "{beats}");
    }

    #[test]
    fn one_that_was_just_said_is_not_said_again_with_those_of_others() {
        let (now, mut rng) = (start(), Rng::new(1));
        let mut schedule = Schedule::new(SECOND, now, &mut rng);
        let hello = |schedule: &mut Schedule, millis, rng: &mut Rng| {
            let now = now + Duration::from_millis(millis);
            schedule.greet(now);
            schedule.poll(true, Beat::Now, now, rng).is_some()
        };
        assert!(hello(&mut schedule, 0, &mut rng));
        assert!(!hello(&mut schedule, 19, &mut rng));
        assert!(hello(&mut schedule, 20, &mut rng));
    }

    #[test]
    fn greetings_do_not_make_a_storm() {
        let (now, mut rng) = (start(), Rng::new(1));
        let mut schedule = Schedule::new(SECOND, now, &mut rng);
        let hellos = (0..1_000_u32)
            .filter(|&millis| {
                let now = now + Duration::from_millis(millis.into());
                schedule.greet(now);
                schedule.poll(true, Beat::Later, now, &mut rng).is_some()
            })
            .count();
        assert_eq!(hellos, 50);
    }

    #[test]
    fn the_first_hellos_hurry_until_somebody_answers() {
        let (start, mut rng) = (start(), Rng::new(1));
        let mut schedule = Schedule::new(SECOND, start, &mut rng);
        let mut at = Vec::new();
        while at.len() < 5 {
            let now = schedule.deadline();
            schedule.poll(false, Beat::Later, now, &mut rng).unwrap();
            at.push((now - start).as_millis());
        }
        assert_eq!(at[..4], [0, 100, 300, 700]);
        assert!(at[4] > 1_500);
    }
}
