//! What must be exact however many workers there are: least connections, limits, persistence and
//! statistics, with 1, 2 and 4 of them, each step by clients at the same time; and that a fault in one
//! connection's code is nobody else's.

use crate::kit::*;
use crate::process::{PANIC, Process};
use krater_model::control::ListenerState;
use krater_model::state::*;
use krater_model::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

const WORKERS: [u16; 3] = [1, 2, 4];

/// Connections from one address, all opened at the same time; each says which member it reached.
fn crowd(setup: &Setup, from: IpAddr, count: usize) -> Vec<(u8, TcpStream)> {
    let to = setup.address();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(move || {
                    let mut stream = from_address(from, to);
                    (byte(&mut stream).unwrap(), stream)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn from_address(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn per_member(connections: &[(u8, TcpStream)]) -> HashMap<u8, usize> {
    let mut counts = HashMap::new();
    for (name, _) in connections {
        *counts.entry(*name).or_default() += 1;
    }
    counts
}

#[test]
fn least_connections() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
        setup.pool().algorithm = Algorithm::LeastConnections;
        setup.pool().members[0].weight = Weight::new(2).unwrap();
        setup.apply(&dataplane);
        let held: Vec<_> = (0..40).flat_map(|_| crowd(&setup, HERE, 1)).collect();
        let expected = HashMap::from([(b'a', 20), (b'b', 10), (b'c', 10)]);
        assert_eq!(per_member(&held), expected, "{workers} workers");
        // Many at once may look before the others are counted: never further apart than they are many.
        let more = crowd(&setup, HERE, 40);
        let all = per_member(&held.into_iter().chain(more).collect::<Vec<_>>());
        let spread = |name, share: usize| all[&name].abs_diff(80 * share / 4);
        assert!(
            spread(b'a', 2) <= 4 && spread(b'b', 1) <= 4 && spread(b'c', 1) <= 4,
            "{workers} workers: {all:?}"
        );
    }
}

#[test]
fn limits() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a')]);
        let id = setup.listener().id;
        setup.listener().connection_limit = Some(8);
        setup.apply(&dataplane);
        let below = crowd(&setup, HERE, 7);
        assert_eq!(
            dataplane.listener(id).state,
            ListenerState::Open,
            "{workers}: limit - 1"
        );
        let at = crowd(&setup, HERE, 1);
        assert_eq!(
            dataplane.listener(id).state,
            ListenerState::Full,
            "{workers}: limit"
        );
        let mut above = setup.connect();
        let stats = dataplane.listener(id).stats;
        assert_eq!(
            (stats.active_connections, stats.total_connections),
            (8, 8),
            "{workers}: limit + 1"
        );
        drop(at);
        assert_eq!(
            byte(&mut above),
            Some(b'a'),
            "{workers}: the place is taken over"
        );
        drop((below, above));
    }
}

#[test]
fn persistence() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b'), named_echo(b'c')]);
        let timeout = Millis::literal(0);
        setup.pool().persistence = Some(Persistence::SourceIp { timeout });
        setup.apply(&dataplane);
        let mut members = HashMap::new();
        for client in 1..=30_u8 {
            let from = IpAddr::V4(Ipv4Addr::new(127, 1, workers.to_be_bytes()[1], client));
            let (first, _) = crowd(&setup, from, 1).remove(0);
            // Whichever worker takes them: the table is one.
            let again = per_member(&crowd(&setup, from, 8));
            assert_eq!(again, HashMap::from([(first, 8)]), "{workers} workers");
            *members.entry(first).or_insert(0) += 1;
        }
        assert_eq!(members.len(), 3, "{workers} workers: {members:?}");
    }
}

#[test]
fn statistics() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
        let id = setup.listener().id;
        setup.apply(&dataplane);
        let mut connections = crowd(&setup, HERE, 25);
        assert_eq!(dataplane.listener(id).stats.active_connections, 25);
        let mut sent = 0;
        for (n, (_, stream)) in connections.iter_mut().enumerate() {
            let bytes = vec![b'x'; 1 + n * 997];
            sent += bytes.len() as u64;
            let mut reader = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| stream.write_all(&bytes).unwrap());
                let mut back = vec![0; bytes.len()];
                reader.read_exact(&mut back).unwrap();
            });
        }
        drop(connections);
        until("all closed", || {
            (dataplane.listener(id).stats.active_connections == 0).then_some(())
        });
        let stats = dataplane.listener(id).stats;
        // Each member says its name first.
        assert_eq!(
            (stats.total_connections, stats.bytes_in, stats.bytes_out),
            (25, sent, sent + 25),
            "{workers} workers"
        );
        let members: u64 = setup
            .pool()
            .members
            .iter()
            .map(|m| dataplane.member(m.id).total_connections)
            .sum();
        assert_eq!(members, 25, "{workers} workers");
    }
}

