//! Workers: threads with a current-thread runtime each that accept and proxy connections.
//!
//! Tasks of a worker: one reconciles accept loops with the plan, one ticks, one per served address
//! accepts, one per connection serves. A panic ends one connection. A worker that dies is started
//! again on the same sockets by [`Workers::supervise`].

mod guard;

use crate::access_log::Lines;
use crate::clock::{Key, Timers};
use crate::io::{BufferPool, Conn, ConnectError};
use crate::listen::{Bound, WorkerSocket};
use crate::proxy;
use crate::runtime::{ClientPlace, ListenerView, Place, Shared};
use crate::tls;
use crate::upstream::pool::Pool;
use futures_util::FutureExt;
use guard::{Boxed, Guard, Taker};
use krater_model::state::ListenerProtocol;
use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Stack of a worker: futures live on the heap, the deepest calls are in TLS and regex.
const STACK: usize = 512 * 1024;
/// How often a worker shows that it lives.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Buffers that nobody needed for a second begin to go.
const TICKS_PER_TRIM: u32 = 100;
/// Between two looks at the deadlines of clients: a tenth of a second.
const TICKS_PER_SWEEP: u32 = 10;
/// Connections accepted in a row before other tasks get their turn.
const ACCEPT_BATCH: usize = 64;
/// Pause of accepting when descriptors or memory have run out: others end meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What connections on one worker share.
#[derive(Debug)]
pub struct WorkerShared {
    /// Process-global state.
    pub shared: Arc<Shared>,
    /// Which worker, 0-based.
    pub index: usize,
    /// Buffers that only active connections hold.
    pub buffers: Rc<BufferPool>,
    /// Idle keep-alive connections to members.
    pub members: Pool,
    /// Deadlines of client connections.
    pub timers: Timers,
    /// Lines of access logs that are not handed over yet.
    pub lines: Lines,
    /// Since the worker began.
    ticks: Cell<u32>,
    /// Client connections of the process, and the tick in which they were counted.
    load: Cell<(u32, u64)>,
    /// What was added to the process's sums so far.
    published: Cell<Figures>,
    /// [`Shared::closings`] for which connections were woken.
    closings_told: Cell<u32>,
}

/// A worker's part of [`crate::runtime::Usage`].
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    buffers: u64,
    kept: u64,
    reused: u64,
}

impl WorkerShared {
    /// For a worker of `shared`.
    pub fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self {
            shared,
            index,
            buffers: Rc::default(),
            members: Pool::default(),
            timers: Timers::default(),
            lines: Lines::default(),
            ticks: Cell::default(),
            load: Cell::new((u32::MAX, 0)),
            published: Cell::default(),
            closings_told: Cell::default(),
        }
    }

    /// Called with every tick: closes what was kept for too long, tells those that shall end.
    fn housekeeping(&self) {
        self.members.sweep(tokio::time::Instant::now());
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        self.lines.flush(&self.shared);
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            self.timers.sweep();
        }
        if ticks.is_multiple_of(TICKS_PER_TRIM) {
            self.buffers.trim();
        }
        self.publish(Figures {
            buffers: self.buffers.held() as u64,
            kept: self.members.len() as u64,
            reused: self.members.reused(),
        });
        let closings = self.shared.closings();
        // Once: who waits later sees a drain at its first look, and it has no way back.
        if self.closings_told.replace(closings) != closings {
            self.timers.wake_all();
        }
    }

    /// Client connections of the process, as of this tick: listeners are many.
    pub(crate) fn process_load(&self) -> u64 {
        let (tick, load) = self.load.get();
        if tick == self.ticks.get() {
            return load;
        }
        let load = self.shared.open_connections();
        self.load.set((self.ticks.get(), load));
        load
    }

    /// Adds what changed since the last time; differences wrap, as atomics do.
    fn publish(&self, now: Figures) {
        let last = self.published.replace(now);
        let usage = &self.shared.usage;
        let add = |to: &AtomicU64, now: u64, last: u64| {
            if now != last {
                to.fetch_add(now.wrapping_sub(last), Relaxed);
            }
        };
        add(&usage.buffers, now.buffers, last.buffers);
        add(&usage.kept, now.kept, last.kept);
        add(&usage.reused, now.reused, last.reused);
    }

    /// Connects to a member within `timeout` (zero: the kernel's patience), never from a VIP.
    pub async fn connect(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Conn, ConnectError> {
        let connecting = self.shared.connect(address, Duration::ZERO);
        match self.timers.within(timeout, connecting).await {
            Some(connected) => connected,
            None => Err(ConnectError::Timeout {
                address,
                after: timeout,
            }),
        }
    }
}

