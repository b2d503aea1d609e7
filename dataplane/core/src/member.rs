//! Runtime state of one member: what survives snapshots because it is keyed by the member's id.
//!
//! All fields are atomics with relaxed order, but for the count of connections: they are counters and
//! flags, nothing is published through them. Choosing a member and counting its connection happen under the pool's lock.

use crate::table::MemberConf;
use krater_model::MemberId;
use krater_model::control::MemberHealth;
use std::sync::atomic::{
    AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

/// In place of an operator's weight: the configured one counts.
const CONFIGURED: u16 = u16::MAX;

/// Health as the probes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Probed {
    /// The pool has no monitor.
    NoMonitor = 0,
    /// A monitor, but no finished probe; gets traffic, as HAProxy starts servers up.
    Checking = 1,
    /// Up.
    Up = 2,
    /// Down.
    Down = 3,
}

/// What an operator wants of a member, besides what the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wish {
    /// Nothing.
    Ready = 0,
    /// No new clients; those that belong to it by persistence go on.
    Drain = 1,
    /// Nothing at all.
    Maint = 2,
}

/// Counters and health of one member, on a cache line of its own: every connection writes them.
#[derive(Debug)]
#[repr(align(128))]
pub struct MemberState {
    /// Which.
    pub id: MemberId,
    probed: AtomicU8,
    active: AtomicU64,
    total: AtomicU64,
    failed: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    credit: AtomicI64,
    wish: AtomicU8,
    weight: AtomicU16,
    /// Milliseconds of the process's clock at which it came back, plus one; 0: it was never away.
    back: AtomicU64,
}

impl MemberState {
    /// A new member.
    pub fn new(id: MemberId, probed: Probed) -> Self {
        Self {
            id,
            probed: AtomicU8::new(probed as u8),
            active: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            credit: AtomicI64::new(0),
            wish: AtomicU8::new(Wish::Ready as u8),
            weight: AtomicU16::new(CONFIGURED),
            back: AtomicU64::new(0),
        }
    }

    /// What probes say.
    pub fn probed(&self) -> Probed {
        match self.probed.load(Relaxed) {
            0 => Probed::NoMonitor,
            1 => Probed::Checking,
            2 => Probed::Up,
            _ => Probed::Down,
        }
    }

    /// It serves at another address from now on, of which nothing is known: what was found out at the old one goes,
    /// what is counted stays.
    pub fn moved(&self) {
        if self.probed() != Probed::NoMonitor {
            self.set_probed(Probed::Checking);
        }
        self.failures.store(0, Relaxed);
        self.back.store(0, Relaxed);
    }

    /// Called by the health machine's owner, and by [`Self::observe_failure`].
    pub fn set_probed(&self, probed: Probed) {
        self.probed.store(probed as u8, Relaxed);
    }

    /// A probe brings it back from DOWN at `now`, by any clock that [`Self::back_since`]'s reader has too.
    pub fn came_back(&self, now: Duration) {
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.back.store(ms.saturating_add(1), Relaxed);
    }

    /// When it came back the last time; none when it was never away.
    pub fn back_since(&self) -> Option<Duration> {
        let ms = self.back.load(Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(ms))
    }

    /// What an operator wants. It outlives snapshots, as the state does.
    pub fn wish(&self) -> Wish {
        match self.wish.load(Relaxed) {
            0 => Wish::Ready,
            1 => Wish::Drain,
            _ => Wish::Maint,
        }
    }

    /// See [`Self::wish`].
    pub fn set_wish(&self, wish: Wish) {
        self.wish.store(wish as u8, Relaxed);
    }

    /// The operator's weight, or none: then the configured one counts.
    pub fn set_weight(&self, weight: Option<u16>) {
        self.weight.store(weight.unwrap_or(CONFIGURED), Relaxed);
    }

    /// Share of the load.
    pub fn weight(&self, conf: &MemberConf) -> u16 {
        match self.weight.load(Relaxed) {
            CONFIGURED => conf.weight,
            weight => weight,
        }
    }

    /// Whether an operator has set something.
    pub fn is_set(&self) -> bool {
        self.wish() != Wish::Ready || self.weight.load(Relaxed) != CONFIGURED
    }

    /// Connections (or, in HTTP, requests in flight) now.
    pub fn active(&self) -> u64 {
        self.active.load(SeqCst)
    }

    /// Connections (or requests) so far.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Connects that failed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// One more; pair with [`Self::leave`].
    pub fn enter(&self) {
        self.hold();
        self.count();
    }

    /// A place is taken, by one who may yet give it back unused; pair with [`Self::leave`].
    pub fn hold(&self) {
        self.active.fetch_add(1, SeqCst);
    }

    /// It is used.
    pub fn count(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    /// One less. In one order with [`Self::active`] and with the count of those who wait for a place: who
    /// leaves sees who waits, or who begins to wait sees the place.
    pub fn leave(&self) {
        let before = self.active.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "leave without enter");
    }

    /// A connect failed.
    pub fn count_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Passive health: traffic failed. True when this is the `limit`th failure in a row and takes the
    /// member down; a probe brings it back.
    pub fn observe_failure(&self, limit: Option<u32>) -> bool {
        let Some(limit) = limit else {
            return false;
        };
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < limit || self.probed() != Probed::Up {
            return false;
        }
        self.failures.store(0, Relaxed);
        self.set_probed(Probed::Down);
        true
    }

    /// Passive health: traffic went well. Costs a read when nothing failed.
    pub fn observe_success(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Credit in smooth weighted round robin. Touched only under the pool's lock.
    pub fn credit(&self) -> i64 {
        self.credit.load(Relaxed)
    }

    /// See [`Self::credit`].
    pub fn set_credit(&self, credit: i64) {
        self.credit.store(credit, Relaxed);
    }

    /// Whether connections that belong to the member by persistence may go on to it.
    pub fn serves(&self, conf: &MemberConf) -> bool {
        let here = conf.enabled && conf.down.is_none();
        here && self.wish() != Wish::Maint && self.probed() != Probed::Down
    }

    /// Whether new clients may be balanced to it.
    pub fn is_candidate(&self, conf: &MemberConf) -> bool {
        self.weight(conf) > 0 && self.wish() == Wish::Ready && self.serves(conf)
    }

    /// For status.
    pub fn health(&self, conf: &MemberConf) -> MemberHealth {
        match self.probed() {
            _ if !conf.enabled || self.wish() == Wish::Maint => MemberHealth::Maint,
            Probed::Down => MemberHealth::Down,
            _ if conf.down.is_some() => MemberHealth::Down,
            _ if self.weight(conf) == 0 || self.wish() == Wish::Drain => MemberHealth::Drain,
            Probed::NoMonitor => MemberHealth::NoCheck,
            Probed::Checking => MemberHealth::Checking,
            Probed::Up => MemberHealth::Up,
        }
    }
}
