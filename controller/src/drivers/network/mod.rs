//! Makes networks exist where amphorae and members are. Which there are is in the database.
//!
//! Addresses are given out by the database alone. It keeps host numbers 200 to 250 of each subnet
//! free: clients and members that `krater net` puts on a network of the local driver live there
//! ([`client`]).

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use krater_model::NetworkId;

pub mod client;
pub mod fake;
pub mod local;

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[error("network: {what}")]
#[allow(
    clippy::error_impl_error,
    reason = "used with the name of its module in front, as std::io::Error"
)]
pub struct Error {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A network to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Which.
    pub id: NetworkId,
    /// Its name, for `krater net exec NAME`.
    pub name: String,
    /// In bytes.
    pub mtu: u16,
    /// Gateway address with prefix length of each subnet that has one.
    pub gateways: Vec<IpNet>,
    /// The management network: its gateway address is the controller's.
    pub management: bool,
}

/// See the module.
pub trait Networks: Send + Sync + std::fmt::Debug {
    /// Makes the fabric and these networks; harmless when they exist.
    fn ensure(&self, networks: Vec<Network>) -> BoxFuture<'_, Result<(), Error>>;
}
