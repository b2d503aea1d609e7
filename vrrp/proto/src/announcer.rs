//! When to announce: bursts after takeovers and heals, coalesced, and a refresh.

use crate::time::{Span, Time};
use krater_model::state::Announce;

/// Distance of the frames of a burst: switches that throttle drop what comes back to back.
const GAP: Span = Span::from_millis(10);
/// However many rivals are heard, a burst is asked for at most this often.
const COALESCE: Span = Span::from_millis(1_000);

#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    settings: Announce,
    burst_began: Time,
    /// When the last burst began that was asked for.
    requested: Option<Time>,
    /// When the next one begins that was asked for.
    asked: Option<Time>,
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
            requested: None,
            asked: None,
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

    /// A burst as soon as coalescing allows: at once unless one was asked for lately, whatever was announced on
    /// schedule. Until somebody hears it, who answered for the addresses beside us is believed.
    pub(crate) fn request(&mut self, now: Time) {
        // One that is under way goes first.
        let under_way = self.burst_began + GAP.times(self.settings.repeat.into());
        let since = self.requested.map(|at| at + COALESCE);
        let allowed = [Some(under_way).filter(|_| self.frames_left > 0), since]
            .into_iter()
            .flatten()
            .fold(now, Time::max);
        if allowed > now {
            // Not earlier than allowed, so that it comes after whatever caused the request.
            self.asked = self.asked.max(Some(allowed));
        } else {
            self.requested = Some(now);
            self.burst(now);
        }
    }

    /// Whether a frame for each address is due.
    pub(crate) fn poll(&mut self, now: Time) -> bool {
        if self.asked.is_some_and(|at| at <= now) {
            self.asked = None;
            self.requested = Some(now);
            self.frames(now);
        }
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
        [self.next_frame, self.asked, self.next_burst, self.refresh]
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
        assert_eq!(at, [0, 1, 1_001, 2_001]);
    }

    #[test]
    fn a_heal_is_announced_at_once_however_short_after_a_scheduled_burst() {
        let mut announcer = Announcer::new(Announce::default(), ms(0));
        assert_eq!(frames(&mut announcer, ms(1_025)).len(), 6);
        announcer.request(ms(1_030));
        let at = frames(&mut announcer, ms(2_000));
        assert_eq!(at, [1_030, 1_040, 1_050]);
        // One that is under way is heard to its end first.
        let mut announcer = Announcer::new(Announce::default(), ms(0));
        assert_eq!(frames(&mut announcer, ms(5)), [0]);
        announcer.request(ms(5));
        assert_eq!(frames(&mut announcer, ms(55)), [10, 20, 30, 40, 50]);
    }
}
