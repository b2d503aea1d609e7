//! The routing table: what a snapshot means, compiled once.
//!
//! Listeners and pools whose source did not change are the *same* `Arc` in the next table, so that
//! whatever hangs on them (TLS set-up, compiled policies) survives a snapshot that is about others.

use crate::access_log::label;
use crate::http1::rewrite::InsertPlan;
use crate::l7;
use crate::networks::Networks;
use krater_model::control::Snapshot;
use krater_model::state::{
    AccessLog, Algorithm, HealthMonitor, L7Action, Listener, ListenerProtocol, ListenerTls,
    LoadBalancer, Member, Persistence, Pool, PoolOptions, PoolProtocol, PoolTls, Timeouts,
};
use krater_model::{
    CertificateId, FieldError, ListenerId, LoadBalancerId, MemberId, Millis, PoolId, Revision,
    Secret,
};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Everything the data plane serves, immutable.
#[derive(Debug)]
pub struct RoutingTable {
    /// Order of the snapshot.
    pub revision: Revision,
    /// The API request that caused the snapshot.
    pub request_id: String,
    /// In the order of the snapshot.
    pub listeners: Vec<Arc<ListenerConf>>,
    /// In the order of the snapshot.
    pub pools: Vec<Arc<PoolConf>>,
    /// All VIPs; never a source address towards members.
    pub vips: Arc<HashSet<IpAddr>>,
    /// Certificate bundles by content address; emptied when they are compiled.
    pub certificates: HashMap<CertificateId, Secret>,
}

/// One listener.
#[derive(Debug)]
pub struct ListenerConf {
    /// Identifier.
    pub id: ListenerId,
    /// Of which load balancer.
    pub load_balancer_id: LoadBalancerId,
    /// Whether it and its load balancer are administratively up.
    pub enabled: bool,
    /// What clients speak.
    pub protocol: ListenerProtocol,
    /// One per VIP.
    pub binds: Vec<SocketAddr>,
    /// Concurrent client connections; none is unlimited.
    pub connection_limit: Option<u32>,
    /// Concurrent connections of one client; none is unlimited.
    pub connections_per_client: Option<u32>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Client networks that may connect; empty: all.
    pub allowed: Networks,
    /// Front ends that name their clients in a PROXY protocol header.
    pub fronts: Networks,
    /// Headers added to requests.
    pub insert: InsertPlan,
    /// TLS towards clients; `hsts` inside.
    pub tls: Option<ListenerTls>,
    /// How logs of requests call it.
    pub label: String,
    /// Where its requests or connections are logged.
    pub access_log: Option<AccessLog>,
    /// Where traffic goes that no policy takes.
    pub default_pool: Option<PoolId>,
    /// Compiled policies; those that redirect to a disabled pool are left out, as Octavia does.
    pub l7: l7::Program,
    source: Listener,
}

impl ListenerConf {
    /// Whether `client` may connect. IPv4-mapped addresses count as IPv4.
    pub fn allows(&self, client: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.contains(client)
    }

    /// Whether connections from `peer` begin with a PROXY protocol header.
    pub fn is_front(&self, peer: IpAddr) -> bool {
        self.fronts.contains(peer)
    }

    /// Pools that the listener may send traffic to.
    pub fn pool_ids(&self) -> impl Iterator<Item = PoolId> + '_ {
        let by_policy = self.source.l7_policies.iter().filter(|p| p.enabled);
        let by_policy = by_policy.filter_map(|policy| match policy.action {
            L7Action::RedirectToPool { pool } => Some(pool),
            _ => None,
        });
        self.default_pool.into_iter().chain(by_policy)
    }

    fn is_compiled_from(&self, source: &Listener, binds: &[SocketAddr], enabled: bool) -> bool {
        self.enabled == enabled && self.binds == binds && self.source == *source
    }
}

