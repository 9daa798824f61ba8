//! Messages of strangers that would join, of doorkeepers, and of members that compare their sets.

use std::{sync::OnceLock, time::Instant};

use membership::{
    Approval, Doorkeeper, Invitation, InviteSeed, Joiner, Name, NetworkKey, NodeKey, Records,
    Signer, Tags, Ticket,
    sync::{self, MAX_MESSAGE, Pull},
};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A network with one admin, whose seed is ones, and an invite, whose seed is twos.
fn scene() -> &'static Records {
    static SCENE: OnceLock<Records> = OnceLock::new();
    SCENE.get_or_init(|| {
        let key = NetworkKey::from_seed(&[0; 32]);
        let mut records =
            Records::found(&key, name("home"), NodeKey::of_seed(&[1; 32]), name("a"), 1).0;
        let invitation = Invitation {
            uses: 2,
            expires: 9,
            approval: Approval::NotNeeded,
            name: None,
            tags: Tags::default(),
        };
        let seed = InviteSeed::from_bytes([2; 16]);
        records
            .invite(Signer::Node(&[1; 32]), &seed, invitation, 1)
            .expect("an admin may");
        records
    })
}

/// Some instant.
#[allow(clippy::disallowed_methods, reason = "the one clock reading")]
fn start() -> Instant {
    Instant::now()
}

/// The messages come one after the other, each after its length in two bytes. Nobody panics, nothing that is sent is too long, and what is
/// held is a set that a file gives back.
pub(crate) fn hear(mut bytes: &[u8]) {
    let mut records = scene().clone();
    let ticket = Ticket {
        network: records.network(),
        seed: InviteSeed::from_bytes([2; 16]),
        endpoint: None,
    };
    let (door, visitor) = (NodeKey::of_seed(&[1; 32]), NodeKey::of_seed(&[3; 32]));
    let mut joiner = Joiner::new(&ticket, &[3; 32], name("x"), door);
    let mut pull = Pull::new(1);
    let now = start();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (message, rest) = rest.split_at(len);
        bytes = rest;
        let answer = Doorkeeper::answer(&mut records, &door, &visitor, message, 5);
        assert!(answer.reply.len() <= MAX_MESSAGE);
        // Refused or not: the next message is another's.
        let _ = joiner.handle_message(message);
        while let Some(question) = pull.poll_transmit(&records, now) {
            assert!(question.len() <= MAX_MESSAGE);
        }
        let role = sync::role(message);
        let heard = pull.handle_message(&mut records, message);
        assert!(heard.is_err() || role == Some(sync::Role::Answer));
        let heard = sync::handle_news(&mut records, message);
        assert!(heard.is_err() || role == Some(sync::Role::News));
        if let Ok(answer) = sync::answer(&records, message) {
            assert!(role == Some(sync::Role::Question) && answer.len() <= MAX_MESSAGE);
        }
    }
    let (read, damaged) = Records::from_bytes(records.network(), &records.to_bytes())
        .expect("what was written can be read");
    assert_eq!((read.len(), damaged), (records.len(), 0));
}
