//! `meshd init [--name N]`

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::failure::{Exit, Failure, exit_of};
use super::key::Shown;
use crate::admin::Schema;
use crate::cli::Global;
use crate::config::{Source, TEMPLATE, host_label, is_label};
use crate::identity::{Identity, MineError};
use crate::state::{StateDir, StateError};

/// What `init --json` prints.
#[derive(Debug, Serialize)]
struct Done {
    name: String,
    #[serde(flatten)]
    key: Shown,
    config_path: String,
    key_path: String,
    /// What was made just now; the rest was there.
    wrote: Vec<String>,
}

impl Schema for Done {
    const SCHEMA: &'static str = "meshd.init/1";
}

pub(super) fn run(
    global: &Global,
    name: Option<String>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let source = super::source(global)?;
    if let Some(name) = name.as_deref().filter(|name| !is_label(name)) {
        let what = format!(
            "`{name}` cannot be a node's name: 1 to 63 lower-case letters, digits and hyphens"
        );
        return Err(Failure::new(Exit::Usage, what).next("meshd init --name my-node"));
    }
    // The configuration first: it says where the key belongs, and a bad one must not cost a key.
    let wrote_config = write_config(&source, &name.clone().unwrap_or_else(host_label))?;
    let settings = source.load()?;
    let state = StateDir::create(&settings.state_dir)?;
    let (identity, wrote_key) = match state.identity() {
        Ok(identity) => (identity, Made::Before),
        Err(StateError::NoKey(_)) => {
            let identity = mine()?;
            state.create_identity(&identity)?;
            (identity, Made::Now)
        }
        Err(error) => return Err(error.into()),
    };
    let config_path = source.path.display().to_string();
    let key_path = state.key_path().display().to_string();
    let files = [(&config_path, wrote_config), (&key_path, wrote_key)];
    let of = |made: Made| {
        files
            .iter()
            .filter(|file| file.1 == made)
            .map(|file| file.0.clone())
            .collect::<Vec<_>>()
    };
    let key = Shown::new(identity.node());
    if global.json {
        let wrote = of(Made::Now);
        return super::print_json(
            Done {
                name: settings.name,
                key,
                config_path,
                key_path,
                wrote,
            },
            out,
        );
    }
    writeln!(out, "node {}", settings.name)?;
    key.print(out)?;
    for (verb, files) in [("wrote", of(Made::Now)), ("kept", of(Made::Before))] {
        if !files.is_empty() {
            writeln!(out, "{verb} {}", files.join(" and "))?;
        }
    }
    if let Some(name) = name.filter(|name| *name != settings.name) {
        writeln!(
            out,
            "note: the node keeps its name {}; to call it {name}, change [node] name in {config_path}",
            settings.name
        )?;
    }
    Ok(writeln!(
        out,
        "next: sudo systemctl enable --now meshd     or: sudo meshd run"
    )?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

/// Writes the commented defaults with the node's name, and the paths given by flags; never over a file that exists.
fn write_config(source: &Source, name: &str) -> Result<Made, Failure> {
    let path = &source.path;
    let failed = |error: &io::Error| {
        let failure = Failure::new(
            exit_of(error, Exit::Failed),
            format!("writing {}: {error}", path.display()),
        );
        if error.kind() == io::ErrorKind::PermissionDenied {
            failure.next("sudo meshd init")
        } else {
            failure
        }
    };
    if fs::exists(path).map_err(|error| failed(&error))? {
        return Ok(Made::Before);
    }
    let mut text = set(TEMPLATE, "node", "name", name);
    let paths = [
        ("node", "state_dir", &source.state_dir),
        ("api", "socket", &source.socket),
    ];
    for (table, key, path) in paths {
        if let Some(path) = path {
            text = set(&text, table, key, &path.display().to_string());
        }
    }
    match publish(path, &text) {
        Ok(()) => Ok(Made::Now),
        // Somebody was faster; theirs is kept.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Before),
        Err(error) => Err(failed(&error)),
    }
}

/// Makes the file whole or not at all. There are no secrets in it, so everybody may read it.
fn publish(path: &Path, text: &str) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(parent)?;
    let temp = parent.join(format!(".meshd.toml.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temp)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    let linked = written.and_then(|()| fs::hard_link(&temp, path));
    fs::remove_file(&temp)?;
    linked
}

/// The template with `#key = ...` in `[table]` replaced.
fn set(template: &str, table: &str, key: &str, value: &str) -> String {
    let header = format!("[{table}]");
    let comment = format!("#{key} = ");
    let mut inside = false;
    let mut text = String::with_capacity(template.len() + value.len());
    for line in template.lines() {
        if line.starts_with('[') {
            inside = line == header;
        }
        if inside && line.starts_with(&comment) {
            text += &format!("{key} = {}", toml::Value::from(value));
        } else {
            text += line;
        }
        text.push('\n');
    }
    text
}

/// Mines an identity on all cores, telling a person at the terminal how it goes. Ctrl-C ends it; nothing is kept.
pub(super) fn mine() -> Result<Identity, MineError> {
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut terminal = io::stderr().is_terminal().then(io::stderr);
    let mut shown = false;
    let mined = Identity::mine(threads, |progress| {
        if let Some(stderr) = &mut terminal {
            let (tries, rate) = (progress.tries, progress.rate());
            shown = true;
            // Who closes the terminal does not want to see it.
            let _ = write!(
                stderr,
                "\rlooking for a key with an address: {tries} tries, {rate:.0}/s (131072 on average) "
            );
        }
        ControlFlow::Continue(())
    });
    if let (Some(stderr), true) = (&mut terminal, shown) {
        let _ = writeln!(stderr);
    }
    mined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_value_is_set_in_its_own_table_only() {
        let text = set(
            &set(TEMPLATE, "node", "name", "nas"),
            "api",
            "socket",
            "/a \"b\"",
        );
        let config: Config = toml::from_str(&text).unwrap();
        let mut expected = Config::default();
        expected.node.name = "nas".into();
        expected.api.socket = "/a \"b\"".into();
        assert_eq!(config, expected);
    }
}
