//! How two members come to have the same records.
//!
//! One asks, the other answers; who answers remembers nothing. Each message is one datagram of at most [`MAX_MESSAGE`] bytes. New records are
//! told at once ([`news`]); everything else is found by comparing ([`Pull`]), in which each of the two asks in its turn.
//!
//! A pull compares a part of the order of records by a hash of the identifiers in it, salted by who asks, so that nobody can prepare sets
//! that differ and look the same. Where they differ it gets an outline of the other's part, down to parts that are small, and there says
//! which records it has and is sent those that it lacks. Nothing is lost when it ends half way: what has come is here, and the next pull
//! goes on from there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use blake2::{Blake2s256, Digest};

use crate::{
    InsertError, Inserted, RecordId, Records,
    keys::first,
    record::Key,
    records::{List, write_listed},
};

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 1_100;

/// The version of the messages.
const VERSION: u8 = 1;
/// What precedes salt and identifiers where a part is hashed.
const PRINT: &[u8] = b"meshd sync v1";
/// Head of questions and answers: version, kind, number, from, to.
const HEAD: usize = 2 + 4 + 2 * KEY;
const KEY: usize = 17;
/// Most parts in an outline: as many as fit, nearly.
const MAX_PARTS: usize = 32;
/// Records that a part of an outline has at least, if there are enough.
const PART: usize = 16;
/// Most records that a question lists as held: as many as fit.
const MAX_LISTED: usize = (MAX_MESSAGE - HEAD) / SHORT;
/// Bytes by which a record is listed.
const SHORT: usize = 8;
/// Questions that wait for their answers at a time.
const WINDOW: usize = 8;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a question is asked.
const TRIES: u8 = 5;
/// Questions of one pull. It ends then, and the next goes on.
const MAX_QUESTIONS: u32 = 1 << 16;
/// Parts that wait to be asked for.
const MAX_WORK: usize = 1 << 10;

/// The side that asks: brings another node's records here. One at a time for each peer.
#[derive(Debug)]
pub struct Pull {
    salt: u64,
    work: VecDeque<Work>,
    flights: BTreeMap<u32, Flight>,
    /// Parts with records that hung on nothing when they came, and how many records were here then.
    again: Vec<(Part, u64)>,
    asked: u32,
    silent: bool,
}

/// What a message was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// The bytes of records that were new here: keep them, and tell them to the other peers.
    pub new: Vec<Vec<u8>>,
    /// Records that hang on others that are not here: a [`Pull`] would bring them.
    pub unchained: usize,
    /// Records that were refused.
    pub refused: usize,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// For [`answer`].
    Question,
    /// For [`Pull::handle_message`] of whom it came from.
    Answer,
    /// For [`handle_news`].
    News,
}

/// How a [`Pull`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Drain [`Pull::poll_transmit`].
    Going,
    /// All that the other has, and that counts here, is here.
    Done,
    /// The other does not answer.
    Silent,
}

/// Why a message is not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SyncError {
    /// Too long, too short, or of a later release.
    #[error("a message that cannot be read")]
    Message,
    /// Not what was asked for.
    #[error("an answer to no question")]
    Unasked,
}

/// A part of the order of records, `to` not in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Part {
    from: Key,
    to: Key,
}

/// Something to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    /// Whether a part is the same there, or else an outline of it.
    Compare(Part),
    /// The records of a part that are not here.
    Fetch(Part),
}

/// A question that was sent.
#[derive(Debug)]
struct Flight {
    work: Work,
    sent: Instant,
    tries: u8,
    /// Whether it is to be sent again.
    due: bool,
}

/// What a message is, in its second byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Compare = 1,
    Fetch = 2,
    News = 3,
    Same = 4,
    Outline = 5,
    Records = 6,
}

/// What a message is for; nothing if it is of no kind that is known.
#[must_use]
pub fn role(message: &[u8]) -> Option<Role> {
    let (kind, _) = open(message).ok()?;
    Some(match kind {
        Kind::Compare | Kind::Fetch => Role::Question,
        Kind::Same | Kind::Outline | Kind::Records => Role::Answer,
        Kind::News => Role::News,
    })
}

/// Messages that tell these records to a peer, unasked, in this order.
#[must_use]
pub fn news<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let head = vec![VERSION, Kind::News as u8];
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for record in records {
        let fits = |message: &&mut Vec<u8>| message.len() + 2 + record.len() <= MAX_MESSAGE;
        match messages.last_mut().filter(fits) {
            Some(message) => write_listed(message, record),
            None => {
                let mut message = head.clone();
                write_listed(&mut message, record);
                messages.push(message);
            }
        }
    }
    messages
}

