//! Holding one thread of a process while the others run, as a deadlock would.
#![allow(unsafe_code, reason = "ptrace has no safe interface")]

use std::fs;
use std::io;
use std::ptr;

/// A thread that does not run until this is dropped, by the thread that made this.
#[derive(Debug)]
pub struct Frozen {
    thread: libc::pid_t,
}

impl Frozen {
    /// Stops the thread of that name; returns once it stands.
    ///
    /// # Errors
    /// There is no such thread, or it may not be traced.
    pub fn thread(process: u32, name: &str) -> io::Result<Self> {
        let mut found = None;
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let path = entry?.path();
            if fs::read_to_string(path.join("comm"))?.trim() == name {
                found = path.file_name().and_then(|id| id.to_str()?.parse().ok());
            }
        }
        let thread: libc::pid_t = found.ok_or(io::ErrorKind::NotFound)?;
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests take no pointers; both arguments are ignored.
        unsafe {
            check(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none))?;
        }
        let frozen = Self { thread };
        let mut status = 0;
        // SAFETY: as above; waitpid writes one integer.
        unsafe {
            check(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none))?;
            check(libc::waitpid(thread, &raw mut status, libc::__WALL).into())?;
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: as in `thread`. It fails when the process has ended, and then there is nothing to release.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, none, none) };
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
