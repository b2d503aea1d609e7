//! The load generator: closed loop over `--connections`, or open loop at `--rate`, always bounded.

use crate::cpu::{CpuTime, PerRequest};
use crate::http::{Client, Target};
use anyhow::bail;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// Connections at the most: half of the 20,000 open files of the smallest machine we support.
const MAX_CONNECTIONS: u32 = 10_000;
/// Longest run.
const MAX_SECONDS: f64 = 3_600.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Server, such as http://127.0.0.1:8080/
    url: String,
    /// Connections that are open at the same time
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Seconds to run
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Requests to send at the most
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// Open loop: requests per second on a fixed schedule; latency counts from the scheduled time
    #[arg(long)]
    rate: Option<f64>,
    /// A new connection for each request
    #[arg(long)]
    close: bool,
    /// Process whose CPU time is divided by the requests; may be repeated
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) body_bytes: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) own_cpu_us: f64,
    pub(crate) watched: Option<PerRequest>,
}

struct Tally {
    started: Instant,
    deadline: Instant,
    sent: u64,
    limit: u64,
    done: u64,
    errors: u64,
    first_error: Option<String>,
    body_bytes: u64,
    latency: Histogram<u64>,
    /// Seconds between two scheduled requests.
    spacing: Option<f64>,
}

impl Tally {
    /// The next request's scheduled time; none when the run is over.
    fn take(&mut self) -> Option<Instant> {
        let now = Instant::now();
        #[allow(clippy::cast_precision_loss)]
        let at = match self.spacing {
            Some(spacing) => self.started + Duration::from_secs_f64(spacing * self.sent as f64),
            None => now,
        };
        if self.sent >= self.limit || at >= self.deadline || now >= self.deadline {
            return None;
        }
        self.sent += 1;
        Some(at)
    }

    fn record(&mut self, scheduled: Instant, result: anyhow::Result<usize>) {
        match result {
            Ok(bytes) => {
                self.done += 1;
                self.body_bytes += bytes as u64;
                let micros = u64::try_from(scheduled.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latency.saturating_record(micros.max(1));
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

/// Runs the load and sums up.
pub(crate) fn run(args: &Args) -> anyhow::Result<Summary> {
    let target = Target::parse(&args.url)?;
    if args.connections == 0 || args.connections > MAX_CONNECTIONS {
        bail!(
            "--connections {}: use 1 to {MAX_CONNECTIONS}",
            args.connections
        );
    }
    if !(args.duration > 0.0 && args.duration <= MAX_SECONDS) {
        bail!(
            "--duration {}: use more than 0 and at most {MAX_SECONDS} seconds",
            args.duration
        );
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        bail!("--rate: use more than 0 and at most 1000000 requests per second");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let me = [std::process::id()];
    let (own_before, watched_before) = (CpuTime::of(&me)?, CpuTime::of(&args.pids)?);
    let started = Instant::now();
    let tally = Rc::new(RefCell::new(Tally {
        started,
        deadline: started + Duration::from_secs_f64(args.duration),
        sent: 0,
        limit: args.requests,
        done: 0,
        errors: 0,
        first_error: None,
        body_bytes: 0,
        latency: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        spacing: args.rate.map(|rate| 1.0 / rate),
    }));
    let local = LocalSet::new();
    for _ in 0..args.connections {
        local.spawn_local(connection(target.clone(), args.close, Rc::clone(&tally)));
    }
    runtime.block_on(local);
    let seconds = started.elapsed().as_secs_f64();
    let (own, watched) = (CpuTime::of(&me)?, CpuTime::of(&args.pids)?);
    let tally = tally.borrow();
    let own = own.per_request(own_before, tally.done);
    #[allow(clippy::cast_precision_loss)]
    let ms = |quantile: f64| tally.latency.value_at_quantile(quantile) as f64 / 1e3;
    #[allow(clippy::cast_precision_loss)]
    Ok(Summary {
        requests: tally.done,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        seconds,
        per_second: tally.done as f64 / seconds,
        body_bytes: tally.body_bytes,
        p50_ms: ms(0.5),
        p90_ms: ms(0.9),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        max_ms: tally.latency.max() as f64 / 1e3,
        own_cpu_us: own.user_us + own.system_us,
        watched: (!args.pids.is_empty()).then(|| watched.per_request(watched_before, tally.done)),
    })
}

/// One connection's share of the load. After an error it opens a new connection for the next request.
async fn connection(target: Target, close: bool, tally: Rc<RefCell<Tally>>) {
    let request = target.request(close);
    let mut client: Option<Client> = None;
    loop {
        let next = tally.borrow_mut().take();
        let Some(at) = next else { return };
        tokio::time::sleep_until(at.into()).await;
        let result = exchange(&target, &mut client, &request).await;
        let failed = result.is_err();
        if close || failed {
            client = None;
        }
        tally.borrow_mut().record(at, result);
        if failed {
            // A refused connect returns at once: without a pause a dead server would be hammered.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn exchange(
    target: &Target,
    client: &mut Option<Client>,
    request: &[u8],
) -> anyhow::Result<usize> {
    let open = match client {
        Some(open) => open,
        None => client.insert(Client::connect(target).await?),
    };
    match tokio::time::timeout(Duration::from_secs(10), open.exchange(request)).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within 10 s"),
    }
}
