//! Two peers with two paths between them, each of which can be cut.

use super::*;
use LivenessPath::{Second, Vip};

const BEAT: Span = Span::from_millis(30);

fn at(millis: u32) -> Time {
    Time::from_micros(1_000_000) + Span::from_millis(millis)
}

struct Both {
    a: Peer,
    b: Peer,
    /// Over which path a's and b's heartbeats pass.
    passes: [bool; 2],
    b_runs: bool,
    verdicts: Vec<(u32, Verdict)>,
    now: u32,
}

impl Both {
    fn new(second: bool) -> Self {
        let peer = |boot| {
            let peer = Peer::new(Session::new(BEAT, boot, at(0)));
            match second {
                true => peer.with_second(Session::new(BEAT, boot + 1, at(0))),
                false => peer,
            }
        };
        Self {
            a: peer(11),
            b: peer(21),
            passes: [true, true],
            b_runs: true,
            verdicts: Vec::new(),
            now: 0,
        }
    }

    /// For so many milliseconds.
    fn run(&mut self, millis: u32) -> &mut Self {
        for _ in 0..millis {
            self.now += 1;
            let now = at(self.now);
            for (path, passes) in [(Vip, self.passes[0]), (Second, self.passes[1])] {
                let (beat, news) = self.a.timeout(path, now);
                self.note(news);
                if let Some(beat) = beat.filter(|_| passes && self.b_runs) {
                    self.b.heard(path, &beat, now);
                }
                if !self.b_runs {
                    continue;
                }
                let (beat, _) = self.b.timeout(path, now);
                if let Some(beat) = beat.filter(|_| passes) {
                    let news = self.a.heard(path, &beat, now);
                    self.note(news);
                }
            }
        }
        self
    }

    fn note(&mut self, news: News) {
        let now = self.now;
        self.verdicts
            .extend(news.verdict.map(|verdict| (now, verdict)));
    }

    fn told(&mut self) -> Vec<Verdict> {
        let told = std::mem::take(&mut self.verdicts);
        told.into_iter().map(|(_, verdict)| verdict).collect()
    }

    fn states(&self) -> (PathState, Option<PathState>) {
        (self.a.state(Vip).unwrap(), self.a.state(Second))
    }
}

fn dead(verdicts: &[Verdict]) -> Option<bool> {
    match verdicts {
        [Verdict::Dead { sure, .. }] => Some(*sure),
        _ => None,
    }
}

#[test]
fn one_path_is_judged_by_itself() {
    let mut both = Both::new(false);
    both.run(100);
    assert_eq!(both.told(), [Verdict::Alive]);
    assert_eq!(both.states(), (PathState::Alive, None));
    both.b_runs = false;
    both.run(200);
    assert_eq!(dead(&both.told()), Some(true));
    assert_eq!(both.states(), (PathState::Silent, None));
}

#[test]
fn silence_on_both_is_death_and_no_later_than_on_one() {
    let times = [false, true].map(|second| {
        let mut both = Both::new(second);
        both.run(100).told();
        both.b_runs = false;
        both.run(200);
        let when = both
            .verdicts
            .iter()
            .map(|(now, _)| *now)
            .collect::<Vec<_>>();
        assert_eq!(dead(&both.told()), Some(true));
        when
    });
    assert_eq!(times[0], times[1]);
}

#[test]
fn a_split_network_is_no_death_and_its_end_is_told() {
    let mut both = Both::new(true);
    both.run(100).told();
    both.passes = [false, true];
    both.run(1_000);
    assert_eq!(both.told(), [Verdict::Cut]);
    assert_eq!(both.states(), (PathState::Silent, Some(PathState::Alive)));
    both.passes = [true, true];
    both.run(100);
    assert_eq!(both.told(), [Verdict::Alive]);
    // Again, and this time it dies beyond the split: an advert must be overdue, and is.
    both.passes = [false, true];
    both.run(1_000);
    assert_eq!(both.told(), [Verdict::Cut]);
    both.b_runs = false;
    both.run(200);
    assert_eq!(dead(&both.told()), Some(false));
}

#[test]
fn a_second_network_that_is_lost_moves_nothing() {
    let mut both = Both::new(true);
    both.run(100).told();
    both.passes = [true, false];
    both.run(1_000);
    assert_eq!(both.told(), []);
    assert_eq!(both.states(), (PathState::Alive, Some(PathState::Silent)));
    // Then the first one judges alone.
    both.b_runs = false;
    both.run(200);
    assert_eq!(dead(&both.told()), Some(true));
}

