//! The thread that keeps the streams: it takes and makes connections, reads frames, and closes what it should.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::mpsc;
use tracing::debug;
use wireguard::{Mac1, PublicKey, Underlay, constants::INITIATION_LEN};

use super::{
    Command, Event, Line, MAX_ADDRESSES, Place, Table, Waiting,
    frame::{self, HEADER, Run},
};
use crate::{
    discard::Reason,
    driver,
    forward::{Notice, Outside, Shared},
    io::{
        hardening,
        netlink::MARK,
        poll::{Interest, Poll},
        tcp::{Connection, Listener},
        wake::Wake,
    },
    pulse::Pulse,
};

/// Who connects has so long to say something to our key.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// And then so long to show who it is: time for a handshake that has to prove its address by a cookie, after 5 s.
const PROOF: Duration = Duration::from_secs(15);
/// A connection is made within this time.
const CONNECT: Duration = Duration::from_secs(4);
/// Pause before the next address of a peer is tried beside the last (RFC 8305 §5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// A frame that has begun ends within this time.
const WHOLE_FRAME: Duration = Duration::from_secs(5);
/// Routing alone says more.
const IDLE: Duration = Duration::from_secs(60);
/// How often all of that is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Streams of those who have proven who they are.
const MAX_PROVEN: usize = 256;
/// And of one of them: one in use, and one that is to take its place.
const MAX_OF_PEER: usize = 2;
/// Connections taken in one turn.
const ACCEPTS: usize = 32;
/// Read of one stream in one turn.
const READ: usize = 64 << 10;
/// The first bytes of a stream that is meant for us: the length of an initiation, and its type.
const GREETING: [u8; 6] = [0, INITIATION_LEN as u8, 1, 0, 0, 0];

type Work = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The thread, started before its work is known: it needs other rights than those that come after it.
#[derive(Debug)]
pub struct Berth {
    work: Sender<Work>,
    thread: JoinHandle<()>,
}

impl Berth {
    /// Starts the thread, which gives up every file and keeps the right to connect.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(ended: &mpsc::Sender<String>) -> io::Result<Self> {
        let (work, to_do) = bounded::<Work>(1);
        let thread = driver::spawn("stream", ended, move || {
            if let Err(missing) = hardening::confine_connections() {
                debug!(%missing, "Thread keeps what it does not need");
            }
            // Nothing comes if the daemon does not start.
            to_do.recv().map_or(Ok(()), |work| work())
        })?;
        Ok(Self { work, thread })
    }

    /// Gives it its work.
    ///
    /// # Errors
    /// It has ended.
    pub fn run(self, work: Work) -> io::Result<JoinHandle<()>> {
        let sent = self.work.send(work);
        sent.map_err(|_| io::Error::other("the thread has ended"))?;
        Ok(self.thread)
    }
}

/// What the thread is to be started with.
#[derive(Debug)]
pub struct Setup {
    /// The thread.
    pub berth: Berth,
    /// What the node loop asks for.
    pub commands: Receiver<Command>,
    /// Where others connect.
    pub listeners: Vec<Listener>,
}

/// Keeps the streams.
#[derive(Debug)]
pub struct StreamThread {
    table: Arc<Table>,
    commands: Receiver<Command>,
    listeners: Vec<Listener>,
    /// Nobody is let in until then: the process was out of descriptors.
    full_until: Option<Instant>,
    carrier: Carrier,
    streams: BTreeMap<Place, Stream>,
    dials: BTreeMap<PublicKey, Dial>,
    last: u64,
}

/// What reading needs, apart from the streams.
#[derive(Debug)]
struct Carrier {
    shared: Shared,
    outside: Outside,
    mac1: Mac1,
    waiting: Waiting,
    buffer: Box<[u8]>,
    runs: Vec<Run>,
    /// What the node loop has not heard yet, because its queue was full.
    unheard: VecDeque<Event>,
}

/// One stream.
#[derive(Debug)]
struct Stream {
    line: Arc<Line>,
    stage: Stage,
    /// When its stage has to be over.
    until: Option<Instant>,
    /// The beginning of a frame.
    kept: Vec<u8>,
    kept_since: Option<Instant>,
    heard: Instant,
}

