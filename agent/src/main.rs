//! `amphora`: everything that runs in an amphora, in one program.
//!
//! Owns: the command line, the agent (its REST API, applying desired states, the ledger, the children,
//! heartbeats), and process 1 of the image. The data plane and vrrp are libraries that this program calls before any thread exists,
//! because they change user, capabilities and namespace first.

mod agent;
mod appliance;
mod apply;
mod boot_id;
mod check;
mod child;
mod cli;
mod clock;
mod config;
mod control;
mod ctl;
mod docs;
mod family;
mod heap;
mod heartbeat;
mod init;
mod ledger;
mod memory;
mod metrics;
mod notify;
mod second_path;
mod server;
mod supervise;
mod sys;
mod track;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();

fn main() -> ExitCode {
    if let Err(error) = krater_net::process::unblock_signals() {
        cli::complain(&anyhow::Error::from(error).context("unblock signals"));
        return ExitCode::FAILURE;
    }
    // The kernel gives its first process the words of its command line that it does not know: not our options.
    if init::is_wanted() {
        init::run();
    }
    let outcome = match cli::Cli::parse().command {
        cli::Command::Agent { config } => agent::run(&config),
        cli::Command::Dataplane(args) => child::dataplane(args),
        cli::Command::Vrrp(args) => child::vrrp(args),
        cli::Command::VrrpGuard(args) => child::guard(args),
        cli::Command::Run { config, only } => appliance::run(&config, only),
        cli::Command::Check { file, config } => check::run(file.as_deref(), config.as_deref()),
        cli::Command::Ctl(args) => ctl::run(args),
        cli::Command::Init => init::command(),
        cli::Command::Docs { out } => docs::run(&out),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
