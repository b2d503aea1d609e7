//! `krater-perf`: measures a load balancer, ours or another's.
//!
//! | command | what it is |
//! |---|---|
//! | `load` | the load generator alone, against any server |
//! | `run` | Krater, HAProxy, nginx and no load balancer at all, in turn, on a topology of its own |
//! | `compare` | two amphora binaries in turn, by the same method |
//! | `vrrp` | takeovers of Krater and of keepalived, as a client sees them |
//! | `self-test` | the method tried on a known difference |
//! | `quote` | the figures of a kept run as the README shows them |
//! | `report` | one HTML file of what runs wrote |
//! | `origin` | the server whose answers the load generator can verify byte for byte |
//!
//! What belongs here: measuring. What never will: anything that the product needs to work.

mod bench;
mod burn;
mod calls;
mod cpu;
mod framing;
mod goals;
mod html;
mod load;
mod origin;
mod output;
mod pattern;
mod quote;
mod sockets;
mod sys;
mod transport;
mod vrrp;
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
    /// Runs workloads on Krater and its peers in turn
    Run(bench::Args),
    /// Runs two amphora binaries in turn and says whether they differ
    Compare(bench::compare::Args),
    /// Lets nodes die, stop and come back, and tells how long nobody answered at the virtual address
    Vrrp(vrrp::Args),
    /// Answers on a node of `vrrp`
    #[command(hide = true)]
    VrrpEcho(vrrp::EchoArgs),
    /// Asks the answering machine; keepalived's script in the bench.
    #[command(hide = true)]
    VrrpCheck(vrrp::CheckArgs),
    /// Shows that the method finds no difference where there is none, and ten per cent where there are
    SelfTest(bench::compare::SelfTest),
    /// Burns a share of another process's CPU time
    #[command(hide = true)]
    Burn(burn::Args),
    /// Prints the figures of a kept run as the README shows them
    Quote(quote::Args),
    /// Makes one self-contained HTML file of the JSON files in a folder
    Report(html::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => {
            load::run(&args).and_then(|summary| output::print(&summary, args.json))
        }
        Command::Origin(args) => origin::run(&args).map(|()| true),
        Command::Run(args) => bench::run(&args),
        Command::Compare(args) => bench::compare::run(&args),
        Command::Vrrp(args) => vrrp::run(&args),
        Command::VrrpEcho(args) => vrrp::echo(&args).map(|()| true),
        Command::VrrpCheck(args) => vrrp::check(&args).map(|()| true),
        Command::SelfTest(args) => bench::compare::self_test(&args),
        Command::Burn(args) => burn::run(&args).map(|()| true),
        Command::Quote(args) => quote::run(&args)
            .and_then(|text| output::text(&text))
            .map(|()| true),
        Command::Report(args) => html::write(&args)
            .and_then(|path| output::line(&path.display().to_string()))
            .map(|()| true),
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
