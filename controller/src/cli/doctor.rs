//! `krater doctor`.

use std::process::ExitCode;

/// Arguments of `krater doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `krater doctor`.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
