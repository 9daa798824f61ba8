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
/// Longest message of either protocol, in bytes; eight endpoints take 156, an introduction 512.
pub(crate) const MAX_MESSAGE: usize = 512;

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

/// Messages of up to [`MAX_MESSAGE`] bytes, each alone on its half of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Short;

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(MAX_MESSAGE + 1);
    io.take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut message)
        .await?;
    if message.len() > MAX_MESSAGE {
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

impl Codec for Short {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
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

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused() {
        let longest = vec![7; MAX_MESSAGE];
        let got = read(&mut Cursor::new(longest.clone())).await.unwrap();
        assert_eq!(got, longest);
        let error = read(&mut Cursor::new(vec![7; MAX_MESSAGE + 1]))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
