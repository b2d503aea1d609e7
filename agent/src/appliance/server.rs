//! The appliance's control socket: `POST /reload`, `POST /upgrade`, `POST /drain`, `GET /names`, `GET /about`.

use super::{End, Running, upgrade};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use krater_model::control::{MAX_DRAIN_MS, Refusal};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Relative to the run folder, which is the working folder.
pub(crate) const SOCKET: &str = "appliance.sock";
/// Patience of who asks for a reload: both children take the largest document.
pub(crate) const RELOAD: Duration = Duration::from_secs(40);
/// A drain's body has less.
const MAX_BODY: usize = 1_024;
/// An operator has one connection, or a few.
pub(super) const CONNECTIONS: usize = 8;
/// Who says nothing more for so long makes way for others.
const SILENCE: Duration = Duration::from_secs(10);

/// Makes the socket. One that nobody listens on is left over, and is replaced.
pub(super) fn listen() -> io::Result<UnixListener> {
    let path = Path::new(SOCKET);
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let why = "an appliance runs already with this run_dir";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Body of `POST /drain`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    /// None: as the file says.
    pub(crate) deadline_ms: Option<u64>,
}

pub(super) async fn serve(running: Arc<Running>, listener: UnixListener) {
    let places = Arc::clone(&running.visitors);
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
        if !may_use(&stream) {
            continue;
        }
        let running = Arc::clone(&running);
        tokio::spawn(async move {
            let _place = place;
            let service = hyper::service::service_fn(move |request| {
                let running = Arc::clone(&running);
                async move { Ok::<_, Infallible>(answer(&running, request).await) }
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
fn may_use(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let may = peer
        .as_ref()
        .is_ok_and(|uid| *uid == 0 || *uid == Uid::effective().as_raw());
    if !may {
        tracing::warn!(?peer, "control connection refused");
    }
    may
}

async fn answer(running: &Arc<Running>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, refusal) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/names") => {
            return json(&running.names.status());
        }
        (&Method::GET, "/about") => return json(&running.about()),
        (&Method::POST, "/upgrade") => match upgrade(running).await {
            Ok(()) => (StatusCode::NO_CONTENT, None),
            Err(message) => (StatusCode::BAD_REQUEST, Some(("program", message))),
        },
        (&Method::POST, "/drain") => match drain(running, request).await {
            Ok(()) => (StatusCode::NO_CONTENT, None),
            Err(message) => (StatusCode::BAD_REQUEST, Some(("deadline_ms", message))),
        },
        (&Method::POST, "/reload") => match running.reload().await {
            Ok(()) => (StatusCode::NO_CONTENT, None),
            Err(error) => {
                let message = krater_model::report(&error);
                (StatusCode::BAD_REQUEST, Some(("file", message)))
            }
        },
        (method, path) => {
            let message = format!("{method} {path} does not exist");
            (StatusCode::NOT_FOUND, Some(("path", message)))
        }
    };
    let body = refusal.map(|(field, message)| {
        let field = field.to_owned();
        serde_json::to_vec(&Refusal { field, message }).unwrap_or_default()
    });
    let mut answer = Response::new(Full::from(body.unwrap_or_default()));
    *answer.status_mut() = status;
    answer
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    Response::new(Full::from(serde_json::to_vec(value).unwrap_or_default()))
}

/// Makes place for the program that is installed now, when that one takes our file.
async fn upgrade(running: &Running) -> Result<(), String> {
    running.successor().await?;
    // Not in the middle of a reload.
    let _force = running.force.lock().await;
    begin(running, End::Upgrade)
}

fn begin(running: &Running, end: End) -> Result<(), String> {
    let begun = running.end.try_send(end);
    begun.map_err(|_| "the end has begun already".to_owned())
}

/// Waits for those who are in the middle of an answer. Nobody may come in any more.
pub(super) async fn all_answered(visitors: &Semaphore) {
    upgrade::all_answered(visitors, u32::try_from(CONNECTIONS).unwrap_or(u32::MAX)).await;
}

/// Begins the end, as SIGTERM does.
async fn drain(running: &Running, request: Request<Incoming>) -> Result<(), String> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = tokio::time::timeout(SILENCE, body).await;
    let body = body.map_err(|_elapsed| format!("not complete after {SILENCE:?}"))?;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let Drain { deadline_ms } = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    if let Some(ms) = deadline_ms.filter(|ms| *ms > u64::from(MAX_DRAIN_MS)) {
        return Err(format!("{ms} is out of range: use 0 to {MAX_DRAIN_MS}"));
    }
    begin(running, End::Drain(deadline_ms.map(Duration::from_millis)))
}
