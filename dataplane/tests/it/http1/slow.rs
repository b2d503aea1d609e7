//! Clients that are slow on purpose, and members that vanish without a word.

use super::kit::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

const CLIENTS: usize = 4_000;

fn timeouts(client: u32, connect: u32, member: u32) -> serde_json::Value {
    json!({"client_data": client, "member_connect": connect, "member_data": member, "tcp_inspect": 0})
}

/// Slowloris: thousands of heads that grow by a byte now and then. The deadline counts from a head's
/// first byte, whatever trickles in afterwards; the memory is bounded; the other listener does not notice.
#[test]
fn slowloris() {
    // Both ends of every connection are in this process.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= 10_000,
        "the limit of open files is {hard}, 10,000 are needed"
    );
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(10_000), hard).unwrap();
    let member = Member::text("x");
    let mut plane = Plane::with(&[member.address]);
    let other = Plane::with(&[member.address]);
    let mut undisturbed = other.client();
    let mut slow: Vec<Slow> = (0..CLIENTS).map(|_| Slow::new(plane.vip)).collect();
    until("all are inside", || {
        plane.stats().active_connections == CLIENTS as u64
    });
    plane.listener["timeouts"] = timeouts(1_500, 5_000, 50_000);
    plane.apply();
    for client in &mut slow {
        client
            .stream
            .write_all(b"GET /slow HTTP/1.1\r\nX: ")
            .unwrap();
    }
    let (mut trickles, mut most) = (0, 0);
    until("the deadline", || {
        for client in &mut slow {
            client.trickle();
        }
        trickles += 1;
        most = most.max(plane.metric("krater_dataplane_buffers_held"));
        assert_eq!(undisturbed.get("/").text(), "x", "the other listener");
        slow.iter().all(|client| client.gone)
    });
    assert!(trickles > 1, "bytes came in until the end");
    assert!(
        most <= CLIENTS as u64 + 2,
        "{most} buffers for {CLIENTS} heads"
    );
    for client in &slow {
        let answer = String::from_utf8_lossy(&client.answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    drop(slow);
    until("nothing is left", || {
        let stats = plane.stats();
        stats.active_connections == 0 && plane.metric("krater_dataplane_buffers_held") == 0
    });
    assert_eq!(plane.stats().request_errors, CLIENTS as u64);
    assert!(
        member
            .requests()
            .iter()
            .all(|request| request.start() == "GET / HTTP/1.1")
    );
    assert_eq!(
        plane.client().get("/").text(),
        "x",
        "and this one serves on"
    );
}

struct Slow {
    stream: TcpStream,
    answer: Vec<u8>,
    gone: bool,
}

impl Slow {
    fn new(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            answer: Vec::new(),
            gone: false,
        }
    }

    /// A byte more of the head, and a look for the answer.
    fn trickle(&mut self) {
        if self.gone {
            return;
        }
        let _refused = self.stream.write(b"x");
        let mut bytes = [0; 512];
        match self.stream.read(&mut bytes) {
            Ok(n @ 1..) => self.answer.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.gone = true,
        }
    }
}

/// An address whose connects get no answer: its backlog is full, so that the kernel drops what comes.
struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _full: Vec<Socket>,
}

impl Blackhole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let full: Vec<Socket> = (0..8)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _in_progress = socket.connect(&address);
                socket
            })
            .collect();
        let connected = full.iter().filter(|s| s.peer_addr().is_ok()).count();
        assert!(connected < full.len(), "the backlog takes no more");
        Self {
            address: address.as_socket().unwrap(),
            _listener: listener,
            _full: full,
        }
    }
}

#[test]
fn a_blackholed_member_is_passed_over() {
    let hole = Blackhole::new();
    let mut plane = Plane::with(&[hole.address]);
    plane.listener["timeouts"] = timeouts(50_000, 100, 50_000);
    plane.apply();
    let mut client = plane.client();
    assert_eq!(client.get("/").status(), 503, "nobody else is there");
    let member = Member::text("x");
    plane.pools = vec![pool(1, &[hole.address, member.address])];
    plane.apply();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "x", "on the same connection");
    }
}

/// The member stops in the middle of a body: no end, no reset. Its time-out ends it, by a reset, since
/// only that tells the client that something is missing.
#[test]
fn a_member_that_stalls_in_the_body_is_cut_off() {
    for head in [
        "Content-Length: 100",
        "Transfer-Encoding: chunked",
        "X: until close",
    ] {
        let member = Member::new(move |mut connection, _| {
            connection.request();
            connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nabcde\r\n"));
            connection.rest(); // until the proxy gives up
        });
        let mut plane = Plane::with(&[member.address]);
        plane.listener["timeouts"] = timeouts(50_000, 5_000, 100);
        plane.apply();
        let mut client = plane.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap().status(), 200);
        assert!(client.ends_by_reset(), "{head}");
        until("both are gone", || plane.stats().active_connections == 0);
    }
}

/// A reset of the member in the middle of a body is one for the client.
#[test]
fn a_member_that_resets_in_the_body_is_a_reset_for_the_client() {
    for head in [
        "Content-Length: 100000",
        "Transfer-Encoding: chunked",
        "X: until close",
    ] {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let gone = std::sync::Mutex::new(gone);
        let member = Member::new(move |mut connection, _| {
            connection.request();
            connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nabcde\r\n"));
            gone.lock().unwrap().recv().unwrap();
            connection.reset();
        });
        let plane = Plane::with(&[member.address]);
        let mut client = plane.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap().status(), 200);
        assert_eq!(client.read_exact(8), b"5\r\nabcde");
        go.send(()).unwrap();
        assert!(client.ends_by_reset(), "{head}");
    }
}

/// Half-open: the member's host went away, and its kernel knows nothing of the kept connection. The
/// request is sent once more, on a fresh connection.
#[test]
fn a_kept_connection_that_is_half_open_is_replaced() {
    let member = Member::new(move |mut connection, number| {
        connection.request();
        connection.send(ok(if number == 0 { "first" } else { "second" }));
        if number == 0 {
            // What comes next is answered by a reset, as by a host that started again.
            connection.stream.peek(&mut [0]).unwrap();
            connection.reset();
        } else {
            connection.rest();
        }
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    assert_eq!(client.get("/").text(), "first");
    assert_eq!(client.get("/").text(), "second");
    assert_eq!(member.connections(), 2);
}
