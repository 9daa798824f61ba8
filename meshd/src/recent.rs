//! The latest lines of the log, kept in memory for `meshd bugreport`: not every machine has a journal, and not every journal kept them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::io::clock::Clock;

/// Lines that are kept; an older one makes room for a new one.
const LINES: usize = 400;
/// Bytes kept of a line.
const LENGTH: usize = 600;
const _: () = assert!(LINES * LENGTH <= 256 << 10, "a quarter of a MiB in all");

/// What was logged lately. Any thread may add to it.
#[derive(Debug, Default)]
pub struct Recent {
    clock: Clock,
    lines: Mutex<VecDeque<Line>>,
}

/// One line of the log.
#[derive(Debug)]
struct Line {
    at: Instant,
    text: Box<str>,
}

impl Recent {
    /// Keeps the beginning of a line.
    pub fn push(&self, line: &str) {
        let end = line.floor_char_boundary(LENGTH);
        let line = Line {
            at: self.clock.now(),
            text: line[..end].into(),
        };
        let mut lines = self.lines.lock();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// What is kept, the oldest first, each with its age.
    pub fn lines(&self) -> Vec<(Duration, String)> {
        let now = self.clock.now();
        let lines = self.lines.lock();
        let aged = |line: &Line| {
            (
                now.saturating_duration_since(line.at),
                line.text.to_string(),
            )
        };
        lines.iter().map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept_and_long_ones_are_cut_between_characters() {
        let recent = Recent::default();
        for number in 0..LINES + 7 {
            recent.push(&number.to_string());
        }
        recent.push(&"ß".repeat(LENGTH));
        let lines = recent.lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0].1, "8");
        assert_eq!(lines[LINES - 1].1, "ß".repeat(LENGTH / 2));
        assert!(lines.is_sorted_by_key(|(age, _)| std::cmp::Reverse(*age)));
    }
}
