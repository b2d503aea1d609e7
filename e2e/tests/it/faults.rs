//! Parts that die.

use crate::story::Story;
use krater_e2e::agent::{Agent, Identity};
use krater_e2e::amphora::Amphora;
use krater_e2e::client::{Kind, Load};
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::Arc;

/// Silence of an agent does not count in these tests.
const PATIENT: &str = "[heartbeat]\nstale_after_ms = 600000\n";

/// The amphora that holds the VIP, and the other; waits until there is exactly one.
pub(crate) fn roles(story: &Story) -> (Amphora, Amphora) {
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
fn a_killed_agent_does_not_stop_traffic_and_is_back_before_anybody_is_replaced() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let (active, _) = roles(&story);
    let amphorae = story.amphorae();
    let load = Load::start(
        Arc::clone(&story.client),
        story.at(80),
        Kind::KeepAlive,
        &["web1", "web2", "web3"],
    );
    wait::for_condition("traffic", || load.done() > 50);
    let children = ["dataplane", "vrrp"].map(|name| active.part(name));
    let agent = active.signal("agent", Signal::SIGKILL);
    wait::for_condition("the agent is gone", || !agent.is_alive());
    let before = load.done();
    let second = wait::until("the controller starts another", || {
        active
            .parts()
            .get("agent")
            .copied()
            .filter(|process| *process != agent)
    });
    wait::for_condition("traffic goes on", || load.done() > before + 500);
    let all = story.system.api.amphorae(&story.load_balancer);
    let shown = all.iter().find(|a| a["id"] == active.id.as_str());
    let api = Agent::of(&story.system, shown.expect("the amphora"));
    let controller = Identity::controller(&story.system);
    wait::for_condition("the new one answers", || {
        let answer = api.send(&controller, "GET", "/2.0/info", "");
        answer.is_ok_and(|answer| answer.status == 200)
    });
    let path = format!("pools/{}/members/{}", story.pool, story.members[0]);
    story.change("PUT", &path, Some(json!({"member": {"weight": 2}})));
    assert_eq!(load.stop(), Vec::<String>::new());
    assert!(second.is_alive());
    let adopted = ["dataplane", "vrrp"].map(|name| active.part(name));
    assert_eq!(adopted, children, "its children are the same processes");
    assert_eq!(roles(&story).0.id, active.id, "the VIP stays");
    assert_eq!(story.amphorae(), amphorae, "nobody was replaced");
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

/// All processes of an amphora die; its namespace with its addresses lives on, and nobody in it can take
/// the VIP away.
fn kill_all(amphora: &Amphora) {
    for process in amphora.processes() {
        process.signal(Signal::SIGSTOP as i32).expect("SIGSTOP");
    }
    for process in amphora.processes() {
        let _ = process.signal(Signal::SIGKILL as i32);
    }
}

#[test]
fn processes_that_die_all_at_once_leave_no_second_owner() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let (active, standby) = roles(&story);
    kill_all(&active);
    let owns = |amphora: &Amphora| amphora.addresses().contains(&story.vip);
    wait::for_condition("the standby has the VIP, alone", || {
        owns(&standby) && !owns(&active)
    });
    // Its agent was started again, and that one the others.
    wait::for_condition("the dead amphora is whole", || {
        let parts = active.parts();
        ["agent", "dataplane", "vrrp"]
            .iter()
            .all(|name| parts.contains_key(*name))
    });
    story.answers();
    assert_eq!(story.spread("/", 9).len(), 3);
    wait::for_condition("it takes over when it has to", || {
        let _ = standby.part("dataplane").signal(Signal::SIGKILL as i32);
        roles(&story).0.id == active.id
    });
}

#[test]
fn what_cannot_be_started_again_is_removed_before_its_replacement_works() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let (active, standby) = roles(&story);
    let folder = story.system.state_dir().join("amphorae").join(&active.id);
    std::fs::remove_dir_all(folder.join("config-drive")).expect("its config drive");
    let gone = || {
        let own = |pin: &std::path::PathBuf| pin.to_string_lossy().contains(&active.id);
        !krater_e2e::amphora::pins(&story.system).iter().any(own)
    };
    kill_all(&active);
    wait::for_condition("it does not keep the VIP", || {
        !active.addresses().contains(&story.vip)
    });
    let newcomer = || {
        let known = [&active.id, &standby.id];
        let mut all = story.amphorae().into_iter();
        all.find(|id| !known.contains(&id))
    };
    let new = wait::until("the replacement works", || {
        let new = newcomer()?;
        let booted = krater_e2e::amphora::pins(&story.system)
            .iter()
            .filter(|pin| pin.to_string_lossy().ends_with(&format!("{new}-vip")))
            .any(|pin| krater_net::netns::exists(pin));
        let new = booted.then(|| Amphora::find(&story.system, &new))?;
        // It has addresses from its first state on, and could own the VIP.
        let mut addresses = new.addresses().into_iter();
        addresses.any(|a| !a.is_loopback()).then_some(new)
    });
    assert!(gone(), "the dead one was there when its replacement began");
    story.active();
    let (owner, other) = roles(&story);
    assert_eq!((owner.id, other.id), (standby.id.clone(), new.id));
    story.answers();
    assert_eq!(story.spread("/", 9).len(), 3);
}

/// Three intervals of adverts are nine seconds.
const RARE: &str = "[heartbeat]\nstale_after_ms = 600000\n[vrrp]\nadvert_centiseconds = 300\n";

/// Why the standby took over when the active amphora's host died.
fn takeover_reason(config: &str, session: fn(&serde_json::Value) -> bool) -> String {
    let story = Story::on(System::with(config, &[]));
    story.answers();
    let (active, standby) = roles(&story);
    let of = |amphora: &Amphora| amphora.router(&story.system);
    wait::for_condition("the session is as configured", || {
        of(&standby).is_some_and(|router| session(&router["liveness"][0]))
    });
    active.kill_and_cut();
    let reason = wait::until("the standby takes over", || {
        let router = of(&standby)?;
        let reason = router["reason"].as_str()?.to_owned();
        (router["state"] == "active").then_some(reason)
    });
    story.answers();
    reason
}

/// The controller gives a pair a session over both networks, and the death of a host shows there first.
#[test]
fn a_dead_host_shows_in_the_liveness_session() {
    let _alone = alone();
    let both =
        |session: &serde_json::Value| session["vip"] == "alive" && session["second"] == "alive";
    let reason = takeover_reason(RARE, both);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
}

/// The negative control.
#[test]
fn without_a_liveness_session_it_shows_in_missing_adverts() {
    let _alone = alone();
    let config = format!("{RARE}liveness_ms = 0\n");
    let reason = takeover_reason(&config, serde_json::Value::is_null);
    assert!(reason.contains("no advertisement for"), "{reason}");
    assert!(!reason.contains("dead"), "{reason}");
}
