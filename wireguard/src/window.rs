//! The replay window: which counters of a keypair were seen (white paper, section 5.4.6), as RFC 6479 keeps it.

const WORD: u64 = u64::BITS as u64;
const WORDS: usize = 128;

/// How far behind the greatest counter a message may be, in messages: as in the kernel module. A word is lost to moving on by words.
pub(crate) const WINDOW: u64 = (WORDS as u64 - 1) * WORD;

/// The counters of one direction of a keypair.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// One more than the greatest counter seen.
    next: u64,
    /// A bit for each counter, of the words up to that of the greatest one, in a ring.
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

const fn place(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

impl Window {
    /// Whether a counter was not seen, as far as can be told.
    pub(crate) const fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let bit = 1 << (counter % WORD);
        counter.saturating_add(WINDOW) >= self.next && self.seen[place(counter / WORD)] & bit == 0
    }

    /// An authentic message had this counter, which was new.
    pub(crate) fn note(&mut self, counter: u64) {
        let word = counter / WORD;
        if counter >= self.next {
            // The words between the last one and this one are of counters that were not seen.
            let last = self.next.saturating_sub(1) / WORD;
            let passed = (word - last).min(WORDS as u64);
            for passed in word + 1 - passed..=word {
                self.seen[place(passed)] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.seen[place(word)] |= 1 << (counter % WORD);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn take(window: &mut Window, counter: u64) -> bool {
        let is_new = window.is_new(counter);
        if is_new {
            window.note(counter);
        }
        is_new
    }

    #[test]
    fn the_window_is_as_long_as_it_says() {
        let mut window = Window::default();
        let top = 3 * WINDOW;
        assert!(take(&mut window, top));
        assert!(take(&mut window, top + 1 - WINDOW));
        assert!(!take(&mut window, top + 1 - WINDOW), "seen");
        assert!(!take(&mut window, top - WINDOW), "too far behind");
        assert!(!take(&mut window, 0));
        assert!(!take(&mut window, top));
    }

    #[test]
    fn the_first_counters_are_new_once() {
        let mut window = Window::default();
        for counter in [0, 1, 63, 64, 2, 65] {
            assert!(take(&mut window, counter), "{counter}");
            assert!(!take(&mut window, counter), "{counter} again");
        }
    }

    proptest! {
        /// An oracle that forgets nothing.
        #[test]
        fn nothing_is_taken_twice_and_nothing_new_refused(steps in proptest::collection::vec((any::<u16>(), 0_u32..20), 1..400)) {
            let mut window = Window::default();
            let (mut seen, mut top) = (BTreeSet::new(), 0_u64);
            for (step, back) in steps {
                // Around the top, mostly near it, at times far ahead or behind.
                let counter = match back {
                    0..3 => top + u64::from(step),
                    3..10 => top.saturating_sub(u64::from(step) % 200),
                    10..15 => top.saturating_sub(u64::from(step)),
                    _ => top + u64::from(step % 3),
                };
                let is_new = !seen.contains(&counter) && counter + WINDOW > top;
                prop_assert_eq!(take(&mut window, counter), is_new, "{} with {} on top", counter, top);
                if is_new {
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
