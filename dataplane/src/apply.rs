//! Taking over a snapshot: check everything, prepare everything, swap once.
//!
//! Runs off the control thread's runtime, because a large snapshot takes tens of milliseconds and the
//! progress record must not stall. One at a time: the caller holds the lock around [`Applier`].

use crate::access_log::AccessLogs;
use crate::listen::Bound;
use crate::runtime::{
    ListenerRuntime, ListenerView, MemberView, PoolRuntime, PoolView, Routes, Shared,
};
use crate::tls;
use crate::worker::Plan;
use krater_dataplane_core::member::{MemberState, Probed};
use krater_dataplane_core::table::{ListenerConf, PoolConf, RoutingTable};
use krater_model::control::{Applied, Refusal, Snapshot};
use krater_model::{CertificateId, FieldError, ListenerId, MemberId, PoolId, Revision, Secret};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Connections of a listener that was removed or disabled may end by themselves for this long. Its
/// load balancer wants it gone; requests in flight should not fail for that.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// A document was refused; nothing changed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The document is wrong (400).
    Invalid(FieldError),
    /// It is older than, or conflicts with, what is in force (409).
    Conflict(FieldError),
}

impl Refused {
    pub(crate) fn into_parts(self) -> (u16, Refusal) {
        let (status, error) = match self {
            Self::Invalid(error) => (400, error),
            Self::Conflict(error) => (409, error),
        };
        let refusal = Refusal {
            field: error.field,
            message: error.why,
        };
        (status, refusal)
    }
}

/// The one writer of [`Routes`].
#[derive(Debug)]
pub(crate) struct Applier {
    shared: Arc<Shared>,
    plan: watch::Sender<Plan>,
    workers: usize,
    bound: HashMap<SocketAddr, Arc<Bound>>,
    /// Why listeners do not listen.
    failed: HashMap<ListenerId, String>,
    in_force: Option<(Revision, [u8; 32])>,
    snapshots: Vec<Weak<Routes>>,
    draining: bool,
}

