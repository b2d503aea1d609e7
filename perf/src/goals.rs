//! `quote --goals`: what the design asks of the data plane beside what a kept run measured.

use crate::bench::report::{Cell, Report, Row};
use crate::bench::stats::{self, Spread};
use crate::bench::table;
use crate::quote;
use std::fmt::Write as _;

/// Something to be reached against the better HAProxy: the floor to pass, and the aim.
struct Goal {
    what: &'static str,
    workload: &'static str,
    of: Of,
    floor: f64,
    aim: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// The row's figure.
    Figure,
    /// CPU outside of the kernel alone.
    User,
}

const fn goal(
    what: &'static str,
    workload: &'static str,
    of: Of,
    (floor, aim): (f64, f64),
) -> Goal {
    Goal {
        what,
        workload,
        of,
        floor,
        aim,
    }
}

#[rustfmt::skip]
const GOALS: &[Goal] = &[
    goal("user CPU of a keep-alive request, 1 KiB", "http-1k", Of::User, (0.35, 0.30)),
    goal("CPU of a keep-alive request, 1 KiB", "http-1k", Of::Figure, (0.85, 0.75)),
    goal("CPU of a request on a connection of its own", "http-close", Of::Figure, (0.90, 0.80)),
    goal("CPU per GB of TCP, one connection", "tcp-bulk-1", Of::Figure, (0.65, 0.50)),
    goal("CPU per GB of TCP, 64 connections", "tcp-bulk-64", Of::Figure, (0.65, 0.50)),
    goal("CPU of an HTTP body of 1 MiB", "http-1m", Of::Figure, (0.70, 0.55)),
    goal("CPU of a TCP connection", "tcp-connect", Of::Figure, (0.85, 0.70)),
    goal("CPU of a TLS connection, full handshake", "tls-full-ecdsa", Of::Figure, (0.52, 0.45)),
    goal("CPU of a TLS connection, resumed", "tls-resumed", Of::Figure, (0.58, 0.50)),
    goal("CPU of 1 MiB over TLS", "tls-1m", Of::Figure, (0.95, 0.85)),
    goal("99th percentile at half load", "latency-1k", Of::Figure, (0.90, 0.70)),
    goal("RSS of an idle TCP connection", "tcp-idle", Of::Figure, (1.00, 0.80)),
    goal("RSS of an idle keep-alive connection", "http-idle", Of::Figure, (1.00, 0.80)),
    goal("RSS of an idle TLS connection", "tls-idle", Of::Figure, (1.00, 0.80)),
];

/// Rows of 100 changes under load: no request may fail.
const CHANGES: [&str; 2] = ["change-keep-alive", "change-close"];
/// How much more may be resident after them.
const GROWTH: f64 = 0.05;
/// Milliseconds until a snapshot of a thousand pools of ten members is in force.
const APPLIED: f64 = 100.0;
const OURS: &str = "krater";
const NOT_MEASURED: &str = "not measured";

