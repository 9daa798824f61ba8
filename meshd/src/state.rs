//! The state directory: what a node keeps across restarts.
//!
//! | file | what | written |
//! |---|---|---|
//! | `node.key` | the identity: 64 hexadecimal digits and a newline | once |
//! | `port.json` | the random WireGuard port ([`Port`]) | at the first start |
//! | `stock.json` | devices added by `meshd wg add` ([`Stock`]) | when one comes or goes |
//! | `workloads.json` | workloads that `meshd attach` or a container runtime attached ([`Workloads`]) | when one comes or goes |
//! | `peers.json` | where peers were last seen ([`Peers`]) | now and then |
//! | `control-port.json` | libp2p's random port ([`ControlPort`]) | at the first start |
//! | `control.json` | the control plane's contacts ([`Remembered`](crate::control_plane::Remembered)) | now and then |
//! | `kernel.json` | rules and tables that outlive a killed daemon ([`Journal`](crate::journal::Journal)) | at start and stop |
//! | `membership.json` | the private network that the node is in, and its records ([`Membership`]) | when they change |
//! | `network-ID.key` | the key of a network that was created here: 64 hexadecimal digits and a newline | once |
//! | `lock` | process id of the daemon that has the directory | at every start |
//!
//! The directory is 0700, its files 0600. A write is a new file, made durable before it takes the old one's name: after
//! a crash at any instant there is the old content or the new. A file written by a newer meshd is refused, not replaced.

mod network;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wireguard::PublicKey;
use zeroize::Zeroizing;

pub use self::network::Membership;
use crate::admin::AttachWorkload;
use crate::identity::{Identity, SeedError};

const KEY_FILE: &str = "node.key";
const LOCK_FILE: &str = "lock";
/// Largest state file that is read, in bytes.
const MAX_LEN: u64 = 16 << 20;
/// 64 digits and a newline; one more byte shows that there is too much.
const KEY_LEN: u64 = 65;

/// The state directory of a node, checked to be private.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// A kind of state file.
pub trait Record: Serialize + DeserializeOwned {
    /// Its name in the directory.
    const FILE: &'static str;
    /// Raised when a version of meshd that does not know it would misread it. A greater one is refused.
    const VERSION: u32;
}

/// `port.json`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The UDP port that the node took when the configuration said 0.
    pub port: u16,
}

impl Record for Port {
    const FILE: &'static str = "port.json";
    const VERSION: u32 = 1;
}

/// `control-port.json`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPort {
    /// The port of TCP and UDP that libp2p took where the configuration said 0.
    pub port: u16,
}

impl Record for ControlPort {
    const FILE: &'static str = "control-port.json";
    const VERSION: u32 = 1;
}

/// `stock.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// In the order in which they were added.
    pub devices: Vec<StockDevice>,
}

/// A stock device that `meshd wg add` made known. There is no private key here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockDevice {
    /// What it is called.
    pub name: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Its address in the node's `/64`.
    pub address: Ipv6Addr,
}

impl Record for Stock {
    const FILE: &'static str = "stock.json";
    const VERSION: u32 = 1;
}

/// `workloads.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// By name; those of the configuration are not among them.
    pub workloads: Vec<AttachWorkload>,
}

impl Record for Workloads {
    const FILE: &'static str = "workloads.json";
    const VERSION: u32 = 1;
}

/// `peers.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// One entry for each peer.
    pub peers: Vec<PeerSeen>,
}

/// Where and when a peer was last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSeen {
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Addresses from which it sent something authenticated, latest first.
    pub endpoints: Vec<SocketAddr>,
    /// When it last did: seconds since 1970.
    pub seen: u64,
}

impl Record for Peers {
    const FILE: &'static str = "peers.json";
    const VERSION: u32 = 1;
}

/// `routing.json`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// The epoch that the node last began as an origin of routes.
    pub epoch: u32,
}

impl Record for Routing {
    const FILE: &'static str = "routing.json";
    const VERSION: u32 = 1;
}

/// A file as it stands on disk.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// The directory belongs to this process until the lock is dropped; the kernel drops it when the process dies.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no identity here yet.
    #[error("there is no {}", .0.display())]
    NoKey(PathBuf),
    /// There is an identity already, and it is never replaced.
    #[error("{} exists; an identity is never replaced", .0.display())]
    KeyExists(PathBuf),
    /// Others may read or write it.
    #[error("{} has mode {mode:03o}: others than its owner may use it, so it counts as known to them", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {expected}", path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// A symbolic link, a directory, a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Not a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The key file does not hold a key.
    #[error("{} is damaged", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SeedError,
    },
    /// The file of a network's key does not hold the key of that network.
    #[error("{} is damaged: it does not hold the key of that network", .0.display())]
    NetworkKey(PathBuf),
    /// A state file that cannot be understood.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Written by a newer meshd.
    #[error("{} has version {version}, and this meshd knows versions up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The greatest that is understood.
        known: u32,
    },
    /// Another daemon has the directory.
    #[error("another meshd (process {pid}) runs on {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the other one wrote into the lock file; may be empty while it starts.
        pid: String,
    },
}

