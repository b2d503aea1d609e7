//! `vrrp`: takeovers of both products, and that none is noticed.

use crate::kit::PERF;
use serde_json::Value;
use std::process::{Command, Output};

fn bench(more: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("vrrp.json");
    let output = Command::new(PERF)
        .args(["vrrp", "--interval", "100", "--runs", "1", "--json"])
        .arg(&json)
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = std::fs::read(&json).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output, serde_json::from_slice(&report).unwrap())
}

fn row<'a>(report: &'a Value, case: &str, who: &str) -> &'a Value {
    let mut rows = report["rows"].as_array().unwrap().iter();
    rows.find(|row| row["case"] == case && row["who"] == who)
        .unwrap_or_else(|| panic!("no row {case} of {who}: {report}"))
}

#[test]
fn takeovers_of_both_products() {
    let cases = "node-death,graceful-stop,freeze,partition";
    let (output, report) = bench(&["--case", cases, "--after", "1"]);
    assert!(output.status.success(), "{report:#}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for who in ["krater", "keepalived"] {
        assert!(table.contains(&format!("  {who} ")), "{table}");
        for case in cases.split(',') {
            let row = row(&report, case, who);
            let value = &row["values"][0];
            assert_eq!(row["failures"].as_array().unwrap().len(), 0, "{row}");
            // b answered in the end, and announced before it did.
            assert!(value["takeover_ms"].as_f64().unwrap() > 0.0, "{row}");
            assert!(value["changes"].as_u64().unwrap() >= 1, "{row}");
            assert!(value["announcements"].as_u64().unwrap() >= 1, "{row}");
        }
        for case in ["thaw", "heal"] {
            let value = &row(&report, case, who)["values"][0];
            assert!(value["outage_ms"].is_number(), "{value}");
        }
        // An instrument that sees no outage where there must be one would show wonderful takeovers, and
        // one that sees a single owner while the segment is split, wonderful heals.
        let dead = &row(&report, "node-death", who)["values"][0];
        assert!(dead["lost"].as_u64().unwrap() > 0, "{dead}");
        let split = &row(&report, "partition", who)["values"][0];
        assert!(split["double_ms"].as_f64().unwrap() > 100.0, "{split}");
    }
}

/// Each product gives way to the other one, also when it is asked to.
#[test]
fn takeovers_of_one_product_after_the_other() {
    let who = "krater+keepalived,keepalived+krater";
    let cases = "node-death,planned-handover";
    let (output, report) = bench(&["--who", who, "--case", cases]);
    assert!(output.status.success(), "{report:#}");
    for who in who.split(',') {
        for case in cases.split(',') {
            let value = &row(&report, case, who)["values"][0];
            assert!(value["takeover_ms"].as_f64().unwrap() > 0.0, "{value}");
        }
    }
}

#[test]
fn many_routers_move_and_cost_something() {
    let cases = "mass-failover,steady";
    let (output, report) = bench(&["--case", cases, "--routers", "5", "--seconds", "1"]);
    assert!(output.status.success(), "{report:#}");
    for who in ["krater", "keepalived"] {
        let moved = &row(&report, "mass-failover", who)["values"][0];
        assert_eq!(moved["moved"].as_u64(), Some(5), "{moved}");
        let steady = &row(&report, "steady", who)["values"][0];
        assert!(steady["rss_active_mib"].as_f64().unwrap() > 0.1, "{steady}");
        assert!(steady["false_takeovers"].is_number(), "{steady}");
    }
}

/// A data plane that dies or stands still moves the address of either product; keepalived's script takes its time.
#[test]
fn a_dead_data_plane_moves_the_address() {
    let cases = "dataplane-death,dataplane-freeze";
    let (output, report) = bench(&[
        "--case",
        cases,
        "--patience",
        "60",
        "--who",
        "krater,keepalived",
    ]);
    assert!(output.status.success(), "{report:#}");
    for case in cases.split(',') {
        let lost = |who: &str| {
            let value = &row(&report, case, who)["values"][0];
            assert!(value["takeover_ms"].as_f64().unwrap() > 0.0, "{value}");
            value["lost"].as_u64().unwrap()
        };
        // Two rounds of a script each five seconds, and a process that is watched.
        assert!(lost("krater") < lost("keepalived"), "{report:#}");
    }
}

#[test]
fn rows_under_load_are_made_when_they_are_named() {
    let more = [
        "--case",
        "loaded,loaded-many",
        "--seconds",
        "1",
        "--routers",
        "3",
    ];
    let (output, report) = bench(&[&more[..], &["--who", "krater-live"]].concat());
    assert!(output.status.success(), "{report:#}");
    for case in ["loaded", "loaded-many"] {
        let value = &row(&report, case, "krater-live")["values"][0];
        assert!(value["false_takeovers"].is_number(), "{value}");
        // A second of three routers may cost less than a tick of the kernel's clock.
        assert!(value["cpu_active"].is_number(), "{value}");
    }
}

/// The negative control: with nobody there to take over, each measurement fails and says so.
#[test]
fn without_a_backup_no_takeover_is_seen() {
    let cases = "node-death,graceful-stop";
    let more = [
        "--case",
        cases,
        "--sabotage",
        "no-backup",
        "--patience",
        "2",
    ];
    let (output, report) = bench(&more);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    for who in ["krater", "keepalived"] {
        for case in cases.split(',') {
            let row = row(&report, case, who);
            assert_eq!(row["values"].as_array().unwrap().len(), 0, "{row}");
            let why = row["failures"][0].as_str().unwrap();
            assert!(why.contains("saw no takeover"), "{why}");
        }
    }
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("FAILED krater"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    for (arguments, word) in [
        (&["--interval", "15"][..], "multiples of 10"),
        (&["--who", "carp"], "--who carp"),
        (&["--amphora", "no-such-amphora"], "no-such-amphora"),
    ] {
        let output = Command::new(PERF)
            .arg("vrrp")
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(word), "{text}");
    }
}
