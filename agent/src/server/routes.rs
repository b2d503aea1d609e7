//! Requests: parse, ask the agent, answer.

use super::body::{self, Body};
use super::error::ApiError;
use super::logs;
use crate::agent::Agent;
use crate::apply::Family;
use crate::clock;
use crate::heartbeat::is_ready;
use crate::metrics::{ChildLabel, ResultLabel, StatusLabel};
use crate::supervise::Kind;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use krater_model::control::VrrpStatus;
use krater_model::state::{DesiredState, MAX_DOCUMENT};
use krater_model::wire::agent::{
    Info, NewCertificate, ProcessStatus, REQUEST_ID, StateView, Status,
};
use krater_model::{FieldError, SCHEMA};
use krater_telemetry::metrics::{CONTENT_TYPE, resident_bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Until a child's status counts as none.
const STATUS: Duration = Duration::from_secs(2);
/// Certificate chain and key; long chains of RSA-4096 are 15 kB.
const MAX_CERTIFICATE: usize = 64 * 1024;
const MAX_SMALL: usize = 1_024;
/// Documents that are being received at once; each may hold 32 MiB. Others wait.
static UPLOADS: Semaphore = Semaphore::const_new(2);
/// Bytes of a request id that are kept.
const MAX_REQUEST_ID: usize = 128;

type Answer = Result<Response<Body>, ApiError>;

/// Answers one request and logs it.
pub(crate) async fn handle(
    agent: Arc<Agent>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request_id(&request);
    let mut response = match route(&agent, request).await {
        Ok(response) => response,
        Err(error) => {
            let (code, why) = (&error.body.code, &error.body.message);
            let field = error.body.field.as_deref().unwrap_or_default();
            tracing::warn!(request_id = id, %peer, %method, path, status = error.status.as_u16(),
                code, field, why, "request refused");
            json(error.status, &error.body)
        }
    };
    let status = response.status().as_u16();
    agent
        .metrics
        .requests
        .get_or_create(&StatusLabel { status })
        .inc();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if method == Method::GET {
        tracing::debug!(request_id = id, %peer, %method, path, status, ms, "answered");
    } else {
        tracing::info!(request_id = id, %peer, %method, path, status, ms, "answered");
    }
    if let Ok(value) = header::HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(response)
}

fn request_id(request: &Request<Incoming>) -> String {
    let plain =
        |text: &&str| text.len() <= MAX_REQUEST_ID && text.bytes().all(|c| c.is_ascii_graphic());
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    match given.filter(plain) {
        Some(id) => id.to_owned(),
        None => format!("req-{}", uuid::Uuid::new_v4()),
    }
}

async fn route(agent: &Arc<Agent>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method().as_str(), path.as_str()) {
        ("GET", "/2.0/info") => Ok(json(StatusCode::OK, &info(agent))),
        ("PUT", "/2.0/state") => put_state(agent, request).await,
        ("GET", "/2.0/state") => get_state(agent),
        ("GET", "/2.0/status") => Ok(json(StatusCode::OK, &status(agent).await)),
        ("PUT", "/2.0/certificate") => {
            let new: NewCertificate = document(request, MAX_CERTIFICATE).await?;
            agent.rotate(new.pem.expose())?;
            tracing::info!(
                expires = clock::rfc3339(agent.shown.not_after()),
                "new certificate"
            );
            Ok(empty(StatusCode::NO_CONTENT))
        }
        ("GET", "/2.0/logs") => logs(agent, &request),
        ("PUT", "/2.0/log-level") => {
            let new: Level = document(request, MAX_SMALL).await?;
            agent
                .applier
                .family
                .level(&new.level)
                .await
                .map_err(|error| match error {
                    crate::apply::PushError::Field(field) => field.into(),
                    other => ApiError::internal("apply-failed", other.to_string()),
                })?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        ("GET", "/healthz") => Ok(text(StatusCode::OK, "text/plain", "ok\n".into())),
        ("GET", "/readyz") => Ok(readyz(agent).await),
        ("GET", "/metrics") => metrics(agent),
        (
            _,
            "/2.0/info" | "/2.0/state" | "/2.0/status" | "/2.0/certificate" | "/2.0/logs"
            | "/2.0/log-level" | "/healthz" | "/readyz" | "/metrics",
        ) => {
            let why = format!("{path} does not know {}", request.method());
            Err(ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "not-found",
                why,
            ))
        }
        _ => {
            let why = format!("{path} is not there: this agent serves /2.0");
            Err(ApiError::new(StatusCode::NOT_FOUND, "not-found", why))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

async fn document<T: DeserializeOwned>(
    request: Request<Incoming>,
    most: usize,
) -> Result<T, ApiError> {
    let body = body::read(request.into_body(), most).await?;
    // Only the position: the text around it may be a secret.
    serde_json::from_slice(&body).map_err(|error| {
        let text = match error.classify() {
            serde_json::error::Category::Data => error.to_string(),
            _ => format!(
                "not JSON at line {} column {}",
                error.line(),
                error.column()
            ),
        };
        FieldError::new("document", text).into()
    })
}

fn info(agent: &Agent) -> Info {
    Info {
        amphora_id: agent.config.amphora_id,
        version: krater_telemetry::version().into(),
        schema: SCHEMA,
        boot_id: agent.boot_id.clone(),
        started_at: agent.started_at.clone(),
        revision: agent
            .applier
            .current()
            .map(|current| current.state.revision()),
        certificate_expires: clock::rfc3339(agent.shown.not_after()),
    }
}

async fn put_state(agent: &Arc<Agent>, request: Request<Incoming>) -> Answer {
    let started = Instant::now();
    let upload = UPLOADS
        .acquire()
        .await
        .map_err(|error| ApiError::internal("internal", error.to_string()))?;
    let body = body::read(request.into_body(), MAX_DOCUMENT).await?;
    let state = DesiredState::parse(&body)?;
    drop((body, upload));
    let (revision, id) = (state.revision(), state.request_id.clone());
    // In a task of its own: a caller that goes away does not stop it half-way.
    let applying = Arc::clone(agent);
    let applied = tokio::spawn(async move { applying.applier.apply(state).await }).await;
    let applied =
        applied.map_err(|error| ApiError::internal("internal", format!("apply: {error}")))?;
    let micros = started.elapsed().as_micros();
    let result = match &applied {
        Ok(applied) if applied.changed => "changed",
        Ok(_) => "unchanged",
        Err(error) => match ApiError::status_of(error) {
            StatusCode::INTERNAL_SERVER_ERROR => "failed",
            _ => "refused",
        },
    };
    let metrics = &agent.metrics;
    metrics.applies.get_or_create(&ResultLabel { result }).inc();
    metrics
        .apply_last_microseconds
        .set(i64::try_from(micros).unwrap_or(i64::MAX));
    let applied = applied?;
    metrics
        .generation
        .set(i64::try_from(revision.generation.0).unwrap_or(i64::MAX));
    let steps = applied.steps.join(", ");
    tracing::info!(request_id = id, %revision, result, micros, steps, "desired state");
    agent.beat_now.notify_one();
    Ok(json(StatusCode::OK, &applied))
}

fn get_state(agent: &Agent) -> Answer {
    let Some(current) = agent.applier.current() else {
        let none = StateView {
            revision: None,
            digest: None,
            state: None,
        };
        return Ok(json(StatusCode::OK, &none));
    };
    let mut state = serde_json::to_value(&current.state)
        .map_err(|error| ApiError::internal("internal", error.to_string()))?;
    hide_secrets(&mut state);
    let view = StateView {
        revision: Some(current.state.revision()),
        digest: Some(current.digest.clone()),
        state: Some(state),
    };
    Ok(json(StatusCode::OK, &view))
}

fn hide_secrets(state: &mut serde_json::Value) {
    let certificates = state
        .pointer_mut("/certificates")
        .and_then(|c| c.as_array_mut());
    for certificate in certificates.into_iter().flatten() {
        if let Some(pem) = certificate.pointer_mut("/pem") {
            *pem = "…".into();
        }
    }
    if let Some(key) = state.pointer_mut("/heartbeat/key") {
        *key = "…".into();
    }
}

async fn status(agent: &Agent) -> Status {
    let children = &agent.children;
    let (dataplane, vrrp) = tokio::join!(
        children.dataplane_status(STATUS),
        children.vrrp_status(STATUS)
    );
    let process = |name: &str, pid: u32, restarts| ProcessStatus {
        name: name.into(),
        pid,
        restarts,
        rss: resident_bytes(pid),
    };
    let mut processes = vec![process("agent", std::process::id(), 0)];
    for kind in [Kind::Dataplane, Kind::Vrrp] {
        let child = children.child(kind);
        let pid = child
            .running()
            .borrow()
            .as_ref()
            .map_or(0, |running| running.pid);
        processes.push(process(kind.name(), pid, child.starts()));
    }
    let vip = agent.config.vip_netns.clone();
    let guards = tokio::task::spawn_blocking(move || guards(&vip)).await;
    for pid in guards.unwrap_or_default() {
        processes.push(process("vrrp-guard", pid, 0));
    }
    Status {
        revision: agent
            .applier
            .current()
            .map(|current| current.state.revision()),
        processes,
        dataplane: dataplane.ok(),
        vrrp: vrrp.ok(),
    }
}

/// Guards that run in the VIP namespace.
fn guards(vip: &std::path::Path) -> Vec<u32> {
    let Ok(id) = krater_net::netns::NetNs::open(vip).and_then(|vip| vip.id()) else {
        return Vec::new();
    };
    let processes = krater_net::process::processes_in(&[id]).unwrap_or_default();
    let is_guard = |process: &krater_net::process::ProcessId| {
        let words = process.command_line().unwrap_or_default();
        words.get(1).is_some_and(|word| word == "vrrp-guard")
    };
    let guards = processes
        .into_iter()
        .map(|(process, _)| process)
        .filter(is_guard);
    guards.map(|process| process.pid).collect()
}

async fn readyz(agent: &Agent) -> Response<Body> {
    let children = &agent.children;
    let current = agent.applier.current();
    let revision = current.as_ref().map(|current| current.state.revision());
    let (dataplane, vrrp) = tokio::join!(
        children.dataplane_status(STATUS),
        children.vrrp_status(STATUS)
    );
    let mut reasons = Vec::new();
    if current.is_none() {
        reasons.push("no desired state yet".to_owned());
    }
    match &dataplane {
        Ok(status) if current.is_some() && !is_ready(status, revision) => {
            reasons.push("the data plane has not its snapshot, or a listener failed".into());
        }
        Ok(_) => {}
        Err(error) => reasons.push(format!("data plane: {}", krater_model::report(error))),
    }
    match &vrrp {
        Ok(VrrpStatus { revision: has, .. }) if *has < revision => {
            reasons.push("vrrp has not its configuration".into());
        }
        Ok(_) => {}
        Err(error) => reasons.push(format!("vrrp: {}", krater_model::report(error))),
    }
    if reasons.is_empty() {
        text(StatusCode::OK, "text/plain", "ok\n".into())
    } else {
        let lines = reasons.join("\n") + "\n";
        text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", lines)
    }
}

fn metrics(agent: &Agent) -> Answer {
    let current = agent.applier.current();
    let generation = current.map_or(0, |current| current.state.generation.0);
    agent
        .metrics
        .generation
        .set(i64::try_from(generation).unwrap_or(i64::MAX));
    for kind in [Kind::Dataplane, Kind::Vrrp] {
        let label = ChildLabel { child: kind.name() };
        let starts = i64::from(agent.children.child(kind).starts());
        agent.metrics.child_starts.get_or_create(&label).set(starts);
    }
    match agent.metrics.text() {
        Ok(families) => Ok(text(StatusCode::OK, CONTENT_TYPE, families)),
        Err(error) => Err(ApiError::internal("internal", error.to_string())),
    }
}

fn logs(agent: &Agent, request: &Request<Incoming>) -> Answer {
    let query = logs::Query::parse(request.uri().query().unwrap_or_default())?;
    let body = logs::answer(&agent.config.log_dir, &query)?;
    Ok(with(StatusCode::OK, "text/plain; charset=utf-8", body))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with(status, "application/json", body::full(bytes)),
        Err(error) => {
            tracing::error!(%error, "answer not written");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    with(status, content_type, body::full(text))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::full(""));
    *response.status_mut() = status;
    response
}

fn with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::hide_secrets;

    #[test]
    fn secrets_are_not_shown() {
        let mut state = serde_json::json!({
            "certificates": [{"id": "a", "pem": "hunter2"}, {"id": "b", "pem": "hunter2"}],
            "heartbeat": {"key": "hunter2", "interval": 1000},
        });
        hide_secrets(&mut state);
        let text = state.to_string();
        assert!(!text.contains("hunter2") && text.contains("1000"), "{text}");
    }
}