impl StateDir {
    /// A directory that exists and is private: mode 0700, and ours or, for root, anybody's.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let meta = fs::metadata(&path).map_err(io_error("opening", &path))?;
        if !meta.is_dir() {
            return Err(StateError::NotADirectory(path));
        }
        check_private(&path, &meta, None)?;
        Ok(Self { path })
    }

    /// As [`StateDir::open`]; makes the directory, and those above it, if there is none.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("making", parent))?;
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("making", &path)(error)),
        }
        Self::open(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the identity is.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.path.join(KEY_FILE)
    }

    /// Takes the directory for this process, or says who has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path.join(LOCK_FILE);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let mut file = match opened {
            // The kernel locks what can only be read, too: the directory itself, if there never was a lock file.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => open_nofollow(&path)
                .or_else(|_| File::open(&self.path))
                .map_err(io_error("opening", &path))?,
            opened => opened.map_err(io_error("opening", &path))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.take(20)
                    .read_to_string(&mut pid)
                    .map_err(io_error("reading", &path))?;
                return Err(StateError::Locked {
                    path: self.path.clone(),
                    pid: pid.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("locking", &path)(error)),
        }
        // Only for the message above, and impossible on a full disk: the lock itself is the kernel's.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        self.sweep();
        Ok(StateLock { _file: file })
    }

    /// Removes the temporary files of records that killed processes left. The lock is ours, so none is in use; what cannot be
    /// removed does no harm, and a later write says why the directory cannot be written.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(is_temporary) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Reads the identity. Refuses a file that anybody else could have read or written.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let path = self.key_path();
        let file = match open_nofollow(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::NoKey(path));
            }
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(StateError::NotAFile(path));
            }
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        let meta = file.metadata().map_err(io_error("reading", &path))?;
        if !meta.is_file() {
            return Err(StateError::NotAFile(path));
        }
        let directory = fs::metadata(&self.path).map_err(io_error("reading", &self.path))?;
        check_private(&path, &meta, Some(directory.uid()))?;
        // Room for all of it at once, so that no reallocation leaves a copy of the secret behind.
        let mut text = Zeroizing::new(Vec::with_capacity(128));
        file.take(KEY_LEN + 1)
            .read_to_end(&mut text)
            .map_err(io_error("reading", &path))?;
        let damaged = |source| StateError::Key {
            path: path.clone(),
            source,
        };
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = str::from_utf8(line).map_err(|_| damaged(SeedError::Format))?;
        Identity::from_hex(line).map_err(damaged)
    }

    /// Writes the identity of a new node; never over another.
    pub fn create_identity(&self, identity: &Identity) -> Result<(), StateError> {
        let path = self.key_path();
        let mut line = Zeroizing::new(String::with_capacity(65));
        line.push_str(&identity.to_hex());
        line.push('\n');
        let temp = self.write_temp(KEY_FILE, line.as_bytes())?;
        // A link, unlike a rename, fails when the name is taken, by whoever was faster.
        let linked = fs::hard_link(&temp, &path);
        fs::remove_file(&temp).map_err(io_error("removing", &temp))?;
        match linked {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(StateError::KeyExists(path))
            }
            Err(error) => Err(io_error("writing", &path)(error)),
        }
    }

    /// Reads a record; `None` if it was never written.
    pub fn read<T: Record>(&self) -> Result<Option<T>, StateError> {
        let path = self.path.join(T::FILE);
        let mut bytes = Vec::new();
        match open_nofollow(&path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading", &path)(error)),
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |source| StateError::Damaged {
            path: path.clone(),
            source,
        };
        // The version first: what else a newer file holds need not make sense to us.
        let Version { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version > T::VERSION {
            return Err(StateError::Newer {
                path,
                version,
                known: T::VERSION,
            });
        }
        let file: Versioned<T> = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Some(file.record))
    }

    /// Writes a record in place of the old one. Durable when it returns.
    pub fn write<T: Record>(&self, record: &T) -> Result<(), StateError> {
        let path = self.path.join(T::FILE);
        let damaged = |source| StateError::Damaged {
            path: path.clone(),
            source,
        };
        let mut bytes = serde_json::to_vec(&Versioned {
            version: T::VERSION,
            record,
        })
        .map_err(damaged)?;
        bytes.push(b'\n');
        let temp = self.write_temp(T::FILE, &bytes)?;
        if let Err(error) = fs::rename(&temp, &path) {
            fs::remove_file(&temp).map_err(io_error("removing", &temp))?;
            return Err(io_error("writing", &path)(error));
        }
        self.sync()
    }

    /// Moves a record that cannot be understood out of the way, in place of one that was moved before; returns where to.
    pub fn set_aside<T: Record>(&self) -> Result<PathBuf, StateError> {
        let path = self.path.join(T::FILE);
        let aside = self.path.join(format!("{}.damaged", T::FILE));
        fs::rename(&path, &aside).map_err(io_error("renaming", &path))?;
        self.sync()?;
        Ok(aside)
    }

    /// A new durable file next to `name`. What a crash left of an earlier attempt is removed.
    fn write_temp(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StateError> {
        let path = self.path.join(format!(".{name}.{}", std::process::id()));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("removing", &path)(error)),
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                // The first error is the one to report; a leftover is removed by the next attempt.
                let _ = fs::remove_file(&path);
                Err(io_error("writing", &path)(error))
            }
        }
    }

    /// Makes the names in the directory durable.
    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("syncing", &self.path))
    }
}

