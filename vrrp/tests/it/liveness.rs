//! Liveness sessions: what only they can tell, with 40 s between adverts, so that the protocol's own timer
//! is two minutes away.

use crate::Test;
use crate::dataplane::send_frame;
use crate::lab::{Lab, Node, add_address, wait_for, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_model::control::{
    LivenessPath, PathState, PeerLiveness, VrrpEvent, VrrpEventKind, VrrpEvents,
};
use krater_model::wire::liveness::PORT;
use krater_net::link::VethSpec;
use krater_net::netns::NetNs;
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP, SIGTERM};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

pub(crate) const TESTS: &[Test] = &[
    ("a_dead_node_is_noticed_by_its_session_ipv4", || {
        dead("live4", false);
    }),
    ("a_dead_node_is_noticed_by_its_session_ipv6", || {
        dead("live6", true);
    }),
    ("another_key_is_no_session", another_key),
    ("a_farewell_is_no_death", farewell),
    ("a_frozen_node_is_dead_and_follows_when_it_thaws", frozen),
    (
        "a_split_network_is_told_from_death_by_the_second_path",
        split,
    ),
    ("without_a_second_path_the_same_split_is_death", split_alone),
    ("the_loss_of_the_second_path_moves_nothing", second_lost),
    (
        "where_heartbeats_do_not_pass_the_second_path_tells_of_death",
        second_only,
    ),
    ("a_path_that_is_no_such_socket_is_refused", wrong_path),
    ("one_way_loss_is_told_and_moves_nothing", one_way),
];

/// How long nothing must happen, in heartbeats that are served.
const LONG: f64 = 60.0;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn pair(name: &str, v6: bool, keys: [&str; 2], centiseconds: u16) -> Lab {
    let lab = Lab::new(name, v6);
    joined(lab, keys, centiseconds, None)
}

/// With another network between the hosts, unless it is none.
fn joined(mut lab: Lab, keys: [&str; 2], centiseconds: u16, second: Option<&Second>) -> Lab {
    let config = |host: u8, generation, centiseconds: u16| -> Value {
        let mut config = lab.config(generation, host, if host == 1 { 254 } else { 90 });
        let router = &mut config["routers"][0];
        router["advert_interval"] = json!(centiseconds);
        router["track_dataplane"] = json!(false);
        router["liveness"] = json!({"key": keys[usize::from(host) - 1]});
        if second.is_some() {
            router["liveness"]["second_path"] = json!({
                "source": Second::address(host), "peers": [Second::address(3 - host)],
            });
        }
        config
    };
    // The first election need not take two minutes.
    let first = [config(1, 1, 10), config(2, 1, 10)];
    let then = [config(1, 2, centiseconds), config(2, 2, centiseconds)];
    lab.a.start();
    if let Some(second) = second {
        second.hand_over(&lab.a, 1);
    }
    lab.a.apply(&first[0]);
    lab.a.state_becomes(Active);
    lab.b.start();
    if let Some(second) = second {
        second.hand_over(&lab.b, 2);
    }
    lab.b.apply(&first[1]);
    wait_until("b to hear a", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > 3.0
    });
    let before = lab.b.metric("krater_vrrp_adverts_received_total");
    lab.b.apply(&then[1]);
    lab.a.apply(&then[0]);
    wait_until("b to hear of the interval", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > before
    });
    lab.b.state_becomes(Backup);
    lab
}

/// Another network: a cable between two namespaces that vrrp is not in.
struct Second {
    hosts: [NetNs; 2],
}

