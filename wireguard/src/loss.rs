//! How much of what a peer sent did not arrive, read off the counters of its data messages.

/// Messages after which a share is taken; a smaller sample says little.
const SAMPLE: u64 = 64;
/// Weight of what was known before, against one of the new sample.
const MEMORY: f64 = 3.0;

/// A running estimate over the messages of one keypair after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    /// Receiver index of the keypair being counted.
    keypair: u32,
    /// The counter that would follow the highest one seen.
    next: u64,
    expected: u64,
    received: u64,
    share: Option<f64>,
    total: Tally,
}

/// Messages of the peer since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many should have come, as the counters of those that came show.
    pub expected: u64,
    /// How many came.
    pub received: u64,
}

impl Loss {
    /// An authentic data message arrived; returns the share lost, 0 to 1, whenever it has changed. Messages that come late make
    /// up for those that were missed before them.
    pub(crate) fn note(&mut self, keypair: u32, counter: u64) -> Option<f64> {
        if keypair != self.keypair {
            *self = Self {
                keypair,
                next: counter,
                share: self.share,
                total: self.total,
                ..Self::default()
            };
        }
        if counter >= self.next {
            self.expected += counter - self.next + 1;
            self.total.expected += counter - self.next + 1;
            self.next = counter + 1;
        }
        self.received += 1;
        self.total.received += 1;
        if self.expected < SAMPLE {
            return None;
        }
        let lost = self.expected.saturating_sub(self.received);
        let sample = lost as f64 / self.expected as f64;
        self.share = Some(
            self.share
                .map_or(sample, |share| (share * MEMORY + sample) / (MEMORY + 1.0)),
        );
        self.expected = 0;
        self.received = 0;
        self.share
    }

    /// All messages so far.
    pub(crate) const fn total(&self) -> Tally {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(loss: &mut Loss, keypair: u32, counters: impl Iterator<Item = u64>) -> Option<f64> {
        counters
            .filter_map(|counter| loss.note(keypair, counter))
            .last()
    }

    #[test]
    fn nothing_is_said_before_there_is_a_sample() {
        assert_eq!(share(&mut Loss::default(), 1, 0..50), None);
    }

    #[test]
    fn every_fourth_message_lost_is_a_quarter() {
        let arrived = (0..4000).filter(|counter| counter % 4 != 3);
        let share = share(&mut Loss::default(), 1, arrived).unwrap();
        assert!((0.2..0.3).contains(&share), "{share}");
    }

    #[test]
    fn reordering_and_a_new_keypair_are_no_loss() {
        let mut loss = Loss::default();
        let swapped = (0..2000).map(|counter| counter ^ 1);
        assert!(share(&mut loss, 1, swapped).unwrap() < 0.02);
        assert!(share(&mut loss, 2, 500..2500).unwrap() < 0.02);
    }
}
