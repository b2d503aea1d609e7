//! The control socket: HTTP/1.1 + JSON for the agent, on a thread of its own.
//!
//! Nothing here touches a router. Requests that concern them go through a bounded queue to the
//! driver's thread and wait for its answer, so that a slow client never delays an advert.

use crate::config::Refused;
use crate::events::Journal;
use crate::memory::Memory;
use crate::track::{Canary, allowed};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use krater_model::FieldError;
use krater_model::control::{
    Applied, CheckReport, Handover, HandoverResult, Refusal, VrrpConfig, VrrpStatus,
};
use nix::sys::eventfd::EventFd;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::convert::Infallible;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{debug, info, warn};

/// Largest body: 255 routers of 255 addresses and their routes are some 10 MB; one is 1 KB.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Connections at a time: the agent has one or two, an operator one.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to send a request's head, and the driver to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reader of events may wait for one.
const LONGEST_POLL: Duration = Duration::from_secs(30);
/// How long the driver may take before the process counts as sick.
const HEALTHY_WITHIN: Duration = Duration::from_secs(1);
/// Beats of the canary (2 s) after a change until memory is given back: the election is over then.
const BEATS_TO_TRIM: u32 = 100;
/// What is behind it is a check's name.
const CHECKS: &str = "/checks/";
/// Commands in flight to the driver; it works them off between two wake-ups.
pub(crate) const QUEUE: usize = 16;

/// Sets the level of the log: an unknown level is refused with a text.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the driver is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    Configure(Box<VrrpConfig>, oneshot::Sender<Result<Applied, Refused>>),
    Status(oneshot::Sender<VrrpStatus>),
    /// A check's name, and whether it is up.
    Report(String, bool, oneshot::Sender<Result<(), FieldError>>),
    HandOver(
        Handover,
        oneshot::Sender<Result<Vec<HandoverResult>, Refused>>,
    ),
}

/// The way to the driver.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub(crate) commands: SyncSender<Command>,
    pub(crate) wake: Arc<EventFd>,
}

