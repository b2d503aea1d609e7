//! `vrrp`: takeovers of Krater and of keepalived by one method, as a client sees them.
//!
//! | file | what it owns |
//! |---|---|
//! | `lab` | namespaces and the switch between them |
//! | `product` | starting, stopping and killing either product |
//! | `dataplane` | the answering machine as a data plane that is watched |
//! | `probe` | the client that asks each millisecond, and what its answers say |
//! | `wire` | announcements that reach the client, addresses in the kernels |
//! | `case` | what is done to a node, and one measurement of it |
//! | `report` | table and JSON |

mod case;
mod clock;
mod dataplane;
mod lab;
mod probe;
mod product;
mod report;
mod wire;

pub(crate) use dataplane::{CheckArgs, check};
pub(crate) use probe::{EchoArgs, echo};

use crate::bench::{installed, places, topology, unpacked};
use crate::output;
use anyhow::{Context, bail};
use case::{Case, Pair, Plan};
use clap::ValueEnum;
use clock::End;
use krater_net::process::ProcessId;
use product::{Product, Programs, Task};
use report::{Report, Row};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Between the adverts of many routers, in milliseconds: at 10 ms neither product has a chance here.
const LARGE_INTERVAL: u32 = 100;
/// The longest interval of VRRP (12 bits of centiseconds), in milliseconds; longer ones than ten seconds would
/// only make a run last.
const LONGEST_INTERVAL: u32 = 10_000;
/// Threads that load the machine in rows under load: more than it has CPUs here.
const LOAD: u32 = 5;
/// What burns CPU is at least stopped by the user then.
const MOST_BURNING: i64 = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who is measured: krater, krater-live (with a liveness session), keepalived, or the Active and the Backup as
    /// in krater+keepalived
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "krater,krater-live,keepalived"
    )]
    who: Vec<String>,
    /// What is done, everything without
    #[arg(long = "case", value_delimiter = ',')]
    cases: Vec<Case>,
    /// Milliseconds between adverts, multiples of 10; cases with many routers have 100
    #[arg(long, value_delimiter = ',', default_value = "10,100")]
    interval: Vec<u32>,
    /// Values of each row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Virtual routers of the cases with many
    #[arg(long, default_value_t = 255, value_parser = clap::value_parser!(u8).range(1..))]
    routers: u8,
    /// The rows under load too, which take eleven minutes for each of --who
    #[arg(long)]
    long: bool,
    /// Seconds for which `steady` looks, `loaded-many` too, and `loaded` ten times as long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds for which `thaw` and `heal` look: what neighbour caches are told late counts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    after: u64,
    /// Seconds that a takeover may take before it counts as none
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
    /// Threads that burn CPU meanwhile
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=MOST_BURNING))]
    burn: u32,
    /// The release amphora [default: beside this program, or in $KRATER_BIN_DIR]
    #[arg(long)]
    amphora: Option<PathBuf>,
    /// Folder of `cargo xtask setup` [default: $KRATER_PEERS, or target/peers]
    #[arg(long)]
    peers_dir: Option<PathBuf>,
    /// Write everything, all values included, to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Break it, to see that it is noticed
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sabotage {
    /// Nobody is there who could take over
    NoBackup,
}

/// Runs the bench; true when every measurement ended.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    measure(args).inspect_err(|_| topology::end_if_interrupted())
}

fn measure(args: &Args) -> anyhow::Result<bool> {
    let pairs = args.who.iter().map(|name| Pair::parse(name));
    let pairs: Vec<Pair> = pairs.collect::<anyhow::Result<_>>()?;
    for interval in &args.interval {
        if !interval.is_multiple_of(10) || !(10..=LONGEST_INTERVAL).contains(interval) {
            bail!("--interval {interval}: use multiples of 10 from 10 to {LONGEST_INTERVAL}");
        }
    }
    let (amphora, tree) = places(args.amphora.as_deref(), args.peers_dir.as_deref())?;
    let programs = Programs {
        amphora,
        keepalived: installed(&tree, "keepalived"),
        tree,
    };
    let cases = match args.cases.as_slice() {
        [] => Case::value_variants(),
        some => some,
    };
    let wanted = |case: &&Case| args.long || !case.is_long() || !args.cases.is_empty();
    let folder = topology::run_folder()?;
    topology::clean_up_on_signals(ProcessId::of(std::process::id())?)?;
    let mut report = Report {
        schema: 1,
        krater: version(Command::new(&programs.amphora))?,
        keepalived: keepalived_version(&pairs, &programs)?,
        kernel: nix::sys::utsname::uname()?
            .release()
            .to_string_lossy()
            .into_owned(),
        cores: std::thread::available_parallelism()?.get(),
        load_average: load_average()?,
        burning: args.burn,
        rows: Vec::new(),
    };
    let burners = Burners::start(args.burn)?;
    for case in cases.iter().filter(wanted) {
        // Beside those of the whole run.
        let load = if case.is_long() && args.burn == 0 {
            LOAD
        } else {
            0
        };
        let load = Burners::start(load)?;
        let intervals = match case.is_large() || case.is_long() {
            true => &[LARGE_INTERVAL][..],
            false => &args.interval,
        };
        for interval in intervals {
            let rows = args.rows(*case, *interval, &pairs, &programs, &folder)?;
            output::text(&tables(&rows))?;
            report.rows.extend(rows);
        }
        drop(load);
    }
    drop(burners);
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(report.rows.iter().all(|row| row.failures.is_empty()))
}

