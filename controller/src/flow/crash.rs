//! Crash points: where a test lets the controller die.
//!
//! `KRATER_CRASH_AT=<flow>:<step>:<before|after|uncommitted>` makes the process send itself SIGKILL
//! there. The engine itself passes the points, so every step has them, also new ones.

use crate::db::query::flow::FlowKind;
use futures_util::future::BoxFuture;

/// Environment variable that names the point.
pub const VARIABLE: &str = "KRATER_CRASH_AT";

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// The journal says that the step runs; it has done nothing yet.
    Before,
    /// The step's effect is there; nothing of it is in the database.
    After,
    /// The transaction that says so is written but not committed.
    Uncommitted,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::After, Self::Uncommitted];

    /// As in the environment variable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Uncommitted => "uncommitted",
        }
    }
}

/// Asked at each point; a future that never ends is a crash.
pub trait CrashPoints: Send + Sync + std::fmt::Debug {
    /// Returns at once unless the process shall die here.
    fn pass<'a>(&'a self, flow: FlowKind, step: &'a str, point: Point) -> BoxFuture<'a, ()>;
}

/// Dies at the point that the environment names, or nowhere.
#[derive(Debug, Default)]
pub struct FromEnvironment {
    at: Option<String>,
}

impl FromEnvironment {
    /// Reads [`VARIABLE`].
    pub fn new() -> Self {
        Self {
            at: std::env::var(VARIABLE).ok(),
        }
    }
}

impl CrashPoints for FromEnvironment {
    fn pass<'a>(&'a self, flow: FlowKind, step: &'a str, point: Point) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(at) = &self.at
                && *at == format!("{}:{step}:{}", flow.as_str(), point.as_str())
            {
                use nix::sys::signal::{Signal, kill};
                tracing::warn!(%at, "dying, as {VARIABLE} says");
                // A failure leaves the process alive, which the test notices.
                let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
                std::future::pending::<()>().await;
            }
        })
    }
}
