//! The one rule of the packet filter: a packet for the overlay that arrives on another interface than the overlay's is dropped.
//!
//! Routing rules cannot do this: the kernel looks into its table of local addresses before any other, so whoever shares a LAN with
//! this node could send to its overlay address directly, in anybody's name. What is made here reads, in the words of `nft`:
//!
//! ```text
//! table ip6 meshd {
//!     flags owner
//!     chain prerouting {
//!         type filter hook prerouting priority raw; policy accept;
//!         iif != 1 iif != <interface> ip6 daddr 0600::/8 counter drop
//!     }
//! }
//! ```
//! It is written by netlink, so that no program is started and CAP_NET_ADMIN is enough. The table belongs to the socket: the kernel
//! removes it when the daemon ends, however it ends, and a firewall that reloads its rules does not flush it.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;
use super::netlink::BLOCK;

const TABLE: &[u8] = b"meshd\0";
const CHAIN: &[u8] = b"prerouting\0";
/// `lo` in every network namespace: packets of this machine to itself.
const LOOPBACK: u32 = 1;
/// Where an IPv6 header has its destination.
const DESTINATION: u32 = 24;
/// Before connection tracking, so that what is dropped costs nothing.
const PRIORITY_RAW: i32 = -300;
const OWNER: u32 = 2;

// From linux/netfilter/nf_tables.h; libc has only some of them.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const FAMILY_IPV6: u8 = 10;
const NESTED: u16 = 0x8000;
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const META_IIF: u32 = 4;
const NETWORK_HEADER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;

/// Longest answer of the kernel to one batch: one acknowledgement a message.
const ANSWER: usize = 4096;
/// Messages that are acknowledged.
const ACKNOWLEDGED: usize = 3;

/// The rule stands for as long as this does.
#[derive(Debug)]
pub struct Guard {
    _socket: OwnedFd,
}

impl Guard {
    /// Puts the rule up in this thread's network namespace, for the overlay interface with this index.
    ///
    /// # Errors
    /// What the kernel said: `EOPNOTSUPP`, `EPROTONOSUPPORT` or `EINVAL` if it has no nf_tables or is older than Linux 5.12, `EPERM`
    /// without CAP_NET_ADMIN, `EEXIST` or `EPERM` if another process has a table of that name.
    pub fn install(interface: u32) -> io::Result<Self> {
        // SAFETY: socket takes no pointers.
        let socket = check(unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                libc::NETLINK_NETFILTER,
            )
        })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let batch = batch(interface);
        // SAFETY: the pointer is valid for reads of the length given.
        let sent = unsafe {
            libc::send(
                socket.as_raw_fd(),
                batch.as_ptr().cast(),
                batch.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        check(sent as i64)?;
        // The kernel works a batch off within `send`, so its answers are there, or none will come.
        let mut acknowledged = 0;
        let mut answer = vec![0; ANSWER];
        while acknowledged < ACKNOWLEDGED {
            // SAFETY: the pointer is valid for writes of the length given.
            let length = unsafe {
                libc::recv(
                    socket.as_raw_fd(),
                    answer.as_mut_ptr().cast(),
                    answer.len(),
                    0,
                )
            };
            let length = check(length as i64)?.unsigned_abs() as usize;
            acknowledged += acknowledgements(&answer[..length])?;
        }
        Ok(Self { _socket: socket })
    }
}

/// How many acknowledgements there are in an answer, or the first error.
fn acknowledgements(mut answer: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((header, _)) = answer.split_first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if i32::from(kind) == libc::NLMSG_ERROR {
            let code = answer.get(16..20).ok_or(io::ErrorKind::InvalidData)?;
            let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            count += 1;
        }
        let next = length.next_multiple_of(4).max(header.len());
        answer = answer.get(next..).unwrap_or_default();
    }
    Ok(count)
}

