//! A hundred thousand hostile packets a second, from a stranger on the bridge and in the peer's name.

use crate::Test;
use crate::lab::{Lab, Node, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_vrrp_proto::{Advert, ChecksumForm, Version};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[Test] = &[
    ("a_flood_moves_nothing", flood),
    ("a_full_queue_is_counted", overflow),
    ("a_flood_of_a_rival_is_not_answered_one_by_one", rival),
];

/// Five seconds' worth: ten adverts, of which a Backup may miss two in a row.
const PACKETS: usize = 500_000;
const PER_MILLISECOND: usize = 100;

const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);

/// A message with a right checksum, changed by `change` after that.
fn message(source: Ipv4Addr, to: Ipv4Addr, priority: u8, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let vip: IpAddr = "192.0.2.100".parse().unwrap();
    let advert = Advert {
        version: Version::V3,
        vrid: krater_model::Vrid::new(1).unwrap(),
        priority,
        interval: krater_model::Centiseconds::new(10).unwrap(),
        addresses: &[vip],
    };
    let mut bytes = Vec::new();
    advert.emit(source.into(), to.into(), ChecksumForm::Rfc9568, &mut bytes);
    change(&mut bytes);
    bytes
}

fn checked(bytes: &mut [u8]) {
    bytes[6..8].fill(0);
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// A datagram with its IP header; the kernel fills length, identification and checksum in.
fn datagram(source: Ipv4Addr, to: Ipv4Addr, ttl: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, ttl, 112, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(to.octets());
    bytes.extend(message);
    bytes
}

/// Datagrams, each with the reason for which it must be dropped.
fn hostile(to: Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let peer = if to == A { B } else { A };
    let from = |source: Ipv4Addr, priority, change: &dyn Fn(&mut Vec<u8>)| {
        datagram(source, to, 255, &message(source, to, priority, change))
    };
    vec![
        ("short", from(STRANGER, 254, &|b| b.truncate(5))),
        ("version", from(STRANGER, 254, &|b| b[0] = 0x41)),
        ("type", from(peer, 0, &|b| b[0] = 0x32)),
        ("vrid", from(peer, 254, &|b| b[1] = 77)),
        ("other-version", from(peer, 0, &|b| b[0] = 0x21)),
        ("length", from(peer, 254, &|b| b.push(0))),
        ("checksum", from(peer, 254, &|b| b[6] ^= 1)),
        ("checksum", from(peer, 0, &|b| b[7] ^= 1)),
        (
            "hop-limit",
            datagram(peer, to, 64, &message(peer, to, 254, |_| ())),
        ),
        (
            "empty",
            from(peer, 254, &|b| {
                b[3] = 0;
                b.truncate(8);
                checked(b);
            }),
        ),
        (
            "interval",
            from(peer, 254, &|b| {
                b[4..6].fill(0);
                checked(b);
            }),
        ),
        // Right in all but who sends it: a resignation and a winner.
        ("peer", from(STRANGER, 0, &|_| ())),
        ("peer", from(STRANGER, 254, &|_| ())),
    ]
}

fn dropped(node: &Node, reason: &str) -> f64 {
    node.metric(&format!(
        "krater_vrrp_packets_dropped_total{{reason=\"{reason}\"}}"
    ))
}

fn anonymous_kilobytes(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:"));
    let value = line.unwrap().split_whitespace().nth(1).unwrap();
    value.parse().unwrap()
}

/// Hundredths of a second of CPU time that the process has used.
fn ticks(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let (_, after_name) = text.rsplit_once(") ").unwrap();
    let times = after_name.split(' ').skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

fn configured(name: &str) -> Lab {
    let lab = Lab::pair(name, false);
    for (host, node, priority) in [(1, &lab.a, 100), (2, &lab.b, 90)] {
        let mut config = lab.config(2, host, priority);
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        config["routers"][0]["track_dataplane"] = false.into();
        // Nor does it that it may stand still for a third of a second.
        config["routers"][0]["advert_interval"] = 50.into();
        node.apply(&config);
    }
    lab
}

/// A raw socket of a stranger on the bridge that writes IP headers itself.
fn stranger(lab: &Lab) -> Socket {
    let raw = Some(Protocol::from(libc::IPPROTO_RAW));
    let socket = || Socket::new(Domain::IPV4, Type::RAW, raw);
    lab.client.run(socket).unwrap().unwrap()
}

fn address(to: Ipv4Addr) -> SockAddr {
    SocketAddr::from((to, 0)).into()
}

/// Sends all of them in turn, so many a millisecond where the machine can.
fn send(socket: &Socket, datagrams: &[(SockAddr, Vec<u8>)]) -> Duration {
    let start = Instant::now();
    let mut next = start;
    let mut which = datagrams.iter().cycle();
    for _ in 0..PACKETS / PER_MILLISECOND {
        for (to, bytes) in which.by_ref().take(PER_MILLISECOND) {
            // A full device queue is one packet less.
            let _ = socket.send_to(bytes, to);
        }
        next += Duration::from_millis(1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    start.elapsed()
}

/// Whatever arrives, the Active stays Active and the Backup stays Backup, in bounded memory, and each
/// kind of packet is counted under its name.
fn flood() {
    let lab = configured("flood");
    let nodes = [(&lab.a, Active, 1), (&lab.b, Backup, 0)];
    let unmoved = |node: &Node, state, transitions| {
        // A control socket that is late under load says nothing about the router.
        let Some(status) = node.try_status() else {
            return;
        };
        let router = &status.routers[0];
        assert_eq!(router.state, state, "{}: {}", node.name, router.reason);
        assert_eq!(router.transitions, transitions, "{}", node.name);
    };
    let before = nodes.map(|(node, ..)| (anonymous_kilobytes(node), ticks(node)));
    let socket = stranger(&lab);
    let datagrams = [A, B].map(|to| hostile(to).into_iter().map(move |(_, d)| (address(to), d)));
    let datagrams: Vec<_> = datagrams.into_iter().flatten().collect();
    let flooder = std::thread::spawn(move || send(&socket, &datagrams));
    while !flooder.is_finished() {
        for (node, state, transitions) in nodes {
            unmoved(node, state, transitions);
        }
    }
    let took = flooder.join().unwrap();

    let heard = lab.b.metric("krater_vrrp_adverts_received_total");
    wait_until("adverts to go on", || {
        lab.b.metric("krater_vrrp_adverts_received_total") > heard + 5.0
    });
    assert_eq!(lab.owners(), ["a"]);
    for ((node, state, transitions), (before, ticks_before)) in nodes.into_iter().zip(before) {
        unmoved(node, state, transitions);
        let mut kinds: Vec<&str> = hostile(A).iter().map(|(reason, _)| *reason).collect();
        kinds.dedup();
        let counted: f64 = kinds.iter().map(|reason| dropped(node, reason)).sum();
        for reason in kinds {
            assert!(dropped(node, reason) > 0.0, "{}: {reason}", node.name);
        }
        // Nothing passed that must not, and nothing was counted twice.
        let lost = node.metric("krater_vrrp_queue_overflows_total");
        assert!(
            counted + lost <= (PACKETS / 2) as f64 + 1_000.0,
            "{counted} {lost}"
        );
        assert_eq!(node.metric("krater_vrrp_rival_adverts_total"), 0.0);
        // It is told, and half a million lines are not written.
        let lines = node.log().matches("packet dropped").count();
        assert!((1..100).contains(&lines), "{lines} lines");
        // Eight bytes kept of each packet would be two megabytes.
        let after = anonymous_kilobytes(node);
        assert!(after <= before + 1_000, "{before} kB became {after} kB");
        println!(
            "{}: {counted} dropped and {lost} lost of {} in {} ms, {} ms of CPU, {before} kB → {after} kB",
            node.name,
            PACKETS / 2,
            took.as_millis(),
            10 * (ticks(node) - ticks_before),
        );
    }
    assert_eq!(lab.a.metric("krater_vrrp_adverts_received_total"), 0.0);
}

/// A process that cannot look at what arrives says so afterwards, and does not take the silence behind
/// a full queue for the Active's.
fn overflow() {
    let lab = configured("overflow");
    let socket = stranger(&lab);
    let datagrams = hostile(B);
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.b.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    assert_eq!(lab.b.metric("krater_vrrp_queue_overflows_total"), 0.0);
    signal(Signal::SIGSTOP);
    for (_, bytes) in datagrams.iter().cycle().take(20_000) {
        let _ = socket.send_to(bytes, &address(B));
    }
    signal(Signal::SIGCONT);
    // The kernel tells with the next packet that it has room for.
    wait_until("the loss to be counted", || {
        lab.b.metric("krater_vrrp_queue_overflows_total") > 0.0
    });
    lab.b.grows("krater_vrrp_adverts_received_total", 5.0);
    assert_eq!(lab.b.status().routers[0].state, Backup);
    assert_eq!(lab.b.status().routers[0].transitions, 0);
    assert_eq!(lab.owners(), ["a"]);
}

/// A peer that is Active with a lower priority, a hundred thousand times a second. RFC 9568 section 6.4.3 has each advert
/// answered at once; what has just been said need not be said again.
fn rival() {
    let lab = configured("flood-rival");
    let socket = stranger(&lab);
    let datagram = datagram(B, A, 255, &message(B, A, 1, |_| ()));
    let sent = || lab.a.metric("krater_vrrp_adverts_sent_total");
    let rivals = || lab.a.metric("krater_vrrp_rival_adverts_total");
    let (before, ticks_before) = (sent(), ticks(&lab.a));
    let took = send(&socket, &[(address(A), datagram)]);
    let milliseconds = took.as_millis() as f64;
    let (answers, heard) = (sent() - before, rivals());
    println!(
        "{heard} adverts of a rival in {milliseconds} ms: {answers} answers, {} ms of CPU",
        10 * (ticks(&lab.a) - ticks_before)
    );
    // The control: it was heard far more often.
    assert!(heard > answers * 5.0, "{heard} heard, {answers} answers");
    assert!(answers > 10.0 && answers < milliseconds * 1.2 + 100.0);
    assert_eq!(lab.a.status().routers[0].state, Active);
    assert_eq!(lab.a.status().routers[0].transitions, 1);
    assert_eq!(lab.owners(), ["a"]);
}