/// One pool.
#[derive(Debug)]
pub struct PoolConf {
    /// Identifier.
    pub id: PoolId,
    /// Of which load balancer.
    pub load_balancer_id: LoadBalancerId,
    /// False: as if it had no members.
    pub enabled: bool,
    /// What members speak.
    pub protocol: PoolProtocol,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// Stickiness.
    pub persistence: Option<Persistence>,
    /// TLS towards members.
    pub tls: Option<PoolTls>,
    /// The monitor, when there is one and it is enabled.
    pub monitor: Option<HealthMonitor>,
    /// Over what time a member that came back gets its whole share.
    pub slow_start: Option<Duration>,
    /// Failures in a row that take a member down, while there is a monitor.
    pub failures_in_a_row: Option<u32>,
    /// How logs of requests call it.
    pub label: String,
    /// Who waits when all members are at their limits.
    pub queue: QueueConf,
    /// Members in the order of the snapshot.
    pub members: Vec<Arc<MemberConf>>,
    source: Pool,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberConf {
    /// Identifier; runtime state is keyed by it.
    pub id: MemberId,
    /// Administratively up.
    pub enabled: bool,
    /// Where it serves.
    pub address: SocketAddr,
    /// Share of the load, 0 to 256; 0 drains.
    pub weight: u16,
    /// Used only when every other member is down.
    pub backup: bool,
    /// Where probes go.
    pub monitor_address: SocketAddr,
    /// Concurrent connections or requests; none is unlimited.
    pub connection_limit: Option<u32>,
    /// Why it can serve nobody; then it is not probed either.
    pub down: Option<String>,
    /// How logs of requests call it.
    pub label: String,
}

/// Who may wait for a place at a pool's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConf {
    /// How many at a time.
    pub limit: u32,
    /// How long; none: as long as a connect may take.
    pub timeout: Option<Duration>,
}

impl RoutingTable {
    /// Compiles `snapshot`, taking over from `previous` what did not change. Refuses what has no effect yet.
    pub fn compile(snapshot: Snapshot, previous: Option<&Self>) -> Result<Self, FieldError> {
        let mut table = Self {
            revision: snapshot.revision,
            request_id: snapshot.request_id,
            listeners: Vec::new(),
            pools: Vec::new(),
            vips: Arc::default(),
            certificates: HashMap::new(),
        };
        let certificates = snapshot.certificates.into_iter();
        table.certificates = certificates.map(|c| (c.id, c.pem)).collect();
        let mut members = HashSet::new();
        let old_pools: HashMap<PoolId, &Arc<PoolConf>> = previous
            .iter()
            .flat_map(|t| t.pools.iter().map(|p| (p.id, p)))
            .collect();
        let old_listeners: HashMap<ListenerId, &Arc<ListenerConf>> = previous
            .iter()
            .flat_map(|t| t.listeners.iter().map(|l| (l.id, l)))
            .collect();
        for (i, lb) in snapshot.load_balancers.into_iter().enumerate() {
            let at = |e: FieldError| e.within(format!("load_balancers[{i}]"));
            let LoadBalancer {
                id,
                enabled,
                vips,
                listeners,
                pools,
                ..
            } = lb;
            Arc::make_mut(&mut table.vips).extend(vips.iter().copied());
            let disabled: HashSet<PoolId> =
                pools.iter().filter(|p| !p.enabled).map(|p| p.id).collect();
            for (p, pool) in pools.into_iter().enumerate() {
                let at = |e: FieldError| at(e.within(format!("pools[{p}]")));
                for (m, member) in pool.members.iter().enumerate() {
                    if !members.insert(member.id) {
                        let why = format!("{} stands twice", member.id);
                        return Err(at(FieldError::new(format!("members[{m}].id"), why)));
                    }
                }
                let old = old_pools.get(&pool.id).copied();
                let same = old.filter(|old| old.load_balancer_id == id && old.source == pool);
                table.pools.push(match same {
                    Some(old) => Arc::clone(old),
                    None => Arc::new(compile_pool(id, pool, old)),
                });
            }
            for (l, mut listener) in listeners.into_iter().enumerate() {
                let at = |e: FieldError| at(e.within(format!("listeners[{l}]")));
                let enabled = enabled && listener.enabled;
                listener.l7_policies.retain(|policy| match policy.action {
                    L7Action::RedirectToPool { pool } => !disabled.contains(&pool),
                    _ => true,
                });
                let port = listener.port.value();
                let binds: Vec<_> = vips.iter().map(|vip| SocketAddr::new(*vip, port)).collect();
                let old = old_listeners.get(&listener.id).filter(|old| {
                    old.load_balancer_id == id && old.is_compiled_from(&listener, &binds, enabled)
                });
                table.listeners.push(match old {
                    Some(old) => Arc::clone(old),
                    None => Arc::new(compile_listener(id, listener, binds, enabled).map_err(at)?),
                });
            }
        }
        Ok(table)
    }
}