/// What a snapshot changed, for those who act on it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) applied: Applied,
    /// Listeners whose connections end after [`CLOSE_GRACE`].
    pub(crate) closing: Vec<Arc<ListenerRuntime>>,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>, plan: watch::Sender<Plan>, workers: usize) -> Self {
        Self {
            shared,
            plan,
            workers,
            bound: HashMap::new(),
            failed: HashMap::new(),
            in_force: None,
            snapshots: Vec::new(),
            draining: false,
        }
    }

    /// Why a listener does not listen; none when it does.
    pub(crate) fn failure(&self, id: ListenerId) -> Option<&String> {
        self.failed.get(&id)
    }

    /// Snapshots that anything refers to.
    pub(crate) fn alive(&self) -> usize {
        self.snapshots
            .iter()
            .filter(|s| s.strong_count() > 0)
            .count()
    }

    /// Takes over a snapshot.
    pub(crate) fn apply(&mut self, body: &[u8]) -> Result<Outcome, Refused> {
        let start = Instant::now();
        let result = self.try_apply(body, start);
        if let Err(Refused::Invalid(error) | Refused::Conflict(error)) = &result {
            self.shared.events.refused_snapshots.fetch_add(1, Relaxed);
            tracing::warn!(field = error.field, reason = error.why, "snapshot refused");
        }
        result
    }

    /// Tries again to open what could not be opened: another process may have let go of the address.
    pub(crate) fn retry(&mut self) {
        if self.failed.is_empty() || self.draining {
            return;
        }
        let old = self.shared.routes();
        let mut routes = Routes {
            table: old.table.clone(),
            listeners: old.listeners.clone(),
            by_address: HashMap::new(),
            pools: old.pools.clone(),
        };
        let (kept, fresh) = self.open_sockets(&mut routes);
        if fresh == 0 {
            return;
        }
        let routes = Arc::new(routes);
        self.shared.swap(Arc::clone(&routes));
        self.publish(kept, &old);
        self.remember(&routes);
        tracing::info!(
            opened = fresh,
            failed = self.failed.len(),
            "listening after all"
        );
    }

    /// Stops listening for good. Returns what lives until workers have taken out of its queues who waits there.
    pub(crate) fn drain(&mut self) -> Vec<Weak<Bound>> {
        self.draining = true;
        self.shared.set_draining();
        self.shared.set_ready(false);
        let routes = self.shared.routes();
        let mut queues = Vec::with_capacity(self.bound.len());
        for (address, bound) in self.bound.drain() {
            queues.push(Arc::downgrade(&bound));
            if let Some(view) = routes.by_address.get(&address) {
                bound.retire(Arc::clone(view));
            }
        }
        self.plan.send_replace(Plan::default());
        queues
    }

    fn try_apply(&mut self, body: &[u8], start: Instant) -> Result<Outcome, Refused> {
        let snapshot = Snapshot::parse(body).map_err(Refused::Invalid)?;
        let revision = snapshot.revision;
        let hash = hash(&snapshot)?;
        if let Some((current, known)) = self.in_force {
            if revision < current {
                return Err(conflict(format!(
                    "{revision} is older than {current}, which is in force"
                )));
            }
            if revision == current && hash == known {
                return Ok(Outcome {
                    applied: Applied {
                        revision,
                        changed: false,
                    },
                    closing: Vec::new(),
                });
            }
            if revision == current {
                let why =
                    format!("{revision} is in force with other content: raise the generation");
                return Err(conflict(why));
            }
        }
        if self.draining {
            return Err(conflict("the process is draining".into()));
        }
        let old = self.shared.routes();
        let places = places(&snapshot);
        let table =
            RoutingTable::compile(snapshot, old.table.as_deref()).map_err(Refused::Invalid)?;
        let mut routes =
            views(table, &old, &places, &self.shared.access_logs).map_err(Refused::Invalid)?;
        // From here on nothing can be refused.
        settle_health(&old, &routes);
        let (kept, fresh) = self.open_sockets(&mut routes);
        let routes = Arc::new(routes);
        let closing = closing(&old, &routes);
        self.shared.swap(Arc::clone(&routes));
        self.publish(kept, &old);
        for view in routes.pools.values() {
            view.runtime.follow(Arc::downgrade(view));
        }
        for (id, view) in &old.pools {
            if !routes.pools.contains_key(id) {
                view.runtime.follow(Weak::new());
            }
        }
        // A raised limit lets waiting accept loops go on.
        for view in routes.listeners.values() {
            view.runtime.wake();
        }
        self.in_force = Some((revision, hash));
        self.remember(&routes);
        self.shared.events.applied_snapshots.fetch_add(1, Relaxed);
        tracing::info!(
            request_id = routes.table.as_ref().map_or("", |t| t.request_id.as_str()),
            revision = %revision,
            listeners = routes.listeners.len(),
            pools = routes.pools.len(),
            members = routes.pools.values().map(|p| p.members.len()).sum::<usize>(),
            opened = fresh,
            failed = self.failed.len(),
            us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            "snapshot applied"
        );
        Ok(Outcome {
            applied: Applied {
                revision,
                changed: true,
            },
            closing,
        })
    }

    fn remember(&mut self, routes: &Arc<Routes>) {
        self.shared.set_ready(self.failed.is_empty());
        self.snapshots.retain(|s| s.strong_count() > 0);
        self.snapshots.push(Arc::downgrade(routes));
    }

    /// Opens what is not open, fills `by_address`, notes failures. Returns all sockets of the new
    /// snapshot, and how many addresses are new.
    fn open_sockets(&mut self, routes: &mut Routes) -> (HashMap<SocketAddr, Arc<Bound>>, usize) {
        let before = std::mem::take(&mut self.failed);
        let mut wanted = HashMap::new();
        let mut fresh = 0;
        for view in routes.listeners.values().filter(|view| view.conf.enabled) {
            if let Some(Err(why)) = &view.tls {
                self.fail(view.conf.id, why.clone(), &before);
                continue;
            }
            for address in &view.conf.binds {
                let bound = match self.bound.get(address) {
                    Some(bound) => Ok(Arc::clone(bound)),
                    None => Bound::open(*address, self.workers).inspect(|_| fresh += 1),
                };
                match bound {
                    Ok(bound) => {
                        wanted.insert(*address, bound);
                        routes.by_address.insert(*address, Arc::clone(view));
                    }
                    Err(error) => {
                        let why = format!("cannot listen on {address}: {error}");
                        self.fail(view.conf.id, why, &before);
                    }
                }
            }
        }
        (wanted, fresh)
    }

    /// Logged once for as long as it stays so.
    fn fail(&mut self, id: ListenerId, why: String, before: &HashMap<ListenerId, String>) {
        if before.get(&id) != Some(&why) {
            tracing::error!(listener.id = %id, reason = why, "listener is down");
        }
        self.failed.insert(id, why);
    }

    /// Tells the workers. Sockets that are no longer wanted are drained by them and closed.
    fn publish(&mut self, wanted: HashMap<SocketAddr, Arc<Bound>>, old: &Routes) {
        for (address, bound) in &self.bound {
            if let (false, Some(view)) = (wanted.contains_key(address), old.by_address.get(address))
            {
                bound.retire(Arc::clone(view));
            }
        }
        let same = wanted.len() == self.bound.len()
            && wanted
                .iter()
                .all(|(a, b)| self.bound.get(a).is_some_and(|o| Arc::ptr_eq(o, b)));
        self.bound = wanted;
        if !same {
            self.plan
                .send_replace(Arc::new(self.bound.values().cloned().collect()));
        }
    }
}

