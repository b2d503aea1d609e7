//! The state × event table, one row per combination, with the ordered effects.

use super::*;
use crate::output::{Belongings, Fault};
use krater_model::Centiseconds;
use serde_json::{Value, json};

const OWN: &str = "192.0.2.2";
pub(super) const PEER: &str = "192.0.2.1";
pub(super) const OTHER: &str = "192.0.2.3";

/// Own priority 90, interval 100 ms, one announcement.
pub(super) fn document(changes: Value) -> Arc<Router> {
    let mut document = json!({
        "vrid": 1, "interface": "eth1", "priority": 90, "advert_interval": 10,
        "source": OWN, "peers": [PEER], "addresses": ["192.0.2.100/32"],
        "announce": {"repeat": 1, "delay": 0, "refresh": 0},
    });
    for (key, value) in changes.as_object().unwrap() {
        document[key] = value.clone();
    }
    Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap())
}

pub(super) fn at(millis: u32) -> Time {
    Time::default() + Span::from_millis(millis)
}

pub(super) fn heard(source: &str, priority: u8, received: Time) -> Heard {
    Heard {
        source: source.parse().unwrap(),
        priority,
        interval: Centiseconds::new(10).unwrap(),
        received,
        same_addresses: true,
        checksum: crate::packet::ChecksumForm::Rfc9568,
    }
}

/// What came out, as short words.
pub(super) fn outputs(machine: &mut Machine) -> Vec<String> {
    std::iter::from_fn(|| machine.poll_output())
        .map(|output| match output {
            Output::SendAdvert { priority } => format!("send {priority}"),
            Output::Add(b) => format!("add{}", list(&b)),
            Output::Remove(b) => format!("remove{}", list(&b)),
            Output::Announce => "announce".into(),
            Output::StateChanged { old, new, reason } => format!("{old:?}→{new:?}: {reason}"),
            Output::Notice(notice) => format!("note: {notice}"),
        })
        .collect()
}

fn list(belongings: &Belongings) -> String {
    let texts = belongings
        .addresses
        .iter()
        .map(|net| format!(" {}", net.addr()));
    texts.collect()
}

pub(super) fn fault(fault: Fault) -> Event {
    Event::Faults(Faults::NONE.with(fault))
}

/// A machine in a named state at 1,000 ms, nothing pending; its last event was at 1,000 ms.
pub(super) fn machine(state: &str, changes: Value) -> Machine {
    let mut machine = Machine::new(document(changes), at(0));
    let start = at(1_000);
    match state {
        "Initialize" => {}
        "Fault" => {
            machine.handle(start, fault(Fault::Link));
            machine.handle(start, Event::Startup);
        }
        "Backup" => {
            machine.handle(start, Event::Startup);
            let priority = 100;
            machine.handle(start, Event::Heard(heard(PEER, priority, start)));
        }
        "Listening" => machine.handle(start, Event::Startup),
        "Active" => {
            machine.handle(at(635), Event::Startup);
            machine.handle(start, Event::Timeout);
        }
        other => panic!("{other}"),
    }
    outputs(&mut machine);
    machine
}

/// One row: state, event at 1,050 ms, effects, state after.
fn row(state: &str, changes: Value, event: Event, effects: &[&str], after: RouterState) {
    let mut machine = machine(state, changes);
    let text = format!("{state} × {event:?}");
    machine.handle(at(1_050), event);
    assert_eq!(outputs(&mut machine), effects, "{text}");
    assert_eq!(machine.state(), after, "{text}");
    // Nothing is left to do at the same moment, whatever it was.
    if machine.poll_timeout().is_none_or(|due| due > at(1_050)) {
        machine.handle(at(1_050), Event::Timeout);
        assert_eq!(
            outputs(&mut machine),
            [""; 0],
            "{text}, then a timeout too early"
        );
    }
}

fn hears(source: &str, priority: u8) -> Event {
    Event::Heard(heard(source, priority, at(1_050)))
}

#[test]
fn initialize() {
    use RouterState::{Active, Backup, Fault as Faulty, Initialize};
    let row = |changes, event, effects: &[&str], after| {
        row("Initialize", changes, event, effects, after);
    };
    row(
        json!({}),
        Event::Startup,
        &["Initialize→Backup: listening for an Active"],
        Backup,
    );
    row(
        json!({"peers": []}),
        Event::Startup,
        &[
            "add 192.0.2.100",
            "announce",
            "Initialize→Active: no peers configured",
        ],
        Active,
    );
    for priority in [0, 1, 90, 255] {
        row(json!({}), hears(PEER, priority), &[], Initialize);
    }
    row(json!({}), Event::Timeout, &[], Initialize);
    row(json!({}), Event::Shutdown, &[], Initialize);
    row(json!({}), fault(Fault::Link), &[], Initialize);
    row(
        json!({}),
        Event::Configure(document(json!({"priority": 7}))),
        &[],
        Initialize,
    );
    // Started while something is broken.
    let mut machine = machine("Initialize", json!({}));
    machine.handle(at(1_000), fault(Fault::DataplaneAbsent));
    machine.handle(at(1_000), Event::Startup);
    assert_eq!(
        outputs(&mut machine),
        ["Initialize→Fault: no data plane to watch yet"]
    );
    assert_eq!(machine.state(), Faulty);
}

