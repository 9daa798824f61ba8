//! A link emulator: passes Ethernet frames between two interfaces, with delay, jitter, loss, bursts of loss, duplicates, frames
//! that overtake others and a rate with a bounded queue, each direction for itself, all by chance from a seed.
//!
//! ```text
//! linkemu LEFT RIGHT [segments=whole|none] [KEY=VALUE ...]
//! ```
//! Keys are those of `Model::set`; `forth.KEY` and `back.KEY` mean one direction. Further words may come on standard input,
//! each line answered by one line: `ok`, `error: …`, or for the line `frames` the counts as JSON. It ends with its input.
//!
//! `segments=whole` carries frames larger than the MTU as the kernel hands them over (with virtio headers); without it, switch
//! segmentation and checksum offloads off on the interfaces, or such frames are cut off.
//!
//! One thread per direction takes in batches of frames, gives each its time to leave, and keeps them in a heap until then.
#![expect(
    unsafe_code,
    reason = "packet sockets and batched system calls, which the standard library does not have"
)]
#![expect(clippy::print_stdout, reason = "answers to whoever drives it")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::CString;
use std::io::{self, BufRead as _};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

/// Frames taken in or passed on by one system call.
const BATCH: usize = 64;
/// Room for one frame: jumbo frames, and with whole segments the largest that the kernel makes, with its header.
const FRAME: usize = 9_216;
const WHOLE_SEGMENT: usize = 66_000;
/// Bounds the memory of one direction (frames that wait beyond it are lost as from a full queue).
const WAITING: usize = 65_536;
/// Buffers of past frames kept for use.
const SPARE: usize = 4_096;
/// Longest sleep without frames.
const IDLE_NS: u64 = 200_000_000;
/// Buffers of the sockets, in bytes: a burst must wait here while the other direction has the processor.
const SOCKET_BUFFER: libc::c_int = 64 << 20;
// <linux/if_packet.h>
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [left, right, words @ ..] = words.as_slice() else {
        bail!("usage: linkemu LEFT RIGHT [segments=whole|none] [KEY=VALUE ...]");
    };
    let (mut segments, mut models) = (Segments::None, [Model::default(); 2]);
    for word in words {
        match word.split_once('=') {
            Some(("segments", "whole")) => segments = Segments::Whole,
            Some(("segments", "none")) => segments = Segments::None,
            Some(_) => apply(word, &mut models)?,
            None => bail!("{word}: not KEY=VALUE"),
        }
    }
    let left = PacketSocket::open(left, segments).with_context(|| format!("cannot open {left}"))?;
    let right =
        PacketSocket::open(right, segments).with_context(|| format!("cannot open {right}"))?;
    let (left, right) = (Arc::new(left), Arc::new(right));
    let ways = models.map(|model| {
        Arc::new(Way {
            model: Mutex::new(model),
            version: AtomicU64::new(0),
            counts: Counts::default(),
        })
    });
    for (number, (from, to)) in [(&left, &right), (&right, &left)].into_iter().enumerate() {
        let mut flow = Flow::new(from.clone(), to.clone(), ways[number].clone(), segments);
        std::thread::spawn(move || {
            let Err(err) = flow.run();
            println!("error: {err:#}");
            std::process::exit(1);
        });
    }
    println!("ready");
    for line in io::stdin().lock().lines() {
        println!("{}", answer(&line.context("standard input")?, &ways));
    }
    Ok(())
}

fn answer(line: &str, ways: &[Arc<Way>; 2]) -> String {
    if line.trim() == "frames" {
        let [forth, back] = ways.each_ref().map(|way| way.counts.json());
        return serde_json::json!({ "forth": forth, "back": back }).to_string();
    }
    let mut models = ways.each_ref().map(|way| Model {
        seed: None,
        ..*way.model.lock().unwrap_or_else(PoisonError::into_inner)
    });
    for word in line.split_whitespace() {
        if let Err(err) = apply(word, &mut models) {
            return format!("error: {err:#}");
        }
    }
    for (way, model) in ways.iter().zip(models) {
        *way.model.lock().unwrap_or_else(PoisonError::into_inner) = model;
        way.version.fetch_add(1, Relaxed);
    }
    "ok".into()
}

