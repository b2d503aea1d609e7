//! Parts that die.

use crate::story::Story;
use krater_e2e::amphora::Amphora;
use krater_e2e::client::{Kind, Load};
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::sys::signal::Signal;
use std::sync::Arc;

/// Silence of an agent does not count in these tests.
const PATIENT: &str = "[heartbeat]\nstale_after_ms = 600000\n";

/// The amphora that holds the VIP, and the other; waits until there is exactly one.
fn roles(story: &Story) -> (Amphora, Amphora) {
    wait::until("exactly one amphora holds the VIP", || {
        let all = story
            .amphorae()
            .into_iter()
            .map(|id| Amphora::find(&story.system, &id));
        let (mut active, mut standby): (Vec<_>, Vec<_>) =
            all.partition(|a| a.addresses().contains(&story.vip));
        (active.len() == 1 && standby.len() == 1).then(|| (active.remove(0), standby.remove(0)))
    })
}

#[test]
fn a_killed_agent_does_not_stop_traffic() {
    let _alone = alone();
    let story = Story::on(System::with(PATIENT, &[]));
    story.answers();
    let (active, _) = roles(&story);
    let load = Load::start(
        Arc::clone(&story.client),
        story.at(80),
        Kind::KeepAlive,
        &["web1", "web2", "web3"],
    );
    wait::for_condition("traffic", || load.done() > 50);
    let agent = active.signal("agent", Signal::SIGKILL);
    wait::for_condition("the agent is gone", || !agent.is_alive());
    let before = load.done();
    wait::for_condition("traffic goes on", || load.done() > before + 500);
    assert_eq!(load.stop(), Vec::<String>::new());
    assert_eq!(roles(&story).0.id, active.id, "the VIP stays");
}

#[test]
fn a_killed_data_plane_hands_over_and_comes_back() {
    let _alone = alone();
    let story = Story::on(System::with(PATIENT, &[]));
    story.answers();
    let (active, standby) = roles(&story);
    let old = active.signal("dataplane", Signal::SIGKILL);
    wait::for_condition("the peer holds the VIP", || {
        roles(&story).0.id == standby.id
    });
    story.answers();
    wait::for_condition("another data plane runs", || {
        active
            .parts()
            .get("dataplane")
            .is_some_and(|process| *process != old && process.is_alive())
    });
    // Not preempted: who serves goes on serving.
    assert_eq!(roles(&story).0.id, standby.id);
    // And the other way round: the restarted data plane is fit to take over.
    wait::for_condition("the first amphora takes over again", || {
        let _ = standby.part("dataplane").signal(Signal::SIGKILL as i32);
        roles(&story).0.id == active.id
    });
    story.answers();
}

#[test]
fn a_frozen_data_plane_hands_over() {
    let _alone = alone();
    let story = Story::on(System::with(PATIENT, &[]));
    story.answers();
    let (active, standby) = roles(&story);
    let frozen = active.signal("dataplane", Signal::SIGSTOP);
    wait::for_condition("the peer holds the VIP", || {
        roles(&story).0.id == standby.id
    });
    story.answers();
    frozen.signal(Signal::SIGCONT as i32).expect("SIGCONT");
}

#[test]
fn a_killed_vrrp_leaves_no_second_owner() {
    let _alone = alone();
    let story = Story::on(System::with(PATIENT, &[]));
    story.answers();
    let (active, standby) = roles(&story);
    active.signal("vrrp", Signal::SIGKILL);
    wait::for_condition("the peer or a new vrrp holds the VIP, alone", || {
        let owners = [&active, &standby].map(|a| a.addresses().contains(&story.vip));
        active.parts().contains_key("vrrp") && (owners == [true, false] || owners == [false, true])
    });
    story.answers();
    roles(&story);
}

#[test]
fn processes_that_die_all_at_once_leave_no_second_owner() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let (active, standby) = roles(&story);
    // The namespace with its addresses lives on, and nobody in it can take the VIP away.
    for process in active.processes() {
        process.signal(Signal::SIGSTOP as i32).expect("SIGSTOP");
    }
    for process in active.processes() {
        let _ = process.signal(Signal::SIGKILL as i32);
    }
    wait::for_condition("the dead amphora is replaced", || {
        !story.amphorae().contains(&active.id)
    });
    story.active();
    let (owner, other) = roles(&story);
    assert_eq!(owner.id, standby.id);
    assert_ne!(other.id, active.id);
    story.answers();
    assert_eq!(story.spread("/", 9).len(), 3);
}
