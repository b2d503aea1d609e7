//! A flood of connections to one listener: what others are served is counted, not timed.

use crate::kit::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const WORKERS: [u16; 3] = [1, 2, 4];
/// Requests that must be answered while the flood lasts.
const REQUESTS: usize = 40;
/// Threads that flood, each one connection after the other.
const FLOODERS: usize = 4;

/// A flooding connection that waits for longer is none.
const GIVE_UP: Duration = Duration::from_millis(300);

/// A listener that is flooded and one that serves, each with a load balancer and members of its own.
fn two(
    dataplane: &Dataplane,
    flooded: SocketAddr,
    change: impl FnOnce(&mut Setup),
) -> (Setup, Setup) {
    let mut flooded = Setup::tcp(&[flooded]);
    let serving = Setup::tcp(&[named_echo(b's')]);
    change(&mut flooded);
    dataplane.apply(vec![flooded.lb.clone(), serving.lb.clone()]);
    (flooded, serving)
}

/// A member that closes what comes, without a thread for each.
fn sink() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

/// One flooding connection.
#[derive(Clone, Copy)]
enum Kind {
    /// Connected and reset at once.
    Reset,
    /// As many as its thread may hold stay open and say nothing.
    Held,
}

/// Floods until `end`; counts connections.
fn flood(to: SocketAddr, kind: Kind, end: &AtomicBool, made: &AtomicU64) {
    let mut held = Vec::new();
    while !end.load(Relaxed) {
        let Ok(stream) = TcpStream::connect_timeout(&to, GIVE_UP) else {
            continue; // its backlog is full: so shall it be
        };
        made.fetch_add(1, Relaxed);
        // A reset leaves no port behind that waits for its time.
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        match kind {
            Kind::Reset => {}
            Kind::Held if held.len() < 200 => held.push(stream),
            Kind::Held => held.clear(),
        }
    }
}

/// `REQUESTS` connections, each with one exchange; how many went wrong.
fn exchanges(to: SocketAddr) -> usize {
    let good = |_: &usize| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut back = [0; 5];
        stream.write_all(b"ping").is_ok()
            && stream.read_exact(&mut back).is_ok()
            && &back == b"sping"
    };
    REQUESTS - (0..REQUESTS).filter(good).count()
}

fn undisturbed(workers: u16, kind: Kind, change: impl FnOnce(&mut Setup)) {
    let dataplane = Dataplane::start(workers);
    let member = match kind {
        Kind::Reset => sink(),
        Kind::Held => named_echo(b'f'),
    };
    let (flooded, serving) = two(&dataplane, member, change);
    let (from, to) = (flooded.address(), serving.address());
    let (end, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let failed = std::thread::scope(|scope| {
        for _ in 0..FLOODERS {
            scope.spawn(|| flood(from, kind, &end, &made));
        }
        // The flood is on before the first request, and is still on behind the last one.
        until("a flood", || (made.load(Relaxed) > 100).then_some(()));
        let before = made.load(Relaxed);
        let failed = exchanges(to);
        let during = made.load(Relaxed) - before;
        end.store(true, Relaxed);
        assert!(
            during > 20,
            "{workers} workers: only {during} flooding connections"
        );
        failed
    });
    assert_eq!(failed, 0, "{workers} workers: of {REQUESTS} requests");
    let stats = dataplane.listener(serving.lb.listeners[0].id).stats;
    assert_eq!(
        stats.total_connections, REQUESTS as u64,
        "{workers} workers"
    );
    assert_eq!(stats.bytes_in, 4 * REQUESTS as u64);
    assert_eq!(stats.bytes_out, 5 * REQUESTS as u64);
    // What the flood was is seen too, and it leaves nothing behind.
    let id = flooded.lb.listeners[0].id;
    until("the flood's end", || {
        (dataplane.listener(id).stats.active_connections == 0).then_some(())
    });
    assert!(dataplane.listener(id).stats.total_connections > 0);
}

#[test]
fn resets_on_one_listener_are_nothing_to_another() {
    for workers in WORKERS {
        undisturbed(workers, Kind::Reset, |_| {});
    }
}

/// More than its limit: the others wait in its own backlog.
#[test]
fn a_full_listener_is_nothing_to_another() {
    for workers in WORKERS {
        undisturbed(workers, Kind::Held, |flooded| {
            flooded.listener().connection_limit = Some(50);
        });
    }
}

/// Refused before a byte is read, as fast as they come.
#[test]
fn refused_clients_on_one_listener_are_nothing_to_another() {
    for workers in WORKERS {
        let dataplane = Dataplane::start(workers);
        let (flooded, serving) = two(&dataplane, sink(), |flooded| {
            flooded.listener().allowed_cidrs = vec!["192.0.2.0/24".parse().unwrap()];
        });
        let (from, to) = (flooded.address(), serving.address());
        let (end, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let failed = std::thread::scope(|scope| {
            for _ in 0..FLOODERS {
                scope.spawn(|| flood(from, Kind::Reset, &end, &made));
            }
            until("a flood", || (made.load(Relaxed) > 100).then_some(()));
            let failed = exchanges(to);
            end.store(true, Relaxed);
            failed
        });
        assert_eq!(failed, 0, "{workers} workers");
        assert!(dataplane.metric("krater_dataplane_refused_clients_total") > 0);
    }
}

/// The negative control: clients of the flooded listener itself, when it is full, are not served.
#[test]
fn the_flooded_listener_itself_is_full() {
    let dataplane = Dataplane::start(2);
    let (flooded, _) = two(&dataplane, named_echo(b'f'), |flooded| {
        flooded.listener().connection_limit = Some(1);
    });
    let mut first = flooded.connect();
    assert_eq!(byte(&mut first), Some(b'f'));
    let mut second = flooded.connect();
    second
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(second.read_exact(&mut [0]).is_err());
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(byte(&mut second), Some(b'f'));
}
