//! One attempt to reach a peer: which address is probed when, and which of those that answer is taken.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use super::{
    Arrival, Kind, Local, Socket, Tried,
    candidate::{Candidate, is_plausible},
    nat::{Mapping, NatView},
    offer::Terms,
};

/// When to send what opens our own router and dies before the peer's, after the attempt has begun, and with which hop limit. A router
/// whose outside is open would remember a probe that came too early, and give what its own node sends another port. The first two pass
/// one router, the others also a carrier's behind it; a way so short that they arrive is so fast that the peer has opened by then.
const OPENERS: [(Duration, u8); 4] = [
    (Duration::ZERO, 2),
    (Duration::from_millis(50), 2),
    (Duration::from_millis(100), 3),
    (Duration::from_millis(200), 5),
];
/// When to send what is to arrive, after [`Rhythm::normal`].
const NORMAL: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
];
/// What is to arrive is sent this long after the attempt has begun, so that openers go first.
pub(super) const OPENING: Duration = Duration::from_millis(300);
/// Who has answered an offer waits this long for the word that the other side has begun, before it does without.
pub(super) const NO_WORD: Duration = Duration::from_secs(1);
/// How long an attempt lasts.
pub(super) const LASTS: Duration = Duration::from_secs(5);
/// How long it goes on after the first address has answered, for a better one.
const MEASURES: Duration = Duration::from_secs(2);
/// Probes to one address, at most.
const PER_ADDRESS: u32 = 12;
/// Of those, to one that has not answered.
const UNANSWERED: u32 = 10;
/// What has answered is asked again so often, to know its round-trip time.
const AGAIN: Duration = Duration::from_millis(250);
/// Who has not to choose waits this long for the other side's choice.
const PATIENCE: Duration = Duration::from_millis(600);
/// How much faster a way has to be than the one in use, in time and in a hundred, to be worth a change.
const FASTER: (Duration, u32) = (Duration::from_millis(5), 10);
/// IPv6 may be slower by this.
const V6_BONUS: Duration = Duration::from_millis(3);
/// The ports predicted of a router that gives them out in succession.
const PREDICTED: i16 = 8;
/// The most addresses probed in one attempt.
const MAX_CHECKS: usize = 24;
/// The most of them because probes came from there.
const MAX_ARRIVALS: usize = 8;
/// Questions remembered.
const MAX_ASKED: usize = 8;

/// An address that is being probed.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) candidate: Candidate,
    pub(super) socket: Socket,
    /// Our address, once something has come there.
    pub(super) local: Option<IpAddr>,
    /// It is on a link of ours.
    is_near: bool,
    /// When it is to be opened, and probed, if not as the others.
    own: Option<(Instant, Instant)>,
    /// The next of [`OPENERS`] and [`NORMAL`].
    step: usize,
    /// When it is asked again, after an answer.
    again: Option<Instant>,
    asked: Vec<(u64, Instant)>,
    sent: u32,
    answered: u32,
    pub(super) rtt: Option<Duration>,
    /// A probe of the peer's came from there.
    pub(super) is_heard: bool,
    /// The peer has chosen it, though it had not answered us yet.
    pub(super) is_chosen: bool,
    is_held: bool,
}

impl Check {
    /// `at_once`: since when it may be probed without opening anything.
    fn of(candidate: Candidate, is_near: bool, at_once: Option<Instant>) -> Self {
        Self {
            candidate,
            socket: Socket::Own(wireguard::Underlay::ANY_SOCKET),
            local: None,
            is_near,
            own: at_once.map(|now| (now, now)),
            step: if at_once.is_some() { OPENERS.len() } else { 0 },
            again: None,
            asked: Vec::new(),
            sent: 0,
            answered: 0,
            rtt: None,
            is_heard: false,
            is_chosen: false,
            is_held: false,
        }
    }

