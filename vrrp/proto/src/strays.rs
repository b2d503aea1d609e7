//! How often to look at packets that neighbours send to a Backup. One proves that somebody does not know where an address is; a
//! thousand prove no more. So after a find nothing is looked at for a while, and for longer each time that it goes on: a
//! neighbour that does not learn, such as one with a fixed entry, must not make the Active announce for ever.

use crate::time::{Span, Time};

/// The rest after the first find; the next ones are twice as long each.
const FIRST: Span = Span::from_millis(1_000);
/// The longest rest.
const LONGEST: Span = Span::from_millis(60_000);

/// When to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strays {
    rest: Span,
    until: Option<Time>,
}

impl Strays {
    /// Whether to look now.
    pub fn look(&mut self, now: Time) -> bool {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
        }
        self.until.is_none()
    }

    /// When to look again, while it rests.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.until
    }

    /// There was one.
    pub fn found(&mut self, now: Time) {
        let twice = self.rest.times(2);
        self.rest = twice.max(FIRST).min(LONGEST);
        self.until = Some(now + self.rest);
    }

    /// The addresses are others now, or somebody else's: what was found before says nothing.
    pub fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_end() {
        let at = |millis| Time::default() + Span::from_millis(millis);
        let mut strays = Strays::default();
        assert!(strays.look(at(0)) && strays.poll_timeout().is_none());
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..9 {
            strays.found(at(now));
            let until = strays.poll_timeout().unwrap();
            let rest = u32::try_from((until - at(now)).micros() / 1_000).unwrap();
            assert!(!strays.look(at(now + rest - 1)));
            now += rest;
            assert!(strays.look(at(now)));
            rests.push(rest);
        }
        assert_eq!(
            rests,
            [
                1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000
            ]
        );
        strays.begin_anew();
        strays.found(at(now));
        assert_eq!(strays.poll_timeout(), Some(at(now + 1_000)));
    }
}
