//! What a run found: all of it, as it is written to JSON.

use super::change::Change;
use super::stats::{self, Spread};
use crate::load::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) command: Vec<String>,
    pub(crate) suite: String,
    /// Of the checkout that the run was started in; none outside of one.
    pub(crate) commit: Option<String>,
    /// Whether that checkout had changes that are not committed.
    pub(crate) dirty: Option<bool>,
    /// As the programs say themselves.
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) loopback: bool,
    pub(crate) rows: Vec<Row>,
    /// Workloads without a row, and why: they cost the others nothing but are not passed over either.
    #[serde(default)]
    pub(crate) failed: BTreeMap<String, String>,
}

/// A workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) unit: String,
    pub(crate) goal: Option<f64>,
    /// Requests per second that all were given; none in closed loop.
    pub(crate) rate: Option<f64>,
    /// What is on or off on which side.
    pub(crate) notes: Vec<String>,
    /// What a reader must know before quoting the row.
    pub(crate) doubts: Vec<String>,
    /// All values of all pairs, by contender.
    pub(crate) cells: BTreeMap<String, Vec<Cell>>,
    pub(crate) ratios: Vec<Ratio>,
    /// System calls in the row's unit, by contender: of a run of their own, as counting costs time.
    #[serde(default)]
    pub(crate) calls: BTreeMap<String, f64>,
    /// How many of them were `epoll_ctl(2)`.
    #[serde(default)]
    pub(crate) epoll_ctl: BTreeMap<String, f64>,
    /// Whole configurations, by contender.
    pub(crate) configurations: BTreeMap<String, String>,
}

/// One contender's part of a pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Of the process tree, in the row's unit; none without a process.
    pub(crate) user: Option<f64>,
    pub(crate) system: Option<f64>,
    /// The core's time not idle minus its idle baseline, in the row's unit.
    pub(crate) core: Option<f64>,
    /// Resident bytes per connection.
    pub(crate) memory: Option<f64>,
    /// 99th percentile of latency in milliseconds, in a row about latency.
    #[serde(default)]
    pub(crate) latency: Option<f64>,
    /// From the order to change the configuration until the new one serves.
    #[serde(default)]
    pub(crate) apply_ms: Option<f64>,
    #[serde(default)]
    pub(crate) change: Option<Change>,
    pub(crate) generator_bound: bool,
    pub(crate) summary: Summary,
}

impl Cell {
    /// The row's figure; of CPU: that of the process tree.
    pub(crate) fn tree(&self) -> Option<f64> {
        let figure = self.memory.or(self.latency);
        figure.or_else(|| Some(self.user? + self.system?))
    }
}

/// Krater against one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) peer: String,
    pub(crate) ours: Spread,
    pub(crate) theirs: Spread,
    /// By the process tree.
    pub(crate) tree: Spread,
    /// By the core.
    pub(crate) core: Option<Spread>,
    /// The one that counts: the worse when they differ by more than a tenth.
    pub(crate) counts: Spread,
    pub(crate) verdict: String,
}

/// Who is no peer but what remains without a load balancer.
pub(crate) const FLOOR: &str = "direct";
/// By how much the control of a row about latency may differ between pairs.
const CONTROL: f64 = 1.2;
/// By how much tree and core may differ before the row says so.
const AGREE: f64 = 0.10;

impl Row {
    /// The ratio to the better HAProxy, which [`Self::judge`] puts before the other one.
    pub(crate) fn haproxy(&self) -> Option<&Ratio> {
        self.ratios.iter().find(|r| r.peer.starts_with("haproxy"))
    }

    /// Works out Krater's ratios against the peers that have a process.
    pub(crate) fn judge(&mut self, ours: &str) {
        let figures = |cells: &[Cell], core: bool| -> Option<Vec<f64>> {
            cells
                .iter()
                .map(|c| if core { c.core } else { c.tree() })
                .collect()
        };
        let Some(own) = self.cells.get(ours) else {
            return;
        };
        let mut doubts = Vec::new();
        let peers = |name: &String| *name != ours && name != FLOOR;
        for (peer, cells) in self.cells.iter().filter(|(name, _)| peers(name)) {
            let (Some(a), Some(b)) = (figures(own, false), figures(cells, false)) else {
                continue; // no process: a floor, not a peer
            };
            let (Some(tree), Some(left), Some(right)) =
                (stats::ratios(&a, &b), Spread::of(&a), Spread::of(&b))
            else {
                doubts.push(format!("{peer}: no ratio, too little was used to measure"));
                continue;
            };
            let core = match (figures(own, true), figures(cells, true)) {
                (Some(a), Some(b)) => stats::ratios(&a, &b),
                _ => None,
            };
            if core.is_none()
                && own
                    .iter()
                    .all(|c| c.memory.is_none() && c.latency.is_none())
            {
                doubts.push(format!(
                    "{peer}: no ratio by core: others used the core while nothing was asked"
                ));
            }
            let mut counts = tree;
            if let Some(core) = core
                && (core.median - tree.median).abs() > AGREE * tree.median
            {
                doubts.push(format!(
                    "{peer}: ratio by process {:.2}, by core {:.2}: the worse counts",
                    tree.median, core.median
                ));
                if core.median > tree.median {
                    counts = core;
                }
            }
            self.ratios.push(Ratio {
                peer: peer.clone(),
                ours: left,
                theirs: right,
                tree,
                core,
                counts,
                verdict: stats::verdict(counts, self.goal).to_owned(),
            });
        }
        self.doubts.extend(doubts);
        self.control();
        for (name, cells) in &self.cells {
            if cells.iter().any(|c| c.generator_bound) {
                self.doubts.push(format!(
                    "{name}: generator-bound, only CPU per unit may be quoted"
                ));
            }
        }
        // Against HAProxy only the better of its configurations counts.
        self.ratios
            .sort_by(|a, b| a.theirs.median.total_cmp(&b.theirs.median));
        let mut haproxy = 0;
        for ratio in &mut self.ratios {
            if ratio.peer.starts_with("haproxy") {
                haproxy += 1;
                if haproxy > 1 {
                    ratio.verdict = "(the other configuration is better)".into();
                }
            }
        }
    }

    /// Latency is only believed while the way without a load balancer stays as fast as it was.
    fn control(&mut self) {
        let Some(cells) = self.cells.get(FLOOR) else {
            return;
        };
        let values: Option<Vec<f64>> = cells.iter().map(|cell| cell.latency).collect();
        let Some(spread) = values.as_deref().and_then(Spread::of) else {
            return;
        };
        if spread.max > CONTROL * spread.min {
            self.doubts.push(format!(
                "the direct control moved between {:.3} and {:.3} ms: void",
                spread.min, spread.max
            ));
            for ratio in &mut self.ratios {
                ratio.verdict = "void".into();
            }
        }
    }
}
