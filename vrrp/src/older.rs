//! Which peers read the older checksum of VRRPv3 over IPv4: the only part of the form of our adverts
//! that is learned. Version and authentication are configured, and the receive ladder lets nothing
//! else through, so that who is heard at all speaks them.
//!
//! RFC 9568 section 5.2.8 sums the message alone; keepalived and FRR read RFC 5798 as with the
//! pseudo-header, and drop what they cannot verify. Whoever sends that form expects it.
//!
//! Silence is no evidence: a Backup says nothing for months and must still understand us. So an entry
//! goes when its peer is heard with the other form or is not admitted any more. In a group, where one
//! message is for all and anybody may speak, it also goes when another speaks the form of the RFC
//! and it was not heard for [`FORGOTTEN_AFTER`].

use krater_vrrp_proto::{ChecksumForm, Heard, Router, Span, Time};
use std::net::IpAddr;

/// Peers that are remembered: unicast has no more, and of a group anybody may be one.
const MAX: usize = krater_vrrp_proto::router::MAX_PEERS;
/// The longest interval is 41 s: an Active of a group that was not heard for so long is none, whatever
/// it speaks.
const FORGOTTEN_AFTER: Span = Span::from_millis(150_000);

/// Peers that send, and so expect, the older checksum, each with when it was last heard.
#[derive(Debug, Default)]
pub(crate) struct OlderPeers(Vec<(IpAddr, Time)>);

impl OlderPeers {
    /// An advert of `router` passed the ladder. Answers whether the form of what we send changed.
    pub(crate) fn heard(&mut self, router: &Router, heard: &Heard) -> bool {
        let before = self.0.len();
        let known = self.0.iter().position(|(peer, _)| *peer == heard.source);
        let mut changed = known.is_some();
        if let Some(at) = known {
            self.0.swap_remove(at);
        }
        if heard.checksum == ChecksumForm::PseudoHeader {
            changed = !changed;
            self.make_room(router);
            self.0.push((heard.source, heard.received));
        } else if router.is_multicast() {
            let now = heard.received;
            self.0.retain(|(_, last)| now - *last < FORGOTTEN_AFTER);
        }
        if router.is_multicast() {
            (before == 0) != self.0.is_empty()
        } else {
            changed
        }
    }

    /// The form that `destination` of `router` reads.
    pub(crate) fn form(&self, router: &Router, destination: IpAddr) -> ChecksumForm {
        let older = if router.is_multicast() {
            !self.0.is_empty()
        } else {
            self.0.iter().any(|(peer, _)| *peer == destination)
        };
        router.checksum(older)
    }

    /// The destinations of `router` that read the older form, for who sends in our name.
    pub(crate) fn destinations(&self, router: &Router) -> Vec<IpAddr> {
        let destinations = router.destinations().iter().copied();
        destinations
            .filter(|to| self.form(router, *to) == ChecksumForm::PseudoHeader)
            .collect()
    }