/// Takes what a peer tells unasked.
///
/// # Errors
/// [`SyncError::Message`].
pub fn handle_news(records: &mut Records, message: &[u8]) -> Result<Heard, SyncError> {
    match open(message)? {
        (Kind::News, rest) => take(records, rest),
        (Kind::Compare | Kind::Fetch | Kind::Same | Kind::Outline | Kind::Records, _) => {
            Err(SyncError::Message)
        }
    }
}

/// Answers a peer's question. Costs at most one pass over the identifiers of all records; callers bound how often.
///
/// # Errors
/// [`SyncError::Message`].
pub fn answer(records: &Records, question: &[u8]) -> Result<Vec<u8>, SyncError> {
    let (kind, rest) = open(question)?;
    let (number, part, rest) = read_head(rest)?;
    match kind {
        Kind::Compare => {
            let (salt, print) = rest.split_first_chunk().ok_or(SyncError::Message)?;
            let salt = u64::from_be_bytes(*salt);
            let print: [u8; 8] = print.try_into().map_err(|_| SyncError::Message)?;
            Ok(if print_of(records, part, salt) == print {
                head(Kind::Same, number, part)
            } else {
                outline(records, number, part, salt)
            })
        }
        Kind::Fetch => {
            let (listed, []) = rest.as_chunks::<SHORT>() else {
                return Err(SyncError::Message);
            };
            Ok(missing(records, number, part, listed))
        }
        Kind::News | Kind::Same | Kind::Outline | Kind::Records => Err(SyncError::Message),
    }
}

/// The part in pieces of about equal numbers of records: each by where it ends, its hash, and its number of records.
fn outline(records: &Records, number: u32, part: Part, salt: u64) -> Vec<u8> {
    let keys: Vec<Key> = records
        .between(part.from, part.to)
        .map(|(key, _)| *key)
        .collect();
    let parts = keys.len().div_ceil(PART).clamp(1, MAX_PARTS);
    let size = keys.len().div_ceil(parts).max(1);
    let mut message = head(Kind::Outline, number, part);
    let mut from = part.from;
    while from < part.to {
        let inside = keys.partition_point(|key| *key < from);
        let to = keys.get(inside + size).copied().unwrap_or(part.to);
        write_key(&mut message, to);
        message.extend(print_of(records, Part { from, to }, salt));
        let count = keys.len().min(inside + size) - inside;
        message.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        from = to;
    }
    message
}

/// The records of a part but for those listed, as many as fit, and where to ask on: the end of the part if that is all.
fn missing(records: &Records, number: u32, part: Part, listed: &[[u8; SHORT]]) -> Vec<u8> {
    let mut message = head(Kind::Records, number, part);
    let next = message.len();
    write_key(&mut message, part.to);
    let mut listed = listed.to_vec();
    listed.sort_unstable();
    for (key, record) in records.between(part.from, part.to) {
        if listed.binary_search(&short(key.id)).is_ok() {
            continue;
        }
        if message.len() + 2 + record.bytes().len() > MAX_MESSAGE {
            let mut bytes = Vec::with_capacity(KEY);
            write_key(&mut bytes, *key);
            message[next..next + KEY].copy_from_slice(&bytes);
            break;
        }
        write_listed(&mut message, record.bytes());
    }
    message
}

