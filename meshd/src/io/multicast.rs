//! A UDP socket for what is said to everybody on a link (IPv6).

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

use super::{check, socket::set, udp::address};

/// What may wait to be read, in bytes; the kernel doubles it for its own account. A flood is lost here.
const RECEIVE_BUFFER: libc::c_int = 64 << 10;
/// Nothing sent or received by [`MulticastSocket`] passes a router.
const HOP_LIMIT: libc::c_int = 255;
/// `IPV6_MULTICAST_ALL` of `<linux/in6.h>`, which the C library does not name.
const IPV6_MULTICAST_ALL: libc::c_int = 29;

/// A socket that belongs to any number of groups, on interfaces that are named.
#[derive(Debug)]
pub struct MulticastSocket {
    fd: AsyncFd<OwnedFd>,
    port: u16,
}

/// One datagram that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its length, in bytes.
    pub length: usize,
    /// Index of the interface that it came in by.
    pub interface: u32,
    /// Who it says it comes from.
    pub source: Ipv6Addr,
    /// What was left of its hop limit.
    pub hop_limit: u8,
}

/// Room for the control messages of one datagram, aligned for their headers.
#[repr(align(8))]
struct Control([u8; 128]);

impl MulticastSocket {
    /// Opens a socket on that port of all addresses, which other processes may share; its packets carry the firewall mark `mark` if
    /// this process may set one. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// There is no IPv6, or somebody has the port for himself.
    pub fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_INET6, kind, 0) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for (level, option, value) in [
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, HOP_LIMIT),
            (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 0),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER),
        ] {
            set(&fd, level, option, value)?;
        }
        for (level, option, value, lack) in [
            // What others have joined is none of our business; kernels before Linux 4.20 deliver it, and it is ignored later.
            (libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0, libc::ENOPROTOOPT),
            (
                libc::SOL_SOCKET,
                libc::SO_MARK,
                mark.cast_signed(),
                libc::EPERM,
            ),
        ] {
            match set(&fd, level, option, value) {
                Err(error) if error.raw_os_error() == Some(lack) => {}
                result => result?,
            }
        }
        let (name, length) = address::encode((Ipv6Addr::UNSPECIFIED, port).into());
        // SAFETY: `name` is a sockaddr of at least `length` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) })?;
        // SAFETY: the descriptor is owned by what is registered, which never gives it away or replaces it.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd, port })
    }

    /// Hears from now on what is sent to a group on an interface. To join again is no error.
    ///
    /// # Errors
    /// There is no such interface, or it knows no multicast.
    pub fn join(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        match self.membership(libc::IPV6_ADD_MEMBERSHIP, group, interface) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
            result => result,
        }
    }

    /// Hears no more of it. An interface that is gone has been left.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    pub fn leave(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        match self.membership(libc::IPV6_DROP_MEMBERSHIP, group, interface) {
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|number| gone.contains(&number)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn membership(&self, option: libc::c_int, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        let request = libc::ipv6_mreq {
            ipv6mr_multiaddr: libc::in6_addr {
                s6_addr: group.octets(),
            },
            ipv6mr_interface: interface,
        };
        // SAFETY: the value is an ipv6_mreq, valid for reads of its size.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_IPV6,
                option,
                (&raw const request).cast(),
                size_of::<libc::ipv6_mreq>() as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// Says something to a group on an interface, from the port of the socket and from that address.
    ///
    /// # Errors
    /// The interface or the address is gone, or the interface is busy.
    pub fn send(
        &self,
        group: Ipv6Addr,
        interface: u32,
        source: Ipv6Addr,
        datagram: &[u8],
    ) -> io::Result<()> {
        let to = SocketAddrV6::new(group, self.port, 0, interface);
        let (mut name, length) = address::encode(SocketAddr::V6(to));
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: source.octets(),
            },
            ipi6_ifindex: interface,
        };
        let mut control = Control([0; 128]);
        let mut part = libc::iovec {
            iov_base: datagram.as_ptr().cast_mut().cast(),
            iov_len: datagram.len(),
        };
        let size = size_of::<libc::in6_pktinfo>() as libc::c_uint;
        // SAFETY: msghdr is plain data for which all zeroes is a value. Everything that it points to outlives the calls; the control
        // buffer is aligned and has room for one message of `size` bytes, so CMSG_FIRSTHDR gives a header inside of it; sendmsg only
        // reads.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = length;
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::IPPROTO_IPV6;
            (*message).cmsg_type = libc::IPV6_PKTINFO;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(message)
                .cast::<libc::in6_pktinfo>()
                .write_unaligned(info);
            check(libc::sendmsg(self.fd.as_raw_fd(), &raw const header, 0) as i64).map(drop)
        }
    }

    /// Waits for the next datagram. What is longer than `buffer` is cut. Cancelling loses nothing.
    ///
    /// # Errors
    /// The socket does not work any more.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Heard> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| read(fd.get_ref(), buffer)) {
                Ok(Ok(Some(heard))) => return Ok(heard),
                // It says nothing of where it comes from.
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<Heard>> {
    let mut control = Control([0; 128]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: sockaddr_storage and msghdr are plain data for which all zeroes is a value. Everything that the header points to is valid
    // for writes of the length given and outlives the call. After it CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header in the
    // control buffer; values are read only of the type that the kernel documents for their level and type, of any alignment.
    unsafe {
        let mut name: libc::sockaddr_storage = std::mem::zeroed();
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        let length = check(libc::recvmsg(fd.as_raw_fd(), &raw mut header, 0) as i64)?;
        let (mut interface, mut hop_limit) = (None, None);
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    interface = Some(info.ipi6_ifindex);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    let left = data.cast::<libc::c_int>().read_unaligned();
                    hop_limit = u8::try_from(left).ok();
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
        let (Some(SocketAddr::V6(source)), Some(interface), Some(hop_limit)) =
            (address::decode(&name), interface, hop_limit)
        else {
            return Ok(None);
        };
        Ok(Some(Heard {
            length: usize::try_from(length).unwrap_or_default(),
            interface,
            source: *source.ip(),
            hop_limit,
        }))
    }
}
