//! Who waits for a place at a member, in the order of arrival.
//!
//! Who is tied to one member, by persistence or a hash, waits in that member's lane; who takes any waits in
//! the common one. Among all whom a free place suits the oldest gets it.

use krater_model::MemberId;
use std::collections::BTreeMap;

/// Where somebody waits: for this member, or for any.
pub type Lane = Option<MemberId>;

/// Whose turn it is: lower is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It waits no longer.
    Taken,
    /// Nobody in its lane can be served now.
    NoPlace,
    /// It cannot be served now; others in its lane perhaps.
    NotThis,
}

/// Those who wait.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: BTreeMap<Lane, BTreeMap<Ticket, T>>,
    next: u64,
    len: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lanes: BTreeMap::new(),
            next: 0,
            len: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Adds somebody behind all others. Who is not served at once and makes the queue longer than it may
    /// be ([`Self::is_over`]) has to leave again.
    pub fn join(&mut self, lane: Lane, who: T) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.len += 1;
        self.lanes.entry(lane).or_default().insert(ticket, who);
        ticket
    }

    /// Whether more wait than `limit`.
    pub fn is_over(&self, limit: u32) -> bool {
        usize::try_from(limit).is_ok_and(|limit| self.len > limit)
    }

    /// Takes somebody out who gave up; none when its turn came before.
    pub fn leave(&mut self, lane: Lane, ticket: Ticket) -> Option<T> {
        let waiting = self.lanes.get_mut(&lane)?;
        let who = waiting.remove(&ticket)?;
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        }
        self.len -= 1;
        Some(who)
    }

    /// Offers what is free, oldest first, until nobody takes it.
    pub fn offer(&mut self, mut serve: impl FnMut(&mut T) -> Offer) {
        // How far each lane was asked; a lane that can get nothing is not there any more.
        let mut asked: BTreeMap<Lane, Ticket> =
            self.lanes.keys().map(|lane| (*lane, Ticket(0))).collect();
        loop {
            let first = |(lane, from): (&Lane, &Ticket)| {
                let mut later = self.lanes.get(lane)?.range(*from..);
                later.next().map(|(ticket, _)| (*ticket, *lane))
            };
            let Some((ticket, lane)) = asked.iter().filter_map(first).min() else {
                return;
            };
            let Some(who) = self.lanes.get_mut(&lane).and_then(|l| l.get_mut(&ticket)) else {
                return;
            };
            match serve(who) {
                Offer::Taken => drop(self.leave(lane, ticket)),
                Offer::NoPlace => drop(asked.remove(&lane)),
                Offer::NotThis => drop(asked.insert(lane, Ticket(ticket.0 + 1))),
            }
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lane(n: u8) -> Lane {
        let id = |n| format!("{n:032x}").parse().unwrap();
        (n > 0).then(|| id(n))
    }

    fn rest(mut queue: Queue<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        queue.offer(|who| {
            all.push(*who);
            Offer::Taken
        });
        assert!(queue.is_empty());
        all
    }

    #[test]
    fn the_limit_is_exact() {
        let mut queue = Queue::default();
        assert!(!queue.is_over(0));
        let first = queue.join(None, 1);
        assert!(queue.is_over(0) && !queue.is_over(2), "limit - 1");
        queue.join(lane(1), 2);
        assert!(!queue.is_over(2), "limit");
        let third = queue.join(None, 3);
        assert!(queue.is_over(2), "limit + 1, whatever the lane");
        assert_eq!(queue.leave(None, third), Some(3));
        assert_eq!(queue.leave(None, first), Some(1));
        assert_eq!(queue.leave(None, first), None, "it is gone");
        queue.join(None, 4);
        assert!(!queue.is_over(2), "a place came back");
        assert_eq!(rest(queue), [2, 4]);
    }

    #[test]
    fn a_full_member_holds_up_its_own_lane_alone() {
        let mut queue = Queue::default();
        for (who, n) in [(0, 1), (1, 0), (2, 1), (3, 2), (4, 0)] {
            queue.join(lane(n), who);
        }
        let mut asked = Vec::new();
        queue.offer(|who| {
            asked.push(*who);
            match who {
                0 | 2 => Offer::NoPlace,
                _ => Offer::Taken,
            }
        });
        assert_eq!(asked, [0, 1, 3, 4], "2 is behind 0");
        assert_eq!(rest(queue), [0, 2]);
    }

    #[test]
    fn who_cannot_take_it_lets_the_next_one() {
        let mut queue = Queue::default();
        (0..4).for_each(|who| {
            queue.join(None, who);
        });
        let mut places = 1;
        queue.offer(|who| match (*who, places) {
            (0, _) => Offer::NotThis,
            (_, 0) => Offer::NoPlace,
            _ => {
                places -= 1;
                Offer::Taken
            }
        });
        assert_eq!(rest(queue), [0, 2, 3]);
    }

    proptest! {
        /// One free place after the other: each goes to the oldest whom it suits.
        #[test]
        fn the_oldest_whom_a_place_suits_gets_it(
            lanes in prop::collection::vec(0_u8..4, 0..20), places in prop::collection::vec(1_u8..4, 0..40),
        ) {
            let mut queue = Queue::default();
            let mut model: Vec<(usize, u8)> = lanes.iter().copied().enumerate().collect();
            for (who, n) in &model {
                queue.join(lane(*n), (*who, *n));
            }
            for free in places {
                let mut place = Some(free);
                let mut got = None;
                queue.offer(|(who, n)| match place {
                    Some(free) if *n == 0 || *n == free => {
                        place = None;
                        got = Some(*who);
                        Offer::Taken
                    }
                    _ => Offer::NoPlace,
                });
                let at = model.iter().position(|(_, n)| *n == 0 || *n == free);
                prop_assert_eq!(got, at.map(|at| model.remove(at).0));
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
