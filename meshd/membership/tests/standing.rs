//! Who is what after whatever may happen, and whatever may be tried: the rules of `docs/protocol.md`, one by one.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use ed25519_dalek::SigningKey;
use membership::{
    Admission, Approval, InsertError, Inserted, Invitation, IssueError, JoinError, RecordError,
    Records, Refusal, Signer, Standing, Suspension, Tag, Tags, Warning,
};

const BERT: [u8; 32] = [2; 32];
const CARL: [u8; 32] = [3; 32];
const DORA: [u8; 32] = [4; 32];
const EMIL: [u8; 32] = [5; 32];

#[test]
fn a_network_begins_with_one_member_who_is_an_admin() {
    let records = founded();
    let roll = records.roll();
    let anna = roll.member(&node(&ANNA)).unwrap();
    assert!(anna.admin);
    assert_eq!((anna.name.as_str(), anna.since), ("anna", NOW));
    assert_eq!(roll.network_name(), Some(&name("home")));
    assert_eq!(roll.named("anna"), Some(&node(&ANNA)));
    assert_eq!(records.standing(&node(&BERT)), Standing::Unknown);
}

#[test]
fn whoever_has_a_ticket_is_let_in_with_the_tags_and_the_name_of_the_invite() {
    let mut records = founded();
    let tags = Tags::new(["server".parse::<Tag>().unwrap()]).unwrap();
    let ticket = invite(
        &mut records,
        &ANNA,
        1,
        Invitation {
            name: Some(name("nas")),
            tags: tags.clone(),
            ..invitation()
        },
    );
    assert_eq!(
        join(&mut records, &ticket, &BERT, "whatever"),
        Ok(Admission::Member)
    );
    let roll = records.roll();
    let bert = roll.member(&node(&BERT)).unwrap();
    assert_eq!(
        (bert.name.as_str(), &bert.tags, bert.admin),
        ("nas", &tags, false)
    );
}

#[test]
fn a_one_use_ticket_lets_in_one_node_which_may_come_again() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Member)
    );
    let len = records.len();
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Member)
    );
    assert_eq!(records.len(), len, "once is enough");
    assert_eq!(
        join(&mut records, &ticket, &CARL, "carl"),
        Err(JoinError::Refused(Refusal::Used))
    );
    assert_eq!(records.len(), len);
    // A member needs no ticket, and uses none up.
    let other = invite(&mut records, &ANNA, 2, invitation());
    assert_eq!(
        join(&mut records, &other, &BERT, "bert"),
        Ok(Admission::Member)
    );
    assert_eq!(
        join(&mut records, &other, &CARL, "carl"),
        Ok(Admission::Member)
    );
}

#[test]
fn a_ticket_used_twice_in_a_partition_suspends_both_until_an_admin_approves_one() {
    let mut here = founded();
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    let mut there = here.clone();
    assert_eq!(
        join(&mut here, &ticket, &BERT, "bert"),
        Ok(Admission::Member)
    );
    assert_eq!(
        join(&mut there, &ticket, &CARL, "carl"),
        Ok(Admission::Member)
    );
    merge(&mut here, &mut there);
    for seed in [&BERT, &CARL] {
        assert_eq!(suspension(&here, seed), Some(Suspension::InviteReused));
    }
    let reused = here.roll().warnings()[0].clone();
    assert_eq!(reused.code(), "INVITE-REUSED");
    let Warning::InviteReused { nodes, .. } = reused else {
        unreachable!()
    };
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        join(&mut here, &ticket, &BERT, "bert"),
        Err(JoinError::Refused(Refusal::Suspended))
    );

    here.approve(Signer::Node(&ANNA), &node(&BERT), NOW)
        .unwrap();
    merge(&mut here, &mut there);
    assert!(is_member(&there, &BERT) && !is_member(&there, &CARL));
    assert_eq!(
        codes(&there),
        ["INVITE-REUSED"],
        "the other one is still there"
    );
    there.revoke(Signer::Node(&ANNA), node(&CARL), NOW).unwrap();
    assert!(is_member(&there, &BERT));
    assert_eq!(codes(&there), [""; 0]);
}