#[test]
fn fault_row() {
    use RouterState::{Active, Backup, Fault as Faulty, Initialize};
    let row = |changes, event, effects: &[&str], after| {
        row("Fault", changes, event, effects, after);
    };
    let cleared = || Event::Faults(Faults::NONE);
    row(
        json!({}),
        cleared(),
        &["Fault→Backup: listening for an Active"],
        Backup,
    );
    row(
        json!({"peers": []}),
        cleared(),
        &[
            "add 192.0.2.100",
            "announce",
            "Fault→Active: no peers configured",
        ],
        Active,
    );
    // Another fault instead is still a fault.
    row(json!({}), fault(Fault::DataplaneDead), &[], Faulty);
    for priority in [0, 1, 90, 255] {
        row(json!({}), hears(PEER, priority), &[], Faulty);
    }
    row(json!({}), Event::Timeout, &[], Faulty);
    row(json!({}), Event::Startup, &[], Faulty);
    row(
        json!({}),
        Event::Configure(document(json!({"peers": []}))),
        &[],
        Faulty,
    );
    row(
        json!({}),
        Event::Shutdown,
        &["Fault→Initialize: shutdown"],
        Initialize,
    );
}

#[test]
fn backup_row() {
    use RouterState::{Active, Backup, Fault as Faulty, Initialize};
    let row = |changes, event, effects: &[&str], after| {
        row("Backup", changes, event, effects, after);
    };
    row(json!({}), Event::Startup, &[], Backup);
    row(json!({}), Event::Timeout, &[], Backup);
    // Without preemption every advert keeps it Backup.
    for priority in [1, 89, 90, 91, 255] {
        row(json!({}), hears(PEER, priority), &[], Backup);
    }
    row(json!({}), hears(PEER, 0), &[], Backup);
    row(
        json!({}),
        Event::Shutdown,
        &["Backup→Initialize: shutdown"],
        Initialize,
    );
    row(
        json!({}),
        fault(Fault::DataplaneFrozen),
        &["Backup→Fault: data plane makes no progress"],
        Faulty,
    );
    row(json!({}), Event::Faults(Faults::NONE), &[], Backup);
    row(
        json!({}),
        Event::Configure(document(json!({"priority": 200}))),
        &[],
        Backup,
    );
    let alone = Event::Configure(document(json!({"peers": []})));
    let effects = [
        "add 192.0.2.100",
        "announce",
        "Backup→Active: no peers configured",
    ];
    row(json!({}), alone, &effects, Active);
    let more = json!({"addresses": ["192.0.2.100/32", "192.0.2.101/32"]});
    row(json!({}), Event::Configure(document(more)), &[], Backup);
    let mut slower = heard(PEER, 100, at(1_050));
    slower.interval = Centiseconds::new(50).unwrap();
    let note = ["note: 192.0.2.1 advertises every 500 ms: adopted"];
    row(json!({}), Event::Heard(slower), &note, Backup);
    // Another Active with another list; the one that is followed is not reported again.
    let mut differs = heard(OTHER, 100, at(1_050));
    differs.same_addresses = false;
    let note = ["note: 192.0.2.3 advertises other addresses than ours"];
    row(
        json!({"peers": [PEER, OTHER]}),
        Event::Heard(differs),
        &note,
        Backup,
    );
}