impl Drop for WorkerShared {
    /// A worker that dies holds nothing any more; what it did stays.
    fn drop(&mut self) {
        self.lines.flush(&self.shared);
        let reused = self.published.get().reused;
        self.publish(Figures {
            reused,
            ..Figures::default()
        });
    }
}

/// Which addresses the workers accept on.
pub(crate) type Plan = Arc<Vec<Arc<Bound>>>;

/// A worker's sign of life, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Heart(AtomicU64);

impl Heart {
    pub(crate) fn beats(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The workers of the process.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    plan: watch::Sender<Plan>,
    hearts: Vec<Arc<Heart>>,
    threads: Vec<Option<JoinHandle<()>>>,
}

impl Workers {
    /// Starts `count` workers.
    pub(crate) fn start(shared: Arc<Shared>, count: usize) -> io::Result<Self> {
        let mut workers = Self {
            shared,
            plan: watch::Sender::new(Plan::default()),
            hearts: (0..count).map(|_| Arc::default()).collect(),
            threads: Vec::new(),
        };
        for index in 0..count {
            let thread = workers.spawn(index)?;
            workers.threads.push(Some(thread));
        }
        Ok(workers)
    }

    /// Where new plans go.
    pub(crate) fn plan(&self) -> watch::Sender<Plan> {
        self.plan.clone()
    }

    /// One per worker.
    pub(crate) fn hearts(&self) -> Vec<Arc<Heart>> {
        self.hearts.clone()
    }

    /// Starts dead workers again. Their connections are gone, their sockets are not.
    pub(crate) fn supervise(&mut self) {
        for index in 0..self.threads.len() {
            if !self.threads[index]
                .as_ref()
                .is_none_or(JoinHandle::is_finished)
            {
                continue;
            }
            tracing::error!(worker = index, "worker died; starting it again");
            self.shared.count_worker_restart();
            self.threads[index] = match self.spawn(index) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    tracing::error!(worker = index, %error, "cannot start worker; trying again");
                    None
                }
            };
        }
    }

    fn spawn(&self, index: usize) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        let plan = self.plan.subscribe();
        let heart = Arc::clone(&self.hearts[index]);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .stack_size(STACK)
            .spawn(move || {
                match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                {
                    Ok(runtime) => {
                        LocalSet::new().block_on(&runtime, run(shared, index, plan, heart));
                    }
                    Err(error) => tracing::error!(worker = index, %error, "no runtime"),
                }
            })
    }
}

async fn run(
    shared: Arc<Shared>,
    index: usize,
    mut plan: watch::Receiver<Plan>,
    heart: Arc<Heart>,
) {
    let worker = Rc::new(WorkerShared::new(shared, index));
    let keeper = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            heart.0.fetch_add(1, Relaxed);
            keeper.housekeeping();
        }
    });
    let mut loops: HashMap<*const Bound, (Arc<Bound>, tokio::task::JoinHandle<()>)> =
        HashMap::new();
    loop {
        let wanted = Arc::clone(&plan.borrow_and_update());
        let keys: std::collections::HashSet<_> = wanted.iter().map(Arc::as_ptr).collect();
        loops.retain(|key, (bound, task)| {
            let keep = keys.contains(key);
            if !keep {
                task.abort();
                let (worker, socket) = (Rc::clone(&worker), bound.of_worker(index));
                let bound = Arc::clone(bound);
                tokio::task::spawn_local(async move {
                    if let Some(view) = bound.retired() {
                        drain(&worker, &socket, view, bound.address);
                    }
                });
            }
            keep
        });
        for bound in wanted.iter() {
            loops.entry(Arc::as_ptr(bound)).or_insert_with(|| {
                let accepting = accept_always(Rc::clone(&worker), Arc::clone(bound));
                (Arc::clone(bound), tokio::task::spawn_local(accepting))
            });
        }
        if plan.changed().await.is_err() {
            return; // the process ends
        }
    }
}

