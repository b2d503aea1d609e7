//! Sticky tables: which member a client had. Bounded, least recently used first out, entries unused
//! for the time-out are forgotten.

use crate::exchange::RequestView;
use crate::l7::cookies;
use krater_model::MemberId;
use krater_model::state::Persistence;
use slab::Slab;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Entries per pool: HAProxy's `size 10k`, as Octavia configures it.
pub const CAPACITY: usize = 10 * 1024;

/// Bytes of a cookie's value that are compared: HAProxy's `type string len 64`, as Octavia configures it.
pub const COOKIE_KEY: usize = 64;

/// The cookie that HTTP_COOKIE inserts, as Octavia names it.
pub const INSERTED_COOKIE: &str = "SRV";

/// The beginning of an application cookie's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CookieKey {
    length: u8,
    bytes: [u8; COOKIE_KEY],
}

impl CookieKey {
    /// None for an empty value, which names no session.
    pub fn new(value: &[u8]) -> Option<Self> {
        let value = value.get(..COOKIE_KEY).unwrap_or(value);
        let mut bytes = [0; COOKIE_KEY];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        let length = u8::try_from(value.len()).ok().filter(|n| *n > 0)?;
        Some(Self { length, bytes })
    }
}

/// What ties a request to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Token {
    /// Nothing, or only the client's address.
    #[default]
    None,
    /// A cookie of ours that names the member.
    Member(MemberId),
    /// A cookie of the application.
    Cookie(CookieKey),
}

impl Token {
    /// What a request shows a pool that keeps clients as `persistence` says. Of our cookie the first
    /// that names a member counts, of the application's the last (HAProxy's `req.cook`).
    pub fn of(persistence: Option<&Persistence>, request: &impl RequestView) -> Self {
        match persistence {
            Some(Persistence::HttpCookie) => {
                let mut member = None;
                request.any_value(b"cookie", &mut |line| {
                    let text =
                        find(line, INSERTED_COOKIE).and_then(|v| std::str::from_utf8(v).ok());
                    member = text.and_then(|text| text.parse().ok());
                    member.is_some()
                });
                member.map_or(Self::None, Self::Member)
            }
            Some(Persistence::AppCookie { cookie_name }) => {
                let mut key = None;
                request.any_value(b"cookie", &mut |line| {
                    key = find(line, cookie_name).and_then(CookieKey::new).or(key);
                    false
                });
                key.map_or(Self::None, Self::Cookie)
            }
            Some(Persistence::SourceIp { .. }) | None => Self::None,
        }
    }
}

/// The value of a cookie in a Cookie field; the last, if it stands there several times.
fn find<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let named = cookies(line).filter(|(key, _)| *key == name.as_bytes());
    named.map(|(_, value)| value).last()
}

/// The value of the cookie that a Set-Cookie field sets, if it is called `name`.
pub fn set_cookie<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = field.split(|b| *b == b';').next()?;
    find(pair, name)
}

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

    struct Lines(&'static [&'static str]);

    impl RequestView for Lines {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn host(&self) -> &[u8] {
            b"a"
        }
        fn path(&self) -> &[u8] {
            b"/"
        }
        fn path_and_query(&self) -> &[u8] {
            b"/"
        }
        fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            name == b"cookie" && self.0.iter().any(|line| test(line.as_bytes()))
        }
    }

    #[test]
    fn tokens_are_found_in_any_cookie_line() {
        let ours = Some(&Persistence::HttpCookie);
        let app = Persistence::AppCookie {
            cookie_name: "sid".into(),
        };
        let id = "00000000-0000-4000-8000-000000000007";
        let lines = Lines(&[
            "a=b; SRV=nobody; sid=0",
            "x; SRV=00000000-0000-4000-8000-000000000007 ;sid= 1=2",
            "y=z",
        ]);
        assert_eq!(
            Token::of(ours, &lines),
            Token::Member(id.parse().unwrap()),
            "a value that names no member is passed over"
        );
        let key = CookieKey::new(b"1=2").unwrap();
        assert_eq!(Token::of(Some(&app), &lines), Token::Cookie(key));
        assert_eq!(Token::of(Some(&app), &Lines(&["SID=1; sid="])), Token::None);
        assert_eq!(Token::of(None, &lines), Token::None);
        let by_address = Persistence::SourceIp {
            timeout: krater_model::Millis::literal(0),
        };
        assert_eq!(Token::of(Some(&by_address), &lines), Token::None);
    }

    #[test]
    fn keys_are_the_first_64_bytes() {
        let long = |n: usize| CookieKey::new(&vec![b'x'; n]).unwrap();
        assert_ne!(long(63), long(64), "limit - 1");
        assert_eq!(long(64), long(65), "limit + 1");
        assert_eq!(CookieKey::new(b""), None);
    }

    #[test]
    fn set_cookie_looks_at_the_first_pair_alone() {
        assert_eq!(
            set_cookie(b"sid=42; Path=/; HttpOnly", "sid"),
            Some(&b"42"[..])
        );
        assert_eq!(set_cookie(b"a=b; sid=42", "sid"), None);
        assert_eq!(set_cookie(b"sid", "sid"), None);
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
