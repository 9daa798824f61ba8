//! Tickets: an invite as text.

use std::{net::SocketAddr, str::FromStr};

use zeroize::Zeroizing;

use crate::{InviteSeed, NetworkId};

/// What an admin gives to whoever shall join. Secret, since it carries the seed of the invite.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The network.
    pub network: NetworkId,
    /// The secret of the invite.
    pub seed: InviteSeed,
    /// Where a member takes libp2p connections over TCP, if it is known.
    pub endpoint: Option<SocketAddr>,
}

/// Why a text is no ticket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin as tickets do, or has characters that none has.
    #[error("not a ticket")]
    Format,
    /// The checksum is wrong: a character is missing or wrong.
    #[error("a ticket with a wrong or missing character")]
    Checksum,
    /// Of a later release.
    #[error("a ticket of a later release of meshd")]
    Version,
}

impl Ticket {
    /// Longest text, in characters.
    pub const MAX_TEXT: usize = 110;

    /// The text: upper-case letters and digits, at most [`Self::MAX_TEXT`].
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        todo!()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads [`Self::to_text`], in either case, with white space or hyphens anywhere.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        todo!("{}", text.len())
    }
}
