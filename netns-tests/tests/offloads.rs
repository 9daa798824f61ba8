//! The same bytes over cards that pretend to segment and over cards that do not, compared packet by packet in captures.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;

use netns_tests::abuse::Dice;
use netns_tests::pcap::{self, Checksum, Ip, TCP, UDP};
use netns_tests::settings::PORT;
use netns_tests::{Cable, Daemon, Lab, Link, Offloads, Settings, secs, wait_until};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

const UNDERLAY_MTU: usize = 1_500;
/// Less than a datagram of full size.
const NARROW: usize = 1_300;
/// The MTU of the overlay on such an underlay.
const OVERLAY_MTU: usize = 1_420;
/// What a data message adds to a packet.
const OVERHEAD: usize = 32;
const STREAM_PORT: u16 = 7_001;
const DATAGRAM_PORT: u16 = 7_002;
/// Length of the TCP stream, in bytes: many super-packets.
const STREAM: usize = 3_000_000;
/// Bursts of datagrams, each handed to the kernel in one piece, and what is in one.
const BURSTS: usize = 20;
const DATAGRAMS: usize = 37;
const DATAGRAM: u16 = 1_200;
/// Shorter than the others, as the last of a burst may be.
const LAST: usize = 333;
const BURST: usize = DATAGRAMS * DATAGRAM as usize + LAST;

/// Two nodes, and captures at the receiving one.
struct Scene {
    a: Daemon,
    b: Daemon,
    /// What comes over the underlay.
    outside: PathBuf,
    /// What the daemon writes to its interface.
    inside: PathBuf,
    /// The same after Linux has taken it apart, for a card that can do nothing by itself.
    apart: PathBuf,
    link: Link,
    /// Last, so that it outlives the rest.
    _lab: Lab,
}

impl Scene {
    #[track_caller]
    fn new(name: &str, offloads: Offloads) -> Self {
        let lab = Lab::new(name);
        let (a, b) = (lab.host("a"), lab.host("b"));
        let cable = Cable {
            offloads,
            ..Cable::default()
        };
        let link = lab.link_with(&a, &b, cable);
        // Two cards of b's own, of which one sends the other a copy of all that comes through the overlay.
        b.run("ip link add copies type veth peer name copied");
        for card in ["copies", "copied"] {
            b.run(&format!(
                "ethtool -K {card} tx off sg off tso off gso off gro off tx-udp-segmentation off"
            ));
            b.link_up(card);
        }
        b.set_address("copies", "fd99::1/64");
        b.run("ip -6 neigh add fd99::2 lladdr 02:00:00:00:00:02 dev copies");
        let (id_a, id_b) = (lab.identity(), lab.identity());
        let ends = (link.a.v4.into(), link.b.v4.into());
        let (for_a, for_b) = Settings::pair((&id_a, ends.0), (&id_b, ends.1));
        let (a, b) = (a.meshd(for_a), b.meshd(for_b));
        wait_until(secs(10), "a reaches b", || a.ping(b.address()));
        let rules = "table ip6 copy {\n chain in {\n type filter hook prerouting priority -150; policy accept;\n \
            iifname \"mesh0\" dup to fd99::2 device \"copies\"\n }\n}\n";
        let done = (b.host()).output_of(&["nft", "-f", "-"], rules, secs(5));
        done.and_then(netns_tests::process::Output::success)
            .unwrap();
        let [outside, inside, apart] =
            [&link.b.interface, "mesh0", "copied"].map(|card| b.host().capture_all(card));
        Self {
            a,
            b,
            outside,
            inside,
            apart,
            link,
            _lab: lab,
        }
    }

