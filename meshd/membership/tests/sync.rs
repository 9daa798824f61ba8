//! Two sets that become one, over a network that loses and reorders; peers that lie; and what it costs for 1,000 members.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use membership::{
    Invitation, InviteSeed, Record, Records, Signer, Tags,
    sync::{self, Heard, MAX_MESSAGE, Progress, Pull, Role, SyncError},
};
use proptest::prelude::*;

/// What one pull took.
#[derive(Debug, Default)]
struct Cost {
    questions: usize,
    bytes: usize,
    /// Round trips, one after the other.
    rounds: usize,
    refused: usize,
}

/// Brings `from`'s records into `to`. `fate` says of each datagram, in its turn, whether it is lost; those of a round are answered in
/// reverse.
fn pull(
    to: &mut Records,
    from: &Records,
    salt: u64,
    mut fate: impl FnMut() -> bool,
) -> (Progress, Cost) {
    let mut now = start();
    let mut pull = Pull::new(salt);
    let mut cost = Cost::default();
    while pull.progress() == Progress::Going {
        let mut answers = Vec::new();
        while let Some(question) = pull.poll_transmit(to, now) {
            assert!(question.len() <= MAX_MESSAGE);
            assert_eq!(sync::role(&question), Some(Role::Question));
            cost.questions += 1;
            cost.bytes += question.len();
            if fate() {
                continue;
            }
            let answer = sync::answer(from, &question).unwrap();
            assert!(answer.len() <= MAX_MESSAGE);
            assert_eq!(sync::role(&answer), Some(Role::Answer));
            cost.bytes += answer.len();
            if !fate() {
                answers.push(answer);
            }
        }
        cost.rounds += 1;
        for answer in answers.into_iter().rev() {
            let heard = pull.handle_message(to, &answer).unwrap();
            cost.refused += heard.refused;
            // A second copy of a datagram is an answer to no question.
            assert_eq!(pull.handle_message(to, &answer), Err(SyncError::Unasked));
        }
        if let Some(deadline) = pull.poll_timeout() {
            now = deadline;
            pull.handle_timeout(now);
        }
    }
    (pull.progress(), cost)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn sets_become_one_whatever_is_lost(
        (shared, here, there) in (0..60u32, 0..60u32, 0..60u32),
        losses in prop::collection::vec(prop::bool::weighted(0.3), 64),
        salt in any::<u64>(),
    ) {
        let mut one = founded();
        crowd(&mut one, 0, shared);
        let mut other = one.clone();
        crowd(&mut one, 100, here);
        crowd(&mut other, 200, there);
        let mut turn = losses.iter().cycle();
        for _ in 0..4 {
            pull(&mut one, &other, salt, || *turn.next().unwrap());
            pull(&mut other, &one, salt, || *turn.next().unwrap());
        }
        let (progress, _) = pull(&mut one, &other, salt, || false);
        prop_assert_eq!(progress, Progress::Done);
        let (progress, _) = pull(&mut other, &one, salt, || false);
        prop_assert_eq!(progress, Progress::Done);
        prop_assert_eq!(ids(&one), ids(&other));
        prop_assert_eq!(one.roll(), other.roll());
    }

    #[test]
    fn any_bytes_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1_200), kind in 1..7u8) {
        let mut records = founded();
        let len = records.len();
        let mut pull = Pull::new(1);
        pull.poll_transmit(&records, start()).unwrap();
        let mut framed = vec![1, kind];
        framed.extend(&bytes);
        for message in [&bytes, &framed] {
            let _ = sync::role(message);
            let _ = sync::answer(&records, message).map(|answer| assert!(answer.len() <= MAX_MESSAGE));
            let _ = sync::handle_news(&mut records, message);
            let _ = pull.handle_message(&mut records, message);
        }
        prop_assert_eq!(records.len(), len);
    }
}

#[test]
fn equal_sets_cost_one_question() {
    let mut one = founded();
    crowd(&mut one, 0, 50);
    let (progress, cost) = pull(&mut one.clone(), &one, 7, || false);
    assert_eq!((progress, cost.questions), (Progress::Done, 1));
    assert!(cost.bytes < 120, "{cost:?}");
}

#[test]
fn one_record_more_among_a_thousand_members_costs_a_few_datagrams() {
    let mut one = founded();
    crowd(&mut one, 0, 1_000);
    let mut other = one.clone();
    let mut many = other.clone();
    one.revoke(Signer::Node(&ANNA), node(&seed(5)), NOW)
        .unwrap();
    let (_, cost) = pull(&mut other, &one, 7, || false);
    assert_eq!(ids(&one), ids(&other));
    assert!(cost.questions <= 4 && cost.bytes < 4_000, "{cost:?}");
    // A use of an invite, in the midst of others.
    crowd(&mut one, 1_000, 1);
    let (_, cost) = pull(&mut other, &one, 8, || false);
    assert_eq!(ids(&one), ids(&other));
    assert!(cost.questions <= 8 && cost.bytes < 8_000, "{cost:?}");
    // Who has much that the other lacks is not asked for it.
    crowd(&mut many, 1_000, 20);
    let (_, cost) = pull(&mut many, &other, 9, || false);
    assert!(many.len() > other.len());
    assert!(cost.bytes < 60_000, "{cost:?}");
}

