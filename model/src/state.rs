//! The desired state of one amphora: one whole document, ordered by [`Revision`].
//!
//! The controller sends it, the agent keeps it, the data plane and vrrp get their parts of it.
//! [`DesiredState::parse`] is the only door from text: it refuses unknown keys, wrong ranges and
//! dangling references, and names the field.

use crate::error::FieldError;
use crate::id::*;
use crate::net::MacAddr;
use crate::secret::Secret;
use crate::units::*;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

pub(crate) mod check;
mod l7;
mod listener;
mod pool;
#[cfg(test)]
mod tests;
mod vrrp;

pub use l7::*;
pub use listener::*;
pub use pool::*;
pub use vrrp::*;

/// Whether a listener of one protocol may use a pool of another (spec/octavia-api.md section 2).
pub const fn compatible(listener: ListenerProtocol, pool: PoolProtocol) -> bool {
    check::compatible(listener, pool)
}

/// Whether `name` can be the name of a cookie.
pub fn is_cookie_name(name: &str) -> bool {
    check::is_cookie_name(name)
}

/// Largest document that an agent reads, in bytes: 1,000 pools × 10 members are about 4 MB.
pub const MAX_DOCUMENT: usize = 32 * 1024 * 1024;

/// Everything that one amphora shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// [`crate::SCHEMA`] of the writer.
    pub schema: u32,
    /// See [`Epoch`].
    pub epoch: Epoch,
    /// See [`Generation`].
    pub generation: Generation,
    /// Whom the document is for; an agent refuses another's.
    pub amphora_id: AmphoraId,
    /// The API request that caused this document (`req-…`); runs through every log line it causes.
    pub request_id: String,
    /// NICs of the VIP namespace, found by MAC address. The management NIC is not listed.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Virtual routers; one per load balancer and address family.
    #[serde(default)]
    pub vrrp: Vec<VirtualRouter>,
    /// Load balancers.
    #[serde(default)]
    pub load_balancers: Vec<LoadBalancer>,
    /// Certificates that listeners and pools refer to, content-addressed.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Where heartbeats go.
    #[serde(default)]
    pub heartbeat: Option<Heartbeat>,
    /// Logging of the amphora's processes.
    #[serde(default)]
    pub logging: Logging,
}

impl DesiredState {
    /// The document's place in the order.
    pub fn revision(&self) -> Revision {
        Revision {
            epoch: self.epoch,
            generation: self.generation,
        }
    }

    /// Reads and checks a document. Nothing is applied when it fails.
    pub fn parse(text: &[u8]) -> Result<Self, FieldError> {
        if text.len() > MAX_DOCUMENT {
            return Err(FieldError::new(
                "document",
                format!("{} bytes; at most {MAX_DOCUMENT} are read", text.len()),
            ));
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let state: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            FieldError::new(error.path().to_string(), error.inner().to_string())
        })?;
        json.end()
            .map_err(|error| FieldError::new("document", error.to_string()))?;
        check::references(&state)?;
        Ok(state)
    }
}

/// A NIC of the VIP namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The name it gets, such as `eth1` (at most 15 bytes).
    pub name: String,
    /// How it is found.
    pub mac: MacAddr,
    /// What it is for.
    pub role: InterfaceRole,
    /// MTU in bytes; none leaves what the link has.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The amphora's own addresses with prefix length (never a VIP).
    pub addresses: Vec<IpNet>,
    /// Routes through this interface.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Rules that select a table.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceRole {
    /// Carries VIPs and VRRP.
    Vip,
    /// Reaches members only.
    Member,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: IpNet,
    /// Next hop; none means on link.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Routing table, 254 is main.
    #[serde(default = "main_table")]
    pub table: u32,
    /// Preferred source address.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// The next hop is reachable on this link whatever the addresses say.
    #[serde(default)]
    pub onlink: bool,
}

const fn main_table() -> u32 {
    254
}

/// A routing rule: packets from `from` look into `table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Source prefix.
    pub from: IpNet,
    /// Table to look into.
    pub table: u32,
    /// Preference, lower first.
    pub priority: u32,
}

pub(crate) const fn yes() -> bool {
    true
}

/// One load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    /// Identifier.
    pub id: LoadBalancerId,
    /// For logs only.
    #[serde(default)]
    pub name: String,
    /// Administrative state; false: nothing listens.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Addresses that its listeners bind, IPv4 and IPv6.
    pub vips: Vec<IpAddr>,
    /// Listeners.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Pools; listeners and policies refer to them by id.
    #[serde(default)]
    pub pools: Vec<Pool>,
}

/// A certificate bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 of `pem`.
    pub id: CertificateId,
    /// PEM: leaf, intermediates, private key (PKCS#8, PKCS#1 or SEC1). For CA bundles and CRLs: those alone.
    pub pem: Secret,
}

/// Heartbeats to the health managers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Where to send, all of them each time.
    pub targets: Vec<SocketAddr>,
    /// How often.
    pub interval: Millis,
    /// HMAC-SHA256 key.
    pub key: Secret,
}

/// Logging of an amphora's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".into(),
            json: false,
        }
    }
}