    fn at_b(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.b.address().into(), port)
    }

    /// Sends the stream and the bursts from a to b, where they arrive as they are.
    #[track_caller]
    fn carry(&self, stream: &[u8], bursts: &[u8]) {
        let at = self.at_b(STREAM_PORT);
        let listener = self.b.host().inside(|| TcpListener::bind(at)).unwrap();
        let mut sender = self.a.host().inside(|| TcpStream::connect(at)).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        receiver.set_read_timeout(Some(secs(20))).unwrap();
        sender.set_write_timeout(Some(secs(20))).unwrap();
        let received = thread::scope(|scope| {
            let sent = scope.spawn(|| {
                sender.write_all(stream)?;
                sender.shutdown(Shutdown::Write)
            });
            let mut received = Vec::new();
            let read = receiver.read_to_end(&mut received);
            // Whatever it was, the sender does not wait for more to be read.
            drop(receiver);
            sent.join().unwrap().and(read).unwrap();
            received
        });
        assert!(received == stream, "the stream arrives altered");

        let at = self.at_b(DATAGRAM_PORT);
        let receiver = self.b.host().inside(|| UdpSocket::bind(at)).unwrap();
        receiver.set_read_timeout(Some(secs(5))).unwrap();
        let sender = self.a.host().inside(|| UdpSocket::bind("[::]:0")).unwrap();
        setsockopt(&sender, UdpGsoSegment, &i32::from(DATAGRAM)).unwrap();
        let mut buffer = vec![0; UNDERLAY_MTU];
        for burst in bursts.chunks(BURST) {
            assert_eq!(sender.send_to(burst, at).unwrap(), burst.len());
            for datagram in burst.chunks(DATAGRAM.into()) {
                let length = receiver.recv(&mut buffer).unwrap();
                assert!(buffer[..length] == *datagram, "a datagram arrives altered");
            }
        }
    }

    /// Waits until both are in a capture, whole; then `check` sees each packet from a to b in it.
    #[track_caller]
    fn holds(&self, capture: &Path, stream: &[u8], bursts: &[u8], check: impl Fn(&Ip<'_>)) {
        let (from, to) = (
            IpAddr::from(self.a.address()),
            IpAddr::from(self.b.address()),
        );
        let is_ours = |packet: &Ip<'_>| packet.source == from && packet.destination == to;
        let what = format!("all is in {}", capture.display());
        wait_until(secs(10), &what, || {
            let file = std::fs::read(capture).map_err(|err| err.to_string())?;
            let packets = parsed(&file, is_ours);
            let seen = pcap::stream(&packets, STREAM_PORT, stream.len());
            if seen.is_none_or(|seen| seen != stream) {
                return Err(format!("no whole stream in {} packets", packets.len()));
            }
            if datagrams(&packets).concat() != bursts {
                return Err(format!("no whole bursts in {} packets", packets.len()));
            }
            packets.iter().for_each(&check);
            Ok(())
        });
    }

    /// What came over the underlay from a.
    fn crossed(&self, check: impl Fn(&Ip<'_>)) -> usize {
        let (from, to) = (IpAddr::from(self.link.a.v4), IpAddr::from(self.link.b.v4));
        let file = std::fs::read(&self.outside).unwrap();
        let packets = parsed(&file, |packet| {
            packet.source == from && packet.destination == to
        });
        packets.iter().for_each(check);
        packets.iter().map(|packet| packet.length).max().unwrap()
    }
}

fn parsed<'a>(file: &'a [u8], is_wanted: impl Fn(&Ip<'_>) -> bool) -> Vec<Ip<'a>> {
    let packets = pcap::packets(file).into_iter();
    packets.filter_map(Ip::parse).filter(is_wanted).collect()
}

/// What the datagrams to our port carry.
fn datagrams<'a>(packets: &[Ip<'a>]) -> Vec<&'a [u8]> {
    let to_port = |packet: &Ip<'a>| packet.carried().filter(|_| packet.protocol == UDP);
    let carried = packets.iter().filter_map(to_port);
    let ours = carried.filter(|(port, _)| *port == DATAGRAM_PORT);
    ours.map(|(_, carried)| carried).collect()
}

/// One data message, or one of a handshake, of the white paper (section 5.4), alone in its datagram.
fn is_one_message(packet: &Ip<'_>) {
    let (to, message) = packet.carried().unwrap();
    assert_eq!((packet.protocol, to), (UDP, PORT));
    assert!(packet.length <= UNDERLAY_MTU, "{}", packet.length);
    assert_eq!(packet.checksum(), Checksum::Right);
    match message {
        [1, 0, 0, 0, ..] => assert_eq!(message.len(), 148),
        [2, 0, 0, 0, ..] => assert_eq!(message.len(), 92),
        [4, 0, 0, 0, ..] => {
            let padded = message.len() - OVERHEAD;
            assert!(
                padded.is_multiple_of(16) || padded == OVERLAY_MTU,
                "{padded}"
            );
        }
        _ => panic!("{message:x?}"),
    }
}

