//! Doorkeepers that are none, joiners that have no ticket, messages that are another's.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use membership::{
    Admission, Answer, Approval, Doorkeeper, Invitation, InviteSeed, JoinError, Joiner, NetworkKey,
    Records, Refusal, Signer, Standing, Step, Tag, Tags, Ticket, sync::MAX_MESSAGE,
};
use proptest::prelude::*;

const BERT: [u8; 32] = [2; 32];
const CARL: [u8; 32] = [3; 32];
const DORA: [u8; 32] = [4; 32];

fn answer(records: &mut Records, own: &[u8; 32], visitor: &[u8; 32], message: &[u8]) -> Answer {
    Doorkeeper::answer(records, &node(own), &node(visitor), message, NOW)
}

fn refusal(records: &mut Records, own: &[u8; 32], visitor: &[u8; 32], message: &[u8]) -> Refusal {
    let answer = answer(records, own, visitor, message);
    assert_eq!(answer.new, None);
    assert_eq!(answer.reply.len(), 3, "nothing is told");
    answer.outcome.unwrap().unwrap_err()
}

/// The joiner's second message.
fn join_message(
    records: &mut Records,
    ticket: &Ticket,
    door: &[u8; 32],
    who: &[u8; 32],
) -> Vec<u8> {
    let mut joiner = Joiner::new(ticket, who, name("x"), node(door));
    let proof = answer(records, door, who, &joiner.hello());
    match joiner.handle_message(&proof.reply).unwrap() {
        Step::Send(message) => message,
        Step::Over(welcome) => panic!("{welcome:?}"),
    }
}

#[test]
fn the_records_of_a_welcome_make_both_ends_members_and_no_more_is_told() {
    let mut records = founded();
    crowd(&mut records, 0, 20);
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let (admission, shown) = join_at(&mut records, &ANNA, &ticket, &BERT, "bert", NOW).unwrap();
    assert_eq!(admission, Admission::Member);
    assert!(is_member(&shown, &ANNA) && is_member(&shown, &BERT));
    assert_eq!(shown.roll().network_name(), Some(&name("home")));
    assert_eq!(shown.len(), 5);
    // Any member lets in, by a chain of its own.
    let ticket = invite(&mut records, &ANNA, 2, invitation());
    let (_, shown) = join_at(&mut records, &BERT, &ticket, &CARL, "carl", NOW).unwrap();
    assert!(is_member(&shown, &BERT) && is_member(&shown, &CARL));
}

#[test]
fn whoever_is_no_member_cannot_pose_as_doorkeeper() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    // It says so, if it is honest.
    let hello = Joiner::new(&ticket, &BERT, name("x"), node(&CARL)).hello();
    assert_eq!(
        refusal(&mut records, &CARL, &BERT, &hello),
        Refusal::NotMember
    );
    // It shows Anna's records; or those of a network of its own.
    let anna = answer(&mut records, &ANNA, &BERT, &{
        Joiner::new(&ticket, &BERT, name("x"), node(&ANNA)).hello()
    });
    let own = NetworkKey::from_seed(&[8; 32]);
    let mut other = Records::found(&own, name("home"), node(&CARL), name("c"), NOW).0;
    let foreign = Ticket {
        network: own.id(),
        ..ticket.clone()
    };
    other
        .invite(Signer::Node(&CARL), &foreign.seed, invitation(), NOW)
        .unwrap();
    let carl = answer(&mut other, &CARL, &BERT, &{
        Joiner::new(&foreign, &BERT, name("x"), node(&CARL)).hello()
    });
    for reply in [&anna.reply, &carl.reply] {
        let mut joiner = Joiner::new(&ticket, &BERT, name("x"), node(&CARL));
        assert_eq!(
            joiner.handle_message(reply).unwrap_err(),
            JoinError::NotProven
        );
    }
}

