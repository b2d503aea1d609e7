//! Who holds the VIP, and how it moves.

use crate::Test;
use crate::lab::{Lab, wait_for, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

pub(crate) const TESTS: &[Test] = &[
    ("one_active_of_two", one_active_of_two),
    ("killed_active_is_replaced_ipv4", || {
        killed_active_is_replaced("kill4", false)
    }),
    ("killed_active_is_replaced_ipv6", || {
        killed_active_is_replaced("kill6", true)
    }),
    ("a_changed_will_is_told_again", changed_will),
    ("newcomer_does_not_take_over", newcomer),
    ("sigterm_hands_over", sigterm_hands_over),
    ("handover_makes_before_it_breaks", handover),
    ("a_handover_to_nobody_is_refused", handover_refused),
    ("both_killed_leaves_nothing_for_the_next", both_killed),
    ("partition_and_heal", partition_and_heal),
    ("lost_carrier_gives_up", lost_carrier),
    ("tracked_interface_without_weight_is_a_fault", tracked_fault),
    (
        "tracked_interface_with_weight_moves_the_vip",
        tracked_weight,
    ),
    ("outages_are_reported", outages),
];

fn one_active_of_two() {
    for v6 in [false, true] {
        let lab = Lab::pair("one", v6);
        lab.answered_by("a");
        assert_eq!(lab.owners(), ["a"]);
        assert_eq!(lab.b.status().routers[0].state, Backup);
        // The client learned a's address, and nobody else claims it over twenty intervals.
        let before = lab.b.metric("krater_vrrp_adverts_received_total");
        wait_until("twenty adverts", || {
            assert_eq!(lab.owners(), ["a"]);
            lab.b.metric("krater_vrrp_adverts_received_total") > before + 20.0
        });
        assert_eq!(lab.a.status().routers[0].transitions, 1);
        assert_eq!(lab.b.status().routers[0].transitions, 0);
    }
}

/// A replacement with the better priority joins an Active that has asked for its link-layer address in
/// vain: it must hear the Active in time, whatever that one's neighbour cache waits for.
fn newcomer() {
    for v6 in [false, true] {
        let mut lab = Lab::new("newcomer", v6);
        lab.a.start();
        lab.b.start();
        lab.connect(2, false);
        lab.a.apply(&lab.config(1, 1, 90));
        lab.a.state_becomes(Active);
        wait_until("a to look for b", || {
            lab.a.metric("krater_vrrp_adverts_sent_total") > 3.0
        });
        lab.connect(2, true);
        lab.b.apply(&lab.config(1, 2, 100));
        wait_until("b to hear ten adverts", || {
            lab.b.metric("krater_vrrp_adverts_received_total") > 10.0
        });
        assert_eq!(lab.b.status().routers[0].state, Backup);
        assert_eq!(lab.b.status().routers[0].transitions, 0, "ipv6: {v6}");
        assert_eq!(lab.a.status().routers[0].transitions, 1, "ipv6: {v6}");
    }
}

fn killed_active_is_replaced(name: &str, v6: bool) {
    let mut lab = Lab::pair(name, v6);
    lab.answered_by("a");
    lab.a.end(SIGKILL);
    // The guard spoke for it.
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    wait_until("the guard to remove the VIP", || lab.owners() == ["b"]);
    lab.answered_by("b");
    // The first one comes back and does not take it away: no preemption.
    lab.a.start();
    lab.a.apply(&lab.config(1, 1, 100));
    lab.a.state_becomes(Backup);
    lab.a.grows("krater_vrrp_adverts_received_total", 20.0);
    assert_eq!(lab.owners(), ["b"]);
    assert_eq!(lab.b.status().routers[0].transitions, 1);
}

/// The password changes while a is Active; its guard must resign with the new one. Adverts are 40 s apart,
/// so that b cannot take over from silence meanwhile.
fn changed_will() {
    let mut lab = Lab::new("will", false);
    let config = |generation, host: u8, password: &str| {
        let mut config = lab.config(generation, host, if host == 1 { 255 } else { 90 });
        config["routers"][0]["version"] = 2.into();
        config["routers"][0]["advert_interval"] = 4_000.into();
        config["routers"][0]["password"] = password.into();
        config["routers"][0]["track_dataplane"] = false.into();
        config
    };
    let (first, second) = (config(1, 1, "before"), config(2, 1, "after"));
    let other = config(1, 2, "after");
    lab.a.start();
    lab.a.apply(&first);
    lab.a.state_becomes(Active);
    lab.b.start();
    lab.b.apply(&other);
    lab.b.state_becomes(Backup);
    lab.a.apply(&second);
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    lab.a.end(SIGKILL);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("192.0.2.1 resigned"), "{reason}");
    wait_until("b alone to hold it", || lab.owners() == ["b"]);
}

