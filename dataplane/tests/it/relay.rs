//! Bytes both ways.

use crate::kit::*;
use krater_model::state::*;
use krater_model::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// Bytes that differ everywhere, so that loss, repetition and reordering show.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn bytes_and_statistics_are_exact_with_1_2_and_8_workers() {
    for workers in [1, 2, 8] {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[echo(), echo()]);
        let id = setup.listener().id;
        setup.apply(&dataplane);
        let sizes = [0, 1, 4_095, 65_537, 3_000_000];
        let clients: Vec<_> = sizes
            .iter()
            .map(|size| {
                let (mut stream, data) = (setup.connect(), pattern(*size, *size as u64));
                std::thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    let sent = data.clone();
                    let writing = std::thread::spawn(move || {
                        writer.write_all(&sent).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    writing.join().unwrap();
                    assert!(
                        back == data,
                        "{} of {} bytes came back",
                        back.len(),
                        data.len()
                    );
                })
            })
            .collect();
        clients.into_iter().for_each(|c| c.join().unwrap());
        let total: usize = sizes.iter().sum();
        let stats = until("all closed", || {
            let stats = dataplane.listener(id).stats;
            (stats.active_connections == 0).then_some(stats)
        });
        assert_eq!(stats.total_connections, sizes.len() as u64);
        assert_eq!(
            (stats.bytes_in, stats.bytes_out),
            (total as u64, total as u64)
        );
        let spliced = dataplane.metric("krater_dataplane_spliced_bytes_total");
        assert!(spliced > 1_000_000, "much goes through pipes: {spliced}");
        let copied = dataplane.metric("krater_dataplane_copied_bytes_total");
        assert_eq!(spliced + copied, 2 * total as u64);
        for member in &setup.lb.pools[0].members {
            assert_eq!(dataplane.member(member.id).active_connections, 0);
        }
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let dataplane = Dataplane::start(2);
    // Answers only after the client ended its direction.
    let member = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream
            .write_all(format!("{} bytes", all.len()).as_bytes())
            .unwrap();
    });
    let setup = Setup::tcp(&[member]);
    setup.apply(&dataplane);
    let mut stream = setup.connect();
    stream.write_all(&[7; 1234]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "1234 bytes");
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
}

/// Reads to the end: how much, and whether it was a reset.
fn ends_by_reset(stream: &mut TcpStream) -> (usize, bool) {
    let (mut part, mut all) = ([0; 4096], 0);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return (all, false),
            Ok(n) => all += n,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                return (all, true);
            }
        }
    }
}

#[test]
fn a_reset_of_a_member_is_one_for_its_client() {
    let dataplane = Dataplane::start(1);
    // It resets when it is told to: by a byte, or by many that it does not read.
    let member = server(|mut stream| {
        stream.write_all(&[1; 1000]).unwrap();
        byte(&mut stream);
        reset(stream);
    });
    let setup = Setup::tcp(&[member]);
    setup.apply(&dataplane);
    for request in [1, 500_000] {
        let mut stream = setup.connect();
        let mut part = [0; 1000];
        stream.read_exact(&mut part).unwrap();
        // The reset may come while this is written.
        let _reset = stream.write_all(&vec![2; request]);
        let (_, by_reset) = ends_by_reset(&mut stream);
        assert!(by_reset, "a stream cut after {request} bytes looks whole");
    }
}

#[test]
fn a_reset_of_a_client_is_one_for_its_member() {
    let dataplane = Dataplane::start(1);
    let (send, ended) = std::sync::mpsc::sync_channel(1);
    let member = server(move |mut stream| {
        stream.write_all(b"!").unwrap();
        send.send(ends_by_reset(&mut stream)).unwrap();
    });
    let setup = Setup::tcp(&[member]);
    setup.apply(&dataplane);
    let mut stream = setup.connect();
    assert_eq!(byte(&mut stream), Some(b'!'));
    stream.write_all(&[3; 1000]).unwrap();
    until("the bytes are through", || {
        let copied = dataplane.metric("krater_dataplane_copied_bytes_total"); // too few for a pipe
        (copied >= 1001).then_some(())
    });
    reset(stream);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), (1000, true));
}

#[test]
fn a_slow_reader_slows_the_sender_and_nothing_is_lost() {
    let dataplane = Dataplane::start(1);
    let data = pattern(8 << 20, 3);
    let sent = data.clone();
    let member = server(move |mut stream| {
        let _gone = stream.write_all(&sent);
    });
    let setup = Setup::tcp(&[member]);
    setup.apply(&dataplane);
    let mut stream = setup.connect();
    let mut got: Vec<u8> = Vec::new();
    let mut part = [0; 10_000];
    loop {
        let n = stream.read(&mut part).unwrap();
        if n == 0 {
            break;
        }
        got.extend(&part[..n]);
        std::thread::yield_now();
    }
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}

#[test]
fn round_robin_is_exact_over_workers() {
    for workers in [1, 2, 8] {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
        setup.pool().members[0].weight = Weight::new(3).unwrap();
        setup.apply(&dataplane);
        let mut counts: HashMap<u8, u32> = HashMap::new();
        for _ in 0..40 {
            *counts
                .entry(byte(&mut setup.connect()).unwrap())
                .or_default() += 1;
        }
        assert_eq!(
            counts,
            HashMap::from([(b'a', 24), (b'b', 8), (b'c', 8)]),
            "{workers} workers"
        );
    }
}