/// How far a stream has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// We are connecting to this peer.
    Connecting(PublicKey),
    /// Somebody has connected, and said nothing to our key.
    Silent,
    /// We, or they, have begun a handshake; whom we called.
    Introduced(Option<PublicKey>),
    /// Somebody has shown who it is.
    Proven(PublicKey),
}

/// A peer that is called at one address after the other.
#[derive(Debug)]
struct Dial {
    addresses: VecDeque<SocketAddr>,
    next: Instant,
}

/// A stream is to be closed.
#[derive(Debug)]
struct Over;

impl StreamThread {
    /// Takes who connects to `listeners`, and does what comes by `commands`. Datagrams are opened and delivered by `outside`; `mac1` is that
    /// of messages to us.
    pub fn new(
        shared: Shared,
        outside: Outside,
        mac1: Mac1,
        table: Arc<Table>,
        commands: Receiver<Command>,
        listeners: Vec<Listener>,
    ) -> Self {
        let room = HEADER + frame::MAX + READ;
        Self {
            table,
            commands,
            listeners,
            full_until: None,
            carrier: Carrier {
                shared,
                outside,
                mac1,
                waiting: Waiting::default(),
                buffer: vec![0; room].into_boxed_slice(),
                runs: Vec::new(),
                unheard: VecDeque::new(),
            },
            streams: BTreeMap::new(),
            dials: BTreeMap::new(),
            last: 0,
        }
    }

