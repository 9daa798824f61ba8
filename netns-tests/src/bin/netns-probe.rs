//! Small generators of traffic for use inside a namespace of the lab. Servers say `ready` and run until they are killed;
//! clients print one JSON object and fail if what they are about did not work.
#![expect(clippy::print_stdout, reason = "its results")]

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, FixedOutput as _, KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use netns_tests::wait::{millis, pace, secs};
use netns_tests::{abuse, abuse_admin};
use serde_json::{Value, json};

const USAGE: &str = "usage: netns-probe udp-echo ADDR [KNOCK] | udp-sizes ADDR FIRST LAST | udp-sink ADDR | udp-source ADDR COUNT PER_SECOND SIZE
       | tcp-serve ADDR | tcp-send ADDR STREAMS BYTES PER_SECOND(0: no limit) | http-serve ADDR BYTES | http-get ADDR
       | initiations ADDR KEY COUNT PER_SECOND | nat-serve IP IP | nat-probe IP IP | nat-late IP MS
       | abuse-datagrams ADDR FIRST LAST PER_SECOND | abuse-trains ADDR | abuse-mac1 ADDR PER_SECOND SECONDS | abuse-replay ADDR CAPTURE ROUNDS
       | abuse-inner INTERFACE SOURCE NODE LEAF PORT ROUNDS | abuse-honest SOURCE ADDR
       | abuse-admin-frames SOCKET COUNT | abuse-admin-hold SOCKET CLIENTS SECONDS";
/// The largest payload of UDP over IPv6 without jumbograms, and then some.
const DATAGRAM: usize = 65_536;
/// How much TCP content is made, sent and compared at a time.
const CHUNK: usize = 65_536;
/// The ports NAT probes go to, at each of two addresses.
const NAT_PORTS: [u16; 2] = [3478, 3479];
/// How long a NAT probe waits for an answer.
const ANSWER: Duration = millis(400);
/// A stream without progress for so long is broken.
const STALLED: Duration = secs(45);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["udp-echo", listen] => udp_echo(listen.parse()?, None),
        ["udp-echo", listen, knock] => udp_echo(listen.parse()?, Some(knock.parse()?)),
        ["udp-sizes", target, first, last] => {
            udp_sizes(target.parse()?, first.parse()?, last.parse()?)
        }
        ["udp-sink", listen] => udp_sink(listen.parse()?),
        ["udp-source", target, count, rate, size] => udp_source(
            target.parse()?,
            count.parse()?,
            rate.parse()?,
            size.parse()?,
        ),
        ["initiations", target, key, count, rate] => {
            initiations(target.parse()?, key, count.parse()?, rate.parse()?)
        }
        ["tcp-serve", listen] => tcp_serve(listen.parse()?),
        ["tcp-send", target, streams, bytes, rate] => tcp_send(
            target.parse()?,
            streams.parse()?,
            bytes.parse()?,
            rate.parse()?,
        ),
        ["http-serve", listen, bytes] => http_serve(listen.parse()?, bytes.parse()?),
        ["http-get", target] => http_get(target.parse()?),
        ["nat-serve", first, second] => nat_serve([first.parse()?, second.parse()?]),
        ["nat-probe", first, second] => nat_probe([first.parse()?, second.parse()?]),
        ["nat-late", server, after] => nat_late(server.parse()?, after.parse()?),
        ["abuse-datagrams", target, first, last, rate] => say(abuse::every_datagram(
            target.parse()?,
            first.parse()?,
            last.parse()?,
            rate.parse()?,
        )),
        ["abuse-trains", target] => say(abuse::trains(target.parse()?)),
        ["abuse-mac1", target, rate, seconds] => say(abuse::bad_mac1(
            target.parse()?,
            rate.parse()?,
            seconds.parse()?,
        )),
        ["abuse-replay", target, capture, rounds] => {
            say(abuse::replay(target.parse()?, capture, rounds.parse()?))
        }
        ["abuse-inner", interface, source, node, leaf, port, rounds] => {
            let who = abuse::Inner {
                source: source.parse()?,
                node: node.parse()?,
                leaf: leaf.parse()?,
                port: port.parse()?,
            };
            say(abuse::inner(interface, who, rounds.parse()?))
        }
        ["abuse-admin-frames", socket, count] => say(abuse_admin::frames(socket, count.parse()?)),
        ["abuse-admin-hold", socket, count, seconds] => {
            say(abuse_admin::hold(socket, count.parse()?, seconds.parse()?))
        }
        ["abuse-honest", source, target] => say(abuse::honest(source.parse()?, target.parse()?)),
        _ => bail!(USAGE),
    }
}

