//! Checks that somebody else makes and reports.

use crate::Test;
use crate::lab::{Lab, Node, wait_until};
use krater_model::control::RouterState::{Active, Backup, Fault};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    ("a_check_that_is_down_gives_the_address_away", fault),
    ("a_check_that_nobody_reports_is_down", silence),
    ("a_check_with_a_weight_changes_the_priority", weight),
];

fn report(node: &Node, name: &str, up: bool) -> u16 {
    let path = format!("/checks/{name}");
    let (status, _) = node.request("PUT", &path, &json!({"up": up}).to_string());
    status
}

/// a tracks these checks, b none.
fn config(lab: &Lab, generation: u64, host: u8, checks: Value) -> Value {
    let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
    let router = &mut config["routers"][0];
    router["track_dataplane"] = json!(false);
    router["preempt"] = json!(true);
    if host == 1 {
        router["track_checks"] = checks;
    }
    config
}

fn pair(name: &str, checks: &Value) -> Lab {
    let mut lab = Lab::new(name, false);
    lab.a.start();
    lab.a.apply(&config(&lab, 1, 1, checks.clone()));
    lab.b.start();
    lab.b.apply(&config(&lab, 1, 2, Value::Null));
    lab
}

fn fault() {
    let lab = pair(
        "check-fault",
        &json!([{"name": "db", "rise": 2, "fall": 2, "fresh": 60_000}]),
    );
    // What was never reported is down.
    let reason = lab.a.state_becomes(Fault);
    assert!(reason.contains("a tracked check is down"), "{reason}");
    lab.b.state_becomes(Active);
    assert_eq!(report(&lab.a, "db", true), 204);
    assert_eq!(lab.a.status().routers[0].state, Fault);
    assert_eq!(report(&lab.a, "db", true), 204);
    lab.a.state_becomes(Active);
    assert_eq!(report(&lab.a, "db", false), 204);
    assert_eq!(lab.a.status().routers[0].state, Active);
    let [check] = &lab.a.status().checks[..] else {
        panic!("one check");
    };
    assert!(check.up && check.fresh_ms.is_some(), "{check:?}");
    assert_eq!(report(&lab.a, "db", false), 204);
    lab.a.state_becomes(Fault);
    lab.b.state_becomes(Active);
    lab.answered_by("b");
    // Others than those that are tracked, and what is no report.
    let (status, body) = lab.a.request("PUT", "/checks/disk", "{\"up\":true}");
    assert!(
        status == 404 && body.contains("use one of db"),
        "{status} {body}"
    );
    let (status, body) = lab.a.request("PUT", "/checks/db", "{\"up\":1}");
    assert!(
        status == 400 && body.contains("\"field\":\"up\""),
        "{status} {body}"
    );
    let (status, body) = lab.b.request("PUT", "/checks/db", "{\"up\":true}");
    assert!(
        status == 404 && body.contains("no virtual router tracks"),
        "{status} {body}"
    );
    assert_eq!(lab.a.request("GET", "/checks/db", "").0, 405);
}

fn silence() {
    let lab = pair(
        "check-silence",
        &json!([{"name": "db", "fall": 10, "fresh": 1_000}]),
    );
    assert_eq!(report(&lab.a, "db", true), 204);
    lab.a.state_becomes(Active);
    // Nobody reports any more.
    let reason = lab.a.state_becomes(Fault);
    assert!(reason.contains("not reported"), "{reason}");
    lab.b.state_becomes(Active);
    // The negative control: without the check nothing moves.
    lab.a.apply(&config(&lab, 2, 1, json!([])));
    lab.a.state_becomes(Active);
}

fn weight() {
    let lab = pair(
        "check-weight",
        &json!([{"name": "db", "weight": -20, "fresh": 60_000}]),
    );
    let priority = || lab.a.metric("krater_vrrp_priority");
    assert!((priority() - 80.0).abs() < 0.1);
    lab.b.state_becomes(Active);
    lab.a.state_becomes(Backup);
    assert_eq!(report(&lab.a, "db", true), 204);
    assert!((priority() - 100.0).abs() < 0.1);
    lab.a.state_becomes(Active);
    wait_until("a alone to hold it", || lab.owners() == ["a"]);
    assert_eq!(report(&lab.a, "db", false), 204);
    let reason = lab.a.state_becomes(Backup);
    assert!(reason.contains("is Active with priority 90"), "{reason}");
    lab.answered_by("b");
}