#[test]
fn active_row() {
    use RouterState::{Active, Backup, Fault as Faulty, Initialize};
    let row = |changes, event, effects: &[&str], after| {
        row("Active", changes, event, effects, after);
    };
    row(json!({}), Event::Startup, &[], Active);
    row(json!({}), Event::Faults(Faults::NONE), &[], Active);
    row(json!({}), hears(PEER, 0), &["send 90", "announce"], Active);
    let rival =
        |priority| format!("note: 192.0.2.1 is Active too, with losing priority {priority}");
    for priority in [1, 89, 90] {
        // Equal priority: the greater address wins, and ours is.
        row(
            json!({}),
            hears(PEER, priority),
            &[&rival(priority), "send 90", "announce"],
            Active,
        );
    }
    for (source, priority) in [(PEER, 91), (PEER, 255), (OTHER, 90)] {
        let text = format!("Active→Backup: {source} is Active with priority {priority}");
        let effects = ["remove 192.0.2.100", "send 90", &text];
        let peers = json!({"peers": [PEER, OTHER]});
        row(peers, hears(source, priority), &effects, Backup);
    }
    // Make before break: it serves on until a successor was heard.
    row(json!({}), Event::Shutdown, &["send 0"], Active);
    row(json!({}), Event::HandOver(Span::ZERO), &["send 0"], Active);
    row(
        json!({"peers": []}),
        Event::Shutdown,
        &["remove 192.0.2.100", "Active→Initialize: shutdown"],
        Initialize,
    );
    row(
        json!({}),
        fault(Fault::DataplaneNotReady),
        &[
            "send 0",
            "remove 192.0.2.100",
            "Active→Fault: data plane not ready",
        ],
        Faulty,
    );
    let configure = |changes| Event::Configure(document(changes));
    row(json!({}), configure(json!({})), &[], Active);
    row(
        json!({}),
        configure(json!({"priority": 33})),
        &["send 33"],
        Active,
    );
    row(
        json!({}),
        configure(json!({"advert_interval": 1})),
        &["send 90"],
        Active,
    );
    row(json!({}), configure(json!({"preempt": true})), &[], Active);
    row(json!({}), configure(json!({"peers": []})), &[], Active);
    row(
        json!({}),
        configure(json!({"addresses": ["192.0.2.101/32", "192.0.2.100/32"]})),
        &["add 192.0.2.101", "send 90", "announce"],
        Active,
    );
    row(
        json!({}),
        configure(json!({"addresses": ["192.0.2.101/32"]})),
        &[
            "remove 192.0.2.100",
            "add 192.0.2.101",
            "send 90",
            "announce",
        ],
        Active,
    );
    row(
        json!({}),
        configure(json!({"excluded_addresses": ["2001:db8::100/128"]})),
        &["add 2001:db8::100", "announce"],
        Active,
    );
}

#[test]
fn silence_makes_an_active() {
    let mut machine = machine("Backup", json!({}));
    // 3 × 100 ms + (256 - 90) / 256 × 100 ms
    let due = Time::from_micros(1_000_000 + 364_843);
    assert_eq!(machine.poll_timeout(), Some(due));
    machine.handle(Time::from_micros(due.micros() - 1), Event::Timeout);
    assert_eq!(machine.state(), RouterState::Backup);
    machine.handle(due, Event::Timeout);
    let effects = [
        "send 90",
        "add 192.0.2.100",
        "announce",
        "Backup→Active: no advertisement for 364 ms",
    ];
    assert_eq!(outputs(&mut machine), effects);
    assert_eq!(machine.transitions(), 1);
}

#[test]
fn an_advert_counts_from_when_it_was_received() {
    let mut machine = machine("Backup", json!({}));
    machine.handle(at(1_090), Event::Heard(heard(PEER, 100, at(1_040))));
    assert_eq!(
        machine.poll_timeout(),
        Some(Time::from_micros(1_040_000 + 364_843))
    );
    // One that was overtaken does not bring the deadline forward.
    machine.handle(at(1_091), Event::Heard(heard(PEER, 100, at(1_010))));
    assert_eq!(
        machine.poll_timeout(),
        Some(Time::from_micros(1_040_000 + 364_843))
    );
}

#[test]
fn a_resignation_of_the_only_peer_needs_no_skew() {
    let mut machine = machine("Backup", json!({}));
    machine.handle(at(1_050), hears(PEER, 0));
    assert_eq!(machine.poll_timeout(), Some(at(1_050)));
    machine.handle(at(1_050), Event::Timeout);
    let all = outputs(&mut machine);
    assert_eq!(all.last().unwrap(), "Backup→Active: 192.0.2.1 resigned");
}

#[test]
fn with_several_peers_a_resignation_waits_for_the_skew() {
    let peers = json!({"peers": [PEER, OTHER]});
    let mut first = machine("Backup", peers.clone());
    first.handle(at(1_050), hears(PEER, 0));
    let skew = 64_843;
    assert_eq!(
        first.poll_timeout(),
        Some(Time::from_micros(1_050_000 + skew))
    );
    // A second resignation does not prolong it; the next Active's advert does.
    first.handle(at(1_060), Event::Heard(heard(PEER, 0, at(1_060))));
    assert_eq!(
        first.poll_timeout(),
        Some(Time::from_micros(1_050_000 + skew))
    );
    first.handle(at(1_070), Event::Heard(heard(OTHER, 80, at(1_070))));
    assert_eq!(
        first.poll_timeout(),
        Some(Time::from_micros(1_070_000 + 364_843))
    );
    // Of another than the Active it means nothing.
    let mut second = machine("Backup", peers);
    let before = second.poll_timeout();
    second.handle(at(1_050), hears(OTHER, 0));
    assert_eq!(second.poll_timeout(), before);
}

