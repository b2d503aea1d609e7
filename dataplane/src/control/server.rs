//! HTTP on the control socket.

use super::{Control, lock, status};
use crate::apply::CLOSE_GRACE;
use crate::metrics;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use krater_dataplane_core::member::Wish;
use krater_model::Weight;
use krater_model::control::{MAX_BODY, MAX_DRAIN_MS, Refusal};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Control connections at a time: the agent has one or two, an operator a few more.
const CONNECTIONS: usize = 32;

/// Who says nothing more for so long, in a head or a body, makes way for others.
const SILENCE: Duration = Duration::from_secs(10);

/// Patience with the writer of access logs.
const REOPEN: Duration = Duration::from_secs(2);

type Answer = Response<Full<Bytes>>;

/// Accepts until the control thread ends.
pub(super) async fn serve(control: Rc<Control>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !may_use(&control, &stream) {
            continue;
        }
        let control = Rc::clone(&control);
        tokio::task::spawn_local(async move {
            let _place = place;
            let service = hyper::service::service_fn(move |request| {
                let control = Rc::clone(&control);
                async move { Ok::<_, Infallible>(answer(&control, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SILENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

/// Root, or the user that we are.
fn may_use(control: &Control, stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == control.own_uid => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "control connection refused");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "control connection refused");
            false
        }
    }
}

async fn answer(control: &Rc<Control>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::PUT, "/snapshot") => match body(request).await {
            Ok(body) => apply(control, body).await,
            Err(refused) => refused,
        },
        (&Method::GET, "/status") => {
            let applier = Arc::clone(&control.applier);
            // A snapshot may be applied just now: wait for it elsewhere.
            let control = Rc::clone(control);
            loop {
                if let Ok(applier) = applier.try_lock() {
                    break json(StatusCode::OK, &status::status(&control, &applier));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        (&Method::PUT, "/log-level") => match parsed::<LogLevel>(request).await {
            Ok(LogLevel { level }) => match (control.log)(&level) {
                Ok(()) => empty(),
                Err(why) => refuse(StatusCode::BAD_REQUEST, "level", why),
            },
            Err(refused) => refused,
        },
        (&Method::POST, "/drain") => match parsed::<Drain>(request).await {
            Ok(Drain { deadline_ms }) if deadline_ms <= u64::from(MAX_DRAIN_MS) => {
                control.drain(Duration::from_millis(deadline_ms));
                empty()
            }
            Ok(Drain { deadline_ms }) => {
                let why = format!("{deadline_ms} is out of range: use 0 to {MAX_DRAIN_MS}");
                refuse(StatusCode::BAD_REQUEST, "deadline_ms", why)
            }
            Err(refused) => refused,
        },
        (&Method::POST, "/reopen-logs") => reopen_logs(control).await,
        (&Method::PUT, path) if path.starts_with("/members/") => {
            let id = path.trim_start_matches("/members/").to_owned();
            match parsed::<SetMember>(request).await {
                Ok(set) => set_member(control, &id, set),
                Err(refused) => refused,
            }
        }
        _ => read_only(control, &request),
    }
}

/// What everybody may ask who can.
pub(super) fn read_only(control: &Control, request: &Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let text = metrics::text(&control.shared, &control.version);
            plain(StatusCode::OK, metrics::CONTENT_TYPE, text)
        }
        (&Method::GET, "/healthz") => plain(StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET, "/readyz") if control.shared.is_ready() => {
            plain(StatusCode::OK, "text/plain", "ready\n".into())
        }
        (&Method::GET, "/readyz") => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "no snapshot yet, a listener is down, or draining: see /status\n".into(),
        ),
        (method, path) => refuse(
            StatusCode::NOT_FOUND,
            "path",
            format!("{method} {path} does not exist"),
        ),
    }
}

/// Answers when what was handed over before is written, and the files are new ones.
async fn reopen_logs(control: &Control) -> Answer {
    let why = match control.shared.access_logs.reopen() {
        None => return empty(), // there is none
        Some(Ok(done)) => match tokio::time::timeout(REOPEN, done).await {
            Ok(_) => return empty(),
            Err(_late) => crate::access_log::Behind.to_string(),
        },
        Some(Err(behind)) => behind.to_string(),
    };
    refuse(StatusCode::SERVICE_UNAVAILABLE, "access_log", why)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    deadline_ms: u64,
}

/// What an operator wants of a member. What is left out stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMember {
    #[serde(default)]
    state: Option<Wanted>,
    /// `null` gives the configured weight back.
    #[serde(default, deserialize_with = "given")]
    weight: Option<Option<Weight>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Ready,
    Drain,
    Maint,
}

/// Tells `null` from an absent field.
#[allow(clippy::option_option, reason = "absent, null, given")]
fn given<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Weight>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn set_member(control: &Control, id: &str, set: SetMember) -> Answer {
    let routes = control.shared.routes();
    let all = || {
        let pools = routes.pools.values();
        pools.flat_map(|pool| pool.members.iter().map(move |member| (pool, member)))
    };
    let by_id = all().find(|(_, member)| member.conf.id.to_string() == id);
    let by_name = || all().filter(|(_, member)| member.conf.label == id);
    let mut found = by_id.map_or_else(|| by_name().take(2).collect(), |found| vec![found]);
    let Some((pool, member)) = found.pop() else {
        let why = format!("{id} is no member of the snapshot in force");
        return refuse(StatusCode::NOT_FOUND, "member", why);
    };
    if !found.is_empty() {
        let why = format!("{id} is the name of several members: use an id of `amphora ctl status`");
        return refuse(StatusCode::NOT_FOUND, "member", why);
    }
    if let Some(state) = set.state {
        member.state.set_wish(match state {
            Wanted::Ready => Wish::Ready,
            Wanted::Drain => Wish::Drain,
            Wanted::Maint => Wish::Maint,
        });
    }
    if let Some(weight) = set.weight {
        member.state.set_weight(weight.map(|weight| weight.value()));
    }
    pool.runtime.changed(); // who waits may have another member now, or none
    tracing::info!(
        member.id = id,
        state = ?member.state.wish(),
        weight = member.state.weight(&member.conf),
        "member set by an operator"
    );
    empty()
}

async fn apply(control: &Rc<Control>, body: Bytes) -> Answer {
    let applier = Arc::clone(&control.applier);
    let work = move || lock(&applier).apply(&body);
    let outcome = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(refused)) => {
            let (status, refusal) = refused.into_parts();
            return json(
                StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
                &refusal,
            );
        }
        Err(panicked) => {
            tracing::error!(error = %panicked, "applying a snapshot panicked");
            let why = "applying panicked; see the log".to_owned();
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "document", why);
        }
    };
    if outcome.applied.changed {
        control.probes.reconcile();
    }
    for listener in outcome.closing {
        let shared = Arc::clone(&control.shared);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CLOSE_GRACE).await;
            let back = shared.listener(listener.id);
            if !back.is_some_and(|view| Arc::ptr_eq(&view.runtime, &listener)) {
                shared.close_connections(&listener);
            }
        });
    }
    json(StatusCode::OK, &outcome.applied)
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let why = match tokio::time::timeout(SILENCE, body).await {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("not complete after {SILENCE:?}"),
    };
    Err(refuse(StatusCode::BAD_REQUEST, "document", why))
}

async fn parsed<T: for<'a> Deserialize<'a>>(request: Request<Incoming>) -> Result<T, Answer> {
    let body = body(request).await?;
    serde_json::from_slice(&body)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, "document", error.to_string()))
}

fn refuse(status: StatusCode, field: &str, message: String) -> Answer {
    let field = field.to_owned();
    json(status, &Refusal { field, message })
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(text) => plain(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "cannot write an answer as JSON");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Vec::new())
        }
    }
}

fn plain(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    answer
}

fn empty() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}
