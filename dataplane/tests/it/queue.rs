//! Connection limits of members, and the queue of those who wait for a place, with 1, 2 and 4 workers.

use crate::kit::*;
use krater_model::state::*;
use krater_model::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

const WORKERS: [u16; 3] = [1, 2, 4];

/// Limits each member to `limit` connections.
fn limited(setup: &mut Setup, limit: u32) {
    for member in &mut setup.pool().members {
        member.connection_limit = Some(limit);
    }
}

/// Figures of the setup's pool.
struct Queue<'a> {
    dataplane: &'a Dataplane,
    pool: PoolId,
}

impl<'a> Queue<'a> {
    fn of(dataplane: &'a Dataplane, setup: &mut Setup) -> Self {
        let pool = setup.pool().id;
        Self { dataplane, pool }
    }

    fn waiting(&self) -> u64 {
        let name = format!("krater_dataplane_pool_queue{{pool=\"{}\"}}", self.pool);
        self.dataplane.metric(&name)
    }

    /// Waits until so many wait.
    fn holds(&self, count: u64) {
        until("the queue's length", || {
            (self.waiting() == count).then_some(())
        });
    }

    fn queued(&self) -> u64 {
        let pool = self.pool;
        let name = format!("krater_dataplane_pool_queued_total{{pool=\"{pool}\"}}");
        self.dataplane.metric(&name)
    }

    fn refused(&self, reason: &str) -> u64 {
        let pool = self.pool;
        let name = format!(
            "krater_dataplane_pool_queue_refusals_total{{pool=\"{pool}\",reason=\"{reason}\"}}"
        );
        self.dataplane.metric(&name)
    }
}

/// A request on a connection of its own.
fn ask(setup: &Setup) -> TcpStream {
    let mut stream = setup.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    stream
}

/// Status of the next answer, whose body is as its length says.
fn status(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(stream).expect("an answer"));
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head[9..12].parse().unwrap()
}

/// An HTTP member that answers when it is told to, and knows how many requests it had at a time.
#[derive(Default)]
struct Gate {
    open: Mutex<usize>,
    changed: Condvar,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Gate {
    fn member() -> (Arc<Self>, SocketAddr) {
        let gate = Arc::<Self>::default();
        let this = Arc::clone(&gate);
        let address = server(move |mut stream| {
            let mut seen = Vec::new();
            while let Some(next) = byte(&mut stream) {
                seen.push(next);
                if seen.ends_with(b"\r\n\r\n") {
                    seen.clear();
                    let inside = this.inside.fetch_add(1, SeqCst) + 1;
                    this.most.fetch_max(inside, SeqCst);
                    this.pass();
                    this.inside.fetch_sub(1, SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let _gone = stream.write_all(answer);
                }
            }
        });
        (gate, address)
    }

    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        while *open == 0 {
            open = self.changed.wait(open).unwrap();
        }
        *open -= 1;
    }

    /// Lets so many more requests be answered.
    fn let_through(&self, count: usize) {
        *self.open.lock().unwrap() += count;
        self.changed.notify_all();
    }

    fn inside(&self) -> usize {
        self.inside.load(SeqCst)
    }

    fn holds(&self, count: usize) {
        until("requests at the member", || {
            (self.inside() == count).then_some(())
        });
    }
}

#[test]
fn a_connection_above_the_limit_waits_for_a_place() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a')]);
        limited(&mut setup, 3);
        setup.apply(&dataplane);
        let queue = Queue::of(&dataplane, &mut setup);
        let enter = || {
            let mut stream = setup.connect();
            assert_eq!(byte(&mut stream), Some(b'a'));
            stream
        };
        let mut inside = vec![enter(), enter()];
        assert_eq!(queue.queued(), 0, "limit - 1");
        inside.push(enter());
        assert_eq!((queue.waiting(), queue.queued()), (0, 0), "limit");
        let mut waiting = setup.connect();
        queue.holds(1);
        let member = setup.lb.pools[0].members[0].id;
        assert_eq!(dataplane.member(member).active_connections, 3, "limit + 1");
        waiting.set_nonblocking(true).unwrap();
        assert!(waiting.peek(&mut [0]).is_err(), "it has got nothing");
        waiting.set_nonblocking(false).unwrap();
        drop(inside.pop());
        assert_eq!(byte(&mut waiting), Some(b'a'), "{workers} workers");
        let status = dataplane.member(member);
        assert_eq!(
            (status.active_connections, status.total_connections),
            (3, 4)
        );
        assert_eq!((queue.waiting(), queue.queued()), (0, 1));
    }
}

