//! Whether the way that a session's packets take really carries them: all of them, whatever their size.
//!
//! Routing knows whether a neighbour is there; only the two ends of a session can tell whether what they send arrives. This asks the
//! far end, inside the session, when there is reason to: the way is new, data was sent and nothing came back, or much is being sent.
//! A pure state machine: after every `handle_*` drain [`Liveness::poll_output`], then look at [`Liveness::poll_timeout`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use wireguard::Carriage;

use crate::signal::{self, Echo};

/// Unanswered data makes a session ask after this long at the earliest: less than anybody waits patiently, more than most answers take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions in a round before the way counts as dead: two may be lost.
const TRIES: u32 = 3;
/// Pause between the questions of a round, for round-trip times below half of it.
const PAUSE: Duration = Duration::from_millis(250);
/// The same while the round-trip time is unknown.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// After a way has failed and there is no other, the pause before it is tried again; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(1);
/// See [`BACKOFF`].
const MAX_BACKOFF: Duration = Duration::from_secs(16);
/// How often losses are looked at while much is being sent.
const COUNT: Duration = Duration::from_secs(2);
/// Packets that a share of losses is worth taking of.
const SAMPLE: u64 = 64;
/// Lost packets in a thousand, twice in succession, that no honest way loses for long: congestion makes senders slow down before.
const LOSSY: u64 = 200;
/// How long a size that was found to pass is taken for granted while packets flow.
const SIZE_HOLDS: Duration = Duration::from_secs(10);
/// How long a way that was found narrower than it should be is left at that.
const RAISE: Duration = Duration::from_secs(600);
/// What every way has to carry (RFC 8200 §5).
pub const LEAST_MTU: usize = 1280;
/// Sizes worth trying between the largest and the least: usual link types under one or two tunnels.
const LADDER: [usize; 12] = [
    8900, 4000, 1500, 1460, 1420, 1412, 1400, 1380, 1360, 1340, 1320, 1300,
];
/// Questions remembered: a round's, and one of each size.
const MAX_ASKED: usize = 24;

/// What is to be done, or was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a probe with this number, in a packet of this many bytes.
    Probe {
        /// Its number.
        id: u32,
        /// Length of the packet that carries it.
        size: usize,
        /// Whether its datagram may be cut into fragments, where it is relayed.
        carriage: Carriage,
    },
    /// The way carries packets.
    Answered,
    /// Nothing that was asked over this way was answered.
    Failed,
    /// It loses this many of a thousand packets, and not only for a moment.
    Lossy(u64),
    /// It carries packets up to this many bytes.
    Mtu(usize),
    /// It carries short packets, but not those of [`LEAST_MTU`].
    Narrow(Narrow),
    /// It carries those again.
    Wide,
}

/// How a way turned out to be narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Somebody on the way has said so.
    Admitted,
    /// Long packets are dropped without a word.
    Silent,
}

/// The way of one session.
#[derive(Debug)]
pub struct Liveness {
    rng: fastrand::Rng,
    /// How long data may stay unanswered at least.
    least_patience: Duration,
    /// The longest packet that the way can be expected to carry.
    ceiling: usize,
    mtu: usize,
    /// It carries packets of `mtu` bytes only in fragments.
    is_narrow: bool,
    /// A relay has said that a packet was too long for it.
    is_admitted: bool,
    /// When `mtu` was last found to pass.
    sized: Option<Instant>,
    /// When to try again whether more than `mtu` passes.
    raise: Option<Instant>,
    /// Smoothed as in RFC 6298.
    rtt: Option<Duration>,
    round: Option<Round>,
    search: Option<Search>,
    asked: VecDeque<Asked>,
    /// The round that found nothing was the last of so many; the next may begin then.
    failures: u32,
    resting: Option<Instant>,
    counting: Counting,
    outputs: VecDeque<Output>,
}

/// Questions asked until they are answered or there were enough of them.
#[derive(Clone, Copy, Debug)]
struct Round {
    tries: u32,
    /// When the next question, or the end, is due.
    next: Instant,
    is_answered: bool,
    /// Whether a packet of the full size has come through; none: nobody asks.
    is_sized: Option<bool>,
}

/// All sizes were asked at once; the answers until then count.
#[derive(Clone, Copy, Debug)]
struct Search {
    until: Instant,
    best: usize,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u32,
    size: usize,
    at: Instant,
}

/// Losses, from what the far end has counted.
#[derive(Debug, Default)]
struct Counting {
    /// When the last question was asked, and how many packets had been sent then.
    asked: Option<(Instant, u64)>,
    /// What the last answer said: expected, received.
    last: Option<(u64, u64)>,
    /// Whether the last sample was bad.
    is_suspect: bool,
}

