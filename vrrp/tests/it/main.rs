//! vrrp as processes in network namespaces: two routers on a bridge, real sockets, real kernel.
//!
//! This binary is its own test harness, because it is also the program under test: started again as
//! `vrrp` or `vrrp-guard` it calls the library before any thread exists, as the `amphora` binary does.
//! Needs root; fails without.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test, which clippy does not see without the standard harness"
)]

mod accept;
mod capture;
mod checks;
mod dataplane;
mod excluded;
mod faults;
mod flood;
mod group;
mod interop;
mod lab;
mod liveness;
mod members;
mod memory;
mod neighbours;
mod operation;
mod privileges;
mod sys;
mod takeover;
mod vmac;
mod wire;

use krater_vrrp::{Settings, guard, run};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    match first.to_string_lossy().as_ref() {
        "vrrp" => end(log().and_then(|()| run(settings(arguments)).map_err(|e| report(&e)))),
        "vrrp-guard" => end(log().and_then(|()| guard::run(arguments).map_err(|e| report(&e)))),
        "idle" => loop {
            std::thread::park();
        },
        _ => harness(),
    }
}

fn report(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "ends");
            ExitCode::FAILURE
        }
    }
}

fn log() -> Result<(), String> {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG);
    log.try_init().map_err(|error| error.to_string())
}

/// Positional: namespace, control socket, track socket, uid.
fn settings(mut arguments: impl Iterator<Item = OsString>) -> Settings {
    let mut path = || PathBuf::from(arguments.next().expect("a path"));
    // `-`: the one that it was started in.
    Settings {
        netns: Some(path()).filter(|path| path.as_os_str() != "-"),
        control: path(),
        track: path(),
        uid: Some(krater_model::config::VRRP_UID),
        log: Arc::new(|level| {
            let known = ["error", "warn", "info", "debug", "trace"].contains(&level);
            if known {
                Ok(())
            } else {
                Err(format!("{level:?} is no level"))
            }
        }),
        version: "test".into(),
        guard_arguments: vec![],
    }
}

fn harness() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let exact = arguments.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let tests: Vec<Test> = [
        takeover::TESTS,
        faults::TESTS,
        operation::TESTS,
        accept::TESTS,
        checks::TESTS,
        excluded::TESTS,
        flood::TESTS,
        group::TESTS,
        liveness::TESTS,
        members::TESTS,
        memory::TESTS,
        neighbours::TESTS,
        privileges::TESTS,
        vmac::TESTS,
        wire::TESTS,
        interop::TESTS,
    ]
    .concat()
    .into_iter()
    .filter(|(name, _)| {
        filters.is_empty()
            || filters.iter().any(|f| {
                if exact {
                    name == f
                } else {
                    name.contains(f.as_str())
                }
            })
    })
    .collect();
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in &tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    lab::remove_leftovers();
    println!("\nrunning {} tests", tests.len());
    let mut failed = Vec::new();
    for (name, test) in &tests {
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(()) => println!("test {name} ... ok"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(*name);
            }
        }
    }
    let passed = tests.len() - failed.len();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored\n",
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
