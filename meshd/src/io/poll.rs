//! Waiting for descriptors, with a deadline.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::check;
use super::clock::Clock;

/// A fixed set of descriptors that a packet thread waits on.
#[derive(Debug)]
pub struct Poll<'fd> {
    entries: Vec<libc::pollfd>,
    descriptors: std::marker::PhantomData<BorrowedFd<'fd>>,
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

impl<'fd> Poll<'fd> {
    /// Watches `descriptors` for something to read; [`is_ready`](Self::is_ready) takes their positions.
    pub fn new(descriptors: &[BorrowedFd<'fd>]) -> Self {
        let entries = descriptors
            .iter()
            .map(|fd| libc::pollfd {
                fd: fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        Self {
            entries,
            descriptors: std::marker::PhantomData,
        }
    }

    /// Watches each of `descriptors` for what is to be done with it.
    pub fn of(descriptors: &[(BorrowedFd<'fd>, Interest)]) -> Self {
        let entries = descriptors
            .iter()
            .map(|(fd, interest)| libc::pollfd {
                fd: fd.as_raw_fd(),
                events: match interest {
                    Interest::Read => libc::POLLIN,
                    Interest::Write => libc::POLLOUT,
                    Interest::Both => libc::POLLIN | libc::POLLOUT,
                },
                revents: 0,
            })
            .collect();
        Self {
            entries,
            descriptors: std::marker::PhantomData,
        }
    }

    /// Waits until a descriptor is ready or `deadline` (a time of `clock`) has come; `None` waits for ever.
    ///
    /// Returns how many are ready: 0 after the deadline, and also when a signal interrupted the wait, so callers loop.
    /// The wait itself does not advance while the machine is suspended.
    pub fn wait(&mut self, deadline: Option<Instant>, clock: &Clock) -> io::Result<usize> {
        wait(
            &mut self.entries,
            deadline.map(|deadline| deadline.saturating_duration_since(clock.now())),
        )
    }

    /// Watches the descriptor at `position` no more.
    pub fn ignore(&mut self, position: usize) {
        if let Some(entry) = self.entries.get_mut(position) {
            // ppoll leaves out negative ones.
            (entry.fd, entry.revents) = (-1, 0);
        }
    }

    /// Whether the descriptor at `position` had something to read, or an error to report, after the last wait.
    pub fn is_ready(&self, position: usize) -> bool {
        self.entries
            .get(position)
            .is_some_and(|entry| entry.revents != 0)
    }
}

/// Waits until `fd` takes more output, for at most `timeout`; says whether it does.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut entry = [libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    }];
    Ok(wait(&mut entry, Some(timeout))? > 0)
}

fn wait(entries: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `entries` is valid for its length, `timeout` is null or points to a timespec that lives until the return,
    // and a null signal mask leaves the mask alone.
    let ready = unsafe {
        libc::ppoll(
            entries.as_mut_ptr(),
            entries.len() as libc::nfds_t,
            timeout,
            std::ptr::null(),
        )
    };
    match check(ready) {
        Ok(ready) => Ok(ready.unsigned_abs() as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            entries.iter_mut().for_each(|entry| entry.revents = 0);
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::wake::Wake;
    use std::os::fd::AsFd;

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let (clock, wake) = (Clock::new(), Wake::new().unwrap());
        let mut poll = Poll::new(&[wake.as_fd()]);
        let deadline = clock.now() + Duration::from_millis(3);
        while clock.now() < deadline {
            assert_eq!(poll.wait(Some(deadline), &clock).unwrap(), 0);
        }
        assert!(!poll.is_ready(0));
        assert_eq!(poll.wait(Some(deadline), &clock).unwrap(), 0);
    }

    #[test]
    fn a_wake_from_another_thread_ends_an_endless_wait() {
        let (clock, quiet, wake) = (Clock::new(), Wake::new().unwrap(), Wake::new().unwrap());
        let mut poll = Poll::new(&[quiet.as_fd(), wake.as_fd()]);
        std::thread::scope(|scope| {
            scope.spawn(|| wake.wake().unwrap());
            while poll.wait(None, &clock).unwrap() == 0 {}
        });
        assert!(!poll.is_ready(0));
        assert!(poll.is_ready(1));
        assert!(!poll.is_ready(2));
    }

    #[test]
    fn an_eventfd_takes_output() {
        let wake = Wake::new().unwrap();
        assert!(wait_writable(wake.as_fd(), Duration::ZERO).unwrap());
    }
}
