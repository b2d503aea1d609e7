//! Makes and ends amphorae. Knows nothing of load balancers.
//!
//! Every call is idempotent: flows repeat a call after a crash.

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use krater_model::state::Heartbeat;
use krater_model::{AmphoraId, MacAddr, NetworkId, Secret};

mod calls;
pub mod fake;
pub mod netns;
pub mod qemu;

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[error("compute: {what} of amphora {amphora}")]
#[allow(
    clippy::error_impl_error,
    reason = "used with the name of its module in front, as std::io::Error"
)]
pub struct Error {
    /// Whose.
    pub amphora: AmphoraId,
    /// What was tried, such as `boot`.
    pub what: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Whether the same call can succeed later.
    pub retryable: bool,
}

/// An amphora to boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// Who it shall be.
    pub amphora: AmphoraId,
    /// MAC address of its management NIC.
    pub management_mac: MacAddr,
    /// Its management address with prefix length; the agent listens there on port 9443.
    pub management_address: IpNet,
    /// PEM: server certificate and key.
    pub server_pem: Secret,
    /// PEM: CA of the controller's client certificate.
    pub client_ca_pem: String,
    /// Heartbeats from the start.
    pub heartbeat: Heartbeat,
    /// Worker threads of the data plane. None: one per CPU.
    pub workers: Option<u16>,
    /// Log level at start.
    pub log_level: String,
    /// JSON logs.
    pub log_json: bool,
}

/// A NIC to plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// How the agent finds it.
    pub mac: MacAddr,
    /// Into which network.
    pub network: NetworkId,
    /// In bytes.
    pub mtu: u16,
}

/// An amphora that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Who.
    pub amphora: AmphoraId,
    /// Name at this driver.
    pub compute_id: String,
    /// Its agent process lives.
    pub agent_alive: bool,
    /// Its networks are as they were made; false after a reboot of the host.
    pub intact: bool,
}

/// See the module.
pub trait Compute: Send + Sync + std::fmt::Debug {
    /// Makes the amphora and starts its agent; returns its name at this driver. One that exists keeps
    /// its networks and processes; only an agent that does not run is started again.
    fn boot(&self, boot: Boot) -> BoxFuture<'_, Result<String, Error>>;

    /// Ends all its processes by force and removes everything it had. Harmless when it is gone.
    fn delete(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>>;

    /// Plugs a NIC, so that its agent finds it by MAC address. Harmless when it is plugged.
    fn plug(&self, amphora: AmphoraId, nic: Nic) -> BoxFuture<'_, Result<(), Error>>;

    /// Removes a NIC. Harmless when it is gone.
    fn unplug(&self, amphora: AmphoraId, mac: MacAddr) -> BoxFuture<'_, Result<(), Error>>;

    /// All amphorae of this instance of the controller.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, Error>>;

    /// Starts the agent of an amphora again from the config drive it has, when it does not run.
    fn restart_agent(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>>;
}
