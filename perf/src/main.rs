//! `krater-perf`: measures a load balancer, ours or another's.
//!
//! Here so far: `load`, the load generator. `run`, `compare` and `report` come with the bench issue and
//! are refused until then.

mod cpu;
mod http;
mod load;
mod output;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "krater-perf",
    version,
    about = "Measures a load balancer, ours or another's"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends HTTP/1.1 requests to one server and prints rate, latency and errors
    Load(load::Args),
    /// Runs workloads on Krater and its peers in turn (not supported yet)
    Run,
    /// Compares two Krater binaries (not supported yet)
    Compare,
    /// Makes an HTML report (not supported yet)
    Report,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => {
            load::run(&args).and_then(|summary| output::print(&summary, args.json))
        }
        Command::Run => Err(anyhow::anyhow!("not supported yet: run")),
        Command::Compare => Err(anyhow::anyhow!("not supported yet: compare")),
        Command::Report => Err(anyhow::anyhow!("not supported yet: report")),
    };
    match result {
        Ok(clean) if clean => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            output::error(&error);
            ExitCode::from(2)
        }
    }
}
