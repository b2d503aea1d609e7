//! Who gets a client: hashes, backup members, other members after a failed connect, counts.

use crate::kit::*;
use krater_model::control::MemberHealth;
use krater_model::state::*;
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Which member a client gets that connects from `from`. Its port can be used again at once.
fn served_from(from: SocketAddr, to: SocketAddr) -> Option<u8> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = byte(&mut stream);
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    name
}

/// A port of `ip` that nobody uses.
fn free_port(ip: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn the_hash_of_the_address_moves_few_clients() {
    let dataplane = Dataplane::start(4);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
    setup.pool().algorithm = Algorithm::SourceIp;
    setup.apply(&dataplane);
    let clients: Vec<SocketAddr> = (1..=40)
        .map(|n| SocketAddr::from(([127, 9, 8, n], 0)))
        .collect();
    let ask = || -> Vec<Option<u8>> {
        let at = setup.address();
        clients
            .iter()
            .map(|client| served_from(*client, at))
            .collect()
    };
    let before = ask();
    assert_eq!(before, ask(), "the same address, the same member");
    let members: BTreeSet<_> = before.iter().flatten().collect();
    assert_eq!(members.len(), 3);
    let mut fewer = setup.lb.clone();
    fewer.pools[0].members.remove(1);
    assert!(dataplane.apply(vec![fewer]).changed);
    for (before, after) in before.iter().zip(ask()) {
        assert!(after == *before || *before == Some(b'b'));
    }
}

#[test]
fn the_hash_of_address_and_port_tells_connections_apart() {
    let dataplane = Dataplane::start(4);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
    setup.pool().algorithm = Algorithm::SourceIpPort;
    setup.apply(&dataplane);
    let ip = vip();
    let mut by_port = BTreeMap::new();
    for _ in 0..30 {
        let client = SocketAddr::from((ip, free_port(ip)));
        let member = served_from(client, setup.address());
        assert_eq!(served_from(client, setup.address()), member);
        by_port.insert(client.port(), member);
    }
    let members: BTreeSet<_> = by_port.values().flatten().collect();
    assert_eq!(members.len(), 3, "{by_port:?}");
}

#[test]
fn all_backups_serve_while_every_primary_is_down() {
    let dataplane = Dataplane::start(2);
    let primary = refusing();
    let mut setup = Setup::tcp(&[primary, named_echo(b'1'), named_echo(b'2')]);
    let mut check = monitor(HealthCheck::Tcp);
    check.rise = krater_model::ProbeCount::new(1).unwrap();
    setup.pool().health_monitor = Some(check);
    setup.pool().members[1].backup = true;
    setup.pool().members[2].backup = true;
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    until("the primary is down", || {
        (dataplane.member(id).health == MemberHealth::Down).then_some(())
    });
    let mut names: Vec<_> = (0..4).map(|_| byte(&mut setup.connect())).collect();
    names.sort_unstable();
    assert_eq!(names, [b'1', b'1', b'2', b'2'].map(Some));
    let back = TcpListener::bind(primary).unwrap();
    std::thread::spawn(move || {
        for stream in back.incoming() {
            use std::io::Write;
            let _gone = stream.unwrap().write_all(b"p");
        }
    });
    until("the primary is up", || {
        (dataplane.member(id).health == MemberHealth::Up).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(byte(&mut setup.connect()), Some(b'p'));
    }
}

/// How many of 200 connections get each member.
fn shares(dataplane: &Dataplane, setup: &Setup) -> BTreeMap<u8, usize> {
    let mut shares = BTreeMap::from([(b'a', 0), (b'b', 0)]);
    for _ in 0..200 {
        let Some(member) = byte(&mut setup.connect()) else {
            panic!("closed: {:?}", dataplane.status().pools);
        };
        *shares.entry(member).or_default() += 1;
    }
    shares
}

/// The times are so long or so short that no machine is too slow for them: what grows in between is
/// proved in core.
#[test]
fn a_member_that_comes_back_starts_slowly() {
    const DAY: u32 = 24 * 3_600 * 1_000;
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections] {
        let dataplane = Dataplane::start(2);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
        // Probed elsewhere, so that the test decides.
        let (always, sometimes) = (echo(), refusing());
        for (member, probed) in setup.pool().members.iter_mut().zip([always, sometimes]) {
            member.monitor_port = Some(krater_model::Port::new(probed.port().into()).unwrap());
        }
        let mut check = monitor(HealthCheck::Tcp);
        check.rise = krater_model::ProbeCount::new(1).unwrap();
        check.fall = check.rise;
        setup.pool().algorithm = algorithm;
        setup.pool().health_monitor = Some(check);
        setup.pool().options.slow_start = Some(krater_model::Millis::literal(DAY));
        let id = setup.pool().members[1].id;
        let becomes = |health| {
            until(&format!("{health:?}"), || {
                (dataplane.member(id).health == health).then_some(())
            });
        };
        // At the first start members have their whole share.
        let first = TcpListener::bind(sometimes).unwrap();
        setup.apply(&dataplane);
        becomes(MemberHealth::Up);
        let start = shares(&dataplane, &setup);
        assert!(
            (70..=130).contains(&start[&b'b']),
            "{algorithm:?}: {start:?}"
        );
        drop(first);
        becomes(MemberHealth::Down);
        assert_eq!(shares(&dataplane, &setup)[&b'b'], 0);
        let _second = TcpListener::bind(sometimes).unwrap();
        becomes(MemberHealth::Up);
        let slow = shares(&dataplane, &setup);
        assert!(slow[&b'b'] <= 10, "{algorithm:?}: {slow:?}");
        // The time is over as soon as it is this short.
        setup.pool().options.slow_start = Some(krater_model::Millis::literal(1));
        setup.apply(&dataplane);
        let whole = shares(&dataplane, &setup);
        assert!(
            (70..=130).contains(&whole[&b'b']),
            "{algorithm:?}: {whole:?}"
        );
    }
}

#[test]
fn three_other_members_are_tried_and_no_fourth() {
    let dataplane = Dataplane::start(1);
    let tries = |setup: &Setup| -> Vec<u64> {
        let ids = setup.lb.pools[0].members.iter().map(|m| m.id);
        ids.map(|id| dataplane.member(id).total_connections)
            .collect()
    };
    // Round robin begins with the first member: the good one is the fourth, then the fifth.
    let mut members = vec![refusing(), refusing(), refusing(), named_echo(b'x')];
    let setup = Setup::tcp(&members);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), Some(b'x'));
    assert_eq!(tries(&setup), [1, 1, 1, 1]);
    members.insert(0, refusing());
    let setup = Setup::tcp(&members);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), None);
    assert_eq!(tries(&setup), [1, 1, 1, 1, 0]);
}

#[test]
fn connections_of_each_member_are_counted() {
    for workers in [1, 4] {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
        setup.pool().members[1].weight = krater_model::Weight::new(2).unwrap();
        setup.apply(&dataplane);
        let mut open: Vec<_> = (0..9).map(|_| setup.connect()).collect();
        open.iter_mut().for_each(|s| assert!(byte(s).is_some()));
        let ids: Vec<_> = setup.pool().members.iter().map(|m| m.id).collect();
        let counts = || -> Vec<(u64, u64)> {
            let members = ids.iter().map(|id| dataplane.member(*id));
            members
                .map(|m| (m.active_connections, m.total_connections))
                .collect()
        };
        assert_eq!(counts(), [(3, 3), (6, 6)]);
        open.clear();
        until("all ended", || (counts() == [(0, 3), (0, 6)]).then_some(()));
    }
}