impl Liveness {
    /// Of a way that can be expected to carry packets of up to `ceiling` bytes, and that nothing is known of. `seed` gives the numbers
    /// of probes.
    pub fn new(ceiling: usize, seed: u64) -> Self {
        Self::impatient(ceiling, seed, PATIENCE)
    }

    /// The same, where data may stay unanswered for that long only: there is another way to take.
    pub fn impatient(ceiling: usize, seed: u64, patience: Duration) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            least_patience: patience,
            ceiling,
            mtu: ceiling,
            is_narrow: false,
            is_admitted: false,
            sized: None,
            raise: None,
            rtt: None,
            round: None,
            search: None,
            asked: VecDeque::new(),
            failures: 0,
            resting: None,
            counting: Counting::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The longest packet that the way carries, as far as is known.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// How packets of that length cross it.
    pub fn carriage(&self) -> Carriage {
        if self.is_narrow {
            Carriage::Cut
        } else {
            Carriage::Whole
        }
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How long data may stay unanswered before [`Self::handle_use`] should hear of it.
    pub fn patience(&self) -> Duration {
        let least = self.least_patience;
        self.rtt.map_or(least, |rtt| least.max(rtt * 4))
    }

    /// Whether a question should have been answered by now: the next one is being asked.
    pub fn is_doubted(&self) -> bool {
        let is_late = |round: &Round| !round.is_answered && round.tries > 1;
        self.round.as_ref().is_some_and(is_late)
    }

    /// Asks whether the way still carries packets, if nothing is being asked.
    pub fn handle_check(&mut self, now: Instant) {
        if self.round.is_none() && self.search.is_none() {
            self.begin(now);
        }
    }

    /// There is reason to think that the way does not carry packets any more: it is asked, and in doubt until it answers.
    pub fn handle_doubt(&mut self, now: Instant) {
        self.search = None;
        let round = Round {
            tries: 1,
            next: now,
            is_answered: false,
            is_sized: self.is_stale(now).then_some(false),
        };
        self.ask_round(round, now);
    }

    /// Packets take another way from here on: what was learned of the last one is void, and the new one is tried at once.
    pub fn handle_change(&mut self, ceiling: usize, now: Instant) {
        self.ceiling = ceiling;
        self.is_narrow = false;
        self.is_admitted = false;
        self.sized = None;
        self.raise = None;
        self.rtt = None;
        self.search = None;
        self.asked.clear();
        self.failures = 0;
        self.resting = None;
        self.counting = Counting::default();
        self.set_mtu(ceiling);
        self.begin(now);
    }

    /// Packets are being sent: so many since the session began, and without any sign of the peer for so long.
    pub fn handle_use(&mut self, sent: u64, unanswered: Option<Duration>, now: Instant) {
        let is_quiet = unanswered.is_some_and(|quiet| quiet >= self.patience());
        let rests = self.resting.is_some_and(|until| now < until);
        if is_quiet && self.round.is_none() && self.search.is_none() && !rests {
            self.begin(now);
        }
        let (asked, sent_then) = *self.counting.asked.get_or_insert((now, sent));
        if now.saturating_duration_since(asked) >= COUNT && sent.saturating_sub(sent_then) >= SAMPLE
        {
            self.counting.asked = Some((now, sent));
            if self.round.is_none() && self.search.is_none() {
                self.begin(now);
            }
        }
    }

    /// A relay said that a packet of ours was too long for it. It may lie, so this is a reason to look and no more.
    pub fn handle_too_big(&mut self, now: Instant) {
        self.is_admitted = true;
        let was_looked_at = self
            .sized
            .is_some_and(|sized| now.saturating_duration_since(sized) < PATIENCE);
        if self.round.is_none() && self.search.is_none() && !was_looked_at {
            self.sized = None;
            self.begin(now);
        }
    }

    /// An answer came over this way.
    pub fn handle_echo(&mut self, echo: &Echo, now: Instant) {
        let Some(place) = self.asked.iter().position(|asked| asked.id == echo.id) else {
            return;
        };
        let Some(asked) = self.asked.remove(place) else {
            return;
        };
        let took = now.saturating_duration_since(asked.at);
        self.rtt = Some(self.rtt.map_or(took, |rtt| (rtt * 7 + took) / 8));
        self.count(echo);
        let size = asked.size.min(usize::from(echo.size));
        if size >= self.mtu {
            self.sized = Some(now);
        }
        if let Some(search) = &mut self.search {
            search.best = search.best.max(size);
        } else if size > self.mtu {
            self.set_mtu(size);
            self.sized = Some(now);
        }
        if let Some(round) = &mut self.round {
            if !round.is_answered {
                round.is_answered = true;
                self.failures = 0;
                self.resting = None;
                self.outputs.push_back(Output::Answered);
            }
            if size >= self.mtu && round.is_sized.is_some() {
                round.is_sized = Some(true);
            }
            if round.is_sized != Some(false) {
                self.round = None;
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.search.is_some_and(|search| search.until <= now) {
            self.conclude_search(now);
        }
        if self.raise.is_some_and(|due| due <= now) {
            self.raise = None;
            let could_be_wider = self.mtu < self.ceiling || self.is_narrow;
            if could_be_wider && self.round.is_none() && self.search.is_none() {
                self.search(now);
            }
        }
        if let Some(round) = self.round
            && round.next <= now
        {
            if round.tries < TRIES {
                self.ask_round(round, now);
            } else {
                self.round = None;
                if !round.is_answered {
                    self.fail(now);
                } else if round.is_sized == Some(false) {
                    self.search(now);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            (self.round.map(|round| round.next), "probe"),
            (self.search.map(|search| search.until), "path MTU"),
            (self.raise, "path MTU again"),
        ]
        .into_iter()
        .filter_map(|(due, reason)| Some((due?, reason)))
        .min_by_key(|deadline| deadline.0)
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.sized
            .is_none_or(|sized| now.saturating_duration_since(sized) >= SIZE_HOLDS)
    }

    fn begin(&mut self, now: Instant) {
        let round = Round {
            tries: 0,
            next: now,
            is_answered: false,
            is_sized: self.is_stale(now).then_some(false),
        };
        self.ask_round(round, now);
    }

    fn ask_round(&mut self, round: Round, now: Instant) {
        if !round.is_answered {
            self.ask(signal::LEAST, Carriage::Whole, now);
        }
        if round.is_sized == Some(false) {
            self.ask(self.mtu, self.carriage(), now);
        }
        self.round = Some(Round {
            tries: round.tries + 1,
            next: now + self.pause(),
            ..round
        });
    }

    fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let rest = BACKOFF * 2_u32.saturating_pow(self.failures - 1).min(64);
        self.resting = Some(now + rest.min(MAX_BACKOFF));
        self.outputs.push_back(Output::Failed);
    }

    fn search(&mut self, now: Instant) {
        let sizes = LADDER
            .iter()
            .copied()
            .filter(|size| *size < self.ceiling && *size > LEAST_MTU);
        for size in [LEAST_MTU]
            .into_iter()
            .chain(sizes)
            .chain([self.ceiling])
            .collect::<Vec<_>>()
        {
            self.ask(size, Carriage::Whole, now);
        }
        self.search = Some(Search {
            until: now + self.pause() * 2,
            best: 0,
        });
    }

    fn conclude_search(&mut self, now: Instant) {
        let Some(search) = self.search.take() else {
            return;
        };
        self.sized = Some(now);
        if search.best >= LEAST_MTU {
            self.set_mtu(search.best);
            if std::mem::take(&mut self.is_narrow) {
                self.outputs.push_back(Output::Wide);
            }
        } else {
            self.set_mtu(LEAST_MTU);
            self.is_narrow = true;
            let how = if self.is_admitted {
                Narrow::Admitted
            } else {
                Narrow::Silent
            };
            self.outputs.push_back(Output::Narrow(how));
        }
        let could_be_wider = self.mtu < self.ceiling || self.is_narrow;
        self.raise = could_be_wider.then(|| now + RAISE);
    }

    fn set_mtu(&mut self, mtu: usize) {
        if self.mtu != mtu {
            self.mtu = mtu;
            self.outputs.push_back(Output::Mtu(mtu));
        }
    }

    fn pause(&self) -> Duration {
        self.rtt
            .map_or(FIRST_PAUSE, |rtt| (rtt * 2).clamp(PAUSE, MAX_PAUSE))
    }

    fn ask(&mut self, size: usize, carriage: Carriage, now: Instant) {
        let id = self.rng.u32(..);
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { id, size, at: now });
        self.outputs.push_back(Output::Probe { id, size, carriage });
    }

    /// Compares what the far end has counted with what it had counted before.
    fn count(&mut self, echo: &Echo) {
        let Some((expected, received)) = self.counting.last else {
            self.counting.last = Some((echo.expected, echo.received));
            return;
        };
        let expected = echo.expected.saturating_sub(expected);
        if expected < SAMPLE {
            return;
        }
        self.counting.last = Some((echo.expected, echo.received));
        let received = echo.received.saturating_sub(received).min(expected);
        let lost = (expected - received) * 1000 / expected;
        let is_bad = lost >= LOSSY;
        if is_bad && self.counting.is_suspect {
            self.outputs.push_back(Output::Lossy(lost));
            self.counting.is_suspect = false;
        } else {
            self.counting.is_suspect = is_bad;
        }
    }
}

#[cfg(test)]
mod tests;
