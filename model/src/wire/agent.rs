//! The native agent API, version 2.0: HTTP/1.1 + JSON over mutual TLS, port 9443.
//!
//! | request | body → answer |
//! |---|---|
//! | `GET /2.0/info` | → [`Info`] |
//! | `PUT /2.0/state` | [`crate::DesiredState`] → 200 [`StateApplied`]; 400 refused field, 409 older or conflicting, 413 too large |
//! | `GET /2.0/state` | → [`StateView`]: what is in force, without secrets |
//! | `GET /2.0/status` | → [`Status`] |
//! | `PUT /2.0/certificate` | [`NewCertificate`] → 204; used from the next connection on |
//! | `GET /2.0/logs?process=agent&lines=100&follow=false` | → text lines; follow: chunked, without end |
//! | `PUT /2.0/log-level` | `{"level":"debug"}` → 204, for all processes |
//! | `GET /healthz` `/readyz` `/metrics` | 200 or 503; Prometheus text |
//!
//! Errors are [`ErrorBody`]. The controller identifies itself with a client certificate of the client
//! CA whose DNS name is [`CONTROLLER_NAME`]; the amphora's certificate is of the server CA and its DNS
//! name is the amphora id. Every request carries `x-request-id`, which is logged.

use crate::control::{DataplaneStatus, VrrpStatus};
use crate::id::AmphoraId;
use crate::secret::Secret;
use crate::units::Revision;
use serde::{Deserialize, Serialize};

/// TCP port of the agent.
pub const PORT: u16 = 9443;
/// DNS name in the controller's client certificate.
pub const CONTROLLER_NAME: &str = "krater-controller";
/// Header that carries the request id.
pub const REQUEST_ID: &str = "x-request-id";

/// `GET /2.0/info`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Who this is.
    pub amphora_id: AmphoraId,
    /// Program version with commit.
    pub version: String,
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// New at every start of the machine or set of namespaces; not at a restart of the agent.
    pub boot_id: String,
    /// New at every start of the agent.
    pub started_at: String,
    /// Desired state in force.
    pub revision: Option<Revision>,
    /// End of validity of the server certificate, RFC 3339.
    pub certificate_expires: String,
}

/// Answer of `PUT /2.0/state`. Sent when interfaces, vrrp and data plane all have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateApplied {
    /// In force now.
    pub revision: Revision,
    /// False when it was in force before.
    pub changed: bool,
    /// What was done, in order, for logs.
    pub steps: Vec<String>,
}

/// Answer of `GET /2.0/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// In force now; none before the first.
    pub revision: Option<Revision>,
    /// SHA-256 of the document in force, hex.
    pub digest: Option<String>,
    /// The document with `certificates[].pem` and `heartbeat.key` replaced by `…`.
    pub state: Option<serde_json::Value>,
}

/// Answer of `GET /2.0/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Desired state in force.
    pub revision: Option<Revision>,
    /// Processes.
    pub processes: Vec<ProcessStatus>,
    /// From the data plane, unless it does not answer.
    pub dataplane: Option<DataplaneStatus>,
    /// From vrrp, unless it does not answer.
    pub vrrp: Option<VrrpStatus>,
}

/// A process of the amphora.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// `agent`, `dataplane`, `vrrp` or `vrrp-guard`.
    pub name: String,
    /// Process id; 0 when it does not run.
    pub pid: u32,
    /// Times it was started by this agent.
    pub restarts: u32,
    /// Resident memory in bytes.
    pub rss: u64,
}

/// Body of `PUT /2.0/certificate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCertificate {
    /// PEM: leaf, intermediates, private key.
    pub pem: Secret,
}

/// Every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Machine-readable: `bad-field`, `older-revision`, `conflicting-revision`, `too-large`, `not-found`,
    /// `forbidden`, `apply-failed`, `internal`.
    pub code: String,
    /// The field, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What was wrong and the fix.
    pub message: String,
}
