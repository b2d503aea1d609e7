//! Neighbours that do not know where an address is, and terms that tell Actives apart.

use crate::Test;
use crate::lab::{Lab, Node, wait_for, wait_until};
use crate::liveness::alive;
use krater_model::MacAddr;
use krater_model::control::RouterState::{Active, Backup};
use krater_model::control::{VrrpEventKind, VrrpEvents};
use krater_model::wire::checksum::{fold, sum};
use krater_net::announce::Announcer;
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};
use std::net::IpAddr;

pub(crate) const TESTS: &[Test] = &[
    ("a_stale_neighbour_makes_the_active_announce_ipv4", || {
        stale("stray4", false);
    }),
    ("a_stale_neighbour_makes_the_active_announce_ipv6", || {
        stale("stray6", true);
    }),
    ("without_a_session_strays_are_told_here_alone", alone),
    ("each_active_has_a_greater_term", terms),
];

/// Nothing is announced without a cause.
fn config(lab: &Lab, generation: u64, host: u8, session: bool) -> Value {
    let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
    let router = &mut config["routers"][0];
    router["track_dataplane"] = json!(false);
    router["announce"] = json!({"repeat": 1, "delay": 0, "refresh": 0});
    if session {
        router["liveness"] = json!({"key": "0123456789abcdef"});
    }
    config
}

fn pair(name: &str, v6: bool, session: bool) -> Lab {
    let mut lab = Lab::new(name, v6);
    lab.a.start();
    lab.a.apply(&config(&lab, 1, 1, session));
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&config(&lab, 1, 2, session));
    lab.b.state_becomes(Backup);
    hear(&lab.b, 3.0);
    if session {
        alive(&lab);
    }
    lab
}

fn hear(node: &Node, more: f64) {
    node.grows("krater_vrrp_adverts_received_total", more);
}

fn announced(node: &Node) -> f64 {
    node.metric("krater_vrrp_announcements_sent_total")
}

fn strays(node: &Node) -> f64 {
    node.metric("krater_vrrp_strays_total")
}

/// The client sends a packet for `to` to a link-layer address.
fn send(lab: &Lab, mac: MacAddr, to: IpAddr) {
    let netlink = NetlinkSocket::open_in(&lab.client).unwrap();
    let link = netlink.link_by_name("eth1").unwrap().unwrap();
    let mut frame = [mac.0, link.mac.unwrap().0].concat();
    // Datagrams without a byte, from port 1 to port 2.
    match to {
        IpAddr::V4(to) => {
            let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9];
            header.extend(to.octets());
            // A bridge may look at it (net.bridge.bridge-nf-call-iptables).
            let checksum = !fold(sum(&header, 0));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        IpAddr::V6(to) => {
            let from: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
    }
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let client = Announcer::open_in(&lab.client, link.index).unwrap();
    client.send(&frame).unwrap();
}

fn stale(name: &str, v6: bool) {
    let lab = pair(name, v6, true);
    let before = announced(&lab.a);
    // Others, and frames that a switch floods, prove nothing.
    let other: IpAddr = if v6 { "2001:db8::77" } else { "192.0.2.77" }
        .parse()
        .unwrap();
    let nobody = MacAddr([2, 0, 0, 0, 0, 77]);
    for _ in 0..50 {
        send(&lab, lab.b.mac(), other);
        send(&lab, nobody, lab.vip());
        hear(&lab.b, 0.5);
    }
    assert!(strays(&lab.b) < 0.5);
    assert!((announced(&lab.a) - before).abs() < 0.5);
    wait_until("a to announce again", || {
        send(&lab, lab.b.mac(), lab.vip());
        announced(&lab.a) > before + 0.5
    });
    let (_, events) = lab.b.request("GET", "/events?since=0", "");
    assert!(events.contains("\"stray\""), "{events}");
    // As often as it goes on, it is not announced: the next look is a second away, and then two.
    for _ in 0..20 {
        send(&lab, lab.b.mac(), lab.vip());
        hear(&lab.b, 0.5);
    }
    assert!(announced(&lab.a) < before + 4.5);
    // Many that wait make the next rest no longer: two more looks come within seconds.
    let seen = strays(&lab.b);
    wait_until("the next looks", || {
        send(&lab, lab.b.mac(), lab.vip());
        strays(&lab.b) > seen + 1.5
    });
    // The other way round, after a handover.
    assert_eq!(lab.a.request("POST", "/handover", "{\"hold\":0}").0, 200);
    lab.b.state_becomes(Active);
    let before = announced(&lab.b);
    wait_until("b to announce again", || {
        send(&lab, lab.a.mac(), lab.vip());
        announced(&lab.b) > before + 0.5 && strays(&lab.a) > 0.5
    });
    assert_eq!(lab.owners(), ["b"]);
}

/// The negative control: nobody tells the Active.
fn alone() {
    let lab = pair("stray-alone", false, false);
    let before = announced(&lab.a);
    wait_until("b to find it", || {
        send(&lab, lab.b.mac(), lab.vip());
        strays(&lab.b) > 0.5
    });
    hear(&lab.b, 10.0);
    assert!((announced(&lab.a) - before).abs() < 0.5);
}

fn term(node: &Node) -> Option<u64> {
    node.status().routers[0].term
}

/// Over a handover, a death, a restart and a split: who is Active last has the greatest.
fn terms() {
    let mut lab = pair("terms", false, true);
    let first = term(&lab.a).unwrap();
    assert_eq!(term(&lab.b), None);
    assert_eq!(lab.a.request("POST", "/handover", "{\"hold\":0}").0, 200);
    let second = term(&lab.b).unwrap();
    assert!(second > first && term(&lab.a).is_none());
    assert!((lab.b.metric("krater_vrrp_term") - second as f64).abs() < 0.5);
    lab.b.end(SIGKILL);
    lab.a.state_becomes(Active);
    let third = term(&lab.a).unwrap();
    assert!(third > second);
    lab.b.start();
    lab.b.apply(&config(&lab, 1, 2, true));
    lab.b.state_becomes(Backup);
    hear(&lab.b, 3.0);
    // Both have one while they do not hear each other; when they do, a's is the greatest again.
    lab.connect(2, false);
    lab.b.state_becomes(Active);
    let other = term(&lab.b).unwrap();
    assert!(other > third);
    assert_eq!(term(&lab.a), Some(third));
    lab.connect(2, true);
    lab.b.state_becomes(Backup);
    let last = wait_for("a's term to be the last", || {
        term(&lab.a).filter(|term| *term > other)
    });
    let told = wait_for("it to be told", || {
        let (_, events) = lab.a.request("GET", "/events?since=0", "");
        let events: VrrpEvents = serde_json::from_str(&events).unwrap();
        events
            .events
            .into_iter()
            .find_map(|event| match event.kind {
                VrrpEventKind::RivalGone { term, .. } => Some(term),
                _ => None,
            })
    });
    assert_eq!(told, last);
    assert_eq!(lab.owners(), ["a"]);
}
