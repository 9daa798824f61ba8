//! Replays the corpus of `fuzz/`, and ten variants of each entry, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod common;

use std::{fs, path::Path};

use common::*;
use membership::{
    Approval, Doorkeeper, Invitation, InviteSeed, Joiner, Name, NetworkKey, Records, Signer, Step,
    Tags, Ticket, sync,
};

#[path = "../fuzz/targets/messages.rs"]
mod messages;
#[path = "../fuzz/targets/records.rs"]
mod records;

/// Gives every entry of a target's corpus, and what is left of it after small changes, to the target. `CORPUS=1 cargo test -p membership
/// --test fuzz_corpus` writes the corpus anew.
fn replay(target: &str, written: fn() -> Vec<Vec<u8>>, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    if std::env::var_os("CORPUS").is_some() {
        fs::create_dir_all(&corpus).unwrap();
        for (n, bytes) in written().iter().enumerate() {
            fs::write(corpus.join(format!("{n:02}")), bytes).unwrap();
        }
    }
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        run(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            run(&bytes);
        }
    }
    assert!(files.len() >= 8, "{} entries of the corpus", files.len());
}

#[test]
fn records_files_and_tickets_of_the_corpus_are_read_or_refused() {
    replay("records", written_records, records::read);
}

#[test]
fn messages_of_the_corpus_do_no_harm() {
    replay("messages", written_messages, messages::hear);
}

fn plain(text: &str) -> Name {
    text.parse().unwrap()
}

/// The network of the targets: its admin's seed is ones, its invite's is twos, who joins has threes.
fn scene() -> (NetworkKey, Records, Ticket) {
    let key = NetworkKey::from_seed(&[0; 32]);
    let mut records = Records::found(&key, plain("home"), node(&ANNA), plain("a"), 1).0;
    let seed = InviteSeed::from_bytes([2; 16]);
    let invitation = Invitation {
        uses: 2,
        expires: 9,
        approval: Approval::NotNeeded,
        name: None,
        tags: Tags::default(),
    };
    let signer = Signer::Node(&ANNA);
    records.invite(signer, &seed, invitation, 1).unwrap();
    let ticket = Ticket {
        network: key.id(),
        seed,
        endpoint: Some("203.0.113.7:51861".parse().unwrap()),
    };
    (key, records, ticket)
}

/// The messages of one who joins at Anna's, in turn.
fn joining(records: &mut Records, ticket: &Ticket) -> Vec<Vec<u8>> {
    let mut joiner = Joiner::new(ticket, &[3; 32], plain("x"), node(&ANNA));
    let mut said = vec![joiner.hello()];
    loop {
        let last = said.last().unwrap();
        let answer = Doorkeeper::answer(records, &node(&ANNA), &node(&[3; 32]), last, 5);
        said.push(answer.reply.clone());
        match joiner.handle_message(&answer.reply).unwrap() {
            Step::Send(message) => said.push(message),
            Step::Over(_) => return said,
        }
    }
}

fn written_records() -> Vec<Vec<u8>> {
    let (key, mut records, ticket) = scene();
    let signer = Signer::Node(&ANNA);
    joining(&mut records, &ticket);
    records
        .enrol(signer, node(&[4; 32]), plain("b"), Tags::default(), 2)
        .unwrap();
    records.name(signer, node(&[4; 32]), plain("c"), 3).unwrap();
    records.promote(&key, node(&[4; 32]), 3).unwrap();
    let mut other = records.clone();
    other.leave(&[3; 32], 4).unwrap();
    other
        .revoke(Signer::Node(&[4; 32]), node(&ANNA), 4)
        .unwrap();
    other.disown(&key, node(&[4; 32]), &[], 5).unwrap();
    let mut entries: Vec<Vec<u8>> = other.iter().map(|record| record.bytes().to_vec()).collect();
    entries.push(records.to_bytes());
    entries.push(records.to_bytes()[..300].to_vec());
    entries.push(ticket.to_text().as_bytes().to_vec());
    entries.push(Vec::new());
    entries
}

fn written_messages() -> Vec<Vec<u8>> {
    let (_, records, ticket) = scene();
    let framed = |messages: &[Vec<u8>]| {
        let frame = |message: &Vec<u8>| {
            let len = (message.len() as u16).to_be_bytes();
            [&len[..], message].concat()
        };
        messages.iter().flat_map(frame).collect::<Vec<u8>>()
    };
    let mut joined = records.clone();
    let said = joining(&mut joined, &ticket);
    let mut entries: Vec<Vec<u8>> = said
        .iter()
        .map(|message| framed(std::slice::from_ref(message)))
        .collect();
    entries.push(framed(&said));
    let news = sync::news(joined.iter().map(membership::Record::bytes));
    entries.push(framed(&news));
    // Both ends of a comparison, as the target asks it.
    let mut here = records;
    let mut pull = sync::Pull::new(1);
    let mut exchange = Vec::new();
    let now = start();
    while let Some(question) = pull.poll_transmit(&here, now) {
        let answer = sync::answer(&joined, &question).unwrap();
        pull.handle_message(&mut here, &answer).unwrap();
        entries.push(framed(std::slice::from_ref(&question)));
        exchange.extend([question, answer]);
    }
    entries.push(framed(&exchange));
    entries
}
