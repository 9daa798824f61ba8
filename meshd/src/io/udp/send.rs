//! Sending: `sendmmsg` of segmented messages, and what to do when the kernel will not.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::address::{Control, HopLimit, TrafficClass, encode, write_control};
use super::receive::is_echo_of_a_send;
use super::{PAYLOAD, SEGMENTS, UdpSocket};
use crate::ecn::Ecn;
use crate::io::check;
use crate::io::poll::wait_writable;

/// Messages in one system call.
const PARTS: usize = 64;

/// Destinations whose trouble with segmentation is remembered. With more, the oldest is found out again.
const NARROW: usize = 64;

/// How long, and how often, a call waits for room in the socket's buffer: longer than a full buffer needs to drain at
/// 1 Gbit/s by a segment, shorter than a person notices.
const ROOM_WAIT: Duration = Duration::from_millis(1);
const ROOM_WAITS: u32 = 4;

/// Datagrams for one destination.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'data> {
    /// Where to; of the socket's address family.
    pub to: SocketAddr,
    /// The local address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The hop limit (TTL) of each; `None`: the kernel's usual one.
    pub hop_limit: Option<u8>,
    /// The ECN field of each; the rest of the traffic class is zero.
    pub ecn: Ecn,
    /// Bytes in each datagram; 0, or anything not below the length of `data`, means one datagram.
    pub segment: usize,
    /// The datagrams end to end, all `segment` bytes long but the last, which may be shorter. Any number of them.
    pub data: &'data [u8],
}

/// What became of one [`Outgoing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Handed to the kernel.
    Sent,
    /// Handed to the kernel, but only without the source address, which is not (or no longer) ours: forget it.
    StaleSource,
    /// Dropped, wholly or from some datagram on: the socket's or the device's queue is full.
    Full,
    /// Dropped, wholly or from some datagram on, for this `errno`.
    Failed(i32),
}

/// The tables of one sending thread, used again and again; and what it learned about destinations.
pub struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    parts: Vec<Part>,
    outcomes: Vec<Outcome>,
    narrow: Vec<Narrow>,
    /// Where the next destination goes in a full `narrow`.
    oldest: usize,
    /// Whether the kernel was found to take no ECN fields.
    refuses_ecn: bool,
}

// SAFETY: the raw pointers in `headers` and `vectors` point into the other boxes of the same batch or into the caller's data
// and are written anew before every system call by `send`, which holds the batch mutably; nothing reads them in between.
unsafe impl Send for SendBatch {}

/// One message of a system call: a piece of an [`Outgoing`].
#[derive(Debug, Clone, Copy)]
struct Part {
    message: usize,
    end: usize,
    segmented: bool,
}

/// A destination that takes no segments of `segment` bytes or more: the way there has no checksum offload, or a smaller MTU.
#[derive(Debug, Clone, Copy)]
struct Narrow {
    to: SocketAddr,
    segment: usize,
}

/// How far a call has come, and by what means it tries the message at hand.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    message: usize,
    offset: usize,
    without_source: bool,
    without_ecn: bool,
    without_segments: bool,
    retried: bool,
}

impl SendBatch {
    /// Tables for 64 messages a system call, and no memories.
    pub fn new() -> Self {
        // SAFETY: these are plain data for which all zeroes is a value.
        let (header, vector, name) =
            unsafe { std::mem::zeroed::<(libc::mmsghdr, libc::iovec, libc::sockaddr_storage)>() };
        Self {
            headers: vec![header; PARTS].into(),
            vectors: vec![vector; PARTS].into(),
            names: vec![name; PARTS].into(),
            controls: vec![Control::EMPTY; PARTS].into(),
            parts: Vec::with_capacity(PARTS),
            outcomes: Vec::with_capacity(PARTS),
            narrow: Vec::with_capacity(NARROW),
            oldest: 0,
            refuses_ecn: false,
        }
    }

    /// Forgets which destinations took no segments, and whether ECN fields were refused. To be called when the underlay's addresses or
    /// routes have changed.
    pub fn forget_destinations(&mut self) {
        self.narrow.clear();
        self.oldest = 0;
        self.refuses_ecn = false;
    }

    fn takes_segments(&self, to: SocketAddr, segment: usize) -> bool {
        self.narrow
            .iter()
            .all(|narrow| narrow.to != to || segment < narrow.segment)
    }

    fn remember_narrow(&mut self, to: SocketAddr, segment: usize) {
        if let Some(known) = self.narrow.iter_mut().find(|narrow| narrow.to == to) {
            known.segment = known.segment.min(segment);
        } else if self.narrow.len() < NARROW {
            self.narrow.push(Narrow { to, segment });
        } else {
            self.narrow[self.oldest] = Narrow { to, segment };
            self.oldest = (self.oldest + 1) % NARROW;
        }
    }

