//! What two identified nodes of one network tell each other: short messages, one stream each, of bounded length.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use futures_util::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response::Codec};

use crate::{
    hygiene::{Hygiene, canonical},
    record::{MAX_ENDPOINTS, Reader, RecordError, write_address},
};

/// The only version of the message.
const VERSION: u8 = 1;
/// Longest message between members, in bytes; eight endpoints take 156, an introduction 512.
pub(crate) const MAX_MESSAGE: usize = 512;
/// Longest message of those who join, and to them, in bytes.
pub const MAX_JOIN: usize = 4096;

/// Where our WireGuard port is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Whereabouts {
    /// The port, whatever address the other sees us at; 0: unknown.
    pub port: u16,
    /// Addresses of ours, best first, up to [`MAX_ENDPOINTS`].
    pub endpoints: Vec<SocketAddr>,
}

impl Whereabouts {
    /// The message, on its way.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.port.to_be_bytes());
        let endpoints = &self.endpoints[..self.endpoints.len().min(MAX_ENDPOINTS)];
        bytes.push(u8::try_from(endpoints.len()).unwrap_or_default());
        for endpoint in endpoints {
            write_address(&mut bytes, *endpoint);
        }
        bytes
    }

    /// Reads a message. What follows the endpoints is of a later version and ignored.
    ///
    /// # Errors
    /// The bytes are no message, or one of an unknown version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(RecordError::Version);
        }
        let port = u16::from_be_bytes(*reader.array()?);
        let count = reader.count(MAX_ENDPOINTS)?;
        let endpoints = (0..count)
            .map(|_| reader.address())
            .collect::<Result<_, _>>()?;
        Ok(Self { port, endpoints })
    }

    /// Where whoever said this may be tried: at the address that its connection comes from, and where it says; what may not be dialled
    /// is left out.
    pub(crate) fn candidates(&self, seen: Option<IpAddr>, rules: &Hygiene) -> Vec<SocketAddr> {
        let seen = seen.map(|ip| SocketAddr::new(ip, self.port));
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for address in seen.iter().chain(&self.endpoints) {
            let address = canonical(*address);
            // Who is connected from a private address has shown that it is one of ours.
            let is_seen = seen.map(canonical) == Some(address) && address.port() != 0;
            let is_clean =
                rules.check(address).is_ok() || (is_seen && rules.check_peer(address.ip()).is_ok());
            if is_clean && !candidates.contains(&address) && candidates.len() < MAX_ENDPOINTS {
                candidates.push(address);
            }
        }
        candidates
    }
}

/// The answer to a guest: where our WireGuard port is, which saves it a round trip, and the daemon's message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) whereabouts: Vec<u8>,
    pub(crate) message: Vec<u8>,
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.whereabouts.len()).unwrap_or_default();
        let whereabouts = &self.whereabouts[..length.into()];
        [&length.to_be_bytes(), whereabouts, &self.message].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (whereabouts, message) = rest.split_at_checked(length)?;
        Some(Self {
            whereabouts: whereabouts.to_vec(),
            message: message.to_vec(),
        })
    }
}

/// Messages of up to so many bytes, each alone on its half of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounded {
    most: usize,
}

impl Bounded {
    /// For what fits a datagram.
    pub(crate) const SHORT: Self = Self { most: MAX_MESSAGE };
    /// For joining.
    pub(crate) const JOIN: Self = Self {
        most: MAX_JOIN + MAX_MESSAGE,
    };
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, most: usize) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    io.take(most as u64 + 1).read_to_end(&mut message).await?;
    if message.len() > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too long",
        ));
    }
    Ok(message)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, message: &[u8]) -> io::Result<()> {
    io.write_all(message).await?;
    io.close().await
}

impl Codec for Bounded {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io, self.most).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io, self.most).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &message).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &message).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::io::Cursor;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn whereabouts_are_read_back() {
        let said = Whereabouts {
            port: 51860,
            endpoints: vec![at("203.0.113.7:51860"), at("[2001:db8::7]:51860")],
        };
        let bytes = said.encode();
        assert_eq!(Whereabouts::decode(&bytes), Ok(said.clone()));
        let later = [&bytes[..], &[1, 2, 3]].concat();
        assert_eq!(Whereabouts::decode(&later), Ok(said));
        for length in 0..bytes.len() {
            assert!(Whereabouts::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert_eq!(
            Whereabouts::decode(&[1, 0, 1, 9]),
            Err(RecordError::NotCanonical)
        );
    }

    #[test]
    fn of_what_a_peer_says_only_what_may_be_dialled_is_tried() {
        let said = Whereabouts {
            port: 51860,
            endpoints: [
                "127.0.0.1:51860",
                "10.0.0.9:51860",
                "203.0.113.7:51860",
                "[6a3::1]:51860",
                "[::ffff:203.0.113.7]:51860",
            ]
            .map(at)
            .to_vec(),
        };
        let mut rules = Hygiene::default();
        rules.set_networks(vec!["600::/8".parse().unwrap()], Vec::new());
        let from = |ip: &str| said.candidates(Some(ip.parse().unwrap()), &rules);
        assert_eq!(
            from("192.168.1.2"),
            [at("192.168.1.2:51860"), at("203.0.113.7:51860")]
        );
        assert_eq!(from("6a3::1"), [at("203.0.113.7:51860")]);
        assert_eq!(said.candidates(None, &rules), [at("203.0.113.7:51860")]);
    }

    #[test]
    fn an_answer_to_a_guest_is_read_back() {
        let answer = Answer {
            whereabouts: Whereabouts::default().encode(),
            message: vec![7; 300],
        };
        let bytes = answer.encode();
        assert_eq!(Answer::decode(&bytes), Some(answer.clone()));
        let head = 2 + answer.whereabouts.len();
        for length in 0..head {
            assert_eq!(Answer::decode(&bytes[..length]), None, "{length}");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused() {
        let longest = vec![7; MAX_MESSAGE];
        let got = read(&mut Cursor::new(longest.clone()), MAX_MESSAGE)
            .await
            .unwrap();
        assert_eq!(got, longest);
        let error = read(&mut Cursor::new(vec![7; MAX_MESSAGE + 1]), MAX_MESSAGE)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
