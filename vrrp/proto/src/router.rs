//! Configuration of one virtual router, checked once.

use crate::liveness;
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
/// Addresses that follow and are not advertised, of either family.
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
            ("addresses", &plain.addresses, true),
            ("excluded_addresses", &plain.excluded_addresses, false),
        ];
        for (field, list, advertised) in lists {
            for (i, net) in list.iter().enumerate() {
                let wrong = if advertised && net.addr().is_ipv4() != v4 {
                    "is of the wrong family"
                } else if !usable(&net.addr()) {
                    "is no unicast address"
                } else if net.addr() == plain.source {
                    "is our own source address"
                } else if plain.peers.contains(&net.addr()) {
                    "is the address of a peer, to whom adverts go: one that is always there is none to move"
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

    /// Whether a tracked interface without weight is down.
    pub fn misses_a_link(&self, is_up: impl Fn(&str) -> bool) -> bool {
        let mut tracked = self.plain.track_interfaces.iter();
        tracked.any(|link| link.weight == 0 && !is_up(&link.name))
    }

    /// Whether a tracked check without weight is down.
    pub fn misses_a_check(&self, is_up: impl Fn(&str) -> bool) -> bool {
        let mut tracked = self.plain.track_checks.iter();
        tracked.any(|check| check.weight == 0 && !is_up(&check.name))
    }

    /// The priority that tracked interfaces, checks and members leave: 1 to 254, whatever the weights sum to, and 1 for
    /// one whose tracked members are all down (`poor`): two such are as good as each other.
    pub fn weighed_priority(
        &self,
        is_up: impl Fn(&str) -> bool,
        passes: impl Fn(&str) -> bool,
        poor: bool,
    ) -> Priority {
        if poor && self.tracks_members() {
            return Priority::MIN;
        }
        let own = i64::from(self.plain.priority.value());
        let counts = |weight: i16, good: bool| {
            let counts = (weight > 0) == good;
            if counts { i64::from(weight) } else { 0 }
        };
        let links = self.plain.track_interfaces.iter();
        let links = links.map(|link| counts(link.weight, is_up(&link.name)));
        let checks = self.plain.track_checks.iter();
        let checks = checks.map(|check| counts(check.weight, passes(&check.name)));
        let sum = own + links.chain(checks).sum::<i64>();
        if sum == own {
            return self.plain.priority;
        }
        u64::try_from(sum.clamp(1, 254))
            .ok()
            .and_then(|sum| Priority::new(sum).ok())
            .unwrap_or(self.plain.priority)
    }

    /// Whether members of the data plane count. An owner's priority does not change.
    pub fn tracks_members(&self) -> bool {
        self.plain.track_dataplane && self.plain.track_members && !self.is_owner()
    }

    /// The same router with another priority.
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        let mut other = self.clone();
        other.plain.priority = priority;
        other
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
    /// Whether it changes state only together with others.
    pub fn is_grouped(&self) -> bool {
        self.plain.sync_group.is_some()
    }
    /// Whether there is nobody to speak to, and so nobody to wait for.
    pub fn is_alone(&self) -> bool {
        self.destinations.is_empty()
    }
    /// Where adverts go: the peers, or the group.
    pub fn destinations(&self) -> &[IpAddr] {
        &self.destinations
    }
    /// Whether nobody who may succeed `resigned` is better than we are. `best` answers the highest priority of the
    /// routers at a peer that is heard to live; who is not heard may be anybody.
    pub fn succeeds(&self, resigned: IpAddr, best: impl Fn(IpAddr) -> Option<u8>) -> bool {
        let own = self.plain.priority.value();
        let mut others = self.plain.peers.iter().filter(|peer| **peer != resigned);
        !self.plain.multicast
            && others.all(|peer| {
                let worse = |theirs| theirs < own || (theirs == own && *peer < self.plain.source);
                best(*peer).is_some_and(worse)
            })
    }
    /// Whether adverts of `source` count.
    pub fn admits(&self, source: IpAddr) -> bool {
        self.plain.multicast || self.plain.peers.contains(&source)
    }
    /// How long peers with a liveness session wait before they take us for dead.
    pub fn peers_patience(&self) -> Option<Span> {
        let liveness = self.plain.liveness.as_ref()?;
        Some(liveness::least_patience(
            liveness.interval.duration().into(),
        ))
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
    /// Addresses that move, with their networks.
    pub fn moved_nets(&self) -> impl Iterator<Item = &IpNet> {
        let advertised = self.plain.addresses.iter();
        advertised.chain(&self.plain.excluded_addresses)
    }
    /// Addresses that move.
    pub fn moved(&self) -> impl Iterator<Item = IpAddr> {
        self.moved_nets().map(IpNet::addr)
    }
    /// Whether `address` is one that moves.
    pub fn moves(&self, address: IpAddr) -> bool {
        self.moved().any(|ours| ours == address)
    }
    /// Everything that moves with the VIP.
    pub fn belongings(&self) -> Belongings {
        Belongings {
            addresses: self.moved_nets().copied().collect(),
            routes: self.plain.routes.clone(),
            rules: self.plain.rules.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(priority: u8, weights: &[(&str, i16)]) -> Router {
        let tracked: Vec<_> = weights
            .iter()
            .map(|(name, weight)| serde_json::json!({"name": name, "weight": weight}))
            .collect();
        let document = serde_json::json!({
            "vrid": 1, "interface": "eth1", "priority": priority, "advert_interval": 10,
            "source": "192.0.2.1", "peers": ["192.0.2.2"], "addresses": ["192.0.2.100/32"],
            "track_interfaces": tracked,
        });
        Router::new(serde_json::from_value(document).unwrap()).unwrap()
    }

    #[test]
    fn weights_of_tracked_interfaces() {
        let weighed = |router: &Router, up: &[&str]| {
            let is_up = |name: &str| up.contains(&name);
            let priority = router.weighed_priority(is_up, is_up, false);
            priority.value()
        };
        let both = router(100, &[("eth2", 20), ("eth3", -30), ("eth4", 0)]);
        assert_eq!(weighed(&both, &["eth2", "eth3"]), 120);
        assert_eq!(weighed(&both, &["eth3"]), 100);
        assert_eq!(weighed(&both, &["eth2"]), 90);
        assert_eq!(weighed(&both, &[]), 70);
        assert!(both.misses_a_link(|name| name != "eth4"));
        assert!(!both.misses_a_link(|name| name == "eth4"));
        // Checks weigh as interfaces do.
        let mut plain = both.plain().clone();
        plain.track_checks = serde_json::from_value(serde_json::json!([
            {"name": "dns", "weight": -5}, {"name": "api", "weight": 3}, {"name": "db"},
        ]))
        .unwrap();
        let checked = Router::new(plain).unwrap();
        assert_eq!(weighed(&checked, &["eth2", "eth3", "dns", "api"]), 123);
        assert_eq!(weighed(&checked, &["eth2", "eth3"]), 115);
        assert!(checked.misses_a_check(|name| name != "db"));
        assert!(!checked.misses_a_check(|name| name == "db"));
        // Never 0, which resigns, and never 255, which owns.
        assert_eq!(weighed(&router(100, &[("eth2", -253)]), &[]), 1);
        assert_eq!(weighed(&router(100, &[("eth2", 253)]), &["eth2"]), 254);
        assert_eq!(weighed(&router(255, &[("eth2", 0)]), &[]), 255);
    }

    #[test]
    fn without_members_one_is_the_last() {
        let mut plain = router(100, &[("eth2", 20)]).plain().clone();
        let poor = |plain: &VirtualRouter| {
            let router = Router::new(plain.clone()).unwrap();
            let up = |_: &str| true;
            [false, true].map(|poor| router.weighed_priority(up, up, poor).value())
        };
        assert_eq!(poor(&plain), [120, 120]);
        plain.track_members = true;
        assert_eq!(poor(&plain), [120, 1]);
    }

    #[test]
    fn who_succeeds_is_known_of_peers_that_are_heard_alone() {
        let mut plain = router(90, &[]).plain().clone();
        let peer = |host: u8| IpAddr::from([192, 0, 2, host]);
        plain.source = peer(5);
        plain.peers = vec![peer(2), peer(4), peer(6)];
        let router = Router::new(plain.clone()).unwrap();
        let succeeds = |known: &[(u8, u8)]| {
            let best = |ip| {
                known
                    .iter()
                    .find(|(host, _)| peer(*host) == ip)
                    .map(|k| k.1)
            };
            router.succeeds(peer(2), best)
        };
        assert!(succeeds(&[(4, 80), (6, 80)]));
        assert!(
            succeeds(&[(2, 254), (4, 0), (6, 89)]),
            "who resigned is not asked"
        );
        assert!(!succeeds(&[(4, 80), (6, 91)]));
        assert!(!succeeds(&[(4, 80)]), "the third may be anybody");
        // Equal ones: the greater address.
        assert!(succeeds(&[(4, 90), (6, 80)]));
        assert!(!succeeds(&[(4, 80), (6, 90)]));
        // Whoever is in the group may be better.
        plain.peers.clear();
        plain.multicast = true;
        assert!(!Router::new(plain).unwrap().succeeds(peer(2), |_| Some(1)));
    }
}
