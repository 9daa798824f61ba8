//! Conversations that are going on with one party, and who began each.

use std::{
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hashlink::LinkedHashMap;

use crate::packet::Step;

/// How long a silent conversation is remembered that is no open TCP connection (RFC 4787 REQ-5: five minutes; RFC 5382 REQ-5: four at
/// least).
pub const BRIEF: Duration = Duration::from_secs(5 * 60);
/// The same for an open TCP connection, which may ask only every two hours whether the other end is there (RFC 5382 REQ-5).
pub const LASTING: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Conversations with one party; the one that was silent longest goes first, an open TCP connection last.
pub const MAX_FLOWS: usize = 8192;
/// So many can be had with every party, whatever others have.
pub const SURE_FLOWS: usize = 128;
/// Conversations with all parties together, beyond those: some 30 MB.
pub const MAX_SHARED: usize = 1 << 18;

/// A conversation, seen from this node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Flow {
    /// The other party's address.
    pub(crate) theirs: Ipv6Addr,
    /// The address on this node.
    pub(crate) ours: Ipv6Addr,
    pub(crate) topic: Topic,
}

/// What a conversation is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Topic {
    Tcp { theirs: u16, ours: u16 },
    Udp { theirs: u16, ours: u16 },
    Echo(u16),
    Other(u8),
}

/// Who did something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// This node, or a workload or leaf of its.
    Ours,
    /// The other party.
    Theirs,
}

/// How far a conversation has got. Without TCP it stays at the beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    Opening,
    Open,
    Closing,
}

/// What is known of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// Who began it.
    pub(crate) began: Side,
    pub(crate) stage: Stage,
    last: Instant,
}

/// How many conversations may be remembered with all parties together.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn take(&self) -> bool {
        let more = |taken: usize| (taken < MAX_SHARED).then_some(taken + 1);
        self.0.try_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give(&self, count: usize) {
        self.0.fetch_sub(count, Relaxed);
    }
}

/// The conversations with one party.
#[derive(Debug)]
pub(crate) struct Flows {
    /// Those that are remembered for [`BRIEF`], the one that was silent longest first.
    brief: LinkedHashMap<Flow, State>,
    /// Those that are remembered for [`LASTING`].
    lasting: LinkedHashMap<Flow, State>,
    budget: Budget,
    /// How many of the budget are taken.
    taken: usize,
}

