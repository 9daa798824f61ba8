//! Cookies: how a sender proves that it receives at the address that it sends from (white paper, section 5.4.7).
//!
//! The cookie of an address is a MAC of it under a secret that changes every 120 s. It is sent to that address, sealed so that only
//! somebody who saw the message which it answers can read it; a message whose second MAC is keyed with it comes from there. Nothing
//! is stored for any of this.

use std::net::{IpAddr, SocketAddr};

use blake2::digest::consts::{U16, U24};
use blake2::digest::{Digest, FixedOutput, KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::constants::{
    COOKIE_GRACE, COOKIE_LEN, COOKIE_SECRET_TIME, INITIATION_LEN, RESPONSE_LEN,
};
use crate::handshake::HandshakeError;
use crate::key::PublicKey;
use crate::message::index_at;

const PERIOD: u64 = COOKIE_SECRET_TIME.as_millis() as u64;
const GRACE: u64 = COOKIE_GRACE.as_millis() as u64;

/// What a sender keys its second MAC with.
pub(crate) type Cookie = [u8; 16];

/// The key under which cookies of the owner of a static key are sealed.
pub(crate) fn seal_of(issuer: &PublicKey) -> XChaCha20Poly1305 {
    let key = Blake2s256::new()
        .chain_update(b"cookie--")
        .chain_update(issuer.as_bytes())
        .finalize();
    KeyInit::new(&key)
}

/// The second MAC of `message`, of type 1 or 2, whose first is in place.
fn mac2(cookie: &Cookie, message: &[u8]) -> Blake2sMac<U16> {
    <Blake2sMac<U16> as KeyInit>::new_from_slice(cookie)
        .expect("a BLAKE2s key has at most 32 bytes")
        .chain_update(&message[..message.len() - 16])
}

/// Issues cookies in the name of one static key, and recognizes them. Times are in milliseconds.
pub(crate) struct Cookies {
    addresses: Blake2sMac<U16>,
    nonces: Blake2sMac<U24>,
    seal: XChaCha20Poly1305,
    issued: u64,
}

impl Cookies {
    /// `secret` must never have been used before: nonces follow from it.
    pub(crate) fn new(ours: &PublicKey, secret: &[u8; 32]) -> Self {
        Self {
            addresses: KeyInit::new_from_slice(secret).expect("a BLAKE2s key has at most 32 bytes"),
            nonces: KeyInit::new_from_slice(secret).expect("a BLAKE2s key has at most 32 bytes"),
            seal: seal_of(ours),
            issued: 0,
        }
    }

    /// Whether the second MAC of `message`, of type 1 or 2, shows that its sender received a cookie at `from`.
    pub(crate) fn prove(&self, message: &[u8], from: SocketAddr, now: u64) -> bool {
        let Some((_, proof)) = message.split_last_chunk::<16>() else {
            return false;
        };
        let is_of = |period| {
            mac2(&self.cookie(from, period), message)
                .verify_slice(proof)
                .is_ok()
        };
        let period = now / PERIOD;
        is_of(period) || (now % PERIOD < GRACE && period.checked_sub(1).is_some_and(is_of))
    }

    /// The reply to `message`, of type 1 or 2 from `from`, that carries the cookie.
    pub(crate) fn reply(&mut self, message: &[u8], from: SocketAddr, now: u64) -> [u8; COOKIE_LEN] {
        debug_assert!(matches!(message.len(), INITIATION_LEN | RESPONSE_LEN));
        let nonce = self
            .nonces
            .clone()
            .chain_update(self.issued.to_le_bytes())
            .finalize_fixed();
        self.issued += 1;
        let mut cookie = self.cookie(from, now / PERIOD);
        let mac1 = &message[message.len() - 32..message.len() - 16];
        let tag = self
            .seal
            .encrypt_in_place_detached(&nonce, mac1, &mut cookie)
            .expect("16 bytes are not too many");
        let mut reply = [0; COOKIE_LEN];
        reply[0] = 3;
        reply[4..8].copy_from_slice(&message[4..8]);
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&cookie);
        reply[48..].copy_from_slice(&tag);
        reply
    }

    /// The secret of a period is the long one with its number: both go into one MAC.
    fn cookie(&self, from: SocketAddr, period: u64) -> Cookie {
        let mac = self.addresses.clone().chain_update(period.to_le_bytes());
        let mac = match from.ip().to_canonical() {
            IpAddr::V4(v4) => mac.chain_update(v4.octets()),
            IpAddr::V6(v6) => mac.chain_update(v6.octets()),
        };
        mac.chain_update(from.port().to_le_bytes())
            .finalize_fixed()
            .into()
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies(..)")
    }
}

