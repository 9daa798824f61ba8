//! Queues to one thread that waits for all of them, and for a time, at once: whoever puts something in rings.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{Ordering::SeqCst, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

use crossbeam_channel::{Receiver, SendError, TrySendError};

/// What wakes the thread that [listens](Self::listen). Clones ring the same.
///
/// `crossbeam_channel::Select` does as much, but looks around for some twenty microseconds before it sleeps: for a thread that is woken a
/// hundred times a second for as long as a Hello takes, that is most of its work.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    listener: Arc<OnceLock<Thread>>,
}

/// The sending end of a queue. Its listener is woken by what it sends, and when it is dropped.
pub struct Sender<T> {
    // Closed before it rings for the last time.
    queue: crossbeam_channel::Sender<T>,
    ringer: Ringer,
}

#[derive(Clone, Debug)]
struct Ringer(Bell);

impl Bell {
    /// A queue for the thread that listens, of at most `capacity` entries.
    pub fn queue<T>(&self, capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (queue, receiver) = crossbeam_channel::bounded(capacity);
        let ringer = Ringer(self.clone());
        (Sender { queue, ringer }, receiver)
    }

    /// From now on it wakes this thread, and no other. To be called before the queues are looked at for the first time.
    pub fn listen(&self) {
        // Set already: by this thread, since nobody else listens.
        let _ = self.listener.set(thread::current());
        // Either the first look at the queues finds an entry, or its sender finds us.
        fence(SeqCst);
    }

    /// Sleeps until it rings, at most for so long. What has rung since the last wait ends it at once.
    pub fn wait(&self, within: Option<Duration>) {
        match within {
            Some(within) => thread::park_timeout(within),
            None => thread::park(),
        }
    }

    fn ring(&self) {
        fence(SeqCst);
        if let Some(listener) = self.listener.get() {
            listener.unpark();
        }
    }
}

impl<T> Sender<T> {
    /// Puts something in, unless the queue is full.
    ///
    /// # Errors
    /// It is full, or its receiver is gone.
    pub fn try_send(&self, entry: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(entry)?;
        self.ringer.0.ring();
        Ok(())
    }

    /// Puts something in as soon as there is room.
    ///
    /// # Errors
    /// Its receiver is gone.
    pub fn send(&self, entry: T) -> Result<(), SendError<T>> {
        self.queue.send(entry)?;
        self.ringer.0.ring();
        Ok(())
    }

    /// Whether the listener has taken everything.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What wakes the thread at the other end.
    pub fn bell(&self) -> &Bell {
        &self.ringer.0
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("waiting", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            ringer: self.ringer.clone(),
        }
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        self.0.ring();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    /// Far beyond what a test takes: it fails by the nextest's own limit if nobody rings.
    const LONG: Option<Duration> = Some(Duration::from_secs(600));

    #[test]
    fn every_entry_of_every_queue_arrives_though_the_listener_sleeps() {
        const EACH: u32 = 2_000;
        let bell = Bell::default();
        let (one_in, one) = bell.queue::<u32>(4);
        let (other_in, other) = bell.queue::<u32>(4);
        thread::scope(|scope| {
            for sender in [one_in, other_in] {
                scope.spawn(move || {
                    for entry in 0..EACH {
                        sender.send(entry).unwrap();
                    }
                });
            }
            scope.spawn(move || {
                bell.listen();
                let mut next = [0; 2];
                let mut open = [true; 2];
                while open != [false; 2] {
                    for (at, queue) in [&one, &other].into_iter().enumerate() {
                        loop {
                            match queue.try_recv() {
                                Ok(entry) => {
                                    assert_eq!(entry, next[at]);
                                    next[at] += 1;
                                }
                                Err(TryRecvError::Empty) => break,
                                Err(TryRecvError::Disconnected) => {
                                    open[at] = false;
                                    break;
                                }
                            }
                        }
                    }
                    if open != [false; 2] {
                        bell.wait(LONG);
                    }
                }
                assert_eq!(next, [EACH; 2]);
            });
        });
    }

    #[test]
    fn what_rang_before_the_wait_ends_it() {
        let bell = Bell::default();
        let (sender, queue) = bell.queue(1);
        bell.listen();
        sender.try_send(7).unwrap();
        assert!(sender.try_send(8).is_err());
        bell.wait(LONG);
        assert_eq!(queue.try_recv(), Ok(7));
    }
}