/// The member itself says that it never has more than it may, however many workers send.
#[test]
fn a_member_never_has_more_requests_than_its_limit() {
    for workers in WORKERS {
        for limit in [Some(4), None] {
            let dataplane = Dataplane::start(workers);
            let (gate, address) = Gate::member();
            let mut setup = Setup::new(ListenerProtocol::Http, &[address]);
            setup.pool().members[0].connection_limit = limit;
            setup.apply(&dataplane);
            let queue = Queue::of(&dataplane, &mut setup);
            let clients: usize = 24;
            let mut asked: Vec<_> = (0..clients).map(|_| ask(&setup)).collect();
            match limit {
                Some(limit) => {
                    gate.holds(limit as usize);
                    queue.holds(20);
                }
                // Without a limit the member gets them all at once: the test would notice.
                None => gate.holds(clients),
            }
            // Each client asks five times, as fast as it is answered.
            gate.let_through(clients * 5);
            std::thread::scope(|scope| {
                for stream in &mut asked {
                    scope.spawn(move || {
                        for _ in 0..4 {
                            assert_eq!(status(stream), 200);
                            stream
                                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                                .unwrap();
                        }
                        assert_eq!(status(stream), 200);
                    });
                }
            });
            let most = gate.most.load(SeqCst);
            let expected = limit.map_or(clients, |limit| limit as usize);
            assert_eq!(most, expected, "{workers} workers");
            let status = dataplane.member(setup.pool().members[0].id);
            assert_eq!(status.total_connections, 120, "{workers} workers");
            until("all places are given back", || {
                let member = dataplane.member(setup.pool().members[0].id);
                (member.active_connections == 0).then_some(())
            });
            assert_eq!(queue.waiting(), 0);
        }
    }
}

#[test]
fn the_queue_has_a_limit_and_an_order() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let (gate, address) = Gate::member();
        let mut setup = Setup::new(ListenerProtocol::Http, &[address]);
        limited(&mut setup, 1);
        setup.pool().options.queue_limit = Some(3);
        setup.apply(&dataplane);
        let queue = Queue::of(&dataplane, &mut setup);
        let mut inside = ask(&setup);
        gate.holds(1);
        let mut waiting = Vec::new();
        for count in 1..=3 {
            waiting.push(ask(&setup));
            queue.holds(count);
        }
        assert_eq!(queue.refused("full"), 0, "limit - 1, limit");
        let mut above = ask(&setup);
        assert_eq!(status(&mut above), 503, "limit + 1");
        assert_eq!((queue.refused("full"), queue.waiting()), (1, 3));
        gate.let_through(1);
        assert_eq!(status(&mut inside), 200);
        // Who was refused may ask again on its connection, and has a place now.
        queue.holds(2);
        above
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        queue.holds(3);
        waiting.push(above);
        for (turn, stream) in waiting.iter_mut().enumerate() {
            gate.let_through(1);
            assert_eq!(status(stream), 200, "{workers} workers, turn {turn}");
        }
        assert_eq!((queue.waiting(), queue.refused("timeout")), (0, 0));
    }
}

#[test]
fn with_a_queue_of_nothing_nobody_waits() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    limited(&mut setup, 1);
    setup.pool().options.queue_limit = Some(0);
    setup.apply(&dataplane);
    let queue = Queue::of(&dataplane, &mut setup);
    let mut inside = setup.connect();
    assert_eq!(byte(&mut inside), Some(b'a'));
    assert_eq!(byte(&mut setup.connect()), None, "closed");
    assert_eq!((queue.refused("full"), queue.queued()), (1, 0));
    drop(inside);
    until("the place is free", || {
        let mut stream = setup.connect();
        (byte(&mut stream) == Some(b'a')).then_some(())
    });
}

