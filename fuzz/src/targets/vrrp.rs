//! Parsers of krater-vrrp-proto, and of its liveness sessions.

use krater_model::control::LivenessPath;
use krater_model::secret::Secret;
use krater_model::state::VirtualRouter;
use krater_model::wire::liveness::{Heartbeat, Report};
use krater_vrrp_proto::liveness::{News, Peer, Session, Verdict};
use krater_vrrp_proto::receive::{Datagram, check};
use krater_vrrp_proto::{Packet, Router, Span, Time};
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

/// A heartbeat as it arrives; and the same bytes as the fields of authentic ones, which a stolen key could send.
/// Whatever a session hears, what it heard already changes nothing more.
pub(super) fn heartbeat(data: &[u8]) {
    let key = Secret::new("fuzz-fuzz-fuzz-fuzz");
    let read = Heartbeat::decode(data, &key, PEER, OURS);
    if let Ok(beat) = read {
        assert_eq!(beat.encode(&key, PEER, OURS), *data, "one form only");
    }
    let begin = || Session::new(Span::from_millis(30), 7, Time::from_micros(1_000_000));
    let mut session = begin();
    let mut peer = Peer::new(begin()).with_second(begin());
    let paths = [LivenessPath::Vip, LivenessPath::Second];
    let mut now = 1_000_000;
    for chunk in data.chunks_exact(8).take(64) {
        let [kind, interval, boot, low, high, echo, heard, after] = *chunk else {
            return;
        };
        let beat = Heartbeat {
            leaving: kind & 1 == 1,
            interval: interval.into(),
            boot: (boot % 4).into(),
            sequence: u16::from_be_bytes([high, low]).into(),
            // Zeros are how none is written.
            heard: Some((u64::from(echo % 9), u64::from(heard)))
                .filter(|told| kind & 2 == 2 && *told != (0, 0)),
            report: Report {
                poor: kind & 8 == 8,
                term: u64::from(low) << (kind >> 4),
                strays: u32::from(echo),
                best: heard,
            },
        };
        now += u64::from(after) * 1_000;
        let at = Time::from_micros(now);
        let bytes = beat.encode(&key, PEER, OURS);
        if let Ok(read) = Heartbeat::decode(&bytes, &key, PEER, OURS) {
            assert_eq!(read, beat, "what is sent is read back");
            session.heard(&read, at);
            let before = (session.state(), session.poll_timeout());
            assert_eq!(session.heard(&read, at), None, "a replay is no news");
            let after = (session.state(), session.poll_timeout());
            assert_eq!(before, after, "a replay changes nothing");
            let path = paths[usize::from(kind >> 2 & 1)];
            peer.heard(path, &read, at);
            let before = paths.map(|path| peer.state(path));
            assert_eq!(
                peer.heard(path, &read, at),
                News::default(),
                "a replay is no news"
            );
            assert_eq!(before, paths.map(|path| peer.state(path)));
        }
        for path in paths {
            let (_, news) = peer.timeout(path, at);
            if let Some(Verdict::Dead { spoke, .. }) = news.verdict {
                assert!(spoke < at, "who is dead spoke before");
                let heard = paths.map(|path| peer.session(path).and_then(Session::heard_at));
                assert_eq!(heard, [None, None], "who is heard is not dead");
            }
        }
        assert!(peer.poll_timeout() > at, "no peer is due for ever");
        session.timeout(at);
        assert!(session.poll_timeout() > at, "no session is due for ever");
    }
}
