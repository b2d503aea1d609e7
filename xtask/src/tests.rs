//! `cargo xtask test`: everything but what only the night has time for, with one closing line.
//!
//! One release build of the two product binaries (the same files that `cargo xtask demo` runs, and the
//! ones that the end-to-end tests start) and one test build of the workspace.

use crate::util::{Done, Failure, cargo, line, release_dir, run};
use crate::{build, image, setup};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the test runner's closing lines add up to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// Which tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Without the modules that are called [`NIGHTLY`].
    Daily,
    /// All of them.
    All,
}

/// What the test runner leaves out by day: names that contain it.
const NIGHTLY: &str = "nightly::";

/// Fetch, build, run; fails when any test fails.
pub(crate) fn test(args: &[String]) -> Done {
    let peers = setup::setup()?;
    build::release()?;
    run(Command::new(release_dir().join("krater")).arg("doctor"))?;
    let image = image::for_tests()?;
    // Who names tests gets them, whenever they run by themselves.
    let share = if args.is_empty() {
        Share::Daily
    } else {
        Share::All
    };
    let counts = tests(args, &peers, &image, share)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed > 0 {
        Err("tests failed".into())
    } else {
        Ok(())
    }
}

/// Runs `cargo test` over the workspace, shows its output and adds up its closing lines.
pub(crate) fn tests(
    args: &[String],
    peers: &setup::Peers,
    image: &Path,
    share: Share,
) -> Result<Counts, Failure> {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(args);
    if share == Share::Daily {
        let own = args.iter().any(|arg| arg == "--");
        command.args((!own).then_some("--"));
        // In one word: test programs with a main function of their own take what begins with two dashes as no name.
        command.arg(format!("--skip={NIGHTLY}"));
    }
    command
        .env("KRATER_BIN_DIR", release_dir())
        .env("KRATER_PEERS", &peers.folder)
        .env("KRATER_IMAGE", image)
        .stdout(Stdio::piped());
    eprintln!("$ {}", line(&command));
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        let mut screen = std::io::stdout();
        for text in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            // A closed screen must not end the run: its status is still wanted.
            let _ = screen
                .write_all(&text)
                .and_then(|()| screen.write_all(b"\n"));
            add(&mut counts, &String::from_utf8_lossy(&text));
        }
    }
    let status = child
        .wait()
        .map_err(|error| format!("cargo test: {error}"))?;
    if !status.success() && counts.failed == 0 {
        // A test program that did not build, or that died without a closing line.
        counts.failed = 1;
    }
    if status.success() && counts.passed == 0 && args.is_empty() {
        return Err("cargo test printed no closing line: no test ran".into());
    }
    Ok(counts)
}

fn add(counts: &mut Counts, text: &str) {
    let Some(rest) = text.strip_prefix("test result: ") else {
        return;
    };
    for part in rest.split([';', '.']) {
        let mut words = part.split_whitespace();
        if let (Some(number), Some(what)) = (
            words.next().and_then(|w| w.parse::<u64>().ok()),
            words.next(),
        ) {
            match what {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod unit {
    use super::{Counts, add};

    #[test]
    fn closing_lines_add_up() {
        let mut counts = Counts::default();
        add(
            &mut counts,
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
        );
        add(
            &mut counts,
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        add(&mut counts, "prints: 9 passed; 9 failed");
        assert_eq!(
            counts,
            Counts {
                passed: 7,
                failed: 3
            }
        );
    }
}
