//! Ratios of pairs. Pure.

use serde::{Deserialize, Serialize};

/// How sure an interval of the median must be at least.
const SURE: f64 = 0.95;

/// Smallest, middle and largest of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    /// Where the true median lies with 95 % or more. Reports of earlier versions lack it; theirs is min to max.
    #[serde(default)]
    interval: Option<(f64, f64)>,
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
        let left_out = outside(sorted.len());
        Some(Self {
            min: *sorted.first()?,
            median,
            max: *sorted.last()?,
            interval: Some((sorted[left_out], sorted[sorted.len() - 1 - left_out])),
        })
    }

    /// Where the true median lies with 95 % or more; with fewer than six values no interval is that sure,
    /// and it is min to max.
    pub(crate) fn interval(self) -> (f64, f64) {
        self.interval.unwrap_or((self.min, self.max))
    }

    /// Whether both could be the same.
    pub(crate) fn contains(self, value: f64) -> bool {
        let (low, high) = self.interval();
        low <= value && value <= high
    }
}

/// How many of `n` sorted values lie outside the interval of the median at each end.
///
/// Each value is above the true median with a chance of one half, whatever the distribution is, so the interval
/// that leaves `k` out at each end misses it with twice the chance of at most `k` heads in `n` throws. One
/// disturbed pair of many then decides nothing.
fn outside(n: usize) -> usize {
    let mut k = 0;
    let mut exactly = 0.5_f64.powf(n as f64); // the chance of exactly k heads
    let mut at_most = exactly;
    while 2 * (k + 1) < n {
        exactly *= (n - k) as f64 / (k + 1) as f64;
        at_most += exactly;
        if 1.0 - 2.0 * at_most < SURE {
            break;
        }
        k += 1;
    }
    k
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
    fn the_interval_of_the_median_is_that_of_the_binomial_table() {
        // Ranks for 95 % as printed in tables of the sign test: 6 to 8 values 1 and n, 9 to 11 2, 12 to 14 3, 15 4.
        let ranks: Vec<usize> = (1..=15).map(|n| outside(n) + 1).collect();
        assert_eq!(ranks, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let spread = Spread::of(&values).unwrap();
        assert_eq!(spread.interval(), (2.0, 9.0));
        let long = Spread::of(&vec![1.0; 100]).unwrap();
        assert_eq!((outside(100), long.interval()), (39, (1.0, 1.0)));
    }

    #[test]
    fn one_disturbed_pair_hides_no_difference() {
        let mut ratios = vec![1.1; 11];
        ratios.push(0.9);
        let spread = Spread::of(&ratios).unwrap();
        assert_eq!(verdict(spread, None), "MORE THAN PEER");
        assert!((spread.min - 0.9).abs() < 1e-9, "shown all the same");
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
