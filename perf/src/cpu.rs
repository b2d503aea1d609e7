//! CPU time of processes, from `/proc/PID/stat` (clock ticks; 10 ms each on Linux, so measure seconds).

use anyhow::{Context, bail};
use serde::Serialize;

/// Kernel clock ticks per second: `sysconf(_SC_CLK_TCK)` is 100 on every Linux architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time used so far, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTime {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// CPU per request in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct PerRequest {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

impl CpuTime {
    /// Of all `pids` together.
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            // The command name stands in parentheses and may hold spaces and parentheses.
            let Some((_, fields)) = text.rsplit_once(") ") else {
                bail!("{path}: not understood")
            };
            let ticks = |n: usize| -> anyhow::Result<f64> {
                let field = fields.split(' ').nth(n).context("too few fields")?;
                Ok(field.parse::<f64>()?)
            };
            sum.user += ticks(11)? / TICKS_PER_SECOND;
            sum.system += ticks(12)? / TICKS_PER_SECOND;
        }
        Ok(sum)
    }

    /// What was used since `earlier`, divided by `requests`.
    pub(crate) fn per_request(self, earlier: Self, requests: u64) -> PerRequest {
        #[allow(clippy::cast_precision_loss)]
        let n = requests.max(1) as f64;
        PerRequest {
            user_us: (self.user - earlier.user) * 1e6 / n,
            system_us: (self.system - earlier.system) * 1e6 / n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CpuTime;

    #[test]
    fn grows_with_work() {
        let me = [std::process::id()];
        let before = CpuTime::of(&me).unwrap();
        let mut rounds = 0_u64;
        while CpuTime::of(&me).unwrap().user + CpuTime::of(&me).unwrap().system
            <= before.user + before.system
        {
            rounds += 1;
            assert!(rounds < 100_000_000, "no CPU time was ever counted");
        }
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(CpuTime::of(&[u32::MAX]).is_err());
    }
}
