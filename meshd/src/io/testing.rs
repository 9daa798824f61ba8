//! Network namespaces for tests that need the kernel.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// Runs `test` on a thread with a network namespace of its own in which only `lo` exists, up.
///
/// Fails, with the command to run instead, where the process may not make one.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes no pointers; without CLONE_FILES or CLONE_FS it changes nothing but this thread's
            // network namespace.
            if let Err(error) = check(unsafe { libc::unshare(libc::CLONE_NEWNET) }) {
                panic!("cannot make a network namespace ({error}): run `unshare --user --map-root-user cargo nextest run -p meshd`, or run the tests as root");
            }
            set_loopback_up().unwrap();
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As [`in_namespace`], for a test that needs tokio; all its tasks run on that thread.
pub(crate) fn in_namespace_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

fn set_loopback_up() -> io::Result<()> {
    configure_loopback(libc::SIOCSIFFLAGS, |request| {
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short
    })
}

fn configure_loopback(
    operation: libc::c_ulong,
    fill: impl FnOnce(&mut libc::ifreq),
) -> io::Result<()> {
    // SAFETY: socket takes no pointers.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    fill(&mut request);
    // SAFETY: these requests read one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw const request) }).map(drop)
}

/// Sets the MTU of `lo`, both families.
pub(crate) fn set_loopback_mtu(mtu: i32) -> io::Result<()> {
    configure_loopback(libc::SIOCSIFMTU, |request| request.ifr_ifru.ifru_mtu = mtu)
}

/// Takes all capabilities from this thread, for good.
pub(crate) fn drop_privileges() -> io::Result<()> {
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let (header, none) = ([LINUX_CAPABILITY_VERSION_3, 0], [0u32; 6]);
    // SAFETY: capset reads a header of two words and, in this version, two times three words of data.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}
