//! Virtual MAC addresses, as a client and the switch see them.

use crate::Test;
use crate::capture::{Capture, Recording};
use crate::lab::{Lab, Node, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_net::link::Link;
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    ("a_virtual_mac_moves_with_the_address_ipv4", || {
        moves("vmac4", false);
    }),
    ("a_virtual_mac_moves_with_the_address_ipv6", || {
        moves("vmac6", true);
    }),
    ("without_a_virtual_mac_the_interfaces_own_is_used", own_mac),
    ("adverts_to_the_group_have_the_virtual_mac", || {
        group("vmac4-group", false);
        group("vmac6-group", true);
    }),
    (
        "a_virtual_mac_comes_and_goes_with_its_configuration",
        changes,
    ),
    ("the_guard_removes_a_virtual_mac", killed),
    ("an_advert_longer_than_a_frame_is_heard", long),
];

fn config(lab: &Lab, generation: u64, host: u8, virtual_mac: bool) -> Value {
    let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
    let router = &mut config["routers"][0];
    router["track_dataplane"] = json!(false);
    router["virtual_mac"] = json!(virtual_mac);
    config
}

/// Speaks to the group from a virtual MAC address.
fn group_config(lab: &Lab, host: u8, v6: bool) -> Value {
    let mut config = config(lab, 1, host, true);
    let router = &mut config["routers"][0];
    router["multicast"] = json!(true);
    router["peers"] = json!([]);
    if v6 {
        router["source"] = json!(format!("fe80::{host}"));
    }
    config
}

/// a is Active, b follows.
fn pair(name: &str, v6: bool, virtual_mac: bool) -> Lab {
    let mut lab = Lab::new(name, v6);
    lab.a.start();
    lab.a.apply(&config(&lab, 1, 1, virtual_mac));
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&config(&lab, 1, 2, virtual_mac));
    lab.b.state_becomes(Backup);
    wait_until("b to hear a", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 0.0
    });
    lab
}

/// Router 1's.
const fn mac(v6: bool) -> &'static str {
    if v6 {
        "00:00:5e:00:02:01"
    } else {
        "00:00:5e:00:01:01"
    }
}

/// Its macvlan on a node.
fn macvlan(node: &Node) -> Option<Link> {
    let links = NetlinkSocket::open_in(&node.ns).unwrap().links().unwrap();
    let ours = |link: &Link| link.name.starts_with("krv");
    links.into_iter().find(ours)
}

/// The client asks for the address, a answers, then b.
fn script(lab: &mut Lab) -> Recording {
    let capture = Capture::start(lab);
    lab.answered_by("a");
    assert!(lab.a.end(SIGTERM));
    lab.b.state_becomes(Active);
    lab.answered_by("b");
    capture.end(lab)
}

/// Frames that say that the address is at `mac`, answers and announcements.
fn said(recording: &Recording, v6: bool, here: bool) -> usize {
    let (address, what) = match v6 {
        true => (
            "icmpv6.nd.na.target_address == 2001:db8::100",
            "icmpv6.opt.linkaddr",
        ),
        false => ("arp.src.proto_ipv4 == 192.0.2.100", "arp.src.hw_mac"),
    };
    let sign = if here { "==" } else { "!=" };
    let mac = mac(v6);
    recording.count(&format!(
        "{address} && ({what} {sign} {mac} || eth.src {sign} {mac})"
    ))
}

fn moves(name: &str, v6: bool) {
    let mut lab = pair(name, v6, true);
    let (up, down) = (macvlan(&lab.a).unwrap(), macvlan(&lab.b).unwrap());
    assert_eq!(up.mac.unwrap().to_string(), mac(v6));
    assert!(up.up && !down.up, "{up:?} {down:?}");
    let recording = script(&mut lab);
    // What the client was answered, and what it was told at the takeover.
    assert!(said(&recording, v6, true) >= 2);
    assert_eq!(said(&recording, v6, false), 0);
    let resolved = match v6 {
        true => "icmpv6.type == 136 && icmpv6.nd.na.flag.s == 1",
        false => "arp.opcode == 2 && arp.src.proto_ipv4 == 192.0.2.100",
    };
    assert!(recording.count(resolved) > 0, "nobody asked for it");
    assert!(macvlan(&lab.b).unwrap().up);
    // No address of its own, and so none that both hosts would have.
    let netlink = NetlinkSocket::open_in(&lab.b.ns).unwrap();
    let index = macvlan(&lab.b).unwrap().index;
    let mut addresses = netlink.addresses().unwrap();
    addresses.retain(|address| address.link == index);
    assert_eq!(addresses.len(), 1, "{addresses:?}");
}

