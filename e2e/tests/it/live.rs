//! Things that must not be noticed by anyone who has work in flight.

use crate::story::{MEMBERS, Story};
use krater_e2e::amphora::Amphora;
use krater_e2e::client::{self, Kind, Load};
use krater_e2e::system::alone;
use krater_e2e::wait;
use krater_net::process::ProcessId;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMES: [&str; 3] = [MEMBERS[0].0, MEMBERS[1].0, MEMBERS[2].0];

fn loads(story: &Story, kinds: &[Kind]) -> Vec<Load> {
    let start = |kind: &Kind| Load::start(Arc::clone(&story.client), story.at(80), *kind, &NAMES);
    kinds.iter().map(start).collect()
}

/// Every client gets at least `count` more answers.
fn more(loads: &[Load], count: u64) {
    let before: Vec<u64> = loads.iter().map(Load::done).collect();
    wait::for_condition("every client gets more answers", || {
        loads
            .iter()
            .zip(&before)
            .all(|(load, before)| load.done() >= before + count)
    });
}

fn stop(loads: Vec<Load>) {
    let faults: Vec<String> = loads.into_iter().flat_map(Load::stop).collect();
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

fn processes(story: &Story) -> BTreeMap<String, Vec<ProcessId>> {
    let of = |id: String| {
        let mut list = Amphora::find(&story.system, &id).processes();
        list.sort();
        (id, list)
    };
    story.amphorae().into_iter().map(of).collect()
}

#[test]
fn a_killed_controller_is_not_noticed() {
    let _alone = alone();
    let mut story = Story::new();
    story.answers();
    let before = processes(&story);
    let loads = loads(&story, &[Kind::KeepAlive, Kind::New, Kind::WebSocket]);
    more(&loads, 100);
    story.system.stop(Signal::SIGKILL);
    more(&loads, 300);
    story.system.up();
    story.active();
    more(&loads, 300);
    assert_eq!(
        processes(&story),
        before,
        "the amphorae were adopted, not replaced"
    );
    // The adopted ones obey: a change gets through.
    let api = story.create("pools", json!({"pool": {
        "name": "late", "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    story.change("DELETE", &format!("pools/{api}"), None);
    stop(loads);
    assert_eq!(processes(&story), before);
}

/// A way to reach the listeners of an amphora that does not hold the VIP: the address is given to its
/// loopback, and ARP for it is not answered. Tests alone may do this.
struct Inside {
    amphora: Amphora,
}

impl Inside {
    fn new(story: &Story, id: &str) -> Self {
        let amphora = Amphora::find(&story.system, id);
        if !amphora.addresses().contains(&story.vip) {
            let socket = krater_net::sync::NetlinkSocket::open_in(&amphora.vip).expect("netlink");
            for link in socket
                .links()
                .expect("links")
                .iter()
                .filter(|link| link.name != "lo")
            {
                let key = format!("net/ipv4/conf/{}/arp_ignore", link.name);
                krater_net::sysctl::write(&amphora.vip, &key, "1").expect("arp_ignore");
            }
            let lo = socket.link_by_name("lo").expect("links").expect("lo").index;
            let net = ipnet::IpNet::new(story.vip, 32).expect("a host");
            let address = krater_net::link::Address {
                link: lo,
                net,
                protocol: 0,
                no_prefix_route: false,
            };
            socket.add_address(&address).expect("the VIP on lo");
        }
        Self { amphora }
    }

    /// The body of a 200 to a request inside the amphora.
    fn get(&self, story: &Story, port: u16, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let limit = std::time::Duration::from_secs(2);
        let mut stream = self.amphora.vip.tcp_connect(story.at(port), limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        let head = client::head("GET", path, "inside", "connection: close\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

/// Fifty changes of all kinds; each is seen in traffic on both amphorae before the next is made.
#[test]
fn fifty_changes_fail_no_request() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let inside: Vec<Inside> = story
        .amphorae()
        .iter()
        .map(|id| Inside::new(&story, id))
        .collect();
    assert_eq!(inside.len(), 2);
    let seen = |what: &str, port: u16, path: &str, test: &dyn Fn(&[Option<String>]) -> bool| {
        for amphora in &inside {
            wait::for_condition(
                &format!("{what} is seen on amphora {}", amphora.amphora.id),
                || {
                    let answers: Vec<_> = (0..6).map(|_| amphora.get(&story, port, path)).collect();
                    test(&answers)
                },
            );
        }
    };
    let from = |name: &'static str| {
        move |answers: &[Option<String>]| answers.iter().flatten().any(|who| who == name)
    };
    let never = |name: &'static str| {
        move |answers: &[Option<String>]| {
            answers
                .iter()
                .all(|who| who.as_deref().is_some_and(|who| who != name))
        }
    };
    let closed = |answers: &[Option<String>]| answers.iter().all(Option::is_none);
    let loads = loads(
        &story,
        &[Kind::KeepAlive, Kind::New, Kind::Large, Kind::WebSocket],
    );
    more(&loads, 3);

    let mut changes = 0;
    let mut change = |what: &str, make: &dyn Fn() -> String| {
        let id = make();
        changes += 1;
        more(&loads, 1);
        assert!(!what.is_empty());
        id
    };
    let send = |method: &'static str, path: String, body: Option<Value>| {
        story.change(method, &path, body);
        String::new()
    };
    for round in 0..4_u16 {
        let port = 8_000 + round;
        // A second listener with a pool of its own: 13 changes a round.
        let listener = change("listener added", &|| {
            story.create("listeners", json!({"listener": {
                "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "protocol_port": port,
            }}))
        });
        let pool = change("pool added", &|| {
            story.create(
                "pools",
                json!({"pool": {
                    "listener_id": listener, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
                }}),
            )
        });
        let first = change("member added", &|| story.member(&pool, "a", MEMBERS[0].1));
        seen("the member", port, "/", &from("web1"));
        let second = change("member added", &|| story.member(&pool, "b", MEMBERS[1].1));
        seen("the second member", port, "/", &from("web2"));
        let member = |id: &str| format!("pools/{pool}/members/{id}");
        change("weight changed", &|| {
            send(
                "PUT",
                member(&second),
                Some(json!({"member": {"weight": 0}})),
            )
        });
        seen("weight 0", port, "/", &never("web2"));
        change("weight changed", &|| {
            send(
                "PUT",
                member(&second),
                Some(json!({"member": {"weight": 5}})),
            )
        });
        seen("weight 5", port, "/", &from("web2"));
        let monitor = change("monitor added", &|| {
            story.create(
                "healthmonitors",
                json!({"healthmonitor": {
                    "pool_id": story.pool, "type": "HTTP", "url_path": "/",
                    "delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 3,
                }}),
            )
        });
        seen("the pool under a monitor", 80, "/", &from("web3"));
        let policy = change("policy added", &|| {
            story.create(
                "l7policies",
                json!({"l7policy": {
                    "listener_id": listener, "action": "REJECT",
                }}),
            )
        });
        change("rule added", &|| {
            story.create(
                &format!("l7policies/{policy}/rules"),
                json!({"rule": {
                    "type": "PATH", "compare_type": "STARTS_WITH", "value": "/no",
                }}),
            )
        });
        seen("the policy", port, "/no", &closed);
        seen("the policy's limits", port, "/", &from("web1"));
        change("policy removed", &|| {
            send("DELETE", format!("l7policies/{policy}"), None)
        });
        seen("no policy", port, "/no", &from("web1"));
        change("monitor removed", &|| {
            send("DELETE", format!("healthmonitors/{monitor}"), None)
        });
        change("member removed", &|| send("DELETE", member(&first), None));
        seen("no first member", port, "/", &never("web1"));
        change("listener removed", &|| {
            send("DELETE", format!("listeners/{listener}"), None)
        });
        seen("no listener", port, "/", &closed);
        change("pool removed", &|| {
            send("DELETE", format!("pools/{pool}"), None)
        });
    }
    assert!(changes >= 50, "{changes} changes");
    more(&loads, 3);
    stop(loads);
}

/// Negative control: the same clients do notice a change that concerns them.
#[test]
fn the_clients_notice_a_broken_member() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let loads = loads(&story, &[Kind::New]);
    more(&loads, 30);
    story.backends[0].set_status(500);
    more(&loads, 1);
    wait::for_condition("failing answers are there", || {
        story.spread("/", 9).contains_key("status 500")
    });
    more(&loads, 3);
    let faults: Vec<String> = loads.into_iter().flat_map(Load::stop).collect();
    assert!(!faults.is_empty(), "answers with 500 were not noticed");
}
