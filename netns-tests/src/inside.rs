//! Code of this process inside a namespace of the lab. Sockets and files opened there stay there, wherever they are used later.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";

/// Runs `work` in a namespace, on a thread of its own, and returns what it returns. It must not start processes: they would end
/// with the thread.
///
/// # Panics
/// When there is no such namespace, and when `work` does.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let entered = || {
        let path = Path::new(NAMESPACES).join(namespace);
        let file =
            File::open(&path).unwrap_or_else(|err| panic!("cannot open {}: {err}", path.display()));
        setns(file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|err| panic!("cannot enter {namespace}: {err}"));
        work()
    };
    thread::scope(|scope| scope.spawn(entered).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
