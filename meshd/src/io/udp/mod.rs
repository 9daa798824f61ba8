//! The underlay's UDP sockets: many datagrams in one system call, in both directions.
//!
//! On send the kernel cuts a message into segments (`UDP_SEGMENT`), on receive it hands over runs of equal datagrams in one
//! piece (`UDP_GRO`). Without that, the walk through the network stack is paid per datagram, and `sendmmsg` alone saves nothing.

pub(in crate::io) mod address;
mod receive;
mod send;

pub use receive::{Received, RecvBatch};
pub use send::{Outcome, Outgoing, SendBatch};

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use super::socket::{name_of, set};

/// Most segments in one message: `UDP_MAX_SEGMENTS` (newer kernels take 128).
pub const SEGMENTS: usize = 64;

/// Most payload in one message: what fits an IPv4 packet.
pub const PAYLOAD: usize = 65507;

/// Kernel buffers, in bytes: a hundred super-packets, about 6 ms at 10 Gbit/s.
const BUFFER: libc::c_int = 7 << 20;

/// A UDP socket of one address family; non-blocking.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    marked: Marked,
    #[cfg(feature = "_sim")]
    simulated: Option<std::sync::Arc<super::simulated::Datagrams>>,
}

/// Whether the socket's packets carry the mark that keeps them out of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// They do, or no mark was asked for.
    Yes,
    /// The kernel refused: without CAP_NET_ADMIN over its namespace a process may not mark. Endpoints inside the overlay
    /// must then be refused by address alone.
    NotPermitted,
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the UDP socket {address}")]
pub struct BindError {
    /// What was being done.
    pub step: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said; `AddrInUse` when another process has the port.
    #[source]
    pub source: io::Error,
}

impl UdpSocket {
    /// Binds to `address` (port 0: any), for that address family only; packets carry the firewall mark `mark` (0: none).
    pub fn bind(address: SocketAddr, mark: u32) -> Result<Self, BindError> {
        Self::open(address, mark, false)
    }

    /// One more socket on the same address. The kernel spreads those who send to it over all of them, and each stays with one.
    ///
    /// The address was bound by nobody else, and is shared only with who asks for that in turn and is the same user.
    pub fn shard(&self, mark: u32) -> Result<Self, BindError> {
        set(&self.fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(|source| BindError {
            step: "share",
            address: self.local,
            source,
        })?;
        Self::open(self.local, mark, true)
    }

    fn open(address: SocketAddr, mark: u32, is_shared: bool) -> Result<Self, BindError> {
        let failed = |step| {
            move |source| BindError {
                step,
                address,
                source,
            }
        };
        let family = if address.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers.
        let fd = check(unsafe { libc::socket(family, kind, 0) }).map_err(failed("create"))?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };

        if address.is_ipv4() {
            set(&fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
                .map_err(failed("ask for destination addresses on"))?;
            // DF stays clear, as in WireGuard: when a path turns out narrower than its sealed datagrams, it slows down to
            // fragments instead of breaking, and forged ICMP cannot stop it. The path agent finds the true MTU inside the session.
            set(
                &fd,
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DONT,
            )
            .map_err(failed("allow fragments on"))?;
        } else {
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)
                .map_err(failed("restrict to IPv6"))?;
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
                .map_err(failed("ask for destination addresses on"))?;
            set(
                &fd,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DONT,
            )
            .map_err(failed("allow fragments on"))?;
        }
        // Kernels before Linux 5.0 hand over one datagram at a time.
        set_if_known(&fd, libc::SOL_UDP, libc::UDP_GRO).map_err(failed("enable UDP_GRO on"))?;
        let (level, class) = if address.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_RECVTOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
        };
        // A kernel that does not tell leaves marks unheard, as a tunnel without ECN does.
        set_if_known(&fd, level, class).map_err(failed("ask for ECN fields on"))?;
        set(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
            .map_err(failed("ask for times of arrival on"))?;
        for (force, polite) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            // Without CAP_NET_ADMIN the kernel cuts the wish down to net.core.{r,w}mem_max.
            set(&fd, libc::SOL_SOCKET, force, BUFFER)
                .or_else(|_| set(&fd, libc::SOL_SOCKET, polite, BUFFER))
                .map_err(failed("size the buffers of"))?;
        }
        let marked = if mark == 0 {
            Marked::Yes
        } else {
            match set(&fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed()) {
                Ok(()) => Marked::Yes,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Marked::NotPermitted,
                Err(source) => return Err(failed("mark")(source)),
            }
        };

        if is_shared {
            set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(failed("share"))?;
        }
        let (name, length) = address::encode(address);
        // SAFETY: `name` is a sockaddr of at least `length` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) })
            .map_err(failed("bind"))?;
        let local = name_of(&fd, libc::getsockname).map_err(failed("read the address of"))?;
        Ok(Self {
            fd,
            local,
            marked,
            #[cfg(feature = "_sim")]
            simulated: None,
        })
    }

    /// A socket without a kernel behind it, for simulations: what is sent goes to `datagrams`.
    #[cfg(feature = "_sim")]
    pub fn simulated(
        local: SocketAddr,
        datagrams: std::sync::Arc<super::simulated::Datagrams>,
    ) -> io::Result<Self> {
        Ok(Self {
            fd: std::fs::File::open("/dev/null")?.into(),
            local,
            marked: Marked::Yes,
            simulated: Some(datagrams),
        })
    }

    /// The address that the socket is bound to, with the port that the kernel chose if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether the mark was set.
    pub fn marked(&self) -> Marked {
        self.marked
    }
}

/// Turns an option on that not every kernel knows.
fn set_if_known(fd: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    match set(fd, level, option, 1) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