impl Args {
    /// All values of a case: the pairs take turns, so that what disturbs them disturbs all.
    fn rows(
        &self,
        case: Case,
        interval_ms: u32,
        pairs: &[Pair],
        programs: &Programs,
        folder: &Path,
    ) -> anyhow::Result<Vec<Row>> {
        let routers = if case.is_large() { self.routers } else { 1 };
        let mut rows: Vec<Row> = Vec::new();
        let row = |rows: &mut Vec<Row>, case: &'static str, who: &str| -> usize {
            let known = rows.iter().position(|r| r.case == case && r.who == who);
            known.unwrap_or_else(|| {
                rows.push(Row {
                    case,
                    interval_ms,
                    routers,
                    who: who.to_owned(),
                    values: Vec::new(),
                    failures: Vec::new(),
                });
                rows.len() - 1
            })
        };
        let runs = if case.is_long() { 1 } else { self.runs };
        for _ in 0..runs {
            for pair in pairs {
                let plan = Plan {
                    case,
                    pair: *pair,
                    task: Task {
                        centiseconds: u16::try_from(interval_ms / 10)?,
                        routers,
                        mixed: (pair.active == Product::Keepalived)
                            != (pair.backup == Product::Keepalived),
                        watched: case.is_dataplane(),
                    },
                    programs,
                    folder,
                    steady: Duration::from_secs(match case {
                        Case::Loaded => 10 * self.seconds,
                        _ => self.seconds,
                    }),
                    after: Duration::from_secs(self.after),
                    patience: Duration::from_secs(self.patience),
                    no_backup: self.sabotage == Some(Sabotage::NoBackup),
                };
                let who = pair.name();
                let measured = plan.measure();
                topology::end_if_interrupted();
                match measured {
                    Ok(values) => {
                        for (name, value) in values {
                            let at = row(&mut rows, name, &who);
                            rows.iter_mut().skip(at).take(1).for_each(|row| {
                                row.values.push(value.clone());
                            });
                        }
                    }
                    Err(error) => {
                        let at = row(&mut rows, plan.name(), &who);
                        let error = error.context(format!("{} of {who}", plan.name()));
                        output::error(&error);
                        rows.iter_mut().skip(at).take(1).for_each(|row| {
                            row.failures.push(error.root_cause().to_string());
                        });
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// One table for each case's name.
fn tables(rows: &[Row]) -> String {
    let mut names: Vec<&str> = rows.iter().map(|row| row.case).collect();
    names.dedup();
    names.sort_unstable();
    names.dedup();
    let each = names.into_iter().map(|name| {
        let of: Vec<&Row> = rows.iter().filter(|row| row.case == name).collect();
        report::table(&of)
    });
    each.collect()
}

/// First line of what a program says of its version.
fn version(mut command: Command) -> anyhow::Result<String> {
    let what = format!("start {}", command.get_program().display());
    let output = command.arg("--version").output().context(what)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// None when it takes no part; an error when it does and is missing.
fn keepalived_version(pairs: &[Pair], programs: &Programs) -> anyhow::Result<Option<String>> {
    let takes_part = |pair: &Pair| [pair.active, pair.backup].contains(&Product::Keepalived);
    if !pairs.iter().any(takes_part) {
        return Ok(None);
    }
    version(unpacked(programs.need_keepalived()?, &programs.tree)).map(Some)
}

fn load_average() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().context("/proc/loadavg")
}

/// Threads that burn CPU until this is dropped.
#[derive(Debug)]
struct Burners {
    end: End,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Burners {
    fn start(count: u32) -> anyhow::Result<Self> {
        let end = End::default();
        let burn = |_| {
            let told = end.told();
            let work = move || {
                let mut rounds = 0_u64;
                while !told() {
                    rounds = std::hint::black_box(rounds.wrapping_add(1));
                }
            };
            std::thread::Builder::new().name("burn".into()).spawn(work)
        };
        let threads = (0..count).map(burn).collect::<Result<_, _>>()?;
        Ok(Self { end, threads })
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.end.tell();
        for thread in self.threads.drain(..) {
            let _no_result = thread.join();
        }
    }
}
