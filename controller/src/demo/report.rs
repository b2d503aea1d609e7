//! Lines, numbers and their summary over runs.

use serde::Serialize;
use std::collections::BTreeMap;

/// What a step measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Megabytes of 10^6 bytes.
    #[serde(rename = "MB")]
    Megabytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Millis => time(value),
            Self::Megabytes => format!("{value:.1} MB"),
        }
    }
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    /// What was done.
    pub(super) what: String,
    /// What was measured, in `unit`.
    pub(super) value: f64,
    /// Of `value` and `goal`.
    pub(super) unit: Unit,
    /// What was looked at, or why it failed.
    pub(super) checked: String,
    /// Whether it works.
    pub(super) passed: bool,
    /// The largest value that is good enough, where there is one.
    pub(super) goal: Option<f64>,
}

impl Step {
    /// Works, but later than it should.
    pub(super) fn missed(&self) -> bool {
        self.passed && self.goal.is_some_and(|goal| self.value > goal)
    }

    /// One line: what · measured time · what was checked.
    pub(super) fn line(&self) -> String {
        let verdict = if self.passed { "ok    " } else { "FAILED" };
        let missed = match self.goal {
            Some(goal) if self.missed() => format!(" · MISSED, goal {}", self.unit.show(goal)),
            _ => String::new(),
        };
        format!(
            "{verdict} {:<34} · {:>9} · {}{missed}",
            self.what,
            self.unit.show(self.value),
            self.checked
        )
    }
}

/// Three digits that matter, with a unit.
pub(super) fn time(millis: f64) -> String {
    if millis >= 10_000.0 {
        format!("{:.1} s", millis / 1_000.0)
    } else if millis >= 1_000.0 {
        format!("{:.2} s", millis / 1_000.0)
    } else if millis >= 10.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{millis:.1} ms")
    }
}

/// One run.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Run {
    /// In order.
    pub(super) steps: Vec<Step>,
    /// By name; the unit is the name's ending.
    pub(super) numbers: BTreeMap<&'static str, f64>,
}

impl Run {
    pub(super) fn passed(&self) -> usize {
        self.steps.iter().filter(|s| s.passed).count()
    }

    pub(super) fn failed(&self) -> usize {
        self.steps.len() - self.passed()
    }

    pub(super) fn missed(&self) -> usize {
        self.steps.iter().filter(|s| s.missed()).count()
    }
}

/// Median and worst of one number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) worst: f64,
    pub(super) values: usize,
}

/// Over all runs that have the number; worst is the largest, because all are times or sizes.
pub(super) fn spread(runs: &[Run]) -> BTreeMap<&'static str, Spread> {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flat_map(|run| &run.numbers) {
        values.entry(name).or_default().push(*value);
    }
    values
        .into_iter()
        .filter_map(|(name, mut list)| {
            list.sort_by(f64::total_cmp);
            let (worst, median) = (*list.last()?, median(&list)?);
            Some((
                name,
                Spread {
                    median,
                    worst,
                    values: list.len(),
                },
            ))
        })
        .collect()
}

fn median(sorted: &[f64]) -> Option<f64> {
    let high = *sorted.get(sorted.len() / 2)?;
    let low = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(value: f64, goal: Option<f64>, passed: bool) -> Step {
        Step {
            what: "create".into(),
            value,
            unit: Unit::Millis,
            checked: "ACTIVE".into(),
            passed,
            goal,
        }
    }

    #[test]
    fn a_late_step_is_missed_but_passed() {
        let late = step(1_600.0, Some(1_500.0), true);
        assert!(late.missed());
        assert_eq!(
            late.line(),
            "ok     create                             ·    1.60 s · ACTIVE · MISSED, goal 1.50 s"
        );
        assert!(!step(1_400.0, Some(1_500.0), true).missed());
        assert!(step(1.0, None, false).line().starts_with("FAILED create"));
    }

    #[test]
    fn a_failed_step_is_not_also_missed() {
        assert!(!step(9_999.0, Some(1.0), false).missed());
    }

    #[test]
    fn median_and_worst() {
        let run = |value: f64| Run {
            steps: vec![],
            numbers: BTreeMap::from([("outage_ms", value)]),
        };
        let all = spread(&[run(3.0), run(1.0), run(10.0), run(2.0)]);
        assert_eq!(
            all["outage_ms"],
            Spread {
                median: 2.5,
                worst: 10.0,
                values: 4
            }
        );
        assert_eq!(spread(&[run(7.0)])["outage_ms"].median, 7.0);
        assert!(spread(&[]).is_empty());
    }

    #[test]
    fn times_keep_three_digits() {
        let shown: Vec<String> = [0.25, 9.94, 42.4, 999.0, 1_234.0, 12_345.0]
            .map(time)
            .into();
        assert_eq!(
            shown,
            ["0.2 ms", "9.9 ms", "42 ms", "999 ms", "1.23 s", "12.3 s"]
        );
    }
}