#[test]
fn a_learned_interval_is_told_once_and_counts() {
    let mut machine = machine("Backup", json!({"peers": [PEER, OTHER]}));
    let slow = |priority, received| {
        let mut heard = heard(PEER, priority, received);
        heard.interval = Centiseconds::new(50).unwrap();
        Event::Heard(heard)
    };
    machine.handle(at(1_050), slow(100, at(1_050)));
    let note = ["note: 192.0.2.1 advertises every 500 ms: adopted"];
    assert_eq!(outputs(&mut machine), note);
    machine.handle(at(1_550), slow(100, at(1_550)));
    assert_eq!(outputs(&mut machine), [""; 0]);
    // 3 × 500 ms + (256 - 90) / 256 × 500 ms, and after a resignation the latter alone.
    let due = Time::from_micros(1_550_000 + 1_824_218);
    assert_eq!(machine.poll_timeout(), Some(due));
    machine.handle(at(1_600), slow(0, at(1_600)));
    let due = Time::from_micros(1_600_000 + 324_218);
    assert_eq!(machine.poll_timeout(), Some(due));
}

#[test]
fn preemption_lets_the_timer_run() {
    for (preempt, extended) in [(true, false), (false, true)] {
        let mut machine = machine("Listening", json!({"preempt": preempt}));
        let before = machine.poll_timeout();
        machine.handle(at(1_050), hears(PEER, 89));
        assert_eq!(
            machine.poll_timeout() != before,
            extended,
            "preempt {preempt}"
        );
        // An equal priority is never preempted, whatever the addresses are.
        machine.handle(at(1_060), Event::Heard(heard(PEER, 90, at(1_060))));
        assert_ne!(machine.poll_timeout(), before);
    }
}

#[test]
fn the_advert_schedule_is_absolute_and_skips_missed_slots() {
    let mut machine = machine(
        "Active",
        json!({"announce": {"repeat": 0, "delay": 0, "refresh": 0}}),
    );
    assert_eq!(machine.poll_timeout(), Some(at(1_100)));
    machine.handle(at(1_103), Event::Timeout);
    assert_eq!(outputs(&mut machine), ["send 90"]);
    assert_eq!(machine.poll_timeout(), Some(at(1_200)), "not 1,203");
    machine.handle(at(1_390), Event::Timeout);
    assert_eq!(outputs(&mut machine), ["send 90"], "once");
    assert_eq!(machine.poll_timeout(), Some(at(1_400)));
}

#[test]
fn announcements_follow_the_takeover() {
    let announce = json!({"repeat": 3, "delay": 1_000, "refresh": 5_000});
    let mut machine = machine("Active", json!({"announce": announce}));
    let mut times = Vec::new();
    while let Some(due) = machine.poll_timeout().filter(|due| *due < at(7_000)) {
        machine.handle(due, Event::Timeout);
        let frames = outputs(&mut machine)
            .iter()
            .filter(|o| *o == "announce")
            .count();
        times.extend(std::iter::repeat_n(due.micros() / 1_000, frames));
    }
    // The first was at 1,000 with the takeover itself.
    assert_eq!(times, [1_010, 1_020, 2_000, 2_010, 2_020, 6_000]);
}

#[test]
fn an_active_that_stood_still_listens_first() {
    // It slept for half a second; the peer is Active meanwhile with a losing priority.
    for event in [Event::Timeout, Event::Heard(heard(PEER, 50, at(1_500)))] {
        let mut machine = machine("Active", json!({}));
        let is_timeout = matches!(event, Event::Timeout);
        machine.handle(at(1_500), event);
        let all = outputs(&mut machine);
        assert_eq!(all[0], "note: woke up 500 ms late: listening first");
        if is_timeout {
            assert_eq!(all.len(), 1, "neither advert nor announcement: {all:?}");
            assert_eq!(machine.state(), RouterState::Active);
            machine.handle(at(1_550), Event::Heard(heard(PEER, 50, at(1_550))));
            let effects = [
                "remove 192.0.2.100",
                "send 0",
                "Active→Backup: 192.0.2.1 became Active while we stood still for 500 ms",
            ];
            assert_eq!(outputs(&mut machine), effects);
        }
        assert_eq!(machine.state(), RouterState::Backup);
    }
}

#[test]
fn with_a_liveness_session_peers_take_over_sooner_and_so_is_a_stall() {
    let lively = json!({"liveness": {"interval": 30, "key": "0123456789abcdef"}});
    for (changes, silence, listens) in [
        (json!({}), 200, false),
        (json!({}), 301, true),
        (lively.clone(), 190, false),
        (lively, 191, true),
    ] {
        let mut machine = machine("Active", changes);
        machine.handle(at(1_000 + silence), Event::Timeout);
        let stalled = outputs(&mut machine)
            .iter()
            .any(|text| text.contains("late"));
        assert_eq!(stalled, listens, "{silence}");
    }
}

