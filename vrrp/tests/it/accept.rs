//! Accept_Mode (RFC 9568 section 6.1): an Active that does not accept is found by ARP and neighbour
//! discovery, and takes no packet to the address.

use crate::Test;
use crate::capture::Capture;
use crate::lab::{Lab, add_address, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    ("without_accept_mode_ipv4_packets_are_dropped", || {
        closed("accept4", false);
    }),
    ("without_accept_mode_ipv6_packets_are_dropped", || {
        closed("accept6", true);
    }),
    ("an_owner_accepts_always", owner),
];

fn closed(name: &str, v6: bool) {
    let mut lab = Lab::new(name, v6);
    let config = |generation, host: u8, accept: bool| -> Value {
        let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
        let router = &mut config["routers"][0];
        router["checksum"] = json!("pseudo_header");
        router["track_dataplane"] = json!(false);
        router["accept"] = json!(accept);
        config
    };
    let documents: Vec<Value> = [false, true, false]
        .into_iter()
        .zip(1..)
        .map(|(accept, generation)| config(generation, 1, accept))
        .collect();
    let backup = config(1, 2, false);
    let own = |host| {
        if v6 {
            format!("2001:db8::{host}")
        } else {
            format!("192.0.2.{host}")
        }
    };
    let silent = |lab: &Lab, what: &str| {
        // Each time it has to ask who has the address.
        let netlink = NetlinkSocket::open_in(&lab.client).unwrap();
        let link = netlink.link_by_name("eth1").unwrap().unwrap().index;
        netlink.delete_neighbour(link, lab.vip()).unwrap();
        for _ in 0..4 {
            assert_eq!(lab.who_answers(lab.vip()), None, "{what}");
        }
    };

    let capture = Capture::start(&lab);
    lab.a.start();
    lab.a.apply(&documents[0]);
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&backup);
    lab.b.state_becomes(Backup);
    assert_eq!(lab.owners(), ["a"]);
    silent(&lab, "it does not accept");
    // Its own address is another matter, and so are its peers' adverts.
    lab.answered_at(own(1).parse().unwrap(), "a");
    wait_until("adverts", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 5.0
    });
    assert_eq!(lab.b.status().routers[0].transitions, 0);

    // The control: the same client is answered as soon as it accepts, without a transition; and back.
    lab.a.apply(&documents[1]);
    lab.answered_by("a");
    lab.a.apply(&documents[2]);
    silent(&lab, "it does not accept any more");
    assert_eq!(lab.a.status().routers[0].transitions, 1);

    // After a takeover the other one does not accept either.
    assert!(lab.a.end(SIGTERM));
    lab.b.state_becomes(Active);
    silent(&lab, "b does not accept");

    // What is left of a killed one does not refuse what others do with the address.
    lab.b.end(SIGKILL);
    wait_until("the guard to remove the VIP", || lab.owners().is_empty());
    let netlink = NetlinkSocket::open_in(&lab.b.ns).unwrap();
    let link = netlink.link_by_name("eth1").unwrap().unwrap().index;
    let net = format!("{}/{}", lab.vip(), if v6 { 128 } else { 32 });
    add_address(&netlink, link, &net);
    lab.answered_by("b");

    // Who asked for the link-layer address was told, by each of them.
    let (a, b) = (lab.a.mac(), lab.b.mac());
    let vip = lab.vip();
    let recording = capture.end(&lab);
    recording.judge(10);
    for mac in [a, b] {
        let told = if v6 {
            format!(
                "icmpv6.type == 136 && icmpv6.nd.na.flag.s == 1 && \
                 icmpv6.nd.na.target_address == {vip} && eth.src == {mac}"
            )
        } else {
            format!("arp.opcode == 2 && arp.src.proto_ipv4 == {vip} && eth.src == {mac}")
        };
        assert!(
            recording.count(&told) > 0,
            "{mac} does not answer for {vip}"
        );
    }
}

/// It would have no effect: refused, and nothing changes.
fn owner() {
    let mut lab = Lab::new("accept-owner", false);
    lab.a.start();
    let mut config = lab.config(1, 1, 255);
    config["routers"][0]["accept"] = json!(false);
    let (status, body) = lab.a.request("PUT", "/config", &config.to_string());
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("accept") && body.contains("owner"), "{body}");
    assert!(lab.a.status().routers.is_empty());
}