fn say(report: Result<Value>) -> Result<()> {
    println!("{}", report?);
    Ok(())
}

fn ready() -> Result<()> {
    println!("ready");
    io::stdout().flush().context("standard output")
}

/// Bytes that a seed determines (xorshift64*, eight at a time), for content that no other stream has.
struct Content {
    state: u64,
    bytes: Vec<u8>,
}

impl Content {
    fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            bytes: vec![0; CHUNK],
        }
    }

    /// The next bytes, at most [`CHUNK`].
    fn next(&mut self, length: usize) -> &[u8] {
        for eight in self.bytes[..length].chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            eight.copy_from_slice(&word[..eight.len()]);
        }
        &self.bytes[..length]
    }
}

/// The length of the next piece of so many bytes.
fn piece(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

fn udp_echo(listen: SocketAddr, knock: Option<SocketAddr>) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    if let Some(knock) = knock {
        socket.send_to(b"knock", knock)?;
    }
    ready()?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // ICMP errors of clients that have gone come back here; they are not the server's end.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], from));
        }
    }
}

fn udp_sizes(target: SocketAddr, first: u16, last: u16) -> Result<()> {
    let socket = connect_udp(target)?;
    socket.set_read_timeout(Some(secs(1)))?;
    let mut buffer = vec![0; DATAGRAM];
    let (mut missing, mut altered) = (Vec::new(), Vec::new());
    for size in first..=last {
        let mut content = Content::new(u64::from(size) + 1);
        let sent = content.next(usize::from(size));
        if let Err(err) = socket.send(sent) {
            missing.push(json!({ "size": size, "error": err.to_string() }));
            continue;
        }
        let deadline = Instant::now() + secs(1);
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) if &buffer[..length] == sent => break,
                // A late answer to an earlier size has that size.
                Ok(length) if length != sent.len() && Instant::now() < deadline => {}
                Ok(_) => {
                    altered.push(size);
                    break;
                }
                Err(err) => {
                    missing.push(json!({ "size": size, "error": err.to_string() }));
                    break;
                }
            }
        }
    }
    println!(
        "{}",
        json!({ "sent": u32::from(last) + 1 - u32::from(first), "missing": missing, "altered": altered })
    );
    Ok(())
}

fn connect_udp(target: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv6() {
        "[::]:0".parse()?
    } else {
        "0.0.0.0:0".parse()?
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket)
}

fn wall_clock_ns() -> Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos(),
    )?)
}

