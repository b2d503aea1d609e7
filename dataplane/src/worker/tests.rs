//! What cannot be provoked from outside: panics and dead workers.

use super::*;
use crate::apply::Applier;
use crate::io::PipePool;
use crate::runtime::ListenerRuntime;
use krater_model::{ListenerId, SCHEMA};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// A listener whose one member says `x` to everyone.
fn snapshot() -> (Vec<u8>, SocketAddr) {
    snapshot_of("TCP", "TCP")
}

/// The same with a listener and a pool of these protocols. There is no certificate: TLS stays down.
fn snapshot_of(listener: &str, pool_protocol: &str) -> (Vec<u8>, SocketAddr) {
    let member = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let member_port = member.local_addr().unwrap().port();
    std::thread::spawn(move || {
        member
            .incoming()
            .for_each(|s| s.unwrap().write_all(b"x").unwrap())
    });
    let vip = Ipv4Addr::new(127, 77, 0, 1);
    let port = TcpListener::bind((vip, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let pool = krater_model::PoolId::random();
    let tls = (listener == "TERMINATED_HTTPS").then(|| {
        let missing = krater_model::CertificateId::of(b"missing");
        serde_json::json!({"default_certificate": missing})
    });
    let text = serde_json::json!({
        "schema": SCHEMA, "revision": {"epoch": 1, "generation": 1}, "request_id": "req-1", "certificates": [],
        "load_balancers": [{
            "id": krater_model::LoadBalancerId::random(), "vips": [vip],
            "listeners": [{
                "id": ListenerId::random(), "protocol": listener, "port": port, "default_pool": pool, "tls": tls,
            }],
            "pools": [{"id": pool, "protocol": pool_protocol, "algorithm": "ROUND_ROBIN", "members": [{
                "id": krater_model::MemberId::random(), "address": "127.0.0.1", "port": member_port, "weight": 1,
            }]}],
        }],
    });
    (
        serde_json::to_vec(&text).unwrap(),
        SocketAddr::from((vip, port)),
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(PipePool::new(4)))
}

#[test]
fn a_panic_ends_its_connection_and_gives_everything_back() {
    let shared = shared();
    let (text, address) = snapshot();
    let mut applier = Applier::new(Arc::clone(&shared), watch::Sender::default(), 1);
    applier.apply(&text).unwrap();
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let worker = Rc::new(WorkerShared::new(Arc::clone(&shared), 0));
        let view = shared.listener_at(address).unwrap();
        let place = view.runtime.try_enter(None).unwrap();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let connection = {
            let worker = Rc::clone(&worker);
            async move {
                let _buffer = worker.buffers.take();
                tokio::task::yield_now().await;
                panic!("on purpose");
            }
        };
        let guard = Guard::new(Rc::clone(&worker), place, None, peer);
        guard.around(connection).await;
        assert_eq!(worker.buffers.held(), 0);
        assert_eq!(view.runtime.snapshot().active_connections, 0);
    });
    assert_eq!(shared.events.panics.load(Relaxed), 1);
}

#[test]
fn a_dead_worker_is_started_again_on_its_socket() {
    let shared = shared();
    let mut workers = Workers::start(Arc::clone(&shared), 2).unwrap();
    // Worker 1 dies before it knows of any address.
    let (other_plan, _) = (watch::Sender::<Plan>::default(), ());
    let plan = std::mem::replace(&mut workers.plan, other_plan);
    drop(plan);
    until("both ended", || {
        workers
            .threads
            .iter()
            .flatten()
            .all(JoinHandle::is_finished)
    });
    let (text, address) = snapshot();
    let mut applier = Applier::new(Arc::clone(&shared), workers.plan(), 2);
    applier.apply(&text).unwrap();
    // The kernel spreads these over both sockets; nobody accepts.
    let mut clients: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    workers.supervise();
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
    assert_eq!(shared.events.worker_restarts.load(Relaxed), 2);
    workers.supervise();
    assert_eq!(shared.events.worker_restarts.load(Relaxed), 2, "they live");
    until("both tick", || {
        workers.hearts.iter().all(|heart| heart.beats() > 0)
    });
}

#[test]
fn a_listener_that_closes_ends_its_connections_and_no_others() {
    let shared = shared();
    let ids = [ListenerId::random(), ListenerId::random()];
    let listeners = ids.map(|id| Arc::new(ListenerRuntime::new(id)));
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let worker = Rc::new(WorkerShared::new(Arc::clone(&shared), 0));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let wait = || {
            let worker = Rc::clone(&worker);
            async move {
                let _buffer = worker.buffers.take();
                std::future::pending().await
            }
        };
        for listener in &listeners {
            let place = listener.try_enter(None).unwrap();
            Guard::new(Rc::clone(&worker), place, None, peer).take(wait());
        }
        let open = || listeners.each_ref().map(|listener| listener.open());
        let turn = async || {
            worker.housekeeping();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        };
        turn().await;
        assert_eq!((open(), worker.buffers.held()), ([1, 1], 2));
        shared.close_connections(&listeners[1]);
        turn().await;
        assert_eq!((open(), worker.buffers.held()), ([1, 0], 1));
        // Who comes afterwards stays.
        let place = listeners[1].try_enter(None).unwrap();
        Guard::new(Rc::clone(&worker), place, None, peer).take(wait());
        turn().await;
        assert_eq!((open(), worker.buffers.held()), ([1, 1], 2));
        shared.close_connections(&listeners[0]);
        shared.close_connections(&listeners[1]);
        turn().await;
        assert_eq!((open(), worker.buffers.held()), ([0, 0], 0));
    });
}

/// Tells how large the task of a connection is.
struct Size(Guard);

impl Taker for Size {
    type Taken = usize;

    fn take<F: Future<Output = ()> + 'static>(self, connection: F) -> usize {
        size_of_val(&self.0.around(connection))
    }
}

/// Small futures are what makes idle connections cheap.
#[test]
fn the_futures_of_a_connection_stay_small() {
    let runtime = runtime();
    let _context = runtime.enter();
    let size = |listener, pool| {
        let shared = shared();
        let (text, address) = snapshot_of(listener, pool);
        let mut applier = Applier::new(Arc::clone(&shared), watch::Sender::default(), 1);
        applier.apply(&text).unwrap();
        let worker = Rc::new(WorkerShared::new(Arc::clone(&shared), 0));
        let routes = shared.routes();
        let view = routes.listeners.values().next().unwrap();
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let place = view.runtime.try_enter(None).unwrap();
        let guard = Guard::new(Rc::clone(&worker), place, None, address);
        let (key, ends) = (guard.key(), (address, address));
        serve(worker, Arc::clone(view), stream, ends, key, Size(guard))
    };
    // A task is what it runs and 88 bytes of tokio's, in blocks of 128.
    let blocks = |size: usize| (size + 88).div_ceil(128);
    let (http, tcp) = (size("HTTP", "HTTP"), size("TCP", "TCP"));
    let tls = size("TERMINATED_HTTPS", "HTTP");
    assert!(
        blocks(http) <= 4 && blocks(tls) <= 4 && blocks(tcp) <= 7,
        "{http}, {tls} and {tcp} bytes"
    );
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
