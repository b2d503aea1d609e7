//! Bounds what a flood of refused packets costs. Each one alone would cause a whole round of the driver,
//! on a thread that may run before all others: at 100,000 a second a core and more. So under a flood the
//! sockets are looked at once a millisecond, which their queues have room for, and at each timer.

use krater_vrrp_proto::{Span, Time};

/// Refused packets are counted over so long.
const WINDOW: Span = Span::from_millis(10);
/// So many in a window are a flood: 10,000 a second. Strangers on a segment, such as 255 routers of somebody
/// else with 100 ms between adverts, send 2,550.
const MANY: u64 = 100;
/// How long an advert may wait under a flood: little beside any interval, and 100 packets of a flood of
/// 100,000 a second.
const REST: Span = Span::from_millis(1);

/// Watches for floods.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    began: Time,
    refused: u64,
    rest: Option<Time>,
}

impl Flood {
    /// So many packets were refused in the round at `now`.
    pub(crate) fn refused(&mut self, now: Time, count: u64) {
        if now - self.began > WINDOW {
            self.began = now;
            self.refused = 0;
        }
        self.refused += count;
        self.rest = (self.refused > MANY).then(|| now + REST);
    }

    /// Until when arriving packets do not wake us.
    pub(crate) fn rest(&self) -> Option<Time> {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_micros(1_000_000 + micros)
    }

    #[test]
    fn a_flood_is_told_from_strangers_and_ends() {
        let mut flood = Flood::default();
        // Three thousand a second for a second.
        for step in 0..3_000 {
            flood.refused(at(step * 333), 1);
            assert_eq!(flood.rest(), None, "{step}");
        }
        // A hundred thousand.
        let mut rests = 0;
        for step in 0..10_000 {
            flood.refused(at(1_000_000 + step * 10), 1);
            rests += u32::from(flood.rest().is_some());
        }
        assert!(rests > 8_000, "{rests}");
        // A quiet round after each rest: adverts wake us at once again.
        flood.refused(at(1_200_000), 0);
        assert_eq!(flood.rest(), None);
    }

    #[test]
    fn a_rest_is_short() {
        let mut flood = Flood::default();
        flood.refused(at(0), u64::from(u32::MAX));
        assert_eq!(flood.rest(), Some(at(1_000)));
    }
}
