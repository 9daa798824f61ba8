//! A network to try things on, and records as nobody of ours would make them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests; each file uses some of it"
)]

use std::time::Instant;

use ed25519_dalek::{Signer as _, SigningKey};
use membership::{
    Admission, Approval, Doorkeeper, InsertError, Inserted, Invitation, InviteSeed, JoinError,
    Joiner, Name, NetworkId, NetworkKey, NodeKey, Records, Signer, Standing, Step, Suspension,
    Tags, Ticket,
};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;
/// The admin whom the network begins with.
pub(crate) const ANNA: [u8; 32] = [1; 32];

/// Some instant: time is virtual from there on.
#[allow(
    clippy::disallowed_methods,
    reason = "the one clock reading of the tests"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn network() -> NetworkKey {
    NetworkKey::from_seed(&[9; 32])
}

pub(crate) fn id() -> NetworkId {
    network().id()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn node(seed: &[u8; 32]) -> NodeKey {
    NodeKey::of_seed(seed)
}

pub(crate) fn seed(n: u32) -> [u8; 32] {
    let mut seed = [0x5e; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    seed
}

/// A network with one member, which is an admin.
pub(crate) fn founded() -> Records {
    Records::found(&network(), name("home"), node(&ANNA), name("anna"), NOW).0
}

/// The same, with more admins, which are members.
pub(crate) fn with_admins(admins: &[(&[u8; 32], &str)]) -> Records {
    let mut records = founded();
    for (seed, label) in admins {
        let key = network();
        records
            .enrol(
                Signer::Network(&key),
                node(seed),
                name(label),
                Tags::default(),
                NOW,
            )
            .unwrap();
        records.promote(&key, node(seed), NOW).unwrap();
    }
    records
}

pub(crate) fn invitation() -> Invitation {
    Invitation {
        uses: 1,
        expires: NOW + DAY,
        approval: Approval::NotNeeded,
        name: None,
        tags: Tags::default(),
    }
}

/// An invite by an admin, as the ticket.
pub(crate) fn invite(
    records: &mut Records,
    admin: &[u8; 32],
    n: u8,
    invitation: Invitation,
) -> Ticket {
    let seed = InviteSeed::from_bytes([n; 16]);
    records
        .invite(Signer::Node(admin), &seed, invitation, NOW)
        .unwrap();
    Ticket {
        network: records.network(),
        seed,
        endpoint: None,
    }
}

/// Joins by way of one member, message by message.
pub(crate) fn join_at(
    records: &mut Records,
    door: &[u8; 32],
    ticket: &Ticket,
    joiner: &[u8; 32],
    label: &str,
    now: u64,
) -> Result<(Admission, Records), JoinError> {
    let mut side = Joiner::new(ticket, joiner, name(label), node(door));
    let mut message = side.hello();
    loop {
        assert!(message.len() <= membership::sync::MAX_MESSAGE);
        let answer = Doorkeeper::answer(records, &node(door), &node(joiner), &message, now);
        assert!(answer.reply.len() <= membership::sync::MAX_MESSAGE);
        match side.handle_message(&answer.reply)? {
            Step::Send(next) => message = next,
            Step::Over(welcome) => return Ok((welcome.admission, welcome.records)),
        }
    }
}

/// The same, by way of Anna.
pub(crate) fn join(
    records: &mut Records,
    ticket: &Ticket,
    joiner: &[u8; 32],
    label: &str,
) -> Result<Admission, JoinError> {
    let joined = join_at(records, &ANNA, ticket, joiner, label, NOW);
    joined.map(|(admission, _)| admission)
}

/// Two sets become one, both ways.
pub(crate) fn merge(one: &mut Records, other: &mut Records) {
    for _ in 0..2 {
        copy(one, other);
        copy(other, one);
    }
    assert_eq!(ids(one), ids(other));
    assert_eq!(one.roll(), other.roll());
}

pub(crate) fn copy(from: &Records, to: &mut Records) {
    for record in from.iter() {
        // What is not taken shows in what follows.
        let _ = to.insert(record.bytes());
    }
}

pub(crate) fn ids(records: &Records) -> Vec<[u8; 16]> {
    records.iter().map(|record| record.id().0).collect()
}

pub(crate) fn is_member(records: &Records, seed: &[u8; 32]) -> bool {
    records.roll().member(&node(seed)).is_some()
}

pub(crate) fn suspension(records: &Records, seed: &[u8; 32]) -> Option<Suspension> {
    match records.standing(&node(seed)) {
        Standing::Suspended { why, .. } => Some(why),
        Standing::Member(_)
        | Standing::Pending { .. }
        | Standing::Revoked
        | Standing::Left
        | Standing::Unknown => None,
    }
}

pub(crate) fn shown(records: &Records, seed: &[u8; 32]) -> String {
    records.roll().member(&node(seed)).unwrap().name.clone()
}

pub(crate) fn codes(records: &Records) -> Vec<&'static str> {
    let roll = records.roll();
    roll.warnings()
        .iter()
        .map(|warning| warning.code())
        .collect()
}

pub(crate) fn insert(records: &mut Records, bytes: &[u8]) -> Result<Inserted, InsertError> {
    records.insert(bytes)
}

/// A record as written by hand: kind, its domain, when, what it says, and who signs; the last one is the signer it names.
pub(crate) fn forge(
    network: &NetworkId,
    kind: u8,
    domain: &str,
    issued: u64,
    body: &[u8],
    signers: &[&SigningKey],
) -> Vec<u8> {
    let signer = signers.last().unwrap().verifying_key();
    let mut bytes = vec![1, kind];
    bytes.extend(issued.to_be_bytes());
    bytes.extend(signer.to_bytes());
    bytes.extend(body);
    let signed = [domain.as_bytes(), &network.0, &bytes].concat();
    for key in signers {
        bytes.extend(key.sign(&signed).to_bytes());
    }
    bytes
}

pub(crate) fn label(text: &str) -> Vec<u8> {
    let mut bytes = vec![text.len() as u8];
    bytes.extend(text.bytes());
    bytes
}

/// The secret key of an invite, as `docs/protocol.md` derives it.
pub(crate) fn invite_secret(network: &NetworkId, ticket: &[u8; 16]) -> SigningKey {
    use blake2::{Blake2s256, Digest};
    let seed = Blake2s256::new()
        .chain_update("meshd invite key v1")
        .chain_update(network.0)
        .chain_update(ticket)
        .finalize();
    SigningKey::from_bytes(&seed.into())
}

/// A use of an invite, of any time.
pub(crate) fn forge_join(
    ticket: &[u8; 16],
    joiner: &[u8; 32],
    label_: &str,
    issued: u64,
) -> Vec<u8> {
    let invite = invite_secret(&id(), ticket);
    let body = [&invite.verifying_key().to_bytes()[..], &label(label_)].concat();
    let signers = [&invite, &SigningKey::from_bytes(joiner)];
    forge(&id(), 4, "meshd join v1", issued, &body, &signers)
}

/// So many more nodes that came by tickets of their own, the first with this seed.
pub(crate) fn crowd(records: &mut Records, first: u32, count: u32) {
    let anna = SigningKey::from_bytes(&ANNA);
    for n in first..first + count {
        let mut ticket = [3; 16];
        ticket[..4].copy_from_slice(&n.to_be_bytes());
        // By hand: to invite asks who is an admin, which is judged anew after every change.
        let key = invite_secret(&id(), &ticket).verifying_key();
        let until = (NOW + DAY).to_be_bytes();
        let body = [&key.to_bytes()[..], &[0, 1], &until, &[0, 0, 0]].concat();
        let invite = forge(&id(), 3, "meshd invite v1", NOW, &body, &[&anna]);
        records.insert(&invite).unwrap();
        let joined = forge_join(&ticket, &seed(n), &format!("node-{n}"), NOW);
        records.insert(&joined).unwrap();
    }
}
