//! Virtual routers: what vrrp is told, and the rules between its fields.

use super::{Route, Rule, yes};
use crate::error::FieldError;
use crate::secret::Secret;
use crate::units::*;
use crate::wire::liveness::INTERVALS;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Bytes of a version 2 password (RFC 2338 section 5.3.10).
pub const MAX_PASSWORD: usize = 8;

/// A virtual router (RFC 9568) of one address family on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualRouter {
    /// Its identifier on the wire.
    pub vrid: Vrid,
    /// Name of an interface with role `vip`.
    pub interface: String,
    /// Protocol version: 3 (RFC 9568), or 2 (RFC 3768) as upstream configures it for IPv4.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: VrrpVersion,
    /// Password of version 2 (`auth_type PASS`), 1 to 8 bytes. It goes over the wire in clear: it tells
    /// neighbours apart and keeps nobody out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Which checksum version 3 sends over IPv4.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checksum: VrrpChecksum,
    /// Priority among the amphorae: 100 for role MASTER, 90 for BACKUP. 255 is the address owner, who
    /// takes the VIP as soon as it starts.
    pub priority: Priority,
    /// Own advertisement interval; version 2 has whole seconds only.
    pub advert_interval: Centiseconds,
    /// Whether a higher priority takes the VIP from a living Active. Octavia: never.
    #[serde(default)]
    pub preempt: bool,
    /// How long a better router lets a living Active be before it takes over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preempt_delay: Millis,
    /// Source address of advertisements: the amphora's own address on `interface`.
    pub source: IpAddr,
    /// Unicast peers. Empty in SINGLE topology: vrrp then becomes Active by itself at once.
    #[serde(default)]
    pub peers: Vec<IpAddr>,
    /// Speak to whoever is in the multicast group of VRRP instead of to `peers`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub multicast: bool,
    /// The least hop limit of a peer's advertisements. 255 keeps out what crossed a router (RFC 9568
    /// section 7.1); keepalived sends IPv6 unicast with 64.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_hop_limit: HopLimit,
    /// Whether the Active accepts packets to the VIP (Accept_Mode of RFC 9568 section 6.1). A load balancer
    /// always does. With `false` it answers ARP and neighbour solicitations only.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub accept: bool,
    /// Whether the addresses have the virtual MAC address of RFC 9568 section 7.3, on a macvlan, so that it moves with
    /// them. Not with Neutron, whose port security drops it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub virtual_mac: bool,
    /// VIPs with prefix length, in the family of `source`; the first is advertised first.
    pub addresses: Vec<IpNet>,
    /// VIPs of either family that are moved and not advertised.
    #[serde(default)]
    pub excluded_addresses: Vec<IpNet>,
    /// Routes that follow the VIP.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Rules that follow the VIP.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Other interfaces whose state counts; `interface` itself always does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub track_interfaces: Vec<TrackInterface>,
    /// Checks that programs of the operator make and report (`amphora ctl vrrp check NAME up|down`); we run none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub track_checks: Vec<TrackCheck>,
    /// Routers of the same name are Active together or not at all: the same priority, preemption and tracked
    /// interfaces, and the same groups at their peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_group: Option<String>,
    /// Heartbeats between us and each of `peers` beside the adverts, so that its death shows within three of them.
    /// None: the protocol alone. Peers that do not speak it, and security groups that let only VRRP pass, cost
    /// nothing but the protocol's own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Liveness>,
    /// The VIP is held only while the data plane is healthy.
    #[serde(default = "yes")]
    pub track_dataplane: bool,
    /// Whether a data plane none of whose members is up counts: with priority 1, and the Active hands over to a peer whose
    /// liveness session tells that it has some. Needs `track_dataplane`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub track_members: bool,
    /// Gratuitous ARP / unsolicited NA behaviour.
    #[serde(default)]
    pub announce: Announce,
}

/// A liveness session with each peer: UDP port 5556, from `source` to the peer. The same for all virtual routers
/// with the same source, and with a second path their peers are the same too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Liveness {
    /// Milliseconds between heartbeats, 10 to 50.
    #[serde(default = "Liveness::default_interval")]
    pub interval: Millis,
    /// Authenticates heartbeats, 16 to 64 bytes, the same at all peers.
    pub key: Secret,
    /// A second network between the same hosts, so that a split of the first one is told from death.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_path: Option<SecondPath>,
}

/// Another network between a router and its peers, such as the management network. Its socket is made where the
/// agent (or `amphora run`) is, not in the namespace of vrrp, and handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondPath {
    /// Own address there; UDP port 5556 of it is used.
    pub source: IpAddr,
    /// The address there of each of the router's `peers`, in their order.
    pub peers: Vec<IpAddr>,
}

