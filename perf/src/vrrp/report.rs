//! What a run found, as JSON and as a table.

use crate::bench::stats::Spread;
use serde::Serialize;
use std::fmt::Write as _;

/// One value. What a case does not tell is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    /// Longest run of probes without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outage_ms: Option<f64>,
    /// Probes without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost: Option<usize>,
    /// Until the first answer of the node that was Backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) takeover_ms: Option<f64>,
    /// How long both kernels held the address while both nodes lived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) double_ms: Option<f64>,
    /// How often the first address was announced by another node than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) changes: Option<usize>,
    /// Bursts of announcements of the first address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bursts: Option<usize>,
    /// Announcements of all addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) announcements: Option<usize>,
    /// Longest time between two probes, beyond a millisecond: how exact the times are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) late_ms: Option<f64>,
    /// Addresses that were announced by the Backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) moved: Option<usize>,
    /// From the first one to the last one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spread_ms: Option<f64>,
    /// Takeovers without a cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) false_takeovers: Option<usize>,
    /// Percent of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_active: Option<f64>,
    /// Percent of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_backup: Option<f64>,
    /// Resident memory of all processes of the product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rss_active_mib: Option<f64>,
    /// The same of the Backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rss_backup_mib: Option<f64>,
}

/// All values of a case with one pair of products.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) case: &'static str,
    pub(super) interval_ms: u32,
    pub(super) routers: u8,
    /// Who was Active, and who was Backup if it was another one.
    pub(super) who: String,
    pub(super) values: Vec<Figures>,
    /// Measurements that failed, and why.
    pub(super) failures: Vec<String>,
}

/// What was measured, where and with what.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) krater: String,
    pub(super) keepalived: Option<String>,
    pub(super) kernel: String,
    pub(super) cores: usize,
    /// Of the machine before the run, over one minute.
    pub(super) load_average: f64,
    /// Threads that did nothing but burn CPU meanwhile.
    pub(super) burning: u32,
    pub(super) rows: Vec<Row>,
}

/// How a figure is read from a value, and how it is headed.
type Column = (&'static str, fn(&Figures) -> Option<f64>);

#[allow(clippy::cast_precision_loss)]
fn count(value: Option<usize>) -> Option<f64> {
    value.map(|value| value as f64)
}

const COLUMNS: &[Column] = &[
    ("outage ms", |f| f.outage_ms),
    ("lost probes", |f| count(f.lost)),
    ("takeover ms", |f| f.takeover_ms),
    ("two owners ms", |f| f.double_ms),
    ("changes of owner", |f| count(f.changes)),
    ("bursts", |f| count(f.bursts)),
    ("announcements", |f| count(f.announcements)),
    ("addresses moved", |f| count(f.moved)),
    ("first to last ms", |f| f.spread_ms),
    ("false takeovers", |f| count(f.false_takeovers)),
    ("CPU % Active", |f| f.cpu_active),
    ("CPU % Backup", |f| f.cpu_backup),
    ("RSS MiB Active", |f| f.rss_active_mib),
    ("RSS MiB Backup", |f| f.rss_backup_mib),
    ("probes late ms", |f| f.late_ms),
];

/// Rows of one case and interval, side by side: median, minimum and maximum, and the values themselves.
pub(super) fn table(rows: &[&Row]) -> String {
    let mut text = String::new();
    let Some(first) = rows.first() else {
        return text;
    };
    let routers = match first.routers {
        1 => String::new(),
        count => format!(", {count} routers"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{}, {} ms between adverts{routers}",
        first.case, first.interval_ms
    );
    for (name, read) in COLUMNS {
        for row in rows {
            let values: Vec<f64> = row.values.iter().filter_map(read).collect();
            let Some(spread) = Spread::of(&values) else {
                continue;
            };
            let each: Vec<String> = values.iter().map(|value| number(*value)).collect();
            let _ = writeln!(
                text,
                "  {name:<17}{:<22}{:>9}  ({} to {})  [{}]",
                row.who,
                number(spread.median),
                number(spread.min),
                number(spread.max),
                each.join(" ")
            );
        }
    }
    for row in rows {
        for why in &row.failures {
            let _ = writeln!(text, "  FAILED {}: {why}", row.who);
        }
    }
    text
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_all_values_and_leaves_out_what_was_not_measured() {
        let value = |ms, lost| Figures {
            outage_ms: Some(ms),
            lost: Some(lost),
            ..Figures::default()
        };
        let row = |who: &str, failures: &[&str]| Row {
            case: "node-death",
            interval_ms: 100,
            routers: 1,
            who: who.into(),
            values: vec![value(324.25, 324), value(20.5, 21), value(300.0, 300)],
            failures: failures.iter().map(ToString::to_string).collect(),
        };
        let (ours, theirs) = (row("krater", &[]), row("keepalived", &["no takeover"]));
        let text = table(&[&ours, &theirs]);
        assert!(
            text.contains("node-death, 100 ms between adverts\n"),
            "{text}"
        );
        assert!(
            text.contains("300  (20.5 to 324)  [324 20.5 300]"),
            "{text}"
        );
        assert!(text.contains("FAILED keepalived: no takeover"), "{text}");
        assert!(!text.contains("takeover ms"), "{text}");
        assert_eq!(table(&[]), "");
    }
}
