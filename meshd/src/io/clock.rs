//! The daemon's time: `Instant`s that keep running while the machine sleeps.

use std::time::{Duration, Instant};

/// A clock whose `Instant`s advance with `CLOCK_BOOTTIME`.
///
/// `Instant::now()` follows `CLOCK_MONOTONIC` on Linux, which stands still during suspend: a session would look young
/// after a night's sleep while its peer dropped it long ago. Make one clock at start and copy it: two clocks made
/// before and after a suspend disagree by its length. A reading costs one vDSO call (about 25 ns), no system call.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Instant,
    boot: Duration,
    #[cfg(feature = "_sim")]
    hand: Option<&'static super::simulated::Hand>,
}

impl Clock {
    /// A clock that agrees with `Instant::now()` at this moment.
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
            boot: since_boot(),
            #[cfg(feature = "_sim")]
            hand: None,
        }
    }

    /// A clock that shows so much time since `base` as somebody sets its hand to, for simulations.
    #[cfg(feature = "_sim")]
    pub fn simulated(base: Instant, hand: &'static super::simulated::Hand) -> Self {
        Self {
            base,
            boot: Duration::ZERO,
            hand: Some(hand),
        }
    }

    /// Microseconds of the machine's boot time clock at `instant`: the same for every process of this machine.
    pub fn boot_micros(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        let micros = (self.boot + since).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    /// The time. Never goes backwards.
    pub fn now(&self) -> Instant {
        #[cfg(feature = "_sim")]
        if let Some(hand) = self.hand {
            return self.base + hand.shows();
        }
        self.base + since_boot().saturating_sub(self.boot)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// What `CLOCK_MONOTONIC` says, for those outside the process who compare it with their own.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// What the wall clock says, since 1970; it may be set at any time, also backwards.
pub(super) fn wall() -> Duration {
    read(libc::CLOCK_REALTIME)
}

/// A time as the kernel spells it.
pub(super) fn from_timespec(time: libc::timespec) -> Duration {
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

fn since_boot() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for one timespec; all these clocks exist since Linux 2.6.39, so the call cannot fail.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(result, 0);
    from_timespec(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_starts_at_instant_now_and_never_goes_back() {
        let before = Instant::now();
        let clock = Clock::new();
        let mut last = clock.now();
        assert!(last >= before);
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        assert!(last.duration_since(before) < Duration::from_secs(60));
    }
}