#[test]
fn a_node_that_joins_at_two_doors_in_a_partition_has_used_its_ticket_once() {
    let mut here = founded();
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    let mut there = here.clone();
    join_at(&mut here, &ANNA, &ticket, &BERT, "bert", NOW).unwrap();
    join_at(&mut there, &ANNA, &ticket, &BERT, "robert", NOW + 9).unwrap();
    let len = here.len();
    merge(&mut here, &mut there);
    assert!(is_member(&here, &BERT));
    assert_eq!((here.invites()[0].used, here.len()), (1, len));
    // Approved is the pair of node and ticket, whichever of its records is kept.
    let mut third = founded();
    copy(&there, &mut third);
    join_at(&mut third, &ANNA, &ticket, &CARL, "carl", NOW).unwrap_err();
    assert!(
        third
            .insert(&forge_join(&[1; 16], &CARL, "carl", NOW))
            .is_ok()
    );
    assert_eq!(suspension(&third, &BERT), Some(Suspension::InviteReused));
    third
        .approve(Signer::Node(&ANNA), &node(&BERT), NOW)
        .unwrap();
    for later in 0..8 {
        // It is the smaller one or not; the approval is good for each.
        let _ = third.insert(&forge_join(&[1; 16], &BERT, "bert", NOW + later));
        assert!(is_member(&third, &BERT));
    }
}

#[test]
fn a_revoked_machine_does_not_come_back_with_its_ticket() {
    let mut here = founded();
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    let mut there = here.clone();
    join(&mut here, &ticket, &BERT, "bert").unwrap();
    here.revoke(Signer::Node(&ANNA), node(&BERT), NOW).unwrap();
    assert_eq!(
        join(&mut here, &ticket, &CARL, "carl"),
        Err(JoinError::Refused(Refusal::Used)),
        "the use by the revoked key is one"
    );
    assert_eq!(
        join(&mut here, &ticket, &BERT, "bert"),
        Err(JoinError::Refused(Refusal::Revoked))
    );
    // With a new key, where nobody has heard of the first use.
    join(&mut there, &ticket, &CARL, "carl").unwrap();
    merge(&mut here, &mut there);
    assert_eq!(suspension(&here, &CARL), Some(Suspension::InviteReused));
}

#[test]
fn a_lost_machine_comes_back_with_a_new_key_under_its_name() {
    let mut records = founded();
    let laptop = Invitation {
        name: Some(name("laptop")),
        ..invitation()
    };
    let ticket = invite(&mut records, &ANNA, 1, laptop.clone());
    join(&mut records, &ticket, &BERT, "x").unwrap();
    records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    assert_eq!(records.roll().named("laptop"), None);
    let ticket = invite(&mut records, &ANNA, 2, laptop);
    join(&mut records, &ticket, &CARL, "x").unwrap();
    assert_eq!(records.roll().named("laptop"), Some(&node(&CARL)));
    assert_eq!(records.standing(&node(&BERT)), Standing::Revoked);
}

#[test]
fn an_expired_ticket_is_refused_and_a_use_of_later_does_not_count() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let late = NOW + DAY + 1;
    let joined = join_at(&mut records, &ANNA, &ticket, &BERT, "bert", late);
    assert_eq!(joined.unwrap_err(), JoinError::Refused(Refusal::Expired));
    // A member of bad will passes on what no doorkeeper would have let in.
    let bytes = forge_join(&[1; 16], &BERT, "bert", late);
    assert!(matches!(records.insert(&bytes), Ok(Inserted::New(_))));
    assert_eq!(suspension(&records, &BERT), Some(Suspension::InviteExpired));
    records
        .approve(Signer::Node(&ANNA), &node(&BERT), late)
        .unwrap();
    assert!(is_member(&records, &BERT));
}

#[test]
fn a_use_is_of_no_earlier_time_than_its_invite_whatever_a_doorkeepers_clock_says() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join_at(&mut records, &ANNA, &ticket, &BERT, "bert", 0).unwrap();
    let roll = records.roll();
    assert_eq!(roll.member(&node(&BERT)).unwrap().since, NOW);
}

