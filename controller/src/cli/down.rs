//! `krater down`.

use std::process::ExitCode;

/// Arguments of `krater down`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `krater down`.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