fn sigterm_hands_over() {
    let mut lab = Lab::pair("term", false);
    let guard = lab.a.guard();
    assert!(lab.a.end(SIGTERM), "a clean end");
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("192.0.2.1 resigned"), "{reason}");
    assert_eq!(lab.owners(), ["b"]);
    lab.answered_by("b");
    wait_until("the guard to end", || {
        !std::path::Path::new(&format!("/proc/{guard}")).exists()
    });
}

/// The peer holds the VIP before the old one lets go, there and back, and by a stop: at no moment does
/// nobody hold it. How many probes of new flows were lost is reported.
fn handover() {
    for v6 in [false, true] {
        let mut lab = Lab::pair("handover", v6);
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        for (host, node, priority) in [(1, &lab.a, 100), (2, &lab.b, 90)] {
            let mut config = lab.config(2, host, priority);
            config["routers"][0]["track_dataplane"] = false.into();
            node.apply(&config);
        }
        lab.a.state_becomes(Active);
        lab.answered_by("a");
        let prober = lab.prober();
        let watcher = lab.watch_owners();
        let (status, body) = lab.a.request("POST", "/handover", "{\"hold\":0}");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"backup\""), "{body}");
        assert!(lab.a.status().routers[0].reason.contains("handed over to"));
        assert_eq!(lab.owners(), ["b"]);
        lab.answered_by("b");
        // Back, for one router by name.
        let one = "{\"vrid\":1,\"interface\":\"eth1\"}";
        assert_eq!(lab.b.request("POST", "/handover", one).0, 200);
        assert_eq!(lab.owners(), ["a"]);
        lab.answered_by("a");
        assert!(lab.a.end(SIGTERM), "a clean end");
        lab.b.state_becomes(Active);
        lab.answered_by("b");
        assert_eq!(watcher.end(), 0, "moments without an owner");
        println!(
            "ipv6 {v6}: {} ms without an answer in three handovers",
            prober.end().as_millis()
        );
    }
}

fn handover_refused() {
    let mut lab = Lab::pair("refused", false);
    let post = |node: &crate::lab::Node, body: &str| node.request("POST", "/handover", body);
    let (status, body) = post(&lab.b, "{}");
    assert_eq!((status, body.contains("not Active")), (409, true), "{body}");
    assert_eq!(post(&lab.a, "{\"vrid\":9}").0, 409);
    assert_eq!(post(&lab.a, "{\"vrid\":0}").0, 400);
    assert_eq!(post(&lab.a, "{\"vrids\":1}").0, 400);
    assert_eq!(lab.a.request("GET", "/handover", "").0, 405);
    // The peer is sick: nobody takes over, and a goes on.
    lab.b.dataplane.as_ref().unwrap().freeze(true);
    lab.b
        .state_becomes(krater_model::control::RouterState::Fault);
    let watcher = lab.watch_owners();
    let (status, body) = post(&lab.a, "{}");
    assert_eq!((status, body.contains("\"active\"")), (200, true), "{body}");
    lab.answered_by("a");
    assert_eq!(watcher.end(), 0);
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    // All of it is in the event stream, numbered without gaps.
    let events = wait_for("the event", || {
        let (_, body) = lab.a.request("GET", "/events?since=0", "");
        body.contains("no_successor").then_some(body)
    });
    let events: krater_model::control::VrrpEvents = serde_json::from_str(&events).unwrap();
    let numbers: Vec<u64> = events.events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=events.next).collect::<Vec<u64>>());
    assert_eq!(lab.a.request("GET", "/events?from=0", "").0, 400);
    assert_eq!(lab.a.request("GET", "/events?since=x", "").0, 400);
    // A reader that waits gets the next one when it happens.
    let path = format!("/events?since={}&wait_ms=20000", events.next);
    let next = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.a.request("GET", &path, "").1);
        lab.a.dataplane.as_ref().unwrap().freeze(true);
        waiting.join().unwrap()
    });
    assert!(next.contains("data plane makes no progress"), "{next}");
    lab.a.end(SIGKILL);
}