    /// Keeps streams until `stop` is woken, and answers `pulse`.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn run(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        loop {
            let now = self.carrier.shared.clock.now();
            let listens = self.full_until.is_none_or(|until| until <= now);
            let table = Arc::clone(&self.table);
            let lines: Vec<(Place, Arc<Line>, Interest)> = self
                .streams
                .iter()
                .map(|(place, stream)| (*place, Arc::clone(&stream.line), stream.interest()))
                .collect();
            let mut descriptors = vec![
                (stop.as_fd(), Interest::Read),
                (pulse.as_fd(), Interest::Read),
                (table.wake().as_fd(), Interest::Read),
            ];
            let fixed = descriptors.len();
            let listeners = self.listeners.iter().filter(|_| listens);
            descriptors.extend(listeners.map(|listener| (listener.as_fd(), Interest::Read)));
            let first_line = descriptors.len();
            let connections = lines.iter();
            descriptors.extend(
                connections.map(|(_, line, interest)| (line.connection().as_fd(), *interest)),
            );
            let mut poll = Poll::of(&descriptors);
            poll.wait(self.deadline(now), &self.carrier.shared.clock)?;
            if poll.is_ready(0) {
                return Ok(());
            }
            if poll.is_ready(1) {
                pulse.answer()?;
            }
            if poll.is_ready(2) {
                table.wake().clear()?;
            }
            let ready: Vec<Place> = lines
                .iter()
                .enumerate()
                .filter(|(at, _)| poll.is_ready(first_line + at))
                .map(|(_, (place, ..))| *place)
                .collect();
            let called: Vec<usize> = (fixed..first_line)
                .filter(|at| poll.is_ready(*at))
                .map(|at| at - fixed)
                .collect();
            drop((poll, descriptors));
            drop(lines);
            self.turn(&ready, &called);
        }
    }

    /// When something is due.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let has_any = !self.streams.is_empty()
            || self.full_until.is_some()
            || !self.carrier.unheard.is_empty();
        let dials = self.dials.values().map(|dial| dial.next);
        dials.chain(has_any.then(|| now + TICK)).min()
    }

    /// What has happened: these streams and listeners (by their order) are ready.
    fn turn(&mut self, ready: &[Place], called: &[usize]) {
        let now = self.carrier.shared.clock.now();
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command, now);
        }
        for place in ready {
            self.serve(*place, now);
        }
        for at in called {
            self.accept(*at, now);
        }
        self.tend(now);
        self.dial(now);
        let outlet = &self.carrier.shared.outlet;
        let unheard = &mut self.carrier.unheard;
        while let Some(event) = unheard.front() {
            if !outlet.reaches(Notice::Stream(*event)) {
                break;
            }
            unheard.pop_front();
        }
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Dial { peer, addresses } => {
                self.give_up(&peer);
                let addresses = addresses.into_iter().take(MAX_ADDRESSES).collect();
                self.dials.insert(
                    peer,
                    Dial {
                        addresses,
                        next: now,
                    },
                );
            }
            Command::Close { peer, stream: None } => self.give_up(&peer),
            Command::Close {
                peer: _,
                stream: Some(stream),
            } => {
                let found = self
                    .streams
                    .iter()
                    .find(|(_, other)| other.line.endpoint().is_same_way(&stream));
                if let Some(place) = found.map(|(place, _)| *place) {
                    self.remove(place);
                }
            }
        }
    }

    /// Stops connecting to a peer.
    fn give_up(&mut self, peer: &PublicKey) {
        self.dials.remove(peer);
        self.streams
            .retain(|_, stream| stream.stage != Stage::Connecting(*peer));
    }

    /// Calls peers at their next addresses.
    fn dial(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for (peer, dial) in &mut self.dials {
            let waits = |stream: &Stream| stream.stage == Stage::Connecting(*peer);
            while dial.next <= now || !self.streams.values().any(waits) {
                let Some(address) = dial.addresses.pop_front() else {
                    break;
                };
                match Connection::dial(address, MARK) {
                    Ok(connection) => {
                        self.last += 1;
                        let until = Some(now + CONNECT);
                        let stream = Stream::new(connection, Stage::Connecting(*peer), until, now);
                        self.streams.insert(Place(self.last), stream);
                        dial.next = now + NEXT_ADDRESS;
                    }
                    Err(error) => debug!(%address, %error, "Stream cannot be dialled"),
                }
            }
            if dial.addresses.is_empty() {
                dial.next = now + CONNECT;
                if !self.streams.values().any(waits) {
                    failed.push(*peer);
                }
            }
        }
        for peer in failed {
            self.dials.remove(&peer);
            self.carrier.unheard.push_back(Event::Failed { peer });
        }
    }

    /// Takes who has connected.
    fn accept(&mut self, listener: usize, now: Instant) {
        self.full_until = None;
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(listener) else {
                return;
            };
            let connection = match listener.accept() {
                Ok(Some(connection)) => connection,
                Ok(None) => return,
                Err(error) => {
                    debug!(%error, "Connection not taken");
                    self.full_until = Some(now + TICK);
                    return;
                }
            };
            self.last += 1;
            let (place, from) = (Place(self.last), connection.remote().ip());
            let until = Some(now + FIRST_WORD);
            let stream = Stream::new(connection, Stage::Silent, until, now);
            self.streams.insert(place, stream);
            if let Some(left) = self.carrier.waiting.admit(place, from) {
                self.refuse(left);
            }
            // Most have said their first word by now.
            self.serve(place, now);
        }
    }

    /// A stream is ready for what it waits for.
    fn serve(&mut self, place: Place, now: Instant) {
        let Some(stream) = self.streams.get_mut(&place) else {
            return;
        };
        if stream.line.has_rest() {
            stream.line.write_rest();
        }
        let before = stream.stage;
        let served = match before {
            Stage::Connecting(peer) => match stream.line.connection().outcome() {
                Ok(()) => return self.connected(place, peer, now),
                Err(error) => {
                    let address = stream.line.connection().remote();
                    debug!(%address, %error, "Stream not connected");
                    Err(Over)
                }
            },
            Stage::Silent => self.carrier.greet(place, stream, &self.table, now),
            Stage::Introduced(_) | Stage::Proven(_) => self.carrier.read(stream, now),
        };
        let is_proven = matches!(stream.stage, Stage::Proven(_)) && before != stream.stage;
        match (served, before) {
            (Ok(()), _) if is_proven => self.settle(place),
            (Ok(()), _) => {}
            (Err(Over), Stage::Connecting(_)) => {
                self.streams.remove(&place);
            }
            (Err(Over), Stage::Silent | Stage::Introduced(None)) => self.refuse(place),
            (Err(Over), _) => self.close(place),
        }
    }

    /// A connection to a peer is there.
    fn connected(&mut self, place: Place, peer: PublicKey, now: Instant) {
        let Some(mut stream) = self.streams.remove(&place) else {
            return;
        };
        self.give_up(&peer);
        stream.stage = Stage::Introduced(Some(peer));
        stream.until = Some(now + PROOF);
        stream.heard = now;
        let endpoint = *stream.line.endpoint();
        if let Some(before) = self.table.insert(&stream.line) {
            self.forget_line(&before);
        }
        self.streams.insert(place, stream);
        let opened = Event::Opened {
            peer,
            stream: endpoint,
        };
        self.carrier.unheard.push_back(opened);
    }

    /// Somebody has shown who it is: older streams of the same make room.
    fn settle(&mut self, place: Place) {
        self.carrier.waiting.leave(place);
        let Some(Stage::Proven(peer)) = self.streams.get(&place).map(|stream| stream.stage) else {
            return;
        };
        let proven = |stream: &Stream| matches!(stream.stage, Stage::Proven(_));
        let of_peer: Vec<Place> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.stage == Stage::Proven(peer))
            .map(|(place, _)| *place)
            .collect();
        for old in of_peer.iter().rev().skip(MAX_OF_PEER) {
            self.close(*old);
        }
        while self
            .streams
            .values()
            .filter(|stream| proven(stream))
            .count()
            > MAX_PROVEN
        {
            let others = self.streams.iter().filter(|(other, _)| **other != place);
            let quietest = others
                .filter(|(_, stream)| proven(stream))
                .min_by_key(|(_, stream)| stream.heard);
            let Some(quietest) = quietest.map(|(place, _)| *place) else {
                return;
            };
            self.close(quietest);
        }
    }

    /// Closes what has taken too long.
    fn tend(&mut self, now: Instant) {
        let over: Vec<Place> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_over(now))
            .map(|(place, _)| *place)
            .collect();
        for place in over {
            match self.streams.get(&place).map(|stream| stream.stage) {
                Some(Stage::Connecting(_)) => {
                    self.streams.remove(&place);
                }
                Some(Stage::Silent | Stage::Introduced(None)) => self.refuse(place),
                Some(Stage::Introduced(Some(_)) | Stage::Proven(_)) => self.close(place),
                None => {}
            }
        }
    }

    /// Somebody who has connected has not shown in time who it is, or begun with something else.
    fn refuse(&mut self, place: Place) {
        self.carrier
            .shared
            .outlet
            .discards
            .discard(Reason::StreamStranger, 1);
        self.remove(place);
    }

    /// Closes a stream that the node loop knows of.
    fn close(&mut self, place: Place) {
        let Some(stream) = self.remove(place) else {
            return;
        };
        let endpoint = *stream.line.endpoint();
        if let Stage::Introduced(Some(peer)) | Stage::Proven(peer) = stream.stage {
            let closed = Event::Closed {
                peer,
                stream: endpoint,
            };
            self.carrier.unheard.push_back(closed);
        }
    }

    fn remove(&mut self, place: Place) -> Option<Stream> {
        self.carrier.waiting.leave(place);
        let stream = self.streams.remove(&place)?;
        self.table.remove(&stream.line);
        Some(stream)
    }

    /// Another stream has taken the place of this one in the table.
    fn forget_line(&mut self, line: &Arc<Line>) {
        let mut streams = self.streams.iter();
        let found = streams.find(|(_, stream)| Arc::ptr_eq(&stream.line, line));
        if let Some(place) = found.map(|(place, _)| *place) {
            self.remove(place);
        }
    }
}

