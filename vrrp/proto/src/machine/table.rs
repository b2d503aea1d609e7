//! The state × event table, exhaustively: every state of the machine meets every event, with and without
//! preemption, and what comes out is compared with `cases/table.txt`, which is read by people beside RFC
//! 9568 section 6.4. After a change: `KRATER_UPDATE=1 cargo test -p krater-vrrp-proto table`, then read
//! the difference.

use super::tests::{OTHER, PEER, at, document, fault, heard, machine, outputs};
use super::*;
use crate::output::Fault;
use serde_json::json;
use std::fmt::Write;

/// Own priority 90 and address .2; the peers are .1 and .3.
const STATES: [&str; 8] = [
    "Initialize",
    "Fault",
    "Listening",
    "Backup",
    "Active",
    "Leaving",
    "Stalled",
    "Ready",
];

/// In the state at 1,000 ms; `Stalled` and `Leaving` are Active. `Ready` is a Backup of a sync group whose timer
/// fired at 1,365 ms.
fn in_state(state: &str, preempt: bool) -> Machine {
    let changes = json!({"preempt": preempt, "peers": [PEER, OTHER]});
    match state {
        "Leaving" => {
            let mut machine = machine("Active", changes);
            machine.handle(at(1_000), Event::HandOver(Span::ZERO));
            outputs(&mut machine);
            machine
        }
        "Stalled" => {
            let mut machine = machine("Active", changes);
            machine.handle(at(1_400), Event::Timeout);
            outputs(&mut machine);
            machine
        }
        "Ready" => {
            let changes = json!({"preempt": preempt, "peers": [PEER, OTHER], "sync_group": "g"});
            let mut machine = machine("Listening", changes);
            machine.handle(at(1_365), Event::Timeout);
            assert_eq!(outputs(&mut machine), [""; 0]);
            machine
        }
        other => machine(other, changes),
    }
}

fn events(state: &str, now: Time, preempt: bool) -> Vec<(&'static str, Event)> {
    let hears = |source, priority| Event::Heard(heard(source, priority, now));
    let configure = |mut changes: serde_json::Value| {
        let mut whole = json!({"preempt": preempt, "peers": [PEER, OTHER]});
        if state == "Ready" && changes.get("peers").is_none() {
            whole["sync_group"] = "g".into();
        }
        for (key, value) in whole.as_object().unwrap() {
            if changes.get(key).is_none() {
                changes[key] = value.clone();
            }
        }
        Event::Configure(document(changes))
    };
    vec![
        ("startup", Event::Startup),
        ("hears .1 resign", hears(PEER, 0)),
        ("hears .3 resign", hears(OTHER, 0)),
        ("hears .1 with 1", hears(PEER, 1)),
        ("hears .1 with 89", hears(PEER, 89)),
        ("hears .1 with 90", hears(PEER, 90)),
        ("hears .3 with 90", hears(OTHER, 90)),
        ("hears .1 with 91", hears(PEER, 91)),
        ("hears .1 with 255", hears(PEER, 255)),
        ("timeout", Event::Timeout),
        ("a fault", fault(Fault::DataplaneDead)),
        ("all is well", Event::Faults(Faults::NONE)),
        ("same configuration", configure(json!({}))),
        ("priority becomes 200", configure(json!({"priority": 200}))),
        ("an address more", {
            configure(json!({"addresses": ["192.0.2.100/32", "192.0.2.101/32"]}))
        }),
        ("no peers any more", configure(json!({"peers": []}))),
        ("the group takes over", Event::TakeOver),
        ("the group gives up", Event::GiveUp),
        ("the session with .1 died", dead(PEER)),
        ("the session with .3 died", dead(OTHER)),
        (
            "the session with .1 is up",
            Event::PeerAlive(PEER.parse().unwrap()),
        ),
        (
            "the network to .1 is split",
            Event::PeerCut(PEER.parse().unwrap()),
        ),
        (
            "nobody is better after .1",
            Event::NextBest(PEER.parse().unwrap()),
        ),
        ("a neighbour errs", Event::Misled),
        ("handover", Event::HandOver(Span::ZERO)),
        ("shutdown", Event::Shutdown),
    ]
}

