//! Configuration of one virtual router, checked once.

use crate::output::Belongings;
use crate::packet::{Advert, Authentication, ChecksumForm, GROUP_V4, GROUP_V6, Version};
use crate::time::Span;
use crate::timers;
use ipnet::IpNet;
use krater_model::state::{Announce, VirtualRouter, VrrpChecksum};
use krater_model::{Centiseconds, FieldError, Priority, Vrid, VrrpVersion};
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
    destinations: Vec<IpAddr>,
}

impl Router {
    /// Checks what the types of the document cannot say.
    pub fn new(plain: VirtualRouter) -> Result<Self, FieldError> {
        let refuse = |field: &str, why: String| Err(FieldError::new(field, why));
        plain.check_protocol()?;
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
                "is no unicast address: for the multicast group say multicast = true"
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
        let destinations = match plain.multicast {
            true if v4 => vec![GROUP_V4.into()],
            true => vec![GROUP_V6.into()],
            false => plain.peers.clone(),
        };
        Ok(Self {
            plain,
            advertised,
            destinations,
        })
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
    /// Whether we take the VIP from a living Active of lower priority. An owner always does.
    pub fn preempts(&self) -> bool {
        self.plain.preempt || self.is_owner()
    }
    /// Own address; its family is the router's.
    pub fn source(&self) -> IpAddr {
        self.plain.source
    }
    /// How long we let a living Active of lower priority be.
    pub fn preempt_delay(&self) -> Span {
        self.plain.preempt_delay.duration().into()
    }
    /// Whether we own the addresses (priority 255): then they are ours from the start.
    pub fn is_owner(&self) -> bool {
        self.plain.priority == Priority::OWNER
    }
    /// Protocol version.
    pub fn version(&self) -> VrrpVersion {
        self.plain.version
    }
    /// The version as messages need it.
    pub fn wire_version(&self) -> Version {
        if self.plain.version == VrrpVersion::V3 {
            return Version::V3;
        }
        let password = self.plain.password.as_ref();
        Version::V2(password.map_or_else(Authentication::default, |password| {
            Authentication::password(password.expose())
        }))
    }
    /// An advertisement of ours with this priority.
    pub fn advert(&self, priority: u8) -> Advert<'_> {
        Advert {
            version: self.wire_version(),
            vrid: self.vrid(),
            priority,
            interval: self.interval(),
            addresses: self.advertised(),
        }
    }
    /// The checksum to send to somebody who was heard with the older one, or not.
    pub fn checksum(&self, older: bool) -> ChecksumForm {
        match self.plain.checksum {
            VrrpChecksum::Learn if older => ChecksumForm::PseudoHeader,
            VrrpChecksum::Learn | VrrpChecksum::Rfc9568 => ChecksumForm::Rfc9568,
            VrrpChecksum::PseudoHeader => ChecksumForm::PseudoHeader,
        }
    }
    /// Skew_Time: of the Active's interval, and in VRRPv2 of a second (RFC 3768 section 6.1).
    pub fn skew(&self, learned: Span) -> Span {
        let of = if self.plain.version == VrrpVersion::V2 {
            Span::from_millis(1_000)
        } else {
            learned
        };
        timers::skew(self.plain.priority.value(), of)
    }
    /// The longest Skew_Time that a peer of whatever priority waits after our resignation.
    pub fn longest_skew(&self) -> Span {
        if self.plain.version == VrrpVersion::V2 {
            Span::from_millis(1_000)
        } else {
            timers::interval(self.interval())
        }
    }
    /// Active_Down_Interval.
    pub fn active_down(&self, learned: Span) -> Span {
        learned.times(3) + self.skew(learned)
    }
    /// The least TTL or hop limit that is accepted.
    pub fn min_hop_limit(&self) -> u8 {
        self.plain.min_hop_limit.value()
    }
    /// Whether we speak to the multicast group.
    pub fn is_multicast(&self) -> bool {
        self.plain.multicast
    }
    /// Whether there is nobody to speak to, and so nobody to wait for.
    pub fn is_alone(&self) -> bool {
        self.destinations.is_empty()
    }
    /// Where adverts go: the peers, or the group.
    pub fn destinations(&self) -> &[IpAddr] {
        &self.destinations
    }
    /// Whether adverts of `source` count.
    pub fn admits(&self, source: IpAddr) -> bool {
        self.plain.multicast || self.plain.peers.contains(&source)
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
