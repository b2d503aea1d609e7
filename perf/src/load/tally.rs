//! What a run counted, and the summary of it.

use crate::cpu::{self, CpuTime, Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Points of the latency curve in a summary: quantiles from 0 to 1, denser towards the end.
const CURVE: [f64; 17] = [
    0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999,
    0.99999, 1.0,
];

/// Whom to watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    pub(crate) pids: Vec<u32>,
    pub(crate) cores: Vec<u32>,
}

impl Watch {
    fn read(&self) -> anyhow::Result<Usage> {
        cpu::usage(&self.pids, &self.cores)
    }
}

/// The measured window: from its first moment until the last request of the schedule was given out.
#[derive(Debug, Clone, Copy)]
struct Edge {
    at: Instant,
    own: CpuTime,
    watched: Usage,
    done: u64,
    bytes: u64,
}

/// Counts.
pub(crate) struct Tally {
    watch: Watch,
    window: Option<Edge>,
    /// Due from here on is measured.
    from: Instant,
    end: Option<Edge>,
    /// Answers, of the whole run.
    pub(crate) done: u64,
    /// Body bytes, of the whole run, both directions.
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) connections: u64,
    pub(crate) full_handshakes: u64,
    pub(crate) resumed: u64,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    latency: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new(watch: Watch) -> anyhow::Result<Self> {
        Ok(Self {
            watch,
            window: None,
            from: Instant::now(),
            end: None,
            done: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            connections: 0,
            full_handshakes: 0,
            resumed: 0,
            lost: 0,
            sent_bytes: 0,
            received_bytes: 0,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        })
    }

    fn edge(&self) -> anyhow::Result<Edge> {
        Ok(Edge {
            at: Instant::now(),
            own: CpuTime::own()?,
            watched: self.watch.read()?,
            done: self.done,
            bytes: self.bytes,
        })
    }

    /// The warm-up is over; what was due from `from` on is measured.
    pub(crate) fn open(&mut self, from: Instant) -> anyhow::Result<()> {
        self.from = from;
        self.window = Some(self.edge()?);
        Ok(())
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.window.is_some()
    }

    /// The measured time is over; what is on its way still counts for latency, not for rates.
    pub(crate) fn close(&mut self) -> anyhow::Result<()> {
        if self.end.is_none() {
            self.end = Some(self.edge()?);
        }
        Ok(())
    }

    pub(crate) fn answered(&mut self, scheduled: Instant, body: u64) {
        self.done += 1;
        self.bytes += body;
        // What was due during the warm-up is not measured, even if it was answered later.
        if self.is_open() && scheduled >= self.from {
            let nanos = u64::try_from(scheduled.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latency.saturating_record(nanos.max(1));
        }
    }

    pub(crate) fn failed(&mut self, why: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(why);
    }

    pub(crate) fn summary(&self) -> anyhow::Result<Summary> {
        let start = self.window.map_or_else(|| self.edge(), Ok)?;
        let end = self.end.map_or_else(|| self.edge(), Ok)?;
        let seconds = (end.at - start.at).as_secs_f64().max(1e-9);
        let requests = end.done - start.done;
        #[allow(clippy::cast_precision_loss)]
        let n = requests.max(1) as f64;
        #[allow(clippy::cast_precision_loss)]
        let ms = |quantile: f64| self.latency.value_at_quantile(quantile) as f64 / 1e6;
        let own = end.own.since(start.own);
        let cpu = end.watched.cpu.since(start.watched.cpu);
        let watched = (!self.watch.pids.is_empty()).then(|| Watched {
            user_us: cpu.user * 1e6 / n,
            system_us: cpu.system * 1e6 / n,
            user_seconds: cpu.user,
            system_seconds: cpu.system,
            #[allow(clippy::cast_precision_loss)]
            switches: end.watched.switches.saturating_sub(start.watched.switches) as f64 / n,
            rss_before: start.watched.rss,
            rss: end.watched.rss,
            processes: end.watched.processes,
        });
        let core_busy = (!self.watch.cores.is_empty())
            .then_some(end.watched.core_busy - start.watched.core_busy);
        #[allow(clippy::cast_precision_loss)]
        Ok(Summary {
            requests,
            errors: self.errors,
            first_error: self.first_error.clone(),
            seconds,
            per_second: requests as f64 / seconds,
            body_bytes: end.bytes - start.bytes,
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: self.latency.max() as f64 / 1e6,
            curve: CURVE.map(|q| (q, ms(q))).to_vec(),
            own_cpu_us: own.total() * 1e6 / n,
            own_busy: own.total() / seconds,
            watched,
            core_busy_seconds: core_busy,
            total: Totals {
                requests: self.done,
                body_bytes: self.bytes,
                connections: self.connections,
                full_handshakes: self.full_handshakes,
                resumed: self.resumed,
                lost: self.lost,
                sent_bytes: self.sent_bytes,
                received_bytes: self.received_bytes,
            },
        })
    }
}

/// Result of a run. Rates and CPU are of the measured window, latencies of the requests that were due in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// Both directions.
    pub(crate) body_bytes: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Quantile and milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
    /// The load generator's own CPU time per request.
    pub(crate) own_cpu_us: f64,
    /// The load generator's own share of a core.
    pub(crate) own_busy: f64,
    pub(crate) watched: Option<Watched>,
    /// Seconds in which the watched cores were not idle.
    pub(crate) core_busy_seconds: Option<f64>,
    /// Of the whole run, warm-up included: what the other side must have counted too.
    pub(crate) total: Totals,
}

/// What the watched processes used in the window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Watched {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Context switches per request.
    pub(crate) switches: f64,
    /// Resident bytes at the window's start.
    pub(crate) rss_before: u64,
    /// Resident bytes at its end.
    pub(crate) rss: u64,
    pub(crate) processes: u64,
}

/// Counts of a whole run.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) body_bytes: u64,
    pub(crate) connections: u64,
    pub(crate) full_handshakes: u64,
    pub(crate) resumed: u64,
    pub(crate) lost: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}
