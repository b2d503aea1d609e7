//! Sync groups: two networks, a virtual router on each, which move as one.

use crate::Test;
use crate::lab::{Lab, Node, add_address, wait_for, wait_until};
use krater_model::control::RouterState::{self, Active, Backup, Fault};
use krater_net::link::{LinkChange, VethSpec};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::os::fd::AsFd;

pub(crate) const TESTS: &[Test] = &[
    ("a_sync_group_moves_as_one", group),
    ("without_a_sync_group_each_moves_alone", control),
];

/// Gives the nodes `eth2` on a second bridge; the bridge's ports are `q1` and `q2`.
fn second_network(lab: &Lab) {
    let switch = NetlinkSocket::open_in(&lab.switch).unwrap();
    switch.create_bridge("br1", None, None).unwrap();
    let bridge = switch.link_by_name("br1").unwrap().unwrap().index;
    for (host, node) in [(1, &lab.a), (2, &lab.b)] {
        let port = VethSpec {
            name: &format!("q{host}"),
            mac: None,
            master: Some(bridge),
            mtu: None,
            up: true,
            peer: "eth2",
            peer_mac: None,
            peer_netns: Some(node.ns.as_fd()),
        };
        switch.create_veth(&port).unwrap();
        let netlink = NetlinkSocket::open_in(&node.ns).unwrap();
        let link = netlink.link_by_name("eth2").unwrap().unwrap().index;
        add_address(&netlink, link, &format!("198.51.100.{host}/24"));
        netlink.set_up(link, true).unwrap();
        wait_until("a carrier", || {
            netlink.link_by_name("eth2").unwrap().unwrap().carrier
        });
    }
}

fn port(lab: &Lab, name: &str, change: impl Fn(&NetlinkSocket, u32)) {
    let switch = NetlinkSocket::open_in(&lab.switch).unwrap();
    let index = switch.link_by_name(name).unwrap().unwrap().index;
    change(&switch, index);
}

/// With or without a carrier for who is behind the port.
fn carrier(lab: &Lab, name: &str, up: bool) {
    port(lab, name, |switch, index| switch.set_up(index, up).unwrap());
}

/// Frames are lost, and nobody sees it.
fn connect(lab: &Lab, name: &str, connected: bool) {
    port(lab, name, |switch, index| {
        let bridge = switch.link_by_name("br1").unwrap().unwrap().index;
        let change = LinkChange {
            master: Some(connected.then_some(bridge)),
            ..Default::default()
        };
        switch.set_link(index, &change).unwrap();
    });
}

fn config(lab: &Lab, generation: u64, host: u8, grouped: bool) -> Value {
    let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
    let mut second = config["routers"][0].clone();
    second["vrid"] = json!(2);
    second["interface"] = json!("eth2");
    second["source"] = json!(format!("198.51.100.{host}"));
    second["peers"] = json!([format!("198.51.100.{}", 3 - host)]);
    second["addresses"] = json!(["198.51.100.100/32"]);
    config["routers"].as_array_mut().unwrap().push(second);
    for router in config["routers"].as_array_mut().unwrap() {
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        router["track_dataplane"] = json!(false);
        if grouped {
            router["sync_group"] = json!("both");
        }
    }
    config
}

fn vips() -> [IpAddr; 2] {
    ["192.0.2.100", "198.51.100.100"].map(|vip| vip.parse().unwrap())
}

fn states(node: &Node) -> Vec<RouterState> {
    let mut routers = node.status().routers;
    routers.sort_by_key(|router| router.vrid);
    routers.iter().map(|router| router.state).collect()
}

fn transitions(node: &Node) -> u64 {
    let routers = node.status().routers;
    routers.iter().map(|router| router.transitions).sum()
}

/// Waits until `node` is so in both, and holds what it then must.
fn both(node: &Node, state: RouterState) {
    wait_until(&format!("{} to be {state:?} in both", node.name), || {
        states(node) == [state; 2]
            && vips()
                .iter()
                .all(|vip| node.holds(*vip) == (state == Active))
    });
}