fn udp_sink(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    socket.set_read_timeout(Some(millis(1500)))?;
    ready()?;
    let mut buffer = vec![0; DATAGRAM];
    let (mut seen, mut latest, mut duplicates, mut reordered, mut bytes) =
        (BTreeSet::new(), None, 0_u64, 0_u64, 0_u64);
    let (mut delays, mut span) = (Vec::new(), None);
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(err)
                if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    && !seen.is_empty() =>
            {
                break;
            }
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(err) => return Err(err.into()),
        };
        let now = Instant::now();
        let Some((number, sent_at)) =
            buffer[..length]
                .split_first_chunk()
                .and_then(|(number, rest)| {
                    Some((
                        u32::from_be_bytes(*number),
                        u64::from_be_bytes(*rest.first_chunk()?),
                    ))
                })
        else {
            continue;
        };
        let (first, _) = span.unwrap_or((now, now));
        span = Some((first, now));
        bytes += length as u64;
        delays.push(wall_clock_ns()?.saturating_sub(sent_at));
        if !seen.insert(number) {
            duplicates += 1;
        } else if latest.is_some_and(|latest| number < latest) {
            reordered += 1;
        }
        latest = latest.max(Some(number));
    }
    delays.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let ms = |ns: u64| ns as f64 / 1e6;
    let length = span.map_or(0.0, |(first, last)| {
        last.duration_since(first).as_secs_f64()
    });
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = if length > 0.0 {
        bytes as f64 * 8.0 / length
    } else {
        0.0
    };
    println!(
        "{}",
        json!({
            "received": seen.len(), "duplicates": duplicates, "reordered": reordered, "bits_per_second": rate,
            "delay_min_ms": ms(delays[0]), "delay_median_ms": ms(delays[delays.len() / 2]),
        })
    );
    Ok(())
}

fn udp_source(target: SocketAddr, count: u32, per_second: u32, size: usize) -> Result<()> {
    ensure!(
        size >= 12 && per_second > 0,
        "at least 12 bytes and one per second"
    );
    let socket = connect_udp(target)?;
    let mut buffer = vec![0; size];
    let start = Instant::now();
    for number in 0..count {
        pace(start + secs(1) * number / per_second);
        buffer[..4].copy_from_slice(&number.to_be_bytes());
        buffer[4..12].copy_from_slice(&wall_clock_ns()?.to_be_bytes());
        socket.send(&buffer)?;
    }
    println!("{}", json!({ "sent": count }));
    Ok(())
}

/// Handshake initiations to the holder of a key, as anybody can write them who knows it, from 65,000 addresses in 10.200.0.0/16 that
/// are all ours.
fn initiations(target: SocketAddr, key: &str, count: u32, per_second: u32) -> Result<()> {
    ensure!(per_second > 0, "at least one per second");
    let key = Blake2s256::new()
        .chain_update(b"mac1----")
        .chain_update(BASE64.decode(key)?)
        .finalize();
    let mac1 = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key)?;
    let mut content = Content::new(1);
    ready()?;
    let start = Instant::now();
    for number in 0..count {
        pace(start + secs(1) * number / per_second);
        let mut message = content.next(148).to_vec();
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
        // Below 2^255 - 19.
        message[39] &= 0x3f;
        let mac = mac1.clone().chain_update(&message[..116]).finalize_fixed();
        message[116..132].copy_from_slice(&mac);
        let [high, low] = u16::try_from(number % 65_000)?.to_be_bytes();
        let socket = UdpSocket::bind(SocketAddr::from(([10, 200, high, low], 0)))?;
        socket.send_to(&message, target)?;
    }
    println!("{}", json!({ "sent": count }));
    Ok(())
}

fn tcp_serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    ready()?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(err) = check_stream(stream) {
                println!("stream: {err:#}");
            }
        });
    }
    Ok(())
}

/// Reads seed, length and content; confirms by the number of bytes that were right.
fn check_stream(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STALLED))?;
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let (seed, length) = head.split_at(8);
    let (seed, length) = (
        u64::from_be_bytes(seed.try_into()?),
        u64::from_be_bytes(length.try_into()?),
    );
    let mut content = Content::new(seed);
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let size = piece(length - done);
        stream
            .read_exact(&mut buffer[..size])
            .with_context(|| format!("after {done} bytes"))?;
        ensure!(
            &buffer[..size] == content.next(size),
            "altered after {done} bytes"
        );
        done += size as u64;
    }
    stream.write_all(&done.to_be_bytes())?;
    Ok(())
}

