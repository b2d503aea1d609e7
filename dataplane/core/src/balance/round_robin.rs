//! Smooth weighted round robin (nginx's): each choice gives every candidate its weight as credit and
//! takes the total from the chosen one, so that heavy members are interleaved, not served in a run.
//! Over any `total` consecutive choices among the same candidates each is chosen exactly `weight` times.
//! Credit is in parts of a weight, for the sake of slow starts.

use super::{Candidate, SlowStart};

/// Chooses the candidate with the most credit; the first of equals.
pub fn choose<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C> + Clone,
    slow_start: Option<SlowStart>,
) -> Option<&'a C> {
    let mut total = 0;
    let mut best: Option<(&C, i64)> = None;
    for candidate in candidates {
        let weight = i64::from(candidate.share(slow_start));
        let credit = candidate.state().credit() + weight;
        candidate.state().set_credit(credit);
        total += weight;
        if best.is_none_or(|(_, most)| credit > most) {
            best = Some((candidate, credit));
        }
    }
    let (chosen, credit) = best?;
    chosen.state().set_credit(credit - total);
    Some(chosen)
}
