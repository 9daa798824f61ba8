//! Endpoint records: where a node is, signed by itself, small, and good for two hours at most.
//!
//! The layout is in `docs/protocol.md`, with vectors that `tests/vectors.rs` reads. There is one way to write a record, and only that is
//! read: [`Record::decode`] takes no byte that [`Record::sign`] would not have written. Whoever stores or reads one goes through
//! [`Record::verify`], which believes nobody but the key that the record's address follows from.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use blake2::{Blake2s256, Digest};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::{
    Derive, NodeKey, Prefix,
    contact::{Carrier, Contact},
    hygiene::is_public,
};

/// The only version of the layout that there is.
const VERSION: u8 = 1;
/// What precedes a record where it is signed, so that no other signature of a node can be taken for one.
const SIGNED: &[u8] = b"meshd endpoint record v1\0";
/// What precedes network and prefix where a record's place in the DHT is computed.
const PLACE: &[u8] = b"meshd endpoint record place v1\0";
/// Largest record, in bytes.
pub const MAX_LEN: usize = 1024;
/// Longest name of a network, in bytes.
pub const MAX_NETWORK: usize = 32;
/// Endpoints in a record at most.
pub const MAX_ENDPOINTS: usize = 8;
/// Anchors in a record at most.
pub const MAX_ANCHORS: usize = 3;
/// How long a record is good for, from when it was signed.
pub const TTL: Duration = Duration::from_secs(2 * 60 * 60);
/// How far clocks may be apart: a record may have been signed this far in the reader's future.
const SKEW: Duration = Duration::from_secs(10 * 60);

/// What one node says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The network it is in.
    pub network: String,
    /// Who it is.
    pub key: NodeKey,
    /// Greater than in every earlier record of this node: milliseconds since 1970, or one more than the last.
    pub sequence: u64,
    /// When it was signed, in seconds since 1970.
    pub signed: u64,
    /// Who passes introductions on to it, up to [`MAX_ANCHORS`].
    pub anchors: Vec<Contact>,
    /// Where its WireGuard port is, best first, up to [`MAX_ENDPOINTS`]; public addresses only.
    pub endpoints: Vec<SocketAddr>,
}

/// Why bytes are no record, or no record to be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any record.
    #[error("a record longer than {MAX_LEN} bytes")]
    TooLong,
    /// The end is missing, or there is more behind it.
    #[error("a record of the wrong length")]
    Length,
    /// Another version of the layout.
    #[error("a record of an unknown version")]
    Version,
    /// Written in a way that no node writes it.
    #[error("a record that is not in its canonical form")]
    NotCanonical,
    /// An address that no record may give.
    #[error("a record with an address that is not public")]
    Address,
    /// Of another network.
    #[error("a record of another network")]
    Foreign,
    /// The key may not be a node's, or its prefix is another than the one asked for.
    #[error("a record whose key does not own the prefix")]
    Prefix,
    /// Signed more than two hours ago, or in the future.
    #[error("a record that is out of date, or of a node whose clock is wrong")]
    Stale,
    /// Not signed by the key it names.
    #[error("a record with a wrong signature")]
    Signature,
}

impl Record {
    /// The bytes of the record, signed with the seed of the node that it is about.
    ///
    /// # Errors
    /// [`RecordError::NotCanonical`]: there is more in it than a record may have; [`RecordError::Address`].
    pub fn sign(&self, seed: &[u8; 32]) -> Result<Vec<u8>, RecordError> {
        let mut bytes = self.body()?;
        let signature = SigningKey::from_bytes(seed).sign(&signed(&bytes));
        bytes.extend(signature.to_bytes());
        Ok(bytes)
    }

