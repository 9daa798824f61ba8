//! Receiving: `recvmmsg` into one arena.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::UdpSocket;
use super::address::{Control, decode, read_control};
use crate::ecn::Ecn;
use crate::io::{check, clock};

/// Room for one message: the kernel never hands over more.
const ROOM: usize = 1 << 16;

/// Most messages in one batch.
const MESSAGES: usize = 32;

/// How many pending socket errors one call reads away. Each is the trace of an ICMP error, not the loss of a datagram.
const PENDING_ERRORS: usize = 8;

/// The buffers of one receiving thread, used again and again. Memory is touched, and so taken, only as far as it is used.
pub struct RecvBatch {
    arena: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    arrivals: Vec<Arrival>,
}

// SAFETY: the raw pointers in `headers` and `vectors` point into the other boxes of the same batch and are written anew by
// every call of `recv`, which holds the batch mutably; nothing reads them in between.
unsafe impl Send for RecvBatch {}

/// One message of a batch, without its bytes.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    slot: usize,
    length: usize,
    from: SocketAddr,
    local: Option<IpAddr>,
    segment: usize,
    waited: Duration,
    ecn: Ecn,
}

/// Datagrams that the kernel handed over in one piece: all from one sender, all `segment` bytes long but the last, which may
/// be shorter.
#[derive(Debug)]
pub struct Received<'batch> {
    /// The sender.
    pub from: SocketAddr,
    /// The address that they were sent to: the source to answer from. `None` if the kernel did not say.
    pub local: Option<IpAddr>,
    /// Bytes in each datagram; at least 1, so that `data.chunks_mut(segment)` gives the datagrams.
    pub segment: usize,
    /// How long the first of them waited in the socket's queue; zero if nothing came behind them, since then it was no queue, and if the
    /// kernel did not say.
    pub waited: Duration,
    /// The ECN field of the first, which is that of all: the kernel joins no others (since Linux 6.9, and before with its later fixes).
    /// Not-ECT if it did not say.
    pub ecn: Ecn,
    /// The datagrams, end to end. Empty for one empty datagram.
    pub data: &'batch mut [u8],
}

impl RecvBatch {
    /// Room for `messages` messages of 64 KB (1 to 32 are used; 8 suffice where the kernel joins datagrams).
    pub fn new(messages: usize) -> Self {
        let messages = messages.clamp(1, MESSAGES);
        // SAFETY: these are plain data for which all zeroes is a value.
        let (header, vector, name) =
            unsafe { std::mem::zeroed::<(libc::mmsghdr, libc::iovec, libc::sockaddr_storage)>() };
        Self {
            arena: vec![0; messages * ROOM].into(),
            headers: vec![header; messages].into(),
            vectors: vec![vector; messages].into(),
            names: vec![name; messages].into(),
            controls: vec![Control::EMPTY; messages].into(),
            arrivals: Vec::with_capacity(messages),
        }
    }

    /// What the last [`UdpSocket::recv`] brought, in order of arrival.
    pub fn messages(&mut self) -> impl Iterator<Item = Received<'_>> {
        let mut rooms = self.arena.chunks_exact_mut(ROOM).enumerate();
        self.arrivals.iter().filter_map(move |arrival| {
            let (_, room) = rooms.find(|(slot, _)| *slot == arrival.slot)?;
            let Arrival {
                length,
                from,
                local,
                segment,
                waited,
                ecn,
                ..
            } = *arrival;
            Some(Received {
                from,
                local,
                segment,
                waited,
                ecn,
                data: &mut room[..length],
            })
        })
    }
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch")
            .field("room", &self.headers.len())
            .field("arrivals", &self.arrivals)
            .finish_non_exhaustive()
    }
}

impl UdpSocket {
    /// Receives what is there, without waiting; returns how many messages are in the batch, 0 when there was nothing.
    ///
    /// Errors of earlier sends, which the kernel reports here, are read away and do not cost a datagram.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.arrivals.clear();
        for (slot, room) in batch.arena.chunks_exact_mut(ROOM).enumerate() {
            batch.vectors[slot] = libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            };
            let header = &mut batch.headers[slot].msg_hdr;
            header.msg_name = (&raw mut batch.names[slot]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut batch.vectors[slot];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut batch.controls[slot]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_flags = 0;
        }
        let count = self.recv_messages(batch)?;
        let now = clock::wall();
        let is_empty = count < batch.headers.len();
        for (slot, message) in batch.headers[..count].iter().enumerate() {
            // No sender or a cut datagram: neither can happen with these buffers, and neither could be used.
            let Some(from) = decode(&batch.names[slot])
                .filter(|_| message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0)
            else {
                continue;
            };
            let length = message.msg_len as usize;
            let told = read_control(&message.msg_hdr);
            let segment = told
                .segment
                .filter(|&segment| segment > 0)
                .unwrap_or_else(|| length.max(1));
            batch.arrivals.push(Arrival {
                slot,
                length,
                from,
                local: told.local,
                segment,
                waited: told
                    .arrived
                    .filter(|_| !is_empty || slot + 1 < count)
                    .map_or(Duration::ZERO, |arrived| now.saturating_sub(arrived)),
                ecn: told.ecn,
            });
        }
        Ok(batch.arrivals.len())
    }

    fn recv_messages(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let mut pending = 0;
        loop {
            let (headers, count) = (
                batch.headers.as_mut_ptr(),
                batch.headers.len() as libc::c_uint,
            );
            // SAFETY: `count` headers are valid, and each points to a name, a vector and a control buffer of the batch, which is
            // borrowed mutably through the call; no timeout is given.
            let received = unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    headers,
                    count,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            match check(received) {
                Ok(received) => return Ok(received.unsigned_abs() as usize),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_echo_of_a_send(&error) && pending < PENDING_ERRORS => pending += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Errors that say something about an earlier datagram of ours, not about this call.
pub(super) fn is_echo_of_a_send(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENETUNREACH
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EMSGSIZE
                | libc::EACCES
        )
    )
}
