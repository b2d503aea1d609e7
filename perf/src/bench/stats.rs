//! Ratios of pairs. Pure.

use serde::{Deserialize, Serialize};

/// Smallest, middle and largest of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; no value is left out.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.as_slice() {
            [] => return None,
            s if s.len() % 2 == 0 => f64::midpoint(s[middle - 1], s[middle]),
            s => s[middle],
        };
        Some(Self {
            min: *sorted.first()?,
            median,
            max: *sorted.last()?,
        })
    }

    /// Whether both could be the same.
    pub(crate) fn contains(self, value: f64) -> bool {
        self.min <= value && value <= self.max
    }
}

/// The ratios ours / theirs, pair by pair.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
    let each: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    // A peer that used nothing measurable gives no ratio at all.
    if each.iter().any(|r| !r.is_finite()) {
        return None;
    }
    Spread::of(&each)
}

/// What a row says.
pub(crate) fn verdict(ratio: Spread, goal: Option<f64>) -> &'static str {
    match goal {
        Some(goal) if ratio.median <= goal && ratio.max <= 1.0 => "goal met",
        Some(goal) if ratio.median <= goal => "goal met, noisy",
        _ if ratio.contains(1.0) => "no difference seen",
        _ if ratio.median < 1.0 => "less than peer",
        _ => "MORE THAN PEER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 10.0));
        assert!(Spread::of(&[]).is_none());
        assert!(ratios(&[1.0], &[0.0]).is_none());
    }

    #[test]
    fn noise_is_no_difference_and_ten_percent_more_is_seen() {
        let base = [10.0, 10.2, 9.9, 10.1, 10.0];
        let same = [10.1, 10.0, 10.0, 10.0, 9.9];
        let slower: Vec<f64> = base.iter().map(|v| v * 1.1).collect();
        let verdict_of = |a: &[f64], goal| verdict(ratios(a, &base).unwrap(), goal);
        assert_eq!(verdict_of(&same, None), "no difference seen");
        assert_eq!(verdict_of(&slower, None), "MORE THAN PEER");
        assert_eq!(verdict_of(&slower, Some(0.85)), "MORE THAN PEER");
        let half: Vec<f64> = base.iter().map(|v| v * 0.5).collect();
        assert_eq!(verdict_of(&half, Some(0.85)), "goal met");
        assert_eq!(verdict_of(&half, Some(0.4)), "less than peer");
    }
}
