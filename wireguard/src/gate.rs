//! Which handshake messages get any further: all that is decided before one queues, for a few microseconds and no state per source.

use std::net::SocketAddr;
use std::time::Instant;

use blake2::Blake2s256;
use blake2::digest::Digest;

use crate::constants::{COOKIE_LEN, LOAD_TIME};
use crate::cookie::Cookies;
use crate::key::PublicKey;
use crate::message::Mac1;
use crate::session::millis;
use crate::source_limit::SourceLimit;

/// How much waits behind the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Little.
    Light,
    /// So much that from here on, and for [`LOAD_TIME`], only proven addresses pass.
    Heavy,
}

/// What is to become of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It may queue.
    Pass,
    /// Its first MAC is wrong: the sender does not know our key, and hears nothing.
    Mac1,
    /// The sender has to prove its address: send it this cookie reply, which is shorter than the message.
    Prove([u8; COOKIE_LEN]),
    /// The sender has proven its address, and sends too much from there.
    Limited,
}

/// The gate that handshake messages of types 1 and 2 come through, in this order:
///
/// 1. The first MAC has to be right.
/// 2. Under load, and where the source has sent more than its share, the second MAC has to prove the address; else a cookie
///    reply is all that the message leads to. A source that is over its share is not simply dropped, since anybody may send in its
///    name.
/// 3. What is proven has a share of its own for each source, so that nobody can use it up in another's name.
#[derive(Debug)]
pub struct Gate {
    mac1: Mac1,
    cookies: Cookies,
    unproven: SourceLimit,
    proven: SourceLimit,
    /// The first `now` we were given.
    base: Option<Instant>,
    loaded_until: u64,
}

impl Gate {
    /// A gate that nothing has come through, for messages to `ours`. `secret` is random and used for this gate only.
    pub fn new(ours: &PublicKey, secret: &[u8; 32]) -> Self {
        let derive = |purpose: &[u8]| -> [u8; 32] {
            Blake2s256::new()
                .chain_update(purpose)
                .chain_update(secret)
                .finalize()
                .into()
        };
        Self {
            mac1: Mac1::new(ours),
            cookies: Cookies::new(ours, &derive(b"cookies")),
            unproven: SourceLimit::new(&derive(b"unproven")),
            proven: SourceLimit::new(&derive(b"proven")),
            base: None,
            loaded_until: 0,
        }
    }

    /// Judges a message of type 1 or 2 that came from `from`. If `now` goes backwards, time stands still for this message.
    pub fn judge(&mut self, message: &[u8], from: SocketAddr, load: Load, now: Instant) -> Passage {
        if !self.mac1.verify(message) {
            return Passage::Mac1;
        }
        let now = millis(*self.base.get_or_insert(now), now);
        if load == Load::Heavy {
            self.loaded_until = now + LOAD_TIME.as_millis() as u64;
        }
        if now >= self.loaded_until && self.unproven.allows(from.ip(), now) {
            return Passage::Pass;
        }
        if !self.cookies.prove(message, from, now) {
            return Passage::Prove(self.cookies.reply(message, from, now));
        }
        if self.proven.allows(from.ip(), now) {
            Passage::Pass
        } else {
            Passage::Limited
        }
    }
}
