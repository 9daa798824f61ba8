//! `meshd key generate|show|pub`

use std::io::{self, BufRead, Read, Write};
use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use serde::Serialize;
use wireguard::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::admin::Schema;
use crate::cli::{Global, Key};
use crate::identity::{Identity, NodeId};
use crate::state::StateDir;

/// Longest secret that is read: 64 digits, a newline, and some space somebody may have typed.
const MAX_SECRET: u64 = 256;

pub(super) fn run(global: &Global, verb: &Key, out: &mut impl Write) -> Result<(), Failure> {
    match verb {
        Key::Generate => {
            let identity = super::init::mine()?;
            Ok(writeln!(out, "{}", identity.to_hex().as_str())?)
        }
        Key::Show => show(global, out),
        Key::Pub => {
            let public_key = public_half(&mut io::stdin().lock())?;
            Ok(writeln!(out, "{public_key}")?)
        }
    }
}

/// What `key show --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    address: Ipv6Addr,
    prefix: Ipv6Network,
    peer_id: String,
    public_key: PublicKey,
}

impl Shown {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            address: node.address(),
            prefix: node.prefix(),
            peer_id: node.peer_id(),
            public_key: node.public_key(),
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "address      {}   (workloads: {})",
            self.address, self.prefix
        )?;
        writeln!(out, "peer id      {}", self.peer_id)?;
        writeln!(out, "public key   {}", self.public_key)
    }
}

impl Schema for Shown {
    const SCHEMA: &'static str = "meshd.key/1";
}

fn show(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let identity = StateDir::open(super::state_dir(global)?)?.identity()?;
    let shown = Shown::new(identity.node());
    if global.json {
        return super::print_json(shown, out);
    }
    Ok(shown.print(out)?)
}

/// The WireGuard public key of a secret: a node's seed, or a WireGuard private key in base64 as `wg genkey` writes.
fn public_half(input: &mut impl BufRead) -> Result<PublicKey, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(2 * MAX_SECRET as usize));
    let read = input.take(MAX_SECRET).read_to_string(&mut text);
    let bad =
        |what: String| Failure::new(Exit::Failed, what).next("meshd key generate | meshd key pub");
    read.map_err(|error| bad(format!("reading the secret from standard input: {error}")))?;
    let secret = text.trim();
    if let Ok(private) = secret.parse::<PrivateKey>() {
        return Ok(private.public());
    }
    match Identity::from_hex(secret) {
        Ok(identity) => Ok(identity.node().public_key()),
        Err(error) => Err(bad(format!(
            "standard input holds no secret of a node: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata;

    #[test]
    fn both_forms_of_a_secret_have_the_same_public_half() {
        let identity = testdata::identity(0);
        let hex = format!("{}\n", identity.to_hex().as_str());
        let base64 = format!("{}\n", identity.private_key().to_base64().as_str());
        for secret in [hex, base64] {
            assert_eq!(
                public_half(&mut secret.as_bytes()).unwrap(),
                identity.node().public_key()
            );
        }
    }

    #[test]
    fn what_is_no_secret_is_not_repeated_in_the_error() {
        let failure = public_half(&mut "hunter2".as_bytes()).unwrap_err();
        assert!(!failure.to_string().contains("hunter2"));
    }
}
