//! A data plane without members, here and at the peer.

use crate::Test;
use crate::dataplane::Dataplane;
use crate::lab::{Lab, Node, wait_until};
use crate::liveness::alive;
use krater_model::Millis;
use krater_model::control::RouterState::{Active, Backup};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    ("who_has_no_member_hands_over_to_who_has", richer),
    ("without_tracking_members_move_nothing", control),
];

fn config(lab: &Lab, generation: u64, host: u8, tracks: bool) -> Value {
    let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
    let router = &mut config["routers"][0];
    router["track_members"] = json!(tracks);
    router["liveness"] = json!({"key": "0123456789abcdef"});
    config
}

fn pair(name: &str, tracks: bool) -> Lab {
    let mut lab = Lab::new(name, false);
    for node in [&mut lab.a, &mut lab.b] {
        node.start_untracked();
        // A loaded machine may stop the test's data plane for long; here its members are what counts.
        let dataplane = Dataplane::start();
        dataplane.hand_over_within(&node.track, Millis::literal(60_000));
        node.dataplane = Some(dataplane);
    }
    lab.a.apply(&config(&lab, 1, 1, tracks));
    lab.a.state_becomes(Active);
    lab.b.apply(&config(&lab, 1, 2, tracks));
    lab.b.state_becomes(Backup);
    alive(&lab);
    lab
}

fn member(node: &Node, up: bool) {
    node.dataplane.as_ref().unwrap().member(up);
}

/// Thirty adverts are a long time.
fn later(from: &Node) {
    from.grows("krater_vrrp_adverts_sent_total", 30.0);
}

fn richer() {
    let lab = pair("members", true);
    let watcher = lab.watch_owners();
    member(&lab.a, false);
    let reason = lab.a.state_becomes(Backup);
    assert!(reason.contains("handed over to 192.0.2.2"), "{reason}");
    assert_eq!(lab.owners(), ["b"]);
    lab.answered_by("b");
    assert_eq!(watcher.end(), 0, "moments without an owner");
    assert!((lab.a.metric("krater_vrrp_priority") - 1.0).abs() < 0.1);
    // Both have none: nothing moves.
    member(&lab.b, false);
    wait_until("b to know", || {
        (lab.b.metric("krater_vrrp_priority") - 1.0).abs() < 0.1
    });
    later(&lab.b);
    assert_eq!(lab.owners(), ["b"]);
    // The first that has one gets it.
    member(&lab.a, true);
    let reason = lab.b.state_becomes(Backup);
    assert!(reason.contains("handed over to 192.0.2.1"), "{reason}");
    lab.answered_by("a");
    assert!((lab.a.metric("krater_vrrp_priority") - 100.0).abs() < 0.1);
}

/// The negative control.
fn control() {
    let lab = pair("members-untracked", false);
    member(&lab.a, false);
    later(&lab.a);
    assert_eq!(lab.owners(), ["a"]);
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    assert!((lab.a.metric("krater_vrrp_priority") - 100.0).abs() < 0.1);
}
