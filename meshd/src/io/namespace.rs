//! Network namespaces: those of workloads, entered by the process that attaches them. The daemon enters none.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::check;

/// That of this thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, which lives for as long as this.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

/// Why a workload's namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is none there.
    #[error("there is no network namespace {path}")]
    Missing {
        /// Where.
        path: String,
    },
    /// It is a file of another kind.
    #[error("{path} is no network namespace")]
    Other {
        /// What.
        path: String,
    },
    /// It is the one that the daemon is in, or might be: the workload's interface would be one more of this machine.
    #[error("{path} is this machine's own network namespace, which has the overlay already")]
    Own {
        /// Which.
        path: String,
    },
    /// Somebody else's.
    #[error(
        "not permitted to {step} {path}: it takes root, or the owner of the user namespace that it belongs to"
    )]
    NotPermitted {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: String,
    },
    /// The system refused for another reason.
    #[error("cannot {step} {path}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Namespace {
    /// The namespace at this path, unless it is our own.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(|source| failed("open", path, source))?;
        let text = || path.display().to_string();
        // SAFETY: NS_GET_NSTYPE takes no argument; of a file that is no namespace it is an error.
        let kind = check(unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) });
        if !kind.is_ok_and(|kind| kind == libc::CLONE_NEWNET) {
            return Err(NamespaceError::Other { path: text() });
        }
        let same = |own: fs::Metadata, other: fs::Metadata| {
            (own.dev(), own.ino()) == (other.dev(), other.ino())
        };
        let is_own = fs::metadata(OWN).and_then(|own| Ok(same(own, file.metadata()?)));
        if is_own.map_err(|source| failed("look at", path, source))? {
            return Err(NamespaceError::Own { path: text() });
        }
        Ok(Self(file.into()))
    }

    /// Moves this thread into a new namespace with nothing in it.
    ///
    /// # Errors
    /// Not permitted, most likely.
    pub fn make() -> Result<Self, NamespaceError> {
        let made = Path::new("a new network namespace");
        // SAFETY: a network namespace is about sockets that this thread makes from here on; no memory and no descriptor changes hands.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(|error| failed("make", made, error.into()))?;
        let file = File::open(OWN).map_err(|source| failed("open", made, source))?;
        Ok(Self(file.into()))
    }

    /// Moves this thread into the namespace; where it may not, into the user namespace that owns it before, which is for good and only
    /// possible while the process has no other thread.
    ///
    /// # Errors
    /// [`NamespaceError::NotPermitted`] above all. `path` is what the error calls it.
    pub fn enter(&self, path: &Path) -> Result<(), NamespaceError> {
        let enter = || move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network));
        match enter() {
            Err(rustix::io::Errno::PERM) => {}
            result => return result.map_err(|error| failed("enter", path, error.into())),
        }
        let step = "enter the user namespace of";
        let owner = self.owner().map_err(|source| failed(step, path, source))?;
        move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(|error| failed(step, path, error.into()))?;
        enter().map_err(|error| failed("enter", path, error.into()))
    }

    /// The user namespace that owns it.
    fn owner(&self) -> io::Result<OwnedFd> {
        // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor.
        let fd = check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::NS_GET_USERNS) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> NamespaceError {
    let path = path.display().to_string();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => NamespaceError::Missing { path },
        Some(libc::EPERM | libc::EACCES) => NamespaceError::NotPermitted { step, path },
        Some(_) | None => NamespaceError::Kernel { step, path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;

    #[test]
    fn what_is_not_there_is_no_namespace_or_is_our_own_is_refused() {
        in_namespace(|| {
            let open = |path: &str| Namespace::open(Path::new(path));
            assert!(matches!(
                open("/run/netns/no-such-one"),
                Err(NamespaceError::Missing { .. })
            ));
            assert!(matches!(
                open("/proc/self/status"),
                Err(NamespaceError::Other { .. })
            ));
            assert!(matches!(
                open("/proc/self/ns/mnt"),
                Err(NamespaceError::Other { .. })
            ));
            assert!(matches!(open(OWN), Err(NamespaceError::Own { .. })));
            // This thread has left the namespace that the process began in.
            let main = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
            let made = Namespace::make().unwrap();
            main.enter(Path::new("main")).unwrap();
            made.enter(Path::new("made")).unwrap();
            assert!(matches!(open(OWN), Err(NamespaceError::Own { .. })));
        });
    }
}
