//! `krater demo`.

use std::process::ExitCode;

/// Arguments of `krater demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `krater demo`.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
