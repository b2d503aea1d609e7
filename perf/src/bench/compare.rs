//! `compare`: is the new amphora cheaper, dearer, or is no difference seen?

use super::contender::{Programs, Who};
use super::report::Report;
use super::{Effort, Plan, results, table, topology, versions, workload};
use crate::output;
use anyhow::bail;
use std::path::{Path, PathBuf};

/// Fewer pairs give an interval that contains 1.00 too seldom: with n pairs of equal binaries it misses
/// with a chance of 2 in 2ⁿ at five, of at most 5 % from six on.
const LEAST_PAIRS: i64 = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An amphora binary
    old: PathBuf,
    /// Another one
    new: PathBuf,
    /// Workloads
    #[arg(
        long = "work",
        value_delimiter = ',',
        default_value = "http-1k,http-close,tls-full-ecdsa,tcp-connect,tcp-bulk-1"
    )]
    work: Vec<String>,
    /// Pairs; from 9 on a disturbed one does not decide
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(LEAST_PAIRS..=100))]
    pairs: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Everything in one namespace over its loopback
    #[arg(long)]
    loopback: bool,
    /// Write everything to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Pairs and seconds of a comparison.
#[derive(Debug, Clone, Copy)]
struct Extent {
    pairs: u32,
    seconds: f64,
    loopback: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SelfTest {
    /// The amphora binary
    amphora: PathBuf,
    /// Workloads
    #[arg(long = "work", value_delimiter = ',', default_value = "http-1k")]
    work: Vec<String>,
    /// Pairs; from 9 on a disturbed one does not decide
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(LEAST_PAIRS..=100))]
    pairs: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// The handicap that must be found.
const HANDICAP: f64 = 0.10;

/// Runs both in turn; true when the new one is not dearer in any workload.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let extent = Extent {
        pairs: args.pairs,
        seconds: args.seconds,
        loopback: args.loopback,
    };
    let report = measure((&args.old, &args.new), &args.work, extent, None)
        .inspect_err(|_| topology::end_if_interrupted())?;
    output::text(&table::render(&report))?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(!dearer(&report) && report.failed.is_empty())
}

fn dearer(report: &Report) -> bool {
    let mut ratios = report.rows.iter().flat_map(|row| &row.ratios);
    ratios.any(|ratio| ratio.counts.interval().0 > 1.0)
}

/// A against A must show no difference, A with a handicap must be found dearer.
pub(crate) fn self_test(args: &SelfTest) -> anyhow::Result<bool> {
    let extent = Extent {
        pairs: args.pairs,
        seconds: args.seconds,
        loopback: false,
    };
    let both = (args.amphora.as_path(), args.amphora.as_path());
    let mut good = true;
    for handicap in [None, Some(HANDICAP)] {
        let report = measure(both, &args.work, extent, handicap)
            .inspect_err(|_| topology::end_if_interrupted())?;
        let ratios = || report.rows.iter().flat_map(|row| &row.ratios);
        let right = report.failed.is_empty()
            && ratios().count() == report.rows.len()
            && match handicap {
                None => ratios().all(|ratio| ratio.tree.contains(1.0)),
                Some(_) => ratios().all(|ratio| ratio.tree.interval().0 > 1.0),
            };
        output::text(&table::render(&report))?;
        let what = match handicap {
            None => "the same binary twice: the interval contains 1.00",
            Some(_) => "ten per cent more CPU per request: found",
        };
        output::line(&format!("{what}: {}", if right { "yes" } else { "NO" }))?;
        good &= right;
    }
    Ok(good)
}

fn measure(
    (old, new): (&Path, &Path),
    work: &[String],
    extent: Extent,
    handicap: Option<f64>,
) -> anyhow::Result<Report> {
    if !(0.1..=600.0).contains(&extent.seconds) {
        bail!("--seconds {}: use 0.1 to 600", extent.seconds);
    }
    for path in [old, new] {
        if !path.is_file() {
            bail!("{}: there is no such program", path.display());
        }
    }
    let programs = Programs {
        amphora: std::path::absolute(new)?,
        old: Some(std::path::absolute(old)?),
        handicap,
        haproxy: None,
        nginx: None,
        tree: Path::new("/").into(),
    };
    let who = vec![Who::Krater, Who::Old];
    let mut works = workload::select(work)?;
    for work in &mut works {
        work.goal = None; // the goals are against HAProxy
    }
    Plan {
        suite: "compare".into(),
        loopback: extent.loopback,
        effort: Effort {
            pairs: extent.pairs,
            seconds: extent.seconds,
            warmup: 0.5,
            smoke: false,
        },
        versions: versions(&programs, &who)?,
        who,
        works,
        programs,
        checkout: results::checkout(),
    }
    .measure()
}
