use super::*;
use crate::packet::{ChecksumForm, GROUP_V4, GROUP_V6, Packet};
use krater_model::state::VirtualRouter;

const NOW: Time = Time::from_micros(10_000_000);
const PEER: &str = "10.99.0.11";
const OWN: &str = "10.99.0.12";

fn with(source: &str, peer: &str, vips: &[&str], changes: serde_json::Value) -> Router {
    let mut document = serde_json::json!({
        "vrid": 51, "interface": "eth1", "priority": 90, "advert_interval": 50,
        "source": source, "peers": [peer], "addresses": vips,
    });
    for (key, value) in changes.as_object().unwrap() {
        document[key] = value.clone();
    }
    let document: VirtualRouter = serde_json::from_value(document).unwrap();
    Router::new(document).unwrap()
}

fn router(source: &str, peer: &str, vips: &[&str]) -> Router {
    with(source, peer, vips, serde_json::json!({}))
}

fn v4() -> Router {
    router(OWN, PEER, &["10.99.0.50/32"])
}

fn v2() -> Router {
    let changes = serde_json::json!({
        "version": 2, "password": "abcdefg", "advert_interval": 100,
    });
    with(OWN, PEER, &["10.99.0.50/32"], changes)
}

fn multicast(source: &str, vips: &[&str]) -> Router {
    let changes = serde_json::json!({"peers": [], "multicast": true});
    with(source, "", vips, changes)
}

/// A packet with knobs, one per rung, in ladder order.
#[derive(Clone)]
struct Knobs {
    v2: bool,
    message: Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    age: Span,
    spoil_checksum: bool,
}

impl Knobs {
    fn good() -> Self {
        Self::of(&v4())
    }

    /// What a peer with the same configuration sends.
    fn of(router: &Router) -> Self {
        let mut message = Vec::new();
        let (peer, own) = (PEER.parse().unwrap(), OWN.parse().unwrap());
        router
            .advert(100)
            .emit(peer, own, ChecksumForm::Rfc9568, &mut message);
        Self {
            v2: router.version() == VrrpVersion::V2,
            message,
            source: peer,
            destination: own,
            hop_limit: 255,
            age: Span::ZERO,
            spoil_checksum: false,
        }
    }

    /// Breaks the rung; the checksum stays right unless it is the one to break.
    fn violate(&mut self, reason: DropReason) {
        match reason {
            DropReason::Short => self.message.truncate(7),
            DropReason::Version => self.message[0] = 0x41,
            DropReason::Type => self.message[0] = self.message[0] & 0xf0 | 2,
            DropReason::Vrid => self.message[1] = 52,
            DropReason::OtherVersion => self.message[0] ^= 0x10,
            DropReason::Length => self.message.extend_from_slice(&[0; 8]),
            DropReason::Checksum => self.spoil_checksum = true,
            DropReason::HopLimit => self.hop_limit = 254,
            DropReason::Empty => {
                self.message[3] = 0;
                self.message.truncate(if self.v2 { 16 } else { 8 });
            }
            DropReason::OwnAddress => self.source = OWN.parse().unwrap(),
            DropReason::Cast => self.destination = GROUP_V4.into(),
            DropReason::Authentication => self.message[12] = b'x',
            DropReason::Peer => self.source = "10.99.0.13".parse().unwrap(),
            // In version 2 the first of the two bytes is the authentication type.
            DropReason::Interval => self.message[5] = 0,
            DropReason::Stale => self.age = Span::from_millis(1_001),
        }
    }