impl SecondPath {
    fn check(&self, router: &VirtualRouter) -> Result<(), FieldError> {
        let refuse = |field: String, why: String| {
            Err(FieldError::new(
                format!("liveness.second_path.{field}"),
                why,
            ))
        };
        let usable = |ip: &IpAddr| {
            let scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !scoped
        };
        if !usable(&self.source) {
            let why = format!(
                "{} is no unicast address that is the same on every link",
                self.source
            );
            return refuse("source".into(), why);
        }
        if self.source == router.source {
            let why = format!("{} is the first path's own", self.source);
            return refuse("source".into(), why);
        }
        let (here, there) = (self.peers.len(), router.peers.len());
        if here != there {
            let why = format!("{here} of them: give one for each of the router's {there} peers");
            return refuse("peers".into(), why);
        }
        for (i, peer) in self.peers.iter().enumerate() {
            let before = self.peers.get(..i).unwrap_or_default();
            let wrong = if peer.is_ipv4() != self.source.is_ipv4() {
                "is not of the family of source"
            } else if !usable(peer) {
                "is no unicast address that is the same on every link"
            } else if *peer == self.source {
                "is our own"
            } else if before.contains(peer) {
                "is there twice"
            } else {
                continue;
            };
            return refuse(format!("peers[{i}]"), format!("{peer} {wrong}"));
        }
        Ok(())
    }
}

impl Liveness {
    const fn default_interval() -> Millis {
        Millis::literal(30)
    }
}

/// Bytes of a sync group's name.
const MAX_GROUP_NAME: usize = 64;
/// Bytes of a check's name.
const MAX_CHECK_NAME: usize = 64;
/// Interfaces or checks that a router tracks: an appliance has a handful.
pub const MAX_TRACKED: usize = 16;

/// An interface that a virtual router looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackInterface {
    /// Its name. One that does not exist is down.
    pub name: String,
    /// 0: a fault while it is down or has no carrier. Positive: added to the priority while it is up.
    /// Negative: taken from the priority while it is down. -253 to 253.
    #[serde(default)]
    pub weight: i16,
}

/// A check that somebody else makes. The same name at several routers is one check, with the same `rise`, `fall`
/// and `fresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackCheck {
    /// Its name: 1 to 64 of a-z 0-9 - _ .
    pub name: String,
    /// 0: a fault while it is down. Positive: added to the priority while it is up. Negative: taken from the priority
    /// while it is down. -253 to 253.
    #[serde(default)]
    pub weight: i16,
    /// Good reports in a row that make it up.
    #[serde(default = "TrackCheck::once")]
    pub rise: ProbeCount,
    /// Bad ones that make it down.
    #[serde(default = "TrackCheck::once")]
    pub fall: ProbeCount,
    /// A report counts for so long; then the check is down. 100 ms to an hour.
    #[serde(default = "TrackCheck::default_fresh")]
    pub fresh: Millis,
}

impl TrackCheck {
    const fn once() -> ProbeCount {
        ProbeCount::MIN
    }
    const fn default_fresh() -> Millis {
        Millis::literal(15_000)
    }
}

impl VirtualRouter {
    /// The rules of the protocol's versions and modes that span fields.
    pub fn check_protocol(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, why: &str| Err(FieldError::new(field, why));
        let v2 = self.version == VrrpVersion::V2;
        if v2 && self.source.is_ipv6() {
            return refuse("version", "2 knows IPv4 only: use 3");
        }
        if v2 && !self.advert_interval.value().is_multiple_of(100) {
            return refuse(
                "advert_interval",
                "version 2 counts whole seconds: use a multiple of 100 centiseconds",
            );
        }
        if v2 && self.checksum != VrrpChecksum::Learn {
            return refuse("checksum", "version 2 has one form only: leave it out");
        }
        if let Some(password) = &self.password {
            let length = password.expose().len();
            if !v2 {
                return refuse("password", "version 3 has none: use version 2");
            }
            if length == 0 || length > MAX_PASSWORD || password.expose().contains('\0') {
                return refuse("password", "use 1 to 8 bytes, none of them zero");
            }
        }
        if self.multicast && !self.peers.is_empty() {
            return refuse(
                "peers",
                "multicast finds its peers by itself: leave them out",
            );
        }
        if self.multicast && self.min_hop_limit != HopLimit::MAX {
            return refuse("min_hop_limit", "multicast never crosses a router: use 255");
        }
        if self.preempt_delay != Millis::default() && !self.preempt {
            return refuse("preempt_delay", "has no effect without preempt");
        }
        if self.track_members && !self.track_dataplane {
            return refuse(
                "track_members",
                "they are the data plane's: set track_dataplane too",
            );
        }
        if self.track_members && self.priority == Priority::OWNER {
            return refuse(
                "track_members",
                "an owner's priority is 255 and does not change: leave it out",
            );
        }
        self.check_group()?;
        self.check_tracked()?;
        self.check_checks()?;
        self.check_liveness()?;
        if !self.accept && self.priority == Priority::OWNER {
            return refuse(
                "accept",
                "an owner (priority 255) accepts packets to its addresses always: leave it out",
            );
        }
        Ok(())
    }

