//! Programs of the system, each bounded in time and output.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read of one, in bytes.
const OUTPUT: u64 = 64 << 10;
/// Where the system's own programs are; the caller's directories are not looked into, since root calls.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line (no quotes) and what it prints, errors included; or why it does not run.
pub(super) fn run(line: &str) -> String {
    match output(line, OUTPUT) {
        Ok(said) => format!("$ {line}\n{}\n", said.trim_end()),
        Err(error) => format!("$ {line}\n{error}\n"),
    }
}

/// What a command line (no quotes) prints, errors included, up to so many bytes.
///
/// # Errors
/// It does not run, or takes more than [`PATIENCE`].
pub(super) fn output(line: &str, most: u64) -> io::Result<String> {
    let mut words = line.split_whitespace();
    let (mut reader, writer) = io::pipe()?;
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    // On a thread of its own, since a pipe has no deadline. Killing the child closes the pipe, which ends it.
    let (tell, told) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = reader.by_ref().take(most).read_to_end(&mut bytes);
        // Nobody waits any more if it took too long.
        let _ = tell.send(read.map(|_| bytes));
    });
    let said = told.recv_timeout(PATIENCE);
    // It may have ended, and then there is nothing to kill.
    let _ = child.kill();
    child.wait()?;
    match said {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes?).into_owned()),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_and_that_there_is_none() {
        assert_eq!(run("echo a b"), "$ echo a b\na b\n");
        assert!(run("cat /nonexistent").contains("No such file"));
        assert!(run("no-such-program x").contains("No such file"));
        assert_eq!(output("yes", OUTPUT).unwrap().len() as u64, OUTPUT);
    }
}
