//! Probes: datagrams that show that an address carries packets both ways, before there is a session. `docs/protocol.md` has the layout.
//!
//! A probe is sealed with a key that its receiver has made and told the sender; a receiver looks one number up and opens one AEAD. It
//! names nobody. Nothing that is not a probe under a key just given away is ever answered.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, Nonce, Tag, aead::AeadInPlace as _};
use thiserror::Error;
use zeroize::ZeroizeOnDrop;

/// The first four bytes, version included. The first byte is none of WireGuard's (1 to 4) nor of labelled datagrams (5), STUN's (0 to
/// 3) or QUIC's (0x40 and more).
pub const MAGIC: [u8; 4] = [0x1d, b'm', b'p', 1];

/// Magic, token, number.
const HEAD: usize = 20;
const BODY: usize = 32;
const TAG: usize = 16;
/// Length of a probe, in bytes: of questions and answers alike, so that none is worth more than what it costs.
pub const LENGTH: usize = HEAD + BODY + TAG;
/// A later release may write longer ones.
const MAX_LENGTH: usize = 256;

const PING: u8 = 1;
const PONG: u8 = 2;
/// Bit 0 of the flags of a ping.
const CHOSEN: u8 = 1;

/// What a receiver knows a key by.
pub type TokenId = [u8; 8];

/// What makes probes to one receiver, for at most [`Token::LIFE`].
#[derive(Clone, Eq, PartialEq, ZeroizeOnDrop)]
pub struct Token {
    /// Its name, on the wire in clear.
    pub id: TokenId,
    /// Secret of the receiver and the sender.
    pub key: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// What a probe says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// Asks for an answer, to where it came from.
    Ping {
        /// The sender has chosen the way that it came by.
        is_chosen: bool,
    },
    /// Answers.
    Pong {
        /// The number of the question.
        of: u64,
        /// Where the question came from.
        seen: SocketAddr,
    },
}

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ProbeError {
    /// It is no probe.
    #[error("not a probe")]
    Other,
    /// Nobody was given this token, or it is too old.
    #[error("token is unknown")]
    UnknownToken,
    /// Whoever made it does not know the key.
    #[error("seal is broken")]
    Forged,
    /// It came before, or so long ago that this cannot be told.
    #[error("came before")]
    Repeated,
    /// What it says is not understood.
    #[error("kind is unknown")]
    Unknown,
    /// It answers nothing that was asked there.
    #[error("answers nothing")]
    Unasked,
}

impl ProbeError {
    /// A short name, for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Other => "probe_other",
            Self::UnknownToken => "probe_token",
            Self::Forged => "probe_forged",
            Self::Repeated => "probe_repeated",
            Self::Unknown => "probe_unknown",
            Self::Unasked => "probe_unasked",
        }
    }
}

/// Whether a datagram is a probe, or wants to look like one.
pub fn is_probe(datagram: &[u8]) -> bool {
    datagram.starts_with(&MAGIC)
}

/// The token that a probe names.
///
/// # Errors
/// It is no probe.
pub fn token_of(datagram: &[u8]) -> Result<TokenId, ProbeError> {
    let head = head_of(datagram)?;
    Ok(array(&head[4..12]))
}

fn head_of(datagram: &[u8]) -> Result<&[u8; HEAD], ProbeError> {
    if !is_probe(datagram) || !(LENGTH..=MAX_LENGTH).contains(&datagram.len()) {
        return Err(ProbeError::Other);
    }
    datagram.first_chunk().ok_or(ProbeError::Other)
}

impl Token {
    /// How long probes under it are read.
    pub const LIFE: std::time::Duration = std::time::Duration::from_secs(60);

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.key.into())
    }

    /// The datagram that says it. A number must not be used twice.
    pub fn seal(&self, number: u64, probe: &Probe) -> Vec<u8> {
        let mut datagram = vec![0; HEAD + BODY];
        let (head, body) = datagram.split_at_mut(HEAD);
        head[..4].copy_from_slice(&MAGIC);
        head[4..12].copy_from_slice(&self.id);
        head[12..].copy_from_slice(&number.to_be_bytes());
        match probe {
            Probe::Ping { is_chosen } => {
                body[0] = PING;
                body[1] = if *is_chosen { CHOSEN } else { 0 };
            }
            Probe::Pong { of, seen } => {
                body[0] = PONG;
                body[2..4].copy_from_slice(&seen.port().to_be_bytes());
                body[4..12].copy_from_slice(&of.to_be_bytes());
                let address = match seen.ip() {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                body[12..28].copy_from_slice(&address.octets());
            }
        }
        let tag = self
            .cipher()
            .encrypt_in_place_detached(&nonce(number), head, body)
            .expect("far below the limit of the cipher");
        datagram.extend_from_slice(&tag);
        datagram
    }

    /// Reads a datagram that names this token.
    ///
    /// # Errors
    /// It is no probe, not sealed with this key, or not understood.
    pub fn open(&self, datagram: &[u8]) -> Result<(u64, Probe), ProbeError> {
        let head = head_of(datagram)?;
        if head[4..12] != self.id {
            return Err(ProbeError::UnknownToken);
        }
        let number = u64::from_be_bytes(array(&head[12..]));
        let (sealed, tag) = datagram[HEAD..].split_at(datagram.len() - HEAD - TAG);
        let mut body = sealed.to_vec();
        self.cipher()
            .decrypt_in_place_detached(&nonce(number), head, &mut body, Tag::from_slice(tag))
            .map_err(|_| ProbeError::Forged)?;
        let probe = match body[0] {
            PING => Probe::Ping {
                is_chosen: body[1] & CHOSEN != 0,
            },
            PONG => {
                let port = u16::from_be_bytes([body[2], body[3]]);
                let of = u64::from_be_bytes(array(&body[4..12]));
                let octets = array::<16>(&body[12..28]);
                let address = Ipv6Addr::from(octets).to_canonical();
                Probe::Pong {
                    of,
                    seen: SocketAddr::new(address, port),
                }
            }
            _ => return Err(ProbeError::Unknown),
        };
        Ok((number, probe))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("as many as were taken")
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce.into()
}

/// Which numbers have come, as far back as 64.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    highest: Option<u64>,
    /// Bit n: the highest but n has come.
    came: u64,
}