    /// Forgets who is not admitted any more, and then, if it must, who was heard the longest ago.
    fn make_room(&mut self, router: &Router) {
        if self.0.len() < MAX {
            return;
        }
        self.0.retain(|(peer, _)| router.admits(*peer));
        if self.0.len() < MAX {
            return;
        }
        let oldest = self.0.iter().enumerate().min_by_key(|(_, (_, last))| *last);
        if let Some((at, _)) = oldest {
            self.0.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn router(changes: Value) -> Router {
        let mut document = json!({
            "vrid": 1, "interface": "eth1", "priority": 100, "advert_interval": 10,
            "source": "192.0.2.1", "peers": ["192.0.2.2", "192.0.2.3"],
            "addresses": ["192.0.2.100/32"],
        });
        for (key, value) in changes.as_object().unwrap() {
            document[key] = value.clone();
        }
        Router::new(serde_json::from_value(document).unwrap()).unwrap()
    }

    fn group() -> Router {
        router(json!({"multicast": true, "peers": []}))
    }

    fn ip(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    fn heard(host: u8, older: bool, second: u64) -> Heard {
        Heard {
            source: ip(host),
            priority: 100,
            interval: krater_model::Centiseconds::new(10).unwrap(),
            received: Time::from_micros(second * 1_000_000),
            same_addresses: true,
            checksum: if older {
                ChecksumForm::PseudoHeader
            } else {
                ChecksumForm::Rfc9568
            },
        }
    }

    #[test]
    fn each_unicast_peer_gets_its_own_form() {
        let router = router(json!({}));
        let mut older = OlderPeers::default();
        assert!(older.destinations(&router).is_empty());
        assert!(!older.heard(&router, &heard(2, false, 1)));
        assert!(older.heard(&router, &heard(3, true, 1)));
        assert!(!older.heard(&router, &heard(3, true, 2)), "known already");
        assert_eq!(older.destinations(&router), [ip(3)]);
        assert_eq!(older.form(&router, ip(2)), ChecksumForm::Rfc9568);
        assert_eq!(older.form(&router, ip(3)), ChecksumForm::PseudoHeader);
        // A year of silence, and another peer of the other form, say nothing about this one.
        assert!(!older.heard(&router, &heard(2, false, 31_536_000)));
        assert_eq!(older.destinations(&router), [ip(3)]);
        // It was replaced by one that goes by the RFC.
        assert!(older.heard(&router, &heard(3, false, 31_536_001)));
        assert!(older.destinations(&router).is_empty());
    }

    #[test]
    fn a_group_gets_the_form_of_its_speakers() {
        let router = group();
        let all = router.destinations().to_vec();
        let mut older = OlderPeers::default();
        assert!(older.heard(&router, &heard(2, true, 1)));
        assert_eq!(older.destinations(&router), all);
        assert!(!older.heard(&router, &heard(3, true, 1)), "the group knows");
        // Two speak the older form, one of them ends it; the other still counts.
        assert!(!older.heard(&router, &heard(2, false, 2)));
        assert_eq!(older.destinations(&router), all);
        // Silence alone does not end it; a contradiction after a long silence does.
        assert!(!older.heard(&router, &heard(2, false, 150)));
        assert_eq!(older.destinations(&router), all);
        assert!(older.heard(&router, &heard(2, false, 152)));
        assert!(older.destinations(&router).is_empty());
    }

    #[test]
    fn strangers_of_a_group_are_bounded_and_the_latest_are_kept() {
        let router = group();
        let mut older = OlderPeers::default();
        for host in 2..=250 {
            older.heard(&router, &heard(host, true, u64::from(host)));
            assert!(older.0.len() <= MAX);
        }
        let mut kept: Vec<IpAddr> = older.0.iter().map(|(peer, _)| *peer).collect();
        kept.sort();
        assert_eq!(kept, (235..=250).map(ip).collect::<Vec<_>>());
    }

    #[test]
    fn former_peers_make_room_for_present_ones() {
        let former: Vec<IpAddr> = (10..26).map(ip).collect();
        let before = router(json!({"peers": former}));
        let after = router(json!({"peers": [ip(2), ip(10)]}));
        let mut older = OlderPeers::default();
        for host in 10..26 {
            assert!(older.heard(&before, &heard(host, true, 1)));
        }
        assert!(older.heard(&after, &heard(2, true, 2)));
        assert_eq!(older.destinations(&after), [ip(2), ip(10)]);
        assert_eq!(older.0.len(), 2);
    }

    #[test]
    fn a_configured_form_is_not_learned() {
        let mut older = OlderPeers::default();
        let fixed = router(json!({"checksum": "rfc9568"}));
        older.heard(&fixed, &heard(2, true, 1));
        assert!(older.destinations(&fixed).is_empty());
        let older = OlderPeers::default();
        let fixed = router(json!({"checksum": "pseudo_header"}));
        assert_eq!(older.destinations(&fixed), [ip(2), ip(3)]);
    }
}
