use super::*;
use proptest::prelude::*;

/// Captured from keepalived 2.2.7: source, destination, message.
const GOLDEN: [(&str, &str, &str); 8] = [
    ("10.99.0.11", "10.99.0.12", "3133640100324aab0a630032"),
    ("10.99.0.11", "10.99.0.12", "313300010032aeab0a630032"),
    ("10.99.0.11", "224.0.0.18", "31336401003275070a630032"),
    ("10.99.0.11", "224.0.0.18", "313300010032d9070a630032"),
    (
        "fd99::11",
        "fd99::12",
        "31336401003270d0fd990000000000000000000000000050",
    ),
    (
        "fd99::11",
        "fd99::12",
        "313300010032d4d0fd990000000000000000000000000050",
    ),
    (
        "fe80::99:ff:fe00:a",
        "ff02::12",
        "3133640100326eeefd990000000000000000000000000050",
    ),
    (
        "fe80::99:ff:fe00:a",
        "ff02::12",
        "313300010032d2eefd990000000000000000000000000050",
    ),
];

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

#[test]
fn golden_messages_decode() {
    for (source, destination, text) in GOLDEN {
        let bytes = hex(text);
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.version(), packet.kind()), (3, ADVERTISEMENT));
        assert_eq!(
            (packet.vrid(), packet.count(), packet.interval()),
            (51, 1, 50)
        );
        assert!(packet.length_matches(source));
        let vip: IpAddr = if source.is_ipv4() {
            "10.99.0.50"
        } else {
            "fd99::50"
        }
        .parse()
        .unwrap();
        assert_eq!(packet.addresses(source).collect::<Vec<_>>(), [vip]);
        // keepalived's IPv4 form is not the one of RFC 9568.
        let form = if source.is_ipv4() {
            ChecksumForm::PseudoHeader
        } else {
            ChecksumForm::Rfc9568
        };
        assert_eq!(packet.checksum_form(source, destination), Some(form));
    }
}

#[test]
fn golden_messages_encode() {
    for (source, destination, text) in GOLDEN {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let mut expected = hex(text);
        let priority = expected[2];
        if source.is_ipv4() {
            // RFC 9568 form: 6004 for priority 100 whatever the destination; 100 << 8 more for 0.
            let sum: u16 = if priority == 100 { 0x6004 } else { 0xc404 };
            expected[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        let vip: [IpAddr; 1] = [if source.is_ipv4() {
            "10.99.0.50"
        } else {
            "fd99::50"
        }
        .parse()
        .unwrap()];
        let advert = Advert {
            vrid: Vrid::new(51).unwrap(),
            priority,
            interval: Centiseconds::new(50).unwrap(),
            addresses: &vip,
        };
        let mut bytes = Vec::new();
        advert.emit(source, destination, ChecksumForm::Rfc9568, &mut bytes);
        assert_eq!(bytes, expected);
        advert.emit(source, destination, ChecksumForm::PseudoHeader, &mut bytes);
        assert_eq!(bytes, hex(text), "as captured");
    }
}

#[test]
fn reserved_bits_are_ignored() {
    let bytes = hex("31336401f0320000");
    assert_eq!(Packet::new(&bytes).unwrap().interval(), 50);
}

#[test]
fn every_truncation_is_seen() {
    let bytes = hex(GOLDEN[0].2);
    let source = "10.99.0.11".parse().unwrap();
    for length in 0..bytes.len() {
        let whole = Packet::new(&bytes[..length]).is_some_and(|p| p.length_matches(source));
        assert!(!whole, "{length} bytes");
    }
}

fn family() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
    ]
}

proptest! {
    #[test]
    fn decoding_anything_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..5_000),
        (source, destination) in family(),
    ) {
        if let Some(packet) = Packet::new(&bytes) {
            let _ = (packet.version(), packet.kind(), packet.vrid(), packet.priority());
            let _ = (packet.count(), packet.interval(), packet.length_matches(source));
            let _ = packet.checksum_form(source, destination);
            prop_assert!(packet.addresses(source).count() <= bytes.len() / 4);
        } else {
            prop_assert!(bytes.len() < HEADER);
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(
        (source, destination) in family(),
        seeds in proptest::collection::vec(any::<[u8; 16]>(), 1..=255),
        vrid in 1_u64..=255, priority: u8, interval in 1_u64..=4_095,
    ) {
        let addresses: Vec<IpAddr> = seeds
            .iter()
            .map(|s| if source.is_ipv4() { [s[0], s[1], s[2], s[3]].into() } else { (*s).into() })
            .collect();
        let advert = Advert {
            vrid: Vrid::new(vrid).unwrap(),
            priority,
            interval: Centiseconds::new(interval).unwrap(),
            addresses: &addresses,
        };
        let mut bytes = Vec::new();
        let form = if interval % 2 == 0 || source.is_ipv6() {
            ChecksumForm::Rfc9568
        } else {
            ChecksumForm::PseudoHeader
        };
        advert.emit(source, destination, form, &mut bytes);
        prop_assert!(bytes.len() <= MAX_MESSAGE);
        let packet = Packet::new(&bytes).unwrap();
        prop_assert_eq!(packet.checksum_form(source, destination), Some(form));
        prop_assert!(packet.length_matches(source));
        prop_assert_eq!(u64::from(packet.vrid()), vrid);
        prop_assert_eq!(packet.priority(), priority);
        prop_assert_eq!(u64::from(packet.interval()), interval);
        prop_assert_eq!(packet.addresses(source).collect::<Vec<_>>(), addresses);
        // One flipped bit is always found.
        let at = usize::from(priority) % bytes.len();
        bytes[at] ^= 1 << (vrid % 8);
        let packet = Packet::new(&bytes).unwrap();
        prop_assert_ne!(packet.checksum_form(source, destination), Some(form));
    }
}