/// Heard last when the Active was, and heartbeats of 30 ms.
fn dead(peer: &str) -> Event {
    Event::PeerDead {
        peer: peer.parse().unwrap(),
        spoke: at(1_000),
        silence: Span::from_millis(90),
        beat: Span::from_millis(30),
        sure: true,
    }
}

/// When the event happens.
fn now_of(state: &str) -> Time {
    match state {
        "Stalled" | "Ready" => at(1_450),
        _ => at(1_050),
    }
}

fn table() -> String {
    let mut table = String::from(
        "# state | event | preempt | outputs in order | state after | next timeout, ms later\n",
    );
    for state in STATES {
        let now = now_of(state);
        for index in 0..events(state, now, false).len() {
            let rows = [false, true].map(|preempt| {
                let (name, event) = events(state, now, preempt).swap_remove(index);
                let mut machine = in_state(state, preempt);
                machine.handle(now, event);
                let outputs = outputs(&mut machine).join(", ");
                let due = machine.poll_timeout().map_or_else(
                    || "none".to_owned(),
                    |due| {
                        format!(
                            "{}.{:03}",
                            (due - now).micros() / 1_000,
                            (due - now).micros() % 1_000
                        )
                    },
                );
                let after = machine.state();
                (name, format!("{outputs} | {after:?} | {due}"))
            });
            let [(name, without), (_, with)] = rows;
            if without == with {
                writeln!(table, "{state} | {name} | either | {without}").unwrap();
            } else {
                writeln!(table, "{state} | {name} | no | {without}").unwrap();
                writeln!(table, "{state} | {name} | yes | {with}").unwrap();
            }
        }
    }
    table
}

#[test]
fn every_state_meets_every_event() {
    let found = table();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/table.txt");
    if std::env::var_os("KRATER_UPDATE").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let wanted = std::fs::read_to_string(path).unwrap();
    for (found, wanted) in found.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted);
    }
    assert_eq!(found.lines().count(), wanted.lines().count());
    // Each state and each event is there.
    let pairs = STATES.len() * events("Backup", at(0), false).len();
    assert!(wanted.lines().count() > pairs, "{pairs} pairs at least");
}

/// Rules that hold in every row: they would catch a table that was updated without being read.
#[test]
fn rules_of_all_rows() {
    for state in STATES {
        let now = now_of(state);
        for preempt in [false, true] {
            for (name, event) in events(state, now, preempt) {
                let mut machine = in_state(state, preempt);
                let before = machine.state();
                machine.handle(now, event);
                let all = outputs(&mut machine);
                let after = machine.state();
                let row = format!("{state}, {name}, preempt {preempt}: {all:?}");
                let (was, is) = (before == RouterState::Active, after == RouterState::Active);
                let has = |start: &str| all.iter().any(|output| output.starts_with(start));
                assert_eq!(has("add 192.0.2.100"), !was && is, "{row}");
                assert_eq!(has("remove 192.0.2.100"), was && !is, "{row}");
                assert!(!has("announce") || is, "only the Active announces: {row}");
                let changed = all.iter().any(|output| output.contains('→'));
                assert_eq!(changed, before != after, "a change is reported: {row}");
                if !was && !is {
                    assert!(!has("send"), "only an Active speaks: {row}");
                }
                let broken = matches!(after, RouterState::Initialize | RouterState::Fault);
                // An Active without peers has nothing to wait for, and who is ready waits for its group.
                let ready = [Standing::Ready, Standing::Released];
                let waits = ready.contains(&machine.standing());
                let idle = broken || waits || (is && machine.router().is_alone());
                assert_eq!(machine.poll_timeout().is_none(), idle, "{row}");
            }
        }
    }
}