#[test]
fn whoever_has_no_ticket_learns_nothing() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let guessed = Ticket {
        network: ticket.network,
        seed: InviteSeed::from_bytes([77; 16]),
        endpoint: None,
    };
    let hello = Joiner::new(&guessed, &BERT, name("x"), node(&ANNA)).hello();
    assert_eq!(
        refusal(&mut records, &ANNA, &BERT, &hello),
        Refusal::UnknownInvite
    );
    // Who has heard another's hello: for another visitor, or at another door.
    let heard = Joiner::new(&ticket, &BERT, name("x"), node(&ANNA)).hello();
    assert_eq!(
        refusal(&mut records, &ANNA, &CARL, &heard),
        Refusal::UnknownInvite
    );
    let mut both = records.clone();
    both.enrol(
        Signer::Node(&ANNA),
        node(&DORA),
        name("dora"),
        Tags::default(),
        NOW,
    )
    .unwrap();
    assert_eq!(
        refusal(&mut both, &DORA, &BERT, &heard),
        Refusal::UnknownInvite
    );
    // Who knows the invite's public half, but not its seed.
    let mut forged = heard.clone();
    forged[40] ^= 1;
    assert_eq!(
        refusal(&mut records, &ANNA, &BERT, &forged),
        Refusal::UnknownInvite
    );
}

#[test]
fn a_record_is_taken_from_its_node_alone() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let message = join_message(&mut records, &ticket, &ANNA, &BERT);
    assert_eq!(
        refusal(&mut records, &ANNA, &CARL, &message),
        Refusal::NotUnderstood
    );
    let mut changed = message.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(
        refusal(&mut records, &ANNA, &BERT, &changed),
        Refusal::UnknownInvite
    );
    assert_eq!(records.standing(&node(&BERT)), Standing::Unknown);
    // Other records do not come in by this door.
    let enrol = records.iter().last().unwrap().bytes().to_vec();
    let other = [&[1, 3][..], &enrol].concat();
    assert_eq!(
        refusal(&mut records, &ANNA, &BERT, &other),
        Refusal::NotUnderstood
    );

    let first = answer(&mut records, &ANNA, &BERT, &message);
    assert_eq!(first.outcome, Some(Ok(Admission::Member)));
    assert_eq!(first.new.as_deref(), Some(&message[2..]));
    // The reply was lost: the same again, without a new record.
    let second = answer(&mut records, &ANNA, &BERT, &message);
    assert_eq!((second.reply, second.new), (first.reply, None));
}

#[test]
fn a_member_that_has_been_revoked_lets_nobody_in() {
    let mut records = with_admins(&[(&BERT, "bert")]);
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    let joined = join_at(&mut records, &BERT, &ticket, &CARL, "carl", NOW);
    assert_eq!(joined.unwrap_err(), JoinError::Refused(Refusal::NotMember));
}

#[test]
fn messages_out_of_turn_are_no_answers() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let mut joiner = Joiner::new(&ticket, &BERT, name("x"), node(&ANNA));
    let proof = answer(&mut records, &ANNA, &BERT, &joiner.hello()).reply;
    let Step::Send(message) = joiner.handle_message(&proof).unwrap() else {
        unreachable!()
    };
    let welcome = answer(&mut records, &ANNA, &BERT, &message).reply;
    let new = || Joiner::new(&ticket, &BERT, name("x"), node(&ANNA));
    // A welcome before a proof, by which nobody has proven anything.
    assert_eq!(
        new().handle_message(&welcome).unwrap_err(),
        JoinError::Message
    );
    let mut twice = new();
    twice.handle_message(&proof).unwrap();
    assert_eq!(
        twice.handle_message(&proof).unwrap_err(),
        JoinError::Message
    );
    // A welcome that shows nothing of the sort.
    let mut empty = new();
    empty.handle_message(&proof).unwrap();
    assert_eq!(
        empty.handle_message(&welcome[..3]).unwrap_err(),
        JoinError::NotProven
    );
    for message in [
        &[][..],
        &[1],
        &[2, 2],
        &[1, 99],
        &[1, 5, 0],
        &[1, 5, 9],
        &vec![1; MAX_MESSAGE + 1],
    ] {
        assert_eq!(
            new().handle_message(message).unwrap_err(),
            JoinError::Message
        );
    }
}

