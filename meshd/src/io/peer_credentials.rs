//! Who is at the other end of a Unix socket, and which group a name means.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

/// Supplementary groups are read with room for this many, then for as many as the kernel says there are.
const USUAL_GROUPS: usize = 32;
/// Longest group entry looked at, in bytes: a group of many thousand members.
const MAX_ENTRY: usize = 1 << 20;

/// The supplementary groups of the process that connected (`SO_PEERGROUPS`, socket(7)).
///
/// # Errors
/// The kernel's, for instance when `socket` is not a connected Unix socket.
pub fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; USUAL_GROUPS];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: `groups` is writable for `length` bytes, which the kernel updates but never exceeds.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The number of a group by its name; nothing if there is no such group.
///
/// # Errors
/// The name service's.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    let mut buffer = vec![0; 1024];
    loop {
        // SAFETY: an all-zero `group` is a valid value: integers and null pointers.
        let mut group: libc::group = unsafe { mem::zeroed() };
        let mut found = ptr::null_mut();
        // SAFETY: `name` is a C string; `group` and `found` are writable; `buffer` is writable for its length.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                &raw mut group,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match error {
            0 => return Ok((!found.is_null()).then_some(group.gr_gid)),
            libc::ERANGE if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len() * 4, 0),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The effective user of this process.
pub fn own_user() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_pair_has_our_own_groups() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut own = vec![0; 1024];
        // SAFETY: `own` has room for 1024 groups.
        let count = unsafe { libc::getgroups(1024, own.as_mut_ptr()) };
        own.truncate(usize::try_from(count).unwrap());
        assert_eq!(groups(&ours).unwrap(), own);
    }

    #[test]
    fn root_is_a_group_and_nonsense_is_none() {
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        assert_eq!(group_by_name("no-such-group-here").unwrap(), None);
    }
}