#[test]
fn an_active_that_stood_still_alone_goes_on() {
    let mut machine = machine("Active", json!({}));
    machine.handle(at(1_500), Event::Timeout);
    outputs(&mut machine);
    // One interval and the skew.
    assert_eq!(machine.poll_timeout(), Some(Time::from_micros(1_664_843)));
    machine.handle(at(1_600), Event::Timeout);
    assert_eq!(outputs(&mut machine), [""; 0]);
    machine.handle(Time::from_micros(1_664_843), Event::Timeout);
    assert_eq!(outputs(&mut machine), ["send 90", "announce"]);
    assert_eq!(machine.state(), RouterState::Active);
    assert_eq!(machine.transitions(), 1);
}

#[test]
fn a_preempting_active_that_stood_still_takes_it_back() {
    let mut machine = machine("Active", json!({"preempt": true}));
    machine.handle(at(1_500), Event::Timeout);
    machine.handle(at(1_550), Event::Heard(heard(PEER, 50, at(1_550))));
    assert_eq!(machine.state(), RouterState::Active);
    assert!(outputs(&mut machine).contains(&"send 90".to_owned()));
}

#[test]
fn alone_nothing_is_a_stall() {
    let mut machine = machine("Active", json!({"peers": []}));
    machine.handle(at(900_000), Event::Timeout);
    let all = outputs(&mut machine);
    assert!(all.iter().all(|output| output == "announce"), "{all:?}");
}

#[test]
fn a_backup_that_woke_late_listens_but_not_for_ever() {
    let mut machine = machine("Backup", json!({}));
    for _ in 0..MAX_RELISTENS {
        let late = machine.poll_timeout().unwrap() + Span::from_millis(101);
        machine.handle(late, Event::Timeout);
        let all = outputs(&mut machine);
        assert_eq!(all, ["note: woke up 101 ms late: listening first"]);
        assert_eq!(
            machine.poll_timeout(),
            Some(late + Span::from_micros(164_843))
        );
    }
    let late = machine.poll_timeout().unwrap() + Span::from_millis(101);
    machine.handle(late, Event::Timeout);
    assert_eq!(machine.state(), RouterState::Active);
}

/// At 10 ms between adverts, and at 100 ms: how late one may be before it listens first.
#[test]
fn a_hiccup_is_no_stall_however_short_the_interval() {
    for (centiseconds, active, backup) in [(1, 40, 30), (2, 60, 30), (10, 300, 100)] {
        let changes = json!({"advert_interval": centiseconds});
        for more in [0, 1] {
            let more = Span::from_micros(more);
            let mut machine = Machine::new(document(changes.clone()), at(0));
            machine.handle(at(0), Event::Startup);
            let took_over = machine.poll_timeout().unwrap();
            machine.handle(took_over, Event::Timeout);
            outputs(&mut machine);
            let silent = took_over + Span::from_millis(active) + more;
            machine.handle(silent, Event::Timeout);
            let spoke = outputs(&mut machine).contains(&"send 90".to_owned());
            assert_eq!(spoke, more == Span::ZERO, "Active, {centiseconds} cs");

            let mut machine = Machine::new(document(changes.clone()), at(0));
            machine.handle(at(0), Event::Startup);
            let due = machine.poll_timeout().unwrap();
            let woke = due + Span::from_millis(backup) + more;
            machine.handle(woke, Event::Timeout);
            let took_over = machine.state() == RouterState::Active;
            assert_eq!(took_over, more == Span::ZERO, "Backup, {centiseconds} cs");
            if !took_over {
                // It listens for as long as the Active's own hiccup may last.
                let listens = machine.poll_timeout().unwrap() - woke;
                assert!(listens > MIN_STALL, "{listens}");
            }
        }
    }
}

#[test]
fn split_brain_is_announced_once_a_second() {
    let mut machine = machine(
        "Active",
        json!({"announce": {"repeat": 1, "delay": 0, "refresh": 0}}),
    );
    let mut announced = Vec::new();
    let mut adverts = 0;
    for step in 1..=300 {
        let now = at(1_000 + 10 * step);
        machine.handle(now, Event::Timeout);
        machine.handle(now, Event::Heard(heard(PEER, 50, now)));
        for output in outputs(&mut machine) {
            adverts += u32::from(output == "send 90");
            if output == "announce" {
                announced.push(10 * step);
            }
        }
    }
    assert_eq!(announced, [10, 1_010, 2_010]);
    assert_eq!(adverts, 300, "one answer to each, no more");
}