#[test]
fn every_refusal_arrives_as_what_it_is() {
    let mut records = founded();
    let refused = |records: &mut Records, ticket: &Ticket, who: &[u8; 32], now: u64| {
        let error = join_at(records, &ANNA, ticket, who, "x", now).unwrap_err();
        let JoinError::Refused(refusal) = error else {
            panic!("{error}");
        };
        refusal
    };
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    assert_eq!(
        refused(&mut records, &ticket, &BERT, NOW + DAY + 1),
        Refusal::Expired
    );
    join(&mut records, &ticket, &BERT, "bert").unwrap();
    assert_eq!(refused(&mut records, &ticket, &CARL, NOW), Refusal::Used);
    records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    assert_eq!(refused(&mut records, &ticket, &BERT, NOW), Refusal::Revoked);
    let unknown = Ticket {
        seed: InviteSeed::from_bytes([9; 16]),
        ..ticket
    };
    assert_eq!(
        refused(&mut records, &unknown, &CARL, NOW),
        Refusal::UnknownInvite
    );
    let ticket = invite(&mut records, &ANNA, 2, invitation());
    let key = ticket.seed.key(&id());
    records.withdraw(Signer::Node(&ANNA), &key, NOW).unwrap();
    assert_eq!(
        refused(&mut records, &ticket, &CARL, NOW),
        Refusal::Withdrawn
    );
}

#[test]
fn the_longest_proof_fits_into_a_message() {
    // Everything as long as it can be: the admin who invited is approved by nobody but another, who is in force.
    let mut records = with_admins(&[(&BERT, "bert"), (&CARL, "carl")]);
    let long = "n".repeat(32);
    let tags = ["a", "b", "c", "d"].map(|tag| tag.repeat(15).parse::<Tag>().unwrap());
    let ticket = invite(
        &mut records,
        &BERT,
        1,
        Invitation {
            approval: Approval::Needed,
            name: Some(name(&long)),
            tags: Tags::new(tags).unwrap(),
            ..invitation()
        },
    );
    assert_eq!(
        join(&mut records, &ticket, &DORA, &long),
        Ok(Admission::Pending)
    );
    // An approval with eleven others.
    let grants = records
        .clone()
        .approve(Signer::Node(&CARL), &node(&DORA), NOW)
        .unwrap();
    let subject: [u8; 16] = grants.0[0][43..59].try_into().unwrap();
    let mut subjects: Vec<[u8; 16]> = (0..11).map(|n| [n; 16]).collect();
    subjects.push(subject);
    subjects.sort_unstable();
    let body = [&[12][..], &subjects.concat()].concat();
    let carl = ed25519_dalek::SigningKey::from_bytes(&CARL);
    let approval = forge(&id(), 7, "meshd approve v1", NOW, &body, &[&carl]);
    records.insert(&approval).unwrap();
    records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    records.rename(&network(), name(&long), NOW + 1).unwrap();
    assert!(is_member(&records, &DORA));

    let ticket = invite(&mut records, &ANNA, 2, invitation());
    let (_, shown) = join_at(&mut records, &DORA, &ticket, &[7; 32], "x", NOW).unwrap();
    assert!(is_member(&shown, &DORA) && is_member(&shown, &[7; 32]));
    // As the one who is welcomed, too.
    let mut again = Joiner::new(&ticket, &DORA, name("x"), node(&ANNA));
    let proof = answer(&mut records, &ANNA, &DORA, &again.hello()).reply;
    let Step::Send(message) = again.handle_message(&proof).unwrap() else {
        unreachable!()
    };
    let welcome = answer(&mut records, &ANNA, &DORA, &message).reply;
    assert!(
        welcome.len() > 900 && welcome.len() <= MAX_MESSAGE,
        "{}",
        welcome.len()
    );
    assert!(matches!(again.handle_message(&welcome), Ok(Step::Over(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1_200), kind in 1..6u8) {
        let mut records = founded();
        let ticket = invite(&mut records, &ANNA, 1, invitation());
        let len = records.len();
        let framed = [&[1, kind][..], &bytes].concat();
        let proof = answer(&mut records, &ANNA, &BERT, &Joiner::new(&ticket, &BERT, name("x"), node(&ANNA)).hello());
        for message in [&bytes, &framed] {
            prop_assert!(answer(&mut records, &ANNA, &BERT, message).outcome.unwrap().is_err());
            let mut joiner = Joiner::new(&ticket, &BERT, name("x"), node(&ANNA));
            prop_assert!(joiner.handle_message(message).is_err());
            joiner.handle_message(&proof.reply).unwrap();
            prop_assert!(joiner.handle_message(message).is_err());
        }
        prop_assert_eq!(records.len(), len);
    }

    #[test]
    fn a_text_is_no_ticket(text in "\\PC{0,120}") {
        prop_assert!(text.parse::<Ticket>().is_err());
        let framed = format!("MESH{text}");
        prop_assert!(framed.parse::<Ticket>().is_err());
    }
}
