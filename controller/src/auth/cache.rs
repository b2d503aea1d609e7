//! What Keystone said about tokens lately. Pure: times are given. Holds digests, not tokens.

use crate::app::policy::Identity;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::HashMap;
use std::fmt;

/// Tokens that are remembered, some 300 bytes each: more than a cloud's services and people use in five minutes.
const MAX: usize = 4_096;

/// Digest of a token.
pub type Key = [u8; 32];

/// See the module.
#[derive(Default)]
pub struct Cache(HashMap<Key, Entry>);

struct Entry {
    who: Identity,
    /// Unix milliseconds.
    until: i64,
}

/// The digest of a token.
pub fn key(token: &str) -> Key {
    let mut key = Key::default();
    for (to, from) in key
        .iter_mut()
        .zip(digest(&SHA256, token.as_bytes()).as_ref())
    {
        *to = *from;
    }
    key
}

impl Cache {
    /// Whose the token is, if it is known at `now`.
    pub fn find(&self, key: &Key, now: i64) -> Option<&Identity> {
        let entry = self.0.get(key)?;
        (now < entry.until).then_some(&entry.who)
    }

    /// Remembers a token until `until`. When all places are taken those go whose time is over, else the one whose time is
    /// over first.
    pub fn insert(&mut self, key: Key, who: Identity, until: i64, now: i64) {
        if until <= now {
            return;
        }
        if self.0.len() >= MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, entry| now < entry.until);
        }
        if self.0.len() >= MAX && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(first) = first.map(|(key, _)| *key) {
                self.0.remove(&first);
            }
        }
        self.0.insert(key, Entry { who, until });
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str) -> Identity {
        Identity::new(user.into(), "p".into(), [])
    }

    #[test]
    fn a_token_is_known_until_its_time_is_over() {
        let mut cache = Cache::default();
        cache.insert(key("a"), who("a"), 100, 0);
        assert_eq!(cache.find(&key("a"), 99).unwrap().user, "a");
        assert_eq!(cache.find(&key("a"), 100), None);
        assert_eq!(cache.find(&key("b"), 0), None);
        cache.insert(key("late"), who("late"), 100, 100);
        assert_eq!(cache.0.len(), 1);
    }

    #[test]
    fn it_does_not_grow_and_keeps_what_is_good_longest() {
        let mut cache = Cache::default();
        for n in 0..i64::try_from(MAX).unwrap() {
            cache.insert(key(&n.to_string()), who("x"), 1_000 + n, 0);
        }
        assert_eq!(cache.0.len(), MAX);
        cache.insert(key("new"), who("new"), 5, 0);
        assert_eq!(cache.0.len(), MAX);
        assert_eq!(cache.find(&key("0"), 0), None);
        assert!(cache.find(&key("1"), 0).is_some());
        // Again: it takes its own place.
        cache.insert(key("new"), who("new"), 2_000_000, 0);
        assert!(cache.find(&key("1"), 0).is_some());
        // All others are over.
        cache.insert(key("last"), who("last"), 2_000_000, 1_000_000);
        assert_eq!(cache.0.len(), 2);
    }
}
