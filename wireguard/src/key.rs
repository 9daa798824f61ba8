//! Keys: public, private, preshared. Text form is base64 as `wg` prints it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why some bytes or some text are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A key in text is 44 characters of base64.
    #[error("not 44 characters of base64")]
    Encoding,
    /// The top bit is set: X25519 ignores it, so that one key would have two forms.
    #[error("top bit is set")]
    TopBit,
    /// The coordinate is not below 2^255 - 19: it would be a second form of a smaller one.
    #[error("not below 2^255 - 19")]
    NotCanonical,
    /// One of the points whose multiples take at most eight values: whoever uses it agrees on a secret everybody knows.
    #[error("point of low order")]
    LowOrder,
}

impl KeyError {
    /// A short name, for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Encoding => "key_encoding",
            Self::TopBit => "key_top_bit",
            Self::NotCanonical => "key_not_canonical",
            Self::LowOrder => "key_low_order",
        }
    }
}

/// 2^255 - 19, little endian.
const P: [u8; 32] = [
    0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
];

/// The canonical coordinates of low order on the curve and on its twist: 0, 1, two of order eight, -1. (Two more forms of 0 and 1
/// are not below p.)
const LOW_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
];

/// Whether `coordinate` may be agreed with: canonical and of high order (RFC 7748 section 6.1 leaves this check to protocols).
pub(crate) fn check_point(coordinate: &[u8; 32]) -> Result<(), KeyError> {
    if coordinate[31] & 0x80 != 0 {
        return Err(KeyError::TopBit);
    }
    if coordinate.iter().rev().ge(P.iter().rev()) {
        return Err(KeyError::NotCanonical);
    }
    if LOW_ORDER.contains(coordinate) {
        return Err(KeyError::LowOrder);
    }
    Ok(())
}

fn from_base64(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = Zeroizing::new(BASE64.decode(text).map_err(|_| KeyError::Encoding)?);
    bytes.as_slice().try_into().map_err(|_| KeyError::Encoding)
}

/// The public half of a static key: who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes a Curve25519 coordinate.
    ///
    /// # Errors
    /// Forms that are not canonical and points of low order are refused, so that a key has one form and is worth agreeing with.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        check_point(&bytes)?;
        Ok(Self(bytes))
    }

    /// The coordinate, little endian.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters of the text form, enough to tell keys apart in a log.
    pub fn short(&self) -> String {
        BASE64.encode(&self.0[..6])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(from_base64(text)?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The secret half of a static key. Wiped from memory when dropped; never printed by `Debug`.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// Takes 32 secret bytes; which bits count is settled when the key is used (RFC 7748 section 5), so any bytes will do.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        // A clamped scalar times the base point has the large prime order, and the library's result is canonical.
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The text form, wiped from memory when dropped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.as_bytes()))
    }

    /// For agreements.
    pub(crate) const fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_bytes(*Zeroizing::new(from_base64(text)?)))
    }
}

/// A secret two peers share besides their keys. Wiped from memory when dropped; never printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// Takes 32 secret bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The text form, wiped from memory when dropped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0))
    }

    /// For handshakes.
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*Zeroizing::new(from_base64(text)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::montgomery::MontgomeryPoint;
    use proptest::prelude::*;

    #[test]
    fn the_listed_points_of_low_order_give_the_secret_zero() {
        for point in LOW_ORDER {
            let shared = MontgomeryPoint(point).mul_clamped([0x5a; 32]);
            assert_eq!(shared.to_bytes(), [0; 32], "{point:x?} is not of low order");
            assert_eq!(PublicKey::from_bytes(point), Err(KeyError::LowOrder));
        }
    }

    #[test]
    fn second_forms_of_a_key_are_refused() {
        let mut above = P;
        assert_eq!(PublicKey::from_bytes(above), Err(KeyError::NotCanonical));
        for last in 0xee..=0xff {
            above[0] = last;
            assert_eq!(PublicKey::from_bytes(above), Err(KeyError::NotCanonical));
        }
        let mut two_below = P;
        two_below[0] = 0xeb;
        assert!(PublicKey::from_bytes(two_below).is_ok());

        let mut top_bit = *PrivateKey::from_bytes([3; 32]).public().as_bytes();
        top_bit[31] |= 0x80;
        assert_eq!(PublicKey::from_bytes(top_bit), Err(KeyError::TopBit));
        assert_eq!(PublicKey::from_bytes([0xff; 32]), Err(KeyError::TopBit));
    }

    #[test]
    fn text_and_bytes_agree_with_wg() {
        // RFC 7748 section 6.1, Alice.
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
            .parse()
            .unwrap();
        assert_eq!(
            private.public().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
        assert_eq!(
            private.to_base64().as_str(),
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
        );
        assert_eq!(private.public().short(), "hSDwCYkw");
    }

    #[test]
    fn text_of_another_length_is_refused() {
        for text in [
            "",
            "AAAA",
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo",
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo==",
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Encoding), "{text}");
            assert!(text.parse::<PrivateKey>().is_err());
            assert_eq!(text.parse::<PresharedKey>(), Err(KeyError::Encoding));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(
            format!("{:?}", PrivateKey::from_bytes([7; 32])),
            "PrivateKey(..)"
        );
        assert_eq!(
            format!("{:?}", PresharedKey::from_bytes([7; 32])),
            "PresharedKey(..)"
        );
    }

    proptest! {
        #[test]
        fn every_private_key_has_a_valid_public_key(bytes: [u8; 32]) {
            let public = PrivateKey::from_bytes(bytes).public();
            prop_assert_eq!(PublicKey::from_bytes(*public.as_bytes()), Ok(public));
            prop_assert_eq!(public.to_string().parse(), Ok(public));
        }

        #[test]
        fn parsing_text_never_panics(text in ".{0,64}") {
            let _ = text.parse::<PublicKey>();
            let _ = text.parse::<PrivateKey>();
        }
    }
}
