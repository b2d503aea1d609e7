//! When a child that ended is started again. Pure.

use std::time::Duration;

/// The first restart is immediate; then 100 ms, doubling to 5 s; a life of 10 s starts over.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    const GOOD_LIFE: Duration = Duration::from_secs(10);

    /// How long to wait after a life of `lived`.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= Self::GOOD_LIFE {
            self.next = None;
        }
        let wait = self.next.unwrap_or_default();
        self.next = Some((wait * 2).clamp(Self::FIRST, Self::LONGEST));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediate_then_doubling_then_reset() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(3);
        let waits: Vec<u128> = (0..9).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff.after(Duration::from_secs(10)), Duration::ZERO);
        assert_eq!(backoff.after(short).as_millis(), 100);
    }
}
