//! Systems that are not known here: an executable starts and ends them, by the contract that the usage text tells.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::lab::spawn_outside;
use netns_tests::{Lab, secs};

use crate::line::Line;

/// How long a hook may take.
const PATIENCE: std::time::Duration = secs(60);
/// A hook's exit status when it cannot do what it is asked for.
const CANNOT: i32 = 3;

/// A system of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    name: String,
    command: Vec<String>,
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Hooked {
    hook: Hook,
    directory: PathBuf,
    /// Those of all nodes but the first.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ids: Vec<u32>,
}

impl Hook {
    /// Reads `NAME=COMMAND`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (name, command) = text
            .split_once('=')
            .with_context(|| format!("--system {text}: not NAME=COMMAND"))?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(
            !name.is_empty() && !command.is_empty(),
            "--system {text}: not NAME=COMMAND"
        );
        Ok(Self {
            name: name.to_owned(),
            command,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it; nothing if it cannot do so many nodes.
    pub(crate) fn up(&self, lab: &Lab, line: &Line) -> Result<Option<Hooked>> {
        let directory = lab.directory().join("system");
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut hooked = Hooked {
            hook: self.clone(),
            directory,
            addresses: Vec::new(),
            ids: Vec::new(),
        };
        let mut words = Vec::new();
        for port in line.links.iter().flat_map(|link| [&link.a, &link.b]) {
            words.extend([port.host.namespace().to_owned(), port.v4.to_string()]);
        }
        let Some(said) = hooked.call("up", &words)? else {
            return Ok(None);
        };
        for line in said.lines() {
            match line.split_once(' ') {
                Some(("address", address)) => hooked
                    .addresses
                    .push(address.trim().parse().with_context(|| line.to_owned())?),
                Some(("pid", id)) => hooked
                    .ids
                    .push(id.trim().parse().with_context(|| line.to_owned())?),
                // What else it says is for people.
                _ => {}
            }
        }
        ensure!(
            hooked.addresses.len() == line.links.len(),
            "{} printed {} addresses instead of {}: {said}",
            self.name,
            hooked.addresses.len(),
            line.links.len()
        );
        Ok(Some(hooked))
    }
}

impl Hooked {
    /// Ends it.
    pub(crate) fn down(&self) -> Result<()> {
        self.call("down", &[])?
            .map(drop)
            .context("a hook must be able to end what it has started")
    }

    /// What it said; nothing if it cannot do this.
    fn call(&self, verb: &str, more: &[String]) -> Result<Option<String>> {
        let directory = self.directory.display().to_string();
        let mut argv: Vec<&str> = self.hook.command.iter().map(String::as_str).collect();
        argv.extend([verb, &directory]);
        argv.extend(more.iter().map(String::as_str));
        let log = self.directory.with_extension(verb);
        let mut process = spawn_outside(&argv, &log);
        let status = process.wait(PATIENCE);
        let said = process.log();
        if status.code() == Some(CANNOT) {
            return Ok(None);
        }
        if !status.success() {
            bail!("{} ended with {status}: {said}", argv.join(" "));
        }
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_a_name_and_a_command_with_arguments() {
        let words = ["run", "this", "-f"].map(str::to_owned).to_vec();
        let hook = Hook {
            name: "mine".into(),
            command: words,
        };
        assert!(Hook::parse("mine=run this -f").is_ok_and(|it| it == hook));
        for wrong in ["mine", "=run", "mine=", "mine= "] {
            assert!(Hook::parse(wrong).is_err(), "{wrong}");
        }
    }
}
