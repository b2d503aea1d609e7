//! Messages between the agent and its children, and what they share.
//!
//! The data plane and vrrp each serve HTTP/1.1 + JSON on a Unix socket of the agent's run folder.
//!
//! | socket | request | body → answer |
//! |---|---|---|
//! | `dataplane.sock` | `PUT /snapshot` | [`Snapshot`] → [`Applied`], or 400/409 with [`Refusal`] |
//! | | `GET /status` | → [`DataplaneStatus`] |
//! | | `GET /metrics` `/healthz` `/readyz` | → Prometheus text; 200 or 503 |
//! | | `PUT /log-level` | `{"level":"debug"}` → 204 |
//! | | `PUT /members/ID` | `{"state":"drain","weight":1}`, either or both → 204 |
//! | | `POST /reopen-logs` | → 204 when the files of access logs are new ones, 503 when the writer is behind |
//! | | `POST /drain` | `{"deadline_ms":N}` → 204; stops accepting, exits when idle or late |
//! | `vrrp.sock` | `PUT /config` | [`VrrpConfig`] → [`Applied`], or 400/409 with [`Refusal`] |
//! | | `GET /status` | → [`VrrpStatus`] |
//! | | `POST /handover` | [`Handover`] → list of [`HandoverResult`], or 409 with [`Refusal`] |
//! | | `PUT /checks/NAME` | [`CheckReport`] → 204, or 404 with [`Refusal`] |
//! | | `GET /events?since=N&wait_ms=M` | → [`VrrpEvents`] after N, waiting for one at most M ms |
//! | | `GET /metrics` `/healthz` `/readyz`, `PUT /log-level` | as above |
//! | `vrrp-track.sock` | SOCK_SEQPACKET frames | [`TrackDataplane`] + 2 descriptors by SCM_RIGHTS |
//! | | | [`HandSecondPath`] + 1 descriptor |

use crate::SCHEMA;
use crate::error::FieldError;
use crate::id::*;
use crate::state::{Certificate, DesiredState, LoadBalancer, VirtualRouter};
use crate::units::*;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

mod vrrp;
pub use vrrp::*;

/// Largest body on a control socket, in bytes.
pub const MAX_BODY: usize = crate::state::MAX_DOCUMENT;

/// A drain may take a day at most, in milliseconds.
pub const MAX_DRAIN_MS: u32 = 86_400_000;

/// The data plane's part of the desired state: one immutable document, swapped whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Order.
    pub revision: Revision,
    /// The API request that caused it.
    pub request_id: String,
    /// What to serve.
    pub load_balancers: Vec<LoadBalancer>,
    /// With what certificates.
    pub certificates: Vec<Certificate>,
}

impl Snapshot {
    /// Reads and checks a snapshot. Nothing is applied when it fails. A certificate that is referred
    /// to may be missing; its listener then stays down.
    pub fn parse(text: &[u8]) -> Result<Self, FieldError> {
        if text.len() > MAX_BODY {
            return Err(FieldError::new(
                "document",
                format!("{} bytes; at most {MAX_BODY} are read", text.len()),
            ));
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let snapshot: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            FieldError::new(error.path().to_string(), error.inner().to_string())
        })?;
        json.end()
            .map_err(|error| FieldError::new("document", error.to_string()))?;
        crate::state::check::snapshot(snapshot.schema, &snapshot.load_balancers)?;
        Ok(snapshot)
    }
}

/// vrrp's part of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VrrpConfig {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Order.
    pub revision: Revision,
    /// The API request that caused it.
    pub request_id: String,
    /// All virtual routers; one that is missing is shut down with priority 0.
    pub routers: Vec<VirtualRouter>,
}

impl DesiredState {
    /// The data plane's part.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            schema: SCHEMA,
            revision: self.revision(),
            request_id: self.request_id.clone(),
            load_balancers: self.load_balancers.clone(),
            certificates: self.certificates.clone(),
        }
    }

    /// vrrp's part.
    pub fn vrrp_config(&self) -> VrrpConfig {
        VrrpConfig {
            schema: SCHEMA,
            revision: self.revision(),
            request_id: self.request_id.clone(),
            routers: self.vrrp.clone(),
        }
    }
}

/// A document was taken over, or was in force already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What is in force now.
    pub revision: Revision,
    /// False when the same document was in force before.
    pub changed: bool,
}

/// A document was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Field that was wrong.
    pub field: String,
    /// What was wrong with it, and the fix.
    pub message: String,
}

/// What the data plane does at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Snapshot in force; none before the first.
    pub revision: Option<Revision>,
    /// Snapshots still referenced by anything; 1 or 2 in a healthy process.
    pub snapshots_alive: u32,
    /// Listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Pools.
    pub pools: Vec<PoolStatus>,
}

/// A listener at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Which.
    pub id: ListenerId,
    /// Its name, when that is one word, else its id.
    #[serde(default)]
    pub name: String,
    /// Of which load balancer.
    pub load_balancer_id: LoadBalancerId,
    /// Listening, or why not.
    pub state: ListenerState,
    /// Statistics since the listener was made in this process.
    pub stats: ListenerStats,
    /// Names of its cipher list that do not exist here, and are left out of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_ciphers: Vec<String>,
}