fn tcp_send(target: SocketAddr, streams: u64, bytes: u64, per_second: u64) -> Result<()> {
    let start = Instant::now();
    let senders: Vec<_> = (0..streams)
        .map(|number| thread::spawn(move || send_stream(target, number + 1, bytes, per_second)))
        .collect();
    let mut broken = Vec::new();
    for (number, sender) in senders.into_iter().enumerate() {
        match sender.join() {
            Ok(Ok(())) => {}
            Ok(Err(err)) => broken.push(format!("stream {number}: {err:#}")),
            Err(_) => broken.push(format!("stream {number}: panicked")),
        }
    }
    ensure!(
        broken.is_empty(),
        "{} of {streams} streams broke: {}",
        broken.len(),
        broken.join("; ")
    );
    println!(
        "{}",
        json!({ "streams": streams, "bytes": bytes, "seconds": start.elapsed().as_secs_f64() })
    );
    Ok(())
}

fn send_stream(target: SocketAddr, seed: u64, bytes: u64, per_second: u64) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, secs(10)).context("connect")?;
    stream.set_write_timeout(Some(STALLED))?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.write_all(&[seed.to_be_bytes(), bytes.to_be_bytes()].concat())?;
    let mut content = Content::new(seed);
    let start = Instant::now();
    let mut done = 0;
    while done < bytes {
        let size = piece(bytes - done);
        stream
            .write_all(content.next(size))
            .with_context(|| format!("after {done} bytes"))?;
        done += size as u64;
        if let Some(ms) = (done * 1000).checked_div(per_second) {
            println!("progress {done}");
            pace(start + Duration::from_millis(ms));
        }
    }
    let mut confirmed = [0; 8];
    stream
        .read_exact(&mut confirmed)
        .context("the server did not confirm")?;
    ensure!(
        u64::from_be_bytes(confirmed) == bytes,
        "the server confirmed another length"
    );
    Ok(())
}

/// The seed of what is served over HTTP.
const PAGE: u64 = 80;

fn http_serve(listen: SocketAddr, bytes: u64) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    ready()?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(err) = http_answer(stream, bytes) {
                println!("request: {err:#}");
            }
        });
    }
    Ok(())
}

fn http_answer(stream: TcpStream, bytes: u64) -> Result<()> {
    stream.set_read_timeout(Some(secs(10)))?;
    let mut request = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let length = request.by_ref().take(8192).read_line(&mut line)?;
        ensure!(length > 0, "the request has no end");
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut stream = request.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    )?;
    let mut content = Content::new(PAGE);
    let mut left = bytes;
    while left > 0 {
        let size = piece(left);
        stream.write_all(content.next(size))?;
        left -= size as u64;
    }
    Ok(())
}

fn http_get(target: SocketAddr) -> Result<()> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&target, secs(10)).context("connect")?;
    stream.set_read_timeout(Some(secs(20)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        ensure!(
            answer.read_line(&mut line)? > 0,
            "the answer has no end of its head"
        );
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<u64>()?);
        }
        head.push_str(line);
        head.push('\n');
    }
    ensure!(head.starts_with("HTTP/1.1 200 "), "the server said {head}");
    let length = length.context("the answer has no length")?;
    let mut content = Content::new(PAGE);
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let size = piece(length - done);
        answer
            .read_exact(&mut buffer[..size])
            .with_context(|| format!("after {done} bytes"))?;
        ensure!(
            &buffer[..size] == content.next(size),
            "altered after {done} bytes"
        );
        done += size as u64;
    }
    println!(
        "{}",
        json!({ "bytes": done, "seconds": start.elapsed().as_secs_f64() })
    );
    Ok(())
}

