use proptest::prelude::*;

use super::*;
use crate::testdata::{identity, vectors};

const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);

/// The beacon of the n-th identity of the pool.
fn beacon(n: usize) -> Beacon {
    Beacon {
        key: *identity(n).node().ed25519(),
        run: *b"run-0001",
        port_v6: 51860,
        port_v4: 51861,
        addresses: vec![[192, 0, 2, 7].into(), [10, 1, 2, 3].into()],
    }
}

fn datagram(n: usize, source: Ipv6Addr) -> Vec<u8> {
    beacon(n).sign(identity(n).seed(), &Network::default(), source)
}

fn link(interface: u32) -> Link {
    Link {
        interface,
        source: A,
        networks: vec!["192.0.2.1/24".parse().unwrap()],
    }
}

/// The speaker of the first identity, on link 3.
fn speaker(voice: Voice, now: Instant) -> Speaker {
    let own = Own {
        key: *identity(0).node().ed25519(),
        run: *b"run-own!",
        port_v6: 51860,
        port_v4: 51860,
    };
    let mut speaker = Speaker::new(own, 1, now);
    speaker.set_links(vec![link(3)], now);
    speaker.set_voice(voice, now);
    speaker
}

/// When it speaks in the next seconds, after `start`.
fn times(speaker: &mut Speaker, start: Instant, seconds: u64) -> Vec<Duration> {
    let end = start + Duration::from_secs(seconds);
    let mut times = Vec::new();
    while let Some(due) = speaker.poll_timeout().filter(|due| *due < end) {
        let now = due.max(start);
        while let Some((link, _)) = speaker.poll_beacon(now) {
            assert_eq!(link.interface, 3);
            times.push(now - start);
        }
    }
    times
}

#[test]
fn a_beacon_leads_to_the_address_that_it_came_from_and_to_a_shared_network() {
    let now = Instant::now();
    let mut speaker = speaker(Voice::Silent, now);
    let heard = speaker.handle_datagram(3, B, 255, &datagram(1, B), now);
    let endpoints = ["[fe80::b%3]:51860", "192.0.2.7:51861"].map(|text| text.parse().unwrap());
    assert_eq!(
        heard,
        Ok(Heard {
            node: identity(1).node(),
            endpoints: endpoints.to_vec(),
        })
    );
    let no_sockets = Beacon {
        port_v6: 0,
        port_v4: 0,
        ..beacon(2)
    };
    let datagram = no_sockets.sign(identity(2).seed(), &Network::default(), B);
    let heard = speaker.handle_datagram(3, B, 255, &datagram, now).unwrap();
    assert_eq!(heard.endpoints, []);
}

#[test]
fn what_is_repeated_elsewhere_or_came_from_elsewhere_is_ignored() {
    let now = Instant::now();
    let mut speaker = speaker(Voice::Loud, now);
    let datagram = datagram(1, B);
    let mut hear = |interface, source, hop_limit, datagram: &[u8]| {
        speaker.handle_datagram(interface, source, hop_limit, datagram, now)
    };
    let elsewhere = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc);
    let global: Ipv6Addr = "2001:db8::b".parse().unwrap();
    assert_eq!(hear(3, elsewhere, 255, &datagram), Err(Refused::Forged));
    assert_eq!(hear(3, B, 254, &datagram), Err(Refused::OffLink));
    assert_eq!(hear(4, B, 255, &datagram), Err(Refused::OffLink));
    assert_eq!(hear(3, A, 255, &datagram), Err(Refused::OffLink));
    let global_beacon = beacon(1).sign(identity(1).seed(), &Network::default(), global);
    assert_eq!(hear(3, global, 255, &global_beacon), Err(Refused::OffLink));
    let own = beacon(0).sign(identity(0).seed(), &Network::default(), B);
    assert_eq!(hear(3, B, 255, &own), Err(Refused::Own));
    let stolen = beacon(1).sign(identity(2).seed(), &Network::default(), B);
    assert_eq!(hear(3, B, 255, &stolen), Err(Refused::Forged));
    let mut foreign = datagram.clone();
    foreign[8] ^= 1;
    assert_eq!(hear(3, B, 255, &foreign), Err(Refused::Foreign));
    let unmined = Beacon {
        key: SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes(),
        ..beacon(1)
    };
    let unmined = unmined.sign(&[7; 32], &Network::default(), B);
    assert_eq!(hear(3, B, 255, &unmined), Err(Refused::Forged));
    assert!(hear(3, B, 255, &datagram).is_ok());
    assert_eq!(hear(3, B, 255, &datagram), Err(Refused::Repeated));
}