fn apply(word: &str, [forth, back]: &mut [Model; 2]) -> Result<()> {
    let (key, value) = word
        .split_once('=')
        .with_context(|| format!("{word}: not KEY=VALUE"))?;
    match key.split_once('.') {
        Some(("forth", key)) => forth.set(key, value),
        Some(("back", key)) => back.set(key, value),
        Some(_) => bail!("{key}: no such direction"),
        None => {
            forth.set(key, value)?;
            back.set(key, value)?;
            if key == "seed" {
                back.seed = back.seed.map(|seed| !seed);
            }
            Ok(())
        }
    }
}

/// What is done to the frames of one direction. Times in nanoseconds, chances 0..1.
#[derive(Clone, Copy, Debug)]
struct Model {
    delay: u64,
    jitter: u64,
    in_order: bool,
    loss: f64,
    burst_begin: f64,
    burst_end: f64,
    duplicates: f64,
    /// Frames that are not delayed, and so overtake those that are.
    early: f64,
    rate_kbit: u64,
    queue: u64,
    /// Begins the row of chances anew. Directions with one seed differ all the same.
    seed: Option<u64>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            delay: 0,
            jitter: 0,
            in_order: false,
            loss: 0.0,
            burst_begin: 0.0,
            burst_end: 1.0,
            duplicates: 0.0,
            early: 0.0,
            rate_kbit: 0,
            queue: 100_000_000,
            seed: None,
        }
    }
}

impl Model {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let whole = || {
            value
                .parse::<u64>()
                .with_context(|| format!("{key}={value}"))
        };
        let nanoseconds = || whole().and_then(|us| us.checked_mul(1000).context("too long"));
        let chance = || {
            let chance: f64 = value.parse().with_context(|| format!("{key}={value}"))?;
            ensure!(
                (0.0..=1.0).contains(&chance),
                "{key}={value}: not between 0 and 1"
            );
            Ok(chance)
        };
        match key {
            "delay_us" => self.delay = nanoseconds()?,
            "jitter_us" => self.jitter = nanoseconds()?,
            "order" => self.in_order = value == "kept",
            "loss" => self.loss = chance()?,
            "burst_begin" => self.burst_begin = chance()?,
            "burst_end" => self.burst_end = chance()?,
            "duplicates" => self.duplicates = chance()?,
            "early" => self.early = chance()?,
            "rate_kbit" => self.rate_kbit = whole()?,
            "queue_us" => self.queue = nanoseconds()?,
            "seed" => self.seed = Some(whole()?),
            _ => bail!("{key}: no such key"),
        }
        Ok(())
    }
}

/// Whether frames are carried larger than the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segments {
    Whole,
    None,
}

/// What the two threads of a direction share: the one that reads commands, and the one that passes frames.
struct Way {
    model: Mutex<Model>,
    version: AtomicU64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "received": self.received.load(Relaxed), "sent": self.sent.load(Relaxed), "lost": self.lost.load(Relaxed),
            "overflowed": self.overflowed.load(Relaxed), "failed": self.failed.load(Relaxed),
        })
    }
}

/// A frame on its way.
struct Frame {
    bytes: Vec<u8>,
    length: usize,
}

/// One direction.
struct Flow {
    from: Arc<PacketSocket>,
    to: Arc<PacketSocket>,
    way: Arc<Way>,
    model: Model,
    version: u64,
    chance: Chance,
    /// When the frames leave: time, number (frames of one time leave in order), place.
    times: BinaryHeap<Reverse<(u64, u64, usize)>>,
    places: Vec<Option<Frame>>,
    free: Vec<usize>,
    spare: Vec<Vec<u8>>,
    capacity: usize,
    number: u64,
    /// When the last frame will have left that the rate applies to.
    busy_until: u64,
    /// The latest time any frame leaves.
    last: u64,
    bad: bool,
}

impl Flow {
    fn new(
        from: Arc<PacketSocket>,
        to: Arc<PacketSocket>,
        way: Arc<Way>,
        segments: Segments,
    ) -> Self {
        let model = *way.model.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = if segments == Segments::Whole {
            WHOLE_SEGMENT
        } else {
            FRAME
        };
        Self {
            from,
            to,
            way,
            model,
            version: 0,
            chance: Chance::new(model.seed.unwrap_or(0)),
            times: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            capacity,
            number: 0,
            busy_until: 0,
            last: 0,
            bad: false,
        }
    }