/// Whether a snapshot would be taken.
pub(crate) fn check(body: &[u8]) -> Result<(), FieldError> {
    let snapshot = Snapshot::parse(body)?;
    let places = places(&snapshot);
    let table = RoutingTable::compile(snapshot, None)?;
    views(table, &Routes::default(), &places, &Arc::default()).map(drop)
}

fn conflict(why: String) -> Refused {
    Refused::Conflict(FieldError::new("revision", why))
}

/// Content of a snapshot whatever the formatting.
fn hash(snapshot: &Snapshot) -> Result<[u8; 32], Refused> {
    let text = serde_json::to_vec(snapshot)
        .map_err(|error| Refused::Invalid(FieldError::new("document", error.to_string())))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    Ok(out)
}

#[derive(Debug, Default)]
struct Places {
    listeners: HashMap<ListenerId, String>,
    pools: HashMap<PoolId, String>,
}

/// Where each listener and pool stands in the document, for errors that are found after compiling.
fn places(snapshot: &Snapshot) -> Places {
    let mut places = Places::default();
    for (b, lb) in snapshot.load_balancers.iter().enumerate() {
        for (l, listener) in lb.listeners.iter().enumerate() {
            let place = format!("load_balancers[{b}].listeners[{l}]");
            places.listeners.insert(listener.id, place);
        }
        for (p, pool) in lb.pools.iter().enumerate() {
            let place = format!("load_balancers[{b}].pools[{p}]");
            places.pools.insert(pool.id, place);
        }
    }
    places
}

/// Views of a new table; those whose content did not change are the old ones.
fn views(
    mut table: RoutingTable,
    old: &Routes,
    places: &Places,
    logs: &Arc<AccessLogs>,
) -> Result<Routes, FieldError> {
    let mut states: HashMap<MemberId, &Arc<MemberState>> = HashMap::new();
    for pool in old.pools.values() {
        states.extend(pool.members.iter().map(|m| (m.conf.id, &m.state)));
    }
    let mut routes = Routes::default();
    for conf in &table.pools {
        let view = match old.pools.get(&conf.id) {
            Some(view) if Arc::ptr_eq(&view.conf, conf) && !view.is_down() => Arc::clone(view),
            previous => {
                let at = |e: FieldError| match places.pools.get(&conf.id) {
                    Some(place) => e.within(place),
                    None => e,
                };
                let certificates = &table.certificates;
                Arc::new(pool_view(conf, previous, &states, certificates).map_err(at)?)
            }
        };
        routes.pools.insert(conf.id, view);
    }
    for conf in &table.listeners {
        let previous = old.listeners.get(&conf.id);
        let mut pools = HashMap::new();
        for id in conf.pool_ids() {
            if let Some(pool) = routes.pools.get(&id) {
                pools.insert(id, Arc::clone(pool));
            }
        }
        let same = |view: &&Arc<ListenerView>| {
            Arc::ptr_eq(&view.conf, conf)
                && !matches!(view.tls, Some(Err(_)))
                && view.pools.len() == pools.len()
                && pools
                    .iter()
                    .all(|(id, p)| view.pools.get(id).is_some_and(|o| Arc::ptr_eq(o, p)))
        };
        let view = match previous.filter(same) {
            Some(view) => Arc::clone(view),
            None => {
                let at = |e: FieldError| match places.listeners.get(&conf.id) {
                    Some(place) => e.within(place),
                    None => e,
                };
                Arc::new(listener_view(conf, previous, pools, &table, logs).map_err(at)?)
            }
        };
        routes.listeners.insert(conf.id, view);
    }
    // Keys are in the TLS configurations now, and nowhere else.
    table.certificates.clear();
    routes.table = Some(Arc::new(table));
    Ok(routes)
}

