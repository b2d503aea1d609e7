//! A new version takes the place of the running one, and nothing that serves is interrupted: the file of the program was
//! replaced on disk, it is asked whether it takes our configuration, and then this process becomes it (execve). Number,
//! parent and environment stay, so that a service manager sees one process; the children go on, and are adopted or
//! succeeded ([`crate::supervise`]).

use super::Running;
use crate::cli::Only;
use anyhow::Context;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Until the new program has read the file: certificates, expressions and all.
const CHECK: Duration = Duration::from_secs(20);
/// Until those who ask on the control socket have their answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// What a refusal says at most.
const MAX_REASON: usize = 2_000;

/// Body of `GET /about`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) version: String,
    /// Another one after each start, and after each upgrade.
    pub(crate) instance: uuid::Uuid,
    /// Everything in the file is with the process that does it.
    pub(crate) ready: bool,
    /// An earlier version closes its last connections.
    pub(crate) draining: bool,
}

/// The file of this program, as it was called when we started: once it was replaced, the kernel calls ours deleted.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("find the file of this program")
}

impl Running {
    pub(super) fn about(&self) -> About {
        About {
            version: krater_telemetry::version().into(),
            instance: self.instance,
            ready: self.ready.load(std::sync::atomic::Ordering::Relaxed),
            draining: self.children.dataplane.has_predecessor(),
        }
    }

    /// Asks the program file of now whether it takes our file. What it says against it is the error.
    pub(super) async fn successor(&self) -> Result<(), String> {
        let program = self.program.display();
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["check", "--config"])
            .arg(&self.path)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match tokio::time::timeout(CHECK, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("{program} cannot be run: {error}")),
            Err(_late) => {
                let seconds = CHECK.as_secs();
                return Err(format!("{program} check gave no answer within {seconds} s"));
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(MAX_REASON).collect();
        let status = output.status;
        Err(format!(
            "{program} does not take the file ({status}): {said}"
        ))
    }
}

/// Waits until nobody is in the middle of an answer.
pub(super) async fn all_answered(visitors: &Semaphore, places: u32) {
    let _late = tokio::time::timeout(LAST_ANSWERS, visitors.acquire_many(places)).await;
}

/// Becomes the program; returns when that fails. No runtime may be there any more.
pub(super) fn become_it(program: &Path, config: &Path, only: Option<Only>) -> anyhow::Error {
    let mut command = std::process::Command::new(program);
    command.arg("run").arg("--config").arg(config);
    if let Some(only) = only.and_then(|only| only.to_possible_value()) {
        command.args(["--only", only.get_name()]);
    }
    let error = command.exec();
    anyhow::Error::from(error).context(format!("become {}", program.display()))
}
