//! Parsers of krater-vrrp-proto.

use krater_model::state::VirtualRouter;
use krater_vrrp_proto::receive::{Datagram, check};
use krater_vrrp_proto::{Packet, Router, Time};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11));

/// One of each version.
static ROUTERS: LazyLock<Vec<Router>> = LazyLock::new(|| {
    let v3 = serde_json::json!({
        "vrid": 1, "interface": "eth1", "priority": 100, "advert_interval": 10,
        "source": OURS, "peers": [PEER], "addresses": ["203.0.113.12/24"],
    });
    let mut v2 = v3.clone();
    for (key, value) in [
        ("version", 2.into()),
        ("advert_interval", 100.into()),
        ("password", "abcdefg".into()),
    ] {
        v2[key] = value;
    }
    let plain = [v3, v2]
        .into_iter()
        .filter_map(|json| serde_json::from_value::<VirtualRouter>(json).ok());
    plain.filter_map(|plain| Router::new(plain).ok()).collect()
});

/// A datagram from the peer. What passes the ladder must not pass with any one bit changed.
pub(super) fn packet(data: &[u8]) {
    if let Some(packet) = Packet::new(data).filter(|packet| packet.length_matches(PEER)) {
        let listed = packet.addresses(PEER).take(300).count();
        assert!(listed <= 255, "no more addresses than a count byte can say");
    }
    assert_eq!(ROUTERS.len(), 2, "the routers of this target are valid");
    for router in ROUTERS.iter() {
        judged(router, data);
    }
}

fn judged(router: &Router, data: &[u8]) {
    let now = Time::from_micros(1_000_000);
    fn datagram(message: &[u8], received: Time) -> Datagram<'_> {
        Datagram {
            source: PEER,
            destination: OURS,
            hop_limit: 255,
            received,
            message,
        }
    }
    if check(router, &datagram(data, now), now).is_err() {
        return;
    }
    let foreign = Datagram {
        hop_limit: 254,
        ..datagram(data, now)
    };
    assert!(
        check(router, &foreign, now).is_err(),
        "a packet that crossed a router is refused"
    );
    let mut changed = data.to_vec();
    for at in 0..changed.len().min(24) * 8 {
        if let Some(byte) = changed.get_mut(at / 8) {
            *byte ^= 1 << (at % 8);
        }
        assert!(
            check(router, &datagram(&changed, now), now).is_err(),
            "bit {at} changed and nobody noticed"
        );
        if let Some(byte) = changed.get_mut(at / 8) {
            *byte ^= 1 << (at % 8);
        }
    }
}