/// Opens a cookie reply from the owner of `seal`, which answers a message of ours with this first MAC.
fn open(seal: &XChaCha20Poly1305, reply: &[u8], mac1: &[u8; 16]) -> Option<Cookie> {
    let reply: &[u8; COOKIE_LEN] = reply.try_into().ok()?;
    let mut cookie: Cookie = *reply[32..48].first_chunk()?;
    seal.decrypt_in_place_detached(
        XNonce::from_slice(&reply[8..32]),
        mac1,
        &mut cookie,
        reply[48..].into(),
    )
    .ok()?;
    Some(cookie)
}

/// Writes the second MAC into `message`, of type 1 or 2, whose first is in place.
fn write_mac2(cookie: &Cookie, message: &mut [u8]) {
    let mac = mac2(cookie, message).finalize_fixed();
    let covered = message.len() - 16;
    message[covered..].copy_from_slice(&mac);
}

/// The cookie that a peer gave us, for as long as it is good. Times are in milliseconds.
pub(crate) struct Jar {
    peer: PublicKey,
    /// Index and first MAC of the last message that went to the peer, until it has brought a cookie.
    asked: Option<(u32, [u8; 16])>,
    cookie: Option<(Cookie, u64)>,
}

impl Jar {
    /// Nothing was sent to `peer` yet.
    pub(crate) const fn new(peer: PublicKey) -> Self {
        Self {
            peer,
            asked: None,
            cookie: None,
        }
    }

    /// Completes a message of type 1 or 2 whose first MAC is in place: the second proves our address, if we have a cookie.
    pub(crate) fn write(&mut self, message: &mut [u8], now: u64) {
        if let Some((cookie, since)) = &self.cookie
            && now.saturating_sub(*since) < PERIOD
        {
            write_mac2(cookie, message);
        }
        let mac1 = message
            .last_chunk::<32>()
            .and_then(|macs| macs.first_chunk());
        self.asked = mac1.map(|mac1| (index_at(message, 4), *mac1));
    }

    /// Takes a cookie reply of the peer. One that answers another message than our last, or comes twice, costs nothing.
    pub(crate) fn take(&mut self, reply: &[u8], now: u64) -> Result<(), HandshakeError> {
        let (_, mac1) = self
            .asked
            .filter(|(index, _)| *index == index_at(reply, 4))
            .ok_or(HandshakeError::Unexpected)?;
        let cookie = open(&seal_of(&self.peer), reply, &mac1).ok_or(HandshakeError::Forged)?;
        self.asked = None;
        self.cookie = Some((cookie, now));
        Ok(())
    }
}

