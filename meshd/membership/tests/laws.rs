//! Laws: what is in a set, and what follows from it, does not depend on the order of arrival; bytes of strangers do no harm; nobody makes
//! a set grow but within bounds.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use ed25519_dalek::SigningKey;
use membership::{
    Approval, InsertError, Inserted, Invitation, InviteSeed, Record, RecordError, Records, Signer,
    Tags,
};
use proptest::prelude::*;

const ADMINS: [([u8; 32], &str); 3] = [([1; 32], "anna"), ([2; 32], "bert"), ([3; 32], "emil")];

/// What somebody does at one of three sides of a partition.
#[derive(Clone, Debug)]
enum Deed {
    Invite {
        admin: usize,
        ticket: u8,
        uses: u16,
        approval: bool,
        name: bool,
    },
    Join {
        ticket: u8,
        node: u32,
        issued: u64,
    },
    Enrol {
        admin: usize,
        node: u32,
        name: u8,
    },
    Name {
        admin: usize,
        node: u32,
        name: u8,
    },
    Approve {
        admin: usize,
        node: u32,
    },
    Revoke {
        admin: usize,
        node: u32,
    },
    RevokeAdmin {
        admin: usize,
        other: usize,
    },
    Withdraw {
        admin: usize,
        invite: usize,
    },
    Disown {
        admin: usize,
    },
    Leave {
        node: u32,
    },
}

fn deed() -> impl Strategy<Value = (usize, u64, Deed)> {
    let admin = 0..ADMINS.len();
    let ticket = 0..4u8;
    let node = 0..8u32;
    let deed = prop_oneof![
        4 => (admin.clone(), ticket.clone(), 1..3u16, any::<bool>(), any::<bool>()).prop_map(
            |(admin, ticket, uses, approval, name)| Deed::Invite { admin, ticket, uses, approval, name }),
        8 => (ticket, node.clone(), 0..3u64).prop_map(
            |(ticket, node, days)| Deed::Join { ticket, node, issued: NOW + days * DAY }),
        2 => (admin.clone(), node.clone(), 0..3u8).prop_map(|(admin, node, name)| Deed::Enrol { admin, node, name }),
        2 => (admin.clone(), node.clone(), 0..3u8).prop_map(|(admin, node, name)| Deed::Name { admin, node, name }),
        2 => (admin.clone(), node.clone()).prop_map(|(admin, node)| Deed::Approve { admin, node }),
        2 => (admin.clone(), node.clone()).prop_map(|(admin, node)| Deed::Revoke { admin, node }),
        1 => (admin.clone(), admin.clone()).prop_map(|(admin, other)| Deed::RevokeAdmin { admin, other }),
        1 => (admin.clone(), 0..4usize).prop_map(|(admin, invite)| Deed::Withdraw { admin, invite }),
        1 => admin.prop_map(|admin| Deed::Disown { admin }),
        1 => node.prop_map(|node| Deed::Leave { node }),
    ];
    (0..3usize, 0..1_000u64, deed)
}

fn label_of(n: u8) -> membership::Name {
    name(["db", "web", "nas"][usize::from(n)])
}

