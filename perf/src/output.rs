//! What the user reads.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's output"
)]

use crate::load::Summary;

/// Prints a summary; true when no request failed.
pub(crate) fn print(summary: &Summary, json: bool) -> anyhow::Result<bool> {
    if json {
        println!("{}", serde_json::to_string_pretty(summary)?);
    } else {
        let row = |name: &str, value: String| println!("{name:<24}{value:>16}");
        row("requests", summary.requests.to_string());
        row("errors", summary.errors.to_string());
        row("seconds", format!("{:.3}", summary.seconds));
        row("requests/s", format!("{:.0}", summary.per_second));
        row("body bytes", summary.body_bytes.to_string());
        row("latency p50 ms", format!("{:.3}", summary.p50_ms));
        row("latency p90 ms", format!("{:.3}", summary.p90_ms));
        row("latency p99 ms", format!("{:.3}", summary.p99_ms));
        row("latency p99.9 ms", format!("{:.3}", summary.p999_ms));
        row("latency max ms", format!("{:.3}", summary.max_ms));
        row("own CPU µs/request", format!("{:.2}", summary.own_cpu_us));
        if let Some(cpu) = summary.watched {
            row("user CPU µs/request", format!("{:.2}", cpu.user_us));
            row("system CPU µs/request", format!("{:.2}", cpu.system_us));
        }
        if let Some(why) = &summary.first_error {
            println!("first error: {why}");
        }
    }
    Ok(summary.errors == 0)
}

/// Prints a failure with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("krater-perf: {error:#}");
}
