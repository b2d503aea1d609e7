//! What outlives snapshots: listeners, pools and members at run time, keyed by id, and the one swap.
//!
//! | type | lives | content |
//! |---|---|---|
//! | [`Shared`] | the process | the current [`Routes`], everything process-global |
//! | [`ListenerRuntime`] [`PoolRuntime`] [`MemberState`] | while the id is configured or in use | counters, limits, health, balancing state |
//! | [`ListenerView`] [`PoolView`] | while the content is unchanged | configuration + handles of the runtimes |
//!
//! A connection holds runtimes for as long as it likes. It takes a view when it needs one (per request
//! in HTTP, once in TCP) and drops it afterwards: no connection holds a whole [`Routes`].

use crate::access_log::{AccessLogs, ListenerLog};
use crate::io::{self, Conn, ConnectError, PipePool, Sources};
use crate::tls;
use arc_swap::ArcSwap;
use krater_dataplane_core::balance::Candidate;
use krater_dataplane_core::limit::{Clients, Gauge};
use krater_dataplane_core::member::MemberState;
use krater_dataplane_core::shortage::Own;
use krater_dataplane_core::table::{ListenerConf, MemberConf, PoolConf, RoutingTable};
use krater_model::control::ListenerStats;
use krater_model::state::{ListenerProtocol, Persistence, PoolProtocol};
use krater_model::{ListenerId, PoolId};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    fence,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

mod pool;

pub use pool::{MemberGuard, PoolRuntime, SelectInput, Selected, Turn, TurnError, select};

/// While something is exhausted the log says so this often: each of the workers' attempts fails.
const EXHAUSTION_LOG_PERIOD: Duration = Duration::from_secs(60);

/// Process-global state, one per process, shared by all threads.
#[derive(Debug)]
pub struct Shared {
    routes: ArcSwap<Routes>,
    ready: AtomicBool,
    draining: AtomicBool,
    sources: Sources,
    /// Pipes for `splice(2)`.
    pub pipes: Arc<PipePool>,
    /// Events of the whole process.
    pub events: Events,
    /// What all workers hold and did.
    pub usage: Usage,
    /// Logs of requests and connections.
    pub access_logs: Arc<AccessLogs>,
    /// Times that connections were told to end: those of some listener, or all, for a drain.
    closings: AtomicU32,
}

/// Sums over the workers, which publish theirs with every tick: nothing is counted per request here.
#[derive(Debug, Default)]
pub struct Usage {
    /// Buffers that hold bytes now.
    pub buffers: AtomicU64,
    /// Idle keep-alive connections to members now.
    pub kept: AtomicU64,
    /// Requests that went over such a connection.
    pub reused: AtomicU64,
}

/// Rare events of the process, for metrics.
#[derive(Debug, Default)]
pub struct Events {
    /// Connections that ended by a panic.
    pub panics: AtomicU64,
    /// Workers that died and were started again.
    pub worker_restarts: AtomicU64,
    /// TLS handshakes with clients that succeeded.
    pub handshakes: AtomicU64,
    /// How many of them brought back a session by its ticket.
    pub resumed_handshakes: AtomicU64,
    /// TLS handshakes that failed.
    pub failed_handshakes: AtomicU64,
    /// Clients that `allowed_cidrs` refused.
    pub refused_clients: AtomicU64,
    /// Connections refused because their client had as many as it may.
    pub limited_clients: AtomicU64,
    /// Connections of front ends without a proper PROXY header.
    pub bad_fronts: AtomicU64,
    /// Times that accepting paused for want of descriptors or memory.
    pub accept_failures: AtomicU64,
    accept_log: Seldom,
    /// Connects to members that failed for want of something of ours, in the order of [`Own::ALL`].
    pub connect_shortages: [AtomicU64; Own::COUNT],
    connect_logs: [Seldom; Own::COUNT],
    /// Snapshots refused.
    pub refused_snapshots: AtomicU64,
    /// Snapshots applied.
    pub applied_snapshots: AtomicU64,
}

/// Lines of the log that many connections cause at once: when it begins, and once a minute while it
/// lasts.
#[derive(Debug, Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is time for a line.
    fn now(&self) -> bool {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|at| now.duration_since(at) >= EXHAUSTION_LOG_PERIOD);
        if due {
            *logged = Some(now);
        }
        due
    }
}

