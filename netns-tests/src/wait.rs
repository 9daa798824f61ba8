//! The only place that pauses: waiting for a level, never for an edge, and never without a deadline.

#![expect(clippy::disallowed_methods, reason = "this is where pauses are made")]

use std::fmt::Display;
use std::time::{Duration, Instant};

/// First pause between two observations; each further one is half as long again, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// Short enough that the figures tests print are right to a few hundredths of a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What [`wait_until`] can wait for: an observation that either holds, with a value, or says what was seen instead.
pub trait Observation {
    /// What is known once it holds.
    type Value;

    /// The value, or what was observed instead.
    fn holds(self) -> Result<Self::Value, String>;
}

impl Observation for bool {
    type Value = ();

    fn holds(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn holds(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Display> Observation for Result<T, E> {
    type Value = T;

    fn holds(self) -> Result<T, String> {
        self.map_err(|err| err.to_string())
    }
}

/// Observes until the observation holds, and returns its value.
///
/// # Panics
/// When `within` has passed: with `what`, how long it waited, and what was observed last.
#[track_caller]
pub fn wait_until<O: Observation>(
    within: Duration,
    what: &str,
    observe: impl FnMut() -> O,
) -> O::Value {
    match poll_until(within, observe) {
        Ok(value) => value,
        Err(Late { waited, last }) => {
            panic!(
                "waited {:.2} s in vain until {what}; last observation: {last}",
                waited.as_secs_f64()
            )
        }
    }
}

/// Observes all the time that it must hold, and panics at the first time it does not.
///
/// # Panics
/// With `what`, after how long it ceased to hold, and what was observed instead.
#[track_caller]
pub fn hold_for<O: Observation>(length: Duration, what: &str, mut observe: impl FnMut() -> O) {
    let start = Instant::now();
    while start.elapsed() < length {
        if let Err(seen) = observe().holds() {
            panic!(
                "{what} held only for {:.2} s; then: {seen}",
                start.elapsed().as_secs_f64()
            );
        }
        std::thread::sleep(LONGEST_PAUSE);
    }
}

/// A wait that ended without result.
#[derive(Debug)]
pub struct Late {
    /// How long it lasted.
    pub waited: Duration,
    /// What was observed last.
    pub last: String,
}

/// As [`wait_until`], for those who can go on without.
///
/// # Errors
/// [`Late`] when `within` has passed. The observation is made at least once, and once more after the deadline.
pub fn poll_until<O: Observation>(
    within: Duration,
    mut observe: impl FnMut() -> O,
) -> Result<O::Value, Late> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let waited = start.elapsed();
        match observe().holds() {
            Ok(value) => return Ok(value),
            Err(last) if waited >= within => return Err(Late { waited, last }),
            Err(_) => {}
        }
        std::thread::sleep(pause.min(within.saturating_sub(waited)).max(FIRST_PAUSE));
        pause = LONGEST_PAUSE.min(pause * 3 / 2);
    }
}

/// Pauses until `due`, for senders that keep a pace. Returns at once when it has passed.
pub fn pace(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_already_is_returned_without_a_pause() {
        let start = Instant::now();
        assert_eq!(wait_until(secs(60), "there is a number", || Some(7)), 7);
        assert!(start.elapsed() < millis(50));
    }

    #[test]
    fn a_level_is_observed_again_until_it_holds() {
        let mut seen = 0;
        wait_until(secs(5), "three observations were made", || {
            seen += 1;
            seen == 3
        });
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "in vain until pigs fly; last observation: no wings")]
    fn a_wait_in_vain_says_what_it_waited_for_and_what_it_saw() {
        wait_until(millis(20), "pigs fly", || Err::<(), _>("no wings"));
    }

    #[test]
    #[should_panic(expected = "the count is below three held only for")]
    fn a_level_that_ceases_to_hold_is_a_failure() {
        let mut count = 0;
        hold_for(secs(5), "the count is below three", || {
            count += 1;
            count < 3
        });
    }
}