impl Second {
    fn new(lab: &Lab) -> Self {
        let make = |name: &str| NetNs::create(&lab.dir.join(name)).unwrap();
        let hosts = [make("second-1"), make("second-2")];
        let netlink = NetlinkSocket::open_in(&hosts[0]).unwrap();
        netlink
            .create_veth(&VethSpec {
                name: "eth0",
                mac: None,
                master: None,
                mtu: None,
                up: true,
                peer: "eth0",
                peer_mac: None,
                peer_netns: Some(hosts[1].as_fd()),
            })
            .unwrap();
        for (host, ns) in (1..).zip(&hosts) {
            let netlink = NetlinkSocket::open_in(ns).unwrap();
            let link = netlink.link_by_name("eth0").unwrap().unwrap().index;
            add_address(&netlink, link, &format!("{}/24", Self::address(host)));
            netlink.set_up(link, true).unwrap();
        }
        Self { hosts }
    }

    fn address(host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
    }

    /// As the agent does.
    fn hand_over(&self, node: &Node, host: u8) {
        let address = SocketAddr::new(Self::address(host), PORT);
        let ns = &self.hosts[usize::from(host) - 1];
        hand_over(node, Self::address(host), &ns.udp_socket(address).unwrap());
    }

    /// Cuts or mends the cable.
    fn connect(&self, connected: bool) {
        let netlink = NetlinkSocket::open_in(&self.hosts[0]).unwrap();
        let link = netlink.link_by_name("eth0").unwrap().unwrap().index;
        netlink.set_up(link, connected).unwrap();
    }
}

fn hand_over(node: &Node, address: IpAddr, socket: &UdpSocket) {
    let frame = json!({"schema": 1, "second_path": address}).to_string();
    send_frame(&node.track, frame.as_bytes(), &[socket.as_raw_fd()]);
}

/// What its status says of its peer.
fn known(node: &Node) -> PeerLiveness {
    let mut routers = node.status().routers;
    routers.remove(0).liveness.remove(0)
}

fn both_alive(lab: &Lab) {
    wait_until("both to hear each other on both networks", || {
        [&lab.a, &lab.b].iter().all(|node| {
            let known = known(node);
            (known.vip, known.second) == (PathState::Alive, Some(PathState::Alive))
        })
    });
}

/// So many heartbeats later.
fn later(node: &Node) {
    node.grows("krater_vrrp_timer_lateness_seconds_count", LONG);
}

fn told(node: &Node, what: &str, which: impl Fn(&VrrpEventKind) -> bool) {
    wait_until(what, || events(node).iter().any(|event| which(&event.kind)));
}

fn said_dead(node: &Node) -> bool {
    let dead = |event: &VrrpEvent| matches!(event.kind, VrrpEventKind::PeerDead { .. });
    events(node).iter().any(dead)
}

fn split() {
    let lab = Lab::new("live-split", false);
    let second = Second::new(&lab);
    let mut lab = joined(lab, [KEY, KEY], 4_000, Some(&second));
    both_alive(&lab);
    lab.connect(1, false);
    let cut = |kind: &VrrpEventKind| matches!(kind, VrrpEventKind::PeerCut { .. });
    told(&lab.b, "b to know that a lives", cut);
    later(&lab.b);
    lab.b.state_becomes(Backup);
    assert!(known(&lab.b).meaning().starts_with("cut off"));
    assert!(!said_dead(&lab.b));
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    // It heals, and nothing has moved.
    lab.connect(1, true);
    both_alive(&lab);
    assert_eq!(lab.owners(), ["a"]);
    // Death is silence on both.
    second.connect(false);
    die(&mut lab);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    wait_until("the event", || said_dead(&lab.b));
    lab.answered_by("b");
}

/// The negative control of the split.
fn split_alone() {
    let lab = pair("live-split1", false, [KEY, KEY], 4_000);
    alive(&lab);
    lab.connect(1, false);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    assert_eq!(lab.owners(), ["a", "b"]);
}

fn second_lost() {
    let lab = Lab::new("live-second", false);
    let second = Second::new(&lab);
    let mut lab = joined(lab, [KEY, KEY], 4_000, Some(&second));
    both_alive(&lab);
    second.connect(false);
    let lost = |kind: &VrrpEventKind| {
        let second = LivenessPath::Second;
        matches!(kind, VrrpEventKind::PeerSilent { path, .. } if *path == second)
    };
    told(&lab.b, "b to miss the second network", lost);
    later(&lab.b);
    assert!(!said_dead(&lab.b));
    assert_eq!(known(&lab.b).second, Some(PathState::Silent));
    assert_eq!(lab.owners(), ["a"]);
    // The first one alone tells of death then.
    die(&mut lab);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
}