/// One snapshot, ready to be used. Swapped whole.
#[derive(Debug, Default)]
pub struct Routes {
    /// The compiled snapshot; none before the first.
    pub table: Option<Arc<RoutingTable>>,
    /// Every configured listener.
    pub listeners: HashMap<ListenerId, Arc<ListenerView>>,
    /// Which enabled listener serves an address.
    pub by_address: HashMap<SocketAddr, Arc<ListenerView>>,
    /// Every configured pool.
    pub pools: HashMap<PoolId, Arc<PoolView>>,
}

impl Shared {
    /// Nothing configured.
    pub fn new(pipes: PipePool) -> Self {
        Self {
            routes: ArcSwap::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            sources: Sources::default(),
            pipes: Arc::new(pipes),
            events: Events::default(),
            usage: Usage::default(),
            access_logs: Arc::default(),
            closings: AtomicU32::new(0),
        }
    }

    /// The listener as configured now; none when it was removed or disabled.
    pub fn listener(&self, id: ListenerId) -> Option<Arc<ListenerView>> {
        let routes = self.routes.load();
        routes
            .listeners
            .get(&id)
            .filter(|view| view.conf.enabled)
            .cloned()
    }

    /// The listener that serves `address` now.
    pub fn listener_at(&self, address: SocketAddr) -> Option<Arc<ListenerView>> {
        self.routes.load().by_address.get(&address).cloned()
    }

    /// A listener's lasting state, while it is configured.
    pub(crate) fn listener_runtime(&self, id: ListenerId) -> Option<Arc<ListenerRuntime>> {
        let routes = self.routes.load();
        routes
            .listeners
            .get(&id)
            .map(|view| Arc::clone(&view.runtime))
    }

    /// Client connections open now.
    pub(crate) fn open_connections(&self) -> u64 {
        let routes = self.routes.load();
        let open = |view: &Arc<ListenerView>| view.runtime.open();
        routes.listeners.values().map(open).sum()
    }

    /// Connections and requests that a pool's members have now.
    pub(crate) fn in_pool(&self, id: PoolId) -> u64 {
        let routes = self.routes.load();
        let pool = routes.pools.get(&id);
        let of_pool = |pool: &Arc<PoolView>| pool.members.iter().map(|m| m.state.active()).sum();
        pool.map_or(0, of_pool)
    }

