//! The wall clock of one daemon, set while it runs. The real one is the whole machine's, and no namespace covers it, so libfaketime stands
//! between the daemon and the system: it adds what a file says to `CLOCK_REALTIME`, and to no other clock.

use std::fs;
use std::path::PathBuf;

use crate::host::Host;

/// Where Debian puts the library for this architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// A wall clock that is right until it is set.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// A clock for a daemon on this host. The file is next to the daemon's configuration, where it may read.
    ///
    /// # Panics
    /// When libfaketime is not installed.
    #[track_caller]
    pub fn new(host: &Host) -> Self {
        let directories = fs::read_dir(LIBRARIES).expect("libraries are there");
        let library = directories
            .flatten()
            .map(|directory| directory.path().join(LIBRARY))
            .find(|library| library.exists())
            .expect("libfaketime: sudo apt-get install faketime");
        let clock = Self {
            library,
            file: host.directory().join("wall-clock"),
        };
        clock.set("+0");
        clock
    }

    /// What starts the daemon with this clock, for [`Settings::started_by`](crate::Settings::started_by).
    pub fn wrapper(&self) -> String {
        format!(
            "env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1",
            self.library.display(),
            self.file.display()
        )
    }

    /// Sets it so far from the real one (`+7d`, `-7d`, `+0`); the daemon sees it within a second.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[track_caller]
    pub fn set(&self, offset: &str) {
        // Whole at any moment, since it may be read at any.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .unwrap_or_else(|err| panic!("cannot set the clock: {err}"));
    }
}