/// vrrp and guard killed together, as when a host dies but its namespace lives on: the address stays
/// (the negative control of the guard), and the next vrrp removes it before it speaks.
fn both_killed() {
    let mut lab = Lab::pair("both", false);
    let guard = nix::unistd::Pid::from_raw(i32::try_from(lab.a.guard()).unwrap());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.a.pid()).unwrap());
    // Stopped first, so that neither acts on the other's death.
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGSTOP).unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    nix::sys::signal::kill(guard, SIGKILL).unwrap();
    lab.a.end(SIGKILL);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("no advertisement"), "{reason}");
    assert_eq!(lab.owners(), ["a", "b"], "without a guard two own it");
    lab.a.start();
    assert_eq!(lab.owners(), ["b"]);
}

/// Both are Active while they cannot hear each other; after the heal one is, and says so again.
fn partition_and_heal() {
    let lab = Lab::pair("split", false);
    lab.connect(2, false);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("no advertisement"), "{reason}");
    assert_eq!(lab.owners(), ["a", "b"]);
    let announced = lab.a.metric("krater_vrrp_announcements_sent_total");
    lab.connect(2, true);
    let reason = lab.b.state_becomes(Backup);
    assert!(reason.contains("192.0.2.1 is Active"), "{reason}");
    assert_eq!(lab.owners(), ["a"]);
    wait_until("a to announce again", || {
        lab.a.metric("krater_vrrp_announcements_sent_total") > announced
    });
    lab.answered_by("a");
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    // How long both were Active within hearing is told once b is quiet; b itself has nothing to tell.
    let events = |node: &crate::lab::Node| node.request("GET", "/events?since=0", "").1;
    wait_until("the end of the split to be told", || {
        events(&lab.a).contains("\"rival_gone\"")
    });
    assert!(lab.a.metric("krater_vrrp_rival_seconds_total") < 60.0);
    assert!(!events(&lab.b).contains("\"rival_gone\""));
}

fn lost_carrier() {
    let lab = Lab::pair("carrier", false);
    lab.carrier(1, false);
    let reason = lab
        .a
        .state_becomes(krater_model::control::RouterState::Fault);
    assert!(reason.contains("carrier"), "{reason}");
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["b"]);
    lab.carrier(1, true);
    lab.a.state_becomes(Backup);
    lab.answered_by("b");
    assert_eq!(lab.owners(), ["b"]);
    let netlink = NetlinkSocket::open_in(&lab.a.ns).unwrap();
    assert!(netlink.link_by_name("eth1").unwrap().unwrap().carrier);
}

/// Gives `node` a second interface that the test can take down.
fn second_interface(node: &crate::lab::Node) -> (NetlinkSocket, u32) {
    let netlink = NetlinkSocket::open_in(&node.ns).unwrap();
    netlink.create_bridge("eth2", None, None).unwrap();
    let index = netlink.link_by_name("eth2").unwrap().unwrap().index;
    // A bridge has a carrier only with a port.
    netlink
        .create_veth(&krater_net::link::VethSpec {
            name: "port",
            mac: None,
            master: Some(index),
            mtu: None,
            up: true,
            peer: "far",
            peer_mac: None,
            peer_netns: None,
        })
        .unwrap();
    let far = netlink.link_by_name("far").unwrap().unwrap().index;
    netlink.set_up(far, true).unwrap();
    netlink.set_up(index, true).unwrap();
    wait_until("eth2 to have a carrier", || {
        netlink.link_by_name("eth2").unwrap().unwrap().carrier
    });
    (netlink, far)
}