    /// When it is to be probed next, and with which hop limit.
    fn due(&self, rhythm: &Rhythm) -> Option<(Instant, Option<u8>)> {
        let most = if self.answered > 0 {
            PER_ADDRESS
        } else {
            UNANSWERED
        };
        if self.sent >= most || self.is_held {
            return None;
        }
        if self.answered > 0 {
            return self.again.map(|again| (again, None));
        }
        let (start, normal) = self.own.unwrap_or((rhythm.start, rhythm.normal));
        if let Some((after, hops)) = OPENERS.get(self.step) {
            let at = start + *after;
            return Some(if at < normal {
                (at, Some(*hops))
            } else {
                (normal, None)
            });
        }
        let after = NORMAL.get(self.step - OPENERS.len())?;
        Some((normal + *after, None))
    }

    /// The round-trip time that counts in a comparison.
    fn rank(&self) -> Option<(bool, Duration)> {
        let rtt = self.rtt?;
        let bonus = if self.candidate.address.is_ipv6() {
            V6_BONUS
        } else {
            Duration::ZERO
        };
        Some((!self.is_near, rtt.saturating_sub(bonus)))
    }

    /// Whether it is enough better than another to be taken instead.
    fn is_better(&self, other: &Self) -> bool {
        let (Some((far, rtt)), Some((other_far, other_rtt))) = (self.rank(), other.rank()) else {
            return false;
        };
        match (far, other_far) {
            (false, true) => true,
            (true, false) => false,
            _ => rtt + FASTER.0.max(other_rtt * FASTER.1 / 100) <= other_rtt,
        }
    }

    /// It for who asks what was tried.
    pub(super) fn tried(&self) -> Tried {
        let note = match (self.answered > 0, self.is_heard) {
            (true, _) => "answered",
            (false, true) => "heard, but it does not hear us",
            (false, false) if self.is_held => "not probed: too many already",
            (false, false) if self.sent == 0 => "not probed yet",
            (false, false) => "no answer",
        };
        Tried {
            candidate: self.candidate.address,
            kind: self.candidate.kind,
            sent: self.sent,
            answered: self.answered,
            rtt: self.rtt,
            note,
        }
    }
}

/// How often both sides name one new address each at the same time, where both routers give out ports in succession; and by how many
/// ports the side that chooses, and the other, take the other's router to have gone on by itself.
/// In this order neither side comes to an address twice, which would not move its own router.
const ROUNDS: [(i16, i16); 6] = [(0, 0), (0, 1), (0, 3), (1, 0), (2, 0), (0, 2)];
/// From one such round to the next.
const ROUND: Duration = Duration::from_millis(700);

/// Prediction in lockstep: every probe to a new address makes the own router go on by one port, so that each side may send to one new
/// address in a round and no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lockstep {
    /// The port that the peer's router gave out last.
    last: SocketAddrV4,
    delta: i16,
    round: usize,
    /// When the first round began; both sides have to begin at the same time.
    begun: Option<Instant>,
}

/// When an attempt has begun, when probes that are to arrive may be sent, and when it ends.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    start: Instant,
    normal: Instant,
    ends: Instant,
}

/// Who says which address is used, if several answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// This node.
    Chooses,
    /// The peer.
    Follows,
}

/// What an attempt wants done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Probe this address now.
    Probe {
        /// Which check.
        check: usize,
        /// With this hop limit.
        hop_limit: Option<u8>,
        /// Tell the peer that it is chosen.
        is_chosen: bool,
    },
    /// Use this one.
    Use(usize),
    /// Nothing more is to be tried.
    End,
}

/// Probing towards one peer.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    role: Role,
    rhythm: Rhythm,
    pub(super) checks: Vec<Check>,
    lockstep: Option<Lockstep>,
    /// When the first answered.
    first: Option<Instant>,
    /// Which is in use.
    used: Option<usize>,
    has_ended: bool,
}

