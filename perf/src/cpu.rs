//! What processes and cores used so far, from `/proc` (clock ticks; 10 ms each on Linux, so measure
//! seconds).

use anyhow::{Context, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Kernel clock ticks per second: `sysconf(_SC_CLK_TCK)` is 100 on every Linux architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl CpuTime {
    /// Of this process, to the microsecond.
    pub(crate) fn own() -> anyhow::Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        #[allow(clippy::cast_precision_loss)]
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok(Self {
            user: seconds(usage.user_time()),
            system: seconds(usage.system_time()),
        })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// What watched processes and cores used so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU time of the processes and all their descendants, dead ones included.
    pub(crate) cpu: CpuTime,
    /// Time in which the cores were not idle, softirq included.
    pub(crate) core_busy: f64,
    /// Context switches of the living threads.
    pub(crate) switches: u64,
    /// Resident memory in bytes.
    pub(crate) rss: u64,
    /// Living processes.
    pub(crate) processes: u64,
}

/// Reads the use of `pids` with their descendants, and of `cores`.
pub(crate) fn usage(pids: &[u32], cores: &[u32]) -> anyhow::Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        // The watched process itself must live: a dead one would look wonderfully cheap.
        std::fs::read_to_string(&path)
            .with_context(|| format!("watch process {pid}: {path} cannot be read"))?;
    }
    for pid in tree(pids) {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue; // ended meanwhile; its parent has its times once it is reaped
        };
        let Some((_, fields)) = text.rsplit_once(") ") else {
            bail!("/proc/{pid}/stat: not understood")
        };
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |n: usize| -> f64 {
            let field = fields.get(n).and_then(|f| f.parse::<f64>().ok());
            field.unwrap_or_default() / TICKS_PER_SECOND
        };
        // Own times, and those of children that were waited for.
        sum.cpu.user += ticks(11) + ticks(13);
        sum.cpu.system += ticks(12) + ticks(14);
        sum.switches += switches(pid);
        sum.rss += resident(pid);
        sum.processes += 1;
    }
    for core in cores {
        sum.core_busy += busy(*core)?;
    }
    Ok(sum)
}

/// The processes and their descendants.
pub(crate) fn tree(pids: &[u32]) -> BTreeSet<u32> {
    let (mut all, mut ahead) = (BTreeSet::new(), pids.to_vec());
    while let Some(pid) = ahead.pop() {
        if !all.insert(pid) {
            continue;
        }
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            ahead.extend(text.split(' ').filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    all
}

fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let texts = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    texts
        .map(|text| {
            text.lines()
                .filter_map(|line| line.split_once("ctxt_switches:"))
                .filter_map(|(_, n)| n.trim().parse::<u64>().ok())
                .sum::<u64>()
        })
        .sum()
}

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// Seconds in which a core was neither idle nor waiting for disks nor stolen by the hypervisor.
fn busy(core: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    busy_in(&text, core).with_context(|| format!("core {core} is not in /proc/stat"))
}

fn busy_in(text: &str, core: u32) -> Option<f64> {
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let of = |n: usize| ticks.get(n).copied().unwrap_or_default();
    Some((of(0) + of(1) + of(2) + of(5) + of(6)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_work() {
        let me = [std::process::id()];
        let before = usage(&me, &[0]).unwrap();
        let mut rounds = 0_u64;
        loop {
            let now = usage(&me, &[0]).unwrap();
            if now.cpu.total() > before.cpu.total() && CpuTime::own().unwrap().total() > 0.0 {
                assert!(now.rss > 0 && now.processes >= 1);
                break;
            }
            rounds += 1;
            assert!(rounds < 100_000_000, "no CPU time was ever counted");
        }
    }

    #[test]
    fn a_missing_process_or_core_is_an_error() {
        assert!(usage(&[u32::MAX], &[]).is_err());
        assert!(usage(&[], &[u32::MAX]).is_err());
    }

    #[test]
    fn idle_disk_and_stolen_time_are_not_busy() {
        let text = "cpu  9 9 9 9\ncpu1 100 0 50 9999 7 1 49 77 0 0\n";
        assert_eq!(busy_in(text, 1), Some(2.0));
        assert_eq!(busy_in(text, 0), None);
    }

    #[test]
    fn descendants_count() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        assert!(tree(&[std::process::id()]).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
