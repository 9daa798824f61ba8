//! The log: one line an event on standard error, its level changeable while the daemon runs. The latest lines are kept ([`Recent`]).

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel, LogSettings};
use crate::recent::Recent;

/// Crates whose events follow the configured level. Others may only warn: their chatter is not ours.
const OWN_TARGETS: [&str; 4] = ["discovery", "meshd", "routing", "wireguard"];

/// The running log.
#[derive(Debug, Clone)]
pub struct Telemetry {
    filter: reload::Handle<Targets, Registry>,
    recent: Arc<Recent>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("starting the log")]
pub struct TelemetryError(#[from] TryInitError);

impl Telemetry {
    /// Starts the log of this process; possible once.
    pub fn init(settings: LogSettings) -> Result<Self, TelemetryError> {
        let (layer, telemetry) = Self::layer(settings, |name| std::env::var(name).ok(), io::stderr);
        tracing_subscriber::registry().with(layer).try_init()?;
        Ok(telemetry)
    }

    /// Changes the level of a running log.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and with it everything to filter.
        let _ = self.filter.reload(filter(level));
    }

    /// The latest lines, as they were written.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    fn layer<W>(
        settings: LogSettings,
        env: impl Fn(&str) -> Option<String>,
        writer: W,
    ) -> (Box<dyn Layer<Registry> + Send + Sync>, Self)
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let (filter, handle) = reload::Layer::new(filter(settings.level));
        let recent = Arc::<Recent>::default();
        let lines = Lines {
            to: writer,
            recent: Arc::clone(&recent),
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(lines);
        let journal = || env("JOURNAL_STREAM").is_some_and(|stream| is_stderr(&stream));
        let layer: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
            LogFormat::Json => layer.json().with_filter(filter).boxed(),
            LogFormat::Auto if !journal() => layer.with_filter(filter).boxed(),
            LogFormat::Text => layer.with_filter(filter).boxed(),
            LogFormat::Auto | LogFormat::Journal => layer
                .event_format(Journal::new())
                .with_filter(filter)
                .boxed(),
        };
        let telemetry = Self {
            filter: handle,
            recent,
        };
        (layer, telemetry)
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OWN_TARGETS.map(|target| (target, level)))
        // It warns of what strangers do, as often as they do it.
        .with_target("libp2p", LevelFilter::ERROR)
}

/// Whether standard error is the stream that systemd names as `device:inode` (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_stderr(stream: &str) -> bool {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    let Ok(meta) = File::from(stderr).metadata() else {
        return false;
    };
    stream == format!("{}:{}", meta.dev(), meta.ino())
}

/// `<6>meshd::node: Link up peer=...`: the journal knows the time and takes the priority off (sd-daemon(3)).
struct Journal {
    text: Format<tracing_subscriber::fmt::format::Full, ()>,
}

impl Journal {
    fn new() -> Self {
        Self {
            text: Format::default()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.text.format_event(context, writer, event)
    }
}

/// Makes writers that escape what could forge a line or command a terminal, since names and errors come from strangers, and that keep
/// the latest lines.
struct Lines<M> {
    to: M,
    recent: Arc<Recent>,
}

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for Lines<M> {
    type Writer = LineWriter<'w, M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        LineWriter {
            to: self.to.make_writer(),
            recent: &self.recent,
        }
    }
}

struct LineWriter<'w, W> {
    to: W,
    recent: &'w Recent,
}

impl<W: Write> Write for LineWriter<'_, W> {
    /// Takes a whole event at a time, as the subscriber hands it over, so that only the last newline is its own.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = escape(&String::from_utf8_lossy(event));
        self.recent.push(line.trim_end());
        self.to.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn escape(event: &str) -> String {
    let (line, end) = match event.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (event, ""),
    };
    let mut text = String::with_capacity(event.len());
    for c in line.chars() {
        // Bidirectional overrides reorder what a reader sees.
        if c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
        {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
    }
    text + end
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, events: impl FnOnce(&Telemetry)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let settings = LogSettings {
            level: LogLevel::Info,
            format,
        };
        let (layer, telemetry) = Telemetry::layer(settings, |_| None, move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            events(&telemetry)
        });
        let bytes = lines.0.lock().unwrap().clone();
        let written = String::from_utf8(bytes).unwrap();
        let kept = telemetry.recent().lines().into_iter();
        assert_eq!(
            written,
            kept.map(|(_, line)| line + "\n").collect::<String>()
        );
        written
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let text = logged(LogFormat::Journal, |_| {
            tracing::info!(peer = "vps1", "Link up");
            tracing::warn!("Look tomorrow");
            tracing::error!("We stop");
        });
        let target = "meshd::telemetry::tests";
        assert_eq!(
            text,
            format!(
                "<6>{target}: Link up peer=\"vps1\"\n<4>{target}: Look tomorrow\n<3>{target}: We stop\n"
            )
        );
    }

    #[test]
    fn control_characters_make_no_line_and_no_colour() {
        for format in [LogFormat::Journal, LogFormat::Text, LogFormat::Json] {
            let text = logged(
                format,
                |_| tracing::info!(name = %"a\nb\x1b[31m\u{9b}1m\u{202e}", "Forged\r\n<0>line"),
            );
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let text = logged(LogFormat::Journal, |telemetry| {
            tracing::debug!("one");
            telemetry.set_level(LogLevel::Debug);
            tracing::debug!("two");
            tracing::info!(target: "hyper", "not ours");
            telemetry.set_level(LogLevel::Error);
            tracing::warn!("three");
        });
        assert_eq!(text, "<7>meshd::telemetry::tests: two\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, |_| tracing::info!(hops = 2, "Link up"));
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["fields"]["hops"], 2);
    }
}
