//! Whether a packet thread still runs: somebody asks, which wakes it, and it answers between two batches.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use crate::io::wake::Wake;

/// Shared between one thread, which polls it and [answers](Self::answer), and one who [asks](Self::ask).
#[derive(Debug)]
pub struct Pulse {
    /// Whose it is, for messages.
    pub thread: &'static str,
    wake: Wake,
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Pulse {
    /// Of a thread that nobody has asked yet.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn new(thread: &'static str) -> io::Result<Self> {
        Ok(Self {
            thread,
            wake: Wake::new()?,
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    /// Asks. Never waits; [`has_answered`](Self::has_answered) tells.
    ///
    /// # Errors
    /// The thread cannot be woken.
    pub fn ask(&self) -> io::Result<()> {
        self.asked.fetch_add(1, SeqCst);
        self.wake.wake()
    }

    /// Whether the thread has answered the latest question.
    pub fn has_answered(&self) -> bool {
        self.answered.load(SeqCst) == self.asked.load(SeqCst)
    }

    /// Answers everything that was asked so far.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn answer(&self) -> io::Result<()> {
        // Cleared first: a question that comes in between wakes the thread once more.
        self.wake.clear()?;
        self.answered.store(self.asked.load(SeqCst), SeqCst);
        Ok(())
    }
}

impl AsFd for Pulse {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{clock::Clock, poll::Poll};

    #[test]
    fn a_question_wakes_the_thread_until_it_answers() {
        let (pulse, clock) = (Pulse::new("inside").unwrap(), Clock::new());
        let mut poll = Poll::new(&[pulse.as_fd()]);
        pulse.ask().unwrap();
        pulse.ask().unwrap();
        assert!(!pulse.has_answered());
        assert_eq!(poll.wait(None, &clock).unwrap(), 1);
        pulse.answer().unwrap();
        assert!(pulse.has_answered());
        assert_eq!(poll.wait(Some(clock.now()), &clock).unwrap(), 0);
        pulse.ask().unwrap();
        assert!(!pulse.has_answered());
    }
}
