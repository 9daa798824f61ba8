//! What a fuzzer's bytes do as a client of the admin socket: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use meshd::admin::connection::{Access, Command, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::{Builder, Runtime};

/// More than a client can send, or is told, in one exchange.
const ROOM: usize = 1 << 20;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O");
}

/// The bytes are all that a client sends. At most one command comes of it, none for somebody who may ask nothing, and the answer, if
/// there is one, is one of HTTP, as short as the request allows.
pub(crate) fn ask(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(ROOM / 2)];
    let (answer, commands) = exchange(bytes, Access::Everything);
    assert!(commands <= 1);
    check(&answer, bytes.len());
    let (answer, commands) = exchange(bytes, Access::Nothing);
    assert_eq!(commands, 0);
    check(&answer, bytes.len());
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

fn check(answer: &[u8], asked: usize) {
    // "HTTP/1.0" to those who speak that.
    let is_http = answer.is_empty() || answer.starts_with(b"HTTP/1.");
    assert!(is_http, "{}", String::from_utf8_lossy(answer));
    // An answer may repeat the path, in which every byte may need six.
    assert!(answer.len() <= 1024 + 6 * asked);
}

/// What the client is told, and how many commands were carried out.
fn exchange(bytes: &[u8], access: Access) -> (Vec<u8>, u32) {
    let commands = Cell::new(0);
    let answer = |command: Command| {
        commands.set(commands.get() + 1);
        let told = format!("{command:?}").into_bytes();
        async { Ok(told) }
    };
    let told = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut client, daemon) = duplex(ROOM);
            client.write_all(bytes).await.expect("there is room");
            client.shutdown().await.expect("nobody has closed it");
            // That it was not HTTP is a result like any other.
            let _ = serve(daemon, access, &AtomicBool::new(false), answer).await;
            let mut told = Vec::new();
            client
                .read_to_end(&mut told)
                .await
                .expect("the daemon has closed it");
            told
        })
    });
    (told, commands.get())
}
