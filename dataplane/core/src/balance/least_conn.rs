//! Weighted least connections: the candidate with the least `(connections + 1) / weight`. Equals take
//! turns by round robin, so that an idle pool is not served by its first member alone.

use super::{Candidate, SlowStart, round_robin};

/// Chooses the least loaded candidate.
pub fn choose<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C> + Clone,
    slow_start: Option<SlowStart>,
) -> Option<&'a C> {
    // a / b < c / d  <=>  a * d < c * b; shares have at most 17 bits, so u128 cannot overflow.
    let load = |c: &C| u128::from(c.state().active()) + 1;
    let weight = |c: &C| u128::from(c.share(slow_start));
    let least = candidates
        .clone()
        .min_by(|a, b| (load(a) * weight(b)).cmp(&(load(b) * weight(a))))?;
    let equal = |c: &&C| load(c) * weight(least) == load(least) * weight(c);
    round_robin::choose(candidates.filter(equal), slow_start)
}
