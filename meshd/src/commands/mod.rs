//! The verbs, one file each. They write to the given output; what goes wrong is a [`Failure`], printed once by `main`.

mod attach;
mod bugreport;
mod cleanup;
mod cni;
mod completions;
mod config;
mod detach;
mod doctor;
mod events;
mod explain;
mod failure;
mod graph;
mod help;
mod init;
mod invite;
mod join;
mod key;
mod links;
mod log;
mod man;
mod members;
mod metrics;
mod netcheck;
mod network;
mod peers;
mod ping;
mod program;
mod reload;
mod routes;
mod run;
mod status;
mod table;
mod trace;
mod wait;
mod wg;
mod whois;
mod why;
mod workloads;

use std::fs;
use std::io::{self, Write};
use std::path::{self, PathBuf};

use serde::Serialize;

use crate::admin::client::Client;
use crate::admin::{Document, Schema, Warning};
use crate::cli::{Cli, Global, Verb};
use crate::config::{Config, DEFAULT_PATH, Source};

pub use cni::is_asked_for as is_plugin;
pub use failure::{Exit, Failure};

/// Does what the command line says.
pub fn dispatch(cli: Cli, out: &mut impl Write) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.verb {
        Verb::Init { name } => init::run(global, name, out),
        Verb::Run => run::run(global),
        Verb::Key(verb) => key::run(global, &verb, out),
        Verb::Config(verb) => config::run(global, &verb, out),
        Verb::Reload => reload::run(global, out),
        Verb::Cleanup => cleanup::run(global, out),
        Verb::Wait(wait) => wait::run(global, wait, out),
        Verb::Status => status::run(global, out),
        Verb::Peers => peers::run(global, out),
        Verb::Links => links::run(global, out),
        Verb::Doctor => doctor::run(global, out),
        Verb::Netcheck => netcheck::run(global, out),
        Verb::Routes => routes::run(global, out),
        Verb::Trace { target } => trace::run(global, &target, out),
        Verb::Why { target } => why::run(global, &target, out),
        Verb::Explain { from, to, port } => explain::run(global, &from, &to, &port, out),
        Verb::Events { once } => events::run(global, once, out),
        Verb::Graph { dot: _ } => graph::run(global, out),
        Verb::Ping { count, target } => ping::run(global, count, &target, out),
        Verb::Metrics => metrics::run(global, out),
        Verb::Bugreport(options) => bugreport::run(global, &options, out),
        Verb::Log { level } => log::run(global, level, out),
        Verb::Wg(verb) => wg::run(global, verb, out),
        Verb::Attach(options) => attach::run(global, options, out),
        Verb::Detach { name } => detach::run(global, &name, out),
        Verb::Workloads => workloads::run(global, out),
        Verb::Cni => cni::run(global, out),
        Verb::Network(verb) => network::run(global, verb, out),
        Verb::Invite(invite) => invite::run(global, invite, out),
        Verb::Join(join) => join::run(global, join, out),
        Verb::Members => members::run(global, out),
        Verb::Approve { target, name } => members::approve(global, target, name, out),
        Verb::Revoke { target } => members::revoke(global, target, out),
        Verb::Leave => network::leave(global, out),
        Verb::Whois { address } => whois::run(global, address, out),
        Verb::Completions { shell } => completions::run(shell, out),
        Verb::Man { dir } => man::run(&dir),
        Verb::Help { topic } => help::run(&topic, out),
    }
}

/// The configuration that the flags mean. Paths relative to the caller's directory become absolute, since `init`
/// writes them down and a daemon keeps them.
fn source(global: &Global) -> Result<Source, Failure> {
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(path::absolute).transpose();
    let source = || -> io::Result<Source> {
        Ok(Source {
            path: absolute(&global.config)?.unwrap_or_else(|| DEFAULT_PATH.into()),
            state_dir: absolute(&global.state_dir)?,
            socket: absolute(&global.socket)?,
        })
    };
    source().map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("a path among the flags cannot be used: {error}"),
        )
    })
}

/// The state directory: the flag's, else the configuration's, else the default.
fn state_dir(global: &Global) -> Result<PathBuf, Failure> {
    match &global.state_dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(config_or_default(global)?.node.state_dir),
    }
}

/// A client of the daemon at the flag's socket, else the configuration's, else the default one.
fn client(global: &Global) -> Result<Client, Failure> {
    let socket = match &global.socket {
        Some(socket) => socket.clone(),
        None => config_or_default(global)?.api.socket,
    };
    Ok(Client::new(socket))
}

/// The configuration, or the defaults if nobody named a file and there is none.
fn config_or_default(global: &Global) -> Result<Config, Failure> {
    let source = source(global)?;
    if global.config.is_none() && !fs::exists(&source.path).unwrap_or(true) {
        return Ok(Config::default());
    }
    Ok(source.config()?)
}

/// Prints an answer as `--json` promises.
fn print_json<T: Schema + Serialize>(body: T, out: &mut impl Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, &Document::new(body)).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// One line for each warning, as below a table.
fn print_warnings(warnings: &[Warning], out: &mut impl Write) -> io::Result<()> {
    for Warning { code, text } in warnings {
        writeln!(out, "! {} {}", printable(code), printable(text))?;
    }
    Ok(())
}

/// Text without control characters, since names and messages may come from elsewhere and terminals obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
