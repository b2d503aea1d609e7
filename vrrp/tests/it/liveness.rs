//! Liveness sessions: what only they can tell, with 40 s between adverts, so that the protocol's own timer
//! is two minutes away.

use crate::Test;
use crate::lab::{Lab, Node, wait_for, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_model::control::{VrrpEvent, VrrpEventKind, VrrpEvents};
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP, SIGTERM};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    ("a_dead_node_is_noticed_by_its_session_ipv4", || {
        dead("live4", false);
    }),
    ("a_dead_node_is_noticed_by_its_session_ipv6", || {
        dead("live6", true);
    }),
    ("another_key_is_no_session", another_key),
    ("a_farewell_is_no_death", farewell),
    ("a_frozen_node_is_dead_and_follows_when_it_thaws", frozen),
];

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn pair(name: &str, v6: bool, keys: [&str; 2], centiseconds: u16) -> Lab {
    let mut lab = Lab::new(name, v6);
    let config = |host: u8, generation, centiseconds: u16| -> Value {
        let mut config = lab.config(generation, host, if host == 1 { 254 } else { 90 });
        let router = &mut config["routers"][0];
        router["advert_interval"] = json!(centiseconds);
        router["track_dataplane"] = json!(false);
        router["liveness"] = json!({"key": keys[usize::from(host) - 1]});
        config
    };
    // The first election need not take two minutes.
    let first = [config(1, 1, 10), config(2, 1, 10)];
    let then = [config(1, 2, centiseconds), config(2, 2, centiseconds)];
    lab.a.start();
    lab.a.apply(&first[0]);
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&first[1]);
    wait_until("b to hear a", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 3.0
    });
    let before = lab.b.metric("krater_vrrp_adverts_received_total");
    lab.b.apply(&then[1]);
    lab.a.apply(&then[0]);
    wait_until("b to hear of the interval", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > before
    });
    lab.b.state_becomes(Backup);
    lab
}

fn liveness(node: &Node) -> f64 {
    node.metric("krater_vrrp_peer_liveness{")
}

fn alive(lab: &Lab) {
    wait_until("both to hear each other", || {
        [&lab.a, &lab.b].iter().all(|node| liveness(node) > 1.5)
    });
}

/// Without a word: the links first, then all processes, none of which acts on another one's death.
fn die(lab: &mut Lab) {
    let pid = |pid: u32| nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let (guard, vrrp) = (pid(lab.a.guard()), pid(lab.a.pid()));
    lab.connect(1, false);
    for process in [guard, vrrp] {
        nix::sys::signal::kill(process, SIGSTOP).unwrap();
    }
    nix::sys::signal::kill(guard, SIGKILL).unwrap();
    lab.a.end(SIGKILL);
}

fn events(node: &Node) -> Vec<VrrpEvent> {
    let (_, body) = node.request("GET", "/events?since=0", "");
    let events: VrrpEvents = serde_json::from_str(&body).unwrap();
    events.events
}

fn dead(name: &str, v6: bool) {
    let mut lab = pair(name, v6, [KEY, KEY], 4_000);
    alive(&lab);
    die(&mut lab);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    assert!(liveness(&lab.b) < 0.5);
    lab.answered_by("b");
    let told = wait_for("the event", || {
        let all = events(&lab.b);
        let dead = |event: &&VrrpEvent| matches!(event.kind, VrrpEventKind::PeerDead { .. });
        all.iter().find(dead).cloned()
    });
    assert!(told.sequence > 0);
}

/// The negative control: the same death moves nothing when the session never came up.
fn another_key() {
    let mut lab = pair("live-key", false, [KEY, "another key of 16 bytes"], 4_000);
    wait_until("heartbeats to be refused", || {
        [&lab.a, &lab.b]
            .iter()
            .all(|node| node.metric("krater_vrrp_heartbeats_dropped_total") > 3.0)
    });
    assert!(lab.b.metric("krater_vrrp_heartbeats_received_total") < 0.5);
    assert!(liveness(&lab.b) < 0.5);
    die(&mut lab);
    // b goes on sending for much longer than a session would have waited.
    let served = || lab.b.metric("krater_vrrp_timer_lateness_seconds_count");
    let before = served();
    wait_until("forty heartbeats", || served() > before + 40.0);
    lab.b.state_becomes(Backup);
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    let said = |event: &VrrpEvent| matches!(event.kind, VrrpEventKind::PeerDead { .. });
    assert!(!events(&lab.b).iter().any(said));
}

fn farewell() {
    let mut lab = pair("live-left", false, [KEY, KEY], 10);
    alive(&lab);
    assert!(lab.a.end(SIGTERM));
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    wait_until("the farewell", || {
        let all = events(&lab.b);
        assert!(
            !all.iter()
                .any(|e| matches!(e.kind, VrrpEventKind::PeerDead { .. }))
        );
        all.iter()
            .any(|e| matches!(e.kind, VrrpEventKind::PeerLeft { .. }))
    });
    // A new process is a new session.
    lab.a.start();
    let mut config = lab.config(1, 1, 254);
    config["routers"][0]["track_dataplane"] = json!(false);
    config["routers"][0]["liveness"] = json!({"key": KEY});
    lab.a.apply(&config);
    alive(&lab);
    lab.a.state_becomes(Backup);
    lab.answered_by("b");
}

/// SIGSTOP is death to others, and SIGCONT does not take back what they took.
fn frozen() {
    let lab = pair("live-frozen", false, [KEY, KEY], 4_000);
    alive(&lab);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.a.pid()).unwrap());
    nix::sys::signal::kill(pid, SIGSTOP).unwrap();
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    alive(&lab);
    wait_until("one owner", || lab.owners().len() == 1);
}
