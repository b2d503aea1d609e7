//! A check that somebody else makes and reports: so many reports in a row change its state, and silence is down.

use crate::time::{Span, Time};
use krater_model::state::TrackCheck;

/// Its state.
#[derive(Debug)]
pub struct Check {
    rise: u8,
    fall: u8,
    fresh: Span,
    up: bool,
    /// Reports in a row that say the opposite of `up`.
    against: u8,
    /// Until when the last report counts; none before the first one.
    until: Option<Time>,
}

impl Check {
    /// Down, until it is reported up.
    pub fn new(settings: &TrackCheck) -> Self {
        let mut this = Self {
            rise: 1,
            fall: 1,
            fresh: Span::ZERO,
            up: false,
            against: 0,
            until: None,
        };
        this.configure(settings);
        this
    }

    /// Other settings; what was reported stays.
    pub fn configure(&mut self, settings: &TrackCheck) {
        self.rise = settings.rise.value();
        self.fall = settings.fall.value();
        self.fresh = settings.fresh.duration().into();
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When [`Check::timeout`] is due; none while nothing is awaited.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.until
    }

    /// It was made, and this came out.
    pub fn report(&mut self, up: bool, now: Time) {
        self.timeout(now);
        self.until = Some(now + self.fresh);
        if up == self.up {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        let needed = if up { self.rise } else { self.fall };
        if self.against >= needed {
            self.up = up;
            self.against = 0;
        }
    }

    /// Nobody reported it in time: whoever makes it hangs, or is dead.
    pub fn timeout(&mut self, now: Time) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.up = false;
            self.against = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rise: u8, fall: u8) -> Check {
        let settings = serde_json::json!({"name": "c", "rise": rise, "fall": fall, "fresh": 1_000});
        Check::new(&serde_json::from_value(settings).unwrap())
    }

    fn at(millis: u32) -> Time {
        Time::default() + Span::from_millis(millis)
    }

    /// Reports, one each 100 ms, and the state after each.
    fn after(check: &mut Check, reports: &str) -> String {
        let each = reports.chars().zip(1..).map(|(report, n)| {
            check.report(report == 'u', at(n * 100));
            if check.is_up() { 'U' } else { 'D' }
        });
        each.collect()
    }

    #[test]
    fn so_many_in_a_row_change_it() {
        assert_eq!(after(&mut check(1, 1), "ududd"), "UDUDD");
        assert_eq!(after(&mut check(3, 2), "uuduuuddudd"), "DDDDDUUDDDD");
        assert_eq!(after(&mut check(1, 3), "uddudddd"), "UUUUUUDD");
        // Silence does not make up for what is missing.
        let mut broken = check(2, 1);
        broken.report(true, at(100));
        broken.report(true, at(1_200));
        assert!(!broken.is_up());
        broken.report(true, at(1_300));
        assert!(broken.is_up());
    }

    #[test]
    fn what_is_not_reported_in_time_is_down() {
        let mut check = check(1, 3);
        assert_eq!((check.is_up(), check.poll_timeout()), (false, None));
        check.report(true, at(100));
        assert_eq!(
            (check.is_up(), check.poll_timeout()),
            (true, Some(at(1_100)))
        );
        check.timeout(at(1_099));
        assert!(check.is_up());
        // At once, however many failures it may take otherwise.
        check.timeout(at(1_100));
        assert_eq!((check.is_up(), check.poll_timeout()), (false, None));
        check.report(true, at(2_000));
        assert!(check.is_up());
    }
}
