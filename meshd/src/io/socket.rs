//! What sockets of every kind are asked for and told.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{check, udp::address};

/// Sets an option whose value is plain data.
pub(super) fn set<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is valid for reads of `length` bytes.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    })
    .map(drop)
}

/// `getsockname(2)` or `getpeername(2)`.
pub(super) type Name =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// The address of one end.
pub(super) fn name_of(fd: &OwnedFd, ask: Name) -> io::Result<SocketAddr> {
    // SAFETY: sockaddr_storage is plain data for which all zeroes is a value.
    let mut name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `name` is valid for writes of `length` bytes.
    check(unsafe { ask(fd.as_raw_fd(), (&raw mut name).cast(), &raw mut length) })?;
    address::decode(&name).ok_or_else(|| io::ErrorKind::Unsupported.into())
}
