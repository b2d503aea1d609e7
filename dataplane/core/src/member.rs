//! Runtime state of one member: what survives snapshots because it is keyed by the member's id.
//!
//! All fields are atomics with relaxed order: they are counters and flags, nothing is published
//! through them. Choosing a member and counting its connection happen under the pool's lock.

use crate::table::MemberConf;
use krater_model::MemberId;
use krater_model::control::MemberHealth;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};

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
    credit: AtomicI64,
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
            credit: AtomicI64::new(0),
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

    /// Called by the health machine's owner alone.
    pub fn set_probed(&self, probed: Probed) {
        self.probed.store(probed as u8, Relaxed);
    }

    /// Connections (or, in HTTP, requests in flight) now.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
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
        self.active.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        let before = self.active.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "leave without enter");
    }

    /// A connect failed.
    pub fn count_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
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
        conf.enabled && self.probed() != Probed::Down
    }

    /// Whether new clients may be balanced to it.
    pub fn is_candidate(&self, conf: &MemberConf) -> bool {
        conf.weight > 0 && self.serves(conf)
    }

    /// For status.
    pub fn health(&self, conf: &MemberConf) -> MemberHealth {
        match self.probed() {
            _ if !conf.enabled => MemberHealth::Maint,
            Probed::Down => MemberHealth::Down,
            _ if conf.weight == 0 => MemberHealth::Drain,
            Probed::NoMonitor => MemberHealth::NoCheck,
            Probed::Checking => MemberHealth::Checking,
            Probed::Up => MemberHealth::Up,
        }
    }
}
