//! The agent's own configuration: `agent.toml` on the config drive. Unknown keys are refused.

pub mod appliance;

use crate::error::FieldError;
use crate::id::AmphoraId;
use crate::state::Heartbeat;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Fixed uid and gid of the data plane: SO_REUSEPORT demands the same uid across restarts.
pub const DATAPLANE_UID: u32 = 64_501;
/// Fixed uid and gid of vrrp.
pub const VRRP_UID: u32 = 64_502;

/// What an agent must know before its first desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Who it is.
    pub amphora_id: AmphoraId,
    /// Management address and port that it serves.
    pub listen: SocketAddr,
    /// Sockets and pid files; gone at boot (tmpfs in the image).
    pub run_dir: PathBuf,
    /// The ledger; survives boots.
    pub state_dir: PathBuf,
    /// Rotated log files.
    pub log_dir: PathBuf,
    /// Pinned network namespace that carries VIPs; made when it is missing.
    pub vip_netns: PathBuf,
    /// PEM: server certificate, intermediates, key.
    pub server_pem: PathBuf,
    /// PEM: CA of the controller's client certificate.
    pub client_ca: PathBuf,
    /// Key that seals secrets in the ledger, 64 hex digits. None: secrets are not kept on disk.
    #[serde(default)]
    pub seal_key: Option<PathBuf>,
    /// Worker threads of the data plane. None: one per CPU.
    #[serde(default)]
    pub workers: Option<u16>,
    /// Heartbeats from the start; a desired state replaces this.
    #[serde(default)]
    pub heartbeat: Option<Heartbeat>,
    /// Log level at start.
    #[serde(default = "info")]
    pub log_level: String,
    /// JSON logs.
    #[serde(default)]
    pub log_json: bool,
}

fn info() -> String {
    "info".into()
}

impl AgentConfig {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        toml::from_str(text).map_err(|error| FieldError::new("agent.toml", error.to_string()))
    }
}
