//! Levels, and their change at run time.

use krater_model::FieldError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, reload};

/// Prefixes of our own crates' names; everything else is foreign.
const OWN: [&str; 3] = ["krater", "amphora", "xtask"];

/// A parsed level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Levels(LevelFilter);

impl Levels {
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        let level = match text {
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => {
                let why = format!("{text:?}: use error, warn, info, debug or trace");
                return Err(FieldError::new("level", why));
            }
        };
        Ok(Self(level))
    }

    /// Foreign crates never say more than `info`: their details drown ours and may hold payload.
    fn targets(self) -> Targets {
        let foreign = self.0.min(LevelFilter::INFO);
        Targets::new()
            .with_default(foreign)
            .with_targets(OWN.map(|prefix| (prefix, self.0)))
    }
}

type Filter = reload::Layer<Targets, Registry>;

pub(crate) fn reloadable(levels: Levels, dropped: Arc<AtomicU64>) -> (Filter, LogControl) {
    let (filter, handle) = reload::Layer::new(levels.targets());
    (filter, LogControl { handle, dropped })
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<Targets, Registry>,
    dropped: Arc<AtomicU64>,
}

impl LogControl {
    /// Sets the level: `error`, `warn`, `info`, `debug` or `trace`.
    pub fn set_level(&self, level: &str) -> Result<(), FieldError> {
        let levels = Levels::parse(level)?;
        self.handle
            .reload(levels.targets())
            .map_err(|error| FieldError::new("level", error.to_string()))?;
        tracing::info!(level, "log level set");
        Ok(())
    }

    /// The level in force.
    pub fn level(&self) -> String {
        let own = |targets: &Targets| {
            targets
                .iter()
                .find(|(target, _)| *target == OWN[0])
                .map(|(_, level)| level.to_string())
        };
        self.handle
            .with_current(own)
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Lines that could not be written since the start of the process.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl")
            .field("level", &self.level())
            .field("dropped", &self.dropped())
            .finish()
    }
}