struct Context {
    driver: Driver,
    registry: Registry,
    set_log_level: SetLogLevel,
    /// A configuration was given since the last beat.
    changed: AtomicBool,
    journal: Mutex<Journal>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

/// Serves until the process ends. Blocking; for a thread of its own.
pub(crate) fn serve(
    listener: UnixListener,
    driver: Driver,
    registry: Registry,
    set_log_level: SetLogLevel,
    canary: Canary,
    memory: Memory,
    journal: Journal,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    let context = Arc::new(Context {
        driver,
        registry,
        set_log_level,
        changed: AtomicBool::new(true),
        journal: Mutex::new(journal),
        newest: watch::Sender::new(0),
    });
    runtime.block_on(async move {
        tokio::spawn(beat(canary, memory, Arc::clone(&context)));
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return Ok(());
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "control socket: accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if allowed(peer.uid()) => {}
                Ok(peer) => {
                    warn!(peer.uid = peer.uid(), "control socket: refused");
                    continue;
                }
                Err(error) => {
                    warn!(%error, "control socket: no peer credentials");
                    continue;
                }
            }
            let context = Arc::clone(&context);
            tokio::spawn(async move {
                let _slot = slot;
                let service = service_fn(|request| {
                    let context = Arc::clone(&context);
                    async move { Ok::<_, Infallible>(context.answer(request).await) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .max_buf_size(64 * 1024)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    debug!(%error, "control socket: connection");
                }
            });
        }
    })
}

/// Shows that threads of normal priority run, and gives memory back once changes have settled.
async fn beat(canary: Canary, memory: Memory, context: Arc<Context>) {
    let mut beats_to_trim = 0_u32;
    loop {
        tokio::time::sleep(Canary::INTERVAL).await;
        canary.beat();
        context.take_events();
        if context.changed.swap(false, Ordering::Relaxed) {
            beats_to_trim = BEATS_TO_TRIM;
        }
        if beats_to_trim > 0 {
            beats_to_trim -= 1;
            if beats_to_trim == 0 {
                memory.rest();
            }
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Context {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::PUT, "/config") => self.put_config(request).await,
            (&Method::GET, "/status") => match self.status(PATIENCE).await {
                Some(status) => json(StatusCode::OK, &status),
                None => unavailable("the driver does not answer"),
            },
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/healthz") => match self.status(HEALTHY_WITHIN).await {
                Some(_) => text(StatusCode::OK, "ok\n"),
                None => unavailable("the driver does not answer"),
            },
            (&Method::GET, "/readyz") => match self.status(HEALTHY_WITHIN).await {
                Some(status) if status.revision.is_some() => text(StatusCode::OK, "ready\n"),
                Some(_) => unavailable("no configuration yet"),
                None => unavailable("the driver does not answer"),
            },
            (&Method::PUT, "/log-level") => self.put_log_level(request).await,
            (&Method::POST, "/handover") => self.hand_over(request).await,
            (&Method::GET, "/events") => self.events(request.uri().query()).await,
            (&Method::PUT, check) if check.starts_with(CHECKS) => {
                self.put_check(request, &path).await
            }
            (_, check) if check.starts_with(CHECKS) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
            }
            (_, "/handover" | "/events") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
            }
            (_, "/config" | "/status" | "/metrics" | "/healthz" | "/readyz" | "/log-level") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    async fn put_config(&self, request: Request<Incoming>) -> Answer {
        let bytes = match body(request).await {
            Ok(bytes) => bytes,
            Err(refused) => return refused,
        };
        let config: VrrpConfig = match parse(&bytes) {
            Ok(config) => config,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
        };
        let request_id = config.request_id.clone();
        self.changed.store(true, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        if !self.send(Command::Configure(Box::new(config), sender)) {
            return unavailable("the driver is busy");
        }
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(Ok(applied))) => json(StatusCode::OK, &applied),
            Ok(Ok(Err(Refused::Conflict(error)))) => {
                warn!(request_id, %error, "configuration refused");
                refusal(StatusCode::CONFLICT, error)
            }
            Ok(Ok(Err(Refused::Invalid(error)))) => {
                warn!(request_id, %error, "configuration refused");
                refusal(StatusCode::BAD_REQUEST, error)
            }
            Ok(Err(_)) | Err(_) => unavailable("the driver does not answer"),
        }
    }

    async fn hand_over(&self, request: Request<Incoming>) -> Answer {
        let parsed = match body(request).await {
            Ok(bytes) => parse::<Handover>(&bytes),
            Err(refused) => return refused,
        };
        let handover = match parsed {
            Ok(handover) => handover,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
        };
        let (sender, receiver) = oneshot::channel();
        if !self.send(Command::HandOver(handover, sender)) {
            return unavailable("the driver is busy");
        }
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(Ok(results))) => json(StatusCode::OK, &results),
            Ok(Ok(Err(Refused::Conflict(error) | Refused::Invalid(error)))) => {
                refusal(StatusCode::CONFLICT, error)
            }
            Ok(Err(_)) | Err(_) => unavailable("the driver does not answer"),
        }
    }

    /// A check's result, from whoever makes it.
    async fn put_check(&self, request: Request<Incoming>, path: &str) -> Answer {
        let parsed = match body(request).await {
            Ok(bytes) => parse::<CheckReport>(&bytes),
            Err(refused) => return refused,
        };
        let report = match parsed {
            Ok(report) => report,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
        };
        let name = path.strip_prefix(CHECKS).unwrap_or_default().to_owned();
        let (sender, receiver) = oneshot::channel();
        if !self.send(Command::Report(name, report.up, sender)) {
            return unavailable("the driver is busy");
        }
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(Ok(()))) => Response::builder()
                .status(StatusCode::NO_CONTENT)
                .body(Full::default())
                .unwrap_or_default(),
            Ok(Ok(Err(error))) => refusal(StatusCode::NOT_FOUND, error),
            Ok(Err(_)) | Err(_) => unavailable("the driver does not answer"),
        }
    }

    /// Events after `since`; without any, waits for one.
    async fn events(&self, query: Option<&str>) -> Answer {
        let (mut since, mut wait) = (0, 0);
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "since" => &mut since,
                "wait_ms" => &mut wait,
                _ => {
                    let error = FieldError::new(name, "unknown: use since and wait_ms");
                    return refusal(StatusCode::BAD_REQUEST, error);
                }
            };
            match value.parse::<u64>() {
                Ok(number) => *place = number,
                Err(_) => {
                    let error = FieldError::new(name, format!("{value:?} is no number"));
                    return refusal(StatusCode::BAD_REQUEST, error);
                }
            }
        }
        // All that was told before the question.
        self.take_events();
        let mut newest = self.newest.subscribe();
        let wait = Duration::from_millis(wait).min(LONGEST_POLL);
        // Late is as good as nothing: the answer is empty then.
        let _ = tokio::time::timeout(wait, newest.wait_for(|newest| *newest != since)).await;
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        json(StatusCode::OK, &journal.after(since))
    }

    fn take_events(&self) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.take() {
            self.newest.send_replace(journal.last());
        }
    }

    async fn put_log_level(&self, request: Request<Incoming>) -> Answer {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            level: String,
        }
        let parsed = match body(request).await {
            Ok(bytes) => parse::<Body>(&bytes),
            Err(refused) => return refused,
        };
        let set = parsed.and_then(|body| {
            (self.set_log_level)(&body.level).map_err(|why| FieldError::new("level", why))?;
            Ok(body.level)
        });
        match set {
            Ok(level) => {
                info!(level, "log level changed");
                Response::builder()
                    .status(StatusCode::NO_CONTENT)
                    .body(Full::default())
                    .unwrap_or_default()
            }
            Err(error) => refusal(StatusCode::BAD_REQUEST, error),
        }
    }

    fn metrics(&self) -> Answer {
        let mut out = String::new();
        match prometheus_client::encoding::text::encode(&mut out, &self.registry) {
            Ok(()) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                respond(StatusCode::OK, kind, out.into())
            }
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics cannot be written\n",
            ),
        }
    }

    async fn status(&self, within: Duration) -> Option<VrrpStatus> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Command::Status(sender)) {
            return None;
        }
        tokio::time::timeout(within, receiver).await.ok()?.ok()
    }

    fn send(&self, command: Command) -> bool {
        match self.driver.commands.try_send(command) {
            Ok(()) => {
                // Fails only when the counter is at its end, and then the driver wakes anyway.
                let _ = self.driver.wake.write(1);
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let limited = Limited::new(request.into_body(), MAX_BODY);
    match tokio::time::timeout(PATIENCE, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("longer than {MAX_BODY} bytes");
            let error = FieldError::new("document", why);
            Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Ok(Err(error)) => {
            let error = FieldError::new("document", error.to_string());
            Err(refusal(StatusCode::BAD_REQUEST, error))
        }
        Err(_) => Err(text(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time\n",
        )),
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, FieldError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| FieldError::new(error.path().to_string(), error.inner().to_string()))?;
    deserializer
        .end()
        .map_err(|error| FieldError::new("document", error.to_string()))?;
    Ok(value)
}

fn refusal(status: StatusCode, error: FieldError) -> Answer {
    let FieldError { field, why } = error;
    json(
        status,
        &Refusal {
            field,
            message: why,
        },
    )
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => respond(status, "application/json", bytes.into()),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "answer cannot be written\n",
        ),
    }
}

fn unavailable(why: &'static str) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    respond(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(body))
        .unwrap_or_default()
}
