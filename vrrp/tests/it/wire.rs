//! What an Active sends and a Backup does not, frame by frame, in each form.

use crate::Test;
use crate::capture::Capture;
use crate::lab::{Lab, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[("adverts_on_the_wire", || {
    for version in [2, 3] {
        for multicast in [false, true] {
            frames(version, false, multicast);
        }
    }
    frames(3, true, false);
    frames(3, true, true);
})];

fn frames(version: u8, v6: bool, multicast: bool) {
    let name = format!("wire-{version}-{v6}-{multicast}");
    let mut lab = Lab::new(&name, v6);
    let capture = Capture::start(&lab);
    let config = |host: u8| {
        // The owner does not wait for Active_Down_Interval.
        let mut config = lab.config(1, host, if host == 1 { 255 } else { 90 });
        let router = &mut config["routers"][0];
        router["version"] = json!(version);
        router["advert_interval"] = json!(if version == 2 { 100 } else { 10 });
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        router["track_dataplane"] = json!(false);
        if multicast {
            router["multicast"] = json!(true);
            router["peers"] = json!([]);
            if v6 {
                router["source"] = json!(format!("fe80::{host}"));
            }
        }
        config
    };
    let (first, second) = (config(1), config(2));
    lab.a.start();
    lab.a.apply(&first);
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&second);
    lab.b.state_becomes(Backup);
    wait_until("adverts", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 2.0
    });
    lab.answered_by("a");
    assert_eq!(lab.b.status().routers[0].transitions, 0);

    let recording = capture.end(&lab);
    let (a, b, vip) = (lab.a.mac(), lab.b.mac(), lab.vip());
    let ip = match (v6, multicast) {
        (false, false) => "ip.src == 192.0.2.1 && ip.dst == 192.0.2.2",
        (false, true) => "ip.src == 192.0.2.1 && ip.dst == 224.0.0.18",
        (true, false) => "ipv6.src == 2001:db8::1 && ipv6.dst == 2001:db8::2",
        (true, true) => "ipv6.src == fe80::1 && ipv6.dst == ff02::12",
    };
    let header = if v6 {
        "ipv6.hlim == 255 && ipv6.nxt == 112 && ipv6.tclass.dscp == 48"
    } else {
        "ip.ttl == 255 && ip.proto == 112 && ip.dsfield.dscp == 48"
    };
    let message = format!(
        "vrrp.version == {version} && vrrp.type == 1 && vrrp.virt_rtr_id == 1 && \
         vrrp.prio == 255 && vrrp.addr_count == 1 && vrrp.{}_addr == {vip} && {}",
        if v6 { "ipv6" } else { "ip" },
        if version == 2 {
            "vrrp.auth_type == 0 && vrrp.adver_int == 1"
        } else {
            "vrrp.reserved_mbz == 0 && vrrp.short_adver_int == 10"
        }
    );
    // Not those that are quoted by who has no router yet.
    let advert = "vrrp && !icmp && !icmpv6";
    let adverts = recording.count(advert);
    assert!(adverts > 2, "{name}: {adverts}");
    for part in [ip, header, &message, &format!("eth.src == {a}")] {
        let filter = format!("{advert} && {part}");
        assert_eq!(recording.count(&filter), adverts, "{name}: {part}");
    }
    let answers = |mac| {
        recording.count(&if v6 {
            format!(
                "eth.src == {mac} && icmpv6.type == 136 && icmpv6.nd.na.flag.s == 1 && \
                 icmpv6.nd.na.target_address == {vip}"
            )
        } else {
            format!("eth.src == {mac} && arp.opcode == 2 && arp.src.proto_ipv4 == {vip}")
        })
    };
    assert!(answers(a) > 0, "{name}: the Active does not answer");
    assert_eq!(answers(b), 0, "{name}: the Backup answers");
}