impl Attempt {
    /// Probing what the peer has offered. `wait`: how long to send nothing but openers.
    pub(super) fn new(
        role: Role,
        checks: Vec<Check>,
        lockstep: Option<Lockstep>,
        wait: Duration,
        now: Instant,
    ) -> Self {
        Self {
            role,
            rhythm: Rhythm {
                start: now,
                normal: now + wait,
                ends: now + LASTS,
            },
            checks,
            lockstep,
            first: None,
            used: None,
            has_ended: false,
        }
    }

    /// The other side has begun.
    pub(super) fn handle_go(&mut self, now: Instant) {
        let soon = now.max(self.rhythm.start + OPENING);
        self.rhythm.normal = self.rhythm.normal.min(soon);
        if let Some(lockstep) = &mut self.lockstep
            && lockstep.begun.is_none()
        {
            lockstep.begun = Some(now);
            self.rhythm.ends = self.rhythm.ends.max(now + LASTS);
        }
    }

    /// Whether an address has answered.
    pub(super) const fn is_proven(&self) -> bool {
        self.first.is_some()
    }

    /// Whether there is anything to probe.
    pub(super) const fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.lockstep.is_none()
    }

    /// Whether it still probes.
    pub(super) const fn is_running(&self) -> bool {
        !self.has_ended
    }

    /// When it wants [`Self::next`].
    pub(super) fn due(&self) -> Option<Instant> {
        if self.has_ended {
            return None;
        }
        let probes = self
            .checks
            .iter()
            .filter_map(|check| check.due(&self.rhythm));
        let follows = self
            .first
            .filter(|_| self.used.is_none())
            .map(|first| first + PATIENCE);
        probes
            .map(|(at, _)| at)
            .chain(follows)
            .chain(self.next_round())
            .chain([self.ends()])
            .min()
    }

    /// When it has begun.
    pub(super) const fn begun(&self) -> Instant {
        self.rhythm.start
    }

    /// There is more to try than usual.
    pub(super) fn extend(&mut self, ends: Instant) {
        self.rhythm.ends = self.rhythm.ends.max(ends);
    }

    /// When the next round of prediction in lockstep begins.
    fn next_round(&self) -> Option<Instant> {
        let lockstep = self.lockstep.filter(|_| self.first.is_none())?;
        let round = u32::try_from(lockstep.round).ok()?;
        let begun = lockstep.begun?;
        (lockstep.round < ROUNDS.len()).then(|| begun + ROUND * round)
    }

    /// Adds the address of the next round.
    fn begin_round(&mut self, now: Instant) {
        let Some(lockstep) = &mut self.lockstep else {
            return;
        };
        let Lockstep {
            last, delta, round, ..
        } = *lockstep;
        lockstep.round += 1;
        let ahead = match self.role {
            Role::Chooses => ROUNDS[round].0,
            Role::Follows => ROUNDS[round].1,
        };
        let steps = 1 + i16::try_from(round).unwrap_or(0) + ahead;
        let candidate = predicted(last, delta, steps);
        if self
            .checks
            .iter()
            .all(|check| check.candidate.address != candidate.address)
        {
            let mut check = Check::of(candidate, false, None);
            check.own = Some((now, now + OPENING));
            self.checks.push(check);
        }
    }

    fn ends(&self) -> Instant {
        self.first
            .map_or(self.rhythm.ends, |first| first + MEASURES)
    }

    /// What to do at `now`, one after the other until there is nothing.
    pub(super) fn next(&mut self, now: Instant) -> Option<Action> {
        if self.has_ended {
            return None;
        }
        if now >= self.ends() {
            if self.role == Role::Chooses
                && let Some(best) = self.better()
            {
                self.used = Some(best);
                return Some(Action::Use(best));
            }
            self.has_ended = true;
            return Some(Action::End);
        }
        if self.used.is_none()
            && let Some(first) = self.first
            && (self.role == Role::Chooses || now >= first + PATIENCE)
        {
            let best = self.best()?;
            self.used = Some(best);
            return Some(Action::Use(best));
        }
        while self.next_round().is_some_and(|at| at <= now) {
            self.begin_round(now);
        }
        let due = |check: &Check| check.due(&self.rhythm).filter(|(at, _)| *at <= now);
        let (check, hop_limit) = self
            .checks
            .iter()
            .enumerate()
            .find_map(|(n, check)| due(check).map(|(_, hop_limit)| (n, hop_limit)))?;
        Some(Action::Probe {
            check,
            hop_limit,
            is_chosen: self.role == Role::Chooses && self.used == Some(check),
        })
    }

    /// The best that has answered.
    fn best(&self) -> Option<usize> {
        let ranks = self.checks.iter().enumerate();
        let ranks = ranks.filter_map(|(n, check)| Some((check.rank()?, n)));
        ranks.min().map(|(_, n)| n)
    }

    /// One that is enough better than the one in use.
    fn better(&self) -> Option<usize> {
        let (best, used) = (self.best()?, self.used?);
        (best != used && self.checks[best].is_better(&self.checks[used])).then_some(best)
    }

    /// A probe with this number is sent to a check, or could not be (`number`: none).
    pub(super) fn handle_sent(&mut self, check: usize, number: Option<u64>, now: Instant) {
        let check = &mut self.checks[check];
        let normal = check.own.map_or(self.rhythm.normal, |(_, normal)| normal);
        if check.answered > 0 {
            check.again = Some(now + AGAIN);
        } else if check.step < OPENERS.len() && now >= normal {
            // What is to arrive goes out now; openers have had their time.
            check.step = OPENERS.len() + 1;
        } else {
            check.step += 1;
        }
        match number {
            Some(number) => {
                check.sent += 1;
                if check.asked.len() >= MAX_ASKED {
                    check.asked.remove(0);
                }
                check.asked.push((number, now));
            }
            None => check.is_held = true,
        }
    }

    /// A question of the peer's came. It is asked back there at once.
    pub(super) fn handle_ping(
        &mut self,
        from: Arrival,
        is_chosen: bool,
        local: &Local,
        now: Instant,
    ) -> Option<Action> {
        let check = match self.find(from) {
            Some(check) => check,
            None => {
                let of_kind = |check: &&Check| check.candidate.kind == Kind::PeerReflexive;
                let arrivals = self.checks.iter().filter(of_kind).count();
                if self.has_ended || arrivals >= MAX_ARRIVALS || !is_plausible(&from.remote) {
                    return None;
                }
                let candidate = Candidate {
                    kind: Kind::PeerReflexive,
                    address: from.remote,
                };
                let is_near = local.is_near(from.remote.ip());
                self.checks.push(Check::of(candidate, is_near, Some(now)));
                self.checks.len() - 1
            }
        };
        let of = &mut self.checks[check];
        (of.socket, of.local) = (from.socket, from.local);
        of.is_held = false;
        if !of.is_heard && of.answered == 0 {
            of.is_heard = true;
            of.own = Some((now, now));
            of.step = OPENERS.len();
        }
        if is_chosen && self.role == Role::Follows {
            of.is_chosen = true;
            if of.answered > 0 {
                return self.follow(check);
            }
        }
        None
    }

    /// An answer came: false, if nothing was asked there.
    pub(super) fn handle_pong(&mut self, from: Arrival, of: u64, now: Instant) -> Option<usize> {
        let n = self.find(from)?;
        let check = &mut self.checks[n];
        let at = check.asked.iter().position(|(number, _)| *number == of)?;
        let (_, at) = check.asked.remove(at);
        let rtt = now.saturating_duration_since(at);
        check.rtt = Some(check.rtt.map_or(rtt, |known| known.min(rtt)));
        check.answered += 1;
        check.again.get_or_insert(now + AGAIN);
        (check.socket, check.local) = (from.socket, from.local);
        if !self.has_ended {
            self.first.get_or_insert(now);
        }
        Some(n)
    }

    /// What the peer has chosen is used, if it is not yet.
    pub(super) fn follow(&mut self, check: usize) -> Option<Action> {
        if self.used == Some(check) {
            return None;
        }
        self.used = Some(check);
        Some(Action::Use(check))
    }

    fn find(&self, from: Arrival) -> Option<usize> {
        self.checks.iter().position(|check| {
            let same_socket = match (check.socket, from.socket) {
                (Socket::Own(_), Socket::Own(_)) => true,
                (one, other) => one == other,
            };
            check.candidate.address == from.remote && same_socket
        })
    }
}