/// Does it; what is refused is no deed.
fn act(records: &mut Records, now: u64, deed: &Deed) {
    let signer = |admin: &usize| Signer::Node(&ADMINS[*admin].0);
    let _ = match deed {
        Deed::Invite {
            admin,
            ticket,
            uses,
            approval,
            name: named,
        } => {
            let invitation = Invitation {
                uses: *uses,
                expires: NOW + DAY,
                approval: if *approval {
                    Approval::Needed
                } else {
                    Approval::NotNeeded
                },
                name: (*named && *uses == 1).then(|| label_of(0)),
                tags: Tags::default(),
            };
            records.invite(
                signer(admin),
                &InviteSeed::from_bytes([*ticket; 16]),
                invitation,
                now,
            )
        }
        Deed::Join {
            ticket,
            node: n,
            issued,
        } => {
            let bytes = forge_join(&[*ticket; 16], &seed(*n), "db", *issued);
            records
                .insert(&bytes)
                .map(|_| membership::Issued::default())
                .map_err(|_| membership::IssueError::Full)
        }
        Deed::Enrol {
            admin,
            node: n,
            name,
        } => records.enrol(
            signer(admin),
            node(&seed(*n)),
            label_of(*name),
            Tags::default(),
            now,
        ),
        Deed::Name {
            admin,
            node: n,
            name,
        } => records.name(signer(admin), node(&seed(*n)), label_of(*name), now),
        Deed::Approve { admin, node: n } => records.approve(signer(admin), &node(&seed(*n)), now),
        Deed::Revoke { admin, node: n } => records.revoke(signer(admin), node(&seed(*n)), now),
        Deed::RevokeAdmin { admin, other } => {
            records.revoke(signer(admin), node(&ADMINS[*other].0), now)
        }
        Deed::Withdraw { admin, invite } => match records.invites().get(*invite) {
            Some(invite) => records.withdraw(signer(admin), &invite.key, now),
            None => Err(membership::IssueError::UnknownInvite),
        },
        Deed::Disown { admin } => records.disown(&network(), node(&ADMINS[*admin].0), &[], now),
        Deed::Leave { node: n } => records.leave(&seed(*n), now),
    };
}

fn sides(deeds: &[(usize, u64, Deed)]) -> [Records; 3] {
    let founded = with_admins(&[(&ADMINS[1].0, "bert"), (&ADMINS[2].0, "emil")]);
    let mut sides = [founded.clone(), founded.clone(), founded];
    for (side, later, deed) in deeds {
        act(&mut sides[*side], NOW + later, deed);
    }
    sides
}

/// All of these records, in their order, as often as it takes.
fn union<'a>(records: impl Iterator<Item = &'a [u8]> + Clone) -> Records {
    let mut union = Records::new(id());
    loop {
        let revision = union.revision();
        for bytes in records.clone() {
            let _ = union.insert(bytes);
        }
        if union.revision() == revision {
            return union;
        }
    }
}