fn open_nofollow(path: &Path) -> io::Result<File> {
    // Non-blocking, or a FIFO in place of the file would hold us for ever.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Refuses what group or others may use, and what is neither ours nor, for root, `owner`'s (`None`: anybody's).
fn check_private(path: &Path, meta: &fs::Metadata, owner: Option<u32>) -> Result<(), StateError> {
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let me = rustix::process::geteuid();
    let excused = me.is_root() && owner.is_none_or(|owner| owner == meta.uid());
    if meta.uid() != me.as_raw() && !excused {
        return Err(StateError::Owner {
            path: path.to_owned(),
            owner: meta.uid(),
            expected: me.as_raw(),
        });
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

/// Whether a file of this name is what [`StateDir::write_temp`] makes for a record: `.peers.json.4711`. A key's is left alone, since
/// `meshd init` writes it without the lock.
fn is_temporary(name: &str) -> bool {
    let Some((stem, pid)) = name.rsplit_once('.') else {
        return false;
    };
    let is_record = stem.starts_with('.') && stem.ends_with(".json");
    (is_record || stem.starts_with(".network-")) && pid.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testdata;

    fn state() -> (tempfile::TempDir, StateDir) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::create(root.path().join("a/state")).unwrap();
        (root, state)
    }

    #[test]
    fn an_identity_comes_back_and_is_never_replaced() {
        let (_root, state) = state();
        let [first, second] = [0, 1].map(testdata::identity);
        assert!(matches!(state.identity(), Err(StateError::NoKey(_))));
        state.create_identity(&first).unwrap();
        assert!(matches!(
            state.create_identity(&second),
            Err(StateError::KeyExists(_))
        ));
        assert_eq!(state.identity().unwrap().node(), first.node());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(
            (mode(state.path()), mode(&state.key_path())),
            (0o700, 0o600)
        );
        let names: Vec<_> = fs::read_dir(state.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["node.key"], "no temporary file stays");
    }

    #[test]
    fn a_key_that_others_may_have_read_is_refused() {
        let (_root, state) = state();
        state.create_identity(&testdata::identity(0)).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(state.key_path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(state.identity(), Err(StateError::Open { mode: seen, .. }) if seen == mode)
            );
        }
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(
            StateDir::open(state.path()),
            Err(StateError::Open { mode: 0o750, .. })
        ));
    }

    #[test]
    fn a_key_of_somebody_else_is_refused() {
        let (_root, state) = state();
        state.create_identity(&testdata::identity(0)).unwrap();
        if !rustix::process::geteuid().is_root() {
            return; // Only root can give files away.
        }
        std::os::unix::fs::chown(state.key_path(), Some(65_533), None).unwrap();
        assert!(matches!(
            state.identity(),
            Err(StateError::Owner {
                owner: 65_533,
                expected: 0,
                ..
            })
        ));
        // A daemon with a dynamic user owns both; root may look.
        std::os::unix::fs::chown(state.path(), Some(65_533), None).unwrap();
        assert!(state.identity().is_ok());
    }

    #[test]
    fn what_is_not_a_regular_file_is_no_key() {
        let (_root, state) = state();
        let elsewhere = state.path().join("elsewhere");
        fs::write(&elsewhere, testdata::identity(0).to_hex().as_str()).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&elsewhere, state.key_path()).unwrap();
        assert!(matches!(state.identity(), Err(StateError::NotAFile(_))));
        fs::remove_file(state.key_path()).unwrap();
        fs::create_dir(state.key_path()).unwrap();
        assert!(matches!(state.identity(), Err(StateError::NotAFile(_))));
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let (_root, state) = state();
        let good = testdata::identity(0).to_hex();
        let cases = [
            "",
            "\n",
            &good[..63],
            &format!("{}\n\n", &*good),
            &format!("{}0", &*good),
            &"0".repeat(64),
        ];
        for text in cases {
            fs::write(state.key_path(), text).unwrap();
            fs::set_permissions(state.key_path(), fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(state.identity(), Err(StateError::Key { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_record_comes_back() {
        let (_root, state) = state();
        assert_eq!(state.read::<Port>().unwrap(), None);
        for port in [51_860, 7] {
            state.write(&Port { port }).unwrap();
            assert_eq!(state.read().unwrap(), Some(Port { port }));
        }
        assert_eq!(
            fs::read_to_string(state.path().join("port.json")).unwrap(),
            "{\"version\":1,\"port\":7}\n"
        );
        assert_eq!(
            fs::metadata(state.path().join("port.json")).unwrap().mode() & 0o777,
            0o600
        );
        let stock = Stock {
            devices: vec![StockDevice {
                name: "phone".into(),
                public_key: testdata::identity(2).node().public_key(),
                address: Ipv6Addr::LOCALHOST,
            }],
        };
        state.write(&stock).unwrap();
        assert_eq!(state.read().unwrap(), Some(stock));
        let peers = Peers {
            peers: vec![PeerSeen {
                public_key: testdata::identity(2).node().public_key(),
                endpoints: ["[2001:db8::7]:51860", "[fe80::7%3]:51860"]
                    .map(|text| text.parse().unwrap())
                    .into(),
                seen: 1_700_000_000,
            }],
        };
        state.write(&peers).unwrap();
        assert_eq!(state.read().unwrap(), Some(peers));
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_and_kept() {
        let (_root, state) = state();
        let newer = "{\"version\":2,\"ports\":[1,2]}";
        fs::write(state.path().join("port.json"), newer).unwrap();
        assert!(matches!(
            state.read::<Port>(),
            Err(StateError::Newer {
                version: 2,
                known: 1,
                ..
            })
        ));
        assert_eq!(
            fs::read_to_string(state.path().join("port.json")).unwrap(),
            newer
        );
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let (_root, state) = state();
        for text in [
            "",
            "{",
            "{}",
            "{\"version\":1}",
            "{\"version\":1,\"port\":65536}",
            "[]",
        ] {
            fs::write(state.path().join("port.json"), text).unwrap();
            assert!(
                matches!(state.read::<Port>(), Err(StateError::Damaged { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_record_that_is_set_aside_is_kept_under_another_name() {
        let (_root, state) = state();
        for text in ["{", "torn"] {
            fs::write(state.path().join("port.json"), text).unwrap();
            let aside = state.set_aside::<Port>().unwrap();
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
            assert_eq!(state.read::<Port>().unwrap(), None);
        }
    }

    #[test]
    fn a_leftover_of_a_crash_is_in_nobodys_way() {
        let (_root, state) = state();
        fs::write(
            state
                .path()
                .join(format!(".port.json.{}", std::process::id())),
            "half",
        )
        .unwrap();
        state.write(&Port { port: 1 }).unwrap();
        assert_eq!(state.read().unwrap(), Some(Port { port: 1 }));
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_directory() {
        let (_root, state) = state();
        let lock = state.lock().unwrap();
        let error = state.lock().unwrap_err();
        let pid = std::process::id().to_string();
        assert!(
            matches!(&error, StateError::Locked { pid: seen, .. } if *seen == pid),
            "{error:?}"
        );
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_nothing_else() {
        let (_root, state) = state();
        state.write(&Port { port: 1 }).unwrap();
        let keep = [
            ".node.key.1",
            "peers.json.damaged",
            ".port.json.x",
            "port.json",
        ];
        for name in keep[..3]
            .iter()
            .chain(&[".peers.json.4711", ".kernel.json.1"])
        {
            fs::write(state.path().join(name), "x").unwrap();
        }
        let _lock = state.lock().unwrap();
        assert!(keep.iter().all(|name| state.path().join(name).exists()));
        assert!(!state.path().join(".peers.json.4711").exists());
        assert!(!state.path().join(".kernel.json.1").exists());
    }
}
