//! Weighted least connections: the candidate with the least `(connections + 1) / weight`. Equals take
//! turns by round robin, so that an idle pool is not served by its first member alone.

use super::{Candidate, round_robin};

/// Chooses the least loaded candidate.
pub fn choose<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C> + Clone,
) -> Option<&'a C> {
    // a / b < c / d  <=>  a * d < c * b; weights are at most 256, so u128 cannot overflow.
    let load = |c: &C| u128::from(c.state().active()) + 1;
    let weight = |c: &C| u128::from(c.weight());
    let least = candidates
        .clone()
        .min_by(|a, b| (load(a) * weight(b)).cmp(&(load(b) * weight(a))))?;
    round_robin::choose(candidates.filter(|c| load(c) * weight(least) == load(least) * weight(c)))
}
