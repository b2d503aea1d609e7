//! vrrp by somebody who grants CAP_NET_ADMIN and CAP_NET_RAW and nothing else: all that it does must be possible.

use crate::Test;
use crate::lab::{Lab, Node, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub(crate) const TESTS: &[Test] = &[
    ("root_with_two_capabilities_is_enough", || {
        two("two-root", &[], "0");
    }),
    ("a_user_with_two_capabilities_is_enough", || {
        let user = ["--reuid=64502", "--regid=64502", "--clear-groups"];
        two("two-user", &user, "64502");
    }),
    ("with_one_capability_it_does_not_start", one),
];

const BOTH: &str = "-all,+net_admin,+net_raw";

/// util-linux's setpriv, which becomes vrrp.
fn setpriv(lab: &Lab, who: &[&str], capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(who);
    if !who.is_empty() {
        // A user has what is ambient; root has all that is not bounded.
        command.arg(format!("--ambient-caps={capabilities}"));
    }
    command
        .arg(format!("--inh-caps={capabilities}"))
        .arg(format!("--bounding-set={capabilities}"))
        .arg(std::env::current_exe().unwrap())
        .args(["vrrp", "-"])
        .args([&lab.a.control, &lab.a.track]);
    command
}

fn status(node: &Node, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// Addresses with and without a virtual MAC address, routes, rules, Accept_Mode, a death.
fn two(name: &str, who: &[&str], uid: &str) {
    let mut lab = Lab::new(name, false);
    // Where a user may make its sockets.
    std::fs::set_permissions(&lab.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let command = setpriv(&lab, who, BOTH);
    lab.a.begin_inside(command);
    assert_eq!(status(&lab.a, "Uid:"), uid);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(&lab.a, set), "0000000000003000", "{set}");
    }
    let mut config = lab.config(1, 1, 100);
    let router = &mut config["routers"][0];
    router["track_dataplane"] = json!(false);
    router["virtual_mac"] = json!(true);
    router["routes"] =
        json!([{"to": "0.0.0.0/0", "via": "192.0.2.254", "table": 1, "onlink": true}]);
    router["rules"] = json!([{"from": "192.0.2.100/32", "table": 1, "priority": 100}]);
    let mut second = router.clone();
    second["vrid"] = json!(2);
    second["virtual_mac"] = json!(false);
    second["addresses"] = json!(["198.51.100.100/24"]);
    second["accept"] = json!(false);
    second["routes"] = json!([]);
    second["rules"] = json!([]);
    config["routers"].as_array_mut().unwrap().push(second);
    lab.a.apply(&config);
    wait_until("both to be Active", || {
        lab.a.status().routers.iter().all(|r| r.state == Active) && lab.a.tagged().len() == 2
    });
    assert_eq!(lab.a.metric("krater_vrrp_netlink_errors_total"), 0.0);
    lab.answered_by("a");
    lab.b.start();
    let mut other = lab.config(1, 2, 90);
    other["routers"][0]["track_dataplane"] = json!(false);
    lab.b.apply(&other);
    lab.b.state_becomes(Backup);
    wait_until("adverts", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 5.0
    });
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    lab.a.end(SIGKILL);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    wait_until("the guard to remove all", || lab.a.tagged().is_empty());
    lab.answered_by("b");
}

/// The negative control: it says what is missing.
fn one() {
    let lab = Lab::new("two-one", false);
    let mut command = setpriv(&lab, &[], "-all,+net_raw");
    let output = lab.a.ns.run(|| command.output()).unwrap().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("keep CAP_NET_ADMIN and CAP_NET_RAW"),
        "{text}"
    );
}