/// Whether a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerState {
    /// Accepts connections.
    Open,
    /// At its connection limit.
    Full,
    /// Administratively down.
    Disabled,
    /// Cannot listen; the text says why, such as `certificate-missing` or `address in use`.
    Failed(String),
}

/// Counters of a listener. Bytes are payload as seen on the client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListenerStats {
    /// Connections open now.
    pub active_connections: u64,
    /// Connections accepted.
    pub total_connections: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Requests refused for the client's fault (4xx of our own).
    pub request_errors: u64,
}

/// A pool at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Which.
    pub id: PoolId,
    /// Its name, when that is one word, else its id.
    #[serde(default)]
    pub name: String,
    /// Of which load balancer.
    pub load_balancer_id: LoadBalancerId,
    /// Members.
    pub members: Vec<MemberStatus>,
}

/// A member at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Which.
    pub id: MemberId,
    /// Its name, when that is one word, else its id.
    #[serde(default)]
    pub name: String,
    /// Health.
    pub health: MemberHealth,
    /// Reason of the last change, such as `HTTP 503, expected 200`.
    pub reason: String,
    /// Connections open now.
    pub active_connections: u64,
    /// Connections made.
    pub total_connections: u64,
}

/// Health of a member as the data plane sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberHealth {
    /// Probes succeed.
    Up,
    /// Probes fail.
    Down,
    /// No probe has ended yet; gets traffic.
    Checking,
    /// No monitor.
    NoCheck,
    /// Weight 0: only what exists goes on.
    Drain,
    /// Administratively down.
    Maint,
}

/// What vrrp does at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpStatus {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Configuration in force; none before the first.
    pub revision: Option<Revision>,
    /// Its memory cannot be paged out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_locked: Option<Granted>,
    /// Its thread runs before those of normal priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_time: Option<Granted>,
    /// Checks that are reported by others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// Virtual routers.
    pub routers: Vec<RouterStatus>,
}

/// A virtual router at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Which.
    pub vrid: Vrid,
    /// Where.
    pub interface: String,
    /// State.
    pub state: RouterState,
    /// Why it is in this state, such as `no advertisement for 365 ms`.
    pub reason: String,
    /// Ownership changes since start.
    pub transitions: u64,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// VIPs it moves.
    pub addresses: Vec<IpAddr>,
    /// Its liveness sessions, one for each peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub liveness: Vec<PeerLiveness>,
    /// Of an Active: greater than that of each Active before it, on whichever host. Whoever keeps what an Active writes
    /// refuses a smaller one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
}

/// States of RFC 9568 section 6.3; `Fault` is Initialize with a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterState {
    /// Not started.
    Initialize,
    /// Something that is tracked is broken.
    Fault,
    /// Another router holds the VIP.
    Backup,
    /// Holds the VIP.
    Active,
}

/// The frame on `vrrp-track.sock`. With it go two descriptors: a read-only memfd that holds a
/// [`Progress`] record, and a pidfd of the data plane. A later frame replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackDataplane {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Process id of the data plane.
    pub pid: u32,
    /// Silence of the progress counter that counts as frozen.
    pub frozen_after: Millis,
}

/// What the data plane writes into the memfd every [`Progress::INTERVAL`], as 32 little-endian bytes:
/// magic, flags, ticks, members up, members total. One `pwrite` of the whole record; readers `pread`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Grows while all workers and the control thread make progress.
    pub ticks: u64,
    /// All wanted listeners accept.
    pub ready: bool,
    /// Members that get traffic.
    pub members_up: u32,
    /// Members configured.
    pub members_total: u32,
}

impl Progress {
    /// Size of the record in bytes.
    pub const SIZE: usize = 32;
    /// How often the data plane writes it.
    pub const INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);
    const MAGIC: u32 = 0x4b52_5052;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let fields: [(usize, &[u8]); 5] = [
            (0, &Self::MAGIC.to_le_bytes()),
            (4, &u32::from(self.ready).to_le_bytes()),
            (8, &self.ticks.to_le_bytes()),
            (16, &self.members_up.to_le_bytes()),
            (20, &self.members_total.to_le_bytes()),
        ];
        for (at, bytes) in fields {
            out[at..at + bytes.len()].copy_from_slice(bytes);
        }
        out
    }

    /// From bytes; none when nothing was written yet.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let ticks = u64::from(word(8)) | u64::from(word(12)) << 32;
        (word(0) == Self::MAGIC).then(|| Self {
            ticks,
            ready: word(4) & 1 == 1,
            members_up: word(16),
            members_total: word(20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;

    #[test]
    fn progress_round_trip() {
        let record = Progress {
            ticks: u64::MAX - 3,
            ready: true,
            members_up: 2,
            members_total: 7,
        };
        assert_eq!(Progress::decode(&record.encode()), Some(record));
        assert_eq!(Progress::decode(&[0; Progress::SIZE]), None);
    }
}
