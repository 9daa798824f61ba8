//! A place where the real binary runs: a configuration, a state directory and a socket of its own.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const POOL: &str = include_str!("../../testdata/identities.txt");

/// A directory with a configuration, a state directory and a socket of its own.
pub(crate) struct Site {
    pub(crate) root: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// A site with a key of the pool, since mining takes seconds.
    pub(crate) fn with_key(n: usize) -> Self {
        let site = Self::new();
        fs::create_dir(site.path("state")).unwrap();
        fs::set_permissions(site.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(site.path("state/node.key"), format!("{}\n", pool(n)[0])).unwrap();
        fs::set_permissions(
            site.path("state/node.key"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshd"));
        command
            .env("MESHD_CONFIG", self.path("meshd.toml"))
            .env("MESHD_STATE_DIR", self.path("state"))
            .env("MESHD_SOCKET", self.path("meshd.sock"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command().args(args).output().unwrap(), self)
    }

    /// With something on standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command();
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        Ran::of(child.wait_with_output().unwrap(), self)
    }

    /// Answers one request on the socket with a status line, headers and a body, and gives the request back.
    pub(crate) fn daemon(&self, answer: String) -> std::thread::JoinHandle<String> {
        let listener = UnixListener::bind(self.path("meshd.sock")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let mut request = String::from_utf8(request).unwrap();
            let length = request
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |n| n.parse().unwrap());
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            request += &String::from_utf8(body).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            request
        })
    }
}

/// What a run left, with the site's directory written as `DIR`.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output, site: &Site) -> Self {
        let dir = site.root.path().display().to_string();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&dir, "DIR");
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        self.err
    }
}

/// Seed, public key and address of the n-th identity of the pool.
pub(crate) fn pool(n: usize) -> [&'static str; 3] {
    let line = POOL
        .lines()
        .filter(|line| !line.starts_with('#'))
        .nth(n)
        .unwrap();
    line.split(' ').collect::<Vec<_>>().try_into().unwrap()
}

pub(crate) fn http(status: &str, version: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nmeshd-api: {version}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
