//! A session against a peer that is another session, or what a test makes of one.

use super::*;

const BEAT: Span = Span::from_millis(30);

fn at(millis: u32) -> Time {
    Time::from_micros(1_000_000) + Span::from_millis(millis)
}

/// Two sessions, each of whose heartbeats the other one gets at once unless the direction is cut.
struct Both {
    a: Session,
    b: Session,
    a_to_b: bool,
    b_to_a: bool,
    /// Whether b still runs.
    b_runs: bool,
    changes: Vec<(u32, char, Change)>,
}

impl Both {
    fn new() -> Self {
        Self {
            a: Session::new(BEAT, 11, at(0)),
            b: Session::new(BEAT, 22, at(7)),
            a_to_b: true,
            b_to_a: true,
            b_runs: true,
            changes: Vec::new(),
        }
    }

    fn run(&mut self, from: u32, until: u32) {
        for millis in from..until {
            let now = at(millis);
            if now >= self.a.poll_timeout() {
                let (beat, change) = self.a.timeout(now);
                self.note(millis, 'a', change);
                if let Some(beat) = beat.filter(|_| self.a_to_b && self.b_runs) {
                    let change = self.b.heard(&beat, now);
                    self.note(millis, 'b', change);
                }
            }
            if self.b_runs && now >= self.b.poll_timeout() {
                let (beat, change) = self.b.timeout(now);
                self.note(millis, 'b', change);
                if let Some(beat) = beat.filter(|_| self.b_to_a) {
                    let change = self.a.heard(&beat, now);
                    self.note(millis, 'a', change);
                }
            }
        }
    }

    fn note(&mut self, millis: u32, who: char, change: Option<Change>) {
        self.changes
            .extend(change.map(|change| (millis, who, change)));
    }

    fn alive() -> Self {
        let mut both = Self::new();
        both.run(0, 500);
        assert_eq!(
            both.changes,
            [(7, 'a', Change::Alive), (30, 'b', Change::Alive)]
        );
        both.changes.clear();
        both
    }
}

#[test]
fn a_dead_peer_is_noticed_after_three_heartbeats() {
    let mut both = Both::alive();
    both.b_runs = false;
    both.run(500, 2_000);
    let dead = Change::Dead {
        spoke: at(487),
        silence: Span::from_millis(90),
        beat: BEAT,
    };
    assert_eq!(both.changes, [(577, 'a', dead)]);
    assert_eq!(both.a.state(), State::Unknown);
}

#[test]
fn one_way_loss_is_told_apart_from_silence() {
    let mut both = Both::alive();
    both.a_to_b = false;
    both.run(500, 2_000);
    // b hears nothing: to it, a is dead. a hears b, which does not tell of a.
    let [
        (when, 'b', Change::Dead { .. }),
        (later, 'a', Change::OneWay),
    ] = both.changes[..]
    else {
        panic!("{:?}", both.changes);
    };
    assert!((560..=570).contains(&when) && (600..=640).contains(&later));
    assert_eq!(both.a.state(), State::OneWay);
    // And back: told once, alive again on both sides.
    both.changes.clear();
    both.a_to_b = true;
    both.run(2_000, 2_200);
    let who: Vec<_> = both
        .changes
        .iter()
        .map(|(_, who, change)| (*who, *change))
        .collect();
    assert_eq!(who, [('b', Change::Alive), ('a', Change::Alive)]);
}

#[test]
fn a_foreign_peer_changes_nothing() {
    let mut session = Session::new(BEAT, 1, at(0));
    for millis in 0..2_000 {
        let (beat, change) = session.timeout(at(millis));
        assert_eq!(change, None);
        assert_eq!(beat.is_some(), millis % 30 == 0, "{millis}");
        assert!(beat.is_none_or(|beat| beat.heard.is_none()));
    }
    assert_eq!(session.state(), State::Unknown);
}

#[test]
fn a_farewell_is_no_death() {
    let mut both = Both::alive();
    let farewell = both.b.leave();
    assert_eq!(both.a.heard(&farewell, at(500)), Some(Change::Left));
    both.b_runs = false;
    both.run(500, 2_000);
    assert_eq!(both.changes, []);
}

#[test]
fn replays_change_nothing() {
    let mut both = Both::alive();
    let (recorded, _) = both.b.timeout(both.b.poll_timeout());
    let recorded = recorded.unwrap();
    assert_eq!(both.a.heard(&recorded, at(500)), None);
    // b dies, and its last heartbeat is played again and again; so is the farewell of its former life.
    let former = Session::new(BEAT, 21, at(0)).leave();
    let older = Session::new(BEAT, 20, at(0)).timeout(at(0)).0.unwrap();
    both.b_runs = false;
    let mut dead = None;
    for millis in 500..700 {
        for replay in [recorded, former, older] {
            assert_eq!(both.a.heard(&replay, at(millis)), None, "{millis}");
        }
        let (_, change) = both.a.timeout(at(millis));
        dead = dead.or_else(|| change.map(|change| (millis, change)));
        if dead.is_some() {
            break;
        }
    }
    assert!(matches!(dead, Some((590, Change::Dead { .. }))), "{dead:?}");
}

#[test]
fn own_silence_does_not_count_but_not_for_ever() {
    let mut both = Both::alive();
    // a stands still; what b said meanwhile is lost. b goes on.
    let (_, change) = both.a.timeout(at(2_000));
    assert_eq!(change, None, "its own silence");
    let (beat, _) = both.b.timeout(at(2_010));
    assert_eq!(both.a.heard(&beat.unwrap(), at(2_010)), None);
    both.run(2_010, 2_500);
    let deaths = |both: &Both| {
        let dead = |c: &&(u32, char, Change)| matches!(c.2, Change::Dead { .. }) && c.1 == 'a';
        both.changes.iter().filter(dead).count()
    };
    assert_eq!(deaths(&both), 0, "{:?}", both.changes);
    // One that is always late judges all the same, later.
    both.b_runs = false;
    let (mut now, mut rounds) = (4_000, 0);
    while both.a.state() != State::Unknown {
        both.a.timeout(at(now));
        now += 100;
        rounds += 1;
        assert!(rounds < 100);
    }
    assert!(rounds > 2, "{rounds}");
}

#[test]
fn patience_follows_what_is_observed_and_forgets() {
    let mut session = Session::new(BEAT, 1, at(0));
    let mut peer = Session::new(BEAT, 2, at(0));
    let mut now = 0;
    let mut beat = |session: &mut Session, after: u32| {
        now += after;
        let (_, _) = session.timeout(at(now));
        let beat = peer.beat(false);
        session.heard(&beat, at(now));
    };
    assert_eq!(session.patience(), BEAT.times(3));
    for _ in 0..10 {
        beat(&mut session, 30);
    }
    assert_eq!(session.patience(), BEAT.times(3));
    beat(&mut session, 60);
    assert_eq!(
        session.patience(),
        Span::from_millis(150),
        "a host under load"
    );
    beat(&mut session, 140);
    assert_eq!(session.patience(), BEAT.times(10), "no more than ten");
    for _ in 0..60 {
        beat(&mut session, 30);
    }
    assert_eq!(session.patience(), BEAT.times(3));
}
