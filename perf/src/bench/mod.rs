//! `run`: Krater and its peers in turn, on a topology of its own.

pub(crate) mod change;
pub(crate) mod compare;
mod contender;
mod helpers;
pub(crate) mod report;
mod results;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod topology;
mod wire;
pub(crate) mod workload;

use anyhow::{Context, bail};
pub(crate) use contender::unpacked;
use contender::{Contender, Programs, Task, Who};
use helpers::Origin;
use report::{Cell, Report, Row};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use topology::{Place, Topology};
use workload::{SMOKE, Service, Unit, Workload};

use crate::calls::{self, Calls};
use crate::load::Summary;
use crate::sockets::Sockets;
use crate::{cpu, html, output};

/// Share of the weaker side's capacity at which CPU per unit is taken.
const SHARE: f64 = 0.6;
/// The same for latency.
const LATENCY_SHARE: f64 = 0.5;
/// Above this share of a core client and server together are the bottleneck.
const BOUND: f64 = 0.9;
/// Ticks of 10 ms let the core's time fall this far short of the process's; not further.
const CREDIBLE: f64 = 0.9;
/// How long counters may take to settle.
const SETTLING: Duration = Duration::from_secs(5);

/// Pairs and seconds of the full suite.
const FULL_PAIRS: u32 = 5;
const FULL_SECONDS: f64 = 1.5;
/// Bytes of a configuration that the report shows.
const SHOWN: usize = 6_000;
/// Seconds in which system calls and bytes are counted.
const COUNTED_FOR: &str = "0.5";
/// Pairs of a row about changes: each takes ten seconds and more.
const CHANGE_PAIRS: u32 = 3;
/// What a measurement takes beside its seconds: idle baseline, start and stop, counters that settle.
const AROUND: f64 = 0.8;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Five pairs of a second and a half: what may be quoted.
    Full,
    /// Three pairs of a second.
    Quick,
    /// One short run each: equal work and no errors, no figures worth reading.
    Smoke,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Peers: haproxy, nginx, direct
    #[arg(
        long = "peer",
        value_delimiter = ',',
        default_value = "haproxy,nginx,direct"
    )]
    peers: Vec<String>,
    /// Workloads, all without
    #[arg(long = "work", value_delimiter = ',')]
    work: Vec<String>,
    /// How much is measured
    #[arg(long, value_enum, default_value = "quick")]
    suite: Suite,
    /// Pairs, instead of the suite's
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: Option<u32>,
    /// Seconds of each measurement, instead of the suite's
    #[arg(long)]
    seconds: Option<f64>,
    /// Everything in one namespace over its loopback, instead of three joined by veth
    #[arg(long)]
    loopback: bool,
    /// The release amphora [default: beside this program, or in $KRATER_BIN_DIR]
    #[arg(long)]
    amphora: Option<PathBuf>,
    /// Folder of `cargo xtask setup` [default: $KRATER_PEERS, or target/peers]
    #[arg(long)]
    peers_dir: Option<PathBuf>,
    /// Another build of a peer, such as haproxy=/path; may be repeated
    #[arg(long = "peer-bin")]
    peer_bins: Vec<String>,
    /// Print all figures of all contenders: system calls, latency, memory, the load generator's cost
    #[arg(long)]
    details: bool,
    /// Write everything, raw values of all pairs included, to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the same as one HTML file that needs no network
    #[arg(long)]
    html: Option<PathBuf>,
    /// Folder that gets text and JSON of a whole full suite, named by commit; needs a clean checkout and
    /// an amphora built from it
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Pairs and seconds.
#[derive(Debug, Clone, Copy)]
struct Effort {
    pairs: u32,
    seconds: f64,
    warmup: f64,
    smoke: bool,
}

impl Args {
    fn effort(&self) -> anyhow::Result<Effort> {
        let (pairs, seconds, warmup) = match self.suite {
            Suite::Full => (FULL_PAIRS, FULL_SECONDS, 0.5),
            Suite::Quick => (3, 1.0, 0.3),
            Suite::Smoke => (1, 0.3, 0.0),
        };
        let seconds = self.seconds.unwrap_or(seconds);
        if !(0.1..=600.0).contains(&seconds) {
            bail!("--seconds {seconds}: use 0.1 to 600");
        }
        Ok(Effort {
            pairs: self.pairs.unwrap_or(pairs),
            seconds,
            warmup,
            smoke: self.suite == Suite::Smoke,
        })
    }