impl Stream {
    fn new(connection: Connection, stage: Stage, until: Option<Instant>, now: Instant) -> Self {
        let endpoint = Underlay::stream(connection.remote(), None);
        Self {
            line: Arc::new(Line::new(connection, endpoint)),
            stage,
            until,
            kept: Vec::new(),
            kept_since: None,
            heard: now,
        }
    }

    fn interest(&self) -> Interest {
        match self.stage {
            Stage::Connecting(_) => Interest::Write,
            _ if self.line.has_rest() => Interest::Both,
            Stage::Silent | Stage::Introduced(_) | Stage::Proven(_) => Interest::Read,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.until.is_some_and(|until| until <= now)
            || self
                .kept_since
                .is_some_and(|then| since(then) >= WHOLE_FRAME)
            || since(self.heard) >= IDLE
            || self.line.is_broken()
            || self.line.is_stuck(now)
    }
}

impl Carrier {
    /// Reads the first word of somebody who has connected, and no more than that.
    fn greet(
        &mut self,
        place: Place,
        stream: &mut Stream,
        table: &Table,
        now: Instant,
    ) -> Result<(), Over> {
        let mut first = [0; HEADER + INITIATION_LEN];
        let known = stream.kept.len();
        first[..known].copy_from_slice(&stream.kept);
        let read = stream.line.connection().recv(&mut first[known..]);
        let length = match read {
            Ok(None) => return Ok(()),
            Ok(Some(0)) | Err(_) => return Err(Over),
            Ok(Some(length)) => known + length,
        };
        let word = &first[..length];
        if word
            .iter()
            .zip(GREETING)
            .any(|(byte, right)| *byte != right)
        {
            return Err(Over);
        }
        if length < first.len() {
            stream.kept = word.to_vec();
            return Ok(());
        }
        let initiation = &mut first[HEADER..];
        if !self.mac1.verify(initiation) {
            return Err(Over);
        }
        stream.kept = Vec::new();
        stream.stage = Stage::Introduced(None);
        stream.until = Some(now + PROOF);
        stream.heard = now;
        self.waiting.note_spoken(place);
        // An address of which somebody has proven that it is the other end of a stream is not taken away.
        if table.has(stream.line.endpoint()) {
            return Err(Over);
        }
        table.insert(&stream.line);
        let from = *stream.line.endpoint();
        self.outside.take_frames(initiation, INITIATION_LEN, from);
        Ok(())
    }

