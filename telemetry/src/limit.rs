//! Limits how often a kind of log line is written, so that a flood from the network is not a flood of logs.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// At most so many lines per interval; the next line that passes says how many did not.
#[derive(Debug)]
pub struct RateLimit {
    most: u32,
    interval: Duration,
    state: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    passed: u32,
    held: u64,
}

impl RateLimit {
    /// At most `most` lines per `interval`.
    pub const fn new(most: u32, interval: Duration) -> Self {
        Self {
            most,
            interval,
            state: Mutex::new(None),
        }
    }

    /// Whether a line may be written at `now`; the number is how many were held back before it.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        };
        let window = state.get_or_insert(Window {
            start: now,
            passed: 0,
            held: 0,
        });
        if now.saturating_duration_since(window.start) >= self.interval {
            window.start = now;
            window.passed = 0;
        }
        if window.passed >= self.most {
            window.held += 1;
            return None;
        }
        window.passed += 1;
        Some(std::mem::take(&mut window.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_back_and_counts() {
        let limit = RateLimit::new(2, Duration::from_secs(1));
        let t0 = Instant::now();
        assert_eq!(limit.pass(t0), Some(0));
        assert_eq!(limit.pass(t0), Some(0));
        assert_eq!(limit.pass(t0), None);
        assert_eq!(limit.pass(t0 + Duration::from_millis(999)), None);
        assert_eq!(limit.pass(t0 + Duration::from_secs(1)), Some(2));
        assert_eq!(limit.pass(t0 + Duration::from_secs(1)), Some(0));
        assert_eq!(limit.pass(t0 + Duration::from_secs(1)), None);
    }
}
