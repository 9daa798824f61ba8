//! Processes of the lab: each bounded in time, in one namespace, and gone when the test is.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::wait::{poll_until, secs};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = secs(5);

/// What a command that ended said.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output, bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Standard output when it succeeded, else what went wrong in one line.
    pub fn success(self) -> Result<String, String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        Err(format!("{}: {}", self.status, said.trim()))
    }
}

/// The command line `words`, in `namespace` if given, killed by the kernel when the thread that starts it ends.
///
/// # Panics
/// When `words` is empty.
pub(crate) fn command(namespace: Option<&str>, words: &[&str]) -> Command {
    assert!(!words.is_empty(), "a command needs a program");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if let Some(namespace) = namespace {
        command.args(["ip", "netns", "exec", namespace]);
    }
    command.args(words).env("LC_ALL", "C");
    command
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or has not ended `within` that time (it is killed then).
pub(crate) fn run(mut command: Command, input: &str, within: Duration) -> Result<Output, String> {
    // Files rather than pipes: nobody has to read while the process runs, and whoever inherits them cannot hold us up.
    let [mut stdin, mut stdout, mut stderr] = [scratch()?, scratch()?, scratch()?];
    stdin
        .write_all(input.as_bytes())
        .and_then(|()| stdin.rewind())
        .map_err(|err| format!("cannot pass input: {err}"))?;
    let handle = |file: &File| {
        file.try_clone()
            .map(Stdio::from)
            .map_err(|err| format!("cannot share a file: {err}"))
    };
    command
        .stdin(handle(&stdin)?)
        .stdout(handle(&stdout)?)
        .stderr(handle(&stderr)?);
    let mut child = command
        .spawn()
        .map_err(|err| format!("cannot start {command:?}: {err}"))?;
    let ended = poll_until(within, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("still running".to_owned()),
        Err(err) => Err(err.to_string()),
    });
    let status = ended.map_err(|late| {
        end(&mut child);
        let said: String = [text(&mut stdout), text(&mut stderr)].concat();
        format!(
            "killed after {:.1} s, {}: {}",
            late.waited.as_secs_f64(),
            late.last,
            said.trim()
        )
    })?;
    Ok(Output {
        status,
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
    })
}

/// A process that runs beside the test. It is killed when this is dropped; its output stays in the log.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a command with standard output and error going to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program not started.
    pub(crate) fn start(mut command: Command, name: &str, log: &Path) -> Result<Self, String> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|err| format!("cannot write {}: {err}", log.display()))?;
        let again = file
            .try_clone()
            .map_err(|err| format!("cannot share {}: {err}", log.display()))?;
        let child = command
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(|err| format!("cannot start {command:?}: {err}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        })
    }

    /// Its process id, which is that of the program itself.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Everything it wrote after so many bytes.
    pub(crate) fn log_from(&self, offset: usize) -> String {
        let mut bytes = Vec::new();
        let offset = offset as u64;
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut bytes)
        });
        read.map_or_else(
            |_| String::new(),
            |_| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Its exit status once it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|err| panic!("cannot ask for the state of {}: {err}", self.name))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Waits for it to end by itself, and returns its status.
    ///
    /// # Panics
    /// When it has not ended `within` that time.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        match poll_until(within, || self.status()) {
            Ok(status) => status,
            Err(late) => panic!(
                "{} still runs after {:.1} s; it said: {}",
                self.name,
                late.waited.as_secs_f64(),
                self.log()
            ),
        }
    }

    /// Asks it to end (SIGTERM) and returns how it did, `None` when it had to be killed after five seconds.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.signal("TERM");
        let ended = poll_until(GRACE, || self.status());
        if ended.is_err() {
            self.kill();
        }
        ended.ok()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Sends it a signal by name, as `kill -s` takes it. To a process that has ended, nothing happens.
    ///
    /// # Panics
    /// When there is no such signal.
    pub fn signal(&mut self, name: &str) {
        if self.is_running() {
            let sent = Command::new("kill")
                .args(["-s", name, &self.id().to_string()])
                .status();
            assert!(
                sent.is_ok_and(|status| status.success()),
                "cannot send SIG{name} to {}",
                self.name
            );
        }
    }

    /// Writes a line to its standard input, if the command was started with one.
    pub(crate) fn tell(&mut self, line: &str) -> std::io::Result<()> {
        let Some(stdin) = self.child.stdin.as_mut() else {
            return Err(std::io::Error::other(
                "it was started without standard input",
            ));
        };
        writeln!(stdin, "{line}").and_then(|()| stdin.flush())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({}, {})", self.name, self.child.id())
    }
}

fn end(child: &mut Child) {
    // Both fail only for a child that was waited for already, which is what is wanted.
    if child.kill().is_ok() {
        drop(child.wait());
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    match file.rewind().and_then(|()| file.read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(err) => format!("(output lost: {err})"),
    }
}

/// A file without a name.
fn scratch() -> Result<File, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("netns-tests-{}-{number}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    file.and_then(|file| fs::remove_file(&path).map(|()| file))
        .map_err(|err| format!("cannot make {}: {err}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::millis;

    #[test]
    fn a_command_gives_its_output_and_its_status() {
        let output = run(Command::new("cat"), "hello", secs(10)).unwrap();
        assert_eq!(output.success().unwrap(), "hello");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no >&2; exit 3"]);
        assert_eq!(
            run(command, "", secs(10)).unwrap().success().unwrap_err(),
            "exit status: 3: no"
        );
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("60");
        assert!(
            run(command, "", millis(50))
                .unwrap_err()
                .starts_with("killed after")
        );
    }
}