#[test]
fn how_long_a_rival_was_there_is_told_once_it_is_gone() {
    let gone = |text: &str| text.contains("is not Active any more");
    let mut machine = machine("Active", json!({}));
    for millis in [1_020, 1_120, 1_220] {
        let now = at(millis);
        machine.handle(now, Event::Heard(heard(PEER, 50, now)));
        assert!(!outputs(&mut machine).iter().any(|text| gone(text)));
    }
    let all = run_until(&mut machine, at(9_000));
    let told: Vec<_> = all.iter().filter(|(_, text)| gone(text)).collect();
    let [(when, text)] = told[..] else {
        panic!("{told:?}");
    };
    assert!(text.ends_with("it was heard for 200 ms"), "{text}");
    // The first advert of ours more than three intervals later.
    assert_eq!(*when, 1_620);
    // One that resigns is gone at once.
    let now = at(9_050);
    machine.handle(now, Event::Heard(heard(PEER, 50, now)));
    let now = at(9_090);
    machine.handle(now, Event::Heard(heard(PEER, 0, now)));
    let told = outputs(&mut machine);
    assert!(
        told.iter().any(|text| text.ends_with("for 40 ms")),
        "{told:?}"
    );
}

#[test]
fn a_faster_configuration_is_no_silence() {
    let mut machine = machine("Listening", json!({"advert_interval": 1_000}));
    let now = at(3_000);
    machine.handle(
        now,
        Event::Configure(document(json!({"advert_interval": 1}))),
    );
    assert_eq!(machine.poll_timeout(), Some(now + Span::from_millis(10)));
    assert_eq!(machine.state(), RouterState::Backup);
}

#[test]
fn restart_after_shutdown_and_after_fault() {
    let mut machine = machine("Active", json!({}));
    machine.handle(at(1_050), Event::Shutdown);
    machine.handle(at(1_050), Event::Shutdown);
    assert_eq!(machine.poll_timeout(), None);
    machine.handle(at(1_060), Event::Startup);
    assert_eq!(machine.state(), RouterState::Backup);
    machine.handle(at(1_070), fault(Fault::Link));
    machine.handle(at(1_080), Event::Faults(Faults::NONE));
    assert_eq!(machine.state(), RouterState::Backup);
    assert_eq!(
        machine.poll_timeout(),
        Some(Time::from_micros(1_080_000 + 364_843))
    );
    assert_eq!(machine.transitions(), 2);
}

/// Runs all timers until `end`; answers outputs with their milliseconds.
fn run_until(machine: &mut Machine, end: Time) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    while let Some(due) = machine.poll_timeout().filter(|due| *due <= end) {
        machine.handle(due, Event::Timeout);
        let at = due.micros() / 1_000;
        all.extend(outputs(machine).into_iter().map(|output| (at, output)));
    }
    all
}

#[test]
fn a_stop_serves_until_the_successor_was_heard() {
    let mut machine = machine("Active", json!({}));
    machine.handle(at(1_050), Event::Shutdown);
    assert_eq!(outputs(&mut machine), ["send 0"]);
    // Repeated, in case it was lost; no announcement, no advert.
    let all = run_until(&mut machine, at(1_079));
    assert_eq!(all, [(1_052, "send 0".into())]);
    machine.handle(at(1_080), Event::Heard(heard(PEER, 80, at(1_080))));
    machine.handle(at(1_090), Event::Heard(heard(PEER, 80, at(1_090))));
    assert_eq!(outputs(&mut machine), [""; 0]);
    let all = run_until(&mut machine, at(9_000));
    let effects = [
        "remove 192.0.2.100",
        "send 0",
        "Active→Initialize: shutdown",
    ];
    assert_eq!(all, effects.map(|text| (1_100, text.to_owned())));
}

#[test]
fn a_stop_without_a_successor_ends_after_the_longest_skew() {
    let mut machine = machine("Active", json!({}));
    machine.handle(at(1_050), Event::Shutdown);
    outputs(&mut machine);
    let all = run_until(&mut machine, at(9_000));
    let last: Vec<&str> = all.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        last[last.len() - 2..],
        ["remove 192.0.2.100", "Active→Initialize: shutdown"]
    );
    let two_rounds = "of an interval and the time that a peer may be late, and the linger";
    assert_eq!(all.last().unwrap().0, 1_310, "{two_rounds}");
}

/// keepalived begins its Skew_Time anew at each resignation, as RFC 9568 section 6.4.2 says.
#[test]
fn resignations_leave_any_peer_time_for_its_skew() {
    for (changes, longest) in [
        (json!({}), 100),
        (json!({"advert_interval": 1}), 10),
        (json!({"advert_interval": 100, "version": 2}), 1_000),
    ] {
        let mut machine = Machine::new(document(changes), at(0));
        machine.handle(at(0), Event::Startup);
        run_until(&mut machine, at(5_000));
        machine.handle(at(5_000), Event::HandOver(Span::ZERO));
        assert_eq!(outputs(&mut machine), ["send 0"]);
        let all = run_until(&mut machine, at(9_000));
        let resigned = all.iter().filter(|(_, text)| text == "send 0");
        let times: Vec<u64> = [5_000].into_iter().chain(resigned.map(|r| r.0)).collect();
        assert_eq!(times[1], 5_002, "one packet may be lost");
        assert!(times.len() > 2, "both packets may be lost");
        for pair in times[1..].windows(2) {
            assert!(pair[1] - pair[0] > longest, "{times:?}");
        }
    }
}

