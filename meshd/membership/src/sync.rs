//! How two members come to have the same records.
//!
//! One asks, the other answers; who answers remembers nothing. Each message is one datagram of at most [`MAX_MESSAGE`] bytes. New records are
//! told at once ([`news`]); everything else is found by comparing ([`Pull`]), in which each of the two asks in its turn.

use std::time::Instant;

use crate::Records;

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 1_100;

/// The side that asks: brings another node's records here. One at a time for each peer.
#[derive(Debug)]
pub struct Pull {}

/// What a message was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// An answer to send back to whom it came from, if it asked.
    pub answer: Option<Vec<u8>>,
    /// The bytes of records that were new here: keep them, and tell them to the other peers.
    pub new: Vec<Vec<u8>>,
    /// Records that hang on others that are not here: a [`Pull`] would bring them.
    pub unchained: usize,
    /// Records that were refused.
    pub refused: usize,
}

/// What a message is, by its first byte.
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

/// What a message is; nothing if it is of no kind that is known.
#[must_use]
pub fn role(message: &[u8]) -> Option<Role> {
    todo!("{message:?}")
}

/// Messages that tell these records to a peer, unasked.
#[must_use]
pub fn news<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let _ = records;
    todo!()
}

/// Takes what a peer tells unasked.
///
/// # Errors
/// [`SyncError::Message`].
pub fn handle_news(records: &mut Records, message: &[u8]) -> Result<Heard, SyncError> {
    todo!("{records:?} {message:?}")
}

/// Answers a peer's question. Costs at most one pass over the identifiers of all records; callers bound how often.
///
/// # Errors
/// [`SyncError::Message`].
pub fn answer(records: &Records, question: &[u8]) -> Result<Vec<u8>, SyncError> {
    todo!("{records:?} {question:?}")
}

impl Pull {
    /// Begins to ask. `salt` is random, of this pull alone: nobody can prepare records that would look the same to it.
    #[must_use]
    pub fn new(records: &Records, salt: u64) -> Self {
        todo!("{records:?} {salt}")
    }

    /// Takes an answer. Records that were new are in [`Heard::new`].
    ///
    /// # Errors
    /// The pull goes on as if it had not come.
    pub fn handle_message(
        &mut self,
        records: &mut Records,
        message: &[u8],
        now: Instant,
    ) -> Result<Heard, SyncError> {
        todo!("{records:?} {message:?} {now:?}")
    }

    /// Asks again if there was no answer.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!("{now:?}")
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        todo!("{now:?}")
    }

    /// How it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        todo!()
    }
}
