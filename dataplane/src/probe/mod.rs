//! Health probes: one task per monitored member on the control thread, one machine per member.
//!
//! The first probe of a member runs at once; members that come together are spaced a little, so that
//! thousands are not probed in one burst. State survives configuration changes.

mod hello;
mod http;
mod ping;

use crate::io::{Conn, ConnectError, is_own};
use crate::runtime::{MemberView, Shared, uptime};
use crate::tls::Connector;
use krater_dataplane_core::health::Health;
use krater_dataplane_core::member::{MemberState, Probed};
use krater_dataplane_core::proxy_protocol::{V1_OWN, V2_OWN};
use krater_model::state::{HealthCheck, HealthMonitor, PoolProtocol};
use krater_model::{MemberId, PoolId, report};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

/// Probes under way at a time: each holds a descriptor.
const AT_A_TIME: usize = 512;
/// Distance between the first probes of members that come together, at most.
const SPACING: Duration = Duration::from_millis(2);

/// Why a member is down that no probe took down.
const BY_TRAFFIC: &str = "too many failures of traffic in a row";

/// Why a probe did not succeed.
#[derive(Debug)]
enum Failure {
    /// The member's fault.
    Member(String),
    /// Ours: says nothing about the member.
    Own(String),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Timeout { after, .. } => Self::Member(format!("no answer in {after:?}")),
            ConnectError::Own { own, source, .. } => {
                Self::Own(format!("{}: {source}", own.reason()))
            }
            ConnectError::Io { source, .. } => Self::of_theirs(&source),
        }
    }
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match is_own(error) {
            Some(_) => Self::Own(error.to_string()),
            None => Self::of_theirs(error),
        }
    }

    /// Of an error that is known to be no shortage of ours.
    fn of_theirs(error: &io::Error) -> Self {
        // What the host's rules forbid says nothing about the member either.
        let forbidden = [libc::EACCES, libc::EPERM];
        match error.raw_os_error() {
            Some(code) if forbidden.contains(&code) => Self::Own(error.to_string()),
            _ => Self::Member(match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection refused".into(),
                io::ErrorKind::ConnectionReset => "connection reset".into(),
                io::ErrorKind::HostUnreachable => "host unreachable".into(),
                io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
                io::ErrorKind::UnexpectedEof => "connection closed without an answer".into(),
                _ => report(error),
            }),
        }
    }
}

/// All probes.
pub(crate) struct Prober {
    shared: Arc<Shared>,
    targets: RefCell<HashMap<MemberId, Target>>,
    places: Arc<Semaphore>,
}

struct Target {
    plan: Rc<Plan>,
    record: Rc<RefCell<Record>>,
    task: AbortHandle,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is probed and how; a change starts the task anew.
#[derive(Debug, PartialEq)]
struct Plan {
    pool: PoolId,
    address: SocketAddr,
    monitor: HealthMonitor,
    /// The pool's TLS, when probes go where its traffic goes: as with HAProxy's `ssl` and `check`.
    tls: Option<Arc<Connector>>,
    /// The PROXY protocol header that traffic there begins with, and so probes: as with HAProxy's `send-proxy`. A
    /// member that waits for one would take a probe without it for nonsense.
    header: &'static [u8],
}

/// What survives a change of plan.
#[derive(Debug, Default)]
struct Record {
    health: Health,
    reason: String,
}

impl Prober {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            targets: RefCell::default(),
            places: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Why a member is up or down.
    pub(crate) fn reason(&self, member: &MemberState) -> String {
        let targets = self.targets.borrow();
        let reason = targets.get(&member.id).map(|target| {
            let record = target.record.borrow();
            // Its next probe will learn of it.
            match member.probed() == Probed::Down && record.health.state() == Probed::Up {
                true => BY_TRAFFIC.into(),
                false => record.reason.clone(),
            }
        });
        reason
            .filter(|reason| !reason.is_empty())
            .unwrap_or_else(|| "not probed yet".into())
    }

    /// Follows the routes in force: starts, restarts and ends tasks.
    pub(crate) fn reconcile(&self) {
        let routes = self.shared.routes();
        let mut old = self.targets.take();
        let mut new = HashMap::new();
        let mut fresh = 0_u32;
        for pool in routes.pools.values() {
            let Some(monitor) = &pool.conf.monitor else {
                continue;
            };
            let is_probed = |m: &&MemberView| m.conf.enabled && m.conf.down.is_none();
            let serves = pool.conf.enabled && !pool.is_down();
            for member in pool.members.iter().filter(is_probed).filter(|_| serves) {
                let where_traffic_goes = member.conf.monitor_address == member.conf.address;
                let plan = Plan {
                    pool: pool.conf.id,
                    address: member.conf.monitor_address,
                    monitor: monitor.clone(),
                    tls: pool.connector().filter(|_| where_traffic_goes).cloned(),
                    header: match pool.conf.protocol {
                        PoolProtocol::Proxy if where_traffic_goes => V1_OWN,
                        PoolProtocol::Proxyv2 if where_traffic_goes => V2_OWN,
                        _ => b"",
                    },
                };
                let previous = old.remove(&member.conf.id);
                let target = match previous {
                    Some(target) if *target.plan == plan => target,
                    previous => {
                        // What is known of one address says nothing about another.
                        let same = |t: &Target| t.plan.address == plan.address;
                        if previous.as_ref().is_some_and(|t| !same(t)) {
                            member.state.moved(); // the old one's last probe may have said something
                        }
                        let previous = previous.filter(same);
                        let record = previous.map(|t| Rc::clone(&t.record)).unwrap_or_default();
                        let spacing = SPACING.min(plan.monitor.delay.duration() / 64);
                        fresh += 1;
                        self.start(plan, record, &member.state, spacing * (fresh - 1))
                    }
                };
                new.insert(member.conf.id, target);
            }
        }
        // These probes end here. Their last one may have said something after the snapshot settled what is known.
        drop(old);
        for pool in routes.pools.values().filter(|p| p.conf.monitor.is_none()) {
            let states = pool.members.iter().map(|member| &member.state);
            for state in states.filter(|state| state.probed() != Probed::NoMonitor) {
                state.set_probed(Probed::NoMonitor);
            }
        }
        self.targets.replace(new);
    }

