//! What is to be done when: a set of deadlines, one for each task.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Tasks by when they are due.
#[derive(Debug)]
pub struct Agenda<T> {
    due: BTreeSet<(Instant, T)>,
    tasks: BTreeMap<T, Instant>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            tasks: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Ord> Agenda<T> {
    /// A task is due then, and not when it was before; or not at all.
    pub fn set(&mut self, task: T, due: Option<Instant>) {
        let before = match due {
            Some(due) => self.tasks.insert(task, due),
            None => self.tasks.remove(&task),
        };
        if let Some(before) = before {
            self.due.remove(&(before, task));
        }
        if let Some(due) = due {
            self.due.insert((due, task));
        }
    }

    /// Whether a task has a deadline.
    pub fn has(&self, task: &T) -> bool {
        self.tasks.contains_key(task)
    }

    /// The first deadline.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes a task that is due at `now`, the longest overdue first.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        let &(due, task) = self.due.first()?;
        if due > now {
            return None;
        }
        self.set(task, None);
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_task_has_one_deadline_and_is_taken_once() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut agenda = Agenda::default();
        agenda.set('a', Some(at(5)));
        agenda.set('b', Some(at(3)));
        agenda.set('a', Some(at(1)));
        agenda.set('c', Some(at(2)));
        agenda.set('c', None);
        assert_eq!(agenda.next(), Some(at(1)));
        assert_eq!(agenda.take(at(0)), None);
        assert_eq!(agenda.take(at(9)), Some('a'));
        assert_eq!(agenda.take(at(9)), Some('b'));
        assert_eq!(agenda.take(at(9)), None);
        assert_eq!(agenda.next(), None);
    }
}