fn of<'a>(sides: &'a [&'a Records]) -> impl Iterator<Item = &'a [u8]> + Clone {
    sides.iter().flat_map(|side| bytes_of(side))
}

fn bytes_of(records: &Records) -> Vec<&[u8]> {
    records.iter().map(Record::bytes).collect()
}

fn same(one: &Records, other: &Records) -> Result<(), TestCaseError> {
    prop_assert_eq!(ids(one), ids(other));
    prop_assert_eq!(one.roll(), other.roll());
    prop_assert_eq!(one.invites(), other.invites());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn union_is_commutative_associative_and_idempotent(deeds in prop::collection::vec(deed(), 1..48)) {
        let [a, b, c] = sides(&deeds);
        let ab = union(of(&[&a, &b]));
        let bc = union(of(&[&b, &c]));
        same(&ab, &union(of(&[&b, &a])))?;
        same(&union(of(&[&ab, &c])), &union(of(&[&a, &bc])))?;
        same(&union(of(&[&ab, &a, &b, &ab])), &ab)?;
        let (read, damaged) = Records::from_bytes(id(), &ab.to_bytes()).unwrap();
        prop_assert_eq!(damaged, 0);
        same(&read, &ab)?;
    }

    #[test]
    fn the_order_of_arrival_makes_no_difference(
        deeds in prop::collection::vec(deed(), 1..48),
        keys in prop::collection::vec(any::<u32>(), 256),
    ) {
        let [a, b, c] = sides(&deeds);
        let all = union(of(&[&a, &b, &c]));
        let sides = [&a, &b, &c];
        let keyed = of(&sides).zip(keys.into_iter().cycle());
        let mut shuffled: Vec<(u32, &[u8])> = keyed.map(|(bytes, key)| (key, bytes)).collect();
        shuffled.sort();
        same(&union(shuffled.iter().map(|(_, bytes)| *bytes)), &all)?;
    }

    #[test]
    fn a_revocation_by_somebody_who_is_not_disowned_is_never_undone(deeds in prop::collection::vec(deed(), 1..48)) {
        let [a, b, c] = sides(&deeds);
        let all = union(of(&[&a, &b, &c]));
        let mut disowned = Vec::new();
        for record in all.iter() {
            if let membership::Statement::Revoke { target: membership::Target::Node(node), past: membership::Past::Falls } = &record.statement {
                disowned.push(node.0);
            }
        }
        for record in all.iter() {
            if let membership::Statement::Revoke { target: membership::Target::Node(node), .. } = &record.statement
                && !disowned.contains(&record.signer)
            {
                prop_assert_eq!(all.standing(node), membership::Standing::Revoked);
            }
        }
    }

    #[test]
    fn names_are_distinct_labels_and_are_found_again(deeds in prop::collection::vec(deed(), 1..48)) {
        let [a, b, c] = sides(&deeds);
        let roll = union(of(&[&a, &b, &c])).roll();
        let mut seen = std::collections::BTreeSet::new();
        for (node, member) in roll.members() {
            prop_assert!(member.name.len() <= 63);
            prop_assert!(seen.insert(member.name.clone()), "{} twice", member.name);
            prop_assert_eq!(roll.named(&member.name), Some(node));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_a_record(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut records = founded();
        prop_assert!(records.insert(&bytes).is_err());
        prop_assert!(Records::from_bytes(id(), &bytes).is_err());
    }

    #[test]
    fn a_record_that_was_changed_is_refused(
        deeds in prop::collection::vec(deed(), 4..16),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        pick in any::<prop::sample::Index>(),
    ) {
        let [a, ..] = sides(&deeds);
        let mut bytes = bytes_of(&a)[pick.index(a.len())].to_vec();
        let signatures = if bytes[1] == 4 { 128 } else { 64 };
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut set = a.clone();
        match set.insert(&bytes) {
            // Its signatures are no part of what a record is: they are not looked at if it is here.
            Ok(Inserted::Held) => prop_assert!(at >= bytes.len() - signatures),
            Ok(Inserted::New(_)) => prop_assert!(false, "byte {} of {:?}", at, bytes),
            Err(_) => {}
        }
        same(&set, &a)?;
    }

    #[test]
    fn a_record_that_was_cut_or_made_longer_is_refused(
        deeds in prop::collection::vec(deed(), 4..16),
        at in any::<prop::sample::Index>(),
        pick in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let [a, ..] = sides(&deeds);
        let bytes = bytes_of(&a)[pick.index(a.len())].to_vec();
        prop_assert!(Record::decode(&id(), &bytes[..at.index(bytes.len())]).is_err());
        let longer = [&bytes[..], &more].concat();
        let refused = Record::decode(&id(), &longer);
        prop_assert!(refused.is_err(), "{:?}", refused);
    }
}

#[test]
fn a_record_beyond_any_size_is_refused_before_it_is_read() {
    let mut bytes = founded().iter().next().unwrap().bytes().to_vec();
    bytes.resize(Record::MAX_LEN + 1, 0);
    assert_eq!(Record::decode(&id(), &bytes), Err(RecordError::TooLong));
}

#[test]
fn there_is_one_way_to_write_a_record() {
    let anna = SigningKey::from_bytes(&ANNA);
    let key = node(&seed(1)).0;
    let refused = |kind: u8, body: &[&[u8]]| {
        let bytes = forge(&id(), kind, "", NOW, &body.concat(), &[&anna]);
        Record::decode(&id(), &bytes).unwrap_err()
    };
    let canonical = RecordError::NotCanonical;
    let uses = |n: u16| n.to_be_bytes();
    let until = NOW.to_be_bytes();
    // Names in other letters, of no length, with what is shown for equal claims.
    for text in [
        "Anna",
        "",
        "-a",
        "a-",
        "a_b",
        "a.b",
        "open",
        "id",
        "a-0123abcd",
        "a\u{e9}",
    ] {
        assert_eq!(refused(6, &[&key, &label(text)]), canonical, "{text}");
    }
    assert_eq!(refused(6, &[&key, &label(&"a".repeat(33))]), canonical);
    // Tags out of order, twice, too many.
    for tags in [
        &["b", "a"][..],
        &["a", "a"],
        &["aaaaaaaaaaaaaaaa", "b", "c", "d", "e", "f", "g", "h", "i"],
    ] {
        let list: Vec<u8> = tags.iter().flat_map(|tag| label(tag)).collect();
        let count = [tags.len() as u8];
        assert_eq!(
            refused(5, &[&key, &label("a"), &count, &list]),
            canonical,
            "{tags:?}"
        );
    }
    // Uses, approval, a name for several.
    for (uses, approval, named) in [
        (uses(0), 0, ""),
        (uses(101), 0, ""),
        (uses(1), 2, ""),
        (uses(2), 0, "a"),
    ] {
        assert_eq!(
            refused(3, &[&key, &uses, &until, &[approval], &label(named), &[0]]),
            canonical
        );
    }
    // Subjects: none, too many, out of order, twice.
    let subject = |n: u8| [n; 16];
    assert_eq!(refused(7, &[&[0]]), canonical);
    assert_eq!(refused(7, &[&[13], &[0; 13 * 16]]), canonical);
    assert_eq!(refused(7, &[&[2], &subject(2), &subject(1)]), canonical);
    assert_eq!(refused(7, &[&[2], &subject(1), &subject(1)]), canonical);
    // Targets, and an invite that is disowned.
    assert_eq!(refused(8, &[&[2], &key, &[0]]), canonical);
    assert_eq!(refused(8, &[&[0], &key, &[2]]), canonical);
    assert_eq!(refused(8, &[&[1], &key, &[1]]), canonical);
    assert_eq!(refused(10, &[&key]), RecordError::Kind(10));
    // A time that overflows what is counted from it.
    let bytes = forge(&id(), 2, "", 1 << 40, &key, &[&anna]);
    assert_eq!(Record::decode(&id(), &bytes), Err(canonical));
    let mut bytes = forge(&id(), 2, "", NOW, &key, &[&anna]);
    bytes[0] = 2;
    assert_eq!(Record::decode(&id(), &bytes), Err(RecordError::Version(2)));
}

#[test]
fn a_signature_is_good_for_one_kind_of_record_alone() {
    let mut records = founded();
    let anna = SigningKey::from_bytes(&ANNA);
    let body = [&node(&seed(1)).0[..], &label("db")].concat();
    // The same bytes but for the kind: a name, an enrolment without tags.
    let named = forge(&id(), 6, "meshd enrol v1", NOW, &body, &[&anna]);
    assert_eq!(records.insert(&named), Err(RecordError::Signature.into()));
    let named = forge(&id(), 6, "meshd name v1", NOW, &body, &[&anna]);
    assert!(matches!(records.insert(&named), Ok(Inserted::New(_))));
}

#[test]
fn keys_and_signatures_of_small_order_sign_nothing() {
    let mut records = founded();
    // The point of order one, as key: R = A, S = 0 satisfies the equation for every message.
    let mut small = [0; 32];
    small[0] = 1;
    let ticket = invite(&mut records, &ANNA, 1, invitation());
    let mut bytes = forge_join(&[1; 16], &seed(1), "x", NOW);
    bytes[10..42].copy_from_slice(&small);
    let end = bytes.len() - 64;
    bytes[end..].fill(0);
    bytes[end..end + 32].copy_from_slice(&small);
    let len = records.len();
    assert_eq!(records.insert(&bytes), Err(RecordError::Signature.into()));
    assert_eq!(records.len(), len);
    drop(ticket);
}

#[test]
fn whoever_has_a_ticket_adds_no_more_records_than_its_uses_and_a_few() {
    let mut records = founded();
    invite(&mut records, &ANNA, 1, invitation());
    let before = records.len();
    let mut beyond = 0;
    for n in 0..300 {
        match records.insert(&forge_join(&[1; 16], &seed(n), "x", NOW)) {
            Ok(_) => {}
            Err(InsertError::Beyond) => beyond += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(records.len(), before + 5);
    assert!(beyond > 250, "most are refused unseen: {beyond}");
    // Nor by saying the same in other words.
    let mut kept = std::collections::BTreeSet::new();
    for later in 0..300 {
        if let Ok(Inserted::New(id)) =
            records.insert(&forge_join(&[1; 16], &seed(1), "x", NOW + later))
        {
            kept.insert(id);
        }
    }
    assert!(kept.len() < 30, "{}", kept.len());
    assert_eq!(records.len(), before + 5);
}

#[test]
fn a_member_leaves_only_so_often() {
    let mut records = founded();
    invite(&mut records, &ANNA, 1, invitation());
    records
        .insert(&forge_join(&[1; 16], &seed(1), "x", NOW))
        .unwrap();
    let before = records.len();
    let key = SigningKey::from_bytes(&seed(1));
    let mut new = 0;
    for n in 0..1_000u32 {
        let mut subject = [0; 16];
        subject[..4].copy_from_slice(&n.to_be_bytes());
        let body = [&[1][..], &subject].concat();
        let bytes = forge(&id(), 9, "meshd leave v1", NOW, &body, &[&key]);
        new += u32::from(records.insert(&bytes).is_ok());
    }
    assert_eq!(
        records.len(),
        before + 1,
        "one for each record that let it in"
    );
    assert!(new < 30, "{new} of 1,000 were passed on");
}

#[test]
fn an_admin_signs_so_many_records_of_a_kind_and_then_is_told() {
    let mut records = founded();
    for n in 0..Records::MAX_INVITES as u32 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let seed = InviteSeed::from_bytes(bytes);
        records
            .invite(Signer::Node(&ANNA), &seed, invitation(), NOW)
            .unwrap();
    }
    let seed = InviteSeed::from_bytes([255; 16]);
    let len = records.len();
    assert_eq!(
        records.invite(Signer::Node(&ANNA), &seed, invitation(), NOW),
        Err(membership::IssueError::Full)
    );
    // Another admin is not concerned.
    records
        .invite(Signer::Network(&network()), &seed, invitation(), NOW)
        .unwrap();
    assert_eq!(records.len(), len + 1);
}

#[test]
fn the_invites_of_one_admin_let_in_no_more_than_so_many() {
    let mut records = founded();
    for n in 0..42u8 {
        let wide = Invitation {
            uses: Records::MAX_USES,
            ..invitation()
        };
        invite(&mut records, &ANNA, n, wide);
    }
    let before = records.len();
    for n in 0..42 * 100 {
        let joined = forge_join(&[(n / 100) as u8; 16], &seed(n), "x", NOW);
        match records.insert(&joined) {
            Ok(_) | Err(InsertError::Beyond) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(records.len(), before + Records::MAX_GUESTS);
    assert_eq!(records.roll().members().count(), 1 + Records::MAX_GUESTS);
}

#[test]
fn when_a_record_goes_what_hangs_on_it_goes_too() {
    let mut records = founded();
    // Invites by hand, until one makes room for the next; a use hangs on the one that goes.
    let invites = |n: u32| {
        let anna = SigningKey::from_bytes(&ANNA);
        let key = invite_secret(&id(), &{
            let mut bytes = [7; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            bytes
        });
        let body = [
            &key.verifying_key().to_bytes()[..],
            &[0, 1],
            &(NOW + DAY).to_be_bytes(),
            &[0, 0, 0],
        ]
        .concat();
        forge(&id(), 3, "meshd invite v1", NOW, &body, &[&anna])
    };
    let mut made: Vec<(membership::RecordId, u32, Vec<u8>)> = (0..=Records::MAX_INVITES as u32)
        .map(|n| {
            let bytes = invites(n);
            (Record::decode(&id(), &bytes).unwrap().id(), n, bytes)
        })
        .collect();
    made.sort();
    let (last, rest) = made.split_last().unwrap();
    records.insert(&last.2).unwrap();
    let mut ticket = [7; 16];
    ticket[..4].copy_from_slice(&last.1.to_be_bytes());
    records
        .insert(&forge_join(&ticket, &seed(1), "x", NOW))
        .unwrap();
    assert!(is_member(&records, &seed(1)));
    let leave = records.clone().leave(&seed(1), NOW).unwrap();
    records.insert(&leave.0[0]).unwrap();
    for (_, _, bytes) in rest {
        records.insert(bytes).unwrap();
    }
    assert_eq!(
        records.standing(&node(&seed(1))),
        membership::Standing::Unknown
    );
    assert_eq!(records.len(), 3 + Records::MAX_INVITES);
    assert_eq!(records.insert(&last.2), Err(InsertError::Beyond));
}
