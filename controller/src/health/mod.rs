//! The health manager: takes heartbeats, keeps operating statuses, asks for failovers.
//!
//! | module | what |
//! |---|---|
//! | [`board`] | pure: datagrams → last words of each amphora |
//! | [`evaluate`] | pure: last words → operating statuses |
//! | [`watch`] | pure: last words + now → who needs help |
//!
//! Here is the shell: one socket in the management network and one loop. A datagram costs a HMAC and a
//! map entry; the database is written at most once a second, in one transaction, whatever arrives.
//! Cancel-safe: nothing is lost but what the next beat says again.

use crate::db::entity::{
    amphora, amphora_health, listener, listener_statistics, load_balancer, member, pool,
};
use crate::db::query::{graph, journal};
use crate::db::{Db, now as unix_ms};
use crate::drivers::compute::Compute;
use crate::failover::request;
use crate::transaction;
use board::Board;
use evaluate::{Changes, Heard, Kind};
use krater_model::control::{ListenerStats, RouterState};
use krater_model::{AmphoraId, Epoch, Generation, Revision, Secret, report};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::watch as channel;
use watch::{Balancer, Limits, Watch, Watched};

pub mod board;
pub mod evaluate;
pub mod watch;

/// How often last words and statuses are written.
const WRITE: Duration = Duration::from_secs(1);
/// Datagrams taken per turn before the loop looks at the clock again.
const BURST: usize = 256;

/// Settings of the health manager.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key of the heartbeats.
    pub key: Secret,
    /// Silence that counts as dead.
    pub stale_after: Duration,
    /// See [`Limits::restart_after`].
    pub restart_after: Duration,
    /// How often it looks.
    pub check: Duration,
    /// See [`Limits::failover_threshold`].
    pub failover_threshold: usize,
}

/// What the health manager knows, for metrics and status. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    board: Arc<Mutex<Board>>,
}

impl Shared {
    /// The board. Held for a map operation, never across an await.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug)]
pub struct HealthManager {
    db: Db,
    compute: Arc<dyn Compute>,
    settings: Settings,
    shared: Shared,
    watch: Watch,
    written: Instant,
    statistics: Statistics,
    stormy: bool,
}

impl HealthManager {
    /// A manager that has heard nothing yet.
    pub fn new(db: Db, compute: Arc<dyn Compute>, settings: Settings, shared: Shared) -> Self {
        let now = Instant::now();
        Self {
            db,
            compute,
            settings,
            shared,
            watch: Watch::new(now),
            written: now,
            statistics: Statistics::default(),
            stormy: false,
        }
    }

