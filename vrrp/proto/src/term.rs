//! Terms: each time a router becomes Active it has a number that is greater than all that were known before, on whichever
//! host. What an Active writes elsewhere bears it, and who keeps it refuses a smaller one (a *fencing token*): an Active that
//! stood still, or was cut off, cannot overwrite what its successor wrote.
//!
//! A term is a counter that peers tell each other in their heartbeats, and no less than the milliseconds since 1970: a process
//! that starts again needs nothing of its predecessor's, and peers without a liveness session have nothing but their clocks.

/// Beyond, numbers are not exact in JSON; as milliseconds it is 285,000 years.
const MOST: u64 = (1 << 53) - 1;

/// What is known of terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    highest: u64,
}

impl Terms {
    /// Another host knows this one. What cannot be a term counts for nothing.
    pub fn heard(&mut self, term: u64) {
        if term < MOST {
            self.highest = self.highest.max(term);
        }
    }

    /// The next one, at so many milliseconds since 1970.
    pub fn next(&mut self, unix_ms: u64) -> u64 {
        self.highest = (self.highest + 1).max(unix_ms).min(MOST);
        self.highest
    }

    /// The highest that is known; 0: none.
    pub fn highest(&self) -> u64 {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_greater_than_all_that_were_known() {
        let mut terms = Terms::default();
        assert_eq!(terms.highest(), 0);
        assert_eq!(terms.next(1_000), 1_000);
        // Twice in a millisecond, and by a clock that was set back.
        assert_eq!(terms.next(1_000), 1_001);
        assert_eq!(terms.next(10), 1_002);
        // A peer whose clock is ahead.
        terms.heard(5_000);
        terms.heard(4_000);
        assert_eq!(terms.next(2_000), 5_001);
        assert_eq!(terms.highest(), 5_001);
    }

    #[test]
    fn what_a_broken_peer_tells_does_not_end_them() {
        let mut terms = Terms::default();
        for wrong in [u64::MAX, MOST] {
            terms.heard(wrong);
        }
        assert_eq!(terms.next(7), 7);
        terms.heard(MOST - 1);
        assert_eq!(terms.next(7), MOST);
        assert_eq!(terms.next(u64::MAX), MOST);
    }
}
