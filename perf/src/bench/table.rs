//! The aligned table, and the line of progress.
#![allow(clippy::print_stderr, reason = "progress is for the screen")]

use super::change::Change;
use super::report::{Cell, FLOOR, Report, Row};
use super::stats::Spread;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// Says how long it will take, before it starts.
pub(crate) fn estimate(works: usize, estimate: Duration) {
    let minutes = estimate.as_secs().div_ceil(60);
    eprintln!("{works} workloads, about {minutes} min");
}

/// Tells at once of a workload that failed.
pub(crate) fn failure(name: &str, why: &str) {
    let clear = if std::io::stderr().is_terminal() {
        format!("\r{:78}\r", "")
    } else {
        String::new()
    };
    eprintln!("{clear}FAILED {name}: {why}");
}

/// Shows what runs and how long the rest will take: a bar on a terminal, else a line per workload.
pub(crate) fn progress(name: &str, done: usize, of: usize, so_far: Duration) {
    let terminal = std::io::stderr().is_terminal();
    if done == of {
        if terminal {
            eprint!("\r{:78}\r", "");
        }
        return;
    }
    let filled = done * 30 / of.max(1);
    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(30 - filled));
    let left = match u32::try_from(done) {
        Ok(n @ 1..) => {
            let each = so_far / n;
            let rest = each * u32::try_from(of - done).unwrap_or(u32::MAX);
            format!("{} s left", rest.as_secs())
        }
        _ => String::new(),
    };
    if terminal {
        eprint!("\r{bar} {done}/{of} {name:<18} {left:<14}");
    } else {
        eprintln!("{}/{of} {name:<18} {left}", done + 1);
    }
}

/// The whole table.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    let head = [
        "workload",
        "figure",
        "krater",
        "peer",
        "of peer",
        "ratio",
        "min–max",
        "floor",
        "verdict",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for row in &report.rows {
        if !row.cells.contains_key("krater") {
            for (who, cells) in &row.cells {
                let values: Option<Vec<f64>> = cells.iter().map(|c| c.tree().or(c.core)).collect();
                let value = values.and_then(|v| Spread::of(&v));
                let mut line = vec![row.workload.clone(), row.unit.clone(), "not yet".into()];
                line.extend([who.clone(), value.map_or_else(|| "–".into(), figure)]);
                line.extend(["", "", "", "not yet"].map(str::to_owned));
                rows.push(line);
            }
        }
        for (n, ratio) in row.ratios.iter().enumerate() {
            let first = |text: String| if n == 0 { text } else { String::new() };
            rows.push(vec![
                first(row.workload.clone()),
                first(row.unit.clone()),
                first(figure(ratio.ours)),
                ratio.peer.clone(),
                figure(ratio.theirs),
                format!("{:.2}", ratio.counts.median),
                format!("{:.2}–{:.2}", ratio.counts.min, ratio.counts.max),
                first(floor(row).map_or_else(|| "–".into(), figure)),
                ratio.verdict.clone(),
            ]);
        }
    }
    // Numbers stand right, words left.
    out.push_str(&aligned(&rows, |column| matches!(column, 2 | 4..=7)));
    if let Some(text) = changes(&report.rows) {
        let _infallible = write!(out, "\n{text}\n");
    }
    for row in &report.rows {
        for note in &row.doubts {
            let _infallible = writeln!(out, "{}: {note}", row.workload);
        }
    }
    for (name, why) in &report.failed {
        let _infallible = writeln!(out, "FAILED {name}: {why}");
    }
    let _infallible = writeln!(
        out,
        "{} · kernel {} · {} cores: scaling over cores cannot be shown here · suite {}",
        report.cpu, report.kernel, report.cores, report.suite
    );
    for (name, version) in &report.versions {
        let _infallible = writeln!(out, "{name}: {version}");
    }
    out
}