#[test]
fn an_invite_is_good_though_its_name_was_last_given_by_a_clock_that_is_ahead() {
    let mut records = with_admins(&[(&BERT, "bert")]);
    let ahead = NOW + 365 * DAY;
    let tags = Tags::default;
    records
        .enrol(
            Signer::Node(&BERT),
            node(&CARL),
            name("laptop"),
            tags(),
            ahead,
        )
        .unwrap();
    let laptop = Invitation {
        name: Some(name("laptop")),
        ..invitation()
    };
    let ticket = invite(&mut records, &ANNA, 1, laptop);
    assert_eq!(
        join(&mut records, &ticket, &DORA, "x"),
        Ok(Admission::Member)
    );
    assert_eq!(shown(&records, &DORA), "laptop");
    assert!(shown(&records, &CARL).starts_with("laptop-"));
}

#[test]
fn whoever_needs_approval_waits_for_it() {
    let mut records = founded();
    let ticket = invite(
        &mut records,
        &ANNA,
        1,
        Invitation {
            approval: Approval::Needed,
            ..invitation()
        },
    );
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Pending)
    );
    assert!(!is_member(&records, &BERT));
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Pending)
    );
    records
        .approve(Signer::Node(&ANNA), &node(&BERT), NOW)
        .unwrap();
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Member)
    );
}

#[test]
fn whoever_left_is_no_member_and_may_come_again_with_another_ticket() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join(&mut records, &ticket, &BERT, "bert").unwrap();
    records.leave(&BERT, NOW).unwrap();
    assert_eq!(records.standing(&node(&BERT)), Standing::Left);
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Err(JoinError::Refused(Refusal::Used))
    );
    assert_eq!(records.leave(&BERT, NOW), Err(IssueError::UnknownNode));
    let ticket = invite(&mut records, &ANNA, 2, invitation());
    assert_eq!(
        join(&mut records, &ticket, &BERT, "bert"),
        Ok(Admission::Member)
    );
    assert_eq!(records.leave(&CARL, NOW), Err(IssueError::UnknownNode));
}

#[test]
fn nobody_leaves_for_another() {
    let mut records = with_admins(&[(&BERT, "bert")]);
    let is_annas = |record: &&membership::Record| matches!(&record.statement, membership::Statement::Enrol { node: of, .. } if *of == node(&ANNA));
    let subject = records.iter().find(is_annas).unwrap().id();
    let body = [&[1][..], &subject.0].concat();
    let bert = SigningKey::from_bytes(&BERT);
    let bytes = forge(&id(), 9, "meshd leave v1", NOW, &body, &[&bert]);
    assert!(matches!(records.insert(&bytes), Ok(Inserted::New(_))));
    assert!(is_member(&records, &ANNA) && is_member(&records, &BERT));
}

#[test]
fn a_name_is_whose_an_admin_says_and_equal_claims_have_a_part_of_the_key() {
    let mut records = founded();
    let ticket = invite(
        &mut records,
        &ANNA,
        1,
        Invitation {
            uses: 9,
            ..invitation()
        },
    );
    join(&mut records, &ticket, &BERT, "db").unwrap();
    assert_eq!(shown(&records, &BERT), "db");
    join(&mut records, &ticket, &CARL, "db").unwrap();
    let part = |seed: &[u8; 32]| {
        let key = node(seed).0;
        format!(
            "db-{:02x}{:02x}{:02x}{:02x}",
            key[0], key[1], key[2], key[3]
        )
    };
    for seed in [&BERT, &CARL] {
        assert_eq!(shown(&records, seed), part(seed));
        assert_eq!(records.roll().named(&part(seed)), Some(&node(seed)));
    }
    assert_eq!(records.roll().named("db"), None);
    assert_eq!(codes(&records), ["NAME-CONFLICT"]);

    records
        .name(Signer::Node(&ANNA), node(&CARL), name("db"), NOW)
        .unwrap();
    assert_eq!(
        (shown(&records, &CARL), shown(&records, &BERT)),
        ("db".to_owned(), part(&BERT))
    );
    // What is said last counts, even with a clock that has gone back.
    records
        .name(Signer::Node(&ANNA), node(&BERT), name("db"), NOW - DAY)
        .unwrap();
    assert_eq!(
        (shown(&records, &BERT), shown(&records, &CARL)),
        ("db".to_owned(), part(&CARL))
    );
    records
        .name(Signer::Node(&ANNA), node(&BERT), name("web"), NOW - DAY)
        .unwrap();
    assert_eq!(
        (shown(&records, &BERT), shown(&records, &CARL)),
        ("web".to_owned(), "db".to_owned())
    );
}