fn compile_listener(
    load_balancer_id: LoadBalancerId,
    source: Listener,
    binds: Vec<SocketAddr>,
    enabled: bool,
) -> Result<ListenerConf, FieldError> {
    if let Some(tls) = &source.tls {
        for (i, name) in tls.alpn.iter().enumerate() {
            if !["h2", "http/1.1", "http/1.0"].contains(&name.as_str()) {
                return Err(FieldError::new(
                    format!("tls.alpn[{i}]"),
                    format!("{name:?}: use h2, http/1.1 or http/1.0"),
                ));
            }
        }
    }
    Ok(ListenerConf {
        id: source.id,
        load_balancer_id,
        enabled,
        protocol: source.protocol,
        binds,
        connection_limit: source.connection_limit,
        connections_per_client: source.options.connections_per_client,
        timeouts: source.timeouts,
        allowed: Networks::new(&source.allowed_cidrs),
        fronts: Networks::new(&source.options.proxy_protocol_from),
        insert: InsertPlan::new(&source.insert_headers),
        tls: source.tls.clone(),
        label: label(&source.name, source.id),
        access_log: source.options.access_log.clone(),
        default_pool: source.default_pool,
        l7: l7::compile(&source.l7_policies)?,
        source,
    })
}

fn compile_pool(
    load_balancer_id: LoadBalancerId,
    source: Pool,
    previous: Option<&Arc<PoolConf>>,
) -> PoolConf {
    let previous: Option<HashMap<MemberId, &Arc<MemberConf>>> =
        previous.map(|pool| pool.members.iter().map(|m| (m.id, m)).collect());
    let member = |member: &Member| {
        let conf = compile_member(member);
        match previous
            .iter()
            .find_map(|old| old.get(&member.id))
            .filter(|old| old.as_ref() == &conf)
        {
            Some(old) => Arc::clone(old),
            None => Arc::new(conf),
        }
    };
    PoolConf {
        id: source.id,
        load_balancer_id,
        enabled: source.enabled,
        protocol: source.protocol,
        algorithm: source.algorithm,
        persistence: source.persistence.clone(),
        tls: source.tls.clone(),
        failures_in_a_row: source
            .options
            .failures_in_a_row
            .filter(|_| source.health_monitor.as_ref().is_some_and(|m| m.enabled))
            .map(u32::from),
        slow_start: source.options.slow_start.map(Millis::duration),
        label: label(&source.name, source.id),
        queue: QueueConf {
            limit: source.options.queue_limit.unwrap_or(PoolOptions::QUEUE),
            timeout: source.options.queue_timeout.map(Millis::duration),
        },
        monitor: source.health_monitor.clone().filter(|m| m.enabled),
        members: source.members.iter().map(member).collect(),
        source,
    }
}

fn compile_member(member: &Member) -> MemberConf {
    let monitor_port = member.monitor_port.unwrap_or(member.port);
    MemberConf {
        id: member.id,
        enabled: member.enabled,
        address: SocketAddr::new(member.address, member.port.value()),
        weight: member.weight.value(),
        backup: member.backup,
        monitor_address: SocketAddr::new(
            member.monitor_address.unwrap_or(member.address),
            monitor_port.value(),
        ),
        connection_limit: member.connection_limit,
        down: member.down.clone(),
        label: label(&member.name, member.id),
    }
}

#[cfg(test)]
mod tests;