/// Table, chain and rule, in one transaction.
fn batch(interface: u32) -> Vec<u8> {
    let mut batch = Vec::with_capacity(1024);
    let create = libc::NLM_F_CREATE | libc::NLM_F_ACK;
    message(&mut batch, BATCH_BEGIN, 0, 0, |_| {});
    let kind = |kind| SUBSYSTEM << 8 | kind;
    let exclusive = create | libc::NLM_F_EXCL;
    message(&mut batch, kind(NEW_TABLE), exclusive, FAMILY_IPV6, |m| {
        attribute(m, 1, TABLE);
        attribute(m, 2, &OWNER.to_be_bytes());
    });
    message(&mut batch, kind(NEW_CHAIN), create, FAMILY_IPV6, |m| {
        attribute(m, 1, TABLE);
        attribute(m, 3, CHAIN);
        nest(m, 4, |hook| {
            attribute(hook, 1, &0u32.to_be_bytes());
            attribute(hook, 2, &PRIORITY_RAW.to_be_bytes());
        });
        attribute(m, 5, &ACCEPT.to_be_bytes());
        attribute(m, 7, b"filter\0");
    });
    let append = create | libc::NLM_F_APPEND;
    message(&mut batch, kind(NEW_RULE), append, FAMILY_IPV6, |m| {
        attribute(m, 1, TABLE);
        attribute(m, 2, CHAIN);
        nest(m, 4, |expressions| {
            for index in [LOOPBACK, interface] {
                expression(expressions, b"meta\0", |meta| {
                    attribute(meta, 1, &REGISTER.to_be_bytes());
                    attribute(meta, 2, &META_IIF.to_be_bytes());
                });
                compare(expressions, NOT_EQUAL, &index.to_ne_bytes());
            }
            expression(expressions, b"payload\0", |payload| {
                attribute(payload, 1, &REGISTER.to_be_bytes());
                attribute(payload, 2, &NETWORK_HEADER.to_be_bytes());
                attribute(payload, 3, &DESTINATION.to_be_bytes());
                attribute(payload, 4, &u32::from(BLOCK.prefix() / 8).to_be_bytes());
            });
            let block = BLOCK.network().octets();
            compare(
                expressions,
                EQUAL,
                &block[..usize::from(BLOCK.prefix() / 8)],
            );
            expression(expressions, b"counter\0", |_| {});
            expression(expressions, b"immediate\0", |immediate| {
                attribute(immediate, 1, &REGISTER_VERDICT.to_be_bytes());
                nest(immediate, 2, |data| {
                    nest(data, 2, |verdict| {
                        attribute(verdict, 1, &DROP.to_be_bytes())
                    });
                });
            });
        });
    });
    message(&mut batch, BATCH_END, 0, 0, |_| {});
    batch
}

/// Appends one message of nfnetlink.
fn message(
    batch: &mut Vec<u8>,
    kind: u16,
    flags: libc::c_int,
    family: u8,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = batch.len();
    let flags = libc::NLM_F_REQUEST | flags;
    batch.extend(0u32.to_ne_bytes());
    batch.extend(kind.to_ne_bytes());
    batch.extend((flags as u16).to_ne_bytes());
    batch.extend([0; 8]);
    batch.extend([family, 0]);
    // A batch names the subsystem that it is for.
    let resource = if matches!(kind, BATCH_BEGIN | BATCH_END) {
        SUBSYSTEM
    } else {
        0
    };
    batch.extend(resource.to_be_bytes());
    fill(batch);
    let length = (batch.len() - start) as u32;
    batch[start..start + size_of::<u32>()].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest_as(message, kind, |message| message.extend(value));
}

fn nest(message: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    nest_as(message, kind | NESTED, fill);
}

fn nest_as(message: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = message.len();
    message.extend(0u16.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    fill(message);
    let length = (message.len() - start) as u16;
    message[start..start + size_of::<u16>()].copy_from_slice(&length.to_ne_bytes());
    message.resize(message.len().next_multiple_of(4), 0);
}

fn expression(list: &mut Vec<u8>, name: &[u8], fill: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        attribute(element, 1, name);
        nest(element, 2, fill);
    });
}

fn compare(list: &mut Vec<u8>, operator: u32, value: &[u8]) {
    expression(list, b"cmp\0", |compare| {
        attribute(compare, 1, &REGISTER.to_be_bytes());
        attribute(compare, 2, &operator.to_be_bytes());
        nest(compare, 3, |data| attribute(data, 1, value));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::{drop_privileges, in_namespace};

    #[test]
    fn the_rule_stands_as_long_as_its_guard() {
        in_namespace(|| {
            let guard = Guard::install(7).unwrap();
            assert!(Guard::install(7).is_err(), "the table is taken");
            drop(guard);
            Guard::install(7).unwrap();
        });
    }

    #[test]
    fn the_overlay_is_a_whole_number_of_bytes() {
        assert_eq!(BLOCK.prefix() % 8, 0, "it is compared by bytes");
    }

    #[test]
    fn without_the_capability_the_kernel_refuses() {
        in_namespace(|| {
            drop_privileges().unwrap();
            let error = Guard::install(7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        });
    }

    #[test]
    fn an_answer_that_lies_about_its_length_ends_the_reading() {
        let mut answer = vec![0; 20];
        answer[4] = libc::NLMSG_ERROR as u8;
        assert_eq!(acknowledgements(&answer).unwrap(), 1);
        answer[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(acknowledgements(&answer).unwrap(), 1);
        answer[16..].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert!(acknowledgements(&answer).is_err());
        assert!(acknowledgements(&answer[..18]).is_err());
        assert_eq!(acknowledgements(&answer[..15]).unwrap(), 0);
    }
}