#[test]
fn a_handover_ends_as_backup_and_is_not_undone_by_preemption() {
    let mut machine = machine("Active", json!({"preempt": true}));
    machine.handle(at(1_050), Event::HandOver(Span::from_millis(5_000)));
    assert_eq!(outputs(&mut machine), ["send 0"]);
    // Asked again: it is under way.
    machine.handle(at(1_051), Event::HandOver(Span::from_millis(5_000)));
    machine.handle(at(1_060), Event::Heard(heard(PEER, 80, at(1_060))));
    assert_eq!(outputs(&mut machine), [""; 0]);
    let all = run_until(&mut machine, at(1_080));
    let effects = [
        "remove 192.0.2.100",
        "send 0",
        "Active→Backup: handed over to 192.0.2.1 in 30 ms",
    ];
    assert_eq!(all, effects.map(|text| (1_080, text.to_owned())));
    // The better priority lets the successor be for five seconds.
    let mut now = 1_100;
    while machine.state() == RouterState::Backup {
        machine.handle(at(now), Event::Heard(heard(PEER, 80, at(now))));
        now += 100;
        run_until(&mut machine, at(now));
        assert!(now < 9_000);
    }
    assert!(now > 6_080, "{now}");
}

#[test]
fn a_handover_without_a_successor_stays_active_and_says_so() {
    let mut machine = machine("Active", json!({}));
    machine.handle(at(1_050), Event::HandOver(Span::ZERO));
    outputs(&mut machine);
    let all = run_until(&mut machine, at(1_310));
    let last: Vec<&str> = all.iter().map(|(_, text)| text.as_str()).collect();
    let effects = [
        "note: no peer took over within 260 ms: staying Active",
        "send 90",
        "announce",
    ];
    assert_eq!(last[last.len() - 3..], effects);
    assert_eq!(machine.state(), RouterState::Active);
    assert_eq!(machine.transitions(), 1);
    // A fault meanwhile is a fault, at once.
    machine.handle(at(1_300), Event::HandOver(Span::ZERO));
    machine.handle(at(1_301), fault(Fault::DataplaneDead));
    assert_eq!(machine.state(), RouterState::Fault);
    // And a stop meanwhile is a stop.
    let mut machine = self::machine("Active", json!({}));
    machine.handle(at(1_050), Event::HandOver(Span::ZERO));
    machine.handle(at(1_060), Event::Shutdown);
    run_until(&mut machine, at(9_000));
    assert_eq!(machine.state(), RouterState::Initialize);
}

/// An advert that the resignation overtook must not make the successor give way to one who leaves.
#[test]
fn a_straggler_of_the_predecessor_is_ignored() {
    for (after, gives_way) in [(0, false), (19, false), (20, true)] {
        let mut machine = machine("Backup", json!({}));
        machine.handle(at(1_050), hears(PEER, 0));
        machine.handle(at(1_050), Event::Timeout);
        assert_eq!(machine.state(), RouterState::Active);
        let now = at(1_050 + after);
        machine.handle(now, Event::Heard(heard(PEER, 100, now)));
        assert_eq!(
            machine.state() == RouterState::Backup,
            gives_way,
            "{after} ms"
        );
    }
    // Of somebody else it counts at once.
    let mut machine = machine("Backup", json!({"peers": [PEER, OTHER]}));
    machine.handle(at(1_050), hears(PEER, 0));
    let due = machine.poll_timeout().unwrap();
    machine.handle(due, Event::Timeout);
    machine.handle(due, Event::Heard(heard(OTHER, 100, due)));
    assert_eq!(machine.state(), RouterState::Backup);
}

fn dead(peer: &str, spoke: u32, beat: u32) -> Event {
    Event::PeerDead {
        peer: peer.parse().unwrap(),
        spoke: at(spoke),
        silence: Span::from_millis(3 * beat),
        beat: Span::from_millis(beat),
        sure: true,
    }
}

/// The same by another network alone.
fn unsure(event: Event) -> Event {
    match event {
        Event::PeerDead {
            peer,
            spoke,
            silence,
            beat,
            ..
        } => Event::PeerDead {
            peer,
            spoke,
            silence,
            beat,
            sure: false,
        },
        other => other,
    }
}

#[test]
fn a_dead_session_shortens_the_wait_for_an_overdue_advert() {
    let mut machine = machine("Backup", json!({}));
    // The last advert came at 1,000 ms: the next one, due at 1,100 ms, is a heartbeat late at 1,130 ms.
    machine.handle(at(1_080), dead(PEER, 990, 30));
    let all = run_until(&mut machine, at(1_200));
    let reason = "Backup→Active: 192.0.2.1 is dead: no heartbeat, and no advertisement for 130 ms";
    let takeover = all.iter().find(|(_, text)| text == reason);
    assert_eq!(takeover.unwrap().0, 1_130);
}