#[test]
fn where_heartbeats_never_passed_the_second_network_is_half_a_proof() {
    let mut both = Both::new(true);
    both.passes = [false, true];
    both.run(200);
    assert_eq!(both.told(), []);
    assert_eq!(both.states(), (PathState::Never, Some(PathState::Alive)));
    both.b_runs = false;
    both.run(200);
    assert_eq!(dead(&both.told()), Some(false));
}

#[test]
fn who_comes_back_on_the_second_network_was_not_dead() {
    let mut both = Both::new(true);
    both.run(100).told();
    both.passes = [false, false];
    both.run(200);
    assert_eq!(dead(&both.told()), Some(true));
    both.passes = [false, true];
    both.run(200);
    assert_eq!(both.told(), [Verdict::Cut]);
    both.passes = [true, true];
    both.run(200);
    assert_eq!(both.told(), [Verdict::Alive]);
}

/// Silence on the first path begins an instant before that on the second one: no verdict until the second one is judged.
#[test]
fn silence_that_is_not_yet_judged_waits_for_the_second_path() {
    let mut both = Both::new(true);
    both.run(100).told();
    both.passes = [false, true];
    both.run(20);
    both.b_runs = false;
    both.run(300);
    assert_eq!(dead(&both.told()), Some(true));
    // And with a heartbeat after it, the same silence is a split.
    let mut both = Both::new(true);
    both.run(100).told();
    both.passes = [false, true];
    both.run(85);
    both.b_runs = false;
    both.run(10);
    assert!(both.told().len() <= 1);
    both.b_runs = true;
    both.run(100);
    assert!(
        !both
            .told()
            .iter()
            .any(|v| matches!(v, Verdict::Dead { .. }))
    );
}

#[test]
fn a_farewell_on_either_path_is_no_death() {
    for path in [Vip, Second] {
        let mut both = Both::new(true);
        both.run(100).told();
        let beat = both.b.leave(path).unwrap();
        let news = both.a.heard(path, &beat, at(both.now));
        assert_eq!((news.change, news.verdict), (Some(Change::Left), None));
        // The other path's farewell comes later.
        let other = if path == Vip { Second } else { Vip };
        both.b_runs = false;
        both.run(5);
        let beat = both.b.leave(other).unwrap();
        both.a.heard(other, &beat, at(both.now));
        both.run(500);
        assert_eq!(both.told(), [], "{path:?}");
    }
}

#[test]
fn strays_are_told_once_over_both_paths_and_not_of_another_process() {
    let mut both = Both::new(true);
    both.run(300);
    let mut misled = 0;
    let mut exchange = |both: &mut Both, strays: u32| {
        both.b.tell(Report {
            strays,
            ..Report::default()
        });
        let before = misled;
        for _ in 0..100 {
            both.now += 1;
            let now = at(both.now);
            for path in [Vip, Second] {
                if let (Some(beat), _) = both.b.timeout(path, now) {
                    misled += u32::from(both.a.heard(path, &beat, now).misled);
                }
                if let (Some(beat), _) = both.a.timeout(path, now) {
                    both.b.heard(path, &beat, now);
                }
            }
        }
        misled - before
    };
    assert_eq!(exchange(&mut both, 0), 0);
    assert_eq!(exchange(&mut both, 3), 1);
    assert_eq!(exchange(&mut both, 3), 0);
    assert_eq!(exchange(&mut both, 4), 1);
    // A new process begins at 0, whatever it counted when it was heard first.
    let new = Session::new(BEAT, 41, at(both.now));
    both.b = Peer::new(new).with_second(Session::new(BEAT, 42, at(both.now)));
    both.b_runs = true;
    assert_eq!(exchange(&mut both, 1), 0);
    assert_eq!(exchange(&mut both, 2), 1);
}

#[test]
fn what_a_peer_reports_is_known_while_it_is_heard() {
    let mut both = Both::new(false);
    let report = Report {
        poor: true,
        term: 77,
        strays: 0,
        best: 100,
    };
    both.b.tell(report);
    assert_eq!(both.a.reported(), None);
    both.run(100);
    assert_eq!(both.a.reported(), Some(report));
    both.b_runs = false;
    both.run(1_000);
    assert_eq!(both.a.reported(), None);
}