/// Requests are words: `echo TAG`, `other-port TAG`, `other-both TAG`, `late MS TAG`. Answers are `TAG PORT`: the sender's port.
fn nat_serve(addresses: [IpAddr; 2]) -> Result<()> {
    let mut sockets = Vec::new();
    for address in addresses {
        for port in NAT_PORTS {
            sockets.push(UdpSocket::bind((address, port))?);
        }
    }
    ready()?;
    let serve = |number: usize| -> Result<()> {
        let mut buffer = [0; 256];
        loop {
            let Ok((length, from)) = sockets[number].recv_from(&mut buffer) else {
                continue;
            };
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let words: Vec<&str> = request.split_whitespace().collect();
            // Sockets are in pairs: the two ports of the first address, then those of the second.
            let (by, tag) = match *words.as_slice() {
                ["echo", tag] => (number, tag),
                ["other-port", tag] => (number ^ 1, tag),
                ["other-both", tag] => (number ^ 3, tag),
                ["late", ms, tag] => {
                    pace(Instant::now() + millis(ms.parse()?));
                    (number, tag)
                }
                _ => continue,
            };
            // A refusal earlier sent back by ICMP is no failure of this answer.
            drop(sockets[by].send_to(format!("{tag} {}", from.port()).as_bytes(), from));
        }
    };
    thread::scope(|scope| {
        for number in 1..sockets.len() {
            scope.spawn(move || serve(number));
        }
        serve(0)
    })
}

/// Asks, and returns the port seen by the server, or `None` when no answer came.
fn nat_ask(
    socket: &UdpSocket,
    server: SocketAddr,
    request: &str,
    tag: &str,
    within: Duration,
) -> Result<Option<u16>> {
    drop(socket.send_to(format!("{request} {tag}").as_bytes(), server));
    let deadline = Instant::now() + within;
    let mut buffer = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some((_, port)) = answer
            .split_once(' ')
            .filter(|(answered, _)| *answered == tag)
        {
            return Ok(Some(port.parse()?));
        }
    }
}

fn nat_probe([first, second]: [IpAddr; 2]) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut seen = Vec::new();
    for (number, (address, port)) in [
        (first, NAT_PORTS[0]),
        (first, NAT_PORTS[1]),
        (second, NAT_PORTS[0]),
        (second, NAT_PORTS[1]),
    ]
    .into_iter()
    .enumerate()
    {
        seen.push(nat_ask(
            &socket,
            (address, port).into(),
            "echo",
            &format!("m{number}"),
            ANSWER,
        )?);
    }
    let words = [
        "endpoint independent",
        "address dependent",
        "address and port dependent",
    ];
    let ports: Option<Vec<u16>> = seen.iter().copied().collect();
    let Some(ports) = ports else {
        ensure!(
            seen.iter().all(Option::is_none),
            "some probes were answered and some were not: {seen:?}"
        );
        println!(
            "{}",
            json!({ "mapping": "blocked", "filtering": "blocked", "keeps_port": false, "ports": [] })
        );
        return Ok(());
    };
    let mapping = if ports.iter().all(|port| *port == ports[0]) {
        words[0]
    } else if ports[0] == ports[1] && ports[2] == ports[3] {
        words[1]
    } else {
        words[2]
    };
    let keeps_port = ports[0] == socket.local_addr()?.port();
    // A fresh socket that has written to one address and port alone.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let server = SocketAddr::new(first, NAT_PORTS[0]);
    ensure!(
        nat_ask(&socket, server, "echo", "f0", ANSWER)?.is_some(),
        "the server does not answer a second socket"
    );
    let by_other_port = nat_ask(&socket, server, "other-port", "f1", ANSWER)?.is_some();
    let by_other_address = nat_ask(&socket, server, "other-both", "f2", ANSWER)?.is_some();
    let filtering = match (by_other_address, by_other_port) {
        (true, _) => words[0],
        (false, true) => words[1],
        (false, false) => words[2],
    };
    println!(
        "{}",
        json!({ "mapping": mapping, "filtering": filtering, "keeps_port": keeps_port, "ports": ports })
    );
    Ok(())
}

fn nat_late(server: IpAddr, after: u64) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let answer = nat_ask(
        &socket,
        (server, NAT_PORTS[0]).into(),
        &format!("late {after}"),
        "l0",
        millis(after + 500),
    )?;
    println!("{}", json!({ "answered": answer.is_some() }));
    Ok(())
}
