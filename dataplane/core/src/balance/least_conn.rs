//! Weighted least connections: the candidate with the least `(connections + 1) / weight`. Equals take
//! turns by round robin, so that an idle pool is not served by its first member alone.

use super::{Candidate, SlowStart, round_robin};

/// Chooses the least loaded candidate.
pub fn choose<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C> + Clone,
    slow_start: Option<SlowStart>,
) -> Option<&'a C> {
    // Connections end on other workers at any time, so each count is read once and kept: nobody would be
    // the least of all by a count that has changed meanwhile.
    let seen = |c: &'a C| {
        let load = u128::from(c.state().active()) + 1;
        (c, load, u128::from(c.share(slow_start)))
    };
    // a / b < c / d  <=>  a * d < c * b; shares have at most 17 bits, so u128 cannot overflow.
    let (least, load, share) = candidates
        .clone()
        .map(seen)
        .min_by(|(_, load, share), (_, other, others)| (load * others).cmp(&(other * share)))?;
    let equal = |c: &&'a C| {
        let (c, its_load, its_share) = seen(c);
        std::ptr::eq(c, least) || its_load * share == load * its_share
    };
    round_robin::turn(candidates.filter(equal), slow_start)
}
