//! Crash points: where a test lets the controller die, and which step it lets fail.
//!
//! `KRATER_CRASH_AT=<flow>:<step>:<point>` makes the process send itself SIGKILL there, and
//! `KRATER_FAIL_AT=<flow>:<step>` lets a step fail for good after its effect, so that the flow turns back.
//! The engine itself passes the points, so every step has them, also new ones.

use crate::db::query::flow::FlowKind;
use futures_util::future::BoxFuture;

/// Environment variable that names the point.
pub const VARIABLE: &str = "KRATER_CRASH_AT";
/// Environment variable that names the step that fails.
pub const FAIL: &str = "KRATER_FAIL_AT";

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// The journal says that the step runs; it has done nothing yet.
    Before,
    /// The step's effect is there; nothing of it is in the database.
    After,
    /// The transaction that says so is written but not committed.
    Uncommitted,
    /// The step failed; the transaction that turns the flow back is written but not committed.
    TurnBack,
    /// The step is about to be undone.
    UndoBefore,
    /// Its effect is taken back; nothing of that is in the database.
    UndoAfter,
    /// The transaction that says so is written but not committed.
    UndoUncommitted,
}

impl Point {
    /// Those that a flow passes on its way.
    pub const FORWARD: [Self; 3] = [Self::Before, Self::After, Self::Uncommitted];
    /// Those that a flow passes on its way back.
    pub const BACK: [Self; 3] = [Self::UndoBefore, Self::UndoAfter, Self::UndoUncommitted];

    /// As in the environment variable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Uncommitted => "uncommitted",
            Self::TurnBack => "turn-back",
            Self::UndoBefore => "undo-before",
            Self::UndoAfter => "undo-after",
            Self::UndoUncommitted => "undo-uncommitted",
        }
    }
}

/// Asked at each point; a future that never ends is a crash.
pub trait CrashPoints: Send + Sync + std::fmt::Debug {
    /// Returns at once unless the process shall die here.
    fn pass<'a>(&'a self, flow: FlowKind, step: &'a str, point: Point) -> BoxFuture<'a, ()>;

    /// Whether the step shall fail after its effect.
    fn fails(&self, flow: FlowKind, step: &str) -> bool;
}

/// Dies at the point that the environment names, or nowhere.
#[derive(Debug, Default)]
pub struct FromEnvironment {
    at: Option<String>,
    fail: Option<String>,
}

impl FromEnvironment {
    /// Reads [`VARIABLE`] and [`FAIL`].
    pub fn new() -> Self {
        Self {
            at: std::env::var(VARIABLE).ok(),
            fail: std::env::var(FAIL).ok(),
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

    fn fails(&self, flow: FlowKind, step: &str) -> bool {
        self.fail
            .as_ref()
            .is_some_and(|fail| *fail == format!("{}:{step}", flow.as_str()))
    }
}
