//! What a series of probes says: pure.

use serde::{Deserialize, Serialize};

/// One probe: a new TCP connection and one HTTP request. Times are microseconds of CLOCK_MONOTONIC,
/// which all processes of a host share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Before the first packet.
    pub(super) start: u64,
    /// When the whole answer was there; none: no 200 within the probe's deadline.
    pub(super) end: Option<u64>,
}

/// A time without answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Gap {
    /// Begin, microseconds.
    pub(super) from: u64,
    /// End, microseconds.
    pub(super) to: u64,
}

impl Gap {
    pub(super) const fn micros(self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    pub(super) fn millis(self) -> f64 {
        millis(self.micros())
    }
}

/// Microseconds as milliseconds.
pub(super) fn millis(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64() * 1_000.0
}

/// The largest gap between answered probes that ends after `since`. Measured twice, and the larger
/// counts: between the starts of answered probes (a client that came in the gap got nothing) and
/// between their ends (nobody received anything).
pub(super) fn largest_gap(samples: &[Sample], since: u64) -> Gap {
    let mut starts: Vec<u64> = answered(samples).map(|(start, _)| start).collect();
    let mut ends: Vec<u64> = answered(samples).map(|(_, end)| end).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let by_start = widest(&starts, since);
    let by_end = widest(&ends, since);
    if by_start.micros() > by_end.micros() {
        by_start
    } else {
        by_end
    }
}

/// The end of the first answer to a probe that was started after `since`.
pub(super) fn first_answer(samples: &[Sample], since: u64) -> Option<u64> {
    answered(samples)
        .filter(|(start, _)| *start > since)
        .map(|(_, end)| end)
        .min()
}

/// Probes that got no answer.
pub(super) fn unanswered(samples: &[Sample]) -> usize {
    samples.iter().filter(|s| s.end.is_none()).count()
}

fn answered(samples: &[Sample]) -> impl Iterator<Item = (u64, u64)> + '_ {
    samples
        .iter()
        .filter_map(|s| s.end.map(|end| (s.start, end)))
}

fn widest(sorted: &[u64], since: u64) -> Gap {
    sorted
        .windows(2)
        .filter_map(|pair| match pair {
            [from, to] if *to > since => Some(Gap {
                from: *from,
                to: *to,
            }),
            _ => None,
        })
        .max_by_key(|gap| gap.micros())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered_each(step: u64, count: u64, takes: u64) -> Vec<Sample> {
        (0..count)
            .map(|i| Sample {
                start: i * step,
                end: Some(i * step + takes),
            })
            .collect()
    }

    #[test]
    fn steady_answers_have_a_gap_of_one_step() {
        assert_eq!(
            largest_gap(&answered_each(1_000, 50, 300), 0).micros(),
            1_000
        );
    }

    #[test]
    fn an_outage_runs_from_the_last_answered_to_the_first_answered() {
        let mut samples = answered_each(1_000, 100, 300);
        for sample in &mut samples[40..60] {
            sample.end = None;
        }
        let gap = largest_gap(&samples, 0);
        assert_eq!((gap.from, gap.to), (39_300, 60_300));
        assert_eq!(unanswered(&samples), 20);
        assert_eq!(first_answer(&samples, 39_000), Some(60_300));
    }

    #[test]
    fn late_answers_do_not_hide_the_gap() {
        // Probes of the gap are answered after it, all at once: no start is missing, but nobody got
        // an answer for 20 ms.
        let mut samples = answered_each(1_000, 100, 300);
        for sample in &mut samples[40..60] {
            sample.end = Some(60_000);
        }
        assert_eq!(largest_gap(&samples, 0).micros(), 60_000 - 39_300);
    }

    #[test]
    fn gaps_before_the_event_do_not_count() {
        let mut samples = answered_each(1_000, 100, 300);
        for sample in &mut samples[10..40] {
            sample.end = None;
        }
        assert_eq!(largest_gap(&samples, 50_000).micros(), 1_000);
    }

    #[test]
    fn no_answers_no_gap() {
        assert_eq!(largest_gap(&[], 0), Gap::default());
        assert_eq!(
            first_answer(
                &[Sample {
                    start: 5,
                    end: None
                }],
                0
            ),
            None
        );
    }
}