/// What to probe of what a peer has offered, in which order; and what to predict in lockstep.
pub(super) fn checks_of(
    terms: &Terms,
    ours: &NatView,
    local: &Local,
    is_same_site: bool,
    now: Instant,
) -> (Vec<Check>, Option<Lockstep>) {
    let mut candidates = terms.candidates.clone();
    let mut lockstep = None;
    if let Mapping::Sequential { delta } = terms.nat.mapping
        && let Some(last) = terms.nat.last
    {
        let is_v4 = |candidate: &Candidate| candidate.address.is_ipv4();
        match ours.mapping {
            Mapping::Sequential { .. } => {
                candidates.retain(|one| !is_v4(one) || local.is_near(one.address.ip()));
                lockstep = local
                    .may_probe(&SocketAddr::V4(last), is_same_site)
                    .then_some(Lockstep {
                        last,
                        delta,
                        round: 0,
                        begun: None,
                    });
            }
            Mapping::Random => {}
            Mapping::Unknown
            | Mapping::None
            | Mapping::EndpointIndependent { .. }
            | Mapping::AddressDependent => {
                candidates.retain(|one| !is_v4(one) || one.kind != Kind::Reflexive);
                candidates.extend((1..=PREDICTED).map(|k| predicted(last, delta, k)));
            }
        }
    }
    candidates.retain(|candidate| local.may_probe(&candidate.address, is_same_site));
    candidates.sort_by_key(Candidate::order);
    let mut checks: Vec<Check> = Vec::new();
    for candidate in candidates {
        let known = |check: &Check| check.candidate.address == candidate.address;
        if checks.len() < MAX_CHECKS && !checks.iter().any(known) {
            let is_near = local.is_near(candidate.address.ip());
            // On a link of ours nothing has to be opened.
            checks.push(Check::of(candidate, is_near, is_near.then_some(now)));
        }
    }
    (checks, lockstep)
}

