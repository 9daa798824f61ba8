use super::*;

/// A way and its far end, in virtual time.
struct Way {
    liveness: Liveness,
    now: Instant,
    /// The way there and back.
    rtt: Duration,
    /// Packets up to this size pass.
    width: usize,
    /// Of so many packets in succession, one is lost.
    loses_one_of: Option<u64>,
    sent: u64,
    received: u64,
    answers: Vec<(Instant, Echo)>,
    seen: Vec<Output>,
}

impl Way {
    fn new(ceiling: usize) -> Self {
        Self {
            liveness: Liveness::new(ceiling, 7),
            now: Instant::now(),
            rtt: Duration::from_millis(20),
            width: 1420,
            loses_one_of: None,
            sent: 0,
            received: 0,
            answers: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// One more packet; returns whether it arrives.
    fn send(&mut self, size: usize) -> bool {
        self.sent += 1;
        let is_lost = size > self.width
            || self
                .loses_one_of
                .is_some_and(|every| self.sent.is_multiple_of(every));
        self.received += u64::from(!is_lost);
        !is_lost
    }

    fn drain(&mut self) {
        while let Some(output) = self.liveness.poll_output() {
            let Output::Probe { id, size, carriage } = output else {
                self.seen.push(output);
                continue;
            };
            if self.send(carried(size, carriage)) {
                let echo = Echo {
                    id,
                    size: size as u16,
                    expected: self.sent,
                    received: self.received,
                };
                self.answers.push((self.now + self.rtt, echo));
            }
        }
    }

    /// Lets time pass while a program sends so many packets of this size a second, and hears nothing or something.
    fn run(&mut self, time: Duration, rate: u64, hears: bool) -> Vec<Output> {
        const STEP: Duration = Duration::from_millis(10);
        let end = self.now + time;
        let start = self.now;
        let mut due = 0;
        while self.now < end {
            self.now += STEP;
            due += rate;
            let piece = carried(1200, self.liveness.carriage());
            for _ in 0..due / 100 {
                self.send(piece);
            }
            due %= 100;
            if rate > 0 {
                let quiet = (!hears).then(|| self.now - start);
                self.liveness.handle_use(self.sent, quiet, self.now);
            }
            let (ready, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answers)
                .into_iter()
                .partition(|(at, _)| *at <= self.now);
            self.answers = later;
            for (_, echo) in ready {
                self.liveness.handle_echo(&echo, self.now);
            }
            if self
                .liveness
                .poll_timeout()
                .is_some_and(|(at, _)| at <= self.now)
            {
                self.liveness.handle_timeout(self.now);
            }
            self.drain();
        }
        std::mem::take(&mut self.seen)
    }

    fn change(&mut self, ceiling: usize) {
        self.liveness.handle_change(ceiling, self.now);
        self.drain();
    }
}

/// The longest piece that a packet of this size crosses a narrow way in.
fn carried(size: usize, carriage: Carriage) -> usize {
    match carriage {
        Carriage::Whole => size,
        Carriage::Cut => size.div_ceil(2),
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_new_way_that_carries_everything_is_left_alone_after_two_probes() {
    let mut way = Way::new(1420);
    way.change(1420);
    assert_eq!(way.run(secs(700), 0, true), [Output::Answered]);
    assert_eq!(way.sent, 2);
    assert_eq!(way.liveness.mtu(), 1420);
    assert_eq!(way.liveness.poll_timeout(), None);
}

#[test]
fn a_dead_way_is_found_within_three_seconds_of_sending() {
    let mut way = Way::new(1420);
    way.change(1420);
    way.run(secs(1), 0, true);
    way.width = 0;
    assert_eq!(way.run(secs(3), 10, false), [Output::Failed]);
}

#[test]
fn a_way_that_stays_dead_is_asked_less_and_less() {
    let mut way = Way::new(1420);
    way.width = 0;
    way.change(1420);
    let first = way.run(secs(60), 1, false).len();
    let sent = way.sent;
    let later = way.run(secs(60), 1, false).len();
    assert!((4..=8).contains(&first), "{first}");
    assert!((2..=4).contains(&later), "{later}");
    assert!(way.sent - sent <= 60 + 2 * 3 * 4, "{} packets", way.sent);
}

#[test]
fn a_way_that_drops_long_packets_gets_the_longest_that_passes() {
    let mut way = Way::new(1420);
    way.width = 1350;
    way.change(1420);
    let seen = way.run(secs(5), 0, true);
    assert_eq!(seen, [Output::Answered, Output::Mtu(1340)]);
    way.width = 1420;
    let seen = way.run(RAISE + secs(1), 0, true);
    assert_eq!(seen, [Output::Mtu(1420)], "looked at again");
}

#[test]
fn a_way_that_drops_long_packets_later_is_found_while_they_are_sent() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.run(secs(1), 0, true);
    way.width = 1199;
    let seen = way.run(secs(15), 100, true);
    assert!(seen.contains(&Output::Narrow(Narrow::Silent)), "{seen:?}");
    assert_eq!(way.liveness.mtu(), LEAST_MTU);
}

#[test]
fn a_narrow_way_is_asked_in_fragments_and_looked_at_again() {
    let mut way = Way::new(1340);
    way.width = 1199;
    way.change(1340);
    way.liveness.handle_too_big(way.now);
    let seen = way.run(secs(5), 0, true);
    assert!(seen.contains(&Output::Narrow(Narrow::Admitted)), "{seen:?}");
    assert_eq!(way.liveness.carriage(), Carriage::Cut);
    let seen = way.run(secs(60), 100, true);
    assert!(
        seen.iter().all(|output| *output == Output::Answered),
        "what is cut passes: {seen:?}"
    );
    way.width = 1340;
    let seen = way.run(RAISE, 0, true);
    assert!(
        seen.ends_with(&[Output::Mtu(1340), Output::Wide]),
        "{seen:?}"
    );
    assert_eq!(way.liveness.carriage(), Carriage::Whole);
}

#[test]
fn a_way_that_loses_a_third_is_found_while_packets_are_sent() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.run(secs(1), 0, true);
    way.loses_one_of = Some(3);
    let seen = way.run(secs(10), 100, true);
    assert!(
        seen.iter()
            .any(|output| matches!(output, Output::Lossy(250..=400))),
        "{seen:?}"
    );
    assert!(!seen.contains(&Output::Failed), "{seen:?}");
}

#[test]
fn a_way_that_loses_one_in_ten_is_bearable() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.loses_one_of = Some(10);
    let seen = way.run(secs(60), 100, true);
    assert!(
        !seen
            .iter()
            .any(|output| matches!(output, Output::Lossy(_) | Output::Failed)),
        "{seen:?}"
    );
}

#[test]
fn one_way_traffic_costs_a_short_probe_a_second_and_no_alarm() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.run(secs(1), 0, true);
    let before = way.sent;
    let seen = way.run(secs(9), 1, false);
    assert!(!seen.contains(&Output::Failed), "{seen:?}");
    assert!(way.sent - before <= 9 + 2 * 900, "{}", way.sent - before);
}

#[test]
fn an_answer_over_the_way_before_does_not_count_for_the_new_one() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.change(1340);
    way.rtt = secs(5);
    let (first, _) = way.answers.split_at(2);
    let echo = first[0].1;
    way.liveness.handle_echo(&echo, way.now);
    way.drain();
    assert_eq!(way.seen, []);
}

#[test]
fn a_relay_that_cries_too_big_only_makes_us_look() {
    let mut way = Way::new(1340);
    way.change(1340);
    way.run(secs(1), 0, true);
    let mut seen = Vec::new();
    for _ in 0..300 {
        for _ in 0..100 {
            way.liveness.handle_too_big(way.now);
        }
        way.drain();
        seen.extend(way.run(Duration::from_millis(10), 0, true));
    }
    assert!(
        seen.iter().all(|output| *output == Output::Answered),
        "{seen:?}"
    );
    assert_eq!(way.liveness.mtu(), 1340);
    assert!((4..=10).contains(&way.sent), "{} packets", way.sent);
}
