//! Health monitors of each type, up and down, with the reason.

use crate::kit::*;
use krater_model::control::{MemberHealth, MemberStatus};
use krater_model::state::*;
use krater_model::*;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

fn http(expected: &[(u64, u64)]) -> HttpCheck {
    let code = |n| StatusCode::new(n).unwrap();
    HttpCheck {
        method: "GET".into(),
        path: "/health".into(),
        expected: expected.iter().map(|(a, b)| (code(*a), code(*b))).collect(),
        version: HttpVersion::Http11,
        host: Some("app.example".into()),
    }
}

fn becomes(dataplane: &Dataplane, id: MemberId, health: MemberHealth, reason: &str) {
    until(&format!("{health:?}: {reason}"), || {
        let member = dataplane.member(id);
        (member.health == health && member.reason == reason).then_some(())
    });
}

#[test]
fn http_goes_down_and_up_with_the_reason() {
    let dataplane = Dataplane::start(2);
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let web = server(move |mut stream| {
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap_or(0);
        if n == 0 {
            return;
        }
        let request = String::from_utf8_lossy(&request[..n]).into_owned();
        assert!(
            request.starts_with("GET /health HTTP/1.1\r\nHost: app.example\r\n"),
            "{request}"
        );
        let _gone = write!(
            stream,
            "HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n",
            answers.load(Relaxed)
        );
    });
    let mut setup = Setup::tcp(&[web, named_echo(b'b')]);
    setup.pool().health_monitor = Some(monitor(HealthCheck::Http(http(&[(200, 204)]))));
    // The second member is probed elsewhere.
    setup.pool().members[1].monitor_port = Some(Port::new(web.port().into()).unwrap());
    let (first, second) = (setup.pool().members[0].id, setup.pool().members[1].id);
    setup.apply(&dataplane);
    becomes(&dataplane, first, MemberHealth::Up, "HTTP 200");
    becomes(&dataplane, second, MemberHealth::Up, "HTTP 200");
    status.store(503, Relaxed);
    becomes(
        &dataplane,
        first,
        MemberHealth::Down,
        "HTTP 503, expected 200-204",
    );
    becomes(
        &dataplane,
        second,
        MemberHealth::Down,
        "HTTP 503, expected 200-204",
    );
    assert_eq!(byte(&mut setup.connect()), None);
    // State survives a change of the monitor.
    let monitor = setup.pool().health_monitor.as_mut().unwrap();
    monitor.rise = ProbeCount::new(3).unwrap();
    setup.apply(&dataplane);
    assert_eq!(dataplane.member(first).health, MemberHealth::Down);
    status.store(204, Relaxed);
    becomes(&dataplane, second, MemberHealth::Up, "HTTP 204");
    becomes(&dataplane, first, MemberHealth::Up, "HTTP 204");
    setup.pool().health_monitor = None;
    setup.apply(&dataplane);
    assert_eq!(dataplane.member(first).health, MemberHealth::NoCheck);
}

#[test]
fn tcp_notices_a_closed_port() {
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[refusing(), echo()]);
    setup.pool().health_monitor = Some(monitor(HealthCheck::Tcp));
    setup.apply(&dataplane);
    becomes(
        &dataplane,
        setup.pool().members[0].id,
        MemberHealth::Down,
        "connection refused",
    );
    becomes(
        &dataplane,
        setup.pool().members[1].id,
        MemberHealth::Up,
        "connection accepted",
    );
}

#[test]
fn a_silent_member_times_out() {
    let dataplane = Dataplane::start(1);
    let silent = server(|mut stream| {
        let mut all = Vec::new();
        let _gone = stream.read_to_end(&mut all);
    });
    let mut setup = Setup::tcp(&[silent]);
    let mut http = monitor(HealthCheck::Http(http(&[(200, 200)])));
    http.timeout = Millis::literal(100);
    setup.pool().health_monitor = Some(http);
    setup.apply(&dataplane);
    becomes(
        &dataplane,
        setup.pool().members[0].id,
        MemberHealth::Down,
        "no answer in 100ms",
    );
}

#[test]
fn ping_asks_the_host() {
    // Tests run as root; the range of groups that may ping may still be empty in this namespace.
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[echo()]);
    setup.pool().health_monitor = Some(monitor(HealthCheck::Ping));
    let id = setup.pool().members[0].id;
    setup.apply(&dataplane);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap();
    let mut ends = range.split_whitespace().map(|n| n.parse::<u64>().unwrap());
    if ends.next() > ends.next() {
        let why = until("own fault named", || {
            let member = dataplane.member(id);
            (member.reason != "not probed yet").then_some(member)
        });
        assert_eq!(
            why.health,
            MemberHealth::Checking,
            "our fault is not the member's"
        );
        assert!(why.reason.contains("ping_group_range"), "{}", why.reason);
    } else {
        becomes(&dataplane, id, MemberHealth::Up, "echo reply received");
    }
}

#[test]
fn tls_hello_wants_a_server_hello() {
    let dataplane = Dataplane::start(1);
    let plain = server(|mut stream| {
        let _gone = stream.write_all(b"220 smtp.example ESMTP\r\n");
        let mut all = Vec::new();
        let _gone = stream.read_to_end(&mut all);
    });
    let mut setup = Setup::tcp(&[plain, crate::tls::https_server("up")]);
    setup.pool().health_monitor = Some(monitor(HealthCheck::TlsHello));
    setup.apply(&dataplane);
    becomes(
        &dataplane,
        setup.pool().members[0].id,
        MemberHealth::Down,
        "not a TLS answer",
    );
    becomes(
        &dataplane,
        setup.pool().members[1].id,
        MemberHealth::Up,
        "ServerHello received",
    );
}

