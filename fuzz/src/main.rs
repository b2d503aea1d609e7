//! `cargo run -p krater-fuzz -- [--mutations N] [--seed N] [TARGET…]`
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program's product is its output"
)]

use krater_fuzz::{Mutator, TARGETS, Target, corpus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(broken) => {
            println!("fuzz: {broken} targets broke");
            ExitCode::FAILURE
        }
        Err(text) => {
            eprintln!("fuzz: {text}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize, String> {
    let (mut mutations, mut seed, mut names) = (20_000_u64, 1_u64, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let text = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            text.parse::<u64>()
                .map_err(|error| format!("{arg} {text}: {error}"))
        };
        match arg.as_str() {
            "--mutations" => mutations = number()?,
            "--seed" => seed = number()?,
            name if TARGETS.iter().any(|t| t.0 == name) => names.push(arg),
            other => {
                let known: Vec<&str> = TARGETS.iter().map(|t| t.0).collect();
                return Err(format!("{other:?} is no target: {}", known.join(", ")));
            }
        }
    }
    let mut broken = 0;
    for (name, target) in TARGETS {
        if names.is_empty() || names.iter().any(|n| n == name) {
            broken += usize::from(!one(name, *target, mutations, seed)?);
        }
    }
    Ok(broken)
}

/// True when the target survived.
fn one(name: &str, target: Target, mutations: u64, seed: u64) -> Result<bool, String> {
    let start = Instant::now();
    let files = corpus(name).map_err(|error| format!("corpus/{name}: {error}"))?;
    if files.is_empty() {
        return Err(format!("corpus/{name} is empty: commit a real message"));
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|f| f.1).collect();
    let survives = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
    let mut mutator = Mutator::new(seed);
    for number in 0..mutations.saturating_add(inputs.len() as u64) {
        let replay = usize::try_from(number)
            .ok()
            .and_then(|n| inputs.get(n).cloned());
        let input = replay.unwrap_or_else(|| mutator.mutate(&inputs));
        if !survives(&input) {
            let path = PathBuf::from(format!("crash-{name}-{seed}-{number}"));
            std::fs::write(&path, &input)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            println!(
                "{name}: BROKEN by input {number}, written to {}: move it to fuzz/corpus/{name}/",
                path.display()
            );
            return Ok(false);
        }
    }
    println!(
        "{name}: {} corpus files, {mutations} mutations, {:.1} s",
        inputs.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(true)
}