impl Window {
    /// Takes a number in; false: it may have come before.
    pub(super) fn take(&mut self, number: u64) -> bool {
        let Some(highest) = self.highest else {
            (self.highest, self.came) = (Some(number), 1);
            return true;
        };
        if number > highest {
            let shift = number - highest;
            self.came = if shift < 64 { self.came << shift } else { 0 } | 1;
            self.highest = Some(number);
            return true;
        }
        let back = highest - number;
        if back >= 64 || self.came & 1 << back != 0 {
            return false;
        }
        self.came |= 1 << back;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testdata::vectors;

    fn token(byte: u8) -> Token {
        Token {
            id: [byte; 8],
            key: [byte ^ 0x5a; 32],
        }
    }

    fn probes() -> impl Strategy<Value = Probe> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|octets| Ipv6Addr::from(octets).to_canonical()),
        ];
        prop_oneof![
            any::<bool>().prop_map(|is_chosen| Probe::Ping { is_chosen }),
            (any::<u64>(), address, any::<u16>()).prop_map(|(of, address, port)| Probe::Pong {
                of,
                seen: SocketAddr::new(address, port),
            }),
        ]
    }

    #[test]
    fn the_published_vectors_hold() {
        let mut vectors = vectors("probes").into_iter();
        let mut next = |name| {
            let (found, bytes) = vectors.next().unwrap();
            assert_eq!(found, name);
            bytes
        };
        let token = Token {
            id: next("token").try_into().unwrap(),
            key: next("key").try_into().unwrap(),
        };
        let seen = |address: &str| address.parse().unwrap();
        for (name, number, probe) in [
            ("ping 1", 1, Probe::Ping { is_chosen: false }),
            ("ping 2, chosen", 2, Probe::Ping { is_chosen: true }),
            (
                "pong 3, to ping 258 from 203.0.113.7:51820",
                3,
                Probe::Pong {
                    of: 258,
                    seen: seen("203.0.113.7:51820"),
                },
            ),
            (
                "pong 4, to ping 258 from [2001:db8::7]:51820",
                4,
                Probe::Pong {
                    of: 258,
                    seen: seen("[2001:db8::7]:51820"),
                },
            ),
        ] {
            let datagram = next(name);
            assert_eq!(token.seal(number, &probe), datagram, "{name}");
            assert_eq!(token.open(&datagram), Ok((number, probe)), "{name}");
        }
        let later = next("ping 5, with fields of a later release");
        let ping = Probe::Ping { is_chosen: false };
        assert_eq!(token.open(&later), Ok((5, ping)));
        let other = next("ignored, of version 2");
        assert_eq!(token.open(&other), Err(ProbeError::Other));
        assert!(vectors.next().is_none());
    }

    #[test]
    fn a_number_counts_once() {
        let mut window = Window::default();
        let came: Vec<_> = [5, 5, 9, 6, 6, 5, 80, 16, 17, 17, 9]
            .into_iter()
            .map(|number| window.take(number))
            .collect();
        let right = [
            true, false, true, true, false, false, true, false, true, false, false,
        ];
        assert_eq!(came, right);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(probe in probes(), number: u64, byte: u8) {
            let datagram = token(byte).seal(number, &probe);
            prop_assert_eq!(datagram.len(), LENGTH);
            prop_assert_eq!(token_of(&datagram), Ok([byte; 8]));
            prop_assert_eq!(token(byte).open(&datagram), Ok((number, probe)));
            prop_assert!(token(byte.wrapping_add(1)).open(&datagram).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(probe in probes(), number: u64, at in 0..LENGTH, by in 1_u8..) {
            let mut datagram = token(7).seal(number, &probe);
            datagram[at] ^= by;
            prop_assert!(token(7).open(&datagram).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), starts: bool) {
            let mut datagram = if starts { [&MAGIC[..], &[7; 8]].concat() } else { Vec::new() };
            datagram.extend(bytes);
            prop_assert!(token_of(&datagram).is_ok() || token(7).open(&datagram).is_err());
            prop_assert!(token(7).open(&datagram).is_err());
        }
    }
}