#[test]
fn it_speaks_often_at_first_and_seldom_later() {
    let now = Instant::now();
    let mut speaker = speaker(Voice::Loud, now);
    let times = times(&mut speaker, now, 600);
    let first = times.iter().filter(|time| time.as_secs() < 5).count();
    assert!((5..=6).contains(&first), "{times:?}");
    assert!(times[0] < FIRST, "{times:?}");
    let later = &times[6..];
    assert!((17..=24).contains(&later.len()), "{times:?}");
    let pauses = later.windows(2).map(|pair| pair[1] - pair[0]);
    let seldom = Duration::from_secs(22)..Duration::from_secs(46);
    assert!(
        pauses.clone().all(|pause| seldom.contains(&pause)),
        "{times:?}"
    );
}

#[test]
fn who_does_not_want_to_be_found_is_silent_until_it_does() {
    let now = Instant::now();
    let mut speaker = speaker(Voice::Silent, now);
    let datagram = datagram(1, B);
    assert!(speaker.handle_datagram(3, B, 255, &datagram, now).is_ok());
    assert_eq!(speaker.poll_timeout(), None);
    assert_eq!(speaker.poll_beacon(now + PACE * 3), None);
    let later = now + PACE * 4;
    speaker.set_voice(Voice::Loud, later);
    let spoken = times(&mut speaker, later, 5).len();
    assert!((5..=6).contains(&spoken), "{spoken}");
}

#[test]
fn a_newcomer_hears_us_soon_but_many_do_not_make_us_talk() {
    let start = Instant::now();
    let mut speaker = speaker(Voice::Loud, start);
    let _ = times(&mut speaker, start, 10);
    let now = start + Duration::from_secs(10);
    let hear =
        |speaker: &mut Speaker, n, now| speaker.handle_datagram(3, B, 255, &datagram(n, B), now);
    hear(&mut speaker, 1, now).unwrap();
    let greetings = times(&mut speaker, now, 3);
    assert_eq!(greetings.len(), 1, "{greetings:?}");
    assert!(greetings[0] <= GREETING, "{greetings:?}");
    // The same one, when it repeats itself, is no newcomer.
    let now = now + HEAR_AGAIN;
    hear(&mut speaker, 1, now).unwrap();
    assert!(times(&mut speaker, now, 3).is_empty());
    let mut spoken = 0;
    for step in 0..40_u32 {
        let now = now + Duration::from_millis(100) * step;
        hear(&mut speaker, 2 + step as usize, now).unwrap();
        while speaker.poll_beacon(now).is_some() {
            spoken += 1;
        }
    }
    assert!((1..=3).contains(&spoken), "{spoken} in four seconds");
}