/// The negative control.
fn own_mac() {
    let mut lab = pair("vmac-own", false, false);
    assert!(macvlan(&lab.a).is_none());
    let recording = script(&mut lab);
    assert_eq!(said(&recording, false, true), 0);
    assert!(said(&recording, false, false) >= 2);
}

fn group(name: &str, v6: bool) {
    let mut lab = Lab::new(name, v6);
    let capture = Capture::start(&lab);
    let config = |lab: &Lab, host: u8| {
        let mut config = group_config(lab, host, v6);
        // The judge's.
        config["routers"][0]["checksum"] = json!("pseudo_header");
        config
    };
    lab.a.start();
    lab.a.apply(&config(&lab, 1));
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&config(&lab, 2));
    wait_until("b to hear a", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 3.0
    });
    lab.b.state_becomes(Backup);
    lab.answered_by("a");
    // The other way round too: who follows hears who has the same address.
    assert!(lab.a.end(SIGTERM));
    lab.b.state_becomes(Active);
    lab.a.start();
    lab.a.apply(&config(&lab, 1));
    lab.a.state_becomes(Backup);
    wait_until("a to hear b", || {
        lab.a.metric("krater_vrrp_adverts_received_total") > 3.0
    });
    lab.answered_by("b");
    let recording = capture.end(&lab);
    recording.judge(8);
    let from = |sign: &str| recording.count(&format!("vrrp && eth.src {sign} {}", mac(v6)));
    assert!(from("==") >= 8);
    assert_eq!(from("!="), 0);
}

fn changes() {
    let lab = pair("vmac-changes", false, false);
    lab.answered_by("a");
    lab.a.apply(&config(&lab, 2, 1, true));
    lab.b.apply(&config(&lab, 2, 2, true));
    wait_until("one owner with it", || {
        lab.owners().len() == 1
            && [&lab.a, &lab.b]
                .iter()
                .all(|node| macvlan(node).is_some_and(|l| l.up == node.holds(lab.vip())))
    });
    let owner = lab.owners()[0];
    lab.answered_by(owner);
    // Somebody removes it: it comes back with its addresses.
    let node = if owner == "a" { &lab.a } else { &lab.b };
    let old = macvlan(node).unwrap().index;
    let netlink = NetlinkSocket::open_in(&node.ns).unwrap();
    netlink.delete_link(old).unwrap();
    wait_until("another one", || {
        macvlan(node).is_some_and(|link| link.index != old && link.up)
    });
    lab.answered_by(owner);
    lab.a.apply(&config(&lab, 3, 1, false));
    lab.b.apply(&config(&lab, 3, 2, false));
    wait_until("one owner without", || {
        let none = [&lab.a, &lab.b].iter().all(|node| macvlan(node).is_none());
        lab.owners().len() == 1 && none
    });
    let owner = lab.owners()[0];
    lab.answered_by(owner);
    lab.a.apply(&config(&lab, 4, 1, true));
    let mut gone = config(&lab, 5, 1, true);
    gone["routers"] = json!([]);
    lab.a.apply(&gone);
    assert!(macvlan(&lab.a).is_none());
}

fn killed() {
    let mut lab = pair("vmac-killed", false, true);
    lab.answered_by("a");
    lab.a.end(SIGKILL);
    lab.b.state_becomes(Active);
    wait_until("the guard to remove it", || macvlan(&lab.a).is_none());
    assert_eq!(lab.owners(), ["b"]);
    lab.answered_by("b");
}

/// A hundred addresses of IPv6 do not fit into one frame.
fn long() {
    let mut lab = Lab::new("vmac-long", true);
    let config = |lab: &Lab, host: u8| {
        let mut config = group_config(lab, host, true);
        let all = (0x100..0x164).map(|n| format!("2001:db8::{n:x}/128"));
        config["routers"][0]["addresses"] = json!(all.collect::<Vec<String>>());
        config
    };
    lab.a.start();
    lab.a.apply(&config(&lab, 1));
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&config(&lab, 2));
    wait_until("b to hear a", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 10.0
    });
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    assert_eq!(lab.a.metric("krater_vrrp_send_errors_total"), 0.0);
    assert_eq!(lab.a.tagged().len(), 100);
    lab.answered_by("a");
}