impl Flows {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            brief: LinkedHashMap::new(),
            lasting: LinkedHashMap::new(),
            budget,
            taken: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.brief.len() + self.lasting.len()
    }

    /// What is known of a conversation, if it is going on.
    pub(crate) fn find(&self, flow: &Flow, now: Instant) -> Option<State> {
        let find = |table: &LinkedHashMap<Flow, State>, patience| {
            let state = table.get(flow).copied()?;
            (now.saturating_duration_since(state.last) < patience).then_some(state)
        };
        find(&self.lasting, LASTING).or_else(|| find(&self.brief, BRIEF))
    }

    /// A conversation begins; whatever was known of it is forgotten.
    pub(crate) fn begin(&mut self, flow: Flow, began: Side, stage: Stage, now: Instant) {
        self.forget(&flow);
        self.make_room(now);
        let state = State {
            began,
            stage,
            last: now,
        };
        self.table(stage).insert(flow, state);
    }

    /// A conversation that is going on goes on, by something that `by` did; in TCP, this step.
    pub(crate) fn touch(&mut self, flow: &Flow, by: Side, step: Option<Step>, now: Instant) {
        let is_lasting = self.lasting.contains_key(flow);
        let table = if is_lasting {
            &mut self.lasting
        } else {
            &mut self.brief
        };
        let Some(state) = table.get_mut(flow) else {
            return;
        };
        // What is over is not kept alive by the other party.
        if state.stage == Stage::Closing && by == Side::Theirs {
            return;
        }
        state.last = now;
        let stage = match (state.stage, step) {
            (Stage::Opening | Stage::Open, Some(Step::End | Step::Reset)) => Stage::Closing,
            (Stage::Opening, Some(Step::Grant | Step::Go)) if by != state.began => Stage::Open,
            (stage, _) => stage,
        };
        state.stage = stage;
        if is_lasting == (stage == Stage::Open) {
            table.to_back(flow);
        } else if let Some(state) = table.remove(flow) {
            self.table(stage).insert(*flow, state);
        }
    }

    fn table(&mut self, stage: Stage) -> &mut LinkedHashMap<Flow, State> {
        match stage {
            Stage::Open => &mut self.lasting,
            Stage::Opening | Stage::Closing => &mut self.brief,
        }
    }

    fn forget(&mut self, flow: &Flow) {
        if self.lasting.remove(flow).is_some() || self.brief.remove(flow).is_some() {
            self.give_back();
        }
    }

    /// Forgets what has been silent for too long, and one more if there is no room else.
    fn make_room(&mut self, now: Instant) {
        for (table, patience) in [(&mut self.brief, BRIEF), (&mut self.lasting, LASTING)] {
            while let Some((_, state)) = table.front()
                && now.saturating_duration_since(state.last) >= patience
            {
                table.pop_front();
            }
        }
        self.give_back();
        let needs = (self.len() + 1).saturating_sub(SURE_FLOWS);
        if self.len() < MAX_FLOWS && (needs <= self.taken || self.budget.take()) {
            self.taken = self.taken.max(needs);
        } else if self.brief.pop_front().is_none() {
            self.lasting.pop_front();
        }
    }

    /// Gives back what is not needed of the budget.
    fn give_back(&mut self) {
        let needs = self.len().saturating_sub(SURE_FLOWS);
        if self.taken > needs {
            self.budget.give(self.taken - needs);
            self.taken = needs;
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.budget.give(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u16) -> Flow {
        Flow {
            theirs: Ipv6Addr::LOCALHOST,
            ours: Ipv6Addr::LOCALHOST,
            topic: Topic::Udp { theirs: n, ours: 1 },
        }
    }

    fn taken(budget: &Budget) -> usize {
        budget.0.load(Relaxed)
    }

    #[test]
    fn the_one_that_was_silent_longest_gives_way_and_open_connections_last() {
        let now = Instant::now();
        let mut flows = Flows::new(Budget::default());
        let tcp = Flow {
            topic: Topic::Tcp { theirs: 1, ours: 1 },
            ..flow(0)
        };
        flows.begin(tcp, Side::Ours, Stage::Opening, now);
        flows.touch(&tcp, Side::Theirs, Some(Step::Grant), now);
        for n in 0..MAX_FLOWS as u16 - 1 {
            flows.begin(flow(n), Side::Theirs, Stage::Opening, now);
        }
        flows.touch(&flow(0), Side::Ours, None, now);
        flows.begin(flow(60_000), Side::Theirs, Stage::Opening, now);
        assert_eq!(flows.len(), MAX_FLOWS);
        assert!(flows.find(&tcp, now).is_some());
        assert!(flows.find(&flow(0), now).is_some());
        assert!(flows.find(&flow(1), now).is_none());
    }

    #[test]
    fn nobody_takes_from_others_what_is_sure_and_all_is_given_back() {
        let (now, budget) = (Instant::now(), Budget::default());
        let mut greedy: Vec<Flows> = (0..40).map(|_| Flows::new(budget.clone())).collect();
        for flows in &mut greedy {
            for n in 0..MAX_FLOWS as u16 {
                flows.begin(flow(n), Side::Theirs, Stage::Opening, now);
            }
        }
        assert_eq!(taken(&budget), MAX_SHARED);
        let mut late = Flows::new(budget.clone());
        for n in 0..1000 {
            late.begin(flow(n), Side::Ours, Stage::Opening, now);
        }
        assert_eq!(late.len(), SURE_FLOWS);
        drop(greedy);
        assert_eq!(taken(&budget), 0);
        for n in 0..1000 {
            late.begin(flow(n), Side::Ours, Stage::Opening, now);
        }
        assert_eq!(late.len(), 1000);
        assert_eq!(taken(&budget), 1000 - SURE_FLOWS);
        late.begin(flow(0), Side::Ours, Stage::Opening, now + BRIEF);
        assert_eq!((late.len(), taken(&budget)), (1, 0));
    }

    #[test]
    fn a_connection_is_open_once_both_sides_say_so_and_lasts_until_one_ends_it() {
        let now = Instant::now();
        let mut flows = Flows::new(Budget::default());
        let tcp = Flow {
            topic: Topic::Tcp { theirs: 1, ours: 1 },
            ..flow(0)
        };
        let later = now + BRIEF;
        flows.begin(tcp, Side::Ours, Stage::Opening, now);
        flows.touch(&tcp, Side::Ours, Some(Step::Go), now);
        assert!(flows.find(&tcp, later).is_none());
        flows.touch(&tcp, Side::Theirs, Some(Step::Grant), now);
        assert!(flows.find(&tcp, later).is_some());
        assert!(flows.find(&tcp, now + LASTING).is_none());
        flows.touch(&tcp, Side::Theirs, Some(Step::End), now);
        assert!(flows.find(&tcp, later).is_none());
        // What the other party goes on sending does not keep it.
        flows.touch(
            &tcp,
            Side::Theirs,
            Some(Step::Go),
            later - Duration::from_secs(1),
        );
        assert!(flows.find(&tcp, later).is_none());
        flows.touch(
            &tcp,
            Side::Ours,
            Some(Step::Go),
            later - Duration::from_secs(1),
        );
        assert!(flows.find(&tcp, later).is_some());
    }
}