    fn check(mut self, router: &Router) -> Result<Heard, DropReason> {
        if self.message.len() >= 8 {
            self.message[6..8].fill(0);
            let right = (0..=u16::MAX).find(|sum| {
                self.message[6..8].copy_from_slice(&sum.to_be_bytes());
                Packet::new(&self.message)
                    .unwrap()
                    .checksum_form(self.source, OWN.parse().unwrap())
                    == Some(ChecksumForm::Rfc9568)
            });
            let sum = right.unwrap() ^ u16::from(self.spoil_checksum);
            self.message[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        let datagram = Datagram {
            source: self.source,
            destination: self.destination,
            hop_limit: self.hop_limit,
            received: Time::from_micros(NOW.micros() - self.age.micros()),
            message: &self.message,
        };
        check(router, &datagram, NOW)
    }
}

#[test]
fn a_good_packet_passes() {
    let heard = Knobs::good().check(&v4()).unwrap();
    assert_eq!(heard.priority, 100);
    assert_eq!(heard.interval.value(), 50);
    assert_eq!(heard.received, NOW);
    assert!(heard.same_addresses);
    let other = router(OWN, PEER, &["10.99.0.51/32"]);
    assert!(!Knobs::good().check(&other).unwrap().same_addresses);
}

/// Only version 2 authenticates.
fn rungs(router: &Router) -> Vec<DropReason> {
    let v2 = router.version() == VrrpVersion::V2;
    DropReason::ALL
        .into_iter()
        .filter(|reason| v2 || *reason != DropReason::Authentication)
        .collect()
}

#[test]
fn each_rung_refuses() {
    for router in [v4(), v2()] {
        assert!(Knobs::of(&router).check(&router).is_ok());
        for reason in rungs(&router) {
            let mut knobs = Knobs::of(&router);
            knobs.violate(reason);
            assert_eq!(knobs.check(&router), Err(reason));
        }
    }
}

/// A packet that fails two rungs is counted under the earlier one.
#[test]
fn the_order_of_the_rungs() {
    use DropReason::*;
    for router in [v4(), v2()] {
        let rungs = rungs(&router);
        for (i, first) in rungs.iter().enumerate() {
            for second in &rungs[i + 1..] {
                // Both write the same bytes, or the second needs what the first took away.
                let exclusive = matches!(
                    (*first, *second),
                    (Version | Type, OtherVersion)
                        | (OwnAddress, Peer)
                        | (Length, Empty)
                        | (Empty, Authentication)
                );
                if exclusive {
                    continue;
                }
                let mut knobs = Knobs::of(&router);
                if *first == Short {
                    knobs.violate(*second);
                    knobs.violate(*first);
                } else {
                    knobs.violate(*first);
                    knobs.violate(*second);
                }
                let found = knobs.check(&router);
                assert_eq!(found, Err(*first), "{first} together with {second}");
            }
        }
    }
}

#[test]
fn both_checksum_forms_over_ipv4_and_captured_packets() {
    let bytes = crate::packet::tests::hex("3133640100324aab0a630032");
    let datagram = |message| Datagram {
        source: PEER.parse().unwrap(),
        destination: OWN.parse().unwrap(),
        hop_limit: 255,
        received: NOW,
        message,
    };
    let heard = check(&v4(), &datagram(&bytes), NOW).unwrap();
    assert_eq!(
        (heard.priority, heard.checksum),
        (100, ChecksumForm::PseudoHeader)
    );
    let rfc9568 = crate::packet::tests::hex("31336401003260040a630032");
    let heard = check(&v4(), &datagram(&rfc9568), NOW).unwrap();
    assert_eq!(
        (heard.priority, heard.checksum),
        (100, ChecksumForm::Rfc9568)
    );
    // VRRPv2 with a password, as upstream's amphorae send.
    let bytes = crate::packet::tests::hex("213364010101de070a6300326162636465666700");
    let refused = check(&v4(), &datagram(&bytes), NOW);
    assert_eq!(refused, Err(DropReason::OtherVersion));
    let heard = check(&v2(), &datagram(&bytes), NOW).unwrap();
    assert_eq!((heard.priority, heard.interval.value()), (100, 100));
    assert!(heard.same_addresses);
}

#[test]
fn multicast_routers_hear_anybody_in_the_group_and_nobody_else() {
    for (own, other, vip, group, text) in [
        (
            OWN,
            "10.99.0.11",
            "10.99.0.50/32",
            GROUP_V4.into(),
            "31336401003275070a630032",
        ),
        (
            "fe80::99:ff:fe00:b",
            "fe80::99:ff:fe00:a",
            "fd99::50/128",
            GROUP_V6.into(),
            "3133640100326eeefd990000000000000000000000000050",
        ),
    ] {
        let router = multicast(own, &[vip]);
        assert_eq!(router.destinations(), [group]);
        let bytes = crate::packet::tests::hex(text);
        let mut datagram = Datagram {
            source: other.parse().unwrap(),
            destination: group,
            hop_limit: 255,
            received: NOW,
            message: &bytes,
        };
        assert!(check(&router, &datagram, NOW).unwrap().same_addresses);
        datagram.source = own.parse().unwrap();
        let looped = check(&router, &datagram, NOW).unwrap_err();
        assert!(matches!(
            looped,
            DropReason::OwnAddress | DropReason::Checksum
        ));
    }
    let router = multicast(OWN, &["10.99.0.50/32"]);
    assert_eq!(Knobs::good().check(&router), Err(DropReason::Cast));
}

#[test]
fn version_2_has_one_interval_one_checksum_and_one_password() {
    let good = Knobs::of(&v2());
    let mut other = good.clone();
    other.message[5] = 2;
    assert_eq!(other.check(&v2()), Err(DropReason::Interval));
    // Without authentication where a password is expected, and the other way round.
    let open = serde_json::json!({"version": 2, "advert_interval": 100});
    let open = with(OWN, PEER, &["10.99.0.50/32"], open);
    assert_eq!(
        Knobs::of(&open).check(&v2()),
        Err(DropReason::Authentication)
    );
    assert_eq!(good.check(&open), Err(DropReason::Authentication));
    // RFC 3768 section 5.3.10: data without a type is ignored.
    let mut data = Knobs::of(&open);
    data.message[12..20].copy_from_slice(b"whatever");
    assert!(data.check(&open).is_ok());
    // The pseudo-header form is version 3's alone.
    let mut bytes = crate::packet::tests::hex("213364010101de070a6300326162636465666700");
    for sum in 0..=u16::MAX {
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        let datagram = Datagram {
            source: PEER.parse().unwrap(),
            destination: OWN.parse().unwrap(),
            hop_limit: 255,
            received: NOW,
            message: &bytes,
        };
        assert_eq!(check(&v2(), &datagram, NOW).is_ok(), sum == 0xde07);
    }
}

#[test]
fn ipv6_needs_its_pseudo_header_and_hop_limit() {
    let own = router("fd99::12", "fd99::11", &["fd99::50/128"]);
    let bytes = crate::packet::tests::hex("31336401003270d0fd990000000000000000000000000050");
    let mut datagram = Datagram {
        source: "fd99::11".parse().unwrap(),
        destination: "fd99::12".parse().unwrap(),
        hop_limit: 255,
        received: NOW,
        message: &bytes,
    };
    assert!(check(&own, &datagram, NOW).unwrap().same_addresses);
    datagram.hop_limit = 64;
    assert_eq!(check(&own, &datagram, NOW), Err(DropReason::HopLimit));
    // keepalived's unicast leaves with 64, which a router can be told.
    let changes = serde_json::json!({"min_hop_limit": 64});
    let lenient = with("fd99::12", "fd99::11", &["fd99::50/128"], changes);
    assert!(check(&lenient, &datagram, NOW).is_ok());
    datagram.hop_limit = 63;
    assert_eq!(check(&lenient, &datagram, NOW), Err(DropReason::HopLimit));
    datagram.hop_limit = 255;
    datagram.destination = "fd99::13".parse().unwrap();
    assert_eq!(check(&own, &datagram, NOW), Err(DropReason::Checksum));
    // The same identifier over IPv4 is another virtual router.
    assert_eq!(check(&v4(), &datagram, NOW), Err(DropReason::Vrid));
}

#[test]
fn a_fast_interval_forgives_a_late_wake_up() {
    let mut knobs = Knobs::good();
    knobs.message[4..6].copy_from_slice(&1_u16.to_be_bytes());
    knobs.age = Span::from_millis(20);
    assert!(knobs.clone().check(&v4()).is_ok());
    knobs.age = Span::from_millis(21);
    assert_eq!(knobs.check(&v4()), Err(DropReason::Stale));
}