#[test]
fn a_member_that_claims_anothers_name_does_not_get_it() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join(&mut records, &ticket, &BERT, "anna").unwrap();
    assert_eq!(records.roll().named("anna"), Some(&node(&ANNA)));
    assert!(shown(&records, &BERT).starts_with("anna-"));
    // Nor what would be shown for it: such names cannot be claimed.
    let shown = shown(&records, &BERT);
    assert!(shown.parse::<membership::Name>().is_err());
}

#[test]
fn only_admins_invite_approve_name_enrol_and_revoke() {
    let mut records = founded();
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join(&mut records, &ticket, &BERT, "bert").unwrap();
    let bert = Signer::Node(&BERT);
    let seed = membership::InviteSeed::from_bytes([7; 16]);
    let refused = Err(IssueError::NotAdmin);
    assert_eq!(records.invite(bert, &seed, invitation(), NOW), refused);
    assert_eq!(
        records.enrol(bert, node(&CARL), name("c"), Tags::default(), NOW),
        refused
    );
    assert_eq!(records.name(bert, node(&BERT), name("c"), NOW), refused);
    assert_eq!(records.approve(bert, &node(&BERT), NOW), refused);
    assert_eq!(records.revoke(bert, node(&ANNA), NOW), refused);
    // Nor by hand.
    let secret = SigningKey::from_bytes(&BERT);
    let body = [&[0][..], &node(&ANNA).0, &[0]].concat();
    let bytes = forge(&id(), 8, "meshd revoke v1", NOW, &body, &[&secret]);
    assert_eq!(records.insert(&bytes), Err(InsertError::Unchained));
    // Admins are named by the network key, and by nobody else.
    let anna = SigningKey::from_bytes(&ANNA);
    let bytes = forge(&id(), 2, "meshd admin v1", NOW, &node(&BERT).0, &[&anna]);
    assert_eq!(records.insert(&bytes), Err(InsertError::Unchained));
    let bytes = forge(&id(), 1, "meshd network v1", NOW, &label("mine"), &[&anna]);
    assert_eq!(records.insert(&bytes), Err(InsertError::Unchained));
    // And nobody but it disowns.
    let body = [&[0][..], &node(&BERT).0, &[1]].concat();
    let bytes = forge(&id(), 8, "meshd revoke v1", NOW, &body, &[&anna]);
    assert_eq!(records.insert(&bytes), Err(InsertError::Unchained));
    let foreign = membership::NetworkKey::from_seed(&[8; 32]);
    assert_eq!(
        records.promote(&foreign, node(&BERT), NOW),
        Err(IssueError::NotNetworkKey)
    );
}

#[test]
fn a_revocation_sticks_across_a_partition_and_against_everything_but_the_network_key() {
    let mut here = with_admins(&[(&BERT, "bert")]);
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    join(&mut here, &ticket, &CARL, "carl").unwrap();
    let mut there = here.clone();
    here.revoke(Signer::Node(&ANNA), node(&CARL), NOW).unwrap();
    // The other side goes on with it: approves it, names it, enrols it.
    there
        .name(Signer::Node(&BERT), node(&CARL), name("kept"), NOW + 1)
        .unwrap();
    there
        .enrol(
            Signer::Node(&BERT),
            node(&CARL),
            name("kept"),
            Tags::default(),
            NOW + 1,
        )
        .unwrap();
    assert!(is_member(&there, &CARL));
    merge(&mut here, &mut there);
    assert_eq!(there.standing(&node(&CARL)), Standing::Revoked);
    for result in [
        there.enrol(
            Signer::Node(&BERT),
            node(&CARL),
            name("kept"),
            Tags::default(),
            NOW + 2,
        ),
        there.approve(Signer::Node(&BERT), &node(&CARL), NOW + 2),
        there.promote(&network(), node(&CARL), NOW + 2),
    ] {
        assert_eq!(result, Err(IssueError::Revoked));
    }
    // The one who revoked is revoked: what it forbade stands.
    there
        .revoke(Signer::Node(&BERT), node(&ANNA), NOW + 3)
        .unwrap();
    assert_eq!(there.standing(&node(&CARL)), Standing::Revoked);
}

