//! Waking a thread that waits in [`Poll`](super::poll::Poll): to stop it, or to have it look at new state.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// An `eventfd(2)`: readable from the first [`wake`](Self::wake) until the next [`clear`](Self::clear).
///
/// Shared by reference (or `Arc`) between the thread that waits and those that wake it. Any number of wakes before a
/// clear count as one.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
}

impl Wake {
    /// Makes a descriptor that is not readable yet. Fails only when the process is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Makes the descriptor readable. Never blocks.
    pub fn wake(&self) -> io::Result<()> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for the eight bytes given.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        match check(written as i64) {
            Ok(_) => Ok(()),
            // The counter is full, so the descriptor is readable already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the wakes so far; says whether there was one.
    pub fn clear(&self) -> io::Result<bool> {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is valid for the eight bytes given.
        let read =
            unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        match check(read as i64) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wakes_are_cleared_at_once() {
        let wake = Wake::new().unwrap();
        assert!(!wake.clear().unwrap());
        wake.wake().unwrap();
        wake.wake().unwrap();
        assert!(wake.clear().unwrap());
        assert!(!wake.clear().unwrap());
    }
}
