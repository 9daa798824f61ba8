//! The sending side of a stream, which every thread that sends shares.

use std::{
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use wireguard::Underlay;

use super::frame::{HEADER, header};
use crate::io::tcp::{Backlog, Connection};

/// What is written may wait so long to be sent.
const WAIT: Duration = Duration::from_millis(50);
/// However slow the way is, two full datagrams may wait: one alone would never be followed at once by the next.
const LEAST: usize = 4 << 10;
/// However fast it is, no more than a super-packet and what the kernel has not sent.
const MOST: usize = 96 << 10;
/// Before anything is known of the way.
const FIRST: usize = 32 << 10;
/// The rest of a frame that the kernel took only a part of is taken within this time, or the other end does not read.
const STUCK: Duration = Duration::from_secs(5);
/// Datagrams in one system call.
const FRAMES: usize = 64;

/// A stream to send in.
#[derive(Debug)]
pub struct Line {
    connection: Connection,
    endpoint: Underlay,
    is_broken: AtomicBool,
    cut: Mutex<Cut>,
}

/// The frame that the kernel has taken a part of.
#[derive(Debug, Default)]
struct Cut {
    /// What it has not taken.
    rest: Vec<u8>,
    since: Option<Instant>,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// So many were dropped because there was no room.
    pub full: u64,
    /// So many because the stream is gone.
    pub gone: u64,
    /// So many because they are too long for a frame.
    pub too_long: u64,
    /// Somebody has to write the rest as soon as there is room, or close the stream.
    pub needs_care: bool,
}

impl Line {
    /// To the other end of this connection, which the node calls `endpoint`.
    pub fn new(connection: Connection, endpoint: Underlay) -> Self {
        Self {
            connection,
            endpoint,
            is_broken: AtomicBool::new(false),
            cut: Mutex::default(),
        }
    }

    /// The connection, to read from and to wait for.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the node calls it.
    pub fn endpoint(&self) -> &Underlay {
        &self.endpoint
    }

    /// Whether an error has ended it.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Relaxed)
    }

    /// Whether a part of a frame waits for room.
    pub fn has_rest(&self) -> bool {
        !self.cut.lock().rest.is_empty()
    }

    /// Whether a part of a frame has waited for too long.
    pub fn is_stuck(&self, now: Instant) -> bool {
        let since = self.cut.lock().since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= STUCK)
    }

    /// There may be room for the rest of a frame.
    pub fn write_rest(&self) {
        let mut cut = self.cut.lock();
        if self.finish(&mut cut).is_err() {
            self.is_broken.store(true, Relaxed);
        }
    }

    /// Writes datagrams that lie end to end, each `segment` bytes long but for a shorter last one, as far as there is room at once.
    pub fn write(&self, bytes: &[u8], segment: usize, now: Instant) -> Written {
        let count = bytes.len().div_ceil(segment) as u64;
        if header(segment).is_none() {
            return Written {
                too_long: count,
                ..Written::default()
            };
        }
        let mut cut = self.cut.lock();
        let taken = if self.is_broken() {
            Err(io::ErrorKind::NotConnected.into())
        } else {
            self.take(&mut cut, bytes, segment, now)
        };
        match taken {
            Ok(taken) => Written {
                full: count - taken,
                needs_care: !cut.rest.is_empty(),
                ..Written::default()
            },
            Err(_) => {
                self.is_broken.store(true, Relaxed);
                Written {
                    gone: count,
                    needs_care: true,
                    ..Written::default()
                }
            }
        }
    }

    /// How many datagrams were taken.
    fn take(&self, cut: &mut Cut, bytes: &[u8], segment: usize, now: Instant) -> io::Result<u64> {
        if !self.finish(cut)? {
            return Ok(0);
        }
        let mut room = room(self.connection.backlog()?);
        let (mut taken, mut rest) = (0, bytes);
        while !rest.is_empty() {
            let per_call = FRAMES.min(room / (HEADER + segment));
            let (now_sent, later) = rest.split_at(rest.len().min(per_call * segment));
            if now_sent.is_empty() {
                break;
            }
            let count = self.take_some(cut, now_sent, segment, now)?;
            taken += count;
            room = room.saturating_sub(now_sent.len() + HEADER * per_call);
            if count < now_sent.len().div_ceil(segment) as u64 || !cut.rest.is_empty() {
                break;
            }
            rest = later;
        }
        Ok(taken)
    }

    /// One system call for at most [`FRAMES`] datagrams.
    fn take_some(
        &self,
        cut: &mut Cut,
        bytes: &[u8],
        segment: usize,
        now: Instant,
    ) -> io::Result<u64> {
        let (mut headers, mut count) = ([[0; HEADER]; FRAMES], 0);
        for (place, datagram) in headers.iter_mut().zip(bytes.chunks(segment)) {
            *place = header(datagram.len()).unwrap_or_default();
            count += 1;
        }
        let headers = &headers[..count];
        let mut parts = [IoSlice::new(&[]); 2 * FRAMES];
        for (pair, (head, datagram)) in parts
            .chunks_mut(2)
            .zip(headers.iter().zip(bytes.chunks(segment)))
        {
            pair[0] = IoSlice::new(head);
            pair[1] = IoSlice::new(datagram);
        }
        let Some(mut written) = self.connection.send(&parts[..2 * count])? else {
            return Ok(0);
        };
        let mut taken = 0;
        for (head, datagram) in headers.iter().zip(bytes.chunks(segment)) {
            if written == 0 {
                break;
            }
            taken += 1;
            let length = HEADER + datagram.len();
            if written < length {
                // What has begun has to end, or the other end takes what follows for a part of it.
                let frame = head.iter().chain(datagram);
                cut.rest.extend(frame.skip(written));
                cut.since = Some(now);
                break;
            }
            written -= length;
        }
        Ok(taken)
    }

    /// Writes the rest of a frame; whether nothing is left of it.
    fn finish(&self, cut: &mut Cut) -> io::Result<bool> {
        if !cut.rest.is_empty() {
            let written = self.connection.send(&[IoSlice::new(&cut.rest)])?;
            cut.rest.drain(..written.unwrap_or(0));
            if cut.rest.is_empty() {
                cut.since = None;
            }
        }
        Ok(cut.rest.is_empty())
    }
}