    /// Lays out as many parts as one system call takes, from `progress` on.
    fn plan(&mut self, messages: &[Outgoing<'_>], progress: Progress) {
        self.parts.clear();
        let mut at = progress;
        while let Some(message) = messages
            .get(at.message)
            .filter(|_| self.parts.len() < PARTS)
        {
            let segment = if message.segment == 0 {
                usize::MAX
            } else {
                message.segment
            };
            let left = message.data.len() - at.offset;
            let several = segment < left;
            let segmented = several
                && segment <= PAYLOAD / 2
                && !at.without_segments
                && self.takes_segments(message.to, segment);
            let length = if segmented {
                left.min(segment * SEGMENTS.min(PAYLOAD / segment))
            } else {
                left.min(segment)
            };
            let end = at.offset + length;
            let slot = self.parts.len();
            self.parts.push(Part {
                message: at.message,
                end,
                segmented: segmented && length > segment,
            });

            let (name, name_length) = encode(message.to);
            self.names[slot] = name;
            let source = message.source.filter(|_| !at.without_source);
            let class = TrafficClass::new(message.to, message.ecn)
                .filter(|_| !at.without_ecn && !self.refuses_ecn);
            let size = (segmented && length > segment).then_some(segment as u16);
            let control_length = write_control(
                &mut self.controls[slot],
                source,
                message
                    .hop_limit
                    .map(|limit| HopLimit::new(message.to, limit)),
                class,
                size,
            );
            let data = &message.data[at.offset..end];
            self.vectors[slot] = libc::iovec {
                iov_base: data.as_ptr().cast_mut().cast(),
                iov_len: data.len(),
            };
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_name = (&raw mut self.names[slot]).cast();
            header.msg_namelen = name_length;
            header.msg_iov = &raw mut self.vectors[slot];
            header.msg_iovlen = 1;
            header.msg_control = if control_length == 0 {
                std::ptr::null_mut()
            } else {
                (&raw mut self.controls[slot]).cast()
            };
            header.msg_controllen = control_length as _;
            header.msg_flags = 0;

            at = if end == message.data.len() {
                Progress::at(at.message + 1)
            } else {
                Progress { offset: end, ..at }
            };
        }
    }

    /// The next means to try for the message at hand after `errno`, or the next message.
    fn recover(&mut self, message: &Outgoing<'_>, progress: Progress, errno: i32) -> Progress {
        let segmented = self.parts.first().is_some_and(|part| part.segmented);
        let with_source = message.source.is_some() && !progress.without_source;
        let with_ecn = message.ecn.is_capable() && !progress.without_ecn && !self.refuses_ecn;
        match errno {
            // The device's queue is full. It cannot be waited for.
            libc::ENOBUFS | libc::ENOMEM => self.give_up(progress, Outcome::Full),
            // No checksum offload towards there: no segments of any size.
            libc::EIO if segmented => {
                self.remember_narrow(message.to, 0);
                Progress {
                    without_segments: true,
                    ..progress
                }
            }
            // EINVAL may mean the source, the ECN field or the segments. They are tried in this order, since it is that of what forgetting
            // them costs.
            libc::EINVAL
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EADDRNOTAVAIL
            | libc::EACCES
                if with_source =>
            {
                Progress {
                    without_source: true,
                    ..progress
                }
            }
            libc::EINVAL if with_ecn => Progress {
                without_ecn: true,
                without_source: false,
                ..progress
            },
            libc::EINVAL | libc::EMSGSIZE if segmented => {
                self.remember_narrow(message.to, message.segment);
                Progress {
                    without_segments: true,
                    without_ecn: false,
                    without_source: false,
                    ..progress
                }
            }
            _ if is_echo_of_a_send(&io::Error::from_raw_os_error(errno)) && !progress.retried => {
                Progress {
                    retried: true,
                    ..progress
                }
            }
            _ => self.give_up(progress, Outcome::Failed(errno)),
        }
    }

    fn give_up(&mut self, progress: Progress, outcome: Outcome) -> Progress {
        self.outcomes[progress.message] = outcome;
        Progress::at(progress.message + 1)
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("outcomes", &self.outcomes)
            .field("narrow", &self.narrow)
            .finish_non_exhaustive()
    }
}

impl Progress {
    fn at(message: usize) -> Self {
        Self {
            message,
            ..Self::default()
        }
    }

