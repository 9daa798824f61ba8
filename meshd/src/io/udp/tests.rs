use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::address::Control;
use super::*;
use crate::ecn::Ecn;
use crate::io::clock::Clock;
use crate::io::poll::Poll;
use crate::io::testing::{drop_privileges, in_namespace, set_loopback_mtu};

const LOCALHOSTS: [&str; 2] = ["127.0.0.1", "::1"];

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(SocketAddr::new(address.parse().unwrap(), 0), 0).unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 255) as u8).collect()
}

/// Receives until `count` datagrams have come: sender, destination, and sizes of the pieces they came in.
fn receive(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, Option<IpAddr>, usize, Vec<u8>)> {
    let (clock, mut batch, mut messages) = (Clock::new(), RecvBatch::new(8), Vec::new());
    let deadline = clock.now() + Duration::from_secs(10);
    let mut datagrams = 0;
    while datagrams < count {
        assert!(
            clock.now() < deadline,
            "only {datagrams} of {count} datagrams came"
        );
        Poll::new(&[socket.as_fd()])
            .wait(Some(deadline), &clock)
            .unwrap();
        socket.recv(&mut batch).unwrap();
        for message in batch.messages() {
            datagrams += message.data.len().div_ceil(message.segment).max(1);
            messages.push((
                message.from,
                message.local,
                message.segment,
                message.data.to_vec(),
            ));
        }
    }
    assert_eq!(datagrams, count);
    messages
}

#[test]
fn a_batch_of_64_segments_is_received_whole() {
    for localhost in LOCALHOSTS {
        let (a, b, data) = (bind(localhost), bind(localhost), bytes(63 * 1000 + 7));
        let mut batch = SendBatch::new();
        let message = Outgoing {
            to: b.local_addr(),
            source: None,
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 1000,
            data: &data,
        };
        assert_eq!(a.send(&mut batch, &[message]), [Outcome::Sent]);
        let received = receive(&b, 64);
        assert_eq!(
            received,
            [(a.local_addr(), Some(b.local_addr().ip()), 1000, data)]
        );
    }
}

#[test]
fn more_than_one_message_holds_is_sent_in_several() {
    for localhost in LOCALHOSTS {
        let (a, b, data) = (bind(localhost), bind(localhost), bytes(150_001));
        let mut batch = SendBatch::new();
        let message = Outgoing {
            to: b.local_addr(),
            source: None,
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 1400,
            data: &data,
        };
        assert_eq!(a.send(&mut batch, &[message]), [Outcome::Sent]);
        let received = receive(&b, data.len().div_ceil(1400));
        assert_eq!(
            received
                .into_iter()
                .flat_map(|message| message.3)
                .collect::<Vec<_>>(),
            data
        );
    }
}

#[test]
fn one_call_sends_to_several_peers() {
    for localhost in LOCALHOSTS {
        let (a, peers, data) = (
            bind(localhost),
            [bind(localhost), bind(localhost), bind(localhost)],
            bytes(300),
        );
        let messages: Vec<_> = peers
            .iter()
            .zip([0, 100, 150])
            .map(|(peer, segment)| Outgoing {
                to: peer.local_addr(),
                source: None,
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment,
                data: &data,
            })
            .collect();
        let mut batch = SendBatch::new();
        assert_eq!(a.send(&mut batch, &messages), [Outcome::Sent; 3]);
        for (peer, datagrams) in peers.iter().zip([1, 3, 2]) {
            assert_eq!(
                receive(peer, datagrams)
                    .into_iter()
                    .flat_map(|message| message.3)
                    .collect::<Vec<_>>(),
                data
            );
        }
    }
}

#[test]
fn an_empty_datagram_arrives_as_one() {
    for localhost in LOCALHOSTS {
        let (a, b) = (bind(localhost), bind(localhost));
        let mut batch = SendBatch::new();
        a.send(
            &mut batch,
            &[Outgoing {
                to: b.local_addr(),
                source: None,
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment: 0,
                data: &[],
            }],
        );
        assert_eq!(
            receive(&b, 1),
            [(a.local_addr(), Some(b.local_addr().ip()), 1, vec![])]
        );
    }
}

#[test]
fn the_source_and_the_destination_address_are_the_packets_own() {
    let (a, b) = (bind("0.0.0.0"), bind("0.0.0.0"));
    let to = SocketAddr::new([127, 0, 0, 7].into(), b.local_addr().port());
    let source = IpAddr::from([127, 0, 0, 9]);
    let data = bytes(200);
    let mut batch = SendBatch::new();
    assert_eq!(
        a.send(
            &mut batch,
            &[Outgoing {
                to,
                source: Some(source),
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment: 100,
                data: &data
            }]
        ),
        [Outcome::Sent]
    );
    let from = SocketAddr::new(source, a.local_addr().port());
    assert_eq!(receive(&b, 2), [(from, Some(to.ip()), 100, data)]);
}