/// Markdown: each goal, what was measured, and by how much it is missed.
pub(crate) fn markdown(report: &Report) -> String {
    let mut out = String::from(
        "| goal, ratio to the better HAProxy | workload | floor | aim | measured (min–max) | |\n\
         |---|---|---:|---:|---|---|\n",
    );
    let row = |name: &str| report.rows.iter().find(|row| row.workload == name);
    for goal in GOALS {
        let measured = row(goal.workload).and_then(|row| measured(row, goal.of));
        let (figures, verdict) = match measured {
            None => (table::none(), NOT_MEASURED.into()),
            Some((spread, void)) => (shown(spread), verdict(goal, spread, void)),
        };
        let Goal {
            what,
            workload,
            floor,
            aim,
            ..
        } = goal;
        let _infallible = writeln!(
            out,
            "| {what} | {workload} | {floor:.2} | {aim:.2} | {figures} | {verdict} |"
        );
    }
    for name in CHANGES {
        let cells = row(name).and_then(|row| row.cells.get(OURS));
        let cells = cells.map_or(&[][..], Vec::as_slice);
        let changes = cells.iter().filter_map(|cell| cell.change.as_ref());
        let failed: u64 = changes.map(|change| change.failed).sum();
        let all = quote::answers(cells);
        let (figures, verdict) = match (all, failed) {
            (0, _) => (table::none(), NOT_MEASURED),
            (_, 0) => (format!("0 of {all}"), "reached"),
            _ => (format!("{failed} of {all}"), "**missed**"),
        };
        let _infallible = writeln!(
            out,
            "| requests that fail in 100 changes | {name} | 0 | 0 | {figures} | {verdict} |"
        );
        let missed = "**missed**, with 100 WebSockets and from the first request on";
        let (figures, verdict) = judged(table::over_pairs(cells, &growth), GROWTH, missed);
        let _infallible = writeln!(
            out,
            "| RSS growth in 100 changes | {name} | {GROWTH:.2} | {GROWTH:.2} | {figures} | {verdict} |"
        );
    }
    let cells = row("pools-1000").and_then(|row| row.cells.get(OURS));
    let applied = cells.and_then(|cells| table::over_pairs(cells, &|cell| cell.apply_ms));
    let (figures, verdict) = judged(applied, APPLIED, "**missed**");
    let _infallible = writeln!(
        out,
        "| milliseconds until a snapshot of 1,000 pools × 10 members is in force | pools-1000 | {APPLIED} | {APPLIED} | {figures} | {verdict} |"
    );
    out
}

/// The ratio to the better HAProxy, and whether it is void.
fn measured(row: &Row, of: Of) -> Option<(Spread, bool)> {
    if of == Of::Figure {
        let haproxy = row.haproxy()?;
        return Some((haproxy.counts, haproxy.verdict == "void"));
    }
    let users =
        |who: &str| -> Option<Vec<f64>> { row.cells.get(who)?.iter().map(|c| c.user).collect() };
    let ours = users(OURS)?;
    let peers = row.cells.keys().filter(|name| name.starts_with("haproxy"));
    let better = peers
        .filter_map(|name| {
            let theirs = users(name)?;
            Some((Spread::of(&theirs)?.median, stats::ratios(&ours, &theirs)?))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((better.1, false))
}

fn verdict(goal: &Goal, spread: Spread, void: bool) -> String {
    let over = (spread.median / goal.floor - 1.0) * 100.0;
    match spread.median {
        _ if void => "void".into(),
        ratio if ratio <= goal.aim => "aim reached".into(),
        ratio if ratio <= goal.floor => "floor reached".into(),
        _ => format!("**missed** by {over:.0} %"),
    }
}

/// What was measured beside a limit of its own, and what is said of it.
fn judged(spread: Option<Spread>, limit: f64, missed: &'static str) -> (String, &'static str) {
    match spread {
        None => (table::none(), NOT_MEASURED),
        Some(spread) if spread.median <= limit => (shown(spread), "reached"),
        Some(spread) => (shown(spread), missed),
    }
}

/// By which part of it the resident memory of a process grew while it was under load.
fn growth(cell: &Cell) -> Option<f64> {
    let watched = cell.summary.watched?;
    #[allow(clippy::cast_precision_loss)]
    let (before, after) = (watched.rss_before as f64, watched.rss as f64);
    Some(after / before - 1.0).filter(|growth| growth.is_finite())
}

fn shown(spread: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload;

    #[test]
    fn goals_name_workloads_that_exist_and_floors_that_are_easier_than_aims() {
        for goal in GOALS {
            let known = workload::ALL.iter().any(|w| w.name == goal.workload);
            assert!(known, "{}", goal.workload);
            assert!(goal.aim < goal.floor, "{}", goal.what);
        }
        for name in CHANGES {
            assert!(workload::ALL.iter().any(|w| w.name == name));
        }
    }

    #[test]
    fn a_miss_is_called_one() {
        let goal = &GOALS[1];
        let of = |median: f64| Spread::of(&[median]).unwrap();
        assert_eq!(verdict(goal, of(0.75), false), "aim reached");
        assert_eq!(verdict(goal, of(0.85), false), "floor reached");
        assert_eq!(verdict(goal, of(1.02), false), "**missed** by 20 %");
        assert_eq!(verdict(goal, of(0.50), true), "void");
    }
}