    fn check_group(&self) -> Result<(), FieldError> {
        let Some(name) = &self.sync_group else {
            return Ok(());
        };
        let refuse = |why: &str| Err(FieldError::new("sync_group", why));
        if name.is_empty() || name.len() > MAX_GROUP_NAME {
            return refuse("use 1 to 64 bytes");
        }
        if self.priority == Priority::OWNER {
            return refuse("an owner takes its addresses at once and waits for nobody");
        }
        if self.peers.is_empty() && !self.multicast {
            return refuse("a router without peers is Active at once and waits for nobody");
        }
        Ok(())
    }

    fn check_liveness(&self) -> Result<(), FieldError> {
        let Some(liveness) = &self.liveness else {
            return Ok(());
        };
        let refuse = |field: &str, why: &str| Err(FieldError::new(format!("liveness{field}"), why));
        if self.peers.is_empty() {
            return refuse("", "is a session with each of `peers`, which are none");
        }
        let interval = u16::try_from(liveness.interval.value()).unwrap_or(u16::MAX);
        if !INTERVALS.contains(&interval) {
            return refuse(".interval", "use 10 to 50 milliseconds");
        }
        if !(16..=64).contains(&liveness.key.expose().len()) {
            return refuse(".key", "use 16 to 64 bytes");
        }
        match &liveness.second_path {
            Some(second) => second.check(self),
            None => Ok(()),
        }
    }

    fn check_checks(&self) -> Result<(), FieldError> {
        let all = &self.track_checks;
        if all.len() > MAX_TRACKED {
            let why = format!("{}: use at most {MAX_TRACKED}", all.len());
            return Err(FieldError::new("track_checks", why));
        }
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
        for (i, check) in all.iter().enumerate() {
            let name = &check.name;
            let before = all.get(..i).unwrap_or_default();
            let why = if name.is_empty() || name.len() > MAX_CHECK_NAME || !name.bytes().all(plain)
            {
                format!("{name:?} is not the name of a check: 1 to 64 of a-z 0-9 - _ .")
            } else if before.iter().any(|other| other.name == *name) {
                format!("{name} is there twice")
            } else if !(-253..=253).contains(&check.weight) {
                format!("weight {}: use -253 to 253", check.weight)
            } else if check.weight != 0 && self.priority == Priority::OWNER {
                "an owner's priority is 255 and does not change: use weight 0".to_owned()
            } else if !(100..=3_600_000).contains(&check.fresh.value()) {
                format!("fresh {} ms: use 100 to 3,600,000", check.fresh.value())
            } else {
                continue;
            };
            return Err(FieldError::new(format!("track_checks[{i}]"), why));
        }
        Ok(())
    }

    fn check_tracked(&self) -> Result<(), FieldError> {
        let all = &self.track_interfaces;
        if all.len() > MAX_TRACKED {
            let why = format!("{}: use at most {MAX_TRACKED}", all.len());
            return Err(FieldError::new("track_interfaces", why));
        }
        for (i, tracked) in all.iter().enumerate() {
            let name = &tracked.name;
            let before = all.get(..i).unwrap_or_default();
            let why = if name.is_empty() || name.len() > 15 {
                format!("{name:?} is not an interface name: 1 to 15 bytes")
            } else if *name == self.interface {
                format!("{name} is the router's own, which always counts")
            } else if before.iter().any(|other| other.name == *name) {
                format!("{name} is there twice")
            } else if !(-253..=253).contains(&tracked.weight) {
                format!("weight {}: use -253 to 253", tracked.weight)
            } else if tracked.weight != 0 && self.priority == Priority::OWNER {
                "an owner's priority is 255 and does not change: use weight 0".to_owned()
            } else {
                continue;
            };
            return Err(FieldError::new(format!("track_interfaces[{i}]"), why));
        }
        Ok(())
    }
}

/// For fields that an older reader does not know: written only when they say something.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_true(value: &bool) -> bool {
    *value
}

/// Which checksum VRRPv3 sends over IPv4. Both are accepted always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VrrpChecksum {
    /// What the peer sends; RFC 9568's until it was heard.
    #[default]
    Learn,
    /// Over the message alone (RFC 9568 section 5.2.8).
    Rfc9568,
    /// With a pseudo-header, as keepalived and FRR do by default.
    PseudoHeader,
}

/// How a takeover is announced (keepalived's `garp_master_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// Frames per VIP in the burst at takeover.
    pub repeat: u8,
    /// A second burst this much later; 0 is none.
    pub delay: Millis,
    /// Refresh interval while Active; 0 is none.
    pub refresh: Millis,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            repeat: 3,
            delay: Millis::literal(1_000),
            refresh: Millis::literal(5_000),
        }
    }
}
