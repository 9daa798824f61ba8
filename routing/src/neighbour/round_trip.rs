//! How long the way to a neighbour and back takes (RFC 9616), in microseconds.

use std::time::Duration;

use crate::wire::Echo;

/// What weighs a new sample in the mean: of 256.
const WEIGHT: u64 = 42;
/// In how many samples by the neighbour's times the least one is sought: those of half a minute.
const SAID: usize = 16;
/// And in how many by our own clock, which come more rarely.
const MEASURED: usize = 8;
/// A round trip that takes longer was measured with a clock that was set.
const LONGEST: u32 = 600_000_000;

/// Round-trip times of a neighbour.
///
/// Those of RFC 9616 are computed from times that the neighbour says. It may say what it likes, but it cannot answer a packet before
/// it has received it: the time from our Acknowledgment Request to its Acknowledgment is never less than the true one.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrip {
    mean: Option<u32>,
    said: Recent<SAID>,
    measured: Recent<MEASURED>,
}

/// The latest few samples.
#[derive(Clone, Debug)]
struct Recent<const N: usize> {
    samples: [u32; N],
    count: usize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self {
            samples: [0; N],
            count: 0,
        }
    }
}

impl<const N: usize> Recent<N> {
    fn note(&mut self, sample: u32) {
        self.samples[self.count % N] = sample;
        self.count += 1;
    }

    fn least(&self) -> Option<u32> {
        self.samples[..self.count.min(N)].iter().min().copied()
    }
}

impl RoundTrip {
    /// A Hello sent at `sent` by the neighbour's clock came at `received` by ours, and with it what the neighbour knows about a
    /// Hello of ours. Says whether that made sense.
    pub(crate) fn note(&mut self, sent: u32, received: u32, echo: Echo) -> bool {
        let away = received.wrapping_sub(echo.origin);
        let there = sent.wrapping_sub(echo.received);
        let Some(sample) = away.checked_sub(there).filter(|_| away <= LONGEST) else {
            return false;
        };
        let mean = self.mean.map_or(sample, |mean| {
            ((u64::from(mean) * (256 - WEIGHT) + u64::from(sample) * WEIGHT) / 256) as u32
        });
        self.mean = Some(mean);
        self.said.note(sample);
        true
    }

    /// An Acknowledgment came so long after its request, which the neighbour answers at once.
    pub(crate) fn measured(&mut self, span: Duration) {
        self.measured
            .note(span.as_micros().try_into().unwrap_or(u32::MAX));
    }

    /// The mean of what the neighbour says, or what we measured, whichever is more.
    pub(crate) fn mean(&self) -> Option<u32> {
        self.mean.max(self.measured.least())
    }

    /// The least of the last few, by what the neighbour says or by what we measured, whichever is more. Queues that come and go do
    /// not show in it.
    pub(crate) fn least(&self) -> Option<u32> {
        self.said.least().max(self.measured.least())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a neighbour `half` away whose clock is `ahead` of ours echoes, if it waits `wait` before it answers.
    fn exchange(trip: &mut RoundTrip, at: u32, half: u32, ahead: u32, wait: u32) -> bool {
        let there = at.wrapping_add(half).wrapping_add(ahead);
        let echo = Echo {
            origin: at,
            received: there,
        };
        let back = at.wrapping_add(half + wait + half);
        trip.note(there.wrapping_add(wait), back, echo)
    }

    #[test]
    fn neither_the_other_clock_nor_its_delay_matters() {
        for (at, ahead) in [
            (0, 0),
            (5, 1 << 31),
            (u32::MAX - 100, 7),
            (1 << 31, 1 << 30),
        ] {
            let mut trip = RoundTrip::default();
            assert!(exchange(&mut trip, at, 4_000, ahead, 2_000_000));
            assert_eq!(trip.mean(), Some(8_000));
        }
    }

    #[test]
    fn a_clock_that_was_set_gives_no_sample() {
        let mut trip = RoundTrip::default();
        let echo = Echo {
            origin: 1_000,
            received: 500,
        };
        assert!(!trip.note(3_000, 2_000, echo), "negative");
        assert!(!trip.note(500, 700_000_000, echo), "eleven minutes");
        assert_eq!(trip.mean(), None);
    }

    #[test]
    fn the_mean_moves_by_a_sixth() {
        let mut trip = RoundTrip::default();
        exchange(&mut trip, 0, 5_000, 0, 0);
        exchange(&mut trip, 0, 10_000, 0, 0);
        assert_eq!(trip.mean(), Some(11_640));
        assert_eq!(trip.least(), Some(10_000));
    }

    #[test]
    fn a_neighbour_that_says_less_than_we_measure_is_not_believed() {
        let mut trip = RoundTrip::default();
        exchange(&mut trip, 0, 0, 0, 0);
        assert_eq!(trip.least(), Some(0));
        trip.measured(Duration::from_millis(90));
        trip.measured(Duration::from_millis(80));
        assert_eq!(trip.least(), Some(80_000));
        assert_eq!(trip.mean(), Some(80_000));
        exchange(&mut trip, 0, 100_000, 0, 0);
        assert_eq!(trip.least(), Some(80_000));
    }

    #[test]
    fn the_least_is_of_the_last_sixteen() {
        let mut trip = RoundTrip::default();
        exchange(&mut trip, 0, 500, 0, 0);
        assert!((0..15).all(|_| exchange(&mut trip, 0, 50_000, 0, 0)));
        assert_eq!(trip.least(), Some(1_000));
        exchange(&mut trip, 0, 50_000, 0, 0);
        assert_eq!(trip.least(), Some(100_000));
    }
}
