//! When to announce: bursts after takeovers and heals, coalesced, and a refresh.

use crate::time::{Span, Time};
use krater_model::state::Announce;

/// Distance of the frames of a burst: switches that throttle drop what comes back to back.
const GAP: Span = Span::from_millis(10);
/// However many rivals are heard, a burst begins at most this often.
const COALESCE: Span = Span::from_millis(1_000);

#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    settings: Announce,
    burst_began: Time,
    frames_left: u8,
    next_frame: Option<Time>,
    next_burst: Option<Time>,
    refresh: Option<Time>,
}

impl Announcer {
    /// Begins with a burst at `now`.
    pub(crate) fn new(settings: Announce, now: Time) -> Self {
        let mut announcer = Self {
            settings,
            burst_began: now,
            frames_left: 0,
            next_frame: None,
            next_burst: None,
            refresh: None,
        };
        announcer.burst(now);
        announcer
    }

    /// Takes new settings over; the schedule in flight goes on.
    pub(crate) fn configure(&mut self, settings: Announce, now: Time) {
        if settings.refresh != self.settings.refresh {
            self.refresh = after(now, settings.refresh.duration().into());
        }
        self.settings = settings;
    }

    /// A burst now, and the second one after the configured delay.
    pub(crate) fn burst(&mut self, now: Time) {
        self.frames(now);
        self.next_burst = after(now, self.settings.delay.duration().into());
        self.refresh = after(now, self.settings.refresh.duration().into());
    }

    /// A burst as soon as coalescing allows.
    pub(crate) fn request(&mut self, now: Time) {
        let allowed = self.burst_began + COALESCE;
        if now >= allowed {
            self.burst(now);
        } else {
            // Not earlier than allowed, so that it comes after whatever caused the request.
            self.next_burst = Some(self.next_burst.map_or(allowed, |at| at.max(allowed)));
        }
    }

    /// Whether a frame for each address is due.
    pub(crate) fn poll(&mut self, now: Time) -> bool {
        if self.next_burst.is_some_and(|at| at <= now) {
            self.next_burst = None;
            self.frames(now);
        }
        if self.next_frame.is_some_and(|at| at <= now) {
            self.frames_left = self.frames_left.saturating_sub(1);
            self.next_frame = (self.frames_left > 0).then(|| now + GAP);
            return true;
        }
        if self.refresh.is_some_and(|at| at <= now) {
            self.refresh = after(now, self.settings.refresh.duration().into());
            return true;
        }
        false
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        [self.next_frame, self.next_burst, self.refresh]
            .into_iter()
            .flatten()
            .min()
    }

    fn frames(&mut self, now: Time) {
        self.burst_began = now;
        self.frames_left = self.settings.repeat;
        self.next_frame = (self.frames_left > 0).then_some(now);
    }
}

fn after(now: Time, span: Span) -> Option<Time> {
    (span != Span::ZERO).then(|| now + span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::Millis;

    fn frames(announcer: &mut Announcer, until: Time) -> Vec<u64> {
        let mut at = Vec::new();
        while let Some(deadline) = announcer.deadline().filter(|at| *at <= until) {
            while announcer.poll(deadline) {
                at.push(deadline.micros() / 1_000);
            }
        }
        at
    }

    fn ms(millis: u32) -> Time {
        Time::default() + Span::from_millis(millis)
    }

    #[test]
    fn takeover_burst_second_burst_refresh() {
        let mut announcer = Announcer::new(Announce::default(), ms(0));
        let at = frames(&mut announcer, ms(11_000));
        assert_eq!(at, [0, 10, 20, 1_000, 1_010, 1_020, 5_000, 10_000]);
    }

    #[test]
    fn a_thousand_requests_are_one_burst_each_second() {
        let settings = Announce {
            repeat: 1,
            delay: Millis::literal(0),
            refresh: Millis::literal(0),
        };
        let mut announcer = Announcer::new(settings, ms(0));
        let mut at = frames(&mut announcer, ms(0));
        for millis in 1..=2_500 {
            announcer.request(ms(millis));
            at.extend(frames(&mut announcer, ms(millis)));
        }
        assert_eq!(at, [0, 1_000, 2_000]);
    }
}