    /// Until `stop` says true.
    pub async fn run(mut self, socket: UdpSocket, mut stop: channel::Receiver<bool>) {
        let mut look = tokio::time::interval(self.settings.check);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buffer = vec![0_u8; krater_model::wire::heartbeat::MAX_DATAGRAM + 1];
        loop {
            tokio::select! {
                biased;
                () = async { let _ = stop.wait_for(|stop| *stop).await; } => return,
                _ = look.tick() => {
                    if let Err(error) = self.look().await {
                        tracing::error!(error = report(&error), "health manager: database");
                    }
                }
                readable = socket.readable() => {
                    if let Err(error) = readable {
                        tracing::error!(%error, "heartbeat socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    self.take(&socket, &mut buffer);
                }
            }
        }
    }

    fn take(&self, socket: &UdpSocket, buffer: &mut [u8]) {
        let now = Instant::now();
        for _ in 0..BURST {
            let Ok((length, from)) = socket.try_recv_from(buffer) else {
                return;
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            if let Err(reason) = self.shared.board().take(datagram, &self.settings.key, now) {
                tracing::debug!(%from, reason = reason.as_str(), "heartbeat dropped");
            }
        }
    }

    async fn look(&mut self) -> Result<(), DbErr> {
        let rows = amphora::Entity::find()
            .filter(amphora::Column::Status.ne("DELETED"))
            .all(self.db.read())
            .await?;
        let known: HashSet<AmphoraId> = rows.iter().filter_map(|r| r.id.parse().ok()).collect();
        self.shared.board().set_known(known);
        let balancers = load_balancer::Entity::find()
            .filter(load_balancer::Column::ProvisioningStatus.ne("DELETED"))
            .all(self.db.read())
            .await?;
        self.help(&rows, &balancers).await?;
        if self.written.elapsed() >= WRITE {
            self.written = Instant::now();
            self.write(&rows, &balancers).await?;
        }
        Ok(())
    }

    /// Asks for what the watch decides.
    async fn help(
        &mut self,
        rows: &[amphora::Model],
        balancers: &[load_balancer::Model],
    ) -> Result<(), DbErr> {
        let free: HashMap<&str, &load_balancer::Model> = balancers
            .iter()
            .filter(|lb| lb.locked_by_flow.is_none())
            .filter(|lb| ["ACTIVE", "ERROR"].contains(&lb.provisioning_status.as_str()))
            .map(|lb| (lb.id.as_str(), lb))
            .collect();
        let mut watched = Vec::new();
        {
            let board = self.shared.board();
            for row in rows.iter().filter(|row| row.status == "ALLOCATED") {
                let Some(balancer) = row.load_balancer_id.as_deref() else {
                    continue;
                };
                let seen = row.id.parse().ok().and_then(|id| board.seen(id));
                watched.push(Watched {
                    id: row.id.clone(),
                    load_balancer_id: balancer.to_owned(),
                    held: !free.contains_key(balancer),
                    heard: seen.map(|seen| seen.at),
                    not_ready_since: seen.and_then(|seen| seen.not_ready_since),
                    revision: seen.and_then(|seen| seen.beat.revision),
                    desired: desired(row),
                });
            }
        }
        let counts: Vec<Balancer> = free
            .values()
            .map(|lb| Balancer {
                id: lb.id.clone(),
                wanted: wanted(lb),
                existing: watched
                    .iter()
                    .filter(|a| a.load_balancer_id == lb.id)
                    .count(),
            })
            .collect();
        let limits = Limits {
            stale_after: self.settings.stale_after,
            restart_after: self.settings.restart_after,
            failover_threshold: self.settings.failover_threshold,
        };
        let decision = self.watch.look(&watched, &counts, limits, Instant::now());
        if decision.storm && !self.stormy {
            tracing::error!(
                silent = decision.stale,
                threshold = limits.failover_threshold,
                "too many amphorae are silent at once: none is replaced; look at the management network"
            );
        }
        self.stormy = decision.storm;
        for id in decision.restart {
            let Ok(id) = id.parse() else {
                continue;
            };
            let compute = self.compute.clone();
            // Harmless when the agent runs, or the amphora goes.
            tokio::spawn(async move {
                if let Err(error) = compute.restart_agent(id).await {
                    tracing::info!(error = report(&error), "agent not started again");
                }
            });
        }
        for (balancer, request, why) in decision.requests {
            request::enqueue(&self.db, &balancer, &request, &why).await?;
        }
        Ok(())
    }

    /// Writes last words, statistics and operating statuses.
    async fn write(
        &mut self,
        rows: &[amphora::Model],
        balancers: &[load_balancer::Model],
    ) -> Result<(), DbErr> {
        let now = Instant::now();
        let mut healths = Vec::new();
        let mut counters = Vec::new();
        {
            let board = self.shared.board();
            for (id, seen) in board.all() {
                let ago = board::age(now, seen.at);
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                healths.push(health_row(*id, &seen.beat, unix_ms().saturating_sub(ago)));
                for (listener, beat) in &seen.beat.listeners {
                    counters.push((id.to_string(), listener.to_string(), beat.stats));
                }
            }
        }
        let mut changes = Changes::new();
        for balancer in balancers {
            if balancer.provisioning_status == "PENDING_CREATE" {
                continue;
            }
            let Some(graph) = graph::load(self.db.read(), &balancer.id).await? else {
                continue;
            };
            let board = self.shared.board();
            let heard = heard(&graph, &board, self.settings.stale_after, now);
            // Nobody was heard since our own start: nothing is known yet.
            if heard.speaker.is_some()
                || board::age(now, self.watch.since()) > self.settings.stale_after
            {
                changes.append(&mut evaluate::evaluate(&graph, &heard));
            }
        }
        let known: BTreeSet<String> = rows.iter().map(|row| row.id.clone()).collect();
        let statistics = self.statistics.changes(&self.db, &counters).await?;
        if healths.is_empty() && changes.is_empty() && statistics.is_empty() {
            return Ok(());
        }
        let written: Result<(), journal::Lost> = transaction!(self.db, |txn| {
            for health in &healths {
                if known.contains(health.amphora_id.as_ref()) {
                    upsert_health(txn, health.clone()).await?;
                }
            }
            for row in &statistics {
                upsert_statistics(txn, row.clone()).await?;
            }
            set_statuses(txn, &changes).await?;
            Ok(())
        });
        written.map_err(|error| match error {
            journal::Lost::Sql(error) => error,
            other => DbErr::Custom(other.to_string()),
        })
    }
}

/// Amphorae that the topology wants.
fn wanted(balancer: &load_balancer::Model) -> usize {
    if balancer.topology == "SINGLE" { 1 } else { 2 }
}

fn desired(row: &amphora::Model) -> Revision {
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    Revision {
        epoch: Epoch(number(row.epoch_desired)),
        generation: Generation(number(row.generation_desired)),
    }
}

fn heard<'a>(
    graph: &graph::Graph,
    board: &'a Board,
    stale_after: Duration,
    now: Instant,
) -> Heard<'a> {
    let fresh: Vec<&board::Seen> = graph
        .amphorae
        .iter()
        .filter_map(|row| board.seen(row.id.parse().ok()?))
        .filter(|seen| board::age(now, seen.at) < stale_after)
        .collect();
    let owns = |seen: &&&board::Seen| {
        let mut states = seen.beat.routers.values();
        states.any(|state| *state == RouterState::Active)
    };
    Heard {
        speaker: fresh
            .iter()
            .find(owns)
            .or_else(|| fresh.first())
            .map(|seen| &seen.beat),
        fit: fresh
            .iter()
            .filter(|seen| seen.beat.dataplane_ready)
            .count(),
        wanted: wanted(&graph.load_balancer),
    }
}

fn health_row(
    id: AmphoraId,
    beat: &krater_model::wire::heartbeat::Beat,
    last_beat: i64,
) -> amphora_health::ActiveModel {
    let states: Vec<&RouterState> = beat.routers.values().collect();
    let has = |state| states.contains(&&state);
    let router = if states.is_empty() {
        None
    } else if has(RouterState::Active) {
        Some("ACTIVE")
    } else if has(RouterState::Fault) {
        Some("FAULT")
    } else if has(RouterState::Backup) {
        Some("BACKUP")
    } else {
        Some("INITIALIZE")
    };
    let revision = beat.revision.unwrap_or_default();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    amphora_health::ActiveModel {
        amphora_id: Set(id.to_string()),
        last_beat: Set(last_beat),
        boot_id: Set(beat.boot_id.chars().take(64).collect()),
        seq: Set(number(beat.seq)),
        busy: Set(false),
        dataplane_ready: Set(beat.dataplane_ready),
        router_state: Set(router.map(str::to_owned)),
        epoch: Set(number(revision.epoch.0)),
        generation: Set(number(revision.generation.0)),
    }
}

async fn upsert_health(
    db: &impl ConnectionTrait,
    row: amphora_health::ActiveModel,
) -> Result<(), DbErr> {
    use amphora_health::Column;
    amphora_health::Entity::insert(row)
        .on_conflict(
            OnConflict::column(Column::AmphoraId)
                .update_columns([
                    Column::LastBeat,
                    Column::BootId,
                    Column::Seq,
                    Column::DataplaneReady,
                    Column::RouterState,
                    Column::Epoch,
                    Column::Generation,
                ])
                .to_owned(),
        )
        .exec(db)
        .await
        .map(drop)
}

async fn upsert_statistics(
    db: &impl ConnectionTrait,
    row: listener_statistics::ActiveModel,
) -> Result<(), DbErr> {
    use listener_statistics::Column;
    listener_statistics::Entity::insert(row)
        .on_conflict(
            OnConflict::columns([Column::AmphoraId, Column::ListenerId])
                .update_columns([
                    Column::BytesIn,
                    Column::BytesOut,
                    Column::ActiveConnections,
                    Column::TotalConnections,
                    Column::RequestErrors,
                ])
                .to_owned(),
        )
        .exec(db)
        .await
        .map(drop)
}

async fn set_statuses(db: &impl ConnectionTrait, changes: &Changes) -> Result<(), DbErr> {
    let mut groups: BTreeMap<(Kind, &str), Vec<String>> = BTreeMap::new();
    for ((kind, id), status) in changes {
        groups.entry((*kind, status)).or_default().push(id.clone());
    }
    macro_rules! set {
        ($entity:ident, $ids:expr, $status:expr) => {
            $entity::Entity::update_many()
                .col_expr($entity::Column::OperatingStatus, $status.into())
                .filter($entity::Column::Id.is_in($ids))
                .exec(db)
                .await
                .map(drop)?
        };
    }
    for ((kind, status), ids) in groups {
        match kind {
            Kind::LoadBalancer => set!(load_balancer, ids, status),
            Kind::Listener => set!(listener, ids, status),
            Kind::Pool => set!(pool, ids, status),
            Kind::Member => set!(member, ids, status),
        }
    }
    Ok(())
}

/// Totals that survive restarts of a data plane, whose counters begin again at 0.
#[derive(Debug, Default)]
struct Statistics {
    /// Amphora and listener → counters in the last beat, and totals as written.
    last: HashMap<(String, String), (ListenerStats, ListenerStats)>,
}

impl Statistics {
    /// Rows that differ from what is written.
    async fn changes(
        &mut self,
        db: &Db,
        counters: &[(String, String, ListenerStats)],
    ) -> Result<Vec<listener_statistics::ActiveModel>, DbErr> {
        let mut rows = Vec::new();
        for (amphora, listener, now) in counters {
            let key = (amphora.clone(), listener.clone());
            let (last, total) = match self.last.get(&key) {
                Some(known) => *known,
                None => {
                    let row = listener_statistics::Entity::find_by_id(key.clone())
                        .one(db.read())
                        .await?;
                    let total = row.map(totals).unwrap_or_default();
                    // After a start of our own: what was counted meanwhile is in `now`, unless the
                    // data plane has restarted too.
                    let restarted = now.total_connections < total.total_connections;
                    let last = if restarted {
                        ListenerStats::default()
                    } else {
                        total
                    };
                    (last, total)
                }
            };
            let grown = add(last, *now, total);
            if grown != total {
                rows.push(key.clone());
            }
            self.last.insert(key, (*now, grown));
        }
        let current: HashSet<(&str, &str)> = counters
            .iter()
            .map(|(a, l, _)| (a.as_str(), l.as_str()))
            .collect();
        self.last
            .retain(|(a, l), _| current.contains(&(a.as_str(), l.as_str())));
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(rows
            .into_iter()
            .filter_map(|key| {
                let (_, total) = self.last.get(&key)?;
                Some(listener_statistics::ActiveModel {
                    amphora_id: Set(key.0),
                    listener_id: Set(key.1),
                    bytes_in: Set(number(total.bytes_in)),
                    bytes_out: Set(number(total.bytes_out)),
                    active_connections: Set(number(total.active_connections)),
                    total_connections: Set(number(total.total_connections)),
                    request_errors: Set(number(total.request_errors)),
                })
            })
            .collect())
    }
}

fn totals(row: listener_statistics::Model) -> ListenerStats {
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    ListenerStats {
        active_connections: number(row.active_connections),
        total_connections: number(row.total_connections),
        bytes_in: number(row.bytes_in),
        bytes_out: number(row.bytes_out),
        request_errors: number(row.request_errors),
    }
}

/// Adds what `now` has more than `last`. A counter that went back began again at 0.
fn add(last: ListenerStats, now: ListenerStats, total: ListenerStats) -> ListenerStats {
    let restarted = now.total_connections < last.total_connections || now.bytes_in < last.bytes_in;
    let since = if restarted {
        ListenerStats::default()
    } else {
        last
    };
    let grow = |total: u64, now: u64, since: u64| total.saturating_add(now.saturating_sub(since));
    ListenerStats {
        active_connections: now.active_connections,
        total_connections: grow(
            total.total_connections,
            now.total_connections,
            since.total_connections,
        ),
        bytes_in: grow(total.bytes_in, now.bytes_in, since.bytes_in),
        bytes_out: grow(total.bytes_out, now.bytes_out, since.bytes_out),
        request_errors: grow(
            total.request_errors,
            now.request_errors,
            since.request_errors,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(total_connections: u64, bytes_in: u64) -> ListenerStats {
        ListenerStats {
            total_connections,
            bytes_in,
            ..ListenerStats::default()
        }
    }

    #[test]
    fn totals_grow_over_restarts_of_a_data_plane() {
        let mut total = ListenerStats::default();
        let mut last = ListenerStats::default();
        for now in [stats(3, 30), stats(5, 50), stats(1, 10), stats(2, 20)] {
            total = add(last, now, total);
            last = now;
        }
        assert_eq!((total.total_connections, total.bytes_in), (7, 70));
    }
}
