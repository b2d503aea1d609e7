//! Configuration of one virtual router, checked once.

use crate::output::Belongings;
use ipnet::IpNet;
use krater_model::state::{Announce, VirtualRouter};
use krater_model::{Centiseconds, FieldError, Priority, Vrid};
use std::collections::HashSet;
use std::net::IpAddr;

/// Unicast peers of a router: an amphora has one, appliances a handful. Each advert is sent to all.
pub const MAX_PEERS: usize = 16;
/// Addresses of the other family that follow.
pub const MAX_EXCLUDED: usize = 255;
/// Routes and rules that follow: a few per VIP.
pub const MAX_ROUTES: usize = 1_024;

/// A virtual router's configuration that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    plain: VirtualRouter,
    advertised: Vec<IpAddr>,
}

impl Router {
    /// The least TTL or hop limit that is accepted (RFC 9568 section 7.1).
    pub const MIN_HOP_LIMIT: u8 = 255;

    /// Checks what the types of the document cannot say.
    pub fn new(plain: VirtualRouter) -> Result<Self, FieldError> {
        let refuse = |field: &str, why: String| Err(FieldError::new(field, why));
        let v4 = plain.source.is_ipv4();
        let usable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
        if !usable(&plain.source) {
            let text = format!("{} cannot be a source address", plain.source);
            return refuse("source", text);
        }
        if plain.addresses.is_empty() || plain.addresses.len() > usize::from(u8::MAX) {
            let text = format!("{}: use 1 to 255", plain.addresses.len());
            return refuse("addresses", text);
        }
        for (field, length, most) in [
            ("peers", plain.peers.len(), MAX_PEERS),
            (
                "excluded_addresses",
                plain.excluded_addresses.len(),
                MAX_EXCLUDED,
            ),
            ("routes", plain.routes.len(), MAX_ROUTES),
            ("rules", plain.rules.len(), MAX_ROUTES),
        ] {
            if length > most {
                return refuse(field, format!("{length}: use at most {most}"));
            }
        }
        let mut seen = HashSet::new();
        for (i, peer) in plain.peers.iter().enumerate() {
            let wrong = if peer.is_ipv4() != v4 {
                "is not of the family of source"
            } else if *peer == plain.source {
                "is our own source address"
            } else if !usable(peer) {
                "is no unicast address (multicast is not supported yet)"
            } else if !seen.insert(*peer) {
                "is there twice"
            } else {
                continue;
            };
            return refuse(&format!("peers[{i}]"), format!("{peer} {wrong}"));
        }
        let mut seen = HashSet::new();
        let lists = [
            ("addresses", &plain.addresses, v4),
            ("excluded_addresses", &plain.excluded_addresses, !v4),
        ];
        for (field, list, want_v4) in lists {
            for (i, net) in list.iter().enumerate() {
                let wrong = if net.addr().is_ipv4() != want_v4 {
                    "is of the wrong family"
                } else if !usable(&net.addr()) {
                    "is no unicast address"
                } else if net.addr() == plain.source {
                    "is our own source address"
                } else if !seen.insert(net.addr()) {
                    "is there twice"
                } else {
                    continue;
                };
                return refuse(&format!("{field}[{i}]"), format!("{net} {wrong}"));
            }
        }
        let advertised = plain.addresses.iter().map(IpNet::addr).collect();
        Ok(Self { plain, advertised })
    }

    /// As it was written.
    pub fn plain(&self) -> &VirtualRouter {
        &self.plain
    }
    /// Virtual router identifier.
    pub fn vrid(&self) -> Vrid {
        self.plain.vrid
    }
    /// Own priority.
    pub fn priority(&self) -> Priority {
        self.plain.priority
    }
    /// Own advertisement interval.
    pub fn interval(&self) -> Centiseconds {
        self.plain.advert_interval
    }
    /// Whether we take the VIP from a living Active of lower priority.
    pub fn preempts(&self) -> bool {
        self.plain.preempt
    }
    /// Own address; its family is the router's.
    pub fn source(&self) -> IpAddr {
        self.plain.source
    }
    /// Unicast peers.
    pub fn peers(&self) -> &[IpAddr] {
        &self.plain.peers
    }
    /// The address list of our adverts.
    pub fn advertised(&self) -> &[IpAddr] {
        &self.advertised
    }
    /// Announcement behaviour.
    pub fn announce(&self) -> Announce {
        self.plain.announce
    }
    /// Everything that moves with the VIP.
    pub fn belongings(&self) -> Belongings {
        Belongings {
            addresses: self
                .plain
                .addresses
                .iter()
                .chain(&self.plain.excluded_addresses)
                .copied()
                .collect(),
            routes: self.plain.routes.clone(),
            rules: self.plain.rules.clone(),
        }
    }
}