    /// Everything. For the control thread: do not keep it across an await.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Connects to a member, never from a VIP.
    pub async fn connect(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Conn, ConnectError> {
        let connected = self.connect_uncounted(address, timeout).await;
        if let Err(ConnectError::Own { own, source, .. }) = &connected {
            self.count_connect_shortage(*own, address, source);
        }
        connected
    }

    async fn connect_uncounted(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Conn, ConnectError> {
        let conn = io::connect(address, timeout, self.sources.of(address.ip())).await?;
        if !self.is_vip(conn.local().ip()) {
            return Ok(conn);
        }
        // The kernel chose a VIP. Once per destination: the substitute is remembered.
        match self.source(address) {
            Some(source) => io::connect(address, timeout, Some(source)).await,
            None => Ok(conn),
        }
    }

    /// The source address to bind towards `address`; none leaves it to the kernel.
    pub(crate) fn source(&self, address: SocketAddr) -> Option<IpAddr> {
        let known = self.sources.of(address.ip());
        if known.is_some() {
            return known;
        }
        let table = self.routes.load().table.clone()?;
        let source = io::source(address, &table.vips)?;
        self.sources.remember(address.ip(), source);
        Some(source)
    }

    /// Loopback VIPs do not count: nothing moves them.
    fn is_vip(&self, ip: IpAddr) -> bool {
        let routes = self.routes.load();
        !ip.is_loopback() && routes.table.as_ref().is_some_and(|t| t.vips.contains(&ip))
    }

    /// Whether a snapshot is in force and all wanted listeners accept.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Whether the process is about to end: kept connections end at their next chance.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
        self.tell_closing();
    }

    /// Ends all connections of a listener: with their worker's next tick.
    pub(crate) fn close_connections(&self, listener: &ListenerRuntime) {
        listener.closings.fetch_add(1, Relaxed);
        self.tell_closing();
    }

    /// Has the workers wake their connections. Who sees this sees what was written before, which says who shall end.
    fn tell_closing(&self) {
        self.closings.fetch_add(1, AcqRel);
    }

    /// Times that connections were told to end.
    pub(crate) fn closings(&self) -> u32 {
        self.closings.load(Acquire)
    }

    /// Whether a snapshot is in force and something that it wants does not listen.
    pub(crate) fn has_failures(&self) -> bool {
        !self.is_ready() && self.routes.load().table.is_some()
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    pub(crate) fn count_panic(&self) {
        self.events.panics.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_worker_restart(&self) {
        self.events.worker_restarts.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_handshake(&self, resumed: bool) {
        self.events.handshakes.fetch_add(1, Relaxed);
        if resumed {
            self.events.resumed_handshakes.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn count_failed_handshake(&self) {
        self.events.failed_handshakes.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_limited_client(&self) {
        self.events.limited_clients.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_bad_front(&self) {
        self.events.bad_fronts.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_refused_client(&self) {
        self.events.refused_clients.fetch_add(1, Relaxed);
    }

    /// Logged when it begins and once a minute while it lasts, counted always.
    pub(crate) fn count_accept_failure(&self, error: &std::io::Error) {
        self.events.accept_failures.fetch_add(1, Relaxed);
        if self.events.accept_log.now() {
            tracing::error!(%error, "accepting pauses: raise the limit of open files");
        }
    }

    /// Logged when it begins and once a minute while it lasts, counted always.
    fn count_connect_shortage(&self, own: Own, member: SocketAddr, error: &std::io::Error) {
        let Events {
            connect_shortages,
            connect_logs,
            ..
        } = &self.events;
        let (Some(count), Some(log)) = (
            connect_shortages.get(own.index()),
            connect_logs.get(own.index()),
        ) else {
            return;
        };
        count.fetch_add(1, Relaxed);
        if log.now() {
            let (reason, cure) = (own.reason(), own.cure());
            tracing::error!(member.addr = %member, %error, reason, cure, "cannot connect to members");
        }
    }

    /// The swap.
    pub(crate) fn swap(&self, routes: Arc<Routes>) {
        self.sources.forget();
        self.routes.store(routes);
    }
}

/// A listener in one version of its configuration and that of its pools.
#[derive(Debug)]
pub struct ListenerView {
    /// Configuration.
    pub conf: Arc<ListenerConf>,
    /// What outlives the configuration.
    pub runtime: Arc<ListenerRuntime>,
    /// TLS towards clients, ready; for TERMINATED_HTTPS. An error says why the listener is down.
    pub tls: Option<Result<Arc<tls::Terminator>, String>>,
    /// Its log of requests or connections, if it has one.
    pub log: Option<Arc<ListenerLog>>,
    /// Pools that its policies and default may name.
    pub pools: HashMap<PoolId, Arc<PoolView>>,
}

impl ListenerView {
    /// The default pool, if there is one.
    pub fn default_pool(&self) -> Option<&Arc<PoolView>> {
        self.conf.default_pool.and_then(|id| self.pools.get(&id))
    }

    /// Whether requests are looked at. As with HAProxy, a TCP listener does so when its pool speaks
    /// HTTP or knows its clients by a cookie.
    pub fn speaks_http(&self) -> bool {
        let by_pool = |pool: &Arc<PoolView>| {
            let persistence = pool.conf.persistence.as_ref();
            pool.conf.protocol == PoolProtocol::Http
                || persistence.is_some_and(Persistence::by_cookie)
        };
        match self.conf.protocol {
            ListenerProtocol::Http | ListenerProtocol::TerminatedHttps => true,
            ListenerProtocol::Tcp => self.default_pool().is_some_and(by_pool),
            ListenerProtocol::Https => false,
        }
    }
}

/// A pool in one version of its configuration.
#[derive(Debug)]
pub struct PoolView {
    /// Configuration.
    pub conf: Arc<PoolConf>,
    /// What outlives the configuration.
    pub runtime: Arc<PoolRuntime>,
    /// TLS towards members, ready. An error says why nothing can be sent to them.
    pub tls: Option<Result<Arc<tls::Connector>, String>>,
    /// Members in the order of the configuration.
    pub members: Vec<MemberView>,
}

impl PoolView {
    /// TLS towards members, if they speak it.
    pub fn connector(&self) -> Option<&Arc<tls::Connector>> {
        self.tls.as_ref()?.as_ref().ok()
    }

    /// Whether a certificate that TLS towards members needs is missing.
    pub fn is_down(&self) -> bool {
        matches!(self.tls, Some(Err(_)))
    }
}

/// A member in one version of its configuration.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Configuration.
    pub conf: Arc<MemberConf>,
    /// Counters and health.
    pub state: Arc<MemberState>,
}

impl Candidate for MemberView {
    fn conf(&self) -> &MemberConf {
        &self.conf
    }
    fn state(&self) -> &MemberState {
        &self.state
    }
}

/// A listener's lasting state.
#[derive(Debug)]
pub struct ListenerRuntime {
    /// Which.
    pub id: ListenerId,
    /// Statistics.
    pub stats: Counters,
    /// Open client connections.
    connections: Gauge,
    /// The same by client, while the listener limits it.
    clients: Clients,
    /// Accept loops that wait for a place.
    waiting: AtomicUsize,
    place: Notify,
    /// Times that all its connections were told to end, because it was removed or disabled.
    closings: AtomicU32,
}

/// Counters of a listener on a cache line of their own: every relayed chunk writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    total: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    request_errors: AtomicU64,
}

impl Counters {
    /// `n` bytes of payload came from a client. [`crate::io::Conn`] calls it.
    pub fn add_in(&self, n: u64) {
        self.bytes_in.fetch_add(n, Relaxed);
    }
    /// `n` bytes of payload went to a client. [`crate::io::Conn`] calls it.
    pub fn add_out(&self, n: u64) {
        self.bytes_out.fetch_add(n, Relaxed);
    }
    /// A request was refused for the client's fault (4xx of our own).
    pub fn add_request_error(&self) {
        self.request_errors.fetch_add(1, Relaxed);
    }
}

impl ListenerRuntime {
    /// A new listener.
    pub fn new(id: ListenerId) -> Self {
        Self {
            id,
            stats: Counters::default(),
            connections: Gauge::default(),
            clients: Clients::default(),
            waiting: AtomicUsize::new(0),
            place: Notify::new(),
            closings: AtomicU32::new(0),
        }
    }

    /// Statistics now.
    pub fn snapshot(&self) -> ListenerStats {
        ListenerStats {
            active_connections: self.connections.open(),
            total_connections: self.stats.total.load(Relaxed),
            bytes_in: self.stats.bytes_in.load(Relaxed),
            bytes_out: self.stats.bytes_out.load(Relaxed),
            request_errors: self.stats.request_errors.load(Relaxed),
        }
    }

    /// Client connections open now.
    pub fn open(&self) -> u64 {
        self.connections.open()
    }

    /// Whether `limit` connections are open.
    pub fn is_full(&self, limit: Option<u32>) -> bool {
        self.connections.is_full(limit)
    }

    /// Takes a place for one client connection.
    pub fn try_enter(self: &Arc<Self>, limit: Option<u32>) -> Option<Place> {
        let entered = self.connections.try_enter(limit);
        entered.then(|| Place(Arc::clone(self)))
    }

    /// Takes a place for one connection of `client`, in addition to a [`Place`].
    pub fn try_enter_client(self: &Arc<Self>, client: IpAddr, limit: u32) -> Option<ClientPlace> {
        let entered = self.clients.try_enter(client, limit);
        entered.then(|| ClientPlace(Arc::clone(self), client))
    }

    /// Waits until a place may be free; `limit` is asked again after registration, so that no
    /// wake-up is lost. Cancel-safe.
    pub async fn place(&self, limit: Option<u32>) {
        let notified = self.place.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        self.waiting.fetch_add(1, Relaxed);
        let _leave = Waiting(&self.waiting);
        // Pairs with the fence in `Place::drop`: either we see the place that came back, or the one
        // who gave it back sees us waiting.
        fence(SeqCst);
        if self.is_full(limit) {
            notified.await;
        }
    }

    /// Wakes accept loops that wait for a place, because one came back or the limit changed.
    pub fn wake(&self) {
        self.place.notify_waiters();
    }

    /// Times that its connections were told to end: those that were accepted before it changed shall.
    pub(crate) fn closings(&self) -> u32 {
        self.closings.load(Relaxed)
    }
}

struct Waiting<'a>(&'a AtomicUsize);
impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One client connection's place under the listener's limit; given back on drop.
#[derive(Debug)]
pub struct Place(Arc<ListenerRuntime>);

impl Place {
    /// Whose place it is.
    pub fn listener(&self) -> &Arc<ListenerRuntime> {
        &self.0
    }

    /// Counts the connection as accepted.
    pub fn accepted(&self) {
        self.0.stats.total.fetch_add(1, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.leave();
        fence(SeqCst);
        if self.0.waiting.load(Relaxed) > 0 {
            self.0.wake();
        }
    }
}

/// One connection's place among those of its client; given back on drop.
#[derive(Debug)]
pub struct ClientPlace(Arc<ListenerRuntime>, IpAddr);

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.0.clients.leave(self.1);
    }
}

/// The clock of slow starts.
pub(crate) fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
