//! Logging, versions and metrics that every Krater process shares.
//!
//! Owns: the one `tracing` subscriber of a process ([`init`]), where its lines go, and how its level
//! changes at run time ([`LogControl`]). A log line never blocks a process and never ends it: what
//! cannot be written (full disk, reader that stopped) is dropped and counted.
//! Lacks on purpose: spans' export, remote logging, per-module filters.

mod level;
mod limit;
pub mod metrics;
mod sink;

pub use krater_model::SCHEMA;
pub use level::LogControl;
pub use limit::RateLimit;

use level::Levels;
use std::io::IsTerminal;
use std::path::PathBuf;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// Version of this build, `0.1.0 (0123456789ab)`; the commit is `unknown` outside a checkout.
pub const fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("KRATER_COMMIT"), ")")
}

/// The commit of this build: 12 hex digits, or `unknown`.
pub const fn commit() -> &'static str {
    env!("KRATER_COMMIT")
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error; coloured when it is a terminal.
    Stderr,
    /// A file that is rotated to `path.1` … `path.<keep>`.
    File {
        /// The file; its folder must exist and be writable by the process for as long as it lives.
        path: PathBuf,
        /// The file is rotated before it would exceed this many bytes.
        max_bytes: u64,
        /// Rotated files that are kept; 0 starts the file anew.
        keep: u32,
    },
}

impl LogTarget {
    /// A file with the default bounds: 4 files of 8 MiB, which is days of a quiet amphora's life
    /// and fits in the smallest image.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File {
            path: path.into(),
            max_bytes: 8 * 1024 * 1024,
            keep: 3,
        }
    }
}

/// How a process logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Where to.
    pub target: LogTarget,
    /// JSON lines instead of text.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("log level")]
    Level(#[source] krater_model::FieldError),
    /// The file cannot be opened.
    #[error("log file {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// [`init`] was called before.
    #[error("logging was started before in this process")]
    Twice,
}

/// Starts logging for this process and logs panics. Call once, before the first thread.
pub fn init(settings: LogSettings) -> Result<LogControl, LogError> {
    let (subscriber, control) = build(settings)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no text");
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, at, "panic: {text}");
    }));
    Ok(control)
}

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

fn build(
    settings: LogSettings,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), LogError> {
    let levels = Levels::parse(&settings.level).map_err(LogError::Level)?;
    let (sink, colour) = match settings.target {
        LogTarget::Stderr => (sink::Sink::stderr(), std::io::stderr().is_terminal()),
        LogTarget::File {
            path,
            max_bytes,
            keep,
        } => match sink::Sink::file(&path, max_bytes, keep) {
            Ok(sink) => (sink, false),
            Err(source) => return Err(LogError::Open { path, source }),
        },
    };
    let (filter, control) = level::reloadable(levels, sink.dropped());
    let lines: Lines = if settings.json {
        Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(sink)
                .with_filter(filter),
        )
    } else {
        Box::new(
            fmt::layer()
                .with_ansi(colour)
                .with_writer(sink)
                .with_filter(filter),
        )
    };
    Ok((Registry::default().with(lines), control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn logged(json: bool, level: &str, work: impl FnOnce(&LogControl)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let (subscriber, control) = build(LogSettings {
            target: LogTarget::file(&path),
            json,
            level: level.into(),
        })
        .unwrap();
        tracing::subscriber::with_default(subscriber, || work(&control));
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn level_changes_while_running() {
        let text = logged(false, "info", |control| {
            tracing::debug!("hidden");
            tracing::info!(member = "m1", "one");
            control.set_level("debug").unwrap();
            tracing::debug!("two");
            assert_eq!(control.level(), "debug");
            let refused = control.set_level("loud").unwrap_err().to_string();
            assert!(refused.contains("\"loud\": use error, warn"), "{refused}");
            control.set_level("error").unwrap();
            tracing::warn!("hidden");
        });
        assert!(text.contains("one") && text.contains("member=\"m1\"") && text.contains("two"));
        assert!(!text.contains("hidden"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colour in files: {text}");
    }

    #[test]
    fn foreign_crates_stay_quiet_in_debug() {
        let text = logged(false, "debug", |_| {
            tracing::debug!(target: "hyper::proto", "noise");
            tracing::info!(target: "hyper::proto", "news");
        });
        assert!(!text.contains("noise") && text.contains("news"), "{text}");
    }

    #[test]
    fn json_lines_are_json() {
        let text = logged(true, "info", |_| {
            tracing::info!(request_id = "req-1", "hi \"x\"\n")
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "hi \"x\"\n");
        assert_eq!(line["request_id"], "req-1");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn wrong_settings_are_named() {
        let refused = |target, level: &str| {
            let settings = LogSettings {
                target,
                json: false,
                level: level.into(),
            };
            let error = build(settings).err().unwrap();
            krater_model::report(&error)
        };
        assert!(refused(LogTarget::Stderr, "x").contains("log level: level: \"x\": use"));
        let text = refused(LogTarget::file("/nonexistent/a.log"), "info");
        assert!(text.contains("/nonexistent/a.log: No such file"), "{text}");
    }

    #[test]
    fn the_version_names_a_commit() {
        let commit = commit();
        assert!(
            commit == "unknown" || commit.bytes().all(|c| c.is_ascii_hexdigit()),
            "{commit}"
        );
        assert_eq!(
            version(),
            format!("{} ({commit})", env!("CARGO_PKG_VERSION"))
        );
    }
}