fn pair(name: &str, grouped: bool) -> Lab {
    let mut lab = Lab::new(name, false);
    second_network(&lab);
    lab.a.start();
    lab.a.apply(&config(&lab, 1, 1, grouped));
    both(&lab.a, Active);
    lab.b.start();
    lab.b.apply(&config(&lab, 1, 2, grouped));
    both(&lab.b, Backup);
    hear(&lab.b);
    lab
}

/// Waits until `node` hears the other one in both.
fn hear(node: &Node) {
    let heard = |interface| {
        node.metric(&format!(
            "krater_vrrp_adverts_received_total{{interface=\"{interface}\""
        ))
    };
    let (first, second) = (heard("eth1"), heard("eth2"));
    wait_until("adverts of both", || {
        heard("eth1") > first && heard("eth2") > second
    });
}

fn group() {
    let mut lab = pair("group", true);

    // One interface loses its carrier: both are given up, and b has both.
    carrier(&lab, "q1", false);
    both(&lab.b, Active);
    both(&lab.a, Fault);
    let routers = lab.a.status().routers;
    let reason = |vrid: u64| {
        let one = routers.iter().find(|r| u64::from(r.vrid.value()) == vrid);
        one.unwrap().reason.clone()
    };
    assert!(
        reason(1).contains("another router of the sync group"),
        "{}",
        reason(1)
    );
    assert!(reason(2).contains("carrier"), "{}", reason(2));
    // a could resign on one network only; b does not wait for the silence of the other one.
    for router in lab.b.status().routers {
        assert!(router.reason.contains("resigned"), "{}", router.reason);
    }
    lab.answered_by("b");
    carrier(&lab, "q1", true);
    both(&lab.a, Backup);
    hear(&lab.a);

    // A handover of one is one of both.
    let (status, body) = lab
        .b
        .request("POST", "/handover", "{\"vrid\":2,\"hold\":0}");
    assert_eq!(status, 200, "{body}");
    both(&lab.a, Active);
    both(&lab.b, Backup);
    hear(&lab.b);

    // One network is cut without a sign: a is alive on the other one and keeps both, without a flap.
    let before = (transitions(&lab.a), transitions(&lab.b));
    connect(&lab, "q2", false);
    let heard = || {
        lab.b
            .metric("krater_vrrp_adverts_received_total{interface=\"eth1\"")
    };
    let first = heard();
    wait_until("thirty adverts", || heard() > first + 30.0);
    assert_eq!((transitions(&lab.a), transitions(&lab.b)), before);
    assert_eq!(states(&lab.b), [Backup; 2]);

    // Both are cut, and both sides have both; then one is mended, and b loses both.
    lab.connect(2, false);
    both(&lab.b, Active);
    lab.connect(2, true);
    both(&lab.b, Backup);
    both(&lab.a, Active);
    connect(&lab, "q2", true);
    hear(&lab.b);

    lab.a.end(SIGKILL);
    both(&lab.b, Active);
    wait_until("a's guard", || lab.a.tagged().is_empty());
}

/// The negative control: the same faults without a group.
fn control() {
    let lab = pair("alone", false);
    carrier(&lab, "q1", false);
    wait_until("the second to move alone", || {
        states(&lab.a) == [Active, Fault] && states(&lab.b) == [Backup, Active]
    });
    carrier(&lab, "q1", true);
    wait_until("it to follow", || states(&lab.a) == [Active, Backup]);
    // As a group from now on: whoever follows in one gives up the other, and one has both.
    lab.a.apply(&config(&lab, 2, 1, true));
    lab.b.apply(&config(&lab, 2, 2, true));
    let of_both = |state| {
        let nodes = [&lab.a, &lab.b].into_iter();
        let mut so = nodes.filter(move |node| states(node) == [state; 2]);
        so.next()
    };
    let owner = wait_for("one to have both", || of_both(Active));
    let other = wait_for("the other to follow in both", || of_both(Backup));
    hear(other);
    // And apart again.
    lab.a.apply(&config(&lab, 3, 1, false));
    lab.b.apply(&config(&lab, 3, 2, false));
    let (status, body) = owner.request("POST", "/handover", "{\"vrid\":2,\"hold\":0}");
    assert_eq!(status, 200, "{body}");
    assert_eq!(states(owner), [Active, Backup], "{body}");
    assert_eq!(states(other), [Backup, Active], "{body}");
}
