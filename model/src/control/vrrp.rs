//! What vrrp tells and is told beyond its configuration: events and handovers.

use super::RouterState;
use crate::units::*;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Something happened to a virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpEvent {
    /// Counts from 1 since the start of the process, without gaps.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Which router.
    pub vrid: Vrid,
    /// Where.
    pub interface: String,
    /// What.
    #[serde(flatten)]
    pub kind: VrrpEventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum VrrpEventKind {
    /// Another state.
    StateChanged {
        /// Before.
        from: RouterState,
        /// After.
        to: RouterState,
        /// Why, in words.
        reason: String,
    },
    /// We are Active, and so is another router, which loses the election: the segment was split.
    RivalActive {
        /// Who.
        source: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// Another Active gave way, or is cut off again.
    RivalGone {
        /// Who.
        source: IpAddr,
        /// From its first advertisement that we heard to the last one.
        lasted_ms: u64,
    },
    /// Two routers are configured as owner of the addresses.
    TwoOwners {
        /// The other one.
        source: IpAddr,
    },
    /// A handover was asked for and nobody took over.
    NoSuccessor {
        /// How long we waited.
        waited_ms: u64,
    },
    /// We woke up too late and listen before we speak.
    Stalled {
        /// How late.
        late_ms: u64,
    },
    /// The Active's interval is not ours and was adopted.
    IntervalLearned {
        /// Whose.
        source: IpAddr,
        /// The interval.
        interval_ms: u64,
    },
    /// The Active advertises other addresses than ours.
    AddressesDiffer {
        /// Who.
        source: IpAddr,
    },
    /// The liveness session with a peer is up: both hear each other.
    PeerAlive {
        /// Who.
        peer: IpAddr,
    },
    /// We hear a peer's heartbeats, and they say that it does not hear ours: one direction is lost.
    PeerDeaf {
        /// Who.
        peer: IpAddr,
    },
    /// A peer's liveness session ended in silence.
    PeerDead {
        /// Who.
        peer: IpAddr,
        /// For how long it is silent.
        silence_ms: u64,
    },
    /// A peer said that its vrrp ends.
    PeerLeft {
        /// Who.
        peer: IpAddr,
    },
    /// A packet was refused (at most one event each five seconds; metrics count all).
    PacketDropped {
        /// From whom.
        source: IpAddr,
        /// The first check that it failed.
        reason: String,
    },
    /// Somebody else removed addresses of ours; they were added again.
    AddressesRestored {
        /// How many.
        count: u64,
    },
}

/// Answer of `GET /events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpEvents {
    /// In order, the first one after the asked for that is still there.
    pub events: Vec<VrrpEvent>,
    /// To ask for next.
    pub next: u64,
    /// How many after the asked for are not there any more.
    pub lost: u64,
}

/// Body of `POST /handover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Handover {
    /// This router; none: all that are Active.
    pub vrid: Option<Vrid>,
    /// On this interface; none: on any.
    pub interface: Option<String>,
    /// How long the successor is not preempted; none: [`Handover::HOLD`].
    pub hold: Option<Millis>,
}

impl Handover {
    /// Long enough for maintenance to begin.
    pub const HOLD: Millis = Millis::literal(60_000);
}

/// How a router's handover ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverResult {
    /// Which router.
    pub vrid: Vrid,
    /// Where.
    pub interface: String,
    /// Its state now; `active` when nobody took over.
    pub state: RouterState,
    /// Why, in words.
    pub reason: String,
}