fn tracked_fault() {
    let lab = Lab::pair("tracked", false);
    let (netlink, far) = second_interface(&lab.a);
    let mut config = lab.config(2, 1, 100);
    config["routers"][0]["track_interfaces"] = serde_json::json!([{"name": "eth2"}]);
    lab.a.apply(&config);
    assert_eq!(lab.a.status().routers[0].state, Active);
    // The far end goes down: eth2 is up, but has no carrier.
    netlink.set_up(far, false).unwrap();
    let fault = krater_model::control::RouterState::Fault;
    let reason = lab.a.state_becomes(fault);
    assert!(reason.contains("tracked interface"), "{reason}");
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["b"]);
    netlink.set_up(far, true).unwrap();
    lab.a.state_becomes(Backup);
    // One that does not exist is down.
    config["revision"]["generation"] = 3.into();
    config["routers"][0]["track_interfaces"] = serde_json::json!([{"name": "eth7"}]);
    lab.a.apply(&config);
    lab.a.state_becomes(fault);
    assert_eq!(lab.owners(), ["b"]);
}

fn tracked_weight() {
    let lab = Lab::pair("weight", false);
    let (netlink, far) = second_interface(&lab.a);
    for (host, node, priority) in [(1, &lab.a, 100), (2, &lab.b, 90)] {
        let mut config = lab.config(2, host, priority);
        config["routers"][0]["preempt"] = true.into();
        if host == 1 {
            let tracked = serde_json::json!([{"name": "eth2", "weight": -20}]);
            config["routers"][0]["track_interfaces"] = tracked;
        }
        node.apply(&config);
    }
    let priority = || lab.a.metric("krater_vrrp_priority");
    assert!((priority() - 100.0).abs() < 0.1);
    netlink.set_up(far, false).unwrap();
    let reason = lab.a.state_becomes(Backup);
    assert!(reason.contains("is Active with priority 90"), "{reason}");
    assert!((priority() - 80.0).abs() < 0.1);
    wait_until("b alone to hold it", || lab.owners() == ["b"]);
    netlink.set_up(far, true).unwrap();
    lab.a.state_becomes(Active);
    wait_until("a alone to hold it", || lab.owners() == ["a"]);
    lab.answered_by("a");
}

/// What a client sees, for the log: how long nobody answers it. The clock of a test machine proves
/// nothing, so that no time is asserted; that the client is answered again is.
fn outages() {
    use nix::sys::signal::Signal::SIGSTOP;
    for centiseconds in [10, 1] {
        let run = |name: &str, fault: &dyn Fn(&mut Lab)| {
            let mut lab = Lab::pair("outage", false);
            for (host, node) in [(1, &lab.a), (2, &lab.b)] {
                let mut config = lab.config(2, host, if host == 1 { 100 } else { 90 });
                config["routers"][0]["advert_interval"] = centiseconds.into();
                node.apply(&config);
            }
            lab.answered_by("a");
            let prober = lab.prober();
            fault(&mut lab);
            lab.b.state_becomes(Active);
            lab.answered_by("b");
            let outage = prober.end();
            println!(
                "{} ms adverts, {name}: {} ms",
                centiseconds * 10,
                outage.as_millis()
            );
        };
        run("node death", &|lab| {
            let guard = nix::unistd::Pid::from_raw(i32::try_from(lab.a.guard()).unwrap());
            nix::sys::signal::kill(guard, SIGSTOP).unwrap();
            lab.connect(1, false);
            lab.a.end(SIGKILL);
        });
        run("vrrp killed", &|lab| assert!(!lab.a.end(SIGKILL)));
        run("sigterm", &|lab| assert!(lab.a.end(SIGTERM)));
        run("data plane frozen", &|lab| {
            lab.a.dataplane.as_ref().unwrap().freeze(true)
        });
    }
}
