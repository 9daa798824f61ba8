//! Links with delay, loss and limits, by the link emulator of this package (`src/bin/linkemu.rs`): the kernel's netem is not
//! everywhere to be had, and cannot be seeded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::host::Host;
use crate::lab::{self, Offloads};
use crate::process::Process;
use crate::wait::{secs, wait_until};

/// How the emulator treats frames. The default lets everything through at once.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Added to every frame.
    pub delay: Duration,
    /// Up to so much more, evenly spread.
    pub jitter: Duration,
    /// Whether jitter may let frames overtake each other.
    pub order: Order,
    /// Share of frames lost, independently (0..1).
    pub loss: f64,
    /// Losses in bursts.
    pub bursts: Option<Bursts>,
    /// Share of frames delivered twice (0..1).
    pub duplicates: f64,
    /// Share of frames that are not delayed, and so overtake those that are, unless the order is kept (0..1).
    pub early: f64,
    /// Bits per second, in thousands.
    pub rate_kbit: Option<u64>,
    /// How long a frame may wait for its turn where a rate is set; one that would have to wait longer is lost.
    pub queue: Duration,
    /// Where chance begins anew with this setting; `None` lets it go on (at first, from 0).
    pub seed: Option<u64>,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            order: Order::Free,
            loss: 0.0,
            bursts: None,
            duplicates: 0.0,
            early: 0.0,
            rate_kbit: None,
            queue: Duration::from_millis(100),
            seed: None,
        }
    }
}

impl Impairment {
    /// Nothing but a delay, each way.
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Nothing but independent losses.
    pub fn loss(loss: f64) -> Self {
        Self {
            loss,
            ..Self::default()
        }
    }

    fn words(&self, prefix: &str) -> String {
        let bursts = self.bursts.unwrap_or(Bursts {
            begin: 0.0,
            end: 1.0,
        });
        let words = [
            format!("delay_us={}", self.delay.as_micros()),
            format!("jitter_us={}", self.jitter.as_micros()),
            format!(
                "order={}",
                if self.order == Order::Kept {
                    "kept"
                } else {
                    "free"
                }
            ),
            format!("loss={}", self.loss),
            format!("burst_begin={}", bursts.begin),
            format!("burst_end={}", bursts.end),
            format!("duplicates={}", self.duplicates),
            format!("early={}", self.early),
            format!("rate_kbit={}", self.rate_kbit.unwrap_or(0)),
            format!("queue_us={}", self.queue.as_micros()),
        ];
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let words: Vec<String> = words
            .into_iter()
            .chain(seed)
            .map(|word| format!("{prefix}{word}"))
            .collect();
        words.join(" ")
    }
}

/// Whether frames leave in the order they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They may overtake each other.
    Free,
    /// They do not.
    Kept,
}

/// The Gilbert-Elliott model: a link is good or bad, every frame may change that, and a bad link loses everything.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Chance, at a frame, that a good link goes bad.
    pub begin: f64,
    /// Chance, at a frame, that a bad link gets good.
    pub end: f64,
}

/// One way or the other, as seen by the two hosts in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first host to the second.
    Forth,
    /// From the second host to the first.
    Back,
}

/// What happened to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Taken in.
    pub received: u64,
    /// Passed on, duplicates included.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the queue was full.
    pub overflowed: u64,
    /// Refused by the kernel.
    pub failed: u64,
}

/// A running link emulator. Cheap to clone; it ends with the lab.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Mutex<Process>>);

impl Wire {
    /// Starts the emulator in the middle host, between its interfaces `left` and `right`.
    #[track_caller]
    pub(crate) fn start(middle: &Host, offloads: Offloads, impairment: Impairment) -> Self {
        let program = lab::program("linkemu");
        let segments = format!(
            "segments={}",
            if offloads == Offloads::On {
                "whole"
            } else {
                "none"
            }
        );
        let words = impairment.words("");
        let mut argv = vec![program.as_str(), "left", "right", &segments];
        argv.extend(words.split(' '));
        let mut process = middle.spawn_with_input(&argv);
        wait_until(secs(5), "the link emulator runs", || {
            if process.is_running() && process.log().contains("ready") {
                Ok(())
            } else {
                Err(process.log())
            }
        });
        Self(Arc::new(Mutex::new(process)))
    }

    /// Changes both directions, while frames flow.
    #[track_caller]
    pub fn set(&self, impairment: Impairment) {
        self.ask(&impairment.words(""));
    }

    /// Changes one direction.
    #[track_caller]
    pub fn set_direction(&self, direction: Direction, impairment: Impairment) {
        self.ask(&impairment.words(match direction {
            Direction::Forth => "forth.",
            Direction::Back => "back.",
        }));
    }

    /// What happened so far, forth and back.
    #[track_caller]
    pub fn frames(&self) -> [Frames; 2] {
        let answer = self.ask("frames");
        let answer: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|err| panic!("linkemu answered {answer:?}: {err}"));
        ["forth", "back"].map(|direction| {
            let count = |name: &str| {
                answer[direction][name]
                    .as_u64()
                    .unwrap_or_else(|| panic!("no {name} in {answer}"))
            };
            Frames {
                received: count("received"),
                sent: count("sent"),
                lost: count("lost"),
                overflowed: count("overflowed"),
                failed: count("failed"),
            }
        })
    }

    /// Sends one line and returns the line that answers it.
    #[track_caller]
    fn ask(&self, line: &str) -> String {
        let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = process.log().lines().count();
        process
            .tell(line)
            .unwrap_or_else(|err| panic!("linkemu has ended ({err}): {}", process.log()));
        let answer = wait_until(secs(5), "the link emulator answers", || {
            let log = process.log();
            // A line counts once its end was written.
            let complete = log.ends_with('\n');
            log.lines()
                .nth(answered)
                .filter(|_| complete)
                .map(str::to_owned)
        });
        assert!(!answer.starts_with("error"), "linkemu: {answer}");
        answer
    }
}