/// A packet as it may be put on any wire.
fn is_valid(packet: &Ip<'_>) {
    assert!(packet.length <= OVERLAY_MTU, "{}", packet.length);
    if [TCP, UDP].contains(&packet.protocol) {
        assert_eq!(packet.checksum(), Checksum::Right, "{packet:?}");
    }
}

/// The same, or a super-packet, whose checksum is for the kernel to complete.
fn is_valid_or_super(packet: &Ip<'_>) {
    if packet.length > OVERLAY_MTU {
        assert_eq!(packet.checksum(), Checksum::Partial);
    } else if [TCP, UDP].contains(&packet.protocol) {
        let checksum = packet.checksum();
        assert!(
            [Checksum::Right, Checksum::Partial].contains(&checksum),
            "{packet:?}"
        );
    }
}

#[test]
fn offloads_change_no_byte_and_no_packet() {
    let mut dice = Dice::new(7);
    let mut noise = |length: usize| {
        let mut bytes = vec![0; length];
        dice.fill(&mut bytes);
        bytes
    };
    let (stream, bursts) = (noise(STREAM), noise(BURSTS * BURST));
    let [with, without] = [
        Scene::new("offloads on", Offloads::On),
        Scene::new("offloads off", Offloads::Off),
    ];
    // Off on the sender's overlay interface too: the kernel cuts all packets itself before the daemon reads them.
    without
        .a
        .host()
        .run("ethtool -K mesh0 tx off sg off tso off gso off tx-udp-segmentation off");
    for scene in [&with, &without] {
        scene.carry(&stream, &bursts);
        scene.holds(&scene.inside, &stream, &bursts, is_valid_or_super);
        scene.holds(&scene.apart, &stream, &bursts, is_valid);
        let file = std::fs::read(&scene.apart).unwrap();
        let address: Ipv6Addr = scene.a.address();
        let packets = parsed(&file, |packet| packet.source == address);
        let inside = std::fs::read(&scene.inside).unwrap();
        let written = parsed(&inside, |packet| packet.source == address);
        let supers = written.iter().filter(|packet| packet.length > OVERLAY_MTU);
        // Or Linux has taken nothing apart.
        assert!(supers.count() > 10, "of {} packets", written.len());
        let lengths: Vec<_> = datagrams(&packets).iter().map(|data| data.len()).collect();
        let mut sent = vec![usize::from(DATAGRAM); DATAGRAMS];
        sent.push(LAST);
        assert_eq!(lengths, sent.repeat(BURSTS));
    }
    // Of a card that does nothing, each datagram stands alone; of one that pretends to, there is a difference to be seen.
    let longest = without.crossed(is_one_message);
    assert!(longest > UNDERLAY_MTU - 40, "{longest}");
    let longest = with.crossed(|packet| assert_eq!(packet.protocol, UDP));
    assert!(longest > UNDERLAY_MTU, "{longest}");
}

/// The kernel refuses to cut a message into segments that the way does not take in one piece (EINVAL): then they go one by one, in
/// fragments.
#[test]
fn a_way_that_is_too_narrow_for_segments_carries_them_one_by_one() {
    let scene = Scene::new("offloads narrow", Offloads::On);
    for port in [&scene.link.a, &scene.link.b] {
        port.host
            .run(&format!("ip link set {} mtu {NARROW}", port.interface));
    }
    let mut dice = Dice::new(8);
    let mut stream = vec![0; STREAM];
    dice.fill(&mut stream);
    scene.carry(&stream, &[]);
    scene.holds(&scene.inside, &stream, &[], is_valid_or_super);
    let drops = scene.a.drops();
    assert!(
        drops.keys().all(|reason| !reason.contains("send")),
        "{drops:?}"
    );
    let fragments = "ip[6:2] & 0x3fff != 0";
    let cut = scene.b.host().captured(&scene.outside, fragments);
    assert!(cut > STREAM / OVERLAY_MTU, "{cut}");
}
