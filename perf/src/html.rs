//! `report`: one HTML file without network, scripts or colours that paper does not show.

use crate::bench::report::{Cell, Report, Row};
use crate::bench::table;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Largest JSON file that is read.
const MAX_FILE: u64 = 256 * 1024 * 1024;
const WIDTH: f64 = 720.0;
/// Dashes of the curves, so that they differ in black and white too.
const DASHES: [&str; 5] = ["none", "7 3", "2 2", "9 3 2 3", "1 4"];
/// Greys of the bars.
const GREYS: [&str; 5] = ["#111", "#555", "#888", "#aaa", "#ccc"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with JSON files of `run --json`
    folder: PathBuf,
    /// File to write [default: report.html in the folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Reads the JSON files of a folder and writes the report; gives its path.
pub(crate) fn write(args: &Args) -> anyhow::Result<PathBuf> {
    let mut reports = BTreeMap::new();
    let entries = std::fs::read_dir(&args.folder)
        .with_context(|| format!("folder {}", args.folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let report = read(&path).with_context(|| path.display().to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            reports.insert(name.into_owned(), report);
        }
    }
    if reports.is_empty() {
        bail!(
            "{}: no JSON file of a run; make one with `krater-perf run --json FILE`",
            args.folder.display()
        );
    }
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.folder.join("report.html"));
    let shown = reports.iter().map(|(name, r)| (name.clone(), r)).collect();
    std::fs::write(&out, page(&shown)).with_context(|| out.display().to_string())?;
    Ok(out)
}

/// Writes one run's report.
pub(crate) fn keep(path: &Path, report: &Report) -> anyhow::Result<()> {
    let name = report.commit.clone().unwrap_or_else(|| "run".into());
    let page = page(&BTreeMap::from([(name, report)]));
    std::fs::write(path, page).with_context(|| path.display().to_string())
}

/// A report that `run --json` wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE {
        bail!("{length} bytes; at most {MAX_FILE} are read");
    }
    serde_json::from_slice(&std::fs::read(path)?).context("not the JSON of `krater-perf run`")
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn page(reports: &BTreeMap<String, &Report>) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>krater-perf</title><style>\
         body{font:15px/1.5 serif;max-width:48em;margin:2em auto;padding:0 1em;color:#111;background:#fff}\
         h1,h2,h3{font-weight:600;line-height:1.2}table{border-collapse:collapse;width:100%;\
         font-variant-numeric:tabular-nums}td,th{padding:.2em .6em;border-bottom:1px solid #ccc;\
         text-align:right}td:first-child,th:first-child,.l{text-align:left}pre{font-size:11px;\
         white-space:pre-wrap;border-left:2px solid #ccc;padding-left:1em}svg{width:100%;height:auto}\
         section{break-inside:avoid}text{font:12px serif}</style></head><body><h1>krater-perf</h1>\n",
    );
    for (name, report) in reports {
        one(&mut out, name, report);
    }
    out.push_str("</body></html>\n");
    out
}

fn one(out: &mut String, name: &str, report: &Report) {
    let mut put = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    put(format!("<h2>{}</h2>", escape(name)));
    put(format!(
        "<p>{} · kernel {} · {} cores: scaling over cores cannot be shown here · suite {}{} · commit {}{}</p>",
        escape(&report.cpu),
        escape(&report.kernel),
        report.cores,
        escape(&report.suite),
        if report.loopback { " · loopback" } else { "" },
        escape(report.commit.as_deref().unwrap_or("unknown")),
        if report.dirty == Some(true) {
            ", dirty"
        } else {
            ""
        },
    ));
    put(format!(
        "<p><code>{}</code></p><ul>",
        escape(&report.command.join(" "))
    ));
    for (who, version) in &report.versions {
        put(format!("<li>{}: {}</li>", escape(who), escape(version)));
    }
    put("</ul><h3>Ratios: Krater / peer, less is better</h3>".into());
    put(bars(report));
    put(
        "<table><tr><th>workload</th><th class=l>peer</th><th class=l>figure</th><th>Krater</th>\
         <th>peer</th><th>ratio</th><th>min–max</th><th class=l>verdict</th></tr>"
            .into(),
    );
    for row in &report.rows {
        for ratio in &row.ratios {
            put(format!(
                "<tr><td>{}</td><td class=l>{}</td><td class=l>{}</td><td>{:.2}</td><td>{:.2}</td>\
                 <td>{:.2}</td><td>{:.2}–{:.2}</td><td class=l>{}</td></tr>",
                escape(&row.workload),
                escape(&ratio.peer),
                escape(&row.unit),
                ratio.ours.median,
                ratio.theirs.median,
                ratio.counts.median,
                ratio.counts.min,
                ratio.counts.max,
                escape(&ratio.verdict)
            ));
        }
    }
    put("</table>".into());
    if let Some(text) = table::changes(&report.rows) {
        put(format!(
            "<h3>Changes of the configuration</h3><pre>{}</pre>",
            escape(&text)
        ));
    }
    for (name, why) in &report.failed {
        let (name, why) = (escape(name), escape(why));
        put(format!("<p><strong>{name} failed: {why}</strong></p>"));
    }
    for row in &report.rows {
        workload(out, row);
    }
}

