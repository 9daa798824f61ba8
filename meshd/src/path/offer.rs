//! Offers: what two nodes tell each other before they look for a straight way. `docs/protocol.md` has the layout.
//!
//! They go inside the session of the two nodes, or as messages of libp2p, so that the receiver knows whom one is from and nobody else
//! reads it. Fields that a version does not know are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use thiserror::Error;

use super::{
    candidate::{Candidate, Kind},
    nat::{Filtering, Mapping, NatView},
    probe::{Token, TokenId},
};

/// The longest message, in bytes.
pub const MAX: usize = 512;
/// The most candidates in one. Of more, the first are read.
pub const MAX_CANDIDATES: usize = 12;

const VERSION: u8 = 1;
/// Version, kind, two bytes that are zero, and what it is about.
const HEAD: usize = 12;
const OFFER: u8 = 1;
const ANSWER: u8 = 2;
const GO: u8 = 3;
const GUESS: u8 = 4;

const TOKEN: u8 = 1;
const NAT: u8 = 2;
const CANDIDATE: u8 = 3;
const TRAFFIC: u8 = 4;

const NAT_LEN: usize = 12;
const KEEPS_PORT: u8 = 1;

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Let us look for each other. Wants an [`Self::Answer`].
    Offer(Terms),
    /// Agreed; the sender has begun.
    Answer {
        /// The token in the offer.
        about: TokenId,
        /// What the answerer has to say.
        terms: Terms,
    },
    /// The offerer has begun too.
    Go {
        /// The token in the answer.
        about: TokenId,
    },
    /// The sender has sent probes to the receiver's address from many ports, and waits for the receiver to guess one.
    Guess {
        /// The receiver's token that those probes are under.
        about: TokenId,
    },
}

/// What each side says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Probes to the sender of this message are to be under it.
    pub token: Token,
    /// How the sender's router behaves.
    pub nat: NatView,
    /// Whether there are packets waiting.
    pub has_traffic: bool,
    /// Where the sender might be reached, likely addresses first.
    pub candidates: Vec<Candidate>,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum OfferError {
    /// It is longer than [`MAX`].
    #[error("offer is too long")]
    Long,
    /// It ends in the middle of a field, or of its head.
    #[error("offer ends too early")]
    Short,
    /// Of another version or kind.
    #[error("version or kind of the offer is unknown")]
    Unknown,
    /// An offer or answer without a token.
    #[error("offer has no token")]
    NoToken,
    /// There were more of them from this peer, or in all, than are looked at.
    #[error("too many offers")]
    TooMany,
    /// It answers nothing that was asked.
    #[error("nobody asked")]
    Unasked,
    /// It is from this node itself.
    #[error("offer is our own")]
    Own,
}

impl OfferError {
    /// A short name, for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Long => "offer_long",
            Self::Short => "offer_short",
            Self::Unknown => "offer_unknown",
            Self::NoToken => "offer_token",
            Self::TooMany => "offer_many",
            Self::Unasked => "offer_unasked",
            Self::Own => "offer_own",
        }
    }
}

impl Message {
    /// Reads one.
    ///
    /// # Errors
    /// The bytes are no message of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, OfferError> {
        if bytes.len() > MAX {
            return Err(OfferError::Long);
        }
        let (head, fields) = bytes.split_first_chunk::<HEAD>().ok_or(OfferError::Short)?;
        let &[VERSION, kind, _, _, ref about @ ..] = head else {
            return Err(OfferError::Unknown);
        };
        let about = *about;
        match kind {
            OFFER => Ok(Self::Offer(Terms::parse(fields)?)),
            ANSWER => Ok(Self::Answer {
                about,
                terms: Terms::parse(fields)?,
            }),
            GO => Ok(Self::Go { about }),
            GUESS => Ok(Self::Guess { about }),
            _ => Err(OfferError::Unknown),
        }
    }

    /// Its bytes, at most [`MAX`].
    pub fn bytes(&self) -> Vec<u8> {
        let (kind, about, terms) = match self {
            Self::Offer(terms) => (OFFER, [0; 8], Some(terms)),
            Self::Answer { about, terms } => (ANSWER, *about, Some(terms)),
            Self::Go { about } => (GO, *about, None),
            Self::Guess { about } => (GUESS, *about, None),
        };
        let mut bytes = vec![VERSION, kind, 0, 0];
        bytes.extend(about);
        if let Some(terms) = terms {
            terms.write(&mut bytes);
        }
        debug_assert!(bytes.len() <= MAX);
        bytes
    }
}