    /// The bytes of the record without its signature.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn body(&self) -> Result<Vec<u8>, RecordError> {
        self.check_form()?;
        let length = |count: usize| u8::try_from(count).map_err(|_| RecordError::NotCanonical);
        let mut bytes = vec![VERSION, length(self.network.len())?];
        bytes.extend(self.network.as_bytes());
        bytes.extend(self.key.0);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.signed.to_be_bytes());
        bytes.push(length(self.anchors.len())?);
        for anchor in &self.anchors {
            bytes.extend(anchor.key.0);
            bytes.push(match anchor.carrier {
                Carrier::Tcp => 0,
                Carrier::Quic => 1,
            });
            write_address(&mut bytes, anchor.at);
        }
        bytes.push(length(self.endpoints.len())?);
        for endpoint in &self.endpoints {
            write_address(&mut bytes, *endpoint);
        }
        Ok(bytes)
    }

    fn check_form(&self) -> Result<(), RecordError> {
        let network = self.network.as_bytes();
        let is_name = (1..=MAX_NETWORK).contains(&network.len())
            && network
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        if !is_name
            || self.anchors.len() > MAX_ANCHORS
            || self.endpoints.len() > MAX_ENDPOINTS
            || has_twice(&self.endpoints)
            || has_twice(&self.anchors)
        {
            return Err(RecordError::NotCanonical);
        }
        let anchors = self.anchors.iter().map(|anchor| anchor.at);
        let mut addresses = anchors.chain(self.endpoints.iter().copied());
        if addresses.all(is_public) {
            Ok(())
        } else {
            Err(RecordError::Address)
        }
    }

    /// Reads a record without believing it; also returns the signature.
    ///
    /// # Errors
    /// The bytes are not those of a record.
    pub fn decode(bytes: &[u8]) -> Result<(Self, [u8; 64]), RecordError> {
        if bytes.len() > MAX_LEN {
            return Err(RecordError::TooLong);
        }
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(RecordError::Version);
        }
        let length = usize::from(reader.byte()?);
        let network = reader.take(length)?;
        let network = std::str::from_utf8(network).map_err(|_| RecordError::NotCanonical)?;
        let key = NodeKey(*reader.array()?);
        let sequence = u64::from_be_bytes(*reader.array()?);
        let signed = u64::from_be_bytes(*reader.array()?);
        let count = reader.count(MAX_ANCHORS)?;
        let anchor = |reader: &mut Reader<'_>| {
            let key = NodeKey(*reader.array()?);
            let carrier = match reader.byte()? {
                0 => Carrier::Tcp,
                1 => Carrier::Quic,
                _ => return Err(RecordError::NotCanonical),
            };
            let at = reader.address()?;
            Ok(Contact { key, at, carrier })
        };
        let anchors = (0..count)
            .map(|_| anchor(&mut reader))
            .collect::<Result<_, RecordError>>()?;
        let count = reader.count(MAX_ENDPOINTS)?;
        let endpoints = (0..count)
            .map(|_| reader.address())
            .collect::<Result<_, RecordError>>()?;
        let signature = *reader.array()?;
        if !reader.0.is_empty() {
            return Err(RecordError::Length);
        }
        let record = Self {
            network: network.to_owned(),
            key,
            sequence,
            signed,
            anchors,
            endpoints,
        };
        record.check_form()?;
        Ok((record, signature))
    }

    /// Reads a record and believes it, at `now` seconds since 1970: it is of this network, its key owns a prefix, which is returned
    /// too, and signed it lately. What costs least is checked first.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(
        bytes: &[u8],
        network: &str,
        derive: Derive,
        now: u64,
    ) -> Result<(Self, Prefix), RecordError> {
        let (record, signature) = Self::decode(bytes)?;
        if record.network != network {
            return Err(RecordError::Foreign);
        }
        let from = now.saturating_sub(TTL.as_secs());
        let until = now.saturating_add(SKEW.as_secs());
        if !(from..=until).contains(&record.signed) {
            return Err(RecordError::Stale);
        }
        let prefix = derive(&record.key).ok_or(RecordError::Prefix)?;
        let key = VerifyingKey::from_bytes(&record.key.0).map_err(|_| RecordError::Prefix)?;
        let body = bytes
            .get(..bytes.len() - signature.len())
            .ok_or(RecordError::Length)?;
        key.verify_strict(&signed(body), &Signature::from_bytes(&signature))
            .map_err(|_| RecordError::Signature)?;
        Ok((record, prefix))
    }
}

/// Where the record of the node with this prefix is kept in the DHT of a network.
#[must_use]
pub fn place(network: &str, prefix: &Prefix) -> [u8; 32] {
    let length = u8::try_from(network.len()).unwrap_or(u8::MAX);
    let hash = Blake2s256::new()
        .chain_update(PLACE)
        .chain_update([length])
        .chain_update(network)
        .chain_update(prefix)
        .finalize();
    hash.into()
}

fn signed(body: &[u8]) -> Vec<u8> {
    [SIGNED, body].concat()
}

fn has_twice<T: Ord>(items: &[T]) -> bool {
    let distinct: std::collections::BTreeSet<_> = items.iter().collect();
    distinct.len() != items.len()
}

/// One byte 4 or 6, the address, the port.
pub(crate) fn write_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, RecordError> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn count(&mut self, most: usize) -> Result<usize, RecordError> {
        let count = usize::from(self.byte()?);
        if count > most {
            return Err(RecordError::NotCanonical);
        }
        Ok(count)
    }

    /// An address as [`write_address`] writes it; an IPv4 address inside an IPv6 one is a second way to write it.
    pub(crate) fn address(&mut self) -> Result<SocketAddr, RecordError> {
        let ip: IpAddr = match self.byte()? {
            4 => Ipv4Addr::from(*self.array()?).into(),
            6 => Ipv6Addr::from(*self.array()?).into(),
            _ => return Err(RecordError::NotCanonical),
        };
        if ip.to_canonical() != ip {
            return Err(RecordError::NotCanonical);
        }
        let port = u16::from_be_bytes(*self.array()?);
        Ok(SocketAddr::new(ip, port))
    }
}