fn workload(out: &mut String, row: &Row) {
    let mut put = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    put(format!("<section><h3>{}</h3>", escape(&row.workload)));
    let rate = row.rate.map_or_else(
        || "closed loop".into(),
        |r| format!("{r:.0} per second for all"),
    );
    put(format!("<p>{rate}. {}</p>", escape(&row.notes.join("; "))));
    for doubt in &row.doubts {
        put(format!("<p><strong>{}</strong></p>", escape(doubt)));
    }
    put(
        "<table><tr><th>contender</th><th>user</th><th>system</th><th>core</th><th>per second</th>\
         <th>p50 ms</th><th>p99 ms</th><th>max ms</th><th>RSS MiB</th><th>switches</th><th>calls</th><th>epoll_ctl</th></tr>"
            .into(),
    );
    for (who, cells) in &row.cells {
        for cell in cells {
            let number =
                |value: Option<f64>| value.map_or_else(|| "–".into(), |v| format!("{v:.2}"));
            #[allow(clippy::cast_precision_loss)]
            let rss = cell.summary.watched.map(|w| w.rss as f64 / 1_048_576.0);
            put(format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{:.3}</td>\
                 <td>{:.3}</td><td>{:.3}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(who),
                number(cell.user),
                number(cell.system),
                number(cell.core),
                cell.summary.per_second,
                cell.summary.p50_ms,
                cell.summary.p99_ms,
                cell.summary.max_ms,
                number(rss),
                number(cell.summary.watched.map(|w| w.switches)),
                number(row.calls.get(who).copied()),
                number(row.epoll_ctl.get(who).copied()),
            ));
        }
    }
    put("</table>".into());
    put(curves(row));
    for (who, text) in &row.configurations {
        put(format!(
            "<details><summary>configuration of {}</summary><pre>{}</pre></details>",
            escape(who),
            escape(text)
        ));
    }
    put("</section>".into());
}

/// A bar per workload and peer, a line at 1.
fn bars(report: &Report) -> String {
    let ratios: Vec<_> = report
        .rows
        .iter()
        .flat_map(|row| row.ratios.iter().map(move |ratio| (row, ratio)))
        .collect();
    let most = ratios.iter().map(|(_, r)| r.counts.max).fold(1.2, f64::max);
    let (left, right) = (230.0, 60.0);
    let x = |value: f64| left + value / most * (WIDTH - left - right);
    #[allow(clippy::cast_precision_loss)]
    let height = ratios.len() as f64 * 18.0 + 24.0;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"ratios\">");
    let mut y = 4.0;
    for (row, ratio) in &ratios {
        let spread = ratio.counts;
        let name = format!("{} / {}", row.workload, ratio.peer);
        let shade = GREYS[usize::from(!ratio.peer.starts_with("haproxy")) * 3];
        let _infallible = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text><rect x=\"{left}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"11\" fill=\"{shade}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{m:.1}\" y2=\"{m:.1}\" \
             stroke=\"#111\" stroke-width=\"1\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
            y + 10.0,
            escape(&name),
            x(spread.median) - left,
            x(spread.min),
            x(spread.max),
            x(spread.max.max(spread.median)) + 5.0,
            y + 10.0,
            spread.median,
            m = y + 13.5,
        );
        y += 18.0;
    }
    let _infallible = write!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"0\" y2=\"{y:.1}\" stroke=\"#111\" \
         stroke-dasharray=\"3 3\"/><text x=\"{one:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1.00</text></svg>",
        y + 14.0,
        one = x(1.0),
    );
    svg
}