fn pool_view(
    conf: &Arc<PoolConf>,
    previous: Option<&Arc<PoolView>>,
    states: &HashMap<MemberId, &Arc<MemberState>>,
    certificates: &HashMap<CertificateId, Secret>,
) -> Result<PoolView, FieldError> {
    let same = previous.filter(|view| view.conf.tls == conf.tls && !view.is_down());
    let tls = match (&conf.tls, same) {
        (None, _) => None,
        (Some(_), Some(view)) => view.connector().map(|ready| Ok(Arc::clone(ready))),
        (Some(wanted), None) => match tls::Connector::new(wanted, certificates) {
            Ok(ready) => Some(Ok(Arc::new(ready))),
            Err(tls::SetupError::Missing(id)) => {
                let why = format!("certificate-missing: {id}");
                tracing::error!(pool.id = %conf.id, reason = why, "pool is down");
                Some(Err(why))
            }
            Err(tls::SetupError::Invalid(error)) => return Err(error.within("tls")),
        },
    };
    let first = if conf.monitor.is_some() {
        Probed::Checking
    } else {
        Probed::NoMonitor
    };
    let members = conf.members.iter().map(|member| MemberView {
        conf: Arc::clone(member),
        state: match states.get(&member.id) {
            Some(state) => Arc::clone(state),
            None => Arc::new(MemberState::new(member.id, first)),
        },
    });
    Ok(PoolView {
        conf: Arc::clone(conf),
        runtime: previous.map_or_else(
            || Arc::new(PoolRuntime::new(conf.id)),
            |view| Arc::clone(&view.runtime),
        ),
        tls,
        members: members.collect(),
    })
}

/// Health survives a snapshot unless the pool got or lost its monitor, or the member is probed elsewhere.
fn settle_health(old: &Routes, routes: &Routes) {
    let probed_at = |pool: &PoolView| {
        let members = pool.members.iter();
        let at = |m: &MemberView| (m.conf.id, m.conf.monitor_address);
        members.map(at).collect::<HashMap<_, _>>()
    };
    for (id, pool) in &routes.pools {
        let before = match old.pools.get(id) {
            Some(before) if !Arc::ptr_eq(before, pool) => probed_at(before),
            _ => HashMap::new(),
        };
        for member in &pool.members {
            let was_at = before.get(&member.conf.id);
            if was_at.is_some_and(|at| *at != member.conf.monitor_address) {
                member.state.moved();
            }
            match (pool.conf.monitor.is_some(), member.state.probed()) {
                (true, Probed::NoMonitor) => member.state.set_probed(Probed::Checking),
                (false, _) => member.state.set_probed(Probed::NoMonitor),
                _ => {}
            }
        }
    }
}

fn listener_view(
    conf: &Arc<ListenerConf>,
    previous: Option<&Arc<ListenerView>>,
    pools: HashMap<PoolId, Arc<PoolView>>,
    table: &RoutingTable,
    logs: &Arc<AccessLogs>,
) -> Result<ListenerView, FieldError> {
    let same = previous.filter(|view| view.conf.access_log == conf.access_log);
    let log = match (&conf.access_log, same) {
        (None, _) => None,
        (Some(_), Some(view)) => view.log.clone(),
        (Some(wanted), None) => Some(logs.listener(wanted).map_err(|error| {
            let why = format!("cannot start the thread that writes it: {error}");
            FieldError::new("options.access_log", why)
        })?),
    };
    let old_tls = previous.and_then(|view| Some((&view.conf, view.tls.as_ref()?.as_ref().ok()?)));
    let tls = match (&conf.tls, old_tls) {
        (None, _) => None,
        (Some(wanted), Some((old, ready))) if old.tls.as_ref() == Some(wanted) => {
            Some(Ok(Arc::clone(ready)))
        }
        (Some(wanted), old) => {
            let old = old.and_then(|(conf, ready)| Some((conf.tls.as_ref()?, ready.as_ref())));
            match tls::Terminator::new(wanted, &table.certificates, old) {
                Ok(ready) => Some(Ok(Arc::new(ready))),
                Err(tls::SetupError::Missing(id)) => {
                    Some(Err(format!("certificate-missing: {id}")))
                }
                Err(tls::SetupError::Invalid(error)) => {
                    return Err(error.within("tls"));
                }
            }
        }
    };
    Ok(ListenerView {
        conf: Arc::clone(conf),
        runtime: previous.map_or_else(
            || Arc::new(ListenerRuntime::new(conf.id)),
            |view| Arc::clone(&view.runtime),
        ),
        tls,
        log,
        pools,
    })
}

/// Listeners that served and no longer do.
fn closing(old: &Routes, new: &Routes) -> Vec<Arc<ListenerRuntime>> {
    let serving: HashSet<ListenerId> = new.by_address.values().map(|v| v.conf.id).collect();
    let mut gone: Vec<_> = old.by_address.values().collect();
    gone.retain(|view| !serving.contains(&view.conf.id));
    gone.sort_by_key(|view| view.conf.id);
    gone.dedup_by_key(|view| view.conf.id);
    gone.into_iter()
        .map(|view| Arc::clone(&view.runtime))
        .collect()
}
