use super::*;
use proptest::prelude::*;

/// A captured packet.
struct Golden {
    name: &'static str,
    source: IpAddr,
    destination: IpAddr,
    bytes: Vec<u8>,
}

/// `name source > destination ttl N [tos N] message`; IPv6 addresses are plain hex.
fn golden() -> Vec<Golden> {
    let address = |text: &str| match text.parse() {
        Ok(v4) => v4,
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(hex(text)).unwrap()),
    };
    let all: Vec<Golden> = include_str!("../../cases/vectors.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Golden {
                name: words[0],
                source: address(words[1]),
                destination: address(words[3]),
                bytes: hex(words.last().unwrap()),
            }
        })
        .collect();
    assert_eq!(all.len(), 14);
    all
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

fn vips(of: &Golden) -> Vec<IpAddr> {
    let texts: &[&str] = match (of.source.is_ipv4(), of.name.contains("3vips")) {
        (true, true) => &["10.99.0.50", "10.99.1.1", "10.99.1.2"],
        (true, false) => &["10.99.0.50"],
        (false, _) => &["fd99::50"],
    };
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn version(of: &Golden) -> Version {
    match of.name {
        name if name.starts_with("v3") => Version::V3,
        name if name.contains("pass") => Version::V2(Authentication::password("abcdefg")),
        _ => Version::V2(Authentication::default()),
    }
}

/// keepalived sends the pseudo-header form over IPv4 in version 3.
fn form(of: &Golden) -> ChecksumForm {
    match version(of) {
        Version::V3 if of.source.is_ipv4() => ChecksumForm::PseudoHeader,
        _ => ChecksumForm::Rfc9568,
    }
}

#[test]
fn golden_messages_decode() {
    for golden in golden() {
        let (name, source) = (golden.name, golden.source);
        let packet = Packet::new(&golden.bytes).unwrap();
        let (wanted, interval) = match version(&golden) {
            Version::V3 => (V3, 50),
            Version::V2(authentication) => {
                assert!(packet.authenticates(authentication), "{name}");
                let other = Authentication::password("abcdefh");
                assert!(!packet.authenticates(other), "{name}");
                (V2, 100)
            }
        };
        assert_eq!((packet.version(), packet.kind()), (wanted, ADVERTISEMENT));
        assert_eq!(packet.vrid(), 51);
        assert_eq!(packet.advert_interval().unwrap().value(), interval);
        assert!(packet.length_matches(source), "{name}");
        let listed: Vec<IpAddr> = packet.addresses(source).collect();
        assert_eq!(listed, vips(&golden), "{name}");
        let found = packet.checksum_form(source, golden.destination);
        assert_eq!(found, Some(form(&golden)), "{name}");
    }
}

#[test]
fn golden_messages_encode() {
    for golden in golden() {
        let advert = Advert {
            version: version(&golden),
            vrid: Vrid::new(51).unwrap(),
            priority: golden.bytes[2],
            interval: Packet::new(&golden.bytes)
                .unwrap()
                .advert_interval()
                .unwrap(),
            addresses: &vips(&golden),
        };
        let mut bytes = Vec::new();
        let (source, destination) = (golden.source, golden.destination);
        advert.emit(source, destination, form(&golden), &mut bytes);
        assert_eq!(bytes, golden.bytes, "{} as captured", golden.name);
        if form(&golden) == ChecksumForm::PseudoHeader {
            // RFC 9568: 6004 for priority 100 whatever the destination; 100 << 8 more for 0.
            advert.emit(source, destination, ChecksumForm::Rfc9568, &mut bytes);
            let sum: [u8; 2] = if advert.priority == 100 {
                [0x60, 0x04]
            } else {
                [0xc4, 0x04]
            };
            assert_eq!(bytes[6..8], sum);
        }
    }
}

#[test]
fn passwords_are_cut_padded_and_not_printed() {
    let long = Authentication::password("12345678 and more");
    assert_eq!(long, Authentication::password("12345678"));
    assert_ne!(long, Authentication::password("1234567"));
    assert_ne!(Authentication::password(""), Authentication::default());
    assert!(!format!("{long:?}").contains('1'));
}

#[test]
fn reserved_bits_are_ignored() {
    let bytes = hex("31336401f0320000");
    assert_eq!(Packet::new(&bytes).unwrap().interval(), 50);
}

#[test]
fn every_truncation_is_seen() {
    for Golden { source, bytes, .. } in golden() {
        for length in 0..bytes.len() {
            let whole = Packet::new(&bytes[..length]).is_some_and(|p| p.length_matches(source));
            assert!(!whole, "{length} bytes");
        }
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
        vrid in 1_u64..=255, priority: u8, interval in 1_u64..=4_095, old: bool,
    ) {
        let v2 = old && source.is_ipv4();
        let interval = if v2 { interval.div_ceil(100).min(40) * 100 } else { interval };
        let addresses: Vec<IpAddr> = seeds
            .iter()
            .map(|s| if source.is_ipv4() { [s[0], s[1], s[2], s[3]].into() } else { (*s).into() })
            .collect();
        let version = match v2 {
            true => Version::V2(Authentication::password("secret")),
            false => Version::V3,
        };
        let advert = Advert {
            version,
            vrid: Vrid::new(vrid).unwrap(),
            priority,
            interval: Centiseconds::new(interval).unwrap(),
            addresses: &addresses,
        };
        let mut bytes = Vec::new();
        let form = if v2 || interval % 2 == 0 || source.is_ipv6() {
            ChecksumForm::Rfc9568
        } else {
            ChecksumForm::PseudoHeader
        };
        advert.emit(source, destination, form, &mut bytes);
        prop_assert!(bytes.len() <= MAX_MESSAGE);
        if v2 {
            prop_assert!(Packet::new(&bytes).unwrap().authenticates(Authentication::password("secret")));
        }
        let packet = Packet::new(&bytes).unwrap();
        prop_assert_eq!(packet.checksum_form(source, destination), Some(form));
        prop_assert!(packet.length_matches(source));
        prop_assert_eq!(u64::from(packet.vrid()), vrid);
        prop_assert_eq!(packet.priority(), priority);
        prop_assert_eq!(u64::from(packet.advert_interval().unwrap().value()), interval);
        prop_assert_eq!(packet.addresses(source).collect::<Vec<_>>(), addresses);
        // One flipped bit is always found.
        let at = usize::from(priority) % bytes.len();
        bytes[at] ^= 1 << (vrid % 8);
        let packet = Packet::new(&bytes).unwrap();
        prop_assert_ne!(packet.checksum_form(source, destination), Some(form));
    }
}
