//! Heartbeats that are not an amphora's own: dropped, counted by reason, without effect.

use crate::story::Story;
use krater_e2e::amphora::{Amphora, pins};
use krater_e2e::api::text;
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use krater_model::wire::heartbeat::{Beat, PORT};
use krater_model::{AmphoraId, Secret};
use krater_net::netns::NetNs;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A beat that says that nothing works.
fn forged(amphora: AmphoraId, boot_id: &str) -> Beat {
    Beat {
        amphora_id: amphora,
        boot_id: boot_id.into(),
        seq: 1,
        part: 0,
        parts: 1,
        revision: None,
        dataplane_ready: false,
        listeners: BTreeMap::new(),
        members: BTreeMap::new(),
        routers: BTreeMap::new(),
    }
}

fn metric(system: &System, name: &str) -> u64 {
    let answer = system.api.send("GET", "/metrics", None).unwrap();
    text(&answer.body)
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or_default()
}

fn dropped(story: &Story, reason: &str) -> u64 {
    metric(
        &story.system,
        &format!("krater_heartbeats_dropped_total{{reason=\"{reason}\"}}"),
    )
}

#[test]
fn forged_damaged_and_replayed_ones_are_dropped_and_counted() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let id = story.amphorae().remove(0);
    let amphora: AmphoraId = id.parse().unwrap();
    let key = std::fs::read_to_string(story.system.state_dir().join("heartbeat.key")).unwrap();
    let key = Secret::new(key.trim());
    let controller = SocketAddr::from(([100, 96, 0, 1], PORT));
    // From where the amphora's own beats come.
    let pin = pins(&story.system)
        .into_iter()
        .find(|pin| pin.to_string_lossy().ends_with(&format!("-{id}-mgmt")))
        .expect("the amphora's management namespace");
    let socket = NetNs::open(&pin)
        .unwrap()
        .udp_socket(SocketAddr::from(([0, 0, 0, 0], 0)))
        .unwrap();

    // Boot ids begin with the time: this one is older than any that was heard, so it is a replay.
    let replay = forged(amphora, "0000000000000001-aaaaaaaa")
        .encode(&key)
        .unwrap();
    let wrong_key = forged(amphora, "ffffffffffffffff-aaaaaaaa")
        .encode(&Secret::new("another key"))
        .unwrap();
    let stranger = forged(AmphoraId::random(), "ffffffffffffffff-aaaaaaaa")
        .encode(&key)
        .unwrap();
    let mut foreign = wrong_key.clone();
    foreign[0] ^= 1;
    let mut newer = wrong_key.clone();
    newer[4] = 99;
    let cases: [(&str, &[u8]); 6] = [
        ("truncated", &replay[..20]),
        ("magic", &foreign),
        ("version", &newer),
        ("hmac", &wrong_key),
        ("replay", &replay),
        ("unknown", &stranger),
    ];
    for (reason, datagram) in cases {
        let before = dropped(&story, reason);
        socket.send_to(datagram, controller).unwrap();
        wait::for_condition(&format!("a datagram is dropped as {reason}"), || {
            dropped(&story, reason) == before + 1
        });
    }

    // Negative control: the amphora's own beats go on being taken, and what the forged ones said
    // (no listener, no data plane) had no effect.
    let taken = metric(&story.system, "krater_heartbeats_total");
    wait::for_condition("own heartbeats are taken", || {
        metric(&story.system, "krater_heartbeats_total") > taken
    });
    assert_eq!(story.amphorae().len(), 2);
    assert!(story.amphorae().contains(&id), "nobody was replaced");
    story.answers();
}

/// Twelve of these are the time-out.
const QUICK: &str = "[heartbeat]\ninterval_ms = 250\nstale_after_ms = 3000\ncheck_ms = 20\n";

/// Waits for so many more heartbeats.
fn beats(system: &System, count: u64) {
    let name = "krater_heartbeats_total";
    let goal = metric(system, name) + count;
    wait::for_condition("heartbeats", || metric(system, name) >= goal);
}

#[test]
fn a_new_amphora_on_an_old_system_has_the_whole_time_out() {
    let _alone = alone();
    let system = System::with(QUICK, &[]);
    let create = |name: &str| {
        let made = system.api.create_load_balancer(name);
        let id = text(&made["id"]);
        system.api.active(&id);
        id
    };
    let amphorae = |of: &str| -> Vec<String> {
        let list = system.api.amphorae(of);
        list.iter().map(|amphora| text(&amphora["id"])).collect()
    };
    create("old");
    // Two amphorae beat: the controller has run for longer than its time-out.
    beats(&system, 2 * 13);
    let new = create("new");
    let before = amphorae(&new);
    assert_eq!(before.len(), 2);
    beats(&system, 4 * 13);
    assert_eq!(amphorae(&new), before, "nobody is replaced");
    let flows = system.run(&["flows", "--all", "--json"]);
    assert!(flows.contains("CreateLoadBalancer"), "{flows}");
    assert!(!flows.contains("Failover"), "{flows}");

    // The negative control: one that really falls silent is replaced.
    Amphora::find(&system, &before[0]).kill_and_cut();
    wait::for_condition("a silent amphora is replaced", || {
        let now = amphorae(&new);
        now.len() == 2 && !now.contains(&before[0])
    });
    system.api.active(&new);
    let flows = system.run(&["flows", "--all", "--json"]);
    assert!(flows.contains("Failover"), "{flows}");
}
