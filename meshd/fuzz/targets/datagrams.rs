//! What a fuzzer's bytes are as the datagrams of one receive call: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::sync::Arc;

use meshd::forward::demux::{Runs, Way};
use meshd::labelled::{HEADER, Head};
use wireguard::Message;

use crate::bytes::Bytes;
use crate::scene::{LABEL, scene};

/// The most datagrams of one call.
const DATAGRAMS: usize = 64;

/// The bytes make datagrams, some with an index that there is. Every datagram has to come out once, in order, going where its first
/// bytes say, and data of one session, or under one label, in as few runs as it can be.
pub(crate) fn sort(bytes: &[u8]) {
    let scene = scene();
    let mut bytes = Bytes(bytes);
    // The lengths of handshake messages, and others.
    let segment = match bytes.byte() {
        0 => 148,
        1 => 92,
        2 => 64,
        3 => 32,
        other => usize::from(other),
    };
    let mut data = Vec::new();
    for _ in 0..DATAGRAMS {
        if bytes.is_empty() {
            break;
        }
        let (kind, keypair) = (bytes.byte(), bytes.byte());
        let start = data.len();
        data.extend(bytes.take(segment));
        if kind < 0xF0 {
            data.resize(start + segment, 0);
        }
        let known = scene.receivers[usize::from(kind >> 3 & 1)];
        let receiver = known[usize::from(keypair & 1)].to_le_bytes();
        let datagram = &mut data[start..];
        if kind & 7 < 5
            && let Some(head) = datagram.get_mut(..4)
        {
            head.copy_from_slice(&[kind & 7, 0, 0, 0]);
        }
        if kind & 0x20 != 0
            && let Some(index) = datagram.get_mut(4..8)
        {
            index.copy_from_slice(&receiver);
        }
        if kind & 0x40 != 0
            && let Some(head) = data[start..].get_mut(..HEADER)
        {
            let (hop_limit, label) = (keypair, LABEL);
            head.copy_from_slice(&Head { hop_limit, label }.bytes());
        }
        if data.len() < start + segment {
            break;
        }
    }

    let mut seen = Vec::new();
    let mut last = None;
    for (way, run) in Runs::new(&mut data.clone(), segment, &scene.fib) {
        assert!(!run.is_empty());
        seen.extend_from_slice(run);
        let keypair = match way {
            Way::Session(session) => {
                let mut keypair = None;
                for datagram in run.chunks(segment) {
                    let Some(Message::Data { receiver, .. }) = Message::of(datagram) else {
                        panic!("not data: {datagram:?}");
                    };
                    assert!(
                        keypair
                            .replace(receiver)
                            .is_none_or(|other| other == receiver)
                    );
                    let owner = scene.fib.receiver(receiver);
                    assert!(owner.is_some_and(|owner| Arc::ptr_eq(owner, session)));
                }
                keypair.map(u64::from)
            }
            Way::Labelled(_) => {
                let head = Head::of(run);
                assert!(head.is_some_and(|head| head.label == LABEL));
                assert!(
                    run.chunks(segment)
                        .all(|datagram| Head::of(datagram) == head)
                );
                // Apart from the numbers of keypairs.
                head.map(|head| u64::from(head.hop_limit) << 32)
            }
            Way::Gate => {
                assert!(matches!(
                    Message::of(run),
                    Some(Message::Initiation | Message::Response)
                ));
                None
            }
            Way::Cookie => {
                assert!(matches!(Message::of(run), Some(Message::Cookie { .. })));
                None
            }
            Way::Probe | Way::Discard(_) => None,
        };
        assert!(keypair.is_some() || run.len() <= segment);
        assert!(
            keypair.is_none() || last != keypair,
            "two runs where one would do"
        );
        last = keypair;
    }
    assert_eq!(seen, data);
}
