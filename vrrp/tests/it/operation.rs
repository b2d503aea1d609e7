//! Control socket, configuration changes, identity, what follows the VIP, hostile packets.

use crate::Test;
use crate::lab::{Lab, add_address, wait_for, wait_until};
use krater_model::control::Refusal;
use krater_model::control::RouterState::{Active, Backup};
use krater_net::PROTO_VRRP;
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::json;
use std::net::IpAddr;

pub(crate) const TESTS: &[Test] = &[
    ("control_socket_answers", control_socket),
    (
        "configuration_changes_without_a_transition",
        configuration_changes,
    ),
    ("identity_and_size", identity),
    ("routes_and_rules_follow", routes_and_rules),
    ("an_ipv6_vip_is_no_source_address", ipv6_source),
    ("a_removed_address_is_restored", restored),
    ("a_killed_guard_is_replaced", guard_replaced),
    ("hostile_packets_are_counted", hostile_packets),
    ("a_second_vrrp_is_refused", second_refused),
    ("addresses_of_one_network_go_each_by_itself", one_network),
];

fn control_socket() {
    let mut lab = Lab::new("control", false);
    lab.a.start();
    let get = |path| lab.a.request("GET", path, "").0;
    assert_eq!(get("/healthz"), 200);
    assert_eq!(get("/readyz"), 503);
    assert_eq!(get("/nothing"), 404);
    assert_eq!(lab.a.request("DELETE", "/status", "").0, 405);
    assert_eq!(lab.a.status().revision, None);

    let config = lab.config(5, 1, 100);
    let put = |body: &serde_json::Value| {
        let (status, body) = lab.a.request("PUT", "/config", &body.to_string());
        (status, body)
    };
    assert_eq!(put(&config).0, 200);
    assert_eq!(get("/readyz"), 200);
    let (status, body) = put(&config);
    assert_eq!((status, body.contains("\"changed\":false")), (200, true));
    assert_eq!(put(&lab.config(4, 1, 100)).0, 409);
    assert_eq!(put(&lab.config(5, 1, 101)).0, 409);

    let field = |(status, body): (u16, String)| {
        let refusal: Refusal = serde_json::from_str(&body).unwrap();
        (status, refusal.field)
    };
    let mut wrong = lab.config(6, 1, 100);
    wrong["routers"][0]["priority"] = json!(256);
    assert_eq!(field(put(&wrong)), (400, "routers[0].priority".into()));
    wrong = lab.config(6, 1, 100);
    wrong["routers"][0]["peers"] = json!(["192.0.2.1"]);
    assert_eq!(field(put(&wrong)), (400, "routers[0].peers[0]".into()));
    wrong = lab.config(6, 1, 100);
    wrong["unknown"] = json!(1);
    assert_eq!(put(&wrong).0, 400);
    assert_eq!(lab.a.request("PUT", "/config", "{\"schema\":").0, 400);
    // Nothing of all that took effect.
    let text = lab.a.status().revision.unwrap().to_string();
    assert_eq!(text, "1.5");

    let level = |text: &str| lab.a.request("PUT", "/log-level", text).0;
    assert_eq!(level("{\"level\":\"debug\"}"), 204);
    assert_eq!(level("{\"level\":\"loud\"}"), 400);
    assert_eq!(lab.a.metric("krater_vrrp_build_info"), 1.0);
}

fn configuration_changes() {
    let lab = Lab::pair("change", false);
    let second: IpAddr = "192.0.2.101".parse().unwrap();
    let mut config = lab.config(2, 1, 80);
    config["routers"][0]["addresses"] = json!(["192.0.2.100/32", "192.0.2.101/32"]);
    config["routers"][0]["advert_interval"] = json!(5);
    lab.a.apply(&config);
    wait_until("the new address", || lab.a.holds(second));
    assert!(lab.a.holds(lab.vip()));
    config = lab.config(3, 1, 80);
    config["routers"][0]["addresses"] = json!(["192.0.2.101/32"]);
    lab.a.apply(&config);
    wait_until("the old address to go", || !lab.a.holds(lab.vip()));
    assert!(lab.a.holds(second));
    // The lower priority did not make b take over, and nothing went through another state.
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    assert_eq!(lab.b.status().routers[0].state, Backup);
    // A removed router resigns.
    config = lab.config(4, 1, 80);
    config["routers"] = json!([]);
    lab.a.apply(&config);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    assert!(lab.a.tagged().is_empty());
    assert!(lab.a.status().routers.is_empty());
}