#[test]
fn least_connections_is_true_over_workers() {
    let dataplane = Dataplane::start(4);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
    setup.pool().algorithm = Algorithm::LeastConnections;
    setup.apply(&dataplane);
    let mut held: HashMap<u8, Vec<_>> = HashMap::new();
    for _ in 0..20 {
        let mut stream = setup.connect();
        held.entry(byte(&mut stream).unwrap())
            .or_default()
            .push(stream);
    }
    assert_eq!(held[&b'a'].len(), 10);
    held.remove(&b'a');
    let a = setup.pool().members[0].id;
    until("a's are closed", || {
        (dataplane.member(a).active_connections == 0).then_some(())
    });
    for _ in 0..10 {
        let mut stream = setup.connect();
        assert_eq!(byte(&mut stream), Some(b'a'));
        held.entry(b'a').or_default().push(stream);
    }
}

#[test]
fn a_member_that_refuses_is_passed_over() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[refusing(), refusing(), named_echo(b'c')]);
    setup.apply(&dataplane);
    for _ in 0..6 {
        assert_eq!(byte(&mut setup.connect()), Some(b'c'));
    }
    let last = setup.pool().members.pop().unwrap();
    setup.apply(&dataplane);
    assert_eq!(
        byte(&mut setup.connect()),
        None,
        "closed when no member can serve"
    );
    assert_eq!(
        dataplane
            .member(setup.pool().members[0].id)
            .active_connections,
        0
    );
    setup.pool().members.push(last);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), Some(b'c'));
}

#[test]
fn idle_connections_end_after_the_time_out_and_busy_ones_do_not() {
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[echo()]);
    setup.listener().timeouts.client_data = Millis::literal(300);
    setup.apply(&dataplane);
    let mut idle = setup.connect();
    let mut busy = setup.connect();
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(900);
    while std::time::Instant::now() < deadline {
        assert!(goes_round(&mut busy));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(byte(&mut idle), None);
}

#[test]
fn members_are_told_of_their_client() {
    use krater_dataplane_core::proxy_protocol::{v1, v2};
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[echo()]);
    for (protocol, header) in [
        (
            PoolProtocol::Proxy,
            &(|c, l| v1(c, l)) as &dyn Fn(_, _) -> Vec<u8>,
        ),
        (PoolProtocol::Proxyv2, &|c, l| v2(c, l, None)),
    ] {
        setup.pool().protocol = protocol;
        setup.apply(&dataplane);
        let mut stream = setup.connect();
        stream.write_all(b"hello").unwrap();
        let mut want = header(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        want.extend(b"hello");
        let mut got = vec![0; want.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, want);
    }
}

#[test]
fn clients_stick_to_their_member() {
    let dataplane = Dataplane::start(4);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
    let timeout = Millis::literal(0);
    setup.pool().persistence = Some(Persistence::SourceIp { timeout });
    setup.apply(&dataplane);
    let first = byte(&mut setup.connect()).unwrap();
    let at = usize::from(first - b'a');
    // A drained member keeps its clients, as with HAProxy's stick tables; one that is down does not.
    setup.pool().members[at].weight = Weight::new(0).unwrap();
    setup.apply(&dataplane);
    for _ in 0..10 {
        assert_eq!(byte(&mut setup.connect()), Some(first));
    }
    setup.pool().members[at].enabled = false;
    setup.apply(&dataplane);
    let second = byte(&mut setup.connect()).unwrap();
    assert_ne!(first, second);
    setup.pool().members[at].enabled = true;
    setup.apply(&dataplane);
    for _ in 0..10 {
        assert_eq!(byte(&mut setup.connect()), Some(second), "moved for good");
    }
    setup.pool().persistence = None;
    setup.apply(&dataplane);
    let mut seen: Vec<_> = (0..6).filter_map(|_| byte(&mut setup.connect())).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2);
}

#[test]
fn both_families_are_served_and_reach_either() {
    let dataplane = Dataplane::start(2);
    let v6 = std::net::TcpListener::bind(("::1", 0)).unwrap();
    let v6_member = v6.local_addr().unwrap();
    std::thread::spawn(move || {
        v6.incoming()
            .for_each(|s| s.unwrap().write_all(b"6").unwrap())
    });
    let mut setup = Setup::tcp(&[named_echo(b'4'), v6_member]);
    setup.lb.vips.push("::1".parse().unwrap());
    let port = std::net::TcpListener::bind(("::1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    setup.listener().port = Port::new(port.into()).unwrap();
    setup.apply(&dataplane);
    for vip in setup.lb.vips.clone() {
        let mut seen: Vec<_> = (0..2)
            .filter_map(|_| byte(&mut client(std::net::SocketAddr::new(vip, port))))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, b"46");
    }
}

#[test]
fn inspection_waits_for_the_client_to_speak() {
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    setup.listener().timeouts.tcp_inspect = Millis::literal(3_600_000);
    let (listener, member) = (setup.listener().id, setup.pool().members[0].id);
    setup.apply(&dataplane);
    let (mut silent, mut speaking) = (setup.connect(), setup.connect());
    speaking.write_all(b"!").unwrap();
    assert_eq!(
        (byte(&mut speaking), byte(&mut speaking)),
        (Some(b'a'), Some(b'!'))
    );
    until("both accepted", || {
        (dataplane.listener(listener).stats.active_connections == 2).then_some(())
    });
    assert_eq!(
        dataplane.member(member).total_connections,
        1,
        "the silent one waits"
    );
    silent.write_all(b"?").unwrap();
    assert_eq!(
        (byte(&mut silent), byte(&mut silent)),
        (Some(b'a'), Some(b'?'))
    );
}
