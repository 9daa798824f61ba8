//! Real traffic through TUN devices, between namespaces.

use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use super::clock::Clock;
use super::netlink::{Interface, Netlink};
use super::offload::testing::Flow;
use super::offload::{Coalescer, FRAME, IPV6_HEADER, split};
use super::poll::Poll;
use super::testing::in_namespace;
use super::tun::{Offload, Tun};
use super::udp::{Outcome, Outgoing, RecvBatch, SendBatch, UdpSocket};
use super::wake::Wake;
use crate::ecn::Ecn;

const CLIENT: Ipv6Addr = Ipv6Addr::new(0x0600, 0xc, 0, 0, 0, 0, 0, 1);
const SERVER: Ipv6Addr = Ipv6Addr::new(0x0600, 0x5, 0, 0, 0, 0, 0, 1);
const PORT: u16 = 7;

/// A TUN device, configured as the daemon does, in this thread's namespace.
fn configured(address: Ipv6Addr) -> Tun {
    let tun = Tun::open("mesh0").unwrap();
    let interface = Interface {
        index: tun.index(),
        address,
        mtu: 1420,
        queue_length: 200,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { Netlink::new().unwrap().configure(&interface).await.unwrap() });
    tun
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 131 + i / 255) as u8).collect()
}

/// Waits for the next frame that is UDP, and takes it apart.
fn next_datagrams(tun: &Tun) -> Vec<Vec<u8>> {
    let (clock, mut frame) = (Clock::new(), vec![0; FRAME]);
    let deadline = clock.now() + Duration::from_secs(10);
    loop {
        assert!(clock.now() < deadline, "nothing to read");
        Poll::new(&[tun.as_fd()])
            .wait(Some(deadline), &clock)
            .unwrap();
        let Some(length) = tun.read(&mut frame).unwrap() else {
            continue;
        };
        let mut segments = split(&mut frame[..length]).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = segments.next_packet() {
            packets.push(packet.to_vec());
        }
        if packets[0][6] == 17 {
            return packets;
        }
    }
}

fn flow(from_port: u16) -> Flow {
    Flow {
        from: CLIENT,
        to: SERVER,
        ports: (from_port, PORT),
        traffic_class: 0,
    }
}

#[test]
fn a_datagram_is_read_from_the_device_with_its_checksum_completed() {
    in_namespace(|| {
        let tun = configured(CLIENT);
        let socket = StdSocket::bind((CLIENT, 0)).unwrap();
        socket.send_to(&bytes(1001), (SERVER, PORT)).unwrap();
        let expected = flow(socket.local_addr().unwrap().port()).udp(&bytes(1001));
        let packets = next_datagrams(&tun);
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0][IPV6_HEADER..], expected[IPV6_HEADER..]);
    });
}

#[test]
fn a_segmented_datagram_is_read_in_one_piece_and_split() {
    in_namespace(|| {
        let (tun, data) = (configured(CLIENT), bytes(30 * 1200 + 11));
        assert_eq!(tun.offload(), Offload::TcpAndUdp);
        let socket = UdpSocket::bind(SocketAddr::new(CLIENT.into(), 0), 0).unwrap();
        let message = Outgoing {
            to: (SERVER, PORT).into(),
            source: None,
            hop_limit: None,
            ecn: Ecn::NotEct,
            segment: 1200,
            data: &data,
        };
        assert_eq!(
            socket.send(&mut SendBatch::new(), &[message]),
            [Outcome::Sent]
        );
        let flow = flow(socket.local_addr().port());
        let packets = next_datagrams(&tun);
        assert_eq!(packets.len(), 31);
        for (packet, data) in packets.iter().zip(data.chunks(1200)) {
            assert_eq!(packet[IPV6_HEADER..], flow.udp(data)[IPV6_HEADER..]);
        }
    });
}

/// How many frames held several packets, on their way out of one device and into the other.
#[derive(Debug, Default)]
struct Joined {
    read: usize,
    written: usize,
    failed: usize,
}