    /// Whether this is the full suite and nothing less.
    fn whole(&self, who: &[Who]) -> bool {
        let all = [
            Who::HaproxyOctavia,
            Who::HaproxyTuned,
            Who::Nginx,
            Who::Direct,
        ];
        self.suite == Suite::Full
            && self.work.is_empty()
            && self.pairs.is_none_or(|pairs| pairs >= FULL_PAIRS)
            && self.seconds.is_none_or(|seconds| seconds >= FULL_SECONDS)
            && !self.loopback
            && all.iter().all(|peer| who.contains(peer))
    }

    fn who(&self) -> anyhow::Result<Vec<Who>> {
        let mut who = vec![Who::Krater];
        for name in &self.peers {
            match name.as_str() {
                "haproxy" => who.extend([Who::HaproxyOctavia, Who::HaproxyTuned]),
                "nginx" => who.push(Who::Nginx),
                "direct" => who.push(Who::Direct),
                _ => bail!("--peer {name}: use haproxy, nginx, direct"),
            }
        }
        who.dedup();
        Ok(who)
    }

    fn programs(&self) -> anyhow::Result<Programs> {
        let (amphora, tree) = places(self.amphora.as_deref(), self.peers_dir.as_deref())?;
        let mut named = BTreeMap::new();
        for text in &self.peer_bins {
            let Some((name @ ("haproxy" | "nginx"), path)) = text.split_once('=') else {
                bail!("--peer-bin {text}: write haproxy=PATH or nginx=PATH");
            };
            if !Path::new(path).exists() {
                bail!("--peer-bin {text}: there is no such file");
            }
            named.insert(name, PathBuf::from(path));
        }
        let peer = |name: &str| named.get(name).cloned().or_else(|| installed(&tree, name));
        Ok(Programs {
            amphora,
            old: None,
            handicap: None,
            haproxy: peer("haproxy"),
            nginx: peer("nginx"),
            tree: tree.clone(),
        })
    }
}

/// The amphora to measure, and the folder of unpacked peers.
pub(crate) fn places(
    amphora: Option<&Path>,
    peers: Option<&Path>,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let exe = std::env::current_exe()?;
    let beside = exe.parent().unwrap_or_else(|| Path::new("/"));
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let amphora = match (amphora, given("KRATER_BIN_DIR")) {
        (Some(path), _) => path.to_path_buf(),
        (None, Some(folder)) => folder.join("amphora"),
        (None, None) => beside.join("amphora"),
    };
    if !amphora.exists() {
        bail!(
            "{} is missing: run `cargo build --release -p krater-agent`, or give --amphora PATH",
            amphora.display()
        );
    }
    let peers = peers
        .map(Path::to_path_buf)
        .or_else(|| given("KRATER_PEERS"))
        .unwrap_or_else(|| beside.join("../peers"));
    // Peers are started with another working folder.
    let tree = std::path::absolute(peers.join("tree"))?;
    Ok((std::path::absolute(amphora)?, tree))
}

/// A peer's program, unpacked or installed.
pub(crate) fn installed(tree: &Path, name: &str) -> Option<PathBuf> {
    let places = [
        tree.join("usr/sbin"),
        "/usr/sbin".into(),
        "/usr/local/sbin".into(),
    ];
    places
        .into_iter()
        .map(|place| place.join(name))
        .find(|path| path.exists())
}

/// Runs the bench; true when all went well.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    measure(args).inspect_err(|_| topology::end_if_interrupted())
}

