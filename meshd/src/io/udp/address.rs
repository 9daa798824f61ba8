//! Socket addresses and control messages, as the kernel spells them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use crate::ecn::Ecn;
use crate::io::clock::from_timespec;

/// Room for the control messages of one datagram: a packet-info, a segment size, a traffic class and a time or a hop limit, with their
/// headers, aligned.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL]);

pub(super) const CONTROL: usize = 120;

impl Control {
    pub(super) const EMPTY: Self = Self([0; CONTROL]);
}

/// The kernel's form of `address`, and its length.
pub(in crate::io) fn encode(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain data for which all zeroes is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// The address in `storage`, which the kernel filled in; `None` for other families.
pub(in crate::io) fn decode(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says so, and sockaddr_storage is larger than, and aligned for, every socket address.
            let name = unsafe { (&raw const *storage).cast::<libc::sockaddr_in>().read() };
            let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(address, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { (&raw const *storage).cast::<libc::sockaddr_in6>().read() };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            // The flow label is the sender's business; with it, one peer would look like many.
            Some(
                SocketAddrV6::new(address, u16::from_be(name.sin6_port), 0, name.sin6_scope_id)
                    .into(),
            )
        }
        _ => None,
    }
}

/// How many routers a datagram passes at most, in the terms of its address family.
#[derive(Debug, Clone, Copy)]
pub(super) struct HopLimit {
    level: libc::c_int,
    kind: libc::c_int,
    value: libc::c_int,
}

impl HopLimit {
    /// For a datagram to there.
    pub(super) fn new(to: SocketAddr, limit: u8) -> Self {
        let (level, kind) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)
        };
        Self {
            level,
            kind,
            value: limit.into(),
        }
    }
}

/// The traffic class of a datagram, in the terms of its address family. The kernel's own choice, zero, takes no control message.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrafficClass {
    level: libc::c_int,
    kind: libc::c_int,
    value: libc::c_int,
}

impl TrafficClass {
    /// For a datagram to there; none if it says nothing.
    pub(super) fn new(to: SocketAddr, ecn: Ecn) -> Option<Self> {
        let (level, kind) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        ecn.is_capable().then(|| Self {
            level,
            kind,
            value: ecn.class().into(),
        })
    }
}

/// Writes the control messages for a datagram: source address, hop limit, traffic class, segment size. Returns their length in bytes.
pub(super) fn write_control(
    control: &mut Control,
    source: Option<IpAddr>,
    hop_limit: Option<HopLimit>,
    class: Option<TrafficClass>,
    segment: Option<u16>,
) -> usize {
    let mut used = 0;
    match source {
        Some(IpAddr::V4(source)) => {
            let address = libc::in_addr {
                s_addr: u32::from_ne_bytes(source.octets()),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used += append(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(source)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: source.octets(),
                },
                ipi6_ifindex: 0,
            };
            used += append(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    if let Some(HopLimit { level, kind, value }) = hop_limit {
        used += append(control, used, level, kind, value);
    }
    if let Some(TrafficClass { level, kind, value }) = class {
        used += append(control, used, level, kind, value);
    }
    if let Some(segment) = segment {
        used += append(control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    used
}

fn append<T: Copy>(
    control: &mut Control,
    at: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    let length = size_of::<T>() as libc::c_uint;
    // SAFETY: these only compute sizes.
    let (space, header_and_value) = unsafe {
        (
            libc::CMSG_SPACE(length) as usize,
            libc::CMSG_LEN(length) as usize,
        )
    };
    let room = &mut control.0[at..at + space];
    room.fill(0);
    let header = room.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: `room` holds a header and the value; `control` is aligned to 8 and every CMSG_SPACE is a multiple of 8, so the
    // header is aligned. The value is written without assuming any alignment.
    unsafe {
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = header_and_value as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    space
}

/// What the kernel says of a received datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The address that it was sent to.
    pub(super) local: Option<IpAddr>,
    /// The length of each of several that were joined.
    pub(super) segment: Option<usize>,
    /// When the kernel received it, since 1970 by its wall clock.
    pub(super) arrived: Option<Duration>,
    /// What routers have said on the way.
    pub(super) ecn: Ecn,
}

/// The control messages of a received datagram.
pub(super) fn read_control(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: the caller's header has been filled in by recvmmsg and its control buffer is still there, so CMSG_FIRSTHDR and
    // CMSG_NXTHDR give null or a whole header inside of it; values are read only of the type that the kernel
    // documents for their level and type, without assuming any alignment.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    told.local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    told.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    told.segment =
                        usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    told.arrived = Some(from_timespec(time));
                }
                // One byte for IPv4, an int for IPv6.
                (libc::IPPROTO_IP, libc::IP_TOS) => told.ecn = Ecn::in_class(data.read()),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<libc::c_int>().read_unaligned();
                    told.ecn = Ecn::in_class(class as u8);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for address in ["192.0.2.1:51820", "[2001:db8::1]:1", "0.0.0.0:0"] {
            let address = address.parse().unwrap();
            assert_eq!(decode(&encode(address).0), Some(address));
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, 7).into();
        assert_eq!(decode(&encode(scoped).0), Some(scoped));
        // SAFETY: sockaddr_storage is plain data for which all zeroes is a value.
        assert_eq!(decode(&unsafe { std::mem::zeroed() }), None);
    }
}