/// All figures of all contenders, medians over the pairs.
pub(crate) fn details(report: &Report) -> String {
    let head = [
        "workload",
        "contender",
        "unit",
        "user",
        "system",
        "core",
        "calls",
        "epoll_ctl",
        "switches",
        "per second",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "RSS MiB",
        "generator µs",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in &report.rows {
        for (who, cells) in &row.cells {
            let median = |of: &dyn Fn(&Cell) -> Option<f64>| shown(over_pairs(cells, of), figure);
            let ms = |of: &dyn Fn(&Cell) -> f64| {
                let spread = over_pairs(cells, &|c| Some(of(c)));
                shown(spread, |s| format!("{:.3}", s.median))
            };
            let calls = |of: &BTreeMap<String, f64>| {
                let calls = of.get(who).map(|n| format!("{n:.2}"));
                calls.unwrap_or_else(|| "–".into())
            };
            lines.push(vec![
                row.workload.clone(),
                who.clone(),
                row.unit.clone(),
                median(&|c| c.user),
                median(&|c| c.system),
                median(&|c| c.core.or(c.memory).or(c.latency)),
                calls(&row.calls),
                calls(&row.epoll_ctl),
                median(&|c| c.summary.watched.map(|w| w.switches)),
                median(&|c| Some(c.summary.per_second)),
                ms(&|c| c.summary.p50_ms),
                ms(&|c| c.summary.p90_ms),
                ms(&|c| c.summary.p99_ms),
                ms(&|c| c.summary.p999_ms),
                ms(&|c| c.summary.max_ms),
                median(&rss),
                median(&|c| Some(c.summary.own_cpu_us)),
            ]);
        }
    }
    aligned(&lines, |column| column > 2)
}

#[allow(clippy::cast_precision_loss)]
fn rss(cell: &Cell) -> Option<f64> {
    let bytes = match &cell.change {
        Some(change) => Some(change.rss),
        None => cell.summary.watched.map(|w| w.rss),
    };
    bytes.map(|bytes| bytes as f64 / 1_048_576.0)
}

/// What changes of the configuration did, and what they cost; none when no row is about that.
pub(crate) fn changes(rows: &[Row]) -> Option<String> {
    let head = [
        "workload",
        "contender",
        "changes",
        "in effect ms",
        "answered",
        "failed",
        "long lost",
        "p50 ms",
        "p99 ms",
        "max ms",
        "processes",
        "RSS MiB",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        for (who, cells) in &row.cells {
            if cells.iter().any(|cell| cell.apply_ms.is_some()) {
                let mut line = vec![row.workload.clone(), who.clone()];
                line.extend(Changed::new(cells).columns());
                lines.push(line);
            }
        }
    }
    (lines.len() > 1).then(|| aligned(&lines, |column| column > 1))
}

/// What changes did: sums of what is counted, medians of what is measured, over all pairs.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) changes: String,
    pub(crate) in_effect: String,
    pub(crate) answered: String,
    pub(crate) failed: String,
    pub(crate) long_lost: String,
    pub(crate) p50: String,
    pub(crate) p99: String,
    pub(crate) max: String,
    pub(crate) processes: String,
    pub(crate) rss: String,
}

impl Changed {
    pub(crate) fn new(cells: &[Cell]) -> Self {
        let median = |of: &dyn Fn(&Cell) -> Option<f64>| shown(over_pairs(cells, of), figure);
        let sum = |of: &dyn Fn(&Change) -> u64| {
            let each = cells.iter().map(|c| c.change.as_ref().map(of));
            let sum: Option<u64> = each.sum();
            sum.map_or_else(none, |n| n.to_string())
        };
        #[allow(clippy::cast_precision_loss)]
        let processes = |cell: &Cell| cell.change.as_ref().map(|c| c.processes as f64);
        Self {
            changes: sum(&|c| c.changes.into()),
            in_effect: median(&|c| c.apply_ms),
            answered: sum(&|c| c.answered),
            failed: sum(&|c| c.failed),
            long_lost: sum(&|c| c.long_lost.into()),
            p50: median(&|c| Some(c.summary.p50_ms)),
            p99: median(&|c| Some(c.summary.p99_ms)),
            max: median(&|c| Some(c.summary.max_ms)),
            processes: shown(over_pairs(cells, &processes), |s| {
                format!("{:.0}", s.median)
            }),
            rss: median(&rss),
        }
    }

    fn columns(self) -> [String; 10] {
        [
            self.changes,
            self.in_effect,
            self.answered,
            self.failed,
            self.long_lost,
            self.p50,
            self.p99,
            self.max,
            self.processes,
            self.rss,
        ]
    }
}

/// The spread over all pairs; none when one has no such figure.
pub(crate) fn over_pairs(cells: &[Cell], of: &dyn Fn(&Cell) -> Option<f64>) -> Option<Spread> {
    let values: Option<Vec<f64>> = cells.iter().map(of).collect();
    Spread::of(&values?)
}

fn shown(spread: Option<Spread>, how: impl Fn(Spread) -> String) -> String {
    spread.map_or_else(none, how)
}

/// In place of a figure.
pub(crate) fn none() -> String {
    "–".to_owned()
}

fn aligned(rows: &[Vec<String>], right: impl Fn(usize) -> bool) -> String {
    let mut out = String::new();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let (left, after) = if right(c) {
                (pad.as_str(), "")
            } else {
                ("", pad.as_str())
            };
            let _infallible = write!(line, "{left}{cell}{after}  ");
        }
        let _infallible = writeln!(out, "{}", line.trim_end());
    }
    out
}

pub(crate) fn figure(spread: Spread) -> String {
    match spread.median {
        v if v >= 1_000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// What is left without a load balancer: the kernel routes the same bytes.
fn floor(row: &Row) -> Option<Spread> {
    let cells = row.cells.get(FLOOR)?;
    let values: Option<Vec<f64>> = cells.iter().map(|c| c.latency.or(c.core)).collect();
    Spread::of(&values?)
}