/// A security group that lets no UDP pass: here its port is somebody else's on both hosts.
fn second_only() {
    let lab = Lab::new("live-only", false);
    let taken = [(&lab.a, 1), (&lab.b, 2)].map(|(node, host)| {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
        node.ns.udp_socket(SocketAddr::new(address, PORT)).unwrap()
    });
    let second = Second::new(&lab);
    // Three intervals are 30 s, and an overdue advert is 10.
    let mut lab = joined(lab, [KEY, KEY], 1_000, Some(&second));
    wait_until("the second network to carry the session", || {
        [&lab.a, &lab.b].iter().all(|node| {
            let known = known(node);
            (known.vip, known.second) == (PathState::Never, Some(PathState::Alive))
        })
    });
    assert!(known(&lab.b).meaning().starts_with("over the second path"));
    // Its loss alone is no death: adverts go on.
    second.connect(false);
    told(&lab.b, "b to miss a", |kind| {
        matches!(kind, VrrpEventKind::PeerDead { .. })
    });
    later(&lab.b);
    assert_eq!(lab.owners(), ["a"]);
    second.connect(true);
    wait_until("the session to be back", || {
        known(&lab.b).second == Some(PathState::Alive)
    });
    second.connect(false);
    die(&mut lab);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    drop(taken);
}

/// Sockets that are of another kind, port or address change nothing, and are named in the log.
fn wrong_path() {
    let mut lab = Lab::new("live-wrong", false);
    let second = Second::new(&lab);
    lab.a.start();
    let address = Second::address(1);
    let ns = &second.hosts[0];
    let udp = |port| ns.udp_socket(SocketAddr::new(address, port)).unwrap();
    let tcp = ns.tcp_listener(SocketAddr::new(address, PORT)).unwrap();
    let frame = json!({"schema": 1, "second_path": address}).to_string();
    send_frame(&lab.a.track, frame.as_bytes(), &[tcp.as_raw_fd()]);
    send_frame(&lab.a.track, frame.as_bytes(), &[]);
    hand_over(&lab.a, address, &udp(PORT + 1));
    hand_over(&lab.a, Second::address(2), &udp(PORT));
    wait_until("four refusals", || {
        lab.a.log().matches("frame refused").count() == 4
    });
    assert!(!lab.a.log().contains("second path of liveness sessions"));
    second.hand_over(&lab.a, 1);
    wait_until("the right one", || {
        lab.a.log().contains("second path of liveness sessions")
    });
}

/// The switch lets nothing through to a, and everything from it.
fn one_way() {
    let lab = pair("live-oneway", false, [KEY, KEY], 10);
    alive(&lab);
    lab.deaf(1, true);
    let deaf = |kind: &VrrpEventKind| matches!(kind, VrrpEventKind::PeerDeaf { .. });
    told(&lab.b, "b to know that a does not hear it", deaf);
    wait_until("b to say so", || known(&lab.b).vip == PathState::OneWay);
    later(&lab.b);
    lab.b.state_becomes(Backup);
    assert_eq!(lab.owners(), ["a"]);
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    // a hears nobody, so that b is dead for it, and that moves nothing either.
    told(&lab.a, "a to miss b", |kind| {
        matches!(kind, VrrpEventKind::PeerDead { .. })
    });
    lab.deaf(1, false);
    alive(&lab);
    assert_eq!(lab.owners(), ["a"]);
    // The other way round, b hears nothing of a living a: the takeover that the protocol has too.
    lab.deaf(2, true);
    lab.b.state_becomes(Active);
    assert_eq!(lab.owners(), ["a", "b"]);
    lab.deaf(2, false);
    wait_until("one owner", || lab.owners().len() == 1);
}