#[test]
fn waiting_ends_after_the_queue_time_out() {
    for (protocol, workers) in [
        (ListenerProtocol::Http, 1),
        (ListenerProtocol::Http, 4),
        (ListenerProtocol::Tcp, 2),
    ] {
        let dataplane = Dataplane::start(workers);
        let (gate, address) = Gate::member();
        let mut setup = Setup::new(protocol, &[address]);
        limited(&mut setup, 1);
        setup.pool().options.queue_timeout = Some(Millis::literal(60));
        setup.apply(&dataplane);
        let queue = Queue::of(&dataplane, &mut setup);
        let mut inside = ask(&setup);
        gate.holds(1);
        let mut late = ask(&setup);
        match protocol {
            ListenerProtocol::Tcp => assert_eq!(byte(&mut late), None),
            _ => assert_eq!(status(&mut late), 503),
        }
        assert_eq!((queue.refused("timeout"), queue.refused("full")), (1, 0));
        assert_eq!(queue.waiting(), 0);
        gate.let_through(1);
        assert_eq!(status(&mut inside), 200, "who was inside stays so");
        // The same client with the place free: it was the time-out, and it did no harm to the place.
        drop(inside);
        gate.let_through(1);
        until("an answer", || {
            (status(&mut ask(&setup)) == 200).then_some(())
        });
    }
}

/// A pool without a time-out of its own has that of connects.
#[test]
fn the_time_out_is_that_of_a_connect_if_none_is_given() {
    let dataplane = Dataplane::start(1);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    limited(&mut setup, 1);
    setup.listener().timeouts.member_connect = Millis::literal(60);
    setup.apply(&dataplane);
    let queue = Queue::of(&dataplane, &mut setup);
    let mut inside = setup.connect();
    assert_eq!(byte(&mut inside), Some(b'a'));
    assert_eq!(byte(&mut setup.connect()), None);
    assert_eq!(queue.refused("timeout"), 1);
}

#[test]
fn a_client_that_resets_gives_up_its_turn() {
    for protocol in [ListenerProtocol::Http, ListenerProtocol::Tcp] {
        let dataplane = Dataplane::start(2);
        let (gate, address) = Gate::member();
        let mut setup = Setup::new(protocol, &[address]);
        limited(&mut setup, 1);
        setup.apply(&dataplane);
        let queue = Queue::of(&dataplane, &mut setup);
        let mut inside = ask(&setup);
        gate.holds(1);
        let first = ask(&setup);
        queue.holds(1);
        let mut second = ask(&setup);
        queue.holds(2);
        socket2::SockRef::from(&first)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(first);
        queue.holds(1);
        gate.let_through(2);
        assert_eq!(status(&mut inside), 200);
        inside.shutdown(Shutdown::Both).unwrap();
        assert_eq!(status(&mut second), 200);
        let member = dataplane.member(setup.pool().members[0].id);
        assert_eq!(member.total_connections, 2, "the first never reached it");
    }
}

/// A kept connection between two requests holds no place.
#[test]
fn an_idle_client_holds_no_place() {
    let dataplane = Dataplane::start(1);
    let (gate, address) = Gate::member();
    let mut setup = Setup::new(ListenerProtocol::Http, &[address]);
    limited(&mut setup, 1);
    setup.apply(&dataplane);
    let queue = Queue::of(&dataplane, &mut setup);
    gate.let_through(3);
    let mut kept = ask(&setup);
    assert_eq!(status(&mut kept), 200);
    assert_eq!(status(&mut ask(&setup)), 200);
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(status(&mut kept), 200);
    assert_eq!((queue.queued(), queue.refused("timeout")), (0, 0));
}

