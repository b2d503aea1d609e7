//! `run`: every workload against every contender, and what is left afterwards.

use crate::kit::PERF;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn every_workload_does_equal_work_everywhere_without_errors() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("smoke.json");
    let output = Command::new(PERF)
        .args(["run", "--suite", "smoke", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("not yet"), "{table}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 37, "{}", rows.len());
    for row in rows {
        let cells = row["cells"].as_object().unwrap();
        for who in [
            "krater",
            "haproxy-octavia",
            "haproxy-tuned",
            "nginx",
            "direct",
        ] {
            let name = format!("{} {who}", row["workload"]);
            // What Krater does not do yet; HAProxy never does UDP, and the members speak no HTTP/2.
            let without = match row["workload"].as_str().unwrap() {
                "udp-64" | "udp-1400" => !matches!(who, "nginx" | "direct"),
                "h2-1" | "h2-32" => matches!(who, "krater" | "direct"),
                "change-keep-alive" | "change-close" => who == "direct",
                _ => false,
            };
            if without {
                assert!(!cells.contains_key(who), "{name}");
                assert!(row["doubts"].to_string().contains(who), "{name}");
                continue;
            }
            let summary = &cells[who][0]["summary"];
            if row["unit"].as_str().unwrap().starts_with("CPU") && who != "direct" {
                assert!(row["calls"][who].as_f64().unwrap() > 0.1, "{name}");
                // A socket is watched once in its life. Here 40 requests share eight connections on each side, or
                // have one each.
                let watching = row["epoll_ctl"][who].as_f64().unwrap();
                match row["workload"].as_str().unwrap() {
                    "http-0" | "http-1k" | "tls-1k" if who == "krater" => {
                        assert!(watching < 1.0, "{name}: {watching}");
                    }
                    "http-close" if who == "krater" => {
                        assert!(watching >= 2.0, "{name}: {watching}");
                    }
                    _ => {}
                }
            }
            let change = &cells[who][0]["change"];
            let is_change = row["unit"] == "100 changes";
            assert_eq!(is_change, change.is_object(), "{name}");
            if is_change {
                // As many as there was time for.
                assert!(change["changes"].as_u64() >= Some(1), "{name}");
                assert!(change["long"].as_u64() >= Some(1), "{name}");
                assert_eq!(change["long_lost"].as_u64(), Some(0), "{name}");
            }
            // What a peer fails while it reloads is a figure of the row.
            if !is_change || who == "krater" {
                assert_eq!(summary["errors"].as_u64(), Some(0), "{name}");
            }
            assert!(
                summary["total"]["requests"].as_u64().unwrap() >= 8,
                "{name}"
            );
            let text = row["configurations"][who].as_str().unwrap();
            assert!(!text.is_empty(), "{name}");
            // Nobody gets a private key from a report.
            assert!(!text.contains("PRIVATE KEY"), "{name}");
            assert!(
                !text.contains(&tree().display().to_string()),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn one_namespace_does_too_and_becomes_a_page_without_network() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    let output = Command::new(PERF)
        .args([
            "run",
            "--suite",
            "smoke",
            "--loopback",
            "--work",
            "http-1k,tcp-pingpong",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("tcp-pingpong") && table.contains("haproxy-tuned"),
        "{table}"
    );
    let report = || {
        Command::new(PERF)
            .arg("report")
            .arg(folder.path())
            .output()
            .unwrap()
    };
    assert!(report().status.success());
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    for word in [
        "tcp-pingpong",
        "<polyline",
        "http-reuse always",
        "haproxy-octavia",
    ] {
        assert!(page.contains(word), "{word}");
    }
    for word in ["<script", "src=", "href=", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    std::fs::write(&json, "{}").unwrap();
    let broken = report();
    assert_eq!(broken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("a.json"));
    std::fs::remove_file(&json).unwrap();
    assert_eq!(report().status.code(), Some(2));
}

#[test]
fn results_are_kept_of_a_whole_full_suite_alone() {
    for less in [
        &["--suite", "quick"][..],
        &["--suite", "full", "--work", "http-0"],
        &["--suite", "full", "--pairs", "4"],
        &["--suite", "full", "--seconds", "1.4"],
        &["--suite", "full", "--loopback"],
        &["--suite", "full", "--peer", "haproxy"],
    ] {
        let output = Command::new(PERF)
            .args(["run", "--results", "/nonexistent"])
            .args(less)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{less:?}: {text}");
        assert!(text.contains("add --suite full"), "{less:?}: {text}");
    }
}

#[test]
fn a_workload_that_fails_is_told_and_costs_the_others_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    // An nginx that cannot do UDP.
    let broken = folder.path().join("nginx");
    let real = peer("nginx");
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\ncase \"$*\" in *' -c '*) grep -q ' udp;' \"$4\" && exit 9;; esac\n\
         exec {} \"$@\"\n",
        real.display()
    );
    std::fs::write(&broken, script).unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(PERF)
        .env("LD_LIBRARY_PATH", libraries())
        .args(["run", "--suite", "smoke", "--peer", "nginx"])
        .args(["--work", "udp-64,http-0", "--peer-bin"])
        .arg(format!("nginx={}", broken.display()))
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED udp-64: nginx"), "{text}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("FAILED udp-64") && table.contains("http-0"),
        "{table}"
    );
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(
        page.contains("udp-64 failed") && page.contains("http-0"),
        "{page}"
    );
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["rows"].as_array().unwrap().len(), 1);
    assert!(report["failed"]["udp-64"].is_string());
}

/// The folder of `cargo xtask setup`.
fn tree() -> PathBuf {
    let given = std::env::var_os("KRATER_PEERS").map(PathBuf::from);
    let beside = || PathBuf::from(PERF).parent().unwrap().join("../peers");
    std::path::absolute(given.unwrap_or_else(beside).join("tree")).unwrap()
}

fn peer(name: &str) -> PathBuf {
    [tree().join("usr/sbin"), "/usr/sbin".into()]
        .map(|folder| folder.join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask setup`"))
}

fn libraries() -> String {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folder = |part: &str| tree().join(part).join(&triple).display().to_string();
    format!("{}:{}", folder("usr/lib"), folder("lib"))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The folder of a run.
fn folder_of(pid: u32) -> Option<PathBuf> {
    let prefix = format!("{pid}-");
    std::fs::read_dir("/run/krater-perf")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
}

#[test]
fn an_interrupt_leaves_nothing_behind_and_neither_does_a_kill_after_the_next_run() {
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut run = Command::new(PERF)
            .args([
                "run",
                "--work",
                "http-1k",
                "--peer",
                "haproxy",
                "--seconds",
                "60",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = run.id();
        until("HAProxy runs", || {
            folder_of(pid).is_some_and(|f| f.join("haproxy-tuned/stats.sock").exists())
        });
        let folder = folder_of(pid).unwrap();
        let namespaces: Vec<_> = ["client", "balancer", "server"]
            .iter()
            .map(|name| {
                krater_net::netns::NetNs::open(&folder.join(name))
                    .unwrap()
                    .id()
                    .unwrap()
            })
            .collect();
        let number = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        kill(number, signal).unwrap();
        let status = run.wait().unwrap();
        if signal == Signal::SIGINT {
            assert_eq!(status.code(), Some(130));
        } else {
            // Nobody could clean up: the next run does.
            let next = Command::new(PERF)
                .args([
                    "run", "--suite", "smoke", "--work", "http-0", "--peer", "direct",
                ])
                .output()
                .unwrap();
            assert!(next.status.success());
        }
        assert!(!folder.exists(), "{signal}");
        let left = krater_net::process::processes_in(&namespaces).unwrap();
        assert!(left.is_empty(), "{signal}: {left:?}");
    }
}

#[test]
fn wrong_names_and_programs_are_refused_by_name() {
    for (args, word) in [
        (&["--work", "nonsense"][..], "http-1k"),
        (&["--peer", "squid"], "haproxy, nginx, direct"),
        (&["--peer-bin", "haproxy=/no/such"], "no such file"),
        (&["--peer-bin", "squid=/bin/true"], "haproxy=PATH"),
        (&["--amphora", "/no/such"], "cargo build --release"),
        (&["--seconds", "0"], "--seconds"),
        (
            &[
                "--peer-bin",
                "nginx=/bin/false",
                "--work",
                "http-0",
                "--peer",
                "nginx",
            ],
            "nginx",
        ),
    ] {
        let output = Command::new(PERF).arg("run").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn compare_runs_both_in_turn_and_refuses_what_is_no_program() {
    let built = std::env::var_os("KRATER_BIN_DIR").map(PathBuf::from);
    let beside = PathBuf::from(PERF).parent().unwrap().to_owned();
    let amphora = built.unwrap_or(beside).join("amphora");
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    let output = Command::new(PERF)
        .arg("compare")
        .args([&amphora, &amphora])
        .args([
            "--pairs",
            "5",
            "--seconds",
            "0.2",
            "--work",
            "http-1k",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    // Whether a difference is seen is not for a test on a shared machine to say.
    assert!(matches!(output.status.code(), Some(0 | 1)));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let row = &report["rows"][0];
    for who in ["krater", "old"] {
        assert_eq!(row["cells"][who].as_array().unwrap().len(), 5);
    }
    // So short a run may use too little to be seen: then the row says so, and gives no ratio.
    let ratios = row["ratios"].as_array().unwrap();
    let doubts = row["doubts"].to_string();
    assert!(
        ratios.iter().any(|r| r["peer"] == "old") || doubts.contains("too little"),
        "{doubts}"
    );
    assert!(row["rate"].as_f64().unwrap() > 0.0);
    // Thousands of requests on 64 connections: nearly none of them costs a call to watch a socket.
    let watching = row["epoll_ctl"]["krater"].as_f64().unwrap();
    assert!(watching < 0.2, "{watching} calls of epoll_ctl per request");
    let output = Command::new(PERF)
        .args(["compare", "/no/a", "/no/b"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/a"));
}

/// What stands in a document of the project after `<!-- MARK: FILE -->` is what `quote` prints of that kept run.
fn stands_as_measured(document: &str, mark: &str, options: &[&str]) -> Option<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- {mark}: "))?;
    let (file, rest) = rest.split_once(" -->\n").unwrap();
    let (shown, _) = rest.split_once(&format!("<!-- {mark}: end -->")).unwrap();
    let output = Command::new(PERF)
        .arg("quote")
        .args(options)
        .arg(root.join(file))
        .output()
        .unwrap();
    assert!(output.status.success(), "{file}");
    let measured = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        shown, measured,
        "write what `krater-perf quote {options:?} {file}` prints"
    );
    Some(measured)
}

/// What the goals' table says is what the kept run that it names measured.
#[test]
fn goals_stand_beside_what_was_measured() {
    let measured = stands_as_measured("perf/README.md", "goals", &["--goals"]).unwrap();
    assert!(measured.contains("**missed**"), "{measured}");
}

/// The README may quote no figure but those of a kept run, and all of that run.
#[test]
fn the_readme_quotes_what_was_measured() {
    let Some(measured) = stands_as_measured("README.md", "measured", &[]) else {
        let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("results");
        let kept: Vec<PathBuf> = std::fs::read_dir(results)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        assert!(kept.is_empty(), "{kept:?} is not quoted");
        return;
    };
    assert!(measured.contains("| http-1k |"), "{measured}");
}