fn liveness(node: &Node) -> f64 {
    node.metric("krater_vrrp_peer_liveness{")
}

pub(crate) fn alive(lab: &Lab) {
    wait_until("both to hear each other", || {
        [&lab.a, &lab.b].iter().all(|node| liveness(node) > 1.5)
    });
}

/// Without a word: the links first, then all processes, none of which acts on another one's death.
fn die(lab: &mut Lab) {
    let pid = |pid: u32| nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let (guard, vrrp) = (pid(lab.a.guard()), pid(lab.a.pid()));
    lab.connect(1, false);
    for process in [guard, vrrp] {
        nix::sys::signal::kill(process, SIGSTOP).unwrap();
    }
    nix::sys::signal::kill(guard, SIGKILL).unwrap();
    lab.a.end(SIGKILL);
}

fn events(node: &Node) -> Vec<VrrpEvent> {
    let (_, body) = node.request("GET", "/events?since=0", "");
    let events: VrrpEvents = serde_json::from_str(&body).unwrap();
    events.events
}

fn dead(name: &str, v6: bool) {
    let mut lab = pair(name, v6, [KEY, KEY], 4_000);
    alive(&lab);
    die(&mut lab);
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    assert!(liveness(&lab.b) < 0.5);
    lab.answered_by("b");
    let told = wait_for("the event", || {
        let all = events(&lab.b);
        let dead = |event: &&VrrpEvent| matches!(event.kind, VrrpEventKind::PeerDead { .. });
        all.iter().find(dead).cloned()
    });
    assert!(told.sequence > 0);
}

/// The negative control: the same death moves nothing when the session never came up.
fn another_key() {
    let mut lab = pair("live-key", false, [KEY, "another key of 16 bytes"], 4_000);
    wait_until("heartbeats to be refused", || {
        [&lab.a, &lab.b]
            .iter()
            .all(|node| node.metric("krater_vrrp_heartbeats_dropped_total") > 3.0)
    });
    assert!(lab.b.metric("krater_vrrp_heartbeats_received_total") < 0.5);
    assert!(liveness(&lab.b) < 0.5);
    die(&mut lab);
    // b goes on sending for much longer than a session would have waited.
    lab.b
        .grows("krater_vrrp_timer_lateness_seconds_count", 40.0);
    lab.b.state_becomes(Backup);
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    let said = |event: &VrrpEvent| matches!(event.kind, VrrpEventKind::PeerDead { .. });
    assert!(!events(&lab.b).iter().any(said));
}

fn farewell() {
    let mut lab = pair("live-left", false, [KEY, KEY], 10);
    alive(&lab);
    assert!(lab.a.end(SIGTERM));
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("resigned"), "{reason}");
    wait_until("the farewell", || {
        let all = events(&lab.b);
        assert!(
            !all.iter()
                .any(|e| matches!(e.kind, VrrpEventKind::PeerDead { .. }))
        );
        all.iter()
            .any(|e| matches!(e.kind, VrrpEventKind::PeerLeft { .. }))
    });
    // A new process is a new session.
    lab.a.start();
    let mut config = lab.config(1, 1, 254);
    config["routers"][0]["track_dataplane"] = json!(false);
    config["routers"][0]["liveness"] = json!({"key": KEY});
    lab.a.apply(&config);
    alive(&lab);
    lab.a.state_becomes(Backup);
    lab.answered_by("b");
}

/// SIGSTOP is death to others, and SIGCONT does not take back what they took.
fn frozen() {
    let lab = pair("live-frozen", false, [KEY, KEY], 4_000);
    alive(&lab);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.a.pid()).unwrap());
    nix::sys::signal::kill(pid, SIGSTOP).unwrap();
    let reason = lab.b.state_becomes(Active);
    assert!(reason.contains("is dead: no heartbeat"), "{reason}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    alive(&lab);
    wait_until("one owner", || lab.owners().len() == 1);
}