/// Latency over the quantile (logarithmic both ways), the middle pair of each contender.
fn curves(row: &Row) -> String {
    let chosen: Vec<(&String, &Cell)> = row
        .cells
        .iter()
        .filter_map(|(who, cells)| {
            let mut sorted: Vec<&Cell> = cells.iter().collect();
            sorted.sort_by(|a, b| a.summary.p99_ms.total_cmp(&b.summary.p99_ms));
            Some((who, *sorted.get(sorted.len() / 2)?))
        })
        .collect();
    let values = || {
        chosen
            .iter()
            .flat_map(|(_, cell)| cell.summary.curve.iter().map(|(_, ms)| *ms))
            .filter(|ms| *ms > 0.0)
    };
    let (low, high) = (
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
    );
    if high <= low {
        return String::new();
    }
    let (left, bottom, top) = (60.0, 190.0, 10.0);
    let y = |ms: f64| {
        let share = (ms.max(low) / low).ln() / (high / low).ln();
        bottom - share * (bottom - top)
    };
    // 0.9 → 1, 0.99 → 2, …; five nines are the right edge.
    let x = |q: f64| left + (-(1.0 - q).max(1e-5).log10() / 5.0) * (WIDTH - left - 130.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} 215\" role=\"img\" aria-label=\"latency\">");
    for (q, name) in [
        (0.0, "0"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
    ] {
        let _infallible = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"207\" text-anchor=\"middle\">{name}</text>",
            at = x(q)
        );
    }
    for ms in [low, (low * high).sqrt(), high] {
        let _infallible = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ms:.3} ms</text>",
            left - 4.0,
            y(ms) + 4.0
        );
    }
    for (n, (who, cell)) in chosen.iter().enumerate() {
        let points: Vec<String> = cell
            .summary
            .curve
            .iter()
            .map(|(q, ms)| format!("{:.1},{:.1}", x(*q), y(*ms)))
            .collect();
        let (dash, grey) = (DASHES[n % DASHES.len()], GREYS[n % 3]);
        #[allow(clippy::cast_precision_loss)]
        let at = 20.0 + n as f64 * 16.0;
        let _infallible = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{grey}\" stroke-width=\"1.5\" stroke-dasharray=\"{dash}\" \
             points=\"{}\"/><line x1=\"595\" x2=\"620\" y1=\"{at}\" y2=\"{at}\" stroke=\"{grey}\" \
             stroke-width=\"1.5\" stroke-dasharray=\"{dash}\"/><text x=\"625\" y=\"{}\">{}</text>",
            points.join(" "),
            at + 4.0,
            escape(who)
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_curves_and_escaped_texts() {
        let summary = serde_json::json!({
            "requests": 9, "errors": 0, "first_error": null, "seconds": 1.0, "per_second": 9.0,
            "body_bytes": 1, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "p999_ms": 1.0,
            "max_ms": 8.0, "curve": [[0.0, 1.0], [0.9, 2.0], [1.0, 8.0]], "own_cpu_us": 1.0,
            "own_busy": 0.1, "watched": null, "core_busy_seconds": null,
            "total": { "requests": 9, "body_bytes": 1, "connections": 2, "full_handshakes": 0,
                "resumed": 0, "lost": 0, "sent_bytes": 5, "received_bytes": 7 }
        });
        let cell = |figure: f64| {
            serde_json::json!([{ "user": figure, "system": 0.0, "core": figure, "memory": null,
                "generator_bound": false, "summary": summary }])
        };
        let mut report: Report = serde_json::from_value(serde_json::json!({
            "command": ["krater-perf", "run"], "suite": "full", "commit": "abc", "dirty": true,
            "versions": { "krater": "1" }, "kernel": "6", "cpu": "A <fast> one", "cores": 2,
            "loopback": false, "rows": [{
                "workload": "http-1k", "unit": "CPU µs/request", "goal": 0.85, "rate": 100.0,
                "notes": ["n"], "doubts": [], "ratios": [],
                "cells": { "krater": cell(6.0), "nginx": cell(12.0) },
                "configurations": { "nginx": "if (a < b) & \"c\"" }
            }]
        }))
        .unwrap();
        report.rows[0].judge("krater");
        let page = page(&BTreeMap::from([("a.json".to_owned(), &report)]));
        for word in [
            "<rect",
            "<polyline",
            ">0.50<",
            "goal met",
            "A &lt;fast&gt; one",
            "abc, dirty",
            "if (a &lt; b) &amp; &quot;c&quot;",
        ] {
            assert!(page.contains(word), "{word}: {page}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