#[test]
fn an_advert_speaks_against_the_death_of_a_session() {
    // It came since.
    let mut one = machine("Backup", json!({}));
    one.handle(at(1_080), dead(PEER, 900, 30));
    assert_eq!(one.poll_timeout(), Some(at(1_364) + Span::from_micros(843)));
    // It comes after the verdict and before it is overdue.
    let mut two = machine("Backup", json!({}));
    two.handle(at(1_080), dead(PEER, 990, 30));
    two.handle(at(1_100), Event::Heard(heard(PEER, 100, at(1_100))));
    assert_eq!(two.poll_timeout(), Some(at(1_464) + Span::from_micros(843)));
    // It was only late.
    let mut late = machine("Backup", json!({}));
    late.handle(at(1_080), dead(PEER, 990, 30));
    late.handle(at(1_081), Event::PeerAlive(OTHER.parse().unwrap()));
    assert_eq!(late.poll_timeout(), Some(at(1_130)));
    late.handle(at(1_081), Event::PeerAlive(PEER.parse().unwrap()));
    assert_eq!(
        late.poll_timeout(),
        Some(at(1_364) + Span::from_micros(843))
    );
    // It is another one's session.
    let mut three = machine("Backup", json!({"peers": [PEER, OTHER]}));
    three.handle(at(1_080), dead(OTHER, 990, 30));
    assert_eq!(
        three.poll_timeout(),
        Some(at(1_364) + Span::from_micros(843))
    );
}

#[test]
fn adverts_that_are_rare_are_not_waited_for_and_of_several_the_best_is_first() {
    let slow = json!({"advert_interval": 100});
    let mut machine = Machine::new(document(slow), at(0));
    machine.handle(at(0), Event::Startup);
    let mut advert = heard(PEER, 100, at(1_000));
    advert.interval = Centiseconds::new(100).unwrap();
    machine.handle(at(1_000), Event::Heard(advert));
    let before = machine.poll_timeout();
    // Another network alone is no proof, however rare adverts are: one must be overdue.
    machine.handle(at(1_200), unsure(dead(PEER, 1_110, 30)));
    assert_eq!(machine.poll_timeout(), Some(at(2_030)));
    machine.handle(at(1_200), Event::PeerAlive(PEER.parse().unwrap()));
    assert_eq!(machine.poll_timeout(), before);
    machine.handle(at(1_200), dead(PEER, 1_110, 30));
    assert_eq!(machine.poll_timeout(), Some(at(1_200)));
    let due = |priority: u8| {
        let peers = json!({"peers": [PEER, OTHER], "priority": priority});
        let mut machine = self::machine("Backup", peers);
        machine.handle(at(1_080), dead(PEER, 990, 30));
        machine.poll_timeout().unwrap()
    };
    assert!(at(1_130) < due(90) && due(90) < due(80) && due(80) < at(1_160));
}

#[test]
fn a_split_network_is_told_from_death_and_waits_the_protocols_own_time() {
    let down = Some(at(1_364) + Span::from_micros(843));
    let peer: IpAddr = PEER.parse().unwrap();
    let mut machine = machine("Backup", json!({}));
    machine.handle(at(1_080), dead(PEER, 990, 30));
    assert_eq!(machine.poll_timeout(), Some(at(1_130)));
    machine.handle(at(1_090), Event::PeerCut(peer));
    assert_eq!(machine.poll_timeout(), down);
    let all = run_until(&mut machine, at(1_400));
    let text = "Backup→Active: no advertisement for 364 ms of 192.0.2.1, which lives: the network between is split";
    assert!(all.iter().any(|(_, said)| said == text), "{all:?}");
    // An advert, or a heartbeat, ends it: the next silence is silence.
    for ends in [
        Event::Heard(heard(PEER, 100, at(1_100))),
        Event::PeerAlive(peer),
    ] {
        let mut machine = self::machine("Backup", json!({}));
        machine.handle(at(1_090), Event::PeerCut(peer));
        machine.handle(at(1_100), ends);
        let all = run_until(&mut machine, at(1_500));
        let split = |(_, said): &(u64, String)| said.contains("which lives");
        assert!(!all.iter().any(split), "{all:?}");
    }
}

#[test]
fn who_is_not_backup_does_not_care_for_sessions() {
    for state in ["Initialize", "Fault", "Active"] {
        let mut machine = machine(state, json!({}));
        let before = machine.state();
        machine.handle(at(1_050), dead(PEER, 990, 30));
        assert_eq!(outputs(&mut machine), [""; 0]);
        assert_eq!(machine.state(), before);
    }
}