/// How much more may be written, so that nothing waits for longer than it should.
fn room(backlog: Backlog) -> usize {
    let most = backlog.rate.map_or(FIRST, |rate| {
        let in_time = u128::from(rate) * WAIT.as_millis() / 1000;
        usize::try_from(in_time).unwrap_or(MOST).clamp(LEAST, MOST)
    });
    // What is written at once counts as a whole even if the last of it is beyond.
    most.saturating_sub(backlog.unsent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        io::{clock::Clock, poll::wait_writable, tcp::Listener},
        stream::frame,
    };
    use std::os::fd::AsFd;

    fn pair() -> (Line, Connection) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 0).unwrap();
        let dialled = Connection::dial(listener.local_addr(), 0).unwrap();
        assert!(wait_writable(dialled.as_fd(), Duration::from_secs(5)).unwrap());
        let endpoint = Underlay::stream(dialled.remote(), None);
        (
            Line::new(dialled, endpoint),
            listener.accept().unwrap().unwrap(),
        )
    }

    fn read_all(connection: &Connection, into: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        while let Some(length) = connection.recv(&mut buffer).unwrap() {
            into.extend_from_slice(&buffer[..length]);
        }
    }

    #[test]
    fn a_batch_arrives_in_frames() {
        let (line, other) = pair();
        let now = Clock::new().now();
        let bytes: Vec<u8> = (0..250).collect();
        assert_eq!(line.write(&bytes, 100, now), Written::default());
        let mut read = Vec::new();
        while read.len() < 250 + 3 * HEADER {
            read_all(&other, &mut read);
        }
        let mut runs = Vec::new();
        assert!(frame::cut(&mut read, &mut runs).unwrap().is_empty());
        assert_eq!(
            runs,
            [frame::Run {
                bytes: 0..250,
                segment: 100
            }]
        );
        assert_eq!(&read[..250], bytes);
    }

    #[test]
    fn what_has_no_room_is_dropped_and_what_arrives_is_whole() {
        let (line, other) = pair();
        let clock = Clock::new();
        let (mut dropped, mut taken) = (0, 0);
        let batch: Vec<u8> = (0..40_u8).flat_map(|n| [n; 1452]).collect();
        // Nobody reads yet.
        while dropped < 4_000 {
            let written = line.write(&batch, 1452, clock.now());
            assert_eq!((written.gone, written.too_long), (0, 0));
            dropped += written.full;
            taken += 40 - written.full;
        }
        assert!(line.connection().backlog().unwrap().unsent <= MOST + 2 * 1454);
        let (mut kept, mut arrived) = (Vec::new(), 0);
        let deadline = clock.now() + Duration::from_secs(20);
        while arrived < taken {
            assert!(clock.now() < deadline, "{arrived} of {taken}");
            line.write_rest();
            read_all(&other, &mut kept);
            let mut runs = Vec::new();
            let rest = frame::cut(&mut kept, &mut runs).unwrap();
            for run in runs {
                for datagram in kept[run.bytes].chunks(run.segment) {
                    assert!(
                        datagram.len() == 1452 && datagram.iter().all(|byte| *byte == datagram[0])
                    );
                    arrived += 1;
                }
            }
            kept.drain(..rest.start);
        }
        assert!(!line.has_rest() && kept.is_empty());
    }

    #[test]
    fn a_stream_that_is_gone_takes_nothing() {
        let (line, other) = pair();
        let now = Clock::new().now();
        drop(other);
        let deadline = Clock::new();
        let until = deadline.now() + Duration::from_secs(5);
        while !line.is_broken() {
            line.write(&[1; 32], 32, now);
            assert!(deadline.now() < until);
        }
        let written = line.write(&[1; 64], 32, now);
        assert_eq!((written.gone, written.needs_care), (2, true));
        assert_eq!(line.write(&[0; 4000], 4000, now).too_long, 1);
    }

    #[test]
    fn slow_ways_have_little_room_and_fast_ones_no_more_than_a_batch() {
        let room_at = |unsent, rate| room(Backlog { unsent, rate });
        assert_eq!(room_at(0, None), FIRST);
        assert_eq!(room_at(FIRST + 1, None), 0);
        assert_eq!(room_at(0, Some(1_000)), LEAST);
        assert_eq!(room_at(2_500, Some(250_000)), 10_000);
        assert_eq!(room_at(0, Some(u64::MAX)), MOST);
    }
}
