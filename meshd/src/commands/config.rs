//! `meshd config check|show`

use std::io::{self, Write};

use serde::Serialize;

use super::failure::{Exit, Failure};
use crate::admin::{Schema, Warning, WarningCode};
use crate::cli::{ConfigVerb, Global};
use crate::config::{Config, ConfigError, Settings, Source};
use crate::state::{StateDir, StateError, Stock};

pub(super) fn run(global: &Global, verb: &ConfigVerb, out: &mut impl Write) -> Result<(), Failure> {
    let source = super::source(global)?;
    match verb {
        ConfigVerb::Check => check(global, &source, out),
        ConfigVerb::Show => show(global, &source, out),
    }
}

/// What `config check --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    path: String,
    ok: bool,
    errors: Vec<ReportedFault>,
    warnings: Vec<Warning>,
}

#[derive(Debug, Serialize)]
struct ReportedFault {
    line: Option<usize>,
    key: String,
    text: String,
}

impl Schema for Report {
    const SCHEMA: &'static str = "meshd.config-check/1";
}

/// What `config show --json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    config: Config,
}

impl Schema for Shown {
    const SCHEMA: &'static str = "meshd.config/1";
}

fn check(global: &Global, source: &Source, out: &mut impl Write) -> Result<(), Failure> {
    let path = source.path.display().to_string();
    let (settings, without_key) = match load(source) {
        Ok(loaded) => loaded,
        Err(ConfigError::Invalid { faults, path: file }) if global.json => {
            let errors = faults.iter().cloned();
            let errors = errors.map(|fault| ReportedFault {
                line: fault.line,
                key: fault.key,
                text: fault.message,
            });
            super::print_json(
                Report {
                    path,
                    ok: false,
                    errors: errors.collect(),
                    warnings: Vec::new(),
                },
                out,
            )?;
            return Err(ConfigError::Invalid { faults, path: file }.into());
        }
        Err(error) => return Err(error.into()),
    };
    if global.json {
        return super::print_json(
            Report {
                path,
                ok: true,
                errors: Vec::new(),
                warnings: settings.warnings,
            },
            out,
        );
    }
    super::print_warnings(&settings.warnings, out)?;
    if let Some(error) = without_key {
        writeln!(out, "! not checked against this node's key: {error}")?;
    }
    let Settings { peers, stock, .. } = &settings;
    Ok(writeln!(
        out,
        "{path}: ok ({} peers, {} stock devices)",
        peers.len(),
        stock.len()
    )?)
}

/// Checks against the node's own key and the devices that were added, if they can be read; else says why not.
fn load(source: &Source) -> Result<(Settings, Option<StateError>), ConfigError> {
    let settings = source.load()?;
    let state = StateDir::open(&settings.state_dir);
    match state.and_then(|state| Ok((state.identity()?, state.read::<Stock>()?))) {
        Ok((identity, added)) => {
            let mut settings = source.load_for(identity.node())?;
            let added = added.unwrap_or_default().devices;
            if let Some((_, text)) = settings.twice(&added) {
                let text = format!("{text}: a reload is refused");
                settings
                    .warnings
                    .push(Warning::new(WarningCode::DeviceTwice, text));
            }
            Ok((settings, None))
        }
        Err(error) => Ok((settings, Some(error))),
    }
}

fn show(global: &Global, source: &Source, out: &mut impl Write) -> Result<(), Failure> {
    // Checked as well, so that what is shown is what would run.
    source.load()?;
    let config = source.config()?;
    if global.json {
        return super::print_json(Shown { config }, out);
    }
    let text = toml::to_string(&config).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!(
                "writing the configuration as TOML: {}",
                io::Error::other(error)
            ),
        )
    })?;
    Ok(write!(out, "{text}")?)
}
