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
    let mut round = Round::of(candidates.clone(), slow_start)?;
    // Among the same candidates no credit ever goes that far: it is of a time when weights or members were others. Kept,
    // it would silence or prefer somebody for as many choices as those weights had parts.
    if round.widest > 2 * round.total {
        for state in candidates.clone().map(Candidate::state) {
            state.set_credit(state.credit().clamp(-round.total, round.total));
        }
        round = Round::of(candidates, slow_start)?;
    }
    Some(round.end())
}

/// The same among candidates that are others with each choice, such as those who have the fewest connections: the
/// credit of those who are no candidates now is good the next time.
pub(super) fn turn<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C>,
    slow_start: Option<SlowStart>,
) -> Option<&'a C> {
    Round::of(candidates, slow_start).map(Round::end)
}

/// All candidates have got their credit.
struct Round<'a, C> {
    /// Who has the most.
    best: &'a C,
    most: i64,
    /// What was given.
    total: i64,
    /// The credit that is farthest from nothing.
    widest: i64,
}

impl<'a, C: Candidate> Round<'a, C> {
    fn of(candidates: impl Iterator<Item = &'a C>, slow_start: Option<SlowStart>) -> Option<Self> {
        let (mut total, mut widest) = (0, 0);
        let mut best: Option<(&C, i64)> = None;
        for candidate in candidates {
            let weight = i64::from(candidate.share(slow_start));
            let credit = candidate.state().credit() + weight;
            candidate.state().set_credit(credit);
            total += weight;
            widest = widest.max(credit.abs());
            if best.is_none_or(|(_, most)| credit > most) {
                best = Some((candidate, credit));
            }
        }
        let (best, most) = best?;
        Some(Self {
            best,
            most,
            total,
            widest,
        })
    }

    /// The best pays for the round.
    fn end(self) -> &'a C {
        self.best.state().set_credit(self.most - self.total);
        self.best
    }
}
