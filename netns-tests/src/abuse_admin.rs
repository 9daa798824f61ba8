//! What no honest client of the admin socket sends: the work of the verbs of `netns-probe` that begin with `abuse-admin-`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::abuse::Dice;
use crate::wait::{millis, pace, secs};

/// How long a client waits for anything.
const PATIENCE: Duration = secs(20);

fn connect(socket: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| socket.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends `count` frames, each on a connection of its own: random bytes, requests with something wrong, requests cut anywhere.
///
/// # Errors
/// The daemon does not accept connections any more, or does not end one.
pub fn frames(socket: &str, count: u64) -> Result<Value> {
    let mut dice = Dice::new(4);
    let (mut answered, mut closed) = (0_u64, 0_u64);
    for number in 0..count {
        let mut stream = connect(socket).with_context(|| format!("frame {number}"))?;
        let frame = frame(&mut dice, number);
        // The daemon may have had enough before all of it is written.
        let written = stream
            .write_all(&frame)
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = [0; 512];
        match (written, stream.read(&mut answer)) {
            (_, Ok(length)) if length > 0 => answered += 1,
            (_, Err(err)) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(err).with_context(|| format!("frame {number} got no end: {frame:?}"));
            }
            _ => closed += 1,
        }
    }
    Ok(json!({ "frames": count, "answered": answered, "closed": closed }))
}

fn frame(dice: &mut Dice, number: u64) -> Vec<u8> {
    const METHODS: [&str; 8] = [
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PRI",
    ];
    const PATHS: [&str; 9] = [
        "/v1/status",
        "/v1/peers",
        "/v1/ping",
        "/v1/wait",
        "/v1/wg",
        "/v1/wg/../../x",
        "*",
        "/",
        "/v1/%00",
    ];
    const BODIES: [&str; 6] = [
        "",
        "{}",
        "null",
        "{\"target\":1}",
        "{\"name\":\"../x\",\"public_key\":\"AAAA\"}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ];
    let method = METHODS[dice.below(METHODS.len())];
    let path = PATHS[dice.below(PATHS.len())];
    let version = dice.below(3);
    let mut bytes = match number % 8 {
        0 => {
            let mut bytes = vec![0; dice.below(600)];
            dice.fill(&mut bytes);
            bytes
        }
        1 => format!("{method} {path} HTTP/1.1\r\nHost: x\r\nmeshd-api: {version}\r\n\r\n")
            .into_bytes(),
        2 => {
            let body = BODIES[dice.below(BODIES.len())];
            let claim = match dice.below(4) {
                0 => u64::MAX,
                1 => 1 << 20,
                _ => body.len() as u64,
            };
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nmeshd-api: 1\r\nContent-Length: {claim}\r\n\r\n{body}")
                .into_bytes()
        }
        3 => {
            let header = format!("X-{}: {}\r\n", dice.roll(), "a".repeat(dice.below(200)));
            let headers = header.repeat(dice.below(150));
            format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
        }
        4 => format!("POST {path} HTTP/1.1\r\nHost: x\r\nmeshd-api: 1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
            dice.roll(), "b".repeat(dice.below(100)))
            .into_bytes(),
        5 => format!("GET {} HTTP/1.1\r\n\r\n", "/a".repeat(dice.below(500))).into_bytes(),
        6 => format!("GET {path} HTTP/9.9\r\nHost: x\r\nContent-Length: -1\r\nContent-Length: 7\r\n\r\n").into_bytes(),
        _ => format!("GET {path} HTTP/1.1\r\nHost: x\r\nmeshd-api: 1\r\n\r\n").repeat(4).into_bytes(),
    };
    // One in four is cut anywhere, one in four has a byte changed.
    if !bytes.is_empty() {
        match dice.below(4) {
            0 => bytes.truncate(dice.below(bytes.len())),
            1 => {
                let place = dice.below(bytes.len());
                bytes[place] = u8::try_from(dice.below(256)).unwrap_or_default();
            }
            _ => {}
        }
    }
    bytes
}

/// Connections that are held for `hold` seconds, in turn: silent, after half a head, after a head whose body never comes, one that
/// writes a byte now and then, one that asks again and again and never reads.
///
/// # Errors
/// Connections cannot be made.
pub fn hold(socket: &str, count: usize, hold: u32) -> Result<Value> {
    let mut clients = Vec::with_capacity(count);
    let start = Instant::now();
    let mut refused = 0_u64;
    for number in 0..count {
        let Ok(mut stream) = UnixStream::connect(socket) else {
            refused += 1;
            continue;
        };
        stream.set_nonblocking(true)?;
        let first: &[u8] = match number % 5 {
            0 => b"",
            1 | 3 => b"GET /v1/status HTTP/1.1\r\nHost: x\r\n",
            2 => b"POST /v1/wg HTTP/1.1\r\nHost: x\r\nmeshd-api: 1\r\nContent-Length: 10\r\n\r\n",
            _ => b"GET /v1/status HTTP/1.1\r\nHost: x\r\nmeshd-api: 1\r\n\r\n",
        };
        // Whether it is taken is the daemon's affair.
        drop(stream.write(first));
        clients.push(stream);
    }
    say_ready();
    while start.elapsed() < secs(1) * hold {
        pace(Instant::now() + millis(200));
        for (number, stream) in clients.iter_mut().enumerate() {
            match number % 5 {
                3 => drop(stream.write(b"X")),
                4 => drop(stream.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")),
                _ => {}
            }
        }
    }
    Ok(json!({ "clients": clients.len(), "refused": refused }))
}

#[expect(clippy::print_stdout, reason = "the test waits for it")]
fn say_ready() {
    println!("ready");
}
