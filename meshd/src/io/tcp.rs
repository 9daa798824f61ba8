//! TCP connections of the underlay, without a thread that waits for them: for datagrams where UDP does not pass.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;
use super::socket::{name_of, set};
use super::udp::address;

/// What is written and not sent yet is kept below this, in bytes: above, the kernel takes no more.
const UNSENT: libc::c_int = 32 << 10;
/// Connections that have been made and wait to be taken.
const BACKLOG: libc::c_int = 128;
/// What was sent is acknowledged within this time, or the connection is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// A socket that others connect to; non-blocking.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    local: SocketAddr,
    mark: u32,
}

/// A port that is kept for listeners and connections of this user that share it (`SO_REUSEPORT`). Nobody listens by it.
#[derive(Debug)]
pub struct Reservation {
    _fd: OwnedFd,
    local: SocketAddr,
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the TCP socket {address}")]
pub struct BindError {
    /// What was being done.
    pub step: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// That of a step there.
    fn of(step: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            step,
            address,
            source,
        }
    }
}

/// One end of a connection, or of one that is being made; non-blocking. Whoever drops it resets the connection: nothing of it stays in
/// the kernel.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    remote: SocketAddr,
}

/// What waits in a connection's own queue, and how fast it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that were written and not sent yet.
    pub unsent: usize,
    /// Bytes a second that were delivered lately; none: less was written than the way would have taken.
    pub rate: Option<u64>,
}

impl Listener {
    /// Listens on `address`, for that address family only. What the connections send carries the firewall mark `mark` (0: none).
    ///
    /// # Errors
    /// The address is taken, or its port is for privileged processes only.
    pub fn bind(address: SocketAddr, mark: u32) -> Result<Self, BindError> {
        let failed = |step| BindError::of(step, address);
        let fd = bound(address)?;
        set_mark(&fd, mark).map_err(failed("mark"))?;
        listen(&fd).map_err(failed("listen on"))?;
        let local = name_of(&fd, libc::getsockname).map_err(failed("read the address of"))?;
        Ok(Self { fd, local, mark })
    }

    /// The address that it listens on, with the port that the kernel chose if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Takes a connection that somebody has made; nothing if there is none, or none any more.
    ///
    /// # Errors
    /// The process is out of descriptors, for instance.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let (none, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: null pointers ask for no address.
        let taken = unsafe { libc::accept4(self.fd.as_raw_fd(), none, no_length, flags) };
        let fd = match check(taken) {
            // SAFETY: the descriptor was just made and nobody else owns it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(error) => {
                let gone = [libc::ECONNABORTED, libc::EPROTO, libc::EINTR];
                let is_gone = error
                    .raw_os_error()
                    .is_some_and(|code| gone.contains(&code));
                if error.kind() == io::ErrorKind::WouldBlock || is_gone {
                    return Ok(None);
                }
                return Err(error);
            }
        };
        // It may be gone by now.
        let Ok(remote) = name_of(&fd, libc::getpeername) else {
            return Ok(None);
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        prepare(&fd, self.mark)?;
        Ok(Some(Connection { fd, remote }))
    }
}

