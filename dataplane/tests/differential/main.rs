//! The same requests through Krater's data plane and through the real HAProxy 2.6.
//!
//! Cases are data (`table`); what both proxies answered and what their members received must agree, or
//! the difference stands in the table and in `docs/haproxy-differences.md`. Hostile cases are also sent
//! split at every byte, and behind a good request.
#![allow(unreachable_pub, reason = "one binary: nothing is reachable")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests: a panic is a failure"
)]

mod drive;
#[path = "../it/kit.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod kit;
mod member;
mod proxies;
mod report;
mod table;
mod wire;

use drive::{Delivery, Outcome, Patience, play};
use proxies::{HaProxy, Krater, Lane};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use table::{Case, Reply, Step, cases};

/// Cases at a time.
const LANES: usize = 8;
/// For Krater no silence is expected: a case that needs this has failed.
const KRATER: Duration = Duration::from_secs(20);
/// HAProxy's silence ends with the client's end; it says nothing wrong, only late.
const HAPROXY: Duration = Duration::from_secs(1);

/// Runs `work` for every item, each lane one at a time. Results are in the items' order.
fn on_lanes<T: Sync, R: Send>(
    lanes: &[Lane],
    items: &[T],
    work: impl Fn(&Lane, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in lanes {
            scope.spawn(|| {
                while let Some((at, item)) = {
                    let at = next.fetch_add(1, SeqCst);
                    items.get(at).map(|item| (at, item))
                } {
                    let result = work(lane, item);
                    done.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn finals(statuses: &[u16]) -> usize {
    let is_final = |s: &&u16| !matches!(**s, 100..=199) || **s == 101;
    statuses.iter().filter(is_final).count()
}

fn krater(lane: &Lane, case: &Case, how: Delivery) -> Outcome {
    let patience = Patience {
        answers: finals(&case.statuses),
        silence: KRATER,
    };
    play(lane, case, how, patience)
}

/// What the table says about Krater; the differences as text.
fn against_table(case: &Case, outcome: &Outcome) -> String {
    let mut wrong = String::new();
    if outcome.silent {
        wrong.push_str("Krater fell silent\n");
    }
    if outcome.statuses() != case.statuses {
        writeln!(
            wrong,
            "statuses {:?}, not {:?}",
            outcome.statuses(),
            case.statuses
        )
        .unwrap();
    }
    let members = outcome
        .answers
        .iter()
        .filter(|a| a.field("x-member").is_some() && !matches!(a.status(), 100 | 102..=199))
        .count();
    let lines = outcome.request_lines();
    let listed = case.received.clone().unwrap_or_default();
    let whole: Vec<&String> = listed
        .iter()
        .filter(|line| !line.ends_with(" cut"))
        .collect();
    let ok = match case.received.is_some() {
        true => lines == whole,
        false => lines.len() == members,
    };
    let begun = outcome.cut_lines();
    if !ok || !begun.iter().all(|line| may_begin(case, line)) {
        writeln!(
            wrong,
            "the member received {lines:?}, and the beginnings of {begun:?}"
        )
        .unwrap();
    }
    wrong
}

#[test]
fn krater_and_haproxy_agree_or_the_difference_is_listed() {
    let cases = cases();
    let (ours, theirs) = (Krater::start(LANES), HaProxy::start(LANES));
    let mut pairs: Vec<(Outcome, Outcome)> = on_lanes(&ours.lanes, &cases, |lane, case| {
        krater(lane, case, Delivery::Whole)
    })
    .into_iter()
    .zip(on_lanes(&theirs.lanes, &cases, |lane, case| {
        let patience = Patience {
            answers: finals(&case.statuses),
            silence: HAPROXY,
        };
        play(lane, case, Delivery::Whole, patience)
    }))
    .collect();
    // On a busy host HAProxy may be late without meaning anything by it: then its client has ended too early.
    // Such a case is played once more with more patience; a real difference shows again.
    for (case, (our, their)) in cases.iter().zip(&mut pairs) {
        let listed = case.differs.is_some();
        if their.silent && (our.text() == their.text()) == listed {
            let patience = Patience {
                answers: finals(&case.statuses),
                silence: KRATER,
            };
            *their = play(&theirs.lanes[0], case, Delivery::Whole, patience);
        }
    }
    let mut wrong = String::new();
    for (case, (our, their)) in cases.iter().zip(&pairs) {
        let mut faults = against_table(case, our);
        let same = our.text() == their.text();
        match (same, &case.differs) {
            (true, Some(_)) => faults.push_str("listed as a difference, but there is none\n"),
            (false, None) => faults.push_str("differs from HAProxy and is not listed\n"),
            _ => {}
        }
        if !faults.is_empty() {
            let Case {
                id, rule, about, ..
            } = case;
            let (our, their) = (our.text(), their.text());
            writeln!(
                wrong,
                "[{id}] {rule}; {about}\n{faults}-- Krater\n{our}-- HAProxy\n{their}"
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    report::check(&cases, &pairs);
}

/// However a hostile message is cut into pieces, and behind a good request: the same answers, and the
/// member receives the same, which is never a second request.
#[test]
fn hostile_cases_stay_harmless_in_pieces_and_behind_a_good_request() {
    let hostile: Vec<Case> = cases()
        .into_iter()
        .filter(|case| case.hostile && case.plain())
        .collect();
    let ours = Krater::start(LANES);
    let hostile: Vec<(usize, &Case)> = hostile.iter().enumerate().collect();
    let wrong = on_lanes(&ours.lanes, &hostile, |lane, (number, case)| {
        let whole = krater(lane, case, Delivery::Whole);
        let mut wrong = String::new();
        let mut compare = |what: String, outcome: &Outcome, expected: &Outcome| {
            let begun = outcome.cut_lines();
            let new = begun.iter().any(|line| !may_begin(case, line));
            if outcome.silent || new || outcome.text() != expected.text() {
                let (got, wanted) = (outcome.text(), expected.text());
                writeln!(wrong, "[{}] {what}\n{got}-- not\n{wanted}", case.id).unwrap();
            }
        };
        compare(
            "byte by byte".into(),
            &krater(lane, case, Delivery::Bytes),
            &whole,
        );
        // Every second one at every byte; long ones around their beginning: the rest is filling.
        let places = if number % 2 == 0 {
            case.sent().len().min(400)
        } else {
            0
        };
        for at in 1..places {
            let outcome = krater(lane, case, Delivery::Split(at));
            compare(format!("split at {at}"), &outcome, &whole);
        }
        let (behind, good) = (behind_a_good_request(case), good_request());
        let mut expected = krater(lane, &good, Delivery::Whole);
        expected.answers.extend(whole.answers);
        expected.received.extend(whole.received);
        let outcome = krater(lane, &behind, Delivery::Whole);
        compare("behind a good request".into(), &outcome, &expected);
        wrong
    });
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether the member may receive the beginning of a request with this line.
fn may_begin(case: &Case, line: &str) -> bool {
    let listed = case.received.iter().flatten();
    listed
        .filter_map(|l| l.strip_suffix(" cut"))
        .any(|l| l == line)
}

fn good_request() -> Case {
    Case {
        id: "good".into(),
        steps: vec![Step::Send(
            b"GET /good HTTP/1.1\r\nHost: good\r\n\r\n".to_vec(),
        )],
        statuses: vec![200],
        ..Case::default()
    }
}

fn behind_a_good_request(case: &Case) -> Case {
    let mut behind = good_request();
    let end = case.steps.contains(&Step::End);
    behind.id = format!("{} behind a good request", case.id);
    behind.steps = vec![Step::Send([good_request().sent(), case.sent()].concat())];
    behind.steps.extend(end.then_some(Step::End));
    behind.statuses.extend(&case.statuses);
    behind.replies = vec![Reply::of_nothing()];
    behind.replies.extend(case.replies.iter().cloned());
    behind
}

#[test]
fn the_table_is_what_it_says() {
    let cases = cases();
    let mut ids = HashSet::new();
    let mut shapes = std::collections::HashMap::new();
    for case in &cases {
        let id = &case.id;
        assert!(ids.insert(id), "[{id}] twice");
        assert!(
            case.rule.starts_with("RFC "),
            "[{id}] cites no rule: {}",
            case.rule
        );
        assert!(case.about.len() > 3, "[{id}] does not say what it is");
        assert!(!case.steps.is_empty(), "[{id}] sends nothing");
        if let Some(other) = shapes.insert(case.shape(), id) {
            panic!("[{id}] differs from [{other}] in a value only");
        }
    }
    let hostile = cases.iter().filter(|case| case.hostile).count();
    eprintln!("{} cases, {hostile} hostile", cases.len());
    assert!(
        cases.len() >= 200 && hostile >= 120,
        "{} cases, {hostile} hostile",
        cases.len()
    );
}

/// Negative control: the comparison sees a request that a client hid in another one's body.
#[test]
fn a_smuggled_request_is_seen() {
    let member = member::Member::start();
    let bytes = b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcdGET /smuggled HTTP/1.1\r\n\r\n";
    let case = Case {
        id: "control".into(),
        steps: vec![Step::Send(bytes.to_vec())],
        statuses: vec![400],
        received: Some(Vec::new()),
        ..Case::default()
    };
    // Without a proxy between them, everything that the client sends reaches the member.
    let lane = Lane {
        address: member.address,
        member,
    };
    let patience = Patience {
        answers: 2,
        silence: KRATER,
    };
    let outcome = play(&lane, &case, Delivery::Bytes, patience);
    assert_eq!(
        outcome.request_lines(),
        ["POST / HTTP/1.1", "GET /smuggled HTTP/1.1"]
    );
    let wrong = against_table(&case, &outcome);
    assert!(
        wrong.contains("statuses [200, 200]") && wrong.contains("/smuggled"),
        "{wrong}"
    );
}