    /// Reads frames.
    fn read(&mut self, stream: &mut Stream, now: Instant) -> Result<(), Over> {
        let known = stream.kept.len();
        self.buffer[..known].copy_from_slice(&stream.kept);
        let room = &mut self.buffer[known..known + READ];
        let length = match stream.line.connection().recv(room) {
            Ok(None) => return Ok(()),
            Ok(Some(0)) | Err(_) => return Err(Over),
            Ok(Some(length)) => known + length,
        };
        stream.heard = now;
        self.runs.clear();
        let rest = frame::cut(&mut self.buffer[..length], &mut self.runs);
        let from = *stream.line.endpoint();
        for run in &self.runs {
            let bytes = &mut self.buffer[run.bytes.clone()];
            if let Some(peer) = self.outside.take_frames(bytes, run.segment, from) {
                stream.prove(peer)?;
            }
        }
        let rest = rest.map_err(|_| Over)?;
        if !self.runs.is_empty() || rest.is_empty() {
            stream.kept_since = None;
        }
        if !rest.is_empty() {
            stream.kept_since.get_or_insert(now);
        }
        stream.kept.clear();
        stream.kept.extend_from_slice(&self.buffer[rest]);
        Ok(())
    }
}

impl Stream {
    /// This peer is at its other end.
    fn prove(&mut self, peer: PublicKey) -> Result<(), Over> {
        match self.stage {
            // Of several that show themselves in one stream, somebody carries the others.
            Stage::Proven(other) | Stage::Introduced(Some(other)) if other != peer => Err(Over),
            Stage::Connecting(_) | Stage::Silent | Stage::Introduced(_) | Stage::Proven(_) => {
                self.stage = Stage::Proven(peer);
                self.until = None;
                Ok(())
            }
        }
    }
}