/// Where the router that gave out `last` should be after so many flows.
const fn predicted(mut last: SocketAddrV4, delta: i16, flows: i16) -> Candidate {
    last.set_port(last.port().wrapping_add_signed(delta.wrapping_mul(flows)));
    Candidate {
        kind: Kind::Predicted,
        address: SocketAddr::V4(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check of an address that has answered after so many milliseconds.
    fn answered(address: &str, is_near: bool, rtt_ms: u64) -> Check {
        let candidate = Candidate {
            kind: Kind::Host,
            address: address.parse().unwrap(),
        };
        Check {
            rtt: Some(Duration::from_millis(rtt_ms)),
            ..Check::of(candidate, is_near, None)
        }
    }

    #[test]
    fn only_what_is_clearly_better_is_taken_instead() {
        let (v4, v6) = ("192.0.2.1:7000", "[2001:db8::1]:7000");
        for (one, other, is_better) in [
            (answered(v4, false, 40), answered(v4, false, 46), true),
            (answered(v4, false, 40), answered(v4, false, 44), false),
            (answered(v4, false, 195), answered(v4, false, 201), false),
            (answered(v4, false, 180), answered(v4, false, 201), true),
            (answered(v6, false, 40), answered(v4, false, 42), true),
            (answered(v6, false, 42), answered(v4, false, 40), false),
            (answered(v4, false, 40), answered(v6, false, 46), false),
            (answered(v4, true, 9), answered(v6, false, 5), true),
            (answered(v4, false, 1), answered(v4, true, 9), false),
        ] {
            assert_eq!(one.is_better(&other), is_better, "{one:?} {other:?}");
        }
    }
}
