//! What a machine is told beside adverts: that it is the next best, that a neighbour errs; and what it does not say twice.

use super::tests::{OTHER, PEER, at, heard, machine, outputs};
use super::*;
use serde_json::json;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn who_is_the_next_best_needs_no_skew() {
    let mut machine = machine("Backup", json!({"peers": [PEER, OTHER]}));
    let before = machine.poll_timeout();
    // Nobody has resigned, or another one.
    machine.handle(at(1_040), Event::NextBest(ip(PEER)));
    assert_eq!(machine.poll_timeout(), before);
    machine.handle(at(1_050), Event::Heard(heard(PEER, 0, at(1_050))));
    machine.handle(at(1_050), Event::NextBest(ip(OTHER)));
    assert!(machine.poll_timeout() > Some(at(1_100)));
    machine.handle(at(1_050), Event::NextBest(ip(PEER)));
    assert_eq!(machine.poll_timeout(), Some(at(1_050)));
    machine.handle(at(1_050), Event::Timeout);
    let all = outputs(&mut machine);
    assert_eq!(all.last().unwrap(), "Backup→Active: 192.0.2.1 resigned");
}

#[test]
fn a_neighbour_that_errs_is_told_at_once_and_not_too_often() {
    let changes = json!({"announce": {"repeat": 1, "delay": 0, "refresh": 0}});
    let mut machine = machine("Active", changes);
    let mut announced = Vec::new();
    for step in 1..=250 {
        let now = at(1_000 + 10 * step);
        machine.handle(now, Event::Timeout);
        machine.handle(now, Event::Misled);
        let all = outputs(&mut machine);
        announced.extend(all.iter().filter(|o| *o == "announce").map(|_| 10 * step));
    }
    assert_eq!(announced, [10, 1_010, 2_010]);
}

#[test]
fn a_flood_of_rivals_is_answered_once_a_millisecond() {
    let mut machine = machine("Active", json!({}));
    let mut adverts = 0;
    for micros in (0..100_000).step_by(10) {
        let now = Time::from_micros(1_010_000 + micros);
        let priority = if micros % 20 == 0 { 50 } else { 0 };
        machine.handle(now, Event::Heard(heard(PEER, priority, now)));
        let all = outputs(&mut machine);
        adverts += all.iter().filter(|output| *output == "send 90").count();
    }
    assert_eq!(adverts, 100);
    assert_eq!(machine.state(), RouterState::Active);
}

#[test]
fn another_list_of_addresses_is_told_when_it_becomes_another() {
    let mut machine = machine("Backup", json!({}));
    let mut told = Vec::new();
    for (step, same) in [true, false, false, true, false].into_iter().enumerate() {
        let now = at(1_050 + 10 * u32::try_from(step).unwrap());
        let mut advert = heard(PEER, 100, now);
        advert.same_addresses = same;
        machine.handle(now, Event::Heard(advert));
        told.push(outputs(&mut machine).len());
    }
    assert_eq!(told, [0, 1, 0, 0, 1]);
}
