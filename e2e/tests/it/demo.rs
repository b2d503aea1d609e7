//! `krater demo`: passes, needs no other program, cleans up, and notices sabotage.

use krater_e2e::system::alone;
use krater_e2e::{bin, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs `krater demo` with temporary files in `temp`, with no environment at all but that.
fn demo(temp: &Path, arguments: &[&str]) -> Output {
    Command::new(bin("krater"))
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("PATH", "/nonexistent")
        .env("TMPDIR", temp)
        .stdin(Stdio::null())
        .output()
        .expect("krater demo")
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn folders(temp: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(temp)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn it_passes_without_any_other_program_and_leaves_nothing() {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let output = demo(temp.path(), &[]);
    assert!(output.status.success(), "{}", shown(&output));
    let last = last_line(&output);
    assert!(
        last.starts_with("demo: ") && last.ends_with(" passed, 0 failed"),
        "{}",
        shown(&output)
    );
    assert_eq!(folders(temp.path()), Vec::<PathBuf>::new());
}

#[test]
fn json_has_all_numbers() {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let output = demo(temp.path(), &["--json", "--adverts", "10"]);
    assert!(output.status.success(), "{}", shown(&output));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["failed"], 0, "{document:#}");
    for name in [
        "create_active_ms",
        "change_in_effect_ms",
        "outage_ms",
        "new_active_ms",
        "detection_ms",
        "pair_complete_ms",
        "idle_amphora_rss_mb",
        "heartbeat_interval_ms",
        "heartbeat_timeout_ms",
        "advert_ms",
    ] {
        assert!(
            document["numbers"][name]["median"]
                .as_f64()
                .is_some_and(|n| n > 0.0),
            "{name}: {document:#}"
        );
    }
    assert_eq!(document["numbers"]["advert_ms"]["median"], 10.0);
}

fn sabotage(part: &str) {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let output = demo(temp.path(), &["--sabotage", part]);
    assert!(
        !output.status.success(),
        "--sabotage {part} was not noticed:\n{}",
        shown(&output)
    );
    let last = last_line(&output);
    assert!(
        last.starts_with("demo: ") && !last.ends_with(" 0 failed"),
        "{}",
        shown(&output)
    );
    assert_eq!(
        folders(temp.path()),
        Vec::<PathBuf>::new(),
        "{}",
        shown(&output)
    );
}

#[test]
fn a_standing_vrrp_is_noticed() {
    sabotage("vrrp");
}

#[test]
fn a_missing_monitor_is_noticed() {
    sabotage("health");
}

#[test]
fn a_missing_policy_is_noticed() {
    sabotage("l7");
}

#[test]
fn a_wrong_weight_is_noticed() {
    sabotage("balance");
}

#[test]
fn a_standing_controller_is_noticed() {
    sabotage("failover");
}

#[test]
fn a_foreign_authority_is_noticed() {
    sabotage("mtls");
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let start = || {
        Command::new(bin("krater"))
            .arg("demo")
            .env("TMPDIR", temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("krater demo")
    };
    let mut first = start();
    let folder = wait::until("the demo has amphorae", || {
        let folder = folders(temp.path()).pop()?;
        let pins = std::fs::read_dir(folder.join("state/netns")).ok()?.count();
        (pins >= 5).then_some(folder)
    });
    first.kill().expect("SIGKILL");
    first.wait().expect("its end");
    assert!(folder.exists(), "a killed run cannot clean up");

    let mut second = start();
    wait::for_condition("the leftovers are gone", || !folder.exists());
    let second_id = nix::unistd::Pid::from_raw(i32::try_from(second.id()).expect("a pid"));
    wait::for_condition("the second run is under way", || {
        !folders(temp.path()).is_empty()
    });
    nix::sys::signal::kill(second_id, nix::sys::signal::Signal::SIGINT).expect("SIGINT");
    let status = wait::until("Ctrl-C ends it", || second.try_wait().expect("a status"));
    assert_eq!(status.code(), Some(130), "{status}");
    assert_eq!(
        folders(temp.path()),
        Vec::<PathBuf>::new(),
        "Ctrl-C cleans up"
    );
}

#[test]
fn a_kept_system_serves_until_it_is_told_to_stop() {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let output = demo(temp.path(), &["--keep"]);
    assert!(output.status.success(), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let end = text
        .lines()
        .find_map(|line| line.strip_prefix("end it with: krater "))
        .unwrap_or_else(|| panic!("it does not say how to end it:\n{text}"));
    let state = Path::new(end.split(' ').next_back().expect("a state folder"));
    let show = |arguments: &[&str]| {
        let output = Command::new(bin("krater")).args(arguments).output();
        output.expect("krater")
    };
    let endpoint = text
        .lines()
        .find_map(|line| line.strip_prefix("kept: ")?.split(',').next())
        .expect("its address");
    let status = show(&["status", "--json", "--endpoint", endpoint]);
    assert!(status.status.success(), "it serves: {}", shown(&status));
    let down = show(&end.split(' ').collect::<Vec<_>>());
    assert!(down.status.success(), "{}", shown(&down));
    let said = String::from_utf8_lossy(&down.stdout).into_owned();
    // "killed the controller" is what a blocked SIGTERM looks like.
    assert!(said.contains("stopped the controller"), "{said}");
    assert!(!state.exists(), "{said}");
    let gone = show(&["status", "--endpoint", endpoint]);
    assert!(!gone.status.success(), "it still serves: {}", shown(&gone));
}