#[test]
fn whom_a_revoked_admin_let_in_stays_if_it_was_known_and_nobody_comes_after() {
    let mut here = with_admins(&[(&BERT, "bert")]);
    let known = invite(&mut here, &BERT, 1, invitation());
    let unused = invite(&mut here, &BERT, 2, invitation());
    let elsewhere = invite(&mut here, &BERT, 3, invitation());
    join(&mut here, &known, &CARL, "carl").unwrap();
    here.name(Signer::Node(&BERT), node(&CARL), name("box"), NOW)
        .unwrap();
    let mut there = here.clone();
    join(&mut there, &elsewhere, &EMIL, "emil").unwrap();

    here.revoke(Signer::Node(&ANNA), node(&BERT), NOW).unwrap();
    assert!(is_member(&here, &CARL));
    assert_eq!(shown(&here, &CARL), "box");
    assert_eq!(
        join(&mut here, &unused, &DORA, "dora"),
        Err(JoinError::Refused(Refusal::Withdrawn))
    );
    merge(&mut here, &mut there);
    assert_eq!(suspension(&here, &EMIL), Some(Suspension::AdminRevoked));
    assert_eq!(codes(&here), ["ADMIN-REVOKED"]);
    here.approve(Signer::Node(&ANNA), &node(&EMIL), NOW)
        .unwrap();
    assert!(is_member(&here, &EMIL) && codes(&here).is_empty());
}

#[test]
fn nothing_that_a_revoked_admin_signs_later_lets_anybody_in_whatever_its_date() {
    let mut records = with_admins(&[(&BERT, "bert")]);
    let before = records.clone();
    records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    assert_eq!(
        records.enrol(
            Signer::Node(&BERT),
            node(&CARL),
            name("c"),
            Tags::default(),
            NOW - DAY
        ),
        Err(IssueError::NotAdmin)
    );
    // With a set in which it has not been revoked, and dates before that.
    let mut old = before;
    let ticket = invite(&mut old, &BERT, 1, invitation());
    join(&mut old, &ticket, &CARL, "carl").unwrap();
    old.enrol(
        Signer::Node(&BERT),
        node(&DORA),
        name("dora"),
        Tags::default(),
        NOW - DAY,
    )
    .unwrap();
    old.name(Signer::Node(&BERT), node(&ANNA), name("bertha"), NOW - DAY)
        .unwrap();
    old.approve(Signer::Node(&BERT), &node(&DORA), NOW - DAY)
        .unwrap();
    copy(&old, &mut records);
    assert!(!is_member(&records, &CARL) && !is_member(&records, &DORA));
    assert_eq!(shown(&records, &ANNA), "anna");
    // An approval of its own of what it let in does not count either.
    let revoked = records.iter().find(|record| {
        matches!(&record.statement, membership::Statement::Enrol { node: of, .. } if *of == node(&DORA))
    });
    let body = [&[1][..], &revoked.unwrap().id().0].concat();
    let bert = SigningKey::from_bytes(&BERT);
    let bytes = forge(&id(), 7, "meshd approve v1", NOW - DAY, &body, &[&bert]);
    assert!(matches!(records.insert(&bytes), Ok(Inserted::New(_))));
    assert_eq!(suspension(&records, &DORA), Some(Suspension::AdminRevoked));
}

