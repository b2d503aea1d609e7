//! What operators and their tools ask the controller, beside Octavia's API, on the same listener:
//! `/healthz`, `/readyz`, `/metrics`, and under `/krater/v1` what `krater status|flows|logs` show.

use crate::agent_client::Client;
use crate::db::entity::{amphora, flow, load_balancer};
use crate::db::query::journal;
use crate::db::{Db, now};
use crate::flow::steps::address;
use crate::health::{Shared, board::Reason};
use crate::pki::Pki;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use krater_model::control::RouterState;
use krater_model::report;
use krater_telemetry::{LogControl, metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, UNIX_EPOCH};

/// Flows shown by `krater flows --all`.
const MAX_FLOWS: u64 = 100;

/// What the handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The database.
    pub db: Db,
    /// All roles of the process have started.
    pub ready: Arc<AtomicBool>,
    /// Roles of this process.
    pub roles: Vec<&'static str>,
    /// What amphorae said last.
    pub health: Shared,
    /// For logs of amphorae, which those of the `noop` drivers have none of.
    pub agents: Option<Arc<Client>>,
    /// Expiry of the private CA.
    pub pki: Arc<Pki>,
    /// Log level.
    pub log: LogControl,
}

/// `GET /krater/v1/status`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Program version with commit.
    pub version: String,
    /// Roles of the process that answers.
    pub roles: Vec<String>,
    /// Load balancers that are not deleted.
    pub load_balancers: Vec<LoadBalancerLine>,
    /// Flows that have not ended.
    pub flows: Vec<FlowLine>,
    /// Authorities, the controller's certificate.
    pub certificates: Vec<CertificateLine>,
}

/// A load balancer in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadBalancerLine {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// VIP.
    pub vip: String,
    /// Provisioning status.
    pub provisioning: String,
    /// Operating status.
    pub operating: String,
    /// Why it is in ERROR.
    pub reason: Option<String>,
    /// Its amphorae.
    pub amphorae: Vec<AmphoraLine>,
}

/// An amphora in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AmphoraLine {
    /// Identifier.
    pub id: String,
    /// MASTER, BACKUP or STANDALONE.
    pub role: String,
    /// Status of its row.
    pub status: String,
    /// Management address.
    pub address: String,
    /// State of its virtual router: `active` owns the VIP.
    pub vrrp: Option<RouterState>,
    /// Generation that it should have.
    pub desired: String,
    /// Generation that it says it has.
    pub applied: Option<String>,
    /// Milliseconds since its last heartbeat.
    pub heard_ms: Option<u64>,
    /// Its data plane is ready.
    pub ready: bool,
    /// End of validity of its certificate.
    pub certificate_expires: Option<String>,
}

/// A flow in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowLine {
    /// Identifier.
    pub id: String,
    /// Kind.
    pub kind: String,
    /// PENDING, RUNNING, REVERTING, SUCCEEDED, REVERTED or FAILED.
    pub state: String,
    /// Step that runs, or ran last.
    pub step: String,
    /// The load balancer it holds.
    pub load_balancer_id: Option<String>,
    /// The API request.
    pub request_id: String,
    /// When it was asked for.
    pub created_at: String,
    /// How long it took, or has taken yet.
    pub milliseconds: i64,
    /// Why it failed.
    pub error: Option<String>,
}

/// A certificate in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateLine {
    /// Whose.
    pub name: String,
    /// End of validity.
    pub expires: String,
}

/// An error of these endpoints.
struct Failure(StatusCode, String);

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("database: {}", report(&error)),
        )
    }
}

impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "message": self.1 }))).into_response()
    }
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/krater/v1/status", get(status))
        .route("/krater/v1/flows", get(flows))
        .route("/krater/v1/logs/{amphora}", get(logs))
        .route("/krater/v1/log-level", put(log_level))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    if !admin.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into());
    }
    match admin.db.ping().await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(error) => {
            let text = format!("database: {}\n", report(&error));
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

async fn log_level(
    State(admin): State<Admin>,
    Json(body): Json<Level>,
) -> Result<StatusCode, Failure> {
    let refused = |error| Failure(StatusCode::BAD_REQUEST, report(&error));
    admin.log.set_level(&body.level).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn status(State(admin): State<Admin>) -> Result<Json<Status>, Failure> {
    let db = admin.db.read();
    let balancers = load_balancer::Entity::find()
        .filter(load_balancer::Column::ProvisioningStatus.ne("DELETED"))
        .order_by_asc(load_balancer::Column::CreatedAt)
        .all(db)
        .await?;
    let amphorae = amphora::Entity::find()
        .filter(amphora::Column::Status.ne("DELETED"))
        .order_by_asc(amphora::Column::CreatedAt)
        .all(db)
        .await?;
    let flows = journal::list(db, true, MAX_FLOWS).await?;
    let load_balancers = balancers
        .into_iter()
        .map(|row| LoadBalancerLine {
            amphorae: amphorae
                .iter()
                .filter(|a| a.load_balancer_id.as_ref() == Some(&row.id))
                .map(|a| amphora_line(a, &admin.health))
                .collect(),
            id: row.id,
            name: row.name,
            vip: row.vip_address,
            provisioning: row.provisioning_status,
            operating: row.operating_status,
            reason: row.error_reason,
        })
        .collect();
    let certificates = admin.pki.entries().into_iter().map(|entry| {
        let since = entry.expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        CertificateLine {
            name: entry.name,
            expires: crate::time::format(ms),
        }
    });
    Ok(Json(Status {
        version: krater_telemetry::version().into(),
        roles: admin.roles.iter().map(|role| (*role).to_owned()).collect(),
        load_balancers,
        flows: flows.iter().map(flow_line).collect(),
        certificates: certificates.collect(),
    }))
}

fn amphora_line(row: &amphora::Model, health: &Shared) -> AmphoraLine {
    let board = health.board();
    let seen = row.id.parse().ok().and_then(|id| board.seen(id));
    let heard = seen.map(|seen| Instant::now().saturating_duration_since(seen.at));
    AmphoraLine {
        id: row.id.clone(),
        role: row.role.clone().unwrap_or_default(),
        status: row.status.clone(),
        address: row.lb_network_ip.clone().unwrap_or_default(),
        vrrp: seen.and_then(|seen| seen.beat.routers.values().next().copied()),
        desired: format!("{}.{}", row.epoch_desired, row.generation_desired),
        applied: seen
            .and_then(|seen| seen.beat.revision)
            .map(|r| r.to_string()),
        heard_ms: heard.and_then(|heard| u64::try_from(heard.as_millis()).ok()),
        ready: seen.is_some_and(|seen| seen.beat.dataplane_ready),
        certificate_expires: row.cert_expiration.map(crate::time::format),
    }
}

fn flow_line(row: &flow::Model) -> FlowLine {
    let open = journal::state::OPEN.contains(&row.state.as_str());
    let end = if open { now() } else { row.updated_at };
    let steps = row
        .kind
        .parse()
        .map(crate::flow::kinds::steps)
        .unwrap_or_default();
    let at = usize::try_from(row.current_step).unwrap_or_default();
    let step = steps
        .get(at)
        .or_else(|| steps.last())
        .map_or("", |step| step.name);
    FlowLine {
        id: row.id.clone(),
        kind: row.kind.clone(),
        state: row.state.clone(),
        step: step.into(),
        load_balancer_id: row.load_balancer_id.clone(),
        request_id: row.request_id.clone(),
        created_at: crate::time::format(row.created_at),
        milliseconds: end.saturating_sub(row.created_at),
        error: row.error.clone(),
    }
}

#[derive(Debug, Deserialize)]
struct FlowsQuery {
    #[serde(default)]
    all: bool,
}

async fn flows(
    State(admin): State<Admin>,
    Query(query): Query<FlowsQuery>,
) -> Result<Json<Vec<FlowLine>>, Failure> {
    let rows = journal::list(admin.db.read(), !query.all, MAX_FLOWS).await?;
    Ok(Json(rows.iter().map(flow_line).collect()))
}

/// The agent's answer as it comes; with `follow=true` it does not end.
async fn logs(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let row = amphora::Entity::find_by_id(id.clone())
        .one(admin.db.read())
        .await?
        .filter(|row| row.status != "DELETED")
        .ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("there is no amphora {id}")))?;
    let bad = |text: String| Failure(StatusCode::BAD_GATEWAY, text);
    let Some(agents) = &admin.agents else {
        let text = "amphorae of the noop drivers have no logs".to_owned();
        return Err(Failure(StatusCode::NOT_FOUND, text));
    };
    let to = address(&row).map_err(|error| bad(error.text))?;
    let request_id = format!("req-{}", uuid::Uuid::new_v4());
    let query = query.unwrap_or_default();
    let body = agents
        .logs(to, &query, &request_id)
        .await
        .map_err(|error| bad(report(&error)))?;
    Ok((
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        Body::new(body),
    )
        .into_response())
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: String,
}

/// Built at each scrape from what is there anyway.
async fn prometheus(State(admin): State<Admin>) -> Result<Response, Failure> {
    let db = admin.db.read();
    let mut registry = Registry::default();
    metrics::register_process(&mut registry, admin.log.clone());
    let accepted: Counter = Counter::default();
    let dropped = Family::<ByReason, Counter>::default();
    {
        let board = admin.health.board();
        accepted.inc_by(board.accepted);
        for reason in Reason::ALL {
            let count = board.dropped.get(&reason).copied().unwrap_or_default();
            let label = ByReason {
                reason: reason.as_str(),
            };
            dropped.get_or_create(&label).inc_by(count);
        }
    }
    registry.register("krater_heartbeats", "Heartbeats taken", accepted);
    registry.register("krater_heartbeats_dropped", "Heartbeats dropped", dropped);
    let open: Gauge = Gauge::default();
    open.set(i64::try_from(journal::list(db, true, MAX_FLOWS).await?.len()).unwrap_or(i64::MAX));
    registry.register("krater_flows_open", "Flows that have not ended", open);
    let mut counts: BTreeMap<(bool, String), i64> = BTreeMap::new();
    for row in load_balancer::Entity::find().all(db).await? {
        *counts.entry((true, row.provisioning_status)).or_default() += 1;
    }
    for row in amphora::Entity::find().all(db).await? {
        *counts.entry((false, row.status)).or_default() += 1;
    }
    let balancers = Family::<ByStatus, Gauge>::default();
    let amphorae = Family::<ByStatus, Gauge>::default();
    for ((is_balancer, status), count) in counts {
        let family = if is_balancer { &balancers } else { &amphorae };
        family.get_or_create(&ByStatus { status }).set(count);
    }
    registry.register(
        "krater_load_balancers",
        "Load balancers by provisioning status",
        balancers,
    );
    registry.register("krater_amphorae", "Amphorae by status", amphorae);
    let text = metrics::text(&registry)
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
