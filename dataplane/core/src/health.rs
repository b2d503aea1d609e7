//! Rise and fall: when probe results change a member's health. As in HAProxy a member starts up, and
//! its first result decides at once.

use crate::member::Probed;
use krater_model::ProbeCount;

/// The machine of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    state: Probed,
    /// Results in a row that speak against `state`.
    against: u8,
}

/// A change of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Health before.
    pub from: Probed,
    /// Health now.
    pub to: Probed,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Probed::Checking,
            against: 0,
        }
    }
}

impl Health {
    /// Health now.
    pub fn state(&self) -> Probed {
        self.state
    }

    /// Traffic took the member down: it must rise again.
    pub fn taken_down(&mut self) {
        *self = Self {
            state: Probed::Down,
            against: 0,
        };
    }

    /// A probe ended. `rise` and `fall` are those in force now: a configuration change keeps the state.
    pub fn observe(&mut self, ok: bool, rise: ProbeCount, fall: ProbeCount) -> Option<Transition> {
        let (to, needed) = match (self.state, ok) {
            (Probed::Up, true) | (Probed::Down, false) => {
                self.against = 0;
                return None;
            }
            (Probed::Up, false) => (Probed::Down, fall.value()),
            (Probed::Down, true) => (Probed::Up, rise.value()),
            (Probed::Checking | Probed::NoMonitor, true) => (Probed::Up, 1),
            (Probed::Checking | Probed::NoMonitor, false) => (Probed::Down, 1),
        };
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return None;
        }
        let from = self.state;
        *self = Self {
            state: to,
            against: 0,
        };
        Some(Transition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(n: u64) -> ProbeCount {
        ProbeCount::new(n).unwrap()
    }

    #[test]
    fn the_first_result_decides() {
        for (ok, to) in [(true, Probed::Up), (false, Probed::Down)] {
            let mut health = Health::default();
            let change = health.observe(ok, count(3), count(3)).unwrap();
            assert_eq!((change.from, change.to), (Probed::Checking, to));
        }
    }

    #[test]
    fn fall_and_rise_count_results_in_a_row() {
        let mut health = Health::default();
        let mut feed = |results: &str| -> Vec<Probed> {
            let one = |c| health.observe(c == '+', count(2), count(3)).map(|t| t.to);
            results.chars().filter_map(one).collect()
        };
        assert_eq!(feed("+--+--+"), [Probed::Up], "never three in a row");
        assert_eq!(feed("---"), [Probed::Down]);
        assert_eq!(feed("+-+-"), [], "never two in a row");
        assert_eq!(feed("++"), [Probed::Up]);
    }

    proptest! {
        /// The machine agrees with its definition over the whole history.
        #[test]
        fn agrees_with_a_shadow(
            results in prop::collection::vec(any::<bool>(), 0..60), rise in 1_u8..=10, fall in 1_u8..=10,
        ) {
            let mut health = Health::default();
            let mut shadow = Probed::Checking;
            let mut since = 0;
            for (i, ok) in results.iter().enumerate() {
                let change = health.observe(*ok, count(rise.into()), count(fall.into()));
                let run = results[since..=i].iter().rev().take_while(|r| *r == ok).count();
                let next = match (shadow, ok) {
                    (Probed::Checking, true) => Probed::Up,
                    (Probed::Checking, false) => Probed::Down,
                    (Probed::Up, false) if run >= usize::from(fall) => Probed::Down,
                    (Probed::Down, true) if run >= usize::from(rise) => Probed::Up,
                    (same, _) => same,
                };
                prop_assert_eq!(change.is_some(), next != shadow);
                if next != shadow {
                    since = i + 1;
                }
                shadow = next;
                prop_assert_eq!(health.state(), shadow);
            }
        }
    }
}
