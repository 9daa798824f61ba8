//! What has happened to links, routes, paths and peers: as much of it as is worth remembering.

use std::{collections::VecDeque, time::Instant};

use crate::admin::Happening;

/// Events remembered: some hundred kilobytes, a cold start of a mesh of a thousand nodes.
const MOST: usize = 4096;

/// The latest events, numbered from 0.
#[derive(Debug, Default)]
pub(super) struct History {
    first: u64,
    events: VecDeque<(Instant, Happening)>,
}

/// Events from some number on.
#[derive(Debug)]
pub struct Since {
    /// The number of the next event there will be.
    pub next: u64,
    /// How many of those asked for are forgotten.
    pub missed: u64,
    /// The others, and when they happened.
    pub events: Vec<(Instant, Happening)>,
}

impl History {
    pub(super) fn push(&mut self, what: Happening, now: Instant) {
        if self.events.len() >= MOST {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back((now, what));
    }

    /// The events whose number is `from` or greater.
    pub(super) fn since(&self, from: u64) -> Since {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        Since {
            next: self.first + self.events.len() as u64,
            missed: self.first.saturating_sub(from),
            events: self.events.iter().skip(skip).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(n: usize) -> Happening {
        Happening::Warning {
            code: n.to_string(),
            text: String::new(),
        }
    }

    #[test]
    fn what_is_forgotten_is_counted_and_the_rest_comes_in_order() {
        let mut history = History::default();
        let now = Instant::now();
        for n in 0..MOST + 10 {
            history.push(warning(n), now);
        }
        let all = history.since(0);
        assert_eq!((all.next, all.missed), (MOST as u64 + 10, 10));
        assert_eq!(all.events.first().unwrap().1, warning(10));
        let rest = history.since(all.next - 2);
        assert_eq!((rest.missed, rest.events.len()), (0, 2));
        assert_eq!(history.since(all.next + 5).events.len(), 0);
    }
}
