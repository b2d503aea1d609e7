//! A handicap for the self-test: burns a share of the CPU time that another process uses.

use crate::cpu::{self, CpuTime};
use anyhow::bail;
use std::time::Duration;

/// How often it looks at the other process. Looking costs about 0.1 ms, which counts as burnt; it must
/// stay below the share that is to be burnt.
const TICK: Duration = Duration::from_millis(25);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Process to watch, with its descendants
    #[arg(long)]
    pid: u32,
    /// Share of its CPU time to burn, such as 0.1
    #[arg(long)]
    share: f64,
}

/// Burns until the watched process ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !(0.0..=10.0).contains(&args.share) {
        bail!("--share {}: use 0 to 10", args.share);
    }
    let start = used(args.pid);
    let own = CpuTime::own()?.total();
    while std::path::Path::new("/proc")
        .join(args.pid.to_string())
        .exists()
    {
        let due = (used(args.pid) - start) * args.share;
        let mut rounds = 0_u64;
        while CpuTime::own()?.total() - own < due {
            rounds = std::hint::black_box(rounds + 1);
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// CPU seconds of a process tree, to the nanosecond.
fn used(pid: u32) -> f64 {
    let mut nanos = 0_u64;
    for pid in cpu::tree(&[pid]) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let first = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            nanos += first.unwrap_or_default();
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let seconds = nanos as f64 / 1e9;
    seconds
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn time_is_seen_below_a_clock_tick() {
        let me = std::process::id();
        let before = used(me);
        let mut rounds = 0_u64;
        while used(me) <= before {
            rounds += 1;
            assert!(rounds < 10_000_000, "no CPU time was ever seen");
        }
    }
}