#[test]
fn two_admins_that_revoke_each_other_are_both_out_until_the_network_key_decides() {
    let mut here = with_admins(&[(&BERT, "bert")]);
    let ticket = invite(&mut here, &ANNA, 1, invitation());
    join(&mut here, &ticket, &CARL, "carl").unwrap();
    let ticket = invite(&mut here, &BERT, 2, invitation());
    join(&mut here, &ticket, &DORA, "dora").unwrap();
    let mut there = here.clone();
    here.revoke(Signer::Node(&ANNA), node(&BERT), NOW).unwrap();
    there.revoke(Signer::Node(&BERT), node(&ANNA), NOW).unwrap();
    merge(&mut here, &mut there);
    for seed in [&ANNA, &BERT] {
        assert_eq!(here.standing(&node(seed)), Standing::Revoked);
    }
    for seed in [&CARL, &DORA] {
        assert_eq!(suspension(&here, seed), Some(Suspension::AdminRevoked));
    }
    assert_eq!(
        here.approve(Signer::Node(&ANNA), &node(&CARL), NOW),
        Err(IssueError::NotAdmin)
    );
    // Bert's key had been stolen. Anna's side holds again, with whom it kept in.
    here.disown(&network(), node(&BERT), &[], NOW).unwrap();
    assert_eq!(here.standing(&node(&BERT)), Standing::Revoked);
    for seed in [&ANNA, &CARL, &DORA] {
        assert!(is_member(&here, seed));
    }
    assert!(here.roll().member(&node(&ANNA)).unwrap().admin);
    assert_eq!(codes(&here), ["REVOCATION-FALLEN"]);
}

#[test]
fn a_thief_with_an_admins_key_is_undone_by_one_record_whatever_it_signs_afterwards() {
    let mut records = with_admins(&[(&BERT, "bert"), (&EMIL, "emil")]);
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join(&mut records, &ticket, &CARL, "carl").unwrap();
    let ticket = invite(&mut records, &ANNA, 2, invitation());
    join(&mut records, &ticket, &DORA, "dora").unwrap();
    // One of Bert's revocations was meant.
    let meant = records
        .revoke(Signer::Node(&BERT), node(&DORA), NOW)
        .unwrap();
    let meant = membership::Record::decode(&id(), &meant.0[0]).unwrap().id();
    // The thief throws everybody out.
    for seed in [&ANNA, &CARL, &EMIL] {
        records
            .revoke(Signer::Node(&BERT), node(seed), NOW)
            .unwrap();
        assert!(!is_member(&records, seed));
    }
    let mut thief = records.clone();
    records
        .disown(&network(), node(&BERT), &[meant], NOW)
        .unwrap();
    for seed in [&ANNA, &CARL, &EMIL] {
        assert!(
            is_member(&records, seed),
            "{:?}",
            records.standing(&node(seed))
        );
    }
    assert_eq!(records.standing(&node(&DORA)), Standing::Revoked);
    // And signs on.
    let bert = SigningKey::from_bytes(&BERT);
    let body = [&[0][..], &node(&CARL).0, &[0]].concat();
    let bytes = forge(&id(), 8, "meshd revoke v1", NOW - 7, &body, &[&bert]);
    assert!(matches!(thief.insert(&bytes), Ok(Inserted::New(_))));
    // It approves what it has signed; so does another admin, which has not the say either.
    let id_of = |bytes: &[u8]| membership::Record::decode(&id(), bytes).unwrap().id().0;
    let body = [&[1][..], &id_of(&bytes)].concat();
    for seed in [&BERT, &EMIL] {
        let secret = SigningKey::from_bytes(seed);
        let approval = forge(&id(), 7, "meshd approve v1", NOW, &body, &[&secret]);
        assert!(matches!(thief.insert(&approval), Ok(Inserted::New(_))));
    }
    merge(&mut records, &mut thief);
    assert!(is_member(&records, &CARL));
    assert_eq!(records.standing(&node(&BERT)), Standing::Revoked);
}