#[test]
fn who_waits_gets_what_a_change_brings() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    limited(&mut setup, 1);
    setup.apply(&dataplane);
    let queue = Queue::of(&dataplane, &mut setup);
    let enter = |setup: &Setup| {
        let mut stream = setup.connect();
        (byte(&mut stream), stream)
    };
    let (name, _a) = enter(&setup);
    assert_eq!(name, Some(b'a'));
    // A higher limit.
    let mut second = setup.connect();
    queue.holds(1);
    limited(&mut setup, 2);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut second), Some(b'a'));
    // Another member.
    let mut third = setup.connect();
    queue.holds(1);
    setup.pool().members.push(member(named_echo(b'b')));
    setup.apply(&dataplane);
    assert_eq!(byte(&mut third), Some(b'b'));
    // A weight given by an operator, on a member that had none.
    setup.pool().members[1].weight = Weight::new(0).unwrap();
    setup.apply(&dataplane);
    let mut fourth = setup.connect();
    queue.holds(1);
    let path = format!("/members/{}", setup.pool().members[1].id);
    let (code, body) = dataplane.request("PUT", &path, br#"{"weight":1}"#);
    assert_eq!(code, 204, "{body}");
    assert_eq!(byte(&mut fourth), Some(b'b'));
    // No member at all: who waits hears it at once, in order not to wait in vain.
    let (code, _) = dataplane.request("PUT", &path, br#"{"state":"drain"}"#);
    assert_eq!(code, 204);
    let mut fifth = setup.connect();
    queue.holds(1);
    setup.pool().members.clear();
    setup.apply(&dataplane);
    assert_eq!(byte(&mut fifth), None);
    assert_eq!(queue.refused("timeout"), 0);
}

/// Who belongs to a member waits for it, while others pass on to the next one.
#[test]
fn clients_wait_for_the_member_that_they_belong_to() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
        limited(&mut setup, 1);
        let timeout = Millis::literal(0);
        setup.pool().persistence = Some(Persistence::SourceIp { timeout });
        setup.apply(&dataplane);
        let queue = Queue::of(&dataplane, &mut setup);
        let mut mine = setup.connect();
        let name = byte(&mut mine);
        assert!(name.is_some());
        let mut again = setup.connect();
        queue.holds(1);
        // The other member is free, and another client gets it although somebody waits.
        let mut other = from("127.9.9.9", setup.address());
        let other_name = byte(&mut other);
        assert!(other_name.is_some() && other_name != name);
        assert_eq!(queue.waiting(), 1);
        // And with its own member full too, a third one waits for either.
        let mut third = from("127.9.9.8", setup.address());
        queue.holds(2);
        drop(other);
        assert_eq!(byte(&mut third), other_name, "younger, but not tied");
        assert_eq!(queue.waiting(), 1);
        drop(mine);
        assert_eq!(byte(&mut again), name, "{workers} workers");
    }
}

#[test]
fn a_hash_keeps_its_clients_and_a_lost_member_lets_them_go() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
    limited(&mut setup, 1);
    setup.pool().algorithm = Algorithm::SourceIp;
    setup.apply(&dataplane);
    let queue = Queue::of(&dataplane, &mut setup);
    let mut mine = setup.connect();
    let name = byte(&mut mine);
    let mut again = setup.connect();
    queue.holds(1);
    let own = usize::from(name == Some(b'b'));
    let path = format!("/members/{}", setup.pool().members[own].id);
    let (code, _) = dataplane.request("PUT", &path, br#"{"state":"maint"}"#);
    assert_eq!(code, 204);
    let other = byte(&mut again);
    assert!(other.is_some() && other != name, "{other:?}");
    assert!(goes_round(&mut mine), "maint ends nobody");
}

fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn options_without_effect_and_out_of_range_are_refused() {
    let dataplane = Dataplane::start(1);
    let refused = |change: fn(&mut Pool), expected: &str| {
        let mut setup = Setup::tcp(&[named_echo(b'a')]);
        limited(&mut setup, 1);
        change(setup.pool());
        let (status, body) = dataplane.put(&dataplane.snapshot(vec![setup.lb.clone()]));
        assert_eq!(status, 400);
        assert!(body.contains(expected), "{body}");
    };
    refused(
        |pool| pool.members[0].connection_limit = Some(0),
        r#"load_balancers[0].pools[0].members[0].connection_limit","message":"use at least 1"#,
    );
    refused(
        |pool| {
            pool.members[0].connection_limit = None;
            pool.options.queue_limit = Some(1);
        },
        r#"options.queue_limit","message":"needs a member with connection_limit"#,
    );
    refused(
        |pool| pool.options.queue_limit = Some(PoolOptions::MAX_QUEUE + 1),
        "20001 is out of range: use 0 to 20000",
    );
    refused(
        |pool| pool.options.queue_timeout = Some(Millis::literal(0)),
        r#"options.queue_timeout","message":"use at least 1 ms"#,
    );
    let mut good = Setup::tcp(&[named_echo(b'a')]);
    limited(&mut good, 1);
    good.pool().options.queue_limit = Some(PoolOptions::MAX_QUEUE);
    good.pool().options.queue_timeout = Some(Millis::literal(1));
    good.apply(&dataplane);
}
