//! The aligned table, and the line of progress.
#![allow(clippy::print_stderr, reason = "progress is for the screen")]

use super::report::{FLOOR, Report, Row};
use super::stats::Spread;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// Shows what runs and how long the rest will take; on a terminal only.
pub(crate) fn progress(name: &str, done: usize, of: usize, so_far: Duration) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    if done == of {
        eprint!("\r{:78}\r", "");
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
    eprint!("\r{bar} {done}/{of} {name:<18} {left:<14}");
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
    let widths: Vec<usize> = (0..head.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            // Numbers stand right, words left.
            let right = matches!(c, 2 | 4..=7);
            let (left, after) = if right {
                (pad.as_str(), "")
            } else {
                ("", pad.as_str())
            };
            let _infallible = write!(line, "{left}{cell}{after}  ");
        }
        let _infallible = writeln!(out, "{}", line.trim_end());
    }
    for row in &report.rows {
        for note in &row.doubts {
            let _infallible = writeln!(out, "{}: {note}", row.workload);
        }
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

fn figure(spread: Spread) -> String {
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