    /// After the part that ended at `end` of `message` has been sent.
    fn after(self, message: usize, end: usize, length: usize) -> Self {
        if end == length {
            Self::at(message + 1)
        } else if message == self.message {
            Self {
                offset: end,
                retried: false,
                ..self
            }
        } else {
            Self {
                offset: end,
                ..Self::at(message)
            }
        }
    }
}

impl UdpSocket {
    /// Sends everything, in as few system calls as possible; says what became of each message, in the same order.
    ///
    /// A full buffer is waited for, at most 4 ms a call; then the rest is dropped ([`Outcome::Full`]). One message's
    /// failure does not touch the others. A destination that takes no segmented messages gets plain ones, and is
    /// remembered in `batch`.
    pub fn send<'batch>(
        &self,
        batch: &'batch mut SendBatch,
        messages: &[Outgoing<'_>],
    ) -> &'batch [Outcome] {
        batch.outcomes.clear();
        batch.outcomes.resize(messages.len(), Outcome::Sent);
        #[cfg(feature = "_sim")]
        if let Some(datagrams) = &self.simulated {
            datagrams.send(messages, &mut batch.outcomes);
            return &batch.outcomes;
        }
        let mut progress = Progress::at(0);
        let mut waits = 0;
        while let Some(message) = messages.get(progress.message) {
            let same_family = messages[progress.message..]
                .iter()
                .take_while(|message| self.is_for(message))
                .count();
            if same_family == 0 {
                batch.outcomes[progress.message] = Outcome::Failed(libc::EAFNOSUPPORT);
                progress = Progress::at(progress.message + 1);
                continue;
            }
            batch.plan(&messages[..progress.message + same_family], progress);
            match self.send_parts(batch) {
                Ok(sent) => {
                    // A message counts as sent without its source from its first such part on.
                    if progress.without_source && sent > 0 {
                        batch.outcomes[progress.message] = Outcome::StaleSource;
                    }
                    batch.refuses_ecn |= progress.without_ecn && sent > 0;
                    if let Some(part) = sent.checked_sub(1).map(|last| batch.parts[last]) {
                        progress = progress.after(
                            part.message,
                            part.end,
                            messages[part.message].data.len(),
                        );
                    }
                }
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EINTR => {}
                    libc::EAGAIN => {
                        waits += 1;
                        if waits > ROOM_WAITS || wait_writable(self.as_fd(), ROOM_WAIT).is_err() {
                            batch.outcomes[progress.message..].fill(Outcome::Full);
                            break;
                        }
                    }
                    errno => progress = batch.recover(message, progress, errno),
                },
            }
        }
        &batch.outcomes
    }

    fn is_for(&self, message: &Outgoing<'_>) -> bool {
        let same = |is_ipv4: bool| is_ipv4 == self.local.is_ipv4();
        same(message.to.is_ipv4()) && message.source.is_none_or(|source| same(source.is_ipv4()))
    }

    fn send_parts(&self, batch: &mut SendBatch) -> io::Result<usize> {
        let count = batch.parts.len() as libc::c_uint;
        // SAFETY: the first `count` headers were filled in by `plan`; each points to a name, a vector and a control buffer of the
        // batch, which is borrowed mutably, and to data that the caller lends through the call.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
            )
        };
        check(sent).map(|sent| sent.unsigned_abs() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(data: &[u8]) -> Outgoing<'_> {
        Outgoing {
            to: "192.0.2.1:1".parse().unwrap(),
            source: "192.0.2.9".parse().ok(),
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 100,
            data,
        }
    }

    /// A batch in the middle of sending `messages`.
    fn planned(messages: &[Outgoing<'_>]) -> SendBatch {
        let mut batch = SendBatch::new();
        batch.outcomes.resize(messages.len(), Outcome::Sent);
        batch.plan(messages, Progress::at(0));
        batch
    }

    #[test]
    fn a_message_is_cut_to_what_the_kernel_takes() {
        let data = vec![0; 200_000];
        let batch = planned(&[
            Outgoing {
                segment: 1400,
                ..outgoing(&data)
            },
            Outgoing {
                segment: 10,
                ..outgoing(&data[..645])
            },
        ]);
        let mut start = 0;
        for part in batch.parts.iter().filter(|part| part.message == 0) {
            assert!(part.end - start <= PAYLOAD && (part.end - start).div_ceil(1400) <= SEGMENTS);
            start = part.end;
        }
        assert_eq!(start, data.len());
        let ends: Vec<_> = batch
            .parts
            .iter()
            .filter(|part| part.message == 1)
            .map(|part| (part.end, part.segmented))
            .collect();
        assert_eq!(ends, [(640, true), (645, false)]);
    }

    #[test]
    fn without_checksum_offload_a_destination_gets_plain_datagrams_from_then_on() {
        let data = [0; 250];
        let messages = [outgoing(&data)];
        let mut batch = planned(&messages);
        let progress = batch.recover(&messages[0], Progress::at(0), libc::EIO);
        batch.plan(&messages, progress);
        assert_eq!(
            batch.parts.iter().map(|part| part.end).collect::<Vec<_>>(),
            [100, 200, 250]
        );
        batch.plan(&messages, Progress::at(0));
        assert_eq!(batch.parts.len(), 3);
        let elsewhere = [Outgoing {
            to: "192.0.2.2:1".parse().unwrap(),
            ..messages[0]
        }];
        batch.plan(&elsewhere, Progress::at(0));
        assert_eq!(batch.parts.len(), 1);
        batch.forget_destinations();
        batch.plan(&messages, Progress::at(0));
        assert_eq!(batch.parts.len(), 1);
    }

    #[test]
    fn every_refusal_ends_after_a_few_tries() {
        let data = [0; 250];
        let messages = [outgoing(&data)];
        for errno in [
            libc::EINVAL,
            libc::EIO,
            libc::ENETUNREACH,
            libc::ECONNREFUSED,
            libc::EMSGSIZE,
            libc::EPERM,
            libc::EACCES,
            libc::ENOBUFS,
        ] {
            let mut batch = planned(&messages);
            let (mut progress, mut tries) = (Progress::at(0), 0);
            while progress.message == 0 {
                batch.plan(&messages, progress);
                progress = batch.recover(&messages[0], progress, errno);
                tries += 1;
            }
            assert!(tries <= 4, "{errno}: {tries}");
            let expected = if errno == libc::ENOBUFS {
                Outcome::Full
            } else {
                Outcome::Failed(errno)
            };
            assert_eq!(batch.outcomes, [expected]);
        }
    }

    #[test]
    fn a_kernel_that_takes_no_ecn_fields_is_asked_once() {
        let data = [0; 250];
        let messages = [Outgoing {
            ecn: Ecn::Ect0,
            ..outgoing(&data)
        }];
        let mut batch = planned(&messages);
        let with = batch.headers[0].msg_hdr.msg_controllen;
        // The source is suspected first.
        let progress = batch.recover(&messages[0], Progress::at(0), libc::EINVAL);
        assert!(progress.without_source && !progress.without_ecn);
        let progress = batch.recover(&messages[0], progress, libc::EINVAL);
        assert!(!progress.without_source && progress.without_ecn);
        batch.plan(&messages, progress);
        let without = batch.headers[0].msg_hdr.msg_controllen;
        assert!(without < with && batch.parts[0].segmented);
        // What `send` notes when that passes.
        batch.refuses_ecn = true;
        batch.plan(&messages, Progress::at(0));
        assert_eq!(batch.headers[0].msg_hdr.msg_controllen, without);
        batch.forget_destinations();
        batch.plan(&messages, Progress::at(0));
        assert_eq!(batch.headers[0].msg_hdr.msg_controllen, with);
    }

    #[test]
    fn a_datagram_that_is_refused_whatever_goes_with_it_is_given_up() {
        let data = [0; 250];
        let messages = [Outgoing {
            ecn: Ecn::Ce,
            ..outgoing(&data)
        }];
        let mut batch = planned(&messages);
        let (mut progress, mut tries) = (Progress::at(0), 0);
        while progress.message == 0 {
            batch.plan(&messages, progress);
            progress = batch.recover(&messages[0], progress, libc::EINVAL);
            tries += 1;
        }
        assert!(tries <= 8, "{tries}");
        assert_eq!(batch.outcomes, [Outcome::Failed(libc::EINVAL)]);
    }

    #[test]
    fn what_is_usual_takes_no_control_message() {
        let usual = Outgoing {
            source: None,
            ..outgoing(&[0; 50])
        };
        let batch = planned(&[usual]);
        assert_eq!(batch.headers[0].msg_hdr.msg_controllen, 0);
    }

    #[test]
    fn the_memory_of_destinations_is_bounded() {
        let mut batch = SendBatch::new();
        let address = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
        for port in 0..200 {
            batch.remember_narrow(address(port), 1400);
        }
        assert_eq!(batch.narrow.len(), NARROW);
        assert!(!batch.takes_segments(address(199), 1400));
        assert!(batch.takes_segments(address(199), 1200));
        assert!(batch.takes_segments(address(0), 1400));
    }
}
