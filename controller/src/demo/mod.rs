//! `krater demo`: the whole chain, seen by a client.
//!
//! Starts `krater up` as another process with a state folder of its own, and is nothing but a client of
//! it: the public REST API, packets from client namespaces made with `krater net exec`, members made
//! with `krater net serve`, and for the failover what a dying host does to an amphora: its processes
//! killed, its links cut. It never looks into the database, an agent or a control socket.
//!
//! | module | what |
//! |---|---|
//! | [`story`] | the steps |
//! | [`system`] | the system under demonstration: its API objects, members and clients |
//! | [`sabotage`] | breaks one part, to show that the demo would notice |
//! | [`limits`] | how long things may take |
//! | [`probe`], [`report`] | pure: gaps between answers; lines, medians |
//! | [`api`], [`client`], [`worker`], [`amphora`], [`host`] | the means |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command's product is its output"
)]

mod amphora;
mod api;
mod client;
mod host;
mod limits;
mod probe;
mod report;
mod sabotage;
mod story;
mod system;
mod worker;

use crate::cli::Machines;
use crate::config::Drivers;
use report::{Run, spread};
pub use sabotage::Sabotage;
use std::process::ExitCode;

/// Arguments of `krater demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Leave the system running at the end and say where it is.
    #[arg(long, conflicts_with = "runs")]
    keep: bool,
    /// Print one JSON document with all numbers instead of lines.
    #[arg(long)]
    json: bool,
    /// Repeat from an empty system and give median and worst.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Interval of VRRP advertisements in milliseconds, a multiple of 10; default: as shipped (100), with qemu 1000.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u16).range(10..=40_950))]
    adverts: Option<u16>,
    /// A missed time counts as failed.
    #[arg(long)]
    strict: bool,
    /// What amphorae are made of: netns or qemu. With qemu and TCG nothing is fast, and no time has a goal.
    #[arg(
        long,
        visible_alias = "drivers",
        value_enum,
        env = "KRATER_DRIVERS",
        default_value = "netns"
    )]
    compute: Drivers,
    #[command(flatten)]
    machines: Machines,
    /// Break one part from outside; the demo must notice and end with failed ≥ 1.
    #[arg(long, value_enum, value_name = "PART")]
    sabotage: Option<Sabotage>,
    /// Be the client in a client namespace.
    #[arg(long, hide = true)]
    worker: bool,
}

/// Exit status after Ctrl-C, as shells expect it.
const INTERRUPTED: u8 = 130;

/// Runs `krater demo`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.worker {
        return worker::run().map(|()| ExitCode::SUCCESS);
    }
    if args.adverts.is_some_and(|ms| ms % 10 != 0) {
        anyhow::bail!(
            "--adverts {}: VRRP counts in centiseconds, use a multiple of 10",
            args.adverts.unwrap_or(0)
        );
    }
    if args.compute == Drivers::Noop {
        anyhow::bail!("--compute noop: nothing would carry traffic, use netns or qemu");
    }
    host::catch_signals()?;
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        if args.runs > 1 && !args.json {
            println!("run {number} of {}", args.runs);
        }
        let run = story::tell(&args)?;
        runs.push(run);
        if host::interrupted() {
            println!("demo: interrupted; everything was removed");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    Ok(finish(&args, &runs))
}

fn finish(args: &Args, runs: &[Run]) -> ExitCode {
    let passed: usize = runs.iter().map(Run::passed).sum();
    let missed: usize = runs.iter().map(Run::missed).sum();
    let late = if args.strict { missed } else { 0 };
    let failed = runs.iter().map(Run::failed).sum::<usize>() + late;
    let passed = passed - late;
    if args.json {
        let document = serde_json::json!({
            "passed": passed, "failed": failed, "missed": missed,
            "numbers": spread(runs), "runs": runs,
        });
        println!("{document:#}");
    } else {
        if args.runs > 1 {
            for (name, spread) in spread(runs) {
                println!(
                    "{name:<28} median {:>9.1}  worst {:>9.1}",
                    spread.median, spread.worst
                );
            }
        }
        println!("demo: {passed} passed, {failed} failed");
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