/// Runs a client and a server on two nodes whose devices are joined by [`forward`]; gives back what client to server did.
fn connected(client: impl FnOnce() + Send, server: impl FnOnce(&Barrier) + Send) -> Joined {
    let (ready, stop) = (&Barrier::new(2), &Wake::new().unwrap());
    let (devices, arrived) = mpsc::sync_channel(2);
    std::thread::scope(|scope| {
        let device = devices.clone();
        let server = scope.spawn(move || {
            in_namespace(move || {
                device.send((SERVER, Arc::new(configured(SERVER)))).unwrap();
                server(ready);
            });
        });
        let client = scope.spawn(move || {
            in_namespace(move || {
                devices
                    .send((CLIENT, Arc::new(configured(CLIENT))))
                    .unwrap();
                ready.wait();
                client();
            });
        });
        let mut tuns = [arrived.recv().unwrap(), arrived.recv().unwrap()];
        tuns.sort_by_key(|(address, _)| *address);
        let [(_, server_tun), (_, client_tun)] = tuns;
        let there = {
            let (from, to) = (client_tun.clone(), server_tun.clone());
            scope.spawn(move || forward(&from, &to, stop))
        };
        let back = scope.spawn(move || forward(&server_tun, &client_tun, stop));
        let results = [client.join(), server.join()];
        stop.wake().unwrap();
        let (there, _) = (there.join().unwrap(), back.join().unwrap());
        for result in results {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        there
    })
}

/// Carries packets from one device to the other, split and joined again, as a pair of daemons would.
fn forward(from: &Tun, to: &Tun, stop: &Wake) -> Joined {
    let (clock, mut poll) = (Clock::new(), Poll::new(&[from.as_fd(), stop.as_fd()]));
    let (mut frame, mut arena) = (vec![0; FRAME], Vec::new());
    let (mut coalescer, mut joined) = (Coalescer::new(to.offload()), Joined::default());
    while !poll.is_ready(1) {
        poll.wait(None, &clock).unwrap();
        arena.clear();
        while let Some(length) = from.read(&mut frame).unwrap() {
            let mut segments = split(&mut frame[..length]).unwrap();
            joined.read += usize::from(segments.remaining() > 1);
            while let Some(packet) = segments.next_packet() {
                let start = arena.len();
                arena.extend_from_slice(packet);
                coalescer.push(&arena, start..arena.len());
            }
        }
        coalescer.flush(&mut arena, |slices: &[IoSlice<'_>]| {
            joined.written += usize::from(slices.len() > 2);
            joined.failed += usize::from(to.write(slices).is_err());
        });
    }
    joined
}

#[test]
fn a_tcp_stream_survives_being_split_and_joined() {
    let data = &bytes(20 << 20);
    let joined = connected(
        || {
            let mut stream = TcpStream::connect((SERVER, PORT)).unwrap();
            stream.write_all(data).unwrap();
        },
        |ready| {
            let listener = TcpListener::bind((SERVER, PORT)).unwrap();
            ready.wait();
            let (mut stream, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), IpAddr::from(CLIENT));
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert!(received == *data);
        },
    );
    assert_eq!(joined.failed, 0);
    // 14,800 packets of 1,420 bytes: far fewer frames show that they travelled together.
    assert!(joined.read > 100 && joined.written > 100, "{joined:?}");
}

#[test]
fn a_udp_batch_arrives_in_one_piece() {
    let data = &bytes(40 * 1300 + 5);
    let joined = connected(
        || {
            let socket = UdpSocket::bind(SocketAddr::new(CLIENT.into(), 0), 0).unwrap();
            let message = Outgoing {
                to: (SERVER, PORT).into(),
                source: Some(CLIENT.into()),
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment: 1300,
                data,
            };
            assert_eq!(
                socket.send(&mut SendBatch::new(), &[message]),
                [Outcome::Sent]
            );
        },
        |ready| {
            let socket = UdpSocket::bind(SocketAddr::new(SERVER.into(), PORT), 0).unwrap();
            ready.wait();
            let (clock, mut batch) = (Clock::new(), RecvBatch::new(4));
            let deadline = clock.now() + Duration::from_secs(10);
            while socket.recv(&mut batch).unwrap() == 0 {
                assert!(clock.now() < deadline, "nothing came");
                Poll::new(&[socket.as_fd()])
                    .wait(Some(deadline), &clock)
                    .unwrap();
            }
            let message = batch.messages().next().unwrap();
            assert_eq!(
                (message.local, message.segment),
                (Some(SERVER.into()), 1300)
            );
            assert!(message.data == *data);
        },
    );
    assert_eq!((joined.read, joined.written, joined.failed), (1, 1, 0));
}