#[test]
fn a_peer_that_is_silent_is_given_up_and_the_next_pull_goes_on() {
    let mut from = founded();
    crowd(&mut from, 0, 100);
    let mut to = Records::new(id());
    let mut left = 30;
    let (progress, _) = pull(&mut to, &from, 1, || {
        left -= i32::from(left > 0);
        left == 0
    });
    assert_eq!(progress, Progress::Silent);
    let half = to.len();
    assert!(half > 0 && half < from.len(), "{half}");
    let (progress, cost) = pull(&mut to, &from, 2, || false);
    assert_eq!((progress, cost.refused), (Progress::Done, 0));
    assert_eq!(ids(&to), ids(&from));
}

#[test]
fn news_are_taken_passed_on_and_what_hangs_on_nothing_is_said() {
    let mut here = founded();
    let mut there = here.clone();
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    join(&mut here, &ticket, &seed(1), "x").unwrap();
    let new: Vec<&[u8]> = here
        .iter()
        .filter(|record| !ids(&there).contains(&record.id().0))
        .map(Record::bytes)
        .collect();
    let messages = sync::news(new.iter().copied());
    assert_eq!(messages.len(), 1);
    assert_eq!(sync::role(&messages[0]), Some(Role::News));
    let heard = sync::handle_news(&mut there, &messages[0]).unwrap();
    assert_eq!(heard.new.len(), 2);
    assert_eq!(ids(&there), ids(&here));
    assert_eq!(
        sync::handle_news(&mut there, &messages[0]),
        Ok(Heard::default())
    );

    let mut late = founded();
    let [_, joined] = new[..] else { unreachable!() };
    let heard = sync::handle_news(&mut late, &sync::news([joined])[0]).unwrap();
    assert_eq!((heard.new.len(), heard.unchained), (0, 1));
    // Many records are several messages, none too long.
    let many = sync::news(std::iter::repeat_n(joined, 40));
    assert!(many.len() > 5 && many.iter().all(|message| message.len() <= MAX_MESSAGE));
}

#[test]
fn what_is_against_somebody_comes_before_who_else_is_there() {
    let mut from = founded();
    crowd(&mut from, 0, 200);
    from.revoke(Signer::Node(&ANNA), node(&seed(5)), NOW)
        .unwrap();
    let mut to = Records::new(id());
    let now = start();
    let mut pull = Pull::new(1);
    // After two answers: the outline, and the first records.
    for _ in 0..2 {
        let question = pull.poll_transmit(&to, now).unwrap();
        let answer = sync::answer(&from, &question).unwrap();
        pull.handle_message(&mut to, &answer).unwrap();
    }
    assert_eq!(to.standing(&node(&seed(5))), membership::Standing::Revoked);
}

#[test]
fn a_peer_that_lies_in_outlines_ends_nothing_and_grows_nothing() {
    let mut records = founded();
    crowd(&mut records, 0, 40);
    let now = start();
    let mut pull = Pull::new(1);
    let question = pull.poll_transmit(&records, now).unwrap();
    let honest = sync::answer(&founded(), &question).unwrap();
    // Pieces that go backwards, end early, or are cut.
    let head = 2 + 4 + 34;
    let mut backwards = honest[..head].to_vec();
    backwards.extend([0; 27]);
    let mut early = honest[..head].to_vec();
    early.extend([1; 27]);
    for lie in [
        &backwards[..],
        &early,
        &honest[..honest.len() - 1],
        &honest[..head],
    ] {
        assert_eq!(
            pull.handle_message(&mut records, lie),
            Err(SyncError::Message),
            "{lie:?}"
        );
    }
    // It still waits for an answer, and takes one.
    assert_eq!(
        pull.handle_message(&mut records, &honest),
        Ok(Heard::default())
    );
    assert_eq!(pull.progress(), Progress::Going);
}

#[test]
fn a_thousand_members_are_half_a_megabyte() {
    let mut records = founded();
    crowd(&mut records, 0, 999);
    let bytes = records.to_bytes().len();
    assert_eq!(records.roll().members().count(), 1_000);
    assert_eq!(records.len(), 3 + 2 * 999);
    assert!(bytes < 450_000, "{bytes}");
    let mut joined = Records::new(id());
    let (progress, cost) = pull(&mut joined, &records, 1, || false);
    assert_eq!((progress, cost.refused), (Progress::Done, 0));
    assert_eq!(ids(&joined), ids(&records));
    // Eight questions at a time, each answered by a full datagram.
    assert!(cost.rounds < 80, "{cost:?}");
    assert!(cost.bytes < bytes + bytes / 4, "{cost:?}");
}

#[test]
fn a_thousand_members_of_one_admin_outlive_its_revocation() {
    let mut records = with_admins(&[(&[2; 32], "bert")]);
    for n in 0..10u8 {
        let wide = Invitation {
            uses: 100,
            tags: Tags::default(),
            ..invitation()
        };
        let ticket = InviteSeed::from_bytes([n; 16]);
        records
            .invite(Signer::Node(&[2; 32]), &ticket, wide, NOW)
            .unwrap();
        for m in 0..100 {
            let n = u32::from(n) * 100 + m;
            let joined = forge_join(&[(n / 100) as u8; 16], &seed(n), &format!("node-{n}"), NOW);
            records.insert(&joined).unwrap();
        }
    }
    let issued = records
        .revoke(Signer::Node(&ANNA), node(&[2; 32]), NOW)
        .unwrap();
    assert_eq!(issued.0.len(), 84 + 1);
    assert!(issued.0.iter().map(Vec::len).sum::<usize>() < 30_000);
    assert_eq!(records.roll().members().count(), 1_001);
}
