//! Connection limits that all workers share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts what is open against a limit that the caller brings along, because a snapshot may change it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Takes a place unless `limit` places are taken. Exact over any number of threads.
    pub fn try_enter(&self, limit: Option<u32>) -> bool {
        let limit = limit.map_or(u64::MAX, u64::from);
        self.0
            .try_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1))
            .is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        let before = self.0.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "leave without enter");
    }

    /// Places taken.
    pub fn open(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Whether no place is left under `limit`.
    pub fn is_full(&self, limit: Option<u32>) -> bool {
        limit.is_some_and(|limit| self.open() >= u64::from(limit))
    }
}

/// Counts what each client has open. Bounded by what is open: a client with nothing has no entry.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<IpAddr, u32>>);

impl Clients {
    /// Takes a place for `client` unless it has `limit` of them. Exact over any number of threads.
    pub fn try_enter(&self, client: IpAddr, limit: u32) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(who(client)).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        true
    }

    /// Gives a place back.
    pub fn leave(&self, client: IpAddr) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = who(client);
        match open.get_mut(&client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&client);
            }
        }
    }

    /// Clients with something open.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody has anything open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One client is an IPv4 address or the first 64 bits of an IPv6 address.
fn who(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::{Clients, Gauge};

    #[test]
    fn each_client_has_a_limit_of_its_own() {
        let clients = Clients::default();
        let at = |text: &str| text.parse().unwrap();
        let (a, mapped, b) = (at("192.0.2.1"), at("::ffff:192.0.2.1"), at("192.0.2.2"));
        assert!(clients.try_enter(a, 2), "limit - 1");
        assert!(clients.try_enter(mapped, 2), "limit");
        assert!(!clients.try_enter(a, 2), "limit + 1");
        assert!(clients.try_enter(b, 2), "another");
        assert!(clients.try_enter(at("2001:db8::1"), 1));
        assert!(!clients.try_enter(at("2001:db8::2"), 1), "the same network");
        assert!(clients.try_enter(at("2001:db8:0:1::2"), 1));
        assert_eq!(clients.len(), 4);
        for gone in [a, a, b, at("2001:db8::9"), at("2001:db8:0:1::2")] {
            clients.leave(gone);
        }
        assert!(clients.is_empty());
    }

    #[test]
    fn a_refused_client_leaves_no_entry_behind() {
        let clients = Clients::default();
        assert!(clients.try_enter("192.0.2.1".parse().unwrap(), 1));
        assert!(!clients.try_enter("192.0.2.1".parse().unwrap(), 1));
        clients.leave("192.0.2.1".parse().unwrap());
        assert!(clients.is_empty());
    }

    #[test]
    fn holds_at_the_limit_and_around_it() {
        let gauge = Gauge::default();
        assert!(gauge.try_enter(Some(2)) && !gauge.is_full(Some(2)));
        assert!(gauge.try_enter(Some(2)) && gauge.is_full(Some(2)));
        assert!(!gauge.try_enter(Some(2)));
        assert!(gauge.try_enter(None), "no limit");
        gauge.leave();
        gauge.leave();
        assert!(gauge.try_enter(Some(2)), "a place came back");
    }

    #[test]
    fn exact_over_threads() {
        let gauge = Gauge::default();
        let entered: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| gauge.try_enter(Some(5))).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(entered, 5);
    }
}
