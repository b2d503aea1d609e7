//! `krater-perf`: measures a load balancer, ours or another's.
//!
//! | command | what it is |
//! |---|---|
//! | `load` | the load generator alone, against any server |
//! | `origin` | the server whose answers the load generator can verify byte for byte |
//!
//! What belongs here: measuring. What never will: anything that the product needs to work.

mod cpu;
mod framing;
mod load;
mod origin;
mod output;
mod pattern;
mod sys;
mod transport;
mod websocket;

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
    /// Loads one server and prints rate, latency, CPU and errors
    Load(load::Args),
    /// Serves known answers until standard input ends
    Origin(origin::Args),
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
        Command::Origin(args) => origin::run(&args).map(|()| true),
        Command::Run => Err(anyhow::anyhow!("not supported yet: run")),
        Command::Compare => Err(anyhow::anyhow!("not supported yet: compare")),
        Command::Report => Err(anyhow::anyhow!("not supported yet: report")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::error(&error);
            ExitCode::from(2)
        }
    }
}
