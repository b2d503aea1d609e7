//! Idle keep-alive connections to members, one pool per worker.
//!
//! A connection in the pool holds no buffer and does not count as the member's. It is taken by
//! member *and* address, so that a member that moved never gets traffic at its old place.

use crate::io::Conn;
use krater_model::MemberId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections kept per member and worker: more than a worker has in flight at once to one
/// member under ordinary load. Together with the time below it bounds descriptors.
const MAX_PER_MEMBER: usize = 128;
/// Idle connections kept per worker: with 8 workers a fifth of the usual limit of 20,000 files.
const MAX_PER_WORKER: usize = 512;
/// How long a connection is kept. Common servers close theirs after 5 seconds or more; closing
/// first avoids sending into a closing connection.
const KEEP: Duration = Duration::from_secs(4);
/// A request that must not be sent twice takes a connection only when it was idle for less than
/// this: the member is unlikely to close it just now.
const FRESH: Duration = Duration::from_secs(1);

/// What a request may be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Only a connection that has proved that it can be reused.
    pub proved: bool,
    /// The request cannot be sent twice.
    pub once: bool,
}

impl Wanted {
    /// Every reuse is as safe as with HAProxy's `http-reuse safe`: if the member closes the connection at that
    /// very moment, the client never knows. A request that can be sent again is, on a fresh connection. Any other gets
    /// one that is unlikely to be closed; when it is the client's first, which no client repeats by
    /// itself (RFC 9110 section 9.2.2), one that was reused before.
    pub fn of(first: bool, repeatable: bool) -> Self {
        Self {
            proved: first && !repeatable,
            once: !repeatable,
        }
    }
}

/// Idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<(MemberId, SocketAddr), Vec<Idle>>>,
    count: Cell<usize>,
    swept: Cell<Option<Instant>>,
    reused: Cell<u64>,
    stored: Cell<u64>,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
    /// Requests it has served.
    served: u32,
}

impl Pool {
    /// Takes the connection that was used last among those that suit, and how many requests it has served. One that the
    /// member has closed, or on which it sent something unasked, is dropped.
    pub fn take(
        &self,
        member: MemberId,
        address: SocketAddr,
        wanted: Wanted,
        suits: impl Fn(&Conn) -> bool,
    ) -> Option<(Conn, u32)> {
        let mut pools = self.idle.borrow_mut();
        let idle = pools.get_mut(&(member, address))?;
        let now = Instant::now();
        let keep = if wanted.once { FRESH } else { KEEP };
        while let Some(at) = {
            let fits = |i: &Idle| (!wanted.proved || i.served > 1) && suits(&i.conn);
            idle.iter().rposition(fits)
        } {
            let mut found = idle.remove(at);
            self.count.set(self.count.get() - 1);
            if now.duration_since(found.since) > keep {
                // All before it are older still. They stay for the sweep.
                return None;
            }
            // Bytes that a member sent late would else be taken for the answer to another client's request. What the
            // kernel has not reported yet matters less than a system call per request, except to a request that
            // would be lost in a closing connection.
            let quiet = match wanted.once {
                true => found.conn.is_quiet(),
                false => found.conn.was_quiet(),
            };
            if quiet {
                self.reused.set(self.reused.get() + 1);
                return Some((found.conn, found.served));
            }
        }
        None
    }

    /// Keeps a connection on which a response has ended and that the member keeps open.
    pub fn put(&self, member: MemberId, address: SocketAddr, conn: Conn, served: u32) {
        let now = Instant::now();
        self.sweep(now);
        if self.count.get() >= MAX_PER_WORKER {
            return;
        }
        let mut pools = self.idle.borrow_mut();
        let idle = pools.entry((member, address)).or_default();
        if idle.len() < MAX_PER_MEMBER {
            self.count.set(self.count.get() + 1);
            self.stored.set(self.stored.get() + 1);
            idle.push(Idle {
                conn,
                since: now,
                served,
            });
        }
    }

    /// Closes connections that were idle for too long. Cheap: at most once a second it looks.
    pub fn sweep(&self, now: Instant) {
        let last = self.swept.get();
        if last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            return;
        }
        self.swept.set(Some(now));
        let mut count = 0;
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|i| now.duration_since(i.since) <= KEEP);
            count += idle.len();
            !idle.is_empty()
        });
        self.count.set(count);
    }

    /// Connections in it now.
    pub fn len(&self) -> usize {
        self.count.get()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Times that a connection was reused.
    pub fn reused(&self) -> u64 {
        self.reused.get()
    }
}