impl std::fmt::Debug for Jar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jar(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use crate::message::{Mac1, Message};

    fn ours() -> PublicKey {
        PrivateKey::from_bytes([1; 32]).public()
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0x5a; length];
        message[..4].copy_from_slice(&[if length == INITIATION_LEN { 1 } else { 2 }, 0, 0, 0]);
        Mac1::new(&ours()).write(&mut message);
        message
    }

    /// `message` as its sender repeats it when it has a reply to it.
    fn proven(mut message: Vec<u8>, reply: &[u8]) -> Vec<u8> {
        let mac1 = *message[message.len() - 32..].first_chunk().unwrap();
        let cookie = open(&seal_of(&ours()), reply, &mac1).unwrap();
        write_mac2(&cookie, &mut message);
        message
    }

    #[test]
    fn a_cookie_proves_address_and_port_and_nothing_else() {
        let mut cookies = Cookies::new(&ours(), &[7; 32]);
        for home in ["192.0.2.1:7", "[2001:db8::1]:7"].map(from) {
            for length in [INITIATION_LEN, RESPONSE_LEN] {
                let message = message(length);
                assert!(!cookies.prove(&message, home, 0));
                let reply = cookies.reply(&message, home, 0);
                let receiver = 0x5a5a_5a5a;
                assert_eq!(Message::of(&reply), Some(Message::Cookie { receiver }));
                let proven = proven(message, &reply);
                assert!(cookies.prove(&proven, home, 0));
                for other in [
                    "192.0.2.1:8",
                    "192.0.2.2:7",
                    "[2001:db8::2]:7",
                    "[2001:db8::1]:8",
                ] {
                    assert!(!cookies.prove(&proven, from(other), 0));
                }
                for byte in 0..length {
                    let mut changed = proven.clone();
                    changed[byte] ^= 1;
                    assert!(!cookies.prove(&changed, home, 0), "byte {byte}");
                }
            }
        }
        assert!(!cookies.prove(&[], from("192.0.2.1:7"), 0));
    }

    #[test]
    fn a_cookie_ends_five_seconds_after_its_secret() {
        let (mut cookies, home) = (Cookies::new(&ours(), &[7; 32]), from("192.0.2.1:7"));
        let message = message(INITIATION_LEN);
        let reply = cookies.reply(&message, home, 119_000);
        let proven = proven(message, &reply);
        assert!(cookies.prove(&proven, home, 119_999));
        assert!(cookies.prove(&proven, home, 124_999));
        assert!(!cookies.prove(&proven, home, 125_000));
        assert!(!cookies.prove(&proven, home, 240_001), "two secrets later");
    }

    #[test]
    fn a_reply_opens_only_with_the_mac_it_answers_and_no_nonce_comes_twice() {
        let (mut cookies, home) = (Cookies::new(&ours(), &[7; 32]), from("192.0.2.1:7"));
        let message = message(INITIATION_LEN);
        let (one, two) = (
            cookies.reply(&message, home, 0),
            cookies.reply(&message, home, 0),
        );
        assert_ne!(one[8..32], two[8..32]);
        assert_ne!(one[32..48], two[32..48]);
        let seal = seal_of(&ours());
        assert_eq!(open(&seal, &one, &[0; 16]), None);
        assert_eq!(open(&seal, &one[..63], &[0; 16]), None);
    }

    #[test]
    fn a_cookie_that_was_given_proves_for_120_seconds() {
        let (mut cookies, mut jar) = (Cookies::new(&ours(), &[7; 32]), Jar::new(ours()));
        let home = from("192.0.2.1:7");
        let mut send = |jar: &mut Jar, length, now| {
            let mut sent = message(length);
            jar.write(&mut sent, now);
            (
                cookies.prove(&sent, home, now),
                cookies.reply(&sent, home, now),
            )
        };
        for (length, now) in [(INITIATION_LEN, 240_000), (RESPONSE_LEN, 480_000)] {
            let (proven, reply) = send(&mut jar, length, now);
            assert!(!proven, "there is no cookie, or an old one");
            assert_eq!(jar.take(&reply, now), Ok(()));
            assert!(send(&mut jar, INITIATION_LEN, now + 1).0);
            assert!(send(&mut jar, RESPONSE_LEN, now + 119_999).0);
        }
        let mut late = message(INITIATION_LEN);
        jar.write(&mut late, 600_000);
        assert_eq!(late[132..], [0; 16], "the peer is told that it is too old");
    }

    #[test]
    fn a_jar_takes_one_reply_to_its_last_message() {
        let (mut cookies, mut jar) = (Cookies::new(&ours(), &[7; 32]), Jar::new(ours()));
        let home = from("192.0.2.1:7");
        let mut sent = message(INITIATION_LEN);
        let reply = cookies.reply(&sent, home, 0);
        assert_eq!(jar.take(&reply, 0), Err(HandshakeError::Unexpected));
        jar.write(&mut sent, 0);
        let changed = |byte: usize| {
            let mut changed = reply;
            changed[byte] ^= 1;
            changed
        };
        assert_eq!(jar.take(&changed(4), 0), Err(HandshakeError::Unexpected));
        for byte in 8..COOKIE_LEN {
            assert_eq!(jar.take(&changed(byte), 0), Err(HandshakeError::Forged));
        }
        assert_eq!(jar.take(&reply, 0), Ok(()));
        assert_eq!(jar.take(&reply, 0), Err(HandshakeError::Unexpected));
    }

    #[test]
    fn another_secret_knows_no_cookie_of_this_one() {
        let home = from("192.0.2.1:7");
        let message = message(INITIATION_LEN);
        let reply = Cookies::new(&ours(), &[7; 32]).reply(&message, home, 0);
        let proven = proven(message, &reply);
        assert!(!Cookies::new(&ours(), &[8; 32]).prove(&proven, home, 0));
    }
}