/// Accepts on one address until it is aborted, whatever happens in between.
async fn accept_always(worker: Rc<WorkerShared>, bound: Arc<Bound>) {
    loop {
        let accepting = accept(
            Rc::clone(&worker),
            bound.of_worker(worker.index),
            bound.address,
        );
        if let Err(panic) = AssertUnwindSafe(accepting).catch_unwind().await {
            worker.shared.count_panic();
            let reason = said(&*panic);
            tracing::error!(address = %bound.address, reason, "accepting panicked; going on");
        }
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

/// Accepts on one address until the listening socket cannot be used.
async fn accept(worker: Rc<WorkerShared>, socket: WorkerSocket, address: SocketAddr) {
    let socket = match socket.register() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%address, %error, "cannot poll the listening socket");
            return;
        }
    };
    'more: loop {
        let Ok(mut ready) = socket.readable().await else {
            return; // the runtime ends
        };
        for _ in 0..ACCEPT_BATCH {
            let Some(view) = worker.shared.listener_at(address) else {
                // The listener was just removed. What waits is drained when the plan arrives.
                return std::future::pending().await;
            };
            let limit = view.conf.connection_limit;
            let Some(place) = view.runtime.try_enter(limit) else {
                let runtime = Arc::clone(&view.runtime);
                drop(view);
                runtime.place(limit).await;
                continue;
            };
            match ready.try_io(|socket| socket.get_ref().accept()) {
                Ok(Ok((stream, peer))) => admit(&worker, &view, place, stream, peer, address),
                Ok(Err(error)) if is_exhaustion(&error) => {
                    drop(place);
                    worker.shared.count_accept_failure(&error);
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    break;
                }
                // The client gave up in the backlog, or its network failed: the next one may do.
                Ok(Err(_)) => {}
                // Others get their turn anyhow: to yield would cost a look at all sockets for each connection.
                Err(_would_block) => continue 'more,
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Serves what waited when the listener was removed: those clients saw their connection established.
fn drain(
    worker: &Rc<WorkerShared>,
    socket: &WorkerSocket,
    view: &Arc<ListenerView>,
    at: SocketAddr,
) {
    while let Some(place) = view.runtime.try_enter(view.conf.connection_limit) {
        match socket.accept() {
            Ok((stream, peer)) => admit(worker, view, place, stream, peer, at),
            Err(_) => return,
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// Starts to serve an accepted connection, unless its client may not connect.
fn admit(
    worker: &Rc<WorkerShared>,
    view: &Arc<ListenerView>,
    place: Place,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    address: SocketAddr,
) {
    // Who a front end's client is shows later.
    let front = view.conf.is_front(peer.ip());
    let client = match front {
        true => None,
        false => match may_enter(worker, view, peer) {
            Some(client) => client,
            None => return,
        },
    };
    let tcp = match tokio::net::TcpStream::from_std(stream) {
        Ok(tcp) => tcp,
        Err(error) => return worker.shared.count_accept_failure(&error),
    };
    let local = if address.ip().is_unspecified() {
        match tcp.local_addr() {
            Ok(local) => local,
            Err(error) => return worker.shared.count_accept_failure(&error),
        }
    } else {
        address // no call per connection for what is known
    };
    place.accepted();
    let guard = Guard::new(Rc::clone(worker), place, client, peer);
    let key = guard.key();
    let (worker, view) = (Rc::clone(worker), Arc::clone(view));
    if front {
        guard.take(Box::pin(serve_front(worker, view, tcp, (peer, local), key)));
    } else {
        serve(worker, view, tcp, (peer, local), key, guard);
    }
}

/// Whether `client` may connect; then its place, if the listener counts them. None: it may not.
#[allow(
    clippy::option_option,
    reason = "may it, and is there a place to give back"
)]
fn may_enter(
    worker: &WorkerShared,
    view: &ListenerView,
    client: SocketAddr,
) -> Option<Option<Box<ClientPlace>>> {
    if !view.conf.allows(client.ip()) {
        worker.shared.count_refused_client();
        tracing::debug!(listener.id = %view.conf.id, client.addr = %client, "not in allowed_cidrs");
        return None;
    }
    let Some(limit) = view.conf.connections_per_client else {
        return Some(None);
    };
    let place = view.runtime.try_enter_client(client.ip(), limit);
    if place.is_none() {
        worker.shared.count_limited_client();
        tracing::debug!(listener.id = %view.conf.id, client.addr = %client, "too many connections of its client");
    }
    // Boxed: few listeners count, and all connections carry it.
    place.map(|place| Some(Box::new(place)))
}

/// Serves a connection that a front end hands on: its header says for whom.
async fn serve_front(
    worker: Rc<WorkerShared>,
    view: Arc<ListenerView>,
    mut tcp: tokio::net::TcpStream,
    (front, local): (SocketAddr, SocketAddr),
    key: Key,
) {
    let named = match proxy::front::read(&mut tcp).await {
        Ok(named) => named,
        Err(error) => {
            worker.shared.count_bad_front();
            let reason = krater_model::report(&error);
            tracing::debug!(listener.id = %view.conf.id, front.addr = %front, reason, "no client");
            return;
        }
    };
    let (client, local) = named.unwrap_or((front, local));
    let Some(_place) = may_enter(&worker, &view, client) else {
        return;
    };
    serve(worker, view, tcp, (client, local), key, Boxed).await;
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// What a connection does until it ends. `taker` gets it by protocol, so that none pays for another's size.
fn serve<T: Taker>(
    worker: Rc<WorkerShared>,
    view: Arc<ListenerView>,
    tcp: tokio::net::TcpStream,
    (peer, local): (SocketAddr, SocketAddr),
    key: Key,
    taker: T,
) -> T::Taken {
    let runtime = Arc::clone(&view.runtime);
    match view.conf.protocol {
        ListenerProtocol::Tcp | ListenerProtocol::Https if !view.speaks_http() => {
            let conn = Conn::client(tcp, peer, local, runtime);
            taker.take(proxy::tcp::serve(conn, view, worker, key))
        }
        ListenerProtocol::Tcp | ListenerProtocol::Https | ListenerProtocol::Http => {
            let conn = Conn::client(tcp, peer, local, Arc::clone(&runtime));
            taker.take(proxy::http1::serve(conn, runtime, worker, key))
        }
        ListenerProtocol::TerminatedHttps => {
            // Boxed: what only the handshake needs, an idle connection does not carry along.
            let ends = (peer, local);
            let handshake = Box::pin(terminate(Rc::clone(&worker), view, tcp, ends));
            // Not an `async` block: that would keep what the handshake gave beside what is made of it.
            taker.take(handshake.then(move |conn| match conn {
                Some(conn) => proxy::http1::serve(conn, runtime, worker, key).left_future(),
                None => std::future::ready(()).right_future(),
            }))
        }
    }
}

/// Does a client's TLS handshake; none: it failed, or there is nothing to do it with.
async fn terminate(
    worker: Rc<WorkerShared>,
    view: Arc<ListenerView>,
    tcp: tokio::net::TcpStream,
    (peer, local): (SocketAddr, SocketAddr),
) -> Option<Conn> {
    let Some(Ok(terminator)) = &view.tls else {
        return None; // such a listener does not listen
    };
    let handshake = terminator.accept(tcp, peer, local, Arc::clone(&view.runtime));
    let handshake = worker.timers.within(tls::HANDSHAKE, handshake);
    let late = || Err(io::ErrorKind::TimedOut.into());
    match handshake.await.unwrap_or_else(late) {
        Ok(conn) => {
            worker
                .shared
                .count_handshake(conn.tls().is_some_and(|tls| tls.resumed));
            Some(conn)
        }
        Err(error) => {
            worker.shared.count_failed_handshake();
            let reason = krater_model::report(&error);
            tracing::debug!(listener.id = %view.conf.id, client.addr = %peer, reason, "TLS handshake failed");
            None
        }
    }
}

#[cfg(test)]
mod tests;
