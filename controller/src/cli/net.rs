//! `krater net`.

use std::process::ExitCode;

/// Arguments of `krater net`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `krater net`.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
