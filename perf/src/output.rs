//! What the user reads.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's output"
)]

use crate::load::Summary;
use std::io::Write;

/// Prints a summary; true when no request failed.
pub(crate) fn print(summary: &Summary, json: bool) -> anyhow::Result<bool> {
    if json {
        println!("{}", serde_json::to_string_pretty(summary)?);
        return Ok(summary.errors == 0);
    }
    let row = |name: &str, value: String| println!("{name:<26}{value:>16}");
    row("requests", summary.requests.to_string());
    row("errors", summary.errors.to_string());
    row("seconds", format!("{:.3}", summary.seconds));
    row("requests/s", format!("{:.0}", summary.per_second));
    row("connections", summary.total.connections.to_string());
    row("body bytes", summary.body_bytes.to_string());
    if summary.total.full_handshakes + summary.total.resumed > 0 {
        let (full, resumed) = (summary.total.full_handshakes, summary.total.resumed);
        row("TLS handshakes, full", full.to_string());
        row("TLS handshakes, resumed", resumed.to_string());
    }
    if summary.total.lost > 0 {
        row("datagrams lost", summary.total.lost.to_string());
    }
    row("latency p50 ms", format!("{:.3}", summary.p50_ms));
    row("latency p90 ms", format!("{:.3}", summary.p90_ms));
    row("latency p99 ms", format!("{:.3}", summary.p99_ms));
    row("latency p99.9 ms", format!("{:.3}", summary.p999_ms));
    row("latency max ms", format!("{:.3}", summary.max_ms));
    row("own CPU µs/request", format!("{:.2}", summary.own_cpu_us));
    row(
        "own CPU share of a core",
        format!("{:.2}", summary.own_busy),
    );
    if let Some(watched) = summary.watched {
        row("user CPU µs/request", format!("{:.2}", watched.user_us));
        row("system CPU µs/request", format!("{:.2}", watched.system_us));
        row("switches/request", format!("{:.3}", watched.switches));
        row(
            "resident KiB before",
            (watched.rss_before / 1024).to_string(),
        );
        row("resident KiB after", (watched.rss / 1024).to_string());
        row("processes", watched.processes.to_string());
    }
    if let Some(busy) = summary.core_busy_seconds {
        row("cores not idle, s", format!("{busy:.2}"));
    }
    if let Some(why) = &summary.first_error {
        println!("first error: {why}");
    }
    Ok(summary.errors == 0)
}

/// Prints a line that a program reads.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints a failure with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("krater-perf: {error:#}");
}

/// Prints a text.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(())
}