    fn run(&mut self) -> Result<std::convert::Infallible> {
        // The default slack of 50 µs would be added to every delay. Without it the emulator is merely less exact.
        // SAFETY: PR_SET_TIMERSLACK takes one number and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
        let mut taken: Vec<Frame> = (0..BATCH).map(|_| self.blank()).collect();
        loop {
            let sleep = self.pass_on()?;
            if !self.from.wait(sleep)? {
                continue;
            }
            let version = self.way.version.load(Relaxed);
            if version != self.version {
                self.version = version;
                self.model = *self
                    .way
                    .model
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Some(seed) = self.model.seed {
                    self.chance = Chance::new(seed);
                }
            }
            let count = self.from.receive(&mut taken)?;
            let now = now();
            for frame in &mut taken[..count] {
                let blank = self.blank();
                self.take(std::mem::replace(frame, blank), now);
            }
        }
    }

    /// Decides about a frame.
    fn take(&mut self, frame: Frame, now: u64) {
        let Model {
            delay,
            jitter,
            in_order,
            loss,
            burst_begin,
            burst_end,
            duplicates,
            early,
            rate_kbit,
            queue,
            seed: _,
        } = self.model;
        let counts = &self.way.counts;
        counts.received.fetch_add(1, Relaxed);
        self.bad = if self.bad {
            !self.chance.is(burst_end)
        } else {
            self.chance.is(burst_begin)
        };
        if self.bad || self.chance.is(loss) {
            counts.lost.fetch_add(1, Relaxed);
            return self.recycle(frame.bytes);
        }
        let mut leaves = now;
        let bits = frame.length as u64 * 8;
        if let Some(takes) = (bits * 1_000_000).checked_div(rate_kbit) {
            let begins = self.busy_until.max(now);
            if begins - now > queue {
                counts.overflowed.fetch_add(1, Relaxed);
                return self.recycle(frame.bytes);
            }
            self.busy_until = begins + takes;
            leaves = self.busy_until;
        }
        // Without early frames the row of chances is what it was before there were any.
        if early == 0.0 || !self.chance.is(early) {
            leaves += delay + self.chance.below(jitter);
        }
        if in_order {
            leaves = leaves.max(self.last);
        }
        self.last = self.last.max(leaves);
        if self.chance.is(duplicates) {
            let mut copy = self.blank();
            copy.bytes[..frame.length].copy_from_slice(&frame.bytes[..frame.length]);
            copy.length = frame.length;
            self.keep(copy, leaves);
        }
        self.keep(frame, leaves);
    }

    fn keep(&mut self, frame: Frame, leaves: u64) {
        if self.times.len() >= WAITING {
            self.way.counts.overflowed.fetch_add(1, Relaxed);
            return self.recycle(frame.bytes);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(frame);
        self.number += 1;
        self.times.push(Reverse((leaves, self.number, place)));
    }

    /// Passes on what is due; how long until the next is.
    fn pass_on(&mut self) -> Result<u64> {
        loop {
            let now = now();
            let mut due = Vec::with_capacity(BATCH);
            let mut next = IDLE_NS;
            while let Some(&Reverse((leaves, _, place))) = self.times.peek() {
                if leaves > now || due.len() == BATCH {
                    next = leaves.saturating_sub(now).min(IDLE_NS);
                    break;
                }
                self.times.pop();
                self.free.push(place);
                due.push(
                    self.places[place]
                        .take()
                        .context("a place in the heap holds a frame")?,
                );
            }
            if due.is_empty() {
                return Ok(next);
            }
            let (sent, failed) = self.to.send(&mut due);
            self.way.counts.sent.fetch_add(sent, Relaxed);
            self.way.counts.failed.fetch_add(failed, Relaxed);
            for frame in due {
                self.recycle(frame.bytes);
            }
        }
    }

    fn blank(&mut self) -> Frame {
        Frame {
            bytes: self.spare.pop().unwrap_or_else(|| vec![0; self.capacity]),
            length: 0,
        }
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }
}

/// Chance from a seed (xorshift64*, Vigna 2016).
struct Chance(u64);

impl Chance {
    /// The state must not be zero; a multiplication spreads seeds that are near to each other.
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn is(&mut self, probability: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        share < probability
    }

    fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(failed, 0, "the monotonic clock exists");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Takes in and sends whole frames at one interface.
struct PacketSocket(OwnedFd);

impl PacketSocket {
    fn open(interface: &str, segments: Segments) -> Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked before it is used.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::c_int::from(every),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        // SAFETY: a descriptor just opened, owned by nobody else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let name = CString::new(interface)?;
        // SAFETY: `name` is a terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index > 0, "no such interface");
        socket.option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
        match segments {
            Segments::Whole => socket.option(libc::SOL_PACKET, PACKET_VNET_HDR, &1_i32)?,
            Segments::None => socket.option(libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1_i32)?,
        }
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER)?;
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SOCKET_BUFFER)?;
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        let bound = unsafe {
            libc::bind(
                socket.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        check(bound).context("bind")?;
        let all = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket.option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all)?;
        Ok(socket)
    }

    fn option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> Result<()> {
        let length = size_of::<T>() as u32;
        // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel checks the length.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                ptr::from_ref(value).cast(),
                length,
            )
        };
        check(set).with_context(|| format!("socket option {level}/{name}"))
    }

    /// Waits for frames; whether there are any.
    fn wait(&self, nanoseconds: u64) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = libc::timespec {
            tv_sec: (nanoseconds / 1_000_000_000).cast_signed(),
            tv_nsec: (nanoseconds % 1_000_000_000).cast_signed(),
        };
        // SAFETY: one valid pollfd, a valid timespec, no signal mask.
        let ready = unsafe { libc::ppoll(&raw mut poll, 1, &raw const limit, ptr::null()) };
        if ready < 0 {
            let err = io::Error::last_os_error();
            if err.kind() != io::ErrorKind::Interrupted {
                return Err(err).context("poll");
            }
        }
        Ok(ready > 0)
    }

    /// Takes in frames without waiting; how many there were.
    fn receive(&self, frames: &mut [Frame]) -> Result<usize> {
        let (mut pieces, mut headers) = scatter(frames, |frame| frame.bytes.len());
        link(&mut pieces, &mut headers);
        // SAFETY: every header points to one piece, every piece to the whole of one frame's buffer; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                frames.len() as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let err = io::Error::last_os_error();
            // An interface that goes down reports it once; frames flow again when it comes up.
            return match err.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(0),
                _ => Err(err).context("receive"),
            };
        };
        for (frame, header) in frames.iter_mut().zip(&headers[..count]) {
            frame.length = header.msg_len as usize;
        }
        Ok(count)
    }

    /// Sends frames; how many the kernel took and how many it refused.
    fn send(&self, frames: &mut [Frame]) -> (u64, u64) {
        let (mut pieces, mut headers) = scatter(frames, |frame| frame.length);
        link(&mut pieces, &mut headers);
        let (mut at, mut sent, mut failed) = (0, 0, 0);
        while at < headers.len() {
            let rest = &mut headers[at..];
            // SAFETY: every header points to one piece, every piece to the filled part of one frame; all outlive the call.
            let count = unsafe {
                libc::sendmmsg(self.0.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
            };
            match usize::try_from(count) {
                Ok(count) if count > 0 => {
                    at += count;
                    sent += count as u64;
                }
                _ => {
                    at += 1;
                    failed += 1;
                }
            }
        }
        (sent, failed)
    }
}

/// One piece and one header for every frame.
fn scatter(
    frames: &mut [Frame],
    length: impl Fn(&Frame) -> usize,
) -> (Vec<libc::iovec>, Vec<libc::mmsghdr>) {
    let piece = |frame: &mut Frame| libc::iovec {
        iov_len: length(frame),
        iov_base: frame.bytes.as_mut_ptr().cast(),
    };
    let pieces: Vec<_> = frames.iter_mut().map(piece).collect();
    // SAFETY: all zeros is a valid mmsghdr without address, pieces and control data.
    let headers = frames.iter().map(|_| unsafe { zeroed() }).collect();
    (pieces, headers)
}

/// Points every header to its piece.
fn link(pieces: &mut [libc::iovec], headers: &mut [libc::mmsghdr]) {
    for (piece, header) in pieces.iter_mut().zip(headers) {
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
