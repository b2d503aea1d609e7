//! Slow start: the share of a member that came back from DOWN grows with time, as with HAProxy's
//! `slowstart`, so that its caches fill before its whole load comes.

use std::time::Duration;

/// Parts of a weight: a member of weight 1 that starts slowly has fractions of it.
pub const PARTS: u32 = 256;

/// A pool's slow start, and the time.
#[derive(Debug, Clone, Copy)]
pub struct SlowStart {
    /// From next to nothing to the whole share.
    pub over: Duration,
    /// By the clock that the members' return was noted with.
    pub now: Duration,
}

impl SlowStart {
    /// The part of `whole` that a member gets which came back at `back`. It is at least one, since a member
    /// that serves alone must be found; of nothing it is nothing.
    pub fn share(self, whole: u32, back: Option<Duration>) -> u32 {
        let Some(since) = back else {
            return whole;
        };
        let (over, age) = (self.over.as_millis(), self.now.saturating_sub(since));
        let grown = u128::from(whole) * age.as_millis();
        match grown.checked_div(over) {
            Some(share) if age < self.over => {
                u32::try_from(share).unwrap_or(whole).max(1).min(whole)
            }
            _ => whole,
        }
    }
}
