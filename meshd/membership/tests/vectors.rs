//! The vectors of `docs/protocol.md`, made again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{collections::BTreeMap, fmt::Write as _};

use common::*;
use membership::{
    Approval, Doorkeeper, Invitation, InviteSeed, Joiner, NetworkKey, Record, Records, Signer,
    Step, Tag, Tags, Ticket, sync,
};

/// The block of the document, by names.
fn published() -> BTreeMap<&'static str, &'static str> {
    let document = include_str!("../../../docs/protocol.md");
    let (_, block) = document.split_once("```membership\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = block.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(" = ").unwrap()).collect()
}

fn seed_of(text: &str) -> [u8; 32] {
    *NetworkKey::from_hex(text).unwrap().seed()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// All values, in the order of the document.
fn made() -> Vec<(&'static str, String)> {
    let anna = seed_of("26bc9fb8d07ef9c6ebeed5008847d9c746850246d6ef1171b3902a8470de6049");
    let bert = seed_of("a2e8bfdabc15020f16aedf158bf7a04e3fc1c955d2c447ed83bb15d3648a8351");
    let network_seed = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let network = NetworkKey::from_hex(network_seed).unwrap();
    let mut values = vec![
        ("network seed", network_seed.to_owned()),
        ("network public key", hex(&network.public())),
        ("network id", hex(&network.id().0)),
        ("network id, base32", network.id().to_string()),
    ];
    let (mut records, founded) =
        Records::found(&network, name("home"), node(&anna), name("anna"), NOW);
    for (label, bytes) in ["network", "admin", "enrol"].into_iter().zip(&founded.0) {
        values.push((label, hex(bytes)));
    }
    let seed = InviteSeed::from_bytes(std::array::from_fn(|at| 0xa0 + at as u8));
    values.push(("invite seed", "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf".to_owned()));
    values.push(("invite public key", hex(&seed.key(&network.id()).0)));
    let invitation = Invitation {
        uses: 1,
        expires: NOW + DAY,
        approval: Approval::Needed,
        name: Some(name("laptop")),
        tags: Tags::new(["admin", "lab"].map(|tag| tag.parse::<Tag>().unwrap())).unwrap(),
    };
    let signer = Signer::Node(&anna);
    let invite = records.invite(signer, &seed, invitation, NOW).unwrap();
    values.push(("invite", hex(&invite.0[0])));
    let ticket = |endpoint: Option<&str>| Ticket {
        network: network.id(),
        seed: seed.clone(),
        endpoint: endpoint.map(|text| text.parse().unwrap()),
    };
    for (label, endpoint) in [
        ("ticket without endpoint", None),
        ("ticket with 203.0.113.7:51861", Some("203.0.113.7:51861")),
        (
            "ticket with [2001:db8::7]:51861",
            Some("[2001:db8::7]:51861"),
        ),
    ] {
        values.push((label, ticket(endpoint).to_text().to_string()));
    }
    let mut joiner = Joiner::new(&ticket(None), &bert, name("bert"), node(&anna));
    let mut message = joiner.hello();
    for labels in [["hello", "proof"], ["join message", "welcome"]] {
        values.push((labels[0], hex(&message)));
        let door = node(&anna);
        let answer = Doorkeeper::answer(&mut records, &door, &node(&bert), &message, NOW);
        values.push((labels[1], hex(&answer.reply)));
        if let Some(new) = answer.new {
            let joined = Record::decode(&network.id(), &new).unwrap();
            values.push(("join", hex(&new)));
            values.push(("id of join", hex(&joined.id().0)));
            values.push(("subject of join", hex(&joined.subject(&network.id()).0)));
        }
        if let Step::Send(next) = joiner.handle_message(&answer.reply).unwrap() {
            message = next;
        }
    }
    let approved = records.approve(signer, &node(&bert), NOW).unwrap();
    values.push(("approve", hex(&approved.0[0])));
    let named = records
        .name(signer, node(&bert), name("desk"), NOW)
        .unwrap();
    values.push(("name", hex(&named.0[0])));
    let question = sync::Pull::new(0x0102_0304_0506_0708)
        .poll_transmit(&records, start())
        .unwrap();
    values.push(("compare", hex(&question)));
    values.push(("same", hex(&sync::answer(&records, &question).unwrap())));
    let empty = sync::Pull::new(0x0102_0304_0506_0708)
        .poll_transmit(&Records::new(network.id()), start())
        .unwrap();
    values.push(("compare of an empty set", hex(&empty)));
    values.push(("outline", hex(&sync::answer(&records, &empty).unwrap())));
    let left = records.clone().leave(&bert, NOW).unwrap();
    values.push(("leave", hex(&left.0[0])));
    let withdrawn = records
        .clone()
        .withdraw(signer, &seed.key(&network.id()), NOW);
    values.push(("revoke of the invite", hex(&withdrawn.unwrap().0[0])));
    let revoked = records.revoke(signer, node(&bert), NOW).unwrap();
    values.push(("revoke", hex(&revoked.0[0])));
    let disowned = records.disown(&network, node(&anna), &[], NOW).unwrap();
    values.push(("disown", hex(&disowned.0[0])));
    values
}

#[test]
fn the_document_has_what_the_code_makes() {
    let made = made();
    let lines = made
        .iter()
        .map(|(label, value)| format!("{label} = {value}\n"));
    let block: String = lines.collect();
    let made: BTreeMap<&str, &str> = made
        .iter()
        .map(|(label, value)| (*label, value.as_str()))
        .collect();
    assert!(published() == made, "it should have:\n{block}");
}

#[test]
fn tickets_are_short_and_read_in_any_form() {
    for endpoint in [None, Some("203.0.113.7:51861"), Some("[2001:db8::7]:51861")] {
        let ticket = Ticket {
            network: id(),
            seed: InviteSeed::from_bytes([7; 16]),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
        };
        let text = ticket.to_text();
        assert!(
            text.len() <= 92 && text.len() <= Ticket::MAX_TEXT,
            "{}",
            text.len()
        );
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        );
        let spread: String = text
            .to_lowercase()
            .chars()
            .flat_map(|c| [c, ' ', '-', '\n'])
            .collect();
        for form in [text.as_str(), &spread, &format!("  {}\n", *text)] {
            let read: Ticket = form.parse().unwrap();
            assert_eq!(*read.to_text(), *text);
            assert_eq!(
                (read.network, read.endpoint),
                (ticket.network, ticket.endpoint)
            );
        }
        assert!(!format!("{ticket:?}").contains("07, 07"), "{ticket:?}");
    }
}

#[test]
fn a_ticket_with_a_mistake_is_refused() {
    use membership::TicketError::{Checksum, Format, Version};
    let ticket = Ticket {
        network: id(),
        seed: InviteSeed::from_bytes([7; 16]),
        endpoint: None,
    };
    let text = ticket.to_text();
    let refused = |text: &str| text.parse::<Ticket>().unwrap_err();
    for at in 4..text.len() {
        let mut wrong = text.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(
            refused(std::str::from_utf8(&wrong).unwrap()),
            Checksum,
            "{at}"
        );
        assert_eq!(refused(&text[..at]), Checksum);
    }
    assert_eq!(refused(&format!("{}A", *text)), Checksum);
    for no_ticket in [
        "",
        "MES",
        "https://example.org",
        "mesh1",
        "MESH\u{e9}",
        &"A".repeat(2_000),
    ] {
        assert_eq!(refused(no_ticket), Format, "{no_ticket}");
    }
    // One of a later release says so, since its sum is right.
    assert_eq!(
        refused(&format!("MESH{}", base32(&summed(&[2, 0, 0])))),
        Version
    );
    assert_eq!(
        refused(&format!("MESH{}", base32(&summed(&[1; 36])))),
        Format
    );
}

/// With the checksum of a ticket.
fn summed(bytes: &[u8]) -> Vec<u8> {
    use blake2::{Blake2s256, Digest};
    let sum = Blake2s256::new()
        .chain_update("meshd ticket v1")
        .chain_update(bytes)
        .finalize();
    [bytes, &sum[..4]].concat()
}

/// RFC 4648 §6, bit by bit, without padding.
fn base32(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let value = |bits: &[u8]| (0..5).fold(0, |value, at| value << 1 | bits.get(at).unwrap_or(&0));
    let digits = bits.chunks(5).map(|bits| usize::from(value(bits)));
    digits
        .map(|digit| char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[digit]))
        .collect()
}