fn identity() {
    let lab = Lab::pair("identity", false);
    let field = |pid: u32, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let pid = lab.a.pid();
    assert_eq!(
        field(pid, "Uid:"),
        krater_model::config::VRRP_UID.to_string()
    );
    assert_eq!(
        field(pid, "Gid:"),
        krater_model::config::VRRP_UID.to_string()
    );
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        // CAP_NET_ADMIN and CAP_NET_RAW.
        assert_eq!(field(pid, set), "0000000000003000", "{set}");
    }
    assert_eq!(field(pid, "NoNewPrivs:"), "1");
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap();
        assert!(text.contains("CapEff:\t0000000000003000"), "{text}");
    }
    let guard = lab.a.guard();
    assert_eq!(field(guard, "Uid:"), "0");
    // Bounds for this unoptimised program, after start-up's pages were given back; what is measured
    // against the product's budget is the release binary.
    for (name, pid, resident, anonymous) in
        [("vrrp", pid, 8_000, 2_000), ("guard", guard, 5_000, 1_500)]
    {
        let kilobytes = |set| field(pid, set).parse::<u32>().unwrap();
        wait_until(&format!("{name} to be small"), || {
            kilobytes("VmRSS:") < resident && kilobytes("RssAnon:") < anonymous
        });
        println!("{name}: {} kB resident", kilobytes("VmRSS:"));
    }
}

fn routes_and_rules() {
    let lab = Lab::new("routes", false);
    let mut lab = lab;
    lab.a.start();
    let mut config = lab.config(1, 1, 100);
    config["routers"][0]["peers"] = json!([]);
    config["routers"][0]["routes"] = json!([
        {"to": "192.0.2.0/24", "table": 1, "source": "192.0.2.100"},
        {"to": "0.0.0.0/0", "via": "192.0.2.254", "table": 1, "onlink": true},
    ]);
    config["routers"][0]["rules"] =
        json!([{"from": "192.0.2.100/32", "table": 1, "priority": 100}]);
    lab.a.apply(&config);
    lab.a.state_becomes(Active);
    let netlink = NetlinkSocket::open_in(&lab.a.ns).unwrap();
    let ours = || {
        let routes = netlink.routes().unwrap();
        let rules = netlink.rules().unwrap();
        (
            routes
                .iter()
                .filter(|r| r.protocol == PROTO_VRRP && r.table == 1)
                .count(),
            rules
                .iter()
                .filter(|r| r.protocol == PROTO_VRRP && r.table == 1)
                .count(),
        )
    };
    wait_until("routes and rule", || ours() == (2, 1));
    lab.a.dataplane.as_ref().unwrap().freeze(true);
    wait_until("them to go with the VIP", || ours() == (0, 0));
    assert!(lab.owners().is_empty());
    lab.a.dataplane.as_ref().unwrap().freeze(false);
    wait_until("them to come back", || ours() == (2, 1));
    lab.a.end(SIGKILL);
    wait_until("the guard to remove them", || {
        ours() == (0, 0) && lab.owners().is_empty()
    });
}

/// Connections of the amphora's own, such as to members, must not come from the VIP.
fn ipv6_source() {
    let lab = Lab::pair("source", true);
    assert_eq!(lab.owners(), ["a"]);
    let any = "[::]:0".parse().unwrap();
    let socket = lab.a.ns.udp_socket(any).unwrap();
    // By the longest matching prefix alone it would be the VIP, 2001:db8::100.
    socket.connect("[2001:db8::101]:9").unwrap();
    assert_eq!(socket.local_addr().unwrap().ip().to_string(), "2001:db8::1");
    // What was received at the VIP is still answered from there: that is how the client sees it.
    lab.answered_by("a");
}

fn restored() {
    let lab = Lab::pair("restored", false);
    let netlink = NetlinkSocket::open_in(&lab.a.ns).unwrap();
    let vip = lab.a.tagged().into_iter().next().unwrap();
    netlink.delete_address(&vip).unwrap();
    wait_until("the address to return", || lab.a.holds(lab.vip()));
    wait_until("the repair to be counted", || {
        lab.a.metric("krater_vrrp_addresses_restored_total") == 1.0
    });
    assert_eq!(lab.a.status().routers[0].transitions, 1);
}

fn guard_replaced() {
    let mut lab = Lab::pair("guard", false);
    let first = lab.a.guard();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(pid, SIGKILL).unwrap();
    wait_for("another guard", || (lab.a.guard() != first).then_some(()));
    assert_eq!(lab.owners(), ["a"]);
    // The second one guards as well as the first. It must have read the will; that it removes the
    // address is enough here.
    lab.a.end(SIGKILL);
    wait_until("the new guard to remove the VIP", || {
        !lab.a.holds(lab.vip())
    });
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["b"]);
}

