//! What this host or process runs out of while it connects to members is no fault of theirs.

use crate::http1::kit::Client;
use crate::kit::*;
use crate::process::{Process, Watch, log_in};
use krater_model::control::MemberHealth;
use krater_model::state::*;
use krater_model::{MemberId, Millis, Port, ProbeCount};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

const PORTS: &str = r#"krater_dataplane_member_connect_shortages_total{of="ports"}"#;
const DESCRIPTORS: &str = r#"krater_dataplane_member_connect_shortages_total{of="descriptors"}"#;

/// Moves this thread, and those that it starts from now on, to a network namespace of its own.
fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let netlink = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(0)),
    );
    // RTM_NEWLINK for link 1, which is loopback: set IFF_UP.
    let words: [u32; 8] = [32, 16 | 1 << 16, 1, 0, 0, 1, 1, 1];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    netlink.unwrap().send(&message).unwrap();
    until("loopback is up", || {
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()
    });
}

/// Which local ports connects get in the namespace of this thread.
fn local_ports(first: u16, last: u16) {
    let range = format!("{first} {last}");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
}

/// Four ports, none of which the kernel chose while it had its usual range.
fn four_ports() {
    local_ports(20_000, 20_003);
}

/// A client that needs none of those ports.
fn client_from(port: u16, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn failures(setup: &Setup, member: MemberId) -> String {
    let pool = setup.lb.pools[0].id;
    let name = "krater_dataplane_member_connect_failures_total";
    format!(r#"{name}{{pool="{pool}",member="{member}"}}"#)
}

/// One probe each, elsewhere; then a single failure of traffic would take a member down.
fn watched(setup: &mut Setup) {
    let elsewhere = echo();
    let mut once = monitor(HealthCheck::Tcp);
    once.delay = Millis::literal(600_000);
    setup.pool().health_monitor = Some(once);
    setup.pool().options.failures_in_a_row = Some(1);
    for member in &mut setup.pool().members {
        member.monitor_port = Some(Port::new(elsewhere.port().into()).unwrap());
    }
}

fn all_up(dataplane: &Dataplane, ids: &[MemberId]) -> bool {
    let up = |id: &MemberId| dataplane.member(*id).health == MemberHealth::Up;
    ids.iter().all(up)
}

/// Two members that are up, the first with this weight, and four ports towards each from now on.
fn two_members(workers: u16, weight: u64) -> (Dataplane, Setup, Vec<MemberId>) {
    own_namespace();
    let dataplane = Dataplane::start(workers);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
    watched(&mut setup);
    setup.pool().members[0].weight = krater_model::Weight::new(weight).unwrap();
    setup.apply(&dataplane);
    let ids: Vec<_> = setup.pool().members.iter().map(|m| m.id).collect();
    until("both are up", || all_up(&dataplane, &ids).then_some(()));
    four_ports();
    (dataplane, setup, ids)
}

#[test]
fn without_ports_a_connection_is_closed_and_no_member_blamed() {
    let (dataplane, setup, ids) = two_members(2, 1);
    // Each member's address can be reached from each port once.
    let mut open: Vec<_> = (0..8)
        .map(|n| client_from(30_000 + n, setup.address()))
        .collect();
    open.iter_mut().for_each(|s| assert!(byte(s).is_some()));
    assert_eq!(dataplane.metric(PORTS), 0);
    assert_eq!(byte(&mut client_from(30_100, setup.address())), None);
    assert_eq!(dataplane.metric(PORTS), 2);
    let tries = ids.iter().map(|id| dataplane.member(*id).total_connections);
    assert_eq!(tries.sum::<u64>(), 10, "both were tried");
    for id in &ids {
        assert_eq!(dataplane.metric(&failures(&setup, *id)), 0);
    }
    assert!(all_up(&dataplane, &ids));
    assert!(open.iter_mut().all(goes_round), "who is inside is served");
    local_ports(20_000, 20_100);
    let mut again = client_from(30_101, setup.address());
    assert!(byte(&mut again).is_some() && goes_round(&mut again));
    assert_eq!(dataplane.metric(PORTS), 2);
}

#[test]
fn without_ports_towards_one_member_another_serves() {
    let (dataplane, setup, ids) = two_members(1, 2);
    // Two turns in three are the first member's: the fifth of them finds no port.
    let mut open: Vec<_> = (0..8)
        .map(|n| client_from(30_000 + n, setup.address()))
        .collect();
    let names: Vec<_> = open.iter_mut().filter_map(byte).collect();
    let of = |name| names.iter().filter(|n| **n == name).count();
    assert_eq!((of(b'a'), of(b'b')), (4, 4), "{names:?}");
    assert!(dataplane.metric(PORTS) > 0, "the first was tried");
    assert!(all_up(&dataplane, &ids));
}

#[test]
fn without_ports_a_request_gets_503_and_its_connection_lives_on() {
    own_namespace();
    let (inside, open) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (requests, gate) = (Arc::clone(&inside), Arc::clone(&open));
    let member = server(move |mut stream| {
        let mut request = [0; 1024];
        while matches!(stream.read(&mut request), Ok(1..)) {
            requests.fetch_add(1, SeqCst);
            until("answers may go", || gate.load(SeqCst).then_some(()));
            let _gone = stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n");
        }
    });
    // One worker: each keeps the connections to members that it made.
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
    watched(&mut setup);
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    until("up", || all_up(&dataplane, &[id]).then_some(()));
    four_ports();
    let client = |port| Client::new(client_from(port, setup.address()));
    let mut waiting: Vec<_> = (0..4).map(|n| client(30_000 + n)).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("all ports are in use", || {
        (inside.load(SeqCst) == 4).then_some(())
    });
    let mut late = client(30_100);
    for n in 1..=3 {
        let answer = late.get("/");
        assert_eq!((answer.status(), answer.field("connection")), (503, None));
        assert_eq!(dataplane.metric(PORTS), n, "one connect for one request");
    }
    assert_eq!(dataplane.metric(&failures(&setup, id)), 0);
    assert!(all_up(&dataplane, &[id]));
    open.store(true, SeqCst);
    for client in &mut waiting {
        assert_eq!(client.response().unwrap().status(), 204);
    }
    assert_eq!(late.get("/").status(), 204, "on a connection that was kept");
    assert_eq!(dataplane.metric(PORTS), 3);
}

/// The connections of probes themselves use the ports up, as they stay in TIME_WAIT.
#[test]
fn without_ports_probes_say_nothing_about_a_member() {
    own_namespace();
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[echo()]);
    let mut check = monitor(HealthCheck::Tcp);
    check.fall = ProbeCount::new(1).unwrap();
    setup.pool().health_monitor = Some(check);
    four_ports();
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    until("up", || all_up(&dataplane, &[id]).then_some(()));
    until("probes found no port", || {
        assert!(all_up(&dataplane, &[id]));
        (dataplane.metric(PORTS) >= 3).then_some(())
    });
    assert!(all_up(&dataplane, &[id]));
}

/// Without an address of its own in IPv6, the kernel says of a member there what it says without ports;
/// but then the other members can be reached.
#[test]
fn a_family_without_addresses_is_no_shortage() {
    own_namespace();
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    let dataplane = Dataplane::start(1);
    let far = "[2001:db8::1]:80".parse().unwrap();
    let said = TcpStream::connect(far).unwrap_err();
    assert_eq!(said.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    let mut setup = Setup::tcp(&[far, named_echo(b'a')]);
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    assert_eq!(byte(&mut setup.connect()), Some(b'a'));
    assert_eq!(dataplane.metric(&failures(&setup, id)), 1);
    assert_eq!(dataplane.metric(PORTS), 0);
}

/// Idle clients take all descriptors; then one of them wants a member.
#[test]
fn without_descriptors_a_request_gets_503_and_no_member_is_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let log = log_in(folder.path());
    // 128 are in pipes, some 20 in runtimes and listeners.
    let _process = Process::start(&control, Some(220), Some(&log));
    let dataplane = Dataplane::attach(&control);
    let member = server(|mut stream| {
        let mut request = [0; 1024];
        while matches!(stream.read(&mut request), Ok(1..)) {
            let _gone = stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n");
        }
    });
    let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
    setup.listener().timeouts.client_data = Millis::literal(600_000);
    // Connections of this one get their member when the first byte comes.
    let mut patient = Setup::tcp(&[named_echo(b'x')]);
    patient.listener().timeouts.tcp_inspect = Millis::literal(600_000);
    dataplane.apply(vec![setup.lb.clone(), patient.lb.clone()]);
    let mut asking = Client::new(setup.connect());
    let mut silent = patient.connect();
    for lb in [&setup.lb, &patient.lb] {
        until("accepted", || {
            let stats = dataplane.listener(lb.listeners[0].id).stats;
            (stats.active_connections == 1).then_some(())
        });
    }
    // A new one to the control socket would need a descriptor.
    let mut watch = Watch::new(&control);
    assert_eq!(watch.pauses(), 0, "it is inside");
    let mut crowd: Vec<_> = (0..150).map(|_| setup.connect()).collect();
    until("exhausted", || (watch.pauses() >= 2).then_some(()));
    assert_eq!(watch.metric(DESCRIPTORS), 0);
    for n in 1..=3 {
        let answer = asking.get("/");
        assert_eq!((answer.status(), answer.field("connection")), (503, None));
        assert_eq!(watch.metric(DESCRIPTORS), n);
    }
    silent.write_all(b"!").unwrap();
    assert_eq!(byte(&mut silent), None, "closed");
    assert_eq!(watch.metric(DESCRIPTORS), 4);
    for setup in [&setup, &patient] {
        let id = setup.lb.pools[0].members[0].id;
        assert_eq!(watch.metric(&failures(setup, id)), 0);
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        said.matches("cannot connect to members").count(),
        1,
        "{said}"
    );
    assert!(said.contains("out of file descriptors"), "{said}");
    crowd.truncate(10);
    until("served again", || {
        (asking.get("/").status() == 204).then_some(())
    });
}
