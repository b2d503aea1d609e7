//! What is done when the agent has ended. Pure.
//!
//! The data plane and vrrp live on without an agent, so the first answer to its death is a new one, which adopts
//! them. Only an agent that cannot live makes the machine start anew: that clears what may have made it so, and
//! the health manager replaces an amphora that comes back no better.

use std::time::Duration;

/// A life as long as this was a good one: what came before does not count any more.
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// Between a death and the next start; the third of a row is not followed by one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Deaths in a row.
const MOST: u32 = 3;
/// Between the last message and the restart of the machine. With two starts before, a boot whose agent is broken
/// takes 20 s at least; a boot that has other faults waits [`FAULT_AFTER`] alone.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(10);
/// From a fault that no agent can help to the restart of the machine.
pub(super) const FAULT_AFTER: Duration = Duration::from_secs(30);
/// How often the reason is repeated until then: who opens the console late shall see it.
pub(super) const REPEAT_EVERY: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start the agent again after this time.
    Again(Duration),
    /// Restart the machine after [`RESTART_AFTER`].
    Restart,
}

/// The deaths of the agent, in a row.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    row: u32,
}

impl Deaths {
    /// After a life of `lived`.
    pub(super) const fn after(&mut self, lived: Duration) -> Verdict {
        if lived.as_secs() >= GOOD_LIFE.as_secs() {
            self.row = 0;
            return Verdict::Again(Duration::ZERO);
        }
        self.row += 1;
        if self.row < MOST {
            Verdict::Again(AGAIN_AFTER)
        } else {
            Verdict::Restart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_life_is_followed_by_the_next_and_three_bad_ones_by_a_restart() {
        let mut deaths = Deaths::default();
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(3_600));
        assert_eq!(deaths.after(long), Verdict::Again(Duration::ZERO));
        assert_eq!(deaths.after(short), Verdict::Again(AGAIN_AFTER));
        assert_eq!(deaths.after(short), Verdict::Again(AGAIN_AFTER));
        assert_eq!(deaths.after(long), Verdict::Again(Duration::ZERO));
        let row: Vec<Verdict> = (0..3).map(|_| deaths.after(short)).collect();
        let again = Verdict::Again(AGAIN_AFTER);
        assert_eq!(row, [again, again, Verdict::Restart]);
    }

    /// The promise of the docs: no boot loop is faster than one in ten seconds.
    #[test]
    fn no_boot_is_shorter_than_ten_seconds() {
        let ten = Duration::from_secs(10);
        assert!(RESTART_AFTER >= ten && FAULT_AFTER >= ten && REPEAT_EVERY >= ten);
    }
}