fn hostile_packets() {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let lab = Lab::pair("hostile", false);
    let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(112)));
    let socket = lab.client.run(|| raw(Domain::IPV4)).unwrap().unwrap();
    let to: SockAddr = std::net::SocketAddr::from(([192, 0, 2, 1], 0)).into();
    let before = lab.a.metric("krater_vrrp_adverts_sent_total");
    // A resignation and a winning advert with right checksums, but from a stranger and TTL 64.
    let winning = [0x31, 1, 254, 1, 0, 10, 0, 0, 192, 0, 2, 100];
    let mut checked = winning;
    for sum in 0..=u16::MAX {
        checked[6..8].copy_from_slice(&sum.to_be_bytes());
        let packet = krater_vrrp_proto::Packet::new(&checked).unwrap();
        let any = "192.0.2.9".parse().unwrap();
        if packet.checksum_form(any, any) == Some(krater_vrrp_proto::ChecksumForm::Rfc9568) {
            break;
        }
    }
    for length in 0..=winning.len() {
        let _ = socket.send_to(&checked[..length], &to);
    }
    socket.set_ttl_v4(255).unwrap();
    for first in [0x21, 0x41, 0x32, 0x31] {
        let mut bytes = checked;
        bytes[0] = first;
        socket.send_to(&bytes, &to).unwrap();
    }
    let mut bytes = checked;
    bytes[1] = 77;
    socket.send_to(&bytes, &to).unwrap();
    // A burst that the queue cannot hold.
    for _ in 0..20_000 {
        let _ = socket.send_to(&checked, &to);
    }
    let dropped = |reason: &str| {
        lab.a.metric(&format!(
            "krater_vrrp_packets_dropped_total{{reason=\"{reason}\"}}"
        ))
    };
    wait_until("every kind of packet to be counted", || {
        [
            "short",
            "version",
            "type",
            "vrid",
            "other-version",
            "length",
            "hop-limit",
            "peer",
        ]
        .iter()
        .all(|reason| dropped(reason) > 0.0)
    });
    wait_until("adverts to go on", || {
        lab.a.metric("krater_vrrp_adverts_sent_total") > before + 20.0
    });
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    assert_eq!(lab.owners(), ["a"]);
}

fn second_refused() {
    let mut lab = Lab::pair("second", false);
    let first = lab.a.pid();
    let child = std::process::Command::new("/proc/self/exe")
        .arg("vrrp")
        .args([&lab.dir.join("a"), &lab.a.control, &lab.a.track])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("another vrrp serves here"), "{text}");
    assert_eq!(lab.a.status().pid, first);
    assert_eq!(lab.owners(), ["a"]);
    assert!(lab.a.end(SIGTERM));
}

/// Secondary addresses of IPv4, which the kernel removes with the first one of their network unless told otherwise.
fn one_network() {
    let mut lab = Lab::new("network", false);
    lab.a.start_untracked();
    let own: IpAddr = "198.51.100.1".parse().unwrap();
    let vips = ["198.51.100.100", "198.51.100.101"].map(|vip| vip.parse::<IpAddr>().unwrap());
    let config = |generation, vips: &[IpAddr]| {
        let mut config = lab.config(generation, 1, 100);
        let router = &mut config["routers"][0];
        router["track_dataplane"] = json!(false);
        router["peers"] = json!([]);
        let vips = vips.iter().map(|vip| format!("{vip}/24"));
        router["addresses"] = json!(vips.collect::<Vec<String>>());
        config
    };
    let (both, one) = (config(1, &vips), config(2, &vips[1..]));
    lab.a.apply(&both);
    lab.a.state_becomes(Active);
    // The host's own comes last, as one that a DHCP client renews.
    let netlink = NetlinkSocket::open_in(&lab.a.ns).unwrap();
    let link = netlink.link_by_name("eth1").unwrap().unwrap().index;
    add_address(&netlink, link, "198.51.100.1/24");
    lab.a.apply(&one);
    assert!(lab.a.holds(vips[1]) && !lab.a.holds(vips[0]));
    assert!(lab.a.end(SIGTERM));
    assert!(lab.a.tagged().is_empty());
    let all = netlink.addresses().unwrap();
    assert!(all.iter().any(|a| a.net.addr() == own), "{all:?}");
}
