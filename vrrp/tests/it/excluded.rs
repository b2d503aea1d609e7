//! Addresses of either family that follow the VIP and are not advertised (keepalived's
//! `virtual_ipaddress_excluded`).

use crate::Test;
use crate::capture::{Capture, Recording};
use crate::lab::{Lab, Node, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(crate) const TESTS: &[Test] = &[
    ("excluded_ipv6_address_follows_an_ipv4_vip", || {
        excluded("excluded4", false);
    }),
    ("excluded_ipv4_address_follows_an_ipv6_vip", || {
        excluded("excluded6", true);
    }),
];

fn excluded(name: &str, v6: bool) {
    let mut lab = Lab::new(name, v6);
    let other: IpAddr = if v6 { "192.0.2.101" } else { "2001:db8::101" }
        .parse()
        .unwrap();
    let bits = if v6 { 32 } else { 128 };
    // And one of the advertised family.
    let same = if v6 {
        "2001:db8::102/128"
    } else {
        "192.0.2.102/32"
    };
    let third: IpAddr = same.split('/').next().unwrap().parse().unwrap();
    let config = |generation, host: u8, excluded: bool| -> Value {
        let mut config = lab.config(generation, host, if host == 1 { 100 } else { 90 });
        let router = &mut config["routers"][0];
        // The form that tshark checks by default.
        router["checksum"] = json!("pseudo_header");
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        router["track_dataplane"] = json!(false);
        if excluded {
            router["excluded_addresses"] = json!([format!("{other}/{bits}"), same]);
        }
        config
    };
    let (first, second) = (config(1, 1, true), config(1, 2, true));
    let (without, again) = (config(2, 2, false), config(3, 2, true));
    let both = |lab: &Lab, node: &Node| {
        let held = (
            node.holds(lab.vip()),
            node.holds(other) && node.holds(third),
        );
        assert!(node.tagged().len() <= 3, "{:?}", node.tagged());
        held
    };

    let capture = Capture::start(&lab);
    lab.a.start();
    lab.a.apply(&first);
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&second);
    lab.b.state_becomes(Backup);
    assert_eq!(both(&lab, &lab.a), (true, true));
    assert_eq!(both(&lab, &lab.b), (false, false));
    wait_until("adverts", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 5.0
    });
    lab.answered_at(other, "a");

    // It goes and comes with the VIP.
    assert!(lab.a.end(SIGTERM));
    lab.b.state_becomes(Active);
    assert_eq!(both(&lab, &lab.a), (false, false));
    assert_eq!(both(&lab, &lab.b), (true, true));
    lab.answered_at(other, "b");

    // Configured away and back again without a transition.
    lab.b.apply(&without);
    wait_until("it alone to go", || both(&lab, &lab.b) == (true, false));
    lab.b.apply(&again);
    wait_until("it to come back", || both(&lab, &lab.b) == (true, true));
    assert_eq!(lab.b.status().routers[0].transitions, 1);

    lab.b.end(SIGKILL);
    wait_until("the guard to remove both", || {
        both(&lab, &lab.b) == (false, false)
    });

    let recording = capture.end(&lab);
    recording.judge(10);
    let adverts = recording.count("vrrp");
    let holds = |address| recording.count(&format!("vrrp contains {}", bytes(address)));
    assert_eq!(holds(lab.vip()), adverts);
    assert_eq!((holds(other), holds(third)), (0, 0), "they are advertised");
    assert_eq!(recording.count("vrrp.addr_count == 1"), adverts);
    for node in [&lab.a, &lab.b] {
        for address in [lab.vip(), other, third] {
            let text = format!("{} does not announce {address}", node.name);
            assert!(announcements(&recording, node, address) > 0, "{text}");
        }
    }
    // The judge itself: what nobody holds, nobody announces.
    let nobody = "192.0.2.77".parse().unwrap();
    assert_eq!(announcements(&recording, &lab.a, nobody), 0);
}

/// As tshark wants them.
fn bytes(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let texts: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    texts.join(":")
}

/// How often `node` said that `address` is at its link-layer address.
fn announcements(recording: &Recording, node: &Node, address: IpAddr) -> usize {
    let mac = node.mac();
    let said = if address.is_ipv4() {
        format!("arp.isgratuitous && arp.src.hw_mac == {mac} && arp.src.proto_ipv4 == {address}")
    } else {
        format!(
            "icmpv6.type == 136 && icmpv6.nd.na.flag.o == 1 && \
             icmpv6.opt.linkaddr == {mac} && icmpv6.nd.na.target_address == {address}"
        )
    };
    recording.count(&format!("eth.src == {mac} && {said}"))
}