#[test]
fn a_source_that_is_not_ours_is_given_up_and_reported() {
    for (any, localhost, stale) in [
        ("0.0.0.0", "127.0.0.1", "192.0.2.1"),
        ("::", "::1", "2001:db8::1"),
    ] {
        let (a, b, data) = (bind(any), bind(localhost), bytes(300));
        let good = Outgoing {
            to: b.local_addr(),
            source: localhost.parse().ok(),
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 100,
            data: &data,
        };
        let bad = Outgoing {
            source: stale.parse().ok(),
            ..good
        };
        let mut batch = SendBatch::new();
        let outcomes = a.send(&mut batch, &[good, bad, good]);
        assert_eq!(
            outcomes,
            [Outcome::Sent, Outcome::StaleSource, Outcome::Sent]
        );
        assert_eq!(receive(&b, 9).len(), 3);
    }
}

#[test]
fn one_message_that_cannot_be_sent_does_not_stop_the_others() {
    let (a, b, data) = (bind("127.0.0.1"), bind("127.0.0.1"), bytes(70_000));
    let good = Outgoing {
        to: b.local_addr(),
        source: None,
        hop_limit: None,
        ecn: Ecn::NotEct,
        segment: 0,
        data: &data[..10],
    };
    let too_long = Outgoing {
        data: &data,
        ..good
    };
    let other_family = Outgoing {
        to: "[::1]:9".parse().unwrap(),
        ..good
    };
    let to_port_zero = Outgoing {
        to: "127.0.0.1:0".parse().unwrap(),
        ..good
    };
    let mut batch = SendBatch::new();
    let outcomes = a.send(
        &mut batch,
        &[other_family, good, too_long, good, to_port_zero, good],
    );
    let failed = Outcome::Failed;
    let sent = Outcome::Sent;
    assert_eq!(
        outcomes,
        [
            failed(libc::EAFNOSUPPORT),
            sent,
            failed(libc::EMSGSIZE),
            sent,
            failed(libc::EINVAL),
            sent
        ]
    );
    assert_eq!(receive(&b, 3).len(), 3);
}

#[test]
fn a_closed_port_costs_no_later_datagram() {
    for localhost in LOCALHOSTS {
        let (a, b, closed) = (
            bind(localhost),
            bind(localhost),
            bind(localhost).local_addr(),
        );
        let good = Outgoing {
            to: b.local_addr(),
            source: None,
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 0,
            data: b"x",
        };
        let lost = Outgoing { to: closed, ..good };
        let (mut batch, mut incoming) = (SendBatch::new(), RecvBatch::new(1));
        assert_eq!(
            a.send(&mut batch, &[lost, good, lost, good]),
            [Outcome::Sent; 4]
        );
        assert_eq!(a.recv(&mut incoming).unwrap(), 0);
        b.send(
            &mut batch,
            &[Outgoing {
                to: a.local_addr(),
                ..good
            }],
        );
        assert_eq!(receive(&a, 1).len(), 1);
        receive(&b, 2);
    }
}

#[test]
fn segments_longer_than_the_way_is_wide_arrive_as_fragments() {
    in_namespace(|| {
        set_loopback_mtu(1300).unwrap();
        for localhost in LOCALHOSTS {
            let (a, b, data) = (bind(localhost), bind(localhost), bytes(14_000));
            let message = Outgoing {
                to: b.local_addr(),
                source: None,
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment: 1400,
                data: &data,
            };
            let mut batch = SendBatch::new();
            for _ in 0..2 {
                assert_eq!(a.send(&mut batch, &[message]), [Outcome::Sent]);
                assert_eq!(
                    receive(&b, 10)
                        .into_iter()
                        .flat_map(|message| message.3)
                        .collect::<Vec<_>>(),
                    data
                );
            }
            let narrower = Outgoing {
                segment: 1000,
                ..message
            };
            assert_eq!(a.send(&mut batch, &[narrower]), [Outcome::Sent]);
            assert_eq!(receive(&b, 14).len(), 1);
        }
    });
}

#[test]
fn a_mark_is_set_where_it_is_allowed() {
    in_namespace(|| {
        let socket = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), 0x5277).unwrap();
        assert_eq!(socket.marked(), Marked::Yes);
    });
}

#[test]
fn without_privileges_a_socket_works_and_says_that_it_is_not_marked() {
    in_namespace(|| {
        drop_privileges().unwrap();
        let a = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), 0x5277).unwrap();
        assert_eq!(a.marked(), Marked::NotPermitted);
        let (b, mut batch) = (bind("127.0.0.1"), SendBatch::new());
        let message = Outgoing {
            to: b.local_addr(),
            source: None,
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 10,
            data: &[7; 100],
        };
        assert_eq!(a.send(&mut batch, &[message]), [Outcome::Sent]);
        assert_eq!(receive(&b, 10).len(), 1);
    });
}

#[test]
fn a_port_in_use_is_reported_with_the_address() {
    let first = bind("127.0.0.1");
    let error = UdpSocket::bind(first.local_addr(), 0).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&first.local_addr().to_string()));
}