#[test]
fn a_withdrawn_ticket_lets_nobody_in_and_keeps_who_is_in() {
    let mut here = founded();
    let ticket = invite(
        &mut here,
        &ANNA,
        1,
        Invitation {
            uses: 5,
            ..invitation()
        },
    );
    join(&mut here, &ticket, &BERT, "bert").unwrap();
    let mut there = here.clone();
    join(&mut there, &ticket, &CARL, "carl").unwrap();
    let key = here.invites()[0].key;
    here.withdraw(Signer::Node(&ANNA), &key, NOW).unwrap();
    assert!(here.invites()[0].revoked);
    assert_eq!(
        join(&mut here, &ticket, &DORA, "dora"),
        Err(JoinError::Refused(Refusal::Withdrawn))
    );
    merge(&mut here, &mut there);
    assert!(is_member(&here, &BERT));
    assert_eq!(suspension(&here, &CARL), Some(Suspension::InviteRevoked));
    assert_eq!(here.invites()[0].used, 2);
}

#[test]
fn records_of_one_network_are_nothing_in_another() {
    let records = with_admins(&[(&BERT, "bert")]);
    let other = membership::NetworkKey::from_seed(&[8; 32]);
    let mut elsewhere = Records::found(&other, name("other"), node(&ANNA), name("anna"), NOW).0;
    let len = elsewhere.len();
    for record in records.iter() {
        let refused = elsewhere.insert(record.bytes());
        assert!(matches!(
            refused,
            Err(InsertError::Unchained | InsertError::Record(RecordError::Signature))
        ));
    }
    assert_eq!(elsewhere.len(), len);
    // The same admin key in both: her records are refused for their signatures.
    let ticket = invite(&mut records.clone(), &ANNA, 1, invitation());
    let mut with = records.clone();
    invite(&mut with, &ANNA, 1, invitation());
    let invited = with
        .iter()
        .find(|record| !ids(&records).contains(&record.id().0))
        .unwrap();
    assert_eq!(
        elsewhere.insert(invited.bytes()),
        Err(RecordError::Signature.into())
    );
    assert_ne!(ticket.seed.key(&id()), ticket.seed.key(&other.id()));
    let file = records.to_bytes();
    assert_eq!(
        Records::from_bytes(other.id(), &file).unwrap_err(),
        RecordError::Foreign
    );
}

#[test]
fn an_admin_does_not_revoke_itself_and_a_revocation_is_said_once() {
    let mut records = founded();
    assert_eq!(
        records.revoke(Signer::Node(&ANNA), node(&ANNA), NOW),
        Err(IssueError::Itself)
    );
    let first = records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW)
        .unwrap();
    assert_eq!(first.0.len(), 1);
    let again = records
        .revoke(Signer::Node(&ANNA), node(&BERT), NOW + 1)
        .unwrap();
    assert_eq!(again.0.len(), 0);
}

#[test]
fn the_last_name_of_a_network_counts() {
    let mut records = founded();
    let mut other = records.clone();
    records.rename(&network(), name("work"), NOW - DAY).unwrap();
    other.rename(&network(), name("play"), NOW + DAY).unwrap();
    merge(&mut records, &mut other);
    assert_eq!(records.roll().network_name(), Some(&name("play")));
    assert_eq!(records.len(), 3, "one name is kept");
}

#[test]
fn a_file_is_read_back_and_damage_costs_what_is_damaged() {
    let mut records = with_admins(&[(&BERT, "bert")]);
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    join(&mut records, &ticket, &CARL, "carl").unwrap();
    let file = records.to_bytes();
    let (read, damaged) = Records::from_bytes(id(), &file).unwrap();
    assert_eq!((ids(&read), damaged), (ids(&records), 0));
    assert_eq!(read.roll(), records.roll());

    let (cut, damaged) = Records::from_bytes(id(), &file[..file.len() - 1]).unwrap();
    assert_eq!((cut.len(), damaged), (records.len() - 1, 1));
    assert!(is_member(&cut, &ANNA));
    let mut flipped = file.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (read, damaged) = Records::from_bytes(id(), &flipped).unwrap();
    assert_eq!((read.len(), damaged), (records.len() - 1, 1));
    flipped[14] = b'2';
    assert_eq!(
        Records::from_bytes(id(), &flipped).unwrap_err(),
        RecordError::Version(b'2')
    );
    assert_eq!(
        Records::from_bytes(id(), &file[..9]).unwrap_err(),
        RecordError::Length
    );
}
