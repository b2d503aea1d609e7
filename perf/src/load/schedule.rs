//! When the next request is due. Pure: the caller says what time it is.

use std::time::{Duration, Instant};

/// Gives out requests, in closed or open loop, between a start and an end.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    end: Instant,
    spacing: Option<f64>,
    limit: u64,
    given: u64,
}

impl Schedule {
    /// Open loop with `rate` requests per second, closed loop without.
    pub(crate) fn new(start: Instant, span: Duration, limit: u64, rate: Option<f64>) -> Self {
        Self {
            start,
            end: start + span,
            spacing: rate.map(|rate| 1.0 / rate),
            limit,
            given: 0,
        }
    }

    /// When the next request is due; none when there is no next one. In closed loop: now.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        #[allow(clippy::cast_precision_loss)]
        let at = match self.spacing {
            Some(spacing) => self.start + Duration::from_secs_f64(spacing * self.given as f64),
            None => now,
        };
        // In open loop a request that was due before the end is sent however late it is: leaving it
        // out would hide the very delay that is measured.
        (self.given < self.limit && at < self.end).then_some(at)
    }

    /// Takes the next request when it is due: its scheduled time.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Instant> {
        let at = self.due(now).filter(|at| *at <= now)?;
        self.given += 1;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loop_keeps_its_times_whoever_is_late() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, Duration::from_secs(1), u64::MAX, Some(10.0));
        assert_eq!(schedule.take(start), Some(start));
        assert_eq!(schedule.take(start + Duration::from_millis(50)), None);
        // The server hung for five seconds: all requests of the schedule come, with their own times.
        let late = start + Duration::from_secs(5);
        let mut times = Vec::new();
        while let Some(at) = schedule.take(late) {
            times.push((at - start).as_millis());
        }
        assert_eq!(times, [100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert_eq!(schedule.due(late), None);
    }

    #[test]
    fn closed_loop_ends_by_time_or_by_number() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, Duration::from_secs(1), 2, None);
        assert_eq!(schedule.take(start), Some(start));
        assert_eq!(schedule.take(start + Duration::from_secs(1)), None);
        assert!(schedule.take(start).is_some());
        assert_eq!(schedule.take(start), None);
    }
}