    fn start(
        &self,
        plan: Plan,
        record: Rc<RefCell<Record>>,
        state: &Arc<MemberState>,
        wait: Duration,
    ) -> Target {
        let plan = Rc::new(plan);
        let run = Run {
            shared: Arc::clone(&self.shared),
            places: Arc::clone(&self.places),
            plan: Rc::clone(&plan),
            record: Rc::clone(&record),
            state: Arc::clone(state),
        };
        let task = spawn_local(run.run(wait)).abort_handle();
        Target { plan, record, task }
    }
}

/// The task of one member.
struct Run {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    plan: Rc<Plan>,
    record: Rc<RefCell<Record>>,
    state: Arc<MemberState>,
}

impl Run {
    async fn run(self, wait: Duration) {
        let delay = self.plan.monitor.delay.duration();
        let mut next = Instant::now() + wait;
        loop {
            tokio::time::sleep_until(next).await;
            let Ok(_place) = self.places.acquire().await else {
                return;
            };
            // From start to start; a late probe does not make the next ones come in a burst.
            next = Instant::now() + delay;
            let timeout = self.plan.monitor.timeout.duration();
            let result = match tokio::time::timeout(timeout, self.probe()).await {
                Ok(result) => result,
                Err(_) => Err(Failure::Member(format!("no answer in {timeout:?}"))),
            };
            self.observe(result);
        }
    }

    /// A connection that a probe can begin on.
    async fn connect(&self) -> Result<Conn, Failure> {
        let Plan {
            address,
            monitor,
            header,
            ..
        } = &*self.plan;
        let timeout = monitor.timeout.duration();
        let mut conn = self.shared.connect(*address, timeout).await?;
        let announced = conn.write_all(header).await;
        announced.map_err(|error| Failure::of(&error))?;
        Ok(conn)
    }

    async fn probe(&self) -> Result<String, Failure> {
        let Plan {
            address,
            monitor,
            tls,
            ..
        } = &*self.plan;
        let timeout = monitor.timeout.duration();
        let secured = matches!(
            monitor.check,
            HealthCheck::Tcp | HealthCheck::Http(_) | HealthCheck::Https(_)
        );
        if let Some(connector) = tls
            && secured
        {
            let conn = self.connect().await?;
            let conn = connector.connect(conn, None, timeout).await;
            let conn = conn.map_err(|e| Failure::Member(format!("TLS: {}", report(&e))))?;
            return match &monitor.check {
                HealthCheck::Http(check) | HealthCheck::Https(check) => {
                    http::probe(conn, check).await
                }
                _ => Ok("TLS handshake done".into()),
            };
        }
        match &monitor.check {
            HealthCheck::Ping => ping::probe(address.ip(), &self.shared).await,
            HealthCheck::Tcp => {
                let _conn = self.connect().await?;
                Ok("connection accepted".into())
            }
            HealthCheck::TlsHello => {
                let conn = self.connect().await?;
                hello::probe(conn, address.ip()).await
            }
            HealthCheck::Http(check) => {
                let conn = self.connect().await?;
                http::probe(conn, check).await
            }
            HealthCheck::Https(check) => {
                let conn = self.connect().await?;
                http::probe_tls(conn, check).await
            }
        }
    }

    fn observe(&self, result: Result<String, Failure>) {
        let (ok, reason) = match result {
            Ok(reason) => (true, reason),
            Err(Failure::Member(reason)) => (false, reason),
            Err(Failure::Own(reason)) => {
                let mut record = self.record.borrow_mut();
                if record.reason != reason {
                    tracing::error!(member.id = %self.state.id, reason, "cannot probe");
                    record.reason = reason;
                }
                return;
            }
        };
        let mut record = self.record.borrow_mut();
        if record.health.state() == Probed::Up && self.state.probed() == Probed::Down {
            record.health.taken_down();
            record.reason = BY_TRAFFIC.into();
        }
        let monitor = &self.plan.monitor;
        let change = record.health.observe(ok, monitor.rise, monitor.fall);
        if let Some(change) = change {
            if (change.from, change.to) == (Probed::Down, Probed::Up) {
                self.state.came_back(uptime());
            }
            tracing::info!(
                member.id = %self.state.id,
                member.addr = %self.plan.address,
                pool.id = %self.plan.pool,
                old = ?change.from,
                new = ?change.to,
                reason,
                "member health changed"
            );
        }
        // The last change's reason; before the first change there is none to keep.
        if change.is_some() || record.reason.is_empty() {
            record.reason = reason;
        }
        if record.health.state() != Probed::Checking {
            self.state.set_probed(record.health.state());
        }
        if change.is_some()
            && let Some(pool) = self.shared.routes().pools.get(&self.plan.pool)
        {
            pool.runtime.changed(); // who waits for a place has one more, or one less, to wait for
        }
    }
}