/// Requests and answers of HTTP, kept connections, bodies of all sizes, and our own answers: the counters say
/// what clients sent and got, to the byte.
#[test]
fn statistics_of_http_are_exact_to_the_byte() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let member = server(|mut stream| {
            let mut head = Vec::new();
            while let Some(next) = byte(&mut stream) {
                head.push(next);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let text = String::from_utf8_lossy(&head).into_owned();
                head.clear();
                let length = text
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: "));
                let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _gone = stream.write_all(&[answer.as_bytes(), &body].concat());
            }
        });
        let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
        let id = setup.listener().id;
        setup.apply(&dataplane);
        let address = setup.address();
        let sums = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..12_usize)
                .map(|n| {
                    scope.spawn(move || {
                        let mut stream = client(address);
                        let (mut sent, mut got) = (0, 0);
                        for round in 0..6_usize {
                            // Small ones are copied, large ones spliced.
                            let body = vec![b'x'; (n * 7_919 + round * 50_021) % 200_000];
                            let head = format!(
                                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                                body.len()
                            );
                            sent += head.len() + body.len();
                            let mut writer = stream.try_clone().unwrap();
                            std::thread::scope(|scope| {
                                scope.spawn(|| {
                                    writer.write_all(head.as_bytes()).unwrap();
                                    writer.write_all(&body).unwrap();
                                });
                                let mut answer = Vec::new();
                                while !answer.ends_with(b"\r\n\r\n") {
                                    answer.push(byte(&mut stream).unwrap());
                                }
                                let mut back = vec![0; body.len()];
                                stream.read_exact(&mut back).unwrap();
                                got += answer.len() + back.len();
                            });
                        }
                        // And an answer of ours, after which the connection ends.
                        let bad = b"GET / HTTP/1.1\r\nHost : a\r\n\r\n";
                        stream.write_all(bad).unwrap();
                        while byte(&mut stream).is_some() {
                            got += 1;
                        }
                        (sent + bad.len(), got)
                    })
                })
                .collect();
            let both = clients.into_iter().map(|c| c.join().unwrap());
            both.fold((0, 0), |(a, b), (sent, got)| (a + sent, b + got))
        });
        until("all closed", || {
            (dataplane.listener(id).stats.active_connections == 0).then_some(())
        });
        let stats = dataplane.listener(id).stats;
        let counted = (stats.bytes_in, stats.bytes_out);
        let expected = (sums.0 as u64, sums.1 as u64);
        assert_eq!(counted, expected, "{workers} workers");
        assert_eq!((stats.total_connections, stats.request_errors), (12, 12));
        let member = dataplane.member(setup.pool().members[0].id);
        assert_eq!(
            (member.total_connections, member.active_connections),
            (72, 0)
        );
    }
}

/// A fault in the code that serves one connection, on each worker: it ends, its places come back, and all
/// others live on. What faults is the code around a line of the log, which this test's subscriber makes panic.
#[test]
fn a_panic_ends_nobody_elses_connection() {
    for workers in WORKERS {
        for (words, panics) in [("connect failed", true), ("no such line", false)] {
            let folder = tempfile::tempdir().unwrap();
            let control = folder.path().join("c.sock");
            let variables = [
                (PANIC, words.to_owned()),
                (crate::process::WORKERS, workers.to_string()),
            ];
            let _process = Process::start_with(&control, &variables);
            let dataplane = Dataplane::attach(&control);
            let good = Setup::tcp(&[echo()]);
            let mut bad = Setup::tcp(&[refusing()]);
            let mut worse = Setup::new(ListenerProtocol::Http, &[refusing()]);
            dataplane.apply(vec![good.lb.clone(), bad.lb.clone(), worse.lb.clone()]);
            // Enough for each worker to have several.
            let mut living: Vec<_> = (0..24).map(|_| good.connect()).collect();
            assert!(living.iter_mut().all(goes_round));
            for _ in 0..12 {
                assert_eq!(byte(&mut bad.connect()), None);
                let mut http = worse.connect();
                http.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                // In order it is a 503.
                assert_eq!(byte(&mut http).is_none(), panics);
            }
            let expected = if panics { 24 } else { 0 };
            // Counted when the connection is closed already.
            until("panics counted", || {
                let counted = dataplane.metric("krater_dataplane_panics_total");
                assert!(counted <= expected, "{workers} workers");
                (counted == expected).then_some(())
            });
            assert!(living.iter_mut().all(goes_round), "{workers} workers");
            assert!(goes_round(&mut good.connect()));
            let restarts = dataplane.metric("krater_dataplane_worker_restarts_total");
            assert_eq!(restarts, 0);
            for setup in [&mut bad, &mut worse] {
                let (id, member) = (setup.listener().id, setup.pool().members[0].id);
                until("places given back", || {
                    let open = dataplane.listener(id).stats.active_connections;
                    let active = dataplane.member(member).active_connections;
                    ((open, active) == (0, 0)).then_some(())
                });
            }
        }
    }
}