#[test]
fn https_asks_inside_tls() {
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[crate::tls::https_server("up"), echo()]);
    setup.pool().health_monitor = Some(monitor(HealthCheck::Https(http(&[(200, 200)]))));
    setup.apply(&dataplane);
    becomes(
        &dataplane,
        setup.pool().members[0].id,
        MemberHealth::Up,
        "HTTP 200",
    );
    let id = setup.pool().members[1].id;
    until("down", || {
        let member = dataplane.member(id);
        (member.health == MemberHealth::Down && member.reason.contains("TLS")).then_some(())
    });
}

#[test]
fn failing_traffic_takes_a_member_down_and_probes_bring_it_back() {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
    static PROBES: AtomicUsize = AtomicUsize::new(0);
    static STATUS: AtomicU64 = AtomicU64::new(500);
    let bad = server(|mut stream| {
        let mut part = [0; 1024];
        let n = stream.read(&mut part).unwrap_or(0);
        let probe = part[..n].starts_with(b"GET /probe");
        let status = if probe {
            PROBES.fetch_add(1, SeqCst);
            200
        } else {
            STATUS.load(SeqCst)
        };
        let _gone = write!(
            stream,
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
    });
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::new(ListenerProtocol::Http, &[bad]);
    let mut check = monitor(HealthCheck::Http(HttpCheck {
        path: "/probe".into(),
        ..http(&[(200, 200)])
    }));
    check.delay = Millis::literal(60_000);
    setup.pool().health_monitor = Some(check);
    setup.pool().options.failures_in_a_row = Some(3);
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    let health = || dataplane.member(id).health;
    until("up", || (health() == MemberHealth::Up).then_some(()));
    let ask = || {
        let mut stream = setup.connect();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    };
    // A good answer in between begins the count anew.
    assert_eq!([ask(), ask()], ["500", "500"], "limit - 1");
    STATUS.store(200, SeqCst);
    assert_eq!(ask(), "200");
    STATUS.store(500, SeqCst);
    assert_eq!([ask(), ask()], ["500", "500"]);
    assert_eq!(health(), MemberHealth::Up);
    assert_eq!(ask(), "500", "limit");
    assert_eq!(health(), MemberHealth::Down);
    let reason = dataplane.member(id).reason;
    assert_eq!(reason, "too many failures of traffic in a row");
    assert_eq!(ask(), "503", "nobody serves: it gets nothing any more");
    // Probes, which say that it is well, must do so twice.
    let mut again = setup.pool().health_monitor.clone().unwrap();
    again.delay = Millis::literal(50);
    setup.pool().health_monitor = Some(again);
    let before = PROBES.load(SeqCst);
    setup.apply(&dataplane);
    until("up again", || (health() == MemberHealth::Up).then_some(()));
    assert!(PROBES.load(SeqCst) >= before + 2, "rise is 2");
}

/// The first probes of members that come together are two milliseconds apart: a thousand of them take two seconds. A busy
/// machine makes it longer, never shorter.
#[test]
fn members_that_come_together_are_not_probed_in_one_burst() {
    const MEMBERS: usize = 1_000;
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (came, seen) = std::sync::mpsc::sync_channel(10 * MEMBERS);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
            let _gone = came.send(std::time::Instant::now());
        }
    });
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&vec![address; MEMBERS]);
    let mut slowly = monitor(HealthCheck::Tcp);
    slowly.delay = Millis::literal(3_600_000);
    setup.pool().health_monitor = Some(slowly);
    setup.apply(&dataplane);
    let times: Vec<_> = (0..MEMBERS)
        .map(|_| seen.recv_timeout(PATIENCE).unwrap())
        .collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(
        *last - *first > std::time::Duration::from_millis(1_500),
        "{:?}",
        *last - *first
    );
    until("all are up", || {
        let up = |m: &MemberStatus| m.health == MemberHealth::Up;
        dataplane.status().pools[0]
            .members
            .iter()
            .all(up)
            .then_some(())
    });
    assert!(seen.try_recv().is_err(), "each was probed once");
}

/// A member that waits for a PROXY header gets one from probes too, unless they go elsewhere.
#[test]
fn probes_speak_the_pools_proxy_protocol() {
    let dataplane = Dataplane::start(1);
    for (protocol, header) in [
        (PoolProtocol::Proxy, &b"PROXY UNKNOWN\r\n"[..]),
        (PoolProtocol::Proxyv2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let strict = move |wants: &'static [u8]| {
            server(move |mut stream| {
                let (mut got, mut part) = (Vec::new(), [0; 1024]);
                while got.len() < wants.len() + 5 || !got.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(n @ 1..) => got.extend(&part[..n]),
                        _ => return,
                    }
                }
                let good = got.starts_with(&[wants, b"GET "].concat());
                let status = if good { "200 OK" } else { "400 Bad Request" };
                let _gone = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            })
        };
        let (there, elsewhere) = (strict(header), strict(b""));
        let mut setup = Setup::new(ListenerProtocol::Http, &[there, there]);
        setup.pool().protocol = protocol;
        setup.pool().health_monitor = Some(monitor(HealthCheck::Http(http(&[(200, 200)]))));
        setup.pool().members[1].monitor_port = Some(Port::new(elsewhere.port().into()).unwrap());
        setup.apply(&dataplane);
        for member in &setup.pool().members {
            becomes(&dataplane, member.id, MemberHealth::Up, "HTTP 200");
        }
        // Where traffic goes without a header, one would be nonsense.
        setup.pool().protocol = PoolProtocol::Http;
        setup.apply(&dataplane);
        let first = setup.pool().members[0].id;
        becomes(
            &dataplane,
            first,
            MemberHealth::Down,
            "HTTP 400, expected 200",
        );
    }
}
