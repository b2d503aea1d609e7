//! `quote`: the figures of a kept run as the README shows them, so that it shows no others.

use crate::bench::report::{Cell, Ratio, Report, Row};
use crate::bench::table::{self, Changed};
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// JSON of a run that `run --results` kept
    file: PathBuf,
    /// What the design asks beside what was measured, as perf/README.md shows it
    #[arg(long)]
    goals: bool,
}

/// Markdown.
pub(crate) fn run(args: &Args) -> anyhow::Result<String> {
    let report = crate::html::read(&args.file)?;
    if args.goals {
        return Ok(crate::goals::markdown(&report));
    }
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    Ok(markdown(&name, &report))
}

fn markdown(name: &str, report: &Report) -> String {
    let mut out = String::new();
    let commit = report.commit.as_deref().unwrap_or("unknown");
    let _infallible = writeln!(
        out,
        "`{}` on commit `{}`, {}, {} cores, kernel {}: all of it is in [perf/results/{name}.txt](perf/results/{name}.txt).\n\
         HAProxy is the better of Octavia's and a hand-tuned configuration; a ratio of 0.60 means 60 % of the peer's.\n\
         It is the median of pairs, by process or by core, whichever is worse; figures are medians by process.\n",
        report.command.join(" "),
        commit.get(..12).unwrap_or(commit),
        report.cpu,
        report.cores,
        report.kernel,
    );
    out.push_str(
        "| workload | figure | Krater | HAProxy | ratio (min–max) | nginx | ratio (min–max) |\n\
         |---|---|---:|---:|---|---:|---|\n",
    );
    for row in &report.rows {
        let haproxy = row.haproxy();
        let nginx = row.ratios.iter().find(|r| r.peer == "nginx");
        let Some(ours) = haproxy.or(nginx) else {
            continue; // nothing of ours to show
        };
        let _infallible = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            row.workload,
            row.unit,
            table::figure(ours.ours),
            cells(haproxy),
            cells(nginx)
        );
    }
    let changes: Vec<&Row> = report.rows.iter().filter(|r| about_changes(r)).collect();
    if !changes.is_empty() {
        out.push_str(
            "\n| 100 changes under load | contender | failed requests | p99 ms | in effect ms | processes after | RSS MiB after |\n\
             |---|---|---:|---:|---:|---:|---:|\n",
        );
    }
    for row in changes {
        for (who, cells) in &row.cells {
            let changed = Changed::new(cells);
            let _infallible = writeln!(
                out,
                "| {} | {who} | {} of {} | {} | {} | {} | {} |",
                row.workload,
                changed.failed,
                answers(cells),
                changed.p99,
                changed.in_effect,
                changed.processes,
                changed.rss
            );
        }
    }
    for (name, why) in &report.failed {
        let _infallible = writeln!(out, "\n{name} failed: {why}");
    }
    out
}

fn about_changes(row: &Row) -> bool {
    let mut cells = row.cells.values().flatten();
    cells.any(|cell| cell.change.is_some())
}

/// Requests under changes, whatever became of them.
pub(crate) fn answers(cells: &[Cell]) -> u64 {
    let changes = cells.iter().filter_map(|cell| cell.change.as_ref());
    changes.map(|change| change.answered + change.failed).sum()
}

fn cells(ratio: Option<&Ratio>) -> String {
    let Some(ratio) = ratio else {
        return "– | –".into();
    };
    let counts = ratio.counts;
    let void = if ratio.verdict == "void" {
        ", void"
    } else {
        ""
    };
    format!(
        "{} | {:.2} ({:.2}–{:.2}{void})",
        table::figure(ratio.theirs),
        counts.median,
        counts.min,
        counts.max
    )
}
