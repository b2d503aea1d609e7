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
        /// Of an Active: greater than that of each Active before it, for whatever it writes elsewhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        term: Option<u64>,
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
        /// Ours from now on: greater than the other one's.
        #[serde(default)]
        term: u64,
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
        /// Over which network.
        path: LivenessPath,
    },
    /// We hear a peer's heartbeats, and they say that it does not hear ours: one direction is lost.
    PeerDeaf {
        /// Who.
        peer: IpAddr,
        /// Over which network.
        path: LivenessPath,
    },
    /// A peer is silent on one of two networks; whether it is dead the other one tells.
    PeerSilent {
        /// Who.
        peer: IpAddr,
        /// Over which network.
        path: LivenessPath,
        /// For how long.
        silence_ms: u64,
    },
    /// A peer is silent where the virtual routers are, and lives, as the second network tells: the first one is
    /// split, or does not let its heartbeats pass any more. Adverts alone decide.
    PeerCut {
        /// Who.
        peer: IpAddr,
    },
    /// A peer is silent on every network on which it was heard.
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
    /// A neighbour sent here a packet for an address whose Active is elsewhere; peers with a liveness session are told, and
    /// announce again.
    Stray {
        /// To which address.
        address: IpAddr,
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

/// One of the networks of a liveness session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LivenessPath {
    /// Where the virtual routers are.
    Vip,
    /// `second_path`.
    Second,
}

impl LivenessPath {
    /// As in JSON and in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Second => "second",
        }
    }
}

/// What a liveness session knows of a peer, over each network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLiveness {
    /// Who.
    pub peer: IpAddr,
    /// Where the virtual routers are.
    pub vip: PathState,
    /// Over the second network, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<PathState>,
}

impl PeerLiveness {
    /// What follows from it, in words.
    pub fn meaning(&self) -> &'static str {
        use PathState::{Alive, Never, OneWay, Silent};
        match (self.vip, self.second) {
            (Never, None | Some(Never)) => {
                "off, adverts alone decide: the peer has none, or UDP 5556 does not pass"
            }
            (Never, Some(Alive | OneWay)) => {
                "over the second path only: UDP 5556 does not pass where the virtual routers are"
            }
            (Silent | Never, None | Some(Silent | Never)) => "silent, adverts alone decide",
            (Silent, Some(Alive | OneWay)) => {
                "cut off: it lives, adverts alone decide whether it is Active for us"
            }
            (OneWay, _) => "it does not hear us",
            (Alive, None | Some(Alive)) => "alive",
            (Alive, Some(_)) => "alive, over the first path only",
        }
    }
}

/// What is known of a peer over one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathState {
    /// It was never heard.
    Never,
    /// It was heard, and is silent, or has left.
    Silent,
    /// It is heard, and does not hear us.
    OneWay,
    /// Both hear each other.
    Alive,
}

/// The second kind of frame on `vrrp-track.sock`. With it goes one descriptor: a UDP socket that is bound to port
/// 5556 of this address, in whatever namespace. A later frame replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandSecondPath {
    /// [`crate::SCHEMA`] of the writer.
    pub schema: u32,
    /// To what the socket is bound.
    pub second_path: IpAddr,
}

/// Body of `PUT /checks/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckReport {
    /// What came out.
    pub up: bool,
}

/// A check that is tracked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// Its state.
    pub up: bool,
    /// For how many milliseconds the last report still counts; none: there is none that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_ms: Option<u64>,
}

/// Whether something that needs a privilege or a limit is so, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granted {
    /// It is.
    Yes,
    /// It is not, for this reason.
    No(String),
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
    /// Of the process that numbers them: another one begins at 1.
    #[serde(default)]
    pub process: u64,
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
