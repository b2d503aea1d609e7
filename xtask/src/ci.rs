//! What must pass before a merge: `.ci/run` and `cargo xtask ci [nightly]`.

use crate::util::{Done, Failure, cargo, release_dir, run};
use crate::{bare, build, debian, image, layers, setup, tests, tidy};
use std::process::Command;
use std::time::{Duration, Instant};

/// Mutations per fuzz target: a smoke test on each run, a search at night.
const MUTATIONS: [&str; 2] = ["20000", "2000000"];

/// Seeds of the VRRP simulation at night; each run has 200.
const NIGHTLY_SEEDS: &str = "10000";

/// Schemathesis's examples for each operation at night; the test says how many each run has.
const NIGHTLY_EXAMPLES: &str = "100";

/// Runs every part, whatever the others gave, then prints shares of time and the runner's sum.
pub(crate) fn ci(args: &[String]) -> Done {
    let nightly = match args.first().map(String::as_str) {
        None => false,
        Some("nightly") => true,
        Some(other) => return Err(Failure(format!("ci {other}: use `ci` or `ci nightly`"))),
    };
    let mut parts = Vec::new();
    let mut counts = tests::Counts::default();
    part(&mut parts, "fmt", || {
        run(cargo().args(["fmt", "--all", "--check"]))
    });
    part(&mut parts, "tidy", tidy::tidy);
    part(&mut parts, "layers", layers::layers);
    part(&mut parts, "clippy", || {
        run(cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    let mut peers = None;
    part(&mut parts, "peers", || {
        setup::setup().map(|found| peers = Some(found))
    });
    part(&mut parts, "build", build::release);
    let mut image = None;
    part(&mut parts, "image", || {
        image::for_tests().map(|folder| image = Some(folder))
    });
    part(&mut parts, "test", || {
        let peers = peers
            .as_ref()
            .ok_or("not run: the peers are missing (see above)")?;
        let image = image
            .as_ref()
            .ok_or("not run: the image is missing (see above)")?;
        run(Command::new(release_dir().join("krater")).arg("doctor"))?;
        let share = if nightly {
            tests::Share::All
        } else {
            tests::Share::Daily
        };
        counts = tests::tests(&[], peers, image, share)?;
        if counts.failed > 0 {
            Err("tests failed".into())
        } else {
            Ok(())
        }
    });
    part(&mut parts, "fuzz", || {
        run(cargo().args([
            "run",
            "--quiet",
            "-p",
            "krater-fuzz",
            "--",
            "--mutations",
            MUTATIONS[usize::from(nightly)],
        ]))
    });
    if nightly {
        part(&mut parts, "simulation", || {
            // Routers, groups, and liveness sessions.
            let test = ["test", "--release", "-p", "krater-vrrp-proto", "--tests"];
            run(cargo().args(test).env("KRATER_SIM_SEEDS", NIGHTLY_SEEDS))
        });
        part(&mut parts, "schemathesis", || {
            let peers = peers
                .as_ref()
                .ok_or("not run: the peers are missing (see above)")?;
            let test = [
                "test",
                "-p",
                "krater-controller",
                "--test",
                "it",
                "schemathesis::",
            ];
            run(cargo()
                .args(test)
                .env("KRATER_PEERS", &peers.folder)
                .env("KRATER_SCHEMATHESIS_EXAMPLES", NIGHTLY_EXAMPLES))
        });
        part(&mut parts, "demo", || {
            run(Command::new(release_dir().join("krater"))
                .args(["demo", "--strict", "--runs", "5"]))
        });
        part(&mut parts, "debian", || match (&peers, &image) {
            (Some(peers), Some(image)) => debian::tests(peers, image),
            _ => Err("not run: the peers or the image are missing (see above)".into()),
        });
        part(&mut parts, "bare", bare::bare);
        part(&mut parts, "two images", || {
            image::image(&["--check-reproducible".into()])
        });
    }
    report(&parts, counts)
}

struct Part {
    name: &'static str,
    took: Duration,
    result: Done,
}

fn part(parts: &mut Vec<Part>, name: &'static str, work: impl FnOnce() -> Done) {
    eprintln!("== {name}");
    let start = Instant::now();
    let result = work();
    if let Err(failure) = &result {
        eprintln!("== {name} failed: {failure}");
    }
    parts.push(Part {
        name,
        took: start.elapsed(),
        result,
    });
}

fn report(parts: &[Part], counts: tests::Counts) -> Done {
    let total: Duration = parts.iter().map(|p| p.took).sum();
    println!("part       seconds  share");
    for part in parts {
        let share = 100.0 * part.took.as_secs_f64() / total.as_secs_f64().max(1e-9);
        let verdict = if part.result.is_ok() { "" } else { "  FAILED" };
        println!(
            "{:<10} {:>7.1} {:>5.0}%{verdict}",
            part.name,
            part.took.as_secs_f64(),
            share
        );
    }
    let broken = parts
        .iter()
        .filter(|p| p.result.is_err() && p.name != "test")
        .count();
    let broken = u64::try_from(broken).unwrap_or(u64::MAX);
    let untested =
        parts.iter().any(|p| p.name == "test" && p.result.is_err()) && counts.failed == 0;
    let failed = counts.failed + broken + u64::from(untested);
    if broken > 0 {
        println!("{broken} parts besides the tests failed; each counts as one below");
    }
    println!("{} passed, {failed} failed", counts.passed);
    if failed > 0 {
        Err("ci failed".into())
    } else {
        Ok(())
    }
}
