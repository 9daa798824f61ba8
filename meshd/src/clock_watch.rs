//! Notices when time has passed without us, and when somebody sets the wall clock.

use std::time::{Duration, Instant, SystemTime};

use crate::{io::clock::Clock, node::GAP};

/// How often to look.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// A difference between wall clock and the daemon's own below this is adjustment, not a jump.
const JUMP: Duration = Duration::from_secs(5);

/// What the clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The daemon's clock, which nobody can set and which runs while the machine sleeps.
    pub own: Instant,
    /// The wall clock, in milliseconds since 1970; negative before.
    pub wall_ms: i64,
}

impl Reading {
    /// What both clocks say now.
    pub fn now(own: Clock) -> Self {
        let clamp = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let wall_ms = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => clamp(since),
            Err(before) => -clamp(before.duration()),
        };
        Self {
            own: own.now(),
            wall_ms,
        }
    }

    /// Time since 1970, as if nobody had set the wall clock back since `started`.
    pub fn unix(self, started: Self) -> Duration {
        let passed = self.own.saturating_duration_since(started.own);
        let passed = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let undisturbed = started.wall_ms.saturating_add(passed);
        Duration::from_millis(u64::try_from(self.wall_ms.max(undisturbed)).unwrap_or_default())
    }
}

/// What happened between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noticed {
    /// The machine slept or the process was stopped.
    pub slept: bool,
    /// By how many milliseconds the wall clock was set ahead (positive) or back.
    pub set_by_ms: Option<i64>,
}

/// Compares each reading with the one before.
#[derive(Debug)]
pub struct ClockWatch {
    last: Reading,
}

impl ClockWatch {
    /// Starts from this reading.
    pub fn new(reading: Reading) -> Self {
        Self { last: reading }
    }

    /// Takes the next reading, meant to come [`INTERVAL`] after the last.
    pub fn handle_reading(&mut self, reading: Reading) -> Noticed {
        let passed = reading.own.saturating_duration_since(self.last.own);
        let wall = reading.wall_ms.saturating_sub(self.last.wall_ms);
        self.last = reading;
        let own = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let set_by = wall.saturating_sub(own);
        Noticed {
            slept: passed > INTERVAL + GAP,
            set_by_ms: (u128::from(set_by.unsigned_abs()) > JUMP.as_millis()).then_some(set_by),
        }
    }
}

/// `set ahead by 7 days`, for people.
pub fn in_words(set_by_ms: i64) -> String {
    // To the nearest: what somebody set by days is measured some milliseconds short of them.
    let seconds = set_by_ms.unsigned_abs().saturating_add(500) / 1000;
    let way = if set_by_ms < 0 { "back" } else { "ahead" };
    match seconds {
        0..120 => format!("set {way} by {seconds} s"),
        120..7200 => format!("set {way} by {} minutes", seconds / 60),
        7200..172_800 => format!("set {way} by {} hours", seconds / 3600),
        _ => format!("set {way} by {} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK_MS: i64 = 7 * 86_400_000;

    #[test]
    fn a_steady_clock_and_a_slow_tick_are_nothing() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(Reading {
            own: start,
            wall_ms: 0,
        });
        let mut at = 0;
        for step in [2000, 2000, 6900, 2000] {
            at += step;
            let own = start + Duration::from_millis(at);
            let wall_ms = i64::try_from(at).unwrap() + 4000;
            assert_eq!(
                watch.handle_reading(Reading { own, wall_ms }),
                Noticed::default()
            );
        }
    }

    #[test]
    fn a_night_asleep_is_no_jump_of_the_wall_clock() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(Reading {
            own: start,
            wall_ms: -5,
        });
        let night = Duration::from_secs(8 * 3600);
        let reading = Reading {
            own: start + night,
            wall_ms: 8 * 3_600_000 - 5,
        };
        let noticed = watch.handle_reading(reading);
        assert_eq!(
            noticed,
            Noticed {
                slept: true,
                set_by_ms: None
            }
        );
    }

    #[test]
    fn the_time_of_a_run_goes_ahead_with_the_wall_clock_and_never_back() {
        let start = Instant::now();
        let at = |own_s: u64, wall_ms| Reading {
            own: start + Duration::from_secs(own_s),
            wall_ms,
        };
        let started = at(0, WEEK_MS);
        let week = 7 * 86_400;
        assert_eq!(at(10, WEEK_MS + 10_000).unix(started).as_secs(), week + 10);
        assert_eq!(at(20, 2 * WEEK_MS).unix(started).as_secs(), 2 * week);
        assert_eq!(at(30, -5).unix(started).as_secs(), week + 30);
        assert_eq!(at(0, -5).unix(at(0, -5)).as_secs(), 0);
    }

    #[test]
    fn a_week_forth_and_back_is_noticed_each_time_and_only_then() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(Reading {
            own: start,
            wall_ms: i64::MIN,
        });
        let mut jumps = Vec::new();
        for (tick, wall_ms) in [
            (1, 0),
            (2, WEEK_MS + 2000),
            (3, WEEK_MS + 4000),
            (4, 6000),
            (5, i64::MAX),
        ] {
            let own = start + INTERVAL * tick;
            jumps.push(watch.handle_reading(Reading { own, wall_ms }).set_by_ms);
        }
        assert_eq!(jumps[1..4], [Some(WEEK_MS), None, Some(-WEEK_MS)]);
        assert_eq!(in_words(-WEEK_MS), "set back by 7 days");
        assert_eq!(in_words(WEEK_MS - 3), "set ahead by 7 days");
        assert!(jumps[0].is_some() && jumps[4].is_some());
    }
}