impl Reservation {
    /// Keeps the port of `address` (0: any), for that address family only.
    ///
    /// # Errors
    /// Somebody listens there, or this machine has no such address.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |step| BindError::of(step, address);
        let fd = bound(address)?;
        // Only from here on, so that a port is not taken for free that somebody shares already.
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(failed("share"))?;
        // With it left on, everybody could listen who does not mind connections that linger.
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0).map_err(failed("keep"))?;
        let local = name_of(&fd, libc::getsockname).map_err(failed("read the address of"))?;
        Ok(Self { _fd: fd, local })
    }

    /// The address whose port is kept.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Connection {
    /// Begins to connect to `remote`; the descriptor becomes writable when [`Self::outcome`] knows more.
    ///
    /// # Errors
    /// No route leads there, for instance.
    pub fn dial(remote: SocketAddr, mark: u32) -> io::Result<Self> {
        let fd = open(remote)?;
        prepare(&fd, mark)?;
        let (name, length) = address::encode(remote);
        // SAFETY: `name` is a sockaddr of at least `length` bytes.
        let begun = unsafe { libc::connect(fd.as_raw_fd(), (&raw const name).cast(), length) };
        match check(begun) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { fd, remote })
    }

    /// What became of the attempt to connect.
    ///
    /// # Errors
    /// Why it failed.
    pub fn outcome(&self) -> io::Result<()> {
        let mut error: libc::c_int = 0;
        get(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        name_of(&self.fd, libc::getpeername).map(drop)
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Our end.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let local = name_of(&self.fd, libc::getsockname)?;
        Ok(SocketAddr::new(local.ip().to_canonical(), local.port()))
    }

    /// Reads what is there into `bytes`, which is not empty: how much, 0 at the end of the stream; nothing if there is nothing yet.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn recv(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: `bytes` is valid for writes of its length.
        let read = unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        or_later(read)
    }

    /// Writes as much of `parts` as the kernel takes at once: how many bytes; nothing if it takes none now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        // SAFETY: msghdr is plain data for which all zeroes is a value: no address, no control messages.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len() as _;
        // SAFETY: `IoSlice` is an iovec by its documentation, and the kernel only reads through those.
        let written =
            unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        or_later(written)
    }

    /// What waits to be sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn backlog(&self) -> io::Result<Backlog> {
        let mut info = Info([0; INFO]);
        get(&self.fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let word = |at: usize| {
            let bytes = info.0[at..at + 4].first_chunk().copied();
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        let long = |at: usize| {
            let bytes = info.0[at..at + 8].first_chunk().copied();
            u64::from_ne_bytes(bytes.unwrap_or_default())
        };
        let is_limited_by_us = info.0[APP_LIMITED] & 1 != 0;
        let rate = long(DELIVERY_RATE);
        Ok(Backlog {
            unsent: word(NOT_SENT) as usize,
            rate: (rate > 0 && !is_limited_by_us).then_some(rate),
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct tcp_info` as far as it is read here, by the kernel's `include/uapi/linux/tcp.h`, which only ever adds at its end.
#[repr(C, align(8))]
struct Info([u8; INFO]);
const INFO: usize = 168;
/// A bit field, whose first bit it is.
const APP_LIMITED: usize = 7;
const NOT_SENT: usize = 144;
const DELIVERY_RATE: usize = 160;

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket on `address`, for that address family only.
fn bound(address: SocketAddr) -> Result<OwnedFd, BindError> {
    let failed = |step| BindError::of(step, address);
    let fd = open(address).map_err(failed("create"))?;
    // Connections of the run before may linger.
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(failed("reuse"))?;
    if address.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).map_err(failed("restrict to IPv6"))?;
    }
    let (name, length) = address::encode(address);
    // SAFETY: `name` is a sockaddr of at least `length` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) })
        .map_err(failed("bind"))?;
    Ok(fd)
}

fn listen(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) }).map(drop)
}

/// What every connection has: no waiting for more to send, hardly anything that waits to be sent, and no end that takes long.
fn prepare(fd: &OwnedFd, mark: u32) -> io::Result<()> {
    set_mark(fd, mark)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT)?;
    let silence = SILENCE.as_millis() as libc::c_int;
    set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, silence)?;
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, at_once)
}

/// As for UDP: who may not mark goes without.
fn set_mark(fd: &OwnedFd, mark: u32) -> io::Result<()> {
    if mark == 0 {
        return Ok(());
    }
    match set(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed()) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        result => result,
    }
}

fn get<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for writes of `length` bytes; both types that it has here are plain data.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    })
    .map(drop)
}

fn or_later(done: libc::ssize_t) -> io::Result<Option<usize>> {
    match check(done as i64) {
        Ok(length) => Ok(Some(length.unsigned_abs() as usize)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::poll::wait_writable;

    /// Both ends of a connection.
    pub(crate) fn pair() -> (Connection, Connection) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 0).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let dialled = Connection::dial(listener.local_addr(), 0).unwrap();
        assert!(wait_writable(dialled.as_fd(), Duration::from_secs(5)).unwrap());
        dialled.outcome().unwrap();
        (dialled, listener.accept().unwrap().unwrap())
    }

    #[test]
    fn bytes_pass_in_both_directions_until_an_end_is_dropped() {
        let (a, b) = pair();
        assert_eq!(a.remote().ip(), b.local().unwrap().ip());
        assert_eq!(b.remote(), a.local().unwrap());
        let mut bytes = [0; 16];
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_eq!(to.recv(&mut bytes).unwrap(), None);
            let parts = [IoSlice::new(b"ab"), IoSlice::new(b"cde")];
            assert_eq!(from.send(&parts).unwrap(), Some(5));
            assert_eq!(to.recv(&mut bytes).unwrap(), Some(5));
            assert_eq!(&bytes[..5], b"abcde");
        }
        drop(a);
        assert!(b.recv(&mut bytes).is_err(), "it was reset");
    }

    /// As libp2p binds, before it listens as before it dials.
    fn share(address: SocketAddr) -> io::Result<OwnedFd> {
        let fd = open(address)?;
        for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
            set(&fd, libc::SOL_SOCKET, option, 1)?;
        }
        let (name, length) = address::encode(address);
        // SAFETY: `name` is a sockaddr of at least `length` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) })?;
        Ok(fd)
    }

    #[test]
    fn a_reserved_port_is_for_those_who_share_it() {
        let reservation = Reservation::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reservation.local_addr();
        let other = Listener::bind(address, 0).unwrap_err();
        assert_eq!(other.source.kind(), io::ErrorKind::AddrInUse);
        let listening = share(address).unwrap();
        listen(&listening).unwrap();
        let dialling = share(address).unwrap();
        // The reservation takes no connections away from the listener.
        let dialled = Connection::dial(address, 0).unwrap();
        assert!(wait_writable(dialled.as_fd(), Duration::from_secs(5)).unwrap());
        dialled.outcome().unwrap();
        // A port that is listened on is not free, whoever shares it.
        drop((dialled, dialling, reservation));
        let late = Reservation::bind(address).unwrap_err();
        assert_eq!(late.source.kind(), io::ErrorKind::AddrInUse);
        drop(listening);
        Reservation::bind(address).unwrap();
    }

    #[test]
    fn a_connection_that_nobody_takes_fails() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 0).unwrap();
        let address = listener.local_addr();
        drop(listener);
        let failed = match Connection::dial(address, 0) {
            Ok(dialled) => {
                assert!(wait_writable(dialled.as_fd(), Duration::from_secs(5)).unwrap());
                dialled.outcome().unwrap_err()
            }
            Err(error) => error,
        };
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_nobody_reads_is_seen_to_wait() {
        let (a, _b) = pair();
        assert_eq!(a.backlog().unwrap().unsent, 0);
        let bytes = vec![7; 16 << 10];
        let mut written = 0;
        while let Some(length) = a.send(&[IoSlice::new(&bytes)]).unwrap() {
            written += length;
            assert!(written < 256 << 20, "the kernel takes everything");
        }
        let unsent = a.backlog().unwrap().unsent;
        assert!(
            (1..=4 * UNSENT as usize).contains(&unsent),
            "{unsent} of {written} bytes"
        );
    }
}