#[test]
fn both_families_may_have_the_same_port() {
    let first = bind("0.0.0.0");
    let port = first.local_addr().port();
    UdpSocket::bind(format!("[::]:{port}").parse().unwrap(), 0).unwrap();
}

#[test]
fn batches_may_move_to_another_thread() {
    fn is_send<T: Send>(_: T) {}
    is_send((RecvBatch::new(1), SendBatch::new()));
}

/// The hop limits of the next `count` datagrams.
fn hop_limits(socket: &UdpSocket, count: usize) -> Vec<libc::c_int> {
    let clock = Clock::new();
    let deadline = clock.now() + Duration::from_secs(10);
    let mut limits = Vec::new();
    while limits.len() < count {
        assert!(clock.now() < deadline, "only {limits:?} came");
        Poll::new(&[socket.as_fd()])
            .wait(Some(deadline), &clock)
            .unwrap();
        let (mut data, mut control) = ([0_u8; 16], Control::EMPTY);
        let mut vector = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        // SAFETY: msghdr is plain data for which all zeroes is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of::<Control>() as _;
        // SAFETY: the header points to a vector and a control buffer that live through the loop's turn.
        let received = unsafe { libc::recvmsg(socket.fd.as_raw_fd(), &raw mut header, 0) };
        assert_eq!(received, 1);
        // SAFETY: the kernel has filled the header in, and its control buffer is still there.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        while !message.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header, and these two kinds carry an int.
            unsafe {
                if matches!(
                    ((*message).cmsg_level, (*message).cmsg_type),
                    (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)
                ) {
                    limits.push(
                        libc::CMSG_DATA(message)
                            .cast::<libc::c_int>()
                            .read_unaligned(),
                    );
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
    }
    limits
}

#[test]
fn a_hop_limit_is_that_of_one_datagram_and_of_no_other() {
    for localhost in LOCALHOSTS {
        let (a, b) = (bind(localhost), bind(localhost));
        let (level, option) = if b.local_addr().is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_RECVTTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)
        };
        set(&b.fd, level, option, 1).unwrap();
        let usual = Outgoing {
            to: b.local_addr(),
            source: localhost.parse().ok(),
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 0,
            data: b"x",
        };
        let short = Outgoing {
            hop_limit: Some(3),
            ..usual
        };
        let mut batch = SendBatch::new();
        assert_eq!(
            a.send(&mut batch, &[usual, short, usual]),
            [Outcome::Sent; 3]
        );
        assert_eq!(hop_limits(&b, 3), [64, 3, 64]);
    }
}

/// The ECN fields of the next `count` datagrams, each with the length of the message that it came in.
fn ecn_fields(socket: &UdpSocket, count: usize) -> Vec<(Ecn, usize)> {
    let (clock, mut batch, mut fields) = (Clock::new(), RecvBatch::new(8), Vec::new());
    let deadline = clock.now() + Duration::from_secs(10);
    while fields.len() < count {
        assert!(clock.now() < deadline, "only {fields:?} came");
        Poll::new(&[socket.as_fd()])
            .wait(Some(deadline), &clock)
            .unwrap();
        socket.recv(&mut batch).unwrap();
        for message in batch.messages() {
            let datagrams = message.data.len().div_ceil(message.segment);
            fields.extend(vec![(message.ecn, message.data.len()); datagrams]);
        }
    }
    fields
}

#[test]
fn an_ecn_field_arrives_as_it_was_sent_with_all_segments() {
    for localhost in LOCALHOSTS {
        let (a, b, data) = (bind(localhost), bind(localhost), bytes(64 * 1000));
        let mut batch = SendBatch::new();
        for ecn in [Ecn::Ect0, Ecn::NotEct, Ecn::Ect1, Ecn::Ce] {
            for source in [None, localhost.parse().ok()] {
                let message = Outgoing {
                    to: b.local_addr(),
                    source,
                    hop_limit: Some(9),
                    ecn,
                    segment: 1000,
                    data: &data,
                };
                assert_eq!(a.send(&mut batch, &[message]), [Outcome::Sent]);
                // With every control message at once, in both directions: none was cut off.
                assert_eq!(
                    ecn_fields(&b, 64),
                    vec![(ecn, data.len()); 64],
                    "{localhost}"
                );
            }
        }
    }
}

#[test]
fn messages_of_one_call_keep_their_ecn_fields_apart() {
    for localhost in LOCALHOSTS {
        let (a, b, data) = (bind(localhost), bind(localhost), bytes(2000));
        let fields = [Ecn::Ect0, Ecn::Ce, Ecn::NotEct, Ecn::Ect0, Ecn::Ect1];
        let messages = fields.map(|ecn| Outgoing {
            to: b.local_addr(),
            source: None,
            hop_limit: None,
            ecn,
            segment: 1000,
            data: &data,
        });
        let mut batch = SendBatch::new();
        assert_eq!(a.send(&mut batch, &messages), [Outcome::Sent; 5]);
        let expected: Vec<_> = fields.iter().flat_map(|ecn| [(*ecn, 2000); 2]).collect();
        assert_eq!(ecn_fields(&b, 10), expected, "{localhost}");
    }
}
