//! `meshd bugreport [--full] [-o FILE]`

mod collect;
mod facts;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::failure::{Exit, Failure, exit_of};
use super::table::bytes;
use crate::admin::Schema;
use crate::cli::{Bugreport, Global};
use crate::redact::Detail;

/// What `bugreport --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The file that it was written to; null if it is only printed.
    path: Option<PathBuf>,
    redacted: bool,
    /// What could not be had, and why.
    missing: Vec<String>,
    sections: Vec<Section>,
}

impl Schema for Report {
    const SCHEMA: &'static str = "meshd.bugreport/1";
}

#[derive(Debug, Serialize)]
struct Section {
    title: &'static str,
    text: String,
}

pub(super) fn run(
    global: &Global,
    options: &Bugreport,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let now = utc();
    let detail = if options.full {
        Detail::Full
    } else {
        Detail::Redacted
    };
    let mut report = collect::report(&super::source(global)?, detail);
    let text = print(&report, &now);
    if options.output.as_deref() == Some(Path::new("-")) {
        if global.json {
            return super::print_json(report, out);
        }
        return Ok(out.write_all(text.as_bytes())?);
    }
    let path = match &options.output {
        Some(path) => path.clone(),
        None => PathBuf::from(file_name(&now)),
    };
    write(&path, &text)?;
    if global.json {
        report.path = Some(path);
        return super::print_json(report, out);
    }
    Ok(summarize(&report, &path, text.len(), out)?)
}

fn summarize(report: &Report, path: &Path, length: usize, out: &mut impl Write) -> io::Result<()> {
    let path = path.display();
    writeln!(
        out,
        "wrote {path} ({} bytes, mode 0600)",
        bytes(length as u64)
    )?;
    for missing in &report.missing {
        writeln!(out, "! not all of it: {}", super::printable(missing))?;
    }
    let kept = if report.redacted {
        "names, keys and public addresses are replaced by stand-ins; --full keeps them"
    } else {
        "names, public keys and addresses are in it"
    };
    writeln!(out, "nothing was sent; {kept}")?;
    writeln!(out, "next: less {path}")
}

/// `2026-11-24T08:15:30.661833Z`
fn utc() -> String {
    let mut text = String::new();
    // Neither a string nor the clock of a machine after 1970 refuses.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// `meshd-bugreport-20261124-081530.txt`
fn file_name(now: &str) -> String {
    let to_seconds = now.split('.').next().unwrap_or(now);
    let stamp = to_seconds.replace(['-', ':'], "").replace('T', "-");
    format!("meshd-bugreport-{stamp}.txt")
}

/// Never over another file, nor through a link; for nobody but the caller, who under sudo is the user before it.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        let name = path.display();
        if error.kind() == io::ErrorKind::AlreadyExists {
            let what = format!("{name} exists, and is not written over");
            return Failure::new(Exit::Failed, what).next("meshd bugreport -o OTHER-FILE");
        }
        let what = format!("writing {name}: {error}");
        Failure::new(exit_of(error, Exit::Failed), what)
            .next("meshd bugreport -o /tmp/meshd-bugreport.txt     or, to look at it: -o -")
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(&error))?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.flush())
        .and_then(|()| give_to_caller(&file));
    written.map_err(|error| {
        // Half a report helps nobody, and the error is worth more than one about this.
        let _ = fs::remove_file(path);
        failed(&error)
    })
}

fn give_to_caller(file: &File) -> io::Result<()> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match (id("SUDO_UID"), id("SUDO_GID")) {
        (Some(user), Some(group)) if rustix::process::geteuid().is_root() => {
            fchown(file, Some(user), Some(group))
        }
        _ => Ok(()),
    }
}

fn print(report: &Report, now: &str) -> String {
    let kept = if report.redacted {
        "Names, keys, host names and public addresses are replaced, the same one always by the same stand-in. Look\n\
         all the same: only you know what else is private to you."
    } else {
        "Names, public keys and addresses are in it (--full)."
    };
    let mut text = format!(
        "meshd bug report of {now}\n\
         Nothing has been sent anywhere. Read this before you pass it on.\n{kept}\n"
    );
    for missing in &report.missing {
        text += &format!("! not all of it: {}\n", super::printable(missing));
    }
    for Section {
        title,
        text: section,
    } in &report.sections
    {
        text += &format!("\n== {title}\n");
        for line in section.trim_end().lines() {
            text += &super::printable(&line.replace('\t', "    "));
            text.push('\n');
        }
    }
    text
}