impl Terms {
    fn parse(mut fields: &[u8]) -> Result<Self, OfferError> {
        let (mut token, mut nat) = (None, NatView::default());
        let (mut candidates, mut has_traffic) = (Vec::new(), false);
        while let [kind, length, rest @ ..] = fields {
            let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else {
                return Err(OfferError::Short);
            };
            fields = rest;
            match *kind {
                TOKEN => token = token_of(value).or(token),
                NAT => nat = nat_of(value).unwrap_or(nat),
                CANDIDATE if candidates.len() < MAX_CANDIDATES => {
                    candidates.extend(candidate_of(value));
                }
                TRAFFIC => has_traffic = true,
                _ => {}
            }
        }
        if !fields.is_empty() {
            return Err(OfferError::Short);
        }
        Ok(Self {
            token: token.ok_or(OfferError::NoToken)?,
            nat,
            has_traffic,
            candidates,
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let mut field = |kind, parts: &[&[u8]]| {
            let value = parts.concat();
            bytes.push(kind);
            bytes.push(u8::try_from(value.len()).expect("fields are short"));
            bytes.extend(value);
        };
        field(TOKEN, &[&self.token.id, &self.token.key]);
        field(NAT, &[&nat_bytes(&self.nat)]);
        if self.has_traffic {
            field(TRAFFIC, &[]);
        }
        for candidate in self.candidates.iter().take(MAX_CANDIDATES) {
            let head = [
                [candidate.kind.code()].as_slice(),
                &candidate.address.port().to_be_bytes(),
            ]
            .concat();
            match candidate.address.ip() {
                IpAddr::V4(address) => field(CANDIDATE, &[&head, &address.octets()]),
                IpAddr::V6(address) => field(CANDIDATE, &[&head, &address.octets()]),
            }
        }
    }
}

fn token_of(value: &[u8]) -> Option<Token> {
    let (id, key) = value.split_first_chunk()?;
    Some(Token {
        id: *id,
        key: *key.first_chunk()?,
    })
}

fn candidate_of(value: &[u8]) -> Option<Candidate> {
    let (&[kind, high, low], address) = value.split_first_chunk()?;
    let address = match *address {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
    };
    Some(Candidate {
        kind: Kind::of(kind)?,
        address: SocketAddr::new(address, u16::from_be_bytes([high, low])),
    })
}

fn nat_of(value: &[u8]) -> Option<NatView> {
    let &[
        mapping,
        filtering,
        flags,
        witnesses,
        high,
        low,
        port_high,
        port_low,
        a,
        b,
        c,
        d,
    ] = value.first_chunk::<NAT_LEN>()?;
    let last = SocketAddrV4::new(
        Ipv4Addr::new(a, b, c, d),
        u16::from_be_bytes([port_high, port_low]),
    );
    Some(NatView {
        mapping: match mapping {
            1 => Mapping::None,
            2 => Mapping::EndpointIndependent {
                keeps_port: flags & KEEPS_PORT != 0,
            },
            3 => Mapping::AddressDependent,
            4 => Mapping::Sequential {
                delta: i16::from_be_bytes([high, low]),
            },
            5 => Mapping::Random,
            _ => Mapping::Unknown,
        },
        filtering: match filtering {
            1 => Filtering::EndpointIndependent,
            2 => Filtering::AddressDependent,
            3 => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        },
        last: (last.port() != 0).then_some(last),
        witnesses,
    })
}

fn nat_bytes(nat: &NatView) -> [u8; NAT_LEN] {
    let (mapping, flags, delta) = match nat.mapping {
        Mapping::Unknown => (0, 0, 0),
        Mapping::None => (1, 0, 0),
        Mapping::EndpointIndependent { keeps_port } => (2, u8::from(keeps_port) * KEEPS_PORT, 0),
        Mapping::AddressDependent => (3, 0, 0),
        Mapping::Sequential { delta } => (4, 0, delta),
        Mapping::Random => (5, 0, 0),
    };
    let filtering = match nat.filtering {
        Filtering::Unknown => 0,
        Filtering::EndpointIndependent => 1,
        Filtering::AddressDependent => 2,
        Filtering::AddressAndPortDependent => 3,
    };
    let [high, low] = delta.to_be_bytes();
    let last = nat
        .last
        .unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let [port_high, port_low] = last.port().to_be_bytes();
    let [a, b, c, d] = last.ip().octets();
    [
        mapping,
        filtering,
        flags,
        nat.witnesses,
        high,
        low,
        port_high,
        port_low,
        a,
        b,
        c,
        d,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testdata::vectors;

    fn terms() -> impl Strategy<Value = Terms> {
        let mapping = prop_oneof![
            Just(Mapping::Unknown),
            Just(Mapping::None),
            any::<bool>().prop_map(|keeps_port| Mapping::EndpointIndependent { keeps_port }),
            Just(Mapping::AddressDependent),
            any::<i16>().prop_map(|delta| Mapping::Sequential { delta }),
            Just(Mapping::Random),
        ];
        let filtering = prop_oneof![
            Just(Filtering::Unknown),
            Just(Filtering::EndpointIndependent),
            Just(Filtering::AddressDependent),
            Just(Filtering::AddressAndPortDependent),
        ];
        let last = proptest::option::of(
            (any::<u32>(), 1_u16..)
                .prop_map(|(address, port)| SocketAddrV4::new(address.into(), port)),
        );
        let nat = (mapping, filtering, last, any::<u8>()).prop_map(
            |(mapping, filtering, last, witnesses)| NatView {
                mapping,
                filtering,
                last,
                witnesses,
            },
        );
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        let kind = (1_u8..=4).prop_map(|code| Kind::of(code).unwrap());
        let candidate = (kind, address, any::<u16>()).prop_map(|(kind, address, port)| Candidate {
            kind,
            address: SocketAddr::new(address, port),
        });
        let candidates = proptest::collection::vec(candidate, 0..=MAX_CANDIDATES);
        let token = any::<([u8; 8], [u8; 32])>().prop_map(|(id, key)| Token { id, key });
        (token, nat, any::<bool>(), candidates).prop_map(|(token, nat, has_traffic, candidates)| {
            Terms {
                token,
                nat,
                has_traffic,
                candidates,
            }
        })
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            terms().prop_map(Message::Offer),
            (any::<[u8; 8]>(), terms()).prop_map(|(about, terms)| Message::Answer { about, terms }),
            any::<[u8; 8]>().prop_map(|about| Message::Go { about }),
            any::<[u8; 8]>().prop_map(|about| Message::Guess { about }),
        ]
    }

    /// What the published messages say.
    fn published() -> Terms {
        let of = |kind, address: &str| Candidate {
            kind,
            address: address.parse().unwrap(),
        };
        Terms {
            token: Token {
                id: [1, 2, 3, 4, 5, 6, 7, 8],
                key: std::array::from_fn(|n| n as u8),
            },
            nat: NatView {
                mapping: Mapping::Sequential { delta: -2 },
                filtering: Filtering::AddressAndPortDependent,
                last: Some("203.0.113.7:20000".parse().unwrap()),
                witnesses: 3,
            },
            has_traffic: true,
            candidates: vec![
                of(Kind::Host, "[2001:db8::7]:51820"),
                of(Kind::Host, "192.168.1.2:51820"),
                of(Kind::Reflexive, "203.0.113.7:20000"),
                of(Kind::Mapped, "203.0.113.7:51820"),
                of(Kind::Guessed, "203.0.113.7:51821"),
            ],
        }
    }

    #[test]
    fn the_published_vectors_hold() {
        let about = [8, 7, 6, 5, 4, 3, 2, 1];
        let [offer, answer, go, guess] = [
            Message::Offer(published()),
            Message::Answer {
                about,
                terms: Terms {
                    nat: NatView::default(),
                    has_traffic: false,
                    candidates: Vec::new(),
                    ..published()
                },
            },
            Message::Go { about },
            Message::Guess { about },
        ];
        let vectors = vectors("offers");
        assert_eq!(vectors.len(), 6);
        for (name, bytes) in vectors {
            let read = Message::parse(&bytes);
            let written = match name {
                "offer" => &offer,
                "answer" => &answer,
                "go" => &go,
                "guess" => &guess,
                "offer, with fields of a later release" => {
                    assert_eq!(read.as_ref(), Ok(&offer));
                    continue;
                }
                _ => {
                    assert_eq!(read, Err(OfferError::Unknown), "{name}");
                    continue;
                }
            };
            assert_eq!(read.as_ref(), Ok(written), "{name}");
            assert_eq!(written.bytes(), bytes, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in messages()) {
            let bytes = message.bytes();
            prop_assert!(bytes.len() <= MAX);
            prop_assert_eq!(Message::parse(&bytes), Ok(message));
        }

        #[test]
        fn unknown_fields_are_skipped(terms in terms(), kind in 5_u8.., value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = Message::Offer(terms.clone()).bytes();
            let mut field = vec![kind, value.len() as u8];
            field.extend(value);
            bytes.splice(HEAD..HEAD, field.iter().copied());
            bytes.extend(field);
            prop_assert_eq!(Message::parse(&bytes), Ok(Message::Offer(terms)));
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 0_u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..560)) {
            let _ = Message::parse(&bytes);
            let message = [&[VERSION, kind, 0, 0], &bytes[..]].concat();
            if let Ok(message) = Message::parse(&message) {
                prop_assert!(message.bytes().len() <= MAX);
            }
        }
    }
}
