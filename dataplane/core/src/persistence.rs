//! Sticky tables: which member a client had. Bounded, least recently used first out, entries unused
//! for the time-out are forgotten.

use krater_model::MemberId;
use slab::Slab;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Entries per pool: HAProxy's `size 10k`, as Octavia configures it.
pub const CAPACITY: usize = 10 * 1024;

/// A table of one pool.
#[derive(Debug)]
pub struct Table<K> {
    capacity: usize,
    index: HashMap<K, usize>,
    entries: Slab<Entry<K>>,
    /// Used last.
    newest: Option<usize>,
    /// Used longest ago.
    oldest: Option<usize>,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    member: MemberId,
    used: Instant,
    newer: Option<usize>,
    older: Option<usize>,
}

impl<K: Hash + Eq + Copy> Table<K> {
    /// An empty table of at most `capacity` entries, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            index: HashMap::new(),
            entries: Slab::new(),
            newest: None,
            oldest: None,
        }
    }

    /// Entries now; expired ones count until they are met.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The member of `key`, which counts as a use. Zero `timeout` is none.
    pub fn touch(&mut self, key: K, now: Instant, timeout: Duration) -> Option<MemberId> {
        self.expire(now, timeout);
        let at = *self.index.get(&key)?;
        let member = self.entries.get(at)?.member;
        self.unlink(at);
        self.link_newest(at, now);
        self.check();
        Some(member)
    }

    /// Notes the member of `key`; the least recently used entry makes way.
    pub fn set(&mut self, key: K, member: MemberId, now: Instant) {
        if let Some(at) = self.index.get(&key).copied() {
            self.unlink(at);
            if let Some(entry) = self.entries.get_mut(at) {
                entry.member = member;
            }
            self.link_newest(at, now);
        } else {
            if self.index.len() >= self.capacity {
                self.evict();
            }
            let at = self.entries.insert(Entry {
                key,
                member,
                used: now,
                newer: None,
                older: None,
            });
            self.index.insert(key, at);
            self.link_newest(at, now);
        }
        self.check();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    /// The list is ordered by use, so expired entries are at its end.
    fn expire(&mut self, now: Instant, timeout: Duration) {
        while let Some(entry) = self.oldest.and_then(|at| self.entries.get(at)) {
            if timeout.is_zero() || now.saturating_duration_since(entry.used) < timeout {
                return;
            }
            self.evict();
        }
    }

    fn evict(&mut self) {
        let Some(at) = self.oldest else {
            return;
        };
        self.unlink(at);
        if let Some(entry) = self.entries.try_remove(at) {
            self.index.remove(&entry.key);
        }
    }

    fn unlink(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        let (newer, older) = (entry.newer.take(), entry.older.take());
        match newer.and_then(|at| self.entries.get_mut(at)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match older.and_then(|at| self.entries.get_mut(at)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, at: usize, now: Instant) {
        let older = self.newest.replace(at);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.used = now;
            entry.older = older;
        }
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(entry) => entry.newer = Some(at),
            None => self.oldest = Some(at),
        }
    }

    fn check(&self) {
        debug_assert_eq!(self.index.len(), self.entries.len());
        debug_assert!(self.index.len() <= self.capacity);
        debug_assert_eq!(self.newest.is_none(), self.oldest.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(n: u8) -> MemberId {
        format!("{n:032x}").parse().unwrap()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Touch(u8),
        Set(u8, u8),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..12).prop_map(Step::Touch),
            (0_u8..12, any::<u8>()).prop_map(|(k, m)| Step::Set(k, m)),
            (0_u64..40).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// The table agrees with a list that is searched and sorted naively.
        #[test]
        fn agrees_with_a_naive_list(
            capacity in 1_usize..8, timeout in prop_oneof![Just(0_u64), 1_u64..60],
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let timeout = Duration::from_secs(timeout);
            let mut now = Instant::now();
            let mut table = Table::new(capacity);
            // Most recently used last.
            let mut list: Vec<(u8, MemberId, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(seconds) => now += Duration::from_secs(seconds),
                    Step::Touch(key) => {
                        list.retain(|(_, _, used)| timeout.is_zero() || now - *used < timeout);
                        let at = list.iter().position(|(k, ..)| *k == key);
                        let want = at.map(|at| list.remove(at));
                        list.extend(want.map(|(k, m, _)| (k, m, now)));
                        prop_assert_eq!(table.touch(key, now, timeout), want.map(|w| w.1));
                        prop_assert_eq!(table.len(), list.len());
                    }
                    Step::Set(key, m) => {
                        list.retain(|(k, ..)| *k != key);
                        if list.len() == capacity {
                            list.remove(0);
                        }
                        list.push((key, member(m), now));
                        table.set(key, member(m), now);
                        prop_assert_eq!(table.len(), list.len());
                    }
                }
            }
        }
    }

    #[test]
    fn the_bound_holds_at_full_size() {
        let now = Instant::now();
        let mut table = Table::new(CAPACITY);
        for key in 0..3 * CAPACITY {
            table.set(key, member(1), now);
        }
        assert_eq!(table.len(), CAPACITY);
        assert_eq!(
            table.touch(3 * CAPACITY - 1, now, Duration::ZERO),
            Some(member(1))
        );
        assert_eq!(table.touch(0, now, Duration::ZERO), None);
        table.clear();
        assert!(table.is_empty());
    }
}
