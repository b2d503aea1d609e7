use super::*;
use crate::packet::{Advert, ChecksumForm, Packet};
use krater_model::Vrid;
use krater_model::state::VirtualRouter;

const NOW: Time = Time::from_micros(10_000_000);
const PEER: &str = "10.99.0.11";
const OWN: &str = "10.99.0.12";

fn router(source: &str, peer: &str, vips: &[&str]) -> Router {
    let document: VirtualRouter = serde_json::from_value(serde_json::json!({
        "vrid": 51, "interface": "eth1", "priority": 90, "advert_interval": 50,
        "source": source, "peers": [peer], "addresses": vips,
    }))
    .unwrap();
    Router::new(document).unwrap()
}

fn v4() -> Router {
    router(OWN, PEER, &["10.99.0.50/32"])
}

/// A packet with knobs, one per rung, in ladder order.
#[derive(Clone)]
struct Knobs {
    message: Vec<u8>,
    source: IpAddr,
    hop_limit: u8,
    age: Span,
    spoil_checksum: bool,
}

impl Knobs {
    fn good() -> Self {
        let vip: [IpAddr; 1] = ["10.99.0.50".parse().unwrap()];
        let mut message = Vec::new();
        Advert {
            vrid: Vrid::new(51).unwrap(),
            priority: 100,
            interval: Centiseconds::new(50).unwrap(),
            addresses: &vip,
        }
        .emit(
            PEER.parse().unwrap(),
            OWN.parse().unwrap(),
            ChecksumForm::Rfc9568,
            &mut message,
        );
        Self {
            message,
            source: PEER.parse().unwrap(),
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
            DropReason::OtherVersion => self.message[0] = 0x21,
            DropReason::Length => self.message.extend_from_slice(&[0; 8]),
            DropReason::Checksum => self.spoil_checksum = true,
            DropReason::HopLimit => self.hop_limit = 254,
            DropReason::Empty => {
                self.message[3] = 0;
                self.message.truncate(8);
            }
            DropReason::OwnAddress => self.source = OWN.parse().unwrap(),
            DropReason::Peer => self.source = "10.99.0.13".parse().unwrap(),
            DropReason::Interval => self.message[4..6].fill(0),
            DropReason::Stale => self.age = Span::from_millis(501),
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
            destination: OWN.parse().unwrap(),
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

#[test]
fn each_rung_refuses() {
    for reason in DropReason::ALL {
        let mut knobs = Knobs::good();
        knobs.violate(reason);
        assert_eq!(knobs.check(&v4()), Err(reason));
    }
}

/// A packet that fails two rungs is counted under the earlier one.
#[test]
fn the_order_of_the_rungs() {
    use DropReason::*;
    for (i, first) in DropReason::ALL.into_iter().enumerate() {
        for second in DropReason::ALL.into_iter().skip(i + 1) {
            // Both write the same bytes.
            let exclusive = matches!(
                (first, second),
                (Version | Type, OtherVersion) | (OwnAddress, Peer) | (Length, Empty)
            );
            if exclusive {
                continue;
            }
            let mut knobs = Knobs::good();
            if first == Short {
                knobs.violate(second);
                knobs.violate(first);
            } else {
                knobs.violate(first);
                knobs.violate(second);
            }
            assert_eq!(
                knobs.check(&v4()),
                Err(first),
                "{first} together with {second}"
            );
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
    // VRRPv2 with a password, as upstream's amphorae send: not ours yet.
    let v2 = crate::packet::tests::hex("213364010101de070a6300326162636465666700");
    assert_eq!(
        check(&v4(), &datagram(&v2), NOW),
        Err(DropReason::OtherVersion)
    );
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