fn measure(args: &Args) -> anyhow::Result<bool> {
    let (effort, who, programs) = (args.effort()?, args.who()?, args.programs()?);
    let works = workload::select(&args.work)?;
    let versions = versions(&programs, &who)?;
    let checkout = results::checkout();
    if args.results.is_some() {
        results::may_be_kept(args.whole(&who), checkout.as_ref(), &versions)?;
    }
    let report = Plan {
        suite: format!("{:?}", args.suite).to_lowercase(),
        loopback: args.loopback,
        effort,
        who,
        works,
        programs,
        versions,
        checkout: checkout.clone(),
    }
    .measure()?;
    let table = table::render(&report);
    output::text(&table)?;
    if args.details {
        output::text(&format!("\n{}", table::details(&report)))?;
    }
    if let (Some(folder), Some(checkout)) = (&args.results, &checkout) {
        results::keep(folder, checkout, &report, &table)?;
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.html {
        html::keep(path, &report)?;
    }
    Ok(report.failed.is_empty())
}

/// A run that is decided upon.
struct Plan {
    suite: String,
    loopback: bool,
    effort: Effort,
    who: Vec<Who>,
    works: Vec<Workload>,
    programs: Programs,
    versions: BTreeMap<String, String>,
    checkout: Option<results::Checkout>,
}

impl Plan {
    fn measure(&self) -> anyhow::Result<Report> {
        let me = krater_net::process::ProcessId::of(std::process::id())?;
        topology::clean_up_on_signals(me)?;
        let topology = Topology::new(self.loopback)?;
        let pems = (helpers::certificate(false)?, helpers::certificate(true)?);
        let mut origin = Origin::start(&topology, &pems.0)?;
        let mut report = Report {
            command: std::env::args().collect(),
            suite: self.suite.clone(),
            commit: self.checkout.as_ref().map(|c| c.commit.clone()),
            dirty: self.checkout.as_ref().map(|c| c.dirty),
            versions: self.versions.clone(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            cpu: processor(),
            cores: std::thread::available_parallelism()?.get(),
            loopback: self.loopback,
            rows: Vec::new(),
            failed: BTreeMap::new(),
        };
        table::estimate(self.works.len(), self.estimate());
        let tracepoint = calls::tracepoint().map_err(|error| format!("{error:#}"));
        let start = Instant::now();
        for (done, work) in self.works.iter().enumerate() {
            table::progress(work.name, done, self.works.len(), start.elapsed());
            let pem = match work.service {
                Service::TlsRsa => &pems.1,
                _ => &pems.0,
            };
            let mut bench = Bench {
                topology: &topology,
                programs: &self.programs,
                origin: &mut origin,
                pem,
                effort: self.effort,
                tracepoint: &tracepoint,
            };
            match bench.row(work, &self.who) {
                Ok(row) => report.rows.push(row),
                Err(error) => {
                    topology::end_if_interrupted();
                    let why = format!("{error:#}");
                    table::failure(work.name, &why);
                    report.failed.insert(work.name.into(), why);
                    // Whatever went wrong must not count in the next one.
                    drop(origin);
                    origin = Origin::start(&topology, &pems.0)?;
                }
            }
        }
        if let (true, Some((name, why))) = (report.rows.is_empty(), report.failed.iter().next()) {
            bail!("every workload failed; {name}: {why}");
        }
        table::progress("", self.works.len(), self.works.len(), start.elapsed());
        Ok(report)
    }
}

impl Plan {
    /// How long it will take, roughly.
    fn estimate(&self) -> Duration {
        let effort = self.effort;
        let each = effort.seconds + effort.warmup + AROUND;
        let seconds = |work: &Workload| {
            let does = |w: &&Who| w.does(work.service) && w.changes(work.unit);
            let sides = self.who.iter().filter(does).count();
            // The rate for all is found first.
            let rounds = f64::from(effort.pairs) + if effort.smoke { 0.0 } else { 0.7 };
            f64::from(u32::try_from(sides).unwrap_or(u32::MAX)) * rounds * each
        };
        Duration::from_secs_f64(self.works.iter().map(seconds).sum())
    }
}

fn versions(programs: &Programs, who: &[Who]) -> anyhow::Result<BTreeMap<String, String>> {
    who.iter()
        .map(|who| Ok((who.name().to_owned(), programs.version(*who)?)))
        .collect()
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

struct Bench<'a> {
    topology: &'a Topology,
    programs: &'a Programs,
    origin: &'a mut Origin,
    pem: &'a str,
    effort: Effort,
    /// Of the kernel's count of system calls, or why there is none.
    tracepoint: &'a Result<u64, String>,
}

impl Bench<'_> {
    /// A configuration as the report shows it: without this machine's paths.
    fn shown(&self, text: &str) -> String {
        let tree = &self.programs.tree;
        shortened(match tree.parent() {
            Some(_) => text.replace(&tree.display().to_string(), "TREE"),
            None => text.to_owned(),
        })
    }

    fn task(&self, work: &Workload) -> Task<'_> {
        Task {
            service: work.service,
            topology: self.topology,
            programs: self.programs,
            origin: &self.origin.ports,
            pem: self.pem,
        }
    }

    fn start(&self, work: &Workload, who: Who) -> anyhow::Result<Contender> {
        Contender::start(who, &self.task(work))
    }

    /// A cell of a row about changes: failures are its figure, not its end.
    fn change(&self, work: &Workload, contender: &Contender) -> anyhow::Result<Cell> {
        let smoke = self.effort.smoke;
        let (change, summary) = change::measure(work, contender, &self.task(work), smoke)?;
        Ok(Cell {
            user: None,
            system: None,
            core: None,
            memory: None,
            latency: None,
            apply_ms: change.applied(),
            change: Some(change),
            generator_bound: false,
            summary,
        })
    }

    fn row(&mut self, work: &Workload, who: &[Who]) -> anyhow::Result<Row> {
        // Memory is only told by a process that has never had more connections, or other configurations.
        let fresh = matches!(work.unit, Unit::IdleConnection | Unit::Change);
        let mut row = Row {
            workload: work.name.into(),
            unit: work.unit.name().into(),
            goal: work.goal,
            rate: None,
            notes: notes(work),
            doubts: Vec::new(),
            cells: BTreeMap::new(),
            ratios: Vec::new(),
            calls: BTreeMap::new(),
            epoll_ctl: BTreeMap::new(),
            configurations: BTreeMap::new(),
        };
        let all = who;
        let who: Vec<Who> = all
            .iter()
            .copied()
            .filter(|w| w.does(work.service) && w.changes(work.unit))
            .collect();
        for missing in all.iter().filter(|w| !who.contains(w)) {
            let name = missing.name();
            row.doubts.push(match missing {
                Who::Krater | Who::Old => format!("{name}: not yet"),
                _ => format!("{name}: cannot do this at all"),
            });
        }
        let mut living = Vec::new();
        for who in &who {
            let contender = self.start(work, *who)?;
            let text = self.shown(&contender.configuration);
            row.configurations.insert(who.name().into(), text);
            living.push(contender);
        }
        if fresh {
            living.clear();
        } else if self.paced(work) && living.iter().any(|c| c.pid().is_some()) {
            row.rate = Some(self.rate(work, &living)?);
        }
        let pairs = match work.unit {
            Unit::Change => self.effort.pairs.min(CHANGE_PAIRS),
            _ => self.effort.pairs,
        };
        for pair in 1..=pairs {
            // One after the other, in the same order: A B C A B C …
            for (place, who) in who.iter().enumerate() {
                let own = if fresh {
                    Some(self.start(work, *who)?)
                } else {
                    None
                };
                let contender = own
                    .as_ref()
                    .or_else(|| living.get(place))
                    .context("contender")?;
                let applied = match work.service {
                    Service::Pools(_) if *who != Who::Direct => {
                        let took = contender.change(pair).with_context(|| who.name())?;
                        Some(took.as_secs_f64() * 1e3)
                    }
                    _ => None,
                };
                let cell = match work.unit {
                    Unit::Change => self.change(work, contender),
                    _ => self.cell(work, contender, row.rate),
                };
                let mut cell = cell.with_context(|| who.name())?;
                cell.apply_ms = cell.apply_ms.or(applied);
                row.cells.entry(who.name().into()).or_default().push(cell);
            }
        }
        if !fresh && work.unit != Unit::Latency {
            self.counted(work, &living, &mut row)?;
        }
        row.judge(Who::Krater.name());
        if self.effort.smoke {
            for ratio in &mut row.ratios {
                ratio.verdict = "smoke: equal work, no figures".into();
            }
        }
        Ok(row)
    }

    /// System calls, and bytes as the kernel sees them, counted in a short run of their own.
    fn counted(
        &mut self,
        work: &Workload,
        living: &[Contender],
        row: &mut Row,
    ) -> anyhow::Result<()> {
        if let Err(why) = self.tracepoint {
            row.doubts.push(format!("system calls not counted: {why}"));
        }
        for contender in living.iter().filter(|c| c.pid().is_some()) {
            let mut args = own_args(work);
            if self.effort.smoke {
                self.smoke(work, &mut args);
            } else {
                args.extend(["--duration", COUNTED_FOR].map(str::to_owned));
            }
            if let Some(rate) = row.rate {
                args.extend(["--rate".to_owned(), format!("{rate:.3}")]);
            }
            let name = contender.who.name();
            let mut sockets = self.sockets(contender).context(name)?;
            let pids = contender.pids();
            let mut counters = match self.tracepoint {
                Ok(number) => vec![
                    Calls::attach(*number, &pids)?,
                    Calls::attach_to_polling(*number, &pids)?,
                ],
                Err(_) => Vec::new(),
            };
            let mut count = || {
                let counts = counters.iter_mut().map(Calls::count);
                counts.collect::<anyhow::Result<Vec<u64>>>()
            };
            let before = count()?;
            let (summary, _) = self.checked(work, contender, &args).context(name)?;
            let after = count()?;
            if work.service != Service::Udp {
                self.same_bytes(work, &summary, &mut sockets)
                    .context(name)?;
            }
            #[allow(clippy::cast_precision_loss)]
            let units = match work.unit {
                Unit::Gigabyte => summary.total.body_bytes as f64 / 1e9,
                _ => summary.total.requests as f64,
            };
            for (n, row) in [&mut row.calls, &mut row.epoll_ctl].into_iter().enumerate() {
                let (Some(before), Some(after)) = (before.get(n), after.get(n)) else {
                    continue;
                };
                #[allow(clippy::cast_precision_loss)]
                let calls = (after - before) as f64;
                row.insert(name.into(), calls / units.max(f64::MIN_POSITIVE));
            }
        }
        Ok(())
    }

    /// Counts at the load balancer's side of its connections to clients.
    fn sockets(&self, contender: &Contender) -> anyhow::Result<Sockets> {
        let port = contender.address.port();
        let watched = self
            .topology
            .within(Place::Balancer, || Sockets::watch(port))?;
        watched.context("watch the load balancer's sockets (sock_diag)")
    }

    /// The kernel must have seen at the load balancer what the client counted.
    fn same_bytes(
        &self,
        work: &Workload,
        client: &Summary,
        sockets: &mut Sockets,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLING;
        loop {
            let moved = self
                .topology
                .within(Place::Balancer, || sockets.count())?
                .context("count the load balancer's sockets (sock_diag)")?;
            match wire::compare(work, &client.total, &moved) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Little is enough to see that the work is done.
    fn smoke(&self, work: &Workload, args: &mut Vec<String>) {
        for (name, value) in [
            ("--duration", "20"),
            ("--requests", SMOKE),
            ("--connections", "8"),
        ] {
            set(args, name, value);
        }
        if work.load.contains(&"--bulk") {
            set(args, "--bulk", "1000000");
        }
    }

    /// Whether the workload runs at a fixed rate.
    fn paced(&self, work: &Workload) -> bool {
        let own_pace = ["--pipeline", "--slow", "--idle"];
        !self.effort.smoke && !work.load.iter().any(|o| own_pace.contains(o))
    }

    /// The rate for all: a share of what the weakest load balancer can do.
    fn rate(&mut self, work: &Workload, living: &[Contender]) -> anyhow::Result<f64> {
        let mut lowest = f64::INFINITY;
        for contender in living.iter().filter(|c| c.pid().is_some()) {
            let mut args = own_args(work);
            args.extend(["--duration", "1.0", "--warmup", "0.3"].map(str::to_owned));
            let summary = self.checked(work, contender, &args)?.0;
            lowest = lowest.min(summary.per_second);
        }
        if !(lowest.is_finite() && lowest > 0.0) {
            bail!("no load balancer answered anything");
        }
        Ok(match work.unit {
            Unit::Latency => lowest * LATENCY_SHARE,
            _ => lowest * SHARE,
        })
    }

    fn cell(
        &mut self,
        work: &Workload,
        contender: &Contender,
        rate: Option<f64>,
    ) -> anyhow::Result<Cell> {
        let core = self.topology.cores.0;
        let idle = if self.effort.smoke { 0.0 } else { idle(core)? };
        let mut args = own_args(work);
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        let seconds = self.effort.seconds;
        let closed = !work.load.contains(&"--idle");
        add("--duration", seconds.to_string());
        if closed && self.effort.warmup > 0.0 {
            add("--warmup", self.effort.warmup.to_string());
        }
        if self.effort.smoke && closed {
            self.smoke(work, &mut args);
        } else if self.effort.smoke {
            set(&mut args, "--connections", "8");
        }
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        if let Some(rate) = rate {
            add("--rate", format!("{rate:.3}"));
        }
        for pid in contender.pids() {
            add("--pid", pid.to_string());
        }
        add("--core", core.to_string());
        let memory = work.unit == Unit::IdleConnection;
        // Elsewhere in a run of its own: it would be in the way of what is measured here.
        let mut sockets = match memory && contender.pid().is_some() {
            true => Some(self.sockets(contender)?),
            false => None,
        };
        let (summary, origin_cpu) = self.checked(work, contender, &args)?;
        if let Some(sockets) = &mut sockets {
            self.same_bytes(work, &summary, sockets)?;
        }
        if summary.requests == 0 && !memory {
            bail!("nothing was answered within {seconds} s: give more --seconds");
        }
        let per = |seconds: f64| per_unit(work.unit, &summary, seconds);
        let latency = work.unit == Unit::Latency;
        #[allow(clippy::cast_precision_loss)]
        let connections = summary.total.connections.max(1) as f64;
        #[allow(clippy::cast_precision_loss)]
        let grown =
            |w: crate::load::tally::Watched| (w.rss as f64 - w.rss_before as f64) / connections;
        let process = summary
            .watched
            .map_or(0.0, |w| w.user_seconds + w.system_seconds);
        Ok(Cell {
            user: summary.watched.map(|w| per(w.user_seconds)),
            system: summary.watched.map(|w| per(w.system_seconds)),
            core: summary
                .core_busy_seconds
                .filter(|_| !memory && !latency)
                .map(|busy| busy - idle * summary.seconds)
                // A core cannot be busy for less than its process runs: others were on it before.
                .filter(|busy| *busy >= process * CREDIBLE)
                .map(|busy| per(busy.max(0.0))),
            memory: summary.watched.filter(|_| memory).map(grown),
            latency: latency.then_some(summary.p99_ms),
            apply_ms: None,
            change: None,
            generator_bound: summary.own_busy + origin_cpu / summary.seconds > BOUND,
            summary,
        })
    }

    /// Runs a load and checks that client, load balancer and server saw the same work. Gives the
    /// summary and the origin's CPU time.
    fn checked(
        &mut self,
        work: &Workload,
        contender: &Contender,
        args: &[String],
    ) -> anyhow::Result<(Summary, f64)> {
        let before = (self.origin.counts()?, contender.seen()?);
        let url = work.url.replace("{}", &contender.address.to_string());
        let summary = helpers::load(self.topology, &url, args)?;
        if summary.errors > 0 {
            let why = summary.first_error.as_deref().unwrap_or("unknown");
            bail!("{} errors, the first: {why}", summary.errors);
        }
        let end = Instant::now() + SETTLING;
        loop {
            let after = (self.origin.counts()?, contender.seen()?);
            match equal_work(work, contender.who, &summary, &before, &after) {
                Ok(()) => return Ok((summary, after.0.cpu - before.0.cpu)),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

type Sight = (crate::origin::Counts, Option<contender::Seen>);

/// Bytes and requests at the client, the load balancer and the server must agree.
fn equal_work(
    work: &Workload,
    who: Who,
    client: &Summary,
    before: &Sight,
    after: &Sight,
) -> anyhow::Result<()> {
    let (a, b) = (&before.0, &after.0);
    let total = &client.total;
    if work.service == Service::Udp {
        // A datagram may be lost on either side of the server.
        let served = b.requests.saturating_sub(a.requests);
        let (least, most) = (total.requests, total.requests + total.lost);
        if !(least..=most).contains(&served) {
            bail!(
                "unequal work: {served} datagrams at the server, {least} to {most} at the client"
            );
        }
        return Ok(());
    }
    let mut pairs = vec![
        (
            "body bytes at client and server",
            total.body_bytes,
            b.body_bytes.saturating_sub(a.body_bytes),
        ),
        ("faults at the server", 0, b.bad.saturating_sub(a.bad)),
    ];
    let http = work.service.is_http();
    let counted = work.service != Service::Echo;
    if counted {
        let served = b.requests.saturating_sub(a.requests);
        pairs.push(("requests at client and server", total.requests, served));
        if http && who != Who::Direct && !work.url.starts_with("ws") {
            let forwarded = b.forwarded.saturating_sub(a.forwarded);
            pairs.push(("requests with X-Forwarded-For", total.requests, forwarded));
        }
    }
    if let (Some(a), Some(b)) = (before.1, after.1) {
        let connections = b.connections.saturating_sub(a.connections);
        pairs.push((
            "connections at client and load balancer",
            total.connections,
            connections,
        ));
        // Above TLS the client counts what is inside; and HAProxy counts its own form of a message (HTX)
        // where it parses HTTP.
        let tls = work.service.is_tls();
        if !tls && (matches!(who, Who::Krater | Who::Old) || !http) {
            let (bytes_in, bytes_out) = (
                b.bytes_in.saturating_sub(a.bytes_in),
                b.bytes_out.saturating_sub(a.bytes_out),
            );
            pairs.push((
                "bytes from client to load balancer",
                total.sent_bytes,
                bytes_in,
            ));
            pairs.push((
                "bytes from load balancer to client",
                total.received_bytes,
                bytes_out,
            ));
        }
    }
    for (what, left, right) in pairs {
        if left != right {
            bail!("unequal work: {what}: {left} and {right}");
        }
    }
    Ok(())
}

/// The beginning of a configuration: a thousand pools are alike.
fn shortened(text: String) -> String {
    if text.len() <= SHOWN {
        return text;
    }
    let end = (0..=SHOWN).rev().find(|n| text.is_char_boundary(*n));
    let (shown, rest) = text.split_at(end.unwrap_or(0));
    format!("{shown}\n… and {} bytes more of the same\n", rest.len())
}

fn own_args(work: &Workload) -> Vec<String> {
    work.load.iter().map(|&s| s.to_owned()).collect()
}

fn set(args: &mut Vec<String>, name: &str, value: &str) {
    if let Some(at) = args.iter().position(|a| a == name) {
        args.drain(at..(at + 2).min(args.len()));
    }
    args.extend([name.to_owned(), value.to_owned()]);
}

/// Seconds → the row's unit.
fn per_unit(unit: Unit, summary: &Summary, seconds: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let (n, bytes) = (
        summary.requests.max(1) as f64,
        summary.body_bytes.max(1) as f64,
    );
    match unit {
        Unit::Gigabyte => seconds * 1e3 / (bytes / 1e9),
        _ => seconds * 1e6 / n,
    }
}

/// The share of the core that is not idle while nothing is asked.
fn idle(core: u32) -> anyhow::Result<f64> {
    let (start, before) = (Instant::now(), cpu::usage(&[], &[core])?);
    std::thread::sleep(Duration::from_millis(500));
    let after = cpu::usage(&[], &[core])?;
    Ok((after.core_busy - before.core_busy) / start.elapsed().as_secs_f64())
}

/// What is on or off on both sides.
fn notes(work: &Workload) -> Vec<String> {
    let http = work.service.is_http();
    let checks = match work.service {
        Service::Pools(_) => "no health checks",
        _ => "health checks every 5 s (nginx: none)",
    };
    let mut notes = vec![format!(
        "request log off, statistics on, time-outs 50 s, {checks}"
    )];
    if work.unit == Unit::Change {
        notes.push(
            "a WebSocket is opened before each change and stays open; RSS counts pages that old and new \
             processes share for each of them"
                .into(),
        );
    }
    if work.load.contains(&"hybrid") {
        notes.push(
            "the client prefers X25519MLKEM768: Krater uses it, the peers' OpenSSL 3.0 has X25519 alone and does less"
                .into(),
        );
    }
    if http {
        notes.push("X-Forwarded-For on in all, keep-alive to members on in all".into());
    }
    notes
}

#[cfg(test)]
mod tests;