#[test]
fn a_flood_costs_fifty_signatures_a_second_and_no_memory() {
    let start = Instant::now();
    let mut speaker = speaker(Voice::Loud, start);
    let (mut heard, mut refused) = (0, 0);
    for step in 0..2000_u32 {
        let now = start + Duration::from_millis(1) * step;
        let mut forged = beacon(1);
        forged.run = u64::from(step).to_be_bytes();
        let forged = forged.sign(identity(2).seed(), &Network::default(), B);
        match speaker.handle_datagram(3, B, 255, &forged, now) {
            Err(Refused::Forged) => heard += 1,
            Err(Refused::TooMany) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (100..=152).contains(&heard),
        "{heard} verified, {refused} not"
    );
    assert!(speaker.heard.is_empty());
}

#[test]
fn an_interface_that_comes_is_spoken_on_and_one_that_goes_is_not() {
    let now = Instant::now();
    let mut speaker = speaker(Voice::Loud, now);
    let _ = times(&mut speaker, now, 20);
    let later = now + Duration::from_secs(20);
    speaker.set_links(vec![link(3), link(5)], later);
    let mut on = BTreeMap::new();
    while let Some(due) = speaker
        .poll_timeout()
        .filter(|due| *due < later + Duration::from_secs(4))
    {
        while let Some((link, _)) = speaker.poll_beacon(due) {
            *on.entry(link.interface).or_insert(0) += 1;
        }
    }
    assert!(
        on[&5] >= 5 && on.get(&3).is_none_or(|count| *count <= 1),
        "{on:?}"
    );
    speaker.set_links(Vec::new(), later);
    assert_eq!(speaker.poll_timeout(), None);
}

#[test]
fn the_published_vectors_hold() {
    let mut seen = 0;
    for (name, bytes) in vectors("beacons") {
        let read = Beacon::parse(&bytes, &Network::default());
        match name {
            "beacon of the second identity, sent from fe80::b" => {
                assert_eq!(read, Ok(beacon(1)));
                assert_eq!(
                    beacon(1).verify(&bytes, &Network::default(), B),
                    Ok(identity(1).node())
                );
                assert_eq!(datagram(1, B), bytes);
            }
            "the same, with fields of a later release" => {
                assert_eq!(read, Ok(beacon(1)));
                assert_eq!(
                    beacon(1).verify(&bytes, &Network::default(), B),
                    Ok(identity(1).node())
                );
            }
            "the same, as if sent from fe80::a" => {
                assert_eq!(
                    beacon(1).verify(&bytes, &Network::default(), A),
                    Err(Refused::Forged)
                );
            }
            "of another version" => assert_eq!(read, Err(Refused::Malformed)),
            other => panic!("{other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        run in any::<[u8; 8]>(),
        ports in any::<[u16; 2]>(),
        addresses in proptest::collection::vec(any::<u32>().prop_map(Ipv4Addr::from_bits), 0..=MAX_ADDRESSES),
        n in 0_usize..4,
    ) {
        let beacon = Beacon { run, port_v6: ports[0], port_v4: ports[1], addresses, ..beacon(n) };
        let bytes = beacon.sign(identity(n).seed(), &Network::default(), A);
        prop_assert!(bytes.len() <= MAX_LEN);
        prop_assert_eq!(Beacon::parse(&bytes, &Network::default()), Ok(beacon.clone()));
        prop_assert_eq!(beacon.verify(&bytes, &Network::default(), A), Ok(identity(n).node()));
    }

    #[test]
    fn one_bit_that_is_changed_makes_it_nobodys(at in 0_usize..132, bit in 0_u8..8) {
        let mut bytes = datagram(1, B);
        prop_assert_eq!(bytes.len(), 132);
        bytes[at] ^= 1 << bit;
        let is_valid = Beacon::parse(&bytes, &Network::default()).is_ok_and(|beacon| beacon.verify(&bytes, &Network::default(), B).is_ok());
        prop_assert!(!is_valid);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), head in 0_usize..140) {
        let now = Instant::now();
        let mut speaker = speaker(Voice::Loud, now);
        let _ = speaker.handle_datagram(3, B, 255, &bytes, now);
        let mut cut = datagram(1, B);
        cut.truncate(head);
        cut.extend_from_slice(&bytes);
        let _ = speaker.handle_datagram(3, B, 255, &cut, now);
    }
}
