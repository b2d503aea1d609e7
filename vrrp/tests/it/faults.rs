//! The VIP follows the data plane's health.

use crate::Test;
use crate::dataplane::{Dataplane, send_frame};
use crate::lab::{Lab, wait_until};
use krater_model::control::RouterState::{Active, Backup, Fault};
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    ("frozen_dataplane_gives_the_vip_away", frozen_dataplane),
    ("dead_dataplane_gives_the_vip_away", dead_dataplane),
    (
        "a_backup_with_a_sick_dataplane_does_not_take_over",
        sick_backup,
    ),
    ("single_follows_its_dataplane", single),
    ("hostile_track_frames", hostile_frames),
];

fn frozen_dataplane() {
    let lab = Lab::pair("frozen", false);
    let dataplane = lab.a.dataplane.as_ref().unwrap();
    dataplane.freeze(true);
    let reason = lab.a.state_becomes(Fault);
    assert!(reason.contains("no progress"), "{reason}");
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    assert_eq!(lab.owners(), ["b"]);
    lab.answered_by("b");
    dataplane.freeze(false);
    lab.a.state_becomes(Backup);
    // Ready is withdrawn at b: a is healthy again and takes over.
    lab.b.dataplane.as_ref().unwrap().ready(false);
    let reason = lab.b.state_becomes(Fault);
    assert!(reason.contains("not ready"), "{reason}");
    lab.a.state_becomes(Active);
    assert_eq!(lab.owners(), ["a"]);
}

fn dead_dataplane() {
    let mut lab = Lab::pair("dead", false);
    lab.a.dataplane.as_mut().unwrap().kill();
    let reason = lab.a.state_becomes(Fault);
    assert!(reason.contains("ended"), "{reason}");
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["b"]);
    // The agent has started another one and hands it over.
    let next = Dataplane::start();
    next.hand_over(&lab.a.track);
    lab.a.dataplane = Some(next);
    lab.a.state_becomes(Backup);
    assert_eq!(lab.owners(), ["b"]);
}

fn sick_backup() {
    let mut lab = Lab::pair("sick", false);
    lab.b.dataplane.as_ref().unwrap().freeze(true);
    lab.b.state_becomes(Fault);
    lab.a.end(nix::sys::signal::Signal::SIGTERM);
    // Nobody takes it: not even after several times the down interval.
    let start = lab.b.status().routers[0].since_ms;
    wait_until("a second to pass", || {
        let router = &lab.b.status().routers[0];
        assert_eq!(router.state, Fault);
        router.since_ms > start + 1_000
    });
    assert!(lab.owners().is_empty());
    // Control: healthy, it does.
    lab.b.dataplane.as_ref().unwrap().freeze(false);
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["b"]);
}

fn single() {
    let mut lab = Lab::new("single", false);
    lab.a.start_untracked();
    let mut config = lab.config(1, 1, 100);
    config["routers"][0]["peers"] = json!([]);
    lab.a.apply(&config);
    let reason = lab.a.state_becomes(Fault);
    assert!(reason.contains("no data plane"), "{reason}");
    assert!(lab.owners().is_empty());
    let dataplane = Dataplane::start();
    dataplane.hand_over(&lab.a.track);
    let reason = lab.a.state_becomes(Active);
    assert!(reason.contains("no peers"), "{reason}");
    lab.answered_by("a");
    dataplane.freeze(true);
    lab.a.state_becomes(Fault);
    assert!(lab.owners().is_empty());
    dataplane.freeze(false);
    lab.a.state_becomes(Active);
    assert_eq!(lab.owners(), ["a"]);
    // One that does not track keeps it whatever happens to the data plane.
    config["routers"][0]["track_dataplane"] = json!(false);
    config["revision"]["generation"] = json!(2);
    lab.a.apply(&config);
    drop(dataplane);
    wait_until("the data plane's end to be seen", || {
        lab.a.metric("krater_vrrp_dataplane_healthy") == 0.0
    });
    assert_eq!(lab.a.status().routers[0].state, Active);
    assert_eq!(lab.a.status().routers[0].transitions, 3);
}

fn hostile_frames() {
    let lab = Lab::pair("frames", false);
    let null = std::fs::File::open("/dev/null").unwrap();
    let null = std::os::fd::AsRawFd::as_raw_fd(&null);
    for (frame, descriptors) in [
        (&b"nonsense"[..], &[null, null][..]),
        (
            &b"{\"schema\":1,\"pid\":1,\"frozen_after\":100}"[..],
            &[][..],
        ),
        (
            &b"{\"schema\":1,\"pid\":1,\"frozen_after\":100}"[..],
            &[null][..],
        ),
        (
            &b"{\"schema\":1,\"pid\":1,\"frozen_after\":100}"[..],
            &[null; 3][..],
        ),
        (
            &b"{\"schema\":9,\"pid\":1,\"frozen_after\":100}"[..],
            &[null; 2][..],
        ),
        (&[b' '; 5_000][..], &[null; 2][..]),
    ] {
        send_frame(&lab.a.track, frame, descriptors);
    }
    lab.b.grows("krater_vrrp_adverts_received_total", 10.0);
    assert_eq!(lab.a.status().routers[0].state, Active);
    assert_eq!(lab.owners(), ["a"]);
}
