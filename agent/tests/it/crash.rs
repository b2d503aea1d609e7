//! Processes die.

use super::rig::Rig;
use krater_model::wire::agent::Info;

#[test]
fn a_killed_data_plane_comes_back_with_its_snapshot() {
    let rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(1));
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    let vrrp = rig.process("vrrp").pid;
    for _ in 0..3 {
        let old = rig.kill("dataplane");
        rig.wait("another data plane serves", |rig| {
            let new = rig.process("dataplane").pid;
            new > 1 && new != old && rig.fetch().is_ok_and(|text| text == "x")
        });
        let dataplane = rig.status().dataplane.unwrap();
        assert_eq!(dataplane.revision.unwrap().to_string(), "1.1");
    }
    assert_eq!(rig.process("vrrp").pid, vrrp, "vrrp lived on");
}

#[test]
fn a_killed_vrrp_comes_back_with_its_configuration() {
    let rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(1));
    rig.wait("active", Rig::is_active);
    let dataplane = rig.process("dataplane").pid;
    let old = rig.kill("vrrp");
    rig.wait("another vrrp is active", |rig| {
        let new = rig.process("vrrp").pid;
        new > 1 && new != old && rig.is_active()
    });
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    assert_eq!(
        rig.process("dataplane").pid,
        dataplane,
        "the data plane lived on"
    );
}

#[test]
fn children_outlive_the_agent_and_are_adopted() {
    let mut rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(1));
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    let before: Info = rig.get("/2.0/info");
    let pids = ["dataplane", "vrrp", "vrrp-guard"].map(|name| rig.process(name).pid);
    let agent = rig.agent_pid();
    rig.kill_agent();
    for _ in 0..50 {
        assert_eq!(
            rig.fetch().unwrap(),
            "x",
            "traffic flows on without an agent"
        );
    }
    rig.start_agent();
    assert_ne!(rig.agent_pid(), agent);
    rig.wait("children are adopted", |rig| {
        rig.process("vrrp").pid > 1 && rig.process("dataplane").pid > 1
    });
    assert_eq!(
        ["dataplane", "vrrp", "vrrp-guard"].map(|name| rig.process(name).pid),
        pids
    );
    assert_eq!(rig.process("dataplane").restarts, 0);
    assert_eq!(rig.fetch().unwrap(), "x");
    let after: Info = rig.get("/2.0/info");
    assert_eq!(after.boot_id, before.boot_id);
    rig.wait("the ledger is read", |rig| {
        rig.get::<Info>("/2.0/info").revision.is_some()
    });
    assert_eq!(rig.get::<Info>("/2.0/info").revision, before.revision);
    assert!(!rig.apply(&rig.state(1)).changed);
    assert!(rig.apply(&rig.state(2)).changed);

    // What was adopted is still watched, and so is the progress record that was handed over.
    let old = rig.kill("dataplane");
    rig.wait("an adopted data plane is replaced", |rig| {
        let new = rig.process("dataplane").pid;
        new > 1 && new != old && rig.fetch().is_ok()
    });
    let old = rig.kill("vrrp");
    rig.wait("an adopted vrrp is replaced", |rig| {
        let new = rig.process("vrrp").pid;
        new > 1 && new != old && rig.fetch().is_ok()
    });
}

#[test]
fn everything_dies_and_comes_back_from_the_ledger() {
    let mut rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(7));
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    rig.kill_agent();
    let vip = rig.vip.id().unwrap();
    krater_net::process::kill_all_in(&[vip], std::time::Duration::from_secs(20)).unwrap();
    rig.start_agent();
    rig.wait("the VIP answers again", |rig| {
        rig.fetch().is_ok_and(|text| text == "x")
    });
    assert_eq!(rig.status().revision.unwrap().to_string(), "1.7");
}

#[test]
fn a_frozen_data_plane_is_replaced() {
    let rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(1));
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    let old = rig.process("dataplane").pid;
    krater_net::process::ProcessId::of(old)
        .unwrap()
        .signal(libc::SIGSTOP)
        .unwrap();
    rig.wait("another data plane serves", |rig| {
        let new = rig.process("dataplane").pid;
        new > 1 && new != old && rig.fetch().is_ok_and(|text| text == "x")
    });
    assert!(rig.agent_log().contains("killing a frozen child"));
}

#[test]
fn a_child_without_its_socket_is_replaced_not_doubled() {
    let mut rig = Rig::started();
    rig.serve_member("x");
    rig.apply(&rig.state(1));
    rig.wait("the VIP answers", |rig| rig.fetch().is_ok());
    let old = ["dataplane", "vrrp"].map(|name| rig.process(name).pid);
    rig.kill_agent();
    for socket in ["dataplane.sock", "vrrp.sock"] {
        std::fs::remove_file(rig.dir.join("run").join(socket)).unwrap();
    }
    rig.start_agent();
    rig.wait("others serve", |rig| {
        rig.fetch().is_ok_and(|text| text == "x")
    });
    let new = ["dataplane", "vrrp"].map(|name| rig.process(name).pid);
    for (old, new) in old.into_iter().zip(new) {
        assert!(new > 1 && new != old);
        let alive = krater_net::process::ProcessId::of(old).is_ok_and(|process| process.is_alive());
        assert!(!alive, "{old}");
    }
}