impl Pull {
    /// Begins to ask. `salt` is random, of this pull alone: nobody can prepare records that would look the same to it.
    #[must_use]
    pub fn new(salt: u64) -> Self {
        let all = Part {
            from: Key::FIRST,
            to: Key::END,
        };
        Self {
            salt,
            work: VecDeque::from([Work::Compare(all)]),
            flights: BTreeMap::new(),
            again: Vec::new(),
            asked: 0,
            silent: false,
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// The pull goes on as if it had not come.
    pub fn handle_message(
        &mut self,
        records: &mut Records,
        message: &[u8],
    ) -> Result<Heard, SyncError> {
        let (kind, rest) = open(message)?;
        let (number, part, rest) = read_head(rest)?;
        let work = self.flights.get(&number).ok_or(SyncError::Unasked)?.work;
        if part != work.part() {
            return Err(SyncError::Unasked);
        }
        let heard = match (kind, work) {
            (Kind::Same, Work::Compare(_)) => Heard::default(),
            (Kind::Outline, Work::Compare(_)) => {
                self.handle_outline(records, part, rest)?;
                Heard::default()
            }
            (Kind::Records, Work::Fetch(_)) => self.handle_records(records, part, rest)?,
            (Kind::Compare | Kind::Fetch | Kind::News, _)
            | (Kind::Same | Kind::Outline, Work::Fetch(_))
            | (Kind::Records, Work::Compare(_)) => return Err(SyncError::Unasked),
        };
        self.flights.remove(&number);
        if self.work.is_empty() && self.flights.is_empty() {
            // What hung on nothing may hang on what has come since.
            let revision = records.revision();
            let again = std::mem::take(&mut self.again).into_iter();
            let again = again.filter(|(_, then)| *then < revision);
            self.work.extend(again.map(|(part, _)| Work::Fetch(part)));
        }
        Ok(heard)
    }

    fn handle_outline(
        &mut self,
        records: &Records,
        part: Part,
        rest: &[u8],
    ) -> Result<(), SyncError> {
        let (pieces, []) = rest.as_chunks::<{ KEY + 8 + 2 }>() else {
            return Err(SyncError::Message);
        };
        let mut from = part.from;
        let mut work = Vec::new();
        for piece in pieces {
            let (to, piece) = read_key(piece)?;
            let (print, count) = piece.split_first_chunk().ok_or(SyncError::Message)?;
            let count = <[u8; 2]>::try_from(count).map_err(|_| SyncError::Message)?;
            if to <= from || to > part.to {
                return Err(SyncError::Message);
            }
            let piece = Part { from, to };
            if print_of(records, piece, self.salt) != *print {
                let own = records.between(from, to).count();
                let is_smaller = piece != part;
                let many = usize::from(u16::from_be_bytes(count)).min(own) > 2 * PART;
                work.push(if many && is_smaller {
                    Work::Compare(piece)
                } else {
                    Work::Fetch(piece)
                });
            }
            from = to;
        }
        if from != part.to {
            return Err(SyncError::Message);
        }
        work.truncate(MAX_WORK.saturating_sub(self.work.len()));
        // What is asked for first comes first in the order of records.
        for work in work.into_iter().rev() {
            self.work.push_front(work);
        }
        Ok(())
    }

    fn handle_records(
        &mut self,
        records: &mut Records,
        part: Part,
        rest: &[u8],
    ) -> Result<Heard, SyncError> {
        let (next, list) = read_key(rest)?;
        if next <= part.from || next > part.to {
            return Err(SyncError::Message);
        }
        let heard = take(records, list)?;
        if next < part.to {
            self.work.push_front(Work::Fetch(Part {
                from: next,
                to: part.to,
            }));
        }
        if heard.unchained > 0 && self.again.len() < MAX_WORK {
            let part = Part {
                from: part.from,
                to: next,
            };
            self.again.push((part, records.revision()));
        }
        Ok(heard)
    }

    /// Asks again where there was no answer.
    pub fn handle_timeout(&mut self, now: Instant) {
        for flight in self.flights.values_mut() {
            if !flight.due && now.saturating_duration_since(flight.sent) >= PATIENCE {
                if flight.tries >= TRIES {
                    self.silent = true;
                }
                flight.due = true;
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.flights.values().filter(|flight| !flight.due);
        let sent = waiting.map(|flight| flight.sent).min()?;
        (!self.silent).then_some(sent + PATIENCE)
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self, records: &Records, now: Instant) -> Option<Vec<u8>> {
        if self.silent {
            return None;
        }
        if let Some((number, flight)) = self.flights.iter_mut().find(|(_, flight)| flight.due) {
            flight.due = false;
            flight.sent = now;
            flight.tries += 1;
            return Some(flight.work.question(records, *number, self.salt));
        }
        if self.flights.len() >= WINDOW || self.asked >= MAX_QUESTIONS {
            return None;
        }
        let work = self.work.pop_front()?;
        let work = match work.halves(records) {
            Some((first, then)) => {
                self.work.push_front(then);
                first
            }
            None => work,
        };
        self.asked += 1;
        let flight = Flight {
            work,
            sent: now,
            tries: 1,
            due: false,
        };
        let number = self.asked;
        self.flights.insert(number, flight);
        Some(work.question(records, number, self.salt))
    }

    /// How it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.silent {
            Progress::Silent
        } else if self.flights.is_empty() && (self.work.is_empty() || self.asked >= MAX_QUESTIONS) {
            Progress::Done
        } else {
            Progress::Going
        }
    }
}

impl Work {
    fn part(self) -> Part {
        match self {
            Self::Compare(part) | Self::Fetch(part) => part,
        }
    }

    /// A part with more records than can be listed, as a first part with as many as can, and the rest.
    fn halves(self, records: &Records) -> Option<(Self, Self)> {
        let Self::Fetch(part) = self else { return None };
        let (at, _) = records.between(part.from, part.to).nth(MAX_LISTED)?;
        let first = Part {
            from: part.from,
            to: *at,
        };
        let then = Part {
            from: *at,
            to: part.to,
        };
        Some((Self::Fetch(first), Self::Fetch(then)))
    }

    fn question(self, records: &Records, number: u32, salt: u64) -> Vec<u8> {
        match self {
            Self::Compare(part) => {
                let mut message = head(Kind::Compare, number, part);
                message.extend(salt.to_be_bytes());
                message.extend(print_of(records, part, salt));
                message
            }
            Self::Fetch(part) => {
                let mut message = head(Kind::Fetch, number, part);
                let held = records.between(part.from, part.to);
                // There may be more by now than when the part was cut; they come twice then.
                message.extend(held.take(MAX_LISTED).flat_map(|(key, _)| short(key.id)));
                message
            }
        }
    }
}

/// Takes the records of a message.
fn take(records: &mut Records, list: &[u8]) -> Result<Heard, SyncError> {
    let mut heard = Heard::default();
    let mut list = List(list);
    for bytes in &mut list {
        match records.insert(bytes) {
            Ok(Inserted::New(_)) => heard.new.push(bytes.to_vec()),
            Ok(Inserted::Held) => {}
            Err(InsertError::Unchained) => heard.unchained += 1,
            Err(InsertError::Record(_) | InsertError::Beyond) => heard.refused += 1,
        }
    }
    if list.0.is_empty() {
        Ok(heard)
    } else if heard == Heard::default() {
        Err(SyncError::Message)
    } else {
        heard.refused += 1;
        Ok(heard)
    }
}

fn print_of(records: &Records, part: Part, salt: u64) -> [u8; 8] {
    let mut hash = Blake2s256::new()
        .chain_update(PRINT)
        .chain_update(salt.to_be_bytes());
    for (key, _) in records.between(part.from, part.to) {
        hash.update(key.id.0);
    }
    first(&hash.finalize().into())
}

fn open(message: &[u8]) -> Result<(Kind, &[u8]), SyncError> {
    let (head, rest) = message.split_first_chunk().ok_or(SyncError::Message)?;
    let [version, kind] = *head;
    if version != VERSION || message.len() > MAX_MESSAGE {
        return Err(SyncError::Message);
    }
    let kinds = [
        Kind::Compare,
        Kind::Fetch,
        Kind::News,
        Kind::Same,
        Kind::Outline,
        Kind::Records,
    ];
    let kind = kinds.into_iter().find(|known| *known as u8 == kind);
    Ok((kind.ok_or(SyncError::Message)?, rest))
}

fn head(kind: Kind, number: u32, part: Part) -> Vec<u8> {
    let mut message = Vec::with_capacity(MAX_MESSAGE);
    message.extend([VERSION, kind as u8]);
    message.extend(number.to_be_bytes());
    write_key(&mut message, part.from);
    write_key(&mut message, part.to);
    message
}

fn read_head(rest: &[u8]) -> Result<(u32, Part, &[u8]), SyncError> {
    let (number, rest) = rest.split_first_chunk().ok_or(SyncError::Message)?;
    let (from, rest) = read_key(rest)?;
    let (to, rest) = read_key(rest)?;
    if from >= to {
        return Err(SyncError::Message);
    }
    Ok((u32::from_be_bytes(*number), Part { from, to }, rest))
}

fn write_key(message: &mut Vec<u8>, key: Key) {
    message.push(key.stage);
    message.extend(key.id.0);
}

fn read_key(bytes: &[u8]) -> Result<(Key, &[u8]), SyncError> {
    let (stage, rest) = bytes.split_first().ok_or(SyncError::Message)?;
    let (id, rest) = rest.split_first_chunk().ok_or(SyncError::Message)?;
    let key = Key {
        stage: *stage,
        id: RecordId(*id),
    };
    Ok((key, rest))
}

fn short(id: RecordId) -> [u8; SHORT] {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    [a, b, c, d, e, f, g, h]
}
