//! Connection limits that all workers share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts what is open against a limit that the caller brings along, because a snapshot may change it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Takes a place unless `limit` places are taken. Exact over any number of threads.
    pub fn try_enter(&self, limit: Option<u32>) -> bool {
        let limit = limit.map_or(u64::MAX, u64::from);
        self.0
            .try_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1))
            .is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        let before = self.0.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "leave without enter");
    }

    /// Places taken.
    pub fn open(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Whether no place is left under `limit`.
    pub fn is_full(&self, limit: Option<u32>) -> bool {
        limit.is_some_and(|limit| self.open() >= u64::from(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::Gauge;

    #[test]
    fn holds_at_the_limit_and_around_it() {
        let gauge = Gauge::default();
        assert!(gauge.try_enter(Some(2)) && !gauge.is_full(Some(2)));
        assert!(gauge.try_enter(Some(2)) && gauge.is_full(Some(2)));
        assert!(!gauge.try_enter(Some(2)));
        assert!(gauge.try_enter(None), "no limit");
        gauge.leave();
        gauge.leave();
        assert!(gauge.try_enter(Some(2)), "a place came back");
    }

    #[test]
    fn exact_over_threads() {
        let gauge = Gauge::default();
        let entered: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| gauge.try_enter(Some(5))).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(entered, 5);
    }
}
